"""Where the files of a published depth model are, and whether its licence allows to run it."""

from __future__ import annotations

import contextlib
import fnmatch
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from mf_ros.core.config import EngineConfig
from mf_ros.errors import ModelError
from mf_ros.hub import files_on_hub, is_hub_id, missing_files, snapshot
from mf_ros.licences import licence_of, licence_warning

_log = logging.getLogger(__name__)

_DESCRIPTIONS = ("*.json", "*.txt", "README.md")
MODEL_WEIGHTS = "model*.safetensors"
"""Weights in one file, or in shards."""


@dataclass(frozen=True)
class Published:
    """A published model on this machine.

    Attributes:
        folder: its files.
        name: for tables.
        licence: as its card names it.
    """

    folder: Path
    name: str
    licence: str


def published_model(
    config: EngineConfig, described: Sequence[str], weights: Sequence[Sequence[str]], *, extra: str
) -> Published:
    """The model that ``config.model`` names: a folder, or OWNER/MODEL of the Hugging Face Hub.

    A model of the Hub is downloaded once, and used off line from then on. Its licence is looked at before its weights
    are downloaded.

    Args:
        config: the model, and whether licences that forbid commercial use are accepted.
        described: patterns of descriptions that must be there.
        weights: patterns of files of weights that must be there; of several such lists the first that a model has, and
            no others of its weights are downloaded.
        extra: the pip extra of mf_ros for engines of this kind.

    Raises:
        MissingDependencyError: a package is not installed.
        ModelError: there is no such model, files of it are missing, or its licence was not accepted.
    """
    model = config.model
    if _is_folder(model):
        folder = Path(model).expanduser().resolve()
        missing = [missing_files(folder, (*described, *each)) for each in weights]
        if all(missing):
            raise ModelError(
                f"The model {folder} has no {', '.join(missing[-1])}: it is of another kind, or incomplete."
            )
        return Published(folder, folder.name, _allowed(folder, config))
    if not is_hub_id(model):
        raise ModelError(
            f"engine.model is '{model}': the engine {config.name} needs the folder of a published model, or its id on "
            "the Hugging Face Hub (OWNER/MODEL), which is downloaded once."
        )
    licence = _allowed(snapshot(model, described, extra=extra, files=_DESCRIPTIONS), config)
    folder = _weights(model, described, weights, extra)
    return Published(folder, model.rpartition("/")[2], licence)


def _weights(model: str, described: Sequence[str], weights: Sequence[Sequence[str]], extra: str) -> Path:
    """The folder of a model of the Hub with one of several lists of weights: one that is there, else the first it has.

    Raises:
        ModelError: the model has none of them, or they cannot be downloaded.
    """

    def found(patterns: Sequence[str], *, download: bool) -> Path:
        files = (*_DESCRIPTIONS, *patterns)
        return snapshot(model, (*described, *patterns), extra=extra, files=files, download=download)

    for each in weights:
        with contextlib.suppress(ModelError):
            return found(each, download=False)
    names = files_on_hub(model, extra=extra) if len(weights) > 1 else []
    having = (each for each in weights if all(fnmatch.filter(names, pattern) for pattern in each))
    return found(next(having, weights[-1]), download=True)


def _is_folder(model: str) -> bool:
    try:
        return Path(model).expanduser().is_dir()
    except (OSError, RuntimeError):
        return False  # too long a name, or the home of an unknown user


def _allowed(folder: Path, config: EngineConfig) -> str:
    licence = licence_of(folder)
    warning = licence_warning(config.model, licence, accepted=config.accept_noncommercial)
    if warning is not None:
        _log.warning("%s", warning)
    else:
        _log.info("The licence of the model %s is %s.", config.model, licence)
    return licence
