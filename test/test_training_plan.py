"""How much memory a run takes, worked out from shapes alone, against what is there in a run."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Callable, Dict

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("peft")
pytest.importorskip("cv2")

import torch
from flux2_toys import random_network, tiny_config

from mf_ros.model import ModalityForcing, ModelConfig
from mf_ros.model.flux2 import Flux2Network
from mf_training.activations import activation_bytes as own_activation_bytes
from mf_training.activations import empty_samples
from mf_training.config import DataConfig, OptimiserConfig, TrainConfig
from mf_training.flux.memory import activation_bytes
from mf_training.lora import LoraConfig, adapt, halve_frozen, targets_of
from mf_training.losses import loss_under
from mf_training.plan import held_bytes, memory, plan_lines, planned_network, plans
from mf_training.schedule import Average, make_optimisers
from mf_training.settings import load_train_config
from mf_training.sharding import recompute_blocks

WORDS, GRID, PATCH = 6, (2, 3), 4
ADAPTERS = LoraConfig(rank=2, targets=(r"single_blocks\.\d+\.linear[12]",), also_train=("depth_in",), half=True)


def inputs(net: Flux2Network, batch: int = 2) -> Dict[str, Any]:
    count = GRID[0] * GRID[1]
    return {
        "image": torch.randn(batch, count, net.config.image_channels),
        "image_level": torch.zeros(batch),
        "text": torch.randn(batch, WORDS, net.config.text_channels),
        "depth": torch.randn(batch, count, net.config.depth_channels),
        "depth_level": torch.ones(batch, count),
        "grid": GRID,
    }


def nbytes(tensors: Any) -> int:
    return sum(each.nbytes for each in tensors)


@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "adapters"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_a_step_leaves_behind_is_what_was_planned(name: str, adapted: bool) -> None:
    net, settings = random_network().requires_grad_(True), OptimiserConfig(name=name)
    if adapted:
        adapt(net, ADAPTERS, targets_of(net, ADAPTERS))
        halve_frozen(net)
    average = Average(net, 0.9)
    optimisers = make_optimisers(net, settings)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(**inputs(net))
    (out.depth.square().mean() + out.image.square().mean()).backward()
    for optimiser in optimisers.values():
        optimiser.step()
    planned = held_bytes(net, settings)
    assert planned.parameters == nbytes(net.parameters())
    # A weight that reaches no output has none: counted all the same, the optimiser makes it for others.
    assert planned.gradients == nbytes(w.grad for w in net.parameters() if w.grad is not None)
    states = [v for each in optimisers.values() for entries in each.state.values() for v in entries.values()]
    counted = nbytes(torch.as_tensor(value) for value in states if torch.as_tensor(value).numel() > 1)
    assert planned.optimiser == pytest.approx(counted, rel=1e-3)
    assert planned.average == nbytes(average.weights().values())


def kept_bytes(net: Flux2Network) -> int:
    """Bytes that a forward pass keeps for the backward pass, each memory once and without the weights."""
    seen: Dict[int, torch.Tensor] = {}
    weights = {weight.untyped_storage()._cdata for weight in net.parameters()}

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            seen[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        out = net(**inputs(net))
    del out
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def config(**changes: Any) -> TrainConfig:
    shapes = ((GRID[0] * PATCH, GRID[1] * PATCH),)
    return dataclasses.replace(TrainConfig(model={}, data=DataConfig(shapes=shapes), batch=2), **changes)


@pytest.mark.parametrize("blocks", [(6, 0), (0, 6), (4, 6)])
def test_what_a_backward_pass_keeps_is_about_what_the_formula_says(blocks: tuple[int, int]) -> None:
    sizes = tiny_config(triple_blocks=blocks[0], single_blocks=blocks[1])
    net = random_network(triple_blocks=blocks[0], single_blocks=blocks[1]).requires_grad_(True)
    assert activation_bytes(sizes, config(), WORDS) == pytest.approx(kept_bytes(net), rel=0.15)


def test_recomputing_keeps_the_inputs_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_network(triple_blocks=4, single_blocks=6).requires_grad_(True)
    sizes = net.config
    before = kept_bytes(net)
    recompute_blocks(net)
    # One block's inside is only there while it is recomputed, so the pass forward does not show it.
    inside = (17 * sizes.hidden + 4 * sizes.mlp_hidden) * 4 * 2 * (WORDS + 2 * GRID[0] * GRID[1])
    planned = activation_bytes(sizes, config(recompute=True), WORDS)
    assert planned < 0.35 * activation_bytes(sizes, config(), WORDS)
    assert kept_bytes(net) < 0.25 * before
    assert planned - inside == pytest.approx(kept_bytes(net), rel=0.6)


def test_more_processes_hold_less_each() -> None:
    net = random_network()
    whole, halves, eighths = (held_bytes(net.requires_grad_(True), OptimiserConfig(), count) for count in (1, 2, 8))
    assert halves.total == pytest.approx(whole.total / 2, rel=0.01)
    assert eighths.parameters == pytest.approx(whole.parameters / 8, rel=0.05)


@pytest.mark.parametrize(("name", "weights"), [("posttrain_flux", 12.0e9), ("posttrain_klein", 5.18e9)])
def test_the_large_presets_are_planned_without_their_memory(name: str, weights: float) -> None:
    large = load_train_config(name, ["data=D", "init=X"])
    net = planned_network(large)
    assert all(weight.is_meta for weight in net.parameters())
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(weights, rel=0.01)
    found = plans(large, (1, 8))
    everything, adapted = found.values()
    # 4 bytes each of weight, gradient and average, and 8 of AdamW's state.
    assert everything[0].held.total == pytest.approx(20 * weights, rel=0.02)
    assert adapted[0].total < 45e9 and adapted[1].total < adapted[0].total < everything[0].total


def test_an_own_network_is_planned() -> None:
    small = load_train_config("nano", [])
    found = memory(small, 1)
    # Muon, for most of it, keeps 4 bytes a weight where AdamW keeps 8.
    assert 16 * 3.8e6 < found.held.total < 20 * 3.9e6
    assert found.total == found.held.total + found.activations
    # 8 crops of 320 x 512; 1.6 GB were counted in a real pass.
    assert found.activations == pytest.approx(1.58e9, rel=0.02)


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most memory that torch held at one time while something ran, without what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("streams", ["fused", "separate"])
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"recompute": True}], ids=str)
def test_a_pass_of_an_own_network_takes_what_was_counted_without_memory(streams: str, changes: Dict[str, Any]) -> None:
    sizes = ModelConfig.from_mapping({"width": 64, "layers": 4, "stem": [16, 32], "streams": streams})
    run = TrainConfig(model={}, data=DataConfig(shapes=((64, 64), (96, 128))), batch=3, **changes)
    net, generator = ModalityForcing(sizes), torch.Generator().manual_seed(0)
    if run.recompute:
        recompute_blocks(net)
    batch = empty_samples(run.batch, (96, 128))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=run.precision == "bf16"):
            loss, _ = loss_under("joint", net, batch, generator, run.losses)
        loss.backward()

    step()  # from here on gradients are there
    copies = 2 * sum(weight.numel() for weight in net.parameters()) if run.precision == "bf16" else 0
    # The pass backward holds gradients of a few activations besides.
    assert own_activation_bytes(sizes, run) + copies == pytest.approx(peak_bytes(step), rel=0.2)


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    from mf_ros.cli.main import main

    assert main(["train", "posttrain_klein", "data=D", "init=X", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "million trained" in lines[0] and len([line for line in lines if line.startswith("all weights")]) == 4
    assert len([line for line in lines if line.startswith("adapters of rank 32")]) == 4
    assert "this run has sharding=none" in lines[1]


def test_the_plan_of_a_divided_run_says_so() -> None:
    lines = plan_lines(load_train_config("nano", ["sharding=fsdp2"]))
    assert lines[1] == "GB of each GPU; two and more with sharding=fsdp2:"
