"""Small bags of a robot that drives past a wall, quickly made, and helpers for the tests of the extraction."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional, Sequence

import cv2
import numpy as np

from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core import messages
from mf_ros.core.camera import make_camera
from mf_ros.core.config import Config
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.dataset.bag_job import Reading
from mf_ros.dataset.extract import ExtractReport, extract
from mf_ros.dataset.keyframes import KeyframeOptions
from mf_ros.dataset.recording_rows import RowOptions
from mf_ros.dataset.sources import find_bags

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
CAMERA = make_camera(96, 64, [[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]], [-0.1, 0.02, 0, 0, 0], "plumb_bob")
# The robot looks along x; optical axes are x right, y down, z forward (REP 103).
T_BASE_CAMERA = np.array([[0.0, 0, 1, 0.2], [-1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]])
T_BASE_LIDAR = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0.1], [0, 0, 1, 0.7], [0, 0, 0, 1]])


def base_pose(seconds: float, speed: float) -> np.ndarray:
    """T_odom_base of a robot that goes straight on along x."""
    T = np.eye(4)
    T[0, 3] = speed * seconds
    return T


def drive(
    path: Path,
    *,
    seed: int = 0,
    frames: int = 20,
    speed: float = 4.0,
    start_s: float = 0.0,
    lidar_late_s: float = 0.0,
    odometry: bool = True,
    transforms: bool = True,
    jpeg: bool = False,
    changing: bool = True,
) -> Path:
    """A bag at 10 Hz, start to end within ``frames`` tenths of a second, ``start_s`` after ``START_NS``.

    The picture slides along as long as the robot moves; one that stands sees the same all the time unless ``changing``,
    when something else stands there after half of the frames.
    """
    rng = np.random.default_rng(seed)
    start = START_NS + round(start_s * 1e9)
    coarse = rng.integers(0, 255, (8, 8 + 2 * frames, 3), np.uint8)
    wide = cv2.resize(coarse, (coarse.shape[1] * 12, 64), interpolation=cv2.INTER_LINEAR)
    with McapWriter(path) as writer:
        events: list[tuple[int, str, int]] = []
        if transforms:
            events.append((start - 300_000_000, "static", 0))
        for number in range(frames):
            stamp = start + number * PERIOD_NS
            events += [(stamp + 5_000_000, "image", number), (stamp + 90_000_000, "sweep", number)]
        ticks = range(-10, 5 * frames + 10) if odometry and transforms else range(0)
        events += [(start + tick * 20_000_000 + 1_000_000, "pose", tick) for tick in ticks]
        for log_ns, kind, number in sorted(events):
            stamp = start + number * PERIOD_NS
            if kind == "static":
                mounts = [("camera", T_BASE_CAMERA), ("lidar", T_BASE_LIDAR)]
                writer.write_tf(
                    [StampedTransform("base", name, 0, T) for name, T in mounts], static=True, log_ns=log_ns
                )
            elif kind == "pose":
                at = START_NS + round(start_s * 1e9) + number * 20_000_000
                pose = base_pose(number * 0.02, speed)
                writer.write_tf([StampedTransform("odom", "base", at, pose)], log_ns=log_ns)
            elif kind == "image":
                left = round(number * 0.1 * speed * 20) if speed else (96 if changing and number >= frames / 2 else 0)
                picture = np.ascontiguousarray(wide[:, left : left + 96])
                if jpeg:
                    data = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
                    writer.write_compressed_image("/camera/image_raw/compressed", data, stamp, "camera", log_ns=log_ns)
                else:
                    writer.write_image("/camera/image_raw", picture, stamp, "camera", log_ns=log_ns)
                writer.write_camera_info("/camera/camera_info", CAMERA, stamp, "camera", log_ns=log_ns)
            else:
                late = dataclasses.replace(sweep(rng, stamp), stamp_ns=stamp + round(lidar_late_s * 1e9))
                writer.write_points("/points", late, log_ns=log_ns)
    return path


def sweep(rng: np.random.Generator, stamp_ns: int) -> LidarSweep:
    """8 rings on a rough wall 6 m ahead, measured within 80 ms."""
    ring, column = np.meshgrid(np.arange(8), np.arange(60), indexing="ij")
    x = 6.0 + rng.normal(0, 0.05, ring.shape)
    points = np.stack([x, 0.08 * (column - 30), 0.3 * (ring - 3.5)], axis=-1).reshape(-1, 3).astype(np.float32)
    time_s = (0.08 * column / 59).reshape(-1).astype(np.float32)
    return LidarSweep(points, stamp_ns, "lidar", time_s, ring.reshape(-1).astype(np.int32))


def turned(source: Path, target: Path, degrees: float, frame: str) -> Path:
    """The same bag with another mount: the frame is turned to the side, and nothing else is."""
    angle, turn = np.deg2rad(degrees), np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with open_recording(source) as recording, McapWriter(target) as writer:
        for message in recording.messages():
            content = message.decode()
            if message.topic == "/tf_static":
                mounts = [messages.transform_of(item) for item in content.transforms]
                mounts = [
                    dataclasses.replace(each, T_parent_child=each.T_parent_child @ turn)
                    if each.child == frame
                    else each
                    for each in mounts
                ]
                writer.write_tf(mounts, static=True, log_ns=message.log_ns)
            else:
                writer.write_raw(message.topic, content, message.log_ns, msgtype=message.msgtype)
    return target


def extracted(
    bags: Sequence[Any],
    out: Path,
    *,
    every_m: float = 0.5,
    max_rows: int = 20_000,
    config: Optional[Config] = None,
    jpeg: int = 0,
    reading: Optional[Reading] = None,
    **options: Any,
) -> ExtractReport:
    """An extraction in this process, with the options that most tests use."""
    rows = RowOptions(config or Config(), KeyframeOptions(every_m, 10.0, max_rows), jpeg)
    return extract(find_bags([str(bag) for bag in bags]), out, rows, reading or Reading(), **options)
