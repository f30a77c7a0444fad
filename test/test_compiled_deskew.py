"""The compiled motion compensation and range test against NumPy's: the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core import compiled
from mf_ros.core.config import LidarConfig
from mf_ros.core.deskew import chosen_by_numpy, deskew, moved_by_numpy, to_camera
from mf_ros.core.transforms import StampedTransform, TransformTree
from mf_ros.core.types import CameraFrame, LidarSweep

pytest.importorskip("numba")
from mf_ros.core import kernels_deskew

ODD = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-30, 1e30], np.float32)


def cloud(count: int, odd: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 30, (count, 3))
    return np.where(rng.random((count, 3)) < odd, rng.choice(ODD, (count, 3)), points).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300),
    poses=st.integers(2, 40),
    odd=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 999),
    first_s=st.sampled_from([0.0, -0.1, 0.05]),
    length_s=st.sampled_from([2e-6, 0.1, 3.0]),
    together=st.sampled_from([1, 3, 64]),
)
def test_moved_points_are_equal(
    count: int, poses: int, odd: float, seed: int, first_s: float, length_s: float, together: int
) -> None:
    rng = np.random.default_rng(seed)
    # Some points in a row share their time.
    times = (first_s + rng.random(count) * length_s).astype(np.float32)[np.arange(count) // together * together]
    given = (cloud(count, odd, seed), times, rng.normal(0, 50, (poses, 12)), first_s, first_s + length_s)
    moved = kernels_deskew.move(*given)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(moved, moved_by_numpy(*given))


def test_moved_points_are_equal_when_the_table_has_to_stay_small() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.random(500) * 20).astype(np.float32)
    given = (cloud(500, 0), times, rng.normal(0, 50, (4000, 12)), float(times[0]), float(times[-1]))
    np.testing.assert_array_equal(kernels_deskew.move(*given), moved_by_numpy(*given))


def test_a_time_that_is_not_a_number_reads_nothing_outside_the_table() -> None:
    times = np.array([np.nan, -1e9, 1e9, 0.0, np.inf, -np.inf, 1e38], np.float32)
    poses = np.zeros((2, 12))
    poses[:, 3], poses[1, 3] = 1.0, 2.0
    moved = kernels_deskew.move(np.zeros((7, 3), np.float32), times, poses, 0.0, 0.1)
    assert moved is not None
    np.testing.assert_array_equal(moved[:, 0], [1.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 300), odd=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 999))
def test_the_same_points_are_within_range(count: int, odd: float, seed: int) -> None:
    points = cloud(count, odd, seed)
    chosen = kernels_deskew.choose(points, 20.0, 60.0)
    with np.errstate(all="ignore"):
        wanted = chosen_by_numpy(points, 20.0, 60.0)
    np.testing.assert_array_equal(chosen, wanted)
    assert kernels_deskew.all_within(points, 20.0, 60.0) == (len(wanted) == count)


def test_points_on_the_limits_are_within_range() -> None:
    points = np.array([[0.3, 0, 0], [0.29999, 0, 0], [0, 250, 0], [0, 250.01, 0]], np.float32)
    assert kernels_deskew.choose(points, 0.3, 250.0).tolist() == chosen_by_numpy(points, 0.3, 250.0).tolist() == [0, 2]


def test_what_lies_otherwise_in_memory_is_left_to_numpy() -> None:
    points, times = cloud(10, 0), np.linspace(0, 0.1, 10, dtype=np.float32)
    poses = np.ones((3, 12))
    assert kernels_deskew.move(np.asfortranarray(points), times, poses, 0.0, 0.1) is None
    assert kernels_deskew.move(points[:5], times[::2], poses, 0.0, 0.1) is None
    assert kernels_deskew.choose(points[::2], 0.0, 9.0) is None
    assert kernels_deskew.all_within(points, 0.0, 1e9) and not kernels_deskew.all_within(points[::2], 0.0, 1e9)


def test_a_result_is_not_overwritten_by_the_next() -> None:
    first = kernels_deskew.choose(cloud(50, 0), 0.0, 1e3)
    assert first is not None
    kernels_deskew.choose(cloud(50, 0), 1e3, 1e4)
    assert first.tolist() == list(range(50))


@pytest.mark.parametrize("with_kernels", [True, False])
def test_a_sweep_reaches_the_camera_the_same_with_and_without_kernels(
    monkeypatch: pytest.MonkeyPatch, with_kernels: bool
) -> None:
    tree = TransformTree()
    for stamp_ns in range(0, 200_000_001, 5_000_000):
        pose = np.eye(4)
        pose[:3, 3] = 10 * stamp_ns * 1e-9, 0.1, 0.0
        tree.add(StampedTransform("odom", "lidar", stamp_ns, pose), static=False)
    tree.add(StampedTransform("lidar", "camera", 0, np.eye(4)), static=True)
    points, times = cloud(400, 0), np.linspace(0, 0.1, 400, dtype=np.float32)
    points.flags.writeable = times.flags.writeable = False
    sweep = LidarSweep(points, 20_000_000, "lidar", times)
    frame = CameraFrame(np.zeros((1, 1, 3), np.uint8), None, 100_000_000, "camera")  # type: ignore[arg-type]
    # At 10 m/s, and the camera 20 ms later at the sweep's own first point, x is off by time alone.
    offset = 10 * (times.astype(np.float64) + 0.02 - 0.1)
    monkeypatch.setitem(compiled._loaded, "deskew", kernels_deskew if with_kernels else None)
    moved = deskew(sweep, frame.stamp_ns, tree, "odom", "camera")
    np.testing.assert_allclose(moved[:, 0], points[:, 0] + offset, atol=2e-4)  # steps of 10 microseconds
    near = np.linalg.norm(points, axis=1) <= 40
    merged, compensated = to_camera([sweep], frame, tree, LidarConfig(max_range_m=40.0))
    assert compensated == (True,)
    np.testing.assert_allclose(merged.points, moved[near], atol=2e-4)
