"""Where torch runs a network, and in which precision."""

from __future__ import annotations

import contextlib
from typing import ContextManager, Dict, NamedTuple, TypeVar

import torch

from mf_ros.core.config import EngineConfig
from mf_ros.engine.backend import failure_text
from mf_ros.errors import ModelError

Movable = TypeVar("Movable")

_PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TorchDevice(NamedTuple):
    """A device and the type that large matrix products are computed in there."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> ContextManager[None]:
        """Context in which networks with float32 weights compute in ``dtype``."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def bring(self, network: Movable) -> Movable:
        """The network, moved here.

        Raises:
            ModelError: there is no room for it.
        """
        try:
            moved: Movable = network.to(self.device)  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise ModelError(
                f"torch cannot bring the network to {self.device}: {failure_text(error)}; "
                "free memory there, or set engine.device to cpu."
            ) from error
        return moved

    def describe(self) -> Dict[str, str]:
        """Library, device and precision."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        precision = str(self.dtype).rpartition(".")[2]
        return {"library": f"torch {torch.__version__}", "device": name, "precision": precision}


def torch_device(config: EngineConfig) -> TorchDevice:
    """The device that the settings name, with as many threads as they say, and the precision: by default half on a GPU.

    Raises:
        ModelError: a GPU is asked for and there is none to use, or the precision is none that torch runs.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "engine.device is cuda, but torch sees no GPU it can use: check the driver with mf-ros doctor, "
            "or set engine.device to auto."
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    return TorchDevice(torch.device("cuda" if on_gpu else "cpu"), _precision(config.precision, on_gpu))


def _precision(name: str, on_gpu: bool) -> torch.dtype:
    if name in _PRECISIONS:
        return _PRECISIONS[name]
    if name != "auto":
        raise ModelError(
            f"engine.precision is {name}, which torch does not run here: set engine.name to onnx, or auto."
        )
    if not on_gpu:
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
