"""One simulated moment on a street: a full 64-ring sweep, of 120,000 returns unless asked otherwise, and an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.types import ByteArray, CameraPoints, FloatArray
from mf_ros.errors import ConfigError
from mf_ros.simulate.geometry import Cone, Ground, Solid, box
from mf_ros.simulate.raycast import cast_rays, tile_order

WIDTH, HEIGHT = 1242, 375
RINGS, COLUMNS = 64, 1875
_ELEVATION_DEG = (2.0, -24.8)
_LIDAR_HEIGHT_M = 1.73
# Camera below, before and beside the LiDAR, which therefore sees past edges that the camera does not.
_CAMERA_IN_LIDAR_M = (0.3, 0.3, -0.5)
# Rows: x, y, z of the optical frame (REP 103) in a frame with x forward, y left, z up.
_OPTICAL_AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class Street:
    """What the benchmarks work on.

    Attributes:
        camera: pinhole camera, 1242 x 375 unless cropped.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, true depth of every pixel.
        points: all returns of the sweep in the optical frame, with rings.
    """

    camera: CameraModel
    image: ByteArray
    depth: FloatArray
    points: CameraPoints


def make_street(columns: int = COLUMNS) -> Street:
    """Cast the rays of the LiDAR and of the camera into a street canyon, where every ray meets something.

    Args:
        columns: of the sweep, which has 64 rings.
    """
    rng = np.random.default_rng(0)
    solids = _solids(rng)
    camera = make_camera(WIDTH, HEIGHT, [721.5, 0.0, 609.6, 0.0, 721.5, 172.9, 0.0, 0.0, 1.0], [], "")
    lidar = np.array([0.0, 0.0, _LIDAR_HEIGHT_M])
    eye = lidar + _CAMERA_IN_LIDAR_M

    elevation = np.radians(np.linspace(*_ELEVATION_DEG, RINGS))[:, None]
    azimuth = np.linspace(np.pi, -np.pi, columns, endpoint=False)[None, :]
    directions = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation) + 0 * azimuth], -1
    ).reshape(-1, 3)
    order = tile_order(RINGS, columns)
    hits = cast_rays(solids, lidar.astype(np.float32), directions[order].astype(np.float32))
    distance = np.empty(len(order), np.float32)
    distance[order] = hits.t
    # 2 cm of range noise, as such sensors have.
    distance += rng.normal(0.0, 0.02, len(distance)).astype(np.float32)
    world = lidar + directions * distance[:, None]
    points = ((world - eye) @ _OPTICAL_AXES.T).astype(np.float32)
    ring = np.repeat(np.arange(RINGS, dtype=np.int32), columns)

    rays = camera.rays().reshape(-1, 3).astype(np.float64)
    length = np.linalg.norm(rays, axis=1)
    tiles = tile_order(HEIGHT, WIDTH)
    seen = cast_rays(
        solids, eye.astype(np.float32), ((rays / length[:, None]) @ _OPTICAL_AXES)[tiles].astype(np.float32)
    )
    depth = np.empty(len(tiles), np.float32)
    depth[tiles] = seen.t / length[tiles]
    solid = np.empty(len(tiles), np.int64)
    solid[tiles] = seen.solid
    colours = rng.integers(40, 220, (len(solids), 3))
    image = np.clip(colours[solid] + rng.normal(0.0, 4.0, (len(tiles), 3)), 0, 255).astype(np.uint8)
    return Street(
        camera,
        image.reshape(HEIGHT, WIDTH, 3),
        depth.reshape(HEIGHT, WIDTH),
        CameraPoints(points, ring, np.zeros(len(points), np.uint8)),
    )


def cropped(street: Street, width: int, height: int) -> Street:
    """The lower middle of the image, as KITTI's depth completion crops its images, with the same sweep.

    Raises:
        ConfigError: the image is smaller than that, or nothing would be left of it.
    """
    left, top = (street.camera.width - width) // 2, street.camera.height - height
    if left < 0 or top < 0 or min(width, height) < 1:
        raise ConfigError(
            f"There is no crop of {width}x{height}: the street is {street.camera.width}x{street.camera.height} pixels."
        )
    shift = np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    camera = make_camera(width, height, street.camera.K - shift, [], "")
    kept = np.s_[top : top + height, left : left + width]
    return Street(
        camera, np.ascontiguousarray(street.image[kept]), np.ascontiguousarray(street.depth[kept]), street.points
    )


def scaled(street: Street, pixels: float) -> Street:
    """The same view by a camera of about so many pixels, with the same sweep."""
    factor = (pixels / (street.camera.width * street.camera.height)) ** 0.5
    size = (round(street.camera.width * factor), round(street.camera.height * factor))
    return Street(
        street.camera.resized(*size),
        np.asarray(cv2.resize(street.image, size, interpolation=cv2.INTER_LINEAR), np.uint8),
        np.asarray(cv2.resize(street.depth, size, interpolation=cv2.INTER_NEAREST), np.float32),
        street.points,
    )


def _solids(rng: np.random.Generator) -> List[Solid]:
    solids: List[Solid] = [Ground()]
    solids += [box((0.0, side * 14.0, 15.0), (300.0, 8.0, 30.0)) for side in (-1.0, 1.0)]
    solids += [box((end * 90.0, 0.0, 15.0), (8.0, 300.0, 30.0)) for end in (-1.0, 1.0)]
    for x in np.arange(-60.0, 70.0, 11.0):
        for side in (-6.5, 6.5):
            solids.append(box((x + rng.uniform(-2, 2), side, 0.75), (4.3, 1.8, 1.5), yaw=rng.uniform(-0.1, 0.1)))
        side = rng.choice((-8.5, 8.5))
        solids.append(Cone((x + 5.0, side, 0.0), (x + 5.0, side, 7.0), 0.12))
    solids.append(box((18.0, 1.0, 0.8), (4.3, 1.8, 1.6), yaw=0.2))
    return solids
