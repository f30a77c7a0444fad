"""Parts of the network: noise-level embedding, transformer block, convolutional block."""

from __future__ import annotations

import math
from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FREQUENCIES = 64
_LEVEL_SCALE = 1000.0
_LONGEST_PERIOD = 10000.0
_ROPE_BASE = 100.0


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The layer with weights and bias of zero, so that what it adds starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class LevelEmbedding(nn.Module):
    """Embeds the noise level of each modality, and tells each modality the other's through a gate that starts closed.

    Source: Modality Forcing (arXiv 2606.13676) for separate embedders and the zero-initialised cross path.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = _level_mlp(width)
        self.depth = _level_mlp(width)
        self.depth_to_image = _level_mlp(width)
        self.image_to_depth = _level_mlp(width)
        self.image_gate = nn.Parameter(torch.zeros(1))
        self.depth_gate = nn.Parameter(torch.zeros(1))

    def forward(self, image_level: Tensor, depth_level: Tensor) -> Tuple[Tensor, Tensor]:
        """Embeddings (B, width) for the image's and the depth's tokens, from levels (B,) in [0, 1]."""
        of_image, of_depth = _sinusoid(image_level), _sinusoid(depth_level)
        image = self.image(of_image) + self.image_gate * self.depth_to_image(of_depth)
        depth = self.depth(of_depth) + self.depth_gate * self.image_to_depth(of_image)
        return image, depth


def _level_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * _FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))


def _sinusoid(level: Tensor) -> Tensor:
    steps = torch.arange(_FREQUENCIES, device=level.device, dtype=torch.float32)
    angle = level.float()[:, None] * _LEVEL_SCALE * torch.exp(steps * (-math.log(_LONGEST_PERIOD) / _FREQUENCIES))
    return torch.cat([angle.cos(), angle.sin()], 1)


def rotary_angles(rows: int, cols: int, channels: int, device: torch.device) -> Tensor:
    """(rows * cols, channels / 2) angles of a rotary embedding: half of the channels turn with the row, half with
    the column (RoPE, arXiv 2104.09864, in two dimensions)."""
    steps = torch.arange(channels // 4, device=device, dtype=torch.float32)
    speed = torch.exp(steps * (-math.log(_ROPE_BASE) / (channels // 4)))
    row = torch.arange(rows, device=device, dtype=torch.float32)[:, None] * speed
    col = torch.arange(cols, device=device, dtype=torch.float32)[:, None] * speed
    row = row[:, None, :].expand(rows, cols, channels // 4)
    col = col[None, :, :].expand(rows, cols, channels // 4)
    return torch.cat([row, col], 2).reshape(rows * cols, channels // 2)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Channel pairs (i, i + half) of (B, heads, N, channels) turned by their angles (N, channels / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Block(nn.Module):
    """Transformer block whose scale, shift and gate come from the noise level (adaLN-Zero, arXiv 2212.09748).

    The modulation shared by all blocks arrives from outside; each block adds a small table of its own, and each kind of
    token its own part of it.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.attention_proj = nn.Linear(width, width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.table = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, angles: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, width), rotary ``angles`` (N, head channels / 2), ``modulation`` (B, N or 1, 6, width)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = (modulation + self.table).unbind(2)
        x = x + gate1 * self._attention(self._modulated(x, scale1, shift1), angles)
        hidden = F.gelu(self.expand(self._modulated(x, scale2, shift2)), approximate="tanh")
        out: Tensor = x + gate2 * self.contract(hidden)
        return out

    def _modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift

    def _attention(self, x: Tensor, angles: Tensor) -> Tensor:
        query, key, value = (_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        # In full precision: the norm's weights are, and so are the angles.
        query, key = (
            _rotated(norm(part.float()), angles).to(value.dtype)
            for norm, part in ((self.query_norm, query), (self.key_norm, key))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.attention_proj(mixed.transpose(1, 2).flatten(2))
        return out


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, width) to (B, heads, N, width / heads)."""
    return x.reshape(x.shape[0], -1, heads, x.shape[2] // heads).transpose(1, 2)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions added to their input; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        out: Tensor = x + self.second(F.gelu(self.first(F.gelu(x, approximate="tanh")), approximate="tanh"))
        return out


class Stem(nn.Module):
    """From features at 1/4 to features at 1/4 and 1/8 and tokens at 1/16."""

    def __init__(self, channels: Tuple[int, int], blocks: Tuple[int, int], width: int) -> None:
        super().__init__()
        quarter, eighth = channels
        self.quarter = nn.Sequential(*(ConvBlock(quarter) for _ in range(blocks[0])))
        self.down = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.eighth = nn.Sequential(*(ConvBlock(eighth) for _ in range(blocks[1])))
        self.tokens = nn.Conv2d(eighth, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tuple[List[Tensor], Tensor]:
        """(B, c4, h, w) to the features at both sizes and the token grid (B, width, h / 4, w / 4)."""
        quarter = self.quarter(x)
        eighth = self.eighth(self.down(quarter))
        return [quarter, eighth], self.tokens(F.gelu(eighth, approximate="tanh"))


class Decoder(nn.Module):
    """From tokens back to 1/4 of the image's size, with the stem's features on the way, then to pixels."""

    def __init__(self, channels: Tuple[int, int], blocks: Tuple[int, int], width: int, outputs: int) -> None:
        super().__init__()
        quarter, eighth = channels
        self.from_tokens = nn.Conv2d(width, eighth * 4, 1)
        self.eighth_skip = nn.Conv2d(eighth, eighth, 1)
        self.eighth = nn.Sequential(*(ConvBlock(eighth) for _ in range(blocks[1])))
        self.up = nn.Conv2d(eighth, quarter * 4, 1)
        self.quarter_skip = nn.Conv2d(quarter, quarter, 1)
        self.quarter = nn.Sequential(*(ConvBlock(quarter) for _ in range(blocks[0])))
        self.head = zeroed(nn.Conv2d(quarter, outputs * 16, 3, padding=1))

    def forward(self, tokens: Tensor, skips: List[Tensor]) -> Tensor:
        """(B, width, h, w) tokens and the features at 1/4 and 1/8 to (B, outputs, 16 h, 16 w)."""
        return F.pixel_shuffle(self.head(self.features(tokens, skips)), 4)

    def features(self, tokens: Tensor, skips: List[Tensor]) -> Tensor:
        """What the head sees: (B, c4, 4 h, 4 w)."""
        x = F.pixel_shuffle(self.from_tokens(tokens), 2) + self.eighth_skip(skips[1])
        x = F.pixel_shuffle(self.up(self.eighth(x)), 2) + self.quarter_skip(skips[0])
        return F.gelu(self.quarter(x), approximate="tanh")


def propagated(values: Tensor, affinity: Tensor, reach: int) -> Tensor:
    """One step of learned propagation: each pixel moves towards, or away from, its 8 neighbours ``reach`` pixels away.

    Args:
        values: (B, 1, H, W).
        affinity: (B, 8, H, W) weights; zero leaves the values as they are.
        reach: distance of the neighbours, pixels; the border repeats.
    """
    # Unbound once: a slice per neighbour would cost a full-size gradient of zeros each.
    return moved_by(values, [weight[:, None] for weight in affinity.unbind(1)], reach)


def moved_by(values: Tensor, weights: Sequence[Tensor], reach: int) -> Tensor:
    """As ``propagated``, with one (B, 1, H, W) map of weights for each neighbour."""
    height, width = values.shape[-2:]
    padded = F.pad(values, (reach, reach, reach, reach), mode="replicate")
    offsets = [
        (row, col) for row in (0, reach, 2 * reach) for col in (0, reach, 2 * reach) if (row, col) != (reach, reach)
    ]
    moved = values
    for (row, col), weight in zip(offsets, weights, strict=True):
        neighbour = padded[:, :, row : row + height, col : col + width]
        moved = moved + weight * (neighbour - values)
    return moved
