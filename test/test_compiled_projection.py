"""The compiled projection against NumPy's: the same points fall into the same places, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core import compiled
from mf_ros.core.camera import CameraModel
from mf_ros.core.projection import NEAREST_Z_M, project_points, projected_by_numpy
from mf_ros.core.types import CameraPoints

pytest.importorskip("numba")
from mf_ros.core import kernels_projection

ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, NEAREST_Z_M], np.float32)
LENSES = {
    "ideal": ("plumb_bob", []),
    "radial": ("plumb_bob", [-0.28, 0.09, 0.0, 0.0, -0.01]),
    "tangential": ("plumb_bob", [-0.28, 0.09, 0.0005, -0.0003, -0.01]),
    "rational": ("rational_polynomial", [0.4, 0.1, 0.0, 0.0, 0.02, 0.5, 0.2, 0.03]),
    "prism": ("rational_polynomial", [0.4, 0.1, 1e-3, -2e-3, 0.02, 0.5, 0.2, 0.03, 1e-3, -2e-3, 3e-3, 1e-3]),
}


def camera(lens: str, skew: float = 0.7, focal: float = 50.0) -> CameraModel:
    model, D = LENSES[lens]
    K = np.array([[focal, skew, 33.2], [0.0, focal + 1.0, 23.9], [0.0, 0.0, 1.0]])
    return CameraModel(64, 48, K, np.array(D), model)


def cloud(count: int, odd: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, [4, 3, 6], (count, 3))
    return np.where(rng.random((count, 3)) < odd, rng.choice(ODD, (count, 3)), points).astype(np.float32)


def assert_same(points: np.ndarray, model: CameraModel) -> None:
    with np.errstate(all="ignore"):
        wanted = projected_by_numpy(points, model)
    found = kernels_projection.project(points, model)
    assert found is not None
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=80, deadline=None)
@given(
    lens=st.sampled_from(sorted(LENSES)),
    count=st.integers(0, 1500),
    odd=st.sampled_from([0.0, 0.1, 0.5]),
    focal=st.sampled_from([20.0, 50.0, 400.0]),
    seed=st.integers(0, 999),
)
def test_projected_points_are_equal(lens: str, count: int, odd: float, focal: float, seed: int) -> None:
    assert_same(cloud(count, odd, seed), camera(lens, focal=focal))


@pytest.mark.parametrize("lens", sorted(LENSES))
def test_points_on_the_borders_of_the_image_are_equal(lens: str) -> None:
    model = camera(lens)
    u, v = np.meshgrid([-0.5, -0.49, 0.0, 63.49, 63.5], [-0.5, -0.495, 12.0, 47.49, 47.5])
    uv = np.stack([u.ravel(), v.ravel()], axis=1)
    # Rounded to single precision some of them lie a little inside, some a little outside.
    points = np.concatenate([model.unproject(uv, np.full(len(uv), z)) for z in (0.3, 1.0, 7.7)]).astype(np.float32)
    assert 0 < len(projected_by_numpy(points, model)[1]) < len(points)
    assert_same(points, model)


def test_a_lens_past_its_fold_projects_nothing() -> None:
    beyond = np.array([[30.0, 0.0, 1.0], [0.1, 0.0, 1.0], [-900.0, 2.0, 1.0]], np.float32)
    found = kernels_projection.project(beyond, camera("radial"))
    assert found is not None
    assert found[2].tolist() == [1]


def test_a_result_is_not_overwritten_by_the_next() -> None:
    first = kernels_projection.project(cloud(300, 0.0, 1), camera("radial"))
    assert first is not None
    kept = [each.copy() for each in first]
    kernels_projection.project(cloud(300, 0.0, 2), camera("radial"))
    for ours, theirs in zip(first, kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_no_kernel_reads_is_left_to_numpy() -> None:
    points = cloud(40, 0.0, 0)
    fisheye = CameraModel(64, 48, camera("ideal").K, np.array([0.1, 0.0, 0.0, 0.0]), "equidistant")
    assert kernels_projection.project(points, fisheye) is None
    assert kernels_projection.project(points[::2], camera("ideal")) is None
    assert kernels_projection.project(points.astype(np.float64), camera("ideal")) is None


def test_returns_are_the_same_with_and_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(2000, 0.0, 3)
    given = CameraPoints(points, None, np.zeros(len(points), np.uint8)), camera("tangential")
    monkeypatch.setitem(compiled._loaded, "projection", kernels_projection)
    ours = project_points(*given)
    monkeypatch.setitem(compiled._loaded, "projection", None)
    theirs = project_points(*given)
    assert len(ours) > 100
    for name in ("uv", "z", "index", "visible", "lonely"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
