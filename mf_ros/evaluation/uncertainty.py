"""Whether an engine knows how wrong it is: coverage of its intervals, and the error left without its worst pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, DoubleArray, FloatArray
from mf_ros.evaluation.metrics import absolute_error, given

INTERVALS: Dict[str, float] = {"coverage50": math.log(2.0), "coverage90": math.log(10.0)}
"""Half-width of each interval in Laplace scales b: half of the errors of log depth are below b ln 2."""
DROPPED = (0.1, 0.2, 0.4)
"""Parts of the pixels that sparsification leaves out."""


@dataclass(frozen=True)
class Uncertainty:
    """How far an engine's own doubts can be believed.

    Attributes:
        coverage50, coverage90: part of the truth inside the intervals that promise 50% and 90%; NaN without them.
        left: mean absolute error, metres, without the least confident ``DROPPED`` parts of the pixels.
        relative: the same of the error relative to the depth, which is what confidence is about: dropping doubtful
            near pixels can raise an error in metres.
    """

    coverage50: float
    coverage90: float
    left: Tuple[float, ...]
    relative: Tuple[float, ...]


_NONE = (math.nan,) * len(DROPPED)
UNKNOWN = Uncertainty(math.nan, math.nan, _NONE, _NONE)
"""Of what has no truth, or states no confidence."""


def coverage(predicted: AnyArray, truth: AnyArray, log_scale: AnyArray) -> Dict[str, float]:
    """Part of the truth inside each of ``INTERVALS`` around the prediction; NaN without truth.

    Args:
        predicted, truth: (N,) metres, truth positive; a prediction that is not finite and positive is never inside.
        log_scale: (N,) log b of the prediction.
    """
    if not len(truth):
        return dict.fromkeys(INTERVALS, math.nan)
    predicted = np.asarray(predicted, np.float64)
    good = given(predicted)
    error = np.where(good, np.abs(np.log(np.where(good, predicted, 1.0) / truth)), np.inf)
    in_scales = error * np.exp(-np.asarray(log_scale, np.float64))
    return {name: float((in_scales < width).mean()) for name, width in INTERVALS.items()}


def uncertainty(
    predicted: FloatArray, truth: FloatArray, confidence: FloatArray, log_scale: Optional[FloatArray]
) -> Uncertainty:
    """Judge one image's confidence, and its intervals when there is a ``log_scale``.

    Args:
        predicted, truth: (N,) metres.
        confidence: (N,) in [0, 1]; only its order counts.
        log_scale: (N,) log b, or None.
    """
    if not len(truth):
        return UNKNOWN
    inside = dict.fromkeys(INTERVALS, math.nan) if log_scale is None else coverage(predicted, truth, log_scale)
    # Equal confidence keeps the order of the truth, which says nothing about the error.
    order = np.argsort(confidence, kind="stable")
    error = absolute_error(predicted, truth)
    left, relative = (_left(each[order]) for each in (error, error / truth))
    return Uncertainty(inside["coverage50"], inside["coverage90"], left, relative)


def _left(error: DoubleArray) -> Tuple[float, ...]:
    """Means of the (N,) errors, least confident first, without each of the ``DROPPED`` parts."""
    return tuple(float(error[min(round(part * len(error)), len(error) - 1) :].mean()) for part in DROPPED)


def mean_uncertainty(each: Iterable[Uncertainty]) -> Optional[Uncertainty]:
    """Mean over images; those without truth are left out; None when no image is left."""
    kept: List[Uncertainty] = [one for one in each if math.isfinite(one.left[0])]
    if not kept:
        return None
    rows = np.array([(one.coverage50, one.coverage90, *one.left, *one.relative) for one in kept])
    first, second, *others = (float(value) for value in rows.mean(axis=0))
    return Uncertainty(first, second, tuple(others[: len(DROPPED)]), tuple(others[len(DROPPED) :]))
