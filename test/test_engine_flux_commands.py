"""The engine ``flux`` from the command line and from the cache of the Hub, with a tiny model and no network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("diffusers")

import flux_toys as toys
from fake_hub import Hub

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.errors import ModelError


@pytest.fixture()
def model(tmp_path: Path) -> Path:
    folder = toys.tiny_folder(tmp_path / "tiny")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return folder


def test_a_model_of_the_hub_is_used_off_line_once_it_is_there(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    toys.into_hub_cache(tmp_path / "hub", "someone/tiny", model)
    asked = toys.blocked_network(monkeypatch)
    settings = EngineConfig(name="flux", model="someone/tiny", device="cpu", steps=1)
    with pytest.raises(ModelError, match=r"someone/tiny is cc-by-nc-4\.0: non-commercial use only"):
        make_engine(settings)
    made = make_engine(
        EngineConfig(name="flux", model="someone/tiny", device="cpu", steps=1, accept_noncommercial=True)
    )
    truth = toys.slope(40, 60)
    out = made.estimate(toys.picture(40, 60), toys.lines_of(truth), toys.camera_of(truth.shape))
    assert out.metric and out.engine == "flux"
    assert asked == []


def test_a_model_of_the_hub_is_downloaded_once_its_licence_is_accepted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "ae_decoder.bin").write_bytes(b"pickle")
    hub = Hub(model, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    settings = EngineConfig(name="flux", model="someone/tiny", device="cpu", steps=1)
    with pytest.raises(ModelError, match="non-commercial use only"):
        make_engine(settings)
    assert hub.weights == set()
    # The empty prompt is no part of what is published; without it Qwen3 would be downloaded.
    shutil.copy(model / "empty_prompt.safetensors", tmp_path / "cache")
    make_engine(replace(settings, accept_noncommercial=True))
    assert hub.weights == {"model.safetensors", "ae_encoder.safetensors", "empty_prompt.safetensors"}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mcap")
    pytest.importorskip("rosbags")
    from mf_ros.cli.main import main

    path = tmp_path_factory.mktemp("bag") / "sim.mcap"
    size = ["--width", "96", "--height", "54", "--rings", "16", "--columns", "360", "--seconds", "0.5"]
    assert main(["simulate", "--out", str(path), *size, "--json"]) == 0
    return path


def test_replay_and_evaluate_run_it(
    model: Path, bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mf_ros.cli.main import main

    asked = toys.blocked_network(monkeypatch)
    named = ["--engine", "flux", "--model", str(model), "--engine.steps", "1", "--engine.device", "cpu"]
    capsys.readouterr()
    assert main(["replay", str(bag), *named, "--out", str(tmp_path / "out")]) != 0
    assert "non-commercial use only" in capsys.readouterr().err
    accepted = [*named, "--accept-noncommercial"]
    assert main(["replay", str(bag), *accepted, "--out", str(tmp_path / "out"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames_out"] == summary["frames_in"] > 0
    assert summary["engine"] == "flux" and summary["engine_details"]["licence"] == "cc-by-nc-4.0"
    assert (tmp_path / "out" / "out.mcap").stat().st_size > 0 and (tmp_path / "out" / "report.html").is_file()
    assert main(["evaluate", str(bag), *accepted, "--lines", "4", "--max-frames", "1", "--json"]) == 0
    rows = {(row["engine"], row["input"]) for row in json.loads(capsys.readouterr().out)}
    assert {engine for engine, _ in rows} >= {"flux", "classical"} and ("flux", "none") in rows
    assert asked == []
