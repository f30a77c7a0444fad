"""What is shown to a method and what it is judged on: held-out scan lines, fixed random halves, sampled pixels.

Rings: the input is the odd rings thinned to the wanted count, the truth is all even rings, the same for every count.
LiDARs without rings: truth is a fixed random half, the input 1/1, 1/2, 1/4 ... of the other half.
Dense truth: scan lines are simulated at the elevations of a 64-line sensor, or random pixels are drawn.
A robot's own frames, on which networks are compared: nearly everything is shown, half, a quarter, or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.projection import ProjectedReturns, project_points
from mf_ros.core.types import AnyArray, BoolArray, CameraPoints, DoubleArray, FloatArray
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.visibility import visible_to_camera

TRUTH_RANGE_M = (1.0, 80.0)
RGBD_RANGE_M = (0.3, 80.0)
DEPLOYED, HALF, QUARTER, NO_RETURNS = "deployed", "half", "quarter", "none"
"""Inputs of ``robot_cases``; ``none`` shows no return."""
LINE_HELD_OUT = 4
CELL_DEG = 1.5
_FIRST_HELD_OUT = 2
_CELLS_HELD_OUT = 0.25
_RANDOM_POINTS = (500, 100)
_DENSE_LINES = 16
_SIMULATED_RINGS = 64
_ELEVATION_TOP_DEG, _ELEVATION_BOTTOM_DEG = 2.0, -24.8


@dataclass(frozen=True)
class Case:
    """One input of one frame with the truth it is judged on.

    Attributes:
        input: what the case is called in tables: a number of scan lines, or ``500pt``, ``16rows``, ``own``.
        lidar: True for cases of a LiDAR (the table's headline), False for RGB-D.
        shown: the returns a method may use; none is marked hidden yet.
        rows, cols: (T,) int64 pixels of the truth.
        truth: (T,) float32 metres.
        visible: (T,) bool, False for truth that a nearer surface hides from the camera.
    """

    input: str
    lidar: bool
    shown: ProjectedReturns
    rows: AnyArray
    cols: AnyArray
    truth: FloatArray
    visible: BoolArray


def thin_rings(ring: AnyArray, n_rings: int, lines: int) -> Optional[BoolArray]:
    """Mask of the odd rings thinned to ``lines``, or None when the sensor has fewer odd rings than that."""
    step = (n_rings // 2) // lines
    if step < 1:
        return None
    keep: BoolArray = (ring % 2 == 1) & (((ring - 1) // 2) % step == 0)
    return keep


def held_out_rings(ring: AnyArray) -> BoolArray:
    """Mask of the even rings, which are the truth for every number of lines."""
    held_out: BoolArray = ring % 2 == 0
    return held_out


def cases(frame: EvaluationFrame, lines: Sequence[int]) -> Iterator[Case]:
    """Every case of a frame; frames without truth yield none."""
    shape = frame.image.shape[:2]
    if frame.points is not None and len(frame.points):
        yield from _lidar_cases(frame, frame.points, lines)
    elif frame.depth is not None and frame.depth.shape == shape:
        if frame.sparse is not None and frame.sparse.shape == shape:
            yield _case("own", True, frame.sparse > 0, frame.sparse, frame.depth, TRUTH_RANGE_M)
        elif frame.source.startswith("rgbd"):
            yield from _rgbd_cases(frame.depth)
        else:
            yield from _simulated_line_cases(frame.depth, frame.camera, lines)


def _lidar_cases(frame: EvaluationFrame, points: CameraPoints, lines: Sequence[int]) -> Iterator[Case]:
    seen = _Seen.of(frame, points)
    yield from _thinned(frame, points, seen, lines, [str(count) for count in lines])


def _thinned(
    frame: EvaluationFrame, points: CameraPoints, seen: _Seen, lines: Sequence[int], names: Sequence[str]
) -> Iterator[Case]:
    if points.ring is not None and frame.n_rings:
        ring = points.ring[seen.returns.index]
        truth = held_out_rings(ring)
        inputs = [thin_rings(ring, frame.n_rings, count) for count in lines]
    else:
        draw = np.random.default_rng(0).permutation(len(seen.returns)) / max(len(seen.returns), 1)
        truth = draw < 0.5
        inputs = [(draw >= 0.5) & (draw < 0.5 + 0.5 * count / max(lines)) for count in lines]
    for name, mask in zip(names, inputs, strict=True):
        if mask is not None and mask.any():
            yield seen.case(name, mask, truth)


@dataclass(frozen=True)
class _Seen:
    """The returns of a frame on its image, and (M,) bool which of them the camera sees."""

    returns: ProjectedReturns
    visible: BoolArray

    @classmethod
    def of(cls, frame: EvaluationFrame, points: CameraPoints) -> _Seen:
        returns = project_points(points, frame.camera)
        return cls(returns, visible_to_camera(points, returns, frame.camera))

    def case(self, name: str, shown: BoolArray, truth: BoolArray) -> Case:
        """The case that shows and judges these of the returns."""
        z = self.returns.z
        truth = truth & (z >= TRUTH_RANGE_M[0]) & (z <= TRUTH_RANGE_M[1])
        rows, cols = self.returns.pixels()
        shown_returns = self.returns.select(shown)
        return Case(name, True, shown_returns, rows[truth], cols[truth], z[truth], self.visible[truth])


def has_lines(frame: EvaluationFrame) -> bool:
    """Whether whole scan lines of a frame can be held out."""
    return frame.points is not None and frame.points.ring is not None and frame.n_rings >= LINE_HELD_OUT


def robot_cases(frame: EvaluationFrame, stride: int = 1) -> List[Case]:
    """What networks are shown and judged on when they are compared on a robot's own frames.

    ``deployed`` shows nearly all returns, as the robot does: every 4th scan line is held out, or, of sensors without
    lines, a random quarter of the cells of 1.5 degrees into which the directions from the camera fall, the same in
    every frame; single random returns would have shown ones right beside them. For a robot whose own sensor measures
    less than the one that recorded, it shows one of ``stride`` lines, or such a part of the sweep. ``half`` and
    ``quarter`` show one of two and of four. These thinned inputs are odd lines and judged on the even ones; without
    lines they are the beginning of the sweep, as with a shorter exposure, and judged on its second half. ``none`` shows
    no return and is judged on all of them.

    Args:
        frame: the frame.
        stride: how many times fewer lines, or how many times less of a sweep, the robot has; 1 for the same sensor.

    Returns:
        The cases that the frame has truth for; without LiDAR returns in the image there is none.
    """
    points = frame.points
    if points is None or not len(points):
        return []
    seen = _Seen.of(frame, points)
    everything = np.ones(len(seen.returns), np.bool_)
    thinner = {HALF: 2, QUARTER: 4}
    found: List[Case] = []
    if stride == 1:
        found.append(seen.case(DEPLOYED, *_nearly_all(frame, points, seen)))
    else:
        thinner = {DEPLOYED: stride, **thinner}
    found += [*_of_another_sensor(frame, points, seen, thinner), seen.case(NO_RETURNS, ~everything, everything)]
    return [case for case in found if case.visible.any() and (len(case.shown) or case.input == NO_RETURNS)]


def _nearly_all(frame: EvaluationFrame, points: CameraPoints, seen: _Seen) -> Tuple[BoolArray, BoolArray]:
    """Which returns the robot's own sensor is shown with, and which are held out."""
    if has_lines(frame) and points.ring is not None:
        held_out: BoolArray = points.ring[seen.returns.index] % LINE_HELD_OUT == _FIRST_HELD_OUT
    else:
        held_out = _cells_held_out(points.points[seen.returns.index])
    return ~held_out, held_out


def _of_another_sensor(
    frame: EvaluationFrame, points: CameraPoints, seen: _Seen, strides: Mapping[str, int]
) -> Iterator[Case]:
    if has_lines(frame):
        lines = [max(frame.n_rings // stride, 1) for stride in strides.values()]
        yield from _thinned(frame, points, seen, lines, list(strides))
        return
    measured = _part_of_sweep(points)[seen.returns.index]
    for name, stride in strides.items():
        yield seen.case(name, measured < 1 / stride, measured >= 0.5)


def _part_of_sweep(points: CameraPoints) -> DoubleArray:
    """(N,) when each point was measured within the sweep of its sensor, in [0, 1); points come in that order."""
    part = np.zeros(len(points))
    for sensor in np.unique(points.sensor):
        own = np.flatnonzero(points.sensor == sensor)
        part[own] = np.arange(len(own)) / len(own)
    return part


def _cells_held_out(xyz: FloatArray) -> BoolArray:
    """(M,) bool for points in the optical frame: those in the cells of directions that are held out."""
    x, y, z = xyz.T.astype(np.float64)
    azimuth, elevation = np.degrees(np.arctan2(x, z)), np.degrees(np.arctan2(-y, np.hypot(x, z)))
    cells = np.random.default_rng(0).random((round(360 / CELL_DEG) + 1, round(180 / CELL_DEG) + 1)) < _CELLS_HELD_OUT
    place = (np.floor((azimuth + 180) / CELL_DEG).astype(int), np.floor((elevation + 90) / CELL_DEG).astype(int))
    held_out: BoolArray = cells[place]
    return held_out


def _rgbd_cases(depth: FloatArray) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    valid = np.flatnonzero((depth > RGBD_RANGE_M[0]) & (depth < RGBD_RANGE_M[1]))
    for count in _RANDOM_POINTS:
        mask = np.zeros(depth.size, np.bool_)
        mask[rng.choice(valid, min(count, len(valid)), replace=False)] = True
        yield _case(f"{count}pt", False, mask.reshape(depth.shape), depth, depth, RGBD_RANGE_M)
    rows = np.linspace(0, depth.shape[0] - 1, _DENSE_LINES + 2).astype(int)[1:-1]
    mask = np.zeros(depth.shape, np.bool_)
    mask[rows] = depth[rows] > 0
    yield _case(f"{_DENSE_LINES}rows", False, mask, depth, depth, RGBD_RANGE_M)


def _simulated_line_cases(depth: FloatArray, camera: CameraModel, lines: Sequence[int]) -> Iterator[Case]:
    rays = camera.rays()
    elevation = np.degrees(np.arctan2(-rays[..., 1], np.hypot(rays[..., 0], 1.0)))
    pitch = (_ELEVATION_TOP_DEG - _ELEVATION_BOTTOM_DEG) / (_SIMULATED_RINGS - 1)
    line = (_ELEVATION_TOP_DEG - elevation) / pitch
    ring = np.rint(line).astype(np.int64)
    # A pixel belongs to a ring when the ring's elevation passes through it.
    on_ring = (
        (np.abs(line - ring) * np.radians(pitch) * camera.K[1, 1] <= 0.5) & (ring >= 0) & (ring < _SIMULATED_RINGS)
    )
    for count in lines:
        keep = thin_rings(ring, _SIMULATED_RINGS, count)
        if keep is not None:
            yield _case(str(count), True, keep & on_ring & (depth > 0), depth, depth, TRUTH_RANGE_M)


def _case(
    name: str, lidar: bool, shown: AnyArray, source: FloatArray, depth: FloatArray, limits: Tuple[float, float]
) -> Case:
    rows, cols = np.nonzero(shown)
    uv = np.stack([cols, rows], axis=1).astype(np.float32)
    returns = ProjectedReturns.unmarked(uv, source[rows, cols])
    truth = (depth >= limits[0]) & (depth <= limits[1]) & ~np.asarray(shown, np.bool_)
    truth_rows, truth_cols = np.nonzero(truth)
    values = depth[truth_rows, truth_cols]
    return Case(name, lidar, returns, truth_rows, truth_cols, values, np.ones(len(values), np.bool_))
