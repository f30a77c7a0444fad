"""Where the beams of LiDARs point: spinning heads, several of them merged, rosettes, rasters, depth cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import numpy.typing as npt

from mf_training.scenes.camera import Camera
from mf_training.scenes.palette import Rng
from mf_training.scenes.shapes import turn

_MARGIN = 0.08


@dataclass(frozen=True)
class Beams:
    """Beams of one sensor (a merged roof has several origins and so several of these).

    ``origin`` (3,) world; ``true`` and ``nominal`` (N, 3) unit directions in the world: what the sensor does, and what
    its driver believes; ``ring`` (N,) int16; ``azimuth`` (N,) radians in the sweep; ``kind``, ``lines``.
    """

    origin: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]
    nominal: npt.NDArray[np.float64]
    ring: npt.NDArray[np.int16]
    azimuth: npt.NDArray[np.float64]
    kind: str
    lines: int


def elevations(kind: str) -> npt.NDArray[np.float64]:
    """Elevations of the scan lines from top to bottom, degrees."""
    if kind == "hdl64":
        return np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)])
    if kind == "pandar64":
        dense = np.arange(2.0, -6.01, -1 / 6)
        low = np.concatenate([np.arange(-7.0, -15.0, -1.0), [-19.0, -25.0]])
        high = np.array([15.0, 11.0, 8.0, 5.0, 3.0])
        return np.concatenate([high, dense, low])[:64]
    if kind == "vlp32":
        return np.array(
            [
                15,
                10.333,
                7,
                4.667,
                3.333,
                2.333,
                1.667,
                1.333,
                1,
                0.667,
                0.333,
                0,
                -0.333,
                -0.667,
                -1,
                -1.333,
                -1.667,
                -2,
                -2.333,
                -2.667,
                -3,
                -3.333,
                -3.667,
                -4,
                -4.667,
                -5.333,
                -6.148,
                -7.254,
                -8.843,
                -11.31,
                -15.639,
                -25.0,
            ]
        )
    uniform = {
        "vlp16": (15, -15, 16),
        "os1_64": (16.6, -16.6, 64),
        "os0_64": (22.5, -22.5, 64),
        "os1_32": (16.6, -16.6, 32),
        "os1_128": (22.5, -22.5, 128),
        "vls128": (15, -25, 128),
        "hdl32": (10.67, -30.67, 32),
        "os1_16": (16.6, -16.6, 16),
    }
    top, bottom, count = uniform[kind]
    return np.linspace(top, bottom, count)


SPINNING = {
    128: ("os1_128", "vls128"),
    64: ("hdl64", "hdl64", "hdl64", "os1_64", "os1_64", "os0_64", "pandar64", "pandar64"),
    32: ("vlp32", "hdl32", "os1_32"),
    16: ("vlp16", "vlp16", "os1_16"),
}


def draw_beams(camera: Camera, indoors: bool, rng: Rng) -> Tuple[Beams, ...]:
    """A random sensor beside the camera, and those of its beams that can fall into the picture."""
    yaw = np.arctan2(camera.axes[2, 1], camera.axes[2, 0])
    grid = rng.random() < (0.42 if indoors else 0.01)
    if grid:
        return (_depth_camera(camera, rng),)
    kind = rng.choice(["64", "32", "16", "roof", "solid"], p=(0.63, 0.11, 0.06, 0.11, 0.09))
    if kind == "roof" and indoors:
        kind = "64"
    if kind == "roof":
        return _roof(camera, rng, yaw)
    origin = camera.eye + turn(yaw) @ _offset(rng, indoors)
    if kind == "solid":
        return (_solid_state(camera, rng, yaw, origin),)
    lines = int(kind) if kind != "64" else int(rng.choice([64, 128], p=[0.78, 0.22]))
    names = SPINNING[lines]
    return (_spinning(camera, rng, yaw, origin, names[int(rng.integers(len(names)))]),)


def _offset(rng: Rng, indoors: bool) -> npt.NDArray[np.float64]:
    """Where the sensor sits from the camera: forward, left, up (m)."""
    if indoors or rng.random() < 0.25:
        return rng.uniform((-0.12, -0.12, -0.05), (0.08, 0.12, 0.2))
    if rng.random() < 0.7:
        # Close to the camera and a little above, as on most research cars.
        return rng.normal((-0.15, 0.0, 0.12), (0.2, 0.15, 0.12))
    return rng.uniform((-1.0, -0.8, 0.0), (1.0, 0.8, 1.2))


def _spinning(camera: Camera, rng: Rng, yaw: float, origin: npt.NDArray[np.float64], name: str) -> Beams:
    lines = elevations(name)
    step = rng.choice([0.1, 0.17, 0.2, 0.35, 0.4], p=[0.1, 0.3, 0.35, 0.15, 0.1])
    span = _half_view(camera)
    azimuth = np.radians(np.arange(-span, span, step))
    # Rings start at different azimuths, and a ring is never quite where the calibration says.
    shift = np.radians(rng.uniform(-0.5, 0.5, len(lines)) * step)
    error = np.radians(rng.normal(0, 0.012, len(lines)))
    level = turn(yaw, rng.normal(0, 0.012), rng.normal(0, 0.012))
    angle = azimuth[None] + shift[:, None]
    nominal_e = np.broadcast_to(np.radians(lines)[:, None], angle.shape)
    ring = np.broadcast_to(np.arange(len(lines), dtype=np.int16)[:, None], angle.shape)
    nominal = _directions(angle, nominal_e) @ level.T
    true = _directions(angle, nominal_e + error[:, None]) @ level.T
    return _inside(camera, Beams(origin, true, nominal, ring.reshape(-1), angle.reshape(-1), name, len(lines)))


def _roof(camera: Camera, rng: Rng, yaw: float) -> Tuple[Beams, ...]:
    """Several dense LiDARs on one roof, merged into one cloud without scan lines."""
    lift, beams = rng.uniform(0.1, 1.2), []
    for _k in range(int(rng.integers(2, 5))):
        origin = camera.eye + turn(yaw) @ np.array(
            [rng.uniform(-1, 0.6), rng.uniform(-0.8, 0.8), lift + rng.normal(0, 0.05)]
        )
        lines = np.linspace(12, -20, int(rng.integers(24, 48))) + rng.normal(0, 0.2)
        span, step = _half_view(camera), rng.uniform(0.15, 0.4)
        angle = np.radians(np.arange(-span, span, step))[None] + np.radians(
            rng.uniform(-0.5, 0.5, (len(lines), 1)) * step
        )
        tilt = turn(yaw, rng.normal(0, 0.08), rng.normal(0, 0.12))
        directions = _directions(angle, np.broadcast_to(np.radians(lines)[:, None], angle.shape)) @ tilt.T
        ring = np.full(directions.shape[0], -1, np.int16)
        beams.append(_inside(camera, Beams(origin, directions, directions, ring, angle.reshape(-1), "roof", 0)))
    return tuple(beams)


def _solid_state(camera: Camera, rng: Rng, yaw: float, origin: npt.NDArray[np.float64]) -> Beams:
    """A rosette (non-repeating) or a raster (bent scan lines) with a limited field of view."""
    count = int(rng.integers(6000, 24000))
    if rng.random() < 0.55:
        t = np.arange(count) / count
        # Two turning prisms draw petals.
        r, turns = np.radians(rng.uniform(18, 35)), rng.uniform(40, 90)
        a, c = 2 * np.pi * turns * t, 2 * np.pi * turns * t * rng.uniform(-1.7, -0.55)
        azimuth, elevation = r * (np.cos(a) + np.cos(c)) / 2 * rng.uniform(1.0, 1.8), r * (np.sin(a) + np.sin(c)) / 2
        name, lines = "rosette", 0
        ring = np.full(count, -1, np.int16)
    else:
        lines = int(rng.choice([48, 64, 96, 126]))
        columns = count // lines
        line, column = np.meshgrid(np.arange(lines), np.arange(columns), indexing="ij")
        azimuth = np.radians(rng.uniform(30, 60)) * (2 * column / (columns - 1) - 1)
        elevation = np.radians(12.5) * (1 - 2 * line / (lines - 1)) - 0.05 * azimuth**2 * rng.uniform(-1, 1)
        azimuth, elevation, ring = azimuth.reshape(-1), elevation.reshape(-1), line.reshape(-1).astype(np.int16)
        name = "raster"
    directions = _directions(azimuth, elevation) @ turn(yaw, rng.normal(0.03, 0.03), rng.normal(0, 0.02)).T
    return _inside(camera, Beams(origin, directions, directions, ring, azimuth, name, lines))


def _depth_camera(camera: Camera, rng: Rng) -> Beams:
    """A depth camera a few centimetres beside: a dense regular grid, or a coarse one as in phones."""
    height, width = camera.size
    coarse = rng.random() < 0.35
    step = rng.uniform(8, 28) if coarse else rng.uniform(2.0, 5.0)
    v, u = np.meshgrid(
        np.arange(rng.uniform(0, step), height, step), np.arange(rng.uniform(0, step), width, step), indexing="ij"
    )
    x, y = (u.reshape(-1) - camera.K[0, 2]) / camera.K[0, 0], (v.reshape(-1) - camera.K[1, 2]) / camera.K[1, 1]
    rays = np.stack([x, y, np.ones_like(x)], 1)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    directions = rays @ camera.axes
    origin = camera.eye + camera.axes.T @ np.array(
        [rng.choice([-1, 1]) * rng.uniform(0.01, 0.08), rng.normal(0, 0.01), 0.0]
    )
    ring = np.full(len(directions), -1, np.int16)
    return Beams(
        origin, directions, directions, ring, np.zeros(len(directions)), "dtof" if coarse else "depth_camera", 0
    )


def _directions(azimuth: npt.NDArray[np.float64], elevation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    c = np.cos(elevation)
    return np.stack([c * np.cos(azimuth), c * np.sin(azimuth), np.sin(elevation)], -1).reshape(-1, 3)


def _half_view(camera: Camera) -> float:
    """Degrees left and right of the heading that can fall into the picture."""
    left = camera.K[0, 2] / camera.K[0, 0]
    right = (camera.size[1] - camera.K[0, 2]) / camera.K[0, 0]
    return float(min(80.0, np.degrees(np.arctan(max(left, right))) + 15.0))


def _inside(camera: Camera, beams: Beams) -> Beams:
    """Only the beams that fall into the picture, with a margin, at some distance of 2 m or more."""
    keep = np.zeros(len(beams.true), bool)
    height, width = camera.size
    for distance in (2.0, 5.0, 20.0, 200.0):
        seen = (beams.origin + distance * beams.true - camera.eye) @ camera.axes.T
        with np.errstate(divide="ignore", invalid="ignore"):
            u = camera.K[0, 0] * seen[:, 0] / seen[:, 2] + camera.K[0, 2]
            v = camera.K[1, 1] * seen[:, 1] / seen[:, 2] + camera.K[1, 2]
        inside = (
            (u > -_MARGIN * width)
            & (u < (1 + _MARGIN) * width)
            & (v > -_MARGIN * height)
            & (v < (1 + _MARGIN) * height)
        )
        keep |= inside & (seen[:, 2] > 0.1)
    keep &= beams.true @ camera.axes[2] > 0.1
    return Beams(
        beams.origin,
        beams.true[keep],
        beams.nominal[keep],
        beams.ring[keep],
        beams.azimuth[keep],
        beams.kind,
        beams.lines,
    )
