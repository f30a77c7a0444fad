"""A few rows of a data set, small and with every kind of part; and drives before a wall, whose depth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np

from mf_ros.core.camera import make_camera
from mf_ros.core.config import Config
from mf_ros.core.settings import config_to_mapping
from mf_ros.core.transforms import StampedTransform, TransformTree
from mf_ros.core.types import LidarSweep
from mf_ros.dataset.row import Row
from mf_ros.dataset.schema import to_table

SECOND = 1_000_000_000


def some_rows(count: int = 5) -> list[Row]:
    """Rows of two recordings, ``train`` and ``val`` in turn; the last one lacks odometry and one of its sweeps."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        stamp = (100 + number) * SECOND
        tree = TransformTree()
        tree.add(_pose("base", "lidar", 0, 0.3), static=True)
        tree.add(_pose("base", "camera", 0, -0.2), static=True)
        for tick in range(-2, 3):
            tree.add(_pose("odom", "base", stamp + tick * SECOND // 10, number + 0.1 * tick), static=False)
        last = number == count - 1
        image = rng.integers(0, 255, (24, 32, 3), np.uint8)
        bag = f"bag{number % 2}"
        rows.append(
            Row(
                sample_id=f"{bag}/{stamp}",
                bag_id=bag,
                robot_id="rover",
                site="yard",
                day="2026-03-01",
                stamp_ns=stamp,
                log_ns=stamp + 5_000_000,
                image=cv2.imencode(".png", image)[1].tobytes(),
                image_format="png",
                camera=make_camera(32, 24, [[30, 0, 15.5], [0, 30, 11.5], [0, 0, 1]], [0.1, 0, 0, 0, 0], "plumb_bob"),
                camera_frame="camera",
                sweeps=(_sweep(rng, stamp, rings=True), None if last else _sweep(rng, stamp, rings=False)),
                dt_ns=(-1_000_000, None if last else 2_000_000),
                edges=tuple(tree.edges_above(["camera", "lidar", "odom"], stamp - 10**8, stamp + 10**8)),
                T_world_cam=None if last else tree.lookup("odom", "camera", stamp),
                split="val" if number == 2 else "train",
                keyframe=True,
                phash=f"{number:016x}",
                extractor_version="1",
            )
        )
    return rows


WALL_CAMERA = make_camera(160, 96, [[120, 0, 79.5], [0, 120, 47.5], [0, 0, 1]], [], "plumb_bob")
_UP_M = 0.3


def wall_rows(
    bag: str, walls_m: Sequence[float], *, rings: int = 16, split: str = "test", columns: int = 120
) -> list[Row]:
    """A recording of one frame a second before walls at these depths, which fill the image.

    The LiDAR sits 0.3 m above the camera and looks the same way; without ``rings`` its returns have no scan lines.
    """
    tree = TransformTree()
    pose = np.eye(4)
    pose[1, 3] = -_UP_M
    tree.add(StampedTransform("camera", "lidar", 0, pose), static=True)
    rows = []
    for number, wall_m in enumerate(walls_m):
        stamp = (100 + number) * SECOND
        image = np.full((WALL_CAMERA.height, WALL_CAMERA.width, 3), 40 + number % 200, np.uint8)
        rows.append(
            Row(
                sample_id=f"{bag}/{stamp}",
                bag_id=bag,
                robot_id="rover",
                site="hall",
                day="2026-03-01",
                stamp_ns=stamp,
                log_ns=stamp,
                image=cv2.imencode(".png", image)[1].tobytes(),
                image_format="png",
                camera=WALL_CAMERA,
                camera_frame="camera",
                sweeps=(_wall_sweep(stamp, wall_m, rings, columns),),
                dt_ns=(0,),
                edges=tuple(tree.edges_above(["camera", "lidar"], stamp, stamp)),
                T_world_cam=None,
                split=split,
                keyframe=True,
                phash=f"{number:016x}",
                extractor_version="1",
            )
        )
    return rows


def _wall_sweep(stamp_ns: int, wall_m: float, rings: int, columns: int) -> LidarSweep:
    """Ring 0 on top; the slopes are those of the camera's view."""
    lines = rings or 16
    down, right = np.meshgrid(np.linspace(-0.36, 0.36, lines), np.linspace(-0.6, 0.6, columns), indexing="ij")
    points = np.stack([right, down, np.ones_like(down)], -1).reshape(-1, 3) * wall_m
    ring = np.repeat(np.arange(lines, dtype=np.int32), columns) if rings else None
    return LidarSweep(points.astype(np.float32), stamp_ns, "lidar", None, ring)


def write_dataset(folder: Path, rows: Sequence[Row]) -> Path:
    """The rows as a data set in a folder, made with the default settings."""
    import lance

    settings = config_to_mapping(Config())
    document = {"format": 1, "settings": settings, "split": {"by": "time"}, "extractor_version": "1"}
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(document))
    lance.write_dataset(to_table(rows), str(folder / "samples.lance"))
    return folder


def _sweep(rng: np.random.Generator, stamp_ns: int, *, rings: bool) -> LidarSweep:
    count = 40 if rings else 25
    points = rng.uniform(-5, 5, (count, 3)).astype(np.float32)
    points[:, 2] = np.abs(points[:, 2]) + 2
    if not rings:
        return LidarSweep(points, stamp_ns, "lidar")
    time_s = np.linspace(-0.05, 0.05, count, dtype=np.float32)
    ring = (np.arange(count) % 8).astype(np.int32)
    return LidarSweep(points, stamp_ns, "lidar", time_s, ring, rng.random(count, np.float32))


def _pose(parent: str, child: str, stamp_ns: int, x: float) -> StampedTransform:
    T = np.eye(4)
    angle = 0.3 * x
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    T[0, 3] = x
    return StampedTransform(parent, child, stamp_ns, T)
