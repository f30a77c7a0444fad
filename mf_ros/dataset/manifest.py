"""What became of each recording: one line of JSON for each, added when it is known, in a file that is also the lock."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Dict, Literal, Mapping, Optional, Tuple

from mf_ros.dataset.row import DatasetError

Status = Literal["done", "rejected", "failed", "skipped", "interrupted"]

_LONGEST_LINE = 1_000_000


@dataclass(frozen=True)
class BagRecord:
    """What became of a recording.

    Attributes:
        bag: its absolute path or URL.
        bag_id: see ``Row``; "" when not even its files could be read.
        robot_id, site, day: see ``Row``.
        status: done; rejected, because it is unfit; failed, because something went wrong; skipped, because it is in the
            data set already; interrupted.
        reason: why it is not done, in a sentence.
        rows: that were made of it.
        images: that were read.
        dropped: images that became no row, by reason.
        notes: what else is worth knowing, a sentence each.
        gap_s: between its splits where it is split by time, seconds.
        bytes: of its rows as they are stored.
        read_bytes: size of the recording.
        seconds: of work.
    """

    bag: str
    bag_id: str = ""
    status: Status = "failed"
    reason: str = ""
    robot_id: str = ""
    site: str = ""
    day: str = ""
    rows: int = 0
    images: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()
    gap_s: float = 0.0
    bytes: int = 0
    read_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class TableBag:
    """A recording that has rows in a table.

    Attributes:
        robot_id, site, day: see ``Row``.
        rows: how many.
    """

    robot_id: str
    site: str
    day: str
    rows: int


class Manifest:
    """The manifest of a data set, open for adding; nobody else can open it meanwhile. Use it in a ``with`` statement.

    Args:
        path: of the file, which is made.

    Raises:
        DatasetError: it cannot be used, or another extraction has it.
    """

    def __init__(self, path: Path) -> None:
        self._last: Dict[str, Tuple[str, str, str]] = {}
        try:
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise DatasetError(f"{path} cannot be written: {error.strerror or error}.") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read()
        except BlockingIOError as error:
            self._file.close()
            raise DatasetError(f"Another extraction adds to {path.parent}: wait until it has ended.") from error
        except OSError as error:
            self._file.close()
            raise DatasetError(f"{path} cannot be used: {error.strerror or error}.") from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    def last(self, bag_id: str) -> Optional[Tuple[str, str]]:
        """Status and reason in the last line about a recording; None when there is none."""
        entry = self._last.get(bag_id)
        return None if entry is None else entry[:2]

    def ids_of(self, bag: str) -> Tuple[str, ...]:
        """Under which ids something was extracted from a path."""
        return tuple(bag_id for bag_id, entry in self._last.items() if entry[2] == bag and entry[0] == "done")

    def add(self, record: BagRecord) -> None:
        """Add a line.

        Raises:
            DatasetError: it cannot be written.
        """
        line = json.dumps(dataclasses.asdict(record), allow_nan=False).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DatasetError(f"{self._file.name} cannot be written: {error.strerror or error}.") from error
        self._last[record.bag_id] = (record.status, record.reason, record.bag)

    def mend(self, held: Mapping[str, TableBag]) -> None:
        """Add the lines of recordings whose rows are in the table although a run was killed before it said so."""
        for bag_id, bag in held.items():
            entry = self._last.get(bag_id)
            if entry is None or entry[0] != "done":
                note = "The run that extracted it was stopped before it said more."
                known = entry[2] if entry else ""
                self.add(BagRecord(known, bag_id, "done", "", bag.robot_id, bag.site, bag.day, bag.rows, notes=(note,)))

    def _read(self) -> None:
        self._file.seek(0)
        whole = True
        while line := self._file.readline(_LONGEST_LINE):
            whole = line.endswith(b"\n")
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("bag_id"), str):
                texts = [_text(entry.get(name)) for name in ("status", "reason", "bag")]
                self._last[entry["bag_id"]] = (texts[0], texts[1], texts[2])
        if not whole:
            self._file.write(b"\n")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
