"""A bag made from a real drive goes through ``check`` and ``replay``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mf_ros.bags.writer import McapWriter
from mf_ros.cli.main import main
from mf_ros.core.camera import make_camera
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep

pytestmark = pytest.mark.real

FRAMES = 12
START_NS = 1_317_000_000_000_000_000


@pytest.fixture(scope="module")
def drive(real_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Camera and 64-ring LiDAR of a traffic jam, 10 Hz, as a compressed-image MCAP."""
    source = real_frames / "kitti_sequence"
    calibration = json.loads((source / "calib.json").read_text())
    camera = make_camera(calibration["width"], calibration["height"], np.ravel(calibration["K"]), [], "plumb_bob")
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    with McapWriter(path) as writer:
        extrinsics = StampedTransform("camera", "velodyne", START_NS, np.array(calibration["T_cam_lidar"]))
        writer.write_tf([extrinsics], static=True)
        for number in range(FRAMES):
            stamp = START_NS + number * 100_000_000
            sweep = np.load(source / f"{number:04d}.npz")
            points = (sweep["xyz_mm"] / 1000).astype(np.float32)
            writer.write_camera_info("/camera/camera_info", camera, stamp, "camera")
            jpeg = (source / f"{number:04d}.jpg").read_bytes()
            writer.write_compressed_image("/camera/image_raw/compressed", jpeg, stamp, "camera")
            writer.write_points("/points", LidarSweep(points, stamp, "velodyne", ring=sweep["ring"].astype(np.int32)))
    return path


def test_check_finds_nothing_wrong(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(drive), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_every_frame_becomes_depth_that_is_right_between_the_rings(drive: Path, tmp_path: Path) -> None:
    assert main(["replay", str(drive), "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["frames_in"] == summary["frames_out"] == FRAMES
    assert summary["dropped"] == {}
    assert summary["accuracy"]["median"] < 0.1
    assert summary["accuracy"]["mae"] < 0.8
    assert (tmp_path / "report.html").stat().st_size > 100_000
