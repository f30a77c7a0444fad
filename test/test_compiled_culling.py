"""The compiled z-buffer and counting of neighbours against NumPy's: the same returns are hidden and lonely."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core import compiled
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.outliers import neighbours_by_numpy
from mf_ros.core.projection import ProjectedReturns, mark_visible, nearest_by_numpy, rasterize_nearest, runs_by_numpy

pytest.importorskip("numba")
from mf_ros.core import kernels_culling


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 300),
    rows=st.integers(1, 20),
    cols=st.integers(1, 20),
    ties=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_nearest_of_each_pixel_is_the_same(count: int, rows: int, cols: int, ties: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.choice(np.array([1e-40, 0.3, 5, 5.0000005, 1e38, np.inf, np.nan]), count) if ties else rng.random(count)
    given = (rng.integers(0, rows * cols, count), z.astype(np.float32), rng.random(count) < 0.7)
    np.testing.assert_array_equal(kernels_culling.nearest(*given, (rows, cols)), nearest_by_numpy(*given, (rows, cols)))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 400),
    size=st.tuples(st.integers(1, 90), st.integers(1, 120)),
    depth=st.sampled_from([0.0, 0.5, 9.9]),
    cell=st.sampled_from([3.0, 4.7, 1.5 * np.sqrt(65.0)]),
    seed=st.integers(0, 999),
)
def test_neighbours_are_the_same_and_counts_start_from_nothing(
    count: int, size: tuple[int, int], depth: float, cell: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, cols = (rng.integers(0, each, count) for each in size)
    log_depth = (rng.random(count) * depth).astype(np.float32)
    wanted = neighbours_by_numpy(rows, cols, log_depth, cell)
    for _ in range(2):
        counted = kernels_culling.neighbours(rows, cols, log_depth, cell)
        assert counted is not None
        for ours, theirs in zip(counted, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_runs_of_occupied_cells_are_the_same(shape: tuple[int, int], share: float, seed: int) -> None:
    occupied = (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)
    (starts, spans), (wanted_starts, wanted_spans) = kernels_culling.runs(occupied), runs_by_numpy(occupied)
    np.testing.assert_array_equal(starts, wanted_starts)
    some = occupied.any(axis=0)
    np.testing.assert_array_equal(spans[some], wanted_spans[some])


@pytest.mark.parametrize("with_kernels", [True, False])
def test_a_pixel_outside_the_image_is_an_error_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, with_kernels: bool
) -> None:
    monkeypatch.setitem(compiled._loaded, "culling", kernels_culling if with_kernels else None)
    with pytest.raises(IndexError):
        rasterize_nearest(np.array([7]), np.array([2]), np.ones(1, np.float32), (4, 5))


def test_what_no_kernel_reads_is_left_to_numpy() -> None:
    pixels, z, used = np.arange(4), np.ones(4, np.float32), np.ones(4, np.bool_)
    assert kernels_culling.nearest(pixels, z.astype(np.float64), used, (2, 2)) is None
    assert kernels_culling.nearest(pixels.astype(np.int32), z, used, (2, 2)) is None
    assert kernels_culling.nearest(pixels[::2], z, used, (2, 2)) is None
    assert kernels_culling.nearest(pixels - 1, z, used, (2, 2)) is None
    log_depth = z.astype(np.float32)
    assert kernels_culling.neighbours(pixels, pixels, log_depth, 3.0) is not None
    assert kernels_culling.neighbours(pixels, pixels, log_depth.astype(np.float64), 3.0) is None
    assert kernels_culling.neighbours(pixels, pixels[::-1], log_depth, 3.0) is None
    for nonsense in (-9.0, np.nan, np.inf):
        assert kernels_culling.neighbours(pixels, pixels, np.full(4, nonsense, np.float32), 3.0) is None


def rainy_street(count: int = 6000) -> ProjectedReturns:
    """Scan lines over ground and two walls, the nearer of which hides returns, and drops of rain in front."""
    rng = np.random.default_rng(5)
    u, line = rng.random(count) * 399, rng.integers(0, 40, count)
    v = 60 + line * 2.9
    z = np.where((u > 150) & (u < 220) & (rng.random(count) < 0.7), 6.0, 1.6 * 300 / np.maximum(v - 50, 4))
    z = np.where(rng.random(count) < 0.1, rng.uniform(1, 5, count), z + rng.normal(0, 0.02, count))
    return ProjectedReturns.unmarked(np.stack([u, v], axis=1).astype(np.float32), z.astype(np.float32))


def test_the_same_returns_are_hidden_and_lonely_with_and_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiled._loaded, "culling", kernels_culling)
    ours = mark_visible(rainy_street(), (180, 400), ProjectionConfig())
    monkeypatch.setitem(compiled._loaded, "culling", None)
    theirs = mark_visible(rainy_street(), (180, 400), ProjectionConfig())
    assert theirs.lonely.sum() > 100 and (~theirs.visible & ~theirs.lonely).sum() > 20
    np.testing.assert_array_equal(ours.lonely, theirs.lonely)
    np.testing.assert_array_equal(ours.visible, theirs.visible)
    np.testing.assert_array_equal(ours.drawing_order(), theirs.drawing_order())
