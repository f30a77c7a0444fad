"""What the folder of somebody else's model says of its licence, and whether it may be used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, List, Optional, Sequence

import yaml

from mf_ros.core.documents import values_of_yaml
from mf_ros.errors import ModelError

UNKNOWN = "unknown"
"""Licence of a folder that names none."""

_CARD, _CONFIG = "README.md", "config.json"
_LARGEST_DOCUMENT = 16 * 2**20
_LARGEST_CARD = 65536
_LONGEST = 100
# Apple's licence for models (apple-amlr) is for research, which it says is not commercial.
_NON_COMMERCIAL = re.compile(r"(?<![a-z])nc(?![a-z])|non-?\s?commercial|amlr|research", re.IGNORECASE)
_NOTHING = ("", "other", "unknown", "none")


def licence_of(folder: Path) -> str:
    """The licence that a model's card ``README.md`` or ``config.json`` names; of several the one that counts."""
    return licence_that_counts([*_front_matter(folder / _CARD), *_config(folder / _CONFIG)])


def licence_that_counts(stated: Sequence[str]) -> str:
    """Of several licences one that forbids commercial use, else the first name that is more than "other"."""
    strict = [each for each in stated if is_non_commercial(each)]
    named = [each for each in stated if each.lower() not in _NOTHING]
    return next(iter([*strict, *named, *stated]), UNKNOWN)


def licences_in(document: Any) -> List[str]:
    """What the fields ``license_name`` and ``license`` of a mapping say, each in one line of bounded length."""
    if not isinstance(document, dict):
        return []
    found: List[Any] = []
    for name in ("license_name", "license"):
        value = document.get(name)
        found += value[:10] if isinstance(value, list) else [value]
    lines = (" ".join(each.split()) for each in found if isinstance(each, str))
    return ["".join(char for char in line if char.isprintable())[:_LONGEST] for line in lines if line]


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids commercial use."""
    return bool(_NON_COMMERCIAL.search(licence))


def licence_warning(model: str, licence: str, *, accepted: bool) -> Optional[str]:
    """What to warn of before a model is used, None where there is nothing.

    Args:
        model: what the model is called, for the message.
        licence: as ``licence_of`` gives it.
        accepted: the terms of licences that forbid commercial use are accepted.

    Raises:
        ModelError: the licence forbids commercial use, and that was not accepted.
    """
    if is_non_commercial(licence):
        stated = f"The licence of the model {model} is {licence}: non-commercial use only"
        if not accepted:
            raise ModelError(
                f"{stated}. To use it under these terms, set engine.accept_noncommercial: true "
                "(on the command line --accept-noncommercial)."
            )
        return f"{stated}."
    if licence.lower() in _NOTHING:
        return f"The model {model} does not name its licence: see whether it allows your use."
    return None


def _front_matter(card: Path) -> List[str]:
    """Licences in the YAML block with which a model card begins."""
    try:
        with card.open("rb") as file:
            text = file.read(_LARGEST_CARD).decode("utf-8", "replace")
        front = re.match(r"\ufeff?---\s*\n(.*?)\n---", text, re.DOTALL)
        return licences_in(values_of_yaml(front.group(1)) if front else {})
    except (OSError, yaml.YAMLError, ValueError):
        return []


def _config(path: Path) -> List[str]:
    try:
        if path.stat().st_size > _LARGEST_DOCUMENT:
            return []
        return licences_in(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return []
