"""Deeper networks out of trained ones: they start as the same function, and training reaches what was added."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("cv2")

import torch
from safetensors.torch import save_file
from torch import Tensor
from training_toys import TINY, fresh_accelerator, last, own_recipe, settings  # noqa: F401

from mf_ros.errors import ConfigError
from mf_ros.model import ModalityForcing, ModelConfig
from mf_training.checkpoints import CheckpointError, load_into
from mf_training.growth import Deepened
from mf_training.run import train
from mf_training.settings import train_config_from_mapping

SHALLOW = {**TINY, "layers": 2, "blocks": [1, 1], "propagation": [1]}
DEEPER = {"layers": 5, "blocks": [2, 3]}


def network(**changes: Any) -> ModalityForcing:
    """A network in which no weight is without effect."""
    torch.manual_seed(0)
    net = ModalityForcing(ModelConfig.from_mapping({**SHALLOW, **changes})).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return net


def outputs(net: ModalityForcing) -> Dict[str, Tensor]:
    torch.manual_seed(1)
    image, grid = torch.rand(2, 3, 32, 48), torch.rand(2, 1, 32, 48)
    with torch.no_grad():
        made = net(image, torch.zeros(2), grid, grid, torch.ones(2), grid, decode_image=True)
    return made._asdict()


@pytest.mark.parametrize("streams", ["fused", "separate"])
@pytest.mark.parametrize("deeper", [DEEPER, {"layers": 3}, {"blocks": [3, 1]}, {}])
def test_a_deepened_network_computes_what_the_trained_one_does(streams: str, deeper: Dict[str, Any]) -> None:
    first, then = network(streams=streams), network(streams=streams, **deeper)
    if deeper:
        assert not torch.allclose(outputs(first)["depth"], outputs(then)["depth"])
    load_into(then, Deepened(first.state_dict(), then.state_dict(), "first"), "first")
    one, other = outputs(first), outputs(then)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_added_block_sees_what_the_one_before_it_sees_and_adds_nothing() -> None:
    first, then = network(layers=2), network(layers=5)
    grown = Deepened(first.state_dict(), then.state_dict(), "first")
    assert len(grown) == len(then.state_dict())
    # 0 0 0 1 1: the first of each is the trained block.
    for number, origin in enumerate((0, 0, 0, 1, 1)):
        for name, value in first.blocks[origin].state_dict().items():
            found = grown[f"blocks.{number}.{name}"]
            last_of_added = number in (1, 2, 4) and name.split(".")[0] in ("attention_proj", "contract")
            assert torch.equal(found, torch.zeros_like(value) if last_of_added else value), (number, name)


def test_training_reaches_every_added_block(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "first.safetensors")
    run = settings(
        tmp_path / "run", model={**SHALLOW, **DEEPER}, init=str(tmp_path / "first.safetensors"), grow=True, steps=3
    )
    train(run, own_recipe())
    start = Deepened(network().state_dict(), network(**DEEPER).state_dict(), "first")
    weights = last(tmp_path / "run").tensors("model")
    assert set(weights) == set(start)
    for name in ("blocks.1.contract.weight", "blocks.2.attention_proj.weight", "depth_decoder.eighth.2.second.weight"):
        assert not start[name].any() and weights[name].any(), name


def test_it_goes_on_with_other_weights_named_or_none(tmp_path: Path) -> None:
    """Where a run goes on, what it started from plays no part."""
    save_file(network().state_dict(), tmp_path / "first.safetensors")
    grown = {"model": {**SHALLOW, **DEEPER}, "init": str(tmp_path / "first.safetensors"), "grow": True}
    train(settings(tmp_path / "run", **grown, steps=2), own_recipe())
    (tmp_path / "first.safetensors").unlink()
    train(settings(tmp_path / "run", model={**SHALLOW, **DEEPER}, steps=4, resume=True), own_recipe())
    assert last(tmp_path / "run").step == 4


@pytest.mark.parametrize(
    ("there", "wanted", "message"),
    [
        ({"layers": 3}, {"layers": 2}, "has 3 blocks in blocks and the model 2"),
        ({"blocks": [1, 0]}, {}, r"has 0 blocks in \w+.eighth and the model 1"),
        ({"width": 64}, {"layers": 5}, "weights of another model: .* is .* there and .* here"),
        ({"propagation": []}, {"layers": 5}, "weights of another model: depth_decoder.head.weight"),
        ({"streams": "separate"}, {"layers": 5}, "image_stem.* is unknown"),
    ],
)
def test_weights_that_cannot_grow_into_the_model_are_refused(
    there: Dict[str, Any], wanted: Dict[str, Any], message: str
) -> None:
    then = network(**wanted)
    with pytest.raises(CheckpointError, match=message):
        load_into(then, Deepened(network(**there).state_dict(), then.state_dict(), "first"), "first")


def test_blocks_numbered_with_gaps_are_refused() -> None:
    weights = {name.replace("blocks.1.", "blocks.7."): value for name, value in network().state_dict().items()}
    then = network(layers=5)
    with pytest.raises(CheckpointError, match="weights of another model"):
        load_into(then, Deepened(weights, then.state_dict(), "first"), "first")


@pytest.mark.parametrize("other", [{}, {"init": "nano", "lora": {"rank": 2}}])
def test_growing_needs_weights_that_are_all_trained(other: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="grow=true adds blocks to trained weights"):
        train_config_from_mapping({"model": dict(SHALLOW), "grow": True, **other})
