"""What LiDARs report: noise, mixed pixels at edges, drop-outs, glass, ghosts, wrong calibration, motion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence, Tuple

import numpy as np
import numpy.typing as npt

from mf_training.scenes.camera import Camera
from mf_training.scenes.palette import Rng
from mf_training.scenes.patterns import Beams
from mf_training.scenes.shapes import turn
from mf_training.scenes.types import LidarScan

Array = npt.NDArray[np.float64]
# Beams of a spinning sensor spread by about this angle (radians).
_SPREAD = 0.0022
_PROBED = 0.3


@dataclass(frozen=True)
class Echoes:
    """What beams met: ``range`` (N,) metres, inf = nothing; ``incidence`` cosine; ``reflectivity``; ``glass``."""

    range: Array
    incidence: Array
    reflectivity: Array
    glass: npt.NDArray[np.bool_]


def probes(beams: Beams, rng: Rng) -> Tuple[Beams, npt.NDArray[np.int64]]:
    """Second beams, beside some of the first within their spread, for what a wide beam meets at an edge."""
    chosen = np.flatnonzero(rng.random(len(beams.true)) < _PROBED)
    turned = beams.true[chosen] + rng.normal(0, _SPREAD / 2, (len(chosen), 3))
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return replace(beams, true=turned, nominal=turned, ring=beams.ring[chosen], azimuth=beams.azimuth[chosen]), chosen


@dataclass(frozen=True)
class Faults:
    """How good one sweep is; drawn once, shared by all sensors of a roof.

    ``sigma`` m, ``relative`` of range; ``far`` m; ``ghosts`` share; ``bias`` m, of each laser; ``rotation`` (3, 3),
    ``shift`` (3,) m: error of the calibration; ``velocity`` (3,) m/s, ``spin`` rad/s: motion that
    was not taken out of the sweep.
    """

    sigma: float
    relative: float
    far: float
    drop: float
    ghosts: float
    mixed: float
    bias: float
    rotation: Array
    shift: Array
    velocity: Array
    spin: float


def draw_faults(kind: str, rng: Rng, strength: float) -> Faults:
    """Random quality of a sweep; ``strength`` 0 = perfect."""
    close = kind in ("depth_camera", "dtof")
    calibrated = rng.random() < 0.3
    angle = np.radians(rng.uniform(0, 0.3)) * strength * (0 if calibrated else 1)
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    shift = rng.uniform(-0.03, 0.03, 3) * strength * (0 if calibrated else 1) * (0.2 if close else 1)
    moving = rng.random() < 0.35 and not close
    velocity = np.array([rng.uniform(0, 12), rng.normal(0, 0.3), 0.0]) * (strength if moving else 0)
    return Faults(
        sigma=strength * (rng.uniform(0.001, 0.006) if close else rng.uniform(0.003, 0.02)),
        relative=strength * (rng.uniform(0.001, 0.004) if close else rng.uniform(0.0, 0.001)),
        far=float(rng.uniform(5.0, 12.0) if close else rng.uniform(60, 120)),
        drop=strength * float(rng.uniform(0.3, 1.5)),
        ghosts=strength * float(rng.choice([0.0, rng.uniform(0, 0.004)])),
        mixed=strength * float(rng.uniform(0.1, 0.7)),
        bias=strength * float(0.0 if close else rng.uniform(0.0, 0.025)),
        rotation=_rotation(axis * angle),
        shift=shift,
        velocity=velocity,
        spin=float(rng.normal(0, 0.1)) * (strength if moving else 0),
    )


def _rotation(vector: Array) -> Array:
    x, y, z = vector
    return turn(z) @ turn(0, y) @ turn(0, 0, x)


def measured(
    echoes: Echoes, second: Echoes, of: npt.NDArray[np.int64], beams: Beams, faults: Faults, rng: Rng
) -> Array:
    """(N,) reported ranges in metres; inf = no return."""
    close = beams.kind in ("depth_camera", "dtof")
    r = echoes.range.copy()
    count = len(r)
    _mix_edges(r, second, of, close, faults, rng)
    strength = _signal(r, echoes, faults.far, close)
    lost = rng.random(count) < np.clip(faults.drop * strength, 0.0, 1.0)
    glass = echoes.glass & (rng.random(count) < min(1.0, faults.drop * 1.5))
    through = glass & (rng.random(count) < 0.12)
    # A beam through a window comes back from inside, or not at all.
    r[through] += rng.uniform(0.3, 2.0, int(through.sum()))
    r[(glass & ~through) | lost] = np.inf
    known = np.where(np.isfinite(r), r, 0.0)
    sigma = faults.sigma + faults.relative * known * (known if close else 1.0)
    r = r + rng.standard_normal(count) * np.where(np.isfinite(r), sigma, 0.0)
    r = r + rng.normal(0, faults.bias, beams.lines + 1)[beams.ring]
    ghost = np.flatnonzero(rng.random(count) < faults.ghosts)
    r[ghost] *= np.exp(rng.normal(0, 0.4, len(ghost)))
    r[(r < (0.3 if close else 0.7)) | (r > faults.far * 1.05)] = np.inf
    return r


def _mix_edges(r: Array, second: Echoes, of: npt.NDArray[np.int64], close: bool, faults: Faults, rng: Rng) -> None:
    """Change ranges of beams whose spread reaches another surface, in place."""
    a, b = r[of].copy(), second.range
    both = np.isfinite(a) & np.isfinite(b)
    # Without two surfaces there is nothing to mix.
    old, a, b = a, np.where(both, a, 0.0), np.where(both, b, 0.0)
    gap = np.abs(a - b)
    edge = both & (gap > 0.03 * np.minimum(a, b) + 0.1)
    edge &= rng.random(len(of)) < faults.mixed
    between = edge & (gap < (1.5 if close else 2.5)) & (rng.random(len(of)) < 0.6)
    part = rng.random(len(of))
    either = np.where(rng.random(len(of)) < 0.6, np.minimum(a, b), np.maximum(a, b))
    result = np.where(between, a + part * (b - a), np.where(edge, either, old))
    if close:
        # Depth cameras give nothing at edges more often than something wrong.
        result = np.where(edge & (rng.random(len(of)) < 0.8), np.inf, result)
    r[of] = result


def _signal(r: Array, echoes: Echoes, far: float, close: bool) -> Array:
    """Chance to lose a return: grazing, far and dark surfaces come back weakly."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.where(np.isfinite(r), r, far)
        power = (
            echoes.reflectivity
            * np.clip(echoes.incidence, 0.02, 1.0)
            * (far / np.maximum(distance, 1.0)) ** (2 if not close else 1)
        )
        need = 0.05 if close else 0.16
        weak = 1.0 / (1.0 + (power / need) ** 2)
        return weak + 0.01 + (0.4 * (echoes.incidence < 0.12) if close else 0.0)


def to_scan(beams: Sequence[Beams], ranges: Sequence[Array], camera: Camera, faults: Faults) -> LidarScan:
    """The sweep in the camera's optical frame by the nominal calibration."""
    parts, rings = [], []
    for head, r in zip(beams, ranges, strict=True):
        ok = np.isfinite(r)
        offset = (head.origin - camera.eye) @ camera.axes.T
        local = (head.nominal[ok] * r[ok, None]) @ camera.axes.T
        # The time within the turn, from the middle of the picture.
        time = (head.azimuth[ok] / (2 * np.pi) * 0.1)[:, None]
        velocity = camera.axes @ np.array([faults.velocity[0], faults.velocity[1], 0.0])
        swing = np.concatenate([faults.spin * time * local[:, 2:], 0 * time, -faults.spin * time * local[:, :1]], 1)
        points = (local + offset) @ faults.rotation.T + faults.shift - velocity * time + swing
        parts.append(points.astype(np.float32))
        rings.append(head.ring[ok])
    points, ring = np.concatenate(parts), np.concatenate(rings)
    ahead = points[:, 2] > 0.1
    return LidarScan(points[ahead], ring[ahead], beams[0].kind, beams[0].lines)
