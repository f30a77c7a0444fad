"""Message classes of the sourced ROS 2, and numbers in the one form that their fields take without a look at each."""

from __future__ import annotations

import array
import importlib
import math
from collections import OrderedDict
from typing import Any, Callable, Dict, Tuple

import numpy as np

from mf_ros.core.message_builder import MessageBuilder
from mf_ros.core.types import AnyArray

_ARRAYS_KEPT = 4


class MessageTypes(Dict[str, Callable[..., Any]]):
    """Message classes by names such as ``sensor_msgs/msg/Image``, imported when they are first asked for."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        package, kind, message = name.split("/")
        found: Callable[..., Any] = getattr(importlib.import_module(f"{package}.{kind}"), message)
        self[name] = found
        return found


class ReusedArrays:
    """Copies numbers into an ``array.array``, which message fields take as it is; sizes that come again reuse theirs.

    What was returned last for a size changes with the next call for it, so a message must be published before then.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Tuple[str, int], array.array[Any]] = OrderedDict()
        self._lent: OrderedDict[int, array.array[Any]] = OrderedDict()

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> AnyArray:
        """An array to fill whose bytes are given back as they lie, without a copy."""
        held = array.array("B", bytes(math.prod(shape) * np.dtype(dtype).itemsize))
        lent = np.frombuffer(held, dtype).reshape(shape)
        self._lent[lent.ctypes.data] = held
        if len(self._lent) > _ARRAYS_KEPT:
            self._lent.popitem(last=False)
        return lent

    def __call__(self, values: AnyArray) -> array.array[Any]:
        lent = self._lent.get(values.ctypes.data)
        if lent is not None and len(lent) == values.nbytes and values.dtype == np.uint8:
            return lent
        key = values.dtype.char, values.size
        if values.size == 0:
            return array.array(key[0])
        if key not in self._kept:
            self._kept[key] = array.array(key[0], bytes(values.nbytes))
            if len(self._kept) > _ARRAYS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        held = self._kept[key]
        np.frombuffer(held, values.dtype)[:] = values
        return held


def new_array(values: AnyArray) -> array.array[Any]:
    """A copy of the numbers in an ``array.array`` of its own."""
    return array.array(values.dtype.char, values.tobytes())


def message_builder(reuse: bool = True) -> MessageBuilder:
    """Makes messages of the sourced ROS 2; with ``reuse`` each must be published before the next one is made."""
    if not reuse:
        return MessageBuilder(MessageTypes(), new_array)
    arrays = ReusedArrays()
    return MessageBuilder(MessageTypes(), arrays, arrays.empty)
