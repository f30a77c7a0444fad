"""The network, in torch: noise levels, streams, decoders, sampler."""

from mf_ros.model.config import ModelConfig
from mf_ros.model.network import ModalityForcing, Prediction

__all__ = ["ModalityForcing", "ModelConfig", "Prediction"]
