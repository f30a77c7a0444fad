"""Which recordings an extraction is to read: paths, patterns, folders, lists and URLs."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mf_ros.bags.files import BAG_SUFFIXES, METADATA_NAME, as_path, find_files, natural_order
from mf_ros.bags.source import BagPath
from mf_ros.core.documents import bounded_text
from mf_ros.dataset.row import DatasetError
from mf_ros.errors import BagError, require_package

_log = logging.getLogger(__name__)

_DEEPEST = 8
_LARGEST_LIST = 64_000_000
_LONGEST_NAME = 200
_SAMPLE_BYTES = 2**16
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://")


@dataclass(frozen=True)
class BagSource:
    """One recording to extract.

    Attributes:
        path: absolute path or URL of the file, or of the rosbag2 folder.
        robot_id, site: where it comes from.
    """

    path: str
    robot_id: str
    site: str


def find_bags(
    given: Sequence[str], listed: Optional[Path] = None, robot_id: str = "", site: str = ""
) -> Tuple[BagSource, ...]:
    """The recordings behind paths, patterns and folders, each once, in natural order within a folder or pattern.

    A folder with a ``metadata.yaml`` is one recording; any other gives every recording in it and in the folders below.
    What is not there or cannot be looked at stays in the answer, so that it is reported without stopping the others.

    Args:
        given: paths, patterns with ``*``, ``?`` or ``[``, and URLs.
        listed: a file with one of these on each line, and, after tabs, its robot and its site; ``#`` starts a comment.
        robot_id: for recordings whose line names none; where it is empty, the name of the folder that holds them.
        site: for recordings whose line names none.

    Raises:
        DatasetError: the list cannot be read, or nothing was named.
    """
    entries = [(each, "", "") for each in given]
    if listed is not None:
        entries += list(_lines(listed))
    if not entries:
        raise DatasetError("No recording was named: give paths, patterns or folders, or a file with --list.")
    found: Dict[str, BagSource] = {}
    for text, robot, place in entries:
        for path in _expanded(text):
            absolute = str(path.absolute()) if isinstance(path, Path) else str(path)
            owner = robot or robot_id or path.absolute().parent.name or "robot"
            source = BagSource(absolute, owner[:_LONGEST_NAME], (place or site)[:_LONGEST_NAME])
            found.setdefault(absolute, source)
    return tuple(found.values())


def identify(path: str) -> Tuple[str, int]:
    """What tells a recording from others wherever it lies, and its size.

    Returns:
        SHA-256 over sizes, beginnings and ends of its files, and their bytes in all.

    Raises:
        BagError: there is none, or it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for file in find_files(path).paths:
        try:
            length = int(file.stat().st_size)
            with file.open("rb") as stream:
                head = stream.read(_SAMPLE_BYTES)
                stream.seek(max(length - _SAMPLE_BYTES, 0))
                tail = stream.read(_SAMPLE_BYTES)
        except OSError as error:
            raise BagError(f"{file} cannot be read: {error.strerror or error}.") from error
        size += length
        for part in (str(length).encode(), head, tail):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest(), size


def _lines(path: Path) -> Iterator[Tuple[str, str, str]]:
    try:
        text = bounded_text(path, _LARGEST_LIST, "list of recordings", DatasetError)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"The list {path} cannot be read: {error}.") from error
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            cells = [cell.strip() for cell in line.split("\t")] + ["", ""]
            yield cells[0], cells[1], cells[2]


def _expanded(text: str) -> Iterator[BagPath]:
    """The recordings behind one path, pattern or URL; one that has none as it is."""
    path = as_path(text)
    try:
        found = list(_matched(text, path))
    except Exception as error:
        # Clients of remote storage raise what they like; reading the path will say what is wrong.
        _log.debug("%s: %s", text, error)
        found = []
    yield from found or [path]


def _matched(text: str, path: BagPath) -> Iterator[BagPath]:
    if glob.has_magic(text) and not path.exists():
        matches = _remote_matches(text) if _REMOTE.match(text) else _local_matches(path)
        for match in sorted(matches, key=natural_order):
            yield from _expanded(match)
    elif path.is_dir():
        yield from _below(path, _DEEPEST)
    else:
        yield path.parent if path.name == METADATA_NAME else path


def _local_matches(pattern: Path) -> List[str]:
    return [str(match) for match in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))]


def _remote_matches(pattern: str) -> List[str]:
    core = require_package("fsspec.core", extra="remote")
    system, inside = core.url_to_fs(pattern)
    return [system.unstrip_protocol(match) for match in system.glob(inside)]


def _below(folder: BagPath, deepest: int) -> Iterator[BagPath]:
    entries = sorted(folder.iterdir(), key=lambda entry: natural_order(str(entry.name)))
    if any(entry.name == METADATA_NAME for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if entry.name.endswith(BAG_SUFFIXES):
                yield entry
        elif deepest:
            yield from _below(entry, deepest - 1)
