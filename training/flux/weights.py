"""What a FLUX.2 network starts from: a released one with depth, one of an earlier run, or a text-to-image base."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Mapping

from torch import Tensor

from mf_ros.errors import ConfigError, ModelError
from mf_ros.licences import UNKNOWN, is_non_commercial
from mf_ros.model.flux2 import Flux2Config
from mf_ros.model.flux2.config import OFFICIAL_VARIANTS
from mf_ros.model.flux2.files import read_description
from mf_ros.model.flux2.klein import KleinTensors, is_klein, open_klein
from mf_ros.model.flux2.vae import ENCODER, WHOLE
from mf_training.checkpoints import Weights, best_checkpoint, latest_checkpoint, read_json, stored_weights, weight_files
from mf_training.config import TrainConfig

PREFIX = "dit."
"""Of the names in released files."""

_STATE = "state.json"


class _Derived(Weights):
    """Tensors that another mapping makes."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def is_flux(folder: Path) -> bool:
    """Whether a model's folder holds a network of this kind, as released or exported.

    Raises:
        ModelError: its description is damaged.
    """
    description = read_description(folder)
    return "flux2" in description.document or description.variant in OFFICIAL_VARIANTS


def flux_weights(source: Path, sizes: Flux2Config) -> Weights:
    """Weights by the names of the network; of a text-to-image network those of a fresh depth stream too.

    Args:
        source: a folder as released or exported, a run's folder, a checkpoint, a file of weights, or a FLUX.2 [klein].
        sizes: of the network.

    Raises:
        CheckpointError: there are none, or only those of adapters.
        ModelError: tensors of a text-to-image network are missing or not known.
    """
    if is_klein(source):
        return _Derived(KleinTensors(open_klein(source), sizes))
    return stored_weights(source, PREFIX)


def flux_files(source: Path) -> List[Path]:
    """The files of those weights.

    Raises:
        CheckpointError: there are none.
    """
    if is_klein(source):
        return sorted({each.file for each in open_klein(source).tensors.values()})
    return weight_files(source)


def parts_folder(config: TrainConfig) -> Path:
    """Where the autoencoder and the empty prompt lie.

    Raises:
        ConfigError: neither ``flux.parts`` nor ``init`` names a folder that holds them.
    """
    named = config.flux.parts or config.init
    if not named:
        raise ConfigError(
            "A network of the kind flux2 needs its autoencoder and the empty prompt: name their folder with flux.parts="
            "FOLDER, or the weights to start from with init=FOLDER."
        )
    path = Path(named).expanduser()
    if not path.exists():
        raise ConfigError(f"There is no {path}: name the weights to start from with init=FOLDER.")
    folder = path if path.is_dir() else path.parent
    # The folder of the transformer alone lies in that of the whole.
    for place in (folder, folder.parent):
        if (place / ENCODER).is_file() or (place / WHOLE).is_file():
            return place
    raise ConfigError(
        f"{folder} holds no autoencoder ({ENCODER} or {WHOLE}): name the folder that does with flux.parts=FOLDER."
    )


def accepted_licence(config: TrainConfig) -> str:
    """The licence of the weights to start from, empty without any.

    Raises:
        ConfigError: it forbids commercial use, and that was not accepted.
    """
    if not config.init:
        return ""
    licence = _licence(Path(config.init).expanduser())
    if is_non_commercial(licence) and not config.flux.accept_noncommercial:
        raise ConfigError(
            f"The licence of the weights {config.init} is {licence}: non-commercial use only, and so is what is "
            "trained from them. To train under these terms, set flux.accept_noncommercial=true."
        )
    return licence


def _licence(source: Path) -> str:
    if is_klein(source):
        return open_klein(source).licence or UNKNOWN
    folder = source if source.is_dir() else source.parent
    last = best_checkpoint(folder) or latest_checkpoint(folder)
    state = (folder if last is None else last.path) / _STATE
    if state.is_file():
        parent = (read_json(state).get("sources") or {}).get("parent")
        found = parent.get("licence") if isinstance(parent, dict) else None
        return found if isinstance(found, str) and found else UNKNOWN
    try:
        return read_description(folder).licence or UNKNOWN
    except ModelError as error:
        raise ConfigError(f"init={source}: {error}") from error
