"""Motion compensation and merging, against a robot whose motion and surroundings are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mf_ros.core.config import LidarConfig
from mf_ros.core.deskew import deskew, motion_known, motion_wanted, pose_age_ns, to_camera
from mf_ros.core.rigid import invert, make_transform
from mf_ros.core.transforms import StampedTransform, TransformTree
from mf_ros.core.types import CameraFrame, LidarSweep
from mf_ros.errors import TransformError

START = 1_700_000_000_000_000_000
SPEED = 15.0  # m/s
TURN = 1.0  # rad/s
# Optical axes in a base with x forward, z up.
T_BASE_CAMERA = make_transform((0.4, 0.1, 1.2), (-0.5, 0.5, -0.5, 0.5))
T_BASE_LIDAR = make_transform((0.1, 0.0, 1.6), (0.0, 0.0, np.sin(0.3), np.cos(0.3)))
# Far from the origin of the fixed frame, as after a long drive.
ORIGIN = np.array([5000.0, -3000.0, 20.0])


def T_odom_base(t: float) -> np.ndarray:
    """The robot drives on a circle: position and heading at t seconds."""
    yaw, radius = TURN * t, SPEED / TURN
    position = ORIGIN + np.array([radius * np.sin(yaw), radius * (1 - np.cos(yaw)), 0.0])
    return make_transform(position, (0, 0, np.sin(yaw / 2), np.cos(yaw / 2)))


def robot(*, until_s: float = 0.5, rate_hz: float = 200.0) -> TransformTree:
    tree = TransformTree()
    tree.add(StampedTransform("base", "camera", 0, T_BASE_CAMERA), static=True)
    tree.add(StampedTransform("base", "lidar", 0, T_BASE_LIDAR), static=True)
    for index in range(round(until_s * rate_hz) + 1):
        t = index / rate_hz
        tree.add(StampedTransform("odom", "base", START + round(t * 1e9), T_odom_base(t)), static=False)
    return tree


def moved(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ T[:3, :3].T + T[:3, 3]


def sweep_of(world: np.ndarray, start_s: float, times_s: np.ndarray, **changes: Any) -> LidarSweep:
    """What the moving LiDAR measures of fixed points when it sees each at its own time."""
    points = [
        moved(invert(T_odom_base(start_s + t) @ T_BASE_LIDAR), p[None])[0] for p, t in zip(world, times_s, strict=True)
    ]
    fields = {"points": np.array(points, np.float32), "stamp_ns": START + round(start_s * 1e9), "frame_id": "lidar"}
    return LidarSweep(**{**fields, "time_s": times_s.astype(np.float32), **changes})


def frame_at(t: float) -> CameraFrame:
    return CameraFrame(np.zeros((1, 1, 3), np.uint8), None, START + round(t * 1e9), "camera")  # type: ignore[arg-type]


@pytest.fixture
def world() -> np.ndarray:
    rng = np.random.default_rng(3)
    return ORIGIN + rng.uniform(-25, 25, size=(500, 3))


def in_camera(world: np.ndarray, t: float) -> np.ndarray:
    return moved(invert(T_odom_base(t) @ T_BASE_CAMERA), world)


@pytest.mark.parametrize("image_s", [0.05, 0.2, 0.24, 0.31, 0.45])
def test_points_land_where_the_camera_sees_them_at_its_own_time(world: np.ndarray, image_s: float) -> None:
    times = np.random.default_rng(4).uniform(0.0, 0.1, len(world))
    sweep = sweep_of(world, 0.2, times)
    # Odometry is linear between samples 5 ms apart, the robot is not: below 0.1 mm here. float32 adds as much.
    found = deskew(sweep, START + round(image_s * 1e9), robot(), "odom", "camera")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, in_camera(world, image_s), atol=1e-3)


def test_without_compensation_the_same_points_are_off_by_half_a_metre_and_more(world: np.ndarray) -> None:
    times = np.linspace(0.0, 0.1, len(world))
    config = LidarConfig(deskew=False, max_range_m=1e3, min_range_m=0)
    points, compensated = to_camera([sweep_of(world, 0.2, times)], frame_at(0.2), robot(), config)
    assert compensated == (False,)
    error = np.linalg.norm(points.points - in_camera(world, 0.2), axis=1)
    assert error.max() > 0.5


def test_times_before_the_stamp_are_compensated_too(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.3, np.linspace(-0.1, 0.0, len(world)))
    found = deskew(sweep, START + 250_000_000, robot(), "odom", "camera")
    np.testing.assert_allclose(found, in_camera(world, 0.25), atol=1e-3)


def test_a_flash_lidar_is_moved_as_a_whole(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.2, np.zeros(len(world)))
    found = deskew(sweep, START + 250_000_000, robot(), "odom", "camera")
    np.testing.assert_allclose(found, in_camera(world, 0.25), atol=1e-3)


def test_a_lidar_without_point_times_is_moved_from_its_stamp_to_the_images(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.2, np.zeros(len(world)), time_s=None)
    config = LidarConfig(max_range_m=1e3, min_range_m=0)
    points, compensated = to_camera([sweep], frame_at(0.25), robot(), config)
    assert compensated == (True,)
    np.testing.assert_allclose(points.points, in_camera(world, 0.25), atol=1e-3)
    assert motion_wanted([sweep], frame_at(0.25), robot(until_s=0.22), config)
    assert not motion_wanted([sweep], frame_at(0.25), robot(), config)
    assert not motion_wanted([sweep], frame_at(0.25), robot(), LidarConfig(fixed_frame="map"))


def test_motion_known_exactly_up_to_the_last_point_is_enough(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.2, np.linspace(0.0, 0.1, len(world)))
    found = deskew(sweep, START + 200_000_000, robot(until_s=0.305), "odom", "camera")
    np.testing.assert_allclose(found, in_camera(world, 0.2), atol=1e-3)


def test_motion_that_ends_before_the_sweep_is_not_extrapolated(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.2, np.linspace(0.0, 0.1, len(world)))
    with pytest.raises(TransformError, match="after the newest"):
        deskew(sweep, START + 200_000_000, robot(until_s=0.25), "odom", "camera")
    with pytest.raises(TransformError, match="'map'"):
        deskew(sweep, START + 200_000_000, robot(), "map", "camera")


def test_an_empty_sweep_stays_empty() -> None:
    empty = LidarSweep(np.zeros((0, 3), np.float32), START, "lidar", np.zeros(0, np.float32))
    assert deskew(empty, START, robot(), "odom", "camera").shape == (0, 3)
    points, _ = to_camera([empty], frame_at(0.1), robot(), LidarConfig())
    assert points.points.shape == (0, 3)


def test_several_lidars_merge_with_their_index_and_rings(world: np.ndarray) -> None:
    n = len(world)
    config = LidarConfig(max_range_m=1e3, min_range_m=0)
    turning = sweep_of(world, 0.2, np.linspace(0, 0.1, n), ring=np.arange(n, dtype=np.int32))
    flash = sweep_of(world[:10], 0.2, np.zeros(10), time_s=None, ring=np.full(10, 7, np.int32))
    points, compensated = to_camera([None, turning, flash], frame_at(0.2), robot(), config)
    assert compensated == (False, True, True)
    assert points.points.shape == (n + 10, 3)
    np.testing.assert_array_equal(points.sensor, [1] * n + [2] * 10)
    np.testing.assert_array_equal(points.ring, [*range(n), *[7] * 10])
    assert (points.points.dtype, points.ring.dtype, points.sensor.dtype) == (np.float32, np.int32, np.uint8)
    np.testing.assert_allclose(points.points[n:], in_camera(world[:10], 0.2), atol=1e-3)
    np.testing.assert_allclose(points.points[:n], in_camera(world, 0.2), atol=1e-3)


def test_rings_are_none_when_some_lidar_has_none(world: np.ndarray) -> None:
    with_ring = sweep_of(world[:5], 0.2, np.zeros(5), ring=np.zeros(5, np.int32))
    without = sweep_of(world[:5], 0.2, np.zeros(5))
    assert to_camera([with_ring, without], frame_at(0.2), robot(), LidarConfig())[0].ring is None


def test_no_sweep_at_all_gives_no_points() -> None:
    points, compensated = to_camera([None, None], frame_at(0.2), robot(), LidarConfig())
    assert len(points) == 0
    assert compensated == (False, False)


def test_range_limits_count_from_the_lidar() -> None:
    along = np.array([[0.2, 0, 0], [0.5, 0, 0], [9.9, 0, 0], [10.1, 0, 0]], np.float32)
    sweep = LidarSweep(along, START, "lidar", ring=np.arange(4, dtype=np.int32))
    points, _ = to_camera([sweep], frame_at(0.0), robot(), LidarConfig(min_range_m=0.3, max_range_m=10.0))
    np.testing.assert_array_equal(points.ring, [1, 2])
    np.testing.assert_allclose(points.points, moved(invert(T_BASE_CAMERA) @ T_BASE_LIDAR, along[1:3]), atol=1e-6)


def test_without_a_fixed_frame_the_static_pose_is_used_and_reported(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.2, np.linspace(0, 0.1, len(world)))
    config = LidarConfig(fixed_frame="map", max_range_m=1e3, min_range_m=0)
    points, compensated = to_camera([sweep], frame_at(0.2), robot(), config)
    assert compensated == (False,)
    expected = moved(invert(T_BASE_CAMERA) @ T_BASE_LIDAR, sweep.points)
    np.testing.assert_allclose(points.points, expected, atol=1e-4)


def test_a_pose_that_moves_is_taken_at_the_image_or_a_little_before() -> None:
    tree = TransformTree()
    for t in range(3):
        T = make_transform((t, 0, 0), (0, 0, 0, 1))
        tree.add(StampedTransform("camera", "lidar", START + t * 1_000_000_000, T), static=False)
    sweep = LidarSweep(np.array([[5, 0, 0]], np.float32), START, "lidar")
    for image_s, x, age_s in ((0.5, 5.5, 0.0), (2.0, 7.0, 0.0), (2.09, 7.0, 0.09)):
        assert to_camera([sweep], frame_at(image_s), tree, LidarConfig())[0].points[0, 0] == pytest.approx(x)
        assert pose_age_ns("lidar", frame_at(image_s), tree) == pytest.approx(age_s * 1e9)


def test_a_pose_that_stopped_long_ago_is_an_error_that_tells_its_age() -> None:
    tree = TransformTree()
    tree.add(StampedTransform("base", "lidar", 0, T_BASE_LIDAR), static=True)
    tree.add(StampedTransform("base", "camera", START, T_BASE_CAMERA), static=False)
    sweep = LidarSweep(np.array([[5, 0, 0]], np.float32), START, "lidar")
    with pytest.raises(TransformError, match=r"'lidar' in 'camera', which moves, is 3600\.000 s older than the image"):
        to_camera([sweep], frame_at(3600.0), tree, LidarConfig())
    with pytest.raises(TransformError, match=r"5\.000 s before the oldest"):
        to_camera([sweep], frame_at(-5.0), tree, LidarConfig())


def test_a_missing_transform_is_an_error_and_never_identity(world: np.ndarray) -> None:
    lost = sweep_of(world, 0.2, np.zeros(len(world)), frame_id="roof_lidar")
    with pytest.raises(TransformError, match="'roof_lidar'"):
        to_camera([lost], frame_at(0.2), robot(), LidarConfig())


def test_waiting_is_asked_for_only_while_more_tf_would_help(world: np.ndarray) -> None:
    sweep = sweep_of(world, 0.2, np.linspace(0, 0.1, len(world)))
    image = frame_at(0.2)
    early, enough = robot(until_s=0.25), robot(until_s=0.35)
    assert motion_wanted([None, sweep], image, early, LidarConfig())
    assert not motion_wanted([None, sweep], image, enough, LidarConfig())
    assert motion_wanted([sweep], frame_at(0.4), enough, LidarConfig())
    assert not motion_wanted([sweep], image, early, LidarConfig(deskew=False))
    assert not motion_wanted([sweep], image, early, LidarConfig(fixed_frame="map"))
    assert not motion_known(sweep, image.stamp_ns, early, "odom", "camera")
    assert motion_known(sweep, image.stamp_ns, enough, "odom", "camera")
