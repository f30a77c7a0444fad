"""``pack_cloud`` as compiled kernels: filters, rays and colours in one pass over the rows; bits equal NumPy's."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Optional

import numpy as np

from mf_ros.core import cloud
from mf_ros.core.compiled import inner, jit, plain
from mf_ros.core.config import CloudConfig
from mf_ros.core.types import AnyArray, ByteArray, FloatArray

_0, _INF, _NAN = np.float32(0), np.float32(np.inf), np.float32(np.nan)
_SMALLEST = np.float32(cloud._SMALLEST)

# Arrays that are only read may be read-only, which numba's short notation has no word for.
_PLANE, _PLANES, _IMAGE = (
    f'Array({kind}, {axes}, "C", True)' for kind, axes in (("float32", 2), ("float32", 3), ("uint8", 2))
)


@inner
def _extremes(above: Any, here: Any, below: Any, farthest: Any, nearest: Any) -> None:
    """The largest and smallest known depth of each column of three rows."""
    for j in range(len(here)):
        a, b, c = above[j], here[j], below[j]
        # Not above the smallest are NaN too, and what is not known must win neither comparison.
        far_a, near_a = a if a >= _SMALLEST else _0, a if a >= _SMALLEST else _INF
        far_b, near_b = b if b >= _SMALLEST else _0, b if b >= _SMALLEST else _INF
        far_c, near_c = c if c >= _SMALLEST else _0, c if c >= _SMALLEST else _INF
        far = far_b if far_b > far_a else far_a
        near = near_b if near_b < near_a else near_a
        farthest[j + 1] = far_c if far_c > far else far
        nearest[j + 1] = near_c if near_c < near else near


@inner
def _filtered(
    depth: Any,
    confidence: Any,
    farthest: Any,
    nearest: Any,
    kept: Any,
    doubted: Any,
    edges: Any,
    least_m: Any,
    most_m: Any,
    least_confidence: Any,
    nearer: Any,
    farther: Any,
) -> None:
    """A row's depth, NaN where a filter drops it."""
    for j in range(len(depth)):
        kept[j] = depth[j] if (depth[j] >= least_m) & (depth[j] <= most_m) else _NAN
    if doubted:
        for j in range(len(depth)):
            kept[j] = kept[j] if confidence[j] >= least_confidence else _NAN
    if edges:
        for j in range(len(depth)):
            far = farthest[j + 1] if farthest[j + 1] > farthest[j] else farthest[j]
            far = farthest[j + 2] if farthest[j + 2] > far else far
            near = nearest[j + 1] if nearest[j + 1] < nearest[j] else nearest[j]
            near = nearest[j + 2] if nearest[j + 2] < near else near
            kept[j] = _NAN if (far > kept[j] * farther) | (near < kept[j] * nearer) else kept[j]


@inner
def _colours(image: Any, bits: Any) -> None:
    for j in range(len(bits)):
        red, green, blue = np.uint32(image[3 * j]), np.uint32(image[3 * j + 1]), np.uint32(image[3 * j + 2])
        bits[j] = (red << np.uint32(16)) | (green << np.uint32(8)) | blue


@inner
def _points(x: Any, y: Any, z: Any, kept: Any, colour: Any, out: Any) -> None:
    for j in range(len(kept)):
        out[4 * j] = x[j] * kept[j]
        out[4 * j + 1] = y[j] * kept[j]
        out[4 * j + 2] = z[j] * kept[j]
        out[4 * j + 3] = colour[j]


@jit(
    f"void({_PLANE}, {_IMAGE}, {_PLANES}, {_PLANE}, float32[:,::1], float32[:,::1], uint32[::1], float32[::1], "
    "boolean, boolean, float32, float32, float32, float32, float32)"
)
def _pack(
    depth: Any,
    image: Any,
    rays: Any,
    confidence: Any,
    out: Any,
    rows: Any,
    bits: Any,
    colour: Any,
    doubted: Any,
    edges: Any,
    least_m: Any,
    most_m: Any,
    least_confidence: Any,
    nearer: Any,
    farther: Any,
) -> None:
    """All rows, with pixels and points one after the other in them.

    ``rows`` are scratch rows, ``bits`` one for colours, and ``colour`` the bytes of that read as floats.
    """
    height, width = depth.shape
    farthest, nearest, kept = rows[0], rows[1], rows[2, :width]
    farthest[0] = farthest[width + 1] = _0
    nearest[0] = nearest[width + 1] = _INF
    for i in range(height):
        here, trust = depth[i], confidence[i]
        if edges:
            _extremes(depth[max(i - 1, 0)], here, depth[min(i + 1, height - 1)], farthest, nearest)
        _filtered(
            here, trust, farthest, nearest, kept, doubted, edges, least_m, most_m, least_confidence, nearer, farther
        )
        _colours(image[i], bits)
        _points(rays[0, i], rays[1, i], rays[2, i], kept, colour, out[i])


class _Rows(NamedTuple):
    """Scratch rows for one width; ``colour`` and ``bits`` are the same bytes."""

    depth: FloatArray
    bits: AnyArray
    colour: FloatArray


class _Kept(threading.local):
    """Scratch rows of the last width; each thread has its own."""

    def __init__(self) -> None:
        self.rows = self._made(0)

    def of(self, width: int) -> _Rows:
        if len(self.rows.bits) != width:
            self.rows = self._made(width)
        return self.rows

    @staticmethod
    def _made(width: int) -> _Rows:
        bits = np.zeros(width, np.uint32)
        return _Rows(np.zeros((3, width + 2), np.float32), bits, bits.view(np.float32))


_kept = _Kept()


def pack(
    depth: FloatArray,
    image: ByteArray,
    rays: FloatArray,
    config: CloudConfig,
    confidence: Optional[FloatArray],
    out: FloatArray,
) -> bool:
    """Fill ``out`` as ``pack_cloud`` does; False, with nothing written, where its NumPy version has to do the work.

    That is the case for arrays that are not C-contiguous or of other types, and confidence of another size.

    Args:
        rays: (3, H, W) float32, the camera's ``ray_planes``.
    """
    doubted = confidence is not None and config.min_confidence > 0.0
    trust = confidence if confidence is not None and doubted else depth
    if trust.shape != depth.shape or not (plain(image, np.uint8) and depth.size):
        return False
    if not all(plain(each, np.float32) for each in (depth, rays, trust, out)):
        return False
    least_m, most_m = cloud.range_limits(config)
    factors = (np.float32(1.0 - config.edge_ratio), np.float32(1.0 + config.edge_ratio))
    filters = (doubted, config.edge_ratio > 0.0, np.float32(least_m), np.float32(most_m))
    rows = _kept.of(depth.shape[1])
    # Rows as flat as they lie in memory: the distance of a pixel's neighbour must be known to the compiler.
    flat = (image.reshape(len(image), -1), rays, trust, out.reshape(len(out), -1))
    _pack(depth, *flat, *rows, *filters, np.float32(config.min_confidence), *factors)
    return True


def check() -> None:
    """Compare with NumPy on a small image.

    Raises:
        ArithmeticError: the kernels compute something else.
    """
    rows, cols = np.indices((7, 12), np.float32)
    depth = np.where((rows == 2) & (cols > 9), np.nan, 4 + rows + 9 * (cols > 6)).astype(np.float32)
    image = np.arange(7 * 12 * 3, dtype=np.uint8).reshape(7, 12, 3)
    rays = np.stack([cols / 10, rows / 10, np.ones_like(rows)])
    confidence = (cols / 12).astype(np.float32)
    given = (depth, image, rays, CloudConfig(min_confidence=0.2), confidence)
    ours, theirs = (np.zeros((7, 12, 4), np.float32) for _ in range(2))
    cloud.pack_by_numpy(*given, theirs)
    if not pack(*given, ours) or not np.array_equal(ours, theirs, equal_nan=True):
        raise ArithmeticError("they do not compute what NumPy computes")
