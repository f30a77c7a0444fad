"""What every kind of bag file looks like to the reader, and the errors damaged files raise inside the libraries."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Collection, Iterator, List, Optional, Protocol, Tuple, Union

RawMessage = Tuple[int, int, bytes]
"""Log time in ns, channel id, serialised message."""

Definition = Tuple[str, str]
"""Format of a message definition (``ros2msg``, ``ros1msg``, ``ros2idl`` or empty) and its text."""

MAX_LOG_NS = 2**63 - 1
"""Latest log time, in the year 2262: what rosbag2 and int64 arrays can hold."""

DAMAGED_DATA = (
    struct.error,
    ValueError,
    OverflowError,
    MemoryError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AssertionError,
    RuntimeError,
)
"""What the parsers of rosbags raise on bytes that are not what a field says."""


@dataclass(frozen=True)
class Channel:
    """One stream of one file.

    Attributes:
        id: unique within its source.
        topic: topic name.
        msgtype: ``package/msg/Type``.
        encoding: ``cdr``, ``ros1``, or whatever else the file says.
        definition: format and text of the message definition; empty strings when the file carries none.
        count: number of messages the file lists.
    """

    id: int
    topic: str
    msgtype: str
    encoding: str
    definition: Definition
    count: int


class Source(Protocol):
    """One bag file, open for reading.

    Attributes:
        name: file name, for messages to people.
        channels: the streams in it.
        start_ns: log time of the first message, ns.
        end_ns: log time of the last message, ns; meaningless when the channels hold no messages.
        damage: one clause per defect found so far; reading may add to it.
    """

    name: str
    channels: List[Channel]
    start_ns: int
    end_ns: int
    damage: List[str]

    def messages(self, ids: Collection[int], start_ns: Optional[int], stop_ns: Optional[int]) -> Iterator[RawMessage]:
        """Messages of the channels in log order, from ``start_ns`` up to but without ``stop_ns``."""

    def close(self) -> None:
        """Release the file."""


BagPath = Any
"""A path with pathlib's ``open``, ``exists``, ``is_dir``, ``iterdir``, ``name`` and ``/``; local or remote."""

PathArgument = Union[str, BagPath]


def note_impossible_time(source: Source) -> None:
    """Note, once, that messages with a log time before 1970 or after ``MAX_LOG_NS`` are left out."""
    note = f"{source.name} holds messages whose log time is impossible, which are left out"
    if note not in source.damage:
        source.damage.append(note)


def normalized_type(name: str) -> str:
    """``package/msg/Type`` for the ``package/Type`` that ROS 1 writes; other names stay."""
    package, slash, rest = name.partition("/")
    return f"{package}/msg/{rest}" if slash and "/" not in rest else name
