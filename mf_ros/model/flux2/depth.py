"""Depth maps as the network's tokens: normalised by their mean, contracted, cut into patches; and back.

Source: Modality Forcing (arXiv 2606.13676); the contraction is that of mip-NeRF 360 (arXiv 2111.12077, eq. 10).
"""

from __future__ import annotations

import math
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

FARTHEST = 1000.0
"""Largest magnitude that ``expanded`` returns, in means of the depth map: at 2 the inverse would be infinite, and
beyond it negative."""


def contracted(depth: Tensor) -> Tensor:
    """Values up to 1 stay, larger ones approach 2: 2 - 1 / z; odd in z."""
    size = depth.abs()
    return torch.where(size <= 1, depth, depth.sign() * (2 - 1 / size.clamp(min=1)))


def expanded(depth: Tensor) -> Tensor:
    """Inverse of ``contracted``, clamped so that its magnitude is at most ``FARTHEST``."""
    size = depth.abs().clamp(max=2 - 1 / FARTHEST)
    return torch.where(size <= 1, depth, depth.sign() / (2 - size))


def mean_depth(depth: Tensor) -> Tensor:
    """Mean over all pixels, (B, 1, 1, 1), of depth maps (B, 1, H, W).

    Raises:
        ValueError: a pixel has no depth, which would make the mean one of another scene: fill holes first.
    """
    if not bool(((depth > 0) & depth.isfinite()).all()):
        raise ValueError("The depth map has pixels without a positive, finite depth: fill them before taking its mean.")
    return depth.mean((1, 2, 3), keepdim=True)


def depth_tokens(depth: Tensor, scale: Tensor, patch: int = 16) -> Tensor:
    """Contracted patches (B, rows * cols, patch * patch) of depth maps (B, 1, H, W).

    Args:
        depth: in any unit; H and W are multiples of ``patch``.
        scale: (B, 1, 1, 1) what counts as 1: ``mean_depth``, or for partial depth an estimate of the mean.
        patch: pixels per side of a token.
    """
    return patched(contracted(depth / scale), patch)


def depth_map(tokens: Tensor, grid: Tuple[int, int], scale: Optional[Tensor] = None) -> Tensor:
    """Inverse of ``depth_tokens``: maps (B, 1, H, W), in means of the map where no ``scale`` is given."""
    relative = expanded(unpatched(tokens, grid))
    return relative if scale is None else relative * scale


def patched(pixels: Tensor, patch: int = 16) -> Tensor:
    """(B, 1, H, W) to (B, rows * cols, patch * patch): tokens row by row, and in each its pixels row by row."""
    return F.pixel_unshuffle(pixels, patch).flatten(2).transpose(1, 2)


def unpatched(tokens: Tensor, grid: Tuple[int, int]) -> Tensor:
    """Inverse of ``patched`` for a grid of (rows, cols) tokens."""
    count, _, channels = tokens.shape
    return F.pixel_shuffle(tokens.transpose(1, 2).reshape(count, channels, *grid), math.isqrt(channels))


def token_levels(level: Tensor, patch: int = 16) -> Tensor:
    """(B, rows * cols) noise level of each depth token: the mean of its pixels' levels (B, 1, H, W)."""
    return patched(level, patch).mean(2)
