"""Runs an exported network with onnxruntime, on an NVIDIA GPU or on the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List

import numpy as np

from mf_ros.core.config import EngineConfig
from mf_ros.engine.backend import StepInput, StepOutput, failure_text
from mf_ros.engine.bundle import GRAPH, Bundle
from mf_ros.errors import ModelError, require_package

_log = logging.getLogger(__name__)

OUTPUTS = ("clean_depth", "log_scale")
"""Names of the graph's outputs; its inputs have those of ``StepInput``."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_ERRORS_ONLY = 3
# cuDNN may use TF32, which keeps ten bits of the mantissa.
_TOLERANCE = {CPU: 1e-3, CUDA: 1e-2}


class OnnxBackend:
    """One onnxruntime session.

    Args:
        bundle: the network.
        config: device and threads.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelError: the graph is missing, damaged, or not one of ours, or the GPU that was asked for cannot be used.
    """

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        ort = require_package("onnxruntime", extra="onnx")
        path = bundle.file(GRAPH)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = config.threads
        wanted = _providers(ort, config.device)
        try:
            self._session = ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise ModelError(f"onnxruntime cannot load {path}: {failure_text(error)}") from error
        self._provider = str(self._session.get_providers()[0])
        if self._provider != wanted[0]:
            text = f"onnxruntime could not start {wanted[0]} and would use {self._provider}, which is slower"
            if config.device == "cuda":
                raise ModelError(f"{text}: check CUDA and cuDNN with mf-ros doctor, or set engine.device to auto.")
            _log.warning("%s: check CUDA and cuDNN with mf-ros doctor, or set engine.device to cpu.", text)
        self._version = str(ort.__version__)
        _check_names(self._session, path)

    @property
    def tolerance(self) -> float:
        return _TOLERANCE.get(self._provider, max(_TOLERANCE.values()))

    def step(self, inputs: StepInput) -> StepOutput:
        """One denoising step.

        Raises:
            ModelError: onnxruntime failed.
        """
        try:
            depth, log_scale = self._session.run(list(OUTPUTS), inputs._asdict())
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise ModelError(f"The network failed on {self._provider}: {failure_text(error)}") from error
        return StepOutput(np.asarray(depth, np.float32), np.asarray(log_scale, np.float32))

    def describe(self) -> Dict[str, str]:
        """Library, provider and precision."""
        precision = "float32" if self._provider == CPU else "float32 (TF32)"
        return {"library": f"onnxruntime {self._version}", "device": self._provider, "precision": precision}


def _providers(ort: ModuleType, device: str) -> List[str]:
    """What to try, in order; onnxruntime falls back along the list by itself."""
    available = ort.get_available_providers()
    if device == "cpu" or (device == "auto" and CUDA not in available):
        return [CPU]
    if CUDA not in available:
        raise ModelError(
            f"engine.device is cuda, but this onnxruntime only has {', '.join(available)}: "
            "run pip uninstall onnxruntime, then pip install 'mf_ros[onnx-gpu]'."
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip installed
    return [CUDA, CPU]


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
