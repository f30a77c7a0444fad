"""Learning rates, which optimiser takes which weights, and the averaged weights."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import torch
from torch import nn

from mf_training.config import OptimiserConfig, ScheduleConfig
from mf_training.schedule import Average, average_decay, learning_rate_part, make_optimisers, set_learning_rate


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_the_rate_rises_to_its_highest_and_falls_to_its_last(name: str) -> None:
    config = ScheduleConfig(name=name, warmup=10, final=0.1)  # type: ignore[arg-type]
    parts = [learning_rate_part(step, 100, config) for step in range(100)]
    assert parts[0] < 0.2 and parts[9] == pytest.approx(1) and parts[-1] == pytest.approx(0.1)
    assert parts[:10] == sorted(parts[:10]) and parts[9:] == sorted(parts[9:], reverse=True)


def test_a_constant_rate_stays_and_a_warm_up_longer_than_the_run_fits() -> None:
    assert learning_rate_part(99, 100, ScheduleConfig("constant", warmup=0)) == 1
    assert learning_rate_part(9, 10, ScheduleConfig(warmup=500)) == 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.embed = nn.Linear(4, 4)
        self.hidden = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_muon_takes_hidden_matrices_and_adamw_everything_else() -> None:
    net = Net()
    optimisers = make_optimisers(net, OptimiserConfig(weight_decay=0.3))
    muon, adamw = (optimisers[name].param_groups for name in ("muon", "adamw"))
    assert [p is net.hidden.weight for group in muon for p in group["params"]] == [True]
    decays = {id(p): group["weight_decay"] for group in adamw for p in group["params"]}
    assert decays == {
        id(net.conv.weight): 0.3,
        id(net.embed.weight): 0.3,
        id(net.conv.bias): 0.0,
        id(net.embed.bias): 0.0,
        id(net.hidden.bias): 0.0,
    }


def test_each_group_moves_in_parts_of_its_own_highest_rate() -> None:
    optimisers = make_optimisers(Net(), OptimiserConfig(lr=1.0, muon_lr=4.0))
    for _ in range(2):
        set_learning_rate(list(optimisers.values()), 0.5)
    assert {name: each.param_groups[0]["lr"] for name, each in optimisers.items()} == {"adamw": 0.5, "muon": 2.0}


def test_the_average_follows_its_definition_with_a_decay_that_grows() -> None:
    net = nn.Linear(1, 1, bias=False)
    average = Average(net, decay=0.5)
    expected = None
    for count, value in enumerate([1.0, 2.0, 3.0, 7.0, 5.0, 0.0, 4.0, 4.0, 1.0, 9.0]):
        net.weight.data.fill_(value)
        average.update()
        decay = min(0.5, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.weights()["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert average_decay(0, 0.999) == 0.1 and average_decay(100_000, 0.999) == 0.999
    assert torch.equal(net.weight, torch.full((1, 1), 9.0)), "the network itself is left alone"
