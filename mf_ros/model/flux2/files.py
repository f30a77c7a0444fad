"""What lies in a folder of weights: found and checked from headers alone, before anything of size is read.

Only safetensors are read, whole or in shards; the layout is that of a Hugging Face model folder.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from mf_ros.errors import ModelError, require_package
from mf_ros.licences import UNKNOWN, licence_of, licence_that_counts, licences_in
from mf_ros.model.flux2.config import OFFICIAL_VARIANTS

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
OFFICIAL_LICENCE = "CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/)"
"""Of the released weights; it counts for every network of a released variant whose files name no licence."""

_PREFIX = "dit."
_SUFFIX = ".safetensors"
_LARGEST_HEADER = 16 * 2**20
_LARGEST_DOCUMENT = 16 * 2**20
_MOST_SHARDS = 1000
_MOST_TENSORS = 100_000
_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what its header says of it.

    Attributes:
        file: the safetensors file.
        name: its name in the file.
        shape: its shape.
        dtype: as safetensors names it, for example ``BF16``.
    """

    file: Path
    name: str
    shape: Tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, not yet read.

    Attributes:
        path: the file of weights, or of the index of its shards.
        variant: what ``config.json`` calls the network, or None without the file.
        licence: what the files call the licence, the official one where a released variant names none, or None.
        tensors: by the name that the network knows them by.
    """

    path: Path
    variant: Optional[str]
    licence: Optional[str]
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True)
class Description:
    """What lies beside weights and says what they are.

    Attributes:
        document: ``config.json``; empty without the file.
        variant: what it calls the network, or None.
        licence: what it or the model card calls the licence, the official one where a released variant names none, or
            None.
    """

    document: Mapping[str, Any]
    variant: Optional[str]
    licence: Optional[str]


def read_description(folder: Path) -> Description:
    """What ``config.json`` and the model card ``README.md`` in a folder say.

    Raises:
        ModelError: ``config.json`` is damaged, or its variant is no name.
    """
    path = folder / CONFIG
    config = _document(path) if path.is_file() else {}
    variant = config.get("variant")
    if variant is not None and not isinstance(variant, str):
        raise ModelError(f"{path}: 'variant' is {reprlib.repr(variant)}, a name is needed.")
    stated = licence_of(folder)
    official = OFFICIAL_LICENCE if variant in OFFICIAL_VARIANTS else None
    return Description(config, variant, official if stated == UNKNOWN else stated)


def open_checkpoint(path: Path) -> Checkpoint:
    """Find the weights and read what their headers say.

    Args:
        path: a folder with ``model.safetensors`` or ``model.safetensors.index.json``, or such a file itself.
            ``config.json`` and the model card ``README.md`` are looked for beside it.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: there are no such files, or they are damaged or cut short.
    """
    weights = _found(path)
    description = read_description(weights.parent)
    stated = [] if description.licence is None else [description.licence]
    tensors: Dict[str, StoredTensor] = {}
    for file in _shards(weights):
        found, licences = _header(file)
        stated += licences
        for each in found:
            name = each.name.removeprefix(_PREFIX)
            if name in tensors:
                raise ModelError(f"The weights {weights} hold the tensor {shown(name)} twice: download them again.")
            tensors[name] = each
    return Checkpoint(weights, description.variant, licence_that_counts(stated) if stated else None, tensors)


def open_tensors(file: Path) -> List[StoredTensor]:
    """What the header of one safetensors file says of its tensors.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: the file is damaged or cut short.
    """
    return _header(file)[0]


def shown(text: object) -> str:
    """What a file says, fit for one line of a message."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST_SHOWN and line.isprintable() else reprlib.repr(line)


def _found(path: Path) -> Path:
    if path.is_dir():
        for name in (WEIGHTS, INDEX):
            if (path / name).is_file():
                return path / name
        raise ModelError(f"The folder {path} holds neither {WEIGHTS} nor {INDEX}: download the weights into it.")
    if not path.is_file():
        raise ModelError(f"There are no weights at {path}: name a folder with {WEIGHTS}, or the file itself.")
    if not path.name.endswith((_SUFFIX, _SUFFIX + ".index.json")):
        raise ModelError(f"{path} is not a {_SUFFIX} file: other formats can run code when read, and are not opened.")
    return path


def _document(path: Path) -> Dict[str, Any]:
    """A JSON object of bounded size."""
    try:
        if path.stat().st_size > _LARGEST_DOCUMENT:
            raise ModelError(f"{path} is larger than {_LARGEST_DOCUMENT} bytes, too large for what it should be.")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({shown(error)}): download it again.") from error
    if not isinstance(document, dict):
        raise ModelError(f"{path} is not a JSON object: download it again.")
    return document


def _shards(weights: Path) -> List[Path]:
    """The files of tensors: the file itself, or those its index names, all in the same folder."""
    if weights.name.endswith(_SUFFIX):
        return [weights]
    placed = _document(weights).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise ModelError(f"{weights} has no 'weight_map': download it again.")
    names = sorted({each if isinstance(each, str) else "" for each in placed.values()})
    if len(names) > _MOST_SHARDS:
        raise ModelError(f"{weights} names {len(names)} files: at most {_MOST_SHARDS} are read.")
    for name in names:
        if not name.endswith(_SUFFIX) or "/" in name or "\\" in name:
            raise ModelError(f"{weights} names {reprlib.repr(name)}: a {_SUFFIX} file in its own folder is needed.")
        if not (weights.parent / name).is_file():
            raise ModelError(f"{weights} names {shown(name)}, which is not beside it: download that file too.")
    return [weights.parent / name for name in names]


def _header(file: Path) -> Tuple[List[StoredTensor], List[str]]:
    """The tensors of one file, and the licences it states."""
    safetensors = require_package("safetensors", extra="torch")
    try:
        _check_length(file)
        # The library checks that the tensors lie side by side and fill the file to its last byte.
        with safetensors.safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            names = list(opened.keys())
            if len(names) > _MOST_TENSORS:
                raise ModelError(f"{file} holds {len(names)} tensors: at most {_MOST_TENSORS} are read.")
            parts = {name: opened.get_slice(name) for name in names}
            tensors = [StoredTensor(file, name, tuple(p.get_shape()), p.get_dtype()) for name, p in parts.items()]
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"The weights {file} are damaged or cut short ({shown(error)}): download them again."
        ) from error
    return tensors, licences_in(metadata)


def _check_length(file: Path) -> None:
    """The library reads headers of up to 100 MB, far more than any network's."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
    if length > _LARGEST_HEADER:
        raise ModelError(f"{file} has a header of {length} bytes, so it is no safetensors file of a network.")
