"""How long projection, cloud packing and depth completion take on this machine's cores."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple, cast

import cv2
import numpy as np

from mf_ros.bench.street import HEIGHT, RINGS, WIDTH, Street, cropped, make_street
from mf_ros.bench.timing import Clock, Progress, Ratio, Task, Timing, interleaved, ratio, summary
from mf_ros.core.cloud import pack_cloud
from mf_ros.core.config import CloudConfig, EngineConfig, EngineName, ProjectionConfig
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.engine import DepthEngine, make_engine
from mf_ros.errors import MissingDependencyError, ModelError
from mf_ros.evaluation.baselines import BASELINES

_log = logging.getLogger(__name__)

NETWORK = "network"
"""Name of the row of the shipped network."""
COMPARED_BASELINES = ("linear", "ip_basic")
# Every odd ring of 64, the densest input that evaluate scores.
_INPUT_RINGS = slice(1, RINGS, 2)

_BUDGET_S = 60.0


@dataclass(frozen=True)
class PartResult:
    """One part of the core.

    Attributes:
        timing: how long it takes.
        ratio: to the engine's time, of what completes the same frame; None for the other parts.
    """

    timing: Timing
    ratio: Optional[Ratio]


def bench_core(
    engine: str = "classical",
    *,
    size: Tuple[int, int] = (WIDTH, HEIGHT),
    threads: int = 1,
    repeats: int = 50,
    clock: Clock = time.perf_counter,
    progress: Optional[Progress] = None,
) -> List[PartResult]:
    """Time the parts of the core in turns on a simulated street.

    Args:
        engine: the engine to time beside the network that is shipped, with onnxruntime on the CPU, and the baselines.
        size: width and height of the image, pixels; smaller ones than the street's are cropped from it.
        threads: of OpenCV and of networks.
        repeats: timed calls of each part; fewer where that would take more than a minute.
        clock: seconds.
        progress: told the part done, in [0, 1].

    Returns:
        One result per part; without the network where it cannot run, with a warning.

    Raises:
        MissingDependencyError: SciPy, which the linear baseline uses, is not installed.
        ConfigError: there is no such engine, or no such crop.
    """
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        parts = _parts(cropped(make_street(), *size), engine, threads)
        tasks = {name: Task(function) for name, function in parts.items()}
        elapsed = interleaved(tasks, repeats=repeats, budget_s=_BUDGET_S, clock=clock, progress=progress)
        completing = (engine, NETWORK, *COMPARED_BASELINES)
        return [
            PartResult(summary(name, each), ratio(each, elapsed[engine]) if name in completing else None)
            for name, each in elapsed.items()
        ]
    finally:
        cv2.setNumThreads(threads_before)


def _parts(street: Street, engine_name: str, threads: int) -> Dict[str, Callable[[], object]]:
    """What is timed, by name; the names are part of the command's JSON."""
    camera, projection, cloud = street.camera, ProjectionConfig(), CloudConfig()
    engine = make_engine(EngineConfig(name=cast(EngineName, engine_name), threads=threads))
    network = _network(threads)
    shown = np.isin(np.asarray(street.points.ring), np.arange(RINGS)[_INPUT_RINGS])
    sparse = to_sparse_depth(project_points(street.points.select(shown), camera, projection), camera)
    packed = np.empty((camera.height, camera.width, 4), np.float32)
    parts: Dict[str, Callable[[], object]] = {
        "projection": lambda: to_sparse_depth(project_points(street.points, camera, projection), camera),
        "cloud": lambda: pack_cloud(street.depth, street.image, camera, cloud, out=packed),
        engine_name: lambda: engine.estimate(street.image, sparse, camera),
    }
    if network is not None:
        parts[NETWORK] = lambda: network.estimate(street.image, sparse, camera)
    for name in COMPARED_BASELINES:
        parts[name] = lambda name=name: BASELINES[name](sparse.depth, camera)  # type: ignore[misc]
    return parts


def _network(threads: int) -> Optional[DepthEngine]:
    """The shipped network on the CPU, whatever else the machine has, so that its time stands beside the others."""
    try:
        return make_engine(EngineConfig(name="onnx", device="cpu", threads=threads))
    except (MissingDependencyError, ModelError) as error:
        _log.warning("The network is not timed: %s", error)
        return None
