"""``complete_inverse_depth`` by the compiled kernels of ``core.kernels_pyramid``, with buffers that are used again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import pairwise
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from mf_ros.core import completion, kernels_pyramid
from mf_ros.core.completion import RowPattern
from mf_ros.core.kernels_pyramid import ALL, FINEST, HIGH, LEAST, LOW, MOST, NOTHING, RESULT, SLOPE_X, SLOPE_Y, VALUE
from mf_ros.core.types import FloatArray

_KEPT_SHAPES = 4


class _Level(NamedTuple):
    """The buffers of one level, and how the next one is reached.

    ``parents`` is the coarser level's ``plane`` after its columns were spread. ``halved`` says of rows and columns
    whether they are halved for the coarser level, ``half`` is half of a cell by axis, pixels.
    """

    cells: FloatArray
    plane: FloatArray
    parents: FloatArray
    halved: Tuple[bool, bool]
    half: Tuple[np.float32, np.float32]
    ridge: Tuple[np.float32, np.float32]


class _Buffers(NamedTuple):
    """All that a completion of one shape writes to, besides its result."""

    levels: List[_Level]
    scratch: FloatArray
    passes: Tuple[FloatArray, FloatArray]


class _Kept(threading.local):
    """Buffers of the last shapes; each thread has its own."""

    def __init__(self) -> None:
        self.scratch = np.zeros(kernels_pyramid.SCRATCH, np.float32)
        self.by_shape: OrderedDict[Tuple[Tuple[int, int], RowPattern], _Buffers] = OrderedDict()

    def of(self, shape: Tuple[int, int], pattern: RowPattern) -> _Buffers:
        key = (shape, pattern)
        if key not in self.by_shape:
            value = np.zeros(shape, np.float32)
            self.by_shape[key] = _Buffers(_made_levels(shape, pattern), self.scratch, (value, np.zeros_like(value)))
            if len(self.by_shape) > _KEPT_SHAPES:
                self.by_shape.popitem(last=False)
        self.by_shape.move_to_end(key)
        return self.by_shape[key]


_kept = _Kept()


def complete(sparse: FloatArray, pattern: RowPattern) -> Optional[FloatArray]:
    """``complete_inverse_depth`` of a NumPy array, or None where its NumPy version has to do the work.

    That is the case for other types than float32, for images wider than ``WIDEST``, and for what cannot be completed:
    no return at all, or depth that is not finite or is below a nanometre.
    """
    if sparse.dtype != np.float32 or sparse.size == 0 or sparse.shape[1] > kernels_pyramid.WIDEST:
        return None
    buffers = _kept.of((sparse.shape[0], sparse.shape[1]), pattern)
    levels = buffers.levels
    kernels_pyramid.fill(np.require(sparse, requirements=("C", "A")), levels[0].cells)
    for level, coarser in pairwise(levels):
        kernels_pyramid.halve(level.cells, coarser.cells, buffers.scratch[0], *level.halved, *level.half)
    one, inverse, least, most = np.ascontiguousarray(levels[-1].cells[1:-1, :FINEST, 1:-1].swapaxes(0, 1))
    count, total, lowest, highest = one.sum(), inverse.sum(), least.min(), -most.min()
    if not (np.isfinite(total) and count > 0 and highest < NOTHING):
        return None
    start = levels[-1].parents
    start[:, VALUE], start[:, SLOPE_X : SLOPE_Y + 1] = total / count, 0
    start[:, LOW], start[:, HIGH] = lowest, -highest
    _fitted(levels, buffers.scratch)
    kernels_pyramid.held(levels[0].plane, lowest, highest, buffers.passes[0])
    return _snapped(buffers)


def check() -> None:
    """Compare with NumPy on a small image.

    Raises:
        ArithmeticError: the kernels compute something else, for example because stored ones are of another version.
    """
    rows, cols = np.indices((9, 14), np.float32)
    sparse = np.where((rows % 3 == 1) & (cols % 2 == 0), 3 + rows + 9 * (cols > 6), 0).astype(np.float32)
    pattern = RowPattern(0, 1)
    filled = complete(sparse, pattern)
    if filled is None or not np.allclose(filled, completion.by_operators(sparse, pattern, np), rtol=1e-5, atol=0):
        raise ArithmeticError("they do not compute what NumPy computes")


def _fitted(levels: List[_Level], scratch: FloatArray) -> None:
    """Fill ``plane`` of all levels, from the coarsest, whose ``parents`` are filled, to the finest."""
    for level, coarser in zip(reversed(levels), [None, *reversed(levels)], strict=False):
        if coarser is not None and level.halved[1]:
            kernels_pyramid.spread_cols(coarser.plane, level.parents, level.half[1] * 2)
        elif coarser is not None:
            level.parents[:] = coarser.plane[:, :, 1:-1]
        kernels_pyramid.fit(
            level.cells, level.parents, level.plane, scratch, level.halved[0], *level.half, *level.ridge
        )


def _snapped(buffers: _Buffers) -> FloatArray:
    """What the passes make of the first of their buffers; the last one writes to a new array."""
    source, target = buffers.passes
    result = np.empty_like(source)
    for number, (reach, tolerance) in enumerate(completion._SNAP_PASSES, 1):
        output = result if number == len(completion._SNAP_PASSES) else target
        kernels_pyramid.snap(source, output, buffers.scratch[0], reach, np.float32(tolerance))
        source, target = output, source
    return result


def _made_levels(shape: Tuple[int, int], pattern: RowPattern) -> List[_Level]:
    levels: List[_Level] = []
    stride = [1, 1]
    while True:
        halved = completion._halved_axes(shape, len(levels), pattern)
        coarser = tuple((size + 1) // 2 if half else size for size, half in zip(shape, halved, strict=True))
        height, width = shape
        cells = np.zeros((height + 2, ALL if levels else FINEST, width + 2), np.float32)
        cells[:, LEAST : MOST + 1] = NOTHING
        levels.append(
            _Level(
                cells,
                plane=np.zeros((height, RESULT, width + 2), np.float32),
                parents=np.zeros((coarser[0], RESULT, 2 * coarser[1] if halved[1] else width), np.float32),
                halved=halved,
                half=(np.float32(stride[0] / 2), np.float32(stride[1] / 2)),
                ridge=(
                    np.float32(completion._SLOPE_RIDGE * stride[0] ** 2),
                    np.float32(completion._SLOPE_RIDGE * stride[1] ** 2),
                ),
            )
        )
        if not any(halved):
            return levels
        stride = [2 * size if half else size for size, half in zip(stride, halved, strict=True)]
        shape = (coarser[0], coarser[1])
