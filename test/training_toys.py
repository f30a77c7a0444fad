"""A tiny training that runs in seconds: a network of a few hundred weights, planes as scenes, and its settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mf_training.config import DataConfig, TrainConfig
from mf_training.data import Part
from mf_training.run import Recipe
from mf_training.samples import Sample, collate
from mf_training.scenes.types import LidarScan, Scene
from mf_training.settings import train_config_from_mapping

SIZE = (32, 48)


class Planes:
    """Scenes of one slanted plane, whose slant shows in the image; number 13 cannot be read when it ``fails``."""

    def __init__(self, fails: bool = False) -> None:
        self._fails = fails

    def get(self, index: int) -> Scene:
        if self._fails and index == 13:
            raise OSError("disk on fire")
        rng = np.random.default_rng(index)
        slant = rng.uniform(-1, 1)
        depth = 5 * np.exp(slant * np.linspace(-0.5, 0.5, SIZE[1], dtype=np.float32))
        image = np.full((3, *SIZE), 127.5 + 100 * slant).astype(np.uint8)
        scan = LidarScan(np.zeros((0, 3), np.float32), np.zeros(0, np.int16), "none", 0)
        depth = np.broadcast_to(depth, SIZE)
        return Scene(image, depth, np.eye(3, dtype=np.float32), (scan,), "plane", index)


def make_sample(scene: Scene, rng: np.random.Generator, shape: Tuple[int, int], config: Any) -> Sample:
    """The scene's upper left corner, noisy; one return in its middle, and a prior that is flat."""
    window = (slice(0, shape[0]), slice(0, shape[1]))
    truth = np.ascontiguousarray(scene.depth[window])
    image = scene.image[(slice(None), *window)] + rng.integers(0, 3, (3, *shape))
    level = np.ones(shape, np.float32)
    level[shape[0] // 2, shape[1] // 2] = 0
    zeros = np.zeros(shape, np.float32)
    ones = np.ones(shape, np.float32)
    return Sample(image.astype(np.uint8), truth, ones, zeros, level, zeros, zeros.astype(np.uint8), 5.0)


class Out(NamedTuple):
    depth: Tensor


class ToyNet(nn.Module):
    """Log depth as a product of columns and the image's brightness, through two matrices that Muon takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(5, width)
        self.hidden = nn.Linear(width, width)
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)

    def forward(
        self, image: Tensor, image_level: Tensor, depth: Tensor, level: Tensor, depth_level: Tensor, prior: Tensor
    ) -> Out:
        columns = torch.linspace(-1, 1, image.shape[3], device=image.device).expand_as(prior)
        features = torch.cat([image, columns, level], 1).permute(0, 2, 3, 1)
        hidden = torch.tanh(self.hidden(torch.tanh(self.first(features))))
        return Out(prior + self.last(hidden).permute(0, 3, 1, 2))


def loss_of(
    net: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator, config: Any
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """Squared error of log depth, with noise on the image so that random states matter, torch's global one too."""
    return _loss(net, batch, 0.01 * torch.randn(batch["image"].shape, generator=generator) + 0.01 * torch.randn(()))


def loss_without_noise(
    net: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator, config: Any
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """The same without noise: it does not depend on which process computes it."""
    return _loss(net, batch, torch.zeros(()))


def _loss(net: nn.Module, batch: Mapping[str, Tensor], noise: Tensor) -> Tuple[Tensor, Dict[str, Tensor]]:
    image = batch["image"].float() / 127.5 - 1 + noise.to(batch["image"].device)
    zeros, ones = image.new_zeros(len(image)), image.new_ones(len(image))
    out = net(image, zeros, batch["depth"], batch["level"], ones, batch["prior"])
    loss = (out.depth - (batch["truth"] / batch["scale"][:, None, None, None]).log()).square().mean()
    return loss, {"depth": loss}


def loss_that_breaks(
    net: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator, config: Any
) -> Tuple[Tensor, Dict[str, Tensor]]:
    """The same loss, not a number from the first batch on whose darkest image is very dark."""
    loss, terms = loss_of(net, batch, generator, config)
    return loss * torch.where(batch["image"].float().amin() < 32, torch.nan, 1.0), terms


def open_planes(config: DataConfig) -> List[Part]:
    scenes = config.scenes
    heldout = range(scenes.heldout_first_seed, scenes.heldout_first_seed + scenes.heldout)
    return [Part("planes", Planes(), scenes.first_seed, scenes.number, 1.0, tuple(heldout))]


def open_broken(config: DataConfig) -> List[Part]:
    return [Part("planes", Planes(fails=True), 0, 0, 1.0)]


def build(settings: Mapping[str, Any]) -> ToyNet:
    return ToyNet(settings["width"])


def recipe(**changes: Any) -> Recipe:
    """The toy's recipe."""
    parts: Dict[str, Any] = {
        "model_settings": dict,
        "build": build,
        "loss_of": loss_of,
        "make_sample": make_sample,
        "collate": collate,
        "open_parts": open_planes,
    }
    return Recipe(**{**parts, **changes})


def settings(out: Path, **changes: Any) -> TrainConfig:
    """The toy's settings: dotted names with double underscores, as in ``data__workers=1``."""
    mapping: Dict[str, Any] = {
        "model": {"width": 8},
        "data": {"shapes": [[16, 32], [32, 32]], "workers": 0, "scenes": {"heldout": 4, "number": 40}},
        "schedule": {"warmup": 5},
        "optimiser": {"lr": 0.01},
        "steps": 12,
        "batch": 2,
        "ema": 0.9,
        "device": "cpu",
        "tracker": "none",
        "eval_every": 6,
        "save_every": 4,
        "log_every": 4,
        "out": str(out),
    }
    for name, value in changes.items():
        *groups, last = name.split("__")
        place = mapping
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return train_config_from_mapping(mapping)


def main(arguments: Sequence[str]) -> None:
    """Train in this process, under torchrun too, and save its weights: ``training_toys.py OUT STEPS BATCH``."""
    from safetensors.torch import save_file

    from mf_training.run import train

    out, steps, batch = arguments
    nets: List[ToyNet] = []

    def kept(model: Mapping[str, Any]) -> ToyNet:
        nets.append(build(model))
        return nets[0]

    config = settings(Path(out), steps=int(steps), batch=int(batch), optimiser__name="adamw")
    train(config, recipe(build=kept, loss_of=loss_without_noise))
    save_file(nets[0].state_dict(), Path(out) / f"process_{os.environ.get('RANK', '0')}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1:])
