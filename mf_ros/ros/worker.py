"""A thread that makes depth, for all cameras in turn."""

from __future__ import annotations

import threading
from typing import Callable, Optional, Sequence

_LONGEST_WAIT_S = 0.1
_LONGEST_STOP_S = 30.0


class Worker:
    """Calls jobs again and again while one of them finds work, and waits for ``wake`` while none does.

    Args:
        jobs: each does one piece of work and returns whether there was any.
        before: called before each round, for what must not change while a job runs.
        failed: called with an exception that a job did not expect; the next round goes on.
    """

    def __init__(
        self,
        jobs: Sequence[Callable[[], bool]],
        before: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._jobs = jobs
        self._before = before
        self._failed = failed
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="mf_ros_worker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be work."""
        self._woken.set()

    def stop(self, longest_s: float = _LONGEST_STOP_S) -> bool:
        """End after the job that runs; returns whether it ended within so many seconds."""
        self._stopping.set()
        self._woken.set()
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(longest_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            # Cleared first, so that what comes during the round is looked at in the next one.
            self._woken.clear()
            if not self._round():
                self._woken.wait(_LONGEST_WAIT_S)

    def _round(self) -> bool:
        worked = False
        try:
            self._before()
        except Exception as error:
            self._failed(error)
        for job in self._jobs:
            if self._stopping.is_set():
                return True
            try:
                worked |= job()
            except Exception as error:
                # One image that nobody foresaw must not end a robot's depth.
                self._failed(error)
        return worked
