"""The camera: a picture cut out of a larger sensor, and its rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import numpy.typing as npt

from mf_training.scenes.caster import View
from mf_training.scenes.palette import Rng
from mf_training.scenes.shapes import turn
from mf_training.scenes.world import World

TILE = 16
# Optical axes (right, down, forward) of a camera whose body looks along x.
_OPTICAL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Camera:
    """``K`` (3, 3); ``size`` (H, W); ``axes`` (3, 3) rows right, down, forward in the world; ``eye`` (3,) metres."""

    K: npt.NDArray[np.float64]
    size: Tuple[int, int]
    axes: npt.NDArray[np.float64]
    eye: npt.NDArray[np.float64]

    def view(self) -> View:
        """The projection in which the caster finds outlines: coordinates x / z, y / z."""
        return View(self.axes, self.eye)


def draw_camera(world: World, rng: Rng, size: Tuple[int, int]) -> Camera:
    """A camera of the world with a random lens and cut-out."""
    height, width = size
    if world.indoors:
        focal = width / 512 * float(np.exp(rng.uniform(np.log(300), np.log(650))))
        cx = width / 2 + rng.normal(0, 0.12) * width
        cy = height / 2 + rng.normal(0, 0.1) * height
    else:
        focal = width / 512 * float(np.exp(rng.triangular(np.log(350), np.log(750), np.log(1250))))
        # The whole sensor sees 50 to 100 degrees; the window lies anywhere across it, and mostly below the horizon.
        sensor = max(width, 2 * focal * np.tan(np.radians(rng.uniform(25, 48))))
        cx = sensor / 2 - rng.uniform(0, sensor - width)
        cy = height * (rng.uniform(0.22, 0.6) if rng.random() < 0.9 else rng.uniform(0.4, 0.75))
    K = np.array([[focal, 0, cx], [0, focal * rng.normal(1, 0.003), cy], [0, 0, 1]])
    yaw, pitch, roll = world.angles
    return Camera(K.astype(np.float32).astype(np.float64), size, _OPTICAL @ turn(yaw, pitch, roll).T, world.eye)


def pixel_rays(camera: Camera) -> Tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Unit directions in the world of all pixels (3, H, W), and the cosine to the optical axis (H, W)."""
    height, width = camera.size
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    x, y = (u - camera.K[0, 2]) / camera.K[0, 0], (v - camera.K[1, 2]) / camera.K[1, 1]
    rays = np.stack([x, y, np.ones_like(x)])
    length = np.sqrt((rays**2).sum(0))
    world = np.einsum("ij,ihw->jhw", camera.axes, rays / length)
    return world.astype(np.float32), (1.0 / length).astype(np.float32)


def to_tiles(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(C, H, W) as (C, tiles, TILE * TILE); H and W are multiples of TILE."""
    c, h, w = image.shape
    tiles = image.reshape(c, h // TILE, TILE, w // TILE, TILE).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(tiles).reshape(c, -1, TILE * TILE)


def from_tiles(values: npt.NDArray[np.float32], size: Tuple[int, int]) -> npt.NDArray[np.float32]:
    """Undo ``to_tiles`` for (tiles, TILE * TILE)."""
    h, w = size[0] // TILE, size[1] // TILE
    return values.reshape(h, w, TILE, TILE).transpose(0, 2, 1, 3).reshape(size)


def perspective_rects(
    camera_axes: npt.NDArray[np.float64], directions: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(T, 6) outlines of tiles of directions (3, T, n), all ahead: lowest and highest x / z, then y / z."""
    seen = np.einsum("ij,jtn->itn", camera_axes.astype(np.float32), directions)
    u, v = seen[0] / seen[2], seen[1] / seen[2]
    zero = np.zeros(len(u[:, 0]), np.float32)
    return np.stack([u.min(1), u.max(1), v.min(1), v.max(1), zero, zero], 1)
