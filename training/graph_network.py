"""The network as it is exported: the same arithmetic in the operators that onnxruntime computes fastest.

Attention, rotation and the norms of the transformer are single operators there: attention never writes its N x N scores
to memory. Two of them, MultiHeadAttention and RotaryEmbedding, are onnxruntime's own (domain com.microsoft, on CPU and
CUDA since 1.16); runtimes that know only ONNX take the plain graph.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mf_ros.model import ModalityForcing
from mf_ros.model.layers import Block, moved_by
from mf_ros.model.network import AFFINITIES, Prediction, bounded_affinity, bounded_log_scale

RUNTIME_DOMAIN = "com.microsoft"
"""Domain of onnxruntime's own operators."""


class FusedBlock(Block):
    """A transformer block of a network that is exported with batch 1."""

    @classmethod
    def of(cls, block: Block) -> FusedBlock:
        """The block with the same weights."""
        width = block.attention_proj.in_features
        made = cls(width, block.heads, block.expand.out_features / width)
        made.load_state_dict(block.state_dict())
        return made

    def _modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if scale.shape[1] != 1:
            return super()._modulated(x, scale, shift)
        return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0])

    def _attention(self, x: Tensor, angles: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key = (
            self._turned(norm, part, angles) for norm, part in ((self.query_norm, query), (self.key_norm, key))
        )
        mixed = _runtime_operator("MultiHeadAttention", [query, key, value], value, num_heads=self.heads)
        out: Tensor = self.attention_proj(mixed)
        return out

    def _turned(self, norm: nn.RMSNorm, x: Tensor, angles: Tensor) -> Tensor:
        """(B, N, width) queries or keys, normed and rotated."""
        heads = x.float().unflatten(-1, (self.heads, -1))
        # This division is what onnxruntime knows as one operator, its SimplifiedLayerNormalization.
        size = (heads.pow(2).mean(-1, keepdim=True) + cast(float, norm.eps)).sqrt()
        normed = (heads / size * norm.weight.float()).flatten(2).to(x.dtype)
        start = torch.zeros(1, dtype=torch.int64)
        inputs = [normed, start, angles.cos().to(x.dtype), angles.sin().to(x.dtype)]
        return _runtime_operator("RotaryEmbedding", inputs, normed, num_heads=self.heads)


class FusedNetwork(ModalityForcing):
    """A network for one exported step: depth and its scale, nothing else; the maps of its last layer stay apart."""

    @classmethod
    def of(cls, network: ModalityForcing) -> FusedNetwork:
        """The network with the same weights."""
        made = cls(network.config)
        made.load_state_dict(network.state_dict())
        made.blocks = nn.ModuleList(FusedBlock.of(cast(Block, block)) for block in made.blocks)
        return made.eval().requires_grad_(False)

    def halved(self) -> FusedNetwork:
        """The network, in place, in half precision but for its ends.

        What comes before the first convolution takes differences of depth and turns noise levels into angles; what
        comes after the last one moves depth by small parts of itself.
        """
        self.image_in, self.depth_in = _FromHalf(self.image_in), _FromHalf(self.depth_in)  # type: ignore[assignment]
        self.modulation = _ToHalf(self.modulation)  # type: ignore[assignment]
        if self.image_modulation is not None:
            self.image_modulation = _ToHalf(self.image_modulation)  # type: ignore[assignment]
        for part in (self.stem, self.image_stem, self.blocks, self.final_norm, self.depth_decoder):
            if part is not None:
                part.half()
        return self

    def _decoded_depth(self, tokens: Tensor, skips: List[Tensor], prior: Tensor) -> Prediction:
        features, head = self.depth_decoder.features(tokens, skips), self.depth_decoder.head

        def decoded(first: int, count: int) -> Tensor:
            maps = slice(16 * first, 16 * (first + count))
            return F.conv2d(features, head.weight[maps].clone(), head.bias[maps].clone(), padding=1).float()

        residual, log_scale = (F.pixel_shuffle(each, 4) for each in decoded(0, 2).chunk(2, 1))
        depth = prior + residual
        for number, reach in enumerate(self.config.propagation):
            affinity = bounded_affinity(decoded(3 + number * AFFINITIES, AFFINITIES))
            # Each map is unpacked by itself: that takes half the time of unpacking all of them at once.
            depth = moved_by(depth, [F.pixel_shuffle(each, 4) for each in affinity.split(16, 1)], reach)
        return Prediction(depth, bounded_log_scale(log_scale), log_scale)


class _FromHalf(nn.Module):
    """A part of the network that computes in half precision what comes in single."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.half()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.part(x.half())
        return out


class _ToHalf(nn.Module):
    """A part of the network that computes in single precision what goes on in half."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.part(x).half()
        return out


def translations() -> Dict[Callable[..., Any], Callable[..., Any]]:
    """How operators of torch are written, for ``torch.onnx.export``, where its own way is slow.

    Raises:
        MissingDependencyError: onnxscript is not installed.
    """
    from onnxscript import opset20

    def packed(self: Any, downscale_factor: int) -> Any:
        # The order of channels is that of torch because the network only packs planes of one channel.
        return opset20.SpaceToDepth(self, blocksize=downscale_factor)

    return {torch.ops.aten.pixel_unshuffle.default: packed}


def _runtime_operator(name: str, inputs: List[Tensor], like: Tensor, **attributes: int) -> Tensor:
    """One of onnxruntime's own operators, whose result has the shape and type of ``like``."""
    return torch.onnx.ops.symbolic(
        f"{RUNTIME_DOMAIN}::{name}", inputs, attributes, dtype=like.dtype, shape=like.shape, version=1
    )
