"""Check: a good bag passes, and what its messages and transforms lack is named, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checked_bags import CAMERA, HEIGHT, START, T_CAM_LIDAR, WIDTH, Bag, finding_with, report_of, wall

from mf_ros.bags.check import check
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep


def test_a_good_bag_has_no_findings(tmp_path: Path) -> None:
    report = report_of(Bag(), tmp_path)
    assert report.findings == ()
    assert not report.has_errors
    assert report.roles == {
        "/tf_static": "tf",
        "/lidar/points": "points",
        "/camera/image_raw": "image",
        "/camera/camera_info": "camera_info",
    }
    assert report.times["/lidar/points"].startswith("10.0 Hz")


def test_no_camera_info(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(camera=None), tmp_path), "no camera_info")
    assert finding.severity == "error"


def test_no_transforms_at_all(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(static_tf=None), tmp_path), "no transforms")
    assert finding.severity == "error"
    assert "/tf_static" in finding.advice


def test_transforms_that_do_not_reach_the_lidar(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("base", "camera_optical", START, np.eye(4))], static=True)
        bag.write_camera_info("/camera/camera_info", CAMERA, START, "camera_optical")
        bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, "camera_optical")
        bag.write_points("/lidar/points", LidarSweep(wall(), START, "lidar"))
    with open_recording(path) as recording:
        report = check(recording)
    finding = finding_with(report, "'lidar'")
    assert finding.severity == "error"
    assert "camera_optical" in finding.advice


def test_sweeps_without_a_single_valid_point(tmp_path: Path) -> None:
    report = report_of(Bag(points=np.full((1024, 3), np.nan, np.float32)), tmp_path)
    assert finding_with(report, "hold no valid point").severity == "error"


def test_an_image_of_another_size_than_camera_info(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(image_shape=(60, 80)), tmp_path), "80 x 60")
    assert finding.severity == "error"
    assert f"{WIDTH} x {HEIGHT}" in finding.text


def test_an_encoding_that_is_not_colour(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        bag.write_camera_info("/camera/camera_info", CAMERA, START, "camera_optical")
        bag.write_depth("/camera/image_raw", np.ones((HEIGHT, WIDTH), np.float32), START, "camera_optical")
        bag.write_points("/lidar/points", LidarSweep(wall(), START, "lidar"))
    with open_recording(path) as recording:
        report = check(recording, image="/camera/image_raw")
    assert finding_with(report, "32FC1").severity == "error"


def test_points_that_do_not_meet_the_image(tmp_path: Path) -> None:
    report = report_of(Bag(points=wall() * np.float32([-1, 1, 1])), tmp_path)
    finding = finding_with(report, "Only 0 LiDAR points fall into an image")
    assert finding.severity == "error"
    assert "REP 103" in finding.advice


def test_points_without_ring_and_time_are_noted_and_usable(tmp_path: Path) -> None:
    report = report_of(Bag(ring=False, time=False), tmp_path)
    assert not report.has_errors
    assert {finding.severity for finding in report.findings} == {"note"}
    finding_with(report, "no ring")
    finding_with(report, "no time")


def test_camera_info_in_another_frame(tmp_path: Path) -> None:
    assert finding_with(report_of(Bag(info_frame="camera_link"), tmp_path), "camera_link").severity == "warning"


def info_message(**changes: Any) -> Any:
    """A sensor_msgs/CameraInfo as rosbags makes it, with some fields replaced."""
    typesys = pytest.importorskip("rosbags.typesys")
    types = typesys.get_typestore(typesys.Stores.ROS2_JAZZY).types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](START // 10**9, 0), "camera_optical")
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    K, P = CAMERA.K.reshape(-1), np.zeros(12)
    values = {"distortion_model": "plumb_bob", "d": np.zeros(5), "k": K, "r": np.eye(3).reshape(-1), "p": P, **changes}
    return types["sensor_msgs/msg/CameraInfo"](header, HEIGHT, WIDTH, binning_x=0, binning_y=0, roi=roi, **values)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"k": np.zeros(9)}, "not calibrated"),
        ({"distortion_model": "mystery"}, "mystery"),
        ({"d": np.zeros(3)}, "plumb_bob"),
    ],
)
def test_a_camera_info_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        bag.write_raw("/camera/camera_info", info_message(**changes), START)
        bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, "camera_optical")
        bag.write_points("/lidar/points", LidarSweep(wall(), START, "lidar"))
    with open_recording(path) as recording:
        report = check(recording)
    assert finding_with(report, text).severity == "error"


def test_several_cameras_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        for name in ("left", "right"):
            bag.write_camera_info(f"/{name}/camera_info", CAMERA, START, name)
            bag.write_image(f"/{name}/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, name)
    with open_recording(path) as recording:
        finding = finding_with(check(recording), "several cameras")
    assert "/left/image_raw" in finding.text and "/right/image_raw" in finding.text
    assert "--image-topic" in finding.advice
