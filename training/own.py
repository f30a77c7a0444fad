"""This project's own network, as the trainer knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping

from mf_ros.model import ModalityForcing, ModelConfig
from mf_training.activations import activation_bytes
from mf_training.checkpoints import Checkpoint
from mf_training.config import TrainConfig
from mf_training.data import open_parts
from mf_training.losses import loss_of
from mf_training.recipe import Recipe, without_kind
from mf_training.samples import collate, make_sample


class OwnKind:
    """The network of ``mf_ros.model`` on this package's samples and losses."""

    def settings(self, model: Mapping[str, Any]) -> Dict[str, Any]:
        return ModelConfig.from_mapping(without_kind(model)).to_mapping()

    def build(self, model: Mapping[str, Any]) -> ModalityForcing:
        return ModalityForcing(ModelConfig.from_mapping(without_kind(model)))

    def recipe(self, config: TrainConfig) -> Recipe:
        return Recipe(self.settings, self.build, loss_of, make_sample, collate, open_parts)

    def activations(self, model: Mapping[str, Any], config: TrainConfig) -> int:
        return activation_bytes(ModelConfig.from_mapping(without_kind(model)), config)

    def export(self, checkpoint: Checkpoint, out: Path, **options: Any) -> None:
        return None


KIND = OwnKind()
