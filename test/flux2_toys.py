"""A tiny FLUX.2 network with depth, and the same network computed by hand in NumPy, one token and head at a time."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from mf_ros.model.flux2 import Flux2Config, Flux2Network  # noqa: E402

Array = NDArray[np.float64]
Weights = Dict[str, Array]
GRID = (2, 3)
TINY: Dict[str, Any] = {
    "hidden": 64,
    "heads": 2,
    "triple_blocks": 2,
    "single_blocks": 2,
    "depth_blocks": 1,
    "image_channels": 12,
    "depth_channels": 16,
    "text_channels": 20,
    "rope_axes": (8, 8, 8, 8),
}


def tiny_config(variant: str = "v2", **changes: Any) -> Flux2Config:
    return Flux2Config(variant=variant, **{**TINY, **changes})


def random_network(variant: str = "v2", **changes: Any) -> Flux2Network:
    """A tiny network whose weights are all random, none of them small enough to hide a mistake."""
    torch.manual_seed(0)
    net = Flux2Network(tiny_config(variant, **changes))
    for name, parameter in net.named_parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        else:
            torch.nn.init.normal_(parameter, mean=0.7 if "alpha" in name else 1.0, std=0.3)
    return net.eval().requires_grad_(False)


def inputs(net: Flux2Network, batch: int = 2, words: int = 5, seed: int = 0) -> Dict[str, Any]:
    """Arguments of the network: other levels for image and depth, and for each of the batch."""
    generator = torch.Generator().manual_seed(seed)

    def noise(count: int, channels: int) -> torch.Tensor:
        return torch.randn(batch, count, channels, generator=generator)

    count = GRID[0] * GRID[1]
    return {
        "image": noise(count, net.config.image_channels),
        "image_level": torch.linspace(0.0, 0.4, batch),
        "text": noise(words, net.config.text_channels),
        "depth": noise(count, net.config.depth_channels),
        "depth_level": torch.linspace(1.0, 0.6, batch),
        "grid": GRID,
    }


def weights_of(net: Flux2Network) -> Weights:
    return {name: each.double().numpy() for name, each in net.state_dict().items()}


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def layer_norm(x: Array) -> Array:
    """Mean 0 and variance 1 over the channels, nothing learned."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def rms_norm(x: Array, scale: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def gated(x: Array) -> Array:
    half = x.shape[-1] // 2
    return silu(x[..., :half]) * x[..., half:]


def sinusoid(level: float) -> Array:
    angles = [1000.0 * level * 10000.0 ** (-k / 128) for k in range(128)]
    return np.array([np.cos(each) for each in angles] + [np.sin(each) for each in angles])


def embedded(weights: Weights, name: str, level: float) -> Array:
    return weights[f"{name}.out_layer.weight"] @ silu(weights[f"{name}.in_layer.weight"] @ sinusoid(level))


def modulation(weights: Weights, name: str, code: Array, parts: int) -> Array:
    """(parts, 3, hidden): shift, scale and gate for each part."""
    return (weights[f"{name}.lin.weight"] @ silu(code)).reshape(parts, 3, -1)


def turn(position: Tuple[int, ...], axes: Tuple[int, ...]) -> Array:
    """The rotary embedding as one matrix: 2x2 rotations of neighbouring channels along its diagonal."""
    size = sum(axes)
    matrix = np.zeros((size, size))
    pair = 0
    for place, channels in zip(position, axes, strict=True):
        for k in range(channels // 2):
            angle = place * 2000.0 ** (-2 * k / channels)
            c, s = np.cos(angle), np.sin(angle)
            matrix[2 * pair : 2 * pair + 2, 2 * pair : 2 * pair + 2] = [[c, -s], [s, c]]
            pair += 1
    return matrix


def positions(words: int, grid: Tuple[int, int]) -> List[Tuple[int, ...]]:
    """(time, row, column, place) of text, image and depth tokens."""
    cells = [(row, col) for row in range(grid[0]) for col in range(grid[1])]
    text = [(0, 0, 0, place) for place in range(words)]
    return text + [(0, row, col, 0) for row, col in cells] + [(1, row, col, 0) for row, col in cells]


def attention(qkv: Array, scales: Array, turns: List[Array], heads: int) -> Array:
    """(N, 3 * hidden) to (N, hidden). ``scales``: (N, 2, channels of a head), of queries and keys."""
    count, hidden = qkv.shape[0], qkv.shape[1] // 3
    size = hidden // heads
    out = np.zeros((count, hidden))
    for head in range(heads):
        of_head = slice(head * size, (head + 1) * size)
        query, key, value = (qkv[:, part * hidden : (part + 1) * hidden][:, of_head] for part in range(3))
        query = np.stack([turns[i] @ rms_norm(query[i], scales[i, 0]) for i in range(count)])
        key = np.stack([turns[i] @ rms_norm(key[i], scales[i, 1]) for i in range(count)])
        weight = np.exp(query @ key.T / np.sqrt(size))
        out[:, of_head] = (weight / weight.sum(1, keepdims=True)) @ value
    return out


def scales_of(weights: Weights, name: str, count: int) -> Array:
    both = np.stack([weights[f"{name}.query_norm.scale"], weights[f"{name}.key_norm.scale"]])
    return np.repeat(both[None], count, 0)


def single_block(
    weights: Weights, name: str, x: Array, modulations: List[Array], turns: List[Array], heads: int
) -> Array:
    """``modulations``: shift, scale and gate of each token."""
    shift, scale, gate = (np.stack([each[part] for each in modulations]) for part in range(3))
    inner = ((1 + scale) * layer_norm(x) + shift) @ weights[f"{name}.linear1.weight"].T
    hidden = x.shape[1]
    seen = attention(inner[:, : 3 * hidden], scales_of(weights, f"{name}.norm", len(x)), turns, heads)
    both = np.concatenate([seen, gated(inner[:, 3 * hidden :])], 1)
    return x + gate * (both @ weights[f"{name}.linear2.weight"].T)


def triple_block(
    weights: Weights, name: str, streams: List[Array], modulations: List[Array], turns: List[Array], heads: int
) -> List[Array]:
    """Text, image and depth. ``modulations``: (attention and MLP, shift scale gate, hidden) of each stream."""
    qkv, scales = [], []
    for stream, x, (before, _) in zip(("txt", "img", "depth"), streams, modulations, strict=True):
        shift, scale, _gate = before
        qkv.append(((1 + scale) * layer_norm(x) + shift) @ weights[f"{name}.{stream}_attn.qkv.weight"].T)
        scales.append(scales_of(weights, f"{name}.{stream}_attn.norm", len(x)))
    seen = attention(np.concatenate(qkv), np.concatenate(scales), turns, heads)
    out, start = [], 0
    for stream, x, (before, after) in zip(("txt", "img", "depth"), streams, modulations, strict=True):
        of_stream = seen[start : start + len(x)]
        start += len(x)
        x = x + before[2] * (of_stream @ weights[f"{name}.{stream}_attn.proj.weight"].T)
        inner = ((1 + after[1]) * layer_norm(x) + after[0]) @ weights[f"{name}.{stream}_mlp.0.weight"].T
        out.append(x + after[2] * (gated(inner) @ weights[f"{name}.{stream}_mlp.2.weight"].T))
    return out


def final_layer(weights: Weights, name: str, x: Array, code: Array) -> Array:
    shift, scale = (weights[f"{name}.adaLN_modulation.1.weight"] @ silu(code)).reshape(2, -1)
    return ((1 + scale) * layer_norm(x) + shift) @ weights[f"{name}.linear.weight"].T


def by_hand(config: Flux2Config, weights: Weights, given: Dict[str, Any], item: int) -> Tuple[Array, Array]:
    """The image's and the depth's output for one item of the batch, one level for the whole depth map."""
    image_level, depth_level = (float(given[name][item]) for name in ("image_level", "depth_level"))
    of_image, of_depth = embedded(weights, "time_in", image_level), embedded(weights, "time_in_depth", depth_level)
    if config.variant == "v2":
        of_image = of_image + weights["cross_alpha_img"] * embedded(weights, "time_in_depth_to_img", depth_level)
        of_depth = of_depth + weights["cross_alpha_depth"] * embedded(weights, "time_in_rgb_to_depth", image_level)
    streams = [
        given[name][item].double().numpy() @ weights[f"{key}_in.weight"].T
        for name, key in (("text", "txt"), ("image", "img"), ("depth", "depth"))
    ]
    words, cells = len(streams[0]), len(streams[1])
    turns = [turn(each, config.rope_axes) for each in positions(words, given["grid"])]
    double = [
        modulation(weights, f"double_stream_modulation_{name}", code, 2)
        for name, code in (("txt", of_image), ("img", of_image), ("depth", of_depth))
    ]
    for block in range(config.triple_blocks):
        streams = triple_block(weights, f"double_blocks.{block}", streams, double, turns, config.heads)
    x = np.concatenate(streams)
    shared = modulation(weights, "single_stream_modulation", of_image, 1)[0]
    own = modulation(weights, "single_stream_modulation_depth", of_depth, 1)[0]
    single = [shared] * (words + cells) + [own] * cells
    for block in range(config.single_blocks):
        x = single_block(weights, f"single_blocks.{block}", x, single, turns, config.heads)
    image, depth = x[words : words + cells], x[words + cells :]
    last = [modulation(weights, "depth_decoder_modulation", of_depth, 1)[0]] * cells
    for block in range(config.depth_blocks):
        depth = single_block(weights, f"depth_decoder_blocks.{block}", depth, last, turns[-cells:], config.heads)
    return final_layer(weights, "final_layer", image, of_image), final_layer(
        weights, "depth_final_layer", depth, of_depth
    )


def diffusers_network(config: Flux2Config) -> Any:
    """Diffusers' network with text and image streams of the same sizes, random weights; skips where it is missing."""
    diffusers = pytest.importorskip("diffusers", minversion="0.37")
    return diffusers.Flux2Transformer2DModel(
        in_channels=config.image_channels,
        num_layers=config.triple_blocks,
        num_single_layers=config.single_blocks,
        attention_head_dim=config.hidden // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.text_channels,
        axes_dims_rope=config.rope_axes,
        guidance_embeds=False,
    ).eval()
