"""Recordings of every kind, local or remote, as one stream of messages in log order."""

from __future__ import annotations

import heapq
import logging
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Type, Union

from mf_ros.bags.definitions import ENCODINGS, MessageTypes, uncompressed
from mf_ros.bags.files import BagFiles, find_files, open_source
from mf_ros.bags.source import MAX_LOG_NS, Channel, PathArgument, RawMessage, Source, note_impossible_time
from mf_ros.core.topics import TopicInfo
from mf_ros.errors import BagError, MessageError, TopicError

_log = logging.getLogger(__name__)


class RecordedMessage:
    """One message, decoded when asked for.

    Attributes:
        topic: topic name.
        msgtype: ``package/msg/Type``.
        log_ns: when the recorder received it, ns since the epoch; the sensor's own time is in its header.
    """

    __slots__ = ("_data", "_encoding", "_types", "log_ns", "msgtype", "topic")

    def __init__(self, channel: Channel, log_ns: int, data: bytes, types: MessageTypes) -> None:
        self.topic = channel.topic
        self.msgtype = channel.msgtype
        self.log_ns = log_ns
        self._data = data
        self._encoding = channel.encoding
        self._types = types

    @property
    def size(self) -> int:
        """Bytes of the serialised message as it was recorded."""
        return len(self._data)

    @property
    def data(self) -> bytes:
        """The serialised message, without rosbag2's per-message compression.

        Raises:
            MessageError: the compressed data are corrupt.
        """
        return uncompressed(self._data) if self._encoding == "cdr" else self._data

    def decode(self) -> Any:
        """The message as an object with the fields of its definition; arrays are read-only NumPy views.

        Raises:
            MessageError: the type is unknown or the data are corrupt; the next messages can still be read.
        """
        try:
            return self._types.decode(self.data, self.msgtype, self._encoding)
        except MessageError as error:
            raise MessageError(f"{self.topic} at log time {self.log_ns / 1e9:.6f} s: {error}") from error


class Recording:
    """A recording that is open for reading; use it in a ``with`` statement.

    Attributes:
        name: what was opened, for messages to people.
        topics: what is in it, by name.
        start_ns: log time of the first message, ns.
        end_ns: log time of the last message, ns.

    Raises:
        BagError: the recording holds no messages.
    """

    def __init__(self, files: BagFiles, sources: Sequence[Source], damage: Sequence[str], types: MessageTypes) -> None:
        self.name = files.name
        self._expected = files.expected_messages
        self._sources = list(sources)
        self._damage = list(damage)
        self._types = types
        self._warned = False
        self._resources = ExitStack()
        self.topics: List[TopicInfo] = []
        filled = [source for source in sources if any(channel.count for channel in source.channels)]
        if not filled:
            found = self.damage or "its topics are empty"
            raise BagError(f"{self.name} holds no messages: {found}. Check what was recorded, and record again.")
        self.start_ns = min(source.start_ns for source in filled)
        self.end_ns = max(source.end_ns for source in filled)
        for source in sources:
            for channel in source.channels:
                types.add(channel.msgtype, channel.definition)
        self.topics = self._make_topics()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def message_count(self) -> int:
        """Number of messages the recording lists."""
        return sum(topic.count for topic in self.topics)

    @property
    def duration_s(self) -> float:
        """Time between the first and the last message, seconds."""
        return (self.end_ns - self.start_ns) / 1e9

    def part_before(self, log_ns: int) -> float:
        """Part of the recording that was logged before a time, in [0, 1], for progress."""
        return min(max((log_ns - self.start_ns) / max(self.end_ns - self.start_ns, 1), 0.0), 1.0)

    @property
    def damage(self) -> Optional[str]:
        """What is wrong with the files and how much could be read, in one sentence; None when nothing is known.

        Corrupt chunks inside an indexed file are found while reading, so ask again after the iteration.
        """
        clauses = [*self._damage, *(clause for source in self._sources for clause in source.damage)]
        if not clauses:
            return None
        sentence = "; ".join(clauses)
        if not self.topics:
            return sentence
        of = f" of {self._expected}" if self._expected > self.message_count else ""
        return f"{sentence}; {self.message_count}{of} messages over {self.duration_s:.1f} s are readable."

    def topic(self, name: str) -> Optional[TopicInfo]:
        """The topic with this name, or None."""
        return next((topic for topic in self.topics if topic.name == name), None)

    def messages(
        self,
        topics: Optional[Iterable[str]] = None,
        *,
        start_ns: Optional[int] = None,
        stop_ns: Optional[int] = None,
    ) -> Iterator[RecordedMessage]:
        """Messages in log order, one at a time; those with an impossible log time are left out and noted as damage.

        Args:
            topics: names to read; None reads every topic whose type is known and warns once about the others.
            start_ns: log time of the first message to read, ns.
            stop_ns: log time to stop before, ns.

        Raises:
            TopicError: a named topic is not in the recording.
            BagError: during the iteration, when the disk or the connection fails.
        """
        wanted = self._readable() if topics is None else self._checked(topics)
        streams = [self._stream(source, wanted, start_ns, stop_ns) for source in self._sources]
        return self._iterate(streams)

    def latched(self, topics: Iterable[str]) -> Iterator[RecordedMessage]:
        """Messages of topics that hold at any time, whenever they were logged; only these topics are read."""
        names = list(topics)
        return self.messages(names) if names else iter(())

    def _iterate(self, streams: Sequence[Iterator[Tuple[int, Channel, bytes]]]) -> Iterator[RecordedMessage]:
        for log_ns, channel, data in heapq.merge(*streams, key=lambda item: item[0]):
            yield RecordedMessage(channel, log_ns, data, self._types)

    def close(self) -> None:
        """Release the files."""
        self._resources.close()

    def keep(self, resources: ExitStack) -> None:
        """Take over what is to be released when the recording is closed."""
        self._resources.push(resources)

    def _stream(
        self, source: Source, wanted: Iterable[str], start_ns: Optional[int], stop_ns: Optional[int]
    ) -> Iterator[Tuple[int, Channel, bytes]]:
        channels: Dict[int, Channel] = {channel.id: channel for channel in source.channels if channel.topic in wanted}
        if channels:
            message: RawMessage
            try:
                for message in source.messages(channels, start_ns, stop_ns):
                    if not 0 <= message[0] <= MAX_LOG_NS:
                        note_impossible_time(source)
                        continue
                    yield message[0], channels[message[1]], message[2]
            except OSError as error:
                raise BagError(f"Reading {source.name} failed: {error}. Check the disk or the connection.") from error

    def _make_topics(self) -> List[TopicInfo]:
        by_name: Dict[str, List[Channel]] = {}
        for source in self._sources:
            for channel in source.channels:
                by_name.setdefault(channel.topic, []).append(channel)
        topics = []
        for name, channels in sorted(by_name.items()):
            count = sum(channel.count for channel in channels)
            rate = max(count - 1, 0) / self.duration_s if self.duration_s > 0 else 0.0
            topics.append(TopicInfo(name, max(channels, key=lambda c: c.count).msgtype, count, rate))
        return topics

    def _readable(self) -> List[str]:
        foreign = {c.topic for source in self._sources for c in source.channels if c.encoding not in ENCODINGS}
        unknown = [
            topic
            for topic in self.topics
            if topic.count and (topic.name in foreign or self._types.problem(topic.msgtype))
        ]
        if unknown and not self._warned:
            self._warned = True
            names = ", ".join(f"{topic.name} ({topic.msgtype})" for topic in unknown)
            _log.warning("%s: skipping topics whose message type or encoding is unknown: %s", self.name, names)
        return [topic.name for topic in self.topics if topic not in unknown]

    def _checked(self, topics: Iterable[str]) -> List[str]:
        wanted = list(topics)
        missing = [name for name in wanted if self.topic(name) is None]
        if missing:
            held = ", ".join(topic.name for topic in self.topics)
            raise TopicError(f"{self.name} has no topic {', '.join(missing)}; it holds {held}.")
        return wanted


def open_recording(
    paths: Union[PathArgument, Sequence[PathArgument]], *, ros_distro: Optional[str] = None
) -> Recording:
    """Open a recording, or several as one.

    ROS 1 ``.bag`` files, rosbag2 directories (sqlite3 or MCAP, split, compressed by file, message or chunk), and
    single ``.mcap`` or ``.db3`` files are told apart by their content. A file that is cut off or corrupt is read as
    far as it goes; `Recording.damage` says how far.

    Args:
        paths: a path or several, as strings or pathlib-like objects; ``scheme://`` strings need the extra "remote".
        ros_distro: whose standard definitions to use for types that the bag does not define; by default the one
            that the bag names, else humble.

    Raises:
        BagError: nothing there, not a bag, or a bag without messages.
    """
    files = find_files(paths)
    types = MessageTypes(ros_distro or files.ros_distro)
    sources: List[Source] = []
    damage = list(files.damage)
    with ExitStack() as resources:
        for path in files.paths:
            try:
                source = open_source(path, resources)
            except BagError as error:
                if len(files.paths) == 1:
                    raise
                damage.append(str(error).rstrip("."))
                continue
            resources.callback(source.close)
            sources.append(source)
        recording = Recording(files, sources, damage, types)
        recording.keep(resources.pop_all())
    return recording
