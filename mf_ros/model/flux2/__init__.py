"""The network of Modality Forcing on FLUX.2 [klein] 9B: text, image and depth streams of one diffusion transformer.

Source: Modality Forcing (arXiv 2606.13676); tensors have their official names, so that released weights load as they
are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mf_ros.model.flux2.config import Flux2Config

if TYPE_CHECKING:
    from mf_ros.model.flux2.loading import load_flux2
    from mf_ros.model.flux2.network import Flux2Network, Flux2Prediction
    from mf_ros.model.flux2.sampler import Flux2Known, sample_flux2
else:
    _MODULES = {
        "Flux2Known": "sampler",
        "Flux2Network": "network",
        "Flux2Prediction": "network",
        "load_flux2": "loading",
        "sample_flux2": "sampler",
    }

    def __getattr__(name: str) -> object:
        """What needs torch is loaded when it is asked for, so that sizes can be read without torch."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = ["Flux2Config", "Flux2Known", "Flux2Network", "Flux2Prediction", "load_flux2", "sample_flux2"]
