"""A Livox LiDAR as its driver publishes it: several lasers that draw a rosette, and no scan lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checked_bags import CAMERA, HEIGHT, MS, START, T_CAM_LIDAR, WIDTH, finding_with

from mf_ros.bags.check import check
from mf_ros.bags.evaluation_frames import bag_frames
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config
from mf_ros.core.topics import choose_topics
from mf_ros.core.transforms import StampedTransform
from mf_ros.evaluation.protocol import cases, has_lines

LASERS = 4
POINTS = 2000


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wall 8 m ahead of a Mid-360, in the layout of livox_ros_driver2 with xfer_format 0."""
    path = tmp_path_factory.mktemp("livox") / "livox.mcap"
    number = np.arange(POINTS)
    turn = 2 * np.pi * number / POINTS
    wide = np.sin(7.3 * turn)
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "livox_frame", START, T_CAM_LIDAR)], static=True)
        for sweep in range(5):
            stamp = START + 100 * sweep * MS
            columns = {
                "x": np.full(POINTS, 8, np.float32),
                "y": (4 * wide * np.cos(5 * turn)).astype(np.float32),
                "z": (3 * wide * np.sin(5 * turn)).astype(np.float32),
                "intensity": np.full(POINTS, 30, np.float32),
                "tag": np.zeros(POINTS, np.uint8),
                # The driver numbers the points of a packet by its lasers in turn.
                "line": (number % LASERS).astype(np.uint8),
                "timestamp": stamp + number * (100 * MS / POINTS),
            }
            _, cloud = bag.builder.point_columns(columns, stamp, "livox_frame")
            bag.write_raw("/livox/lidar", cloud, stamp)
            bag.write_camera_info("/camera/camera_info", CAMERA, stamp, "camera_optical")
            bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp, "camera_optical")
    return path


def test_check_notes_that_it_has_no_rings_and_finds_nothing_else(bag: Path) -> None:
    with open_recording(bag) as recording:
        report = check(recording)
    assert [finding.severity for finding in report.findings] == ["note"]
    assert "Livox, is used as it is" in finding_with(report, "the points have no ring").advice


def test_it_is_evaluated_on_a_random_half_of_its_points_for_every_number_of_lines(bag: Path) -> None:
    with open_recording(bag) as recording:
        frame = next(iter(bag_frames(recording, choose_topics(recording), Config())))
    assert frame.n_rings == 0 and not has_lines(frame)
    found = {case.input: case for case in cases(frame, (32, 16, 8))}
    assert list(found) == ["32", "16", "8"]
    shown = [len(case.shown) for case in found.values()]
    np.testing.assert_allclose(shown, [POINTS / 2, POINTS / 4, POINTS / 8], rtol=0.05)
    assert all(len(case.truth) == pytest.approx(POINTS / 2, rel=0.05) for case in found.values())
    # Nothing hides a wall.
    assert all(case.visible.mean() > 0.95 for case in found.values())
