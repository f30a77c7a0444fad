"""Dense depth from sparse returns by a coarse-to-fine, regularised local plane fit in inverse depth.

A plane in space is a plane in inverse depth over the image, so a few moments of the returns in a window give the
surface there in closed form. Windows grow over a pyramid; each level starts from the plane of the coarser one and
departs from it as far as its own returns say, and inverse depth stays within what returns around it measured.

Everything is written with operators and functions that NumPy and torch name alike (``xp`` is either module), so that
the run-time engine, a network's prior and an exported graph compute the same thing. Shapes decide the control flow,
values never do: the one choice that depends on the sensor, ``RowPattern``, is measured beforehand. Where numba is
installed, ``core.kernels_completion`` does the same on NumPy arrays, to the last bit.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from mf_ros.core import compiled
from mf_ros.core.types import BoolArray, FloatArray

# An array of either library. The functions below use only what both offer under one name.
Array = Any

_ROWS, _COLS = -2, -1
_WINDOW_SIDE, _WINDOW_CENTRE = 0.25, 0.5
_VALUE_RIDGE = 0.01
_SLOPE_RIDGE = 0.1
_SLOPE_DECAY = 0.9
_OVERSHOOT = 1.15
_NOTHING = 1e9
_COARSEST = 2
_SNAP_PASSES = ((4, 0.06), (2, 0.06), (1, 0.06))
_ROW_POOLINGS = 5
_ROW_START_RATIO, _ROW_RATIO = 1.3, 1.5

# What moments gain when the origin moves along an axis: (moment, from which, power of the offset, factor).
# For example sum((x + o)^2) = sum(x^2) + 2 o sum(x) + o^2 sum(1).
_GAINS = {
    _COLS: (("x", "1", 1, 1.0), ("xx", "1", 2, 1.0), ("xx", "x", 1, 2.0), ("xy", "y", 1, 1.0), ("rx", "r", 1, 1.0)),
    _ROWS: (("y", "1", 1, 1.0), ("yy", "1", 2, 1.0), ("yy", "y", 1, 2.0), ("xy", "x", 1, 1.0), ("ry", "r", 1, 1.0)),
}

# Sums over the returns of a cell, by name: "1" counts them, "r" adds up their inverse depth, "x" and "y" are pixels
# from the cell's centre along columns and rows, "xy" and "rx" products. A name that is absent is zero everywhere.
Moments = Dict[str, Array]


class RowPattern(NamedTuple):
    """How the returns lie on the image, so that windows can be taller than wide for scan lines.

    Attributes:
        start: pyramid level from which on returns along a scan line share cells.
        poolings: extra halvings of the rows at that level; 0 for returns without scan lines.
    """

    start: int
    poolings: int


class _Level(NamedTuple):
    """One level of the pyramid.

    ``bounds`` is (2, h, w): the smallest inverse depth of each cell and the negated largest, so that both are minima.
    ``stride`` is the cell's size in pixels by axis, ``halved`` the axes that were halved to reach the next level.
    """

    moments: Moments
    bounds: Array
    stride: Dict[int, int]
    halved: Tuple[int, ...]


class _Plane(NamedTuple):
    """Inverse depth at the cell centre and its slopes per pixel along columns (x) and rows (y)."""

    value: Array
    x: Array
    y: Array


def row_pattern(returns: BoolArray) -> RowPattern:
    """Measure from the pixels that hold returns whether they form scan lines, and how dense they are along them.

    Pooling along a scan line merges returns, pooling across lines does not; the ratio of what is left tells.
    """
    across: Array = returns
    down: Array = returns
    ratios: List[float] = []
    for _ in range(_ROW_POOLINGS):
        cols, rows = across.shape[1] // 2 * 2, down.shape[0] // 2 * 2
        across = across[:, 0:cols:2] | across[:, 1:cols:2]
        down = down[0:rows:2] | down[1:rows:2]
        ratios.append(float(down.sum()) / max(float(across.sum()), 1.0))
    if max(ratios) < _ROW_RATIO:
        return RowPattern(0, 0)
    return RowPattern(int(np.argmax(np.array(ratios) > _ROW_START_RATIO)), 1)


def complete_inverse_depth(sparse: Array, pattern: RowPattern, xp: ModuleType = np) -> Array:
    """Fill inverse depth between sparse returns.

    Args:
        sparse: (H, W) float32 depth in metres, 0 where there is no return; at least one return.
        pattern: how the returns lie, from ``row_pattern``.
        xp: ``numpy``, or ``torch`` for tensors.

    Returns:
        (H, W) inverse depth in 1/m along the optical Z axis, between the smallest and largest that was measured.
    """
    filled = _compiled(sparse, pattern) if xp is np else None
    return by_operators(sparse, pattern, xp) if filled is None else filled


def _compiled(sparse: FloatArray, pattern: RowPattern) -> Optional[FloatArray]:
    """The same by compiled kernels; None where they are not in use, or leave this input to NumPy."""
    kernels = compiled.kernels("completion")
    return None if kernels is None else kernels.complete(sparse, pattern)


def by_operators(sparse: Array, pattern: RowPattern, xp: ModuleType) -> Array:
    """``complete_inverse_depth`` in the operators of NumPy or torch, which compiled kernels are held to."""
    levels = _pyramid(sparse, pattern, xp)
    coarsest = levels[-1]
    zero = coarsest.moments["1"] * 0
    plane = _Plane(zero + coarsest.moments["r"].sum() / coarsest.moments["1"].sum(), zero, zero)
    least, most = coarsest.bounds[0].min(), -coarsest.bounds[1].min()
    bounds = xp.stack([zero + least, zero - most], 0)
    for number, level in reversed(list(enumerate(levels))):
        for axis in reversed(level.halved):
            size = _shape(levels[number])[axis]
            plane = _finer_plane(plane, size, level.stride[axis], axis, xp)
            bounds = _finer(bounds, size, axis, xp)
        plane = _fitted(plane, level, xp)
        bounds = _local_bounds(level, bounds, xp)
        low, high = bounds[0] / _OVERSHOOT, -bounds[1] * _OVERSHOOT
        plane = plane._replace(value=xp.minimum(xp.maximum(plane.value, low), high))
    value = xp.minimum(xp.maximum(plane.value, least), most)
    return _snapped(value, xp)


def _pyramid(sparse: Array, pattern: RowPattern, xp: ModuleType) -> List[_Level]:
    present = sparse > 0
    zero = sparse * 0
    one = xp.where(present, zero + 1, zero)
    inverse = one / xp.where(present, sparse, zero + 1)
    moments: Moments = {"1": one, "r": inverse}
    bounds = xp.stack([xp.where(present, inverse, zero + _NOTHING), xp.where(present, -inverse, zero + _NOTHING)], 0)
    stride = {_ROWS: 1, _COLS: 1}
    levels: List[_Level] = []
    while True:
        choice = zip((_ROWS, _COLS), _halved_axes(moments["1"].shape, len(levels), pattern), strict=True)
        halved = tuple(axis for axis, chosen in choice if chosen)
        levels.append(_Level(moments, bounds, dict(stride), halved))
        if not halved:
            return levels
        for axis in halved:
            moments = _halved(moments, stride[axis], axis, xp)
            bounds = xp.minimum(*_pairs(bounds, axis, _NOTHING, xp))
            stride[axis] *= 2


def _halved_axes(shape: Tuple[int, int], level: int, pattern: RowPattern) -> Tuple[bool, bool]:
    """Whether the rows and whether the columns of a level are halved to reach the next; neither at the coarsest."""
    if max(shape) <= _COARSEST:
        return False, False
    only_rows = pattern.start <= level < pattern.start + pattern.poolings
    return shape[0] > 1, shape[1] > 1 and not only_rows


def _shape(level: _Level) -> Tuple[int, ...]:
    shape: Tuple[int, ...] = level.moments["1"].shape
    return shape


def _halved(moments: Moments, stride: int, axis: int, xp: ModuleType) -> Moments:
    """Moments of pairs of cells about the pairs' centres."""
    first, second = _pairs(xp.stack(list(moments.values()), 0), axis, 0.0, xp)
    both = first + second
    return _moved(moments, both, (second - first) * (stride / 2), both * (stride / 2) ** 2, axis)


def _windowed(moments: Moments, stride: int, axis: int, xp: ModuleType) -> Moments:
    """Weighted moments of each cell and its two neighbours along an axis, about the cell's centre."""
    stack = xp.stack(list(moments.values()), 0)
    before, after = (_neighbour(stack, offset, axis, xp, zero=True) for offset in (-1, 1))
    both = (before + after) * _WINDOW_SIDE
    # A float, because NumPy 1 turns float32 times a large whole number into float64.
    square = float(stride**2)
    return _moved(
        moments, both + stack * _WINDOW_CENTRE, (after - before) * (_WINDOW_SIDE * stride), both * square, axis
    )


def _moved(moments: Moments, plain: Array, first: Array, second: Array, axis: int) -> Moments:
    """Moments about a new origin from sums of the old ones, plain and weighted by the offset and its square."""
    names = list(moments)
    result: Moments = dict(zip(names, plain, strict=True))
    for target, source, power, factor in _GAINS[axis]:
        if source in moments:
            gain = (first if power == 1 else second)[names.index(source)] * factor
            result[target] = result[target] + gain if target in result else gain
    return result


def _fitted(prior: _Plane, level: _Level, xp: ModuleType) -> _Plane:
    """Least-squares plane of the returns in a 3x3-cell window, held to the prior plane by a ridge."""
    moments = level.moments
    for axis in (_COLS, _ROWS):
        moments = _windowed(moments, level.stride[axis], axis, xp)
    one, x, y, xx, xy, yy, r, rx, ry = (moments[name] for name in ("1", "x", "y", "xx", "xy", "yy", "r", "rx", "ry"))
    value, slope_x, slope_y = prior.value, prior.x * _SLOPE_DECAY, prior.y * _SLOPE_DECAY
    # Normal equations of the departure from the prior, solved by LDL^T: the matrix is positive definite.
    residual = r - (one * value + x * slope_x + y * slope_y)
    residual_x = rx - (x * value + xx * slope_x + xy * slope_y)
    residual_y = ry - (y * value + xy * slope_x + yy * slope_y)
    d0 = 1.0 / (one + _VALUE_RIDGE)
    l10, l20 = x * d0, y * d0
    d1 = 1.0 / (xx + _SLOPE_RIDGE * level.stride[_COLS] ** 2 - l10 * x)
    e21 = xy - l20 * x
    l21 = e21 * d1
    d2 = 1.0 / (yy + _SLOPE_RIDGE * level.stride[_ROWS] ** 2 - l20 * y - l21 * e21)
    residual_x = residual_x - l10 * residual
    step_y = (residual_y - l20 * residual - l21 * residual_x) * d2
    step_x = residual_x * d1 - l21 * step_y
    step = residual * d0 - l10 * step_x - l20 * step_y
    return _Plane(value + step, slope_x + step_x, slope_y + step_y)


def _local_bounds(level: _Level, coarser: Array, xp: ModuleType) -> Array:
    """Bounds of inverse depth in the 3x3-cell window; where it is empty the coarser level's bounds go on."""
    bounds = level.bounds
    for axis in (_ROWS, _COLS):
        sides = xp.minimum(_neighbour(bounds, -1, axis, xp), _neighbour(bounds, 1, axis, xp))
        bounds = xp.minimum(bounds, sides)
    return xp.where(bounds < _NOTHING, bounds, coarser)


def _finer_plane(plane: _Plane, size: int, stride: int, axis: int, xp: ModuleType) -> _Plane:
    """Planes at twice the resolution: each child blends what its parent's and the next parent's plane say there."""
    slope = plane.x if axis == _COLS else plane.y
    own, reach = slope * (stride / 2), slope * (1.5 * stride)
    before = _neighbour(plane.value + reach, -1, axis, xp)
    after = _neighbour(plane.value - reach, 1, axis, xp)
    value = _interleaved(
        (plane.value - own) * 0.75 + before * 0.25, (plane.value + own) * 0.75 + after * 0.25, axis, xp
    )
    slopes = _finer(xp.stack([plane.x, plane.y], 0), size, axis, xp)
    return _Plane(_cut(value, 0, size, axis), slopes[0], slopes[1])


def _finer(values: Array, size: int, axis: int, xp: ModuleType) -> Array:
    """Linear interpolation to twice the resolution, cut to ``size``."""
    before, after = (_neighbour(values, offset, axis, xp) * 0.25 for offset in (-1, 1))
    own = values * 0.75
    return _cut(_interleaved(own + before, own + after, axis, xp), 0, size, axis)


def _snapped(value: Array, xp: ModuleType) -> Array:
    """Pull pixels between two surfaces to one of them: means over neighbours of similar inverse depth."""
    for reach, tolerance in _SNAP_PASSES:
        total, weights = value, 1.0
        for axis in (_ROWS, _COLS):
            for offset in (-reach, reach):
                other = _neighbour(value, offset, axis, xp)
                difference = (other - value) / (value * tolerance)
                weight = 1.0 / (1.0 + difference * difference)
                total = total + weight * other
                weights = weights + weight
        value = total / weights
    return value


def _neighbour(values: Array, offset: int, axis: int, xp: ModuleType, zero: bool = False) -> Array:
    """Each cell's neighbour ``offset`` cells on along an axis; the border repeats, or is zero."""
    size = values.shape[axis]
    count = min(abs(offset), size)
    edge = _cut(values, 0, 1, axis) if offset < 0 else _cut(values, size - 1, size, axis)
    border = [edge * 0 if zero else edge] * count
    if offset < 0:
        return xp.concatenate([*border, _cut(values, 0, size - count, axis)], axis)
    return xp.concatenate([_cut(values, count, size, axis), *border], axis)


def _pairs(values: Array, axis: int, fill: float, xp: ModuleType) -> Tuple[Array, Array]:
    """Even and odd cells along an axis, the last odd one filled up where the count is odd."""
    size = values.shape[axis]
    if size % 2:
        values = xp.concatenate([values, _cut(values, 0, 1, axis) * 0 + fill], axis)
    return _cut(values, 0, size + 1, axis, 2), _cut(values, 1, size + 1, axis, 2)


def _interleaved(even: Array, odd: Array, axis: int, xp: ModuleType) -> Array:
    """Cells of ``even`` and ``odd`` in turn along an axis."""
    shape = list(even.shape)
    shape[axis] *= 2
    return xp.stack([even, odd], even.ndim + axis + 1).reshape(shape)


def _cut(values: Array, start: int, stop: int, axis: int, step: int = 1) -> Array:
    along = slice(start, stop, step)
    return values[..., along, :] if axis == _ROWS else values[..., along]
