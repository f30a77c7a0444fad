"""Runs a network with torch, from its weights; needed where no exported graph will do."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Tuple

import numpy as np
import torch

from mf_ros.core.config import EngineConfig
from mf_ros.engine.backend import StepInput, StepOutput, failure_text
from mf_ros.engine.buckets import Bucketed, Step
from mf_ros.engine.bundle import WEIGHTS, Bundle
from mf_ros.engine.torch_device import torch_device
from mf_ros.errors import ConfigError, ModelError, require_package
from mf_ros.model import ModalityForcing, ModelConfig, Prediction

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}


class TorchBackend:
    """One network in torch.

    Args:
        bundle: the network.
        config: device, threads, precision, and whether to compile for each image size.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: weights are missing or damaged, or do not fit the description; there is no GPU to use, or no room
            on it.
    """

    def __init__(self, bundle: Bundle, config: EngineConfig) -> None:
        self._where = torch_device(config)
        network = self._where.bring(load_network(bundle).eval().requires_grad_(False))
        # The overload for memory formats is missing from torch's own types.
        self._network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._step: Step = functools.partial(self._run, self._network)
        if config.compile:
            self._step = Bucketed(self._step, self._compiled, "torch.compile", self.tolerance)

    @property
    def tolerance(self) -> float:
        return _TOLERANCE[self._where.dtype]

    def step(self, inputs: StepInput) -> StepOutput:
        """One denoising step.

        Raises:
            ModelError: torch failed, for example for lack of memory.
        """
        return self._step(inputs)

    def describe(self) -> Dict[str, str]:
        """Library, device and precision."""
        described = self._where.describe()
        if isinstance(self._step, Bucketed):
            described["library"] += f" with {self._step.name}"
        return described

    def _compiled(self, inputs: StepInput) -> Step:
        """The network compiled for inputs of this size, on a GPU as a CUDA graph."""
        mode = "reduce-overhead" if self._where.device.type == "cuda" else None
        return functools.partial(self._run, torch.compile(self._network, mode=mode, dynamic=False))

    def _run(self, network: Callable[..., Prediction], inputs: StepInput) -> StepOutput:
        device = self._where.device
        try:
            tensors = [torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in inputs]
            with torch.inference_mode(), self._where.autocast():
                result = network(*tensors)
            depth, log_scale = (each.float().cpu().numpy() for each in (result.depth, result.log_scale))
        except RuntimeError as error:
            raise ModelError(f"The network failed in torch on {device}: {failure_text(error)}") from error
        return StepOutput(depth, log_scale)


def load_network(bundle: Bundle) -> ModalityForcing:
    """The network of a bundle with its weights, float32, on the CPU.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: weights are missing or damaged, or do not fit the description.
    """
    safetensors = require_package("safetensors", extra="torch")
    path = bundle.file(WEIGHTS)
    try:
        config = ModelConfig.from_mapping(bundle.model)
        # Built without memory first: sizes that the weights do not bear out must not be allocated.
        with torch.device("meta"):
            wanted = {name: tuple(each.shape) for name, each in ModalityForcing(config).state_dict().items()}
    except (ConfigError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"{bundle.folder} describes a network that cannot be built: {error}") from error
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            _check_shapes({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, wanted, path)  # noqa: SIM118
            state: Dict[str, Any] = {name: file.get_tensor(name).float() for name in wanted}
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"The weights {path} are damaged ({error}): run mf-ros export again.") from error
    network = ModalityForcing(config)
    network.load_state_dict(state)
    return network


def _check_shapes(found: Mapping[str, Tuple[int, ...]], wanted: Mapping[str, Tuple[int, ...]], path: Path) -> None:
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            raise ModelError(
                f"The weights {path} do not fit the network that config.json describes: "
                f"{name} is {found.get(name, 'missing')}, not {wanted.get(name, 'part of it')}."
            )
