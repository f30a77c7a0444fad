"""The network: one transformer over image and depth, a noise level per modality and per depth pixel.

Source: Modality Forcing (arXiv 2606.13676) for one noise level per modality and a decoder per modality; the level per
depth pixel, through which LiDAR enters as partial depth, and the metric residual over a prior are this project's.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mf_ros.model.config import ModelConfig
from mf_ros.model.layers import Block, Decoder, LevelEmbedding, Stem, propagated, rotary_angles

AFFINITIES = 8
"""Neighbours of a pixel in a step of propagation."""

_DETAIL_GAIN = 10.0
_COARSE_GAIN = 5.0
_LARGEST_AFFINITY = 0.12
_INITIAL_LOG_SCALE = -3.0
_LOG_SCALE_LIMITS = (-8.0, 3.0)
_DEPTH_INPUTS = 4 * 16 + 3


class Prediction(NamedTuple):
    """What the network says the clean signals are.

    Attributes:
        depth: (B, 1, H, W) log of depth over the scale.
        log_scale: (B, 1, H, W) log of the Laplace scale b of the error of ``depth``.
        visible: (B, 1, H, W) logit that a return at this pixel lies on the surface that the camera sees there.
        image: (B, 3, H, W) in [-1, 1], or None when it was not asked for.
    """

    depth: Tensor
    log_scale: Tensor
    visible: Tensor
    image: Optional[Tensor] = None


class ModalityForcing(nn.Module):
    """Clean image and depth from noisy ones.

    An untrained network returns its prior, exactly. Noisy inputs are gated with one minus their level, so a pixel at
    level 1 says nothing, and the one-step result depends on no random number.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        quarter, width = config.stem[0], config.width
        separate = config.streams == "separate"
        self.image_in = nn.Sequential(
            nn.Conv2d(4, quarter // 2, 3, stride=2, padding=1),
            nn.GELU(approximate="tanh"),
            nn.Conv2d(quarter // 2, quarter, 3, stride=2, padding=1),
        )
        self.depth_in = nn.Conv2d(_DEPTH_INPUTS, quarter, 1)
        self.stem = Stem(config.stem, config.blocks, width)
        self.image_stem = Stem(config.stem, config.blocks, width) if separate else None
        self.levels = LevelEmbedding(width)
        self.modulation = nn.Linear(width, 6 * width)
        self.image_modulation = nn.Linear(width, 6 * width) if separate else None
        self.text_in = nn.Linear(config.text_width, width) if config.text_width else None
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(width)
        affinities = AFFINITIES * len(config.propagation)
        self.depth_decoder = Decoder(config.stem, config.blocks, width, 3 + affinities)
        self.image_decoder = Decoder(config.stem, config.blocks, width, 3)

    def forward(
        self,
        image: Tensor,
        image_level: Tensor,
        depth: Tensor,
        level: Tensor,
        depth_level: Tensor,
        prior: Tensor,
        text: Optional[Tensor] = None,
        decode_image: bool = False,
    ) -> Prediction:
        """Predict the clean signals.

        Args:
            image: (B, 3, H, W) in [-1, 1], noised to ``image_level``.
            image_level: (B,) noise level of the image, 0 clean to 1 noise.
            depth: (B, 1, H, W) log of depth over the scale, each pixel noised to its own level.
            level: (B, 1, H, W) noise level of each depth pixel: 0 trusted, 1 unknown.
            depth_level: (B,) the sampler's level, that of pixels nothing is known about.
            prior: (B, 1, H, W) log of the prior's depth over the scale; zero where there is none.
            text: (B, T, text_width) tokens, for a network built for text.
            decode_image: also predict the clean image.

        H and W are multiples of 16.
        """
        of_image = self.image_in(_image_features(image, image_level))
        of_depth = self.depth_in(_depth_features(depth, level, depth_level, prior))
        skips, tokens, angles, modulation = self._tokens(of_image, of_depth, image_level, depth_level)
        rows, cols = tokens[0].shape[-2:]
        x = torch.cat([each.flatten(2).transpose(1, 2) for each in tokens], 1)
        if text is not None and self.text_in is not None:
            x, angles, modulation = self._with_text(x, angles, modulation, text)
        for block in self.blocks:
            x = block(x, angles, modulation)
        x = self.final_norm(x)
        last = rows * cols
        depth_tokens = _grid(x[:, -last:], rows, cols)
        prediction = self._decoded_depth(depth_tokens, skips, prior)
        if not decode_image:
            return prediction
        image_tokens = _grid(x[:, -last * len(tokens) :][:, :last], rows, cols)
        return prediction._replace(image=self.image_decoder(image_tokens, skips).float())

    def _tokens(
        self, of_image: Tensor, of_depth: Tensor, image_level: Tensor, depth_level: Tensor
    ) -> Tuple[List[Tensor], List[Tensor], Tensor, Tensor]:
        """Stem features, token grids (image before depth), their rotary angles and their modulation."""
        image_code, depth_code = self.levels(image_level, depth_level)
        if self.image_stem is None or self.image_modulation is None:
            skips, grid = self.stem(of_image + of_depth)
            modulation = self.modulation(F.silu(image_code + depth_code))[:, None]
            return skips, [grid], self._angles(grid), modulation.reshape(modulation.shape[0], -1, 6, self.config.width)
        image_skips, image_grid = self.image_stem(of_image)
        depth_skips, depth_grid = self.stem(of_depth)
        skips = [one + other for one, other in zip(image_skips, depth_skips, strict=True)]
        angles = self._angles(depth_grid)
        count = angles.shape[0]
        modulation = torch.cat(
            [
                self.image_modulation(F.silu(image_code))[:, None].expand(-1, count, -1),
                self.modulation(F.silu(depth_code))[:, None].expand(-1, count, -1),
            ],
            1,
        )
        modulation = modulation.reshape(modulation.shape[0], -1, 6, self.config.width)
        return skips, [image_grid, depth_grid], torch.cat([angles, angles], 0), modulation

    def _angles(self, grid: Tensor) -> Tensor:
        return rotary_angles(grid.shape[-2], grid.shape[-1], self.config.width // self.config.heads, grid.device)

    def _with_text(self, x: Tensor, angles: Tensor, modulation: Tensor, text: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Text tokens in front of the others: no rotation, modulated like the first kind of token."""
        assert self.text_in is not None
        words = self.text_in(text)
        count = words.shape[1]
        angles = torch.cat([angles.new_zeros(count, angles.shape[1]), angles], 0)
        of_words = modulation[:, :1].expand(-1, count, -1, -1)
        others = modulation.expand(-1, x.shape[1], -1, -1)
        return torch.cat([words, x], 1), angles, torch.cat([of_words, others], 1)

    def _decoded_depth(self, tokens: Tensor, skips: List[Tensor], prior: Tensor) -> Prediction:
        decoded = self.depth_decoder(tokens, skips).float()
        sizes = [1, 1, 1, *(AFFINITIES for _ in self.config.propagation)]
        residual, log_scale, visible, *affinities = torch.split(decoded, sizes, 1)
        depth = prior + residual
        for reach, affinity in zip(self.config.propagation, affinities, strict=True):
            depth = propagated(depth, bounded_affinity(affinity), reach)
        return Prediction(depth, bounded_log_scale(log_scale), visible)


def bounded_affinity(affinity: Tensor) -> Tensor:
    """What the decoder says of neighbours as weights of the propagation."""
    return torch.tanh(affinity) * _LARGEST_AFFINITY


def bounded_log_scale(log_scale: Tensor) -> Tensor:
    """What the decoder says of the error as log of its Laplace scale."""
    return (log_scale + _INITIAL_LOG_SCALE).clamp(*_LOG_SCALE_LIMITS)


def _grid(tokens: Tensor, rows: int, cols: int) -> Tensor:
    """(B, rows * cols, width) tokens as (B, width, rows, cols)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], rows, cols)


def _image_features(image: Tensor, level: Tensor) -> Tensor:
    """(B, 4, H, W): the image as far as it can be trusted, and its level."""
    plane = level[:, None, None, None]
    return torch.cat([image * (1 - plane), plane.expand_as(image[:, :1])], 1)


def _depth_features(depth: Tensor, level: Tensor, depth_level: Tensor, prior: Tensor) -> Tensor:
    """(B, 67, H / 4, W / 4): what 4x4 blocks of pixels know.

    Small differences are what matters and half precision would round them away beside the values themselves, so
    differences are taken here, in full precision, and amplified.
    """
    trust = 1 - level
    departure = (depth - prior) * trust
    fine = F.pixel_unshuffle(prior, 4)
    block = fine.mean(1, keepdim=True)
    around = F.avg_pool2d(block, 5, stride=1, padding=2, count_include_pad=False)
    return torch.cat(
        [
            (fine - block) * _DETAIL_GAIN,
            F.pixel_unshuffle(F.softsign(departure * _DETAIL_GAIN), 4),
            F.pixel_unshuffle(departure, 4),
            F.pixel_unshuffle(trust, 4),
            block,
            (block - around) * _COARSE_GAIN,
            depth_level[:, None, None, None].expand_as(block),
        ],
        1,
    )
