"""The pipeline: what waits for what, what comes out, and that nothing is lost."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pipeline_runs import make_pipeline, odometry, only_drop, run, started
from wall_scene import (
    CAMERA,
    CAMERA_FRAME,
    FRAME_NS,
    WALL_M,
    MedianEngine,
    camera_info,
    cloud,
    extrinsics,
    image,
    stamp,
    tf,
    wall,
)

from mf_ros.core.camera import make_camera
from mf_ros.core.config import Config, LidarConfig, OutputConfig, SyncConfig
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import DepthEstimate
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.errors import ConfigError


def test_an_image_with_its_sweep_becomes_depth_with_the_images_own_stamp_and_frame():
    pipeline = started()
    pipeline.on_sweep(0, cloud(0.1))
    pipeline.on_image(image(0))
    (result,) = run(pipeline)
    assert (result.frame.stamp_ns, result.frame.frame_id) == (stamp(0), CAMERA_FRAME)
    np.testing.assert_allclose(result.estimate.depth, WALL_M, rtol=1e-6)
    assert result.dt_ns == (FRAME_NS // 10,)
    assert result.sparse.count > 100
    assert (pipeline.frames_in, pipeline.frames_out, pipeline.dropped.total) == (1, 1, 0)


def test_every_stage_is_timed():
    pipeline = started()
    pipeline.on_sweep(0, cloud())
    pipeline.on_image(image())
    (result,) = run(pipeline)
    stages = ["decode_points", "decode_image", "prepare", "to_camera", "project", "estimate"]
    assert list(result.timings_ms) == [*stages, "total"]
    assert result.timings_ms["total"] == pytest.approx(sum(result.timings_ms[stage] for stage in stages))
    assert set(pipeline.latency.summary()) == set(result.timings_ms)


def test_off_line_every_set_comes_in_order():
    pipeline = started()
    for number in range(5):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    assert [result.frame.stamp_ns for result in run(pipeline)] == [stamp(number) for number in range(5)]


def test_live_only_the_newest_set_is_taken_and_older_ones_are_stale():
    pipeline = started()
    for number in range(5):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    (newest,) = pipeline.ready(flush=True, latest=True)
    assert newest.image.stamp_ns == stamp(4)
    assert pipeline.dropped.counts == {"stale": 4}


def test_a_dropped_image_is_never_decoded(monkeypatch):
    decoded = []
    monkeypatch.setattr("mf_ros.core.messages.decode_image", lambda message: decoded.append(message))
    pipeline = started()
    for number in range(3):
        pipeline.on_image(image(number))
    assert run(pipeline) == []
    assert decoded == []


def test_a_sweep_that_serves_two_images_is_decoded_once(monkeypatch):
    from mf_ros.core import messages

    decode, count = messages.decode_cloud, []
    monkeypatch.setattr(messages, "decode_cloud", lambda *a, **k: count.append(1) or decode(*a, **k))
    pipeline = started()
    pipeline.on_sweep(0, cloud(0))
    pipeline.on_image(image(0))
    pipeline.on_image(image(0.4))
    assert len(run(pipeline)) == 2
    assert len(count) == 1


def test_a_late_sweep_is_waited_for():
    pipeline = started()
    pipeline.on_image(image(0))
    assert pipeline.ready() == []
    assert pipeline.waiting == 1
    pipeline.on_sweep(0, cloud(0))
    assert len(run(pipeline, flush=False)) == 1


def test_late_extrinsics_are_waited_for_and_then_given_up():
    pipeline = make_pipeline()
    for number in range(2):
        pipeline.on_camera_info(camera_info(number))
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    assert pipeline.ready() == []
    pipeline.on_transforms(tf(extrinsics()), static=True)
    assert len(run(pipeline, flush=False)) == 2


def test_waiting_for_a_transform_ends_after_max_wait_of_stamp_time():
    pipeline = make_pipeline(Config(sync=SyncConfig(max_wait_s=0.2)))
    pipeline.on_camera_info(camera_info())
    for number in range(4):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    assert run(pipeline, flush=False) == []
    # Images 0 and 1 are 0.2 s or more older than image 3.
    assert pipeline.dropped.counts == {"no_transform": 2}
    assert pipeline.waiting == 2


def test_motion_that_is_not_known_yet_is_waited_for():
    pipeline = started()
    odom = StampedTransform("odom", CAMERA_FRAME, stamp(-1), np.eye(4))
    pipeline.on_transforms([odom], static=False)
    pipeline.on_sweep(0, cloud(0, timed=True))
    pipeline.on_image(image(0))
    assert pipeline.ready() == []
    pipeline.on_transforms([dataclasses.replace(odom, stamp_ns=stamp(2))], static=False)
    assert len(run(pipeline, flush=False)) == 1
    assert pipeline.warnings.counts == {}


def test_unknown_motion_is_reported_but_costs_no_image():
    pipeline = started()
    pipeline.on_sweep(0, cloud(0, timed=True))
    pipeline.on_image(image(0))
    assert len(run(pipeline)) == 1
    assert pipeline.warnings.counts == {"not_deskewed": 1}


def test_switching_motion_compensation_off_is_not_reported():
    pipeline = started(Config(lidar=LidarConfig(deskew=False)))
    pipeline.on_sweep(0, cloud(0, timed=True))
    pipeline.on_image(image(0))
    assert len(run(pipeline)) == 1
    assert pipeline.warnings.counts == {}


def test_two_lidars_are_merged():
    pipeline = started(lidars=2)
    right = dataclasses.replace(extrinsics("lidar_right"))
    pipeline.on_transforms(tf(right), static=True)
    pipeline.on_sweep(0, cloud(0, shift_m=1.0))
    pipeline.on_sweep(1, cloud(0.2, frame_id="lidar_right", shift_m=-1.0))
    pipeline.on_image(image(0))
    (result,) = run(pipeline)
    assert set(np.unique(result.points.sensor)) == {0, 1}
    assert result.dt_ns == (0, FRAME_NS // 5)
    assert pipeline.warnings.counts == {}


def test_one_of_two_lidars_is_enough_and_the_other_is_reported():
    pipeline = started(lidars=2)
    pipeline.on_sweep(0, cloud(0))
    pipeline.on_image(image(0))
    (result,) = run(pipeline)
    assert set(np.unique(result.points.sensor)) == {0}
    assert pipeline.warnings.counts == {"partial_lidar": 1}
    assert "LiDAR 1" in pipeline.warnings.texts["partial_lidar"]


def test_the_transform_of_one_of_two_lidars_missing_drops_the_image():
    pipeline = started(lidars=2)
    pipeline.on_sweep(0, cloud(0))
    pipeline.on_sweep(1, cloud(0, frame_id="lidar_right"))
    pipeline.on_image(image(0))
    assert run(pipeline) == []
    assert only_drop(pipeline) == "no_transform"
    assert "lidar_right" in pipeline.dropped.texts["no_transform"]


def test_the_offset_of_a_lidars_clock_is_applied_to_pairing_and_to_the_sweep():
    pipeline = started(Config(sync=SyncConfig(lidar_offset_s=(1.0,))))
    pipeline.on_sweep(0, cloud(-10))
    pipeline.on_image(image(0))
    (frame_set,) = pipeline.ready(flush=True)
    assert frame_set.dt_ns == (0,)
    assert frame_set.sweeps[0].sweep().stamp_ns == stamp(0)


def test_offsets_that_do_not_fit_the_number_of_lidars_are_refused():
    with pytest.raises(ConfigError, match="lidar_offset_s"):
        make_pipeline(Config(sync=SyncConfig(lidar_offset_s=(0.0, 0.1, 0.2))), lidars=2)


def test_scaled_output_comes_with_the_camera_to_match():
    pipeline = started(Config(output=OutputConfig(scale=0.5)))
    pipeline.on_sweep(0, cloud())
    pipeline.on_image(image())
    (result,) = run(pipeline)
    assert result.frame.image.shape == (24, 32, 3)
    assert result.estimate.depth.shape == (24, 32)
    expected = CAMERA.resized(32, 24)
    np.testing.assert_allclose(result.frame.camera.K, expected.K)


def test_rectified_output_has_no_distortion():
    bent = make_camera(64, 48, CAMERA.K, [-0.2, 0.05, 0, 0, 0], "plumb_bob")
    pipeline = make_pipeline(Config(output=OutputConfig(rectify=True)))
    pipeline.on_camera_info(camera_info(camera=bent))
    pipeline.on_transforms(tf(extrinsics()), static=True)
    pipeline.on_sweep(0, cloud())
    pipeline.on_image(image())
    (result,) = run(pipeline)
    assert bent.has_distortion and not result.frame.camera.has_distortion


def test_the_camera_stays_one_object_so_that_its_rays_are_computed_once():
    pipeline = started()
    for number in range(2):
        pipeline.on_camera_info(camera_info(number))
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    first, second = run(pipeline)
    assert first.frame.camera is second.frame.camera


def test_calibration_of_the_images_own_stamp_is_used():
    pipeline = started()
    zoomed = make_camera(64, 48, [100.0, 0, 31.5, 0, 100.0, 23.5, 0, 0, 1], [], "plumb_bob")
    pipeline.on_camera_info(camera_info(1, camera=zoomed))
    for number in range(2):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    assert [result.frame.camera.K[0, 0] for result in run(pipeline)] == [50.0, 100.0]


def test_images_that_wait_without_end_are_bounded_and_counted():
    pipeline = make_pipeline(Config(sync=SyncConfig(queue_size=5, max_wait_s=60.0)))
    for number in range(20):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    assert pipeline.ready() == []
    assert pipeline.waiting <= 10
    assert pipeline.frames_in == pipeline.waiting + pipeline.dropped.total


def test_motion_between_an_untimed_sweep_and_the_image_is_waited_for_and_else_reported():
    pipeline = started()
    pipeline.on_transforms([odometry(-1)], static=False)
    for number in range(2):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    assert pipeline.ready() == []
    pipeline.on_transforms([odometry(0.5)], static=False)
    assert len(run(pipeline, flush=False)) == 1
    assert pipeline.warnings.counts == {}
    assert len(run(pipeline)) == 1
    assert pipeline.warnings.counts == {"not_deskewed": 1}


def zoomed(number: int) -> Any:
    """Calibration of a camera that zooms: the focal length tells the number of the image."""
    K = [50.0 + number, 0, 31.5, 0, 50.0 + number, 23.5, 0, 0, 1]
    return camera_info(number, camera=make_camera(64, 48, K, [], "plumb_bob"))


@pytest.mark.parametrize("late", [1, 2, 5])
def test_calibration_that_comes_after_its_image_is_waited_for(late: int):
    pipeline = make_pipeline(Config(sync=SyncConfig(max_wait_s=1.0)))
    pipeline.on_transforms(tf(extrinsics()), static=True)
    results = []
    for number in range(20):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
        results += run(pipeline, flush=False)
        if number >= late:
            pipeline.on_camera_info(zoomed(number - late))
        results += run(pipeline, flush=False)
    assert [result.frame.camera.K[0, 0] - 50.0 for result in results] == list(range(20 - late))
    # At the end of the data the nearest must do.
    assert {result.frame.camera.K[0, 0] - 50.0 for result in run(pipeline)} == {19.0 - late}


@pytest.mark.parametrize("every", [1000, 10])
def test_calibration_published_once_or_rarely_is_not_waited_for(every: int):
    pipeline = started()
    waits = 0
    for number in range(40):
        if number % every == 0:
            pipeline.on_camera_info(camera_info(number))
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
        waits += len(run(pipeline, flush=False)) == 0
    # Only right after the first may an image wait for one of its own.
    assert waits <= 2
    assert pipeline.frames_out == 40


def test_without_a_calibration_of_its_own_stamp_an_image_uses_the_nearest_and_not_the_last():
    pipeline = make_pipeline()
    pipeline.on_transforms(tf(extrinsics()), static=True)
    for number in (20, 0):
        pipeline.on_camera_info(zoomed(number))
    pipeline.on_sweep(0, cloud(17))
    pipeline.on_image(image(17))
    (result,) = run(pipeline)
    assert result.frame.camera.K[0, 0] == 70.0


def test_a_worker_slower_than_the_camera_gets_the_newest_image_and_the_rest_is_stale():
    pipeline = started(Config(sync=SyncConfig(queue_size=5)))
    for number in range(50):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    (newest,) = pipeline.ready(latest=True)
    assert newest.image.stamp_ns == stamp(49)
    assert pipeline.dropped.counts == {"stale": 49}
    assert pipeline.waiting == 0


def test_depth_that_is_no_more_than_a_guess_is_published_as_invalid():
    class Unsure(MedianEngine):
        def estimate(self, image: np.ndarray, sparse: Any, camera: Any) -> DepthEstimate:
            estimate = super().estimate(image, sparse, camera)
            estimate.confidence[:10] = 0.01
            return estimate

    pipeline = DepthPipeline(Config(), Unsure())
    pipeline.on_camera_info(camera_info())
    pipeline.on_transforms(tf(extrinsics()), static=True)
    pipeline.on_sweep(0, wall(0))
    pipeline.on_image(image(0))
    (result,) = run(pipeline)
    assert np.isnan(result.estimate.depth[:10]).all() and not result.estimate.confidence[:10].any()
    assert np.isfinite(result.estimate.depth[10:]).all()
