"""ROS 1 bags and rosbag2's sqlite3 files, through rosbags' readers."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, List, Optional, Tuple, Type

import yaml

from mf_ros.bags.source import DAMAGED_DATA, BagPath, Channel, Definition, RawMessage
from mf_ros.core.documents import values_of_yaml
from mf_ros.errors import BagError, require_package

rosbag1 = require_package("rosbags.rosbag1", extra="bags")
rosbag2 = require_package("rosbags.rosbag2", extra="bags")

_log = logging.getLogger(__name__)

_DEFINITION_FORMATS = {"MSG": "ros2msg", "IDL": "ros2idl"}


def _sqlite_errors() -> Tuple[Type[Exception], ...]:
    # rosbags read sqlite with the standard library before it moved to apsw.
    try:
        return (sqlite3.Error, require_package("apsw", extra="bags").Error)
    except ImportError:
        return (sqlite3.Error,)


class RosbagsSource:
    """A ROS 1 ``.bag`` or rosbag2 ``.db3`` file with a `Source`'s interface.

    Raises:
        BagError: the file cannot be opened; the message says why and what to do.
    """

    def __init__(self, path: BagPath, *, ros1: bool) -> None:
        self.name = str(path.name)
        self.channels: List[Channel] = []
        self.damage: List[str] = []
        self._encoding = "ros1" if ros1 else "cdr"
        self._errors: Tuple[Type[Exception], ...] = (
            rosbag1.ReaderError,
            rosbag2.ReaderError,
            OSError,
            *DAMAGED_DATA,
            *_sqlite_errors(),
        )
        if not ros1 and isinstance(path, Path):
            _check_profiles(path)
        try:
            self._reader: Any = rosbag1.Reader(path) if ros1 else rosbag2.Reader(path)
            self._reader.open()
        except self._errors as error:
            raise BagError(f"{path} cannot be read: {_why(error)}") from error
        self._connections: Dict[int, Any] = dict(enumerate(self._reader.connections))
        for number, connection in self._connections.items():
            self.channels.append(self._channel(number, connection))
        if not ros1 and _has_log(path):
            self.damage.append(
                f"{self.name}-wal holds messages that were not merged when recording was interrupted "
                f"(to merge them: sqlite3 {self.name} 'PRAGMA wal_checkpoint(TRUNCATE)')"
            )
        self.start_ns, self.end_ns = int(self._reader.start_time), int(self._reader.end_time) - 1

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

    def messages(
        self, ids: Collection[int], start_ns: Optional[int] = None, stop_ns: Optional[int] = None
    ) -> Iterator[RawMessage]:
        """Messages of the channels in log order; reading resumes after a corrupt chunk where the format allows it."""
        connections = [self._connections[number] for number in sorted(ids)]
        numbers = {connection.id: number for number, connection in self._connections.items()}
        begin = start_ns
        latest = self.start_ns - 1
        while connections:
            try:
                for connection, log_ns, data in self._reader.messages(connections, begin, stop_ns):
                    latest = int(log_ns)
                    yield latest, numbers[connection.id], bytes(data)
                return
            except self._errors as error:
                begin = self._after_damage(max(latest, begin or latest), error)
                if begin is None:
                    return

    def _after_damage(self, latest: int, error: Exception) -> Optional[int]:
        """Note a defect met after the message at ``latest``; log time from which to go on, or None."""
        ends = [chunk.end_time for chunk in getattr(self._reader, "chunk_infos", ()) if chunk.end_time > latest]
        resume: Optional[int] = min(ends) if ends else None
        if resume is not None and resume <= latest + 1:
            resume = latest + 1
        after = max(latest - self.start_ns, 0) / 1e9
        note = f"{self.name} is corrupt {after:.2f} s after its start"
        if resume is not None:
            note += f" ({max(resume - latest, 0) / 1e9:.2f} s skipped)"
        if note not in self.damage:
            self.damage.append(note)
            _log.warning("%s: %s", note, error)
        return resume

    def _channel(self, number: int, connection: Any) -> Channel:
        definition: Definition = ("", "")
        if connection.msgdef.format.name in _DEFINITION_FORMATS:
            definition = (_DEFINITION_FORMATS[connection.msgdef.format.name], connection.msgdef.data)
        encoding = self._encoding
        if encoding == "cdr":
            encoding = connection.ext.serialization_format
        return Channel(number, connection.topic, connection.msgtype, encoding, definition, connection.msgcount)


def _check_profiles(path: Path) -> None:
    """Refuse a sqlite3 file whose topics have a QoS of YAML aliases without end: rosbags would write them all out.

    Raises:
        BagError: there is such a topic.
    """
    # One that cannot be read is left to the reader, who says why.
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as connection:
            found = "SELECT DISTINCT offered_qos_profiles FROM topics WHERE offered_qos_profiles LIKE '%*%'"
            profiles = [str(text) for (text,) in connection.execute(found)]
    except sqlite3.Error:
        return
    for profile in profiles:
        try:
            values_of_yaml(profile)
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise BagError(f"{path} cannot be read: the QoS of a topic is no YAML of ROS ({reason}).") from error


def _has_log(path: BagPath) -> bool:
    """Whether sqlite's write-ahead log lies beside the file; it is not read, because the file is opened read-only."""
    log = path.with_name(f"{path.name}-wal")
    try:
        return bool(log.exists() and log.stat().st_size)
    except OSError:
        return False


def _why(error: Exception) -> str:
    """A library's error as a sentence, with the remedy where there is one."""
    text = str(error).strip().rstrip(".") or type(error).__name__
    if "not indexed" in text:
        return "the ROS 1 bag has no index, because recording was interrupted; run 'rosbag reindex' on it."
    advice = "copy it again, or mend it with 'rosbag reindex' (ROS 1) or 'sqlite3 FILE .recover' (db3)"
    return f"it is damaged or cut off ({text}); {advice}."
