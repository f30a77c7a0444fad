"""The compiled reading of points against NumPy's: the same points at the same places, wherever the bytes lie."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core import compiled
from mf_ros.core.pointcloud import PointField, gathered_by_numpy, parse_cloud

pytest.importorskip("numba")
from mf_ros.core import kernels_pointcloud

ODD = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, -3e38], np.float32)


def records(count: int, odd: float, seed: int, offset: int = 0, step: int = 22) -> np.ndarray:
    """Points of ``step`` bytes with x, y, z from a byte on; the others are noise."""
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, 30, (count, 3))
    xyz = np.where(rng.random((count, 3)) < odd, rng.choice(ODD, (count, 3)), xyz).astype(np.float32)
    xyz[rng.random(count) < odd] = 0
    data = rng.integers(0, 256, (count, step), dtype=np.uint8)
    data[:, offset : offset + 12] = xyz.view(np.uint8).reshape(count, 12)
    return data


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 300),
    odd=st.sampled_from([0.0, 0.1, 1.0]),
    offset=st.integers(0, 12),
    step=st.integers(24, 32),
    seed=st.integers(0, 999),
)
def test_gathered_points_are_equal_at_any_address(count: int, odd: float, offset: int, step: int, seed: int) -> None:
    data = records(count, odd, seed, offset, step)
    layout = np.dtype([("", f"V{offset}"), *((axis, "<f4") for axis in "xyz"), ("rest", f"V{step - offset - 12}")])
    columns = [data.reshape(-1).view(layout)[axis] for axis in "xyz"]
    found, (points, chosen) = kernels_pointcloud.gather(columns), gathered_by_numpy(columns)
    assert found is not None and found[0].dtype == points.dtype and found[0].flags.c_contiguous
    np.testing.assert_array_equal(found[0], points)
    assert (found[1] is None) == (chosen is None)
    if chosen is not None and found[1] is not None:
        np.testing.assert_array_equal(found[1], chosen)


def test_a_result_is_not_overwritten_by_the_next() -> None:
    columns = [np.array([0.0, value, value], np.float32) for value in (1.0, 2.0, 3.0)]
    first = kernels_pointcloud.gather(columns)
    assert first is not None and first[1] is not None
    kernels_pointcloud.gather([column[::-1] * 9 for column in columns])
    assert first[0].tolist() == [[1, 2, 3]] * 2 and first[1].tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["<f8", ">f4"])
def test_numbers_of_another_kind_are_left_to_numpy(kind: str) -> None:
    columns = [np.ones(3, kind) for _ in range(3)]
    assert kernels_pointcloud.gather(columns) is None
    assert gathered_by_numpy(columns)[0].tolist() == np.ones((3, 3)).tolist()


@pytest.mark.parametrize("odd", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_sweep_is_the_same_with_and_without_kernels(monkeypatch: pytest.MonkeyPatch, odd: float, rows: int) -> None:
    data = records(60, odd, 3).reshape(rows, -1)
    data = np.pad(data, ((0, 0), (0, 5 * (rows > 1))))
    layout = {"x": (0, 7), "y": (4, 7), "z": (8, 7), "intensity": (12, 2), "ring": (16, 2), "t": (17, 2)}
    message: dict[str, Any] = {
        "width": 60 // rows,
        "height": rows,
        "fields": [PointField(name, *place) for name, place in layout.items()],
        "is_bigendian": False,
        "point_step": 22,
        "row_step": data.shape[1],
        "data": data.tobytes(),
        "stamp_ns": 10**18,
        "frame_id": "lidar",
    }
    sweeps = []
    for module in (kernels_pointcloud, None):
        monkeypatch.setitem(compiled._loaded, "pointcloud", module)
        sweeps.append(parse_cloud(**message))
    assert len(sweeps[0]) < 60 or odd == 0.0
    for each in fields(sweeps[0]):
        np.testing.assert_array_equal(getattr(sweeps[0], each.name), getattr(sweeps[1], each.name))
