"""Restyled pictures: other colours and light over the same returns and the same truth, for rendered scenes only."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import numpy as np

from mf_training.restyle import restyled
from mf_training.samples import Sample, SampleConfig, make_sample
from mf_training.scenes.types import LidarScan, Scene

SIZE = (48, 64)
PLAIN = SampleConfig(lines=1.0, points=0.0, block=0.0, outliers=0.0, photometric=False)


def box_before_a_wall(dense: bool = True) -> Scene:
    depth = np.full(SIZE, 8, np.float32)
    depth[16:40, 20:44] = 4
    rows, cols = np.mgrid[0 : SIZE[0] : 4, 0 : SIZE[1] : 2].reshape(2, -1)
    z = depth[rows, cols]
    points = np.stack([(cols - 31.5) / 60 * z, (rows - 23.5) / 60 * z, z], 1).astype(np.float32)
    K = np.array([[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]], np.float32)
    image = np.where(depth == 4, 200, 60).astype(np.uint8)[None].repeat(3, 0)
    scan = LidarScan(points, (rows // 4).astype(np.int16), "grid", 12)
    return Scene(image, depth if dense else np.zeros_like(depth), K, (scan,), "box", 0)


def drawn(scene: Scene, config: SampleConfig, seed: int = 0) -> Sample:
    return make_sample(scene, np.random.default_rng(seed), SIZE, config)


def test_only_the_picture_of_a_sample_changes() -> None:
    plain, other = drawn(box_before_a_wall(), PLAIN), drawn(box_before_a_wall(), replace(PLAIN, restyled=1.0))
    assert not np.array_equal(plain.image, other.image)
    for name in (field.name for field in fields(plain) if field.name != "image"):
        assert np.array_equal(getattr(plain, name), getattr(other, name)), name


def test_recorded_frames_keep_their_looks() -> None:
    recorded = box_before_a_wall(dense=False)
    for seed in range(5):
        assert np.array_equal(
            drawn(recorded, PLAIN, seed).image, drawn(recorded, replace(PLAIN, restyled=1.0), seed).image
        )


def test_the_share_of_restyled_pictures_is_as_asked_for() -> None:
    config, scene = replace(PLAIN, restyled=0.4), box_before_a_wall()
    changed = [not np.array_equal(drawn(scene, config, n).image, drawn(scene, PLAIN, n).image) for n in range(200)]
    assert 0.3 < np.mean(changed) < 0.5


def test_an_edge_of_depth_stays_an_edge_of_the_picture_while_colours_become_anything() -> None:
    image = box_before_a_wall().image
    pictures = [restyled(image, np.random.default_rng(seed)).astype(float) for seed in range(60)]
    steps = [np.abs(each[:, 20:36, 19] - each[:, 20:36, 20]).mean() for each in pictures]
    assert np.median(steps) > 40 and np.mean(np.array(steps) < 5) < 0.2
    brighter_box = [each[:, 20:36, 24:40].mean() > each[:, 4:12].mean() for each in pictures]
    assert 0.05 < 1 - np.mean(brighter_box) < 0.5, "some pictures are turned into their negative"
    channels = np.array([each.mean((1, 2)) for each in pictures])
    assert np.ptp(channels, axis=1).max() > 40, "a grey picture gets colours"


def test_the_same_draws_make_the_same_picture_of_the_same_size() -> None:
    image = np.random.default_rng(3).integers(0, 256, (3, 33, 50), np.uint8)
    first, second = (restyled(image, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8 and np.array_equal(first, second)
