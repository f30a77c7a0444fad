"""Adapters: small factors are trained beside frozen weights, kept in small checkpoints, and merged on export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("peft")
pytest.importorskip("cv2")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_toys import (
    TINY,
    assert_same,
    begin_after,
    fresh_accelerator,  # noqa: F401
    last,
    own_recipe,
    recipe,
    settings,
)

from mf_ros.errors import ConfigError
from mf_ros.model import ModalityForcing, ModelConfig
from mf_training import export
from mf_training.checkpoints import CheckpointError, best_checkpoint, load_into, load_weights
from mf_training.config import OptimiserConfig
from mf_training.export import export_run
from mf_training.lora import (
    LoraConfig,
    adapt,
    base_tensors,
    load_merged,
    place_of,
    start_factors,
    targets_of,
    trained_tensors,
)
from mf_training.run import Summary, train
from mf_training.schedule import make_optimisers
from mf_training.settings import load_train_config, read_preset

CONFIG = LoraConfig(rank=2, alpha=4.0, also_train=("depth_decoder.head",))
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.2, "also_train": ["depth_decoder.head"]}


def tiny(model: Dict[str, Any] = TINY) -> ModalityForcing:
    """A network in which no weight is without effect."""
    torch.manual_seed(0)
    net = ModalityForcing(ModelConfig.from_mapping(model))
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.1)
    return net


def adapted(config: LoraConfig = CONFIG) -> nn.Module:
    net = tiny()
    adapt(net, config, targets_of(net, config))
    start_factors(net, 0)
    return net


def depth(net: nn.Module) -> Tensor:
    torch.manual_seed(1)
    image, grid = torch.rand(1, 3, 32, 48), torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        made: Tensor = net.eval()(image, torch.zeros(1), grid, grid, torch.ones(1), grid).depth
    return made


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A file of weights to start from."""
    save_file(tiny().state_dict(), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def trained(out: Path, base: Path, **changes: Any) -> Summary:
    common = {"model": TINY, "init": str(base), "lora": LORA, "keep": 9, "save_every": 2, "eval_every": 3, "steps": 6}
    return train(settings(out, **{**common, **changes}), own_recipe())


def test_a_fresh_adapter_changes_nothing() -> None:
    assert torch.equal(depth(adapted()), depth(tiny()))


def test_only_factors_and_named_layers_are_trained() -> None:
    net = adapted()
    layers = {name.split(".lora_")[0] for name in trained_tensors(net)}
    attention = {f"blocks.{number}.{name}" for number in (0, 1) for name in ("qkv", "attention_proj")}
    assert layers == attention | {"depth_decoder.head.weight", "depth_decoder.head.bias"}
    assert base_tensors(net).keys() == tiny().state_dict().keys()


def test_factors_start_from_the_seed_and_their_names() -> None:
    one, other = trained_tensors(adapted()), trained_tensors(adapted(LoraConfig(rank=2, targets=(r"blocks\.1\.qkv",))))
    shared = [name for name in other if ".lora_A." in name]
    assert shared and all(torch.equal(one[name], other[name]) for name in shared)
    again = adapted()
    start_factors(again, 7)
    assert all(not torch.equal(one[name], trained_tensors(again)[name]) for name in shared)


def test_factors_go_to_adamw_even_where_muon_is_wanted() -> None:
    optimisers = make_optimisers(adapted(LoraConfig(rank=2, also_train=("blocks.0.expand",))), OptimiserConfig())
    sizes = {name: [p.shape for g in each.param_groups for p in g["params"]] for name, each in optimisers.items()}
    assert sizes["muon"] == [(64, 16)], "the hidden matrix that is trained whole"
    assert (2, 16) in sizes["adamw"] and (48, 2) in sizes["adamw"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": ("blocks",)}, r"'blocks', which is the name of no linear layer: they are called levels"),
        ({"targets": ("qkv",)}, "'qkv', which is the name of no linear layer"),
        ({"also_train": ("depth",)}, "lora.also_train has 'depth', which is no layer: the network consists of blocks"),
    ],
)
def test_names_that_are_no_layers_are_refused(changes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        adapted(LoraConfig(rank=2, **changes))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora.rank=4", "lora.rank is above 0: name the weights that the adapters belong to: init=nano"),
        ("lora.rank=5000", "lora.rank is 5000: allowed is 0 to 1024"),
        ("lora.alpha=-1", "lora.alpha is -1.0"),
        ("lora.dropout=1", "lora.dropout is 1.0"),
        ("lora.targets=['(']", "'\\(', which is no regular expression"),
        ("lora={rank: 1, targets: []}", "lora.targets is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_train_config("nano", [override])


def test_frozen_weights_stay_and_the_others_move(tmp_path: Path, base: Path) -> None:
    summary = trained(tmp_path / "run", base)
    before = load_file(base)
    assert (
        0
        < summary.trained
        < summary.weights
        == sum(value.numel() for value in before.values()) + 2 * 2 * ((16 + 48) + (16 + 16))
    )
    net = tiny()
    load_merged(last(tmp_path / "run"), LoraConfig(**{**LORA, "also_train": ("depth_decoder.head",)}), net)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    attention = {f"blocks.{number}.{name}.weight" for number in (0, 1) for name in ("qkv", "attention_proj")}
    assert moved == attention | {"depth_decoder.head.weight", "depth_decoder.head.bias"}


def test_checkpoints_hold_what_is_trained_and_say_of_what(tmp_path: Path, base: Path) -> None:
    trained(tmp_path / "run", base, steps=3)
    checkpoint, best = last(tmp_path / "run"), best_checkpoint(tmp_path / "run")
    names = trained_tensors(adapted()).keys()
    assert best is not None
    assert checkpoint.tensors("model").keys() == checkpoint.tensors("ema").keys() == best.tensors("ema").keys() == names
    assert {key.split(":")[1] for key in checkpoint.tensors("optimiser")} == set(names)
    assert checkpoint.state["base"]["init"] == str(base) and len(checkpoint.state["base"]["sha256"]) == 64
    assert place_of("nano") == "nano" and place_of("a/b") == str(Path("a/b").resolve())


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_with_adapters_goes_on_bit_for_bit_from_any_checkpoint(tmp_path: Path, base: Path, step: int) -> None:
    trained(tmp_path / "whole", base)
    begin_after(tmp_path / "whole" / f"step_{step:08d}", tmp_path / "parts")
    trained(tmp_path / "parts", base)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_base_that_moved_is_found_and_one_that_changed_or_went_is_refused(tmp_path: Path, base: Path) -> None:
    trained(tmp_path / "run", base, steps=2)
    moved = tmp_path / "moved.safetensors"
    # Another order of the same weights in the file is no change.
    save_file(dict(reversed(list(load_file(base).items()))), moved)
    assert trained(tmp_path / "run", moved, steps=4, resume=True).tally.step == 4
    base.unlink()
    with pytest.raises(
        CheckpointError, match=r"adapters of the weights .*base.safetensors, which cannot be loaded; put"
    ):
        trained(tmp_path / "run", base, steps=6, resume=True)
    weights = load_file(moved)
    save_file({**weights, "levels.image_gate": weights["levels.image_gate"] + 1e-6}, base)
    with pytest.raises(CheckpointError, match=r"does not hold the weights that the adapters of .* belong to \(SHA-256"):
        trained(tmp_path / "run", base, steps=6, resume=True)


@pytest.mark.parametrize("changes", [{"rank": 3}, {"alpha": 1.0}, {"rank": 0}, {"also_train": ["depth_in"]}])
def test_other_adapters_do_not_go_on(tmp_path: Path, base: Path, changes: Any) -> None:
    trained(tmp_path / "run", base, steps=2)
    with pytest.raises(CheckpointError, match=r"has other adapters \(lora\."):
        trained(tmp_path / "run", base, steps=4, resume=True, lora={**LORA, **changes})


def test_merged_weights_compute_what_the_adapted_network_does(tmp_path: Path, base: Path) -> None:
    trained(tmp_path / "run", base)
    unmerged = adapted(LoraConfig(rank=2, alpha=4.0, also_train=("depth_decoder.head",)))
    load_into(trained_tensors(unmerged), last(tmp_path / "run").tensors("ema"), "")
    assert not torch.allclose(depth(unmerged), depth(tiny()), atol=1e-3), "the training did something"
    merged = tiny()
    load_merged(last(tmp_path / "run"), LoraConfig(rank=2, alpha=4.0, also_train=("depth_decoder.head",)), merged)
    assert torch.allclose(depth(merged), depth(unmerged), atol=1e-5)
    assert all(type(layer) is nn.Linear for name, layer in merged.named_modules() if name.endswith("qkv"))


def test_an_export_has_merged_weights_under_their_usual_names(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "run", base, steps=3)
    made: Dict[str, Tensor] = {}
    monkeypatch.setattr(export, "export_network", lambda net, out, **more: made.update(net.state_dict()))
    export_run(tmp_path / "run", tmp_path / "model")
    assert made.keys() == tiny().state_dict().keys()
    assert not torch.equal(made["blocks.0.qkv.weight"], tiny().state_dict()["blocks.0.qkv.weight"])
    shutil.move(base, tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="--base in mf-ros export"):
        export_run(tmp_path / "run", tmp_path / "model")
    again = dict(made)
    export_run(tmp_path / "run", tmp_path / "model", base=str(tmp_path / "elsewhere.safetensors"))
    assert all(torch.equal(made[name], again[name]) for name in again)


def test_adapters_are_no_network_to_start_from(tmp_path: Path, base: Path) -> None:
    trained(tmp_path / "run", base, steps=2)
    with pytest.raises(CheckpointError, match=r"holds adapters .*: write the network with mf-ros export"):
        load_weights(tmp_path / "run", tiny())


@pytest.mark.parametrize("said", [None, "nano", {"init": 3, "sha256": "0"}, {"sha256": "0"}])
def test_a_checkpoint_that_does_not_say_its_base_is_refused(tmp_path: Path, base: Path, said: Any) -> None:
    trained(tmp_path / "run", base, steps=2)
    path = last(tmp_path / "run").path / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base": said}))
    with pytest.raises(CheckpointError, match="does not say which weights its adapters belong to"):
        trained(tmp_path / "run", base, steps=4, resume=True)


def test_the_medium_network_is_adapted_over_an_epoch(tmp_path: Path) -> None:
    medium = read_preset("models", "medium")
    save_file(ModalityForcing(ModelConfig.from_mapping(medium)).half().state_dict(), tmp_path / "medium.safetensors")
    epoch = {"steps": 2, "batch": 2, "eval_every": 2, "save_every": 2, "data__scenes": {"heldout": 1, "number": 4}}
    summary = trained(
        tmp_path / "run",
        tmp_path / "medium.safetensors",
        model=medium,
        lora={"rank": 8},
        data__shapes=[[32, 32]],
        **epoch,
    )
    assert summary.tally.samples == 4 and summary.trained < 0.2 * summary.weights
    size = sum(path.stat().st_size for path in last(tmp_path / "run").path.iterdir())
    assert size < 0.7 * (tmp_path / "medium.safetensors").stat().st_size


def test_a_toy_without_the_usual_layers_names_its_own(tmp_path: Path) -> None:
    train(settings(tmp_path / "base", steps=2), recipe())
    lora = {"rank": 1, "targets": ["hidden", "first"], "also_train": ["last"]}
    summary = train(settings(tmp_path / "run", init=str(tmp_path / "base"), lora=lora), recipe())
    assert summary.reason == "finished" and summary.trained == (8 + 8) + (5 + 8) + 9
