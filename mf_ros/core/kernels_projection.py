"""Compiled kernels of ``core.projection``: depth test, lens, intrinsics and image bounds in one pass, as by NumPy."""

from __future__ import annotations

import threading
from typing import Any, Optional, Tuple

import numpy as np

from mf_ros.core import projection
from mf_ros.core.camera import CameraModel
from mf_ros.core.compiled import inner, jit, plain
from mf_ros.core.distortion import PolynomialLens
from mf_ros.core.types import AnyArray, FloatArray

_NEAREST, _INF, _NAN = np.float32(projection.NEAREST_Z_M), np.float32(np.inf), np.nan
# Points at a time: few enough to stay in the fastest cache, enough for vector instructions.
_BLOCK = 512
_UNBENT = PolynomialLens(np.zeros(5))


@inner
def _ahead(points: Any, start: Any, x: Any, y: Any, z: Any, index: Any) -> int:
    """Copy the points of a block that lie ahead of the camera; returns how many there are."""
    count = 0
    for i in range(start, min(start + _BLOCK, len(points))):
        x[count], y[count], z[count] = points[i, 0], points[i, 1], points[i, 2]
        index[count] = i
        count += (points[i, 2] > _NEAREST) & (points[i, 2] < _INF)
    return count


@inner
def _bend(x: Any, y: Any, s: Any, gain: Any, count: Any, D: Any, limit: Any, rational: Any, off_axis: Any) -> None:
    """``PolynomialLens.distort`` in place."""
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = D
    for j in range(count):
        s[j] = x[j] * x[j] + y[j] * y[j]
        gain[j] = 1.0 + s[j] * (k1 + s[j] * (k2 + s[j] * k3))
    if rational:
        for j in range(count):
            gain[j] /= 1.0 + s[j] * (k4 + s[j] * (k5 + s[j] * k6))
    if off_axis:
        for j in range(count):
            a, b, r = x[j], y[j], s[j]
            ab = 2.0 * a * b
            x[j] = a * gain[j] + p1 * ab + p2 * (r + 2.0 * a * a) + r * (s1 + r * s2)
            y[j] = b * gain[j] + p2 * ab + p1 * (r + 2.0 * b * b) + r * (s3 + r * s4)
    else:
        for j in range(count):
            x[j] *= gain[j]
            y[j] *= gain[j]
    for j in range(count):
        x[j] = x[j] if s[j] <= limit else _NAN


@jit(
    'int64(Array(float32, 2, "C", True), UniTuple(float64, 5), UniTuple(float64, 12), float64, boolean, boolean, '
    "boolean, int64, int64, float64[:,::1], float32[:,::1], int64[::1], float32[:,::1], float32[::1], int64[::1])"
)
def _project(
    points: Any,
    K: Any,
    D: Any,
    limit: Any,
    bent: Any,
    rational: Any,
    off_axis: Any,
    width: Any,
    height: Any,
    rows: Any,
    depths: Any,
    places: Any,
    uv: Any,
    z: Any,
    index: Any,
) -> int:
    """Write the pixels of points that fall into the image; returns how many do.

    ``rows``, ``depths`` and ``places`` are scratch rows of a block.
    """
    fx, skew, cx, fy, cy = K
    right, low = width - 0.5, height - 0.5
    x, y, s, gain, u, v = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    px, py, pz = depths[0], depths[1], depths[2]
    found = 0
    for start in range(0, len(points), _BLOCK):
        count = _ahead(points, start, px, py, pz, places)
        for j in range(count):
            x[j] = np.float64(px[j]) / np.float64(pz[j])
            y[j] = np.float64(py[j]) / np.float64(pz[j])
        if bent:
            _bend(x, y, s, gain, count, D, limit, rational, off_axis)
        for j in range(count):
            u[j] = fx * x[j] + skew * y[j] + cx
            v[j] = fy * y[j] + cy
        for j in range(count):
            uv[found, 0] = min(max(u[j], -0.49), right - 0.01)
            uv[found, 1] = min(max(v[j], -0.49), low - 0.01)
            z[found], index[found] = pz[j], places[j]
            found += (u[j] >= -0.5) & (v[j] >= -0.5) & (u[j] < right) & (v[j] < low)
    return found


class _Kept(threading.local):
    """Buffers that grow with what they have to hold; each thread has its own."""

    def __init__(self) -> None:
        self.blocks = (np.zeros((6, _BLOCK)), np.zeros((3, _BLOCK), np.float32), np.zeros(_BLOCK, np.int64))
        self.found = self._made(0)

    def of(self, points: int) -> Tuple[FloatArray, FloatArray, AnyArray]:
        if len(self.found[1]) <= points:
            self.found = self._made(points + 1)
        return self.found

    @staticmethod
    def _made(size: int) -> Tuple[FloatArray, FloatArray, AnyArray]:
        return np.zeros((size, 2), np.float32), np.zeros(size, np.float32), np.zeros(size, np.int64)


_kept = _Kept()


def project(points: FloatArray, camera: CameraModel) -> Optional[Tuple[FloatArray, FloatArray, AnyArray]]:
    """``projection.projected_by_numpy``; None where that has to do the work: a fisheye, points of another layout."""
    lens = _UNBENT if camera.lens is None else camera.lens
    if not plain(points, np.float32) or not isinstance(lens, PolynomialLens):
        return None
    K = (camera.K[0, 0], camera.K[0, 1], camera.K[0, 2], camera.K[1, 1], camera.K[1, 2])
    terms = (lens.D, lens.max_s, camera.lens is not None, lens.rational, lens.off_axis)
    kept = _kept.of(len(points))
    count = _project(points, K, *terms, camera.width, camera.height, *_kept.blocks, *kept)
    uv, z, index = (each[:count].copy() for each in kept)
    return uv, z, index


def check() -> None:
    """Compare with NumPy on a few points.

    Raises:
        ArithmeticError: the kernels compute something else.
    """
    points = np.linspace(-3, 3, 90, dtype=np.float32).reshape(30, 3)[:, ::-1].copy()
    K, D = np.array([[40, 0.5, 32], [0, 42, 24], [0, 0, 1]]), np.array([-0.3, 0.1, 1e-3, -2e-3, 0.02, 0.1, 0.2, 0.01])
    camera = CameraModel(64, 48, K, D, "rational_polynomial")
    ours, theirs = project(points, camera), projection.projected_by_numpy(points, camera)
    if ours is None or not all(map(np.array_equal, ours, theirs)):
        raise ArithmeticError("they do not compute what NumPy computes")
