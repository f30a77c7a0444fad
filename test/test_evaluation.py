"""Metrics, the held-out protocol, the baselines and the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable

import numpy as np
import pytest
from evaluated_wall import CAMERA, wall_frame, wall_points

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import project_points
from mf_ros.core.types import ByteArray, CameraPoints, DepthEstimate, FloatArray, IntArray, SparseDepth
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.evaluation.baselines import BASELINES, triangle_of_pixels
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.heldout import score_held_out
from mf_ros.evaluation.metrics import depth_metrics, mean_of
from mf_ros.evaluation.protocol import cases, held_out_rings, thin_rings
from mf_ros.evaluation.run import evaluate, headline
from mf_ros.evaluation.visibility import visible_to_camera


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
    wall = wall_points()
    shown, truth = thin_rings(wall.ring, 32, 8), held_out_rings(wall.ring)
    assert shown is not None and truth is not None
    assert set(np.unique(wall.select(shown).ring)) == set(range(1, 32, 4))
    assert set(np.unique(wall.select(truth).ring)) == set(range(0, 32, 2))


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


@pytest.mark.parametrize("number", [lambda ring: 2**29 + ring, lambda ring: ring - 2**29], ids=["huge", "negative"])
def test_the_numbers_of_the_rings_cost_no_memory(number: Callable[[IntArray], IntArray]) -> None:
    box = wall_points()
    odd = CameraPoints(box.points, number(box.ring).astype(np.int32), box.sensor)
    returns = project_points(box, CAMERA, ProjectionConfig(cull_hidden=False))
    expected = visible_to_camera(box, returns, CAMERA)
    np.testing.assert_array_equal(visible_to_camera(odd, returns, CAMERA), expected)


def board_and_wall() -> CameraPoints:
    """One LiDAR sees a near board with few lines; another, farther off, only the wall behind it, by the same rings."""
    wall = wall_points(20.0)
    y, x = np.meshgrid(np.linspace(-1.2, 1.2, 14), np.linspace(-0.6, 0.6, 60), indexing="ij")
    board = np.stack([x, y, np.full_like(x, 4.0)], -1).reshape(-1, 3).astype(np.float32)
    return CameraPoints(
        np.concatenate([board, wall.points]),
        np.concatenate([np.repeat(np.arange(14, dtype=np.int32), 60), wall.ring]),
        np.repeat(np.array([0, 1], np.uint8), [len(board), len(wall)]),
    )


def test_a_surface_that_one_lidar_saw_hides_the_returns_of_another() -> None:
    points = board_and_wall()
    frame = EvaluationFrame("two", "0", np.zeros((96, 160, 3), np.uint8), CAMERA, points, 32)
    case = next(iter(cases(frame, (16,))))
    # To each side of the centre the board spans 0.6 * 120 / 4 = 18 pixels, the wall 27; the board's lines lie 6 apart.
    aside = np.abs(case.cols - 79.5)
    far = case.truth > 10
    assert (far & (aside < 16)).sum() > 500 and (far & (aside > 20)).sum() > 200
    assert not case.visible[far & (aside < 16)].any()
    assert case.visible[far & (aside > 20)].all()


class FarWall:
    """Answers 20 m everywhere."""

    name = "wall"

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        depth = np.full(image.shape[:2], 20.0, np.float32)
        return DepthEstimate(depth, np.ones_like(depth), True, self.name)

    def describe(self) -> dict[str, str]:
        return {}


def test_held_out_returns_are_judged_by_the_same_rule() -> None:
    held = score_held_out(np.zeros((96, 160, 3), np.uint8), board_and_wall(), CAMERA, FarWall(), ProjectionConfig())
    assert held is not None
    far = held.truth > 10
    assert far.any() and not (np.abs(held.uv[far, 0] - 79.5) < 16).any()


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


class TwiceAsFar(ClassicalEngine):
    """An engine that is wrong in a known way."""

    @property
    def name(self) -> str:
        return "twice"

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        made = super().estimate(image, sparse, camera)
        return replace(made, depth=made.depth * 2)


def test_an_engine_beside_the_one_under_test_is_no_baseline() -> None:
    records = evaluate([wall_frame("a")], (16, 8), TwiceAsFar(), beside=[ClassicalEngine()])
    total = headline(records, "twice")
    assert total is not None and set(total.beside) == {"classical"}
    assert total.beside["classical"] < 0.01 < total.engine
    assert total.best_single_baseline[0].split("+")[0] in BASELINES


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_of_a_triangulation_is_given_a_triangle_that_holds_it(seed: int, lines: bool) -> None:
    rng, shape = np.random.default_rng(seed), (60, 90)
    rows, cols = np.unravel_index(rng.choice(shape[0] * shape[1], 20 + 90 * seed, replace=False), shape)
    # Returns on scan lines make level edges and slivers.
    corners = np.unique(np.stack([cols, rows // 12 * 12 if lines else rows], 1), axis=0)
    spatial = pytest.importorskip("scipy.spatial")
    mesh = spatial.Delaunay(corners.astype(np.float64))
    pixels = np.stack(np.indices(shape)[::-1], -1).reshape(-1, 2).astype(np.float64)
    found = triangle_of_pixels(corners, mesh.simplices, shape)
    assert np.array_equal(found >= 0, mesh.find_simplex(pixels).reshape(shape) >= 0)
    inside = found.reshape(-1) >= 0
    affine = mesh.transform[found.reshape(-1)[inside]]
    weights = np.einsum("nij,nj->ni", affine[:, :2], pixels[inside] - affine[:, 2])
    assert weights.min() > -1e-9 and weights.sum(1).max() < 1 + 1e-9


def test_triangles_without_area_hold_no_pixel() -> None:
    corners = np.array([[0, 0], [4, 4], [8, 8], [8, 0]])
    found = triangle_of_pixels(corners, np.array([[0, 1, 2], [0, 2, 3]]), (9, 9))
    rows, cols = np.indices((9, 9))
    assert np.array_equal(found, np.where(cols >= rows, 1, -1))
