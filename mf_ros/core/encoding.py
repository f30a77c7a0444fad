"""Depth between float metres and the two encodings of a depth image (REP 118), with REP 117's special values."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, FloatArray
from mf_ros.errors import MessageError

DEPTH_ENCODINGS = ("32FC1", "16UC1")
_MAX_MILLIMETRES = 65535
_NAN_BITS = np.float32(np.nan).view(np.uint32)


def encode_depth(depth: AnyArray, encoding: str) -> Tuple[AnyArray, str]:
    """Depth as the array of a depth image.

    Args:
        depth: (H, W) float metres; NaN unknown, +Inf beyond range, -Inf too close (REP 117).
        encoding: ``32FC1`` keeps metres and the special values; ``16UC1`` is millimetres, rounded, where 0 stands for
            unknown, infinite, and farther than 65.535 m, because it has no other special value (REP 118).

    Returns:
        The (H, W) float32 or uint16 array, which may be ``depth`` itself, and the encoding's name. No finite value <= 0
        is published as a depth.

    Raises:
        MessageError: another encoding.
    """
    depth = np.asarray(depth)
    if encoding == "32FC1":
        return (depth if depth.dtype == np.float32 and _all_depths(depth) else _only_depths(depth)), encoding
    if encoding == "16UC1":
        with np.errstate(invalid="ignore", over="ignore"):
            millimetres = np.rint(depth * np.float32(1000.0))
            known = (millimetres > 0.0) & (millimetres <= _MAX_MILLIMETRES)
        return np.where(known, millimetres, 0.0).astype(np.uint16), encoding
    raise _unknown(encoding)


def encode_sparse(depth: FloatArray, out: FloatArray) -> FloatArray:
    """Sparse depth as the array of a 32FC1 depth image.

    Args:
        depth: (H, W) float32 metres, 0 where there is no return.
        out: (H, W) float32 array to fill, C-contiguous.

    Returns:
        ``out``: the depth, NaN where it is not above 0.
    """
    return unknown_where(~(depth > 0), depth, out)


def unknown_where(where: BoolArray, values: FloatArray, out: FloatArray) -> FloatArray:
    """Values without those that are not to be known.

    Args:
        where: (H, W) bool, what becomes NaN.
        values: (H, W) float32.
        out: (H, W) float32 array to fill.

    Returns:
        ``out``.
    """
    bits = out.view(np.uint32)
    # With all bits of NaN set any number is NaN; np.where takes three times as long.
    np.multiply(where, _NAN_BITS, out=bits)
    np.bitwise_or(bits, values.view(np.uint32), out=bits)
    return out


def zero_where(where: BoolArray, values: FloatArray, out: FloatArray) -> FloatArray:
    """``unknown_where`` with 0 in the place of NaN; ``out`` may be ``values``."""
    np.multiply(values.view(np.uint32), ~where, out=out.view(np.uint32))
    return out


def decode_depth(array: AnyArray, encoding: str) -> FloatArray:
    """Metres of a depth image.

    Args:
        array: (H, W) uint16 millimetres for ``16UC1`` (or ``mono16``, which some drivers write), floating metres for
            ``32FC1``; any byte order.
        encoding: name of the encoding.

    Returns:
        (H, W) float32 metres; NaN where unknown: 0 and below in either encoding, NaN in 32FC1; infinities
        stay (REP 117).

    Raises:
        MessageError: another encoding, or an array that is not of the encoding's type.
    """
    array = np.asarray(array)
    if encoding == "32FC1" and array.dtype.kind == "f":
        return _only_depths(array)
    if encoding in ("16UC1", "mono16") and array.dtype.kind == "u" and array.dtype.itemsize == 2:
        metres: FloatArray = array.astype(np.float32) / np.float32(1000.0)
        metres[array == 0] = np.nan
        return metres
    if encoding in ("32FC1", "16UC1", "mono16"):
        raise MessageError(f"A {encoding} depth image cannot hold {array.dtype} values: correct its encoding.")
    raise _unknown(encoding)


def _all_depths(depth: FloatArray) -> bool:
    """Whether all values are depths, unknown or beyond range; one pass tells."""
    with np.errstate(invalid="ignore"):
        return bool(np.fmin.reduce(depth, axis=None, initial=np.inf) > 0.0)


def _only_depths(depth: AnyArray) -> FloatArray:
    """A float32 copy with NaN for finite values that are no depth."""
    metres: FloatArray = depth.astype(np.float32)
    with np.errstate(invalid="ignore"):
        none = (metres <= 0.0) & (metres != -np.inf)
        if none.any():  # rarely, and the assignment costs more than the question
            metres[none] = np.nan
    return metres


def _unknown(encoding: str) -> MessageError:
    return MessageError(f"'{encoding}' is not a depth encoding: use {' or '.join(DEPTH_ENCODINGS)} (REP 118).")
