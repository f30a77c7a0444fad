"""Small text files that someone else wrote: settings, descriptions of models, states of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Type

from mf_ros.errors import MfRosError


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
