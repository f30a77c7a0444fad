"""The engine that always works."""

from __future__ import annotations

import numpy as np
import pytest

from mf_ros.core.camera import make_camera
from mf_ros.core.config import EngineConfig
from mf_ros.core.grid import nearest_of_blocks
from mf_ros.core.types import SparseDepth
from mf_ros.engine import make_engine
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import MessageError

CAMERA = make_camera(160, 96, [120.0, 0, 79.5, 0, 120.0, 47.5, 0, 0, 1], [], "plumb_bob")
IMAGE = np.zeros((96, 160, 3), np.uint8)


def sparse_of(depth: np.ndarray) -> SparseDepth:
    return SparseDepth(depth.astype(np.float32), int(np.count_nonzero(depth)))


def test_depth_is_metric_finite_and_of_the_images_size() -> None:
    depth = np.zeros((96, 160))
    depth[10::12, ::3] = 6.0
    estimate = make_engine(EngineConfig("classical")).estimate(IMAGE, sparse_of(depth), CAMERA)
    assert estimate.metric and estimate.engine == "classical"
    assert estimate.depth.shape == estimate.confidence.shape == (96, 160)
    assert estimate.depth.dtype == estimate.confidence.dtype == np.float32
    assert np.allclose(estimate.depth, 6.0, rtol=1e-3)


def test_confidence_is_highest_at_a_return_and_falls_with_distance_from_it() -> None:
    depth = np.zeros((96, 160))
    depth[48, 20] = 5.0
    confidence = ClassicalEngine().estimate(IMAGE, sparse_of(depth), CAMERA).confidence
    along = confidence[48, 20:]
    assert along[0] == 1.0
    assert (np.diff(along) < 0).all() and along[-1] < 0.01


def test_confidence_is_lower_at_a_depth_edge() -> None:
    depth = np.zeros((96, 160))
    depth[4::8, :80:2], depth[4::8, 80::2] = 20.0, 5.0
    confidence = ClassicalEngine().estimate(IMAGE, sparse_of(depth), CAMERA).confidence
    assert confidence[40:56, 79:81].mean() < 0.5 * confidence[40:56, 30:50].mean()


def test_the_same_input_gives_the_same_output() -> None:
    rng = np.random.default_rng(0)
    sparse = sparse_of(np.where(rng.random((96, 160)) < 0.05, rng.uniform(2, 30, (96, 160)), 0))
    first, second = (ClassicalEngine().estimate(IMAGE, sparse, CAMERA) for _ in range(2))
    assert np.array_equal(first.depth, second.depth) and np.array_equal(first.confidence, second.confidence)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_without_a_usable_return_it_says_what_to_check(value: float) -> None:
    with pytest.raises(MessageError, match=r"No usable LiDAR return falls into the image.*calibration"):
        ClassicalEngine().estimate(IMAGE, sparse_of(np.full((96, 160), value)), CAMERA)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_a_value_that_is_no_return_takes_none_of_those_around_it_along(wrong: float) -> None:
    sparse = np.array([[wrong, 3.0], [5.0, 0.0]], np.float32)
    assert nearest_of_blocks(sparse, 2).tolist() == [[3.0]]
    assert nearest_of_blocks(sparse, 1).tolist() == [[0.0, 3.0], [5.0, 0.0]]


def test_returns_that_all_differ_from_their_neighbours_still_give_depth() -> None:
    depth = np.zeros((96, 160))
    depth[40:48:2, 60:68:2] = (2.0 * 1.2 ** np.arange(16)).reshape(4, 4)
    estimate = ClassicalEngine().estimate(IMAGE, sparse_of(depth), CAMERA)
    assert estimate.metric and np.isfinite(estimate.depth).all() and (estimate.depth > 0).all()


def test_a_very_large_image_is_filled_just_as_well() -> None:
    """4K is completed on a coarser grid: a slanted plane must come back to within half a per cent."""
    rows = np.arange(2160)[:, None]
    plane = np.broadcast_to(1.0 / (0.05 + 4e-5 * rows), (2160, 3840)).astype(np.float32)
    sparse = np.zeros_like(plane)
    sparse[20::40, ::6] = plane[20::40, ::6]
    camera = make_camera(3840, 2160, [3000.0, 0, 1919.5, 0, 3000.0, 1079.5, 0, 0, 1], [], "plumb_bob")
    estimate = ClassicalEngine().estimate(np.zeros((2160, 3840, 3), np.uint8), sparse_of(sparse), camera)
    assert estimate.depth.shape == estimate.confidence.shape == (2160, 3840)
    inside = np.s_[60:-60, 60:-60]
    assert np.abs(estimate.depth / plane - 1)[inside].max() < 0.005
    assert estimate.confidence[inside].min() > 0.5
