"""Parts of the network: noise-level embedding, rotary embedding, modulation, blocks, final layer.

Attributes have the names of the official tensors. No layer has a bias, and no layer norm has weights. Sources: the
reference implementations of FLUX.2 and of Modality Forcing (arXiv 2606.13676), for names and order of operations.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, ContextManager, Iterable, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVEL_CHANNELS = 256
"""Channels of a noise level before its embedding."""

_AUTOCAST = ("cpu", "cuda")
_EPS = 1e-6
_LEVEL_SCALE = 1000.0
_LONGEST_PERIOD = 10000.0


class Rotation(NamedTuple):
    """Cosine and sine, (N, channels of a head / 2) float32 each, of the angle each channel pair turns by."""

    cos: Tensor
    sin: Tensor


class Modulation(NamedTuple):
    """What a noise level does to one part of a block: (B, 1 or N, hidden) each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class LevelEmbedding(nn.Module):
    """Embedding of noise levels: sinusoid, then two layers."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.in_layer = _linear(LEVEL_CHANNELS, hidden)
        self.out_layer = _linear(hidden, hidden)

    def forward(self, sinusoid: Tensor) -> Tensor:
        """(..., 256) from ``level_sinusoid`` to (..., hidden)."""
        out: Tensor = self.out_layer(F.silu(self.in_layer(sinusoid)))
        return out


def level_sinusoid(level: Tensor, dtype: torch.dtype) -> Tensor:
    """Sinusoid of noise levels in [0, 1]: (...,) to (..., 256), 128 cosines before 128 sines.

    The level, 1000 times the level and the result are rounded to ``dtype``: the released network was trained so, and in
    bfloat16 the rounding moves the fastest angles by radians.
    """
    half = LEVEL_CHANNELS // 2
    scaled = (level.to(dtype) * _LEVEL_SCALE).float()
    steps = torch.arange(half, dtype=torch.float32, device=level.device)
    angle = scaled[..., None] * torch.exp(-math.log(_LONGEST_PERIOD) * steps / half)
    return torch.cat([angle.cos(), angle.sin()], -1).to(dtype)


def grid_positions(rows: int, cols: int, time: int, device: torch.device) -> Tensor:
    """(rows * cols, 4) positions (time, row, column, 0) of the tokens of an image (time 0) or depth map (time 1)."""
    row, col = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32, device=device),
        torch.arange(cols, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([torch.full_like(row, time), row, col, torch.zeros_like(row)], -1).reshape(rows * cols, 4)


def text_positions(count: int, device: torch.device) -> Tensor:
    """(count, 4) positions (0, 0, 0, place) of text tokens."""
    return F.pad(torch.arange(count, dtype=torch.float32, device=device)[:, None], (3, 0))


def rotation_of(positions: Tensor, axes: Sequence[int], theta: float) -> Rotation:
    """Rotation of tokens at ``positions`` (N, 4).

    Each axis has a run of n channels, whose pair k turns by position / theta^(2k / n). Source: rotary embedding (RoPE,
    arXiv 2104.09864).
    """
    angles: List[Tensor] = []
    for axis, channels in enumerate(axes):
        exponent = torch.arange(0, channels, 2, dtype=torch.float32, device=positions.device) / max(channels, 1)
        angles.append(positions[:, axis, None] * (1.0 / theta**exponent))
    angle = torch.cat(angles, 1)
    return Rotation(angle.cos(), angle.sin())


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """(B, heads, N, channels) with the neighbouring channels (2k, 2k + 1) turned as a pair, in float32 at least."""
    kind = torch.promote_types(x.dtype, torch.float32)
    even, odd = x.to(kind).reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = rotation
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


def attention(query: Tensor, key: Tensor, value: Tensor, rotation: Rotation) -> Tensor:
    """Attention among all tokens: (B, heads, N, channels) each to (B, N, heads * channels)."""
    mixed = F.scaled_dot_product_attention(rotated(query, rotation), rotated(key, rotation), value)
    return mixed.transpose(1, 2).flatten(2)


class ModulationLayer(nn.Module):
    """Modulation of ``parts`` parts of a block from the embedded noise level; all blocks of a stack share it."""

    def __init__(self, hidden: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.lin = _linear(hidden, 3 * parts * hidden)

    def forward(self, code: Tensor) -> List[Modulation]:
        """(B, 1 or N, hidden) to one modulation for each part; shift comes before scale and gate."""
        chunks = self.lin(F.silu(code)).chunk(3 * self.parts, -1)
        return [Modulation(*chunks[start : start + 3]) for start in range(0, 3 * self.parts, 3)]


class RmsNorm(nn.Module):
    """RMS norm over the channels of a head, with a learned scale applied after rounding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype as ``x``."""
        kind = torch.promote_types(x.dtype, torch.float32)
        wide = x.to(kind)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + _EPS)
        return (normed.to(x.dtype) * self.scale).to(x.dtype)


class QueryKeyNorm(nn.Module):
    """Norms of queries and keys."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_norm = RmsNorm(channels)
        self.key_norm = RmsNorm(channels)

    def split(self, qkv: Tensor, heads: int) -> Tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3 * hidden) to normed query, normed key and value, (B, heads, N, hidden / heads) each."""
        batch, count, channels = qkv.shape
        parts = qkv.reshape(batch, count, 3, heads, channels // (3 * heads)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        return self.query_norm(query), self.key_norm(key), value


class StreamAttention(nn.Module):
    """Projections into and out of the attention that the streams share."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.qkv = _linear(hidden, 3 * hidden)
        self.norm = QueryKeyNorm(hidden // heads)
        self.proj = _linear(hidden, hidden)


class GatedSilu(nn.Module):
    """silu(first half) * second half of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2 n) to (..., n)."""
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up


class TripleBlock(nn.Module):
    """Block with weights of their own for text, image and depth, which meet in the attention."""

    def __init__(self, hidden: int, heads: int, mlp_hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.txt_attn, self.img_attn, self.depth_attn = (StreamAttention(hidden, heads) for _ in range(3))
        self.txt_mlp, self.img_mlp, self.depth_mlp = (_gated_mlp(hidden, mlp_hidden) for _ in range(3))

    def forward(
        self, tokens: Sequence[Tensor], modulations: Sequence[Sequence[Modulation]], rotation: Rotation
    ) -> List[Tensor]:
        """Text, image and depth tokens, (B, N, hidden) each, to the same shapes.

        Args:
            tokens: text, image and depth.
            modulations: of attention and MLP, for each of the three.
            rotation: of all tokens in this order.
        """
        attentions = (self.txt_attn, self.img_attn, self.depth_attn)
        projected = []
        for layer, x, (before, _) in zip(attentions, tokens, modulations, strict=True):
            projected.append(layer.norm.split(layer.qkv(_modulated(x, before)), self.heads))
        query, key, value = (torch.cat(each, 2) for each in zip(*projected, strict=True))
        mixed = torch.split(attention(query, key, value, rotation), [x.shape[1] for x in tokens], 1)
        mlps = (self.txt_mlp, self.img_mlp, self.depth_mlp)
        out = []
        for layer, mlp, x, seen, (first, second) in zip(attentions, mlps, tokens, mixed, modulations, strict=True):
            x = x + first.gate * layer.proj(seen)
            out.append(x + second.gate * mlp(_modulated(x, second)))
        return out


class SingleBlock(nn.Module):
    """Block with one set of weights for all tokens; attention and MLP work side by side."""

    def __init__(self, hidden: int, heads: int, mlp_hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.sizes = [3 * hidden, 2 * mlp_hidden]
        self.linear1 = _linear(hidden, sum(self.sizes))
        self.linear2 = _linear(hidden + mlp_hidden, hidden)
        self.norm = QueryKeyNorm(hidden // heads)
        self.activation = GatedSilu()

    def forward(self, x: Tensor, modulation: Modulation, rotation: Rotation) -> Tensor:
        """(B, N, hidden) to the same shape."""
        qkv, mlp = torch.split(self.linear1(_modulated(x, modulation)), self.sizes, -1)
        mixed = attention(*self.norm.split(qkv, self.heads), rotation)
        out: Tensor = x + modulation.gate * self.linear2(torch.cat([mixed, self.activation(mlp)], -1))
        return out


class FinalLayer(nn.Module):
    """From tokens to the channels of a modality."""

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__()
        self.linear = _linear(hidden, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """(B, N, hidden) and the embedded noise level (B, 1 or N, hidden) to (B, N, channels).

        It computes in the layer's dtype, under autocast too.
        """
        kind = self.linear.weight.dtype
        with without_autocast(x.device):
            shift, scale = self.adaLN_modulation(code.to(kind)).chunk(2, -1)
            out: Tensor = self.linear((1 + scale) * _normed(x.to(kind)) + shift)
        return out


def body_dtype(weight: Tensor) -> torch.dtype:
    """What a layer with this weight computes in: its own dtype, or that of autocast, in which it is trained."""
    kind = weight.device.type
    if kind in _AUTOCAST and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def without_autocast(device: torch.device) -> ContextManager[Any]:
    """Context in which layers compute in their own dtype; the meta device knows no other."""
    if device.type not in _AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def joined(modulations: Iterable[Modulation], counts: Sequence[int]) -> Modulation:
    """One modulation for each token (B, N, hidden), from those of runs of ``counts`` tokens."""
    runs = [
        [part.expand(-1, count, -1) for part in modulation]
        for modulation, count in zip(modulations, counts, strict=True)
    ]
    return Modulation(*(torch.cat(parts, 1) for parts in zip(*runs, strict=True)))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _gated_mlp(hidden: int, mlp_hidden: int) -> nn.Sequential:
    return nn.Sequential(_linear(hidden, 2 * mlp_hidden), GatedSilu(), _linear(mlp_hidden, hidden))


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=_EPS)


def _modulated(x: Tensor, modulation: Modulation) -> Tensor:
    return (1 + modulation.scale) * _normed(x) + modulation.shift
