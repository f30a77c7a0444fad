"""A simulated drive written as a real recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Literal, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.core.types import AnyArray, ByteArray, LidarSweep
from mf_ros.errors import ConfigError
from mf_ros.simulate.atmosphere import LightName
from mf_ros.simulate.lidar import AnyLidar, LidarModel, RosetteModel
from mf_ros.simulate.rig import OPTICAL, START_NS, Rig, default_camera
from mf_ros.simulate.robots import RobotName, robot_named
from mf_ros.simulate.trajectory import Trajectory
from mf_ros.simulate.worlds import Style, make_scene

if TYPE_CHECKING:
    from mf_ros.bags.writer import McapWriter

LidarName = Literal["spinning", "livox"]

IMAGE_TOPIC = "/camera/image_raw"
COMPRESSED_TOPIC = "/camera/image_raw/compressed"
INFO_TOPIC = "/camera/camera_info"
DEPTH_TOPIC = "/camera/depth/ground_truth"
POINTS_TOPIC = "/points"
ODOM_TOPIC = "/odom"

_TF_RATE_HZ = 50.0
_TF_MARGIN_S = 0.12
_IMAGE_LATENCY_NS = 12_000_000
_TF_LATENCY_NS = 1_000_000


@dataclass(frozen=True)
class SimulationSummary:
    """What was written.

    Attributes:
        path: the file.
        seed: that makes the same file again.
        frames: number of images.
        sweeps: number of LiDAR sweeps.
        points: number of LiDAR returns in all.
        seconds: length of the drive.
        distance_m: how far the robot went along the road.
        messages: number of messages by topic.
        size_bytes: size of the file.
    """

    path: Path
    seed: int
    frames: int
    sweeps: int
    points: int
    seconds: float
    distance_m: float
    messages: Dict[str, int]
    size_bytes: int


def simulate(
    out: Path,
    *,
    seed: int = 0,
    seconds: float = 4.0,
    rate_hz: float = 10.0,
    scene: Style = "street",
    robot: RobotName = "shuttle",
    light: LightName = "day",
    lidar: LidarName = "spinning",
    rings: int = 32,
    columns: int = 1000,
    points: int = 24_000,
    tilt_deg: float = 0.0,
    width: int = 640,
    height: int = 360,
    hfov_deg: Optional[float] = None,
    distortion_model: str = "plumb_bob",
    D: Optional[Sequence[float]] = None,
    speed: float = 4.0,
    weave_m: float = 0.7,
    sway_rad: float = 0.012,
    image_delay_s: float = 0.035,
    compressed: bool = False,
    ground_truth: bool = True,
    progress: Optional[Callable[[int, int], None]] = None,
) -> SimulationSummary:
    """Drive a robot through a random scene and write what its sensors see as a rosbag2 MCAP file.

    Topics: /camera/image_raw (rgb8; or /camera/image_raw/compressed), /camera/camera_info, /points (Velodyne's layout,
    or for the solid-state LiDAR that of the Livox driver, with a single laser; each point measured at its own time),
    /tf_static, /tf and /odom at 50 Hz, and /camera/depth/ground_truth (32FC1, on the grid of the distorted image). The
    same arguments give the same file, byte for byte.

    Args:
        out: file to write, replaced if it exists.
        seed: of the scene and of all noise.
        seconds: length of the drive.
        rate_hz: images and sweeps per second.
        scene: "street" or "yard".
        robot: the body, which decides where the sensors sit: "rover", "shuttle" or "mast".
        light: "day", or "dusk" with a low sun behind haze, lamps and a noisy image.
        lidar: "spinning", or "livox" for a solid-state LiDAR with a rosette that does not repeat and no scan lines.
        rings, columns: of the spinning LiDAR.
        points: measurements per sweep of the solid-state LiDAR.
        tilt_deg: how far the LiDAR is pitched down on its mount, degrees.
        width, height: of the image, pixels.
        hfov_deg: horizontal field of view before distortion, degrees; None is that of the robot's camera.
        distortion_model, D: lens; D None takes typical coefficients of the model.
        speed: of the robot, m/s.
        weave_m: how far the robot swings to each side of its line, metres.
        sway_rad: amplitude of the body's roll and pitch, radians.
        image_delay_s: time of an image after the beginning of its sweep, seconds.
        compressed: write JPEG images instead of raw ones.
        ground_truth: write the exact depth.
        progress: called with the frames done and their number.

    Raises:
        ConfigError: an argument cannot work.
        CalibrationError: the lens cannot.
        BagError: the file cannot be written.
        MissingDependencyError: the packages that bags need are not installed.
    """
    body = robot_named(robot).tilted(tilt_deg)
    hfov_deg = body.hfov_deg if hfov_deg is None else hfov_deg
    frames = round(seconds * rate_hz) if np.isfinite(seconds * rate_hz) else 0
    _check(
        ("number of frames (seconds times rate)", frames, 1, 100_000),
        ("number of rings", rings, 2, 256),
        ("number of columns", columns, 16, 8192),
        ("number of points", points, 100, 1_000_000),
        ("tilt of the LiDAR in degrees", tilt_deg, -90, 90),
        ("image width", width, 16, 8192),
        ("image height", height, 16, 8192),
        ("speed in m/s", speed, 0, 40),
        ("delay of the image in seconds", image_delay_s, 0, 1),
        ("horizontal field of view in degrees", hfov_deg, 10, 170),
    )
    rig = Rig(
        make_scene(scene, seed, speed * seconds),
        default_camera(width, height, distortion_model, D, hfov_deg),
        _lidar_model(lidar, rings, columns, points),
        Trajectory(speed=speed, weave_m=weave_m, sway_rad=sway_rad),
        robot=body,
        light=light,
        rate_hz=rate_hz,
        image_delay_s=image_delay_s,
        seed=seed,
    )
    # Only here, so that scenes and sensors work without the packages that bags need.
    from mf_ros.bags.writer import McapWriter

    returns = 0
    with McapWriter(out) as writer:
        writer.write_tf(rig.mounts(), static=True, log_ns=START_NS - round(_TF_MARGIN_S * 1e9))
        for log_ns, kind, index in _schedule(rig, frames, seconds, rate_hz):
            if kind == "pose":
                _write_pose(writer, rig, index, log_ns)
            elif kind == "sweep":
                sweep = rig.sweep(index)
                returns += len(sweep)
                _write_sweep(writer, sweep, log_ns)
            else:
                _write_image(writer, rig, index, log_ns, compressed, ground_truth)
                if progress is not None:
                    progress(index + 1, frames)
        messages = writer.counts
    return SimulationSummary(
        Path(out), seed, frames, frames, returns, seconds, speed * seconds, messages, Path(out).stat().st_size
    )


def _check(*limits: Tuple[str, float, float, float]) -> None:
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise ConfigError(f"The {name} is {value:g}: use a value from {low:g} to {high:g}.")


def _lidar_model(lidar: str, rings: int, columns: int, points: int) -> AnyLidar:
    if lidar == "spinning":
        return LidarModel(rings=rings, columns=columns)
    if lidar == "livox":
        return RosetteModel(points=points)
    raise ConfigError(f"Unknown LiDAR '{lidar}': use 'spinning' or 'livox'.")


def _schedule(rig: Rig, frames: int, seconds: float, rate_hz: float) -> List[Tuple[int, str, int]]:
    """Log time, kind and number (the stamp for poses) of every message, in log order."""
    events = []
    for k in range(frames):
        events.append((rig.image_stamp(k) + _IMAGE_LATENCY_NS, "image", k))
        events.append((rig.sweep_stamp(k + 1) + 2_000_000, "sweep", k))
    last = (frames / rate_hz) + _TF_MARGIN_S
    for tick in range(-round(_TF_MARGIN_S * _TF_RATE_HZ), int(np.ceil(last * _TF_RATE_HZ)) + 1):
        stamp = START_NS + round(tick * 1e9 / _TF_RATE_HZ)
        events.append((stamp + _TF_LATENCY_NS, "pose", stamp))
    return sorted(events)


def _write_pose(writer: McapWriter, rig: Rig, stamp: int, log_ns: int) -> None:
    pose = rig.base_pose(stamp)
    writer.write_tf([pose], log_ns=log_ns)
    writer.write_odometry(ODOM_TOPIC, pose, twist=rig.base_twist(stamp), log_ns=log_ns)


def _write_sweep(writer: McapWriter, sweep: LidarSweep, log_ns: int) -> None:
    if sweep.ring is not None or sweep.time_s is None or sweep.intensity is None:
        writer.write_points(POINTS_TOPIC, sweep, log_ns=log_ns)
        return
    # As livox_ros_driver2 has it: the time is absolute, in nanoseconds.
    columns: Dict[str, AnyArray] = {name: sweep.points[:, index] for index, name in enumerate("xyz")}
    columns["intensity"] = sweep.intensity
    columns["tag"] = np.zeros(len(sweep), np.uint8)
    columns["line"] = np.zeros(len(sweep), np.uint8)  # number of the laser, of which it has one
    columns["timestamp"] = sweep.stamp_ns + sweep.time_s.astype(np.float64) * 1e9
    _, cloud = writer.builder.point_columns(columns, sweep.stamp_ns, sweep.frame_id)
    writer.write_raw(POINTS_TOPIC, cloud, log_ns)


def _write_image(writer: McapWriter, rig: Rig, index: int, log_ns: int, compressed: bool, ground_truth: bool) -> None:
    image, depth = rig.image(index)
    stamp = rig.image_stamp(index)
    if compressed:
        writer.write_compressed_image(COMPRESSED_TOPIC, _jpeg(image), stamp, OPTICAL, log_ns=log_ns)
    else:
        writer.write_image(IMAGE_TOPIC, image, stamp, OPTICAL, log_ns=log_ns)
    writer.write_camera_info(INFO_TOPIC, rig.camera, stamp, OPTICAL, log_ns=log_ns)
    if ground_truth:
        writer.write_depth(DEPTH_TOPIC, depth, stamp, OPTICAL, log_ns=log_ns)


def _jpeg(image: ByteArray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise ConfigError("OpenCV was built without JPEG: write raw images instead.")
    return bytes(data.tobytes())
