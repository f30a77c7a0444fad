"""The compiled completion against the operators of NumPy: equal to the last bit, for every shape and pattern."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core.completion import RowPattern, by_operators, complete_inverse_depth, row_pattern
from mf_ros.core.types import FloatArray

pytest.importorskip("numba")
from mf_ros.core import kernels_completion, kernels_pyramid


def scattered(shape: tuple[int, int], share: float, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    sparse = np.where(rng.random(shape) < share, rng.uniform(0.3, 200.0, shape), 0).astype(np.float32)
    sparse[shape[0] // 2, shape[1] // 2] = 10.0
    return sparse


def street(shape: tuple[int, int] = (94, 311), lines: int = 30) -> FloatArray:
    """Scan lines over a ground that falls away and a row of boxes on it, with gaps and centimetres of noise."""
    rng = np.random.default_rng(3)
    rows, cols = np.indices(shape, np.float32)
    ground = 1.65 * 360 / np.maximum(rows - shape[0] * 0.3, 4)
    depth = np.where((cols // 40) % 2 == 0, np.minimum(ground, 12 + cols / 20), ground) + rng.normal(0, 0.02, shape)
    on_line = np.isin(np.arange(shape[0]), np.linspace(shape[0] * 0.3, shape[0] - 1, lines).astype(int))
    return np.where(on_line[:, None] & (rng.random(shape) < 0.6), depth, 0).astype(np.float32)


def assert_same(sparse: FloatArray, pattern: RowPattern) -> None:
    filled = kernels_completion.complete(sparse, pattern)
    assert filled is not None and filled.dtype == np.float32
    np.testing.assert_array_equal(filled, by_operators(sparse, pattern, np))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 70),
    seed=st.integers(0, 2**16),
    share=st.floats(0.01, 1.0),
    start=st.integers(0, 3),
    poolings=st.integers(0, 2),
)
def test_equal_for_any_shape_density_and_pattern(
    rows: int, cols: int, seed: int, share: float, start: int, poolings: int
) -> None:
    assert_same(scattered((rows, cols), share, seed), RowPattern(start, poolings))


def test_equal_on_scan_lines_over_a_street() -> None:
    sparse = street()
    pattern = row_pattern(sparse > 0)
    assert pattern.poolings == 1, "the street must be seen as scan lines"
    assert_same(sparse, pattern)


def test_equal_when_buffers_are_used_again() -> None:
    for sparse in (street(), street() * np.float32(3), scattered((94, 311), 0.9), scattered((94, 311), 0.001)):
        assert_same(sparse, RowPattern(0, 1))


def test_equal_for_rows_that_do_not_lie_one_after_the_other() -> None:
    assert_same(scattered((40, 60), 0.2)[::2, 1::3], RowPattern(0, 0))


def test_a_result_is_not_overwritten_by_the_next() -> None:
    first = complete_inverse_depth(street(), RowPattern(0, 1))
    kept = first.copy()
    complete_inverse_depth(street() * np.float32(2), RowPattern(0, 1))
    np.testing.assert_array_equal(first, kept)


def test_buffers_of_the_last_shapes_only_are_kept() -> None:
    for width in range(10, 30):
        complete_inverse_depth(scattered((8, width), 0.5), RowPattern(0, 0))
    assert len(kernels_completion._kept.by_shape) == kernels_completion._KEPT_SHAPES


def test_threads_do_not_share_buffers() -> None:
    frames = [scattered((60, 90), 0.1, seed) for seed in range(4)]
    wanted = [by_operators(frame, RowPattern(0, 0), np) for frame in frames]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not np.array_equal(complete_inverse_depth(frames[number], RowPattern(0, 0)), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def odd_one(value: float) -> FloatArray:
    sparse = scattered((12, 15), 0.3)
    sparse[2, 3] = value
    return sparse


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-30, 1e-44])
def test_what_cannot_be_completed_is_left_to_numpy(value: float) -> None:
    with np.errstate(all="ignore"):
        assert kernels_completion.complete(odd_one(value), RowPattern(0, 0)) is None
        ours = complete_inverse_depth(odd_one(value), RowPattern(0, 0))
        np.testing.assert_array_equal(ours, by_operators(odd_one(value), RowPattern(0, 0), np))


@pytest.mark.parametrize("value", [-3.0, -0.0, 1e30])
def test_no_return_and_a_far_one_are_no_reason_to_leave_it(value: float) -> None:
    assert_same(odd_one(value), RowPattern(0, 0))


@pytest.mark.parametrize(
    "sparse",
    [
        np.zeros((6, 7), np.float32),
        np.zeros((0, 7), np.float32),
        np.zeros((6, 0), np.float32),
        np.ones((6, 7)),
        np.ones((1, kernels_pyramid.WIDEST + 1), np.float32),
    ],
)
def test_images_without_returns_of_other_types_or_too_wide_are_left_to_numpy(sparse: FloatArray) -> None:
    assert kernels_completion.complete(sparse, RowPattern(0, 0)) is None


def test_the_widest_image_fits() -> None:
    assert_same(scattered((3, kernels_pyramid.WIDEST), 0.1), RowPattern(0, 0))


def test_a_sparse_image_that_may_not_be_written_is_taken() -> None:
    sparse = street()
    sparse.flags.writeable = False
    assert_same(sparse, RowPattern(0, 1))
