"""Times of day: the colours of sun, sky and haze, and how the camera is set for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Literal

import numpy as np

from mf_ros.core.types import FloatArray
from mf_ros.errors import ConfigError
from mf_ros.simulate.scene import Scene
from mf_ros.simulate.textures import NoiseTile

LightName = Literal["day", "dusk"]
SkyColour = Callable[[FloatArray, FloatArray, NoiseTile], FloatArray]
"""(N, 3) linear RGB of the sky along unit directions (N, 3), for a unit vector to the sun and the scene's noise."""


def _rgb(r: float, g: float, b: float) -> FloatArray:
    return np.array([r, g, b], np.float32)


@dataclass(frozen=True)
class Light:
    """What a time of day looks like; colours are (3,) float32 linear RGB.

    Attributes:
        sun: irradiance of the sun on a surface that faces it.
        ambient: irradiance of the open sky from above.
        bounce: light that the ground and the houses throw back.
        haze: what the distance fades into.
        facade: what a level mirror shows: the houses across the street.
        sky: the sky's colour by direction.
        veiled: the sun is behind haze: its light has no sharp edges.
        lamps: how brightly windows and street lamps shine; 0 when they are off.
        exposure: gain of the camera.
        noise: variance of the sensor in the dark, and per unit of brightness; full scale is 1.
        edge_rays: rays that a pixel on an edge gets besides its own, 2 or 4; noise hides what fewer leave rough.
        grain: standard deviation of the blur that the noise gets in the camera, pixels; 0 is none.
    """

    sun: FloatArray
    ambient: FloatArray
    bounce: FloatArray
    haze: FloatArray
    facade: FloatArray
    sky: SkyColour
    veiled: bool = False
    lamps: float = 0.0
    exposure: float = 0.62
    noise: tuple[float, float] = (0.000002, 0.00014)
    grain: float = 0.0
    edge_rays: int = 4


_DAY_HAZE, _DAY_ZENITH = _rgb(0.86, 0.94, 1.03), _rgb(0.17, 0.37, 0.86)
_DUSK_ZENITH, _DUSK_GLOW, _DUSK_AWAY = _rgb(0.035, 0.065, 0.15), _rgb(0.95, 0.4, 0.13), _rgb(0.14, 0.13, 0.19)


def _day_sky(directions: FloatArray, sun: FloatArray, noise: NoiseTile) -> FloatArray:
    up = np.clip(directions[:, 2], 0, 1)
    toward = np.clip(directions @ sun, 0, 1)
    fade = np.exp(-up * np.float32(4.0))[:, None]
    colour = _DAY_ZENITH * (1 - fade) + _DAY_HAZE * fade
    colour += (0.25 * toward**6 + 1.2 * toward**200 + 25 * (toward > 0.99965))[:, None] * _rgb(1.0, 0.9, 0.7)
    clouds = _clouds(directions, up, noise) + np.float32(0.1)
    cover = np.clip(clouds * np.float32(1.3) - np.float32(0.05), 0, 1) * np.clip(up * 9, 0, 1)
    shade = np.clip(1.12 - 0.3 * clouds, 0.7, 1.15)[:, None] * _rgb(1.02, 1.0, 0.98)
    mix = (cover * np.float32(0.9))[:, None]
    return np.asarray(colour * (1 - mix) + shade * mix, dtype=np.float32)


def _dusk_sky(directions: FloatArray, sun: FloatArray, noise: NoiseTile) -> FloatArray:
    up = np.clip(directions[:, 2], 0, 1)
    toward = np.clip(directions @ sun, 0, 1)
    level = np.linalg.norm(directions[:, :2], axis=1) * np.linalg.norm(sun[:2]) + np.float32(1e-6)
    # 1 above the place where the sun goes down, 0 opposite of it.
    west = (0.5 + 0.5 * (directions[:, :2] @ sun[:2]) / level)[:, None]
    horizon = _DUSK_AWAY * (1 - west**2) + _DUSK_GLOW * west**2
    fade = np.exp(-up * (5.5 - 2.0 * west[:, 0]))[:, None]
    colour = _DUSK_ZENITH * (1 - fade) + horizon * fade
    colour += (0.35 * toward**8 + 0.9 * toward**60)[:, None] * _rgb(1.0, 0.55, 0.22)
    cover = np.clip(_clouds(directions, up, noise) * np.float32(1.2), 0, 1) * np.clip(up * 7, 0, 1)
    lit = _rgb(0.075, 0.08, 0.115) + (0.5 * west**3 * np.exp(-3 * up)[:, None]) * _rgb(1.0, 0.42, 0.22)
    mix = (cover * np.float32(0.75))[:, None]
    return np.asarray(colour * (1 - mix) + lit * mix, dtype=np.float32)


def _clouds(directions: FloatArray, up: FloatArray, noise: NoiseTile) -> FloatArray:
    height = np.maximum(up, 0.03) + np.float32(0.06)
    u, v = directions[:, 0] / height, directions[:, 1] / height
    return noise.fractal(u + 5, v, 1.3, np.float32(0.01) / height, 5)


DAY = Light(
    sun=_rgb(3.5, 3.1, 2.55),
    ambient=_rgb(0.62, 0.8, 1.12),
    bounce=_rgb(0.3, 0.27, 0.22),
    haze=_DAY_HAZE,
    facade=_rgb(0.17, 0.155, 0.14),
    sky=_day_sky,
)
DUSK = Light(
    sun=_rgb(0.5, 0.24, 0.09),
    ambient=_rgb(0.13, 0.16, 0.25),
    bounce=_rgb(0.03, 0.027, 0.026),
    haze=_rgb(0.2, 0.17, 0.19),
    facade=_rgb(0.03, 0.03, 0.035),
    sky=_dusk_sky,
    veiled=True,
    lamps=1.0,
    exposure=1.15,
    noise=(0.00004, 0.0009),
    grain=0.6,
    edge_rays=2,
)

_DUSK_ELEVATION = 0.12
_DUSK_HAZE_M = 150.0


def lit_scene(scene: Scene, light: LightName) -> tuple[Scene, Light]:
    """A scene at a time of day: by day as it is, at dusk with a low sun, nearer to the street's line, and more haze.

    Raises:
        ConfigError: the time of day is unknown.
    """
    if light == "day":
        return scene, DAY
    if light != "dusk":
        raise ConfigError(f"Unknown light '{light}': use 'day' or 'dusk'.")
    azimuth = 0.5 * np.arctan2(scene.sun[1], scene.sun[0])
    flat = np.cos(_DUSK_ELEVATION)
    sun = np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(_DUSK_ELEVATION)], np.float32)
    return replace(scene, sun=sun, haze_m=min(scene.haze_m, _DUSK_HAZE_M)), DUSK
