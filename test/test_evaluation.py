"""Metrics, the held-out protocol, the baselines and the table."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mf_ros.cli.main import main
from mf_ros.core.camera import make_camera
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import project_points
from mf_ros.core.types import CameraPoints, FloatArray
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import BagError
from mf_ros.evaluation.baselines import BASELINES
from mf_ros.evaluation.frames import EvaluationFrame, load_frames
from mf_ros.evaluation.metrics import depth_metrics, mean_of
from mf_ros.evaluation.protocol import cases, split_rings, thin_rings
from mf_ros.evaluation.run import evaluate, headline
from mf_ros.evaluation.visibility import visible_to_camera

CAMERA = make_camera(160, 96, [120.0, 0, 79.5, 0, 120.0, 47.5, 0, 0, 1], [], "plumb_bob")


def wall_points(depth_m: float = 8.0, rings: int = 32) -> CameraPoints:
    """A wall in front of the camera, scanned by ``rings`` lines, ring 0 on top."""
    y, x = np.meshgrid(np.linspace(-2.8, 2.8, rings), np.linspace(-4.5, 4.5, 200), indexing="ij")
    xyz = np.stack([x, y, np.full_like(x, depth_m)], -1).reshape(-1, 3).astype(np.float32)
    return CameraPoints(xyz, np.repeat(np.arange(rings, dtype=np.int32), 200), np.zeros(len(xyz), np.uint8))


def wall_frame(source: str = "wall") -> EvaluationFrame:
    return EvaluationFrame(source, "0", np.zeros((96, 160, 3), np.uint8), CAMERA, wall_points(), 32)


def test_metrics_by_hand() -> None:
    score = depth_metrics(np.array([2.0, 5.0]), np.array([4.0, 4.0]))
    assert score["mae"] == pytest.approx(1.5)
    assert score["rmse"] == pytest.approx(np.sqrt(2.5))
    assert score["absrel"] == pytest.approx(0.375)
    assert score["imae"] == pytest.approx((250 + 50) / 2)
    assert score["irmse"] == pytest.approx(np.sqrt((250**2 + 50**2) / 2))
    assert score["delta1"] == 0.0  # 5/4 is not below 1.25
    assert score["median"] == pytest.approx(1.5)


def test_a_pixel_without_depth_costs_its_full_depth() -> None:
    score = depth_metrics(np.array([np.nan, 4.0, np.inf, -1.0]), np.array([4.0, 4.0, 4.0, 4.0]))
    assert score["mae"] == pytest.approx(3.0)
    assert score["coverage"] == 0.25
    assert score["delta1"] == 0.25


def test_frames_without_truth_do_not_enter_the_mean() -> None:
    good = depth_metrics(np.array([1.0]), np.array([2.0]))
    assert mean_of([good, depth_metrics(np.zeros(0), np.zeros(0))]) == pytest.approx(good)


def test_input_is_odd_rings_thinned_and_truth_is_every_even_ring() -> None:
    ring = np.arange(64)
    assert np.flatnonzero(thin_rings(ring, 64, 32)).tolist() == list(range(1, 64, 2))
    assert np.flatnonzero(thin_rings(ring, 64, 16)).tolist() == list(range(1, 64, 4))
    assert thin_rings(ring, 32, 32) is None, "a 32-line sensor has only 16 odd rings"
    shown, truth = split_rings(wall_points(), 32, 8) or (None, None)
    assert shown is not None and truth is not None
    assert set(np.unique(shown.ring)) == set(range(1, 32, 4))
    assert set(np.unique(truth.ring)) == set(range(0, 32, 2))


def test_the_truth_is_the_same_for_every_number_of_lines() -> None:
    few, many = (next(iter(cases(wall_frame(), (lines,)))) for lines in (4, 16))
    assert np.array_equal(few.truth, many.truth) and np.array_equal(few.rows, many.rows)
    assert len(few.shown) < len(many.shown)


def test_rgbd_cases_never_judge_on_what_was_shown() -> None:
    depth = np.full((96, 160), 3.0, np.float32)
    frame = EvaluationFrame("rgbd_room", "0", np.zeros((96, 160, 3), np.uint8), CAMERA, depth=depth)
    found = {case.input: case for case in cases(frame, (32,))}
    assert set(found) == {"500pt", "100pt", "16rows"}
    for case in found.values():
        shown = set(zip(*(axis.tolist() for axis in case.shown.pixels()), strict=True))
        assert not shown & set(zip(case.rows.tolist(), case.cols.tolist(), strict=True))
        assert not case.lidar


def test_dense_truth_is_shown_along_simulated_lines() -> None:
    depth = np.full((96, 160), 10.0, np.float32)
    frame = EvaluationFrame("accumulated", "0", np.zeros((96, 160, 3), np.uint8), CAMERA, depth=depth)
    many, few = cases(frame, (32, 8))
    assert 2 * len(few.shown) < len(many.shown) < depth.size / 2


def test_truth_behind_a_near_surface_is_not_visible() -> None:
    """The box is scanned from the camera; one far return in its middle could only come from another viewpoint."""
    box = wall_points(4.0)
    far = np.array([[0.02, 0.01, 30.0]], np.float32)
    points = CameraPoints(
        np.concatenate([box.points, far]), np.append(box.ring, 5).astype(np.int32), np.zeros(len(box) + 1, np.uint8)
    )
    returns = project_points(points, CAMERA, ProjectionConfig(cull_hidden=False))
    visible = visible_to_camera(points, returns, CAMERA)
    assert not visible[returns.z > 20].any()
    assert visible[returns.z < 20].all()


@pytest.mark.parametrize("name", list(BASELINES))
def test_each_baseline_fills_a_flat_wall_exactly(name: str) -> None:
    sparse = np.zeros((96, 160), np.float32)
    sparse[4::8, ::3] = 9.0
    dense = BASELINES[name](sparse, CAMERA)
    assert dense.shape == sparse.shape
    assert np.allclose(dense, 9.0, atol=1e-3)


def slanted() -> FloatArray:
    return (1.0 / (0.05 + 0.002 * np.indices((96, 160))[0])).astype(np.float32)


def test_linear_inverse_is_exact_on_a_plane_and_linear_in_depth_is_not() -> None:
    truth = slanted()
    sparse = np.zeros_like(truth)
    sparse[::16, ::4] = truth[::16, ::4]
    inside = np.s_[0:80, 0:156]
    assert np.abs(BASELINES["linear_inverse"](sparse, CAMERA) / truth - 1)[inside].max() < 1e-3
    assert np.abs(BASELINES["linear"](sparse, CAMERA) / truth - 1)[inside].max() > 0.01


def test_triangle_does_not_blend_across_a_depth_edge() -> None:
    truth = np.full((96, 160), 40.0, np.float32)
    truth[:, 80:] = 4.0
    sparse = np.zeros_like(truth)
    sparse[4::8, 2::12] = truth[4::8, 2::12]
    long_lens = make_camera(160, 96, [1000.0, 0, 79.5, 0, 1000.0, 47.5, 0, 0, 1], [], "plumb_bob")
    blended = BASELINES["linear_inverse"](sparse, long_lens)
    kept = BASELINES["triangle"](sparse, long_lens)
    assert ((blended > 5) & (blended < 39)).any()
    assert not ((kept > 5) & (kept < 39)).any()


@pytest.mark.parametrize("name", list(BASELINES))
def test_returns_on_one_line_are_no_obstacle(name: str) -> None:
    sparse = np.zeros((96, 160), np.float32)
    sparse[40, 10:150:7] = 9.0
    assert np.allclose(BASELINES[name](sparse, CAMERA), 9.0, atol=1e-3)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_without_returns_claims_nothing(name: str) -> None:
    assert np.isnan(BASELINES[name](np.zeros((20, 30), np.float32), CAMERA)).all()


def test_the_table_holds_the_engine_and_every_baseline_culled_and_not() -> None:
    records = evaluate([wall_frame()], (16, 8), ClassicalEngine())
    names = {record.engine for record in records}
    assert names == {"classical"} | set(BASELINES) | {f"{name}+cull" for name in BASELINES}
    assert {(record.input, record.truth) for record in records} == {
        (lines, truth) for lines in ("16", "8") for truth in ("visible", "all")
    }
    assert all(record.mae < 0.01 and record.frames == 1 for record in records if record.engine == "classical")


def test_the_headline_takes_the_best_baseline_anew_in_each_case() -> None:
    records = evaluate([wall_frame("a"), wall_frame("b")], (16, 8), ClassicalEngine())
    total = headline(records, "classical")
    assert total is not None and total.cases == 4
    assert total.best_baseline <= total.best_simple
    assert total.best_baseline <= total.best_single_baseline[1]


def write_frame(place: Path, width: int = 160) -> None:
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "image.png"), np.full((96, 160, 3), 90, np.uint8))
    points = wall_points()
    np.savez(place / "points.npz", points=np.c_[points.points, np.ones(len(points))], ring=points.ring.astype(np.uint8))
    calibration = {"K": CAMERA.K.tolist(), "dist": [], "width": width, "height": 96, "n_rings": 32}
    (place / "calib.json").write_text(json.dumps({**calibration, "T_cam_lidar": np.eye(4).tolist()}))


def test_a_folder_of_frames_is_scored_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frame(tmp_path / "yard" / "000")
    assert main(["evaluate", str(tmp_path), "--lines", "8", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    keys = ["source", "input", "engine", "truth", "mae", "rmse", "imae", "irmse", "absrel", "delta1", "median"]
    keys += ["ms", "frames"]
    assert all(list(record) == keys for record in records)
    assert {record["source"] for record in records} == {"yard"}


def test_an_image_that_is_not_the_calibrated_size_is_refused(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000", width=320)
    with pytest.raises(BagError, match=r"image is 160x96 but calib.json says 320x96"):
        list(load_frames(tmp_path))


def test_a_damaged_point_file_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    (tmp_path / "yard" / "000" / "points.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(BagError, match=r"points\.npz: not a readable"):
        list(load_frames(tmp_path))
