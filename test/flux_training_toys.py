"""A tiny training of a FLUX.2 network: a folder to start from, planes as scenes, and settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("diffusers", minversion="0.37")

import dataclasses
import functools

import torch
from accelerate.state import AcceleratorState
from flux_toys import smooth_network, tiny_folder
from safetensors.torch import load_file, save_file
from training_toys import begin_after, open_planes, settings
from training_toys import make_sample as plane_sample

from mf_ros.model.flux2 import text
from mf_training.config import TrainConfig
from mf_training.flux.samples import FluxSample, with_map
from mf_training.recipe import Recipe
from mf_training.run import Summary, recipe_of, train
from mf_training.scenes.types import Scene

MODEL: Dict[str, Any] = {
    "kind": "flux2",
    "hidden": 64,
    "heads": 2,
    "triple_blocks": 2,
    "single_blocks": 2,
    "depth_blocks": 1,
    "image_channels": 8,
    "text_channels": 20,
    "rope_axes": [8, 8, 8, 8],
}
WORDS = 4
DATA = {"shapes": [[16, 32]], "workers": 0, "scenes": {"heldout": 3, "number": 8}}
NOISELESS = {"complete": 1, "partial": 0, "lidar": 0, "image": 0, "to_image": 0, "joint": 0}
LORA: Dict[str, Any] = {
    "rank": 2,
    "targets": [r"single_blocks\.\d+\.linear[12]", r"double_blocks\.\d+\.depth_attn\.(qkv|proj)"],
    "also_train": ["depth_in", "depth_final_layer", r"double_blocks\.\d+\.depth_mlp"],
}


def make_flux_plane(scene: Scene, rng: np.random.Generator, shape: Tuple[int, int], config: Any) -> FluxSample:
    """The toys' plane with 32 returns, every other of which is held out, and nothing known elsewhere."""
    sample = plane_sample(scene, rng, shape, config)
    level, weight, truth = np.ones(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    rows, cols = np.mgrid[2 : shape[0] : 4, 2 : shape[1] : 4]
    truth[rows, cols] = sample.truth[rows, cols]
    weight[rows, cols] = 1
    level[rows[:, ::2], cols[:, ::2]] = 0
    weight[rows[:, ::2], cols[:, ::2]] = 0.15
    depth = np.where(level < 1, np.log(np.where(truth > 0, truth, 1) / sample.scale), 0).astype(np.float32)
    return with_map(dataclasses.replace(sample, truth=truth, weight=weight, level=level, depth=depth))


@pytest.fixture(autouse=True)
def short_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text of a few words, because most of a tiny network's time goes into the 512 of the real one."""
    monkeypatch.setattr(text, "LENGTH", WORDS)


def start(folder: Path, rough: float = 0.0, **config: Any) -> Path:
    """A folder as released, of a tiny network; the larger ``rough``, the less its depth is smooth."""
    net = smooth_network()
    head = net.depth_final_layer.linear.weight.data
    head += rough * torch.randn(head.shape, generator=torch.Generator().manual_seed(8))
    tiny_folder(folder, net, **config)
    prompt = folder / "empty_prompt.safetensors"
    save_file({"empty_prompt": load_file(prompt)["empty_prompt"][:, :WORDS].contiguous()}, prompt)
    return folder


def flux_settings(out: Path, init: Path, **changes: Any) -> TrainConfig:
    """Settings as ``training_toys.settings`` takes them."""
    common = {
        "model": MODEL,
        "init": str(init),
        "data": DATA,
        "losses": {"complete": 0.3, "partial": 0.2, "lidar": 0.1, "image": 0.2, "to_image": 0.1, "joint": 0.1},
        "optimiser": {"name": "adamw", "lr": 0.003},
        "steps": 6,
        "save_every": 2,
        "eval_every": 3,
        "keep": 9,
        "resume": None,
    }
    return settings(out, **{**common, **changes})


def flux_recipe(config: TrainConfig, same_noise: bool = False) -> Recipe:
    """The networks' own recipe on planes; with the same noise for every sample, processes can be compared."""
    made = recipe_of(config)
    loss_of = made.loss_of if not same_noise else functools.partial(_loss_of_same_noise, made.loss_of)
    return dataclasses.replace(made, open_parts=open_planes, make_sample=make_flux_plane, loss_of=loss_of)


def _loss_of_same_noise(loss_of: Any, net: Any, batch: Any, generator: torch.Generator, losses: Any) -> Any:
    draw = torch.randn

    def same(shape: Any, **_: Any) -> torch.Tensor:
        sizes = torch.Size([shape] if isinstance(shape, int) else shape)
        return draw(sizes[1:], generator=torch.Generator().manual_seed(1)).expand(sizes).clone()

    with mock.patch("torch.randn", same):
        return loss_of(net, batch, generator, losses)


def trained(
    out: Path, init: Path, losses_seen: Optional[List[float]] = None, same_noise: bool = False, **changes: Any
) -> Summary:
    """Train; ``losses_seen`` gets the loss of every line of the log."""
    config = flux_settings(out, init, **changes)
    seen = [] if losses_seen is None else losses_seen
    return train(config, flux_recipe(config, same_noise), lambda status: seen.append(status.loss))


def main(argument: str) -> None:
    """Runs under torchrun, one after the other: JSON list of settings with ``out``, ``init`` and maybe ``after``."""
    text.LENGTH = WORDS
    end, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda *args: None
    for run in json.loads(argument):
        out, init = Path(run.pop("out")), Path(run.pop("init"))
        if "after" in run:
            begin_after(Path(run.pop("after")), out)
        trained(out, init, **run)
        AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized():
        end()


def base_of(folder: Path) -> Mapping[str, torch.Tensor]:
    """The weights in a folder by the names of the network."""
    return {name.removeprefix("dit."): value for name, value in load_file(folder / "model.safetensors").items()}


if __name__ == "__main__":
    main(sys.argv[1])
