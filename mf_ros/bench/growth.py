"""How the cost grows: with the points of a sweep, the pixels of an image, the cameras, and the denoising steps."""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import Dict, List, Mapping, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.bench.choice import Chosen
from mf_ros.bench.drive import Drive, simulated_drive
from mf_ros.bench.pipeline import Lane
from mf_ros.bench.stages import Staged
from mf_ros.bench.street import COLUMNS, RINGS, Street, cropped, make_street, scaled
from mf_ros.bench.timing import MIN_REPEATS, Clock, Progress, Task, interleaved
from mf_ros.core.cloud import pack_cloud
from mf_ros.core.config import CloudConfig, Config, ProjectionConfig
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.engine import DepthEngine, make_engine
from mf_ros.engine.protocol import forget_frames
from mf_ros.errors import BagError

_log = logging.getLogger(__name__)

POINTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
MEGAPIXELS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
CAMERAS = (1, 2, 3, 4, 6)
STEPS = (1, 2, 4, 8)

_STEP_CROP = (640, 352)
_CAMERA_DRIVE = (640, 352, 32, 1000)
_CAMERA_FRAMES = 4
_BUDGET_S = 40.0


@dataclass(frozen=True)
class Series:
    """One line of a curve.

    Attributes:
        label: what was timed.
        median_ms, p95_ms: for each size.
        slope: exponent of the power law that fits all sizes best.
        upper_slope: that of the larger half of them, where what does not grow weighs less.
    """

    label: str
    median_ms: Tuple[float, ...]
    p95_ms: Tuple[float, ...]
    slope: float
    upper_slope: float


@dataclass(frozen=True)
class Curve:
    """Cost over one size.

    Attributes:
        title: what is timed.
        unit: what ``x`` counts.
        expected: how it should grow, and why.
        x: the sizes.
        series: the lines.
    """

    title: str
    unit: str
    expected: str
    x: Tuple[float, ...]
    series: Tuple[Series, ...]


def bench_growth(
    engines: Sequence[Chosen],
    *,
    threads: int = 1,
    repeats: int = 7,
    points: Sequence[int] = POINTS,
    megapixels: Sequence[float] = MEGAPIXELS,
    cameras: Sequence[int] = CAMERAS,
    steps: Sequence[int] = STEPS,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda part: None,
) -> List[Curve]:
    """Time growing work, all sizes of a curve in turns.

    Args:
        engines: by pixels all of them; by cameras the first; by steps those that have steps.
        threads: of OpenCV; networks have theirs in ``engines``.
        repeats: rounds.
        points, megapixels, cameras, steps: sizes, ascending, at least two of each.
        clock: seconds.
        progress: told the part done, in [0, 1].

    Raises:
        MissingDependencyError: a package that an engine or the simulated drive needs is not installed.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        street = make_street(max(COLUMNS, -(-max(points) // RINGS)))
        made = {each.label: make_engine(each.config) for each in engines}
        curves = [_points(street, points, repeats, clock)]
        progress(0.2)
        curves.append(_pixels(make_street(), made, megapixels, repeats, clock))
        progress(0.5)
        curves.append(_cameras(engines[0].label, made[engines[0].label], cameras, repeats, clock))
        progress(0.75)
        with_steps = [each for each in engines if "steps" in made[each.label].describe()]
        if with_steps:
            curves.append(_steps(cropped(make_street(), *_STEP_CROP), with_steps, steps, repeats, clock))
        else:
            _log.warning("None of the engines has denoising steps: their curve is left out.")
        return curves
    finally:
        cv2.setNumThreads(before)


def _points(street: Street, sizes: Sequence[int], repeats: int, clock: Clock) -> Curve:
    total = len(street.points)
    tasks: Dict[str, Dict[float, Task]] = {"project + cull": {}}
    for size in sizes:
        taken = street.points.select(np.arange(size) * total // size)
        tasks["project + cull"][size] = Task(
            lambda taken=taken: to_sparse_depth(  # type: ignore[misc]
                project_points(taken, street.camera, ProjectionConfig()), street.camera
            )
        )
    expected = "linear once the returns outweigh the image, on which culling works whatever their number"
    return _curve("projection and culling", "points", expected, tasks, repeats, clock)


def _pixels(
    street: Street, engines: Mapping[str, DepthEngine], sizes: Sequence[float], repeats: int, clock: Clock
) -> Curve:
    tasks: Dict[str, Dict[float, Task]] = {label: {} for label in (*engines, "cloud")}
    for size in sizes:
        view = scaled(street, size * 1e6)
        sparse = to_sparse_depth(project_points(view.points, view.camera, ProjectionConfig()), view.camera)
        for label, engine in engines.items():
            tasks[label][size * 1e6] = Task(
                lambda engine=engine, view=view, sparse=sparse: engine.estimate(  # type: ignore[misc]
                    view.image, sparse, view.camera
                ),
                lambda engine=engine: forget_frames(engine),  # type: ignore[misc]
            )
        packed = np.empty((*view.depth.shape, 4), np.float32)
        tasks["cloud"][size * 1e6] = Task(
            lambda view=view, packed=packed: pack_cloud(  # type: ignore[misc]
                view.depth, view.image, view.camera, CloudConfig(), out=packed
            )
        )
    expected = (
        "linear; an engine grows with its grid instead, and falls where images become so large that it is coarser"
    )
    return _curve("engines and cloud", "pixels", expected, tasks, repeats, clock)


def _steps(street: Street, engines: Sequence[Chosen], sizes: Sequence[int], repeats: int, clock: Clock) -> Curve:
    sparse = to_sparse_depth(project_points(street.points, street.camera, ProjectionConfig()), street.camera)
    tasks: Dict[str, Dict[float, Task]] = {each.label: {} for each in engines}
    for each in engines:
        for size in sizes:
            engine = make_engine(dataclasses.replace(each.config, steps=size))
            tasks[each.label][size] = Task(
                lambda engine=engine: engine.estimate(street.image, sparse, street.camera),  # type: ignore[misc]
                lambda engine=engine: forget_frames(engine),  # type: ignore[misc]
            )
    expected = "linear in the runs of the network, beside what is done once for a frame"
    return _curve("denoising steps", "steps", expected, tasks, repeats, clock)


def _cameras(label: str, engine: DepthEngine, sizes: Sequence[int], repeats: int, clock: Clock) -> Curve:
    """Cameras that hear the same LiDAR: each has its pipeline, and the sweeps are decoded once."""
    drive = simulated_drive(Config(), frames=_CAMERA_FRAMES, size=_CAMERA_DRIVE)
    elapsed: Dict[int, List[float]] = {size: [] for size in sizes}
    for number in range(1 + max(repeats, MIN_REPEATS)):
        turn = number % len(sizes)
        for size in (*sizes[turn:], *sizes[:turn]):
            frames = _together(drive, engine, size, clock)
            # The first pass warms up.
            elapsed[size] += frames if number else []
    expected = "linear: every camera has depth of its own, and sweeps, which are decoded once, cost little"
    series = _series(f"pipeline with {label}", sizes, [elapsed[size] for size in sizes])
    return Curve("cameras beside one LiDAR", "cameras", expected, tuple(map(float, sizes)), (series,))


def _together(drive: Drive, engine: DepthEngine, cameras: int, clock: Clock) -> List[float]:
    """Milliseconds that all cameras take for each image but the first, which fills caches."""
    lanes = [Lane(drive, engine, Staged(), clock) for _ in range(cameras)]
    for message in drive.heard:
        sweep = lanes[0].stored(message)
        for lane in lanes:
            lane.take(message, sweep)
    for lane in lanes:
        lane.flush()
    frames = [[sum(frame.values()) for frame in lane.passed().frames] for lane in lanes]
    if len(frames[0]) < 2:
        raise BagError(f"Hardly any image of {drive.name} becomes depth: {lanes[0].passed().why}")
    return [sum(each) for each in zip(*frames, strict=True)][1:]


def _curve(
    title: str, unit: str, expected: str, tasks: Mapping[str, Mapping[float, Task]], repeats: int, clock: Clock
) -> Curve:
    flat = {f"{label} {size}": task for label, of in tasks.items() for size, task in of.items()}
    elapsed = interleaved(flat, warmup=1, repeats=repeats, budget_s=_BUDGET_S, clock=clock)
    sizes = tuple(next(iter(tasks.values())))
    series = [_series(label, sizes, [elapsed[f"{label} {size}"] for size in sizes]) for label in tasks]
    return Curve(title, unit, expected, tuple(map(float, sizes)), tuple(series))


def _series(label: str, sizes: Sequence[float], elapsed: Sequence[Sequence[float]]) -> Series:
    medians = [float(np.median(each)) for each in elapsed]
    half = len(sizes) // 2 if len(sizes) > 3 else 0
    return Series(
        label,
        tuple(medians),
        tuple(float(np.percentile(each, 95)) for each in elapsed),
        slope(sizes, medians),
        slope(sizes[half:], medians[half:]),
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent of the power law through points, by least squares on logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
