"""What replay keeps of single frames: accuracy on returns that the engine was not shown, and samples for the report."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from replayed import POINTS, record, run
from wall_scene import MedianEngine, stamp

from mf_ros.bags.samples import Sample, SampleKeeper
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import make_camera
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep


def test_accuracy_is_that_of_the_engine_on_the_rings_it_was_not_shown(tmp_path):
    class TooFar(MedianEngine):
        def estimate(self, *args: Any) -> Any:
            estimate = super().estimate(*args)
            return dataclasses.replace(estimate, depth=estimate.depth * np.float32(1.1))

    engine = TooFar()
    report = run(record(tmp_path / "in.mcap"), tmp_path / "out", engine, accuracy_every=1)
    accuracy = report.summary["accuracy"]
    assert accuracy["held_out"] == "even rings" and accuracy["frames"] == 6
    # The wall is at 5 m and the engine 10% too far; LiDAR points are float32.
    assert accuracy["mae"] == pytest.approx(0.5, abs=1e-4)
    assert accuracy["rmse"] == pytest.approx(0.5, abs=1e-4)
    assert accuracy["absrel"] == pytest.approx(0.1, abs=1e-5)
    assert engine.calls == 12


def test_accuracy_can_be_switched_off(tmp_path):
    engine = MedianEngine()
    report = run(record(tmp_path / "in.mcap"), tmp_path / "out", engine, accuracy_every=0)
    assert report.summary["accuracy"] is None
    assert engine.calls == 6


def test_a_lidar_without_rings_holds_out_a_random_half(tmp_path):
    report = run(record(tmp_path / "in.mcap", rings=False), tmp_path / "out", accuracy_every=1)
    assert report.summary["accuracy"]["held_out"] == "a random half of the returns"
    assert report.summary["accuracy"]["mae"] == pytest.approx(0, abs=1e-4)


def test_accuracy_says_how_many_judged_returns_lie_on_published_depth(tmp_path):
    class Unsure(MedianEngine):
        def estimate(self, *args: Any) -> Any:
            estimate = super().estimate(*args)
            estimate.confidence[:, :32] = 0.001  # below output.min_confidence
            return estimate

    accuracy = run(record(tmp_path / "in.mcap"), tmp_path / "out", Unsure(), accuracy_every=1).summary["accuracy"]
    assert accuracy["coverage"] == 1.0, "the errors are of all estimates"
    # The wall fills the image from side to side, so half of the returns lie left of the middle, give or take a column.
    assert accuracy["published"] == pytest.approx(0.5, abs=0.05)


def test_samples_hold_what_a_report_shows(tmp_path):
    report = run(record(tmp_path / "in.mcap", frames=30), tmp_path / "out", accuracy_every=10)
    assert len(report.samples) == 8
    sample = report.samples[0]
    assert sample.image.shape == (48, 64, 3) and sample.image.dtype == np.uint8
    assert sample.depth.shape == sample.sparse.shape == sample.confidence.shape == (48, 64)
    assert len(sample.error_uv) == len(sample.error_m) == len(sample.truth_m) > 50
    np.testing.assert_allclose(sample.error_m, 0, atol=1e-4)
    assert sample.metrics["mae"] == pytest.approx(0, abs=1e-4)


@pytest.mark.real
def test_real_frames_go_through_with_most_of_the_scene_covered(tmp_path, real_frames):
    folder = real_frames / "kitti_sequence"
    calib = json.loads((folder / "calib.json").read_text())
    camera = make_camera(calib["width"], calib["height"], calib["K"], calib["dist"], "plumb_bob")
    bag = tmp_path / "kitti.mcap"
    with McapWriter(bag) as writer:
        writer.write_tf([StampedTransform("camera", "velodyne", 0, np.array(calib["T_cam_lidar"]))], static=True)
        for number, path in enumerate(sorted(folder.glob("*.npz"))[:3]):
            data = np.load(path)
            points = (data["xyz_mm"] / 1000).astype(np.float32)
            sweep = LidarSweep(points, stamp(number), "velodyne", ring=data["ring"].astype(np.int32))
            writer.write_points(POINTS, sweep)
            writer.write_camera_info("/camera/image_raw/camera_info", camera, stamp(number), "camera")
            jpeg = path.with_suffix(".jpg").read_bytes()
            writer.write_compressed_image("/camera/image_raw/compressed", jpeg, stamp(number), "camera")
    report = run(bag, tmp_path / "out", accuracy_every=1)
    assert (report.summary["frames_out"], report.summary["dropped"]) == (3, {})
    for sample in report.samples:
        # A 64-line sweep gives this camera about 19000 returns; fewer pixels are left after culling and shrinking.
        assert 8_000 < np.count_nonzero(sample.sparse) < 25_000
        assert len(sample.error_uv) > 3_000
        assert sample.image.shape[1] == 960


def empty_sample(number: int) -> Sample:
    image, depth, none = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.float32), np.zeros(0, np.float32)
    return Sample(number, 0, image, depth, depth, depth, np.zeros((0, 2), np.float32), none, none, {}, {}, (1, 1))


@pytest.mark.parametrize("frames", [1, 5, 8, 9, 15, 16, 17, 100, 5000])
def test_samples_are_few_and_evenly_spread_however_long_the_run(frames):
    keeper = SampleKeeper(8)
    most = 0
    for number in range(frames):
        if keeper.wants(number):
            keeper.keep(empty_sample(number))
        most = max(most, len(keeper._kept))
    numbers = [sample.number for sample in keeper.samples()]
    assert most < 16
    assert len(numbers) == min(frames, 8)
    assert numbers[0] == 0 and numbers[-1] >= frames * 3 // 4
    gaps = np.diff(numbers)
    # Every 2nd of 15 kept frames cannot be hit exactly: one gap may be twice another.
    assert len(gaps) == 0 or gaps.max() <= 2 * gaps.min()
