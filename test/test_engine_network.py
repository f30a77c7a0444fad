"""The engine that runs a network: the same depth from every library, for every image size and number of returns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from model_folders import frame, sparse_of, tiny_model
from pipeline_runs import run
from wall_scene import MedianEngine, camera_info, cloud, extrinsics, tf
from wall_scene import image as camera_image

from mf_ros.core.conditioning import condition, confidence, to_depth
from mf_ros.core.config import Config, EngineConfig, ProjectionConfig
from mf_ros.core.types import CameraPoints, DepthEstimate
from mf_ros.engine import make_engine
from mf_ros.engine.backend import StepInput, StepOutput
from mf_ros.engine.bundle import Calibration, load_bundle
from mf_ros.engine.network import NetworkEngine, complete, denoise, joined, smoothed, step_levels
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.engine.quality import BEST
from mf_ros.errors import MessageError, ModelError
from mf_ros.evaluation.heldout import score_held_out


def engine(name: str = "onnx", **settings: object) -> NetworkEngine:
    made = make_engine(EngineConfig(name=name, model=str(tiny_model()), threads=1, device="cpu", **settings))
    assert isinstance(made, NetworkEngine)
    return made


@pytest.fixture(scope="module")
def onnx() -> NetworkEngine:
    return engine()


@pytest.fixture(autouse=True)
def forget(onnx: NetworkEngine) -> None:
    onnx.reset()


def kept(depth: np.ndarray, count: int) -> np.ndarray:
    """Sparse depth with ``count`` of its returns, spread evenly."""
    rows, cols = np.nonzero(depth)
    index = np.linspace(0, len(rows) - 1, count).astype(int)
    thinned = np.zeros_like(depth)
    thinned[rows[index], cols[index]] = depth[rows[index], cols[index]]
    return thinned


def assert_usable(estimate: DepthEstimate, shape: tuple[int, int]) -> None:
    assert estimate.log_scale is not None
    for array in (estimate.depth, estimate.confidence, estimate.log_scale):
        assert array.shape == shape and array.dtype == np.float32 and np.isfinite(array).all()
    assert (estimate.depth > 0).all()
    assert estimate.confidence.min() >= 0 and estimate.confidence.max() <= 1


@pytest.mark.parametrize("shape", [(64, 96), (33, 47), (65, 100), (16, 16), (7, 120), (1, 1)])
def test_any_image_size_gives_depth_of_that_size(onnx: NetworkEngine, shape: tuple[int, int]) -> None:
    assert_usable(onnx.estimate(*frame(*shape)), shape)


def test_onnx_and_torch_agree_within_a_thousandth(onnx: NetworkEngine) -> None:
    inputs = frame(65, 100)
    one, other = onnx.estimate(*inputs), engine("torch").estimate(*inputs)
    assert np.abs(one.depth / other.depth - 1).max() < 1e-3
    assert np.allclose(one.log_scale, other.log_scale, atol=1e-2)
    assert one.engine == other.engine == "mf-tiny"


def test_the_image_matters(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame()
    other = onnx.estimate(255 - image, sparse, camera)
    assert np.abs(onnx.estimate(image, sparse, camera).depth / other.depth - 1).max() > 1e-3


def test_ten_times_the_input_depth_gives_ten_times_the_depth() -> None:
    """Of the network alone: the blending that follows weighs returns by a noise that is stated in metres."""
    image, sparse, _ = frame()
    bundle = load_bundle(str(tiny_model()))
    backend = engine("torch")._backend
    near, far = (complete(bundle, backend, image, condition(factor * sparse.depth)) for factor in (1, 10))
    depth = to_depth(near.log_ratio, near.conditioning.scale)
    assert np.abs(to_depth(far.log_ratio, far.conditioning.scale) / (10 * depth) - 1).max() < 1e-4


def test_the_same_input_gives_the_same_output(onnx: NetworkEngine) -> None:
    for each in (onnx, engine(steps=3)):
        first, second = (each.estimate(*frame()) for _ in range(2))
        assert np.array_equal(first.depth, second.depth) and np.array_equal(first.confidence, second.confidence)


def test_confidence_is_that_of_the_predicted_scale(onnx: NetworkEngine) -> None:
    estimate = onnx.estimate(*frame())
    assert np.array_equal(estimate.confidence, confidence(estimate.log_scale))


def test_the_best_quality_joins_a_fine_and_a_coarser_grid() -> None:
    bundle, backend = load_bundle(str(tiny_model())), engine("torch")._backend
    fine = BEST._replace(coarser=0)
    coarse = fine._replace(cells=32 * 48, thorough=False)
    one, other, both = (
        NetworkEngine(bundle, backend, quality=each).estimate(*frame())
        for each in (fine, coarse, BEST._replace(coarser=32 * 48))
    )
    assert np.abs(one.depth / other.depth - 1).max() > 0.01
    assert np.allclose(np.log(both.depth), joined(np.log(one.depth), np.log(other.depth)), atol=1e-4)
    assert np.allclose(both.log_scale, (one.log_scale + other.log_scale) / 2, atol=1e-4)
    assert np.array_equal(both.confidence, confidence(both.log_scale))


def test_grids_that_see_one_surface_give_their_mean_and_of_two_surfaces_the_nearer_one_without_a_jump() -> None:
    apart = np.linspace(-0.3, 0.3, 601, dtype=np.float32)[None]
    found = joined(np.zeros_like(apart), apart)
    same, different = np.abs(apart) <= 0.05, np.abs(apart) >= 0.1
    assert np.allclose(found[same], apart[same] / 2, atol=1e-6)
    assert np.allclose(found[different], np.minimum(0, apart)[different], atol=1e-6)
    assert np.abs(np.diff(found)).max() < 0.0026
    assert np.array_equal(found, joined(apart, np.zeros_like(apart)))
    assert found.dtype == np.float32


@pytest.mark.parametrize(("cells", "offset"), [(64 * 96, 0.5), (32 * 48, 0.2)])
def test_the_uncertainty_is_corrected_as_its_grid_asks(cells: int, offset: float) -> None:
    bundle, backend = load_bundle(str(tiny_model())), engine("torch")._backend
    corrected = replace(bundle, calibration=Calibration(0.5, -0.3))
    plain, found = (
        NetworkEngine(each, backend, quality=BEST._replace(cells=cells)).estimate(*frame())
        for each in (bundle, corrected)
    )
    assert np.allclose(found.log_scale - plain.log_scale, offset, atol=1e-4)


def test_smoothing_takes_the_grid_of_patches_out_of_the_uncertainty_and_leaves_it_where_depth_jumps() -> None:
    prior = np.zeros((96, 128), np.float32)
    prior[:, 64:] = 1.0
    rows, cols = np.mgrid[0:96, 0:128]
    patches = 0.2 * ((rows // 8 + cols // 8) % 2) - 0.1
    truth = np.where(prior > 0, -1.0, -4.0)
    smooth = smoothed((truth + patches).astype(np.float32), prior)
    off = np.abs(smooth - truth)[16:-16, 16:-16]
    assert np.abs(patches).min() > 0.09 and np.median(off) < 0.005
    # Beside the jump of 3 the coarser grid shows; a plain filter over a patch would be 1.5 off there.
    assert off.max() < 0.4


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (15, 33)])
def test_smoothing_of_one_value_leaves_it_whatever_the_prior(shape: tuple[int, int]) -> None:
    prior = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    assert np.array_equal(smoothed(np.full(shape, -2.5, np.float32), prior), np.full(shape, -2.5, np.float32))


@pytest.mark.parametrize("count", [1, 5, 19, 20])
def test_few_returns_give_metric_depth_of_low_confidence(onnx: NetworkEngine, count: int) -> None:
    image, sparse, camera = frame()
    estimate = onnx.estimate(image, sparse_of(kept(sparse.depth, count)), camera)
    assert_usable(estimate, (64, 96))
    assert estimate.metric
    assert np.allclose(estimate.confidence, confidence(estimate.log_scale) * count / 20, atol=1e-6)


def test_without_returns_depth_is_relative(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame()
    estimate = onnx.estimate(image, sparse_of(np.zeros_like(sparse.depth)), camera)
    assert_usable(estimate, (64, 96))
    assert not estimate.metric


def test_the_scale_is_held_with_falling_confidence_then_forgotten(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame()
    nothing = sparse_of(np.zeros_like(sparse.depth))
    relative = onnx.estimate(image, nothing, camera).depth
    onnx.estimate(image, sparse, camera)
    held = [onnx.estimate(image, nothing, camera) for _ in range(31)]
    assert [each.metric for each in held] == [True] * 30 + [False]
    assert np.allclose(held[0].depth, relative * np.median(sparse.depth[sparse.depth > 0]), rtol=1e-5)
    assert np.all(held[1].confidence < held[0].confidence)
    assert np.array_equal(held[30].depth, relative)


def test_a_reset_forgets_the_scale(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame()
    onnx.estimate(image, sparse, camera)
    onnx.reset()
    assert not onnx.estimate(image, sparse_of(np.zeros_like(sparse.depth)), camera).metric


def test_one_return_in_ten_may_be_wrong(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame()
    rng = np.random.default_rng(0)
    wrong = (rng.random(sparse.depth.shape) < 0.1) & (sparse.depth > 0)
    depth = np.where(wrong, rng.uniform(0.3, 200, wrong.shape), sparse.depth)
    assert_usable(onnx.estimate(image, sparse_of(depth), camera), (64, 96))


def test_a_large_image_is_completed_on_a_coarser_grid(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame(101, 131)
    bundle = load_bundle(str(tiny_model()))
    bundle = replace(bundle, processing=replace(bundle.processing, max_pixels=4096))
    estimate = NetworkEngine(bundle, onnx._backend).estimate(image, sparse, camera)
    assert_usable(estimate, (101, 131))
    full = onnx.estimate(image, sparse, camera)
    assert np.median(np.abs(np.log(estimate.depth / full.depth))) < 0.2


def test_several_steps_use_the_levels_of_the_training_sampler() -> None:
    from mf_ros.model.levels import LEVEL_SHIFT
    from mf_ros.model.levels import step_levels as of_training

    assert load_bundle(str(tiny_model())).processing.level_shift == LEVEL_SHIFT
    for steps in (1, 2, 5):
        assert np.allclose(step_levels(steps, LEVEL_SHIFT), of_training(steps), rtol=1e-12)


def test_several_steps_differ_from_one_and_stay_usable(onnx: NetworkEngine) -> None:
    one, several = onnx.estimate(*frame()), engine(steps=4).estimate(*frame())
    assert_usable(several, (64, 96))
    assert np.abs(one.depth / several.depth - 1).max() > 1e-4


class Oracle:
    """A backend that knows the clean depth and writes down what it was shown."""

    tolerance = 1e-3

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth
        self.seen: list[StepInput] = []

    def step(self, inputs: StepInput) -> StepOutput:
        self.seen.append(inputs)
        return StepOutput(self.truth, np.zeros_like(self.truth))

    def describe(self) -> dict[str, str]:
        return {"library": "none"}


def test_each_step_shows_the_returns_untouched_and_the_rest_less_noisy() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 0.3, (1, 1, 16, 16)).astype(np.float32)
    level = np.where(rng.random(truth.shape) < 0.3, 0, 1).astype(np.float32)
    zero = np.zeros(1, np.float32)
    image = np.zeros((1, 3, 16, 16), np.float32)
    oracle = Oracle(truth)
    result = denoise(oracle, StepInput(image, zero, truth * (1 - level), level, zero + 1, truth), 4, 1.1)
    assert np.array_equal(result.depth, truth) and len(oracle.seen) == 4
    errors = []
    for inputs, now in zip(oracle.seen, step_levels(4, 1.1), strict=False):
        returns = level == 0
        assert np.array_equal(inputs.depth[returns], truth[returns]) and not inputs.level[returns].any()
        assert np.allclose(inputs.level[~returns], now) and inputs.depth_level[0] == np.float32(now)
        errors.append(np.abs(inputs.depth - truth)[~returns].mean())
    assert np.all(np.diff(errors[1:]) < 0)


def test_every_step_goes_as_far_as_that_of_the_training_sampler() -> None:
    """Of 150 steps the last are below the level that a velocity is divided by at least."""
    import torch

    from mf_ros.model.levels import LEVEL_SHIFT, SMALLEST_LEVEL, stepped

    plane, zero = np.ones((1, 1, 16, 16), np.float32), np.zeros(1, np.float32)
    oracle = Oracle(0.3 * plane)
    start = StepInput(np.zeros((1, 3, 16, 16), np.float32), zero, 0 * plane, plane, zero + 1, plane)
    denoise(oracle, start, 150, LEVEL_SHIFT)
    levels = step_levels(150, LEVEL_SHIFT)
    assert levels[-3] < SMALLEST_LEVEL
    # At level 1 pixels are shown as they were given, so noise is seen from the second step on.
    noisy = torch.from_numpy(oracle.seen[1].depth)
    for inputs, now, following in zip(oracle.seen[2:], levels[1:], levels[2:], strict=False):
        noisy = stepped(noisy, torch.from_numpy(oracle.truth), now, following)
        assert np.allclose(inputs.depth, noisy, atol=1e-5)


def test_one_step_draws_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "default_rng", lambda seed: pytest.fail("noise was drawn"))
    plane, zero = np.ones((1, 1, 16, 16), np.float32), np.zeros(1, np.float32)
    start = StepInput(np.zeros((1, 3, 16, 16), np.float32), zero, 0 * plane, plane, zero + 1, plane)
    assert np.array_equal(denoise(Oracle(plane), start, 1, 1.1).depth, plane)


def test_scoring_held_out_returns_does_not_disturb_the_scale_that_is_held(onnx: NetworkEngine) -> None:
    image, sparse, camera = frame()
    rows, cols = np.nonzero(sparse.depth)
    z = sparse.depth[rows, cols]
    points = CameraPoints(
        np.column_stack([(cols - 48) / 80 * z, (rows - 32) / 80 * z, z]).astype(np.float32),
        (rows // 4).astype(np.int32),
        np.zeros(len(z), np.uint8),
    )
    few = sparse_of(kept(sparse.depth, 5))
    onnx.estimate(image, sparse, camera)
    undisturbed = onnx.estimate(image, few, camera).depth
    onnx.reset()
    onnx.estimate(image, sparse, camera)
    assert score_held_out(image, points.select(z > np.median(z)), camera, onnx, ProjectionConfig()) is not None
    assert np.array_equal(onnx.estimate(image, few, camera).depth, undisturbed)


def test_values_that_are_not_finite_are_an_error_and_not_depth() -> None:
    image, sparse, camera = frame(16, 16)
    broken = NetworkEngine(load_bundle(str(tiny_model())), Oracle(np.full((1, 1, 16, 16), np.nan, np.float32)))
    with pytest.raises(ModelError, match=r"not finite.*engine\.device cpu"):
        broken.estimate(image, sparse, camera)


def test_image_and_returns_of_different_sizes_are_refused(onnx: NetworkEngine) -> None:
    image, _, camera = frame(64, 96)
    with pytest.raises(MessageError, match="must fit"):
        onnx.estimate(image, frame(32, 48)[1], camera)


def test_reports_say_what_runs(onnx: NetworkEngine) -> None:
    details = onnx.describe()
    assert details["device"] == "CPUExecutionProvider" and details["library"].startswith("onnxruntime")
    assert details["weights"] == str(tiny_model()) and details["licence"] == "Apache-2.0"
    assert "passed" in details["self_test"]
    assert engine("torch", self_test=False).describe()["self_test"] == "not run"


class CountsResets(MedianEngine):
    resets = 0

    def reset(self) -> None:
        self.resets += 1

    def fresh(self) -> CountsResets:
        return CountsResets()


def test_the_pipeline_makes_the_engine_forget_when_time_jumps_back() -> None:
    counting = CountsResets()
    pipeline = DepthPipeline(Config(), counting, 1)
    pipeline.on_camera_info(camera_info())
    pipeline.on_transforms(tf(extrinsics()), static=True)
    for numbers, resets in (((50, 51), 0), ((0, 1), 1), ((2,), 1)):
        for number in numbers:
            pipeline.on_sweep(0, cloud(number))
            pipeline.on_image(camera_image(number))
        run(pipeline)
        assert counting.resets == resets
