"""sensor_msgs/PointCloud2 bytes as a LidarSweep, whatever the driver's layout.

The layouts of Velodyne (``time`` float32 s, ``ring``), Ouster (``t`` uint32 ns, ``ring``), Livox (``timestamp`` float64
absolute ns, ``line``), Hesai (``timestamp`` float64 absolute s, ``ring``) and plain x y z are read by field name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

from mf_ros.core.config import TimeUnit
from mf_ros.core.types import AnyArray, ByteArray, FloatArray, IntArray, LidarSweep
from mf_ros.errors import MessageError

_log = logging.getLogger(__name__)

# sensor_msgs/PointField datatype: 1 INT8 to 8 FLOAT64.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_TIME_NAMES = ("time", "t", "timestamp", "offset_time", "time_offset", "time_stamp")
_RING_NAMES = ("ring", "line", "channel", "laser_id")
_INTENSITY_NAMES = ("intensity", "reflectivity", "i")

_SECONDS: Dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
# A point is measured within this time of its sweep's stamp; also what tells one unit from another.
_LONGEST_SWEEP_S = 1.0
# Below this stamp (a simulation that just started) an absolute time looks like a relative one.
_CLEARLY_ABSOLUTE_NS = 2_000_000_000

_warned: Set[Tuple[str, str]] = set()


@dataclass(frozen=True)
class PointField:
    """One field of a point (sensor_msgs/PointField).

    Attributes:
        name: for example ``x`` or ``ring``.
        offset: bytes from the start of the point.
        datatype: 1 int8, 2 uint8, 3 int16, 4 uint16, 5 int32, 6 uint32, 7 float32, 8 float64.
        count: number of elements.
    """

    name: str
    offset: int
    datatype: int
    count: int = 1


def parse_cloud(
    *,
    width: int,
    height: int,
    fields: Sequence[Any],
    is_bigendian: bool,
    point_step: int,
    row_step: int,
    data: Any,
    stamp_ns: int,
    frame_id: str,
    time_unit: TimeUnit = "auto",
    where: str = "",
) -> LidarSweep:
    """Read the points of a sensor_msgs/PointCloud2; the arguments are the message's own fields.

    Points that are NaN, infinite or exactly at the origin (no return) are dropped with their times, rings and
    intensities. Nothing of the result shares memory with ``data``.

    Args:
        fields: objects with ``name``, ``offset``, ``datatype`` and ``count``, as ``PointField``.
        data: any buffer of bytes (array.array, bytes, uint8 array) or a list of integers.
        stamp_ns: header stamp, ns; ``time_s`` of the result is relative to it.
        time_unit: unit of the per-point time; "auto" infers it from the field's type and the values' magnitude.
        where: what the message belongs to, for error messages, for example its topic.

    Raises:
        MessageError: no x, y, z of floating type, or sizes that do not describe ``data``.
    """
    prefix = f"{where}: " if where else ""
    by_name = _fields_by_name(fields)
    xyz = _xyz_fields(by_name, prefix)
    time = _first_known(by_name, _TIME_NAMES)
    ring = _first_known(by_name, _RING_NAMES)
    intensity = _first_known(by_name, _INTENSITY_NAMES)
    used = xyz + [field for field in (time, ring, intensity) if field is not None]
    for field in used:
        size = np.dtype(_TYPES[field.datatype]).itemsize
        if field.offset < 0 or field.offset + size > point_step:
            raise MessageError(
                f"{prefix}point field '{field.name}' at offset {field.offset} with {size} bytes does not fit into "
                f"point_step {point_step}: the driver describes its points wrongly."
            )
    buffer = _bytes_of(data, prefix)
    _require_sizes(width, height, point_step, row_step, buffer.size, prefix)
    order = ">" if is_bigendian else "<"
    layout = np.dtype(
        {
            "names": [field.name for field in used],
            "formats": [order + _TYPES[field.datatype] for field in used],
            "offsets": [field.offset for field in used],
            "itemsize": point_step,
        }
    )
    shape, strides = ((width,), (point_step,)) if height == 1 else ((height, width), (row_step, point_step))
    if width == 0 or height == 0:
        cloud: AnyArray = np.zeros(0, layout)
    else:
        cloud = np.ndarray(shape, layout, buffer=buffer, strides=strides)

    with np.errstate(over="ignore", invalid="ignore"):
        columns = [cloud[field.name].astype(np.float32).reshape(-1) for field in xyz]
        size_of_point = np.abs(columns[0]) + np.abs(columns[1]) + np.abs(columns[2])
        keep = (size_of_point > 0.0) & (size_of_point < np.inf)
    times = None if time is None else _column(cloud, time)
    if times is not None and times.dtype.kind == "f":
        keep &= np.isfinite(times) | ~np.isfinite(times).any()
    chosen: Any = slice(None) if keep.all() else np.flatnonzero(keep)
    points: FloatArray = np.empty((np.count_nonzero(keep), 3), np.float32)
    for axis, column in enumerate(columns):
        points[:, axis] = column[chosen]
    return LidarSweep(
        points=points,
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        time_s=None if times is None else _seconds(times[chosen], time, stamp_ns, time_unit, where or frame_id),
        ring=None if ring is None else _integers(_column(cloud, ring)[chosen]),
        intensity=None if intensity is None else _column(cloud, intensity)[chosen].astype(np.float32),
    )


def _fields_by_name(fields: Sequence[Any]) -> Dict[str, PointField]:
    by_name: Dict[str, PointField] = {}
    for field in fields:
        by_name.setdefault(
            str(field.name), PointField(str(field.name), int(field.offset), int(field.datatype), int(field.count))
        )
    return by_name


def _xyz_fields(by_name: Dict[str, PointField], prefix: str) -> List[PointField]:
    missing = [name for name in "xyz" if name not in by_name]
    if missing:
        raise MessageError(
            f"{prefix}the point cloud has no field {', '.join(missing)}; its fields are "
            f"{', '.join(sorted(by_name)[:20]) or 'none'}. Choose a topic with x, y and z."
        )
    xyz = [by_name[name] for name in "xyz"]
    for field in xyz:
        if _TYPES.get(field.datatype) not in ("f4", "f8"):
            raise MessageError(
                f"{prefix}point field '{field.name}' has datatype {field.datatype} "
                f"({_TYPES.get(field.datatype, 'unknown')}); x, y and z must be float32 (7) or float64 (8) metres."
            )
    return xyz


def _first_known(by_name: Dict[str, PointField], names: Sequence[str]) -> Optional[PointField]:
    for name in names:
        if name in by_name and by_name[name].datatype in _TYPES:
            return by_name[name]
    return None


def _bytes_of(data: Any, prefix: str) -> ByteArray:
    try:
        if isinstance(data, (list, tuple)):
            return np.frombuffer(bytes(data), np.uint8)
        return np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise MessageError(f"{prefix}the point cloud's data is no contiguous buffer of bytes: {error}.") from error


def _require_sizes(width: int, height: int, point_step: int, row_step: int, size: int, prefix: str) -> None:
    said = f"width {width}, height {height}, point_step {point_step}, row_step {row_step}"
    if min(width, height, point_step, row_step) < 0 or (width > 0 and height > 0 and row_step < width * point_step):
        raise MessageError(f"{prefix}the point cloud's sizes contradict each other ({said}): check the LiDAR driver.")
    # Some drivers leave out the padding behind the last of several rows.
    least = (height - 1) * row_step + (width * point_step if height > 1 else row_step) if width * height > 0 else 0
    if not least <= size <= max(height * row_step, least):
        raise MessageError(
            f"{prefix}the point cloud holds {size} bytes, but {said} describe {height * row_step}: "
            "the message is cut off, or the LiDAR driver describes it wrongly."
        )


def _column(cloud: AnyArray, field: PointField) -> AnyArray:
    column: AnyArray = cloud[field.name].reshape(-1)
    return column


def _integers(values: AnyArray) -> IntArray:
    if values.dtype.kind == "f":
        values = np.clip(np.nan_to_num(values), -(2**30), 2**30)
    whole: IntArray = values.astype(np.int32)
    return whole


def _seconds(
    values: AnyArray, field: Optional[PointField], stamp_ns: int, time_unit: TimeUnit, where: str
) -> Optional[FloatArray]:
    """(N,) float32 seconds relative to the stamp, or None when the values cannot be times of this sweep."""
    if len(values) == 0:
        return np.zeros(0, np.float32)
    name = "" if field is None else field.name
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    units = list(_SECONDS) if time_unit == "auto" else [time_unit]
    # A float32 cannot count nanoseconds or seconds since 1970: its steps are minutes long.
    precise = values.dtype.itemsize == 8 or high < 2**24
    if precise and (name == "timestamp" or stamp_ns > _CLEARLY_ABSOLUTE_NS):
        for unit in units:
            start = stamp_ns / (_SECONDS[unit] * 1e9)
            if max(abs(low - start), abs(high - start)) * _SECONDS[unit] <= _LONGEST_SWEEP_S:
                return ((values.astype(np.float64) - start) * _SECONDS[unit]).astype(np.float32)
    relative = _relative_unit(max(abs(low), abs(high)), is_float, units)
    if relative is not None:
        return (values.astype(np.float64) * _SECONDS[relative]).astype(np.float32)
    _warn_once(
        where,
        name,
        f"{where}: the per-point times in '{name}' ({low:.6g} to {high:.6g}, unit {time_unit}) are not within "
        f"{_LONGEST_SWEEP_S:g} s of the stamp {stamp_ns / 1e9:.3f} s; the sweep is used without motion compensation. "
        "Set lidar.time_unit, or let the driver stamp its message with the LiDAR's own clock.",
    )
    return None


def _relative_unit(largest: float, is_float: bool, units: Sequence[str]) -> Optional[str]:
    """The coarsest unit in which a sweep would be short enough; integers count at least a millisecond so."""
    for unit in units:
        sweep_s = largest * _SECONDS[unit]
        whole_steps = is_float or len(units) == 1 or unit == "ns" or (unit == "us" and sweep_s > 1e-3)
        if sweep_s <= _LONGEST_SWEEP_S and whole_steps:
            return unit
    return None


def _warn_once(where: str, name: str, text: str) -> None:
    if (where, name) not in _warned and len(_warned) < 1000:
        _warned.add((where, name))
        _log.warning("%s", text)
