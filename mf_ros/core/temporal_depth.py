"""The dense depth of the frame before, seen from the present one, and blended in where nothing speaks against it.

What an engine makes of two frames differs by more than the scene does, above all between scan lines: depth flickers.
Each pixel looks up what the frame before said about its surface, and keeps part of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.grid import cells_of, enlarged
from mf_ros.core.projection import NEAREST_Z_M
from mf_ros.core.returns import biweight
from mf_ros.core.temporal import PresentView
from mf_ros.core.types import AnyArray, DepthEstimate, DoubleArray, FloatArray

_CELLS = 120_000
_USUAL_SCALE = 0.04
_SCALES = 2.0
_LEAST, _MOST = 0.02, 0.3
_SHADE_MARGIN = 20.0
_CLEARLY = 0.02
_AROUND = 19
_OUTSIDE = -9.0
# With less agreement than this the frame before shows something else.
_LEAST_AGREEMENT = 0.25


@dataclass(frozen=True)
class PastDepth:
    """Depth of an earlier frame on the coarse grid of its image.

    Attributes:
        log_depth: (h, w) float32 log metres; NaN where there is none.
        shade: (h, w) float32 grey value of the image.
        step: pixels per side of a cell.
    """

    log_depth: FloatArray
    shade: FloatArray
    step: int


def past_of(estimate: DepthEstimate, view: PresentView) -> PastDepth:
    """What the next frame is told of this one's depth."""
    factor = 1 if view.shade.size <= _CELLS else 2
    step = factor * view.step
    return PastDepth(_log(_sampled(estimate.depth, step)), _sampled(view.shade, factor), step)


def smoothed(
    estimate: DepthEstimate,
    past: PastDepth,
    view: PresentView,
    sparse: FloatArray,
    T_then_now: DoubleArray,
    camera: CameraModel,
    weight: float,
) -> DepthEstimate:
    """Depth moved toward what the frame before said about the same surface.

    Each pixel's point is moved into the camera of the frame before and compared with the depth there. ``weight`` of the
    difference is taken over; less, down to nothing, where it nears twice the error that the engine expects, or where
    the image has changed, or where the present returns say that it is better now, since there something moves,
    appears, or the odometry is off; and nothing at all when the frame before agrees hardly anywhere.

    Args:
        estimate: of the present frame.
        past: of the frame before, on the same grid.
        view: of the present frame.
        sparse: (H, W) metres, its own returns.
        T_then_now: (4, 4) maps points from the present optical frame to that of the frame before.
        camera: model of both images.
        weight: in [0, 1).
    """
    log_depth = _log(_sampled(estimate.depth, past.step))
    there, log_z = _lookup(log_depth, past.step, T_then_now, camera)
    before = cv2.remap(past.log_depth, *there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan)
    shade_before = cv2.remap(past.shade, *there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    difference = before - log_z
    known = np.isfinite(difference)
    if not known.any():
        return estimate
    allowed = np.float32(_SCALES * _USUAL_SCALE)
    if estimate.log_scale is not None:
        allowed = np.clip(_SCALES * np.exp(_sampled(estimate.log_scale, past.step)), _LEAST, _MOST)
    change = _sampled(view.shade, past.step // view.step) - shade_before
    change -= np.median(change[known])
    difference[~known] = 0
    trust = biweight(difference / allowed) * biweight(change * np.float32(1 / _SHADE_MARGIN)) * known
    trust *= _confirmed(log_depth, difference, cells_of(view.pixel, view.shape, past.step), np.take(sparse, view.pixel))
    if trust.sum() < _LEAST_AGREEMENT * np.count_nonzero(known):
        return estimate
    moved = enlarged((np.float32(weight) * trust * difference).astype(np.float32), past.step, estimate.depth.shape)
    return replace(estimate, depth=estimate.depth * np.exp(moved))


def _confirmed(log_depth: FloatArray, difference: FloatArray, cells: AnyArray, z: FloatArray) -> FloatArray:
    """(h, w) in [0, 1]: 0 where at half of the present returns around, the frame before is clearly worse than this."""
    error = np.take(log_depth, cells) - np.log(z)
    worse = np.abs(error + np.take(difference, cells)) > np.abs(error) + np.float32(_CLEARLY)
    counts = (np.bincount(cells, each, log_depth.size).reshape(log_depth.shape) for each in (worse, None))
    sums = cv2.blur(np.dstack(list(counts)).astype(np.float32), (_AROUND, _AROUND))
    share = sums[..., 0] / np.maximum(sums[..., 1], np.float32(1e-6))
    confirmed: FloatArray = np.maximum(1 - 2 * share, 0)
    return confirmed


def _lookup(
    log_depth: FloatArray, step: int, T_then_now: DoubleArray, camera: CameraModel
) -> Tuple[Tuple[FloatArray, FloatArray], FloatArray]:
    """Where the cells of one frame lie on the grid of another, as maps for cv2.remap, and their log depth in it."""
    points: AnyArray = _rays(camera, step) * np.exp(log_depth)[..., None]
    if camera.has_distortion:
        points = cv2.transform(points, T_then_now[:3].astype(np.float32))
        z = points[..., 2]
        u, v = camera.project(points.reshape(-1, 3)).astype(np.float32).T.reshape(2, *z.shape)
    else:
        u, v, z = cv2.split(cv2.transform(points, (camera.K @ T_then_now[:3]).astype(np.float32)))
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = u / z, v / z
    with np.errstate(invalid="ignore"):
        ahead = z > NEAREST_Z_M
    maps = (np.where(ahead & np.isfinite(each), (each - step // 2) / step, np.float32(_OUTSIDE)) for each in (u, v))
    col, row = (np.asarray(each, np.float32) for each in maps)
    return (col, row), np.log(np.where(ahead, z, np.float32(np.nan)))


def _sampled(values: AnyArray, step: int) -> AnyArray:
    """One value of each cell; cells that reach too far out of the image take its last pixel."""
    if step == 1:
        return values
    taken = values[step // 2 :: step, step // 2 :: step]
    rows, cols = (-(-size // step) - count for size, count in zip(values.shape, taken.shape[:2], strict=False))
    if rows or cols:
        return np.asarray(cv2.copyMakeBorder(taken, 0, rows, 0, cols, cv2.BORDER_REPLICATE))
    return np.ascontiguousarray(taken)


@lru_cache(maxsize=8)
def _rays(camera: CameraModel, step: int) -> FloatArray:
    """(h, w, 3) float32 rays through the cells."""
    rays: FloatArray = _sampled(camera.rays(), step)
    return rays


def _log(depth: FloatArray) -> FloatArray:
    """Log of depth, NaN where there is none."""
    with np.errstate(invalid="ignore"):
        usable = (depth > 0) & (depth < np.inf)
    log_depth: FloatArray = np.log(np.where(usable, depth, np.float32(np.nan)))
    return log_depth
