"""The plane fit: exact on planes, bounded by what was measured, the same in torch, and sharp at edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core.completion import complete_inverse_depth, row_pattern
from mf_ros.core.types import FloatArray

SHAPE = (96, 160)


def plane_depth(shape: tuple[int, int] = SHAPE) -> FloatArray:
    """A slanted plane, 4 m to 20 m away: its inverse depth is linear in the image."""
    rows, cols = np.indices(shape)
    return (1.0 / (0.05 + 0.0015 * rows + 0.0003 * cols)).astype(np.float32)


def shown_at_random(depth: FloatArray, share: float, seed: int = 0) -> FloatArray:
    mask = np.random.default_rng(seed).random(depth.shape) < share
    return np.where(mask, depth, 0).astype(np.float32)


def shown_on_lines(depth: FloatArray, gap: int) -> FloatArray:
    sparse = np.zeros_like(depth)
    sparse[gap // 2 :: gap, ::2] = depth[gap // 2 :: gap, ::2]
    return sparse


def dense(sparse: FloatArray) -> FloatArray:
    return np.reciprocal(complete_inverse_depth(sparse, row_pattern(sparse > 0)))


@pytest.mark.parametrize("sparse", [shown_at_random(plane_depth(), 0.02), shown_on_lines(plane_depth(), 8)])
def test_a_plane_is_recovered_between_its_returns(sparse: FloatArray) -> None:
    error = np.abs(dense(sparse) / plane_depth() - 1)
    # Inside the returns a plane is what the method fits; the border extrapolates and is left out.
    assert error[12:-12, 12:-12].max() < 0.02


def test_a_surface_of_one_depth_is_exact_everywhere() -> None:
    wall = np.full(SHAPE, 7.0, np.float32)
    assert np.abs(dense(shown_at_random(wall, 0.01)) - 7.0).max() < 1e-3


def test_no_pixel_lies_outside_the_measured_depths() -> None:
    rng = np.random.default_rng(1)
    depth = rng.uniform(2.0, 60.0, SHAPE).astype(np.float32)
    sparse = shown_at_random(depth, 0.05)
    filled = dense(sparse)
    assert filled.min() >= sparse[sparse > 0].min() * (1 - 1e-5)
    assert filled.max() <= sparse.max() * (1 + 1e-5)


def test_scan_lines_do_not_imprint_on_a_plane() -> None:
    sparse = shown_on_lines(plane_depth(), 8)
    relative = np.abs(dense(sparse) / plane_depth() - 1)[12:-12, 12:-12]
    on_line = (sparse > 0)[12:-12, 12:-12]
    # Noise-free input: both must be small, and the pixels between lines no more than half a per cent worse.
    assert relative[~on_line].mean() < relative[on_line].mean() + 0.005


def test_two_surfaces_meet_in_a_narrow_edge() -> None:
    depth = np.full(SHAPE, 20.0, np.float32)
    depth[:, 80:] = 5.0
    filled = dense(shown_on_lines(depth, 8))[20:-20]
    between = ((filled > 6.0) & (filled < 18.0)).sum(axis=1)
    assert between.max() <= 6, "an edge between lines sampled every 2 px must not smear over more than 6 px"


def test_a_wide_image_stays_in_single_precision() -> None:
    sparse = shown_at_random(np.full((64, 1300), 5.0, np.float32), 0.02)
    assert complete_inverse_depth(sparse, row_pattern(sparse > 0)).dtype == np.float32


def test_one_return_fills_the_image_with_its_depth() -> None:
    sparse = np.zeros(SHAPE, np.float32)
    sparse[40, 50] = 3.5
    assert np.allclose(dense(sparse), 3.5)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    share=st.floats(0.01, 1.0),
)
def test_any_shape_and_density_gives_finite_depth_of_that_shape(rows: int, cols: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sparse = np.where(rng.random((rows, cols)) < share, rng.uniform(0.3, 200.0, (rows, cols)), 0).astype(np.float32)
    sparse[rows // 2, cols // 2] = 10.0
    filled = dense(sparse)
    assert filled.shape == (rows, cols)
    assert filled.dtype == np.float32
    assert np.isfinite(filled).all() and (filled > 0).all()


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.05, 50.0))
def test_depth_scales_with_the_scene(factor: float) -> None:
    sparse = shown_at_random(plane_depth((48, 64)), 0.05)
    scaled = dense((sparse * np.float32(factor)).astype(np.float32))
    assert np.allclose(scaled / np.float32(factor), dense(sparse), rtol=2e-3)


def test_scan_lines_are_told_from_scattered_points() -> None:
    lines = shown_on_lines(plane_depth(), 8) > 0
    assert row_pattern(lines).poolings == 1
    assert row_pattern(shown_at_random(plane_depth(), 0.02) > 0).poolings == 0


@pytest.mark.parametrize(
    "sparse", [shown_at_random(plane_depth((37, 50)), 0.1), shown_on_lines(plane_depth((40, 64)), 8)]
)
def test_torch_computes_the_same(sparse: FloatArray) -> None:
    torch = pytest.importorskip("torch")
    pattern = row_pattern(sparse > 0)
    ours = complete_inverse_depth(sparse, pattern)
    theirs = complete_inverse_depth(torch.from_numpy(sparse), pattern, torch)
    assert np.allclose(ours, theirs.numpy(), rtol=1e-4)


def test_the_computation_exports_as_a_graph() -> None:
    torch = pytest.importorskip("torch")
    sparse = shown_on_lines(plane_depth((12, 16)), 4)
    pattern = row_pattern(sparse > 0)

    class Prior(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, sparse):  # type: ignore[no-untyped-def]
            return complete_inverse_depth(sparse, pattern, torch)

    graph = torch.export.export(Prior().eval(), (torch.from_numpy(sparse),)).module()
    # Other values than those it was exported with: nothing of the data may be frozen into the graph.
    other = shown_on_lines(plane_depth((12, 16)) * 3, 4)
    assert np.allclose(graph(torch.from_numpy(other)).numpy(), complete_inverse_depth(other, pattern))
