"""Images of any shape on square canvases: nothing is stretched, nothing is lost, neighbours agree."""

from __future__ import annotations

import numpy as np
import pytest

from mf_ros.engine.canvases import lay

SIDE = 64


@pytest.mark.parametrize(
    ("shape", "canvases"),
    [((64, 64), 1), ((48, 64), 1), ((90, 160), 1), ((375, 1242), 5), ((1242, 375), 5), ((7, 120), 8), ((1, 1), 1)],
)
def test_an_image_of_any_shape_lies_on_canvases_unstretched(shape: tuple[int, int], canvases: int) -> None:
    made = lay(shape, SIDE)
    assert len(made.origins) == canvases
    rows, cols = (size / whole for size, whole in zip(made.size, shape, strict=True))
    # A pixel of the sheet is what rounding to whole pixels may cost.
    assert abs(rows - cols) * max(shape) <= 1.0 * max(shape) / min(shape) or min(shape) < 8
    cut = made.cut(np.ones(made.size, np.float32), 0.0)
    assert cut.shape == (canvases, SIDE, SIDE)
    assert np.array_equal(made.joined(cut), np.ones(made.size, np.float32)), "every pixel is on a canvas"


def test_what_is_cut_and_joined_again_stays_as_it_was() -> None:
    made = lay((100, 400), SIDE)
    sheet = np.random.default_rng(0).random(made.size, np.float32)
    np.testing.assert_allclose(made.joined(made.cut(sheet, 0.0)), sheet, atol=1e-6)


def test_canvases_that_each_have_a_scale_of_their_own_are_brought_together() -> None:
    made = lay((100, 400), SIDE)
    sheet = np.random.default_rng(0).normal(size=made.size).astype(np.float32)
    own = np.arange(len(made.origins), dtype=np.float32) * 0.4
    offsets = made.offsets(made.cut(sheet, 0.0) + own[:, None, None])
    np.testing.assert_allclose(offsets, -own, atol=1e-5)


def test_returns_stay_where_they_were_measured_and_the_nearest_wins() -> None:
    depth = np.zeros((100, 100), np.float32)
    depth[10, 20], depth[11, 21], depth[99, 0], depth[50, 50] = 7.0, 5.0, 3.0, np.nan
    sheet = lay((100, 100), 50).returns(depth)
    assert {(r, c): float(sheet[r, c]) for r, c in zip(*np.nonzero(sheet), strict=True)} == {(5, 10): 5.0, (49, 0): 3.0}
    wide = lay((50, 200), 100).returns(
        np.where(np.arange(200) == 123, np.float32(4), np.float32(0))[None].repeat(50, 0)
    )
    # Enlarged twice: the middle of pixel 123 falls into 247.
    assert set(np.nonzero(wide)[1]) == {247}
