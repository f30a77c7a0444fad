"""For the tests of check: bags with one fault each, and findings by their text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mf_ros.bags.check import CheckReport, check
from mf_ros.bags.reader import open_recording
from mf_ros.bags.window import RecordingWindow
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.findings import Finding

START = 1_700_000_000 * 10**9
MS = 10**6
WIDTH, HEIGHT = 160, 120
CAMERA = make_camera(WIDTH, HEIGHT, [100.0, 0, 79.5, 0, 100.0, 59.5, 0, 0, 1], [], "plumb_bob")
# The LiDAR's x forward, y left, z up in the camera's x right, y down, z forward (REP 103), 10 cm above it.
T_CAM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, 0], [0, 0, 0, 1]])


def wall() -> np.ndarray:
    """A wall 8 m ahead of the LiDAR, 16 rings of 64 points."""
    elevation, azimuth = np.meshgrid(np.linspace(-0.4, 0.4, 16), np.linspace(-0.6, 0.6, 64), indexing="ij")
    return np.stack([np.full(elevation.size, 8.0), 8 * azimuth.ravel(), 8 * elevation.ravel()], 1).astype(np.float32)


@dataclass(frozen=True)
class Bag:
    """What is written; a fault is a replaced field."""

    frames: int = 20
    camera: Optional[CameraModel] = CAMERA
    points: np.ndarray = field(default_factory=wall)
    ring: bool = True
    time: bool = True
    time_span_s: float = 0.1
    image_shape: tuple[int, int] = (HEIGHT, WIDTH)
    image_frame: str = "camera_optical"
    info_frame: str = "camera_optical"
    static_tf: Optional[np.ndarray] = field(default_factory=lambda: T_CAM_LIDAR)
    lidar_shift_ns: int = 0
    lidar_delay_ns: int = 0
    stamps_ms: Optional[list[int]] = None

    def write(self, path: Path) -> Path:
        ring = np.repeat(np.arange(16, dtype=np.int32), 64)[: len(self.points)] if self.ring else None
        time = np.linspace(0, self.time_span_s, len(self.points), dtype=np.float32) if self.time else None
        image = np.full((*self.image_shape, 3), 90, np.uint8)
        times = self.stamps_ms or [100 * k for k in range(self.frames)]
        with McapWriter(path) as bag:
            if self.static_tf is not None:
                tf = StampedTransform(self.image_frame, "lidar", START, self.static_tf)
                bag.write_tf([tf], static=True)
            for number, ms in enumerate(times):
                stamp, log = START + ms * MS, START + 100 * number * MS + 5 * MS
                if self.camera is not None:
                    bag.write_camera_info("/camera/camera_info", self.camera, stamp, self.info_frame, log_ns=log)
                bag.write_image("/camera/image_raw", image, stamp, self.image_frame, log_ns=log)
                sweep = LidarSweep(self.points, stamp + self.lidar_shift_ns, "lidar", time, ring)
                bag.write_points("/lidar/points", sweep, log_ns=log + self.lidar_delay_ns)
        return path


def report_of(bag: Bag, folder: Path, **options: Any) -> CheckReport:
    with open_recording(bag.write(folder / "bag.mcap")) as recording:
        return check(recording, **options)


def finding_with(report: CheckReport, text: str) -> Finding:
    found = [finding for finding in report.findings if text in finding.text]
    assert found, [finding.text for finding in report.findings]
    assert all(finding.advice for finding in found)
    return found[0]


def with_messages(good: Path, path: Path, change: Any, **window: float) -> CheckReport:
    """The report on a copy whose messages went through ``change(topic, message, log_ns)``, which gives several."""
    with open_recording(good) as recording, McapWriter(path) as bag:
        for message in recording.messages():
            for content, log_ns in change(message.topic, message.decode(), message.log_ns):
                bag.write_raw(message.topic, content, log_ns)
    with open_recording(path) as recording:
        return check(RecordingWindow(recording, **window) if window else recording)
