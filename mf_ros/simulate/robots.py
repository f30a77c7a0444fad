"""The robots on offer: where their sensors sit, and how wide their camera sees."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Literal

import numpy as np

from mf_ros.core.types import DoubleArray
from mf_ros.errors import ConfigError
from mf_ros.simulate.trajectory import transform

RobotName = Literal["rover", "shuttle", "mast"]

T_CAMERA_OPTICAL: DoubleArray = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""From the optical frame (z forward) to the camera's body frame (x forward, REP 103)."""


@dataclass(frozen=True)
class Robot:
    """A robot's body.

    Attributes:
        T_base_camera: (4, 4) mount of the camera, x forward.
        T_base_lidar: (4, 4) mount of the LiDAR, x forward.
        hfov_deg: horizontal field of view of its camera before distortion, degrees.
    """

    T_base_camera: DoubleArray
    T_base_lidar: DoubleArray
    hfov_deg: float

    def tilted(self, degrees: float) -> Robot:
        """The same robot with its LiDAR pitched down by ``degrees`` on its mount."""
        tilt = transform(0.0, 0.0, 0.0, pitch=float(np.deg2rad(degrees)))
        return self if degrees == 0 else replace(self, T_base_lidar=self.T_base_lidar @ tilt)


_ROBOTS: Dict[str, Robot] = {
    # Knee high, the camera looks up a little and the LiDAR sits close above it.
    "rover": Robot(transform(0.34, 0.0, 0.52, pitch=-0.05), transform(0.2, 0.03, 0.74, roll=-0.006, pitch=0.01), 100.0),
    "shuttle": Robot(transform(0.5, 0.06, 1.45, pitch=0.035), transform(0.1, 0.0, 1.9, roll=0.004, pitch=-0.006), 80.0),
    # A long way above the ground and looking down at it, the LiDAR to one side.
    "mast": Robot(
        transform(0.15, 0.12, 2.85, pitch=0.24), transform(0.05, -0.25, 3.1, roll=0.008, pitch=0.02, yaw=-0.03), 70.0
    ),
}


def robot_named(name: str) -> Robot:
    """The robot of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _ROBOTS:
        raise ConfigError(f"Unknown robot '{name}': use one of {', '.join(_ROBOTS)}.")
    return _ROBOTS[name]
