"""From serialised messages to objects, with the definitions a bag carries or those of a ROS distribution."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Optional, Tuple

from mf_ros.bags.source import DAMAGED_DATA, Definition
from mf_ros.errors import BagError, MessageError, require_package

typesys = require_package("rosbags.typesys", extra="bags")
serde = require_package("rosbags.serde", extra="bags")
zstandard = require_package("zstandard", extra="bags")
lz4_frame = require_package("lz4.frame", extra="bags")

_log = logging.getLogger(__name__)

DEFAULT_DISTRO = "humble"
"""Whose definitions stand in when a bag has none: the last distribution whose sqlite3 bags carry none."""

ENCODINGS = ("cdr", "ros1")
"""Message encodings that can be decoded."""

_IDL_SEPARATOR = "=" * 80 + "\n"
_ZSTD_MAGIC, _LZ4_MAGIC = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_MAX_MESSAGE_BYTES = 2**30
_MAX_SEQUENCE = 2**30


def distro_names() -> Tuple[str, ...]:
    """ROS distributions whose standard definitions are at hand."""
    return tuple(store.value.split("_")[1] for store in typesys.Stores if "_" in store.value)


def distro_typestore(ros_distro: str) -> Any:
    """rosbags typestore with the standard messages of a ROS distribution.

    Raises:
        BagError: the name is not known; the message lists those that are.
    """
    name = ros_distro.strip().lower()
    for store in typesys.Stores:
        if store.value in (f"ros2_{name}", f"ros1_{name}"):
            return typesys.get_typestore(store)
    raise BagError(f"ROS distribution {ros_distro!r} is not known: choose one of {', '.join(distro_names())}.")


class MessageTypes:
    """The message types of one recording; each definition is parsed when it is first needed."""

    def __init__(self, ros_distro: Optional[str] = None) -> None:
        self._standard = distro_typestore(ros_distro or DEFAULT_DISTRO)
        self._ros_distro = ros_distro or DEFAULT_DISTRO
        self._definitions: Dict[str, Definition] = {}
        self._bag = _empty_typestore()
        self._stores: Dict[str, Any] = {}
        self._problems: Dict[str, str] = {}

    def add(self, msgtype: str, definition: Definition) -> None:
        """Remember a type's definition; the first one that is not empty counts."""
        if definition[1].strip():
            self._definitions.setdefault(msgtype, definition)

    def problem(self, msgtype: str) -> Optional[str]:
        """Why messages of a type cannot be decoded, or None when they can."""
        self._store(msgtype)
        return self._problems.get(msgtype)

    def decode(self, data: bytes, msgtype: str, encoding: str) -> Any:
        """Object with the fields of a message.

        Raises:
            MessageError: the type is unknown, or the data are not a message of it.
        """
        store = self._store(msgtype)
        if store is None:
            raise MessageError(self._problems[msgtype])
        if encoding not in ENCODINGS:
            raise MessageError(f"Message encoding {encoding!r} is not supported: only cdr (ROS 2) and ros1 are.")
        try:
            return (store.deserialize_cdr if encoding == "cdr" else store.deserialize_ros1)(data, msgtype)
        except (serde.SerdeError, *DAMAGED_DATA) as error:
            raise MessageError(f"The data are not a {msgtype}: {error or type(error).__name__}.") from error

    def _store(self, msgtype: str) -> Any:
        if msgtype not in self._stores:
            self._stores[msgtype] = self._find_store(msgtype)
        return self._stores[msgtype]

    def _find_store(self, msgtype: str) -> Any:
        reason = "the bag has no definition of it"
        if msgtype in self._definitions:
            try:
                store = self._register(_parse(msgtype, self._definitions[msgtype]))
                # Fails now rather than at each message when the definition names types that it does not define.
                store.get_msgdef(msgtype)
                return store
            except (typesys.TypesysError, *DAMAGED_DATA) as error:
                reason = f"its definition in the bag cannot be used ({_first_line(error)})"
        if msgtype in self._standard.fielddefs:
            return self._standard
        self._problems[msgtype] = (
            f"Message type {msgtype} is unknown: {reason}, and it is not a standard type of {self._ros_distro}."
        )
        return None

    def _register(self, types: Any) -> Any:
        try:
            self._bag.register(types)
            return self._bag
        except typesys.TypesysError:
            # Split recordings may carry two versions of a type that others contain.
            own = _empty_typestore()
            own.register(types)
            return own


def _empty_typestore() -> Any:
    store = typesys.get_typestore(typesys.Stores.EMPTY)
    store.max_sequence_length = _MAX_SEQUENCE
    return store


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _parse(msgtype: str, definition: Definition) -> Dict[str, Any]:
    form, text = definition
    if form in ("ros2msg", "ros1msg"):
        types: Dict[str, Any] = typesys.get_types_from_msg(text, msgtype)
        return types
    if form not in ("ros2idl", "omgidl"):
        raise ValueError(f"format {form!r} is not supported")
    parts: List[str] = [text]
    if text.startswith(f"{_IDL_SEPARATOR}IDL: "):
        parts = [part.partition("\n")[2] for part in text.split(_IDL_SEPARATOR)[1:]]
    found: Dict[str, Any] = {}
    for part in parts:
        found.update(typesys.get_types_from_idl(part))
    return found


def uncompressed(data: bytes) -> bytes:
    """A CDR message out of rosbag2's per-message compression (zstd or lz4); any other message as it is.

    CDR begins with a zero byte, so the two cannot be mistaken for each other.

    Raises:
        MessageError: the compressed data are corrupt, or of an implausible size.
    """
    if data[:4] not in (_ZSTD_MAGIC, _LZ4_MAGIC):
        return data
    try:
        if data[:4] == _LZ4_MAGIC:
            message: bytes = lz4_frame.LZ4FrameDecompressor().decompress(data, max_length=_MAX_MESSAGE_BYTES)
            return message
        if zstandard.frame_content_size(data) > _MAX_MESSAGE_BYTES:
            raise MessageError("A compressed message claims to hold more than 1 GiB.")
        message = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_MESSAGE_BYTES)
        return message
    except (zstandard.ZstdError, RuntimeError, ValueError, MemoryError) as error:
        raise MessageError(f"A compressed message cannot be unpacked: {error}.") from error
