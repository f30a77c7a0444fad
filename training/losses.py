"""The training loss: which modality is noised how far, and how predictions are held against the truth.

Only pixels with truth count, so dense truth from rendering and the few pixels that a LiDAR knows go the same way.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Dict, Literal, NamedTuple, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mf_ros.core.pixels import network_image
from mf_ros.core.returns import LOG_LIMIT
from mf_ros.model import Prediction
from mf_ros.model.levels import SMALLEST_LEVEL, drawn_levels, noised
from mf_training.samples import HIDDEN, VISIBLE

Regime = Literal["complete", "partial", "lidar", "image", "to_image", "joint"]
REGIMES: Tuple[Regime, ...] = ("complete", "partial", "lidar", "image", "to_image", "joint")

SKY_M = 200.0
"""Depth that stands for the sky where a value is needed, metres."""
_FARTHEST_M = 100.0
_SMALLEST_ERROR = 0.05
_LARGEST_OVERSHOOT = 1.0


@dataclass(frozen=True)
class LossConfig:
    """Shares of the regimes and weights of the terms."""

    complete: float = 0.62
    """Image and LiDAR to depth in one step: what robots run."""
    partial: float = 0.08
    """The same from a depth that is half denoised, or known from elsewhere at an intermediate level."""
    lidar: float = 0.06
    """LiDAR to depth, the image unknown."""
    image: float = 0.08
    """Image to depth, without LiDAR."""
    to_image: float = 0.08
    """Depth to image."""
    joint: float = 0.08
    """Both from noise."""
    metric_weight: float = 0.5
    """Share of the error in depth rather than in its logarithm."""
    gradient_weight: float = 0.1
    scale_weight: float = 0.05
    visible_weight: float = 0.05
    sky_weight: float = 0.02
    image_weight: float = 0.3


class _Inputs(NamedTuple):
    """What one forward pass gets, and what is true of it."""

    image: Tensor
    image_level: Tensor
    depth: Tensor
    level: Tensor
    depth_level: Tensor
    prior: Tensor
    clean_image: Tensor
    clean_depth: Tensor
    known: Tensor
    sky: Tensor
    scale: Tensor


def loss_of(
    net: nn.Module, batch: Dict[str, Tensor], generator: torch.Generator, config: LossConfig
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """Loss of one batch under a regime drawn for it.

    Args:
        net: ``mf_ros.model.ModalityForcing``.
        batch: from ``mf_training.samples.collate``, on the network's device.
        generator: of the regime, the levels and the noise; on the CPU, so that every device draws the same.
        config: regimes and weights.

    Returns:
        The scalar loss, and its terms by name (detached).
    """
    return loss_under(drawn_regime(generator, config), net, batch, generator, config)


def loss_under(
    regime: Regime, net: nn.Module, batch: Dict[str, Tensor], generator: torch.Generator, config: LossConfig
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """As ``loss_of``, under a regime that is given."""
    inputs = make_inputs(batch, regime, generator)
    generates = regime in ("to_image", "joint")
    out: Prediction = net(*inputs[:6], decode_image=generates)
    terms = depth_terms(out, inputs, batch, config) if regime != "to_image" else {}
    if generates and out.image is not None:
        error = (out.image - inputs.clean_image) / inputs.image_level.clamp(min=2 * SMALLEST_LEVEL)[:, None, None, None]
        terms["image"] = config.image_weight * error.square().mean()
    loss = torch.stack(list(terms.values())).sum()
    logged = {name: value.detach() for name, value in terms.items()}
    return loss, {f"{regime}/{name}": value for name, value in logged.items()}


def drawn_regime(generator: torch.Generator, config: LossConfig) -> Regime:
    """One regime by its share."""
    shares = torch.tensor([getattr(config, name) for name in REGIMES], dtype=torch.float64)
    return REGIMES[int(torch.multinomial(shares, 1, generator=generator))]


def one_regime(config: LossConfig, seed: int) -> LossConfig:
    """The same losses with a single regime, drawn by its share."""
    regime = drawn_regime(torch.Generator().manual_seed(seed), config)
    return dataclasses.replace(config, **{name: float(name == regime) for name in REGIMES})


def make_inputs(batch: Dict[str, Tensor], regime: Regime, generator: torch.Generator) -> _Inputs:
    """The network's inputs under a regime."""
    truth, device = batch["truth"], batch["truth"].device
    count = truth.shape[0]
    known, sky = (truth > 0) & truth.isfinite(), truth.isinf()
    depth, level, prior, scale = batch["depth"], batch["level"], batch["prior"], batch["scale"]
    if regime in ("image", "to_image", "joint"):
        scale = _median(truth, known, scale)
        depth, level, prior = torch.zeros_like(depth), torch.ones_like(level), torch.zeros_like(prior)
    metres = torch.where(known, truth, SKY_M)
    clean_depth = (metres / scale[:, None, None, None]).log().clamp(-LOG_LIMIT, LOG_LIMIT)
    clean_image = network_image(batch["image"].float())

    image_level, depth_level = torch.zeros(count, device=device), torch.ones(count, device=device)
    if regime == "lidar":
        image_level = torch.ones_like(image_level)
    if regime in ("to_image", "joint"):
        image_level = drawn_levels(count, generator, device)
    if regime in ("partial", "joint"):
        depth_level = drawn_levels(count, generator, device)
    # What is at level 1 is gated out of the network, so it needs no noise.
    noise = torch.zeros_like(truth)
    if regime in ("partial", "to_image", "joint"):
        noise = torch.randn(truth.shape, generator=generator).to(device)
    if regime == "to_image":
        # Depth is known as far as it is true; the rest stays noise.
        depth, level = torch.where(known | sky, clean_depth, noise), (~(known | sky)).float()
        depth_level = torch.zeros_like(depth_level)
    else:
        depth, level = _at_level(depth, level, clean_depth, known | sky, noise, depth_level)
    image = clean_image
    if regime in ("to_image", "joint"):
        image_noise = torch.randn(clean_image.shape, generator=generator).to(device)
        image = noised(clean_image, image_noise, image_level[:, None, None, None])
    return _Inputs(image, image_level, depth, level, depth_level, prior, clean_image, clean_depth, known, sky, scale)


def _at_level(
    depth: Tensor, level: Tensor, clean: Tensor, known: Tensor, noise: Tensor, depth_level: Tensor
) -> Tuple[Tensor, Tensor]:
    """Unknown pixels brought to the sampler's level: truth with noise where there is truth, else noise alone."""
    sampled = depth_level[:, None, None, None].expand_as(level)
    sampled = torch.where(known, sampled, torch.ones_like(sampled))
    given = level < sampled
    return torch.where(given, depth, noised(clean, noise, sampled)), torch.where(given, level, sampled)


def _median(truth: Tensor, known: Tensor, otherwise: Tensor) -> Tensor:
    values = torch.where(known, truth, math.nan).flatten(1).nanmedian(1).values
    return torch.where(values.isfinite(), values, otherwise)


def depth_terms(out: Prediction, inputs: _Inputs, batch: Dict[str, Tensor], config: LossConfig) -> Dict[str, Tensor]:
    """Terms of the depth loss.

    Errors are divided by those of the prior, sample by sample, so that easy and hard samples count alike; a study on
    which this rests found plain likelihoods not to move.
    """
    weight = batch["weight"] * inputs.known
    error = (out.depth - inputs.clean_depth).abs()
    of_prior = (inputs.prior - inputs.clean_depth).abs()
    # Far overshoots count linearly in the logarithm only: their error in metres would drown everything else.
    clean = inputs.clean_depth.exp()
    reached = torch.minimum(out.depth, inputs.clean_depth + _LARGEST_OVERSHOOT).exp()
    prior = torch.minimum(inputs.prior, inputs.clean_depth + _LARGEST_OVERSHOOT).exp()
    terms = {
        "log": (1 - config.metric_weight) * _relative(error, of_prior, weight, _SMALLEST_ERROR),
        "metric": config.metric_weight
        * _relative((reached - clean).abs(), (prior - clean).abs(), weight, _SMALLEST_ERROR * _mean(clean, weight)),
    }
    if config.gradient_weight:
        terms["gradient"] = config.gradient_weight * _gradient(out.depth, inputs, weight)
    short = F.relu((_FARTHEST_M / inputs.scale).log()[:, None, None, None] - out.depth)
    terms["sky"] = config.sky_weight * (short * inputs.sky).mean()
    # The error does not move with this term: alone it would be lowered by raising b.
    deviation = torch.where(inputs.sky, short, error).detach()
    counted = torch.where(inputs.sky, 0.1, weight)
    likelihood = out.log_scale + deviation * (-out.log_scale).exp()
    terms["scale"] = config.scale_weight * (likelihood * counted).sum() / counted.sum().clamp(min=1)
    labelled = (batch["hidden"] > 0) & (inputs.level == 0)
    if config.visible_weight:
        target = (batch["hidden"] == VISIBLE).float()
        rarity = torch.where(batch["hidden"] == HIDDEN, 5.0, 1.0) * labelled
        cross = F.binary_cross_entropy_with_logits(out.visible, target, reduction="none")
        terms["visible"] = config.visible_weight * (cross * rarity).sum() / rarity.sum().clamp(min=1)
    return terms


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """(B,) weighted means."""
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1e-6)


def _relative(error: Tensor, of_prior: Tensor, weight: Tensor, least: Tensor | float) -> Tensor:
    """Mean over samples of the error relative to the prior's; samples without truth count nothing."""
    # Without truth the least error in metres is zero as well, and nothing over nothing would spoil the whole batch.
    ratio = _mean(error, weight) / _mean(of_prior, weight).clamp(min=least).clamp(min=1e-6)
    has_truth = weight.flatten(1).sum(1) > 0
    return (ratio * has_truth).sum() / has_truth.sum().clamp(min=1)


def _gradient(depth: Tensor, inputs: _Inputs, weight: Tensor) -> Tensor:
    """Error of the differences between neighbours, relative to the prior's, where both have truth."""
    total = depth.new_zeros(())
    for axis in (2, 3):
        size = depth.shape[axis] - 1
        pairs = weight.narrow(axis, 0, size) * weight.narrow(axis, 1, size)
        error, of_prior = ((each - inputs.clean_depth).diff(dim=axis).abs() for each in (depth, inputs.prior))
        total = total + _relative(error, of_prior, pairs, _SMALLEST_ERROR)
    return total / 2
