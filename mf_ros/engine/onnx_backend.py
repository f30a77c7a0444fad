"""Runs an exported network with onnxruntime, on an NVIDIA GPU or on the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List

import numpy as np

from mf_ros.core.config import EngineConfig
from mf_ros.engine.backend import StepInput, StepOutput, failure_text
from mf_ros.engine.buckets import Bucketed, Step
from mf_ros.engine.bundle import GRAPHS, PLAIN, Bundle
from mf_ros.engine.onnx_gpu import (
    CPU,
    CUDA,
    NO_GRAPH,
    TENSORRT,
    CapturedSteps,
    Provider,
    TensorRTSteps,
    cuda_providers,
)
from mf_ros.errors import ModelError, require_package

_log = logging.getLogger(__name__)

OUTPUTS = ("clean_depth", "log_scale")
"""Names of the graph's outputs; its inputs have those of ``StepInput``."""

_ERRORS_ONLY = 3
_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "int8": 5e-2}
# cuDNN may use TF32, which keeps ten bits of the mantissa.
_TF32_TOLERANCE = 1e-2


class OnnxBackend:
    """One network in onnxruntime.

    Args:
        bundle: the network.
        config: device, threads, precision, and what is prepared for each image size.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelError: the graph is missing, damaged, or not one of ours, or the GPU that was asked for cannot be used.
    """

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        ort = require_package("onnxruntime", extra="onnx")
        self._version = str(ort.__version__)
        wanted = _provider(ort, config.device)
        self._precision = _precision(bundle, config, wanted)
        path = bundle.file(GRAPHS[self._precision])
        self._captures = wanted == CUDA and config.compile
        self._session = self._open(ort, path, config, wanted)
        self._provider = str(self._session.get_providers()[0])
        if self._provider != wanted:
            text = f"onnxruntime could not start {wanted} and would use {self._provider}, which is slower"
            if config.device == "cuda":
                raise ModelError(f"{text}: check CUDA and cuDNN with mf-ros doctor, or set engine.device to auto.")
            _log.warning("%s: check CUDA and cuDNN with mf-ros doctor, or set engine.device to cpu.", text)
        _check_names(self._session, path)
        self._ort = ort
        self._step: Step = self._prepared(ort, bundle, config)

    @property
    def tolerance(self) -> float:
        if self._precision == "float32" and self._provider != CPU:
            return _TF32_TOLERANCE
        return _TOLERANCE[self._precision]

    def step(self, inputs: StepInput) -> StepOutput:
        """One denoising step.

        Raises:
            ModelError: onnxruntime failed.
        """
        return self._step(inputs)

    def describe(self) -> Dict[str, str]:
        """Library, provider and precision."""
        tf32 = " (TF32)" if self._precision == "float32" and self._provider != CPU else ""
        prepared = self._step.name if isinstance(self._step, Bucketed) else ""
        device = f"{self._provider} with {prepared}" if prepared else self._provider
        return {"library": f"onnxruntime {self._version}", "device": device, "precision": self._precision + tf32}

    def _open(self, ort: ModuleType, path: Path, config: EngineConfig, provider: str) -> Any:
        if provider == CPU:
            return _session(ort, path, config.threads, [CPU])
        if self._captures:
            try:
                return _session(ort, path, config.threads, cuda_providers(graphs=True))
            except ModelError as error:
                self._captures = False
                _log.warning("The network runs without CUDA graphs: %s", error)
        return _session(ort, path, config.threads, cuda_providers(graphs=False))

    def _prepared(self, ort: ModuleType, bundle: Bundle, config: EngineConfig) -> Step:
        """The plain step, or steps for each image size around it."""
        on_gpu = self._provider == CUDA
        if config.tensorrt and (not on_gpu or TENSORRT not in ort.get_available_providers()):
            _log.warning(
                "engine.tensorrt is set, but this onnxruntime or machine has no TensorRT: the network runs on %s.",
                self._provider,
            )
        elif config.tensorrt:
            plain = bundle.folder / PLAIN
            path = bundle.file(PLAIN) if plain.is_file() else bundle.file(GRAPHS["float32"])
            half = self._precision == "float16" or config.precision == "auto"
            engines = TensorRTSteps(ort, path, config, half, OUTPUTS)
            return Bucketed(self._plain, engines, "a TensorRT engine", max(_TOLERANCE["float16"], self.tolerance))
        if self._captures and on_gpu:
            graphs = CapturedSteps(ort, self._session, OUTPUTS)
            return Bucketed(self._plain, graphs, "a CUDA graph", self.tolerance)
        return self._plain

    def _plain(self, inputs: StepInput) -> StepOutput:
        options = None
        if self._captures:
            options = self._ort.RunOptions()
            options.add_run_config_entry("gpu_graph_id", str(NO_GRAPH))
        try:
            depth, log_scale = self._session.run(list(OUTPUTS), inputs._asdict(), options)
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise ModelError(f"The network failed on {self._provider}: {failure_text(error)}") from error
        return StepOutput(np.asarray(depth, np.float32), np.asarray(log_scale, np.float32))


def _session(ort: ModuleType, path: Path, threads: int, providers: List[Provider]) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    # Threads that wait for work by spinning take the cores from the robot's other processes, and from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise ModelError(f"onnxruntime cannot load {path}: {failure_text(error)}") from error


def _precision(bundle: Bundle, config: EngineConfig, provider: str) -> str:
    """The precision whose graph runs.

    Raises:
        ModelError: there is no graph of the precision that was asked for.
    """
    asked = config.precision
    if asked == "auto":
        half = provider == CUDA and (bundle.folder / GRAPHS["float16"]).is_file()
        return "float16" if half else "float32"
    if asked not in GRAPHS:
        raise ModelError(
            f"engine.precision is {asked}, which onnxruntime does not run here: "
            "choose auto, or set engine.name to torch."
        )
    if asked != "float32" and not (bundle.folder / GRAPHS[asked]).is_file():
        raise ModelError(
            f"engine.precision is {asked}, but the model {bundle.folder} has no {GRAPHS[asked]}: "
            f"run mf-ros export with --{asked}, or set engine.precision to auto."
        )
    if asked == "int8" and provider == CUDA:
        raise ModelError("engine.precision is int8, which is for CPUs: set engine.device to cpu, or precision to auto.")
    if asked == "float16" and provider == CPU:
        _log.warning("engine.precision is float16, which onnxruntime computes in float32 on a CPU, only slower.")
    return asked


def _provider(ort: ModuleType, device: str) -> str:
    """CUDA or the CPU; onnxruntime falls back from the first to the second by itself."""
    available = ort.get_available_providers()
    if device == "cpu" or (device == "auto" and CUDA not in available):
        return CPU
    if CUDA not in available:
        raise ModelError(
            f"engine.device is cuda, but this onnxruntime only has {', '.join(available)}: "
            "uninstall onnxruntime, then install its build for this machine's GPU, which mf-ros doctor names."
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    return CUDA


def _check_names(session: Any, path: Path) -> None:
    for what, found, wanted in (
        ("inputs", session.get_inputs(), StepInput._fields),
        ("outputs", session.get_outputs(), OUTPUTS),
    ):
        names = tuple(item.name for item in found)
        if set(names) != set(wanted) or any(item.type != "tensor(float)" for item in found):
            raise ModelError(
                f"{path} has the {what} {', '.join(names)} where float32 {', '.join(wanted)} are needed: "
                "it was not written by mf-ros export, or by another version."
            )
