"""Messages as bytes (CDR) in memory that is kept: fresh memory costs more than writing large messages into it."""

from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np


class CdrBuffer:
    """Serialises messages into one buffer, which grows with the largest; it belongs to one thread.

    Args:
        store: rosbags' type store of a ROS 2 distribution.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._buffer = bytearray()

    def serialise(self, message: Any, msgtype: str) -> memoryview:
        """The bytes that ``store.serialize_cdr`` gives; they change with the next call.

        Raises:
            SerdeError, and what else rosbags raises: the message's fields are not those of its type.
        """
        definition: Any = self._store.get_msgdef(msgtype)
        size = 4 + int(definition.getsize_cdr(0, message, self._store))
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        else:
            self._clear(size, message)
        written = memoryview(self._buffer)[:size]
        little = sys.byteorder == "little"
        struct.pack_into("BB", written, 0, 0, little)
        write = definition.serialize_cdr_le if little else definition.serialize_cdr_be
        end = write(written[4:], 0, message, self._store)
        if end + 4 != size:
            raise ValueError(f"{end + 4} bytes were written where {size} were expected")
        return written.toreadonly()

    def _clear(self, size: int, message: Any) -> None:
        """Set the bytes between fields to zero, which nothing writes."""
        data = getattr(message, "data", None)
        # The bytes of an image or a cloud have no gaps, so those are within so many bytes of either end.
        around = size - data.nbytes if isinstance(data, np.ndarray) and data.itemsize == 1 else size
        written = np.frombuffer(self._buffer, np.uint8, size)
        written[: min(around, size)] = 0
        written[max(size - around, 0) :] = 0
