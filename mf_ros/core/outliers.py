"""Returns that nothing around them confirms: rain, dust, reflections, crosstalk."""

from __future__ import annotations

import math
from typing import Tuple

import cv2
import numpy as np

from mf_ros.core import compiled
from mf_ros.core.types import AnyArray, BoolArray, FloatArray

DEPTH_STEP = 0.08
"""Of the logarithm of the depth; what is no farther away than that is at one depth."""
_COMPANY, _CROWD = 2, 10
_COMPANY_SHARE = 0.15
_FEWEST = 200
_USUAL_SHARE, _USUAL_COUNT, _LARGEST_SHARE = 0.03, 20, 0.5
_CELL = 1.5
_MOST_CELLS = 20_000
# OpenCV takes 128 channels, which depth steps are without kernels.
_LARGEST_RATIO = 2e4


def lonely_returns(rows: AnyArray, cols: AnyArray, z: FloatArray, shape: Tuple[int, int]) -> BoolArray:
    """Returns that hardly any of those around them agrees with, where more are so than thin things explain.

    The picture is cut into cells half as large again as the returns lie apart, depth into steps of 8%. A return is
    lonely when fewer than 2 others lie within a cell and a step of it although at least 10 lie within a cell of it.
    Poles and wires give such returns too, the more of them the fewer returns there are, so nothing is reported while
    fewer than 3% and 20 more are lonely; nor where more than half are, since what most returns are like is no
    exception, and something must be left. Where it is reported, less than 15% of those within a cell agreeing counts
    as lonely too. Fewer than 200 returns in all are believed.

    Args:
        rows, cols: (M,) int64 pixels inside the image.
        z: (M,) metres, positive and finite.
        shape: (H, W) of the image.

    Returns:
        (M,) bool.
    """
    count = len(z)
    lonely: BoolArray = np.zeros(count, np.bool_)
    if count < _FEWEST:
        return lonely
    log_depth = np.log(np.minimum(z / z.min(), _LARGEST_RATIO))
    cell = _CELL * max(2.0, math.sqrt(math.prod(shape) / min(count, _MOST_CELLS)))
    given = (rows, cols, log_depth, cell)
    kernels = compiled.kernels("culling")
    crowd, company = (kernels and kernels.neighbours(*given)) or neighbours_by_numpy(*given)
    crowded = crowd >= _CROWD
    alone = np.count_nonzero(crowded & (company < _COMPANY))
    if _USUAL_SHARE * count + _USUAL_COUNT <= alone <= _LARGEST_SHARE * count:
        # Where many are wrong, two wrong ones agree by chance; what is right has a good part of the crowd with it.
        lonely = crowded & (company < np.maximum(_COMPANY, _COMPANY_SHARE * crowd))
    return lonely


def neighbours_by_numpy(
    rows: AnyArray, cols: AnyArray, log_depth: FloatArray, cell: float
) -> Tuple[FloatArray, FloatArray]:
    """How many others lie within a cell of each return, and how many of those within a depth step of it too.

    Compiled kernels are held to it.

    Args:
        rows, cols: (M,) int64 pixels, from 0; there is at least one.
        log_depth: (M,) float32, from 0.
        cell: width and height of a cell, pixels.

    Returns:
        (M,) float32 each.
    """
    # One empty cell on every side, so that neighbours need no bounds.
    where = tuple(
        (each / side).astype(np.int64) + 1 for each, side in ((rows, cell), (cols, cell), (log_depth, DEPTH_STEP))
    )
    size = tuple(int(each.max()) + 2 for each in where)
    place = np.ravel_multi_index(where, size)
    flat = np.bincount(place, minlength=math.prod(size))
    counts: FloatArray = flat.reshape(size).astype(np.float32)
    # Depth steps are channels here: each is summed over 3x3 cells, and then with the steps before and after it.
    counts = np.asarray(cv2.boxFilter(counts, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT), np.float32)
    crowd = counts.sum(axis=2)[where[:2]] - 1
    steps = [counts.reshape(-1)[place + step] for step in (-1, 0, 1)]
    return crowd, steps[0] + steps[1] + steps[2] - 1
