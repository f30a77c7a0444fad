"""What the network is given and what its output means: normalised log depth with a noise level per pixel.

Depth is divided by the median of the returns and taken as a logarithm, the same in training and at run time, so that
indoor and outdoor scenes look alike and depth ten times as large comes out ten times as large.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mf_ros.core.completion import complete_inverse_depth, row_pattern
from mf_ros.core.types import FloatArray

LOG_LIMIT = 5.0
"""Largest magnitude of a log ratio: a hundred and fifty times nearer or farther than the median return."""
CONFIDENT_ERROR = 0.02
"""Relative error that ``confidence`` is about."""

NOISE_M, NOISE_RATIO = 0.02, 0.002
"""Noise of a LiDAR's returns: metres, and part of the range."""
PLAUSIBLE = 3.0
"""A return that differs by more than so many times what both uncertainties allow counts as wrong."""

_LARGEST_REACH = 24.0
_FADE = 0.05
_BOX_PASSES = 3


@dataclass(frozen=True)
class Conditioning:
    """Sparse depth as the network sees it; every array is (H, W) float32.

    Attributes:
        scale: s, metres: the median of the returns; 1.0 without returns.
        prior: log(D / s) of the depth D that the returns alone suggest everywhere; zeros without returns.
        depth: log(z / s) at returns, 0 elsewhere.
        level: noise level: 0 at returns, which are trusted, 1 where nothing is known.
        metric: False without returns; depth is then only relative.
    """

    scale: float
    prior: FloatArray
    depth: FloatArray
    level: FloatArray
    metric: bool


def condition(sparse: FloatArray, scale: float = 0.0) -> Conditioning:
    """Normalise sparse depth for the network.

    Args:
        sparse: (H, W) metres along the optical Z axis, without hidden and lonely returns; 0, NaN or infinite = no
            return.
        scale: metres to divide by instead of the median of the returns; 0 takes the median.

    Returns:
        Log ratios clipped to +-``LOG_LIMIT``.
    """
    present = np.isfinite(sparse) & (sparse > 0)
    level: FloatArray = np.where(present, np.float32(0), np.float32(1))
    if not present.any():
        zeros = np.zeros(sparse.shape, np.float32)
        return Conditioning(scale or 1.0, zeros, zeros.copy(), level, metric=False)
    scale = scale or float(np.median(sparse[present]))
    # Clipped before the prior is made, so that one wild value cannot overflow the sums of the completion.
    depth = np.zeros(sparse.shape, np.float32)
    depth[present] = np.clip(np.log(sparse[present] / np.float32(scale)), -LOG_LIMIT, LOG_LIMIT)
    ratio: FloatArray = np.where(present, np.exp(depth), np.float32(0))
    inverse: FloatArray = complete_inverse_depth(ratio, row_pattern(present))
    prior: FloatArray = np.clip(-np.log(inverse), -LOG_LIMIT, LOG_LIMIT).astype(np.float32)
    return Conditioning(scale, prior, depth, level, metric=True)


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
    """Move predicted log depth toward the returns as far as the two uncertainties say, without showing single returns.

    The gain is that of a Kalman filter, K = b^2 / (b^2 + sigma^2), with the LiDAR's noise sigma of 2 cm + 0.2%. The
    differences are averaged over a window that grows with the spacing of the returns, since a correction at the
    returns alone would print the scan lines into the depth; beyond the window it fades away. A return that differs by
    more than three times what both uncertainties allow counts as an outlier.

    Args:
        log_ratio: (H, W) predicted log(depth / scale).
        log_scale: (H, W) log of the prediction's Laplace scale b.
        conditioning: what the prediction was made from.

    Returns:
        (H, W) float32 corrected log ratio; ``log_ratio`` itself without returns.
    """
    count = int(np.count_nonzero(conditioning.level == 0))
    if count == 0:
        return log_ratio
    scale = np.exp(log_scale)
    noise = NOISE_RATIO + np.float32(NOISE_M) / to_depth(log_ratio, conditioning.scale)
    allowed = PLAUSIBLE * (scale + noise)
    difference = conditioning.depth - log_ratio
    # Tukey's biweight: an implausible return counts nothing, and none jumps between all and nothing.
    weight = np.square(np.maximum(1.0 - np.square(difference / allowed), 0.0)) * (conditioning.level == 0)
    spacing = (log_ratio.size / count) ** 0.5
    moments = spread(np.dstack([weight * difference, weight]).astype(np.float32), min(spacing, _LARGEST_REACH))
    mean = moments[..., 0] / (moments[..., 1] + np.float32(_FADE / spacing**2))
    gain = np.square(scale) / (np.square(scale) + np.square(noise))
    moved: FloatArray = (log_ratio + gain * np.clip(mean, -allowed, allowed)).astype(np.float32)
    return moved


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


def spread(channels: FloatArray, sigma: float) -> FloatArray:
    """Each channel of (H, W, C) smoothed as by a Gaussian of ``sigma`` pixels.

    Three passes of a box come close to it and cost the same at any width.
    """
    side = max(3, 2 * round(0.5 * (12.0 * sigma**2 / _BOX_PASSES + 1.0) ** 0.5) + 1)
    for _ in range(_BOX_PASSES):
        channels = np.asarray(cv2.blur(channels, (side, side), borderType=cv2.BORDER_REFLECT_101), np.float32)
    return channels
