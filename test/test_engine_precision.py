"""Precisions and what is prepared for each image size: a wrong result never becomes depth or passes in silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx
import onnxruntime
import torch
from model_folders import copied_model, frame, tiny_model

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.engine.backend import StepInput, StepOutput
from mf_ros.engine.buckets import MOST_SIZES, Bucketed, filled_up
from mf_ros.engine.bundle import GRAPH, GRAPHS, PLAIN, load_bundle
from mf_ros.engine.onnx_backend import CPU, CUDA, OUTPUTS, OnnxBackend
from mf_ros.engine.onnx_gpu import TENSORRT, TensorRTSteps
from mf_ros.errors import ModelError
from mf_training.graph import random_input


def engine(name: str, **settings: Any) -> Any:
    return make_engine(EngineConfig(name=name, model=str(tiny_model()), **{"device": "cpu", **settings}))


def shifted(inputs: StepInput, by: float = 0.0) -> StepOutput:
    """A step that says the prior, moved."""
    return StepOutput(inputs.prior + np.float32(by), inputs.level)


# What is prepared for each size.


def test_sizes_are_rounded_up_and_results_cut_back() -> None:
    asked: list[tuple[int, ...]] = []

    def prepare(inputs: StepInput) -> Callable[[StepInput], StepOutput]:
        asked.append(inputs.image.shape)
        return shifted

    inputs = random_input(48, 80)
    made = Bucketed(shifted, prepare, "a graph", 1e-3)(inputs)
    assert asked == [(1, 3, 64, 96)]
    np.testing.assert_array_equal(made.depth, inputs.prior)
    filled = filled_up(inputs)
    assert (filled.level[..., 48:, :] == 1).all() and (filled.depth[..., 48:, :] == 0).all(), "nothing is known there"
    np.testing.assert_array_equal(filled.image[..., 60, :80], inputs.image[..., 47, :])


def test_each_size_is_prepared_once_and_only_the_first_few() -> None:
    sizes: list[int] = []

    def prepare(inputs: StepInput) -> Callable[[StepInput], StepOutput]:
        sizes.append(inputs.depth.shape[-1])
        return shifted

    step = Bucketed(shifted, prepare, "a graph", 1e-3)
    for width in (32, 64, 32, 96, 128, 160, 192, 64):
        step(random_input(32, width))
    assert sizes == [32, 64, 96, 128] and len(sizes) == MOST_SIZES


def test_a_prepared_step_that_computes_something_else_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """As the TensorRT version whose scale drifted from frame to frame."""
    scale = iter((0.0, 0.05))
    step = Bucketed(shifted, lambda _: lambda inputs: shifted(inputs, next(scale)), "a TensorRT engine", 1e-2)
    inputs = random_input(32, 64)
    with caplog.at_level(logging.WARNING):
        made = [step(inputs) for _ in range(2)]
    for each in made:
        np.testing.assert_array_equal(each.depth, inputs.prior)
    assert "a TensorRT engine is not used for 64 x 32 pixels: its depth differs by up to 0.051" in caplog.text
    assert len(caplog.records) == 1, "said once"


def test_values_that_are_not_finite_are_not_used() -> None:
    step = Bucketed(shifted, lambda _: lambda inputs: shifted(inputs, np.nan), "a graph", 1e-2)
    assert np.isfinite(step(random_input(32, 64)).depth).all()


def test_a_preparation_that_fails_and_a_step_that_fails_later_fall_back(caplog: pytest.LogCaptureFixture) -> None:
    def fails(inputs: StepInput) -> Callable[[StepInput], StepOutput]:
        raise RuntimeError("no compiler\nfound")

    inputs = random_input(32, 64)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(Bucketed(shifted, fails, "torch.compile", 1e-3)(inputs).depth, inputs.prior)
    assert "torch.compile is not used for 64 x 32 pixels: no compiler found." in caplog.text
    calls = iter((True, True, False))

    def later(each: StepInput) -> StepOutput:
        if not next(calls):
            raise ModelError("out of memory")
        return shifted(each)

    step = Bucketed(shifted, lambda _: later, "a CUDA graph", 1e-3)
    for _ in range(3):
        np.testing.assert_array_equal(step(inputs).depth, inputs.prior)
    assert "a CUDA graph is not used for 64 x 32 pixels: out of memory." in caplog.text


# Precisions.


def test_a_precision_the_model_does_not_have_is_one_sentence() -> None:
    for precision, sentence in (
        ("int8", r"has no model_int8\.onnx: run mf-ros export with --int8, or set engine\.precision to auto"),
        ("float16", r"has no model_float16\.onnx: run mf-ros export with --float16"),
        ("bfloat16", "bfloat16, which onnxruntime does not run here: choose auto, or set engine.name to torch"),
    ):
        with pytest.raises(ModelError, match=sentence):
            engine("onnx", precision=precision)
    with pytest.raises(ModelError, match=r"int8, which torch does not run here: set engine\.name to onnx"):
        engine("torch", precision="int8")


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_torch_computes_in_the_precision_asked_for(precision: str, tolerance: float) -> None:
    made, usual = engine("torch", precision=precision), engine("torch")
    assert made.describe()["precision"] == precision and usual.describe()["precision"] == "float32"
    image, sparse, camera = frame()
    one, other = (each.estimate(image, sparse, camera).depth for each in (made, usual))
    np.testing.assert_allclose(one, other, rtol=tolerance)
    assert (precision == "float32") == bool((one == other).all()), "the setting has an effect"


def test_auto_is_single_precision_on_a_cpu_even_where_the_model_has_others(tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    for name in ("float16", "int8"):
        (folder / GRAPHS[name]).write_bytes(b"not read")
    backend = OnnxBackend(load_bundle(str(folder)), EngineConfig(device="cpu"))
    assert backend.describe()["precision"] == "float32" and backend.tolerance == 1e-3


def test_another_precision_of_another_network_fails_the_self_test(tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    graph = onnx.load(folder / GRAPH)
    (last,) = (node for node in graph.graph.node if "clean_depth" in node.output)
    last.output[0] = "before"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "wrong"))
    graph.graph.node.append(onnx.helper.make_node("Add", ["before", "wrong"], ["clean_depth"]))
    onnx.save(graph, folder / GRAPHS["int8"])
    with pytest.raises(ModelError, match=r"self-test of the model .* failed on onnxruntime .*int8: depth differs"):
        make_engine(EngineConfig(name="onnx", model=str(folder), device="cpu", precision="int8"))


def test_compiling_without_a_gpu_keeps_the_network_of_onnxruntime_as_it_is() -> None:
    details = engine("onnx", compile=True).describe()
    assert details["device"] == CPU and "passed" in details["self_test"]


def test_a_compiled_network_is_used_where_it_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[dict[str, Any]] = []

    def compile_(network: torch.nn.Module, **settings: Any) -> Any:
        compiled.append(settings)
        return lambda *tensors: network(*tensors)

    monkeypatch.setattr(torch, "compile", compile_)
    made = engine("torch", compile=True)
    image, sparse, camera = frame()
    depth = made.estimate(image, sparse, camera).depth
    np.testing.assert_allclose(depth, engine("torch").estimate(image, sparse, camera).depth, rtol=1e-4)
    assert compiled == [{"mode": None, "dynamic": False}], "once: the self-test has the same size"
    assert made.describe()["library"].endswith("with torch.compile")


# onnxruntime with a GPU, as far as it can be told without one.


class Value:
    """An array in the GPU's memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.copy()

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.shape == self.array.shape, "a CUDA graph fits one size"
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        return self.array


class Values:
    """onnxruntime's OrtValue."""

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, device: str, number: int) -> Value:
        assert (device, number) == ("cuda", 0)
        return Value(array)

    @staticmethod
    def ortvalue_from_shape_and_type(shape: list[int], kind: type, device: str, number: int) -> Value:
        assert (device, number) == ("cuda", 0)
        return Value(np.zeros(shape, kind))


class Options:
    """onnxruntime's RunOptions."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class Binding:
    """onnxruntime's IOBinding."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.values[name] = value

    bind_ortvalue_output = bind_ortvalue_input


class Session:
    """A session that says it runs on the GPU and computes on the CPU."""

    def __init__(self, runtime: Runtime, path: str, providers: list[Any]) -> None:
        self._names = [each if isinstance(each, str) else each[0] for each in providers]
        self._session = onnxruntime.InferenceSession(path, providers=[CPU])
        self._runtime = runtime
        self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

    def get_providers(self) -> list[str]:
        return self._names

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray], options: Any) -> Any:
        self._runtime.graphs.append("plain" if options is None else options.entries["gpu_graph_id"])
        return self._session.run(outputs, inputs)

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Options) -> None:
        self._runtime.graphs.append(options.entries["gpu_graph_id"])
        inputs = {name: value.array for name, value in binding.values.items() if name not in OUTPUTS}
        for name, value in zip(OUTPUTS, self._session.run(list(OUTPUTS), inputs), strict=True):
            binding.values[name].array[...] = value * self._runtime.scale


class Runtime:
    """onnxruntime as it is on a machine with a GPU; remembers what it was asked for."""

    __version__ = "9.9"
    OrtValue, RunOptions = Values, Options

    def __init__(self, *providers: str, refuses_graphs: bool = False, scale: float = 1.0) -> None:
        self.SessionOptions = onnxruntime.SessionOptions
        self.providers, self.refuses_graphs, self.scale = [*providers, CPU], refuses_graphs, scale
        self.graphs: list[str] = []
        self.opened: list[tuple[str, list[Any]]] = []

    def get_available_providers(self) -> list[str]:
        return self.providers

    def InferenceSession(self, path: str, options: object, providers: list[Any]) -> Session:
        if self.refuses_graphs and (CUDA, {"enable_cuda_graph": "1"}) in providers:
            raise RuntimeError("This session cannot use the graph capture feature")
        self.opened.append((Path(path).name, providers))
        return Session(self, path, providers)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Runtime, OnnxBackend]]:
    def open_(*providers: str, folder: Path | None = None, **settings: Any) -> tuple[Runtime, OnnxBackend]:
        names = {name: settings.pop(name) for name in ("refuses_graphs", "scale") if name in settings}
        runtime = Runtime(*providers, **names)
        monkeypatch.setattr("mf_ros.engine.onnx_backend.require_package", lambda module, extra: runtime)
        return runtime, OnnxBackend(load_bundle(str(folder or tiny_model())), EngineConfig(**settings))

    return open_


def test_a_cuda_graph_is_captured_for_each_size_and_replayed(on_gpu: Any) -> None:
    runtime, backend = on_gpu(CUDA, compile=True)
    plain = OnnxBackend(load_bundle(str(tiny_model())), EngineConfig())
    for size in ((32, 64), (64, 64), (32, 64)):
        inputs = random_input(*size)
        np.testing.assert_allclose(backend.step(inputs).depth, plain.step(inputs).depth, atol=1e-5)
    # Of each size two results are compared with one that is neither captured nor replayed.
    ours = [graph for graph in runtime.graphs if graph != "plain"]
    assert ours == ["1", "1", "-1", "1", "2", "2", "-1", "2", "1"]
    assert backend.describe()["device"] == f"{CUDA} with a CUDA graph"
    assert backend.tolerance == 1e-2, "TF32"


def test_results_of_a_cuda_graph_stay_as_they_are_when_the_next_image_comes(on_gpu: Any) -> None:
    _, backend = on_gpu(CUDA, compile=True)
    first = backend.step(random_input(32, 64)).depth
    kept = first.copy()
    backend.step(random_input(32, 64)._replace(prior=np.full((1, 1, 32, 64), 0.7, np.float32)))
    np.testing.assert_array_equal(first, kept)


def test_a_graph_that_cannot_be_captured_runs_without(on_gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        runtime, backend = on_gpu(CUDA, compile=True, refuses_graphs=True)
    backend.step(random_input(32, 64))
    assert "runs without CUDA graphs: onnxruntime cannot load" in caplog.text
    assert runtime.graphs == ["plain"] and backend.describe()["device"] == CUDA


def test_tensorrt_is_used_with_an_engine_per_size_that_is_kept(
    on_gpu: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        runtime, backend = on_gpu(TENSORRT, CUDA, tensorrt=True, cache_dir=str(tmp_path))
        backend.step(random_input(32, 64))
        backend.step(random_input(32, 64))
    (folder,) = (tmp_path / "tensorrt").iterdir()
    assert folder.name.startswith("tiny-64x32-") and len(caplog.records) == 1
    assert f"Building the TensorRT engine for 64 x 32 pixels: this takes minutes, once; it is kept in {folder}" in (
        caplog.text
    )
    _, (first, *rest) = runtime.opened[-1]
    name, options = first
    assert name == TENSORRT and rest == [CUDA, CPU] and options["trt_engine_cache_path"] == str(folder)
    assert options["trt_fp16_enable"] == "True"
    assert options["trt_profile_max_shapes"] == options["trt_profile_min_shapes"]
    assert "image:1x3x32x64,depth:1x1x32x64" in options["trt_profile_opt_shapes"]
    assert backend.describe()["device"] == f"{CUDA} with a TensorRT engine"


def test_a_tensorrt_engine_that_is_wrong_is_not_used(on_gpu: Any, tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        _, backend = on_gpu(TENSORRT, CUDA, tensorrt=True, cache_dir=str(tmp_path), scale=1.5)
        inputs = random_input(32, 64)
        made = backend.step(inputs)
    assert "a TensorRT engine is not used for 64 x 32 pixels: its depth differs" in caplog.text
    right = onnxruntime.InferenceSession(str(tiny_model() / GRAPH), providers=[CPU]).run([OUTPUTS[0]], inputs._asdict())
    np.testing.assert_allclose(made.depth, right[0], atol=1e-5)


def test_the_folder_of_an_engine_tells_model_size_precision_version_and_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, graph = EngineConfig(cache_dir=str(tmp_path)), tiny_model() / GRAPH
    other = copied_model(tmp_path) / GRAPH
    other.write_bytes(other.read_bytes() + b"\0")
    size = (1, 1, 32, 64)

    def folder(path: Path = graph, half: bool = True, shape: tuple[int, ...] = size, version: str = "9.9") -> Path:
        runtime = Runtime()
        monkeypatch.setattr(runtime, "__version__", version, raising=False)
        return TensorRTSteps(runtime, path, config, half, OUTPUTS).folder(shape)

    same = folder()
    assert same == folder()
    others = [folder(path=other), folder(half=False), folder(shape=(1, 1, 64, 32)), folder(version="9.10")]
    monkeypatch.setattr("mf_ros.engine.onnx_gpu.gpu_name", lambda: "another GPU")
    others.append(folder())
    monkeypatch.setattr("mf_ros.engine.onnx_gpu.tensorrt_version", lambda: "11.0")
    others.append(folder())
    assert len({same, *others}) == 7


def test_tensorrt_takes_the_graph_of_onnx_operators_where_there_is_one(on_gpu: Any, tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    (folder / PLAIN).write_bytes((folder / GRAPH).read_bytes())
    settings = {"tensorrt": True, "cache_dir": str(tmp_path / "cache")}
    runtime, backend = on_gpu(TENSORRT, CUDA, folder=folder, **settings)
    backend.step(random_input(32, 64))
    assert [name for name, _ in runtime.opened] == [GRAPH, PLAIN]


def test_tensorrt_that_is_not_there_is_said_once(on_gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    for providers in ((), (CUDA,)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            _, backend = on_gpu(*providers, tensorrt=True)
            backend.step(random_input(32, 64))
        (record,) = caplog.records
        assert "has no TensorRT: the network runs on" in record.message


def test_half_precision_is_taken_on_a_gpu_where_the_model_has_it(on_gpu: Any, tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    (folder / GRAPHS["float16"]).write_bytes((folder / GRAPH).read_bytes())
    runtime, backend = on_gpu(CUDA, folder=folder)
    assert runtime.opened[0][0] == GRAPHS["float16"] and backend.tolerance == 2e-2
    assert backend.describe()["precision"] == "float16"
    _, backend = on_gpu(CUDA, folder=folder, precision="float32")
    assert backend.describe()["precision"] == "float32 (TF32)"
    (folder / GRAPHS["int8"]).write_bytes(b"not read")
    with pytest.raises(ModelError, match=r"int8, which is for CPUs: set engine\.device to cpu"):
        on_gpu(CUDA, folder=folder, precision="int8")
