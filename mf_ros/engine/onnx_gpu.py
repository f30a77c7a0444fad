"""onnxruntime on an NVIDIA GPU: where arrays lie, CUDA graphs, and TensorRT engines that are kept."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from mf_ros.core.config import EngineConfig
from mf_ros.core.types import FloatArray
from mf_ros.engine.backend import StepInput, StepOutput

_log = logging.getLogger(__name__)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

Provider = Union[str, Tuple[str, Dict[str, str]]]

NO_GRAPH = -1
"""Number of a run that onnxruntime neither captures nor replays."""

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_BOARD = Path("/proc/device-tree/model")
_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
_LONGEST_NAME = 80


def cuda_providers(*, graphs: bool) -> List[Provider]:
    """CUDA, with graphs that are captured per size where asked for."""
    return [(CUDA, {"enable_cuda_graph": "1"}) if graphs else CUDA, CPU]


class BoundStep:
    """Steps of one size, whose arrays stay at one place in the GPU's memory: what a CUDA graph needs.

    Args:
        ort: onnxruntime.
        session: of the network, on the GPU.
        inputs: of this size.
        outputs: names, depth first.
        graph: number of the CUDA graph of this size, or ``NO_GRAPH``.
    """

    def __init__(
        self, ort: ModuleType, session: Any, inputs: StepInput, outputs: Tuple[str, str], graph: int = NO_GRAPH
    ) -> None:
        self._session = session
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), "cuda", 0)
            for name, value in inputs._asdict().items()
        }
        shape = list(inputs.depth.shape)
        self._outputs = [ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cuda", 0) for _ in outputs]
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph))

    def __call__(self, inputs: StepInput) -> StepOutput:
        """One denoising step."""
        for name, value in inputs._asdict().items():
            self._inputs[name].update_inplace(np.ascontiguousarray(value))
        self._session.run_with_iobinding(self._binding, self._options)
        depth, log_scale = (_on_cpu(each) for each in self._outputs)
        return StepOutput(depth, log_scale)


class CapturedSteps:
    """Makes a step with a CUDA graph of its own for each size."""

    def __init__(self, ort: ModuleType, session: Any, outputs: Tuple[str, str]) -> None:
        self._ort, self._session, self._outputs = ort, session, outputs
        self._numbers = itertools.count(1)

    def __call__(self, inputs: StepInput) -> BoundStep:
        """A step for inputs of this size."""
        return BoundStep(self._ort, self._session, inputs, self._outputs, next(self._numbers))


class TensorRTSteps:
    """Makes a step with a TensorRT engine for each size; engines are kept for the next start.

    Args:
        ort: onnxruntime.
        graph: the ONNX file.
        config: folder of the engines.
        half: compute in half precision.
        outputs: names, depth first.
    """

    def __init__(
        self, ort: ModuleType, graph: Path, config: EngineConfig, half: bool, outputs: Tuple[str, str]
    ) -> None:
        self._ort, self._graph, self._half, self._outputs = ort, graph, half, outputs
        self._root = Path(config.cache_dir).expanduser() / "tensorrt"
        self._hash = _sha256(graph)

    def folder(self, size: Tuple[int, ...]) -> Path:
        """Where the engine of a size lies; another model, GPU, version or precision has another folder."""
        version, tensorrt = self._ort.__version__, tensorrt_version()
        parts = (self._hash, gpu_name(), version, tensorrt, "float16" if self._half else "float32", str(size[-2:]))
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        return self._root / f"{self._graph.parent.name}-{size[-1]}x{size[-2]}-{key}"

    def providers(self, size: Tuple[int, ...]) -> List[Provider]:
        """TensorRT for one size, with CUDA for what it cannot compute."""
        folder = str(self.folder(size))
        # The engine is for this size alone, so that TensorRT may choose its kernels for it.
        height, width = size[-2:]
        channels = {"image": 3, "depth": 1, "level": 1, "prior": 1}
        shapes = ",".join(f"{name}:1x{count}x{height}x{width}" for name, count in channels.items())
        profile = {f"trt_profile_{end}_shapes": shapes for end in ("min", "opt", "max")}
        options = {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
            "trt_fp16_enable": str(self._half),
            **profile,
        }
        return [(TENSORRT, options), CUDA, CPU]

    def __call__(self, inputs: StepInput) -> BoundStep:
        """A step for inputs of this size.

        Raises:
            RuntimeError: onnxruntime left TensorRT out.
        """
        size = inputs.depth.shape
        folder = self.folder(size)
        if not folder.is_dir():
            _log.warning(
                "Building the TensorRT engine for %d x %d pixels: this takes minutes, once; it is kept in %s.",
                size[-1],
                size[-2],
                folder,
            )
            folder.mkdir(parents=True, mode=0o700)
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        session = self._ort.InferenceSession(str(self._graph), options, providers=self.providers(size))
        if session.get_providers()[0] != TENSORRT:
            raise RuntimeError("onnxruntime could not start TensorRT: install the version that it was built with")
        return BoundStep(self._ort, session, inputs, self._outputs)


def gpu_name() -> str:
    """Name of the first NVIDIA GPU, or of the board it is part of; ``unknown`` where neither can be read."""
    for path in (*sorted(_NVIDIA.glob("*/information")), _BOARD):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        model = next((line for line in text.splitlines() if line.startswith("Model:")), text)
        return model.partition(":")[2].strip()[:_LONGEST_NAME] or model.strip("\0 \n")[:_LONGEST_NAME]
    return "unknown"


def tensorrt_version() -> str:
    """Version of TensorRT's Python package, ``unknown`` where it was installed otherwise."""
    for name in _TENSORRT_PACKAGES:
        found = _installed(name)
        if found is not None:
            return found
    return "unknown"


def _installed(name: str) -> Optional[str]:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _on_cpu(value: Any) -> FloatArray:
    # A copy in any case: the next image overwrites what lies at the output's place.
    array: FloatArray = np.array(value.numpy(), np.float32)
    return array


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
