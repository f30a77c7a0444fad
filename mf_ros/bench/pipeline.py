"""The whole pipeline from messages to serialised results, stage by stage, and simple methods in its engine's place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.bench.choice import Chosen
from mf_ros.bench.drive import Drive, Heard, give
from mf_ros.bench.stages import OF_ENGINE, SERIALISE, STAGES, StageClock, Staged, staged
from mf_ros.bench.timing import MIN_REPEATS, Clock, Progress, Ratio, Timing, ratio, summary
from mf_ros.core.camera import CameraModel
from mf_ros.core.message_builder import MessageBuilder
from mf_ros.core.types import ByteArray, DepthEstimate, SparseDepth
from mf_ros.engine import DepthEngine, make_engine
from mf_ros.engine.inputs import StoredSweep
from mf_ros.engine.outputs import OUTPUTS, ResultMessages
from mf_ros.engine.protocol import without_memory
from mf_ros.errors import BagError
from mf_ros.evaluation.baselines import BASELINES, Completion

COMPARED = ("ip_basic", "linear")
"""Simple methods that are put in the engine's place."""

_DISTRO = "jazzy"


class CompletionEngine:
    """A simple method as an engine: the same projection before it and the same cloud after it.

    Args:
        name: of the method.
        complete: the method.
    """

    def __init__(self, name: str, complete: Completion) -> None:
        self._name, self._complete = name, complete

    @property
    def name(self) -> str:
        return self._name

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """The method's depth, with full confidence everywhere, since it gives none."""
        depth = self._complete(sparse.depth, camera)
        return DepthEstimate(depth, np.ones_like(depth), True, self._name)

    def describe(self) -> Dict[str, str]:
        """Says that it is a baseline."""
        return {"method": f"baseline {self._name}", "device": "cpu"}


@dataclass(frozen=True)
class MethodResult:
    """One method in the pipeline.

    Attributes:
        label: of the method.
        details: what runs, on what.
        stages: time of each stage, and of ``total``.
        beside_engine: of everything but prior, engine and blend.
        beside_share: median part of the total that this is.
        ratio: of the total to that of the first method.
    """

    label: str
    details: Mapping[str, str]
    stages: Mapping[str, Timing]
    beside_engine: Timing
    beside_share: float
    ratio: Ratio


@dataclass(frozen=True)
class PipelineBench:
    """What ``bench_pipeline`` measured.

    Attributes:
        drive: what was fed, in words.
        returns: median number of pixels with a return.
        methods: in order.
    """

    drive: str
    returns: int
    methods: Tuple[MethodResult, ...]


def bench_pipeline(
    engines: Sequence[Chosen],
    drive: Drive,
    *,
    baselines: Sequence[str] = COMPARED,
    threads: int = 1,
    repeats: int = 20,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda part: None,
) -> PipelineBench:
    """Feed a drive to several pipelines in turns and time every stage of every frame.

    All run the same code but for the engine. The first frame of every pass fills caches and is not counted, nor is the
    first pass.

    Args:
        engines: ours; the first is what ratios are to.
        drive: the messages.
        baselines: names of simple methods, as in ``mf_ros.evaluation.baselines``.
        threads: of OpenCV; networks have theirs in ``engines``.
        repeats: frames to time; the drive is fed again until there are so many, or there are none.
        clock: seconds.
        progress: told the part done, in [0, 1].

    Raises:
        BagError: no frame of the drive becomes depth.
        MissingDependencyError: an engine, a baseline or serialisation needs a package that is not installed.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        methods: Dict[str, DepthEngine] = {each.label: make_engine(each.config) for each in engines}
        methods.update({name: CompletionEngine(name, BASELINES[name]) for name in baselines})
        frames: Dict[str, List[Dict[str, float]]] = {label: [] for label in methods}
        returns: List[int] = []
        with staged(engines=list(methods.values())) as clocks:
            run_pass(methods, drive, clocks, clock)
            first = next(iter(methods))
            while len(frames[first]) < max(repeats, MIN_REPEATS):
                progress(len(frames[first]) / max(repeats, MIN_REPEATS))
                made = run_pass(methods, drive, clocks, clock)
                if any(len(made[label].frames) < 2 for label in methods):
                    raise BagError(f"Hardly any image of {drive.name} becomes depth: {made[first].why}")
                for label, one in made.items():
                    frames[label] += one.frames[1:]
                returns += made[first].returns
        return PipelineBench(
            drive.name,
            int(np.median(returns)),
            tuple(method_result(label, methods[label], each, frames[first]) for label, each in frames.items()),
        )
    finally:
        cv2.setNumThreads(before)


@dataclass
class Passed:
    """One method over one pass through a drive.

    Attributes:
        frames: milliseconds of each stage, for each frame.
        returns: pixels with a return, for each frame.
        why: why frames were dropped.
    """

    frames: List[Dict[str, float]]
    returns: List[int]
    why: str = ""


def run_pass(
    methods: Mapping[str, DepthEngine], drive: Drive, clocks: Staged, clock: Clock = time.perf_counter
) -> Dict[str, Passed]:
    """Feed a drive once to a new pipeline for each method, message by message in turns."""
    lanes = {label: Lane(drive, engine, clocks, clock) for label, engine in methods.items()}
    order = list(lanes.values())
    for number, message in enumerate(drive.heard):
        turn = number % len(order)
        for lane in order[turn:] + order[:turn]:
            lane.take(message)
    for lane in order:
        lane.flush()
    return {label: lane.passed() for label, lane in lanes.items()}


class Lane:
    """One pipeline with its clock, and the messages that its results become."""

    def __init__(self, drive: Drive, engine: DepthEngine, clocks: Staged, clock: Clock = time.perf_counter) -> None:
        from mf_ros.bags.cdr import CdrBuffer
        from mf_ros.bags.definitions import distro_typestore

        self._pipeline = drive.pipeline(without_memory(engine))
        self._clocks, self._clock = clocks, StageClock(clock)
        store: Any = distro_typestore(_DISTRO)
        self._cdr = CdrBuffer(store)
        self._messages = ResultMessages(MessageBuilder(store.types), drive.config)
        self._done: List[Dict[str, float]] = []
        self._returns: List[int] = []

    def take(self, message: Heard, sweep: Optional[StoredSweep] = None) -> None:
        """Give the pipeline a message, or in its place a sweep shared with others, and process what is then ready."""
        with self._clocks.on(self._clock):
            give(self._pipeline, message, sweep)
        self._process(flush=False)

    def stored(self, message: Heard) -> Optional[StoredSweep]:
        """The message to share among pipelines that then decode it once; None where it is no sweep."""
        return self._pipeline.stored_sweep(message.sensor, message.content) if message.role == "points" else None

    def flush(self) -> None:
        """Process what waits for messages that will not come."""
        self._process(flush=True)

    def passed(self) -> Passed:
        """What was measured."""
        return Passed(self._done, self._returns, " ".join(self._pipeline.dropped.texts.values()))

    def _process(self, flush: bool) -> None:
        with self._clocks.on(self._clock):
            ready = self._pipeline.ready(flush)
        for frame_set in ready:
            with self._clocks.on(self._clock):
                result = self._pipeline.process(frame_set)
            if result is None:
                self._clock.take()
                continue
            with self._clocks.on(self._clock, SERIALISE):
                for output in OUTPUTS:
                    msgtype, message = self._messages.make(output, result)
                    self._cdr.serialise(message, msgtype)
            self._done.append(self._clock.take())
            self._returns.append(result.sparse.count)


def method_result(
    label: str, engine: DepthEngine, frames: Sequence[Mapping[str, float]], first: Sequence[Mapping[str, float]]
) -> MethodResult:
    """What a method came to.

    Args:
        label: its name.
        engine: that ran.
        frames: milliseconds of each stage, for each frame.
        first: those of the method that it is compared with, for the same frames.
    """
    total = np.array([sum(frame.values()) for frame in frames])
    beside = np.array([sum(ms for stage, ms in frame.items() if stage not in OF_ENGINE) for frame in frames])
    stages = {stage: summary(stage, [frame.get(stage, 0.0) for frame in frames]) for stage in STAGES}
    stages["total"] = summary("total", total.tolist())
    to = [sum(frame.values()) for frame in first]
    return MethodResult(
        label,
        dict(engine.describe()),
        stages,
        summary("beside_engine", beside.tolist()),
        float(np.median(beside / total)),
        ratio(total.tolist(), to),
    )
