"""Samples: which returns are shown, which supervise, and which part of a picture is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import numpy as np

from mf_ros.core.projection import project_points, to_sparse_depth
from mf_training.samples import Sample, SampleConfig, make_sample
from mf_training.scenes.types import LidarScan, Scene

SIZE = (64, 128)
SCAN_LINES = SampleConfig(lines=1.0, points=0.0, block=0.0, outliers=0.0, ghosts=1.0, photometric=False)
SPOILT = SampleConfig(lines=1.0, points=0.0, block=0.0, outliers=1.0, ghosts=1.0, photometric=False)


def slanted_wall(dense: bool, first_column: int = 0) -> Scene:
    """A wall from 4 m at the left to 8 m at the right, measured at every second pixel from a column on."""
    depth = np.tile(np.geomspace(4, 8, SIZE[1], dtype=np.float32), (SIZE[0], 1))
    rows, cols = np.mgrid[0 : SIZE[0] : 2, first_column : SIZE[1] : 2].reshape(2, -1)
    z = depth[rows, cols]
    points = np.stack([(cols - 63.5) / 80 * z, (rows - 31.5) / 80 * z, z], 1).astype(np.float32)
    K = np.array([[80, 0, 63.5], [0, 80, 31.5], [0, 0, 1]], np.float32)
    scan = LidarScan(points, (rows // 2).astype(np.int16), "grid", 32)
    image = np.full((3, *SIZE), 90, np.uint8)
    return Scene(image, depth if dense else np.zeros_like(depth), K, (scan,), "wall", 0)


def samples(scene: Scene, shape: tuple[int, int], config: SampleConfig, count: int) -> list[Sample]:
    return [make_sample(scene, np.random.default_rng(seed), shape, config) for seed in range(count)]


@pytest.mark.parametrize("dense", [True, False], ids=["dense truth", "sparse truth"])
def test_returns_shown_at_a_wrong_depth_supervise_fully_with_the_right_one(dense: bool) -> None:
    wrong_ones = 0
    for sample in samples(slanted_wall(dense), SIZE, SPOILT, 12):
        shown = sample.level == 0
        error = np.abs(sample.depth - np.log(np.where(shown, sample.truth, 1) / sample.scale))
        wrong, right = shown & (error > 0.1), shown & (error < 1e-4)
        wrong_ones += int(wrong.sum())
        assert (sample.weight[wrong] == 1).all()
        assert (sample.weight[right] < 0.2).mean() > 0.95, "some draws replace a depth by one that is almost the same"
    assert wrong_ones > 20


def test_what_is_shown_lies_on_the_pixels_on_which_the_robot_puts_it() -> None:
    """Returns in the outermost hundredth of a pixel among them, which rounding may push over the border."""
    u, v = (each.reshape(-1) for each in np.meshgrid([-0.496, 1.2, 50.3, 127.496], [-0.496, 31.7, 63.496]))
    points = np.stack([(u - 63.5) / 80 * 6, (v - 31.5) / 80 * 6, np.full(12, 6.0)], 1).astype(np.float32)
    scene = replace(slanted_wall(dense=False), scans=(LidarScan(points, np.zeros(12, np.int16), "grid", 1),))
    scene.image[..., 0] = 0
    wanted = to_sparse_depth(project_points(scene.scans[0].as_points(), scene.camera()), scene.camera()).depth > 0
    seen = np.zeros(SIZE, bool)
    for sample in samples(scene, SIZE, SCAN_LINES, 20):
        seen |= (sample.level == 0)[:, :: 1 if sample.image[0, 0, 0] == 0 else -1]
    assert np.count_nonzero(wanted) == 12 and np.array_equal(seen, wanted)


def test_windows_that_show_no_return_of_the_picture_are_drawn_again() -> None:
    """Returns cover the last quarter of the picture; two of three single draws would show none."""
    scene = slanted_wall(dense=True, first_column=96)
    drawn = samples(scene, (32, 32), SCAN_LINES, 40)
    assert np.mean([(sample.level == 0).any() for sample in drawn]) > 0.8


def test_a_window_without_returns_has_no_prior_from_beyond_it_and_the_scale_of_the_truth() -> None:
    scene = slanted_wall(dense=True, first_column=126)
    without = [each for each in samples(scene, (32, 32), SCAN_LINES, 60) if (each.level == 1).all()]
    assert without, "two columns of returns are missed now and then"
    for sample in without:
        assert not sample.prior.any() and not sample.depth.any()
        assert sample.scale == pytest.approx(np.median(scene.depth))


def test_the_scale_is_that_of_the_whole_picture_in_every_window() -> None:
    scene = slanted_wall(dense=True)
    drawn = samples(scene, (32, 32), SCAN_LINES, 20)
    assert np.ptp([np.median(sample.truth) for sample in drawn]) > 1, "windows lie at different depths"
    for sample in drawn:
        assert sample.scale == pytest.approx(np.median(scene.depth), abs=0.3)
