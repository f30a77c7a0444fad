"""How much a backward pass of a FLUX.2 network keeps: a formula over its sizes."""

from __future__ import annotations

from mf_ros.model.flux2 import Flux2Config
from mf_training.config import TrainConfig


def activation_bytes(sizes: Flux2Config, config: TrainConfig) -> int:
    """Bytes kept."""
    return 0
