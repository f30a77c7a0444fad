"""From a checkpoint to a model folder: everything in it describes the same network, or nothing is written."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("torch")
pytest.importorskip("safetensors")

import numpy as np
import onnx
import onnxruntime
import torch
from model_folders import copied_model, tiny_model
from safetensors.torch import load_file

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.engine.bundle import load_bundle
from mf_ros.engine.torch_backend import load_network
from mf_ros.errors import ModelError
from mf_ros.model import ModalityForcing, ModelConfig
from mf_training import export
from mf_training.checkpoints import CheckpointError, save_best, save_checkpoint
from mf_training.export import export_network, export_run, find_checkpoint, round_to_half
from mf_training.graph import random_input, write_graph

SIZES = ModelConfig(width=16, layers=1, heads=1, stem=(8, 8), blocks=(1, 1))
STATE = {"config": {"model": SIZES.to_mapping(), "out": "/home/someone/run"}}


def optimised(path: Path, folder: Path) -> onnx.GraphProto:
    """The graph as onnxruntime runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "loaded.onnx").graph


def network(fill: float) -> ModalityForcing:
    made = ModalityForcing(SIZES)
    with torch.no_grad():
        made.levels.image_gate.fill_(fill)
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the graph from the tiny model, which has the same sizes; tracing it again takes ten seconds."""
    data = (tiny_model() / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "write_graph", lambda net, path, opset, **more: path.write_bytes(data))
    source = load_network(load_bundle(str(tiny_model())))
    monkeypatch.setattr(export, "load_weights", lambda folder, into: into.load_state_dict(source.state_dict()))


def test_the_folder_holds_all_files_and_little_more_than_the_weights() -> None:
    sizes = {path.name: path.stat().st_size for path in tiny_model().iterdir()}
    assert set(sizes) == {"config.json", "model.safetensors", "model.onnx", "reference.npz", "README.md"}
    weights = sum(each.numel() for each in load_file(tiny_model() / "model.safetensors").values())
    assert sizes["model.safetensors"] < 2 * weights + 20_000
    # The structure of the graph takes its own room, but nothing of the sources and the machine is in it.
    assert sizes["model.onnx"] < 2 * weights + 200_000
    data = (tiny_model() / "model.onnx").read_bytes()
    assert b"/site-packages/" not in data and b".py" not in data


def test_whoever_runs_the_model_may_read_its_files() -> None:
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tiny_model().iterdir())


def test_the_graph_takes_any_size_in_patches_and_refuses_others() -> None:
    session = onnxruntime.InferenceSession(str(tiny_model() / "model.onnx"), providers=["CPUExecutionProvider"])
    for height, width in ((16, 16), (48, 208), (160, 32)):
        depth, log_scale = session.run(["clean_depth", "log_scale"], random_input(height, width)._asdict())
        assert depth.shape == log_scale.shape == (1, 1, height, width)
    image = onnx.load(tiny_model() / "model.onnx").graph.input[0]
    sides = [axis.dim_param for axis in image.type.tensor_type.shape.dim]
    assert sides[2:] == ["16*rows", "16*cols"]


def test_the_graph_is_read_by_onnxruntime_from_1_17_on() -> None:
    model = onnx.load(tiny_model() / "model.onnx")
    opsets = {each.domain: each.version for each in model.opset_import}
    assert model.ir_version <= 9 and opsets == {"": 20, "com.microsoft": 1}


def test_attention_and_its_norms_are_single_operators_when_the_graph_is_loaded(tmp_path: Path) -> None:
    loaded = optimised(tiny_model() / "model.onnx", tmp_path)
    count = Counter(node.op_type for node in loaded.node)
    assert count["MultiHeadAttention"] == 1 and count["RotaryEmbedding"] == 2
    assert count["SimplifiedLayerNormalization"] == 2 and count["Softmax"] == 0
    assert count["SpaceToDepth"] == 4


def test_a_plain_graph_holds_operators_of_onnx_alone_and_computes_the_same(tmp_path: Path) -> None:
    write_graph(load_network(load_bundle(str(tiny_model()))).eval(), tmp_path / "plain.onnx", 20)
    plain = onnx.load(tmp_path / "plain.onnx")
    assert {node.domain for node in plain.graph.node} == {""}
    inputs = random_input(48, 80)._asdict()
    results = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["clean_depth"], inputs)[0]
        for path in (tmp_path / "plain.onnx", tiny_model() / "model.onnx")
    ]
    np.testing.assert_allclose(*results, atol=2e-5)


def test_half_precision_weights_are_widened_once_when_the_graph_is_loaded(tmp_path: Path) -> None:
    stored = onnx.load(tiny_model() / "model.onnx").graph
    assert any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in stored.initializer)
    loaded = optimised(tiny_model() / "model.onnx", tmp_path)
    weights = {weight.name for weight in loaded.initializer}
    assert all(weight.data_type != onnx.TensorProto.FLOAT16 for weight in loaded.initializer)
    assert not [node for node in loaded.node if node.op_type == "Cast" and node.input[0] in weights]


def test_the_best_checkpoint_of_a_run_is_taken_else_the_last(tmp_path: Path) -> None:
    tensors = {"model": network(1).state_dict(), "ema": network(2).state_dict()}
    for step in (5, 10):
        last = save_checkpoint(tmp_path, step, tensors, STATE)
    assert find_checkpoint(tmp_path)[0] == last
    best = save_best(tmp_path, 5, network(3).state_dict(), STATE)
    assert find_checkpoint(tmp_path)[0] == best
    assert find_checkpoint(last)[0] == last
    (best / "ema.safetensors").unlink()
    assert find_checkpoint(tmp_path)[0] == last, "a best checkpoint that is not complete is passed over"


def test_averaged_weights_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(export, "export_network", lambda net, out, **more: taken.append(net.levels.image_gate.item()))
    tensors = {"model": network(1).state_dict(), "ema": network(2).state_dict()}
    export_run(save_checkpoint(tmp_path, 5, tensors, STATE), tmp_path / "out")
    assert taken == [2.0]


@pytest.mark.usefixtures("quick")
def test_a_run_is_exported_and_loaded_by_the_engine(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", 5, {"ema": network(1).state_dict()}, STATE)
    done = export_run(tmp_path / "run", tmp_path / "model", metrics={"Scores": [{"input": "8", "mae": 0.123456}]})
    assert done.difference < 1e-5 and done.parameters == sum(p.numel() for p in network(0).parameters())
    card = (done.folder / "README.md").read_text()
    assert "# model" in card and "| 8 | 0.1235 |" in card
    description = json.loads((done.folder / "config.json").read_text())
    assert description["training"]["steps"] == 5
    assert "/home/someone" not in (done.folder / "config.json").read_text()
    assert make_engine(EngineConfig(name="onnx", model=str(done.folder), device="cpu")).name == "mf-model"


@pytest.mark.usefixtures("quick")
def test_a_model_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    (folder / "README.md").write_text("of the model before")
    export_network(load_network(load_bundle(str(tiny_model()))), folder)
    assert (folder / "README.md").read_text().startswith("# ") and load_bundle(str(folder))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"also holds notes\.txt, which is no part of a model"):
        export_network(network(0), folder)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ['{"name": "my project"}', "{", '{"format": 1}'])
def test_a_folder_with_some_other_config_json_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match="something else than a model: name a new folder"):
        export_network(network(0), tmp_path)
    assert (tmp_path / "config.json").read_text() == content


@pytest.mark.usefixtures("quick")
def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    other = load_network(load_bundle(str(tiny_model())))
    with torch.no_grad():
        other.depth_decoder.head.bias += 0.1
    with pytest.raises(ModelError, match=r"differs from torch by up to 0\.\d+ of the depth \(0\.001 is allowed\)"):
        export_network(other, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_for_one_onnx_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mf_training.graph._MOST_PARAMETERS", 1000)
    with pytest.raises(ModelError, match="million parameters and cannot be exported: one ONNX file holds at most 2 GB"):
        export_network(network(0), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_training_that_diverged_are_refused() -> None:
    for value in (float("nan"), 1e6):
        with pytest.raises(ModelError, match=r"levels\.image_gate do not fit half precision"):
            round_to_half(network(value))


def test_every_file_is_of_the_same_rounded_weights() -> None:
    made = network(1 / 3)
    round_to_half(made)
    assert made.levels.image_gate.item() == np.float16(1 / 3)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run and no checkpoint"):
        find_checkpoint(tmp_path / "nothing")
    unsaid = save_checkpoint(tmp_path, 5, {"ema": network(1).state_dict()}, {})
    with pytest.raises(CheckpointError, match="does not say what network"):
        find_checkpoint(unsaid)
    for damaged in ("{", "[" * 100_000):
        (unsaid / "state.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="cannot be read as JSON"):
            find_checkpoint(unsaid)
    (unsaid / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not the state of a run"):
        find_checkpoint(unsaid)


def test_the_command_exports_and_refuses_in_one_line(run, tmp_path: Path, quick: None) -> None:
    save_checkpoint(tmp_path / "run", 5, {"ema": network(1).state_dict()}, STATE)
    outcome = run("export", tmp_path / "run", "--out", tmp_path / "model")
    assert outcome.code == 0 and "differs from torch by up to" in outcome.out
    outcome = run("export", tmp_path / "nothing", "--out", tmp_path / "model")
    assert outcome.code == 2 and "no run and no checkpoint" in outcome.error


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--calibrate"], "--calibrate"),
        (["--metrics", "scores.json", "--base", "before"], "--metrics and --base"),
        (["--licence", "MIT"], "--licence"),
    ],
)
def test_options_of_runs_are_refused_where_the_graphs_of_a_model_are_written_again(
    run, tmp_path: Path, options: list[str], named: str
) -> None:
    outcome = run("export", tiny_model(), "--out", tmp_path / "again", *options)
    assert outcome.code == 2 and f"the graphs alone are written again: leave {named} out" in outcome.error
    assert not (tmp_path / "again").exists()


def test_weights_cannot_be_those_of_another_network(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 5, {"ema": {"another": torch.zeros(3)}}, STATE)
    with pytest.raises(CheckpointError, match="another model"):
        export_run(path, tmp_path / "model")
