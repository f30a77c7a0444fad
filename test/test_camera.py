"""Camera models against OpenCV, and what CameraInfo's size, window and binning do to them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core.camera import CameraModel, make_camera, rectify_image, rectify_maps
from mf_ros.core.distortion import PolynomialLens
from mf_ros.errors import CalibrationError

WIDTH, HEIGHT = 640, 400
K = np.array([[410.0, 0.0, 322.5], [0.0, 415.0, 198.0], [0.0, 0.0, 1.0]])
LENSES = {
    "no distortion": ("plumb_bob", []),
    "plumb_bob of 4": ("plumb_bob", [-0.25, 0.07, 0.001, -0.0006]),
    "plumb_bob": ("plumb_bob", [-0.32, 0.13, 0.0012, -0.0006, -0.025]),
    "rational_polynomial": ("rational_polynomial", [0.5, -0.1, 0.001, 0.0004, 0.01, 0.8, -0.05, 0.02]),
    "thin prism": ("rational_polynomial", [-0.2, 0.05, 0.001, 0.0, 0.0, 0.1, 0.0, 0.0, 0.002, -0.001, 0.001, 0.0005]),
    "equidistant": ("equidistant", [-0.03, 0.012, -0.006, 0.001]),
    "ideal fisheye": ("equidistant", [0.0, 0.0, 0.0, 0.0]),
}


def camera_with(lens: str, **kwargs) -> CameraModel:
    model, D = LENSES[lens]
    return make_camera(WIDTH, HEIGHT, K, D, model, **kwargs)


def opencv_pixels(points: np.ndarray, camera: CameraModel) -> np.ndarray:
    project = cv2.fisheye.projectPoints if camera.distortion_model == "equidistant" else cv2.projectPoints
    uv, _ = project(points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), camera.K, camera.D)
    return uv.reshape(-1, 2)


def points_within(camera: CameraModel, share: float = 0.9, count: int = 2000) -> np.ndarray:
    """Points 1 to 50 m away, at angles up to a share of what the lens model holds for."""
    rng = np.random.default_rng(3)
    angle, turn = rng.uniform(0, share * camera.max_angle, count), rng.uniform(0, 2 * np.pi, count)
    rays = np.stack([np.tan(angle) * np.cos(turn), np.tan(angle) * np.sin(turn), np.ones(count)], axis=1)
    return rays * rng.uniform(1.0, 50.0, (count, 1))


@pytest.mark.parametrize("lens", LENSES)
def test_project_agrees_with_opencv(lens):
    camera = camera_with(lens)
    points = points_within(camera)
    # Both compute the same formula in doubles; pixels reach some thousands far off axis.
    np.testing.assert_allclose(camera.project(points), opencv_pixels(points, camera), rtol=1e-10, atol=1e-8)


@pytest.mark.parametrize("lens", LENSES)
def test_unproject_inverts_opencvs_projection(lens):
    camera = camera_with(lens)
    points = points_within(camera)
    back = camera.unproject(opencv_pixels(points, camera), points[:, 2])
    # Near the fold the inverse is ill-conditioned, hence not machine precision.
    np.testing.assert_allclose(back, points, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("lens", ["plumb_bob", "rational_polynomial"])
def test_unproject_agrees_with_opencvs_undistort_when_it_may_iterate(lens):
    camera = camera_with(lens)
    uv = np.random.default_rng(0).uniform([40, 40], [WIDTH - 40, HEIGHT - 40], (500, 2))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-12)
    # OpenCV 4 has the stopping rule in a function of its own, OpenCV 5 in the function itself.
    undistort = getattr(cv2, "undistortPointsIter", None) or cv2.undistortPoints
    arguments = {"R": np.eye(3), "P": np.eye(3), "criteria": criteria}
    expected = undistort(uv.reshape(-1, 1, 2), camera.K, camera.D, **arguments).reshape(-1, 2)
    np.testing.assert_allclose(camera.unproject(uv, np.ones(500))[:, :2], expected, atol=1e-8)


def test_points_that_opencv_folds_into_the_image_are_nan():
    camera = camera_with("plumb_bob")
    angle = camera.max_angle + np.radians([0.5, 5.0, 15.0, 25.0])
    points = np.stack([np.tan(angle), np.zeros(4), np.ones(4)], axis=1)
    folded = opencv_pixels(points, camera)
    assert (folded[:, 0] < opencv_pixels(points_within(camera, 1.0), camera)[:, 0].max() + 1.0).any()
    assert np.isnan(camera.project(points)).all()


def test_the_limit_is_where_the_distorted_radius_stops_growing():
    k1, k2 = -0.3, 0.02
    camera = make_camera(WIDTH, HEIGHT, K, [k1, k2, 0, 0, 0], "plumb_bob")
    # d/dr of r + k1 r³ + k2 r⁵ is a quadratic in r².
    first = np.sqrt(np.roots([5 * k2, 3 * k1, 1.0]).min())
    # The limit is searched on a grid of 0.02 degrees and must not lie past the fold.
    assert np.arctan(first) - np.radians(0.021) <= camera.max_angle <= np.arctan(first)


def test_points_behind_the_camera_or_not_finite_have_no_pixel():
    points = np.array([[0, 0, -1], [1, 1, 0], [np.nan, 0, 1], [0, np.inf, 1], [0, 0, np.inf], [0.1, 0.2, 2.0]])
    for lens in LENSES:
        visible = np.isfinite(camera_with(lens).project(points)).all(axis=1)
        assert visible.tolist() == [False] * 5 + [True], lens


def test_projecting_no_points_gives_no_pixels():
    for lens in LENSES:
        assert camera_with(lens).project(np.zeros((0, 3), np.float32)).shape == (0, 2)
        assert camera_with(lens).unproject(np.zeros((0, 2)), np.zeros(0)).shape == (0, 3)


@pytest.mark.parametrize("lens", LENSES)
def test_rays_project_back_to_their_pixel_centres(lens):
    camera = camera_with(lens)
    rays = camera.rays()
    assert rays.shape == (HEIGHT, WIDTH, 3) and rays.dtype == np.float32 and (rays[..., 2] == 1.0).all()
    assert camera.rays() is rays
    grid = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1)
    # float32 rays: 1e-7 relative, times the focal length.
    np.testing.assert_allclose(camera.project(rays.reshape(-1, 3)).reshape(grid.shape), grid, atol=1e-3)


def test_pixels_that_no_valid_ray_reaches_are_nan():
    camera = make_camera(WIDTH, HEIGHT, K, [-0.6, 0.0, 0.0, 0.0, 0.0], "plumb_bob")
    rays = camera.rays()
    assert np.isnan(rays[0, 0]).all()
    assert np.isfinite(rays[HEIGHT // 2, WIDTH // 2]).all()
    assert np.isnan(camera.unproject(np.array([[0.0, 0.0]]), np.array([5.0]))).all()


def test_skew_in_K_is_honoured_both_ways():
    skewed = K.copy()
    skewed[0, 1] = 3.0
    camera = make_camera(WIDTH, HEIGHT, skewed, [], "plumb_bob")
    point = np.array([[0.4, -0.2, 2.0]])
    expected = skewed @ point[0] / 2.0
    np.testing.assert_allclose(camera.project(point), [expected[:2]])
    np.testing.assert_allclose(camera.unproject(expected[None, :2], np.array([2.0])), point)
    np.testing.assert_allclose(camera.rays()[10, 20], camera.unproject([[20, 10]], [1.0])[0], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    k=st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    p=st.tuples(*[st.floats(-0.01, 0.01)] * 2),
    uv=st.tuples(st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1)),
    depth=st.floats(0.1, 200.0),
)
def test_unproject_then_project_returns_to_the_pixel_or_says_nan(k, p, uv, depth):
    camera = make_camera(WIDTH, HEIGHT, K, [k[0], k[1], p[0], p[1], k[2]], "plumb_bob")
    point = camera.unproject(np.array([uv]), np.array([depth]))
    if np.isfinite(point).all():
        np.testing.assert_allclose(camera.project(point), [uv], atol=1e-3)
    else:
        assert np.isnan(point).all()


def test_resizing_the_camera_is_resizing_the_image():
    camera = camera_with("plumb_bob")
    small = camera.resized(WIDTH // 2, HEIGHT // 4)
    points = points_within(camera, 0.6)
    # A pixel centre u lies u + 0.5 pixels from the left border, and borders scale.
    expected = (camera.project(points) + 0.5) * [0.5, 0.25] - 0.5
    np.testing.assert_allclose(small.project(points), expected, atol=1e-9)
    assert (small.width, small.height) == (WIDTH // 2, HEIGHT // 4)


def test_resized_matches_cv2_resize_of_a_rendered_blob():
    camera = make_camera(WIDTH, HEIGHT, K, [], "")
    uv = camera.project(np.array([[0.31, -0.12, 1.0]]))[0]
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    image = np.exp(-((u - uv[0]) ** 2 + (v - uv[1]) ** 2) / 200.0)
    small = cv2.resize(image, (WIDTH // 4, HEIGHT // 4), interpolation=cv2.INTER_AREA)
    v, u = np.mgrid[: HEIGHT // 4, : WIDTH // 4]
    centre = [(u * small).sum() / small.sum(), (v * small).sum() / small.sum()]
    np.testing.assert_allclose(
        camera.resized(WIDTH // 4, HEIGHT // 4).project(np.array([[0.31, -0.12, 1.0]]))[0], centre, atol=1e-3
    )


def test_binning_averages_blocks_and_drops_the_rest():
    camera = make_camera(641, 401, K, [], "plumb_bob").binned(2, 0)
    assert (camera.width, camera.height) == (320, 401)
    assert camera.K[0, 0] == K[0, 0] / 2 and camera.K[1, 1] == K[1, 1]
    assert camera.K[0, 2] == pytest.approx((K[0, 2] + 0.5) / 2 - 0.5) and camera.K[1, 2] == K[1, 2]


def test_roi_is_in_full_resolution_and_applied_before_binning():
    camera = camera_with("plumb_bob", roi=(100, 40, 400, 200), binning=(2, 2), image_size=(200, 100))
    points = points_within(camera, 0.5)
    expected = (camera_with("plumb_bob").project(points) - [100, 40] + 0.5) / 2 - 0.5
    np.testing.assert_allclose(camera.project(points), expected, atol=1e-9)


@pytest.mark.parametrize("roi", [(-1, 0, 10, 10), (600, 0, 41, 10), (0, 0, 10, 0), (0, 399, 10, 2)])
def test_a_roi_that_leaves_the_image_is_refused(roi):
    with pytest.raises(CalibrationError, match="region of interest"):
        camera_with("plumb_bob", roi=roi)


def test_rectified_image_shows_straight_what_the_lens_bent():
    camera = camera_with("plumb_bob")
    ideal = camera.rectified()
    assert not ideal.has_distortion and (ideal.K == camera.K).all()
    np.testing.assert_array_equal(ideal.R, np.eye(3))
    map_x, map_y = rectify_maps(camera)
    expected_x, expected_y = cv2.initUndistortRectifyMap(
        camera.K, camera.D, np.eye(3), camera.K, (WIDTH, HEIGHT), cv2.CV_32FC1
    )
    np.testing.assert_allclose(map_x, expected_x, atol=2e-3)
    np.testing.assert_allclose(map_y, expected_y, atol=2e-3)
    image = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    expected = cv2.undistort(image, camera.K, camera.D)
    # OpenCV rounds its maps to 1/32 pixel.
    assert np.abs(rectify_image(image, camera).astype(int) - expected).max() <= 3


def test_rectifying_what_the_lens_model_does_not_reach_gives_black():
    camera = make_camera(WIDTH, HEIGHT, K, [-0.6, 0.0, 0.0, 0.0, 0.0], "plumb_bob")
    rectified = rectify_image(np.full((HEIGHT, WIDTH), 200, np.uint8), camera)
    assert rectified[0, 0] == 0 and rectified[HEIGHT // 2, WIDTH // 2] == 200


def test_rectifying_an_image_of_another_size_is_refused():
    with pytest.raises(CalibrationError, match="320 x 200"):
        rectify_image(np.zeros((200, 320, 3), np.uint8), camera_with("plumb_bob"))


def test_cameras_are_equal_and_hashed_by_value():
    assert camera_with("plumb_bob") == camera_with("plumb_bob")
    assert len({camera_with("plumb_bob"), camera_with("plumb_bob"), camera_with("equidistant")}) == 2
    with pytest.raises(ValueError, match="read-only"):
        camera_with("plumb_bob").K[0, 0] = 1.0


def test_the_table_of_a_lens_is_computed_once_for_all_images(monkeypatch):
    D = [-0.3, 0.0, 0.001, -0.002, 0.0]
    first = make_camera(WIDTH, HEIGHT, K, D, "plumb_bob")
    monkeypatch.setattr(PolynomialLens, "_valid_range", lambda lens: pytest.fail("computed again"))
    again = make_camera(WIDTH // 2, HEIGHT, K, D, "plumb_bob")
    assert again.resized(WIDTH, HEIGHT).max_angle == first.max_angle
    monkeypatch.undo()
    assert make_camera(WIDTH, HEIGHT, K, [-0.5, *D[1:]], "plumb_bob").max_angle < first.max_angle


def test_no_coefficients_mean_no_distortion():
    for model, D in [("", []), ("plumb_bob", ()), ("plumb_bob", np.zeros(5)), ("rational_polynomial", np.zeros(8))]:
        assert not make_camera(WIDTH, HEIGHT, K, D, model).has_distortion
    assert make_camera(WIDTH, HEIGHT, K, [], "").distortion_model == "plumb_bob"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.zeros(9)}, "not calibrated"),
        ({"K": [400, 0, 300, 0, float("nan"), 200, 0, 0, 1]}, "not finite"),
        ({"K": [400, 0, 300, 0, 400, 200]}, "6 values instead of 9"),
        ({"K": [400, 0, 300, 0, -400, 200, 0, 0, 1]}, "positive fx and fy"),
        ({"D": [0.1, float("inf"), 0, 0, 0]}, "not finite"),
        ({"D": [0.1, 0.2, 0.3]}, "plumb_bob takes 4 or 5"),
        ({"D": np.full(8, 0.1)}, "rational_polynomial"),
        ({"D": [0.1] * 5, "distortion_model": "equidistant"}, "equidistant takes 4"),
        ({"D": [0.1] * 7, "distortion_model": "rational_polynomial"}, "takes 8"),
        ({"D": [0.01] * 14, "distortion_model": "rational_polynomial"}, "tilted sensor"),
        ({"distortion_model": "double_sphere"}, "plumb_bob, rational_polynomial, equidistant"),
        ({"D": [-1e9, 0, 0, 0, 0]}, "very centre"),
        ({"D": [-1e9, 0, 0, 0], "distortion_model": "equidistant"}, "very centre"),
        ({"width": 0}, "0 x 400"),
        ({"width": 2**31}, "cannot be used"),
        ({"image_size": (320, 200)}, "320 x 200.*640 x 400"),
    ],
)
def test_a_calibration_that_cannot_be_used_says_why(change, message):
    arguments = {"width": WIDTH, "height": HEIGHT, "K": K, "D": [], "distortion_model": "plumb_bob", **change}
    with pytest.raises(CalibrationError, match=message):
        make_camera(**arguments)


def test_a_camera_info_without_a_size_takes_the_images():
    camera = make_camera(0, 0, K, [], "plumb_bob", image_size=(WIDTH, HEIGHT))
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
