"""Depth that a network knows up to scale and shift, made metric by a robust fit to LiDAR returns.

What networks put out is one of four kinds, where p is the output, z metric depth, a > 0 a scale and b a shift:

- ``depth``: z = a p + b (Marigold, GLPN);
- ``disparity``: 1 / z = a p + b (MiDaS, DPT, Depth Anything);
- ``log_depth``: log z = p + log a;
- ``metric``: z = a p, with a near 1 (ZoeDepth, Depth Pro).

The error that counts is the relative one, so the fit minimises a robust function of log z: iteratively reweighted least
squares with the weights of Geman and McClure (1985), begun at medians, which a fifth of wrong returns cannot move far.
It is deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from mf_ros.core.config import OutputKind
from mf_ros.core.types import AnyArray, DoubleArray, FloatArray
from mf_ros.errors import MessageError

METRIC_LIMIT = 2.0
"""Largest factor by which output that is metric already is scaled."""

_BEYOND = 4.0
_RELATIVE_LIMIT = 150.0
_PASSES = 20
_TUNING = 2.5
_TIGHTEST = 0.02
_NORMAL = 1.4826
_FEW = 5.0
_MAX_STEP = 1.0
_FLOOR = 1e-3
_INLIER = 0.25
_LARGEST_LOG = 300.0
# What is taken for granted before any return is seen: how large errors are (as if so many returns had shown it), how
# large a shift is beside the median, and how far the scale of metric output is from 1.
_PRIOR_COUNT, _PRIOR_ERROR = 5, 0.1
_PRIOR_SHIFT = 1.0
_PRIOR_METRIC = 0.2
_LINE_POINTS = 256
_ENOUGH = 20
_LEAST_RELIEF, _ENOUGH_RELIEF = 0.05, 0.2


@dataclass(frozen=True)
class ScaleFit:
    """How a network's output becomes metric depth, and how well that describes the returns.

    Attributes:
        kind: what the output is.
        scale, shift: a and b of this module's description; ``shift`` is 0 where the kind has none, and falls back
            toward 0 where the returns do not tell it, as when all are at one depth.
        spread: scale b of a Laplace distribution of the error of log depth at the returns; few returns count less than
            what is usual, 0.15.
        count: number of returns.
        correlation: rank correlation of the output with what it should be, or None where the returns are too few, or
            too much at one depth, to tell.
        nearest, farthest: of the returns that fit, metres.
    """

    kind: OutputKind
    scale: float
    shift: float
    spread: float
    count: int
    correlation: Optional[float]
    nearest: float
    farthest: float

    @property
    def limits(self) -> Tuple[float, float]:
        """Depth is kept between these, metres: four times as near, and as far, as the returns that fit."""
        return self.nearest / _BEYOND, self.farthest * _BEYOND


class _Line(NamedTuple):
    """A fitted line, the robust cost, and the weights of the returns; in units in which medians are 1."""

    scale: float
    shift: float
    cost: float
    weights: DoubleArray


def fit_scale(output: AnyArray, depth: AnyArray, kind: OutputKind) -> ScaleFit:
    """Scale and shift that bring a network's output closest to measured depth.

    Args:
        output: (N,) the network's output at the returns; pairs in which either is not finite are passed over.
        depth: (N,) measured depth, metres; what is not above zero is passed over.
        kind: what the output is.

    Raises:
        MessageError: no pair is left.
    """
    output, depth = np.asarray(output, np.float64), np.asarray(depth, np.float64)
    # As extreme as no sensor or network is, and far from what would overflow below.
    usable = np.isfinite(output) & (np.abs(output) < 1e30) & (depth > 1e-6) & (depth < 1e9)
    x, z = output[usable], depth[usable]
    if not len(z):
        raise MessageError("No LiDAR return falls where the network has an output, so its scale cannot be found.")
    middle = float(np.median(x))
    if kind == "log_depth":
        x = np.exp(np.clip(x - middle, -50.0, 50.0))
    y = 1.0 / z if kind == "disparity" else z
    unit_x, unit_y = _unit(x), float(np.median(y))
    x, y = x / unit_x, y / unit_y
    fitted = _proportional(x, y)
    if kind in ("depth", "disparity"):
        fitted = _affine(x, y, fitted)
    scale, shift = fitted.scale * unit_y / unit_x, fitted.shift * unit_y
    if kind == "metric":
        scale = _near_one(scale, fitted, x, y)
        fitted = fitted._replace(scale=scale * unit_x / unit_y)
    elif kind == "log_depth":
        scale *= math.exp(-min(max(middle, -_LARGEST_LOG), _LARGEST_LOG))
    inlier = fitted.weights > _INLIER
    kept = z[inlier] if inlier.any() else z
    return ScaleFit(
        kind=kind,
        scale=scale,
        shift=shift,
        spread=_spread(_errors(x, y, fitted.scale, fitted.shift)),
        count=len(z),
        correlation=_correlation(x, y),
        nearest=float(kept.min()),
        farthest=float(kept.max()),
    )


def relative_scale(output: AnyArray, kind: OutputKind) -> ScaleFit:
    """What to make of output without any return: depth with a median of 1, and without a shift; metric output as it is.

    Raises:
        MessageError: no value of the output can be a depth.
    """
    values = np.asarray(output, np.float64)
    values = values[np.isfinite(values)]
    if kind != "log_depth":
        values = values[values > 0]
    if not len(values):
        raise MessageError("The network's output for this image has no value that can be a depth.")
    middle = float(np.median(values))
    scale = 1.0 if kind == "metric" else math.exp(-middle) if kind == "log_depth" else 1.0 / middle
    around = middle if kind == "metric" else 1.0
    return ScaleFit(kind, scale, 0.0, 1.0, 0, None, around / _RELATIVE_LIMIT, around * _RELATIVE_LIMIT)


def to_metric(output: AnyArray, fit: ScaleFit) -> FloatArray:
    """Depth, (H, W) float32 metres, within ``fit.limits``; NaN where the output is NaN."""
    nearest, farthest = fit.limits
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        values = np.asarray(output, np.float64)
        depth = (np.exp(values) if fit.kind == "log_depth" else values) * fit.scale + fit.shift
        if fit.kind == "disparity":
            depth = 1.0 / np.maximum(depth, 1.0 / farthest)
        # An infinite output is as far, or as near, as can be.
        return np.clip(depth, nearest, farthest).astype(np.float32)


def _unit(x: DoubleArray) -> float:
    middle = float(np.median(np.abs(x)))
    return middle or float(np.max(np.abs(x))) or 1.0


def _errors(x: DoubleArray, y: DoubleArray, scale: float, shift: float) -> DoubleArray:
    """Of log y; below a floor the line is no depth at all, and its error large but finite."""
    errors: DoubleArray = np.log(y) - np.log(np.maximum(scale * x + shift, _FLOOR))
    return errors


def _weights(errors: DoubleArray) -> DoubleArray:
    """Geman-McClure weights of errors."""
    width = max(_TIGHTEST, _TUNING * math.sqrt(_variance(errors)) * _small_sample(errors))
    weights: DoubleArray = 1.0 / np.square(1.0 + np.square(errors / width))
    return weights


def _small_sample(errors: DoubleArray) -> float:
    """How much larger errors are than their median says, since a line comes close to few points whatever it is worth.

    From Rousseeuw and Leroy, Robust Regression and Outlier Detection, 1987.
    """
    return 1.0 + _FEW / max(len(errors) - 2, 1)


def _proportional(x: DoubleArray, y: DoubleArray) -> _Line:
    """y = a x; where no x is above zero, a is 1."""
    able = x > 0
    location = 0.0
    if able.any():
        ratios = np.log(y[able]) - np.log(x[able])
        location = float(np.median(ratios))
        for _ in range(_PASSES):
            weights = _weights(ratios - location)
            location += float(np.sum(weights * (ratios - location)) / np.sum(weights))
    scale = math.exp(location)
    return _finished(x, y, scale, 0.0)


def _affine(x: DoubleArray, y: DoubleArray, proportional: _Line) -> _Line:
    """y = a x + b from two beginnings, whichever ends better; ``proportional`` where neither gives a > 0.

    A shift costs something, so that it is used as far as the returns tell it. All at one depth they do not: what a
    network puts out for a wall varies more than the wall.
    """
    if _relief(y) < _LEAST_RELIEF:
        return proportional
    starts = [(proportional.scale, 0.0), *_median_line(x, y)]
    ends = [line for line in (_refined(x, y, *start) for start in starts) if line.scale > 0]
    return min(ends, key=lambda line: line.cost, default=proportional)


def _refined(x: DoubleArray, y: DoubleArray, scale: float, shift: float) -> _Line:
    """Gauss-Newton on log y with robust weights; every step is a weighted linear regression."""
    for _ in range(_PASSES):
        line = np.maximum(scale * x + shift, _FLOOR)
        errors = np.log(y / line)
        weights = _weights(errors)
        # How precise a return is, so that the weights can be compared with what is known beforehand.
        weights = weights / (np.square(line) * _variance(errors))
        target = line * (1.0 + np.clip(errors, -_MAX_STEP, _MAX_STEP))
        sums = [float(np.sum(weights * term)) for term in (1.0, x, x * x, target, x * target)]
        one, first, second, right, right_x = sums
        one += 1.0 / _PRIOR_SHIFT**2
        # Where no x says anything of the scale, it stays as it is.
        tiny = 1e-9 * (one + second)
        second, right_x = second + tiny, right_x + tiny * scale
        determinant = one * second - first * first
        if not determinant > 0:
            break
        scale, shift = (
            (one * right_x - first * right) / determinant,
            (second * right - first * right_x) / determinant,
        )
    return _finished(x, y, scale, shift)


def _finished(x: DoubleArray, y: DoubleArray, scale: float, shift: float) -> _Line:
    errors = _errors(x, y, scale, shift)
    return _Line(scale, shift, float(np.median(np.abs(errors))) + 1e-3 * abs(shift), _weights(errors))


def _variance(errors: DoubleArray) -> float:
    """Of the errors, robust; of few, as far as they say more than what is usual."""
    own = (_NORMAL * float(np.median(np.abs(errors)))) ** 2
    return (len(errors) * own + _PRIOR_COUNT * _PRIOR_ERROR**2) / (len(errors) + _PRIOR_COUNT)


def _median_line(x: DoubleArray, y: DoubleArray) -> List[Tuple[float, float]]:
    """The repeated-median line (Siegel 1982), which half of the points cannot spoil; of many points, some."""
    order = np.argsort(x, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _LINE_POINTS).round().astype(int))]
    x, y = x[chosen], y[chosen]
    across = x[None, :] - x[:, None]
    apart = np.abs(across) > 1e-6
    if not apart.any(axis=1).all():
        return []
    slopes = np.where(apart, (y[None, :] - y[:, None]) / np.where(apart, across, 1.0), np.nan)
    scale = float(np.median(np.nanmedian(slopes, axis=1)))
    return [(scale, float(np.median(y - scale * x)))] if scale > 0 else []


def _near_one(scale: float, fitted: _Line, x: DoubleArray, y: DoubleArray) -> float:
    """The scale of metric output, as far from 1 as the returns insist."""
    variance = _variance(_errors(x, y, fitted.scale, 0.0))
    trust = len(x) / (len(x) + variance / _PRIOR_METRIC**2)
    limit = math.log(METRIC_LIMIT)
    return math.exp(min(max(trust * math.log(scale), -limit), limit))


def _spread(errors: DoubleArray) -> float:
    """Laplace scale of the errors; of few, as far as they say more than what is usual."""
    own = float(np.median(np.abs(errors))) * _small_sample(errors) / math.log(2.0)
    told = max(len(errors) - 2, 0)
    return (told * own + _PRIOR_COUNT * 1.5 * _PRIOR_ERROR) / (told + _PRIOR_COUNT)


def _relief(y: DoubleArray) -> float:
    """How far apart in log depth the returns are."""
    low, high = np.percentile(np.log(y), (10, 90))
    return float(high - low)


def _correlation(x: DoubleArray, y: DoubleArray) -> Optional[float]:
    """Spearman's rank correlation."""
    if len(y) < _ENOUGH or _relief(y) < _ENOUGH_RELIEF or np.ptp(x) == 0:
        return None
    ranks = [np.argsort(np.argsort(each, kind="stable"), kind="stable") for each in (x, y)]
    centred = [each - (len(y) - 1) / 2 for each in ranks]
    return float(np.sum(centred[0] * centred[1]) / np.sum(np.square(centred[0])))
