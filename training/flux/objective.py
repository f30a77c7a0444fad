"""What a FLUX.2 network with depth is trained for: the loss of a batch, and depth of held-out samples.

As published (Modality Forcing, arXiv 2606.13676): images as latents and depth as patches, divided by its mean and
contracted, each at its own noise level; velocities are compared, that of the depth by way of the clean map that the
network predicts, and only where there is truth. This project's are the returns shown as depth known at some pixels,
and how sparse truth is filled up; both are what the robot's engine does (``mf_ros.model.flux2.partial``,
``mf_ros.engine.torch_flux``).
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from mf_ros.core.pixels import network_image
from mf_ros.core.scale_fit import fit_scale
from mf_ros.engine.network import ENOUGH_RETURNS
from mf_ros.model.flux2 import Flux2Config, Flux2Known, Flux2Network, Flux2Prediction
from mf_ros.model.flux2.blocks import without_autocast
from mf_ros.model.flux2.depth import contracted, patched, unpatched
from mf_ros.model.flux2.partial import Shown, log_of, with_known
from mf_ros.model.flux2.sampler import sampled_steps
from mf_ros.model.flux2.vae import Autoencoder
from mf_ros.model.levels import SMALLEST_LEVEL, drawn_levels, noised
from mf_training.config import FluxConfig
from mf_training.data import Batch
from mf_training.losses import SKY_M, LossConfig, Regime, drawn_regime

_SEED = 0
_WITH_RETURNS = ("complete", "partial", "lidar")


class _Inputs(NamedTuple):
    """What one forward pass gets, and what is true; tokens are (B, N, C)."""

    image: Tensor
    image_level: Tensor
    shown: Shown
    depth_level: Tensor
    velocity: Tensor
    clean: Tensor
    weight: Tensor


class FluxObjective:
    """Loss and prediction of the FLUX.2 networks.

    Args:
        codec: the frozen autoencoder's encoder, which makes image tokens on the fly.
        prompt: (1, T, text_channels) the empty prompt.
        sizes: of the network.
        config: of the training.
    """

    def __init__(self, codec: Autoencoder, prompt: Tensor, sizes: Flux2Config, config: FluxConfig) -> None:
        self._codecs: Dict[torch.device, Autoencoder] = {torch.device("cpu"): codec}
        self._prompt = prompt
        self._patch = sizes.patch
        self._config = config

    def loss_of(
        self, net: nn.Module, batch: Batch, generator: torch.Generator, losses: LossConfig
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Loss of one batch under a regime drawn for it.

        Args:
            net: ``Flux2Network``, or what prepares it for several processes.
            batch: of ``FluxSample``, on the network's device, or shapes alone on the meta device.
            generator: of the regime, the levels and the noise; on the CPU.
            losses: shares of the regimes, and ``image_weight``.

        Returns:
            The scalar loss, and its terms by name (detached).
        """
        regime = drawn_regime(generator, losses)
        given = self._inputs(batch, regime, generator)
        grid, text = self._grid(batch), self._text(batch)
        out: Flux2Prediction = net(given.image, given.image_level, text, given.shown.depth, given.shown.level, grid)
        terms: Dict[str, Tensor] = {}
        if regime != "to_image":
            terms["depth"] = self._depth_error(out.depth.float(), given)
        if regime in ("to_image", "joint"):
            terms["image"] = losses.image_weight * (out.image.float() - given.velocity).square().mean()
        loss = torch.stack(list(terms.values())).sum()
        return loss, {f"{regime}/{name}": value.detach() for name, value in terms.items()}

    def predicted(self, net: nn.Module, batch: Batch) -> Tensor:
        """Log of depth over the scale, (B, 1, H, W), as the engine makes it up to its smooth correction at the end.

        The network runs on the image alone, is fitted to the shown returns, runs again with them, and is fitted again.
        Samples without returns have no scale: they get that of their truth, in the median.
        """
        assert isinstance(net, Flux2Network)
        text, grid = self._text(batch), self._grid(batch)
        image = self._encoded(batch)
        alone = self._sampled(net, Flux2Known(text, grid, image))
        given = batch["level"] < 1
        units = fitted(alone, batch["depth"], given, few=True)
        known = patched(contracted((batch["depth"] - units).exp()), self._patch)
        level = patched(batch["level"], self._patch)
        made = self._sampled(net, Flux2Known(text, grid, image, known, level)) + units
        made = made + fitted(made, batch["depth"], given, few=False)
        truth = batch["truth"]
        judged = (truth > 0) & truth.isfinite()
        ratio = torch.where(judged, truth, 1.0).log() - batch["scale"].log()[:, None, None, None]
        relative = alone + _medians(torch.where(judged, ratio - alone, torch.nan))
        return torch.where(given.flatten(1).any(1)[:, None, None, None], made, relative)

    def _inputs(self, batch: Batch, regime: Regime, generator: torch.Generator) -> _Inputs:
        truth, level = batch["truth"], batch["level"]
        count, device = truth.shape[0], truth.device
        jitter = torch.randn(count, generator=generator).to(device) * self._config.unit_jitter
        shows = regime in _WITH_RETURNS
        returns = (level < 1).flatten(1).any(1) & shows
        log_unit = (batch["unit"].log() + torch.where(returns, jitter, 0.0))[:, None, None, None]
        known, sky = (truth > 0) & truth.isfinite(), truth.isinf()
        metres = torch.where(known, truth, torch.where(sky, SKY_M, batch["filled"].exp()))
        clean = self._tokens(metres.log() - log_unit)
        true = patched((known | sky).float(), self._patch)
        image_level, depth_level = self._levels(regime, count, generator, device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        state = noised(clean, noise, depth_level[:, None, None])
        if self._config.fill == "noise":
            state = torch.where(true > 0, state, noise)
        shown = Shown(state, depth_level)
        if shows:
            ratio = batch["depth"] + batch["scale"].log()[:, None, None, None] - log_unit
            shown = with_known(state, depth_level, self._tokens(ratio), patched(level, self._patch))
        image = self._encoded(batch)
        image_noise = torch.randn(image.shape, generator=generator).to(device)
        weight = patched(batch["weight"], self._patch) * true
        return _Inputs(
            noised(image, image_noise, image_level[:, None, None]),
            image_level,
            shown,
            depth_level,
            image_noise - image,
            clean,
            weight,
        )

    def _levels(
        self, regime: Regime, count: int, generator: torch.Generator, device: torch.device
    ) -> Tuple[Tensor, Tensor]:
        """Levels of image and depth; both are drawn in any case, so that a regime changes no other draw."""
        of_image, of_depth = (drawn_levels(count, generator, device) for _ in range(2))
        alone = (torch.rand(count, generator=generator) < self._config.one_step).to(device)
        zeros, ones = torch.zeros_like(of_image), torch.ones_like(of_depth)
        mostly_one = torch.where(alone, ones, of_depth)
        return {
            "complete": (zeros, ones),
            "partial": (zeros, of_depth),
            "lidar": (ones, mostly_one),
            "image": (zeros, mostly_one),
            "to_image": (of_image, zeros),
            "joint": (of_image, of_depth),
        }[regime]

    def _depth_error(self, depth: Tensor, given: _Inputs) -> Tensor:
        """Error of the velocity that a clean map implies, the mean of each sample's; without truth it counts nothing.

        Both velocities start from the same noisy map, which cancels: what is left is the error of the clean map over
        the level.
        """
        error = (depth - given.clean) / given.depth_level.clamp(min=SMALLEST_LEVEL)[:, None, None]
        error = error.square() if self._config.error == "squared" else error.abs()
        total = given.weight.sum((1, 2))
        mean = (error * given.weight).sum((1, 2)) / total.clamp(min=1e-6)
        has_truth = total > 0
        return (mean * has_truth).sum() / has_truth.sum().clamp(min=1)

    def _tokens(self, log_depth: Tensor) -> Tensor:
        return patched(contracted(log_depth.exp()), self._patch)

    def _sampled(self, net: Flux2Network, known: Flux2Known) -> Tensor:
        """Log of depth over its mean, (B, 1, H, W); every sample of every evaluation starts from the same noise."""
        steps = self._config.heldout_steps
        out = sampled_steps(net, known, steps, torch.Generator().manual_seed(_SEED), same_noise=True)
        return unpatched(log_of(out.depth), known.grid)

    def _encoded(self, batch: Batch) -> Tensor:
        device = batch["image"].device
        if device not in self._codecs:
            self._codecs[device] = next(iter(self._codecs.values())).to(device)
        with torch.no_grad(), without_autocast(device):
            return self._codecs[device].encode(network_image(batch["image"].float()))

    def _text(self, batch: Batch) -> Tensor:
        return self._prompt.to(batch["image"].device).expand(len(batch["image"]), -1, -1)

    def _grid(self, batch: Batch) -> Tuple[int, int]:
        height, width = batch["image"].shape[-2:]
        return height // self._patch, width // self._patch


def fitted(log_depth: Tensor, log_returns: Tensor, given: Tensor, *, few: bool) -> Tensor:
    """(B, 1, 1, 1) log of the scale that a robust fit to the returns finds, 0 where there are none.

    Args:
        log_depth, log_returns: (B, 1, H, W).
        given: where there are returns.
        few: fit to few returns too.
    """
    found = []
    for depth, returns, at in zip(log_depth, log_returns, given, strict=True):
        fits = int(at.sum()) >= (1 if few else ENOUGH_RETURNS)
        values = (depth[at].float().cpu().numpy(), returns[at].exp().float().cpu().numpy())
        found.append(fit_scale(*values, "log_depth").scale if fits else 1.0)
    return torch.tensor(found, device=log_depth.device).log()[:, None, None, None]


def _medians(values: Tensor) -> Tensor:
    """(B, 1, 1, 1) medians of what is a number, 0 where nothing is."""
    return values.flatten(1).nanmedian(1).values.nan_to_num()[:, None, None, None]
