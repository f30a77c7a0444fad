"""The FLUX.2 network with a depth stream: its arithmetic against NumPy, its levels, its tensors' names and its size."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flux2_toys as toys  # noqa: E402

from mf_ros.errors import ConfigError  # noqa: E402
from mf_ros.model.flux2 import Flux2Config, Flux2Network  # noqa: E402
from mf_ros.model.flux2.blocks import (  # noqa: E402
    FinalLayer,
    GatedSilu,
    LevelEmbedding,
    Modulation,
    ModulationLayer,
    RmsNorm,
    Rotation,
    SingleBlock,
    TripleBlock,
    grid_positions,
    joined,
    level_sinusoid,
    rotated,
    rotation_of,
    text_positions,
)

CPU = torch.device("cpu")
# float32 sums of about a hundred terms of size 1, some thirty of them one after the other.
CLOSE = {"rtol": 0, "atol": 2e-5}


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    for number, parameter in enumerate(module.parameters()):
        parameter.data = normal(*parameter.shape, seed=number) * parameter.shape[-1] ** -0.5
    return module.requires_grad_(False)


def names_of(module: torch.nn.Module, prefix: str) -> toys.Weights:
    return {f"{prefix}.{name}": each.double().numpy() for name, each in module.state_dict().items()}


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_the_network_computes_what_numpy_computes_by_hand(variant: str) -> None:
    net = toys.random_network(variant)
    given = toys.inputs(net)
    out = net(**given)
    for item in range(2):
        image, depth = toys.by_hand(net.config, toys.weights_of(net), given, item)
        assert 0.5 < np.abs(image).mean() < 5, "outputs of this size make the tolerance mean something"
        # A thousand times the level is known to 6e-5 in float32, and its cosine no better.
        np.testing.assert_allclose(out.image[item].numpy(), image, atol=1e-4)
        np.testing.assert_allclose(out.depth[item].numpy(), depth, atol=1e-4)


def test_rotary_embedding_turns_neighbouring_channels_by_each_axis_in_its_turn() -> None:
    axes = (4, 6, 2, 4)
    places = torch.tensor([[0, 0, 0, 0], [1, 5, 2, 0], [0, 0, 0, 3]], dtype=torch.float32)
    x = normal(1, 2, 3, 16)
    turned = rotated(x, rotation_of(places, axes, 2000.0))
    for token, place in enumerate(places.int().tolist()):
        expected = x[0, :, token].double().numpy() @ toys.turn(tuple(place), axes).T
        np.testing.assert_allclose(turned[0, :, token].numpy(), expected, atol=1e-5)
    assert torch.equal(turned[0, :, 0], x[0, :, 0]), "place zero of every axis turns nothing"


def test_rotary_embedding_of_one_pair_is_the_textbook_rotation() -> None:
    quarter = torch.tensor([[torch.pi / 2]])
    turned = rotated(torch.tensor([[[[3.0, 4.0]]]]), Rotation(quarter.cos(), quarter.sin()))
    np.testing.assert_allclose(turned.numpy().ravel(), [-4, 3], atol=1e-6)


def test_positions_are_time_row_column_and_place_in_the_text() -> None:
    assert grid_positions(2, 2, 1, CPU).tolist() == [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert text_positions(3, CPU).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]


def test_queries_and_keys_are_normed_by_their_root_mean_square() -> None:
    norm = RmsNorm(4)
    norm.scale.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(
        norm(torch.tensor([1.0, 1.0, 1.0, 5.0])).detach(), np.array([1, 2, 3, 20]) / 7**0.5, 1e-6
    )
    assert norm(torch.full((4,), 1e-3)).detach()[0] == pytest.approx(0.5**0.5, rel=1e-3), "epsilon is 1e-6"


def test_the_gate_comes_before_what_it_gates() -> None:
    out = GatedSilu()(torch.tensor([0.0, 2.0, 10.0, 100.0]))
    np.testing.assert_allclose(out, [0.0, 2 / (1 + np.exp(-2)) * 100], rtol=1e-6)


def test_levels_become_cosines_and_sines_of_a_thousand_times_the_level() -> None:
    np.testing.assert_allclose(level_sinusoid(torch.tensor(0.25), torch.float32), toys.sinusoid(0.25), atol=5e-5)
    embedding = randomised(LevelEmbedding(8))
    by_hand = toys.embedded(names_of(embedding, "time_in"), "time_in", 0.25)
    np.testing.assert_allclose(embedding(level_sinusoid(torch.tensor(0.25), torch.float32)), by_hand, atol=1e-4)


def test_levels_are_rounded_as_the_bfloat16_body_was_trained_with_them() -> None:
    level = 0.613
    rounded = float(torch.tensor(float(torch.tensor(level).bfloat16()) * 1000).bfloat16())
    assert rounded == 612.0 and float(torch.tensor(level).bfloat16()) * 1000 != 612.0
    out = level_sinusoid(torch.tensor(level), torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, level_sinusoid(torch.tensor(0.612, dtype=torch.float64), torch.float32).bfloat16())


def test_modulation_is_silu_then_shift_scale_and_gate_for_attention_then_for_the_mlp() -> None:
    layer = ModulationLayer(2, 2)
    layer.lin.weight.data = torch.arange(24.0).reshape(12, 2)
    code = torch.tensor([[[1.0, -1.0]]])
    values = layer.lin.weight.data @ torch.nn.functional.silu(code[0, 0])
    first, second = layer(code)
    found = torch.stack([first.shift, first.scale, first.gate, second.shift, second.scale, second.gate])
    assert torch.allclose(found[:, 0, 0], values.reshape(6, 2))


def test_one_single_block_against_numpy_with_a_modulation_for_each_token() -> None:
    block = randomised(SingleBlock(16, 2, 24))
    x, parts = normal(1, 5, 16), normal(3, 1, 5, 16, seed=2)
    places = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 1, 0, 0)]
    turns = [toys.turn(each, (2, 2, 2, 2)) for each in places]
    out = block(x, Modulation(*parts), rotation_of(torch.tensor(places).float(), (2, 2, 2, 2), 2000.0))
    of_tokens = [parts[:, 0, token].double().numpy() for token in range(5)]
    by_hand = toys.single_block(names_of(block, "b"), "b", x[0].double().numpy(), of_tokens, turns, 2)
    np.testing.assert_allclose(out[0], by_hand, **CLOSE)


def test_one_triple_block_against_numpy_with_streams_of_different_lengths() -> None:
    block = randomised(TripleBlock(16, 2, 24))
    layers = [randomised(ModulationLayer(16, 2)) for _ in range(3)]
    code = normal(1, 1, 16)
    modulations = [layer(code * (number + 1)) for number, layer in enumerate(layers)]
    tokens = [normal(1, count, 16, seed=count) for count in (3, 4, 2)]
    places = [(0, 0, 0, i) for i in range(3)] + [(0, 0, i, 0) for i in range(4)] + [(1, 0, i, 0) for i in range(2)]
    out = block(tokens, modulations, rotation_of(torch.tensor(places).float(), (2, 2, 2, 2), 2000.0))
    by_hand = toys.triple_block(
        names_of(block, "b"),
        "b",
        [each[0].double().numpy() for each in tokens],
        [np.array([[part[0, 0].numpy() for part in each] for each in both]) for both in modulations],
        [toys.turn(each, (2, 2, 2, 2)) for each in places],
        2,
    )
    for found, expected in zip(out, by_hand, strict=True):
        np.testing.assert_allclose(found[0], expected, **CLOSE)


def test_the_final_layer_takes_shift_before_scale() -> None:
    layer = randomised(FinalLayer(8, 3))
    x, code = normal(1, 4, 8), normal(1, 1, 8, seed=2)
    by_hand = toys.final_layer(names_of(layer, "f"), "f", x[0].double().numpy(), code[0, 0].double().numpy())
    np.testing.assert_allclose(layer(x, code)[0], by_hand, atol=1e-6)


def test_text_and_image_share_a_modulation_and_each_depth_token_has_its_own() -> None:
    shared = ModulationLayer(4, 1)(normal(2, 1, 4))[0]
    own = ModulationLayer(4, 1)(normal(2, 3, 4, seed=2))[0]
    together = joined([shared, own], [5, 3])
    for part in range(3):
        assert torch.equal(together[part][:, :5], shared[part].expand(-1, 5, -1))
        assert torch.equal(together[part][:, 5:], own[part])


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_the_same_level_for_every_depth_token_is_one_level_for_the_map(variant: str, level: float) -> None:
    net = toys.random_network(variant)
    given = toys.inputs(net)
    given["depth_level"] = torch.full((2,), level)
    whole = net(**given)
    given["depth_level"] = torch.full((2, 6), level)
    each = net(**given)
    assert torch.allclose(whole.image, each.image, atol=1e-5)
    assert torch.allclose(whole.depth, each.depth, atol=1e-5)


def test_the_level_of_one_depth_token_changes_that_token_most() -> None:
    net = toys.random_network("v1")
    given = toys.inputs(net, batch=1)
    given["depth_level"] = torch.full((1, 6), 0.8)
    before = net(**given).depth
    given["depth_level"][0, 4] = 0.0
    change = (net(**given).depth - before).abs().mean(2)[0]
    assert change.argmax() == 4
    assert bool((change > 1e-4).all()), "the others see it through the attention"


def test_only_the_second_variant_tells_each_modality_the_level_of_the_other() -> None:
    for variant in ("v1", "v2"):
        net = toys.random_network(variant, triple_blocks=0, single_blocks=0, depth_blocks=0)
        given = toys.inputs(net)
        before = net(**given)
        other = net(**{**given, "depth_level": given["depth_level"] / 2})
        assert torch.equal(other.image, before.image) == (variant == "v1")
        other = net(**{**given, "image_level": given["image_level"] + 0.1})
        assert torch.equal(other.depth, before.depth) == (variant == "v1")


def test_a_new_second_variant_starts_as_the_first() -> None:
    first, second = toys.random_network("v1"), Flux2Network(toys.tiny_config("v2")).requires_grad_(False)
    left = second.load_state_dict(first.state_dict(), strict=False)
    assert {name.split(".")[0] for name in left.missing_keys} == {
        "cross_alpha_img",
        "cross_alpha_depth",
        "time_in_depth_to_img",
        "time_in_rgb_to_depth",
    }
    given = toys.inputs(first)
    for one, other in zip(first(**given), second(**given), strict=True):
        assert torch.equal(one, other)


def test_the_image_is_told_the_mean_of_the_levels_of_the_depth_tokens() -> None:
    net = toys.random_network("v2", triple_blocks=0, single_blocks=0, depth_blocks=0)
    given = toys.inputs(net)
    mixed = net(**{**given, "depth_level": torch.tensor([[0.0, 1.0, 0.25, 0.75, 0.5, 0.5]] * 2)})
    even = net(**{**given, "depth_level": torch.tensor([0.5, 0.5])})
    assert torch.allclose(mixed.image, even.image, atol=1e-5)


def test_only_depth_passes_the_last_blocks() -> None:
    net = toys.random_network()
    given = toys.inputs(net)
    before = net(**given)
    net.depth_decoder_blocks[0].linear2.weight.mul_(2)
    after = net(**given)
    assert torch.equal(before.image, after.image)
    assert not torch.allclose(before.depth, after.depth, atol=1e-3)


def test_without_depth_tokens_the_image_is_predicted_alone() -> None:
    net = toys.random_network()
    given = toys.inputs(net)
    out = net(**{**given, "depth": torch.zeros(2, 0, 16)})
    assert out.image.shape == given["image"].shape and out.depth.shape == (2, 0, 16)
    assert not torch.allclose(out.image, net(**given).image, atol=1e-3), "depth is seen where it is there"


def test_a_bfloat16_body_keeps_the_depth_head_in_float32() -> None:
    net = toys.random_network()
    exact = net(**toys.inputs(net))
    net.bfloat16().depth_final_layer.float()
    out = net(**toys.inputs(net))
    assert (out.image.dtype, out.depth.dtype) == (torch.bfloat16, torch.float32)
    # The first of the batch has levels 0 and 1, which bfloat16 holds exactly; the rest is 8 bits through five blocks.
    assert (out.depth - exact.depth)[0].abs().mean() < 0.05 * exact.depth[0].abs().mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": (3, 3)}, "6 image and 6 depth tokens do not fit a grid of 3 x 3"),
        ({"depth": torch.zeros(2, 4, 16)}, "6 image and 4 depth tokens do not fit a grid of 2 x 3"),
        ({"depth_level": torch.zeros(2, 5)}, "5 depth levels do not fit 6 depth tokens"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    net = toys.random_network()
    with pytest.raises(ValueError, match=words):
        net(**{**toys.inputs(net), **changes})


def official_names(variant: str) -> set[str]:
    """The tensors of the released weights, without their prefix."""

    def norms(prefix: str) -> list[str]:
        return [f"{prefix}.norm.query_norm.scale", f"{prefix}.norm.key_norm.scale"]

    names = [f"{each}_in.weight" for each in ("img", "txt", "depth")]
    embedders = ["time_in", "time_in_depth"]
    if variant == "v2":
        embedders += ["time_in_depth_to_img", "time_in_rgb_to_depth"]
        names += ["cross_alpha_img", "cross_alpha_depth"]
    names += [f"{each}.{layer}_layer.weight" for each in embedders for layer in ("in", "out")]
    for block in range(8):
        for stream in ("img", "txt", "depth"):
            prefix = f"double_blocks.{block}.{stream}"
            names += [f"{prefix}_attn.{each}.weight" for each in ("qkv", "proj")] + norms(f"{prefix}_attn")
            names += [f"{prefix}_mlp.{each}.weight" for each in (0, 2)]
    for prefix in [f"single_blocks.{i}" for i in range(24)] + [f"depth_decoder_blocks.{i}" for i in range(4)]:
        names += [f"{prefix}.linear1.weight", f"{prefix}.linear2.weight", *norms(prefix)]
    names += [f"double_stream_modulation_{each}.lin.weight" for each in ("img", "txt", "depth")]
    names += [f"{each}.lin.weight" for each in ("single_stream_modulation", "single_stream_modulation_depth")]
    names += ["depth_decoder_modulation.lin.weight"]
    for each in ("final_layer", "depth_final_layer"):
        names += [f"{each}.linear.weight", f"{each}.adaLN_modulation.1.weight"]
    return set(names)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_the_full_size_has_the_official_tensors_and_twelve_billion_parameters(variant: str) -> None:
    with torch.device("meta"):
        net = Flux2Network(Flux2Config.from_variant(f"flux_rgbd_9b_{variant}"))
    state = net.state_dict()
    assert set(state) == official_names(variant)
    assert sum(each.numel() for each in state.values()) == pytest.approx(12e9, rel=0.02)
    assert state["single_blocks.0.linear1.weight"].shape == (36864, 4096)
    assert state["single_blocks.0.linear2.weight"].shape == (4096, 16384)
    assert state["double_blocks.7.depth_mlp.0.weight"].shape == (24576, 4096)
    if variant == "v2":
        assert state["cross_alpha_img"].shape == (1,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": "v3"}, "allowed is 'v1' or 'v2'"),
        ({"hidden": 10**9}, "flux2.hidden is 1000000000"),
        ({"heads": 3}, "must be a multiple of flux2.heads"),
        ({"rope_axes": (8, 8, 8)}, "four even numbers are needed whose sum is the 32 channels"),
        ({"rope_axes": (9, 7, 8, 8)}, "four even numbers"),
        ({"depth_channels": 200}, "must be a square"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Flux2Config(**{**toys.TINY, **changes})


def test_an_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'flux_rgbd_9b_v9': known are flux_rgbd_9b_v1, flux_rgbd_9b_v2"):
        Flux2Config.from_variant("flux_rgbd_9b_v9")


def test_sizes_are_read_without_torch() -> None:
    code = "import sys; from mf_ros.model.flux2 import Flux2Config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
