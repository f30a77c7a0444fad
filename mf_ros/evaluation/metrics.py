"""Depth errors on held-out truth, with the definitions of the KITTI depth-completion benchmark.

Source: Uhrig et al., "Sparsity Invariant CNNs", 3DV 2017 (MAE, RMSE, iMAE, iRMSE); Eigen et al. 2014 (AbsRel, delta1).
"""

from __future__ import annotations

from typing import Dict, Iterable, List

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, DoubleArray

METRICS = ("mae", "rmse", "imae", "irmse", "absrel", "delta1", "median")
RANGES_M = ((0.0, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, 80.0))
"""From where to where errors are told apart by true depth, metres."""


def depth_metrics(predicted: AnyArray, truth: AnyArray) -> Dict[str, float]:
    """Errors of predicted depths against true ones.

    Args:
        predicted: (N,) metres; a value that is not finite and positive counts as a miss of the full depth,
            so leaving pixels out never improves a score.
        truth: (N,) metres, all positive.

    Returns:
        ``mae``, ``rmse``, ``median`` in metres, ``imae``, ``irmse`` in 1/km, ``absrel`` and ``delta1`` as ratios,
        ``coverage`` the part of the truth that got a finite depth. All NaN when there is no truth.
    """
    truth = np.asarray(truth, np.float64)
    if truth.size == 0:
        return {name: float("nan") for name in (*METRICS, "coverage")}
    predicted = np.asarray(predicted, np.float64)
    good = given(predicted)
    depth = np.where(good, predicted, np.inf)
    error = absolute_error(predicted, truth)
    inverse_error = 1000.0 * np.abs(np.where(good, 1.0 / depth, 0.0) - 1.0 / truth)
    ratio = np.maximum(depth / truth, truth / depth)
    return {
        "mae": float(error.mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "imae": float(inverse_error.mean()),
        "irmse": float(np.sqrt((inverse_error**2).mean())),
        "absrel": float((error / truth).mean()),
        "delta1": float((ratio < 1.25).mean()),
        "median": float(np.median(error)),
        "coverage": float(good.mean()),
    }


def absolute_error(predicted: AnyArray, truth: AnyArray) -> DoubleArray:
    """(N,) metres; a prediction that is not finite and positive counts as a miss of the full depth."""
    good = given(predicted)
    error: DoubleArray = np.where(good, np.abs(np.where(good, predicted, 0.0) - truth), truth).astype(np.float64)
    return error


def scale_to(predicted: AnyArray, truth: AnyArray) -> float:
    """What relative depth is to be multiplied with: the median ratio of truth to prediction; 1 without any."""
    good = given(predicted)
    return float(np.median(truth[good] / predicted[good])) if good.any() else 1.0


def given(predicted: AnyArray) -> BoolArray:
    """Which predictions are finite and positive, that is, were given at all."""
    good: BoolArray = np.isfinite(predicted) & (predicted > 0)
    return good


def mean_of(records: Iterable[Dict[str, float]]) -> Dict[str, float]:
    """Mean of each metric over images (KITTI: per image first, then the mean); images without truth are left out."""
    kept: List[Dict[str, float]] = [record for record in records if np.isfinite(record["mae"])]
    if not kept:
        return {name: float("nan") for name in (*METRICS, "coverage")}
    return {name: float(np.mean([record[name] for record in kept])) for name in kept[0]}
