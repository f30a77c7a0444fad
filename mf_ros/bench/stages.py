"""Where the time of the pipeline goes: its functions, as they are called, on one clock with a name for each stage."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type

from mf_ros.bench.timing import Clock
from mf_ros.engine.protocol import DepthEngine

OF_FUNCTION: Mapping[str, str] = {
    "mf_ros.core.messages:decode_cloud": "decode_points",
    "mf_ros.core.messages:decode_image": "decode_image",
    "mf_ros.core.deskew:to_camera": "deskew",
    "mf_ros.core.projection:project_points": "project",
    "mf_ros.core.projection:to_sparse_depth": "project",
    "mf_ros.core.projection:mark_visible": "cull",
    "mf_ros.core.conditioning:condition": "prior",
    "mf_ros.core.completion:complete_inverse_depth": "prior",
    "mf_ros.engine.network:finished": "blend",
    "mf_ros.core.conditioning:confidence": "blend",
    "mf_ros.core.conditioning:to_depth": "blend",
    "mf_ros.core.cloud:pack_cloud": "cloud",
    "mf_ros.core.cloud:thin_cloud": "cloud",
}
"""The stage of each function's own time, less that of the functions in this table that it calls."""

ENGINE, SERIALISE, REST = "engine", "serialise", "rest"
"""What an engine does beside prior and blend: its network; results as messages and bytes; what no stage covers."""

STAGES: Tuple[str, ...] = (
    "decode_points",
    "decode_image",
    "deskew",
    "project",
    "cull",
    "prior",
    ENGINE,
    "blend",
    "cloud",
    SERIALISE,
    REST,
)
"""In the order in which a frame passes them."""

OF_ENGINE = ("prior", ENGINE, "blend")
"""Those that belong to the engine; the others are the pipeline's own."""


class StageClock:
    """Adds up the time of stages, milliseconds; a stage inside another one takes its time from that.

    It belongs to the thread that made it: work that the pipeline does in other threads counts where it is waited for.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self.ms: Dict[str, float] = {}
        self._open: List[str] = []
        self._last = 0.0
        self._thread = threading.get_ident()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside belongs to this stage."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def take(self) -> Dict[str, float]:
        """What was added up since the last call."""
        taken, self.ms = self.ms, {}
        return taken

    def _lap(self) -> None:
        now = self._clock()
        if self._open:
            self.ms[self._open[-1]] = self.ms.get(self._open[-1], 0.0) + 1e3 * (now - self._last)
        self._last = now


class Staged:
    """The clock that the functions of a table report to at the moment; none outside of ``on``."""

    def __init__(self) -> None:
        self._clock: Optional[StageClock] = None

    @contextlib.contextmanager
    def on(self, clock: StageClock, stage: str = REST) -> Iterator[None]:
        """Functions called inside report to this clock, and what is no stage of its own belongs to ``stage``."""
        before, self._clock = self._clock, clock
        try:
            with clock.stage(stage):
                yield
        finally:
            self._clock = before

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The same function, reporting to the clock."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._clock is None:
                return function(*args, **kwargs)
            with self._clock.stage(stage):
                return function(*args, **kwargs)

        return timed


@contextlib.contextmanager
def staged(table: Mapping[str, str] = OF_FUNCTION, engines: Sequence[DepthEngine] = ()) -> Iterator[Staged]:
    """Inside the block the functions of the table report how long they take, wherever they were imported to.

    The code that is measured is thereby that which runs, and not a copy of its order of calls.

    Args:
        table: stage by ``module:function``.
        engines: whose estimates are the stage ``ENGINE``.

    Raises:
        AttributeError: a function of the table does not exist any more.
    """
    clocks = Staged()
    replaced: List[Tuple[Any, str, Any]] = []
    try:
        for name, stage in table.items():
            module, _, attribute = name.partition(":")
            original = getattr(importlib.import_module(module), attribute)
            timed = clocks.timed(original, stage)
            for holder, key in _holders(original):
                replaced.append((holder, key, original))
                setattr(holder, key, timed)
        for owner in {_owner(type(engine), "estimate") for engine in engines}:
            replaced.append((owner, "estimate", vars(owner)["estimate"]))
            owner.estimate = clocks.timed(vars(owner)["estimate"], ENGINE)
        yield clocks
    finally:
        for holder, key, original in replaced:
            setattr(holder, key, original)


def _owner(kind: Type[Any], method: str) -> Type[Any]:
    """The class that defines a method of ``kind``."""
    return next(each for each in kind.__mro__ if method in vars(each))


def _holders(function: Any) -> List[Tuple[Any, str]]:
    """The modules of this project that hold a function, each with the name it has there."""
    modules = [each for name, each in list(sys.modules.items()) if name.split(".")[0] in ("mf_ros", "mf_training")]
    return [(module, key) for module in modules for key, value in list(vars(module).items()) if value is function]
