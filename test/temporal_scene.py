"""A small world that a camera moves through, seen by a few scan lines, for the tests of temporal reuse."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.camera import make_camera
from mf_ros.core.types import CameraFrame, DepthEstimate, SparseDepth
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.temporal import TemporalReuse

CAMERA = make_camera(320, 192, [220.0, 0, 159.5, 0, 220.0, 95.5, 0, 0, 1], [], "plumb_bob")
FRAME_NS = 100_000_000
LINES = 6

# Centre and size, metres, in the fixed frame: x right, y down, z forward as the camera sees it at the start.
Box = Tuple[Tuple[float, float, float], Tuple[float, float, float]]
BOXES: Tuple[Box, ...] = (
    ((-2.5, 0.5, 9.0), (1.2, 2.0, 1.0)),
    ((2.2, 0.2, 11.0), (1.5, 2.6, 2.0)),
    ((0.2, 0.9, 15.0), (1.8, 1.2, 1.0)),
    ((-5.0, -0.5, 14.0), (2.0, 4.0, 3.0)),
)
OTHER_BOXES: Tuple[Box, ...] = (((0.5, 0.0, 5.0), (3.0, 3.0, 1.0)), ((-3.5, 0.5, 8.0), (2.0, 2.0, 2.0)))


@dataclass(frozen=True)
class Shot:
    """One frame with its returns, its pose and its true depth."""

    frame: CameraFrame
    sparse: SparseDepth
    pose: np.ndarray
    truth: np.ndarray


def pose_at(number: float) -> np.ndarray:
    """The camera goes forward, slightly rising and falling, as on a rough road."""
    pose = np.eye(4)
    pose[:3, 3] = (0.02 * number, 0.04 * np.sin(number), 0.15 * number)
    return pose


def shot(number: int, boxes: Sequence[Box] = BOXES, seed: int = 0, back_m: float = 22.0) -> Shot:
    pose = pose_at(number)
    truth, point, owner = _cast(pose, boxes, back_m)
    grey = (
        110
        + 40 * owner / len(boxes)
        + 50 * np.sin(1.7 * point[..., 0] + seed) * np.cos(2.3 * point[..., 1] + 1.1 * point[..., 2] + seed)
    )
    image = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    sparse = np.zeros_like(truth)
    rows = np.linspace(44, 184, LINES).astype(int)
    noise = np.random.default_rng([seed, number]).normal(1.0, 0.002, (LINES, -(-truth.shape[1] // 3)))
    sparse[rows, ::3] = truth[rows, ::3] * noise
    stamp_ns = 1_000_000_000 + number * FRAME_NS
    return Shot(
        CameraFrame(image, CAMERA, stamp_ns, "camera"), SparseDepth(sparse, int((sparse > 0).sum())), pose, truth
    )


def _cast(pose: np.ndarray, boxes: Sequence[Box], back_m: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, the point that each pixel sees, and the number of its box, 0 for ground and wall."""
    rays, origin = CAMERA.rays().astype(np.float64), pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.full(rays.shape[:2], back_m - origin[2])
        ground = (1.5 - origin[1]) / rays[..., 1]
        depth = np.where((ground > 0) & (ground < depth), ground, depth)
        owner = np.zeros(depth.shape)
        for number, (centre, size) in enumerate(boxes, start=1):
            low, high = (np.array(centre) + sign * np.array(size) / 2 - origin for sign in (-1, 1))
            first, second = low / rays, high / rays
            enter, leave = np.minimum(first, second).max(-1), np.maximum(first, second).min(-1)
            hit = (enter < leave) & (enter > 0) & (enter < depth)
            depth, owner = np.where(hit, enter, depth), np.where(hit, number, owner)
    return depth.astype(np.float32), origin + rays * depth[..., None], owner


def estimates(
    shots: Sequence[Shot], reuse: Optional[TemporalReuse], poses: Optional[Sequence[Optional[np.ndarray]]] = None
) -> list[DepthEstimate]:
    """What the classical engine makes of the shots, one after the other, with what is reused, or alone."""
    engine = ClassicalEngine()
    if reuse is None:
        return [engine.estimate(each.frame.image, each.sparse, CAMERA) for each in shots]
    known = [each.pose for each in shots] if poses is None else poses
    return [reuse.estimate(engine, each.frame, each.sparse, pose) for each, pose in zip(shots, known, strict=True)]


def error(estimate: DepthEstimate, each: Shot, where: Optional[np.ndarray] = None) -> float:
    """Mean absolute error of log depth."""
    wrong = np.abs(np.log(estimate.depth / each.truth))
    return float(wrong.mean() if where is None else wrong[where].mean())


def flicker(made: Sequence[DepthEstimate], shots: Sequence[Shot]) -> float:
    """Mean change of the error of log depth at a pixel's surface point from frame to frame."""
    changes = []
    for (before, old), (after, new) in itertools.pairwise(zip(made, shots, strict=True)):
        points = CAMERA.rays() * new.truth[..., None] + (new.pose - old.pose)[:3, 3]
        uv = CAMERA.project(points.reshape(-1, 3)).reshape(*new.truth.shape, 2)
        cols, rows = np.rint(uv).astype(int)[..., 0], np.rint(uv).astype(int)[..., 1]
        inside = (cols >= 0) & (rows >= 0) & (cols < CAMERA.width) & (rows < CAMERA.height)
        rows, cols, z = rows[inside], cols[inside], points[..., 2][inside]
        same = np.abs(old.truth[rows, cols] / z - 1) < 0.02
        now = np.log(after.depth / new.truth)[inside]
        changes.append(np.abs(now - np.log(before.depth[rows, cols] / z))[same].mean())
    return float(np.mean(changes))
