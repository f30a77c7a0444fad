"""Depth as colours on one fixed scale, so that pictures of different recordings can be compared; colour maps."""

from __future__ import annotations

import cv2
import numpy as np

from mf_ros.core.types import ByteArray, FloatArray

_NEAR_M, _FAR_M = 2.0, 80.0


def colour_depth(depth: FloatArray) -> ByteArray:
    """Colours (..., 3) uint8 RGB of depths (...) in metres, red near to blue far; black where there is none.

    They are spread over inverse depth between 2 m and 80 m, so near surfaces, where errors show, differ most.
    """
    known = np.isfinite(depth) & (depth > 0)
    z = np.clip(np.where(known, depth, np.float32(_FAR_M)), _NEAR_M, _FAR_M)
    part = (1.0 / z - 1.0 / _FAR_M) / (1.0 / _NEAR_M - 1.0 / _FAR_M)
    # The square root spends fewer colours on the first metres.
    level = np.rint(255 * np.sqrt(part)).astype(np.uint8)
    shown: ByteArray = np.where(known[..., None], mapped(level, cv2.COLORMAP_TURBO), np.uint8(0))
    return shown


def mapped(level: ByteArray, colour_map: int) -> ByteArray:
    """Colours (..., 3) uint8 RGB of levels (...) uint8 in one of OpenCV's colour maps."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), colour_map)
    return np.asarray(colours[:, 0, ::-1][level], np.uint8)
