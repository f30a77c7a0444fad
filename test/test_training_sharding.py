"""A network divided over two processes (FSDP2) is trained as a whole one is, and goes on from any checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("cv2")

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from training_toys import (
    NOISELESS,
    TINY,
    assert_close,
    assert_same,
    begin_after,
    fresh_accelerator,  # noqa: F401
    in_processes,
    last,
    own_recipe,
    recipe,
    settings,
)

from mf_ros.errors import ConfigError
from mf_ros.model import ModalityForcing, ModelConfig
from mf_training.config import OptimiserConfig
from mf_training.loop import Average
from mf_training.losses import REGIMES, LossConfig, one_regime
from mf_training.run import train
from mf_training.schedule import make_optimisers
from mf_training.sharding import divided, fill, let_go, shard, summed_once, whole

# Three held-out samples for two processes: one of them must compute along with the other without one of its own.
DATA = {"shapes": [[16, 32]], "workers": 0, "scenes": {"heldout": 3, "number": 8}}
PLAIN: Dict[str, Any] = {
    "model": TINY,
    "data": DATA,
    "losses": NOISELESS,
    "optimiser": {"name": "adamw", "lr": 0.003},
    "steps": 4,
    "save_every": 2,
    "eval_every": 4,
    "keep": 9,
    "resume": None,
}
# All regimes, in half precision.
ROUGH = {
    "model": TINY,
    "data": DATA,
    "losses": dict.fromkeys(REGIMES, 1),
    "precision": "bf16",
    "accumulate": 2,
    "steps": 2,
    "save_every": 1,
    "eval_every": 2,
}
LORA = {**PLAIN, "lora": {"rank": 2, "also_train": ["depth_decoder.head"]}}
PASSES = {**PLAIN, "losses": {**NOISELESS, "complete": 1, "lidar": 0, "image": 0}, "steps": 2, "eval_every": 2}


def tiny() -> ModalityForcing:
    """A network in which no weight is without effect."""
    torch.manual_seed(0)
    net = ModalityForcing(ModelConfig.from_mapping(TINY))
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    return net


def alone(out: Path, **changes: Any) -> None:
    """Train in this process, with twice the batch of one of two processes."""
    train(settings(out, **{"batch": 4, **changes}), own_recipe())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs; all that are divided are trained by one pair of processes, as starting it takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    save_file(tiny().state_dict(), folder / "base.safetensors")
    alone(folder / "alone", **PLAIN)
    own = {"own": True, "sharding": "fsdp2", "batch": 2}
    adapted = {**own, **LORA, "init": str(folder / "base.safetensors")}
    rough = {**own, **ROUGH}
    plan: Dict[str, Dict[str, Any]] = {
        "divided": {**own, **PLAIN},
        "divided later": {**own, **PLAIN, "resume": True, "after": str(folder / "alone" / "step_00000002")},
        "rough": rough,
        "rough again": {**rough, "after": str(folder / "rough" / "step_00000001")},
        "adapted": adapted,
        "adapted again": {**adapted, "after": str(folder / "adapted" / "step_00000002")},
        "two passes": {**own, **PASSES, "batch": 1, "accumulate": 2},
    }
    in_processes(2, [{**run, "out": str(folder / name)} for name, run in plan.items()])
    return folder


def test_a_divided_network_is_trained_like_a_whole_one_with_twice_the_batch(runs: Path) -> None:
    assert_close(runs / "alone", runs / "divided")


def test_two_passes_of_one_sample_are_one_of_two(runs: Path, tmp_path: Path) -> None:
    alone(tmp_path / "one pass", **PASSES)
    assert_close(tmp_path / "one pass", runs / "two passes")


@pytest.mark.parametrize("name", ["rough", "adapted"])
def test_a_divided_run_goes_on_bit_for_bit(runs: Path, name: str) -> None:
    assert_same(runs / name, runs / f"{name} again")


def test_a_run_can_be_divided_later_and_put_together_again(runs: Path, tmp_path: Path) -> None:
    assert_close(runs / "alone", runs / "divided later")
    begin_after(runs / "divided" / "step_00000002", tmp_path / "together")
    alone(tmp_path / "together", **{**PLAIN, "resume": True})
    assert_close(runs / "alone", tmp_path / "together")


def test_adapters_of_a_divided_network_are_trained_like_those_of_a_whole_one(runs: Path, tmp_path: Path) -> None:
    alone(tmp_path / "adapted", **LORA, init=str(runs / "base.safetensors"))
    assert_close(tmp_path / "adapted", runs / "adapted")
    states = [last(folder / "adapted").state for folder in (tmp_path, runs)]
    assert states[0]["base"] == states[1]["base"]


def test_one_process_cannot_divide_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"start it with torchrun --nproc-per-node NUMBER .*, or set sharding=none"):
        train(settings(tmp_path, sharding="fsdp2"), recipe())


@pytest.fixture
def single() -> Iterator[SimpleNamespace]:
    """A group of one process, whose networks are divided into one part."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    torch.distributed.destroy_process_group()


def inputs() -> tuple[torch.Tensor, ...]:
    grid = torch.full((1, 1, 16, 32), 0.5)
    return grid.expand(1, 3, 16, 32), torch.zeros(1), grid, grid, torch.ones(1), grid


def test_gradients_are_summed_over_processes_in_the_last_pass_only(single: Any) -> None:
    net = tiny()
    shard(net, single, half=False, compiled=False)
    for last_pass in (False, True):
        with summed_once(net, single, last=last_pass):
            net(*inputs()).depth.mean().backward()
        assert (net.depth_in.weight.grad is not None) == last_pass
    twice, once = whole(net.depth_in.weight.grad), tiny()
    once(*inputs()).depth.mean().backward()
    assert torch.allclose(twice, 2 * once.depth_in.weight.grad, rtol=1e-4, atol=1e-7)


def test_the_average_is_swapped_in_and_out_of_a_divided_network(single: Any) -> None:
    net = tiny()
    shard(net, single, half=False, compiled=False)
    average = Average(net, 0.5)
    with torch.no_grad():
        own = net(*inputs()).depth
        for weight in average.weights().values():
            weight.mul_(2)
        let_go(net)
        with average.in_place():
            assert not torch.allclose(net(*inputs()).depth, own)
            let_go(net)
        assert torch.equal(net(*inputs()).depth, own)


def test_blocks_are_gathered_in_half_precision_and_kept_in_full(single: Any) -> None:
    net = tiny()
    seen: Dict[str, torch.dtype] = {}
    for name, module in (("block", net.blocks[0].expand), ("outside", net.depth_in)):
        module.register_forward_pre_hook(lambda module, args, name=name: seen.update({name: module.weight.dtype}))
    shard(net, single, half=True, compiled=False)
    with torch.autocast("cpu", torch.bfloat16):
        net(*inputs()).depth.mean().backward()
    assert seen == {"block": torch.bfloat16, "outside": torch.float32}
    weights = [*net.parameters(), *(weight.grad for weight in net.parameters() if weight.grad is not None)]
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_whole_values_go_into_divided_weights(single: Any) -> None:
    net = tiny()
    shard(net, single, half=False, compiled=False)
    value = torch.randn(net.depth_in.weight.shape)
    fill(net.depth_in.weight, value)
    assert isinstance(net.depth_in.weight, DTensor) and torch.equal(whole(net.depth_in.weight), value)
    part = divided(value, net.depth_in.weight)
    assert isinstance(part, DTensor) and part.to_local().data_ptr() != value.data_ptr(), "the whole is not kept alive"


def test_muon_refuses_a_matrix_with_fewer_rows_than_processes(single: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    shard(net, single, half=False, compiled=False)
    make_optimisers(net, OptimiserConfig())
    monkeypatch.setattr("torch.distributed.device_mesh.DeviceMesh.size", lambda self, *args: 4)
    with pytest.raises(ConfigError, match=r"Muon cannot follow 0.weight, whose 3 rows are divided over 4 processes"):
        make_optimisers(net, OptimiserConfig())


def test_processes_draw_one_regime_by_the_shares() -> None:
    drawn = [one_regime(LossConfig(), seed) for seed in range(200)]
    names = [[name for name in REGIMES if getattr(each, name)] for each in drawn]
    assert all(len(each) == 1 for each in names)
    assert 80 < names.count(["complete"]) < 160, "62% of them"
    assert one_regime(LossConfig(), 7) == one_regime(LossConfig(), 7)
