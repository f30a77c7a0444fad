"""What the network is given and what its output means: normalised log depth with a noise level per pixel.

Depth is divided by the median of the returns and taken as a logarithm, the same in training and at run time, so that
indoor and outdoor scenes look alike and depth ten times as large comes out ten times as large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mf_ros.core.completion import complete_inverse_depth, row_pattern
from mf_ros.core.grid import grid_shape, regridded
from mf_ros.core.returns import LOG_LIMIT, Returns, drawn_to_returns
from mf_ros.core.types import AnyArray, FloatArray

CONFIDENT_ERROR = 0.02
"""Relative error that ``confidence`` is about."""

_PRIOR_LOG_SCALE = math.log(0.05)
# 64 scan lines on 0.5 megapixels are 4.8 pixels apart, 32 lines 6.8.
_SPARSE_SPACING = 6.0
_SPARSE_STEP = 2


@dataclass(frozen=True)
class Conditioning:
    """Sparse depth as the network sees it; every array is (H, W) float32.

    Attributes:
        scale: s, metres: the median of the returns; 1.0 without returns.
        prior: log(D / s) of the depth D that the returns alone suggest everywhere; zeros without returns.
        depth: log(z / s) at returns, 0 elsewhere.
        level: noise level: 0 at returns, which are trusted, 1 where nothing is known.
        metric: False without returns; depth is then only relative.
        returns: the returns where they lie, which on a coarser grid is more than ``depth`` says; None takes ``depth``.
    """

    scale: float
    prior: FloatArray
    depth: FloatArray
    level: FloatArray
    metric: bool
    returns: Optional[Returns] = None

    def all_returns(self) -> Returns:
        """The returns where they lie."""
        if self.returns is not None:
            return self.returns
        pixel = np.flatnonzero(self.level == 0)
        height, width = self.level.shape
        return Returns(self.depth.reshape(-1)[pixel], pixel, (height, width))


def condition(sparse: FloatArray, scale: float = 0.0, step: int = 1, *, thorough: bool = True) -> Conditioning:
    """Normalise sparse depth for the network.

    Args:
        sparse: (H, W) metres along the optical Z axis, without hidden and lonely returns; 0, NaN or infinite = no
            return.
        scale: metres to divide by instead of the median of the returns; 0 takes the median.
        step: pixels per side of a cell of the grid that the network works on; of a cell's returns it is shown the
            nearest, while all of them make the prior.
        thorough: as in ``returns_prior``.

    Returns:
        Log ratios clipped to +-``LOG_LIMIT``, on the grid.
    """
    pixel = present_pixels(sparse)
    shape = (sparse.shape[0], sparse.shape[1])
    if not len(pixel):
        zeros = np.zeros(grid_shape(shape, step), np.float32)
        return Conditioning(scale or 1.0, zeros, zeros.copy(), np.ones_like(zeros), metric=False)
    metres = np.take(sparse, pixel)
    scale = scale or float(np.median(metres))
    # Clipped before the prior is made, so that one wild value cannot overflow the sums of the completion.
    log_ratio = np.clip(np.log(metres / np.float32(scale)), -LOG_LIMIT, LOG_LIMIT)
    returns = Returns(log_ratio, pixel, shape, step)
    nearest = returns.nearest()
    present = np.isfinite(nearest)
    prior = returns_prior(returns, thorough)
    depth, level = np.where(present, nearest, np.float32(0)), np.where(present, np.float32(0), np.float32(1))
    return Conditioning(scale, prior, depth, level, True, returns)


def present_pixels(sparse: FloatArray) -> AnyArray:
    """(M,) int64 index of the pixels of sparse depth that hold a return: those finite and above zero."""
    pixel = np.flatnonzero(sparse > 0)
    return pixel[np.isfinite(np.take(sparse, pixel))]


def returns_prior(returns: Returns, thorough: bool = True) -> FloatArray:
    """Log ratio of the depth that the returns alone suggest, (h, w) float32 on their grid.

    They are completed on cells of 2 pixels, 1 where they are dense, or on those of the grid where they are larger, and
    again on cells one pixel larger: finer ones cost more and follow single returns. The mean, in which it matters less
    how cells happen to lie on scan lines and edges, is drawn to the returns.

    Args:
        returns: at least one.
        thorough: False makes only the coarser completion.
    """
    finest = 1 if returns.spacing < _SPARSE_SPACING else _SPARSE_STEP
    steps = (max(returns.step, finest), max(returns.step, finest) + 1) if thorough else (max(returns.step, finest + 1),)
    inverse = [_completed(returns.on_grid(step), returns.step) for step in steps]
    prior = -np.log(inverse[0] if len(inverse) == 1 else (inverse[0] + inverse[1]) * np.float32(0.5))
    # The centimetres of the LiDAR's noise are nothing beside the prior's error; without them scenes of any size get the
    # same prior.
    return np.clip(drawn_to_returns(prior, _PRIOR_LOG_SCALE, returns, math.inf), -LOG_LIMIT, LOG_LIMIT)


def _completed(returns: Returns, target: int) -> FloatArray:
    """Inverse depth over the scale, completed on the grid of the returns, on the cells of another."""
    nearest = returns.nearest()
    present = np.isfinite(nearest)
    ratio = np.exp(np.where(present, nearest, np.float32(0))) * present
    inverse = complete_inverse_depth(ratio, row_pattern(present))
    return regridded(np.asarray(inverse, np.float32), returns.step, target, returns.shape)


def to_depth(log_ratio: FloatArray, scale: float) -> FloatArray:
    """Depth in the unit of ``scale`` (metres) from log(depth / scale), (H, W) float32."""
    depth: FloatArray = np.exp(np.clip(log_ratio, -LOG_LIMIT, LOG_LIMIT)) * np.float32(scale)
    return depth


def confidence(log_scale: FloatArray) -> FloatArray:
    """Probability that the relative error is below 2%, (H, W) float32, when log depth has a Laplace error.

    Args:
        log_scale: (H, W) log b, b being the scale of the Laplace distribution.
    """
    probability: FloatArray = -np.expm1(np.float32(-CONFIDENT_ERROR) * np.exp(-log_scale))
    return probability


def blend(log_ratio: FloatArray, log_scale: FloatArray, conditioning: Conditioning) -> FloatArray:
    """Predicted log depth moved toward the returns, as ``drawn_to_returns`` says.

    Args:
        log_ratio: (h, w) predicted log(depth / scale).
        log_scale: (h, w) log of the prediction's Laplace scale b.
        conditioning: what the prediction was made from.

    Returns:
        (h, w) float32 corrected log ratio; ``log_ratio`` itself without returns.
    """
    return drawn_to_returns(log_ratio, log_scale, conditioning.all_returns(), conditioning.scale)


def restrained(log_ratio: FloatArray, prior: FloatArray, reach: float, negligible: float) -> FloatArray:
    """Log depth that comes nearer than the prior freely, but recedes from it by less than ``reach``.

    To put a surface farther away than the returns suggest is the error that a robot pays for, and what a network that
    knows only rendered scenes gets wrong on real ones. Corrections below ``negligible`` fade out: they are texture of
    the image rather than shape of the surface.

    Args:
        log_ratio, prior: (H, W) log(depth / scale).
        reach: in log depth, about the relative distance; 0 sets no limit.
        negligible: in log depth; 0 fades nothing.
    """
    beyond = log_ratio - prior
    if negligible > 0:
        beyond = beyond * (np.square(beyond) / (np.square(beyond) + np.float32(negligible**2)))
    if reach > 0:
        beyond = np.where(beyond > 0, np.float32(reach) * np.tanh(beyond / np.float32(reach)), beyond)
    limited: FloatArray = prior + beyond
    return limited
