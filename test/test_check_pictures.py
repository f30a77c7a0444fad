"""Check's pictures: LiDAR points lie on the image where they are, nearer ones over farther ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from checked_bags import CAMERA, HEIGHT, MS, START, T_CAM_LIDAR, WIDTH, Bag, finding_with, report_of, wall

from mf_ros.bags.check_samples import Samples
from mf_ros.bags.overlay import draw_returns
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config, LidarConfig, SyncConfig
from mf_ros.core.projection import ProjectedReturns
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep


def test_the_picture_shows_the_points_where_they_are(tmp_path: Path) -> None:
    report = report_of(Bag(), tmp_path, out=tmp_path / "pictures")
    assert report.pictures
    picture = cv2.imread(str(report.pictures[0]))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    # The wall covers about ±0.4 of the focal length vertically, so dots lie in the middle and none at the top.
    dimmed = np.full(3, int(90 * 0.6))
    assert (picture[40:80] != dimmed).any()
    assert (picture[:10] == dimmed).all()


def returns_at(*z: float, visible: bool = True) -> ProjectedReturns:
    """Returns at pixel (20, 20), one behind the other."""
    uv = np.full((len(z), 2), 20, np.float32)
    return ProjectedReturns(
        uv, np.array(z, np.float32), np.arange(len(z)), np.full(len(z), visible), np.full(len(z), False)
    )


def test_nearer_points_are_drawn_over_farther_ones() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    np.testing.assert_array_equal(draw_returns(image, returns_at(3.0, 70.0)), draw_returns(image, returns_at(3.0)))
    assert (draw_returns(image, returns_at(70.0)) != draw_returns(image, returns_at(3.0))).any()


def test_no_dot_covers_the_middle_of_a_nearer_one_beside_it() -> None:
    near = returns_at(3.0)
    beside = ProjectedReturns.unmarked(np.array([[20, 20], [19, 20], [20, 19]], np.float32), np.float32([3, 70, 70]))
    image = np.zeros((40, 40, 3), np.uint8)
    assert np.array_equal(draw_returns(image, beside)[20, 20], draw_returns(image, near)[20, 20])


def test_hidden_points_are_not_drawn() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    assert not draw_returns(image, returns_at(3.0, visible=False)).any()


def test_pictures_are_drawn_with_the_offset_and_the_range_of_the_settings(tmp_path: Path) -> None:
    near = Config(lidar=LidarConfig(max_range_m=5.0))
    assert finding_with(report_of(Bag(), tmp_path, config=near), "Only 0 LiDAR points fall into an image")
    # The wall comes nearer by 10 cm per sweep; only with the offset the sweep of the image's own time is drawn.
    path = tmp_path / "moving.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        for number in range(20):
            stamp = START + 100 * number * MS
            bag.write_camera_info("/camera/camera_info", CAMERA, stamp, "camera_optical")
            bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp, "camera_optical")
            points = wall() - np.float32([0.1 * number, 0, 0])
            bag.write_points("/lidar/points", LidarSweep(points, stamp + 300 * MS, "lidar"), log_ns=stamp)
    roles = {"/lidar/points": "points", "/camera/image_raw": "image"}
    with open_recording(path) as recording:
        samples = Samples(recording, roles, ["/lidar/points"], Config(sync=SyncConfig(lidar_offset_s=(-0.3,))))
        samples.read(None)
    assert len(samples.images) == 8
    for image in samples.images:
        nearest = image.nearest["/lidar/points"]
        assert nearest.stamp_ns == image.stamp_ns
        assert nearest.points[0, 0] == pytest.approx(8.0 - (image.stamp_ns - START) / 1e9, abs=1e-4)
