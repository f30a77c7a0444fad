"""A world before anything looks at it: primitives, ground, light, and where the camera stands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mf_training.scenes.appearance import Light
from mf_training.scenes.palette import Rng
from mf_training.scenes.shapes import Builder, Ground, Material, Table


@dataclass(frozen=True)
class World:
    """``eye`` (3,) and ``yaw, pitch, roll`` pose the camera (radians, body axes: x forward, nose down positive)."""

    table: Table
    ground: Ground
    light: Light
    eye: npt.NDArray[np.float64]
    angles: npt.NDArray[np.float64]
    indoors: bool


def rolling(rng: Rng, heights: float, lengths: tuple[float, float], count: int) -> npt.NDArray[np.float32]:
    """(count, 4) waves of the ground: longer ones are higher."""
    length = np.exp(rng.uniform(*np.log(lengths), count))
    angle = rng.uniform(0, 2 * np.pi, count)
    k = 2 * np.pi / length
    amplitude = heights * rng.uniform(0.3, 1.0, count) * (length / lengths[1])
    return np.stack([k * np.cos(angle), k * np.sin(angle), rng.uniform(0, 6.28, count), amplitude], 1).astype(
        np.float32
    )


class Road:
    """A road of constant curvature: places by distance along it and to its left."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.half, self.offset, self.lane, self.curvature, self.heading = ground.lanes

    def place(self, along: float, left: float, lift: float = 0.0) -> tuple[float, float, float]:
        """World position on the ground at ``left`` metres from the middle of the road."""
        side = left + self.offset + 0.5 * self.curvature * along * along
        c, s = np.cos(self.heading), np.sin(self.heading)
        x, y = c * along - s * side, s * along + c * side
        return float(x), float(y), self.ground.height(float(x), float(y)) + lift

    def direction(self, along: float) -> float:
        """Heading of the road, radians."""
        return float(self.heading + np.arctan(self.curvature * along))


def daylight(rng: Rng) -> Light:
    """Sun and sky: clear, overcast, low sun, dusk."""
    azimuth, mood = rng.uniform(0, 2 * np.pi), rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))
    height = {0: rng.uniform(0.4, 1.2), 1: rng.uniform(0.5, 1.2), 2: rng.uniform(0.12, 0.4), 3: 0.15}[int(mood)]
    sun = (np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height))
    strength = {0: rng.uniform(1.2, 2.6), 1: rng.uniform(0.0, 0.3), 2: rng.uniform(0.8, 2.0), 3: 0.05}[int(mood)]
    warm = np.array([1.0, 0.93, 0.82]) if mood != 2 else np.array([1.0, 0.8, 0.55])
    above = np.array([0.42, 0.5, 0.62]) * rng.uniform(0.5, 1.1) if mood in (0, 2) else np.full(3, rng.uniform(0.5, 0.9))
    if mood == 3:
        above = np.array([0.2, 0.24, 0.34]) * rng.uniform(0.2, 0.7)
    below = above * rng.uniform(0.25, 0.5) * np.array([1.0, 0.95, 0.85])
    zenith = above * (np.array([0.55, 0.8, 1.3]) if mood == 0 else 1.1) * rng.uniform(0.9, 1.6)
    horizon = above * rng.uniform(1.2, 2.4)
    visibility = float(np.exp(rng.uniform(np.log(100), np.log(1000)))) if rng.random() < 0.18 else 4000.0
    return Light(
        _triple(sun),
        _triple(warm * strength),
        _triple(above),
        _triple(below),
        3.0 / visibility,
        _triple(horizon * 0.85),
        _triple(zenith),
        _triple(horizon),
        float(rng.uniform(0, 1.0) if mood != 1 else 1.3),
    )


def lamplight(rng: Rng) -> Light:
    """Light of a room: mostly from everywhere, a direction from the ceiling or a window."""
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.4)
    tint = np.array([1.0, rng.uniform(0.8, 1.0), rng.uniform(0.6, 1.0)])
    level = float(np.exp(rng.normal(0, 0.3)))
    sun = (np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height))
    above, below = tint * 0.55 * level, tint * level * rng.uniform(0.2, 0.4)
    return Light(
        _triple(sun),
        _triple(tint * level * rng.uniform(0.2, 0.8)),
        _triple(above),
        _triple(below),
        0.0,
        (0.5, 0.5, 0.5),
        _triple(above),
        _triple(above * 1.5),
        0.3,
    )


def _triple(values: object) -> tuple[float, float, float]:
    a, b, c = np.asarray(values, np.float64).tolist()
    return (a, b, c)


def no_ground() -> Ground:
    """Nothing below."""
    return Ground(False, (0.0, 0.0), np.zeros((1, 4), np.float32), Material(), Material())


def finish(builder: Builder, ground: Ground, light: Light, eye: object, angles: object, indoors: bool = False) -> World:
    """The world of what was built."""
    return World(builder.table(), ground, light, np.asarray(eye, np.float64), np.asarray(angles, np.float64), indoors)
