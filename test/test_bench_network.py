"""Benchmarks of networks: operations are as counted by hand, profiles are read right, engines are named in words."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mf_ros.bench.choice import chosen, default_words
from mf_ros.bench.engines import bench_engines, bound, kept_from_rate
from mf_ros.bench.flops import family, operations
from mf_ros.bench.machine import Ceilings, measure_ceilings
from mf_ros.bench.memory import engine_memory
from mf_ros.bench.products import PRODUCT_GRAPHS, products
from mf_ros.bench.profile import NetworkProfile, OperatorTime, profile_network, read_runs
from mf_ros.bench.street import cropped, make_street
from mf_ros.core.config import Config, EngineConfig, ProjectionConfig
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.engine import make_engine
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import ConfigError, ModelError

NANO = EngineConfig(name="onnx", device="cpu", threads=1, self_test=False)


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "by_hand"),
    [
        # A product of 5 x 7 with 7 x 3: 15 sums of 7 products.
        ("MatMul", [(5, 7), (7, 3)], [(5, 3)], 2 * 15 * 7),
        # Four heads, each 6 x 8 with 8 x 6.
        ("MatMul", [(1, 4, 6, 8), (1, 4, 8, 6)], [(1, 4, 6, 6)], 2 * 4 * 36 * 8),
        ("Gemm", [(2, 10), (10, 4), (4,)], [(2, 4)], 2 * 8 * 10),
        # The first factor is transposed: 10 is the inner length all the same.
        ("Gemm", [(10, 2), (10, 4)], [(2, 4)], 2 * 8 * 10),
        # 16 channels of 3 x 3 windows over 8 channels, at 20 x 30 places.
        ("Conv", [(1, 8, 20, 30), (16, 8, 3, 3), (16,)], [(1, 16, 20, 30)], 2 * 16 * 600 * 72),
        # Depthwise: a kernel sees one channel.
        ("Conv", [(1, 8, 20, 30), (8, 1, 5, 5)], [(1, 8, 20, 30)], 2 * 8 * 600 * 25),
        # Every input value is spread over 4 channels of 2 x 2.
        ("ConvTranspose", [(1, 8, 10, 10), (8, 4, 2, 2)], [(1, 4, 20, 20)], 2 * 800 * 16),
        ("MatMulInteger", [(5, 7), (7, 3)], [(5, 3)], 2 * 15 * 7),
        ("QLinearConv", [(1, 8, 4, 4), (), (), (6, 8, 3, 3)], [(1, 6, 4, 4)], 2 * 6 * 16 * 72),
        # 2 heads, 5 queries, 9 keys of length 4: scores, then the weighted sum.
        ("Attention", [(1, 2, 5, 4), (1, 2, 9, 4), (1, 2, 9, 4)], [(1, 2, 5, 4)], 2 * (2 * 5 * 9 * 4) * 2),
        # The same of 2 heads that lie beside each other: 5 queries and 9 keys of length 8.
        ("MultiHeadAttention", [(1, 5, 8), (1, 9, 8), (1, 9, 8)], [(1, 5, 8)], 2 * (5 * 9 * 8) * 2),
        ("Softmax", [(1, 4, 6, 6)], [(1, 4, 6, 6)], 0),
    ],
)
def test_operations_are_those_counted_by_hand(
    operator: str, inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], by_hand: float
) -> None:
    assert operations(operator, inputs, outputs) == by_hand
    assert bool(family(operator)) == (by_hand > 0)


def test_the_shipped_network_has_the_operations_that_torch_counts() -> None:
    pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from mf_ros.engine.bundle import load_bundle
    from mf_ros.model import ModalityForcing, ModelConfig

    height, width = 64, 96
    network = ModalityForcing(ModelConfig.from_mapping(load_bundle("nano").model)).eval()
    one, plane = torch.ones(1), torch.zeros(1, 1, height, width)
    inputs = (torch.zeros(1, 3, height, width), 0 * one, plane, plane, one, plane)
    # Some attention kernels hide their operations from the counter.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), flop_counter.FlopCounterMode(display=False) as counter:
        network(*inputs)

    image = np.zeros((height, width, 3), np.uint8)
    sparse = to_sparse_depth(*_returns(height, width))
    found = profile_network(
        lambda: make_engine(NANO), lambda engine: engine.estimate(image, sparse, _returns(height, width)[1]), frames=1
    )
    # The exporter leaves out the decoder of the image, which the engine does not need, and folds a few constants.
    assert found.gflop == pytest.approx(counter.get_total_flops() / 1e9, rel=0.05)


def _returns(height: int, width: int) -> Any:
    street = cropped(make_street(columns=400), width, height)
    return project_points(street.points, street.camera, ProjectionConfig()), street.camera


def test_a_profile_of_two_steps_has_two_runs_and_twice_the_operations() -> None:
    pytest.importorskip("onnxruntime")
    returns, camera = _returns(32, 64)
    image, sparse = np.zeros((32, 64, 3), np.uint8), to_sparse_depth(returns, camera)

    def profiled(word: str) -> NetworkProfile:
        (each,) = chosen([word], Config(), 1)
        return profile_network(
            lambda: make_engine(each.config), lambda engine: engine.estimate(image, sparse, camera), frames=2
        )

    one, two = profiled("nano"), profiled("nano,steps=2")
    assert (one.runs, two.runs) == (1, 2)
    assert two.gflop == pytest.approx(2 * one.gflop)
    assert sum(each.gflop for each in one.operators) == pytest.approx(one.gflop)
    assert sum(each.ms for each in one.operators) == pytest.approx(one.ms)
    assert [each.ms for each in one.operators] == sorted((each.ms for each in one.operators), reverse=True)


def test_an_engine_without_a_network_has_no_profile() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match="nothing to profile"):
        profile_network(ClassicalEngine, lambda engine: None, frames=1)


def test_profiling_leaves_onnxruntime_as_it_was() -> None:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession
    with pytest.raises(ModelError):
        profile_network(ClassicalEngine, lambda engine: None, frames=1)
    assert ort.InferenceSession is session


def test_nodes_belong_to_the_run_in_whose_time_they_ran(tmp_path: Path) -> None:
    def event(kind: str, name: str, ts: int, dur: int, **args: Any) -> dict[str, Any]:
        return {"cat": kind, "name": name, "ts": ts, "dur": dur, "args": args}

    events = [
        event("Session", "session_initialization", 0, 50),
        event("Node", "a_kernel_time", 110, 20, op_name="Add"),
        event("Node", "a_fence_before", 109, 1, op_name="Add"),
        event("Session", "model_run", 100, 90),
        event("Node", "a_kernel_time", 310, 40, op_name="Mul"),
        event("Session", "model_run", 300, 1000),
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    runs = read_runs(path)
    assert [(run.ms, [(node["op_name"], node["ms"]) for node in run.nodes]) for run in runs] == [
        (0.09, [("Add", 0.02)]),
        (1.0, [("Mul", 0.04)]),
    ]


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"cat": "Session", "name": "model_run"}]'])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="is not a profile of onnxruntime"):
        read_runs(path)


def test_the_stored_graphs_are_single_products_of_any_size() -> None:
    onnx = pytest.importorskip("onnx")
    for precision, operator in (("float32", "MatMul"), ("float16", "MatMul"), ("int8", "MatMulInteger")):
        model = onnx.load_model_from_string(base64.b64decode(PRODUCT_GRAPHS[precision]))
        onnx.checker.check_model(model, full_check=True)
        assert [node.op_type for node in model.graph.node] == [operator]
        assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["m", "k"]


def test_factors_on_a_device_are_bound_once_and_stay_there() -> None:
    ort = pytest.importorskip("onnxruntime")
    from mf_ros.bench.products import _bound_product

    session = ort.InferenceSession(base64.b64decode(PRODUCT_GRAPHS["float32"]), providers=["CPUExecutionProvider"])
    product = _bound_product(session, "float32", (4, 5, 6), "cpu")
    product.run()
    assert (product.precision, product.flops) == ("cpu_float32", 2.0 * 4 * 5 * 6)


def test_the_rate_is_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    from mf_ros.bench import machine

    tried = products(1)
    slow = next(each for each in tried if each.precision == "float32")
    monkeypatch.setattr(machine, "products", lambda threads: [slow])
    monkeypatch.setattr(machine, "_ROUNDS", 2)
    monkeypatch.setattr(machine, "_COPIED_BYTES", 2**20)
    ceilings, best = measure_ceilings(1)
    assert best == {"float32": slow} and ceilings.by == {"float32": slow.name}
    # 2 GFLOP in well under a minute, on anything that runs this; and no machine of today computes 10^15 in a second.
    assert 0.05 < ceilings.float32 < 1e6
    assert 0.01 < ceilings.copy_gb_s < 1e5


def test_an_operator_is_bound_by_the_ceiling_it_meets_first() -> None:
    machine = Ceilings(1, {"float32": 100.0}, {"float32": "x"}, copy_gb_s=10.0)
    assert bound(gflop=1.0, gb=0.01, ceilings=machine) == "compute"
    assert bound(gflop=0.0, gb=0.01, ceilings=machine) == "memory"


def test_what_keeps_a_network_from_the_rate_is_time_beyond_its_operations() -> None:
    operators = (OperatorTime("matrix products", 1, 30.0, 2.0, 0.1), OperatorTime("Softmax", 1, 15.0, 0.0, 0.1))
    network = NetworkProfile(1, 45.0, 2.0, "CPUExecutionProvider", operators)
    # 2 GFLOP at 100 GFLOP/s are 20 ms.
    assert kept_from_rate(network, 100.0) == [("Softmax", 15.0), ("matrix products", 10.0)]


def test_engines_are_named_by_words() -> None:
    classical, nano, steps = chosen(["classical", "nano", "onnx,steps=4,self_test=false"], Config(), 2)
    assert (classical.label, classical.config.name, classical.config.threads) == ("classical", "classical", 2)
    assert (nano.config.name, nano.config.model) == ("onnx", "nano")
    assert (steps.config.steps, steps.config.self_test) == (4, False)
    assert [each.label for each in chosen([], Config(), 1)] == list(default_words())


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("best_of_all", "There is no engine 'best_of_all'"),
        ("../weights", "There is no engine"),
        ("", "There is no engine ''"),
        ("nano,steps", "'steps' in the engine 'nano,steps' is no setting"),
        ("nano,stepps=4", "engine.stepps"),
        ("nano,steps=many", "engine.steps"),
        ("nano,steps=__import__('os')", "engine.steps"),
    ],
)
def test_a_word_that_names_no_engine_is_refused(word: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        chosen([word], Config(), 1)


def test_an_engines_memory_is_that_of_a_process_of_its_own() -> None:
    returns, camera = _returns(32, 64)
    held = np.ones(30_000_000)  # 240 MB that are none of the engine's
    found = engine_memory(
        EngineConfig(name="classical"),
        np.zeros((32, 64, 3), np.uint8),
        to_sparse_depth(returns, camera),
        camera,
        threads=1,
    )
    assert held[0] == 1.0
    if found is not None:
        assert found.loaded <= found.peak < 200.0


def test_engines_are_measured_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from mf_ros.bench import engines, machine

    monkeypatch.setattr(machine, "_ROUNDS", 1)
    monkeypatch.setattr(machine, "_COPIED_BYTES", 2**20)
    monkeypatch.setattr(engines, "_PRODUCT_S", 1e-3)
    monkeypatch.setattr(engines, "engine_memory", lambda *args: None)
    street = cropped(make_street(columns=400), 96, 64)
    result = bench_engines(chosen(["classical", "nano"], Config(), 1), street, repeats=5, budget_s=0.0)
    classical, nano = result.engines
    assert result.size == (96, 64) and result.returns > 20
    assert classical.network is None and classical.shares is None
    assert nano.network is not None and nano.shares is not None
    assert classical.ratio.value == 1.0 and nano.ratio.value > 1.0
    # Operations over time and rate: the network's own, over a whole frame that is longer than its run.
    gflops = nano.network.gflop / (nano.timing.median_ms / 1e3)
    assert nano.shares.frame.value == pytest.approx(gflops / result.best_gflops, rel=1e-6)
    assert result.rounds_gflops <= result.best_gflops
