"""Small text files that someone else wrote: settings, descriptions of models, states of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Type

import yaml

from mf_ros.errors import MfRosError

_MOST_VALUES = 250_000


def values_of_yaml(text: str) -> Any:
    """What a YAML text holds, whose aliases may repeat no more than can be written out.

    A few lines of aliases that name one another stand for more values than any memory holds; merging or printing
    them would never end.

    Raises:
        yaml.YAMLError: it is not YAML, is nested too deep, or stands for too many values.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deep") from error


class _Loader(yaml.SafeLoader):
    def get_single_node(self) -> Any:
        node = super().get_single_node()
        # Here aliases are still references, and a mapping that is merged is not copied yet.
        _count(node, {})
        return node


def _count(node: Any, known: Dict[int, int]) -> int:
    """Values that a node stands for with its aliases written out."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_VALUES + 1  # what holds itself has no end
    parts = (part for item in node.value for part in (item if isinstance(item, tuple) else (item,)))
    count = 1 + sum(_count(part, known) for part in parts)
    if count > _MOST_VALUES:
        raise yaml.YAMLError(f"it stands for more than {_MOST_VALUES} values")
    known[id(node)] = count
    return count


def bounded_text(path: Path, largest: int, what: str, refused: Type[MfRosError]) -> str:
    """The text of a file, which is not read when it is too large to be what it should be.

    Args:
        path: the file.
        largest: bytes that it may have.
        what: what it should be, for the message.
        refused: the error that is raised for one that is larger.

    Raises:
        MfRosError: of the kind ``refused``: the file is larger.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    if path.stat().st_size > largest:
        raise refused(f"{path} has more than {largest} bytes: that is no {what}.")
    return path.read_text(encoding="utf-8")
