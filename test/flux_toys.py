"""A folder of a tiny released model: network, autoencoder, empty prompt; and a scene whose depth its network knows."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from flux2_toys import random_network  # noqa: E402

from mf_ros.core.camera import CameraModel, make_camera  # noqa: E402
from mf_ros.core.types import ByteArray, FloatArray, SparseDepth  # noqa: E402
from mf_ros.model.flux2 import Flux2Network  # noqa: E402

SIDE = 128
"""Side of a canvas."""
LATENTS, WIDTH = 2, 32
# Sizes of the network; the autoencoder has four resolutions, as the released one, so a token has 16 x 16 pixels.
SIZES: Dict[str, Any] = {"image_channels": 4 * LATENTS, "depth_channels": 256, "text_channels": 20}


def smooth_network(seed: int = 0) -> Flux2Network:
    """A random network whose depth is positive and a slanted plane in each token, as a trained one's is nearly."""
    net = random_network(**SIZES)
    generator = torch.Generator().manual_seed(seed)
    rows, cols = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    planes = torch.stack([torch.ones(256), rows.flatten(), cols.flatten()], 1)
    net.depth_final_layer.linear.weight.data = planes @ torch.randn(3, 64, generator=generator) * 0.005
    # There is no bias. A shift that makes the same of every embedded level stands in for one, so that depth is near 1.
    levels = torch.linspace(0, 1, 33)
    _, code = net._codes(torch.zeros(33), levels, torch.float32)
    embedded = torch.nn.functional.silu(code[:, 0])
    towards_one = torch.linalg.lstsq(embedded, torch.ones(33, 1)).solution[:, 0]
    modulation = net.depth_final_layer.adaLN_modulation[1].weight.data
    modulation[:64] = torch.outer(torch.ones(64) / 64, towards_one)
    modulation[64:] *= 0.05
    net.depth_final_layer.linear.weight.data += 1.0
    return net


def vae_tensors(seed: int = 0) -> Dict[str, torch.Tensor]:
    """Random weights of a tiny autoencoder under the names of the released files, both parts together."""
    generator = torch.Generator().manual_seed(seed)
    made: Dict[str, torch.Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        made[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) / (inputs**0.5 * size)
        made[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    def norm(name: str, channels: int) -> None:
        made[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=generator)
        made[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=generator)

    def block(name: str, inputs: int, outputs: int) -> None:
        for number, channels in ((1, inputs), (2, outputs)):
            norm(f"{name}.norm{number}", channels)
            conv(f"{name}.conv{number}", outputs, channels, 3)
        if inputs != outputs:
            conv(f"{name}.nin_shortcut", outputs, inputs, 1)

    def middle(name: str, channels: int) -> None:
        block(f"{name}.mid.block_1", channels, channels)
        block(f"{name}.mid.block_2", channels, channels)
        norm(f"{name}.mid.attn_1.norm", channels)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.mid.attn_1.{part}", channels, channels, 1)

    widths = (WIDTH, WIDTH, WIDTH, 2 * WIDTH)
    conv("encoder.conv_in", WIDTH, 3, 3)
    for level, (before, width) in enumerate(zip((WIDTH, *widths), widths, strict=False)):
        block(f"encoder.down.{level}.block.0", before, width)
        if level < 3:
            conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    middle("encoder", widths[-1])
    norm("encoder.norm_out", widths[-1])
    conv("encoder.conv_out", 2 * LATENTS, widths[-1], 3)
    conv("encoder.quant_conv", 2 * LATENTS, 2 * LATENTS, 1)
    conv("decoder.post_quant_conv", LATENTS, LATENTS, 1)
    conv("decoder.conv_in", widths[-1], LATENTS, 3)
    middle("decoder", widths[-1])
    for level in (3, 2, 1, 0):
        before = widths[min(level + 1, 3)]
        block(f"decoder.up.{level}.block.0", before, widths[level])
        block(f"decoder.up.{level}.block.1", widths[level], widths[level])
        if level:
            conv(f"decoder.up.{level}.upsample.conv", widths[level], widths[level], 3)
    norm("decoder.norm_out", WIDTH)
    conv("decoder.conv_out", 3, WIDTH, 3)
    made["bn.running_mean"] = torch.randn(4 * LATENTS, generator=generator)
    made["bn.running_var"] = 0.5 + torch.rand(4 * LATENTS, generator=generator)
    made["bn.num_batches_tracked"] = torch.tensor(7)
    return made


def part_of(tensors: Dict[str, torch.Tensor], part: str) -> Dict[str, torch.Tensor]:
    """The tensors of encoder or decoder as their file names them."""
    own = {name.removeprefix(f"{part}."): each for name, each in tensors.items() if name.startswith(f"{part}.")}
    return {**own, **{name: each for name, each in tensors.items() if name.startswith("bn.")}}


def tiny_folder(path: Path, net: Any = None, **config: Any) -> Path:
    """A folder as it is downloaded, of a tiny network, with a ready empty prompt."""
    path.mkdir(parents=True, exist_ok=True)
    net = smooth_network() if net is None else net
    state = {f"dit.{name}": each.contiguous() for name, each in net.state_dict().items()}
    safetensors_torch.save_file(state, path / "model.safetensors")
    tensors = vae_tensors()
    for part in ("encoder", "decoder"):
        safetensors_torch.save_file(part_of(tensors, part), path / f"ae_{part}.safetensors")
    prompt = torch.randn(1, 512, SIZES["text_channels"], generator=torch.Generator().manual_seed(3))
    safetensors_torch.save_file({"empty_prompt": prompt.bfloat16()}, path / "empty_prompt.safetensors")
    sizes = {name: getattr(net.config, name) for name in ("hidden", "heads", "triple_blocks", "single_blocks")}
    sizes |= {"depth_blocks": net.config.depth_blocks, "rope_axes": list(net.config.rope_axes), **SIZES}
    document = {"flux2": {**sizes, "variant": net.config.variant}, "resolution": SIDE, "license": "apache-2.0"}
    (path / "config.json").write_text(json.dumps({**document, **config}))
    return path


def camera_of(shape: tuple[int, ...]) -> CameraModel:
    return make_camera(shape[1], shape[0], [80.0, 0, shape[1] / 2, 0, 80.0, shape[0] / 2, 0, 0, 1], [], "plumb_bob")


def slope(height: int, width: int, nearest: float = 4.0) -> FloatArray:
    """(H, W) metres: ground that rises to the right, twice as far at the top as at the bottom."""
    rows, cols = np.mgrid[0:height, 0:width]
    inverse = (0.5 + 0.5 * (rows + 0.5) / height) * (1 + 0.2 * (cols + 0.5) / width) / 1.2
    return (nearest / inverse).astype(np.float32)


def picture(height: int, width: int) -> ByteArray:
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width])


def lines_of(depth: FloatArray, lines: int = 6, every: int = 2) -> SparseDepth:
    """What a LiDAR with some scan lines measures of it."""
    sparse = np.zeros_like(depth)
    rows = (np.arange(lines) * 2 + 1) * depth.shape[0] // (2 * lines)
    sparse[rows[:, None], np.arange(0, depth.shape[1], every)[None]] = depth[rows][:, ::every]
    return SparseDepth(sparse, int(np.count_nonzero(sparse)))


def blocked_network(monkeypatch: pytest.MonkeyPatch) -> List[object]:
    """Block the network; the list fills with the addresses that are asked for."""
    attempts: List[object] = []

    def refused(self: socket.socket, address: object) -> None:
        attempts.append(address)
        raise OSError("the network is blocked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: refused(None, address))
    return attempts


def into_hub_cache(root: Path, repository: str, folder: Path) -> Path:
    """A folder where the Hub's library keeps a model that it downloaded."""
    base = root / f"models--{repository.replace('/', '--')}"
    (base / "refs").mkdir(parents=True)
    (base / "refs" / "main").write_text("a" * 40)
    return Path(shutil.copytree(folder, base / "snapshots" / ("a" * 40)))
