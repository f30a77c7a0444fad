"""Compiled kernels of ``core.projection`` and ``core.outliers``: z-buffer and counts of neighbours, as by NumPy."""

from __future__ import annotations

import threading
from typing import Any, Optional, Tuple

import numpy as np

from mf_ros.core import outliers, projection
from mf_ros.core.compiled import jit, plain
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray

_INDEX, _BITS = 'Array(int64, 1, "C", True)', 'Array(uint32, 1, "C", True)'
_FLOATS = 'Array(float32, 1, "C", True)'
_NEXT, _ONE = np.uint32(1), np.int32(1)
_STEP = np.float32(outliers.DEPTH_STEP)
_MOST_COUNTS = 2**31 - 1


@jit(f'boolean({_INDEX}, {_BITS}, Array(boolean, 1, "C", True), uint32[::1])')
def _nearest(flat: Any, z: Any, used: Any, image: Any) -> bool:
    """Write the smallest z of each pixel; False where one lies outside. Bits of positive floats sort as floats do."""
    for i in range(len(flat)):
        pixel = flat[i]
        if pixel < 0 or pixel >= len(image):
            return False
        # An empty pixel, 0, is the farthest of all once one is taken from it.
        if used[i] and np.uint32(z[i] - _NEXT) < np.uint32(image[pixel] - _NEXT):
            image[pixel] = z[i]
    return True


@jit(f"UniTuple(int32, 3)({_INDEX}, {_INDEX}, {_FLOATS}, float64, int32[:,::1])")
def _places(rows: Any, cols: Any, log_depth: Any, cell: Any, places: Any) -> Tuple[Any, Any, Any]:
    """Write row and column of each cell and the depth step, all from 1; returns the largest, or 0 for nonsense."""
    down, across, deep = places[0], places[1], places[2]
    for i in range(len(rows)):
        down[i] = np.int32(rows[i] / cell) + _ONE
        across[i] = np.int32(cols[i] / cell) + _ONE
        deep[i] = np.int32(log_depth[i] / _STEP) + _ONE
    least, height, width, depth = _ONE, _ONE, _ONE, _ONE
    for i in range(len(rows)):
        least = min(least, min(down[i], min(across[i], deep[i])))
        height, width, depth = max(height, down[i]), max(width, across[i]), max(depth, deep[i])
    return (height, width, depth) if least == 1 else (np.int32(0), np.int32(0), np.int32(0))


@jit(
    "void(int32[:,::1], int64, int64, int64, int32[::1], int32[::1], int32[::1], int32[::1], float32[::1], "
    "float32[::1])"
)
def _count(
    places: Any,
    height: Any,
    width: Any,
    depth: Any,
    counts: Any,
    totals: Any,
    sums: Any,
    at: Any,
    crowd: Any,
    company: Any,
) -> None:
    """Count what lies around each place, none of which is at the border; results are the last two arrays."""
    down, across, deep = places[0], places[1], places[2]
    # All of them, one after the other, and not only those that were used: that also brings them into the cache.
    totals[: height * width] = 0
    counts[: height * width * depth] = 0
    for i in range(len(crowd)):
        cell = down[i] * width + across[i]
        totals[cell] += _ONE
        at[i] = cell * depth + deep[i]
        # Steps before and after it are counted at once: that leaves nine places to read of twenty-seven.
        counts[at[i] - 1] += _ONE
        counts[at[i]] += _ONE
        counts[at[i] + 1] += _ONE
    first, last = width + 1, (height - 1) * width - 1
    for k in range(first, last):
        above = totals[k - width - 1] + totals[k - width] + totals[k - width + 1]
        below = totals[k + width - 1] + totals[k + width] + totals[k + width + 1]
        sums[k] = above + totals[k - 1] + totals[k] + totals[k + 1] + below
    line = width * depth
    for i in range(len(crowd)):
        here = np.int64(at[i])
        above = counts[here - line - depth] + counts[here - line] + counts[here - line + depth]
        below = counts[here + line - depth] + counts[here + line] + counts[here + line + depth]
        company[i] = np.float32(above + counts[here - depth] + counts[here] + counts[here + depth] + below - _ONE)
        crowd[i] = np.float32(sums[down[i] * width + across[i]] - _ONE)


@jit('void(Array(uint8, 2, "C", True), int64[::1], int64[::1], int64[::1])')
def _runs(occupied: Any, starts: Any, first: Any, last: Any) -> None:
    """Of each column how often empty cells turn into occupied ones, and where the first and last of these lie."""
    height, width = occupied.shape
    for j in range(width):
        starts[j], first[j], last[j] = 0, height, -1
    for i in range(height):
        for j in range(width):
            if occupied[i, j] > 0:
                starts[j] += 1 if i > 0 and occupied[i - 1, j] == 0 else 0
                first[j], last[j] = min(first[j], i), i


class _Kept(threading.local):
    """Buffers that grow with what they have to hold; each thread has its own."""

    def __init__(self) -> None:
        self.counts = np.zeros(0, np.int32)
        self.cells = np.zeros((2, 0), np.int32)


_kept = _Kept()


def nearest(flat: AnyArray, z: FloatArray, used: BoolArray, shape: Tuple[int, int]) -> Optional[FloatArray]:
    """(H, W) float32 z-buffer; None where NumPy has to do the work: other types, or pixels outside the image.

    Args:
        flat: (M,) int64 pixels.
        z: (M,) float32 metres, above zero.
        used: (M,) bool.
    """
    if not (plain(flat, np.int64) and plain(z, np.float32) and plain(used, np.bool_)):
        return None
    image = np.zeros(shape, np.float32)
    inside = len(flat) == len(z) == len(used) and _nearest(
        flat, z.view(np.uint32), used, image.reshape(-1).view(np.uint32)
    )
    return image if inside else None


def neighbours(
    rows: AnyArray, cols: AnyArray, log_depth: FloatArray, cell: float
) -> Optional[Tuple[FloatArray, FloatArray]]:
    """``outliers.neighbours_by_numpy``; None where that has to do the work: other types, negative values."""
    if not (plain(rows, np.int64) and plain(cols, np.int64) and plain(log_depth, np.float32)):
        return None
    places = np.empty((3, len(rows)), np.int32)
    height, width, depth = (int(each) + 1 for each in _places(rows, cols, log_depth, cell, places))
    cells = (height + 1) * (width + 1)
    if height == 1 or cells * (depth + 1) > _MOST_COUNTS:
        return None
    if len(_kept.counts) < cells * (depth + 1):
        _kept.counts = np.zeros(cells * (depth + 1), np.int32)
    if _kept.cells.shape[1] < cells:
        _kept.cells = np.zeros((2, cells), np.int32)
    crowd, company = (np.empty(len(rows), np.float32) for _ in range(2))
    buffers = (_kept.counts, _kept.cells[0], _kept.cells[1], np.empty(len(rows), np.int32))
    _count(places, height + 1, width + 1, depth + 1, *buffers, crowd, company)
    return crowd, company


def runs(occupied: ByteArray) -> Tuple[AnyArray, AnyArray]:
    """``projection.runs_by_numpy``.

    Args:
        occupied: (H, W) uint8, C-contiguous.
    """
    starts, first, last = (np.empty(occupied.shape[1], np.int64) for _ in range(3))
    _runs(occupied, starts, first, last)
    return starts, last + 1 - first


def check() -> None:
    """Compare with NumPy on a few returns.

    Raises:
        ArithmeticError: the kernels compute something else.
    """
    place = np.arange(40, dtype=np.int64)
    returns = (place % 5, place % 3, (place % 2 / 9).astype(np.float32), 2.0)
    counted, wanted = neighbours(*returns), outliers.neighbours_by_numpy(*returns)
    given = (place % 13, 9 - (place % 7).astype(np.float32), place % 3 > 0)
    image = nearest(*given, (3, 5))
    same = image is not None and np.array_equal(image, projection.nearest_by_numpy(*given, (3, 5)))
    if not same or counted is None or not all(map(np.array_equal, counted, wanted)):
        raise ArithmeticError("they do not compute what NumPy computes")
