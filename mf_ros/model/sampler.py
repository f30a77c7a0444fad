"""Sampling: any of image and depth from any other, in one step or more."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from mf_ros.model.levels import step_levels, stepped
from mf_ros.model.network import ModalityForcing, Prediction


@dataclass(frozen=True)
class Known:
    """What is known beforehand; everything else is sampled.

    Attributes:
        image: (B, 3, H, W) in [-1, 1], or None to sample it.
        depth: (B, 1, H, W) log ratio where something is known.
        level: (B, 1, H, W) how little each depth pixel is trusted: 0 a LiDAR return, 1 unknown.
        prior: (B, 1, H, W) log ratio of the prior; zero without one.
        text: (B, T, text_width) or None.
        sample_depth: False when depth is given as far as it is known, and only the image is wanted: the depth's own
            level is then 0, as in training.
    """

    image: Optional[Tensor]
    depth: Tensor
    level: Tensor
    prior: Tensor
    text: Optional[Tensor] = None
    sample_depth: bool = True


@torch.inference_mode()
def sample(net: ModalityForcing, known: Known, steps: int, generator: torch.Generator) -> Prediction:
    """Sample what is not known, in ``steps`` Euler steps from noise.

    Known depth is imposed anew before every step: a pixel stands at the lower of its own level and the sampler's.
    With a known image and one step, the result depends on no noise.

    Args:
        net: the network.
        known: what is given.
        steps: forward passes; the last one's prediction is the result.
        generator: of the noise; on the CPU, so that every device draws the same.

    Returns:
        The prediction of the last step, with the image, given or sampled.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: at least one is needed.")
    device, count = known.depth.device, known.depth.shape[0]
    depth = torch.randn(known.depth.shape, generator=generator).to(device)
    shape = (count, 3, *known.depth.shape[-2:])
    image = torch.randn(shape, generator=generator).to(device) if known.image is None else known.image
    levels = step_levels(steps)
    prediction = None
    for level, following in itertools.pairwise(levels):
        at = torch.full((count,), level, device=device)
        depth_level = level if known.sample_depth else 1.0
        given = known.level <= depth_level
        prediction = net(
            image,
            at if known.image is None else torch.zeros_like(at),
            torch.where(given, known.depth, depth),
            torch.where(given, known.level, torch.full_like(known.level, depth_level)),
            at if known.sample_depth else torch.zeros_like(at),
            known.prior,
            known.text,
            decode_image=known.image is None,
        )
        depth = stepped(depth, prediction.depth, level, following)
        if known.image is None:
            image = stepped(image, prediction.image, level, following)
    assert prediction is not None
    result: Prediction = prediction
    return result if known.image is None else result._replace(image=known.image)
