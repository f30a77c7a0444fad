"""The training side of comparisons: procedural scenes, the model of a run, and what its card says of a comparison."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")
pytest.importorskip("jinja2")
pytest.importorskip("scipy")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")

import numpy as np
import torch
from broken_bags import Run
from dataset_rows import wall_rows, write_dataset
from model_folders import tiny_model
from safetensors.torch import load_file, save_file

from mf_ros.core.config import ProjectionConfig
from mf_ros.core.types import DepthEstimate
from mf_ros.engine.bundle import load_bundle
from mf_ros.engine.torch_backend import load_network
from mf_ros.evaluation.compare import Scorer
from mf_ros.evaluation.compare_document import file_sha256
from mf_training import canary, export, run_model
from mf_training.canary import canary_cases
from mf_training.card import comparison_of, origin_of
from mf_training.checkpoints import save_best, save_checkpoint
from mf_training.config import SceneSourceConfig
from mf_training.export import export_run
from mf_training.run_model import model_of_run

LINES = ("--lines", "32,16,8,4")
SIZES = load_bundle(str(tiny_model())).model
SOURCES = {
    "dataset": {"name": "/data/of/someone/fleet", "fingerprint": "f" * 64, "rows": 120, "bags": 6},
    "parent": {"name": "nano", "sha256": "a" * 64},
}
STATE = {"config": {"model": SIZES}, "sources": SOURCES, "scores": {"ratio": 0.912, "dataset/error": 0.03}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes small enough for tests."""
    monkeypatch.setattr(canary, "SIZE", (64, 96))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the graph from the tiny model, whose weights the runs of these tests hold; tracing takes ten seconds."""
    data = (tiny_model() / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "write_graph", lambda net, path, opset, fused: path.write_bytes(data))


def weights() -> dict[str, torch.Tensor]:
    return load_network(load_bundle(str(tiny_model()))).state_dict()


def a_run(folder: Path, **changes: Any) -> Path:
    save_best(folder, 400, weights(), {**STATE, **changes})
    return folder


class Exact:
    """Answers the depth of the scene that it is shown, times a factor."""

    name = "exact"

    def __init__(self, factor: float) -> None:
        self.factor, self.truth = factor, np.zeros(0, np.float32)

    def estimate(self, image: Any, sparse: Any, camera: Any) -> DepthEstimate:
        depth = np.where(np.isfinite(self.truth), self.truth, 100.0).astype(np.float32) * self.factor
        return DepthEstimate(depth, np.ones_like(depth), True, self.name)

    def describe(self) -> dict[str, str]:
        return {"method": "exact"}


@pytest.mark.usefixtures("small")
def test_procedural_scenes_are_judged_on_their_exact_depth() -> None:
    engines = {"tuned": Exact(1.02), "base": Exact(1.04)}
    scorer = Scorer(engines, ProjectionConfig())
    for frame, case in canary_cases(6):
        assert frame.depth is not None and len(case.shown) > 0 and case.visible.all()
        for engine in engines.values():
            engine.truth = frame.depth
        scorer.add(frame, [case])
    results = scorer.results("scenes")
    deployed = results.input("deployed")
    assert deployed is not None and deployed.methods["tuned"]["absrel"].value == pytest.approx(0.02, abs=1e-5)
    assert deployed.change["absrel"].value == pytest.approx(-0.5, abs=1e-3)
    assert results.intervals == f"95% intervals: bootstrap over {results.frames} scenes"


@pytest.mark.usefixtures("small")
def test_the_scenes_are_always_the_same_kept_or_made_anew(tmp_path: Path) -> None:
    made, kept, read = (list(canary_cases(3, folder)) for folder in (None, tmp_path, tmp_path))
    assert list(tmp_path.rglob("*.npz")), "scenes are kept"
    for one, other, third in zip(made, kept, read, strict=True):
        assert np.array_equal(one[0].image, other[0].image)
        for frame, case in (other, third):
            assert np.array_equal(one[1].truth, case.truth) and np.array_equal(one[1].shown.z, case.shown.z)
            assert frame.name == one[0].name
    assert [frame.source for frame, _ in made] == [frame.source for frame, _ in canary_cases(5)][: len(made)]


@pytest.mark.usefixtures("small")
def test_truth_lies_near_returns_and_within_range() -> None:
    for frame, case in canary_cases(4):
        assert case.truth.min() >= 1.0 and case.truth.max() <= 80.0
        rows, cols = case.shown.pixels()
        distance = np.hypot(case.rows[::50, None] - rows, case.cols[::50, None] - cols).min(1)
        assert distance.max() <= 20.5
        assert frame.depth is not None and np.array_equal(case.truth, frame.depth[case.rows, case.cols])


def test_no_training_uses_the_seeds_of_the_canary() -> None:
    config = SceneSourceConfig()
    assert canary.FIRST_SEED > config.heldout_first_seed + 10**6 > config.first_seed + 10**6


def test_scenes_are_kept_in_the_users_cache_and_nowhere_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert canary.user_cache() == tmp_path / "mf_ros" / "scenes"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert canary.user_cache() is None


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where models were exported to; instead of an export the tiny model is copied and told its step."""
    done: list[Path] = []

    def copied(source: Path, out: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tiny_model(), out)
        description = json.loads((out / "config.json").read_text())
        description["training"] = {"steps": export.find_checkpoint(source)[1]["step"]}
        (out / "config.json").write_text(json.dumps(description))
        done.append(out)

    monkeypatch.setattr(run_model, "export_run", copied)
    return done


def test_the_model_of_a_run_is_exported_when_it_is_missing_or_of_another_checkpoint(
    tmp_path: Path, exports: list[Path]
) -> None:
    run = a_run(tmp_path / "run")
    assert [model_of_run(run), model_of_run(run)] == [run / "model"] * 2 and len(exports) == 1
    save_best(run, 500, weights(), STATE)
    model_of_run(run)
    assert len(exports) == 2, "another step"
    state = run / "best_00000500" / "state.json"
    later = (run / "model" / "config.json").stat().st_mtime_ns + 10**9
    os.utime(state, ns=(later, later))
    model_of_run(run)
    assert len(exports) == 3, "the same step of a run that was begun anew"
    (run / "model" / "config.json").write_text("{")
    model_of_run(run)
    assert len(exports) == 4, "damaged"


@pytest.mark.usefixtures("quick", "small")
def test_a_run_is_compared_and_its_export_says_how(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = write_dataset(tmp_path / "fleet", wall_rows("drive", (6, 8)))
    folder = a_run(tmp_path / "run")
    export_run(folder, tmp_path / "before")
    assert "not compared with the network it was tuned from" in (tmp_path / "before" / "README.md").read_text()
    outcome = run("evaluate", "--compare", "nano", folder, dataset, *LINES, "--engine", "onnx", "--canary", 3)
    assert outcome.code == 0, outcome.err
    document = json.loads((folder / "comparison.json").read_text())
    assert document["tuned"]["step"] == 400 and document["tuned"]["given"] == "run"
    assert document["canary"]["frames"] == 3
    export_run(folder, tmp_path / "after")
    card = (tmp_path / "after" / "README.md").read_text()
    assert "## Comparison with its parent" in card and "| deployed" not in card
    assert "Against mf-nano (weights" in card and "on fleet, split test" in card
    mae = document["inputs"][0]["methods"]["tuned"]["mae"]["value"]
    assert f"| tuned | {mae:.3f} |" in card
    assert ("The gate was passed" in card) == document["gate"]["passed"]
    kept = json.loads((tmp_path / "after" / "config.json").read_text())["training"]["comparison"]
    assert kept["change"]["deployed"]["mae"]["value"] == document["inputs"][0]["change"]["mae"]["value"]
    assert kept["gate"]["passed"] == document["gate"]["passed"]
    assert load_bundle(str(tmp_path / "after")).name == "after"


@pytest.mark.usefixtures("quick")
def test_the_card_says_where_a_network_comes_from_without_paths(tmp_path: Path) -> None:
    done = export_run(a_run(tmp_path / "run"), tmp_path / "model")
    card, config = ((done.folder / name).read_text() for name in ("README.md", "config.json"))
    assert f"tuned from nano, weights `{'a' * 64}`" in card
    assert f"on the data set fleet (120 rows, 6 recordings), fingerprint `{'f' * 64}`" in card
    assert "held out while training: 0.912 of the prior's" in card
    assert "/data/of/someone" not in card + config
    training = json.loads(config)["training"]
    assert training["dataset"]["rows"] == 120 and training["heldout"]["dataset/error"] == 0.03


@pytest.mark.usefixtures("quick")
def test_a_network_from_scratch_says_nothing_of_parents(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", 5, {"ema": weights()}, {"config": {"model": SIZES}})
    card = (export_run(tmp_path / "run", tmp_path / "model").folder / "README.md").read_text()
    assert "compared" not in card and "tuned from" not in card


def test_origins_are_read_with_care() -> None:
    assert origin_of({}) == {} and origin_of({"sources": 3, "scores": [1]}) == {}
    odd = {"dataset": {"name": "a|b\n<i>" + "x" * 10**6, "rows": float("nan"), "more": 1}, "parent": "nano"}
    found = origin_of({"sources": odd, "scores": {"ratio": float("inf")}, "tally": {"ratio": 0.5}})
    assert set(found) == {"dataset"} and set(found["dataset"]) == {"name", "rows"}
    assert len(found["dataset"]["name"]) <= 200 and found["dataset"]["name"].startswith("a/b")
    assert found["dataset"]["rows"] == "nan"
    assert origin_of({"tally": {"ratio": 0.5}}) == {"heldout": {"ratio": 0.5}}


def a_comparison(sha256: str) -> dict[str, Any]:
    """The smallest comparison that a card can show."""
    estimate = {"value": 1.0, "low": 0.9, "high": 1.1}
    columns = dict.fromkeys(("mae", "rmse", "absrel"), estimate)
    result = {"input": "deployed", "frames": 9, "methods": {"tuned": columns, "base": columns}, "change": columns}
    check = {"name": "held-out returns", "passed": True, "text": "The MAE falls."}
    return {
        "format": 1,
        "tuned": {"name": "mf-model", "sha256": sha256},
        "base": {"name": "mf-nano", "sha256": "b" * 64},
        "dataset": {"name": "fleet", "split": "test", "fingerprint": "c" * 64},
        "held_out": "every 4th scan line",
        "frames": 9,
        "recordings": 1,
        "intervals": "95% intervals",
        "ranges_m": {},
        "inputs": [result],
        "canary": None,
        "gate": {"passed": True, "checks": [check]},
    }


def test_a_comparison_of_other_weights_is_not_taken(tmp_path: Path) -> None:
    assert comparison_of(tmp_path, "a" * 64) is None, "there is none"
    (tmp_path / "comparison.json").write_text(json.dumps(a_comparison("a" * 64)))
    assert comparison_of(tmp_path, "a" * 64) is not None
    assert comparison_of(tmp_path, "d" * 64) is None


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": []},
        {"inputs": [3]},
        {"frames": float("inf")},
        {"gate": {"passed": True, "checks": [{"passed": [], "text": "x"}]}},
        {"dataset": None},
    ],
)
def test_a_damaged_comparison_is_passed_over(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps({**a_comparison("a" * 64), **change}))
    assert comparison_of(tmp_path, "a" * 64) is None
    assert "is passed over, because it is damaged" in caplog.text


def test_weights_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    tensors = load_file(tiny_model() / "model.safetensors")
    save_file(tensors, tmp_path / "same.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, tmp_path / "other.safetensors")
    same, other = (file_sha256(tmp_path / f"{name}.safetensors") for name in ("same", "other"))
    assert same == file_sha256(tiny_model() / "model.safetensors") != other
