"""Depth as colours on one fixed scale, so that pictures of different recordings can be compared; colour maps."""

from __future__ import annotations

import cv2
import numpy as np

from mf_ros.core.types import AnyArray, ByteArray, FloatArray

_NEAR_M, _FAR_M = 2.0, 80.0
_TOO_NEAR, _RIGHT, _TOO_FAR = (40, 120, 255), (245, 243, 228), (255, 84, 32)


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


def colour_error(part: AnyArray) -> ByteArray:
    """Colours (..., 3) uint8 RGB of signed errors (...), as parts of the largest that is shown.

    Blue is too near, pale right, red too far. The square root shows small errors beside large ones.
    """
    part = np.clip(part, -1, 1)
    strength = np.sqrt(np.abs(part))[..., None]
    side = np.where(part[..., None] < 0, np.array(_TOO_NEAR), np.array(_TOO_FAR))
    mixed: ByteArray = np.rint(np.array(_RIGHT) * (1 - strength) + side * strength).astype(np.uint8)
    return mixed


def mapped(level: ByteArray, colour_map: int) -> ByteArray:
    """Colours (..., 3) uint8 RGB of levels (...) uint8 in one of OpenCV's colour maps."""
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8).reshape(-1, 1), colour_map)
    return np.asarray(colours[:, 0, ::-1][level], np.uint8)
