"""Dense depth from sparse returns by a coarse-to-fine, regularised local plane fit in inverse depth.

A plane in space is a plane in inverse depth over the image, so a few moments of the returns in a window give the
surface there in closed form. Windows grow over a pyramid; each level starts from the plane of the coarser one and
departs from it as far as its own returns say, and inverse depth stays within what returns around it measured.

Everything is written with operators and functions that NumPy and torch name alike (``xp`` is either module), so that
the run-time engine, a network's prior and an exported graph compute the same thing. Shapes decide the control flow,
values never do: the one choice that depends on the sensor, ``RowPattern``, is measured beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, List, NamedTuple, Optional, Tuple

import numpy as np

from mf_ros.core.types import BoolArray, FloatArray

# An array of either library. The functions below use only what both offer under one name.
Array = Any

_WINDOW = (0.25, 0.5, 0.25)
_VALUE_RIDGE = 0.01
_SLOPE_RIDGE = 0.1
_SLOPE_DECAY = 0.9
_OVERSHOOT = 0.15
_NOTHING = 1e9
_COARSEST = 2
_SNAP_PASSES = ((4, 0.06), (2, 0.06), (1, 0.06))
_ROW_POOLINGS = 5
_ROW_START_RATIO, _ROW_RATIO = 1.3, 1.5


class RowPattern(NamedTuple):
    """How the returns lie on the image, so that windows can be taller than wide for scan lines.

    Attributes:
        start: pyramid level from which on returns along a scan line share cells.
        poolings: extra halvings of the rows at that level; 0 for returns without scan lines.
    """

    start: int
    poolings: int


class Completion(NamedTuple):
    """What the plane fit knows about every pixel.

    Attributes:
        inverse_depth: (H, W) 1/m along the optical Z axis.
        nearest, farthest: (H, W) 1/m, inverse depths between which the returns around the pixel lie.
    """

    inverse_depth: Array
    nearest: Array
    farthest: Array


@dataclass(frozen=True)
class _Moments:
    """Sums over the returns of a cell, coordinates in pixels from its centre; None stands for zeros."""

    one: Array
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array
    r: Array
    rx: Array
    ry: Array

    def arrays(self) -> Tuple[Array, ...]:
        return (self.one, self.x, self.y, self.xx, self.xy, self.yy, self.r, self.rx, self.ry)

    def moved(self, offset: float, axis: int) -> _Moments:
        """The same returns seen from a centre displaced by ``-offset`` along an axis (0 rows, 1 columns)."""
        if offset == 0:
            return self
        one, x, y, xx, xy, yy, r, rx, ry = self.arrays()
        if axis == 1:
            xx = _sum(xx, _times(x, 2 * offset), one * offset**2)
            xy, x, rx = _sum(xy, _times(y, offset)), _sum(x, one * offset), _sum(rx, r * offset)
        else:
            yy = _sum(yy, _times(y, 2 * offset), one * offset**2)
            xy, y, ry = _sum(xy, _times(x, offset)), _sum(y, one * offset), _sum(ry, r * offset)
        return _Moments(one, x, y, xx, xy, yy, r, rx, ry)

    def sliced(self, index: Any) -> _Moments:
        return _Moments(*(None if a is None else a[index] for a in self.arrays()))

    def scaled(self, factor: float) -> _Moments:
        return _Moments(*(_times(a, factor) for a in self.arrays()))

    def plus(self, other: _Moments) -> _Moments:
        return _Moments(*(_sum(a, b) for a, b in zip(self.arrays(), other.arrays(), strict=True)))


class _Level(NamedTuple):
    """One level of the pyramid: moments, extreme inverse depths, and the axes that were halved to reach the next."""

    moments: _Moments
    lowest: Array
    highest: Array
    stride: Tuple[int, int]
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
        across = across[:, : across.shape[1] // 2 * 2].reshape(across.shape[0], -1, 2).any(axis=2)
        down = down[: down.shape[0] // 2 * 2].reshape(-1, 2, down.shape[1]).any(axis=1)
        ratios.append(float(down.sum()) / max(float(across.sum()), 1.0))
    if max(ratios) < _ROW_RATIO:
        return RowPattern(0, 0)
    return RowPattern(int(np.argmax(np.array(ratios) > _ROW_START_RATIO)), 1)


def complete_inverse_depth(sparse: Array, pattern: RowPattern, xp: ModuleType = np) -> Completion:
    """Fill inverse depth between sparse returns.

    Args:
        sparse: (H, W) float32 depth in metres, 0 where there is no return; at least one return.
        pattern: how the returns lie, from ``row_pattern``.
        xp: ``numpy``, or ``torch`` for tensors.

    Returns:
        Inverse depth, between the smallest and largest that was measured, with the local range of the returns.
    """
    levels = _pyramid(sparse, pattern, xp)
    coarsest = levels[-1]
    total = coarsest.moments.one.sum()
    zero = coarsest.moments.one * 0
    plane = _Plane(zero + coarsest.moments.r.sum() / total, zero, zero)
    low, high = zero + coarsest.lowest.min(), zero + coarsest.highest.max()
    least, most = coarsest.lowest.min(), coarsest.highest.max()
    for number, level in reversed(list(enumerate(levels))):
        if number < len(levels) - 1:
            shape, stride = level.moments.one.shape, level.stride
            for axis in reversed(level.halved):
                plane = _finer_plane(plane, shape[axis], stride[axis], axis, xp)
                low, high = (_finer(bound, shape[axis], axis, xp) for bound in (low, high))
        plane = _fitted(plane, level, xp)
        low, high = _local_range(level, low, high, xp)
        plane = plane._replace(
            value=xp.minimum(xp.maximum(plane.value, low / (1 + _OVERSHOOT)), high * (1 + _OVERSHOOT))
        )
    value = xp.minimum(xp.maximum(plane.value, least), most)
    return Completion(_snapped(value, xp), high, low)


def _pyramid(sparse: Array, pattern: RowPattern, xp: ModuleType) -> List[_Level]:
    present = sparse > 0
    one = xp.where(present, sparse * 0 + 1, sparse * 0)
    inverse = one / xp.where(present, sparse, sparse * 0 + 1)
    moments = _Moments(one, None, None, None, None, None, inverse, None, None)
    lowest, highest = xp.where(present, inverse, inverse * 0 + _NOTHING), inverse
    stride = (1, 1)
    levels: List[_Level] = []
    while True:
        shape = moments.one.shape
        only_rows = pattern.start <= len(levels) < pattern.start + pattern.poolings
        halved = tuple(axis for axis in ((0,) if only_rows else (0, 1)) if shape[axis] > 1)
        if max(shape) <= _COARSEST or not halved:
            levels.append(_Level(moments, lowest, highest, stride, ()))
            return levels
        levels.append(_Level(moments, lowest, highest, stride, halved))
        for axis in halved:
            moments = _halved(moments, stride[axis], axis, xp)
            lowest = xp.minimum(*_pairs(lowest, axis, _NOTHING, xp))
            highest = xp.maximum(*_pairs(highest, axis, 0.0, xp))
            stride = (stride[0] * 2, stride[1]) if axis == 0 else (stride[0], stride[1] * 2)


def _halved(moments: _Moments, stride: int, axis: int, xp: ModuleType) -> _Moments:
    pairs = [None if a is None else _pairs(a, axis, 0.0, xp) for a in moments.arrays()]
    first = _Moments(*(None if pair is None else pair[0] for pair in pairs))
    second = _Moments(*(None if pair is None else pair[1] for pair in pairs))
    return first.moved(-stride / 2, axis).plus(second.moved(stride / 2, axis))


def _fitted(prior: _Plane, level: _Level, xp: ModuleType) -> _Plane:
    """Least-squares plane of the returns in a 3x3-cell window, held to the prior plane by a ridge."""
    moments = level.moments
    for axis in (1, 0):
        moments = _windowed(moments, level.stride[axis], axis, xp)
    one, x, y, xx, xy, yy, r, rx, ry = moments.arrays()
    value, slope_x, slope_y = prior.value, prior.x * _SLOPE_DECAY, prior.y * _SLOPE_DECAY
    # Normal equations of the departure from the prior, solved by LDL^T: the matrix is positive definite.
    residual = r - (one * value + x * slope_x + y * slope_y)
    residual_x = rx - (x * value + xx * slope_x + xy * slope_y)
    residual_y = ry - (y * value + xy * slope_x + yy * slope_y)
    d0 = 1.0 / (one + _VALUE_RIDGE)
    l10, l20 = x * d0, y * d0
    d1 = 1.0 / (xx + _SLOPE_RIDGE * level.stride[1] ** 2 - l10 * x)
    e21 = xy - l20 * x
    l21 = e21 * d1
    d2 = 1.0 / (yy + _SLOPE_RIDGE * level.stride[0] ** 2 - l20 * y - l21 * e21)
    residual_x = residual_x - l10 * residual
    step_y = (residual_y - l20 * residual - l21 * residual_x) * d2
    step_x = residual_x * d1 - l21 * step_y
    step = residual * d0 - l10 * step_x - l20 * step_y
    return _Plane(value + step, slope_x + step_x, slope_y + step_y)


def _windowed(moments: _Moments, stride: int, axis: int, xp: ModuleType) -> _Moments:
    """Weighted sum of each cell's moments with its two neighbours' along an axis, all about the cell's centre."""
    total: Optional[_Moments] = None
    for offset, weight in zip((-1, 0, 1), _WINDOW, strict=True):
        neighbour = _Moments(
            *(None if a is None else _neighbour(a, offset, axis, xp, zero=True) for a in moments.arrays())
        )
        part = neighbour.scaled(weight).moved(float(offset * stride), axis)
        total = part if total is None else total.plus(part)
    assert total is not None
    return total


def _local_range(level: _Level, low: Array, high: Array, xp: ModuleType) -> Tuple[Array, Array]:
    """Range of inverse depth in the 3x3-cell window; where it is empty the coarser level's range goes on."""
    lowest, highest = level.lowest, level.highest
    for axis in (0, 1):
        lowest = _three(lowest, axis, xp.minimum, xp)
        highest = _three(highest, axis, xp.maximum, xp)
    some = highest > 0
    return xp.where(some, lowest, low), xp.where(some, highest, high)


def _finer_plane(plane: _Plane, size: int, stride: int, axis: int, xp: ModuleType) -> _Plane:
    """Planes at twice the resolution: each child blends what its parent's and the next parent's plane say there."""
    slope = plane.x if axis == 1 else plane.y
    own, reach = slope * (stride / 2), slope * (1.5 * stride)
    before = _neighbour(plane.value + reach, -1, axis, xp)
    after = _neighbour(plane.value - reach, 1, axis, xp)
    value = _interleaved(
        (plane.value - own) * 0.75 + before * 0.25, (plane.value + own) * 0.75 + after * 0.25, axis, xp
    )
    cut = _first(size, axis)
    return _Plane(value[cut], _finer(plane.x, size, axis, xp), _finer(plane.y, size, axis, xp))


def _finer(values: Array, size: int, axis: int, xp: ModuleType) -> Array:
    """Linear interpolation to twice the resolution, cut to ``size``."""
    before, after = (_neighbour(values, offset, axis, xp) * 0.25 for offset in (-1, 1))
    own = values * 0.75
    return _interleaved(own + before, own + after, axis, xp)[_first(size, axis)]


def _snapped(value: Array, xp: ModuleType) -> Array:
    """Pull pixels between two surfaces to one of them: means over neighbours of similar inverse depth."""
    for reach, tolerance in _SNAP_PASSES:
        total, weights = value, 1.0
        for axis in (0, 1):
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
    if offset == 0:
        return values
    count = min(abs(offset), values.shape[axis])
    if offset < 0:
        edge, rest = values[_span(0, 1, axis)], values[_span(0, values.shape[axis] - count, axis)]
    else:
        edge, rest = values[_span(values.shape[axis] - 1, None, axis)], values[_span(count, None, axis)]
    border = [edge * 0 if zero else edge] * count
    return xp.concatenate([*border, rest] if offset < 0 else [rest, *border], axis)


def _three(values: Array, axis: int, combine: Any, xp: ModuleType) -> Array:
    return combine(values, combine(_neighbour(values, -1, axis, xp), _neighbour(values, 1, axis, xp)))


def _pairs(values: Array, axis: int, fill: float, xp: ModuleType) -> Tuple[Array, Array]:
    """Even and odd cells along an axis, the last odd one filled up where the count is odd."""
    if values.shape[axis] % 2:
        values = xp.concatenate([values, values[_span(0, 1, axis)] * 0 + fill], axis)
    step = slice(None, None, 2), slice(1, None, 2)
    return (values[step[0]], values[step[1]]) if axis == 0 else (values[:, step[0]], values[:, step[1]])


def _interleaved(even: Array, odd: Array, axis: int, xp: ModuleType) -> Array:
    rows, cols = even.shape
    return xp.stack([even, odd], axis + 1).reshape((rows * 2, cols) if axis == 0 else (rows, cols * 2))


def _span(start: int, stop: Optional[int], axis: int) -> Any:
    return slice(start, stop) if axis == 0 else (slice(None), slice(start, stop))


def _first(count: int, axis: int) -> Any:
    return _span(0, count, axis)


def _times(values: Array, factor: float) -> Array:
    return None if values is None else values * factor


def _sum(*values: Array) -> Array:
    total: Array = None
    for value in values:
        if value is not None:
            total = value if total is None else total + value
    return total


def complete_depth(sparse: FloatArray) -> Completion:
    """``complete_inverse_depth`` on NumPy, with the pattern of the returns measured on the way."""
    return complete_inverse_depth(sparse, row_pattern(sparse > 0))
