"""A network's output made metric by returns: right under wrong returns, and careful where they tell little."""

from __future__ import annotations

import numpy as np
import pytest

from mf_ros.core.config import OutputKind
from mf_ros.core.scale_fit import METRIC_LIMIT, fit_scale, relative_scale, to_metric
from mf_ros.core.types import DoubleArray
from mf_ros.errors import MessageError

AFFINE: tuple[OutputKind, ...] = ("depth", "disparity")
KINDS: tuple[OutputKind, ...] = (*AFFINE, "log_depth", "metric")


def scene(count: int = 1000, seed: int = 0) -> DoubleArray:
    """Depth from 3 to 60 m, as in a street."""
    return np.exp(np.random.default_rng(seed).uniform(np.log(3), np.log(60), count))


def output_of(depth: DoubleArray, kind: OutputKind) -> DoubleArray:
    """What a perfect network of a kind would put out: depth is 37 p + 2, disparity (p / 80) - 0.05."""
    made = {
        "depth": (depth - 2) / 37,
        "disparity": 80 * (1 / depth + 0.05),
        "log_depth": np.log(depth) - 4,
        "metric": depth / 1.2,
    }
    return made[kind]


def worst(output: DoubleArray, depth: DoubleArray, fit: object) -> float:
    return float(np.max(np.abs(np.log(to_metric(output, fit) / depth))))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [(1.0, 2.0), (1.0, 100.0), (80.0, 100.0)])
def test_a_fifth_of_wrong_returns_does_not_move_the_fit(kind: OutputKind, wrong: tuple[float, float]) -> None:
    depth, rng = scene(), np.random.default_rng(1)
    output = output_of(depth, kind)
    returns = depth * np.exp(rng.laplace(0, 0.02, depth.size))
    returns = np.where(rng.random(depth.size) < 0.2, rng.uniform(*wrong, depth.size), returns)
    fit = fit_scale(output, returns, kind)
    assert worst(output, depth, fit) < 0.01  # half of the noise of a single return
    # Scale of the noise, somewhat more because of the wrong returns.
    assert 0.02 < fit.spread < 0.04
    assert fit == fit_scale(output, returns, kind)


def test_scale_and_shift_are_those_of_the_network() -> None:
    depth = scene()
    as_depth, as_disparity = (fit_scale(output_of(depth, kind), depth, kind) for kind in AFFINE)
    assert (as_depth.scale, as_depth.shift) == pytest.approx((37, 2), rel=1e-3)
    assert (as_disparity.scale, as_disparity.shift) == pytest.approx((1 / 80, -0.05), rel=1e-3)
    assert fit_scale(output_of(depth, "log_depth"), depth, "log_depth").scale == pytest.approx(np.exp(4))


@pytest.mark.parametrize("kind", AFFINE)
@pytest.mark.parametrize(("count", "allowed"), [(2, 0.03), (5, 0.02), (20, 0.005)])
def test_few_returns_are_passed_closely(kind: OutputKind, count: int, allowed: float) -> None:
    """Two returns leave a little of the shift to what is usual, twenty nothing."""
    for seed in range(5):
        depth = scene(count, seed)
        fit = fit_scale(output_of(depth, kind), depth, kind)
        assert fit.count == count and worst(output_of(depth, kind), depth, fit) < allowed


@pytest.mark.parametrize("kind", KINDS)
def test_few_returns_make_the_spread_that_is_usual_and_many_their_own(kind: OutputKind) -> None:
    spreads = [fit_scale(output_of(scene(n), kind), scene(n), kind).spread for n in (2, 5, 20, 1000)]
    assert spreads == sorted(spreads, reverse=True) and spreads[0] == pytest.approx(0.15) and spreads[-1] < 0.001


@pytest.mark.parametrize("kind", AFFINE)
def test_all_returns_at_one_depth_tell_the_scale_only(kind: OutputKind) -> None:
    rng = np.random.default_rng(0)
    output = 0.5 + rng.normal(0, 0.01, 200)
    fit = fit_scale(output, np.full(200, 8.0) + rng.normal(0, 0.02, 200), kind)
    expected = 8.0 / 0.5 if kind == "depth" else 1 / 8.0 / 0.5
    assert fit.scale == pytest.approx(expected, rel=0.02) and abs(fit.shift) < 0.02 * expected
    assert fit.correlation is None


@pytest.mark.parametrize("kind", KINDS)
def test_one_return_is_enough_for_a_scale(kind: OutputKind) -> None:
    fit = fit_scale(np.array([0.4]), np.array([0.8]), kind)
    # Metric output is believed more than one return.
    assert to_metric(np.array([0.4]), fit) == pytest.approx(0.8, rel=1e-6 if kind != "metric" else 0.5)


def test_a_surface_at_zero_is_no_reason_to_fail() -> None:
    """Affine-invariant depth of the nearest surface is 0: no scale makes that metric, a shift does."""
    depth = np.linspace(4.0, 20.0, 50)
    fit = fit_scale((depth - 4) / 16, depth, "depth")
    assert (fit.scale, fit.shift) == pytest.approx((16, 4), rel=1e-3)
    alone = fit_scale(np.array([0.0]), np.array([4.0]), "depth")
    assert np.isfinite(to_metric(np.array([0.0, 1.0]), alone)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_depth_is_positive_and_finite_whatever_the_network_puts_out(kind: OutputKind) -> None:
    depth = scene()
    fit = fit_scale(output_of(depth, kind), depth, kind)
    wild = np.array([0.0, -1.0, -1e30, 1e30, -np.inf, np.inf, 1e-30])
    nearest, farthest = fit.limits
    made = to_metric(wild, fit)
    assert (made >= np.float32(nearest)).all() and (made <= np.float32(farthest)).all()
    assert 0 < nearest < depth.min() and depth.max() < farthest < 10 * depth.max()
    assert np.isnan(to_metric(np.array([np.nan]), fit)).all()


def test_disparity_of_the_sky_and_below_is_as_far_as_can_be() -> None:
    depth = scene()
    fit = fit_scale(output_of(depth, "disparity"), depth, "disparity")
    # The network's 4.0 is infinitely far: 4.0 / 80 - 0.05 = 0.
    np.testing.assert_array_equal(to_metric(np.array([4.0, 0.0, -3.0]), fit), np.float32(fit.limits[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_returns_and_output_that_are_no_numbers_are_passed_over(kind: OutputKind) -> None:
    depth = scene(300)
    output, returns = output_of(depth, kind), depth.copy()
    clean = fit_scale(output[60:], returns[60:], kind)
    output[:20], output[20:30] = np.nan, np.inf
    returns[30:40], returns[40:50], returns[50:60] = np.nan, 0.0, -5.0
    fit = fit_scale(output, returns, kind)
    assert fit == clean and fit.count == 240


@pytest.mark.parametrize("returns", [[], [0.0, np.nan, -1.0]])
def test_without_any_return_there_is_no_fit(returns: list[float]) -> None:
    with pytest.raises(MessageError, match="No LiDAR return falls where the network has an output"):
        fit_scale(np.ones(len(returns)), np.array(returns), "depth")


@pytest.mark.parametrize("kind", KINDS)
def test_output_of_the_wrong_kind_correlates_negatively(kind: OutputKind) -> None:
    depth = scene()
    right, wrong = output_of(depth, kind), output_of(depth, "depth" if kind == "disparity" else "disparity")
    assert fit_scale(right, depth, kind).correlation == pytest.approx(1.0)
    fit = fit_scale(wrong, depth, kind)
    assert fit.correlation is not None and fit.correlation == pytest.approx(-1.0)
    assert fit.scale > 0 and fit.spread > 0.3


def test_metric_output_is_scaled_little_and_within_limits() -> None:
    depth = scene()
    assert fit_scale(depth / 1.3, depth, "metric").scale == pytest.approx(1.3, rel=1e-3)
    few = fit_scale(depth[:1] / 1.3, depth[:1], "metric").scale
    assert 1.1 < few < 1.3
    for factor in (5.0, 0.2):
        limited = fit_scale(depth / factor, depth, "metric")
        assert abs(np.log(limited.scale)) == pytest.approx(np.log(METRIC_LIMIT)) and limited.shift == 0


@pytest.mark.parametrize("kind", [*AFFINE, "log_depth"])
def test_the_unit_of_the_output_does_not_matter(kind: OutputKind) -> None:
    """Networks put out anything from 1e-6 to 1e6 for the same scene."""
    depth = scene(200)
    output = output_of(depth, kind)
    expected = to_metric(output, fit_scale(output, depth, kind))
    for factor in (1e-6, 1e6):
        other = output + np.log(factor) if kind == "log_depth" else output * factor
        np.testing.assert_allclose(to_metric(other, fit_scale(other, depth, kind)), expected, rtol=1e-4)


def test_without_returns_depth_is_relative_and_metric_output_stays() -> None:
    output = np.array([0.5, 1.0, 2.0, 4.0, 8.0, np.nan])
    np.testing.assert_allclose(to_metric(output, relative_scale(output, "depth"))[:5], [0.25, 0.5, 1, 2, 4])
    np.testing.assert_allclose(to_metric(output, relative_scale(output, "disparity"))[:5], [4, 2, 1, 0.5, 0.25])
    np.testing.assert_allclose(to_metric(output, relative_scale(output, "metric"))[:5], output[:5])
    logs = np.log(output)
    np.testing.assert_allclose(to_metric(logs, relative_scale(logs, "log_depth"))[:5], [0.25, 0.5, 1, 2, 4], rtol=1e-6)
    with pytest.raises(MessageError, match="no value that can be a depth"):
        relative_scale(np.array([-1.0, 0.0, np.nan]), "disparity")
