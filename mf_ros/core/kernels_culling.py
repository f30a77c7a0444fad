"""Compiled kernels of ``core.projection`` and ``core.outliers``: z-buffer and counts of neighbours, as by NumPy."""

from __future__ import annotations

import threading
from typing import Any, Optional, Tuple

import numpy as np

from mf_ros.core import outliers, projection
from mf_ros.core.compiled import jit, plain
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray

_INDEX, _BITS = 'Array(int64, 1, "C", True)', 'Array(uint32, 1, "C", True)'
_NEXT = np.uint32(1)


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


@jit(f"boolean({_INDEX}, {_INDEX}, {_INDEX}, int64, int64, int64, int32[::1], int32[::1], float32[::1], float32[::1])")
def _count(
    rows: Any,
    cols: Any,
    steps: Any,
    height: Any,
    width: Any,
    depth: Any,
    counts: Any,
    totals: Any,
    crowd: Any,
    company: Any,
) -> bool:
    """Count what lies around each place; False where one lies at the border. All counts are zero before and after."""
    for i in range(len(rows)):
        if not (0 < rows[i] < height - 1 and 0 < cols[i] < width - 1 and 0 < steps[i] < depth - 1):
            return False
    for i in range(len(rows)):
        cell = rows[i] * width + cols[i]
        counts[cell * depth + steps[i]] += np.int32(1)
        totals[cell] += np.int32(1)
    for i in range(len(rows)):
        near, all_depths = np.int32(-1), np.int32(-1)
        for above in range(-1, 2):
            for beside in range(-1, 2):
                cell = (rows[i] + above) * width + cols[i] + beside
                all_depths += totals[cell]
                there = cell * depth + steps[i]
                near += counts[there - 1] + counts[there] + counts[there + 1]
        crowd[i], company[i] = np.float32(all_depths), np.float32(near)
    for i in range(len(rows)):
        cell = rows[i] * width + cols[i]
        counts[cell * depth + steps[i]] = np.int32(0)
        totals[cell] = np.int32(0)
    return True


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
    """Counts that are zero between calls and grow with what they have to hold; each thread has its own."""

    def __init__(self) -> None:
        self.counts = np.zeros(0, np.int32)
        self.totals = np.zeros(0, np.int32)


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


def neighbours(where: Tuple[AnyArray, ...], size: Tuple[int, ...]) -> Optional[Tuple[FloatArray, FloatArray]]:
    """``outliers.neighbours_by_numpy``; None where that has to do the work: a place at the border."""
    (rows, cols, steps), (height, width, depth) = where, size
    cells = height * width
    if len(_kept.counts) < cells * depth:
        _kept.counts = np.zeros(cells * depth, np.int32)
    if len(_kept.totals) < cells:
        _kept.totals = np.zeros(cells, np.int32)
    crowd, company = (np.empty(len(rows), np.float32) for _ in range(2))
    buffers = (_kept.counts, _kept.totals, crowd, company)
    counted = all(plain(each, np.int64) for each in where) and _count(rows, cols, steps, height, width, depth, *buffers)
    return (crowd, company) if counted else None


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
    where, size = (place % 5 + 1, place % 3 + 1, place % 2 + 1), (7, 5, 4)
    counted, wanted = neighbours(where, size), outliers.neighbours_by_numpy(where, size)
    given = (place % 13, 9 - (place % 7).astype(np.float32), place % 3 > 0)
    image = nearest(*given, (3, 5))
    same = image is not None and np.array_equal(image, projection.nearest_by_numpy(*given, (3, 5)))
    if not same or counted is None or not all(map(np.array_equal, counted, wanted)):
        raise ArithmeticError("they do not compute what NumPy computes")
