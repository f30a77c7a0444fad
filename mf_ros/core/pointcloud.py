"""sensor_msgs/PointCloud2 bytes as a LidarSweep, whatever the driver's layout.

The layouts of Velodyne (``time`` float32 s, ``ring``), Ouster (``t`` uint32 ns, ``ring``), Livox (``timestamp`` float64
absolute ns), Hesai (``timestamp`` float64 absolute s, ``ring``) and plain x y z are read by field name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import cv2
import numpy as np

from mf_ros.core import compiled
from mf_ros.core.config import TimeUnit
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray, IntArray, LidarSweep
from mf_ros.errors import MessageError

_log = logging.getLogger(__name__)

# sensor_msgs/PointField datatype: 1 INT8 to 8 FLOAT64.
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_TIME_NAMES = ("time", "t", "timestamp", "offset_time", "time_offset", "time_stamp")
# Not Livox's line: it numbers lasers, each of which draws a rosette over the whole view.
_RING_NAMES = ("ring", "channel", "laser_id")
_INTENSITY_NAMES = ("intensity", "reflectivity", "i")

_SECONDS: Dict[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
# A point is measured within this time of its sweep's stamp; also what tells one unit from another.
_LONGEST_SWEEP_S = 1.0
# Below this stamp (a simulation that just started) an absolute time looks like a relative one.
_CLEARLY_ABSOLUTE_NS = 2_000_000_000
# No LiDAR has more scan lines; whoever sorts points by ring may trust this.
MAX_RING = 1023
# Bytes; drivers use up to some hundred.
_LARGEST_POINT = 1 << 16

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
    intensities. Nothing of the result shares memory with ``data``. Rings outside 0 to ``MAX_RING`` are no scan lines:
    the sweep then has none, which is logged once. A row_step of 0 means rows without padding, and bytes behind the last
    row are ignored.

    A time unit of "auto" is inferred as follows, where "fits" means that the times stay within 1 s of the stamp:

    - integers are nanoseconds since the stamp (Ouster, Livox) if that fits; integer micro- or milliseconds always look
      like short nanoseconds and must be told by ``time_unit``;
    - floats that fit as absolute times are those, in the coarsest unit that fits (Hesai s, Livox ns);
    - other floats are relative, in the coarsest unit that fits, so below 1 they are seconds (Velodyne);
    - what fits nowhere is left out, which is logged once.

    Args:
        fields: objects with ``name``, ``offset``, ``datatype`` and ``count``, as ``PointField``.
        data: any buffer of bytes (array.array, bytes, uint8 array) or a list of integers.
        stamp_ns: header stamp, ns; ``time_s`` of the result is relative to it.
        time_unit: unit of the per-point time; "auto" infers it from the field's type and the values' magnitude.
        where: what the message belongs to, for error messages, for example its topic.

    Raises:
        MessageError: no x, y, z of floating type, or sizes that do not describe ``data``; a cloud of no points needs no
            sizes beyond that.
    """
    prefix = f"{where}: " if where else ""
    by_name = _fields_by_name(fields)
    xyz = _xyz_fields(by_name, prefix)
    time = _first_known(by_name, _TIME_NAMES)
    ring = _first_known(by_name, _RING_NAMES)
    intensity = _first_known(by_name, _INTENSITY_NAMES)
    buffer = _bytes_of(data, prefix)
    row_step = row_step or width * point_step
    _require_sizes(width, height, point_step, row_step, buffer.size, prefix)
    if width == 0 or height == 0:
        return _empty_sweep(stamp_ns, frame_id, time, ring, intensity)
    used = xyz + [field for field in (time, ring, intensity) if field is not None]
    for field in used:
        size = np.dtype(_TYPES[field.datatype]).itemsize
        if field.offset < 0 or field.offset + size > point_step:
            raise MessageError(
                f"{prefix}point field '{field.name}' at offset {field.offset} with {size} bytes does not fit into "
                f"point_step {point_step}: the driver describes its points wrongly."
            )
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
    cloud: AnyArray = np.ndarray(shape, layout, buffer=buffer, strides=strides)
    times = None if time is None else _column(cloud, time).copy()
    points, measured = _gathered([_column(cloud, field) for field in xyz], _timed(times))
    return LidarSweep(
        points=points,
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        time_s=None if times is None else _seconds(_of(times, measured), time, stamp_ns, time_unit, where or frame_id),
        ring=None if ring is None else _rings(_of(_column(cloud, ring), measured), ring.name, where or frame_id),
        intensity=None if intensity is None else _float32(_of(_column(cloud, intensity), measured)),
    )


def _empty_sweep(
    stamp_ns: int,
    frame_id: str,
    time: Optional[PointField],
    ring: Optional[PointField],
    intensity: Optional[PointField],
) -> LidarSweep:
    return LidarSweep(
        points=np.zeros((0, 3), np.float32),
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        time_s=None if time is None else np.zeros(0, np.float32),
        ring=None if ring is None else np.zeros(0, np.int32),
        intensity=None if intensity is None else np.zeros(0, np.float32),
    )


def _timed(times: Optional[AnyArray]) -> Optional[BoolArray]:
    """(N,) bool: points whose time is known, where it is of some and not of all."""
    if times is None or times.dtype.kind != "f" or np.isfinite(times.min() + times.max()):
        return None
    known: BoolArray = np.isfinite(times)
    return known if known.any() else None


def _gathered(columns: Sequence[AnyArray], timed: Optional[BoolArray]) -> Tuple[FloatArray, Optional[AnyArray]]:
    kernels = compiled.kernels("pointcloud") if timed is None else None
    found: Optional[Tuple[FloatArray, Optional[AnyArray]]] = None if kernels is None else kernels.gather(columns)
    return gathered_by_numpy(columns, timed) if found is None else found


def gathered_by_numpy(
    columns: Sequence[AnyArray], timed: Optional[BoolArray] = None
) -> Tuple[FloatArray, Optional[AnyArray]]:
    """The points of a cloud that were measured; compiled kernels are held to it.

    Args:
        columns: x, y and z, (N,) floats each; whatever a float32 cannot hold becomes infinite.
        timed: (N,) bool, points that may be used; None where all may.

    Returns:
        (M, 3) float32, finite and not all zero, and their (M,) int64 positions, None where M is N.
    """
    planes = [_float32(column) for column in columns]
    with np.errstate(over="ignore", invalid="ignore"):
        size_of_point = np.abs(planes[0]) + np.abs(planes[1]) + np.abs(planes[2])
        keep: BoolArray = (size_of_point > 0.0) & (size_of_point < np.inf)
    if timed is not None:
        keep &= timed
    chosen = None if keep.all() else np.flatnonzero(keep)
    if chosen is not None:
        planes = [np.take(plane, chosen) for plane in planes]
    points: FloatArray = np.empty((len(planes[0]), 3), np.float32)
    if len(points) > 0:
        # NumPy takes five times as long to write every third number.
        cv2.merge([plane.reshape(1, -1) for plane in planes], dst=points.reshape(1, -1, 3))
    return points, chosen


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
    empty = width == 0 or height == 0
    if min(width, height, point_step, row_step) < 0 or not (empty or width * point_step <= row_step):
        raise MessageError(f"{prefix}the point cloud's sizes contradict each other ({said}): check the LiDAR driver.")
    if not empty and point_step > _LARGEST_POINT:
        raise MessageError(
            f"{prefix}points of {point_step} bytes are of no LiDAR ({_LARGEST_POINT} at most): check the LiDAR driver."
        )
    # Some drivers leave out the padding behind the last of several rows, others add bytes behind it.
    least = 0 if empty else (height - 1) * row_step + (width * point_step if height > 1 else row_step)
    if size < least or (empty and size > 0):
        raise MessageError(
            f"{prefix}the point cloud holds {size} bytes, but {said} describe {height * row_step}: "
            "the message is cut off, or the LiDAR driver describes it wrongly."
        )


def _column(cloud: AnyArray, field: PointField) -> AnyArray:
    column: AnyArray = cloud[field.name].reshape(-1)
    return column


def _of(values: AnyArray, chosen: Optional[AnyArray]) -> AnyArray:
    return values if chosen is None else np.take(values, chosen)


def _float32(values: AnyArray) -> FloatArray:
    """What a float32 cannot hold becomes infinite, without NumPy's warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _rings(values: AnyArray, name: str, where: str) -> Optional[IntArray]:
    """(N,) int32 scan lines, or None when some value cannot be one."""
    if values.dtype.kind in "iu" and len(values) > 0:
        # What is too large for an int32 becomes negative.
        rings: IntArray = values.astype(np.int32)
        if rings.min() >= 0 and rings.max() <= MAX_RING:
            return rings
    wrong = ~((values >= 0) & (values <= MAX_RING))
    if not wrong.any():
        return values.astype(np.int32)
    _warn_once(
        where,
        name,
        f"{where}: '{name}' holds {values[wrong][0]:.6g}, but scan lines are 0 to {MAX_RING}; the sweep is used "
        "without rings. Check the LiDAR driver's point type.",
    )
    return None


def _seconds(
    values: AnyArray, field: Optional[PointField], stamp_ns: int, time_unit: TimeUnit, where: str
) -> Optional[FloatArray]:
    """(N,) float32 seconds relative to the stamp, or None when the values cannot be times of this sweep."""
    if len(values) == 0:
        return np.zeros(0, np.float32)
    name = "" if field is None else field.name
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    counted = time_unit == "auto" and not is_float
    units = ["ns"] if counted else list(_SECONDS) if time_unit == "auto" else [time_unit]
    # A float32 cannot count nanoseconds or seconds since 1970: its steps are minutes long.
    precise = values.dtype.itemsize == 8 or high < 2**24
    if precise and not counted and (name == "timestamp" or stamp_ns > _CLEARLY_ABSOLUTE_NS):
        for unit in units:
            start = stamp_ns / (_SECONDS[unit] * 1e9)
            if max(abs(low - start), abs(high - start)) * _SECONDS[unit] <= _LONGEST_SWEEP_S:
                return ((values.astype(np.float64) - start) * _SECONDS[unit]).astype(np.float32)
    relative = _relative_unit(max(abs(low), abs(high)), units)
    if relative == "s":
        return values.astype(np.float32, copy=False)
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


def _relative_unit(largest: float, units: Sequence[str]) -> Optional[str]:
    """The first unit, coarsest first, in which a sweep would be short enough."""
    return next((unit for unit in units if largest * _SECONDS[unit] <= _LONGEST_SWEEP_S), None)


def _warn_once(where: str, name: str, text: str) -> None:
    if (where, name) not in _warned and len(_warned) < 1000:
        _warned.add((where, name))
        _log.warning("%s", text)
