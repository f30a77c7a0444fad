"""The network: what it does untrained, how noise levels gate its inputs, its sizes, and the sampler."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip("torch")

from mf_ros.errors import ConfigError  # noqa: E402
from mf_ros.model import ModalityForcing, ModelConfig  # noqa: E402
from mf_ros.model.layers import propagated  # noqa: E402
from mf_ros.model.levels import noised, shifted, step_levels, stepped  # noqa: E402
from mf_ros.model.sampler import Known, sample  # noqa: E402

PRESETS = Path(__file__).resolve().parents[1] / "config" / "models"
TINY = {"width": 32, "layers": 2, "heads": 2, "stem": (8, 12), "blocks": (1, 1)}
# Millions of parameters; the paper's sizes are those of arXiv 2606.13676.
MILLIONS = {
    "nano": 3.84,
    "small": 6.32,
    "medium": 22.6,
    "base": 98.9,
    "paper_370m": 370,
    "paper_800m": 800,
    "paper_3b": 3300,
}


def trained(**changes: object) -> ModalityForcing:
    """A tiny network whose weights are all random, as if it had been trained on nothing in particular."""
    torch.manual_seed(0)
    net = ModalityForcing(ModelConfig(**{**TINY, **changes}))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def inputs(batch: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    level = (torch.rand(batch, 1, height, width, generator=generator) > 0.1).float()
    return {
        "image": noise(batch, 3, height, width),
        "image_level": torch.zeros(batch),
        "depth": noise(batch, 1, height, width) * (1 - level),
        "level": level,
        "depth_level": torch.ones(batch),
        "prior": noise(batch, 1, height, width),
    }


@pytest.mark.parametrize("streams", ["fused", "separate"])
def test_an_untrained_network_returns_its_prior_exactly(streams: str) -> None:
    given = inputs()
    out = ModalityForcing(ModelConfig(**{**TINY, "streams": streams}))(**given)
    assert torch.equal(out.depth, given["prior"])
    assert out.image is None


@pytest.mark.parametrize("streams", ["fused", "separate"])
def test_what_is_at_level_one_changes_nothing(streams: str) -> None:
    net, given = trained(streams=streams), inputs()
    first = net(**given).depth
    given["depth"] = torch.where(given["level"] == 1, torch.full_like(given["depth"], 3.0), given["depth"])
    assert torch.equal(net(**given).depth, first)
    given["depth"] = given["depth"] + (given["level"] == 0) * 0.5
    assert not torch.allclose(net(**given).depth, first), "returns at level 0 must count"


def test_an_image_at_level_one_changes_nothing_and_one_at_level_zero_does() -> None:
    net, given = trained(), inputs()
    given["image_level"] = torch.ones(2)
    first = net(**given).depth
    other = {**given, "image": torch.randn(2, 3, 32, 48)}
    assert torch.equal(net(**other).depth, first)
    assert not torch.allclose(net(**{**other, "image_level": torch.zeros(2)}).depth, first)


def test_each_level_reaches_the_other_modality_through_a_gate_that_starts_closed() -> None:
    net = ModalityForcing(ModelConfig(**TINY))
    low, high = torch.zeros(1), torch.ones(1)
    image, depth = net.levels(low, low)
    assert torch.equal(net.levels(low, high)[0], image) and torch.equal(net.levels(high, low)[1], depth)
    torch.nn.init.ones_(net.levels.image_gate)
    torch.nn.init.ones_(net.levels.depth_gate)
    image, depth = net.levels(low, low)
    assert not torch.allclose(net.levels(low, high)[0], image)
    assert not torch.allclose(net.levels(high, low)[1], depth)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (48, 80), (64, 32)])
def test_any_size_in_multiples_of_sixteen(height: int, width: int) -> None:
    out = trained()(**inputs(1, height, width), decode_image=True)
    assert out.depth.shape == out.log_scale.shape == out.visible.shape == (1, 1, height, width)
    assert out.image is not None and out.image.shape == (1, 3, height, width)


@pytest.mark.parametrize("streams", ["fused", "separate"])
def test_samples_of_a_batch_do_not_touch_each_other(streams: str) -> None:
    net, given = trained(streams=streams), inputs()
    alone = net(**{name: value[1:] for name, value in given.items()}).depth
    assert torch.allclose(net(**given).depth[1:], alone, atol=1e-5)


@pytest.mark.parametrize("streams", ["fused", "separate"])
def test_text_tokens_are_optional(streams: str) -> None:
    net, given = trained(text_width=12, streams=streams), inputs()
    silent = net(**given).depth
    text = torch.randn(2, 5, 12)
    assert not torch.allclose(net(**given, text=text).depth, silent)
    assert not torch.allclose(net(**given, text=text).depth, net(**given, text=text * 2).depth)


def test_propagation_moves_a_value_towards_its_neighbour_and_without_affinity_not_at_all() -> None:
    values = torch.zeros(1, 1, 5, 5)
    values[0, 0, 2, 2] = 1.0
    affinity = torch.zeros(1, 8, 5, 5)
    assert torch.equal(propagated(values, affinity, 1), values)
    affinity[0, 3, 2, 3] = 0.1  # number 3 is the neighbour to the left
    assert propagated(values, affinity, 1)[0, 0, 2, 3] == pytest.approx(0.1)


def test_a_large_error_far_away_does_not_reach_what_half_precision_sees() -> None:
    """Details of the prior are amplified before half precision can round them away."""
    net, given = trained(), inputs(1)
    given["prior"] = torch.full_like(given["prior"], 2.0)
    detailed = {**given, "prior": given["prior"] + 0.002 * torch.randn(1, 1, 32, 48)}
    with torch.autocast("cpu", torch.bfloat16):
        plain = net(**given).depth - given["prior"]
        other = net(**detailed).depth - detailed["prior"]
    assert (plain - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(MILLIONS))
def test_presets_have_the_sizes_they_name(name: str, record_property: object) -> None:
    config = ModelConfig.from_mapping(yaml.safe_load((PRESETS / f"{name}.yaml").read_text()))
    with torch.device("meta"):
        net = ModalityForcing(config)
        given = {key: value.to("meta") for key, value in inputs(1, 256, 384).items()}
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count / 1e6 == pytest.approx(MILLIONS[name], rel=0.05)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        out = net(**given, decode_image=True)
        (out.depth.mean() + out.image.mean()).backward()
    # A step does at least six operations per parameter of the transformer and token.
    tokens = 16 * 24 * (2 if config.streams == "separate" else 1)
    assert counter.get_total_flops() > 6 * tokens * 12 * config.layers * config.width**2
    record_property("training_gflop_256x384", counter.get_total_flops() / 1e9)


def test_configuration_survives_plain_values_and_refuses_nonsense() -> None:
    config = ModelConfig(**TINY, streams="separate")
    assert ModelConfig.from_mapping(config.to_mapping()) == config
    for wrong, told in (
        ({"widht": 3}, "widht"),
        ({"width": 30}, "multiple"),
        ({"width": "64"}, "int"),
        ({"streams": "both"}, "streams"),
        ({"stem": [8]}, "stem"),
        ({"layers": 0}, "layers"),
        ({"width": 10**9, "heads": 1}, r"width is 1000000000: allowed is 1 to 16384"),
        ({"propagation": [0]}, "propagation is .*allowed is 1 to 64"),
        ({"propagation": [1] * 9}, "propagation has 9 steps: at most 8"),
        ({"blocks": [65, 1]}, "blocks is .*allowed is 0 to 64"),
        ({"stem": [8, 16385]}, "stem is .*allowed is 1 to 16384"),
        ({"mlp_ratio": 0}, "mlp_ratio is 0: allowed is 0.25 to 16"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio is nan"),
        ({"mlp_ratio": 10**400}, "mlp_ratio is 1000"),
        ({"text_width": -1}, "text_width is -1: allowed is 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            ModelConfig.from_mapping({**TINY, **wrong})


def test_sizes_are_read_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; from mf_ros.model import ModelConfig; print(ModelConfig().width)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "256", done.stderr


def test_levels_go_from_noise_to_clean_and_a_true_prediction_is_reached() -> None:
    levels = step_levels(4)
    assert levels[0] == 1.0 and levels[-1] == 0.0 and sorted(levels, reverse=True) == levels
    assert levels[2] > 0.5, "the shift spends more steps on noise"
    assert float(shifted(torch.tensor(1.0))) == pytest.approx(1.0)
    clean, noise = torch.randn(8), torch.randn(8)
    x = noised(clean, noise, torch.tensor(1.0))
    for level, following in itertools.pairwise(levels):
        assert torch.allclose(x, noised(clean, noise, torch.tensor(level)), atol=1e-5)
        x = stepped(x, clean, level, following)
    assert torch.allclose(x, clean, atol=1e-5)


def known_of(given: dict[str, torch.Tensor], *, image: bool = True) -> Known:
    return Known(given["image"] if image else None, given["depth"], given["level"], given["prior"])


def test_one_step_from_an_image_needs_no_noise() -> None:
    net, given = trained(), inputs()
    first, second = (sample(net, known_of(given), 1, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert torch.equal(first.depth, second.depth)
    assert torch.equal(first.depth, net(**given).depth), "and is the network's own prediction"


def test_more_steps_depend_on_the_noise_and_on_nothing_else() -> None:
    net, given = trained(), inputs()
    first, again, other = (sample(net, known_of(given), 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.depth, again.depth)
    assert not torch.equal(first.depth, other.depth)


@pytest.mark.parametrize("depth_known", [True, False], ids=["to_image", "joint"])
def test_images_are_sampled_with_depth_or_without(depth_known: bool) -> None:
    net, given = trained(), inputs()
    given["level"] = torch.zeros_like(given["level"]) if depth_known else torch.ones_like(given["level"])
    out = sample(net, known_of(given, image=False), 2, torch.Generator().manual_seed(0))
    assert out.image is not None and out.image.shape == (2, 3, 32, 48) and out.image.isfinite().all()


def test_depth_at_an_intermediate_level_is_used_while_it_is_better_than_what_is_sampled() -> None:
    """A previous frame at level 0.5 counts at the first step, at level 1, and gives way at the last."""
    net, given = trained(), inputs(1)
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[3].clone()))
    given["level"] = torch.full_like(given["level"], 0.5)
    sample(net, known_of(given), 8, torch.Generator().manual_seed(0))
    assert seen[0].unique().tolist() == [0.5]
    assert seen[-1].max() < 0.5
