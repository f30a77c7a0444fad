"""A robot with a camera and a LiDAR in a simulated world: every measurement as a function of its number."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import ByteArray, DoubleArray, FloatArray, LidarSweep
from mf_ros.errors import ConfigError
from mf_ros.simulate.atmosphere import LightName, lit_scene
from mf_ros.simulate.camera import Camera
from mf_ros.simulate.lidar import AnyLidar, make_lidar
from mf_ros.simulate.lighting import Lighting
from mf_ros.simulate.robots import T_CAMERA_OPTICAL, Robot, robot_named
from mf_ros.simulate.scene import Scene
from mf_ros.simulate.trajectory import Trajectory

START_NS = 1_700_000_000_000_000_000
"""Stamp of the start of every simulated drive, ns."""

ODOM, BASE = "odom", "base_link"
CAMERA, OPTICAL, LIDAR = "camera_link", "camera_optical_frame", "lidar_link"

_LENSES = {
    "": (),
    "plumb_bob": (-0.28, 0.09, 0.0005, -0.0003, -0.01),
    "rational_polynomial": (0.42, 0.06, 0.0004, -0.0003, 0.002, 0.74, 0.14, 0.01),
    "equidistant": (0.02, -0.012, 0.004, -0.001),
}


def default_camera(
    width: int, height: int, distortion_model: str, D: Optional[Sequence[float]] = None, hfov_deg: float = 80.0
) -> CameraModel:
    """A camera of about ``hfov_deg`` with a typical lens of the given model.

    Args:
        width, height: pixels.
        distortion_model: as in sensor_msgs/CameraInfo; "" is a lens without distortion.
        D: distortion coefficients; None takes typical ones of the model.

    Raises:
        CalibrationError: the model is unknown or D does not fit it.
    """
    half = np.deg2rad(hfov_deg) / 2
    focal = width / 2 / (half if distortion_model == "equidistant" else np.tan(half))
    K = [[focal, 0.0, (width - 1) / 2 + 1.5], [0.0, focal, (height - 1) / 2 - 1.0], [0.0, 0.0, 1.0]]
    coefficients = _LENSES.get(distortion_model, ()) if D is None else tuple(D)
    return make_camera(width, height, K, coefficients, distortion_model)


class Rig:
    """The robot, its sensors and its drive.

    Args:
        scene: the world.
        camera: the camera's model.
        lidar: the LiDAR's model.
        trajectory: the drive.
        robot: its body; None is the shuttle.
        light: the time of day.
        rate_hz: images and sweeps per second.
        image_delay_s: time of image k after the beginning of sweep k, seconds.
        seed: of the sensor noise; each measurement has its own stream, whatever order they are taken in.
    """

    def __init__(
        self,
        scene: Scene,
        camera: CameraModel,
        lidar: AnyLidar,
        trajectory: Trajectory,
        *,
        robot: Optional[Robot] = None,
        light: LightName = "day",
        rate_hz: float = 10.0,
        image_delay_s: float = 0.035,
        seed: int = 0,
    ) -> None:
        if not 0 < rate_hz <= 100:
            raise ConfigError(f"A rate of {rate_hz} Hz cannot be simulated: use more than 0 and at most 100.")
        self.camera = camera
        self.robot = robot_named("shuttle") if robot is None else robot
        self.trajectory = trajectory
        self._rate, self._delay, self._seed = rate_hz, image_delay_s, seed
        # A small image cannot show fine shadows.
        cell_m = 0.055 * float(np.clip(640 / camera.width, 0.6, 4))
        lit, colours = lit_scene(scene, light)
        self._eye = Camera(lit, camera, Lighting(lit, cell_m, colours))
        self._lidar = make_lidar(scene, lidar, rate_hz)

    def image_stamp(self, index: int) -> int:
        """Stamp of an image, ns."""
        return self._stamp(index / self._rate + self._delay)

    def sweep_stamp(self, index: int) -> int:
        """Stamp of a sweep, ns: when it begins."""
        return self._stamp(index / self._rate)

    def image(self, index: int) -> Tuple[ByteArray, FloatArray]:
        """(H, W, 3) uint8 RGB and (H, W) float32 exact depth at the image's stamp: metres, +Inf sky, NaN unknown."""
        rng = np.random.default_rng([self._seed, 1, index])
        return self._eye.render(self.camera_pose(index), rng)

    def depth(self, index: int) -> FloatArray:
        """The exact depth of ``image`` alone, (H, W) float32."""
        return self._eye.depth(self.camera_pose(index))

    def camera_pose(self, index: int) -> DoubleArray:
        """(4, 4) T_odom_optical at the stamp of an image."""
        pose = self.trajectory.poses(np.array([self._seconds(self.image_stamp(index))]))[0]
        return np.asarray(pose @ self.robot.T_base_camera @ T_CAMERA_OPTICAL)

    def sweep(self, index: int) -> LidarSweep:
        """A sweep; each point is in the LiDAR's frame at the point's own time."""
        rng = np.random.default_rng([self._seed, 2, index])
        stamp = self.sweep_stamp(index)
        measured = self._lidar.sweep(
            lambda t: self.trajectory.poses(t) @ self.robot.T_base_lidar, self._seconds(stamp), rng
        )
        return LidarSweep(measured.points, stamp, LIDAR, measured.time_s, measured.ring, measured.intensity)

    def base_pose(self, stamp_ns: int) -> StampedTransform:
        """Pose of the base in the odometry frame."""
        return StampedTransform(ODOM, BASE, stamp_ns, self.trajectory.poses(np.array([self._seconds(stamp_ns)]))[0])

    def base_twist(self, stamp_ns: int) -> DoubleArray:
        """(6,) velocity of the base in its own frame, m/s and rad/s."""
        return self.trajectory.twist(self._seconds(stamp_ns))

    def mounts(self) -> List[StampedTransform]:
        """Where the sensors sit on the robot."""
        return [
            StampedTransform(BASE, CAMERA, START_NS, self.robot.T_base_camera),
            StampedTransform(CAMERA, OPTICAL, START_NS, T_CAMERA_OPTICAL),
            StampedTransform(BASE, LIDAR, START_NS, self.robot.T_base_lidar),
        ]

    @staticmethod
    def _stamp(seconds: float) -> int:
        return START_NS + round(seconds * 1e9)

    @staticmethod
    def _seconds(stamp_ns: int) -> float:
        return (stamp_ns - START_NS) * 1e-9
