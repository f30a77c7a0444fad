"""Checkpoints are whole or ignored, hold no pickles, and weights of another model are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import save_file
from torch import nn

from mf_ros.engine import bundle
from mf_training import checkpoints
from mf_training.checkpoints import (
    CheckpointError,
    latest_checkpoint,
    load_into,
    load_weights,
    prune,
    save_best,
    save_checkpoint,
)
from mf_training.config import OptimiserConfig
from mf_training.optimiser_state import halved, load_optimisers, optimiser_tensors
from mf_training.schedule import make_optimisers


def saved(out: Path, step: int) -> Path:
    return save_checkpoint(out, step, {"model": {"w": torch.full((3,), float(step))}}, {"note": "x"})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {"a.w": torch.randn(3, 4), "b": torch.arange(5), "half": torch.randn(2).to(torch.bfloat16)}
    save_checkpoint(tmp_path, 12, {"model": tensors, "ema": {"e": torch.ones(1)}}, {"tally": {"step": 12}})
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None and checkpoint.step == 12 and checkpoint.state["tally"] == {"step": 12}
    loaded = checkpoint.tensors("model")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) and loaded[key].dtype == tensors[key].dtype for key in tensors)


@pytest.mark.parametrize(("limit", "small"), [("SHARD_BYTES", False), ("SMALL_SHARD_BYTES", True)])
def test_files_stay_below_the_limit(limit: str, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, limit, 1000)
    tensors = {f"layer{i}": torch.randn(100) for i in range(5)}
    path = save_checkpoint(tmp_path, 1, {"model": tensors}, {}, small=small)
    files = sorted(path.glob("model-*.safetensors"))
    assert len(files) == 3, "two tensors of 400 bytes fit into each"
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert all(torch.equal(value, tensors[key]) for key, value in checkpoint.tensors("model").items())
    assert checkpoint.tensors("model").keys() == tensors.keys()


def test_the_last_is_found_by_its_number(tmp_path: Path) -> None:
    for step in (900, 1000, 99_999_999, 100_000_000):
        saved(tmp_path, step)
    last = latest_checkpoint(tmp_path)
    assert last is not None and last.step == 100_000_000, "not by the order of names"


@pytest.mark.parametrize("damage", ["cut", "missing", "no state", "state cut", "state nested", "foreign state"])
def test_a_checkpoint_that_is_half_there_is_passed_over(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 1)
    path = saved(tmp_path, 2)
    if damage == "cut":
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-1])
    elif damage == "missing":
        (path / "model.safetensors").unlink()
    elif damage == "no state":
        (path / "state.json").unlink()
    elif damage == "state cut":
        (path / "state.json").write_text((path / "state.json").read_text()[:-5])
    elif damage == "state nested":
        (path / "state.json").write_text("[" * 100_000)
    else:
        (path / "state.json").write_text("[]")
    last = latest_checkpoint(tmp_path)
    assert last is not None and last.step == 1


def test_what_an_interrupted_write_left_is_no_checkpoint_and_is_removed(tmp_path: Path) -> None:
    for step in range(1, 5):
        saved(tmp_path, step)
    saved(tmp_path / "elsewhere", 9).rename(tmp_path / ".step_00000009.part")
    last = latest_checkpoint(tmp_path)
    assert last is not None and last.step == 4
    prune(tmp_path, keep=2, written=4)
    assert sorted(path.name for path in tmp_path.glob("*step*")) == ["step_00000003", "step_00000004"]
    assert not (tmp_path / ".step_00000009.part").exists()


def test_damaged_checkpoints_push_no_good_one_out(tmp_path: Path) -> None:
    for step in (1, 2, 3, 8, 9):
        saved(tmp_path, step)
    for step in (8, 9):
        (tmp_path / f"step_{step:08d}" / "model.safetensors").unlink()
    prune(tmp_path, keep=2, written=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:08d}" for step in (2, 3, 8, 9)]


def test_the_checkpoint_just_written_stays_whatever_else_is_there(tmp_path: Path) -> None:
    for step in (1, 8, 9):
        saved(tmp_path, step)
    prune(tmp_path, keep=1, written=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000009"]


def test_the_best_replaces_the_one_before(tmp_path: Path) -> None:
    save_best(tmp_path, 1, {"w": torch.zeros(1)}, {})
    save_best(tmp_path, 5, {"w": torch.ones(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["best_00000005"]


def test_a_disk_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot be written"):
        saved(tmp_path / "out", 1)


def test_a_state_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    path = saved(tmp_path, 1)
    outside = tmp_path / "model.safetensors"
    outside.write_bytes(b"x")
    state = json.loads((path / "state.json").read_text())
    state["files"] = {"../model.safetensors": 1}
    (path / "state.json").write_text(json.dumps(state))
    assert latest_checkpoint(tmp_path) is None


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, width, bias=False))


def test_weights_are_found_in_files_folders_checkpoints_and_runs(tmp_path: Path) -> None:
    average = net().state_dict()
    path = save_checkpoint(tmp_path / "run", 3, {"model": net().state_dict(), "ema": average}, {})
    (tmp_path / "model").mkdir()
    save_file({key: value.half() for key, value in average.items()}, tmp_path / "model" / "model.safetensors")
    for source, tolerance in (
        (tmp_path / "run", 0.0),
        (path, 0.0),
        (path / "ema.safetensors", 0.0),
        (tmp_path / "model", 1e-3),
    ):
        into = net()
        load_weights(source, into)
        assert all(torch.allclose(into.state_dict()[k], v, atol=tolerance, rtol=0) for k, v in average.items()), source
        assert into[0].weight.dtype == torch.float32


def test_a_network_of_the_package_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = net().state_dict()
    (tmp_path / "pico").mkdir()
    (tmp_path / "pico" / "config.json").write_text("{}")
    save_file(weights, tmp_path / "pico" / "model.safetensors")
    monkeypatch.setattr(bundle, "SHIPPED", tmp_path)
    into = net()
    load_weights(Path("pico"), into)
    assert all(torch.equal(into.state_dict()[key], value) for key, value in weights.items())
    with pytest.raises(CheckpointError, match=r"femto: there is no such file.* in this installation are pico"):
        load_weights(Path("femto"), into)


def test_weights_of_another_model_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"0\.weight is \(8, 3\) there and \(4, 3\) here.* and 1 more"):
        load_into(net(4), {**net(8).state_dict(), "extra": torch.zeros(1)}, "there")
    with pytest.raises(CheckpointError, match=r"1\.weight is missing"):
        load_into(net(), {k: v for k, v in net().state_dict().items() if k != "1.weight"}, "there")


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x04pickled"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(tmp_path, net())


def test_a_place_without_weights_is_named(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=str(source)):
            load_weights(source, net())


def stepped(model: nn.Module, name: str = "muon") -> dict[str, torch.optim.Optimizer]:
    optimisers = make_optimisers(model, OptimiserConfig(name=name))  # type: ignore[arg-type]
    model(torch.ones(2, 3)).square().sum().backward()
    for optimiser in optimisers.values():
        optimiser.step()
    return optimisers


def named(model: nn.Module) -> dict[torch.Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def test_the_state_of_both_optimisers_comes_back(tmp_path: Path) -> None:
    model, other = net(), net()
    before = optimiser_tensors(stepped(model), named(model))
    assert {key.split(":")[0] for key in before} == {"adamw", "muon"}
    fresh = make_optimisers(other, OptimiserConfig())
    load_optimisers(fresh, named(other), before)
    after = optimiser_tensors(fresh, named(other))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_small_state_is_rounded_but_counts_stay_exact() -> None:
    model = net()
    state = optimiser_tensors(stepped(model, "adamw"), named(model))
    small = halved(state)
    assert sum(value.nbytes for value in small.values()) < 0.6 * sum(value.nbytes for value in state.values())
    assert all(torch.allclose(small[key].float(), state[key], rtol=0.01) for key in state)
    assert all(torch.equal(small[key], state[key]) for key in state if key.endswith(":step"))


@pytest.mark.parametrize(("now", "words"), [("adamw", "muon"), ("other net", "other parameters")])
def test_a_state_of_other_optimisers_is_refused(now: str, words: str) -> None:
    model, other = net(), net() if now == "adamw" else nn.Sequential(nn.Linear(3, 4))
    before = optimiser_tensors(stepped(model, "adamw" if now == "other net" else "muon"), named(model))
    fresh = make_optimisers(other, OptimiserConfig(name="adamw"))
    with pytest.raises(CheckpointError, match=words):
        load_optimisers(fresh, named(other), before)
