"""Returns beside a grid of depth: where they lie, what the grid says there, and how far it should move toward them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Tuple, Union

import cv2
import numpy as np

from mf_ros.core.grid import cells_of, enlarged, grid_shape
from mf_ros.core.types import AnyArray, BoolArray, FloatArray

LOG_LIMIT = 5.0
"""Largest magnitude of a log ratio: a hundred and fifty times nearer or farther than the median return."""
NOISE_M, NOISE_RATIO = 0.02, 0.002
"""Noise of a LiDAR's returns: metres, and part of the range."""
PLAUSIBLE = 3.0
"""A return that differs by more than so many times what both uncertainties allow counts as wrong."""

_LARGEST_REACH = 24.0
_FADE = 0.05
_BOX_PASSES = 3


@dataclass(frozen=True)
class Returns:
    """Returns of one image beside a grid of cells of ``step`` x ``step`` pixels.

    Attributes:
        log_ratio: (M,) float32 log of depth over the scale.
        pixel: (M,) int64 index of each one's pixel in the flattened image.
        shape: (H, W) of the image.
        step: pixels per side of a cell; 1 is the image itself.
    """

    log_ratio: FloatArray
    pixel: AnyArray
    shape: Tuple[int, int]
    step: int = 1

    def __len__(self) -> int:
        return len(self.pixel)

    @property
    def grid(self) -> Tuple[int, int]:
        """(h, w) of the grid."""
        return grid_shape(self.shape, self.step)

    @property
    def spacing(self) -> float:
        """How many pixels returns lie apart, if they were spread evenly; at least one return."""
        return float((self.shape[0] * self.shape[1] / len(self)) ** 0.5)

    @property
    def reach(self) -> float:
        """Standard deviation of the window in which differences to the returns are averaged, pixels of the image."""
        return min(self.spacing, _LARGEST_REACH)

    def where(self, mask: BoolArray) -> Returns:
        """Those of a mask (M,)."""
        return replace(self, log_ratio=self.log_ratio[mask], pixel=self.pixel[mask])

    def on_grid(self, step: int) -> Returns:
        """The same returns beside another grid."""
        return replace(self, step=step)

    def cells(self) -> AnyArray:
        """(M,) int64 index of each one's cell in the flattened grid."""
        return cells_of(self.pixel, self.shape, self.step)

    def sampled(self, values: FloatArray) -> FloatArray:
        """(M,) values (h, w) of the grid, interpolated to the returns."""
        at: FloatArray = np.take(enlarged(values, self.step, self.shape), self.pixel)
        return at

    def nearest(self) -> FloatArray:
        """(h, w) float32 log ratio of the nearest return of each cell, infinite where there is none."""
        found = np.full(self.grid, np.inf, np.float32)
        np.minimum.at(found.reshape(-1), self.cells(), self.log_ratio)
        return found


def drawn_to_returns(
    log_ratio: FloatArray, log_scale: Union[FloatArray, float], returns: Returns, scale: float, window: float = 1.0
) -> FloatArray:
    """Move log depth toward the returns as far as the two uncertainties say, without showing single returns.

    The gain is that of a Kalman filter, K = b^2 / (b^2 + sigma^2), with the LiDAR's noise sigma of 2 cm + 0.2%. The
    differences are averaged over a window that grows with the spacing of the returns, since a correction at the
    returns alone would print the scan lines into the depth; beyond the window it fades away. A return that differs by
    more than three times what both uncertainties allow counts as an outlier.

    Args:
        log_ratio: (h, w) log(depth / scale) on the grid of the returns.
        log_scale: log of the Laplace scale b of its error: (h, w), or the same everywhere.
        returns: each counts where it lies, however coarse the grid.
        scale: metres; infinite leaves the 2 cm out.
        window: width of the window, in times what the returns' spacing asks for.

    Returns:
        (h, w) float32 corrected log ratio; ``log_ratio`` itself without returns.
    """
    if len(returns) == 0:
        return log_ratio
    there = returns.sampled(log_ratio)
    allowed = _allowed(there, returns.sampled(log_scale) if isinstance(log_scale, np.ndarray) else log_scale, scale)
    difference = returns.log_ratio - there
    # An implausible return counts nothing, and none jumps between all and nothing.
    weight = biweight(difference / allowed)
    cells, count = returns.cells(), log_ratio.size
    sums = [np.bincount(cells, each, count).reshape(log_ratio.shape) for each in (weight * difference, weight)]
    spacing = returns.spacing / returns.step
    moments = spread(np.dstack(sums).astype(np.float32), window * returns.reach / returns.step)
    mean = moments[..., 0] / (moments[..., 1] + np.float32(_FADE / spacing**2))
    b, noise = np.exp(log_scale, dtype=np.float32), _noise(log_ratio, scale)
    limit = _allowed(log_ratio, log_scale, scale)
    gain = np.square(b) / (np.square(b) + np.square(noise))
    moved: FloatArray = (log_ratio + gain * np.clip(mean, -limit, limit)).astype(np.float32)
    return moved


def _allowed(log_ratio: FloatArray, log_scale: Union[FloatArray, float], scale: float) -> FloatArray:
    """How far a return may lie from the depth there, in log depth."""
    allowed: FloatArray = np.float32(PLAUSIBLE) * (np.exp(log_scale, dtype=np.float32) + _noise(log_ratio, scale))
    return allowed


def _noise(log_ratio: FloatArray, scale: float) -> FloatArray:
    """Noise of a return at this depth, in log depth."""
    noise: FloatArray = np.float32(NOISE_RATIO) + np.float32(NOISE_M / scale) * np.exp(
        np.clip(-log_ratio, -LOG_LIMIT, LOG_LIMIT)
    )
    return noise


def biweight(ratio: FloatArray) -> FloatArray:
    """Tukey's biweight: 1 at 0, and 0 from 1 on."""
    weight: FloatArray = np.square(np.maximum(np.float32(1) - np.square(ratio), np.float32(0)))
    return weight


def spread(channels: FloatArray, sigma: float) -> FloatArray:
    """Each channel of (H, W, C) smoothed as by a Gaussian of ``sigma`` pixels.

    Three passes of a box come close to it and cost the same at any width.
    """
    side = max(3, 2 * round(0.5 * (12.0 * sigma**2 / _BOX_PASSES + 1.0) ** 0.5) + 1)
    for _ in range(_BOX_PASSES):
        channels = np.asarray(cv2.blur(channels, (side, side), borderType=cv2.BORDER_REFLECT_101), np.float32)
    return channels
