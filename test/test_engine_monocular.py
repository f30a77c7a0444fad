"""The engine of monocular networks: fitted to the returns, corrected near them, and how far that is to be trusted."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest

from mf_ros.core.camera import make_camera
from mf_ros.core.config import OutputKind
from mf_ros.core.types import ByteArray, DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine import correction
from mf_ros.engine.monocular import MonocularEngine
from mf_ros.errors import MessageError, ModelError

HEIGHT, WIDTH = 96, 160
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
CAMERA = make_camera(WIDTH, HEIGHT, [120.0, 0, 79.5, 0, 120.0, 47.5, 0, 0, 1], [], "plumb_bob")


class Network:
    """Puts out what it was given."""

    name = "given"

    def __init__(self, output: FloatArray, kind: OutputKind = "disparity") -> None:
        self.output, self.kind = output.astype(np.float32), kind

    def predict(self, image: ByteArray) -> FloatArray:
        return self.output

    def describe(self) -> dict[str, str]:
        return {"weights": "none"}


def street() -> FloatArray:
    """A ground that rises from 4 to 40 m, and a box at 6 m before it."""
    rows, cols = np.mgrid[0:HEIGHT, 0:WIDTH]
    inverse = 1 / 40 + (1 / 4 - 1 / 40) * rows / HEIGHT
    inverse[(rows > 30) & (rows < 60) & (cols > 40) & (cols < 80)] = 1 / 6
    return (1 / inverse).astype(np.float32)


def bent(depth: FloatArray, much: float = 0.2) -> FloatArray:
    """Disparity as a network puts it out: of another unit, shifted, and wrong by up to ``much`` region by region."""
    rows, cols = np.mgrid[0:HEIGHT, 0:WIDTH]
    wrong = much * np.sin(2 * np.pi * rows / HEIGHT) * np.cos(2 * np.pi * cols / WIDTH)
    return (30 * (np.exp(wrong) / depth + 0.02)).astype(np.float32)


def lines(depth: FloatArray, every: int = 8) -> FloatArray:
    """Returns on every so many rows."""
    returns = np.zeros_like(depth)
    returns[every // 2 :: every, ::2] = depth[every // 2 :: every, ::2]
    return returns


def run(output: FloatArray, returns: FloatArray, kind: OutputKind = "disparity", local: bool = True) -> DepthEstimate:
    engine = MonocularEngine(Network(output, kind), local_correction=local)
    image = np.zeros((*returns.shape, 3), np.uint8)
    return engine.estimate(image, SparseDepth(returns, int(np.count_nonzero(returns))), CAMERA)


def errors(estimate: DepthEstimate, truth: FloatArray) -> FloatArray:
    return np.abs(np.log(estimate.depth / truth))


def test_one_fit_makes_a_networks_disparity_metric() -> None:
    estimate = run(bent(street(), 0.0), lines(street()), local=False)
    assert estimate.metric and estimate.engine == "given"
    assert estimate.depth.shape == estimate.confidence.shape == (HEIGHT, WIDTH)
    assert estimate.depth.dtype == estimate.confidence.dtype == np.float32
    assert errors(estimate, street()).max() < 0.001


def test_the_local_correction_takes_away_what_one_fit_cannot() -> None:
    truth, returns = street(), lines(street())
    fitted, corrected = (run(bent(truth), returns, local=local) for local in (False, True))
    between = returns == 0
    assert np.median(errors(fitted, truth)[between]) > 0.05
    assert np.median(errors(corrected, truth)[between]) < 0.01


def test_depth_passes_near_returns_and_shows_no_lines() -> None:
    """On the lines and half-way between them depth is as right, and what was corrected has no steps."""
    truth, returns = street(), lines(street(), every=12)
    fitted, corrected = (run(bent(truth), returns, local=local) for local in (False, True))
    on, between = errors(corrected, truth)[6::12], errors(corrected, truth)[12::12]
    assert np.median(on) < 0.01 and np.median(between) < 3 * np.median(on) + 0.005
    correction = np.log(corrected.depth / fitted.depth)
    # The error itself changes by 0.2 sin, at most 0.013 a row.
    assert max(np.abs(np.diff(correction, axis=axis)).max() for axis in (0, 1)) < 0.03


def test_a_wrong_return_pulls_nothing() -> None:
    truth, returns = street(), lines(street())
    right = run(bent(truth), returns)
    rng = np.random.default_rng(0)
    rows, cols = np.nonzero(returns)
    chosen = rng.permutation(len(rows))[: len(rows) // 10]
    returns[rows[chosen], cols[chosen]] = rng.uniform(2, 40, len(chosen))
    wrong = run(bent(truth), returns)
    assert np.mean(errors(wrong, truth)) < np.mean(errors(right, truth)) + 0.005


def test_returns_that_only_bring_noise_correct_nothing() -> None:
    """The network is right, and each return is off by 3%: following them would make depth worse."""
    truth = street()
    returns = lines(truth, every=16)
    noisy = (returns * np.exp(np.random.default_rng(0).laplace(0, 0.03, returns.shape))).astype(np.float32)
    np.testing.assert_array_equal(run(bent(truth, 0.0), noisy).depth, run(bent(truth, 0.0), noisy, local=False).depth)


def test_far_from_any_return_the_fit_stays() -> None:
    truth = street()
    returns = lines(truth)
    returns[:, 40:] = 0
    fitted, corrected = (run(bent(truth), returns, local=local).depth for local in (False, True))
    moved = np.abs(np.log(corrected / fitted)).max(axis=0)
    assert moved[:40].max() > 0.05
    # A half with every tenth of the width.
    assert moved[-1] < 0.01 and moved[60] < moved[:40].max()


def test_confidence_falls_away_from_the_returns() -> None:
    truth = street()
    returns = lines(truth)
    returns[:, 60:] = 0
    estimate = run(bent(truth), returns)
    by_column = np.median(estimate.confidence, axis=0)
    assert by_column[30] > 2 * by_column[100] > 0 and (np.diff(by_column[64:120]) <= 1e-6).all()


@pytest.mark.parametrize("local", [False, True])
def test_intervals_hold_no_less_than_they_promise(local: bool) -> None:
    """Between the lines, where half and nine tenths are promised; more, since whole cells of returns were held out."""
    truth, returns = street(), lines(street())
    estimate = run(bent(truth), returns, local=local)
    assert estimate.log_scale is not None
    ratio = (errors(estimate, truth) / np.exp(estimate.log_scale))[returns == 0]
    assert np.mean(ratio < np.log(2)) > 0.45 and np.mean(ratio < np.log(10)) > 0.85


def test_depth_beyond_the_returns_is_hardly_believed() -> None:
    """The sky, disparity 0 of the network's own, is as far as four times the farthest return, and no more."""
    truth, output = street(), bent(street(), 0.0)
    output[:20] = 30 * 0.02
    returns = lines(truth)
    returns[:20] = 0
    estimate = run(output, returns)
    assert np.isfinite(estimate.depth).all() and estimate.depth.max() < 4.5 * returns.max()
    # Below output.min_confidence: it is published as NaN.
    assert estimate.confidence[:16].max() < 0.05 < np.median(estimate.confidence[24:])


@pytest.mark.parametrize("count", [1, 2, 5, 19])
def test_few_returns_give_depth_that_is_believed_less(count: int) -> None:
    truth = street()
    returns = np.zeros_like(truth)
    at = np.random.default_rng(count).permutation(truth.size)[:count]
    returns.flat[at] = truth.flat[at]
    few, many = run(bent(truth), returns), run(bent(truth), lines(truth))
    assert few.metric and np.isfinite(few.depth).all() and (few.depth > 0).all()
    assert np.median(few.confidence) < np.median(many.confidence) * count / 19


@pytest.mark.parametrize("kind", ["depth", "disparity", "metric"])
def test_without_returns_depth_is_relative(kind: OutputKind) -> None:
    output = 1 / street() if kind == "disparity" else street() / 3
    estimate = run(output, np.zeros((HEIGHT, WIDTH), np.float32), kind)
    assert not estimate.metric
    ratio = estimate.depth / street()
    assert np.ptp(np.log(ratio)) < 1e-3


def test_pixels_without_output_have_no_depth() -> None:
    output = bent(street(), 0.0)
    output[:10, :10] = np.nan
    estimate = run(output, lines(street()))
    assert np.isnan(estimate.depth[:10, :10]).all() and (estimate.confidence[:10, :10] == 0).all()
    assert np.isfinite(estimate.depth[10:]).all() and np.isfinite(estimate.confidence).all()


def test_a_network_that_computes_no_number_is_named() -> None:
    with pytest.raises(ModelError, match=r"given computed no finite value.*engine\.device cpu"):
        run(np.full((HEIGHT, WIDTH), np.nan), lines(street()))


def test_image_and_returns_must_fit() -> None:
    with pytest.raises(MessageError, match="must fit"):
        MonocularEngine(Network(street())).estimate(IMAGE[1:], SparseDepth(lines(street()), 1), CAMERA)


def test_output_of_the_wrong_kind_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = MonocularEngine(Network(street(), "disparity"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            engine.estimate(IMAGE, SparseDepth(lines(street()), 1), CAMERA)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "it may be depth" in warning and "set engine.output" in warning


def test_metric_output_that_is_far_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(street() / 1.5, lines(street()), "metric")
        assert caplog.records == []
        run(street() / 5, lines(street()), "metric")
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "more than 2 times off" in warning and "engine.output to depth" in warning


def test_the_same_input_gives_the_same_depth() -> None:
    first, second = (run(bent(street()), lines(street())) for _ in range(2))
    np.testing.assert_array_equal(first.depth, second.depth)
    np.testing.assert_array_equal(first.confidence, second.confidence)


def test_large_images_are_corrected_on_a_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly the same comes out, of the image's size."""
    truth, returns = street(), lines(street())
    fine = run(bent(truth), returns)
    monkeypatch.setattr(correction, "_GRID_PIXELS", HEIGHT * WIDTH // 4)
    coarse = run(bent(truth), returns)
    assert coarse.depth.shape == (HEIGHT, WIDTH)
    assert np.median(np.abs(np.log(coarse.depth / fine.depth))) < 0.01
    odd = cv2.resize(truth, (WIDTH - 3, HEIGHT - 1), interpolation=cv2.INTER_NEAREST)
    assert run(30 / odd, lines(odd)).depth.shape == odd.shape


def test_reports_say_how_depth_was_made() -> None:
    network = Network(street(), "depth")
    assert MonocularEngine(network).describe() == {
        "method": "monocular depth fitted to the returns, corrected near returns",
        "weights": "none",
    }
    assert "one fit for the image" in MonocularEngine(network, local_correction=False).describe()["method"]
