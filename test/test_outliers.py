"""Lonely returns: wrong ones go, thin things and clean sweeps stay."""

from __future__ import annotations

import numpy as np

from mf_ros.core.outliers import confirmed_returns, lonely_returns


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


def test_a_clean_sweep_loses_nothing() -> None:
    sparse = ground()
    assert not lonely_returns(sparse).any()
    assert np.array_equal(confirmed_returns(sparse), sparse)


def test_most_wrong_returns_go_and_few_right_ones() -> None:
    sparse, wrong = with_wrong(ground(), 0.1)
    lonely = lonely_returns(sparse)
    assert lonely[wrong].mean() > 0.6
    assert lonely[(sparse > 0) & ~wrong].mean() < 0.02


def test_a_pole_survives_among_wrong_returns() -> None:
    clean = ground()
    sparse, wrong = with_wrong(clean, 0.1)
    pole = (clean == np.float32(4.5)) & ~wrong
    assert lonely_returns(sparse)[pole].mean() < 0.1


def test_scale_does_not_matter() -> None:
    sparse, _ = with_wrong(ground(), 0.1)
    assert np.array_equal(lonely_returns(sparse), lonely_returns(sparse * 128))


def test_a_handful_of_returns_is_believed() -> None:
    sparse = np.zeros((40, 60), np.float32)
    sparse[5, 5], sparse[30, 50], sparse[20, 20] = 1.0, 90.0, 10.0
    assert not lonely_returns(sparse).any()
    assert not lonely_returns(np.zeros((4, 4), np.float32)).any()


def test_returns_that_are_all_lonely_are_believed() -> None:
    """A bush, or a sensor that is wrong throughout: without them nothing would be left to make depth of."""
    sparse = np.zeros((40, 60), np.float32)
    sparse[10:18:2, 10:18:2] = (2.0 * 1.2 ** np.arange(16)).reshape(4, 4)
    assert not lonely_returns(sparse).any()
    assert np.array_equal(confirmed_returns(sparse), sparse)


def test_what_is_not_finite_is_no_return() -> None:
    sparse = ground()
    sparse[0, 0], sparse[6, 3], sparse[12, 6] = np.nan, np.inf, -3.0
    kept = confirmed_returns(sparse)
    assert np.isfinite(kept).all() and kept[0, 0] == kept[6, 3] == kept[12, 6] == 0
