"""Published depth models of transformers and diffusers: the real classes, tiny, from folders as they are published."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, Callable

import monocular_toys as toys
import numpy as np
import pytest
from broken_bags import Outcome
from evaluated_wall import write_frame
from model_folders import frame
from replayed import record

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.engine.monocular import MonocularEngine
from mf_ros.errors import MissingDependencyError, ModelError
from mf_ros.packages import install_command

Run = Callable[..., Outcome]


def engine(folder: Path | str, name: str = "transformers", **settings: Any) -> MonocularEngine:
    made = make_engine(EngineConfig(**{"name": name, "model": str(folder), "device": "cpu", "threads": 1, **settings}))
    assert isinstance(made, MonocularEngine)
    return made


def missing(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    real = importlib.import_module

    def fake(module: str, anchor: str | None = None) -> object:
        if module == package:
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)
        return real(module, anchor)

    monkeypatch.setattr(importlib, "import_module", fake)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tests only read."""
    return toys.depth_anything(tmp_path_factory.mktemp("published") / "Depth-Anything-tiny")


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (toys.depth_anything, "disparity"),
        (lambda folder: toys.depth_anything(folder, "metric"), "metric"),
        (toys.dpt, "disparity"),
        (lambda folder: toys.dpt(folder, padded=True), "depth"),
        (toys.glpn, "depth"),
    ],
)
def test_models_of_transformers_run_and_say_what_they_put_out(
    make: Callable[[Path], Path], kind: str, tmp_path: Path
) -> None:
    made = engine(make(tmp_path / "tiny"))
    # No multiple of any patch.
    image, sparse, camera = frame(70, 101)
    estimate = made.estimate(image, sparse, camera)
    assert estimate.metric and estimate.depth.shape == estimate.confidence.shape == (70, 101)
    assert np.isfinite(estimate.depth).all() and (estimate.depth > 0).all()
    assert made.describe()["output"] == kind
    np.testing.assert_array_equal(made.estimate(image, sparse, camera).depth, estimate.depth)
    model = made._model
    assert not np.array_equal(model.predict(image), model.predict(255 - image))


@pytest.mark.parametrize(
    ("make", "close"),
    # Some make the image as small as 56 pixels: half of one of them.
    [(toys.depth_anything, 4), (toys.dpt, 4), (lambda folder: toys.dpt(folder, padded=True), 1), (toys.glpn, 2)],
)
def test_output_lies_where_the_image_lies(make: Callable[[Path], Path], close: int, tmp_path: Path) -> None:
    """Whatever a model does to the size of the image, for example padding it to whole patches, is undone."""
    model = engine(make(tmp_path / "tiny"))._model

    class Grey(dict):  # type: ignore[type-arg]
        @property
        def predicted_depth(self) -> Any:
            return self["predicted_depth"]

    model.run._network = lambda pixel_values: Grey(predicted_depth=pixel_values.mean(1))  # type: ignore[attr-defined]
    # One more than whole patches.
    image = np.zeros((295, 393, 3), np.uint8)
    image[30:270, 40:360] = 255
    grey = model.predict(image)
    bright = grey > (grey.min() + grey.max()) / 2
    for axis, edges in ((1, (30, 270)), (0, (40, 360))):
        found = np.flatnonzero(bright.mean(axis=axis) > 0.4)
        assert abs(found[0] - edges[0]) <= close and abs(found[-1] + 1 - edges[1]) <= close


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="transformers needs torchvision for them")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (toys.zoedepth, "metric"),
        (toys.depth_pro, "metric"),
        (lambda folder: toys.depth_pro(folder, fov=False), "depth"),
    ],
)
def test_models_that_need_torchvision_run(make: Callable[[Path], Path], kind: str, tmp_path: Path) -> None:
    made = engine(make(tmp_path / "tiny"))
    assert made.describe()["output"] == kind
    estimate = made.estimate(*frame(70, 101))
    assert estimate.depth.shape == (70, 101) and np.isfinite(estimate.depth).all()


def test_a_model_that_needs_torchvision_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toys.zoedepth(tmp_path / "tiny")
    missing(monkeypatch, "torchvision")
    with pytest.raises(MissingDependencyError, match=r"needs the Python package 'torchvision'.*pip install"):
        engine(folder)


def test_models_go_by_the_last_part_of_their_name(tiny: Path) -> None:
    made = engine(tiny)
    assert made.name == "Depth-Anything-tiny"
    details = made.describe()
    assert details["licence"] == "apache-2.0" and details["weights"] == str(tiny) and details["device"] == "cpu"
    assert "transformers" in details["library"] and "torch" in details["library"]


def test_the_setting_decides_what_is_put_out(tiny: Path) -> None:
    assert engine(tiny, output="depth").describe()["output"] == "depth"


def test_a_model_of_an_unknown_type_needs_the_setting(copied: Path) -> None:
    toys.edit(copied / "config.json", depth_estimation_type="relative", model_type="prompt_depth_anything")
    with pytest.raises(ModelError, match=r"type prompt_depth_anything\) puts out is not known: set engine\.output"):
        engine(copied)


def test_evaluate_scores_a_published_model_as_any_engine(tiny: Path, tmp_path: Path, run: Run) -> None:
    write_frame(tmp_path / "frames" / "yard" / "000")
    command = ("evaluate", tmp_path / "frames", "--engine", "transformers", "--model", tiny, "--lines", "8")
    outcome = run(*command)
    assert outcome.code == 0, outcome.error
    assert outcome.out.startswith("engine Depth-Anything-tiny on transformers")
    assert "licence apache-2.0" in outcome.out and "Uncertainty of Depth-Anything-tiny" in outcome.out
    records = json.loads(run(*command, "--json").out)
    engines = {each["engine"] for each in records}
    assert {"Depth-Anything-tiny", "classical", "linear+cull"} <= engines
    # Without returns its depth is relative.
    assert any(each["input"] == "none" and each["metric"] is False for each in records)


def test_replay_writes_depth_of_a_published_model_and_its_licence(tiny: Path, tmp_path: Path, run: Run) -> None:
    bag = record(tmp_path / "in.mcap", frames=2)
    outcome = run("replay", bag, "--engine", "transformers", "--model", tiny)
    assert outcome.code == 0, outcome.error
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames_out"] == 2 and summary["engine"] == "Depth-Anything-tiny"
    assert summary["engine_details"]["licence"] == "apache-2.0"
    assert "licence: apache-2.0" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    "licence", ["cc-by-nc-4.0", "CC BY-NC 4.0", "apple-amlr", "other\nlicense_name: x-non-commercial"]
)
def test_licences_that_forbid_commercial_use_must_be_accepted(
    licence: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = toys.depth_anything(tmp_path / "tiny", licence=licence)
    with pytest.raises(
        ModelError, match=r"non-commercial use only.*engine\.accept_noncommercial.*--accept-noncommercial"
    ):
        engine(folder)
    with caplog.at_level(logging.WARNING):
        made = engine(folder, accept_noncommercial=True)
    assert made.describe()["licence"] in (licence, "x-non-commercial")
    assert "non-commercial use only" in caplog.text


def test_the_command_accepts_such_a_licence_with_an_option(tmp_path: Path, run: Run) -> None:
    folder = toys.depth_anything(tmp_path / "tiny", licence="cc-by-nc-4.0")
    write_frame(tmp_path / "frames" / "yard" / "000")
    command = ("evaluate", tmp_path / "frames", "--engine", "transformers", "--model", folder, "--lines", "8")
    refused = run(*command)
    assert refused.code == 2 and "--accept-noncommercial" in refused.error
    accepted = run(*command, "--accept-noncommercial")
    assert accepted.code == 0 and "licence cc-by-nc-4.0" in accepted.out


@pytest.mark.parametrize(
    ("card", "shown"),
    [
        (None, "unknown"),
        ("# no front matter", "unknown"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\n[[[\n---", "unknown"),
    ],
)
def test_a_licence_that_is_not_named_is_warned_of(
    card: str | None, shown: str, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "README.md").unlink()
    if card is not None:
        (copied / "README.md").write_text(card)
    with caplog.at_level(logging.WARNING):
        assert engine(copied).describe()["licence"] == shown
    assert "does not name its licence" in caplog.text


def test_a_permissive_licence_is_only_noted(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engine(tiny)
    (note,) = (each for each in caplog.records if each.name.startswith("mf_ros") and "licence" in each.getMessage())
    assert note.levelno == logging.INFO and "apache-2.0" in note.getMessage()


def test_a_model_of_the_hub_is_found_in_its_cache(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tmp_path / "models--acme--Tiny-Depth"
    shutil.copytree(tiny, stored / "snapshots" / ("0" * 40))
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = engine("acme/Tiny-Depth")
    assert made.name == "Tiny-Depth" and np.isfinite(made.estimate(*frame()).depth).all()
    with pytest.raises(ModelError, match=r"acme/Other-Depth cannot be downloaded .*hf download acme/Other-Depth"):
        engine("acme/Other-Depth")


def test_a_model_that_is_not_named_is_asked_for() -> None:
    for name in ("transformers", "marigold"):
        with pytest.raises(
            ModelError, match=rf"engine\.model is 'nano': the engine {name} needs the folder .*OWNER/MODEL"
        ):
            engine("nano", name)


def drop_weight(folder: Path) -> None:
    safetensors = importlib.import_module("safetensors.torch")
    state = safetensors.load_file(folder / "model.safetensors")
    safetensors.save_file(
        {name: value for name, value in state.items() if name != "head.conv3.weight"},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def larger(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    document["backbone_config"]["hidden_size"] = 65536
    (folder / "config.json").write_text(json.dumps(document))


def with_code(folder: Path) -> None:
    toys.edit(folder / "config.json", model_type="magic", auto_map={"AutoConfig": "magic.py::Magic"})
    (folder / "magic.py").write_text("raise SystemExit('run')")


def pickled(folder: Path) -> None:
    toys.torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (drop_weight, r"head\.conv3\.weight are missing"),
        (larger, r"describes a network of \d+ parameters, but its weights have \d+ bytes"),
        (with_code, "needs Python code that comes with it, which is never run"),
        (pickled, r"has no model\*\.safetensors"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"has no preprocessor_config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "transformers cannot load the model"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 10**6),
            "transformers cannot load the model",
        ),
    ],
)
def test_a_model_that_cannot_be_trusted_to_be_whole_is_refused(
    damage: Callable[[Path], Any], sentence: str, copied: Path
) -> None:
    damage(copied)
    with pytest.raises(ModelError, match=sentence):
        engine(copied)


def test_a_failure_of_the_network_costs_one_frame(copied: Path) -> None:
    made = engine(copied)
    made._model.run._network.head = None  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"model failed on cpu for an image of 96 x 64"):
        made.estimate(*frame())


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("transformers", "transformers", "monocular"),
        ("transformers", "torch", "monocular"),
        ("marigold", "diffusers", "diffusion"),
    ],
)
def test_missing_packages_are_named(
    name: str, package: str, extra: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch, package)
    told = f"'{package}' is not installed: run {install_command(extra)}"
    with pytest.raises(MissingDependencyError, match=re.escape(told)):
        engine(tiny, name)
