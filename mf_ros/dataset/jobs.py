"""Many jobs on many cores: in this process, in a pool of processes, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple, Type, Union

from mf_ros.dataset.bag_job import BagJob, Outcome, run_job
from mf_ros.dataset.row import DatasetError
from mf_ros.dataset.stores import first_line
from mf_ros.errors import require_package

_WAIT_S = 0.5
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")

Result = Union[Outcome, Exception]


class Backend(Protocol):
    """Something that does jobs. Use it in a ``with`` statement.

    Attributes:
        slots: how many jobs it is given at a time.
    """

    slots: int

    def submit(self, job: BagJob) -> Any:
        """Begin a job; returns a handle."""

    def finished(self, handles: Sequence[Any]) -> List[Any]:
        """The handles of jobs that are done, after half a second at most."""

    def result(self, handle: Any) -> Result:
        """What a job gave, or what went wrong with whatever did it."""

    def restart(self) -> None:
        """Begin anew after a worker died."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, *args: Any) -> None: ...


def run_jobs(
    jobs: Sequence[BagJob], backend: Backend, tick: Callable[[Sequence[BagJob]], bool]
) -> Iterator[Tuple[BagJob, Result]]:
    """Do jobs in their order, as many at a time as the backend takes; yields each with its result when it is done.

    Where a worker dies (out of memory, say), whatever was being done is done again, one job at a time, so that only the
    job that kills its worker fails.

    Args:
        tick: called about twice a second with the jobs in progress; true begins no further ones.
    """
    waiting: Deque[BagJob] = deque(jobs)
    running: Dict[Any, BagJob] = {}
    while running or waiting:
        stopped = tick(list(running.values()))
        while waiting and len(running) < backend.slots and not stopped:
            job = waiting.popleft()
            running[backend.submit(job)] = job
        if not running:
            return
        done = [(running.pop(handle), backend.result(handle)) for handle in backend.finished(list(running))]
        suspects = [job for job, result in done if isinstance(result, BrokenProcessPool)]
        yield from ((job, result) for job, result in done if not isinstance(result, BrokenProcessPool))
        if suspects:
            backend.restart()
            suspects += running.values()
            running = {}
        for job in suspects:
            yield job, _alone(job, backend, tick)


def _alone(job: BagJob, backend: Backend, tick: Callable[[Sequence[BagJob]], bool]) -> Result:
    handle = backend.submit(job)
    while not backend.finished([handle]):
        tick([job])
    result = backend.result(handle)
    if isinstance(result, BrokenProcessPool):
        backend.restart()
        return DatasetError("Its worker process died, which memory that ran out does: use fewer --workers.")
    return result


class Pool:
    """Processes on this machine.

    Args:
        workers: how many; 0 works in this process, for debugging.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        # One more than there are workers, so that none waits while results are committed.
        self.slots = workers + 1 if workers else 1
        self._executor: Optional[Executor] = None
        self._environment: Dict[str, Optional[str]] = {}

    def __enter__(self) -> Pool:
        # Read by the libraries of the new processes while they are loaded.
        self._environment = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
        self._executor = self._begun()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=kind is None, cancel_futures=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def submit(self, job: BagJob) -> Any:
        """Begin a job; returns a handle."""
        assert self._executor is not None, "the pool is used in a with statement"
        try:
            return self._executor.submit(run_job, job)
        except BrokenProcessPool as error:
            broken: Future[Outcome] = Future()
            broken.set_exception(error)
            return broken

    def finished(self, handles: Sequence[Any]) -> List[Any]:
        """The handles of jobs that are done, after half a second at most."""
        done = wait(handles, _WAIT_S, FIRST_COMPLETED).done
        return [handle for handle in handles if handle in done]

    def result(self, handle: Any) -> Result:
        """What a job gave, or what went wrong with whatever did it."""
        error = handle.exception()
        return error if error is not None else handle.result()  # type: ignore[no-any-return]

    def restart(self) -> None:
        """Begin anew after a worker died."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = self._begun()

    def _begun(self) -> Executor:
        if not self._workers:
            return ThreadPoolExecutor(1)
        # The libraries have threads of their own, which a fork would break.
        context = multiprocessing.get_context("spawn")
        level = logging.DEBUG if logging.getLogger().isEnabledFor(logging.DEBUG) else logging.ERROR
        return ProcessPoolExecutor(self._workers, context, initializer=_begin_worker, initargs=(level,))


def _begin_worker(level: int) -> None:
    """In a new process: leave Ctrl-C to the coordinator, say what is said at this level, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=level, format="mf-ros: %(levelname)s: %(message)s")
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class RayCluster:
    """A Ray cluster; the data set must lie where all of its machines see it under the same path.

    Args:
        address: of the cluster as Ray takes it ("auto", "ray://host:10001"); "local" starts one on this machine.
        workers: CPUs of one that is started; None takes all.

    Raises:
        DatasetError: it cannot be reached.
    """

    def __init__(self, address: str, workers: Optional[int] = None) -> None:
        self._ray: Any = require_package("ray", extra="ray")
        self._begun = not self._ray.is_initialized()
        if self._begun:
            here = address == "local"
            options: Dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if here else {}
            try:
                self._ray.init(None if here else address, log_to_driver=False, **options)
            except Exception as error:
                raise DatasetError(f"The Ray cluster {address} cannot be used: {first_line(error)}") from error
        self.slots = max(int(self._ray.cluster_resources().get("CPU", 1)), 1) + 1
        self._run: Any = self._ray.remote(num_cpus=1, max_retries=1)(run_job)

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *args: Any) -> None:
        if self._begun:
            self._ray.shutdown()

    def submit(self, job: BagJob) -> Any:
        """Begin a job; returns a handle."""
        return self._run.remote(job)

    def finished(self, handles: Sequence[Any]) -> List[Any]:
        """The handles of jobs that are done, after half a second at most."""
        done, _ = self._ray.wait(list(handles), num_returns=1, timeout=_WAIT_S)
        return list(done)

    def result(self, handle: Any) -> Result:
        """What a job gave, or what went wrong with whatever did it."""
        try:
            return self._ray.get(handle)  # type: ignore[no-any-return]
        except Exception as error:
            return error

    def restart(self) -> None:
        """Ray replaces a worker that died by itself."""


def make_backend(workers: int, ray: Optional[str]) -> contextlib.AbstractContextManager[Backend]:
    """What does the jobs.

    Args:
        workers: processes on this machine; 0 works in this one.
        ray: address of a Ray cluster to use instead.
    """
    return Pool(workers) if ray is None else RayCluster(ray, workers or None)
