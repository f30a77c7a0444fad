"""PointCloud2 bytes of the drivers in use, built byte by byte."""

from __future__ import annotations

import array
import logging
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core.pointcloud import PointField, parse_cloud
from mf_ros.core.types import LidarSweep
from mf_ros.errors import MessageError

U8, U16, I32, U32, F32, F64 = 2, 4, 5, 6, 7, 8
STAMP = 1_700_000_000_250_000_000

XYZ = [PointField("x", 0, F32), PointField("y", 4, F32), PointField("z", 8, F32)]
POINTS = [(1.0, 2.0, 3.0), (-4.0, 5.5, 0.25), (60.0, -7.0, 1.0)]


def parse(rows: list, fields: list, point_step: int, **changes: Any) -> LidarSweep:
    """Parse an unorganized cloud whose points are the given byte strings."""
    message = {
        "width": len(rows),
        "height": 1,
        "fields": fields,
        "is_bigendian": False,
        "point_step": point_step,
        "row_step": point_step * len(rows),
        "data": b"".join(rows),
        "stamp_ns": STAMP,
        "frame_id": "lidar",
    }
    return parse_cloud(**{**message, **changes})


def plain(count: int = 3) -> list:
    return [struct.pack("<fff", *POINTS[index % 3]) for index in range(count)]


@pytest.mark.parametrize("order", ["<", ">"], ids=["little endian", "big endian"])
def test_velodyne_has_relative_float_seconds_and_a_ring(order: str) -> None:
    fields = [*XYZ, PointField("intensity", 12, F32), PointField("ring", 16, U16), PointField("time", 18, F32)]
    rows = [struct.pack(order + "ffffHf", *p, 10.0 + i, 5 + i, 0.04 * i) for i, p in enumerate(POINTS)]
    sweep = parse(rows, fields, 22, is_bigendian=order == ">")
    np.testing.assert_array_equal(sweep.points, np.array(POINTS, np.float32))
    np.testing.assert_allclose(sweep.time_s, [0.0, 0.04, 0.08], atol=1e-7)
    np.testing.assert_array_equal(sweep.ring, [5, 6, 7])
    np.testing.assert_array_equal(sweep.intensity, [10, 11, 12])
    assert (sweep.points.dtype, sweep.ring.dtype, sweep.time_s.dtype) == (np.float32, np.int32, np.float32)
    assert (sweep.stamp_ns, sweep.frame_id) == (STAMP, "lidar")


def test_velodyne_times_may_count_back_from_the_last_point() -> None:
    fields = [*XYZ, PointField("time", 12, F32)]
    rows = [struct.pack("<ffff", *p, -0.1 + 0.05 * i) for i, p in enumerate(POINTS)]
    np.testing.assert_allclose(parse(rows, fields, 16).time_s, [-0.1, -0.05, 0.0], atol=1e-7)


@pytest.mark.parametrize(("ring_type", "code"), [(U8, "B"), (U16, "H")])
def test_ouster_has_integer_nanoseconds_from_the_frame_start_and_gaps(ring_type: int, code: str) -> None:
    fields = [
        PointField("x", 0, F32),
        PointField("y", 4, F32),
        PointField("z", 8, F32),
        PointField("intensity", 16, F32),
        PointField("t", 20, U32),
        PointField("reflectivity", 24, U16),
        PointField("ring", 26, ring_type),
        PointField("range", 32, U32),
    ]
    rows = [
        struct.pack("<fff4xfIH" + code, *p, 7.0, 45_000_000 * i, 9, 3 * i).ljust(48, b"\xee")
        for i, p in enumerate(POINTS)
    ]
    sweep = parse(rows, fields, 48)
    np.testing.assert_array_equal(sweep.points, np.array(POINTS, np.float32))
    np.testing.assert_allclose(sweep.time_s, [0.0, 0.045, 0.09], atol=1e-7)
    np.testing.assert_array_equal(sweep.ring, [0, 3, 6])
    np.testing.assert_array_equal(sweep.intensity, [7, 7, 7])


def test_livox_has_absolute_nanoseconds_in_float64_and_lasers_that_are_no_scan_lines() -> None:
    # As livox_ros_driver2 publishes it, with xfer_format 0.
    fields = [
        *XYZ,
        PointField("intensity", 12, F32),
        PointField("tag", 16, U8),
        PointField("line", 17, U8),
        PointField("timestamp", 18, F64),
    ]
    rows = [struct.pack("<ffffBBd", *p, 1.0, 0x10, i, float(STAMP + 30_000_000 * i)) for i, p in enumerate(POINTS)]
    sweep = parse(rows, fields, 26)
    # float64 counts nanoseconds since 1970 in steps of 256.
    np.testing.assert_allclose(sweep.time_s, [0.0, 0.03, 0.06], atol=1e-6)
    assert sweep.ring is None
    np.testing.assert_array_equal(sweep.intensity, [1, 1, 1])


def test_hesai_has_absolute_seconds_in_float64() -> None:
    fields = [*XYZ, PointField("intensity", 12, F32), PointField("timestamp", 16, F64), PointField("ring", 24, U16)]
    rows = [struct.pack("<ffffdH", *p, 1.0, STAMP / 1e9 - 0.1 + 0.05 * i, 40 - i) for i, p in enumerate(POINTS)]
    sweep = parse(rows, fields, 26)
    # float64 counts seconds since 1970 in steps of 0.24 microseconds.
    np.testing.assert_allclose(sweep.time_s, [-0.1, -0.05, 0.0], atol=1e-6)
    np.testing.assert_array_equal(sweep.ring, [40, 39, 38])


def test_absolute_seconds_of_a_simulation_are_told_from_relative_milliseconds() -> None:
    fields = [*XYZ, PointField("timestamp", 16, F64)]
    rows = [struct.pack("<fff4xd", *p, 12.5 + 0.05 * i) for i, p in enumerate(POINTS)]
    np.testing.assert_allclose(parse(rows, fields, 24, stamp_ns=12_500_000_000).time_s, [0, 0.05, 0.1], atol=1e-7)
    assert parse(rows, fields, 24).time_s == pytest.approx([0.0125, 0.01255, 0.0126])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("code", "kind", "step"), [("f", F32, 4), ("d", F64, 8)])
def test_plain_xyz_has_no_times_no_rings_no_intensity(order: str, code: str, kind: int, step: int) -> None:
    fields = [PointField(name, index * step, kind) for index, name in enumerate("xyz")]
    rows = [struct.pack(order + 3 * code, *p) for p in POINTS]
    sweep = parse(rows, fields, 3 * step, is_bigendian=order == ">")
    np.testing.assert_array_equal(sweep.points, np.array(POINTS, np.float32))
    assert sweep.time_s is None and sweep.ring is None and sweep.intensity is None


@pytest.mark.parametrize("last_padding", [True, False])
def test_organized_clouds_may_pad_their_rows(last_padding: bool) -> None:
    rows = plain(6)
    padded = b"".join(rows[:3]) + b"\x7f" * 10 + b"".join(rows[3:]) + (b"\x7f" * 10 if last_padding else b"")
    sweep = parse(rows, XYZ, 12, width=3, height=2, row_step=46, data=padded)
    np.testing.assert_array_equal(sweep.points, np.array(POINTS * 2, np.float32))


def test_points_without_a_return_go_with_their_times_rings_and_intensities() -> None:
    bad = [(np.nan, 1, 1), (1, np.inf, 1), (1, 1, -np.inf), (0.0, 0.0, 0.0)]
    points = [POINTS[0], *bad, POINTS[1]]
    fields = [*XYZ, PointField("intensity", 12, F32), PointField("ring", 16, U16), PointField("time", 18, F32)]
    rows = [struct.pack("<ffffHf", *p, float(i), i, 0.01 * i) for i, p in enumerate(points)]
    sweep = parse(rows, fields, 22)
    np.testing.assert_array_equal(sweep.points, np.array(POINTS[:2], np.float32))
    np.testing.assert_allclose(sweep.time_s, [0.0, 0.05], atol=1e-7)
    np.testing.assert_array_equal(sweep.ring, [0, 5])
    np.testing.assert_array_equal(sweep.intensity, [0, 5])


def test_a_point_on_an_axis_is_kept() -> None:
    assert len(parse([struct.pack("<fff", 0, 0, 1)], XYZ, 12)) == 1


def test_a_point_whose_time_is_nan_is_dropped() -> None:
    fields = [*XYZ, PointField("time", 12, F32)]
    rows = [struct.pack("<ffff", *p, t) for p, t in zip(POINTS, [0.0, np.nan, 0.1], strict=True)]
    sweep = parse(rows, fields, 16)
    np.testing.assert_allclose(sweep.time_s, [0.0, 0.1], atol=1e-7)
    np.testing.assert_array_equal(sweep.points[1], np.float32(POINTS[2]))


def test_an_all_nan_sweep_and_an_empty_one_have_no_points() -> None:
    fields = [*XYZ, PointField("time", 12, F32)]
    assert len(parse([struct.pack("<ffff", np.nan, np.nan, np.nan, 0.0)] * 5, fields, 16)) == 0
    empty = parse([], fields, 16)
    assert empty.points.shape == (0, 3)
    assert empty.time_s is not None and empty.time_s.shape == (0,)


@pytest.mark.parametrize(
    ("kind", "code", "unit", "value"),
    [
        (F32, "f", "s", 0.05),
        (F32, "f", "ms", 50.0),
        (F64, "d", "us", 50_000.0),
        (F64, "d", "ns", 50_000_000.0),
        (U32, "I", "ns", 50_000_000),
        (I32, "i", "ns", -50_000_000),
    ],
)
@pytest.mark.parametrize("inferred", [True, False])
def test_the_time_unit_is_inferred_or_told(kind: int, code: str, unit: str, value: float, inferred: bool) -> None:
    fields = [*XYZ, PointField("time", 12, kind)]
    rows = [struct.pack("<fff" + code, *POINTS[0], value)]
    sweep = parse(rows, fields, len(rows[0]), time_unit="auto" if inferred else unit)
    assert abs(sweep.time_s[0]) == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "code", "name", "longest_ns"),
    [(U32, "I", "t", 780_000), (U32, "I", "offset_time", 400_000), (U32, "I", "t", 1_500), (I32, "i", "t", -780_000)],
    ids=["Ouster packet", "Livox packet", "two firings", "back from the last point"],
)
@pytest.mark.parametrize("stamp_ns", [STAMP, 12_500_000_000, 500_000_000])
def test_integers_are_nanoseconds_however_short_the_cloud(
    kind: int, code: str, name: str, longest_ns: int, stamp_ns: int
) -> None:
    fields = [*XYZ, PointField(name, 12, kind)]
    rows = [struct.pack("<fff" + code, *p, t) for p, t in zip(POINTS, [0, longest_ns // 2, longest_ns], strict=True)]
    sweep = parse(rows, fields, 16, stamp_ns=stamp_ns)
    np.testing.assert_allclose(sweep.time_s, [0.0, longest_ns * 0.5e-9, longest_ns * 1e-9], rtol=1e-6)


@pytest.mark.parametrize(("unit", "seconds"), [("us", 0.05), ("ms", 50.0)])
def test_integers_in_another_unit_must_be_told(unit: str, seconds: float) -> None:
    fields = [*XYZ, PointField("time", 12, U32)]
    rows = [struct.pack("<fffI", *POINTS[0], 50_000)]
    assert parse(rows, fields, 16).time_s[0] == pytest.approx(50e-6)
    told = parse(rows, fields, 16, time_unit=unit).time_s
    # 50 s is no sweep.
    assert told is None if seconds > 1 else told[0] == pytest.approx(seconds)


def test_short_float_times_are_seconds() -> None:
    fields = [*XYZ, PointField("time", 12, F32)]
    rows = [struct.pack("<ffff", *p, t) for p, t in zip(POINTS, [0.0, 2e-4, 4e-4], strict=True)]
    np.testing.assert_allclose(parse(rows, fields, 16).time_s, [0.0, 2e-4, 4e-4], rtol=1e-6)


def test_the_override_wins_over_what_would_be_inferred() -> None:
    fields = [*XYZ, PointField("time", 12, F32)]
    rows = [struct.pack("<ffff", *POINTS[0], 0.5)]
    assert parse(rows, fields, 16).time_s[0] == pytest.approx(0.5)
    assert parse(rows, fields, 16, time_unit="ms").time_s[0] == pytest.approx(0.0005)


def test_times_of_another_clock_are_left_out_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    fields = [*XYZ, PointField("timestamp", 16, F64)]
    since_boot = [struct.pack("<fff4xd", *p, 1.2e12 + 1e7 * i) for i, p in enumerate(POINTS)]
    with caplog.at_level(logging.WARNING):
        sweeps = [parse(since_boot, fields, 24, where="/boot_clock") for _ in range(3)]
    assert all(sweep.time_s is None and len(sweep) == 3 for sweep in sweeps)
    assert [record.getMessage().startswith("/boot_clock") for record in caplog.records] == [True]


def test_absolute_seconds_in_float32_are_too_coarse_to_use() -> None:
    fields = [*XYZ, PointField("timestamp", 12, F32)]
    assert parse([struct.pack("<ffff", *POINTS[0], STAMP / 1e9)], fields, 16).time_s is None


def test_missing_coordinates_name_the_fields_that_are_there() -> None:
    fields = [PointField("x", 0, F32), PointField("range", 4, F32), PointField("azimuth", 8, F32)]
    with pytest.raises(MessageError, match=r"^/scan: .* no field y, z; its fields are azimuth, range, x"):
        parse(plain(), fields, 12, where="/scan")
    with pytest.raises(MessageError, match="its fields are none"):
        parse(plain(), [], 12)


def test_integer_coordinates_are_refused() -> None:
    fields = [PointField("x", 0, I32), PointField("y", 4, I32), PointField("z", 8, I32)]
    with pytest.raises(MessageError, match=r"'x' has datatype 5 \(i4\)"):
        parse(plain(), fields, 12)


@pytest.mark.parametrize(
    "lie",
    [
        {"width": 4},
        {"width": 2**31},
        {"width": -3},
        {"height": 2},
        {"height": 2**31},
        {"height": 0},
        {"point_step": 0},
        {"point_step": 8},
        {"point_step": 13},
        {"point_step": 2**31},
        {"row_step": 35},
        {"row_step": -1},
        {"row_step": 2**31},
        {"data": plain()[0]},
        {"data": b""},
        {"data": None},
        {"data": [1, 2, 300]},
    ],
    ids=str,
)
def test_sizes_that_do_not_describe_the_data_give_one_error(lie: dict) -> None:
    with pytest.raises(MessageError):
        parse(plain(), XYZ, **{"point_step": 12, **lie})


@pytest.mark.parametrize("tail", [b"", b"tail"], ids=["no tail", "tail"])
@pytest.mark.parametrize("row_step", [0, 36])
@pytest.mark.parametrize("height", [1, 2])
def test_rows_without_a_step_are_packed_and_bytes_behind_the_last_do_not_matter(
    height: int, row_step: int, tail: bytes
) -> None:
    rows = plain(3 * height)
    sweep = parse(rows, XYZ, 12, width=3, height=height, row_step=row_step, data=b"".join(rows) + tail)
    np.testing.assert_array_equal(sweep.points, np.array(POINTS * height, np.float32))


@pytest.mark.parametrize("point_step", [0, 12, 2**31, 2**32 - 1])
@pytest.mark.parametrize("size", [(0, 1), (5, 0), (0, 0)], ids=str)
def test_a_cloud_of_no_points_is_empty_whatever_its_point_step(point_step: int, size: tuple[int, int]) -> None:
    fields = [*XYZ, PointField("ring", 12, U16), PointField("time", 14, F32), PointField("intensity", 18, F32)]
    sweep = parse([], fields, point_step, width=size[0], height=size[1], row_step=0)
    assert sweep.points.shape == (0, 3) and sweep.points.dtype == np.float32
    assert [len(column) for column in (sweep.time_s, sweep.ring, sweep.intensity)] == [0, 0, 0]


def test_points_of_many_kilobytes_are_refused() -> None:
    with pytest.raises(MessageError, match="points of 100000 bytes"):
        parse([], XYZ, 100_000, width=1, row_step=100_000, data=bytes(100_000))


@pytest.mark.parametrize(
    ("kind", "code", "wrong"),
    [
        (I32, "i", -1),
        (I32, "i", 2**29),
        (U32, "I", 2**32 - 1),
        (U16, "H", 1024),
        (F32, "f", float("nan")),
        (F64, "d", 1e300),
    ],
)
def test_rings_that_no_lidar_has_are_left_out_and_reported_once(
    kind: int, code: str, wrong: float, caplog: pytest.LogCaptureFixture
) -> None:
    fields = [*XYZ, PointField("ring", 12, kind)]
    rows = [struct.pack("<fff" + code, *p, ring) for p, ring in zip(POINTS, [0, wrong, 1023], strict=True)]
    with caplog.at_level(logging.WARNING):
        sweeps = [parse(rows, fields, len(rows[0]), where=f"/rings_{code}_{wrong}") for _ in range(3)]
    assert all(sweep.ring is None and len(sweep) == 3 for sweep in sweeps)
    assert ["scan lines are 0 to 1023" in record.getMessage() for record in caplog.records] == [True]


def test_the_ring_of_a_point_without_a_return_does_not_matter() -> None:
    fields = [*XYZ, PointField("ring", 12, I32)]
    rows = [struct.pack("<fffi", *POINTS[0], 7), struct.pack("<fffi", 0, 0, 0, -1)]
    np.testing.assert_array_equal(parse(rows, fields, 16).ring, [7])


@pytest.mark.filterwarnings("error")
def test_an_intensity_beyond_float32_is_infinite_without_a_warning() -> None:
    fields = [*XYZ, PointField("intensity", 12, F64)]
    sweep = parse([struct.pack("<fffd", *POINTS[0], 1e300)], fields, 20)
    assert sweep.intensity.tolist() == [np.inf]


@pytest.mark.parametrize("offset", [-1, 9, 2**31])
def test_a_field_outside_the_point_is_an_error(offset: int) -> None:
    with pytest.raises(MessageError, match="'z' at offset"):
        parse(plain(), [*XYZ[:2], PointField("z", offset, F32)], 12)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(0, 40),
    height=st.integers(0, 4),
    point_step=st.integers(0, 40),
    row_step=st.integers(0, 200),
    size=st.integers(0, 400),
    offsets=st.lists(st.integers(0, 40), min_size=5, max_size=5),
)
def test_arbitrary_sizes_give_finite_points_or_one_error(
    width: int, height: int, point_step: int, row_step: int, size: int, offsets: list
) -> None:
    names = ["x", "y", "z", "time", "ring"]
    kinds = [F32, F64, F32, F64, F32]
    fields = [PointField(*field) for field in zip(names, offsets, kinds, strict=True)]
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    try:
        sweep = parse([], fields, point_step, width=width, height=height, row_step=row_step, data=data)
    except MessageError:
        return
    assert len(sweep) <= width * height
    assert np.isfinite(sweep.points).all()
    assert sweep.time_s is None or (len(sweep.time_s) == len(sweep) and np.isfinite(sweep.time_s).all())
    assert sweep.ring is None or (len(sweep.ring) == len(sweep) and sweep.ring.min(initial=0) >= 0)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, list, lambda b: array.array("B", b)])
def test_every_buffer_that_messages_use_is_read_without_being_kept(kind: Any) -> None:
    sweep = parse(plain(), XYZ, 12, data=kind(b"".join(plain())))
    np.testing.assert_array_equal(sweep.points, np.array(POINTS, np.float32))
    assert sweep.points.base is None and sweep.points.flags.writeable
