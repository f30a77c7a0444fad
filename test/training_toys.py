"""A tiny training that runs in seconds: a network of a few hundred weights, planes as scenes, and its settings."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import Tensor, nn

from mf_training.checkpoints import Checkpoint, latest_checkpoint
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


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one precision per Python process; every test here stands for a process of its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def last(out: Path) -> Checkpoint:
    """The last checkpoint of a run."""
    checkpoint = latest_checkpoint(out)
    assert checkpoint is not None
    return checkpoint


def assert_same(one: Path, other: Path) -> None:
    """Weights, averages, optimiser states and results of the last checkpoints are equal, bit for bit."""
    first, second = last(one), last(other)
    for kind in ("model", "ema", "optimiser"):
        ours, theirs = first.tensors(kind), second.tensors(kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), kind
    ours, theirs = ({k: v for k, v in each.state["tally"].items() if k != "seconds"} for each in (first, second))
    assert ours == theirs


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Weights and averages of the last checkpoints, and what was found by evaluation, are equal but for rounding."""
    first, second = last(one), last(other)
    for kind in ("model", "ema"):
        ours, theirs = first.tensors(kind), second.tensors(kind)
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.allclose(ours[key], theirs[key], atol=tolerance), (kind, key)
    tallies = [each.state["tally"] for each in (first, second)]
    assert tallies[0]["ratio"] == pytest.approx(tallies[1]["ratio"], rel=100 * tolerance)
    assert [tallies[0][name] for name in ("step", "samples", "flops")] == [
        tallies[1][name] for name in ("step", "samples", "flops")
    ]


TINY = {"width": 16, "layers": 2, "heads": 2, "stem": [8, 8], "blocks": [0, 0], "propagation": []}
"""Settings of the project's own network at its smallest."""
NOISELESS = {"complete": 0.5, "partial": 0, "lidar": 0.25, "image": 0.25, "to_image": 0, "joint": 0}
"""Shares of the regimes whose loss depends on no random number, so that processes can be compared with batches."""


def own_recipe() -> Recipe:
    """The project's network and losses on the toy's scenes."""
    from mf_training.run import default_recipe

    return dataclasses.replace(default_recipe(), open_parts=open_planes, make_sample=make_sample)


def in_processes(number: int, runs: Sequence[Mapping[str, Any]]) -> None:
    """Train one after the other in several processes, as torchrun starts them; see ``main``."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(number), "--standalone"]
    done = subprocess.run(
        [*torchrun, __file__, json.dumps(list(runs))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


def begin_after(checkpoint: Path, out: Path) -> None:
    """Make a run's folder that holds nothing but one checkpoint of another run."""
    if os.environ.get("RANK", "0") == "0":
        shutil.copytree(checkpoint, out / checkpoint.name)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def main(argument: str) -> None:
    """Train in this process, under torchrun too, one run after the other.

    Args:
        argument: JSON list of settings as ``settings`` takes them, in which ``out`` is the folder, ``own`` true takes
            the project's network instead of the toy, and ``after`` a checkpoint to go on from.
    """
    from mf_training.run import train

    # Every training ends its group of processes, and a second one of the same processes would meet the first's traces.
    end, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda *args: None
    for run in json.loads(argument):
        out, own = Path(run.pop("out")), run.pop("own", False)
        if "after" in run:
            begin_after(Path(run.pop("after")), out)
        nets: List[nn.Module] = []
        used = own_recipe() if own else recipe(loss_of=loss_without_noise)

        def kept(model: Mapping[str, Any], build: Any = used.build, nets: List[nn.Module] = nets) -> nn.Module:
            nets.append(build(model))
            return nets[-1]

        train(settings(out, **run), dataclasses.replace(used, build=kept))
        if "sharding" not in run:
            save_file(nets[0].state_dict(), out / f"process_{os.environ.get('RANK', '0')}.safetensors")
        AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized():
        end()


if __name__ == "__main__":
    main(sys.argv[1])
