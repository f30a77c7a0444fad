"""Compiled kernels of ``core.completion``, called by ``core.kernels_completion``: a level is one pass over its rows.

Every sum and product is the one of the NumPy version, in its order and in single precision, so that results are equal
bit for bit. A row of cells holds its planes one after the other, (rows, planes, columns), with a border of one cell
that holds nothing: windows need no bounds, and what is worked on stays in the caches. Loops write few planes each,
since compilers give up vector instructions where too many writes might overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mf_ros.core import completion
from mf_ros.core.compiled import inner, jit

# Planes of a level's cells: sums and the two bounds. The finest level has the first four only, the others are zero.
_ONE, _R, LEAST, MOST, _X, _XX, _RX, _Y, _YY, _XY, _RY = range(11)
FINEST, ALL = 4, 11
# Planes of a level's result: inverse depth at the centre, its slopes, its bounds.
VALUE, SLOPE_X, SLOPE_Y, LOW, HIGH = range(5)
RESULT = 5

_0, _1, _2, _3 = (np.float32(value) for value in range(4))
_QUARTER, _THREE_QUARTERS, _THREE_HALVES = np.float32(0.25), np.float32(0.75), np.float32(1.5)
NOTHING = np.float32(completion._NOTHING)
_SIDE, _CENTRE = np.float32(completion._WINDOW_SIDE), np.float32(completion._WINDOW_CENTRE)
_VALUE_RIDGE = np.float32(completion._VALUE_RIDGE)
_DECAY = np.float32(completion._SLOPE_DECAY)
_OVERSHOOT = np.float32(completion._OVERSHOOT)

# Scratch rows hold planes at this constant distance, in cells: a compiler then sees that they do not overlap. An odd
# number of cache lines apart, or planes would compete for the same places.
_S = 257 * 16
WIDEST = _S - 2 * max(reach for reach, _ in completion._SNAP_PASSES)
SCRATCH = (6, ALL * _S)


@jit('void(Array(float32, 2, "C", True), float32[:,:,::1])')
def fill(sparse: Any, cells: Any) -> None:
    """The finest level's sums and bounds from sparse depth, which may be read-only (what ``True`` allows)."""
    for i in range(sparse.shape[0]):
        for j in range(sparse.shape[1]):
            depth = sparse[i, j]
            present = depth > _0
            one = depth * _0 + (_1 if present else _0)
            inverse = one / (depth if present else _1)
            cells[i + 1, _ONE, j + 1] = one
            cells[i + 1, _R, j + 1] = inverse
        for j in range(sparse.shape[1]):
            inverse = cells[i + 1, _R, j + 1]
            present = sparse[i, j] > _0
            cells[i + 1, LEAST, j + 1] = inverse if present else NOTHING
            cells[i + 1, MOST, j + 1] = -inverse if present else NOTHING


@inner
def _join_rows(first: Any, second: Any, joined: Any, half: Any) -> None:
    """Sums of pairs of cells about the pairs' centres, for two rows one above the other; ``half`` of a cell, pixels."""
    width, square = first.shape[1], half * half
    for j in range(width):
        one = first[_ONE, j] + second[_ONE, j]
        joined[_ONE * _S + j] = one
        joined[_Y * _S + j] = (second[_ONE, j] - first[_ONE, j]) * half
        joined[_YY * _S + j] = one * square
    for j in range(width):
        joined[_R * _S + j] = first[_R, j] + second[_R, j]
        joined[_RY * _S + j] = (second[_R, j] - first[_R, j]) * half
    for p in (LEAST, MOST):
        for j in range(width):
            joined[p * _S + j] = second[p, j] if second[p, j] < first[p, j] else first[p, j]
    if first.shape[0] == FINEST:
        for p in (_X, _XX, _RX, _XY):
            for j in range(width):
                joined[p * _S + j] = _0
        return
    for j in range(width):
        joined[_X * _S + j] = first[_X, j] + second[_X, j]
        joined[_XX * _S + j] = first[_XX, j] + second[_XX, j]
        joined[_XY * _S + j] = first[_XY, j] + second[_XY, j] + (second[_X, j] - first[_X, j]) * half
    for j in range(width):
        step = (second[_Y, j] - first[_Y, j]) * half
        joined[_YY * _S + j] = first[_YY, j] + second[_YY, j] + joined[_YY * _S + j] + step * _2
        joined[_Y * _S + j] = first[_Y, j] + second[_Y, j] + joined[_Y * _S + j]
    for j in range(width):
        joined[_RX * _S + j] = first[_RX, j] + second[_RX, j]
        joined[_RY * _S + j] = first[_RY, j] + second[_RY, j] + joined[_RY * _S + j]


@inner
def _join_cols(row: Any, joined: Any, half: Any) -> None:
    """The same for pairs of neighbours in a row."""
    width, square = joined.shape[1] - 2, half * half
    for j in range(width):
        a, b = 2 * j + 1, 2 * j + 2
        one = row[_ONE * _S + a] + row[_ONE * _S + b]
        joined[_ONE, j + 1] = one
        joined[_X, j + 1] = row[_X * _S + a] + row[_X * _S + b] + (row[_ONE * _S + b] - row[_ONE * _S + a]) * half
        joined[_XX, j + 1] = (
            row[_XX * _S + a] + row[_XX * _S + b] + one * square + (row[_X * _S + b] - row[_X * _S + a]) * half * _2
        )
    for j in range(width):
        a, b = 2 * j + 1, 2 * j + 2
        joined[_R, j + 1] = row[_R * _S + a] + row[_R * _S + b]
        joined[_RX, j + 1] = row[_RX * _S + a] + row[_RX * _S + b] + (row[_R * _S + b] - row[_R * _S + a]) * half
    for j in range(width):
        a, b = 2 * j + 1, 2 * j + 2
        joined[_Y, j + 1] = row[_Y * _S + a] + row[_Y * _S + b]
        joined[_XY, j + 1] = row[_XY * _S + a] + row[_XY * _S + b] + (row[_Y * _S + b] - row[_Y * _S + a]) * half
    for p in (_YY, _RY):
        for j in range(width):
            joined[p, j + 1] = row[p * _S + 2 * j + 1] + row[p * _S + 2 * j + 2]
    for p in (LEAST, MOST):
        for j in range(width):
            a, b = row[p * _S + 2 * j + 1], row[p * _S + 2 * j + 2]
            joined[p, j + 1] = b if b < a else a


@jit("void(float32[:,:,::1], float32[:,:,::1], float32[::1], boolean, boolean, float32, float32)")
def halve(cells: Any, coarse: Any, row: Any, rows: Any, cols: Any, half_y: Any, half_x: Any) -> None:
    """The next level's cells; ``rows`` and ``cols`` say which axes are halved, ``half`` of a cell by axis in pixels."""
    planes, width = cells.shape[1], cells.shape[2]
    for i in range(coarse.shape[0] - 2):
        if rows:
            _join_rows(cells[2 * i + 1], cells[2 * i + 2], row, half_y)
        else:
            for p in range(ALL):
                for j in range(width):
                    row[p * _S + j] = cells[i + 1, p, j] if p < planes else _0
        if cols:
            _join_cols(row, coarse[i + 1], half_x)
        else:
            for p in range(ALL):
                for j in range(width):
                    coarse[i + 1, p, j] = row[p * _S + j]


@inner
def _window(row: Any, windowed: Any, stride: Any) -> None:
    """Weighted sums of each cell of a row and its two neighbours in it, about the cell's centre."""
    width, reach, square = row.shape[1] - 2, _SIDE * stride, stride * stride
    for j in range(width):
        both = (row[_ONE, j] + row[_ONE, j + 2]) * _SIDE
        windowed[_ONE * _S + j] = both + row[_ONE, j + 1] * _CENTRE
        windowed[_X * _S + j] = (row[_ONE, j + 2] - row[_ONE, j]) * reach
        windowed[_XX * _S + j] = both * square
    for j in range(width):
        windowed[_R * _S + j] = (row[_R, j] + row[_R, j + 2]) * _SIDE + row[_R, j + 1] * _CENTRE
        windowed[_RX * _S + j] = (row[_R, j + 2] - row[_R, j]) * reach
    if row.shape[0] == FINEST:
        return
    for j in range(width):
        own = (row[_XX, j] + row[_XX, j + 2]) * _SIDE + row[_XX, j + 1] * _CENTRE
        windowed[_XX * _S + j] = own + windowed[_XX * _S + j] + (row[_X, j + 2] - row[_X, j]) * reach * _2
        own = (row[_X, j] + row[_X, j + 2]) * _SIDE + row[_X, j + 1] * _CENTRE
        windowed[_X * _S + j] = own + windowed[_X * _S + j]
    for j in range(width):
        own = (row[_RX, j] + row[_RX, j + 2]) * _SIDE + row[_RX, j + 1] * _CENTRE
        windowed[_RX * _S + j] = own + windowed[_RX * _S + j]
        own = (row[_XY, j] + row[_XY, j + 2]) * _SIDE + row[_XY, j + 1] * _CENTRE
        windowed[_XY * _S + j] = own + (row[_Y, j + 2] - row[_Y, j]) * reach
    for p in (_Y, _YY, _RY):
        for j in range(width):
            windowed[p * _S + j] = (row[p, j] + row[p, j + 2]) * _SIDE + row[p, j + 1] * _CENTRE


@inner
def _solve(
    above: Any, here: Any, below: Any, prior: Any, solved: Any, width: Any, stride: Any, ridge_y: Any, ridge_x: Any
) -> None:
    """A row of planes: least squares over windows of three rows, held to the prior planes by a ridge."""
    reach, square = _SIDE * stride, stride * stride
    for j in range(width):
        both = (above[_ONE * _S + j] + below[_ONE * _S + j]) * _SIDE
        one = both + here[_ONE * _S + j] * _CENTRE
        x = (above[_X * _S + j] + below[_X * _S + j]) * _SIDE + here[_X * _S + j] * _CENTRE
        xx = (above[_XX * _S + j] + below[_XX * _S + j]) * _SIDE + here[_XX * _S + j] * _CENTRE
        r = (above[_R * _S + j] + below[_R * _S + j]) * _SIDE + here[_R * _S + j] * _CENTRE
        rx = (above[_RX * _S + j] + below[_RX * _S + j]) * _SIDE + here[_RX * _S + j] * _CENTRE
        y = (above[_Y * _S + j] + below[_Y * _S + j]) * _SIDE + here[_Y * _S + j] * _CENTRE
        y = y + (below[_ONE * _S + j] - above[_ONE * _S + j]) * reach
        yy = (above[_YY * _S + j] + below[_YY * _S + j]) * _SIDE + here[_YY * _S + j] * _CENTRE
        yy = yy + both * square + (below[_Y * _S + j] - above[_Y * _S + j]) * reach * _2
        xy = (above[_XY * _S + j] + below[_XY * _S + j]) * _SIDE + here[_XY * _S + j] * _CENTRE
        xy = xy + (below[_X * _S + j] - above[_X * _S + j]) * reach
        ry = (above[_RY * _S + j] + below[_RY * _S + j]) * _SIDE + here[_RY * _S + j] * _CENTRE
        ry = ry + (below[_R * _S + j] - above[_R * _S + j]) * reach
        value = prior[VALUE * _S + j]
        slope_x, slope_y = prior[SLOPE_X * _S + j] * _DECAY, prior[SLOPE_Y * _S + j] * _DECAY
        residual = r - (one * value + x * slope_x + y * slope_y)
        residual_x = rx - (x * value + xx * slope_x + xy * slope_y)
        residual_y = ry - (y * value + xy * slope_x + yy * slope_y)
        d0 = _1 / (one + _VALUE_RIDGE)
        l10, l20 = x * d0, y * d0
        d1 = _1 / (xx + ridge_x - l10 * x)
        e21 = xy - l20 * x
        l21 = e21 * d1
        d2 = _1 / (yy + ridge_y - l20 * y - l21 * e21)
        residual_x = residual_x - l10 * residual
        step_y = (residual_y - l20 * residual - l21 * residual_x) * d2
        step_x = residual_x * d1 - l21 * step_y
        solved[VALUE * _S + j] = value + (residual * d0 - l10 * step_x - l20 * step_y)
        solved[SLOPE_X * _S + j] = slope_x + step_x
        solved[SLOPE_Y * _S + j] = slope_y + step_y


@inner
def _bound(above: Any, here: Any, below: Any, prior: Any, solved: Any, row: Any, plane: Any) -> None:
    """A row's bounds, of the 3x3 cells or where those are empty of the coarser level, and its values held to them."""
    width = plane.shape[1] - 2
    for p in range(2):
        for j in range(width + 2):
            least = below[LEAST + p, j] if below[LEAST + p, j] < above[LEAST + p, j] else above[LEAST + p, j]
            row[p * _S + j] = least if least < here[LEAST + p, j] else here[LEAST + p, j]
        for j in range(width):
            least = row[p * _S + j + 2] if row[p * _S + j + 2] < row[p * _S + j] else row[p * _S + j]
            least = least if least < row[p * _S + j + 1] else row[p * _S + j + 1]
            plane[LOW + p, j + 1] = least if least < NOTHING else prior[(LOW + p) * _S + j]
    for j in range(width):
        value = solved[VALUE * _S + j]
        low, high = plane[LOW, j + 1] / _OVERSHOOT, -plane[HIGH, j + 1] * _OVERSHOOT
        value = low if low > value else value
        plane[VALUE, j + 1] = high if high < value else value
    for p in (SLOPE_X, SLOPE_Y):
        for j in range(width):
            plane[p, j + 1] = solved[p * _S + j]
    for p in range(RESULT):
        plane[p, 0], plane[p, width + 1] = plane[p, 1], plane[p, width]


@jit("void(float32[:,:,::1], float32[:,:,::1], float32)")
def spread_cols(coarse: Any, fine: Any, stride: Any) -> None:
    """Results at twice the resolution along rows: each child blends what its parent and the next parent say there."""
    half, far = stride / _2, stride * _THREE_HALVES
    for i in range(coarse.shape[0]):
        parent, child = coarse[i], fine[i]
        for j in range(coarse.shape[2] - 2):
            value, own = parent[VALUE, j + 1], parent[SLOPE_X, j + 1] * half
            before = parent[VALUE, j] + parent[SLOPE_X, j] * far
            after = parent[VALUE, j + 2] - parent[SLOPE_X, j + 2] * far
            child[VALUE, 2 * j] = (value - own) * _THREE_QUARTERS + before * _QUARTER
            child[VALUE, 2 * j + 1] = (value + own) * _THREE_QUARTERS + after * _QUARTER
        for p in range(1, RESULT):
            for j in range(coarse.shape[2] - 2):
                own = parent[p, j + 1] * _THREE_QUARTERS
                child[p, 2 * j] = own + parent[p, j] * _QUARTER
                child[p, 2 * j + 1] = own + parent[p, j + 2] * _QUARTER


@inner
def _spread_rows(parent: Any, other: Any, child: Any, width: Any, own: Any, far: Any) -> None:
    """The same from one row of parents and the next; ``own`` and ``far`` are the child's pixels from them."""
    for j in range(width):
        there = parent[VALUE, j] + parent[SLOPE_Y, j] * own
        child[VALUE * _S + j] = there * _THREE_QUARTERS + (other[VALUE, j] + other[SLOPE_Y, j] * far) * _QUARTER
    for p in range(1, RESULT):
        for j in range(width):
            child[p * _S + j] = parent[p, j] * _THREE_QUARTERS + other[p, j] * _QUARTER


@jit(
    "void(float32[:,:,::1], float32[:,:,::1], float32[:,:,::1], float32[:,::1], boolean, float32, float32, float32, "
    "float32)"
)
def fit(
    cells: Any,
    parents: Any,
    plane: Any,
    scratch: Any,
    halved: Any,
    half_y: Any,
    half_x: Any,
    ridge_y: Any,
    ridge_x: Any,
) -> None:
    """The result of a level from its cells and from the coarser result, of which only the rows are still to spread."""
    height, width, stride_y, stride_x = plane.shape[0], plane.shape[2] - 2, half_y * _2, half_x * _2
    prior, solved, row = scratch[3], scratch[4], scratch[5]
    for place in range(3):
        for p in range(ALL):
            for j in range(width):
                scratch[place, p * _S + j] = _0
    _window(cells[1], scratch[1], stride_x)
    for i in range(height):
        _window(cells[i + 2], scratch[(i + 2) % 3], stride_x)
        if halved:
            side = -1 if i % 2 == 0 else 1
            other = min(max(i // 2 + side, 0), parents.shape[0] - 1)
            own = half_y if side > 0 else -half_y
            _spread_rows(parents[i // 2], parents[other], prior, width, own, -own * _3)
        else:
            for p in range(RESULT):
                for j in range(width):
                    prior[p * _S + j] = parents[i, p, j]
        above, here, below = scratch[i % 3], scratch[(i + 1) % 3], scratch[(i + 2) % 3]
        _solve(above, here, below, prior, solved, width, stride_y, ridge_y, ridge_x)
        _bound(cells[i], cells[i + 1], cells[i + 2], prior, solved, row, plane[i])


@jit("void(float32[:,:,::1], float32, float32, float32[:,::1])")
def held(plane: Any, least: Any, most: Any, value: Any) -> None:
    """Inverse depth of a result, between the smallest and largest that was measured."""
    for i in range(value.shape[0]):
        for j in range(value.shape[1]):
            inverse = plane[i, VALUE, j + 1]
            inverse = least if least > inverse else inverse
            value[i, j] = most if most < inverse else inverse


@inner
def _snap_row(above: Any, row: Any, below: Any, snapped: Any, reach: Any, tolerance: Any) -> None:
    for j in range(len(snapped)):
        value = row[j + reach]
        scale = value * tolerance
        total, weights = value, _1
        difference = (above[j] - value) / scale
        weight = _1 / (_1 + difference * difference)
        total, weights = total + weight * above[j], weights + weight
        difference = (below[j] - value) / scale
        weight = _1 / (_1 + difference * difference)
        total, weights = total + weight * below[j], weights + weight
        difference = (row[j] - value) / scale
        weight = _1 / (_1 + difference * difference)
        total, weights = total + weight * row[j], weights + weight
        difference = (row[j + 2 * reach] - value) / scale
        weight = _1 / (_1 + difference * difference)
        total, weights = total + weight * row[j + 2 * reach], weights + weight
        snapped[j] = total / weights


@jit("void(float32[:,::1], float32[:,::1], float32[::1], int64, float32)")
def snap(value: Any, snapped: Any, row: Any, reach: Any, tolerance: Any) -> None:
    """One pass that pulls pixels between two surfaces to one of them."""
    height, width = value.shape
    for i in range(height):
        for j in range(width):
            row[reach + j] = value[i, j]
        for j in range(reach):
            row[j], row[reach + width + j] = value[i, 0], value[i, width - 1]
        _snap_row(value[max(i - reach, 0)], row, value[min(i + reach, height - 1)], snapped[i], reach, tolerance)
