"""Depth as the FLUX.2 network's tokens, and sampling: patches, contraction, schedule, Euler steps, partial depth."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flux2_toys as toys  # noqa: E402

from mf_ros.model.flux2.depth import (  # noqa: E402
    FARTHEST,
    contracted,
    depth_map,
    depth_tokens,
    expanded,
    mean_depth,
    patched,
    token_levels,
    unpatched,
)
from mf_ros.model.flux2.network import Flux2Prediction  # noqa: E402
from mf_ros.model.flux2.sampler import Flux2Known, Guidance, sample_flux2, tilted  # noqa: E402
from mf_ros.model.levels import shifted, step_levels, stepped  # noqa: E402


def test_patches_run_row_by_row_and_so_do_the_pixels_in_each() -> None:
    pixels = torch.arange(32 * 48, dtype=torch.float32).reshape(1, 1, 32, 48)
    tokens = patched(pixels)
    assert tokens.shape == (1, 6, 256)
    for row, col, p1, p2 in ((0, 0, 0, 0), (0, 2, 3, 7), (1, 0, 15, 1), (1, 2, 15, 15)):
        assert tokens[0, row * 3 + col, p1 * 16 + p2] == pixels[0, 0, row * 16 + p1, col * 16 + p2]
    assert torch.equal(unpatched(tokens, (2, 3)), pixels)
    assert torch.equal(unpatched(patched(pixels, 4), (8, 12)), pixels), "patches of other sizes, too"


def test_contraction_keeps_what_is_near_and_squeezes_what_is_far() -> None:
    depth = torch.tensor([-4.0, -1.0, 0.0, 0.5, 1.0, 2.0, 10.0])
    expected = [-1.75, -1.0, 0.0, 0.5, 1.0, 1.5, 1.9]
    np.testing.assert_allclose(contracted(depth), expected, rtol=1e-6)


def test_expansion_undoes_contraction() -> None:
    depth = torch.tensor([-30.0, -1.5, 0.0, 0.3, 1.0, 1.001, 7.0, 90.0], dtype=torch.float64)
    np.testing.assert_allclose(expanded(contracted(depth)), depth, rtol=1e-12)
    squeezed = torch.tensor([0.2, 1.2, 1.9], dtype=torch.float64)
    by_formula = squeezed / (2 * squeezed.clamp(min=1) - squeezed.clamp(min=1) ** 2)
    np.testing.assert_allclose(expanded(squeezed), by_formula, rtol=1e-12)


def test_expansion_stays_finite_and_positive_at_two_and_beyond() -> None:
    out = expanded(torch.tensor([1.9995, 2.0, 2.5, 100.0, -3.0]))
    np.testing.assert_allclose(out, [FARTHEST, FARTHEST, FARTHEST, FARTHEST, -FARTHEST], rtol=1e-3)


def test_depth_is_divided_by_the_mean_of_all_its_pixels() -> None:
    depth = torch.rand(2, 1, 32, 16, generator=torch.Generator().manual_seed(0)) * 20 + 1
    depth[1] *= 7
    mean = mean_depth(depth)
    np.testing.assert_allclose(mean.ravel(), [depth[0].mean(), depth[1].mean()], rtol=1e-6)
    tokens = depth_tokens(depth, mean)
    assert torch.allclose(tokens, patched(contracted(depth / mean)))
    assert torch.allclose(depth_map(tokens, (2, 1), mean), depth, rtol=1e-5)
    assert torch.allclose(depth_map(tokens, (2, 1)), depth / mean, rtol=1e-5)


@pytest.mark.parametrize("hole", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hole_would_corrupt_the_mean_and_is_refused(hole: float) -> None:
    depth = torch.ones(1, 1, 16, 16)
    depth[0, 0, 3, 3] = hole
    with pytest.raises(ValueError, match="without a positive, finite depth"):
        mean_depth(depth)


def test_the_level_of_a_token_is_the_mean_of_its_pixels() -> None:
    level = torch.ones(1, 1, 16, 32)
    level[:, :, :4, 16:] = 0
    assert token_levels(level).tolist() == [[1.0, 0.75]]


def test_levels_are_shifted_towards_noise() -> None:
    for t in (0.02, 0.3, 0.5, 0.9):
        assert float(shifted(torch.tensor(t))) == pytest.approx(math.e**1.1 / (math.e**1.1 + (1 / t - 1)), rel=1e-6)
    levels = step_levels(50)
    assert (levels[0], levels[50], len(levels)) == (1.0, 0.0, 51)
    assert levels[49] == pytest.approx(0.0578, abs=1e-4), "above the floor of the velocity's divisor"


def test_the_step_follows_the_velocity_that_the_prediction_implies() -> None:
    noisy, clean = torch.tensor([2.0]), torch.tensor([0.5])
    for level, following in ((1.0, 0.4), (0.2, 0.1), (0.03, 0.0)):
        velocity = 1.5 / max(level, 0.05)
        assert float(stepped(noisy, clean, level, following)) == pytest.approx(2 + (following - level) * velocity)


def test_tilting_keeps_depth_noisier_than_the_image() -> None:
    assert tilted([1.0, 0.5, 0.0], 0) == [1.0, 0.5, 0.0]
    assert tilted([1.0, 0.5, 0.0], 5) == [1.0, 32 / 33, 0.0]
    assert tilted([0.5], -1) == [1 / 3]


class Recorder:
    """Stands in for the network: predicts constants, and keeps what it was called with."""

    config = toys.tiny_config()

    def __init__(self, image: float = 0.25, depth: float = 0.5) -> None:
        self.image, self.depth, self.calls = image, depth, []

    def __call__(self, *args: object) -> Flux2Prediction:
        self.calls.append([each.clone() if isinstance(each, torch.Tensor) else each for each in args])
        image, text, depth = args[0], args[2], args[3]
        factor = text.mean() + 1
        return Flux2Prediction(torch.full_like(image, self.image) * factor, torch.full_like(depth, self.depth) * factor)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def known(**changes: object) -> Flux2Known:
    return Flux2Known(**{"text": torch.zeros(2, 5, 20), "grid": toys.GRID, **changes})


def test_one_step_from_noise_returns_the_prediction_exactly() -> None:
    net = toys.random_network()
    given = known(image=toys.inputs(net)["image"])
    out = sample_flux2(net, given, 1, seeded())
    noise = torch.randn(2, 6, 16, generator=seeded())
    predicted = net(given.image, torch.zeros(2), given.text, noise, torch.ones(2), toys.GRID)
    assert torch.equal(out.depth, predicted.depth)
    assert torch.equal(out.image, given.image)


def test_a_given_image_stays_at_level_zero_while_depth_comes_down() -> None:
    net = Recorder()
    out = sample_flux2(net, known(image=torch.ones(2, 6, 12)), 4, seeded())
    assert [call[1].tolist() for call in net.calls] == [[0.0, 0.0]] * 4
    np.testing.assert_allclose([call[4][0] for call in net.calls], step_levels(4)[:4], rtol=1e-6)
    assert torch.equal(out.image, torch.ones(2, 6, 12))
    assert torch.equal(out.depth, torch.full((2, 6, 16), 0.5))


def test_an_image_is_integrated_from_its_velocity() -> None:
    out = sample_flux2(Recorder(image=0.25), known(), 5, seeded())
    # The image's noise is drawn first; the levels sum up to minus one.
    noise = torch.randn(2, 6, 12, generator=seeded())
    assert torch.allclose(out.image, noise - 0.25, atol=1e-6)


def test_depth_given_everywhere_stays_at_level_zero() -> None:
    net = Recorder()
    depth = torch.rand(2, 6, 16)
    sample_flux2(net, known(depth=depth, level=torch.zeros(2, 6, 16)), 3, seeded())
    for call in net.calls:
        assert torch.equal(call[3], depth)
        assert call[4].tolist() == [[0.0] * 6] * 2


def test_guidance_moves_away_from_the_empty_prompt() -> None:
    given = known(text=torch.full((2, 5, 20), 1.0), image=torch.ones(2, 6, 12))
    plain = sample_flux2(Recorder(), given, 1, seeded()).depth
    guided = sample_flux2(Recorder(), given, 1, seeded(), Guidance(torch.zeros(1, 5, 20), 4.0)).depth
    assert (float(plain.mean()), float(guided.mean())) == (1.0, 0.5 + 4 * 0.5)


def test_the_result_depends_on_the_seed_alone() -> None:
    net = toys.random_network()
    first, again, other = (sample_flux2(net, known(), 3, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.depth, again.depth) and torch.equal(first.image, again.image)
    assert not torch.equal(first.depth, other.depth)


def test_senseless_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="0 steps: at least one is needed"):
        sample_flux2(Recorder(), known(), 0, seeded())
    with pytest.raises(ValueError, match="come together"):
        known(depth=torch.zeros(2, 6, 16))
