"""A wall that a camera and a LiDAR look at, as the tests of evaluation measure it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from mf_ros.core.camera import make_camera
from mf_ros.core.types import CameraPoints
from mf_ros.evaluation.frames import EvaluationFrame

CAMERA = make_camera(160, 96, [120.0, 0, 79.5, 0, 120.0, 47.5, 0, 0, 1], [], "plumb_bob")


def wall_points(depth_m: float = 8.0, rings: int = 32) -> CameraPoints:
    """A wall in front of the camera, scanned by ``rings`` lines, ring 0 on top."""
    y, x = np.meshgrid(np.linspace(-2.8, 2.8, rings), np.linspace(-4.5, 4.5, 200), indexing="ij")
    xyz = np.stack([x, y, np.full_like(x, depth_m)], -1).reshape(-1, 3).astype(np.float32)
    return CameraPoints(xyz, np.repeat(np.arange(rings, dtype=np.int32), 200), np.zeros(len(xyz), np.uint8))


def wall_frame(source: str = "wall") -> EvaluationFrame:
    return EvaluationFrame(source, "0", np.zeros((96, 160, 3), np.uint8), CAMERA, wall_points(), 32)


def write_frame(place: Path, width: int = 160) -> None:
    """The frame as a folder; another width than 160 is not that of its image."""
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "image.png"), np.full((96, 160, 3), 90, np.uint8))
    points = wall_points()
    np.savez(place / "points.npz", points=np.c_[points.points, np.ones(len(points))], ring=points.ring.astype(np.uint8))
    calibration = {"K": CAMERA.K.tolist(), "dist": [], "width": width, "height": 96, "n_rings": 32}
    (place / "calib.json").write_text(json.dumps({**calibration, "T_cam_lidar": np.eye(4).tolist()}))
