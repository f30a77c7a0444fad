"""What is trained and on what; the loop is the same for every recipe, and every family of networks has one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from torch import Tensor, nn

from mf_ros.errors import ConfigError
from mf_training.checkpoints import Checkpoint, Weights, stored_weights, weight_files
from mf_training.config import DataConfig, TrainConfig
from mf_training.data import Batch, Collate, Part, SampleMaker
from mf_training.heldout import Predict, predicted_in_one_step
from mf_training.losses import LossConfig

if TYPE_CHECKING:
    import torch

    from mf_training.export import Exported

Loss = Callable[[nn.Module, Batch, "torch.Generator", LossConfig], Tuple[Tensor, Dict[str, Tensor]]]


@dataclass(frozen=True)
class Recipe:
    """What is trained and on what.

    Attributes:
        model_settings: completes the settings of a model, refusing unknown ones.
        build: makes the network of such settings.
        loss_of: one batch's loss and its terms.
        make_sample: turns a scene into a sample.
        collate: makes a batch of samples, tensors by name.
        open_parts: opens the sources of scenes.
        predict: depth of held-out samples.
        stored: reads the weights that ``init`` names.
        files: where those lie.
        licence: of those, empty where they name none.
    """

    model_settings: Callable[[Mapping[str, Any]], Dict[str, Any]]
    build: Callable[[Mapping[str, Any]], nn.Module]
    loss_of: Loss
    make_sample: SampleMaker
    collate: Collate
    open_parts: Callable[[DataConfig], List[Part]]
    predict: Predict = predicted_in_one_step
    stored: Callable[[Path], Weights] = stored_weights
    files: Callable[[Path], List[Path]] = weight_files
    licence: str = ""


class Kind(Protocol):
    """A family of networks: all that the trainer must know of it."""

    def settings(self, model: Mapping[str, Any]) -> Dict[str, Any]:
        """Complete settings of a network; unknown ones are refused with ``ConfigError``."""

    def build(self, model: Mapping[str, Any]) -> nn.Module:
        """The network of such settings, with random weights."""

    def recipe(self, config: TrainConfig) -> Recipe:
        """How it is trained; what is needed beside the network is looked for and read."""

    def activations(self, model: Mapping[str, Any], config: TrainConfig) -> int:
        """About how many bytes one backward pass keeps on each process."""

    def export(
        self,
        checkpoint: Checkpoint,
        out: Path,
        *,
        base: str,
        licence: str,
        metrics: Mapping[str, Any],
        graph_options: Sequence[str],
    ) -> Optional[Exported]:
        """Write a folder that an engine loads; None leaves it to the export of ONNX graphs.

        ``graph_options`` are what was asked for of that export alone: refused with ``ConfigError`` by others.
        """


KINDS = {"modality_forcing": "mf_training.own", "flux2": "mf_training.flux.kind"}
"""Modules by what ``kind`` in a model's settings says; each has a ``KIND``."""
DEFAULT_KIND = "modality_forcing"


def kind_of(model: Mapping[str, Any]) -> Kind:
    """The family that a model's settings are of; without ``kind``, this project's own network.

    Raises:
        ConfigError: there is no such family.
    """
    name = model.get("kind", DEFAULT_KIND)
    if name not in KINDS:
        raise ConfigError(f"model.kind is {name!r}: allowed is {' or '.join(KINDS)}.")
    kind: Kind = importlib.import_module(KINDS[name]).KIND
    return kind


def without_kind(model: Mapping[str, Any]) -> Dict[str, Any]:
    """The sizes alone."""
    return {name: value for name, value in model.items() if name != "kind"}
