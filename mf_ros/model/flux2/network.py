"""The network: text, image and depth tokens in one transformer, a noise level per modality or per depth token.

Source: Modality Forcing (arXiv 2606.13676) and its reference implementation; a level for each depth token is this
project's.
"""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from mf_ros.model.flux2.blocks import (
    FinalLayer,
    LevelEmbedding,
    Modulation,
    ModulationLayer,
    Rotation,
    SingleBlock,
    TripleBlock,
    body_dtype,
    grid_positions,
    joined,
    level_sinusoid,
    rotation_of,
    text_positions,
)
from mf_ros.model.flux2.config import Flux2Config

_IMAGE_TIME, _DEPTH_TIME = 0, 1


class Flux2Prediction(NamedTuple):
    """What the network predicts.

    Attributes:
        image: (B, rows * cols, image_channels) velocity of the image's latents, noise minus clean.
        depth: (B, rows * cols, depth_channels) clean depth tokens, contracted.
    """

    image: Tensor
    depth: Tensor


class Flux2Network(nn.Module):
    """Modality Forcing on FLUX.2.

    The body runs in the dtype of ``img_in``, or in that of autocast, each final layer in its own; the released weights
    are meant for a bfloat16 body with ``depth_final_layer`` in float32. float16 overflows.
    """

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.img_in = nn.Linear(config.image_channels, hidden, bias=False)
        self.txt_in = nn.Linear(config.text_channels, hidden, bias=False)
        self.depth_in = nn.Linear(config.depth_channels, hidden, bias=False)
        self.time_in = LevelEmbedding(hidden)
        self.time_in_depth = LevelEmbedding(hidden)
        if config.variant == "v2":
            self.time_in_depth_to_img = LevelEmbedding(hidden)
            self.time_in_rgb_to_depth = LevelEmbedding(hidden)
            self.cross_alpha_img = nn.Parameter(torch.zeros(1))
            self.cross_alpha_depth = nn.Parameter(torch.zeros(1))
        sizes = (hidden, config.heads, config.mlp_hidden)
        self.double_blocks = nn.ModuleList(TripleBlock(*sizes) for _ in range(config.triple_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(*sizes) for _ in range(config.single_blocks))
        self.depth_decoder_blocks = nn.ModuleList(SingleBlock(*sizes) for _ in range(config.depth_blocks))
        self.double_stream_modulation_img = ModulationLayer(hidden, 2)
        self.double_stream_modulation_txt = ModulationLayer(hidden, 2)
        self.double_stream_modulation_depth = ModulationLayer(hidden, 2)
        self.single_stream_modulation = ModulationLayer(hidden, 1)
        self.single_stream_modulation_depth = ModulationLayer(hidden, 1)
        self.depth_decoder_modulation = ModulationLayer(hidden, 1)
        self.final_layer = FinalLayer(hidden, config.image_channels)
        self.depth_final_layer = FinalLayer(hidden, config.depth_channels)

    def forward(
        self,
        image: Tensor,
        image_level: Tensor,
        text: Tensor,
        depth: Tensor,
        depth_level: Tensor,
        grid: Tuple[int, int],
    ) -> Flux2Prediction:
        """Predict the image's velocity and the clean depth.

        Args:
            image: (B, rows * cols, image_channels) latents, noised to ``image_level``.
            image_level: (B,) noise level of the image, 0 clean to 1 noise; text is modulated by it too.
            text: (B, T, text_channels) hidden states of the text encoder, padding kept.
            depth: (B, rows * cols, depth_channels) contracted depth patches, noised to ``depth_level``; no tokens at
                all, (B, 0, depth_channels), leave the stream out.
            depth_level: (B,) noise level of the depth map, or (B, rows * cols) one for each of its tokens.
            grid: rows and columns of tokens.

        Raises:
            ValueError: the numbers of tokens do not fit the grid.
        """
        self._check(image, depth, depth_level, grid)
        body = body_dtype(self.img_in.weight)
        image_code, depth_code = self._codes(image_level, depth_level, body)
        tokens = [self.txt_in(text.to(body)), self.img_in(image.to(body)), self.depth_in(depth.to(body))]
        counts = [each.shape[1] for each in tokens]
        rotation = self._rotation(counts, grid, image.device)

        modulations = [
            self.double_stream_modulation_txt(image_code),
            self.double_stream_modulation_img(image_code),
            self.double_stream_modulation_depth(depth_code),
        ]
        for block in self.double_blocks:
            tokens = block(tokens, modulations, rotation)

        x = torch.cat(tokens, 1)
        before_depth = counts[0] + counts[1]
        modulation = self._single_modulation(image_code, depth_code, before_depth, counts[2])
        for block in self.single_blocks:
            x = block(x, modulation, rotation)

        _, image_tokens, depth_tokens = torch.split(x, counts, 1)
        if counts[2]:
            (modulation,) = self.depth_decoder_modulation(depth_code)
            rotation = Rotation(rotation.cos[before_depth:], rotation.sin[before_depth:])
            for block in self.depth_decoder_blocks:
                depth_tokens = block(depth_tokens, modulation, rotation)
        return Flux2Prediction(
            self.final_layer(image_tokens, image_code), self.depth_final_layer(depth_tokens, depth_code)
        )

    def _codes(self, image_level: Tensor, depth_level: Tensor, body: torch.dtype) -> Tuple[Tensor, Tensor]:
        """Embedded levels (B, 1, hidden) of the image and (B, 1 or N, hidden) of the depth.

        With v2 each modality adds what it makes of the other's level, times a gate that training started at zero. The
        image is told the mean of the levels of the depth's tokens.
        """
        of_image = level_sinusoid(image_level[:, None], body)
        levels = depth_level if depth_level.dim() == 2 else depth_level[:, None]
        of_depth = level_sinusoid(levels, body)
        image, depth = self.time_in(of_image), self.time_in_depth(of_depth)
        if self.config.variant == "v2":
            # Averaged in double precision: the mean of equal levels is that level, to the last bit.
            overall = of_depth
            if levels.shape[1] > 1:
                overall = level_sinusoid(levels.double().mean(1, keepdim=True).to(levels.dtype), body)
            image = image + self.cross_alpha_img * self.time_in_depth_to_img(overall)
            depth = depth + self.cross_alpha_depth * self.time_in_rgb_to_depth(of_image)
        return image, depth

    def _single_modulation(self, image_code: Tensor, depth_code: Tensor, others: int, of_depth: int) -> Modulation:
        """Modulation of each token of the single stack: text and image share theirs, depth has its own."""
        (shared,) = self.single_stream_modulation(image_code)
        (own,) = self.single_stream_modulation_depth(depth_code)
        return joined([shared, own], [others, of_depth]) if of_depth else shared

    def _rotation(self, counts: List[int], grid: Tuple[int, int], device: torch.device) -> Rotation:
        positions = [text_positions(counts[0], device), grid_positions(*grid, _IMAGE_TIME, device)]
        if counts[2]:
            positions.append(grid_positions(*grid, _DEPTH_TIME, device))
        return rotation_of(torch.cat(positions), self.config.rope_axes, self.config.rope_theta)

    @staticmethod
    def _check(image: Tensor, depth: Tensor, depth_level: Tensor, grid: Tuple[int, int]) -> None:
        count = grid[0] * grid[1]
        if image.shape[1] != count or depth.shape[1] not in (0, count):
            raise ValueError(
                f"{image.shape[1]} image and {depth.shape[1]} depth tokens do not fit a grid of {grid[0]} x {grid[1]}."
            )
        if depth_level.dim() == 2 and depth_level.shape[1] != depth.shape[1]:
            raise ValueError(f"{depth_level.shape[1]} depth levels do not fit {depth.shape[1]} depth tokens.")
