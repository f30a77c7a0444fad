"""LiDAR as partial depth of the FLUX.2 network: what its tokens are shown, and one interface for all samplers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flux2_toys as toys  # noqa: E402

from mf_ros.model import ModalityForcing, ModelConfig  # noqa: E402
from mf_ros.model.flux2.depth import contracted, patched  # noqa: E402
from mf_ros.model.flux2.network import Flux2Prediction  # noqa: E402
from mf_ros.model.flux2.partial import agreeing, log_of, with_known  # noqa: E402
from mf_ros.model.flux2.pixels import Flux2Sampler  # noqa: E402
from mf_ros.model.flux2.sampler import Flux2Known, sample_flux2  # noqa: E402
from mf_ros.model.levels import step_levels  # noqa: E402
from mf_ros.model.protocol import Sampler  # noqa: E402
from mf_ros.model.sampler import Known, sample  # noqa: E402

SIDE = 32


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane(value: float = 0.0, side: int = SIDE) -> torch.Tensor:
    return torch.full((1, 1, side, side), value)


def every(number: int, side: int = SIDE) -> torch.Tensor:
    """Trust of returns at every so many pixels."""
    trust = plane(side=side)
    trust[..., number // 2 :: number, number // 2 :: number] = 1
    return trust


def test_where_nothing_is_known_depth_stays() -> None:
    depth = torch.randn(1, 1, SIDE, SIDE, generator=seeded())
    assert torch.equal(agreeing(depth, plane(5.0), plane()), depth)


def test_depth_that_is_known_everywhere_is_taken_over() -> None:
    rows = torch.linspace(-1, 1, SIDE)[:, None].expand(1, 1, SIDE, SIDE)
    moved = agreeing(plane(), rows, plane(1.0))
    # From row to row it rises by 0.065; windows look a few pixels far, at the border to one side.
    assert (moved - rows).abs().max() < 0.13 and (moved - rows)[..., 3:-3, :].abs().max() < 0.03


@pytest.mark.parametrize("offset", [-0.7, 0.02, 1.5])
def test_a_common_offset_at_a_few_returns_moves_all_of_the_map(offset: float) -> None:
    depth = torch.randn(1, 1, SIDE, SIDE, generator=seeded())
    moved = agreeing(depth, depth + offset, every(8))
    assert (moved - depth - offset).abs().max() < 0.1 * abs(offset)


def test_a_local_difference_stays_local() -> None:
    trust = every(4, 64)
    known = plane(side=64)
    known[..., :16, :16] = 0.5
    moved = agreeing(plane(side=64), known, trust)
    assert moved[..., 4:10, 4:10].mean() > 0.4
    assert moved[..., 32:, 32:].abs().max() < 0.02


def test_one_wrong_return_among_many_moves_little() -> None:
    known = plane()
    known[..., 18, 18] = 2.0
    assert agreeing(plane(), known, every(4))[..., 18, 18] < 0.2


def test_a_return_stands_clean_and_its_token_is_told_the_level_of_what_is_not_known() -> None:
    state, known, level = torch.zeros(1, 3, 4), torch.full((1, 3, 4), 0.9), torch.ones(1, 3, 4)
    level[0, 1, :2], level[0, 2] = 0.0, 0.5
    for now, pixels, told in (
        (1.0, [[0, 0, 0, 0], [0.9, 0.9, 0, 0], [0.9] * 4], [1.0, 1.0, 0.5]),
        (0.6, [[0, 0, 0, 0], [0.9, 0.9, 0, 0], [0.9] * 4], [0.6, 0.6, 0.5]),
        (0.3, [[0, 0, 0, 0], [0.9, 0.9, 0, 0], [0, 0, 0, 0]], [0.3, 0.3, 0.3]),
    ):
        shown = with_known(state, now, known, level)
        np.testing.assert_allclose(shown.depth[0], pixels, rtol=1e-6)
        np.testing.assert_allclose(shown.level[0], told, rtol=1e-6)


class Recorder:
    """Stands in for the network: predicts constant depth, and keeps what it was called with."""

    config = toys.tiny_config()

    def __init__(self, depth: float = 0.5) -> None:
        self.depth, self.calls = depth, []

    def __call__(self, *args: Any) -> Flux2Prediction:
        self.calls.append([each.clone() if isinstance(each, torch.Tensor) else each for each in args])
        return Flux2Prediction(torch.zeros_like(args[0]), torch.full_like(args[3], self.depth))


def partial_known(level: torch.Tensor, depth: float = 0.8) -> Flux2Known:
    return Flux2Known(
        torch.zeros(1, 5, 20), toys.GRID, torch.ones(1, 6, 12), torch.full((1, 6, 16), depth), level.expand(1, 6, 16)
    )


def test_returns_are_put_in_again_at_each_step_and_the_rest_follows_them() -> None:
    level = torch.ones(1, 6, 16)
    level[:, :, ::4] = 0.0
    net = Recorder(depth=0.5)
    out = sample_flux2(net, partial_known(level), 4, seeded())
    noise = torch.randn(1, 6, 16, generator=seeded())
    assert len(net.calls) == 4
    for number, (call, now) in enumerate(zip(net.calls, step_levels(4), strict=False)):
        shown = call[3]
        assert torch.equal(shown[:, :, ::4], torch.full((1, 6, 4), 0.8))
        assert torch.allclose(call[4], torch.full((1, 6), now))
        if number:
            # The network said 0.5, the returns 0.8: what is not known is filled with nearly that, and noised.
            filled = (shown - now * noise)[:, :, 1::4] / (1 - now)
            assert 0.7 < filled.mean() < 0.85
    assert torch.equal(out.depth, torch.full((1, 6, 16), 0.5)), "the result is the network's own"


def test_without_returns_the_steps_are_those_of_the_released_sampler() -> None:
    net = toys.random_network()
    nothing = Flux2Known(torch.zeros(1, 5, 20), toys.GRID, torch.ones(1, 6, 12))
    one = sample_flux2(net, nothing, 3, seeded())
    depth = torch.randn(1, 6, 16, generator=seeded())
    for now, following in zip(step_levels(3), step_levels(3)[1:], strict=False):
        clean = net(nothing.image, torch.zeros(1), nothing.text, depth, torch.full((1,), now), toys.GRID).depth
        depth = depth + (following - now) * (depth - clean) / max(now, 0.05)
    assert torch.allclose(one.depth, depth, atol=1e-5)


class PatchCodec:
    """Images as their own 4 x 4 patches; stands in for the autoencoder."""

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_unshuffle(image, 4).flatten(2).transpose(1, 2)

    def decode(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        planes = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)
        return torch.nn.functional.pixel_shuffle(planes, 4).clamp(-1, 1)


def flux_sampler() -> Sampler:
    net = toys.random_network(image_channels=48)
    return Flux2Sampler(net, PatchCodec(), torch.randn(1, 7, 20, generator=seeded(9)))


def own_sampler() -> Sampler:
    torch.manual_seed(0)
    net = ModalityForcing(ModelConfig(width=16, layers=1, heads=1, stem=(8, 8), blocks=(1, 1)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return functools.partial(sample, net.eval())


@pytest.fixture(scope="module", params=[flux_sampler, own_sampler], ids=["flux2", "own"])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return request.param()


IMAGE = torch.rand(1, 3, SIDE, SIDE, generator=seeded(4)) * 2 - 1
RAMP = torch.linspace(-0.5, 0.5, SIDE)[:, None].expand(1, 1, SIDE, SIDE)


def lidar(image: Any = IMAGE, depth: torch.Tensor = RAMP) -> Known:
    trust = every(4)
    return Known(image, depth * trust, 1 - trust, plane())


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "known",
    [
        Known(IMAGE, plane(), plane(1.0), plane()),
        Known(None, RAMP, plane(0.0), plane(), sample_depth=False),
        Known(None, plane(), plane(1.0), plane()),
        lidar(),
    ],
    ids=["image to depth", "depth to image", "joint", "LiDAR as partial depth"],
)
def test_every_sampler_makes_any_from_any_in_a_few_steps(sampler: Sampler, known: Known, steps: int) -> None:
    out, again = (sampler(known, steps, seeded()) for _ in range(2))
    assert out.depth.shape == (1, 1, SIDE, SIDE) and out.image is not None and out.image.shape == (1, 3, SIDE, SIDE)
    assert torch.isfinite(out.depth).all() and torch.isfinite(out.image).all()
    assert torch.equal(out.depth, again.depth) and torch.equal(out.image, again.image)
    if known.image is not None:
        assert torch.equal(out.image, IMAGE)


def test_returns_change_what_every_sampler_makes_of_an_image(sampler: Sampler) -> None:
    alone = sampler(Known(IMAGE, plane(), plane(1.0), plane()), 2, seeded()).depth
    given = sampler(lidar(), 2, seeded()).depth
    other = sampler(lidar(depth=RAMP + 0.7), 2, seeded()).depth
    assert (given - alone).abs().mean() > 1e-3 and (other - given).abs().mean() > 1e-3


def test_sizes_that_are_no_multiple_of_a_token_are_refused() -> None:
    with pytest.raises(ValueError, match="30 x 30 pixels: multiples of 4"):
        flux_sampler()(Known(None, plane(side=30), plane(1.0, 30), plane(side=30)), 1, seeded())


def test_holes_in_depth_that_an_image_is_made_from_are_filled_with_the_prior() -> None:
    sampler = flux_sampler()
    holes = 1 - every(4)
    whole = sampler(Known(None, RAMP, plane(0.0), plane(), sample_depth=False), 2, seeded())
    filled = sampler(Known(None, RAMP * (1 - holes), holes, RAMP, sample_depth=False), 2, seeded())
    assert torch.equal(whole.image, filled.image)


def test_depth_of_the_flux2_sampler_is_the_log_of_what_the_tokens_hold() -> None:
    depth = torch.rand(1, 1, 16, 16, generator=seeded()) * 3 + 0.2
    tokens = patched(contracted(depth), 4)
    assert torch.allclose(log_of(tokens), patched(depth.log(), 4), atol=1e-5)
    assert log_of(torch.tensor([-0.5, 0.0])).exp().tolist() == pytest.approx([1e-3, 1e-3])
