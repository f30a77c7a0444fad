"""A wall that a camera and a LiDAR look at, as the tests of evaluation measure it."""

from __future__ import annotations

import numpy as np

from mf_ros.core.camera import make_camera
from mf_ros.core.types import CameraPoints

CAMERA = make_camera(160, 96, [120.0, 0, 79.5, 0, 120.0, 47.5, 0, 0, 1], [], "plumb_bob")


def wall_points(depth_m: float = 8.0, rings: int = 32) -> CameraPoints:
    """A wall in front of the camera, scanned by ``rings`` lines, ring 0 on top."""
    y, x = np.meshgrid(np.linspace(-2.8, 2.8, rings), np.linspace(-4.5, 4.5, 200), indexing="ij")
    xyz = np.stack([x, y, np.full_like(x, depth_m)], -1).reshape(-1, 3).astype(np.float32)
    return CameraPoints(xyz, np.repeat(np.arange(rings, dtype=np.int32), 200), np.zeros(len(xyz), np.uint8))
