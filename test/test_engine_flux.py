"""The engine of the released Modality Forcing network: relative depth made metric by returns that it is shown."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import flux_toys as toys  # noqa: E402

import mf_ros.model.flux2.memory as memory  # noqa: E402
from mf_ros.core.camera import CameraModel  # noqa: E402
from mf_ros.core.conditioning import confidence  # noqa: E402
from mf_ros.core.config import EngineConfig  # noqa: E402
from mf_ros.core.types import ByteArray, DepthEstimate, FloatArray, SparseDepth  # noqa: E402
from mf_ros.engine import make_engine  # noqa: E402
from mf_ros.engine.torch_flux import FluxEngine  # noqa: E402
from mf_ros.errors import MessageError, ModelError  # noqa: E402
from mf_ros.model.flux2.pixels import Flux2Sample  # noqa: E402
from mf_ros.model.sampler import Known  # noqa: E402

SIDE = 64


def painted(depth: FloatArray) -> ByteArray:
    """A picture whose red and green tell the depth: red 5 + 50 log2 z, green 64 times what that leaves over."""
    red = 5 + 50 * np.log2(depth)
    return np.dstack([np.floor(red), 64 * (red - np.floor(red)), np.full_like(red, 99)]).astype(np.uint8)


class Oracle:
    """A sampler that reads depth from such a picture, up to a scale of its own, and writes down what it was shown.

    Args:
        miss: added to its log depth, per canvas (rows, cols).
    """

    def __init__(self, miss: Any = 0.0) -> None:
        self.miss, self.shown = miss, []

    def __call__(self, known: Known, steps: int, generator: torch.Generator) -> Flux2Sample:
        assert known.image is not None
        self.shown.append(known)
        pixels = (known.image + 1) * 127.5
        log_depth = (pixels[:, :1] + pixels[:, 1:2] / 64 - 5) / 50 * math.log(2)
        inside = known.image[:, 2:] > -1
        mean = torch.stack([each[at].exp().mean().log() for each, at in zip(log_depth, inside, strict=True)])
        relative = log_depth - mean[:, None, None, None] + torch.as_tensor(self.miss, dtype=torch.float32)
        return Flux2Sample(torch.where(inside, relative, 0.0), known.image)


def engine(sampler: Any, side: int = SIDE, **options: Any) -> FluxEngine:
    return FluxEngine(sampler, side, 1, {"library": "none"}, **options)


def estimate(depth: FloatArray, sparse: SparseDepth, sampler: Any = None, **options: Any) -> DepthEstimate:
    made = engine(sampler or Oracle(), **options)
    return made.estimate(painted(depth), sparse, toys.camera_of(depth.shape))


def errors(made: DepthEstimate, truth: FloatArray) -> FloatArray:
    return np.abs(made.depth / truth - 1)


@pytest.mark.parametrize("shape", [(64, 64), (90, 160), (160, 90), (64, 256), (256, 64), (40, 44)])
def test_a_network_that_is_right_up_to_scale_gives_metric_depth_of_any_shape(shape: tuple[int, int]) -> None:
    truth = toys.slope(*shape)
    made = estimate(truth, toys.lines_of(truth))
    assert made.metric and made.depth.shape == shape and made.depth.dtype == np.float32
    assert np.percentile(errors(made, truth), 99) < 0.02
    assert made.log_scale is not None and np.array_equal(made.confidence, confidence(made.log_scale))
    assert np.median(made.confidence) > 0.6


def test_the_geometry_of_a_wide_image_is_kept() -> None:
    """A step of depth stays on its columns, all along an image that five canvases share."""
    truth = np.full((60, 300), 10.0, np.float32)
    edges = np.arange(30, 300, 60)
    for left, right in zip(edges, np.append(edges[1:], 300), strict=True):
        truth[:, left : (left + right) // 2] = 5.0
    sampler = Oracle()
    made = estimate(truth, toys.lines_of(truth, 4, 5), sampler, side=60, correct=False)
    assert sampler.shown[0].image.shape[0] > 4
    assert (errors(made, truth) < 0.02).mean() > 0.99


def test_the_second_run_sees_the_returns_in_the_unit_of_the_first() -> None:
    truth = toys.slope(60, 60)
    sampler, sparse = Oracle(), toys.lines_of(truth)
    estimate(truth, sparse, sampler, side=60)
    alone, given = sampler.shown
    assert bool((alone.level == 1).all()) and torch.equal(alone.image, given.image)
    at = given.level[0, 0].numpy() == 0
    assert np.array_equal(at, sparse.depth > 0)
    # The oracle's unit is the mean of the depth.
    expected = np.log(sparse.depth[at] / truth.mean())
    np.testing.assert_allclose(given.depth[0, 0].numpy()[at], expected, atol=5e-3)


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_what_is_larger_comes_out_larger(factor: float) -> None:
    truth = toys.slope(64, 64)
    sparse = toys.lines_of(truth)
    image, camera = painted(truth), toys.camera_of(truth.shape)
    one = engine(Oracle()).estimate(image, sparse, camera)
    larger = SparseDepth(sparse.depth * np.float32(factor), sparse.count)
    other = engine(Oracle()).estimate(image, larger, camera)
    assert np.abs(other.depth / (np.float32(factor) * one.depth) - 1).max() < 1e-4
    assert np.allclose(one.confidence, other.confidence, atol=1e-5)


def test_what_the_network_misses_is_corrected_near_returns_and_lowers_confidence() -> None:
    truth = toys.slope(64, 64)
    miss = 0.3 * np.sin(np.linspace(0, 3, 64))[None, :] * np.ones((64, 1))
    sparse = toys.lines_of(truth)
    right, wrong = estimate(truth, sparse), estimate(truth, sparse, Oracle(miss))
    rough = estimate(truth, sparse, Oracle(miss), correct=False)
    at = sparse.depth > 0
    assert np.mean(errors(rough, truth)[at]) > 0.05
    assert np.mean(errors(wrong, truth)[at]) < 0.02 and np.mean(errors(wrong, truth)) < 0.03
    assert np.mean(rough.confidence) < np.mean(wrong.confidence) < np.mean(right.confidence)


def test_wrong_returns_do_not_change_the_scale() -> None:
    truth = toys.slope(64, 64)
    sparse = toys.lines_of(truth, 8, 1)
    rng = np.random.default_rng(0)
    spoilt = np.where(
        (rng.random(truth.shape) < 0.15) & (sparse.depth > 0), rng.uniform(0.5, 80, truth.shape), sparse.depth
    )
    made = estimate(truth, SparseDepth(spoilt.astype(np.float32), sparse.count))
    assert np.median(errors(made, truth)) < 0.02


def test_without_returns_depth_is_relative() -> None:
    truth = toys.slope(64, 256)
    made = estimate(truth, SparseDepth(np.zeros_like(truth), 0))
    assert not made.metric
    ratio = made.depth / truth
    assert np.percentile(ratio, 99) / np.percentile(ratio, 1) < 1.03, "canvases agree with each other"


def test_a_scale_is_held_over_frames_with_hardly_any_return() -> None:
    truth = toys.slope(64, 64)
    image, camera, none = painted(truth), toys.camera_of(truth.shape), SparseDepth(np.zeros_like(truth), 0)
    made = engine(Oracle())
    first = made.estimate(image, toys.lines_of(truth), camera)
    held = [made.estimate(image, none, camera) for _ in range(31)]
    assert [each.metric for each in held] == [True] * 30 + [False]
    assert np.median(errors(held[0], truth)) < 0.02
    assert held[1].confidence.max() < held[0].confidence.max() < first.confidence.max()
    few = np.zeros_like(truth)
    few[40, 40] = truth[40, 40]
    made.reset()
    alone = made.estimate(image, SparseDepth(few, 1), camera)
    assert alone.metric and np.median(errors(alone, truth)) < 0.05
    assert alone.confidence.max() <= 1 / 20
    assert not made.fresh().estimate(image, none, camera).metric


def test_bad_values_are_an_error_and_not_depth() -> None:
    truth = toys.slope(64, 64)
    with pytest.raises(ModelError, match="not finite"):
        estimate(truth, toys.lines_of(truth), Oracle(math.nan))
    with pytest.raises(MessageError, match="must fit"):
        engine(Oracle()).estimate(
            painted(truth), SparseDepth(np.zeros((3, 3), np.float32), 0), toys.camera_of(truth.shape)
        )

    def out_of_memory(*_: object) -> Flux2Sample:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    with pytest.raises(ModelError, match=r"failed in torch: CUDA out of memory\. Tried"):
        estimate(truth, toys.lines_of(truth), out_of_memory)


# From here on with a tiny network and a tiny autoencoder of random weights.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.tiny_folder(tmp_path_factory.mktemp("flux") / "tiny")


@pytest.fixture()
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def settings(folder: Path, **changes: Any) -> EngineConfig:
    return EngineConfig(**{"name": "flux", "model": str(folder), "device": "cpu", "threads": 1, "steps": 1, **changes})


def scene(shape: tuple[int, int] = (90, 160)) -> tuple[ByteArray, SparseDepth, CameraModel, FloatArray]:
    truth = toys.slope(*shape)
    return toys.picture(*shape), toys.lines_of(truth, 16, 1), toys.camera_of(shape), truth


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_whole_model_gives_metric_depth_that_agrees_with_the_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    pytest.importorskip("diffusers")
    asked = toys.blocked_network(monkeypatch)
    made = make_engine(settings(folder, steps=steps))
    image, sparse, camera, truth = scene()
    out = made.estimate(image, sparse, camera)
    assert out.metric and np.isfinite(out.depth).all() and (out.depth > 0).all()
    at = sparse.depth > 0
    assert np.mean(errors(out, truth)[at]) < 0.02
    assert out.confidence.min() >= 0 and out.confidence.max() <= 1
    again = make_engine(settings(folder, steps=steps)).estimate(image, sparse, camera)
    assert np.array_equal(out.depth, again.depth) and np.array_equal(out.confidence, again.confidence)
    assert asked == [], "a folder needs no network"
    assert made.describe()["steps"] == str(steps) and made.describe()["licence"] == "apache-2.0"


def test_the_whole_model_gives_larger_depth_for_larger_depth(folder: Path) -> None:
    pytest.importorskip("diffusers")
    made = make_engine(settings(folder, steps=2, local_correction=False))
    image, sparse, camera, _ = scene()
    one, other = (made.estimate(image, SparseDepth(sparse.depth * k, sparse.count), camera) for k in (1, 4))
    # The ratios that the network is shown may round to another bfloat16.
    assert np.abs(other.depth / (4 * one.depth) - 1).max() < 0.02


def test_the_returns_change_what_the_network_itself_makes(folder: Path) -> None:
    pytest.importorskip("diffusers")
    made = make_engine(settings(folder, steps=2, local_correction=False))
    image, sparse, camera, _ = scene()
    one = made.estimate(image, sparse, camera)
    bent = np.where(sparse.depth > 0, sparse.depth * np.linspace(0.7, 1.4, 160, dtype=np.float32)[None], 0)
    other = made.estimate(image, SparseDepth(bent.astype(np.float32), sparse.count), camera)
    ratio = np.log(other.depth / one.depth)
    assert ratio.std() > 1e-3, "more than another scale"


def test_the_released_model_takes_fifty_steps_where_none_are_named(folder: Path) -> None:
    pytest.importorskip("diffusers")
    assert make_engine(settings(folder, steps=0)).describe()["steps"] == "50"


def refused(folder: Path, words: str, **changes: Any) -> str:
    with pytest.raises(ModelError, match=words) as caught:
        make_engine(settings(folder, **changes))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "ae_encoder.safetensors"])
def test_a_missing_file_is_named(copied: Path, file: str) -> None:
    (copied / file).unlink()
    refused(copied, rf"has no {file.replace('.', '[*]?[.]')}")


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused() -> None:
    refused(Path("nowhere"), "engine.model is 'nowhere': the engine flux needs the folder")


def test_a_licence_against_commercial_use_must_be_accepted(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copied / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    message = refused(copied, "licence of the model .* is cc-by-nc-4.0: non-commercial use only")
    assert "engine.accept_noncommercial: true" in message and "--accept-noncommercial" in message
    pytest.importorskip("diffusers")
    with caplog.at_level(logging.WARNING):
        details = make_engine(settings(copied, accept_noncommercial=True)).describe()
    assert details["licence"] == "cc-by-nc-4.0"
    assert caplog.text.count("non-commercial use only") == 1


def test_the_licence_of_the_released_network_counts_where_its_card_is_missing(copied: Path) -> None:
    (copied / "config.json").write_text(json.dumps({"variant": "flux_rgbd_9b_v2"}))
    refused(copied, r"is CC BY-NC 4\.0 .*: non-commercial use only")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"variant": "flux_rgbd_9b_v7"}, "describes another network: There is no variant 'flux_rgbd_9b_v7'"),
        ({}, "names no variant and no sizes"),
        ({"flux2": {"width": 3}}, "flux2.'width' is no size"),
        ({"flux2": {"hidden": 64.0}}, "flux2.hidden is 64.0: a value like 4096 is needed"),
        ({"flux2": {"rope_axes": ["a"]}}, r"flux2.rope_axes is \('a',\)"),
        (
            {"flux2": {"image_channels": 12}},
            "tokens of 8 channels from 16 pixels a side, but the network takes 12 and 16",
        ),
        ({"resolution": 20}, "'resolution' must be a whole number from 64 to 2048"),
        ({"resolution": 130}, "'resolution' is 130, it must be a multiple of 16"),
    ],
)
def test_a_description_of_another_network_is_refused(copied: Path, document: Any, words: str) -> None:
    path = copied / "config.json"
    own = json.loads(path.read_text())
    if "flux2" in document:
        document = {**own, "flux2": {**own["flux2"], **document["flux2"]}}
    elif "resolution" in document:
        document = {**own, **document}
    else:
        document = {**document, "license": "apache-2.0"}
    path.write_text(json.dumps(document))
    if "channels" in words or "multiple" in words:
        pytest.importorskip("diffusers")
    refused(copied, words)


def test_weights_of_the_wrong_variant_or_dtype_are_refused(copied: Path) -> None:
    pytest.importorskip("diffusers")
    path = copied / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "flux2": {**document["flux2"], "variant": "v1"}}))
    refused(copied, "not those of variant v1: not known: cross_alpha_depth")
    path.write_text(json.dumps(document))
    state = toys.smooth_network().state_dict()
    state["img_in.weight"] = state["img_in.weight"].double()
    toys.safetensors_torch.save_file(state, copied / "model.safetensors")
    refused(copied, "img_in.weight has dtype F64, but BF16, F16, F32 are read")


def test_too_little_memory_is_said_before_any_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    refused(folder, r"needs 0\.0 GiB on cpu, where 0\.0 GiB are free")


def test_a_gpu_that_is_not_there_is_refused(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused(folder, "engine.device is cuda, but torch sees no GPU", device="cuda")
