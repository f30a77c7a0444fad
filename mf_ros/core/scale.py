"""Metric scale of a frame from its LiDAR returns, and how far it can be trusted."""

from __future__ import annotations

import math
from typing import Optional, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, FloatArray, SparseDepth


def robust_scale(depths: AnyArray) -> float:
    """Median of the depths that are finite and above zero, metres; NaN when there is none."""
    values = np.asarray(depths)
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.median(values)) if values.size else math.nan


class ScaleTracker:
    """The scale of each frame, held over frames that have too few returns.

    Args:
        min_points: fewest returns whose median is taken as the scale.
        hold_s: time constant, seconds, with which the trust in a held scale decays (to 1/e after ``hold_s``).
    """

    def __init__(self, min_points: int = 20, hold_s: float = 1.0) -> None:
        if min_points < 1 or not hold_s > 0.0:
            raise ValueError(f"min_points must be at least 1 and hold_s above 0 (got {min_points}, {hold_s}).")
        self._min_points = min_points
        self._hold_ns = hold_s * 1e9
        self._scale: Optional[float] = None
        self._stamp_ns = 0

    def update(self, sparse: SparseDepth, stamp_ns: int) -> Tuple[Optional[float], float]:
        """Scale and trust for the frame of this stamp.

        Returns:
            The scale in metres, or None when none was ever measured, and a trust in [0, 1]: 1 when measured in this
            frame, decaying with the time since the last measurement otherwise, 0 without a scale. A stamp before the
            last measurement (a bag that loops) forgets the held scale.
        """
        if self._scale is not None and stamp_ns < self._stamp_ns:
            self.reset()
        returns = sparse.depth[np.isfinite(sparse.depth) & (sparse.depth > 0)]
        if returns.size >= self._min_points:
            self._scale, self._stamp_ns = robust_scale(returns), stamp_ns
            return self._scale, 1.0
        if self._scale is None:
            return None, 0.0
        return self._scale, math.exp(-(stamp_ns - self._stamp_ns) / self._hold_ns)

    def reset(self) -> None:
        """Forget the held scale."""
        self._scale = None


def fit_log_scale(predicted: FloatArray, lidar: FloatArray, iterations: int = 10) -> Optional[float]:
    """Factor that brings predicted depth to LiDAR depth, fitted in log depth and robust to outliers.

    A median gives the start; Huber-weighted means (threshold 1.345 robust standard deviations, Huber 1964) refine it.

    Args:
        predicted: depth of any shape in any unit.
        lidar: metric depth of the same shape, metres; entries where either is not finite and above zero are left out.
        iterations: number of reweightings.

    Returns:
        The factor, or None when there is no entry to fit.

    Raises:
        ValueError: shapes differ.
    """
    if predicted.shape != lidar.shape:
        raise ValueError(f"Predicted depth is of shape {predicted.shape}, LiDAR depth of {lidar.shape}.")
    usable = np.isfinite(predicted) & (predicted > 0) & np.isfinite(lidar) & (lidar > 0)
    if not usable.any():
        return None
    ratio = np.log(lidar[usable].astype(np.float64)) - np.log(predicted[usable].astype(np.float64))
    centre = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio - centre)))
    if spread == 0.0:
        return math.exp(centre)
    for _ in range(iterations):
        distance = np.abs(ratio - centre) / (1.345 * spread)
        weight = 1.0 / np.maximum(distance, 1.0)
        centre = float(np.sum(weight * ratio) / np.sum(weight))
    return math.exp(centre)
