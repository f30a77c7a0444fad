"""The health check: each warning comes with its fault and stays away without it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import cv2
import numpy as np
import pytest
from test_alignment import CAMERA, WALL_M, boards, scanned

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.core.types import CameraFrame, CameraPoints, DepthEstimate, SparseDepth
from mf_ros.engine.frame import DepthResult
from mf_ros.engine.health import HealthMonitor, HealthReport
from mf_ros.engine.inputs import StoredImage
from mf_ros.evaluation.frames import find_frames, load_frame

START_NS = 1_700_000_000_000_000_000
HALF_SECOND_NS = 500_000_000
NO_POINTS = CameraPoints(np.zeros((0, 3), np.float32), None, np.zeros(0, np.uint8))


def result(
    number: float,
    image: np.ndarray,
    sparse: np.ndarray,
    *,
    depth: Optional[np.ndarray] = None,
    log_scale: Optional[float] = -4.0,
    camera: CameraModel = CAMERA,
    lonely: int = 0,
) -> DepthResult:
    """A frame half a second after the one before; without ``depth`` the engine's depth is that of the returns."""
    stamp_ns = START_NS + round(number * HALF_SECOND_NS)
    made = np.where(sparse > 0, sparse, np.float32(WALL_M)) if depth is None else depth.astype(np.float32)
    log_b = None if log_scale is None else np.full(sparse.shape, log_scale, np.float32)
    return DepthResult(
        CameraFrame(image, camera, stamp_ns, "camera"),
        NO_POINTS,
        SparseDepth(sparse, int(np.count_nonzero(sparse)), 0, lonely),
        DepthEstimate(made, np.ones_like(made), True, "test", log_b),
        {},
        (0,),
        StoredImage(None, stamp_ns, "camera", stamp_ns, 0),
    )


def watched(frames: int = 10, **wrong: float) -> HealthMonitor:
    monitor = HealthMonitor()
    for number in range(frames):
        image, depth = boards(number)
        monitor.update(result(number, image, scanned(depth, **wrong)))
    return monitor


def flat(number: float, ratio: float = 1.0, **changes: Any) -> DepthResult:
    """A wall without any edge, 100 returns on it, whose depth the engine makes ``1 / ratio`` of what was measured."""
    sparse = np.zeros((48, 64), np.float32)
    sparse[2::5, 2::6] = 10.0 * ratio
    changes.setdefault("depth", np.full((48, 64), 10.0))
    return result(number, np.full((48, 64, 3), 90, np.uint8), sparse, camera=CAMERA.cropped(0, 0, 64, 48), **changes)


def after(frames: Iterator[DepthResult] | list[DepthResult]) -> HealthReport:
    monitor = HealthMonitor()
    for frame in frames:
        monitor.update(frame)
    return monitor.report()


def test_nothing_is_said_before_the_first_frame() -> None:
    assert HealthMonitor().report() == HealthReport()
    assert HealthReport().warning == "" and HealthReport().shift_px is None


def test_a_healthy_drive_has_numbers_and_no_warning() -> None:
    report = watched().report()
    assert report.warning == ""
    assert report.frames == 10
    assert report.rejected == report.bias == report.lonely == 0.0
    assert report.shift_px is not None and np.abs(report.shift_px).max() <= 2
    assert 4.0 < report.scale <= WALL_M


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"du": 10}, "moved 10 px left"),
        ({"du": -10}, "moved 10 px right"),
        ({"dv": 12}, "12 px up"),
        ({"dv": -12}, "12 px down"),
    ],
)
def test_edges_beside_those_of_the_image_raise_a_calibration_warning(wrong: dict[str, int], told: str) -> None:
    report = watched(**wrong).report()
    for text in (told, "T_cam_lidar", "mf-ros check", "degrees"):
        assert text in report.warning
    assert report.shift_px is not None
    assert report.shift_px[0] == pytest.approx(-wrong.get("du", 0), abs=1)
    assert report.shift_px[1] == pytest.approx(-wrong.get("dv", 0), abs=2)


def test_the_warning_tells_pixels_of_the_image_and_degrees() -> None:
    monitor = HealthMonitor()
    large = CAMERA.resized(2 * CAMERA.width, 2 * CAMERA.height)
    for number in range(10):
        image, depth = boards(number)
        sparse = np.zeros((large.height, large.width), np.float32)
        sparse[::2, ::2] = scanned(depth, du=-10)
        monitor.update(result(number, cv2.resize(image, None, fx=2, fy=2), sparse, camera=large))
    # 20 px at a focal length of 740 px.
    assert monitor.report().shift_px == (20.0, 0.0)
    assert "moved 20 px right (1.5 degrees)" in monitor.report().warning


def test_a_turned_lidar_is_told_with_its_sense() -> None:
    warning = watched(16, turn_deg=2.5).report().warning
    assert "counterclockwise" in warning and "turned" in warning


def test_few_views_say_nothing_of_the_calibration() -> None:
    report = watched(7, du=10).report()
    assert report.shift_px is None and report.warning == ""
    assert watched(8, du=10).report().warning != ""


def test_views_are_taken_twice_a_second_however_fast_the_camera_is() -> None:
    monitor = HealthMonitor()
    for number in range(21):
        image, depth = boards(number)
        monitor.update(result(number / 6, image, scanned(depth, du=10)))
    # 21 frames in 1.7 s are 4 views.
    assert monitor.report().frames == 21
    assert monitor.report().shift_px is None


def test_a_shift_that_the_older_views_do_not_have_is_not_told_yet() -> None:
    # As in a turn whose motion nobody compensates.
    monitor = HealthMonitor()
    shown = [boards(number) for number in range(16)]
    for number, (image, depth) in enumerate(shown):
        monitor.update(result(number, image, scanned(depth, du=14 if number >= 6 else 0)))
    assert monitor.report().warning == ""


def test_returns_behind_or_before_the_depth_raise_a_warning() -> None:
    behind = after([flat(number, 1.03) for number in range(40)])
    assert behind.bias == pytest.approx(np.log(1.03), abs=1e-4)
    assert "3.0% behind" in behind.warning and "mf-ros check" in behind.warning
    assert "4.0% before" in after([flat(number, 0.96) for number in range(40)]).warning


def test_a_small_or_passing_bias_is_left_alone() -> None:
    assert after([flat(number, 1.008) for number in range(40)]).warning == ""
    assert after([flat(number, 1.03 if number < 12 else 1.0) for number in range(40)]).warning == ""
    assert after([flat(number, 1.03) for number in range(20)]).warning == ""


def test_a_bias_that_changes_sides_is_left_alone() -> None:
    report = after([flat(number, 1.03 if number % 5 < 3 else 0.97) for number in range(40)])
    assert report.bias > 0.01
    assert report.warning == ""


def patchy(number: int, share: float, log_scale: Optional[float] = -4.0) -> DepthResult:
    """Returns on a wall of which this share is 20% nearer than the engine's depth."""
    frame = flat(number, log_scale=log_scale)
    rng = np.random.default_rng(number)
    sparse = np.where(rng.random((48, 64)) < share, frame.sparse.depth * np.float32(0.8), frame.sparse.depth)
    return replace(frame, sparse=replace(frame.sparse, depth=sparse))


def test_returns_that_disagree_are_counted_and_many_of_them_raise_a_warning() -> None:
    many = after([patchy(number, 0.3) for number in range(60)])
    assert many.rejected == pytest.approx(0.3, abs=0.03)
    assert f"{100 * many.rejected:.0f}% of the LiDAR returns disagree" in many.warning
    few = after([patchy(number, 0.05) for number in range(60)])
    assert few.rejected == pytest.approx(0.05, abs=0.02)
    assert few.warning == ""


def test_what_disagrees_depends_on_how_sure_the_engine_is() -> None:
    # b = 0.1 allows 3 * 0.1 and more; 20% nearer is log 0.8 = -0.22.
    assert after([patchy(0, 0.3, log_scale=float(np.log(0.1)))]).rejected == 0.0
    assert after([patchy(0, 0.3, log_scale=float(np.log(0.05)))]).rejected > 0.2
    assert after([patchy(0, 0.3, log_scale=None)]).rejected > 0.2


def test_lonely_returns_are_a_share_of_those_in_the_image() -> None:
    shown = flat(0).sparse.count
    assert after([flat(0, lonely=shown)]).lonely == pytest.approx(0.5)


def test_a_frame_without_depth_at_any_return_does_not_count() -> None:
    assert after([flat(0, depth=np.full((48, 64), np.nan))]).frames == 0
    half = np.full((48, 64), 10.0)
    half[:, :32] = np.nan
    report = after([flat(0, depth=half)])
    assert report.frames == 1 and report.bias == 0.0


def test_reset_forgets_everything() -> None:
    monitor = watched(du=10)
    assert monitor.report().warning != ""
    monitor.reset()
    assert monitor.report() == HealthReport()


def test_another_camera_starts_afresh() -> None:
    monitor = watched(du=10)
    image, depth = boards(0)
    other = replace(CAMERA, K=CAMERA.K + np.diag([1.0, 1.0, 0.0]))
    monitor.update(result(11, image, scanned(depth), camera=other))
    assert monitor.report().frames == 1


@pytest.mark.parametrize("jump", [200, -200])
def test_frames_from_another_time_are_left_out(jump: int) -> None:
    monitor = watched(du=10)
    image, depth = boards(0)
    monitor.update(result(10 + jump, image, scanned(depth)))
    report = monitor.report()
    assert report.frames == 1
    assert report.warning == ""


def test_a_fault_that_is_repaired_is_no_longer_told() -> None:
    monitor = watched(du=10)
    for number in range(10, 30):
        image, depth = boards(number)
        monitor.update(result(number, image, scanned(depth)))
    assert monitor.report().warning == ""


def test_reports_are_taken_while_another_thread_updates() -> None:
    monitor, done = HealthMonitor(), threading.Event()
    frames = [flat(number, 1.03) for number in range(60)]
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for frame in frames * 3:
                monitor.update(frame)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        assert monitor.report().frames <= 100
    thread.join()
    assert not failures
    assert monitor.report().frames == 100


@pytest.fixture(scope="module")
def jam(real_frames: Path) -> Callable[[float], HealthReport]:
    """Ten frames of a traffic jam, half a second apart, with the LiDAR turned about the camera's vertical axis."""
    places = find_frames(real_frames / "kitti_sequence", per_sequence=None)[:50:5]
    loaded = [load_frame(place) for place in places]

    def look(yaw_deg: float) -> HealthReport:
        R = cv2.Rodrigues(np.array([0.0, np.deg2rad(yaw_deg), 0.0]))[0].astype(np.float32)
        monitor = HealthMonitor()
        for number, frame in enumerate(loaded):
            assert frame.points is not None
            turned = replace(frame.points, points=frame.points.points @ R.T)
            sparse = to_sparse_depth(project_points(turned, frame.camera, ProjectionConfig()), frame.camera)
            monitor.update(result(number, frame.image, sparse.depth, camera=frame.camera))
        return monitor.report()

    return look


@pytest.mark.real
def test_a_real_drive_is_healthy_until_its_lidar_is_turned(jam: Callable[[float], HealthReport]) -> None:
    right = jam(0.0)
    assert right.warning == ""
    assert right.shift_px is not None and np.abs(right.shift_px).max() <= 4
    # One degree is 12.6 px at this focal length; returns went to the right, so they must come back to the left.
    wrong = jam(1.5)
    assert "T_cam_lidar" in wrong.warning
    assert wrong.shift_px is not None
    assert wrong.shift_px[0] == pytest.approx(-18.9, abs=5)
    assert wrong.shift_px[1] == pytest.approx(0.0, abs=5)
