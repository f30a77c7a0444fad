"""Projection, z-buffer, and removal of returns that the camera cannot see."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest

from mf_ros.core.camera import make_camera
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import project_points, rasterize_nearest, to_sparse_depth
from mf_ros.core.types import CameraPoints

CAMERA = make_camera(640, 360, [500.0, 0, 319.5, 0, 500.0, 179.5, 0, 0, 1], [], "plumb_bob")
KEEP_ALL = ProjectionConfig(cull_hidden=False)


def as_points(xyz: np.ndarray) -> CameraPoints:
    return CameraPoints(np.asarray(xyz, np.float32), None, np.zeros(len(xyz), np.uint8))


def scan(
    depth_at: Callable[[np.ndarray, np.ndarray], float], offset: tuple[float, float, float], gap_deg: float = 0.6
) -> np.ndarray:
    """Returns of a spinning LiDAR at ``offset`` from the camera; ``depth_at(x, y)`` is a function of the direction."""
    elevation, azimuth = np.meshgrid(np.radians(np.arange(-18, 18, gap_deg)), np.radians(np.arange(-32, 32, 0.2)))
    rays = np.stack([np.tan(azimuth), -np.tan(elevation) / np.cos(azimuth), np.ones_like(azimuth)], -1).reshape(-1, 3)
    origin = np.asarray(offset)
    return np.stack([origin + ray * depth_at(origin, ray) for ray in rays])


def box_before_wall(origin: np.ndarray, ray: np.ndarray) -> float:
    """Distance along a ray to a 2 m x 1.4 m box face 6 m away, else to a wall 20 m away."""
    near = (6.0 - origin[2]) / ray[2]
    x, y = origin[0] + near * ray[0], origin[1] + near * ray[1]
    return near if abs(x) < 1.0 and abs(y) < 0.7 else (20.0 - origin[2]) / ray[2]


def test_a_point_lands_on_its_pixel_with_its_z_and_not_its_range() -> None:
    returns = project_points(as_points([[1.0, -0.5, 4.0]]), CAMERA, KEEP_ALL)
    assert returns.uv[0] == pytest.approx([319.5 + 500 * 0.25, 179.5 - 500 * 0.125])
    assert returns.z[0] == 4.0


def test_points_behind_or_outside_the_image_are_left_out_and_the_index_tells_which_stayed() -> None:
    points = [[0, 0, -3], [0, 0, 3], [9, 0, 3], [0, 9, 3], [0.1, 0, 2], [np.nan, 0, 1]]
    returns = project_points(as_points(np.array(points)), CAMERA, KEEP_ALL)
    assert returns.index.tolist() == [1, 4]


def test_every_return_inside_rounds_to_a_pixel_of_the_image() -> None:
    rng = np.random.default_rng(0)
    z = rng.uniform(1, 50, 20_000)
    # Aimed at the very border, where rounding decides.
    u = np.where(rng.random(20_000) < 0.5, -0.5, 639.5) + rng.normal(0, 1e-6, 20_000)
    x = (u - 319.5) / 500 * z
    returns = project_points(as_points(np.stack([x, 0 * z, z], 1)), CAMERA, KEEP_ALL)
    rows, cols = returns.pixels()
    assert len(returns) > 1000
    assert cols.min() >= 0 and cols.max() <= 639 and rows.min() >= 0 and rows.max() <= 359


def test_the_nearest_of_several_returns_in_a_pixel_wins() -> None:
    depth = rasterize_nearest(np.array([1, 1, 1]), np.array([2, 2, 2]), np.array([5, 3, 4], np.float32), (4, 4))
    assert depth[1, 2] == 3.0
    assert np.count_nonzero(depth) == 1


def test_returns_seen_past_a_near_box_do_not_survive() -> None:
    """A LiDAR half a metre above and beside the camera sees wall that the box hides from the camera."""
    returns = project_points(as_points(scan(box_before_wall, (0.4, -0.5, 0.0))), CAMERA, ProjectionConfig())
    x, y = (returns.uv[:, 0] - 319.5) / 500 * 6.0, (returns.uv[:, 1] - 179.5) / 500 * 6.0
    behind_box = (np.abs(x) < 0.95) & (np.abs(y) < 0.65) & (returns.z > 10)
    assert behind_box.sum() > 100, "the scene must pose the problem"
    assert (~returns.visible[behind_box]).mean() > 0.9
    sparse = to_sparse_depth(returns, CAMERA)
    assert sparse.hidden == (~returns.visible).sum()
    assert sparse.count == np.count_nonzero(sparse.depth)


def test_what_the_camera_sees_is_kept() -> None:
    returns = project_points(as_points(scan(box_before_wall, (0.4, -0.5, 0.0))), CAMERA, ProjectionConfig())
    x, y = (returns.uv[:, 0] - 319.5) / 500 * 6.0, (returns.uv[:, 1] - 179.5) / 500 * 6.0
    clear_of_box = (np.abs(x) > 1.15) | (np.abs(y) > 0.85)
    on_box = returns.z < 10
    assert returns.visible[clear_of_box].mean() > 0.999
    assert returns.visible[on_box].all()


def test_a_slanted_road_loses_nothing() -> None:
    def road(origin: np.ndarray, ray: np.ndarray) -> float:
        return float(np.clip((1.6 - origin[1]) / max(ray[1], 1e-6), 0, 80))

    returns = project_points(as_points(scan(road, (0.0, -0.2, -0.3))), CAMERA, ProjectionConfig())
    assert returns.visible[returns.z < 60].mean() > 0.999


def test_no_returns_make_an_empty_sparse_depth() -> None:
    sparse = to_sparse_depth(project_points(as_points(np.zeros((0, 3))), CAMERA, ProjectionConfig()), CAMERA)
    assert (sparse.count, sparse.hidden, sparse.depth.shape) == (0, 0, (360, 640))
