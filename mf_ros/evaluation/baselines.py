"""The simple methods that every result is printed beside: sparse depth in, dense depth out, no learning, no image.

Each is a function ``(sparse, camera) -> dense`` on (H, W) float32 metres, 0 = no return, every pixel filled.
"""

from __future__ import annotations

from typing import Callable, Dict, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.types import AnyArray, FloatArray
from mf_ros.errors import require_package

Completion = Callable[[FloatArray, CameraModel], FloatArray]

_EDGE_ON_COSINE = 0.02
_IP_MAX_DEPTH_M = 100.0
_IP_VALID_M = 0.1
_ON_EDGE = 1e-6


def nearest(sparse: FloatArray, camera: CameraModel) -> FloatArray:
    """Depth of the nearest return on the image."""
    return _nearest_fill(sparse)


def linear(sparse: FloatArray, camera: CameraModel) -> FloatArray:
    """Depth interpolated linearly over the Delaunay triangles of the returns; nearest outside their hull."""
    return _delaunay(sparse, lambda z: z, lambda value: value)


def linear_inverse(sparse: FloatArray, camera: CameraModel) -> FloatArray:
    """Inverse depth, which is linear in the image on a plane, interpolated over the Delaunay triangles."""
    return _delaunay(sparse, lambda z: 1.0 / z, lambda value: 1.0 / value)


def triangle(sparse: FloatArray, camera: CameraModel) -> FloatArray:
    """As ``linear_inverse``, but a triangle seen edge-on, which spans a depth edge, takes its nearest corner."""
    rows, cols = np.nonzero(sparse)
    if len(rows) < 3:
        return _nearest_fill(sparse)
    z = sparse[rows, cols].astype(np.float64)
    corners = camera.unproject(np.stack([cols, rows], 1).astype(np.float64), z).astype(np.float64)
    mesh = _triangulate(rows, cols, sparse.shape)
    if mesh is None:
        return _nearest_fill(sparse)
    simplices, simplex, weights = mesh
    a, b, c = (corners[simplices[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    view = a + b + c
    length = np.linalg.norm(normal, axis=1) * np.linalg.norm(view, axis=1)
    edge_on = np.abs((normal * view).sum(1)) < _EDGE_ON_COSINE * np.maximum(length, 1e-12)
    inside = simplex >= 0
    picked = simplices[simplex]
    blended = (weights / z[picked]).sum(-1)
    closest = 1.0 / z[np.take_along_axis(picked, weights.argmax(-1)[..., None], -1)[..., 0]]
    inverse = np.where(edge_on[simplex], closest, blended)
    dense: FloatArray = np.where(inside, 1.0 / inverse, _nearest_fill(sparse)).astype(np.float32)
    return dense


def ip_basic(sparse: FloatArray, camera: CameraModel) -> FloatArray:
    """Morphological completion with kernels by depth band.

    Source: Ku, Harakeh and Waslander, "In Defense of Classical Image Processing", CRV 2018 (multi-scale variant).
    """
    if not (sparse > _IP_VALID_M).any():
        return np.full_like(sparse, np.nan)
    inverted = np.where(sparse > _IP_VALID_M, np.maximum(_IP_MAX_DEPTH_M - sparse, 1.0), 0.0).astype(np.float32)
    grown = inverted.copy()
    for low, high, size in ((30.0, np.inf, 3), (15.0, 30.0, 5), (_IP_VALID_M, 15.0, 7)):
        band = np.where((sparse > low) & (sparse <= high), inverted, np.float32(0))
        dilated = cv2.dilate(band, cv2.getStructuringElement(cv2.MORPH_CROSS, (size, size)))
        grown = np.where(dilated > 0, dilated, grown)
    filled = _despeckle(cv2.morphologyEx(grown, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)).astype(np.float32))
    filled = _fill_empty(filled, 9)
    filled = _extend_up(filled)
    while (filled == 0).any():
        filled = _fill_empty(filled, 31)
    filled = _despeckle(filled)
    smooth = cv2.bilateralFilter(filled, 5, 0.5, 2.0)
    dense: FloatArray = np.maximum(_IP_MAX_DEPTH_M - smooth, 0.1).astype(np.float32)
    return dense


def _despeckle(filled: FloatArray) -> FloatArray:
    median = cv2.medianBlur(filled, 5)
    # Thin input, a single scan line say, has mostly empty neighbourhoods: the median must not erase it.
    return np.where((filled > 0) & (median > 0), median, filled).astype(np.float32)


def _fill_empty(filled: FloatArray, size: int) -> FloatArray:
    dilated = cv2.dilate(filled, np.ones((size, size), np.uint8))
    return np.where(filled > 0, filled, dilated).astype(np.float32)


def _extend_up(filled: FloatArray) -> FloatArray:
    """Columns carry their topmost value to the top border, where a LiDAR does not look."""
    occupied = filled > 0
    top = occupied.argmax(axis=0)
    value = filled[top, np.arange(filled.shape[1])]
    above = np.arange(filled.shape[0])[:, None] < top
    return np.where(above & occupied.any(axis=0), value, filled).astype(np.float32)


def _nearest_fill(sparse: FloatArray) -> FloatArray:
    empty = (sparse == 0).astype(np.uint8)
    if empty.all():
        return np.full_like(sparse, np.nan)
    _, labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    of_label = np.zeros(labels.max() + 1, np.float32)
    occupied = empty == 0
    of_label[labels[occupied]] = sparse[occupied]
    return of_label[labels]


def _delaunay(
    sparse: FloatArray, encode: Callable[[AnyArray], AnyArray], decode: Callable[[AnyArray], AnyArray]
) -> FloatArray:
    rows, cols = np.nonzero(sparse)
    if len(rows) < 3:
        return _nearest_fill(sparse)
    value = encode(sparse[rows, cols].astype(np.float64))
    mesh = _triangulate(rows, cols, sparse.shape)
    if mesh is None:
        return _nearest_fill(sparse)
    simplices, simplex, weights = mesh
    blended = (weights * value[simplices[simplex]]).sum(-1)
    with np.errstate(divide="ignore"):
        dense: FloatArray = np.where(simplex >= 0, decode(blended), _nearest_fill(sparse)).astype(np.float32)
    return dense


def _triangulate(
    rows: AnyArray, cols: AnyArray, shape: Tuple[int, ...]
) -> Optional[Tuple[AnyArray, AnyArray, AnyArray]]:
    """Corner indices of the triangles, the triangle of every pixel (-1 = none) and its barycentric weights.

    None when there is no triangle, because fewer than three returns exist or all lie on one line.
    """
    spatial = require_package("scipy.spatial", extra="eval")
    corners = np.stack([cols, rows], 1)
    try:
        mesh = spatial.Delaunay(corners.astype(np.float64))
    except spatial.QhullError:
        return None
    simplex = triangle_of_pixels(corners, mesh.simplices, shape)
    grid_rows, grid_cols = np.indices(shape)
    pixels = np.stack([grid_cols, grid_rows], -1).reshape(-1, 2).astype(np.float64)
    affine = mesh.transform[simplex.reshape(-1)]
    first = np.einsum("nij,nj->ni", affine[:, :2], pixels - affine[:, 2])
    weights = np.concatenate([first, 1.0 - first.sum(1, keepdims=True)], axis=1)
    outside = ~np.isfinite(weights).all(axis=1)
    weights[outside] = 1.0 / 3.0
    return mesh.simplices, simplex, weights.reshape(*shape, 3)


def triangle_of_pixels(corners: AnyArray, simplices: AnyArray, shape: Tuple[int, ...]) -> AnyArray:
    """(H, W) index of the triangle in which each pixel lies, its rim included; -1 in none.

    Filled row by row: walking from triangle to triangle, as scipy does in ``find_simplex``, takes minutes where returns
    on scan lines make slivers.

    Args:
        corners: (N, 2) whole columns and rows.
        simplices: (T, 3) corners of the triangles; those without area are left out.
        shape: H and W.
    """
    x, y = (corners[simplices][..., axis].astype(np.int64) for axis in (0, 1))
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    number = np.flatnonzero(area)
    top, bottom = y[number].min(1), y[number].max(1)
    of_span, row = _counted(top, bottom)
    span = number[of_span]
    left, right = np.full(len(span), np.inf), np.full(len(span), -np.inf)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        x0, y0, x1, y1 = x[span, one], y[span, one], x[span, other], y[span, other]
        crossed = (np.minimum(y0, y1) <= row) & (row <= np.maximum(y0, y1))
        # A level edge is met by its neighbours at both of its ends.
        at = x0 + (row - y0) * (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
        np.minimum(left, at, out=left, where=crossed)
        np.maximum(right, at, out=right, where=crossed)
    of_pixel, col = _counted(np.ceil(left - _ON_EDGE).astype(np.int64), np.floor(right + _ON_EDGE).astype(np.int64))
    found: AnyArray = np.full(shape, -1, np.int64)
    found[row[of_pixel], col] = span[of_pixel]
    return found


def _counted(first: AnyArray, last: AnyArray) -> Tuple[AnyArray, AnyArray]:
    """The whole numbers from each first to its last, one after the other: which pair each is of, and itself."""
    count = np.maximum(last - first + 1, 0)
    of = np.repeat(np.arange(len(count)), count)
    return of, np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count) + first[of]


BASELINES: Dict[str, Completion] = {
    "nearest": nearest,
    "linear": linear,
    "linear_inverse": linear_inverse,
    "triangle": triangle,
    "ip_basic": ip_basic,
}
