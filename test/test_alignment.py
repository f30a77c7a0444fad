"""Edges of depth on edges of the image: a shift is found and told with its sign, a right calibration is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from mf_ros.core.alignment import REACH, Fit, best_fit, depth_edges, shift_scores, working_step
from mf_ros.core.camera import make_camera

WIDTH, HEIGHT = 320, 160
WALL_M = 30.0
# 370 px of focal length make one pixel a cell of the working grid.
CAMERA = make_camera(WIDTH, HEIGHT, [370.0, 0, 159.5, 0, 370.0, 79.5, 0, 0, 1], [], "plumb_bob")


def boards(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boards before a wall: (H, W, 3) uint8 image with noise and (H, W) float32 depth of every pixel, metres."""
    rng = np.random.default_rng(seed)
    depth = np.full((HEIGHT, WIDTH), WALL_M, np.float32)
    image = np.full((HEIGHT, WIDTH, 3), 128.0)
    for far in sorted(rng.uniform(4.0, 15.0, 9), reverse=True):
        left, top = rng.integers(0, WIDTH - 30), rng.integers(0, HEIGHT - 30)
        board = np.s_[top : top + rng.integers(20, 60), left : left + rng.integers(15, 60)]
        depth[board], image[board] = far, rng.uniform(20, 235, 3)
    image += rng.normal(0.0, 3.0, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), depth


def scanned(depth: np.ndarray, du: int = 0, dv: int = 0, turn_deg: float = 0.0) -> np.ndarray:
    """Returns in scan lines 4 px apart, moved right and down and turned clockwise by a wrong calibration."""
    turn = cv2.getRotationMatrix2D(((WIDTH - 1) / 2, (HEIGHT - 1) / 2), -turn_deg, 1.0)
    turn[:, 2] += du, dv
    moved = cv2.warpAffine(depth, turn, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST, borderValue=0.0)
    sparse = np.zeros_like(moved)
    sparse[1::4, ::2] = moved[1::4, ::2]
    return sparse


def fit_of(frames: int = 8, **wrong: float) -> Fit:
    total = sum(shift_scores(image, scanned(depth, **wrong), 1) for image, depth in map(boards, range(frames)))
    return best_fit(np.asarray(total), WIDTH)


def test_outlines_are_found_half_a_spacing_beyond_the_last_return() -> None:
    depth = np.full((HEIGHT, WIDTH), WALL_M, np.float32)
    depth[40:120, 100:200] = 6.0
    across, down = depth_edges(scanned(depth), 1)
    # Borders between pixels 99 | 100 and 199 | 200; returns lie 2 px apart.
    left, right = across[across[:, 0] < 150], across[across[:, 0] > 150]
    assert len(left) == len(right) == 20
    np.testing.assert_allclose(left[:, 0], 99.5, atol=1.0)
    np.testing.assert_allclose(right[:, 0], 199.5, atol=1.0)
    assert across[:, 1].min() >= 40 and across[:, 1].max() < 120
    # Scan lines lie 4 px apart.
    upper, lower = down[down[:, 1] < 80], down[down[:, 1] > 80]
    assert len(upper) == len(lower) == 50
    np.testing.assert_allclose(upper[:, 1], 39.5, atol=2.0)
    np.testing.assert_allclose(lower[:, 1], 119.5, atol=2.0)


def test_a_road_that_recedes_has_no_outline() -> None:
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
    road = np.broadcast_to(1.5 * 370.0 / (rows + 4.0), (HEIGHT, WIDTH))
    across, down = depth_edges(scanned(np.ascontiguousarray(road)), 1)
    assert len(across) == len(down) == 0


def test_a_large_image_is_judged_in_cells_of_several_pixels() -> None:
    assert working_step(CAMERA) == 1
    assert working_step(CAMERA.resized(3 * WIDTH, 3 * HEIGHT)) == 3
    total = np.zeros(1, np.float32)
    for image, depth in map(boards, range(8)):
        sparse = np.zeros((3 * HEIGHT, 3 * WIDTH), np.float32)
        sparse[1::3, 1::3] = scanned(depth, du=9)
        total = total + shift_scores(cv2.resize(image, None, fx=3, fy=3), sparse, 3)
    assert best_fit(total, WIDTH).u == pytest.approx(-9, abs=1)


@pytest.mark.parametrize(("du", "dv"), [(9, 0), (-9, 0), (0, 9), (0, -9), (-16, 12), (24, -20)])
def test_a_shift_is_found_and_undone_by_the_opposite_one(du: int, dv: int) -> None:
    fit = fit_of(du=du, dv=dv)
    assert abs(fit.u + du) <= 1
    assert abs(fit.v + dv) <= 2
    assert fit.is_displaced


@pytest.mark.parametrize("turn_deg", [2.0, -2.5])
def test_a_turn_about_the_optical_axis_is_found(turn_deg: float) -> None:
    fit = fit_of(frames=12, turn_deg=turn_deg)
    assert fit.roll_deg == pytest.approx(-turn_deg, abs=0.5)
    assert abs(fit.u) <= 2 and abs(fit.v) <= 2
    assert fit.is_displaced


@pytest.mark.parametrize("frames", [1, 8])
def test_a_right_calibration_is_not_displaced(frames: int) -> None:
    fit = fit_of(frames)
    assert fit.is_known
    assert abs(fit.u) <= 1 and abs(fit.v) <= 2
    assert not fit.is_displaced


def test_images_of_other_places_fit_nowhere() -> None:
    frames = [(boards(seed)[0], boards(seed + 100)[1]) for seed in range(8)]
    fit = best_fit(np.sum([shift_scores(image, scanned(depth), 1) for image, depth in frames], axis=0), WIDTH)
    assert not fit.is_known
    assert not fit.is_displaced


def test_one_object_that_fits_elsewhere_is_not_enough() -> None:
    # The image has the board 12 px beside the returns, as when it is another thing; nothing else is seen.
    depth = np.full((HEIGHT, WIDTH), WALL_M, np.float32)
    depth[30:130, 60:90] = 6.0
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    image[30:130, 72:102] = 30
    fit = best_fit(8 * shift_scores(image, scanned(depth), 1), WIDTH)
    assert fit.u == 12 and fit.is_known
    assert fit.agreement < 1.3
    assert not fit.is_displaced


@pytest.mark.parametrize(
    ("better", "displaced"),
    [
        ({}, True),
        ({"peak": 6.0}, False),
        ({"unmoved": 5.5}, False),
        ({"agreement": 1.5}, True),
        ({"agreement": 1.2}, False),
        ({"agreement": 1.5, "u": 0, "v": 5}, False),
        ({"u": 2}, False),
        ({"u": 2, "v": -4}, True),
        ({"u": 0, "v": 3}, False),
        ({"u": 0, "roll_deg": 1.0}, True),
        ({"u": 0, "roll_deg": -0.5}, False),
    ],
)
def test_displaced_is_what_is_apart_and_clearly_better_all_over_the_image(
    better: dict[str, Any], displaced: bool
) -> None:
    fit = Fit(u=5, peak=8.0, unmoved=2.0, agreement=2.2)
    assert replace(fit, **better).is_displaced is displaced


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (48, 64)])
def test_nothing_seen_is_nothing_known(size: tuple[int, int]) -> None:
    scores = shift_scores(np.zeros((*size, 3), np.uint8), np.ones(size, np.float32), 1)
    assert scores.shape[1:] == (2 * REACH + 1, 2 * REACH + 1)
    assert best_fit(scores, size[1]) == Fit()
    assert not Fit().is_known
    assert not shift_scores(np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32), 1).any()
