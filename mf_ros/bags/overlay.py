"""LiDAR returns drawn on the image they were projected into."""

from __future__ import annotations

import numpy as np

from mf_ros.core.colours import colour_depth
from mf_ros.core.pictures import dot_radius, draw_dots
from mf_ros.core.projection import ProjectedReturns
from mf_ros.core.types import ByteArray


def draw_returns(image: ByteArray, returns: ProjectedReturns) -> ByteArray:
    """A copy of an (H, W, 3) uint8 RGB image with every visible return as a dot, red near to blue far.

    The colours are those of ``colour_depth``. The image is darkened so that the dots stand out.
    """
    dimmed: ByteArray = (image * np.float32(0.6)).astype(np.uint8)
    order = returns.drawing_order()
    rows, cols = returns.pixels()
    draw_dots(dimmed, rows[order], cols[order], colour_depth(returns.z[order]), dot_radius(image.shape[1]))
    return dimmed
