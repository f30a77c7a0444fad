"""Graphs of other precisions: written from the same weights, calibrated on procedural scenes, refused when worse."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
import onnxruntime
from model_folders import copied_model, tiny_model

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.engine.bundle import GRAPH, GRAPHS, PLAIN, WEIGHTS, load_bundle
from mf_ros.engine.torch_backend import load_network
from mf_ros.errors import ModelError
from mf_training import export_again as again
from mf_training import quantise, variants
from mf_training.config import SceneSourceConfig
from mf_training.export import check_replaceable
from mf_training.quantise import LARGEST_CHANGE, Case, judge_int8, procedural_cases
from mf_training.variants import FILES, VARIANTS, with_figures, write_variants

FIGURES = {
    "float16": {"self_test": 0.0001},
    "int8": {"self_test": 0.01, "scenes": 4, "error": 0.1, "error_int8": 0.1003, "change": 0.0031},
}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return procedural_cases(7, 2)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory, cases: list[Case]) -> Path:
    """The tiny model with every graph there is."""
    patch = pytest.MonkeyPatch()
    patch.setattr(quantise, "procedural_cases", lambda first, number: cases)
    # The graph in single precision is the one there is; tracing it again takes ten seconds.
    data = (tiny_model() / GRAPH).read_bytes()
    patch.setattr(again, "write_graph", lambda net, path, opset, fused: path.write_bytes(data))
    folder = tmp_path_factory.mktemp("every") / "tiny"
    try:
        return again.export_again(tiny_model(), folder, variants=VARIANTS).folder
    finally:
        patch.undo()


def test_every_graph_is_of_the_same_weights_and_passes_the_self_test(every: Path) -> None:
    assert {GRAPH, *FILES} < {path.name for path in every.iterdir()}
    assert (every / WEIGHTS).read_bytes() == (tiny_model() / WEIGHTS).read_bytes()
    for precision in ("float32", "float16", "int8"):
        made = make_engine(EngineConfig(name="onnx", model=str(every), device="cpu", precision=precision))
        details = made.describe()
        assert details["precision"] == precision and "passed" in details["self_test"]


def test_figures_stand_in_the_description_and_on_the_card(every: Path) -> None:
    figures = json.loads((every / "config.json").read_text())["graphs"]
    assert figures["int8"]["change"] <= LARGEST_CHANGE and figures["int8"]["scenes"] == 2
    assert figures["int8"]["error"] > 0 and set(figures) == {"float16", "int8"}
    card = (every / "README.md").read_text()
    assert (
        "- `engine.precision: int8`, for CPUs: error of log depth" in card and "- `engine.precision: float16`" in card
    )
    assert load_bundle(str(every)).processing == load_bundle(str(tiny_model())).processing


def test_integers_compute_the_blocks_and_the_transformer_but_neither_pixels_nor_attention(every: Path) -> None:
    graph = onnx.load(every / GRAPHS["int8"]).graph
    made = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    integer = [node for node in convolutions if made[node.input[0]].op_type == "DequantizeLinear"]
    assert 0 < len(integer) < len(convolutions)
    assert all(".quarter." in node.input[1] or ".eighth." in node.input[1] for node in integer)
    before = Counter(made[node.input[0]].op_type for node in graph.node if node.op_type == "MatMul")
    assert before == {"DequantizeLinear": 3, "MultiHeadAttention": 1}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(every.parent / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(every / GRAPHS["int8"]), options, providers=["CPUExecutionProvider"])
    count = Counter(node.op_type for node in onnx.load(every.parent / "loaded.onnx").graph.node)
    assert count["QLinearConv"] == len(integer), "onnxruntime computes them with integers"
    assert count["MultiHeadAttention"] == 1


def test_half_precision_keeps_both_ends_of_the_network_in_single(every: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(every / GRAPHS["float16"])).graph
    kinds = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.output)}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert all(kinds[node.output[0]] == half for node in graph.node if node.op_type in ("Conv", "LayerNormalization"))
    assert all(kinds[node.output[0]] == single for node in graph.node if node.op_type in ("SpaceToDepth", "Pad", "Cos"))
    assert {kinds[each.name] for each in graph.output} == {single}


def test_the_plain_graph_has_operators_of_onnx_alone(every: Path) -> None:
    assert {node.domain for node in onnx.load(every / PLAIN).graph.node} == {""}


def test_integers_that_make_depth_worse_are_refused_with_the_figures(
    every: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quantise, "procedural_cases", lambda first, number: cases)
    # With the result in single precision as truth, all that integers change is an error.
    exact = make_engine(EngineConfig(name="onnx", model=str(every), device="cpu"))._backend
    truth = [dataclasses.replace(case, target=exact.step(case.inputs).depth[0, 0] + 1e-6) for case in cases]
    monkeypatch.setattr(quantise, "procedural_cases", lambda first, number: truth)
    with pytest.raises(
        ModelError,
        match=r"integer graph is refused: error of log depth 0\.0000 in float32, 0\.\d+ in int8 on 2 held-out "
        r"procedural scenes, \+\d+\.\d+% for the mean scene; at most \+2% is allowed; .*export without --int8",
    ):
        judge_int8(every)
    monkeypatch.setattr(
        variants, "write_int8", lambda network, path: path.write_bytes((every / path.name).read_bytes())
    )
    data = (every / GRAPH).read_bytes()
    monkeypatch.setattr(again, "write_graph", lambda net, path, opset, fused: path.write_bytes(data))
    with pytest.raises(ModelError, match="integer graph is refused"):
        again.export_again(every, tmp_path / "model", variants=("int8",))
    assert list(tmp_path.iterdir()) == [], "nothing of it is left"


def test_integers_that_nothing_can_be_said_of_are_refused(
    every: Path, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = [dataclasses.replace(case, measured=np.zeros_like(case.measured)) for case in cases]
    monkeypatch.setattr(quantise, "procedural_cases", lambda first, number: blind)
    with pytest.raises(ModelError, match="cannot be judged: no held-out scene"):
        judge_int8(every)


def test_calibration_and_gate_use_scenes_of_their_own() -> None:
    (calibrated, number), (judged, others) = quantise.CALIBRATION_SCENES, quantise.GATE_SCENES
    assert judged == SceneSourceConfig().heldout_first_seed and others <= SceneSourceConfig().heldout
    assert calibrated > judged + SceneSourceConfig().heldout and number > 0


def test_procedural_cases_are_the_same_every_time_and_have_returns(cases: list[Case]) -> None:
    again = procedural_cases(7, 1)[0]
    np.testing.assert_array_equal(again.inputs.image, cases[0].inputs.image)
    np.testing.assert_array_equal(again.target, cases[0].target)
    assert again.inputs.image.shape == (1, 3, 192, 384) and abs(again.inputs.image).max() <= 1
    assert any((case.inputs.level < 1).any() and case.measured.any() for case in cases)


def test_the_card_says_it_once() -> None:
    card = "# nano\n\n- small\n- loaded by `engine.model` of mf_ros\n- trained\n"
    once = with_figures(card, FIGURES)
    assert once.splitlines()[4].startswith("- `engine.precision: float16`, for GPUs")
    assert (
        "error of log depth 0.1003 on 4 held-out procedural scenes, 0.1000 in single precision (+0.31% for the" in once
    )
    assert with_figures(once, FIGURES) == once and with_figures(once, {}) == card


def test_a_model_with_every_graph_may_be_replaced(every: Path) -> None:
    check_replaceable(every)


def test_no_further_graph_is_written_unless_asked_for(tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    assert write_variants(load_network(load_bundle(str(folder))), folder, ()) == {}
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_model().iterdir()}


def test_the_command_writes_the_graphs_of_a_model_again(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuses(source: Path, out: Path, **settings: object) -> object:
        asked.append((source, settings["variants"]))
        raise ModelError("enough")

    monkeypatch.setattr("mf_training.cli.export.export_again", refuses)
    assert run("export", tiny_model(), "--out", tmp_path / "new", "--float16", "--plain").code == 2
    assert run("export", "nano", "--out", tmp_path / "new", "--int8").code == 2
    assert asked[0] == (tiny_model(), ["float16", "plain"])
    assert asked[1][0].name == "nano" and asked[1][1] == ["int8"]
