"""Images and returns on coarser grids: returns lie many pixels apart, and large images would cost too much."""

from __future__ import annotations

import math
from typing import Tuple

import cv2
import numpy as np

from mf_ros.core.types import AnyArray, ByteArray, FloatArray


def grid_step(shape: Tuple[int, ...], pixels: int) -> int:
    """Pixels per side of a grid cell, so that the grid of an image of ``shape`` has at most ``pixels`` cells."""
    return max(1, math.ceil(math.sqrt(shape[0] * shape[1] / pixels)))


def grid_shape(shape: Tuple[int, ...], step: int) -> Tuple[int, int]:
    """Height and width of the grid of an image; the last cells may reach beyond it."""
    return -(-shape[0] // step), -(-shape[1] // step)


def cells_of(pixel: AnyArray, shape: Tuple[int, ...], step: int) -> AnyArray:
    """(M,) int64 index in the flattened grid of the cells in which pixels, indices in the flattened image, lie."""
    if step == 1:
        return pixel
    rows, cols = np.divmod(pixel, shape[1])
    cells: AnyArray = (rows // step) * grid_shape(shape, step)[1] + cols // step
    return cells


def nearest_of_blocks(depth: FloatArray, step: int) -> FloatArray:
    """Sparse depth on the coarser grid: the nearest return of each block of ``step`` x ``step`` pixels, 0 = none.

    What is not finite and above zero is no return, whatever the step.
    """
    returns = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
    if step == 1:
        return returns
    rows, cols = (-side % step for side in depth.shape)
    padded = np.pad(returns, ((0, rows), (0, cols)))
    padded[padded == 0] = np.inf
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).min(axis=(1, 3))
    nearest: FloatArray = np.where(np.isfinite(blocks), blocks, np.float32(0)).astype(np.float32)
    return nearest


def mean_of_blocks(image: ByteArray, step: int) -> ByteArray:
    """(H, W, 3) image on the coarser grid: the mean of each block; where blocks reach out, the border repeats."""
    if step == 1:
        return image
    rows, cols = (-side % step for side in image.shape[:2])
    padded = cv2.copyMakeBorder(image, 0, rows, 0, cols, cv2.BORDER_REPLICATE)
    size = (padded.shape[1] // step, padded.shape[0] // step)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)


def enlarged(values: FloatArray, step: int, shape: Tuple[int, ...]) -> FloatArray:
    """Values of the coarser grid interpolated to the image's pixels."""
    if step == 1:
        return values
    size = (values.shape[1] * step, values.shape[0] * step)
    large = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(large[: shape[0], : shape[1]], np.float32)


def regridded(values: FloatArray, step: int, target: int, shape: Tuple[int, ...]) -> FloatArray:
    """Values of the grid of one step interpolated to the cells of another, of the same image of ``shape``."""
    if target == step:
        return values
    if target == 1:
        return enlarged(values, step, shape)
    height, width = grid_shape(shape, target)
    # Cell i of a grid lies at (i + 0.5) step - 0.5 pixels.
    ratio, offset = target / step, 0.5 * target / step - 0.5
    matrix = np.array([[ratio, 0, offset], [0, ratio, offset]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(values, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)
