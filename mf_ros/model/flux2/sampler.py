"""Sampling: image, depth or both, in Euler steps from noise.

Source: Modality Forcing (arXiv 2606.13676); levels and step are those of ``mf_ros.model.levels``. Depth known at some
pixels only is this project's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mf_ros.model.flux2.network import Flux2Network, Flux2Prediction
from mf_ros.model.flux2.partial import Shown, moved_to_known, with_known
from mf_ros.model.levels import SMALLEST_LEVEL, noised, step_levels, stepped


@dataclass(frozen=True)
class Flux2Known:
    """What is known beforehand; everything else is sampled.

    Attributes:
        text: (B, T, text_channels) hidden states of the prompt.
        grid: rows and columns of tokens.
        image: (B, rows * cols, image_channels) clean latents, or None to sample them.
        depth: (B, rows * cols, depth_channels) contracted depth tokens, or None where none is known.
        level: as ``depth``, how little each of its pixels is trusted: 0 a LiDAR return, 1 unknown. The released weights
            were trained with one level for the whole map: 0 everywhere, or no ``depth`` at all, is what they know.
    """

    text: Tensor
    grid: Tuple[int, int]
    image: Optional[Tensor] = None
    depth: Optional[Tensor] = None
    level: Optional[Tensor] = None

    def __post_init__(self) -> None:
        if (self.depth is None) != (self.level is None):
            raise ValueError("Known depth and its noise levels come together.")


@dataclass(frozen=True)
class Guidance:
    """Guidance without a classifier (arXiv 2207.12598).

    Attributes:
        text: as ``Flux2Known.text``, of the empty prompt.
        scale: 1 is no guidance; larger follows the prompt more.
    """

    text: Tensor
    scale: float


def tilted(levels: Sequence[float], log2_alpha: float) -> List[float]:
    """Levels of the depth beside those of the image: alpha t / (1 + (alpha - 1) t).

    Above 0 the depth stays noisier for longer, so that the image comes first; the ends 0 and 1 stay.
    """
    alpha = 2.0**log2_alpha
    return [alpha * level / (1 + (alpha - 1) * level) for level in levels]


@torch.inference_mode()
def sample_flux2(
    net: Flux2Network,
    known: Flux2Known,
    steps: int,
    generator: torch.Generator,
    guidance: Optional[Guidance] = None,
    log2_alpha: float = 0.0,
) -> Flux2Prediction:
    """Sample what is not known.

    Args:
        net: the network.
        known: what is given; known depth is imposed anew at every step, as ``partial`` says.
        steps: forward passes, or pairs of them with guidance; the released weights are meant for 50.
        generator: of the noise; on the CPU, so that every device draws the same.
        guidance: follow the prompt more than the network alone would.
        log2_alpha: see ``tilted``; only where image and depth are both sampled.

    Returns:
        Clean image latents, given or sampled, and clean contracted depth tokens, float32.

    Raises:
        ValueError: ``steps`` is less than 1.
    """
    return sampled_steps(net, known, steps, generator, guidance, log2_alpha)


def sampled_steps(
    net: Flux2Network,
    known: Flux2Known,
    steps: int,
    generator: torch.Generator,
    guidance: Optional[Guidance] = None,
    log2_alpha: float = 0.0,
    *,
    same_noise: bool = False,
) -> Flux2Prediction:
    """``sample_flux2`` without inference mode, for networks that are trained on afterwards.

    A network that is divided over processes keeps what it gathered, and what was gathered in inference mode cannot be
    trained with. With ``same_noise`` all of a batch start from the same, so that it does not matter who else is in it.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps: at least one is needed.")
    levels = step_levels(steps)
    depth_levels = tilted(levels, log2_alpha) if known.image is None else levels
    count = 1 if same_noise else known.text.shape[0]
    image = known.image
    image = image.float() if image is not None else _noise(net.config.image_channels, known, count, generator)
    depth = noise = _noise(net.config.depth_channels, known, count, generator)
    for (level, following), (depth_level, depth_following) in zip(
        itertools.pairwise(levels), itertools.pairwise(depth_levels), strict=True
    ):
        if known.image is not None:
            level = following = 0.0
        shown = _shown(known, depth, depth_level)
        out = _predicted(net, known, guidance, image, level, shown)
        image = image + (following - level) * out.image
        if depth_following == 0 or known.depth is None or known.level is None:
            depth = _stepped(shown.depth, out.depth, depth_level, depth_following)
        else:
            clean = moved_to_known(out.depth, known.depth.float(), known.level.float(), known.grid[0])
            depth = noised(clean, noise, torch.tensor(depth_following))
    return Flux2Prediction(image, depth)


def _noise(channels: int, known: Flux2Known, count: int, generator: torch.Generator) -> Tensor:
    shape = (count, known.grid[0] * known.grid[1], channels)
    drawn = torch.randn(shape, generator=generator, device=generator.device).to(known.text.device)
    return drawn.expand(known.text.shape[0], -1, -1)


def _shown(known: Flux2Known, depth: Tensor, level: float) -> Shown:
    """Depth tokens with what is known of them in place."""
    if known.depth is None or known.level is None:
        return Shown(depth, torch.full((depth.shape[0],), level, device=depth.device))
    return with_known(depth, level, known.depth.float(), known.level.float())


def _predicted(
    net: Flux2Network,
    known: Flux2Known,
    guidance: Optional[Guidance],
    image: Tensor,
    level: float,
    shown: Shown,
) -> Flux2Prediction:
    """Prediction in float32, moved away from that of the empty prompt where guidance is wanted."""
    image_level = torch.full((image.shape[0],), level, device=image.device)

    def predicted(text: Tensor) -> Flux2Prediction:
        return Flux2Prediction(*(part.float() for part in net(image, image_level, text, *shown, known.grid)))

    with_text = predicted(known.text)
    if guidance is None or guidance.scale == 1:
        return with_text
    without = predicted(guidance.text.expand_as(known.text))
    return Flux2Prediction(
        *(base + guidance.scale * (part - base) for part, base in zip(with_text, without, strict=True))
    )


def _stepped(noisy: Tensor, clean: Tensor, level: float, following: float) -> Tensor:
    """One Euler step; the last one ends on the prediction itself, without the rounding of taking the long way."""
    if following == 0 and level >= SMALLEST_LEVEL:
        return clean
    return stepped(noisy, clean, level, following)
