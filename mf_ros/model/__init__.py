"""The network, in torch: noise levels, streams, decoders, sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_ros.model.config import ModelConfig

if TYPE_CHECKING:
    from mf_ros.model.network import ModalityForcing, Prediction
else:

    def __getattr__(name: str) -> object:
        """What needs torch is loaded when it is asked for, so that sizes can be read without torch."""
        if name not in ("ModalityForcing", "Prediction"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from mf_ros.model import network

        return getattr(network, name)


__all__ = ["ModalityForcing", "ModelConfig", "Prediction"]
