"""A camera and a LiDAR in front of a wall, as real messages, for the tests of pipeline and replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.message_builder import MessageBuilder
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import DepthEstimate, LidarSweep
from mf_ros.errors import MfRosError

STORE = get_typestore(Stores.ROS2_JAZZY)
BUILD = MessageBuilder(STORE.types)

START_NS = 1_700_000_000_123_456_789
FRAME_NS = 100_000_000
WALL_M = 5.0
CAMERA_FRAME, LIDAR_FRAME = "camera_optical", "lidar"
CAMERA = make_camera(64, 48, [50.0, 0, 31.5, 0, 50.0, 23.5, 0, 0, 1], [], "plumb_bob")

# The LiDAR looks along x; optical axes are x right, y down, z forward (REP 103).
LIDAR_TO_OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def stamp(number: float) -> int:
    """Stamp of the image with that number, at 10 Hz."""
    return START_NS + round(number * FRAME_NS)


def image(number: float = 0, camera: CameraModel = CAMERA, frame_id: str = CAMERA_FRAME) -> Any:
    pixels = np.full((camera.height, camera.width, 3), int(number) % 256, np.uint8)
    return BUILD.image(pixels, stamp(number), frame_id, "rgb8")[1]


def camera_info(number: float = 0, camera: CameraModel = CAMERA, **changes: Any) -> Any:
    return replace(BUILD.camera_info(camera, stamp(number), CAMERA_FRAME)[1], **changes)


def wall(number: float = 0, frame_id: str = LIDAR_FRAME, shift_m: float = 0.0, timed: bool = False) -> LidarSweep:
    """16 rings on a wall at x = 5 m, ring 0 on top; ``shift_m`` moves it sideways, ``timed`` gives 0.1 s of times."""
    z, y = np.meshgrid(np.linspace(1.8, -1.8, 16), np.linspace(2.5, -2.5, 60) + shift_m, indexing="ij")
    points = np.stack([np.full(z.size, WALL_M), y.ravel(), z.ravel()], axis=1).astype(np.float32)
    ring = np.repeat(np.arange(16, dtype=np.int32), 60)
    time_s = np.tile(np.linspace(0, 0.09, 60, dtype=np.float32), 16) if timed else None
    return LidarSweep(points, stamp(number), frame_id, time_s=time_s, ring=ring)


def cloud(number: float = 0, **changes: Any) -> Any:
    return BUILD.sweep(wall(number, **changes))[1]


def extrinsics(lidar_frame: str = LIDAR_FRAME) -> StampedTransform:
    return StampedTransform(CAMERA_FRAME, lidar_frame, 0, LIDAR_TO_OPTICAL)


def tf(*transforms: StampedTransform) -> Any:
    return BUILD.transforms(transforms)[1]


@dataclass
class MedianEngine:
    """Depth is the median of the returns everywhere; remembers what it was given."""

    name: str = "median"
    calls: int = 0
    failing: bool = False
    metric: bool = True
    cut: int = 0

    def estimate(self, image: np.ndarray, sparse: Any, camera: CameraModel) -> DepthEstimate:
        self.calls += 1
        if self.failing:
            raise MfRosError("the engine is out of order")
        depth = np.full(image.shape[:2], np.median(sparse.depth[sparse.depth > 0]), np.float32)[self.cut :]
        return DepthEstimate(depth, np.ones_like(depth), self.metric, self.name)

    def describe(self) -> dict[str, str]:
        return {"method": "median"}
