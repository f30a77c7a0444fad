"""Which truth returns the camera can really see, judged by a rule that no method under test uses.

Surfaces are rebuilt from the full sweep in the sensor's own scan order (neighbouring rings and azimuths of similar
range are one surface) and rendered into the camera's z-buffer; a return behind that surface is not visible.
A return that lies among nearer ones on the image (three of four quadrants) is not counted as visible either; this
is the only rule for sensors without rings.
Rings are numbered within their sensor, so the surfaces of several LiDARs are rebuilt one by one; what any of them saw
hides the returns of all.
"""

from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.projection import ProjectedReturns, project_points, rasterize_nearest
from mf_ros.core.types import AnyArray, BoolArray, CameraPoints, FloatArray

_FINEST_AZIMUTH_DEG, _COARSEST_AZIMUTH_DEG = 0.1, 1.0
_SAME_SURFACE_RATIO = 1.2
_UPSAMPLE = (8, 3)
_BEHIND_RATIO, _BEHIND_M = 0.05, 0.3
_REACH = 0.015


def visible_to_camera(points: CameraPoints, returns: ProjectedReturns, camera: CameraModel) -> BoolArray:
    """(M,) bool for the projected returns: False where a nearer surface, or nearer returns around, cover the pixel."""
    rows, cols = returns.pixels()
    hidden = _surrounded(rows, cols, returns.z, (camera.height, camera.width))
    if points.ring is not None:
        for sensor in np.unique(points.sensor):
            own = points.sensor == sensor
            front = _scan_surface(points.points[own], points.ring[own], camera)[rows, cols]
            hidden |= (front > 0) & (returns.z > front * (1.0 + _BEHIND_RATIO) + _BEHIND_M)
    visible: BoolArray = ~hidden
    return visible


def _surrounded(rows: AnyArray, cols: AnyArray, z: FloatArray, shape: Tuple[int, int]) -> BoolArray:
    """Returns with clearly nearer returns in at least three of the four quadrants around them."""
    depth = rasterize_nearest(rows, cols, z, shape)
    inverse = np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)
    reach = (max(3, round(shape[0] * _REACH)), max(3, round(shape[1] * _REACH)))
    kernel = np.ones(reach, np.uint8)
    corners = [(x, y) for x in (0, reach[1] - 1) for y in (0, reach[0] - 1)]
    quadrants = np.stack([cv2.dilate(inverse, kernel, anchor=corner)[rows, cols] for corner in corners])
    second_smallest = np.sort(quadrants, axis=0)[1]
    surrounded: BoolArray = z * second_smallest > 1.0 + 2 * _BEHIND_RATIO
    return surrounded


def _scan_surface(xyz: FloatArray, ring: AnyArray, camera: CameraModel) -> FloatArray:
    """(H, W) nearest depth of the surfaces spanned between neighbouring rings and azimuths; 0 = none."""
    # Memory follows the scan lines that are there, not the number of the last.
    lines, ring = np.unique(ring, return_inverse=True)
    azimuth = np.degrees(np.arctan2(xyz[:, 0], xyz[:, 2])) + 180.0
    bins = round(360.0 / _azimuth_step(azimuth, ring))
    column = (azimuth * (bins / 360.0)).astype(np.int64) % bins
    grid = np.full((len(lines), bins, 3), np.nan, np.float32)
    grid[ring, column] = xyz
    corners = np.stack([grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]])
    reach = np.linalg.norm(corners, axis=-1)
    with np.errstate(invalid="ignore"):
        same = (reach.max(0) < reach.min(0) * _SAME_SURFACE_RATIO) & (corners[..., 2].min(0) > 0.1)
    corners = corners[:, same]
    down, across = np.meshgrid(np.linspace(0, 1, _UPSAMPLE[0]), np.linspace(0, 1, _UPSAMPLE[1]), indexing="ij")
    weights = np.stack([(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across])
    patch = np.einsum("kuv,knc->nuvc", weights.astype(np.float32), corners, optimize=True).reshape(-1, 3)
    dense = project_points(CameraPoints(patch, None, np.zeros(len(patch), np.uint8)), camera)
    rows, cols = dense.pixels()
    return rasterize_nearest(rows, cols, dense.z, (camera.height, camera.width))


def _azimuth_step(azimuth: AnyArray, ring: AnyArray) -> float:
    """Degrees between neighbouring returns of a ring, slightly widened so that every column of a full scan is hit."""
    order = np.lexsort((azimuth, ring))
    steps = np.diff(azimuth[order])[np.diff(ring[order]) == 0]
    steps = steps[steps > 0]
    typical = 1.2 * float(np.median(steps)) if len(steps) else _FINEST_AZIMUTH_DEG
    return float(np.clip(typical, _FINEST_AZIMUTH_DEG, _COARSEST_AZIMUTH_DEG))
