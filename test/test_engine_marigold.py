"""Marigold: the real pipeline, tiny, from folders and from a Hub as models are published there."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any, Callable

import monocular_toys as toys
import numpy as np
import pytest
from broken_bags import Outcome
from fake_hub import Hub
from model_folders import frame
from replayed import record
from test_engine_published import engine

from mf_ros.errors import ModelError
from mf_ros.model.flux2 import memory

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tests only read."""
    return toys.marigold(tmp_path_factory.mktemp("published") / "tiny")


def test_marigold_runs_with_its_own_number_of_steps_or_another(tiny: Path) -> None:
    own, one = engine(tiny, "marigold"), engine(tiny, "marigold", steps=1)
    assert (own.describe()["steps"], one.describe()["steps"]) == ("2", "1")
    image, sparse, camera = frame(70, 101)
    estimate = own.estimate(image, sparse, camera)
    assert estimate.metric and estimate.depth.shape == (70, 101) and np.isfinite(estimate.depth).all()
    np.testing.assert_array_equal(own.estimate(image, sparse, camera).depth, estimate.depth)
    assert not np.array_equal(one.estimate(image, sparse, camera).depth, estimate.depth)
    output = own._model.predict(image)
    assert 0 <= output.min() < output.max() <= 1
    assert own.describe()["output"] == "depth" and "diffusers" in own.describe()["library"]


def test_the_first_releases_of_marigold_run_too(tmp_path: Path) -> None:
    """Their description calls the pipeline otherwise and does not say that it puts out depth."""
    folder = toys.marigold(tmp_path / "tiny")
    index = folder / "model_index.json"
    toys.edit(index, _class_name="MarigoldPipeline", prediction_type=None, default_denoising_steps=None)
    made = engine(folder, "marigold")
    assert (made.describe()["output"], made.describe()["steps"]) == ("depth", "4")
    assert np.isfinite(made.estimate(*frame()).depth).all()


def test_marigold_is_replayed_and_must_be_accepted_too(tmp_path: Path, run: Run) -> None:
    folder = toys.marigold(tmp_path / "tiny", licence="cc-by-nc-4.0")
    bag = record(tmp_path / "in.mcap", frames=1)
    command = ("replay", bag, "--engine", "marigold", "--model", folder)
    assert "non-commercial use only" in run(*command).error
    assert run(*command, "--accept-noncommercial").code == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["engine"] == "tiny"


def unet_without_a_weight(folder: Path) -> None:
    safetensors = importlib.import_module("safetensors.torch")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = safetensors.load_file(path)
    safetensors.save_file({name: state[name] for name in sorted(state)[1:]}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda index: toys.edit(index, _class_name="StableDiffusionPipeline"), "the engine marigold runs Marigold"),
        (lambda index: toys.edit(index, _class_name="MarigoldPipeline", use_full_z_range=True), "is none for depth"),
        (lambda index: toys.edit(index, unet=["os", "system"]), r"names \['os', 'system'\] as its unet"),
        (lambda index: toys.edit(index, safety_checker=["x", "Y"]), "as its safety_checker, which no Marigold has"),
        (lambda index: toys.edit(index, default_denoising_steps=10**9), "default_denoising_steps is 1000000000"),
        (lambda index: index.write_text("["), "is not JSON"),
        (lambda index: shutil.rmtree(index.parent / "vae"), r"has no vae/\*\.safetensors"),
        (lambda index: unet_without_a_weight(index.parent), "unet do not fit its config.json"),
        (
            lambda index: toys.edit(index.parent / "unet" / "config.json", block_out_channels=[8000, 8000]),
            r"config\.json describes a network of \d+ parameters, but its weights have \d+ bytes",
        ),
    ],
)
def test_a_pipeline_that_is_no_whole_marigold_is_refused(
    damage: Callable[[Path], Any], sentence: str, tiny: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    damage(folder / "model_index.json")
    with pytest.raises(ModelError, match=sentence):
        engine(folder, "marigold")


FULL = {
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
}
HALF = {name.replace(".safetensors", ".fp16.safetensors") for name in FULL}


@pytest.fixture
def hub(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A model in both precisions, and in formats that can run code."""
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    for name in FULL:
        shutil.copy(model / name, model / name.replace(".safetensors", ".fp16.safetensors"))
        (model / name).with_suffix(".bin").write_bytes(b"pickle")
    (model / "marigold.ckpt").write_bytes(b"pickle")
    made = Hub(model, tmp_path / "cache")
    for function in (made.list_repo_files, made.snapshot_download):
        monkeypatch.setattr(f"huggingface_hub.{function.__name__}", function)
    return made


@pytest.mark.parametrize(("precision", "fetched"), [("float32", FULL), ("float16", HALF)])
def test_only_the_weights_of_the_precision_it_runs_in_are_downloaded(
    hub: Hub, precision: str, fetched: set[str]
) -> None:
    made = engine("acme/marigold", "marigold", precision=precision)
    assert hub.weights == fetched
    assert made.describe()["precision"] == precision
    asked = hub.asked
    engine("acme/marigold", "marigold", precision=precision)
    assert hub.asked == asked, "what was downloaded is used off line"


@pytest.mark.parametrize(("precision", "missing", "fetched"), [("float16", HALF, FULL), ("float32", FULL, HALF)])
def test_where_only_the_other_precision_is_published_that_is_downloaded(
    hub: Hub, precision: str, missing: set[str], fetched: set[str]
) -> None:
    for name in missing:
        (hub.model / name).unlink()
    made = engine("acme/marigold", "marigold", precision=precision)
    assert hub.weights == fetched
    # torch resizes no image in float16 on a CPU.
    assert precision == "float16" or np.isfinite(made.estimate(*frame()).depth).all()


def test_weights_that_are_there_in_the_other_precision_are_not_downloaded_again(hub: Hub) -> None:
    engine("acme/marigold", "marigold", precision="float32")
    asked = hub.asked
    engine("acme/marigold", "marigold", precision="float16")
    assert (hub.weights, hub.asked) == (FULL, asked)


def test_a_model_of_the_hub_that_lacks_a_part_is_refused(hub: Hub) -> None:
    shutil.rmtree(hub.model / "vae")
    with pytest.raises(ModelError, match=r"acme/marigold of the Hub has no vae/\*\.safetensors: it is of another kind"):
        engine("acme/marigold", "marigold")


def test_memory_is_looked_at_before_any_weight_is_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ModelError, match=r"tiny needs 0\.0 GiB on cpu, where 0\.0 GiB are free: free memory there"):
        engine(tiny, "marigold")
