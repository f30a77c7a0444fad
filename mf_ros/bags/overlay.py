"""LiDAR returns drawn on the image they were projected into."""

from __future__ import annotations

import cv2
import numpy as np

from mf_ros.core.projection import ProjectedReturns
from mf_ros.core.types import ByteArray, FloatArray

_NEAR_M, _FAR_M = 2.0, 80.0


def draw_returns(image: ByteArray, returns: ProjectedReturns) -> ByteArray:
    """A copy of an (H, W, 3) uint8 RGB image with every visible return as a dot, red near to blue far.

    The colours are those of ``colour_depth``. The image is darkened so that the dots stand out.
    """
    dimmed: ByteArray = (image * np.float32(0.6)).astype(np.uint8)
    shown = np.flatnonzero(returns.visible)
    if not len(shown):
        return dimmed
    # Far to near: where dots overlap, the nearer one is what the camera sees.
    shown = shown[np.argsort(-returns.z[shown], kind="stable")]
    colours = colour_depth(returns.z[shown])
    radius = max(1, round(image.shape[1] / 900))
    rows, cols = returns.pixels()
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dx * dx + dy * dy <= radius * radius:
                y = np.clip(rows[shown] + dy, 0, image.shape[0] - 1)
                x = np.clip(cols[shown] + dx, 0, image.shape[1] - 1)
                dimmed[y, x] = colours
    return dimmed


def colour_depth(depth: FloatArray) -> ByteArray:
    """Colours (..., 3) uint8 RGB of depths (...) in metres, red near to blue far; black where there is none.

    They are spread over inverse depth between 2 m and 80 m, so near surfaces, where errors show, differ most.
    """
    known = np.isfinite(depth) & (depth > 0)
    z = np.clip(np.where(known, depth, np.float32(_FAR_M)), _NEAR_M, _FAR_M)
    part = (1.0 / z - 1.0 / _FAR_M) / (1.0 / _NEAR_M - 1.0 / _FAR_M)
    # The square root spends fewer colours on the first metres.
    level = np.rint(255 * np.sqrt(part)).astype(np.uint8)
    colours = cv2.applyColorMap(level.reshape(-1, 1), cv2.COLORMAP_TURBO).reshape(*depth.shape, 3)[..., ::-1]
    shown: ByteArray = np.where(known[..., None], colours, np.uint8(0))
    return shown
