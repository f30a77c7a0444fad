"""What the reuse of earlier frames is worth: depth of consecutive frames with and without it, side by side.

Each number of scan lines is a stream of its own, from the first frame to the last. Flicker is how much the error of log
depth at one surface point changes from one frame to the next: a held-out return gives the point, odometry moves it into
the frame before, and returns there must confirm that it is the same, visible, unmoved surface.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.core.config import Config
from mf_ros.core.projection import ProjectedReturns, project_points, rasterize_nearest, to_sparse_depth
from mf_ros.core.rigid import invert
from mf_ros.core.types import AnyArray, CameraFrame, CameraPoints, DoubleArray, FloatArray
from mf_ros.engine.protocol import DepthEngine, without_memory
from mf_ros.engine.temporal import TemporalReuse
from mf_ros.evaluation.metrics import depth_metrics
from mf_ros.evaluation.protocol import TRUTH_RANGE_M, held_out_rings, thin_rings
from mf_ros.evaluation.visibility import visible_to_camera

# A point counts for flicker when returns of the other frame within so many pixels agree with it.
_CONFIRMED_WITHIN = (5, 3)
_CONFIRMED_RATIO = 0.03


@dataclass(frozen=True)
class SequenceFrame:
    """One frame of a recording with everything it takes to reuse it.

    Attributes:
        frame: image, camera, stamp and frame.
        points: LiDAR returns in the optical frame at the image's stamp.
        n_rings: scan lines of the LiDAR; 0 when unknown.
        pose: (4, 4) T_fixed_camera at the image's stamp; None when odometry does not tell.
    """

    frame: CameraFrame
    points: CameraPoints
    n_rings: int
    pose: Optional[DoubleArray]


@dataclass(frozen=True)
class SequenceRecord:
    """Mean scores of one stream.

    Attributes:
        lines: scan lines shown; 0 without rings, where half of the returns are shown.
        engine: its name.
        reuse: whether earlier frames were reused.
        mae, rmse: metres, per frame and then the mean, on held-out returns that the camera sees.
        flicker: mean change of the error of log depth at a surface point, from frame to frame; NaN without odometry.
        ms: milliseconds per frame, of engine and reuse.
        frames: how many.
    """

    lines: int
    engine: str
    reuse: bool
    mae: float
    rmse: float
    flicker: float
    ms: float
    frames: int


class _Truth(NamedTuple):
    """Held-out returns of one frame: their points, pixels and depth, and all visible returns on the image."""

    points: FloatArray
    rows: AnyArray
    cols: AnyArray
    z: FloatArray
    seen: FloatArray


class _Matches(NamedTuple):
    """Surface points in this frame (number of the held-out return) and in the one before (pixels and depth)."""

    number: AnyArray
    rows: AnyArray
    cols: AnyArray
    z: FloatArray


class _Stream:
    """One engine on one number of lines, with or without reuse."""

    def __init__(self, engine: DepthEngine, config: Config, reuse: bool) -> None:
        self._engine = without_memory(engine)
        self._reuse = TemporalReuse(replace(config.temporal, enabled=reuse))
        self._last: Optional[FloatArray] = None
        self._scores: List[Tuple[float, float, float]] = []
        self._flicker: List[float] = []

    def add(
        self, item: SequenceFrame, shown: CameraPoints, config: Config, truth: _Truth, matches: Optional[_Matches]
    ) -> None:
        """Estimate one frame and score it."""
        camera = item.frame.camera
        sparse = to_sparse_depth(project_points(shown, camera, config.projection), camera)
        if sparse.count == 0:
            self._last = None
            return
        start = time.perf_counter()
        depth = self._reuse.estimate(self._engine, item.frame, sparse, item.pose).depth
        elapsed_ms = 1000 * (time.perf_counter() - start)
        if len(truth.z):
            errors = depth_metrics(depth[truth.rows, truth.cols], truth.z)
            self._scores.append((errors["mae"], errors["rmse"], elapsed_ms))
        if matches is not None and self._last is not None and len(matches.number):
            at = truth.rows[matches.number], truth.cols[matches.number]
            now = np.log(depth[at] / truth.z[matches.number])
            before = np.log(self._last[matches.rows, matches.cols] / matches.z)
            change = np.abs(now - before)
            self._flicker.append(float(np.mean(change[np.isfinite(change)])))
        self._last = depth

    def record(self, lines: int, name: str, reuse: bool) -> Optional[SequenceRecord]:
        """The means; None when nothing could be scored."""
        if not self._scores:
            return None
        mae, rmse, ms = (float(value) for value in np.mean(self._scores, axis=0))
        flicker = float(np.mean(self._flicker)) if self._flicker else float("nan")
        return SequenceRecord(lines, name, reuse, mae, rmse, flicker, ms, len(self._scores))


def evaluate_sequence(
    frames: Iterable[SequenceFrame], lines: Sequence[int], engines: Sequence[DepthEngine], config: Config
) -> List[SequenceRecord]:
    """Score engines on consecutive frames, each with and without reuse of earlier ones.

    The input is the odd scan lines thinned to the wanted number, the truth all even ones, as ``mf-ros evaluate`` has
    it. Sensors without scan lines show a random half of their returns and are judged on the other.

    Args:
        frames: in order of time.
        lines: numbers of scan lines to show.
        engines: what makes depth.
        config: settings of projection and reuse; whether reuse is enabled in them does not matter.

    Returns:
        Two records, without and with reuse, for each number of lines and engine.
    """
    streams: Dict[Tuple[int, int], Tuple[_Stream, _Stream]] = {}
    before: Optional[Tuple[SequenceFrame, _Truth]] = None
    for number, item in enumerate(frames):
        held_out, inputs = _split(item, lines, number)
        truth = _truth(item, held_out)
        matches = None if before is None else _matches(item, truth, *before)
        for count, shown in inputs.items():
            for place, engine in enumerate(engines):
                key = (count, place)
                if key not in streams:
                    streams[key] = (_Stream(engine, config, False), _Stream(engine, config, True))
                for stream in streams[key]:
                    stream.add(item, shown, config, truth, matches)
        before = (item, truth)
    found = (
        stream.record(count, engines[place].name, bool(reuse))
        for (count, place), both in streams.items()
        for reuse, stream in enumerate(both)
    )
    return [record for record in found if record is not None]


def _split(item: SequenceFrame, lines: Sequence[int], number: int) -> Tuple[AnyArray, Dict[int, CameraPoints]]:
    """(N,) bool of the returns to judge on, and what is shown for each number of lines."""
    points = item.points
    if points.ring is None or not item.n_rings:
        held_out = np.random.default_rng(number).random(len(points)) < 0.5
        return held_out, {0: points.select(~held_out)}
    masks = {count: thin_rings(points.ring, item.n_rings, count) for count in lines}
    shown = {count: points.select(mask) for count, mask in masks.items() if mask is not None and mask.any()}
    return held_out_rings(points.ring), shown


def _truth(item: SequenceFrame, held_out: AnyArray) -> _Truth:
    camera = item.frame.camera
    returns = project_points(item.points, camera)
    visible = visible_to_camera(item.points, returns, camera)
    rows, cols = returns.pixels()
    seen = rasterize_nearest(rows[visible], cols[visible], returns.z[visible], (camera.height, camera.width))
    low, high = TRUTH_RANGE_M
    judged = np.flatnonzero(visible & held_out[returns.index] & (returns.z >= low) & (returns.z <= high))
    points = item.points.points[returns.index[judged]]
    return _Truth(points, rows[judged], cols[judged], returns.z[judged], seen)


def _matches(item: SequenceFrame, truth: _Truth, last: SequenceFrame, last_truth: _Truth) -> Optional[_Matches]:
    """The held-out returns that the frame before saw too, at the same place; None without odometry."""
    if item.pose is None or last.pose is None or item.frame.camera != last.frame.camera:
        return None
    T = invert(last.pose) @ item.pose
    moved = (truth.points @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    returns = project_points(CameraPoints(moved, None, np.zeros(len(moved), np.uint8)), last.frame.camera)
    confirmed = np.flatnonzero(_confirmed(returns, last_truth.seen))
    rows, cols = returns.pixels()
    return _Matches(returns.index[confirmed], rows[confirmed], cols[confirmed], returns.z[confirmed])


def _confirmed(returns: ProjectedReturns, seen: FloatArray) -> AnyArray:
    """(M,) bool: returns of the image around, at least one, all lie at the same depth."""
    kernel = np.ones(_CONFIRMED_WITHIN, np.uint8)
    near = np.where(seen > 0, seen, np.float32(np.inf))
    low, high = cv2.erode(near, kernel), cv2.dilate(seen, kernel)
    rows, cols = returns.pixels()
    agrees: AnyArray = (low[rows, cols] > returns.z * (1 - _CONFIRMED_RATIO)) & (high[rows, cols] > 0)
    return agrees & (high[rows, cols] < returns.z * (1 + _CONFIRMED_RATIO))
