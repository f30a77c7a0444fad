"""Lonely returns: wrong ones go, thin things and clean sweeps stay."""

from __future__ import annotations

import numpy as np
import pytest

from mf_ros.core import compiled
from mf_ros.core.camera import make_camera
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.outliers import lonely_returns
from mf_ros.core.projection import ProjectedReturns, mark_visible, project_points, to_sparse_depth
from mf_ros.core.types import CameraPoints


def ground(height: int = 120, width: int = 320, every: int = 6) -> np.ndarray:
    """Scan lines on a road that rises into the picture, with a pole in front of it."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    depth = np.broadcast_to(60.0 / (rows / 10 + 1.0), (height, width))
    sparse = np.zeros((height, width), np.float32)
    sparse[::every, ::3] = depth[::every, ::3]
    sparse[::every, 150:153] = 4.5
    return sparse


def with_wrong(sparse: np.ndarray, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    wrong = (sparse > 0) & (rng.random(sparse.shape) < share)
    return np.where(wrong, rng.uniform(2, 60, sparse.shape), sparse).astype(np.float32), wrong


def lonely_pixels(sparse: np.ndarray) -> np.ndarray:
    """(H, W) bool of the lonely returns of sparse depth."""
    rows, cols = np.nonzero(sparse)
    lonely = np.zeros(sparse.shape, np.bool_)
    lonely[rows, cols] = lonely_returns(rows, cols, sparse[rows, cols], sparse.shape)
    return lonely


def returns_of(sparse: np.ndarray) -> ProjectedReturns:
    rows, cols = np.nonzero(sparse)
    return ProjectedReturns.unmarked(np.stack([cols, rows], axis=1).astype(np.float32), sparse[rows, cols])


def test_a_clean_sweep_loses_nothing() -> None:
    sparse = ground()
    assert not lonely_pixels(sparse).any()


def test_depths_may_differ_as_much_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = ground()
    sparse[0, 0], sparse[6, 0] = 1e-3, 1e9
    with_kernels = lonely_pixels(sparse)
    monkeypatch.setitem(compiled._loaded, "culling", None)
    np.testing.assert_array_equal(lonely_pixels(sparse), with_kernels)


def test_most_wrong_returns_go_and_few_right_ones() -> None:
    sparse, wrong = with_wrong(ground(), 0.1)
    lonely = lonely_pixels(sparse)
    assert lonely[wrong].mean() > 0.6
    assert lonely[(sparse > 0) & ~wrong].mean() < 0.02


def test_a_pole_survives_among_wrong_returns() -> None:
    clean = ground()
    sparse, wrong = with_wrong(clean, 0.1)
    pole = (clean == np.float32(4.5)) & ~wrong
    assert lonely_pixels(sparse)[pole].mean() < 0.1


def test_scale_does_not_matter() -> None:
    sparse, _ = with_wrong(ground(), 0.1)
    assert np.array_equal(lonely_pixels(sparse), lonely_pixels(sparse * 128))


def test_a_handful_of_returns_is_believed() -> None:
    sparse = np.zeros((40, 60), np.float32)
    sparse[5, 5], sparse[30, 50], sparse[20, 20] = 1.0, 90.0, 10.0
    assert not lonely_pixels(sparse).any()
    assert not lonely_pixels(np.zeros((4, 4), np.float32)).any()


def test_returns_that_are_all_lonely_are_believed() -> None:
    """A bush, or a sensor that is wrong throughout: without them nothing would be left to make depth of."""
    sparse = np.zeros((40, 60), np.float32)
    sparse[10:18:2, 10:18:2] = (2.0 * 1.2 ** np.arange(16)).reshape(4, 4)
    assert not lonely_pixels(sparse).any()


def test_wrong_returns_hide_no_right_ones() -> None:
    clean = ground()
    sparse, wrong = with_wrong(clean, 0.15)
    before, after = (mark_visible(returns_of(each), each.shape, ProjectionConfig()) for each in (clean, sparse))
    right = before.visible & ~wrong[after.pixels()]
    believing = mark_visible(returns_of(sparse), sparse.shape, ProjectionConfig(reject_lonely=False))
    assert not believing.lonely.any()
    lost, lost_believing = (1 - each.visible[right].mean() for each in (after, believing))
    assert lost < 0.5 * lost_believing, f"right returns lost {lost:.3f}, where all are believed {lost_believing:.3f}"


def test_hidden_and_lonely_returns_are_counted_apart() -> None:
    camera = make_camera(320, 120, [100.0, 0, 159.5, 0, 100.0, 59.5, 0, 0, 1], [], "plumb_bob")
    sparse, _ = with_wrong(ground(), 0.1)
    rows, cols = np.nonzero(sparse)
    xyz = (camera.rays()[rows, cols] * sparse[rows, cols][:, None]).astype(np.float32)
    points = CameraPoints(xyz, None, np.zeros(len(xyz), np.uint8))
    returns = project_points(points, camera, ProjectionConfig())
    made = to_sparse_depth(returns, camera)
    assert made.lonely == returns.lonely.sum() > 0
    assert made.count + made.hidden + made.lonely == len(returns) == len(points)
    assert project_points(points, camera).visible.all()
