"""What a procedural training scene is made of, and what may be chosen about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

import numpy as np
import numpy.typing as npt

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.types import CameraPoints, FloatArray

KINDS = ("street", "highway", "nature", "room", "yard", "floating")


@dataclass(frozen=True)
class LidarScan:
    """One sweep as the robot would use it: in the camera frame by the nominal calibration, with its errors inside.

    ``points`` (N, 3) float32 metres, camera optical frame; ``ring`` (N,) int16, 0 = top line, -1 = a sensor without
    scan lines; ``lines`` is the number of scan lines of the whole sensor (0 without lines).
    """

    points: FloatArray
    ring: npt.NDArray[np.int16]
    kind: str
    lines: int

    def as_points(self) -> CameraPoints:
        """The sweep in the form that ``mf_ros.core`` takes."""
        return CameraPoints(self.points, self.ring.astype(np.int32), np.zeros(len(self.points), np.uint8))


@dataclass(frozen=True)
class Scene:
    """A picture with its true depth and several LiDAR sweeps of it.

    ``image`` (3, H, W) uint8 RGB; ``depth`` (H, W) float32 Z in metres, inf = sky, 0 = unknown; ``K`` (3, 3) float32,
    pixel centres at whole numbers; ``lens`` the camera of a recorded picture, whose lens may distort; ``twist`` (6,)
    its velocity in its own frame, m/s and rad/s, zeros where it is not known.
    """

    image: npt.NDArray[np.uint8]
    depth: FloatArray
    K: FloatArray
    scans: Tuple[LidarScan, ...]
    kind: str
    seed: int
    lens: Optional[CameraModel] = None
    twist: FloatArray = field(default_factory=lambda: np.zeros(6, np.float32))

    def camera(self) -> CameraModel:
        """The camera of the picture: ``lens``, or without one a camera of ``K`` that has no distortion."""
        if self.lens is not None:
            return self.lens
        height, width = self.depth.shape
        return make_camera(width, height, self.K.astype(np.float64), [], "plumb_bob")


def _weights() -> Dict[str, float]:
    return {"street": 0.40, "highway": 0.10, "nature": 0.15, "room": 0.25, "yard": 0.05, "floating": 0.05}


@dataclass(frozen=True)
class SceneConfig:
    """What is drawn, and how often; the defaults are those of the shipped weights.

    ``kinds``: weight of each kind of scene; ``complexity``: range of a factor on the number of objects;
    ``noise``: factor on all LiDAR errors (0 = a perfect, perfectly calibrated sensor).
    """

    kinds: Dict[str, float] = field(default_factory=_weights)
    complexity: Tuple[float, float] = (0.5, 1.5)
    noise: float = 1.0


DEFAULT_CONFIG = SceneConfig()
