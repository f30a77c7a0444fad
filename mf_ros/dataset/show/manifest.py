"""What became of each recording that a data set was to be made of, as the manifest of the extraction tells."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from mf_ros.dataset.row import DatasetError
from mf_ros.dataset.stores import MANIFEST

_LONGEST_LINE = 1_000_000
_LARGEST = 256_000_000
_LONGEST_TEXT = 500
_MOST_REASONS = 50
_MOST_NOTES = 10


@dataclass(frozen=True)
class Recording:
    """One recording.

    Attributes:
        bag: its path.
        bag_id, robot_id, site: as in the rows.
        status: done, rejected, failed, skipped or interrupted.
        reason: why it was rejected or failed.
        rows: made of it.
        seconds: of work.
        dropped: images that became no row, by reason.
        notes: what else is worth knowing, a sentence each.
    """

    bag: str
    bag_id: str
    robot_id: str
    site: str
    status: str
    reason: str
    rows: int
    seconds: float
    dropped: Dict[str, int]
    notes: Tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """All recordings.

    Attributes:
        recordings: the last entry of each, in the order of their first.
        unreadable: lines that are no entry.
        cut: the file is larger than what is read of it.
    """

    recordings: Tuple[Recording, ...]
    unreadable: int
    cut: bool

    def with_status(self, status: str) -> Tuple[Recording, ...]:
        """The recordings that came out so."""
        return tuple(each for each in self.recordings if each.status == status)

    def dropped(self) -> Dict[str, int]:
        """Images that became no row, by reason, the most frequent first."""
        total: Dict[str, int] = {}
        for each in self.recordings:
            for reason, count in each.dropped.items():
                total[reason] = total.get(reason, 0) + count
        return dict(sorted(total.items(), key=lambda item: -item[1])[:_MOST_REASONS])


def read_manifest(dataset: Path) -> Optional[Manifest]:
    """The manifest in a data set's folder, or beside its Parquet file; None where there is none.

    Raises:
        DatasetError: it cannot be read.
    """
    path = dataset / MANIFEST if dataset.is_dir() else dataset.with_name(f"{dataset.name}.{MANIFEST}")
    if not path.is_file():
        return None
    found: Dict[str, Recording] = {}
    unreadable, read = 0, 0
    try:
        with path.open("rb") as file:
            while read < _LARGEST and (line := file.readline(_LONGEST_LINE)):
                read += len(line)
                each = _recording(line)
                if each is not None:
                    # What was skipped is there already, and the line from then says more.
                    if each.status != "skipped" or (each.bag_id or each.bag) not in found:
                        found[each.bag_id or each.bag] = each
                elif line.strip():
                    unreadable += 1
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}.") from error
    return Manifest(tuple(found.values()), unreadable, read >= _LARGEST)


def _recording(line: bytes) -> Optional[Recording]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not (_text(entry, "bag") or _text(entry, "bag_id")):
        return None
    texts = {name: _text(entry, name) for name in ("bag", "bag_id", "robot_id", "site", "status", "reason")}
    return Recording(
        **texts,
        rows=_count(entry.get("rows")),
        seconds=_number(entry.get("seconds")),
        dropped=_dropped(entry),
        notes=_notes(entry.get("notes")),
    )


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value[:_LONGEST_TEXT] if isinstance(value, str) else ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else math.nan


def _count(value: Any) -> int:
    number = _number(value)
    return int(number) if number >= 0 else 0


def _dropped(entry: Mapping[str, Any]) -> Dict[str, int]:
    """By reason, or of any reason where only their number is told."""
    dropped = entry.get("dropped")
    if isinstance(dropped, dict):
        reasons = list(dropped.items())[:_MOST_REASONS]
        return {reason[:_LONGEST_TEXT]: _count(count) for reason, count in reasons if _count(count)}
    return {"": _count(dropped)} if _count(dropped) else {}


def _notes(value: Any) -> Tuple[str, ...]:
    notes = value[:_MOST_NOTES] if isinstance(value, list) else []
    return tuple(note[:_LONGEST_TEXT] for note in notes if isinstance(note, str))
