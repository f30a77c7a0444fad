"""What a FLUX.2 network is shown and judged by in training: truth in its unit, returns as on the robot, noise else."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("accelerate")
pytest.importorskip("cv2")

import numpy as np
import torch
from flux2_toys import tiny_config
from torch import Tensor, nn

from mf_ros.model.flux2 import Flux2Network, Flux2Prediction
from mf_ros.model.flux2.depth import contracted, expanded, patched, unpatched
from mf_training.config import FluxConfig
from mf_training.flux.objective import FluxObjective
from mf_training.flux.samples import FluxSample, make_flux_sample, with_map
from mf_training.losses import REGIMES, SKY_M, LossConfig
from mf_training.samples import Sample, SampleConfig, collate
from mf_training.scenes.types import LidarScan, Scene

SIZE, PATCH = (8, 12), 4
SIZES = tiny_config()
WALL_M = np.geomspace(4, 16, SIZE[1], dtype=np.float32) * np.ones(SIZE, np.float32)


class Codec:
    """Stands in for the autoencoder: a token is the brightness of its pixels in every channel."""

    def to(self, device: Any) -> Codec:
        return self

    def encode(self, image: Tensor) -> Tensor:
        grey = image.mean(1, keepdim=True)
        return patched(grey, PATCH).mean(2, keepdim=True).expand(-1, -1, SIZES.image_channels)


class Witness(nn.Module):
    """A network that writes down what it is given and answers with the depth it was made with, or with nothing."""

    def __init__(self, answer: Optional[Tensor] = None) -> None:
        super().__init__()
        self.answer, self.seen = answer, []  # type: Optional[Tensor], List[Any]

    def forward(
        self, image: Tensor, image_level: Tensor, text: Tensor, depth: Tensor, depth_level: Tensor, grid: Any
    ) -> Flux2Prediction:
        self.seen.append((image, image_level, depth, depth_level))
        made = torch.zeros_like(depth) if self.answer is None else self.answer
        return Flux2Prediction(torch.zeros_like(image), made)


def wall(every: int = 2, sky: bool = False) -> FluxSample:
    """A wall that recedes to the right, known on every second column of every second row; every other is shown."""
    truth, level = np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32)
    truth[::2, ::every] = WALL_M[::2, ::every]
    level[::2, :: 2 * every] = 0
    weight = np.where(level < 1, 0.15, truth > 0).astype(np.float32)
    if sky:
        truth[0] = np.inf
        weight[0], level[0] = 0.1, 1
    scale = 5.0
    depth = np.where(level < 1, np.log(WALL_M / scale), 0).astype(np.float32)
    image = np.full((3, *SIZE), 60, np.uint8)
    zeros = np.zeros(SIZE, np.float32)
    return with_map(Sample(image, truth, weight, depth, level, zeros, zeros.astype(np.uint8), scale))


def batch_of(*samples: FluxSample) -> Dict[str, Tensor]:
    return collate(samples)


def objective(**config: Any) -> FluxObjective:
    prompt = torch.zeros(1, 3, SIZES.text_channels)
    return FluxObjective(Codec(), prompt, SIZES, FluxConfig(**{"unit_jitter": 0.0, **config}))  # type: ignore[arg-type]


def only(regime: str, **more: float) -> LossConfig:
    return LossConfig(**{**dict.fromkeys(REGIMES, 0.0), regime: 1.0, **more})


def loss(net: nn.Module, regime: str, batch: Dict[str, Tensor], seed: int = 0, **config: Any) -> float:
    generator = torch.Generator().manual_seed(seed)
    return float(objective(**config).loss_of(net, batch, generator, only(regime))[0])


def in_units(batch: Dict[str, Tensor], metres: Tensor) -> Tensor:
    return patched(contracted(metres / batch["unit"][:, None, None, None]), PATCH)


@pytest.mark.parametrize("regime", ["complete", "partial", "lidar", "image"])
def test_only_pixels_with_truth_count(regime: str) -> None:
    batch = batch_of(wall())
    answer = in_units(batch, torch.from_numpy(WALL_M)[None, None])
    assert loss(Witness(answer), regime, batch) < 1e-10, "true where there is truth"
    elsewhere = patched((batch["truth"] == 0).float(), PATCH)
    assert loss(Witness(answer + elsewhere), regime, batch) < 1e-10, "whatever it says elsewhere"
    held_out = patched((batch["weight"] == 1).float(), PATCH)
    assert loss(Witness(answer + 0.1 * held_out), regime, batch) > 1e-3


def test_the_error_is_that_of_the_velocity() -> None:
    batch = batch_of(wall())
    net = Witness(in_units(batch, torch.from_numpy(WALL_M)[None, None]) + 0.1)
    for seed in range(4):
        found = loss(net, "partial", batch, seed)
        level = float(net.seen[-1][3].max())
        assert found == pytest.approx((0.1 / max(level, 0.05)) ** 2, rel=1e-3)
        assert loss(net, "partial", batch, seed, error="absolute") == pytest.approx(0.1 / max(level, 0.05), rel=1e-3)


def test_returns_stand_clean_in_tokens_at_the_sampler_s_level() -> None:
    batch, net = batch_of(wall(), wall()), Witness()
    loss(net, "partial", batch)
    _, image_level, depth, level = net.seen[0]
    shown = patched((batch["level"] < 1).float(), PATCH) > 0
    wanted = in_units(batch, torch.from_numpy(WALL_M)[None, None])
    assert torch.allclose(depth[shown], wanted[shown], atol=1e-6)
    assert not torch.allclose(depth[~shown], wanted[~shown], atol=1e-2), "the rest is noised"
    assert not image_level.any() and torch.equal(level[0], level[0, :1].expand_as(level[0]))
    assert level[0, 0] != level[1, 0] and 0 < level.min() <= level.max() < 1


def test_the_regimes_show_what_they_say() -> None:
    batch, seen = batch_of(wall()), {}
    for regime in REGIMES:
        net = Witness()
        loss(net, regime, batch, one_step=1.0)
        seen[regime] = net.seen[0]
    shown = patched((batch["level"] < 1).float(), PATCH) > 0
    wanted = in_units(batch, torch.from_numpy(WALL_M)[None, None])[shown]
    levels = {name: (float(each[1].max()), float(each[3].max())) for name, each in seen.items()}
    assert levels["complete"] == levels["image"] == (0, 1) and levels["lidar"] == (1, 1)
    assert levels["to_image"][1] == 0 < levels["to_image"][0] < 1
    assert 0 < levels["joint"][0] != levels["joint"][1] < 1
    for name in ("complete", "partial", "lidar"):
        assert torch.allclose(seen[name][2][shown], wanted, atol=1e-6), name
    for name in ("image", "joint"):
        assert not torch.allclose(seen[name][2][shown], wanted, atol=1e-2), "no returns are shown"
    assert torch.allclose(seen["to_image"][2][shown], wanted, atol=1e-5), "the whole map is"


def test_half_denoised_depth_is_filled_with_the_completed_map_or_with_noise() -> None:
    batch = batch_of(wall())
    completed, noisy = Witness(), Witness()
    loss(completed, "joint", batch)
    loss(noisy, "joint", batch, fill="noise")
    unknown = patched((batch["truth"] == 0).float(), PATCH) > 0
    level = float(completed.seen[0][3])
    assert torch.equal(completed.seen[0][2][~unknown], noisy.seen[0][2][~unknown])
    clean = in_units(batch, batch["filled"].exp())[unknown]
    # The same noise: x = (1 - t) clean + t noise.
    assert torch.allclose(completed.seen[0][2][unknown], (1 - level) * clean + level * noisy.seen[0][2][unknown])


def test_a_jitter_of_the_unit_moves_returns_and_truth_alike() -> None:
    batch, net = batch_of(wall()), Witness()
    loss(net, "complete", batch, unit_jitter=0.3)
    loss(net, "complete", batch)
    shown = patched((batch["level"] < 1).float(), PATCH) > 0
    jittered, plain = (each[2][shown] for each in net.seen)
    ratio = expanded(jittered) / expanded(plain)
    assert abs(float(ratio[0]) - 1) > 0.01 and torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4)
    answer = patched(contracted(torch.from_numpy(WALL_M)[None, None] / batch["unit"] * ratio[0]), PATCH)
    assert loss(Witness(answer), "complete", batch, unit_jitter=0.3) < 1e-8


def test_the_sky_is_far() -> None:
    batch = batch_of(wall(sky=True))
    metres = torch.where(batch["truth"].isinf(), torch.tensor(SKY_M), torch.from_numpy(WALL_M))
    assert loss(Witness(in_units(batch, metres)), "complete", batch) < 1e-10


def test_image_velocity_is_judged_where_images_are_generated() -> None:
    batch, net = batch_of(wall()), Witness()
    generator = torch.Generator().manual_seed(3)
    total, terms = objective().loss_of(net, batch, generator, only("to_image", image_weight=0.5))
    image, level, _, _ = net.seen[0]
    clean = Codec().encode(batch["image"].float() / 127.5 - 1)
    noise = (image - (1 - level) * clean) / level
    assert float(total) == pytest.approx(0.5 * float((noise - clean).square().mean()), rel=1e-4)
    assert list(terms) == ["to_image/image"]


class Knowing(Flux2Network):
    """A network that knows the wall up to scale, whatever it is given."""

    def forward(self, image: Tensor, *_: Any) -> Flux2Prediction:  # type: ignore[override]
        relative = torch.from_numpy(WALL_M / WALL_M.mean())[None, None].expand(len(image), -1, -1, -1)
        return Flux2Prediction(torch.zeros_like(image), patched(contracted(relative), PATCH))


def test_held_out_depth_is_made_metric_by_the_returns() -> None:
    # More than the 20 returns from which on the scale is fitted.
    batch = batch_of(wall(every=1))
    made = objective().predicted(Knowing(SIZES), batch)
    assert torch.allclose(made, (torch.from_numpy(WALL_M) / 5.0).log()[None, None], atol=1e-4)


def test_without_returns_depth_is_judged_up_to_its_scale() -> None:
    sample = wall(every=1)
    nothing = dataclasses.replace(sample, level=np.ones(SIZE, np.float32), scale=7.0)
    made = objective().predicted(Knowing(SIZES), batch_of(nothing))
    assert torch.allclose(made, (torch.from_numpy(WALL_M) / 7.0).log()[None, None], atol=1e-4)


def test_shapes_alone_are_enough_to_count_operations() -> None:
    batch = {name: value.to("meta") for name, value in batch_of(wall()).items()}
    for regime in REGIMES:
        total, _ = objective().loss_of(Witness().to("meta"), batch, torch.Generator().manual_seed(0), only(regime))
        assert total.is_meta and total.dim() == 0


def scene(height: int, width: int) -> Scene:
    """A recorded frame of a wall at 6 m, measured everywhere on every fourth row."""
    rows, cols = np.mgrid[0:height:4, 0:width:2].reshape(2, -1)
    points = np.stack([(cols - width / 2) / 80 * 6, (rows - height / 2) / 80 * 6, np.full(len(rows), 6.0)], 1)
    scan = LidarScan(points.astype(np.float32), (rows // 4).astype(np.int16), "grid", height // 4)
    K = np.array([[80, 0, width / 2], [0, 80, height / 2], [0, 0, 1]], np.float32)
    return Scene(
        np.full((3, height, width), 90, np.uint8), np.zeros((height, width), np.float32), K, (scan,), "real", 0
    )


PLAIN = SampleConfig(lines=1.0, points=0.0, block=0.0, outliers=0.0, photometric=False)


def test_a_recorded_frame_lies_on_its_canvas_as_in_the_engine() -> None:
    sample = make_flux_sample(scene(48, 128), np.random.default_rng(0), (64, 64), PLAIN)
    # Longer than twice its height: as high as the canvas, and a part of it.
    assert (sample.image == 90).all()
    sample = make_flux_sample(scene(64, 128), np.random.default_rng(0), (64, 64), PLAIN)
    assert (sample.image[:, 16:48] == 90).all() and not sample.image[:, :16].any() and not sample.image[:, 48:].any()
    assert not sample.truth[:16].any() and sample.truth[16:48].any()
    assert sample.unit == pytest.approx(6.0, rel=0.01)
    assert np.allclose(sample.filled[16:48], np.log(6), atol=0.01)


def test_the_unit_is_the_mean_of_the_whole_map_and_not_of_the_returns() -> None:
    sample = wall(every=1)
    near_ones = np.where(np.arange(SIZE[1]) < 6, sample.truth, 0)
    near_ones[:, -1] = sample.truth[:, -1]
    thinned = with_map(dataclasses.replace(sample, truth=near_ones.astype(np.float32)))
    of_returns = float(near_ones[near_ones > 0].mean())
    assert abs(thinned.unit - WALL_M.mean()) < 0.5 * abs(of_returns - WALL_M.mean())


def test_dense_truth_is_its_own_map_and_the_sky_not_part_of_its_mean() -> None:
    truth = WALL_M.copy()
    truth[0] = np.inf
    sample = with_map(dataclasses.replace(wall(), truth=truth))
    assert sample.unit == pytest.approx(float(WALL_M[1:].mean()), rel=1e-5)
    assert np.allclose(sample.filled[1:], np.log(WALL_M[1:])) and np.allclose(sample.filled[0], np.log(SKY_M))


def test_tokens_of_a_map_are_read_back() -> None:
    metres = torch.from_numpy(WALL_M)[None, None]
    assert torch.allclose(expanded(unpatched(patched(contracted(metres / 8), PATCH), (2, 3))) * 8, metres, rtol=1e-5)
