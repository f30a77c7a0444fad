"""Dense depth to coloured clouds, against the pinhole formula and clouds whose thinning is known."""

from __future__ import annotations

import numpy as np
import pytest

from mf_ros.core.camera import make_camera
from mf_ros.core.cloud import (
    edge_mask,
    pack_cloud,
    pack_points,
    thin_cloud,
    unpack_rgb,
    voxel_filter,
)
from mf_ros.core.config import CloudConfig
from mf_ros.errors import ConfigError

WIDTH, HEIGHT = 40, 30
FX, FY, CX, CY = 50.0, 52.0, 19.0, 15.5
EVERYTHING = CloudConfig(min_depth_m=0.0, max_depth_m=1000.0, edge_ratio=0.0)


@pytest.fixture
def camera():
    return make_camera(WIDTH, HEIGHT, [FX, 0, CX, 0, FY, CY, 0, 0, 1], [], "plumb_bob")


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def flat(depth_m: float) -> np.ndarray:
    return np.full((HEIGHT, WIDTH), depth_m, np.float32)


def valid(packed: np.ndarray) -> np.ndarray:
    """(H, W) bool, True where there is a point."""
    return np.isfinite(packed[..., 2])


def test_points_follow_the_pinhole_formula(camera, image):
    depth = np.random.default_rng(2).uniform(1, 50, (HEIGHT, WIDTH)).astype(np.float32)
    xyz = pack_cloud(depth, image, camera, EVERYTHING)[..., :3]
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    expected = np.stack([(u - CX) / FX * depth, (v - CY) / FY * depth, depth], axis=-1)
    assert xyz.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(xyz, expected, rtol=1e-5, atol=1e-5)  # float32 rays and products


def test_colours_are_packed_as_pcl_reads_them(camera, image):
    cloud = pack_cloud(flat(5), image, camera, EVERYTHING)
    pixel = image[3, 7].astype(int)
    assert cloud.view(np.uint32)[3, 7, 3] == pixel[0] << 16 | pixel[1] << 8 | pixel[2]
    assert bytes(cloud[3, 7].tobytes()[12:16]) == bytes([pixel[2], pixel[1], pixel[0], 0])
    np.testing.assert_array_equal(unpack_rgb(cloud), image)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf, 0.0, -3.0])
def test_pixels_without_depth_become_nan_and_keep_their_place(camera, image, missing):
    depth = flat(5)
    depth[4, 6] = missing
    cloud = pack_cloud(depth, image, camera, CloudConfig(edge_ratio=0.0))
    assert np.isnan(cloud[4, 6, :3]).all()
    assert valid(cloud).sum() == WIDTH * HEIGHT - 1


def test_range_and_confidence_filters_drop_what_they_say(camera, image):
    depth = flat(5)
    depth[0], depth[1] = 0.2, 120.0
    confidence = np.ones((HEIGHT, WIDTH), np.float32)
    confidence[2] = 0.3
    config = CloudConfig(min_depth_m=0.3, max_depth_m=100.0, min_confidence=0.5, edge_ratio=0.0)
    cloud = pack_cloud(depth, image, camera, config, confidence)
    assert not valid(cloud)[:3].any()
    assert valid(cloud)[3:].all()


def test_buffer_is_filled_in_place_and_nothing_of_the_last_frame_stays(camera, image):
    buffer = pack_cloud(flat(5), image, camera, EVERYTHING)
    again = pack_cloud(flat(np.nan), image[::-1].copy(), camera, EVERYTHING, out=buffer)
    assert again is buffer
    assert not valid(buffer).any()
    np.testing.assert_array_equal(unpack_rgb(buffer), image[::-1])


@pytest.mark.parametrize(
    "buffer", [np.zeros((HEIGHT, WIDTH, 3), np.float32), np.zeros((HEIGHT, WIDTH, 4)), np.zeros((5, 5, 4), np.float32)]
)
def test_a_buffer_of_another_form_is_refused(camera, image, buffer):
    with pytest.raises(ValueError, match="output buffer"):
        pack_cloud(flat(5), image, camera, EVERYTHING, out=buffer)


def test_sizes_that_differ_are_refused(camera, image):
    with pytest.raises(ValueError, match="of one size"):
        pack_cloud(flat(5)[:-1], image, camera, EVERYTHING)


def test_both_sides_of_a_depth_step_are_edges_and_nothing_else():
    depth = flat(10)
    depth[:, 20:] = 12.0
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[:, 19:21] = True
    np.testing.assert_array_equal(edge_mask(depth, 0.08), expected)
    assert not edge_mask(depth, 0.25).any()


def test_missing_neighbours_are_no_edge_but_the_sky_is():
    depth = flat(10)
    depth[10, 10], depth[20, 20] = np.nan, np.inf
    edges = edge_mask(depth, 0.08)
    assert not edges[9:12, 9:12].any()
    assert edges[19:22, 19:22].sum() == 8
    assert not edges[20, 20]


def test_ground_seen_at_a_grazing_angle_is_kept():
    # A camera 1.65 m above flat ground; fy 720 px: at 40 m, one row is 1.3 m (3%) of depth.
    rows = np.arange(30, 60, dtype=np.float32)
    depth = np.repeat((1.65 * 720.0 / rows)[:, None], WIDTH, axis=1).astype(np.float32)
    assert not edge_mask(depth, 0.08).any()


def test_voxels_hold_the_mean_of_their_points_and_colours():
    points = np.array([[0.1, 0, 1], [0.3, 0, 1], [5, 5, 5], [np.nan, 0, 0]], np.float32)
    colours = np.array([[10, 0, 0], [20, 0, 0], [1, 2, 3], [9, 9, 9]], np.uint8)
    thin, tint = voxel_filter(points, colours, 0.5)
    assert thin.dtype == np.float32 and tint.dtype == np.uint8
    order = np.argsort(thin[:, 2])
    np.testing.assert_allclose(thin[order], [[0.2, 0, 1], [5, 5, 5]], atol=1e-6)
    np.testing.assert_array_equal(tint[order], [[15, 0, 0], [1, 2, 3]])


def test_thinned_cloud_covers_the_same_space_without_nan(camera, image):
    depth = flat(5)
    depth[:10] = np.nan
    packed = pack_cloud(depth, image, camera, EVERYTHING)
    thin = thin_cloud(packed, 0.5)
    kept = packed[10:, :, :3].reshape(-1, 3)
    assert 0 < len(thin) < len(kept) / 4
    assert np.isfinite(thin[:, :3]).all()
    gap = np.linalg.norm(kept[:, None] - thin[None, :, :3], axis=2).min(axis=1)
    assert gap.max() <= 0.5 * np.sqrt(3)  # no point is farther from its voxel's mean than the voxel's diagonal


def test_voxels_too_small_to_number_are_refused_in_terms_of_the_setting():
    points = np.array([[0, 0, 0], [1e6, 1e6, 1e6]], np.float32)
    with pytest.raises(ConfigError, match=r"cloud\.voxel_m"):
        voxel_filter(points, np.zeros((2, 3), np.uint8), 1e-3)


def test_an_empty_cloud_thins_to_an_empty_cloud():
    assert thin_cloud(np.full((4, 5, 4), np.nan, np.float32), 0.1).shape == (0, 4)


def test_points_without_colour_are_black():
    packed = pack_points(np.ones((3, 3), np.float32))
    assert packed.shape == (3, 4)
    assert not unpack_rgb(packed).any()
