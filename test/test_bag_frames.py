"""Frames for evaluation out of a recording: the pipeline's own pairing, evenly spread over the bag."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mf_ros.bags.evaluation_frames import bag_frames
from mf_ros.bags.reader import open_recording
from mf_ros.bags.replay import replay
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import make_camera
from mf_ros.core.colours import colour_depth
from mf_ros.core.config import Config
from mf_ros.core.topics import choose_topics
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import BagError
from mf_ros.evaluation.frames import EvaluationFrame

START = 1_700_000_000 * 10**9
STEP = 10**8
CAMERA = make_camera(32, 24, [30.0, 0, 15.5, 0, 30.0, 11.5, 0, 0, 1], [], "")
T_CAM_LIDAR = np.array([[1.0, 0, 0, 0.2], [0, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 1]])
POINTS = np.array([[0.0, 0, 5], [1, 0, 6], [0, 1, 7]], np.float32)


def frames_of(folder: Path, max_frames: int = 20, lidar_late_ns: int = 0) -> list[EvaluationFrame]:
    path = folder / "drive.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera", "lidar", START, T_CAM_LIDAR)], static=True)
        for number in range(12):
            stamp = START + number * STEP
            bag.write_camera_info("/camera/camera_info", CAMERA, stamp, "camera")
            bag.write_image("/camera/image_raw", np.full((24, 32, 3), number, np.uint8), stamp, "camera")
            sweep = LidarSweep(POINTS, stamp + lidar_late_ns, "lidar", ring=np.array([0, 1, 7], np.int32))
            bag.write_points("/points", sweep, log_ns=stamp)
    with open_recording(path) as recording:
        return list(bag_frames(recording, choose_topics(recording), Config(), max_frames=max_frames))


def test_all_frames_of_a_short_bag_with_points_in_the_camera(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    assert len(frames) == 12
    assert frames[3].source == "drive.mcap"
    assert frames[3].n_rings == 8
    assert (frames[3].image == 3).all()
    assert frames[3].points is not None
    # The transform moves every point by (0.2, 0, 0.5); float32 keeps that to a micrometre here.
    np.testing.assert_allclose(frames[3].points.points, POINTS + np.array([0.2, 0, 0.5]), atol=1e-5)


def test_a_long_bag_is_thinned_evenly(tmp_path: Path) -> None:
    frames = frames_of(tmp_path, max_frames=4)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 3, 6, 9]


def test_a_bag_whose_clocks_differ_says_why_it_gives_nothing(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"drive.mcap gives no frame to evaluate: .*sweep"):
        frames_of(tmp_path, lidar_late_ns=3600 * 10**9)


def test_images_that_give_no_frame_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "drive.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera", "lidar", START, T_CAM_LIDAR)], static=True)
        bag.write_camera_info("/camera/camera_info", CAMERA, START, "camera")
        for number in range(12):
            stamp = START + number * STEP
            bag.write_image("/camera/image_raw", np.full((24, 32, 3), number, np.uint8), stamp, "camera")
            if number < 9:
                bag.write_points("/points", LidarSweep(POINTS, stamp, "lidar"))
    with open_recording(path) as recording:
        frames = list(bag_frames(recording, choose_topics(recording), Config()))
    assert len(frames) == 9
    (record,) = caplog.records
    assert record.getMessage().startswith("3 of 12 images give no frame: 3 no_lidar: ")


def test_evaluation_and_replay_use_the_same_images(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    with McapWriter(path) as bag:
        bag.write_camera_info("/camera/camera_info", CAMERA, START, "camera")
        for number in range(300):
            # 200 Hz, with sweeps logged 0.8 s late: more images wait than the default queue holds.
            stamp = START + number * STEP // 20
            bag.write_image("/camera/image_raw", np.zeros((24, 32, 3), np.uint8), stamp, "camera")
            sweep = LidarSweep(POINTS, stamp - 8 * STEP, "lidar")
            if number >= 160 and number % 20 == 0:
                bag.write_points("/points", sweep, log_ns=stamp)
        for number in range(7, 17):
            bag.write_points("/points", LidarSweep(POINTS, START + number * STEP, "lidar"), log_ns=START + 20 * STEP)
        bag.write_tf([StampedTransform("camera", "lidar", START, T_CAM_LIDAR)], static=True, log_ns=START + 150 * STEP)
    with open_recording(path) as recording:
        topics = choose_topics(recording)
        frames = list(bag_frames(recording, topics, Config(), max_frames=300))
        summary = replay(recording, topics, Config(), tmp_path / "out", ClassicalEngine(), accuracy_every=0).summary
    assert len(frames) == summary["frames_out"] == 300


def test_depth_is_coloured_by_distance_and_black_where_unknown() -> None:
    depth = np.array([[2.0, 80.0], [np.nan, np.inf]], np.float32)
    colours = colour_depth(depth)
    near, far = colours[0].astype(int)
    assert near[0] > near[2]  # red near
    assert far[2] > far[0]  # blue far
    assert not colours[1].any()
