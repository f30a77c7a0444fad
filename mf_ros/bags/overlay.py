"""LiDAR returns drawn on the image they were projected into."""

from __future__ import annotations

import numpy as np

from mf_ros.core.colours import colour_depth
from mf_ros.core.projection import ProjectedReturns
from mf_ros.core.types import ByteArray


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
