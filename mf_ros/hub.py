"""Models of the Hugging Face Hub: downloaded once, from then on off line; files that can run code are left behind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import List, Sequence

from mf_ros.errors import ModelError, require_package

SAFE_FILES = ("*.json", "*.safetensors", "README.md")
"""Descriptions and weights that are read, never run."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LARGEST_INDEX = 16 * 2**20
_LONGEST_TEXT = 300


def is_hub_id(name: str) -> bool:
    """Whether a name looks like OWNER/MODEL."""
    return bool(_ID.fullmatch(name))


def snapshot(
    repository: str, needed: Sequence[str], *, extra: str, files: Sequence[str] = SAFE_FILES, download: bool = True
) -> Path:
    """The folder of a model of the Hub in the cache of its library.

    Args:
        repository: for example ``Qwen/Qwen3-8B``.
        needed: patterns of files that must be there; the index of weights brings the shards it names.
        extra: the pip extra of mf_ros that installs huggingface_hub.
        files: patterns of files to download.
        download: False takes what was downloaded before and uses no network.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
        ModelError: files are missing, and cannot be downloaded.
    """
    hub = require_package("huggingface_hub", extra=extra)
    try:
        folder = Path(hub.snapshot_download(repository, allow_patterns=list(files), local_files_only=True))
        missing = missing_files(folder, needed)
    except (OSError, ValueError):
        # Nothing of it is in the cache, or only a part.
        missing = list(needed)
    if not missing:
        return folder
    if not download:
        raise ModelError(f"The model {repository} is not in the cache of the Hub: {', '.join(missing)} are missing.")
    try:
        folder = Path(hub.snapshot_download(repository, allow_patterns=list(files)))
    except Exception as error:  # errors of the library and of what it connects with have no common base but this
        raise _unreachable(repository, error) from error
    missing = missing_files(folder, needed)
    if missing:
        raise ModelError(f"The model {repository} of the Hub has no {', '.join(missing)}: it is of another kind.")
    return folder


def files_on_hub(repository: str, *, extra: str) -> List[str]:
    """Names of the files of a model of the Hub, as the Hub lists them.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
        ModelError: the Hub cannot be asked, or has no such model.
    """
    hub = require_package("huggingface_hub", extra=extra)
    try:
        return [str(name) for name in hub.list_repo_files(repository)]
    except Exception as error:  # errors of the library and of what it connects with have no common base but this
        raise _unreachable(repository, error) from error


def missing_files(folder: Path, needed: Sequence[str]) -> List[str]:
    """Patterns that no file of a folder fits, and shards that an index of weights names and that are not there."""
    missing: List[str] = []
    for pattern in needed:
        found = list(folder.glob(pattern))
        if not found:
            missing.append(pattern)
        for index in sorted({*found, *folder.glob(f"{pattern}.index.json")}):
            if index.name.endswith(".index.json"):
                shards = (index.with_name(name) for name in _shards(index))
                missing += [str(path.relative_to(folder)) for path in shards if not path.is_file()]
    return missing


def _shards(index: Path) -> List[str]:
    try:
        if index.stat().st_size > _LARGEST_INDEX:
            return []
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return []  # whoever reads the weights says what is wrong with it
    return sorted({name for name in placed if isinstance(name, str) and Path(name).name == name})


def _unreachable(repository: str, error: Exception) -> ModelError:
    text = " ".join(str(error).split())[:_LONGEST_TEXT] or type(error).__name__
    return ModelError(
        f"The model {repository} cannot be downloaded from the Hub ({text}): connect to it once (hf download "
        f"{repository}), or name a folder with its files."
    )
