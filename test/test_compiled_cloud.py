"""The compiled packing of clouds against NumPy's: the same bits, whatever the depth holds and the filters drop."""

from __future__ import annotations

from typing import Optional

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core import compiled
from mf_ros.core.camera import make_camera
from mf_ros.core.cloud import pack_by_numpy, pack_cloud
from mf_ros.core.config import CloudConfig

pytest.importorskip("numba")
from mf_ros.core import kernels_cloud

ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -3.0, 1e-42, 1e38, 0.3, 100.0], np.float32)
SHAPES = [(1, 1), (1, 37), (37, 1), (2, 2), (23, 41), (64, 129)]


def example(shape: tuple[int, int], odd: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Depth with steps and a share of odd values, an image, rays and confidence."""
    rng = np.random.default_rng(seed)
    depth = 3 + np.arange(shape[1]) / 20 + 6 * (rng.random(shape) < 0.05) + rng.normal(0, 0.02, shape)
    depth = np.where(rng.random(shape) < odd, rng.choice(ODD, shape), depth).astype(np.float32)
    rays = rng.normal(size=(3, *shape)).astype(np.float32)
    rays[2] = 1.0
    # Pixels outside the lens' valid field of view.
    rays[:, rng.random(shape) < 0.02] = np.nan
    rays.flags.writeable = False
    confidence = rng.random(shape).astype(np.float32)
    confidence[rng.random(shape) < 0.05] = np.nan
    return depth, rng.integers(0, 256, (*shape, 3), np.uint8), rays, confidence


def assert_same(
    depth: np.ndarray, image: np.ndarray, rays: np.ndarray, config: CloudConfig, confidence: Optional[np.ndarray]
) -> None:
    ours, theirs = np.ones((*depth.shape, 4), np.float32), np.zeros((*depth.shape, 4), np.float32)
    assert kernels_cloud.pack(depth, image, rays, config, confidence, ours)
    with np.errstate(all="ignore"):
        pack_by_numpy(depth, image, rays, config, confidence, theirs)
    np.testing.assert_array_equal(ours[..., :3], theirs[..., :3])
    np.testing.assert_array_equal(ours.view(np.uint32)[..., 3], theirs.view(np.uint32)[..., 3])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    odd=st.sampled_from([0.0, 0.05, 0.6]),
    seed=st.integers(0, 999),
    edge_ratio=st.sampled_from([0.0, 0.01, 0.08, 2.0]),
    min_confidence=st.sampled_from([0.0, 0.4]),
    limits=st.sampled_from([(0.3, 100.0), (0.0, np.inf), (0.0, 4.0)]),
)
def test_equal_whatever_the_depth_holds(
    shape: tuple[int, int],
    odd: float,
    seed: int,
    edge_ratio: float,
    min_confidence: float,
    limits: tuple[float, float],
) -> None:
    depth, image, rays, confidence = example(shape, odd, seed)
    config = CloudConfig(
        min_depth_m=limits[0], max_depth_m=limits[1], edge_ratio=edge_ratio, min_confidence=min_confidence
    )
    assert_same(depth, image, rays, config, confidence)


def test_equal_without_confidence_and_for_arrays_that_may_not_be_written() -> None:
    depth, image, rays, _ = example((20, 30), 0.05)
    depth.flags.writeable = image.flags.writeable = False
    assert_same(depth, image, rays, CloudConfig(min_confidence=0.5), None)


def test_what_lies_otherwise_in_memory_is_left_to_numpy() -> None:
    depth, image, rays, _ = example((20, 30), 0.05)
    out = np.zeros((20, 30, 4), np.float32)
    config = CloudConfig()
    assert not kernels_cloud.pack(np.asfortranarray(depth), image, rays, config, None, out)
    assert not kernels_cloud.pack(depth, image[..., ::-1], rays, config, None, out)
    assert not kernels_cloud.pack(depth.astype(np.float64), image, rays, config, None, out)
    assert not out.any()


@pytest.mark.parametrize("with_kernels", [True, False])
def test_a_cloud_of_a_camera_is_the_same_with_and_without_kernels(
    monkeypatch: pytest.MonkeyPatch, with_kernels: bool
) -> None:
    depth, image, _, confidence = example((48, 64), 0.05)
    camera = make_camera(64, 48, [50, 0, 31.5, 0, 50, 23.5, 0, 0, 1], [0.1, -0.02, 0, 0, 0], "plumb_bob")
    wanted = np.zeros((48, 64, 4), np.float32)
    pack_by_numpy(depth, image, camera.ray_planes(), CloudConfig(), confidence, wanted)
    monkeypatch.setitem(compiled._loaded, "cloud", kernels_cloud if with_kernels else None)
    packed = pack_cloud(depth, image, camera, CloudConfig(), confidence)
    np.testing.assert_array_equal(packed[..., :3], wanted[..., :3])
    # A mirrored view is no kernel's input; NumPy takes it.
    mirrored = pack_cloud(depth[::-1], image[::-1], camera, CloudConfig(), confidence[::-1])
    np.testing.assert_array_equal(mirrored.view(np.uint32)[..., 3], packed[::-1].view(np.uint32)[..., 3])


@pytest.mark.parametrize("with_kernels", [True, False])
def test_confidence_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch, with_kernels: bool) -> None:
    depth, image, _, confidence = example((48, 64), 0.0)
    camera = make_camera(64, 48, [50, 0, 31.5, 0, 50, 23.5, 0, 0, 1], [], "plumb_bob")
    monkeypatch.setitem(compiled._loaded, "cloud", kernels_cloud if with_kernels else None)
    with pytest.raises(ValueError, match="Confidence is of shape"):
        pack_cloud(depth, image, camera, CloudConfig(min_confidence=0.5), confidence[:-1])
