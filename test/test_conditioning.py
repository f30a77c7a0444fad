"""What the network is given: normalised log depth; and what becomes of its output: metres, confidence, blending."""

from __future__ import annotations

import numpy as np
import pytest

from mf_ros.core.conditioning import Conditioning, blend, condition, confidence, restrained, to_depth
from mf_ros.core.returns import LOG_LIMIT

SHAPE = (96, 160)
ROWS, COLS = np.mgrid[0:96, 0:160].astype(np.float32)
PLANE = 1.0 / (0.05 + 0.001 * ROWS + 0.0003 * COLS)


def sparse_plane(rows: int = 8, cols: int = 4) -> np.ndarray:
    sparse = np.zeros(SHAPE, np.float32)
    sparse[rows // 2 :: rows, cols // 2 :: cols] = PLANE[rows // 2 :: rows, cols // 2 :: cols]
    return sparse


def uniform(value: float) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def test_returns_are_exact_and_the_prior_continues_their_plane() -> None:
    sparse = sparse_plane()
    made = condition(sparse)
    present = sparse > 0
    assert made.metric and made.scale == np.median(sparse[present])
    assert np.array_equal(made.level, np.where(present, 0, 1))
    assert np.allclose(to_depth(made.depth, made.scale)[present], sparse[present], rtol=1e-5)
    assert np.all(made.depth[~present] == 0)
    inside = np.s_[12:-12, 12:-12]
    assert np.allclose(to_depth(made.prior, made.scale)[inside], PLANE[inside], rtol=0.01)
    assert {array.dtype for array in (made.prior, made.depth, made.level)} == {np.dtype(np.float32)}


def test_ten_times_the_depth_is_the_same_for_the_network() -> None:
    near, far = condition(sparse_plane()), condition(10 * sparse_plane())
    assert far.scale == pytest.approx(10 * near.scale, rel=1e-6)
    assert np.allclose(near.prior, far.prior, atol=1e-5) and np.allclose(near.depth, far.depth, atol=1e-6)


def test_without_returns_nothing_is_known_and_depth_is_relative() -> None:
    made = condition(np.zeros((33, 47), np.float32))
    assert not made.metric and made.scale == 1.0
    assert np.all(made.level == 1) and not made.prior.any() and not made.depth.any()


@pytest.mark.parametrize("value", [0.01, 7.0, 500.0])
def test_one_return_means_that_depth_everywhere(value: float) -> None:
    sparse = np.zeros(SHAPE, np.float32)
    sparse[3, 150] = value
    made = condition(sparse)
    assert made.scale == pytest.approx(value)
    assert np.allclose(made.prior, 0, atol=1e-5)


def test_equal_returns_mean_that_depth_everywhere() -> None:
    assert np.allclose(condition(np.where(sparse_plane() > 0, 4.0, 0.0).astype(np.float32)).prior, 0, atol=1e-5)


def test_wild_values_stay_within_the_limit_and_do_not_move_the_scale() -> None:
    sparse = sparse_plane()
    scale = condition(sparse).scale
    sparse[4, 2], sparse[4, 6], sparse[4, 10], sparse[4, 14], sparse[4, 18] = 1e-6, 1e9, np.nan, np.inf, -3.0
    made = condition(sparse)
    assert made.scale == pytest.approx(scale, rel=0.02)
    for array in (made.prior, made.depth):
        assert np.isfinite(array).all() and np.abs(array).max() <= LOG_LIMIT
    assert np.all(made.level[4, [10, 14, 18]] == 1)


def test_a_scale_that_is_held_replaces_the_median() -> None:
    sparse = sparse_plane()
    made = condition(sparse, scale=5.0)
    present = sparse > 0
    assert made.scale == 5.0
    assert np.allclose(to_depth(made.depth, 5.0)[present], sparse[present], rtol=1e-5)


def test_confidence_is_the_share_of_laplace_errors_below_two_per_cent() -> None:
    rng = np.random.default_rng(0)
    for b in (0.01, 0.05, 0.3):
        share = np.mean(np.abs(rng.laplace(0, b, 200_000)) < 0.02)
        assert confidence(np.log(np.float32([b])))[0] == pytest.approx(share, abs=0.005)


def blended_plane(sparse: np.ndarray, bias: float, b: float) -> tuple[Conditioning, np.ndarray]:
    """Log error that is left of a prediction with a constant bias after blending."""
    made = condition(sparse)
    truth = np.log(PLANE / made.scale)
    return made, blend(truth + np.float32(bias), uniform(np.log(b)), made) - truth


@pytest.mark.parametrize("spacing", [(1, 1), (4, 4), (8, 2), (16, 2), (12, 12)])
def test_a_biased_prediction_is_corrected_alike_at_the_returns_and_between_them(spacing: tuple[int, int]) -> None:
    """Within 20%: a larger difference would show as scan lines in the depth."""
    made, left = blended_plane(sparse_plane(*spacing), bias=0.05, b=0.05)
    inside = np.zeros(SHAPE, bool)
    inside[20:-20, 20:-20] = True
    at, between = left[inside & (made.level == 0)], left[inside & (made.level == 1)]
    assert 0 < np.mean(at) < 0.025, "at least half of the bias must be gone"
    if between.size:
        assert np.mean(np.abs(between)) == pytest.approx(np.mean(np.abs(at)), rel=0.2)
        assert between.max() - between.min() < 0.2 * 0.05


def test_a_sure_prediction_is_left_alone_and_an_unsure_one_follows_the_returns() -> None:
    _, sure = blended_plane(sparse_plane(), bias=0.002, b=0.0005)
    _, unsure = blended_plane(sparse_plane(), bias=0.002, b=0.2)
    inside = np.s_[20:-20, 20:-20]
    assert sure[inside].mean() > 0.0018
    assert unsure[inside].mean() < 0.0004


def test_an_outlier_is_rejected() -> None:
    made, left = blended_plane(sparse_plane(), bias=0.0, b=0.03)
    assert np.abs(left).max() < 1e-5
    wrong = sparse_plane()
    wrong[44, 82] *= 0.4
    truth = np.log(PLANE / made.scale)
    moved = blend(truth, uniform(np.log(0.03)), condition(wrong, scale=made.scale)) - truth
    assert np.abs(moved).max() < 1e-5


def test_where_no_return_is_near_nothing_moves() -> None:
    sparse = sparse_plane(4, 4)
    sparse[:, 60:] = 0
    _, left = blended_plane(sparse, bias=0.05, b=0.05)
    assert np.allclose(left[:, 110:], 0.05, atol=1e-4)
    assert left[20:-20, 10:50].mean() < 0.025


def test_without_returns_the_prediction_stands() -> None:
    made = condition(np.zeros(SHAPE, np.float32))
    predicted = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    assert np.array_equal(blend(predicted, uniform(-3), made), predicted)


def test_depth_comes_nearer_freely_and_recedes_by_less_than_the_limit() -> None:
    prior = np.full((2, 3), 0.5, np.float32)
    wanted = prior + np.array([[-2.0, -0.1, 0.0], [0.001, 0.1, 3.0]], np.float32)
    found = restrained(wanted, prior, 0.1, 0.0)
    assert np.allclose(found[0], wanted[0])
    assert found[1, 0] - 0.5 == pytest.approx(0.001, rel=0.01)
    assert (found[1] - 0.5 <= 0.1001).all() and (np.diff(found[1]) > 0).all()
    assert np.allclose(restrained(wanted, prior, 0.0, 0.0), wanted)


def test_small_corrections_fade_and_large_ones_stay() -> None:
    prior = np.zeros((1, 3), np.float32)
    found = restrained(np.array([[-0.0005, -0.005, -0.2]], np.float32), prior, 0.1, 0.005)
    assert found[0].tolist() == pytest.approx([-0.000005, -0.0025, -0.2], rel=0.01)
