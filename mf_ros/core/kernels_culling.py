"""Compiled kernels of ``core.projection`` and ``core.outliers``: z-buffer and counts of neighbours, as by NumPy."""

from __future__ import annotations

import math
import threading
from typing import Any, Optional, Tuple

import numpy as np

from mf_ros.core import outliers, projection
from mf_ros.core.compiled import jit, plain
from mf_ros.core.types import AnyArray, BoolArray, FloatArray

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


@jit(f"boolean({_INDEX}, int64, int64, int32[::1], int32[::1], float32[::1], float32[::1])")
def _count(place: Any, steps: Any, row: Any, counts: Any, totals: Any, crowd: Any, company: Any) -> bool:
    """Count what lies around each place; False where a neighbour lies outside. All counts are zero before and after.

    ``steps`` is how many depth steps a cell has, ``row`` how many cells a row has.
    """
    for i in range(len(place)):
        reach = (row + 1) * steps + 1
        if place[i] < reach or place[i] >= len(totals) * steps - reach:
            return False
    for i in range(len(place)):
        counts[place[i]] += np.int32(1)
        totals[place[i] // steps] += np.int32(1)
    for i in range(len(place)):
        cell = place[i] // steps
        near, all_depths = np.int32(-1), np.int32(-1)
        for above in range(-1, 2):
            for beside in range(-1, 2):
                all_depths += totals[cell + above * row + beside]
                there = place[i] + (above * row + beside) * steps
                near += counts[there - 1] + counts[there] + counts[there + 1]
        crowd[i], company[i] = np.float32(all_depths), np.float32(near)
    for i in range(len(place)):
        counts[place[i]] = np.int32(0)
        totals[place[i] // steps] = np.int32(0)
    return True


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
    place = np.ravel_multi_index(where, size)
    cells = math.prod(size[:2])
    if len(_kept.counts) < cells * size[2]:
        _kept.counts = np.zeros(cells * size[2], np.int32)
    if len(_kept.totals) < cells:
        _kept.totals = np.zeros(cells, np.int32)
    crowd, company = (np.empty(len(place), np.float32) for _ in range(2))
    counted = place.dtype == np.int64 and _count(
        place, size[2], size[1], _kept.counts, _kept.totals[:cells], crowd, company
    )
    return (crowd, company) if counted else None


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
