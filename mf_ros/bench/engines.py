"""Engines beside each other on one frame: latency, memory, operations, and their share of what the machine can do."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.bench.choice import Chosen
from mf_ros.bench.machine import Ceilings, measure_ceilings
from mf_ros.bench.memory import Memory, engine_memory
from mf_ros.bench.profile import NetworkProfile, profile_network
from mf_ros.bench.street import Street
from mf_ros.bench.timing import Clock, Progress, Ratio, Task, Timing, interleaved, ratio, summary
from mf_ros.core.config import EngineConfig, ProjectionConfig
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.core.types import SparseDepth
from mf_ros.engine import DepthEngine, make_engine
from mf_ros.engine.protocol import forget_frames
from mf_ros.errors import MissingDependencyError, ModelError

_log = logging.getLogger(__name__)

_LIBRARY = "onnxruntime"
_PRODUCT = "matrix product"
# A single product of some milliseconds is over before the machine's clock and caches have settled on it.
_PRODUCT_S = 0.1


@dataclass(frozen=True)
class Shares:
    """What part of the machine's best rate of matrix products in single precision was reached.

    Attributes:
        network: by the network while it runs, with the profiler on.
        frame: over the whole estimate, the network's operations over the time of everything, with its interval.
    """

    network: float
    frame: Ratio


@dataclass(frozen=True)
class EngineResult:
    """One engine on one frame.

    Attributes:
        label: as it was named.
        details: what runs, on what.
        timing: of a whole estimate.
        ratio: of its time to that of the first engine.
        memory: what it takes; None where the system does not tell.
        network: profile of what onnxruntime runs in it; None where that is nothing, or nothing that can be profiled.
        shares: of the machine's rate, with ``network``.
    """

    label: str
    details: Mapping[str, str]
    timing: Timing
    ratio: Ratio
    memory: Optional[Memory]
    network: Optional[NetworkProfile]
    shares: Optional[Shares]


@dataclass(frozen=True)
class EngineBench:
    """What ``bench_engines`` measured.

    Attributes:
        size: width and height of the image, pixels.
        returns: pixels that hold one.
        ceilings: what the machine can do.
        best_gflops: the highest rate of matrix products ever seen in the run, 10^9 operations per second, of which
            shares are: where others load the machine they come out too low rather than too high.
        rounds_gflops: median rate of the same product in the rounds of the engines; far below the best one, it says
            that others took the machine's time.
        engines: in the order they were named.
    """

    size: Tuple[int, int]
    returns: int
    ceilings: Ceilings
    best_gflops: float
    rounds_gflops: float
    engines: Tuple[EngineResult, ...]


def bench_engines(
    engines: Sequence[Chosen],
    street: Street,
    *,
    threads: int = 1,
    repeats: int = 20,
    budget_s: float = 60.0,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda part: None,
) -> EngineBench:
    """Measure engines in turns on one frame, with the machine's own matrix product among them.

    The product is timed in the same rounds as the engines, to tell how much of the machine they had. Engines that
    remember frames forget before each: one frame says nothing of a stream.

    Args:
        engines: what to measure.
        street: image and LiDAR.
        threads: of OpenCV, of products and of networks.
        repeats: rounds.
        budget_s: rounds that begin later than this are left out, but at least five are run.
        clock: seconds.
        progress: told the part done, in [0, 1].

    Raises:
        MissingDependencyError: an engine's package is not installed.
        MfRosError: an engine cannot be made.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        sparse = to_sparse_depth(project_points(street.points, street.camera, ProjectionConfig()), street.camera)
        made = {each.label: make_engine(each.config) for each in engines}
        ceilings, best = measure_ceilings(threads, clock, lambda part: progress(0.15 * part))
        product = best["float32"]
        times = math.ceil(_PRODUCT_S * ceilings.float32 * 1e9 / product.flops)
        tasks = {label: _task(engine, street, sparse) for label, engine in made.items()}
        tasks[_PRODUCT] = Task(lambda: [product.run() for _ in range(times)])
        elapsed = interleaved(
            tasks,
            repeats=repeats,
            budget_s=budget_s,
            clock=clock,
            progress=lambda part: progress(0.15 + 0.55 * part),
        )
        rates = [times * product.flops / ms / 1e6 for ms in elapsed[_PRODUCT]]
        rate = max(ceilings.float32, *rates)
        results: List[EngineResult] = []
        for number, each in enumerate(engines):
            progress(0.7 + 0.3 * number / len(engines))
            details = dict(made[each.label].describe())
            network = _profile(each.config, street, sparse, clock) if _LIBRARY in details.get("library", "") else None
            results.append(
                EngineResult(
                    each.label,
                    details,
                    summary(each.label, elapsed[each.label]),
                    ratio(elapsed[each.label], elapsed[engines[0].label]),
                    engine_memory(each.config, street.image, sparse, street.camera, threads),
                    network,
                    None if network is None else _shares(network, elapsed[each.label], rate),
                )
            )
        size = (street.camera.width, street.camera.height)
        return EngineBench(size, sparse.count, ceilings, rate, float(np.median(rates)), tuple(results))
    finally:
        cv2.setNumThreads(before)


def _task(engine: DepthEngine, street: Street, sparse: SparseDepth) -> Task:
    return Task(lambda: engine.estimate(street.image, sparse, street.camera), lambda: forget_frames(engine))


def _profile(config: EngineConfig, street: Street, sparse: SparseDepth, clock: Clock) -> Optional[NetworkProfile]:
    try:
        found = profile_network(
            lambda: make_engine(config),
            lambda engine: engine.estimate(street.image, sparse, street.camera),
            clock=clock,
        )
    except (MissingDependencyError, ModelError) as error:
        _log.warning("No profile of the engine %s: %s", config.name, error)
        return None
    if found.provider != "CPUExecutionProvider":
        _log.warning("%s computes beside the profiler's clock: it sees operators start, not end.", found.provider)
    return found


def _shares(network: NetworkProfile, elapsed_ms: Sequence[float], gflops: float) -> Shares:
    needed_ms = network.gflop / gflops * 1e3
    return Shares(needed_ms / network.ms, ratio([needed_ms] * len(elapsed_ms), elapsed_ms))


def kept_from_rate(network: NetworkProfile, gflops: float) -> List[Tuple[str, float]]:
    """Operators by the milliseconds they take beyond what their operations need at the machine's rate, most first."""
    lost = [(each.name, each.ms - each.gflop / gflops * 1e3) for each in network.operators]
    return sorted(lost, key=lambda each: -each[1])


def bound(gflop: float, gb: float, ceilings: Ceilings) -> str:
    """Which ceiling an operator meets first: ``compute`` or ``memory``."""
    return "compute" if gflop / ceilings.float32 > gb / ceilings.copy_gb_s else "memory"


def operator_rows(network: NetworkProfile, result: EngineBench) -> List[Dict[str, Any]]:
    """One row for each kind of operator: time, operations, bytes, and what part of each ceiling it reaches."""
    return [
        {
            "name": each.name,
            "calls": each.calls,
            "ms": each.ms,
            "gflop": each.gflop,
            "share_of_rate": each.gflop / (each.ms / 1e3) / result.best_gflops if each.ms else 0.0,
            "gb": each.gb,
            "share_of_copy": each.gb / (each.ms / 1e3) / result.ceilings.copy_gb_s if each.ms else 0.0,
            "bound": bound(each.gflop, each.gb, result.ceilings),
        }
        for each in network.operators
    ]
