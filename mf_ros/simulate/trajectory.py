"""A robot that drives a smooth curve, with a body that sways; every pose is a closed formula of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mf_ros.core.types import DoubleArray


@dataclass(frozen=True)
class Trajectory:
    """Pose of the robot's base in the fixed frame as a function of time.

    Attributes:
        speed: forward speed, m/s.
        weave_m: how far the curve swings to each side, metres.
        weave_period_m: length of one swing along the road, metres.
        sway_rad: amplitude of roll and pitch, radians.
        bounce_m: amplitude of the vertical motion, metres.
    """

    speed: float = 4.0
    weave_m: float = 0.7
    weave_period_m: float = 22.0
    sway_rad: float = 0.012
    bounce_m: float = 0.01

    def poses(self, seconds: DoubleArray) -> DoubleArray:
        """(N, 4, 4) T_odom_base at times (N,) in seconds since the start of the drive."""
        t = np.atleast_1d(np.asarray(seconds, np.float64))
        x = self.speed * t
        k = 2 * np.pi / self.weave_period_m
        y = self.weave_m * np.sin(k * x)
        z = self.bounce_m * np.sin(2 * np.pi * 1.7 * t)
        yaw = np.arctan(self.weave_m * k * np.cos(k * x)) if self.speed > 0 else np.zeros_like(t)
        pitch = self.sway_rad * np.sin(2 * np.pi * 1.1 * t + 0.7)
        roll = self.sway_rad * np.sin(2 * np.pi * 0.8 * t + 2.1)
        pose = np.zeros((len(t), 4, 4))
        pose[:, :3, :3] = rotation(roll, pitch, yaw)
        pose[:, 0, 3], pose[:, 1, 3], pose[:, 2, 3], pose[:, 3, 3] = x, y, z, 1.0
        return pose

    def twist(self, seconds: float) -> DoubleArray:
        """(6,) linear (m/s) and angular (rad/s) velocity of the base in its own frame (nav_msgs/Odometry)."""
        step = 1e-4
        before, after = self.poses(np.array([seconds - step, seconds + step]))
        middle = self.poses(np.array([seconds]))[0, :3, :3]
        linear = middle.T @ (after[:3, 3] - before[:3, 3]) / (2 * step)
        spin = middle.T @ (after[:3, :3] - before[:3, :3]) / (2 * step)
        return np.concatenate([linear, [spin[2, 1], spin[0, 2], spin[1, 0]]])


def rotation(roll: DoubleArray | float, pitch: DoubleArray | float, yaw: DoubleArray | float) -> DoubleArray:
    """(..., 3, 3) rotations about fixed x, then y, then z (REP 103), radians."""
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack([np.asarray(c, np.float64) for c in row], axis=-1) for row in rows], axis=-2)


def transform(x: float, y: float, z: float, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> DoubleArray:
    """(4, 4) transform from a translation in metres and fixed-axis angles in radians."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(roll, pitch, yaw)
    matrix[:3, 3] = (x, y, z)
    return matrix
