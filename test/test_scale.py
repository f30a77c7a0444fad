"""Metric scale from LiDAR returns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mf_ros.core.scale import ScaleTracker, fit_log_scale, robust_scale
from mf_ros.core.types import SparseDepth

SECOND = 1_000_000_000


def sparse(value: float, count: int) -> SparseDepth:
    depth = np.zeros((10, 10), np.float32)
    depth.flat[:count] = value
    return SparseDepth(depth, count)


def test_scale_is_the_median_of_the_valid_depths():
    assert robust_scale(np.array([1.0, 3.0, 100.0, 0.0, np.nan, np.inf, -4.0], np.float32)) == 3.0


def test_scale_without_valid_depth_is_nan():
    assert math.isnan(robust_scale(np.array([0.0, np.nan], np.float32)))


def test_enough_returns_are_trusted_fully():
    assert ScaleTracker(min_points=20).update(sparse(7.0, 20), 0) == (7.0, 1.0)


def test_too_few_returns_hold_the_last_scale_with_decaying_trust():
    tracker = ScaleTracker(min_points=20, hold_s=2.0)
    tracker.update(sparse(7.0, 50), 0)
    trusts = []
    for second in (1, 2, 4):
        scale, trust = tracker.update(sparse(90.0, 5), second * SECOND)
        assert scale == 7.0
        trusts.append(trust)
    assert trusts == pytest.approx([math.exp(-0.5), math.exp(-1), math.exp(-2)])


def test_no_scale_is_made_up_before_the_first_measurement():
    assert ScaleTracker().update(sparse(7.0, 3), 0) == (None, 0.0)


def test_time_running_backwards_forgets_the_held_scale():
    tracker = ScaleTracker()
    tracker.update(sparse(7.0, 50), 10 * SECOND)
    assert tracker.update(sparse(7.0, 3), 5 * SECOND) == (None, 0.0)


def test_log_scale_is_recovered_under_noise_and_a_quarter_of_outliers():
    rng = np.random.default_rng(4)
    predicted = rng.uniform(0.1, 2, 2000).astype(np.float32)
    lidar = (predicted * 13.0 * np.exp(rng.normal(0, 0.02, 2000))).astype(np.float32)
    lidar[:500] *= rng.uniform(2, 5, 500).astype(np.float32)
    # One-sided outliers move a Huber mean by a part of the 2% noise; a plain mean would be off by 35%.
    assert fit_log_scale(predicted, lidar) == pytest.approx(13.0, rel=0.02)


def test_log_scale_leaves_out_pixels_that_either_side_lacks():
    predicted = np.array([1.0, 2.0, np.nan, 4.0, 5.0], np.float32)
    lidar = np.array([3.0, 6.0, 7.0, 0.0, np.inf], np.float32)
    assert fit_log_scale(predicted, lidar) == pytest.approx(3.0)


def test_log_scale_without_common_pixels_is_none():
    assert fit_log_scale(np.array([np.nan], np.float32), np.array([1.0], np.float32)) is None


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="shape"):
        fit_log_scale(np.ones(3, np.float32), np.ones(4, np.float32))
