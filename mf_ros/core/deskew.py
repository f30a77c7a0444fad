"""LiDAR sweeps brought into a camera's frame at its image's stamp, with or without the robot's own motion."""

from __future__ import annotations

from typing import List, Optional, Protocol, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.core import compiled
from mf_ros.core.config import LidarConfig
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import AnyArray, ByteArray, CameraPoints, DoubleArray, FloatArray, IntArray, LidarSweep
from mf_ros.errors import TransformError

POSE_TOLERANCE_S = 0.1
"""A pose of the LiDAR in the camera that moves may be older than the image by this much, seconds."""

_KNOT_S = 4e-3
_MAX_KNOTS = 4096
_STEPS = 400
_MAX_TABLE = 2**17


class Stamped(Protocol):
    """Where and when something was measured; a ``CameraFrame`` is one, and so is an image that is not decoded yet.

    Attributes:
        stamp_ns: ns.
        frame_id: name of the frame.
    """

    @property
    def stamp_ns(self) -> int: ...

    @property
    def frame_id(self) -> str: ...


def deskew(
    sweep: LidarSweep, image_stamp_ns: int, tree: TransformTree, fixed_frame: str, camera_frame: str
) -> FloatArray:
    """Points as the camera sees them at the image's time, though the LiDAR moved while it measured them.

    Each point goes through ``T_camera(image)_fixed · T_fixed_lidar(point's time)``. The poses are looked up every 4
    milliseconds and blended linearly to steps of 10 microseconds (0.7 mm at 100 m and 1 rad/s).

    Returns:
        (N, 3) float32 metres in the camera's optical frame at ``image_stamp_ns``, in the sweep's order. A sweep
        without per-point times counts as measured at its stamp.

    Raises:
        TransformError: a frame is missing, or its motion is not known at the image's or at some point's time.
    """
    if len(sweep) == 0:
        return np.zeros((0, 3), np.float32)
    T_camera_fixed = tree.lookup(camera_frame, fixed_frame, image_stamp_ns)
    times = np.zeros(len(sweep), np.float32) if sweep.time_s is None else sweep.time_s
    first, last = float(times.min()), float(times.max())
    knots_s = _knots(first, last)
    stamps = sweep.stamp_ns + np.rint(knots_s * 1e9).astype(np.int64)
    T_camera_lidar = np.matmul(T_camera_fixed, tree.lookup_many(fixed_frame, sweep.frame_id, stamps))
    if len(knots_s) == 1:
        return _transformed(sweep.points, T_camera_lidar[0])
    given = (sweep.points, times, T_camera_lidar[:, :3, :].reshape(-1, 12), first, last)
    kernels = compiled.kernels("deskew")
    moved: Optional[FloatArray] = None if kernels is None else kernels.move(*given)
    return moved_by_numpy(*given) if moved is None else moved


def moved_by_numpy(
    points: FloatArray, times: FloatArray, poses: DoubleArray, first_s: float, last_s: float
) -> FloatArray:
    """Each point moved by the pose of its time; compiled kernels are held to it.

    Args:
        points: (N, 3) float32 metres.
        times: (N,) float32 seconds, from ``first_s`` to ``last_s``.
        poses: (K, 12) the first three rows of a matrix for each of K times, evenly spread from ``first_s`` to
            ``last_s``; at least two.
    """
    table = _blended(poses)
    position = (times - np.float32(first_s)) * np.float32((len(table) - 1) / (last_s - first_s))
    T = np.take(table, np.clip(np.rint(position), 0, len(table) - 1).astype(np.intp), axis=0)
    x, y, z = points.T
    moved: FloatArray = np.empty((len(points), 3), np.float32)
    for axis in range(3):
        row = 4 * axis
        moved[:, axis] = T[:, row] * x + T[:, row + 1] * y + T[:, row + 2] * z + T[:, row + 3]
    return moved


def _knots(first: float, last: float) -> DoubleArray:
    """Times in seconds, at most 4 milliseconds apart, that never reach outside [first, last] (it may not be known)."""
    if last - first < 1e-6:
        return np.array([first])
    count = min(int(np.ceil((last - first) / _KNOT_S)) + 1, _MAX_KNOTS)
    return np.linspace(first, last, count)


def steps_between(poses: int) -> int:
    """Into how many steps the way from one pose to the next is cut, so that the table of all stays small."""
    return max(1, min(_STEPS, _MAX_TABLE // poses))


def _blended(poses: DoubleArray) -> FloatArray:
    """(K, 12) matrices with linear steps put in between, so that each point needs to fetch only one of them."""
    steps = steps_between(len(poses))
    part = (np.arange(steps) / steps)[:, None]
    between = poses[:-1, None, :] + part * np.diff(poses, axis=0)[:, None, :]
    return np.concatenate([between.reshape(-1, poses.shape[1]), poses[-1:]]).astype(np.float32)


def _transformed(points: FloatArray, T: DoubleArray) -> FloatArray:
    if len(points) == 0:
        return points
    # A product this thin through BLAS wakes all its threads, which costs ten times the work on a busy machine.
    moved: FloatArray = cv2.transform(points[None], T[:3].astype(np.float32))[0]
    return moved


def _measured_ns(sweep: LidarSweep) -> Tuple[int, int]:
    """Time of the first and of the last point, ns."""
    if sweep.time_s is None:
        return sweep.stamp_ns, sweep.stamp_ns
    first, last = (round(float(time_s) * 1e9) for time_s in (sweep.time_s.min(), sweep.time_s.max()))
    return sweep.stamp_ns + first, sweep.stamp_ns + last


def motion_known(
    sweep: LidarSweep, image_stamp_ns: int, tree: TransformTree, fixed_frame: str, camera_frame: str
) -> bool:
    """Whether ``deskew`` can run now: the motion is known over sweep (without point times: at its stamp) and image."""
    if len(sweep) == 0:
        return True
    first, last = _measured_ns(sweep)
    return (
        tree.can_lookup(camera_frame, fixed_frame, image_stamp_ns)
        and tree.can_lookup(fixed_frame, sweep.frame_id, first)
        and tree.can_lookup(fixed_frame, sweep.frame_id, last)
    )


def motion_wanted(
    sweeps: Sequence[Optional[LidarSweep]], frame: Stamped, tree: TransformTree, config: LidarConfig
) -> bool:
    """Whether waiting for more /tf would let ``to_camera`` compensate motion that it cannot compensate yet.

    True when the fixed frame is connected to some sweep and to the camera, and the motion is known only up to a time
    before the sweep's end or the image.
    """
    if not config.deskew:
        return False
    for sweep in sweeps:
        if sweep is None or len(sweep) == 0:
            continue
        _, end = _measured_ns(sweep)
        try:
            at_sweep = tree.latest_stamp(config.fixed_frame, sweep.frame_id)
            at_image = tree.latest_stamp(frame.frame_id, config.fixed_frame)
        except TransformError:
            continue
        if (at_sweep is not None and at_sweep < end) or (at_image is not None and at_image < frame.stamp_ns):
            return True
    return False


def to_camera(
    sweeps: Sequence[Optional[LidarSweep]], frame: Stamped, tree: TransformTree, config: LidarConfig
) -> Tuple[CameraPoints, Tuple[bool, ...]]:
    """Merge the sweeps of several LiDARs into the camera's frame at the image's stamp.

    Returns outside the range limits (distance from their LiDAR) are dropped. A sweep is compensated for motion when
    ``config.deskew`` is set and its motion in ``config.fixed_frame`` is known over sweep and image; without per-point
    times it counts as measured at its stamp. Otherwise it goes through the pose of the LiDAR in the camera at the
    image's time. Where that pose moves and is not known yet, the newest known one is taken when it is no older than
    ``POSE_TOLERANCE_S`` (``pose_age_ns`` tells).

    Args:
        sweeps: one entry for each LiDAR in the order of the topics; None where there is none for this image.
        frame: the image; only its stamp and frame are read.

    Returns:
        The points, with the index of their LiDAR; and for each entry of ``sweeps`` whether motion was compensated.

    Raises:
        TransformError: no pose of a LiDAR in the camera is known near the image's time; says by how much.
    """
    points: List[FloatArray] = []
    rings: List[IntArray] = []
    sensors: List[ByteArray] = []
    has_rings = True
    compensated = []
    for index, whole in enumerate(sweeps):
        sweep = None if whole is None else _in_range(whole, config)
        if sweep is None:
            compensated.append(False)
            continue
        motion = config.deskew and motion_known(sweep, frame.stamp_ns, tree, config.fixed_frame, frame.frame_id)
        if motion:
            points.append(deskew(sweep, frame.stamp_ns, tree, config.fixed_frame, frame.frame_id))
        else:
            points.append(_transformed(sweep.points, _pose(sweep.frame_id, frame, tree)))
        compensated.append(motion)
        sensors.append(np.full(len(sweep), index, np.uint8))
        if sweep.ring is not None:
            rings.append(sweep.ring)
        elif len(sweep) > 0:
            has_rings = False
    ring = _joined(rings, np.zeros(0, np.int32)) if has_rings else None
    merged, sensor = _joined(points, np.zeros((0, 3), np.float32)), _joined(sensors, np.zeros(0, np.uint8))
    return CameraPoints(merged, ring, sensor), tuple(compensated)


def _joined(parts: Sequence[AnyArray], none: AnyArray) -> AnyArray:
    """The arrays one after the other, ``none`` where there is none of them; one alone is not copied."""
    if not parts:
        return none
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def pose_age_ns(lidar_frame: str, frame: Stamped, tree: TransformTree) -> int:
    """How much older than the image the newest known pose of a LiDAR in the camera is, ns; 0 where it is known then.

    Raises:
        TransformError: the two frames are not connected.
    """
    newest = tree.latest_stamp(frame.frame_id, lidar_frame)
    return 0 if newest is None else max(frame.stamp_ns - newest, 0)


def _pose(lidar_frame: str, frame: Stamped, tree: TransformTree) -> DoubleArray:
    age_ns = pose_age_ns(lidar_frame, frame, tree)
    if age_ns > POSE_TOLERANCE_S * 1e9:
        raise TransformError(
            f"The newest pose of '{lidar_frame}' in '{frame.frame_id}', which moves, is {age_ns / 1e9:.3f} s older "
            "than the image: check that /tf goes on, and that the clocks of its publisher and of the camera agree."
        )
    return tree.lookup(frame.frame_id, lidar_frame, frame.stamp_ns - age_ns)


def _in_range(sweep: LidarSweep, config: LidarConfig) -> LidarSweep:
    given = (sweep.points, config.min_range_m, config.max_range_m)
    kernels = compiled.kernels("deskew")
    if kernels is not None and kernels.all_within(*given):
        return sweep
    chosen: Optional[AnyArray] = None if kernels is None else kernels.choose(*given)
    if chosen is None:
        chosen = chosen_by_numpy(*given)
    if len(chosen) == len(sweep):
        return sweep
    return LidarSweep(
        # np.take and not an index, which is several times slower for rows.
        points=np.take(sweep.points, chosen, axis=0),
        stamp_ns=sweep.stamp_ns,
        frame_id=sweep.frame_id,
        time_s=None if sweep.time_s is None else sweep.time_s[chosen],
        ring=None if sweep.ring is None else sweep.ring[chosen],
        intensity=None if sweep.intensity is None else sweep.intensity[chosen],
    )


def chosen_by_numpy(points: FloatArray, least_m: float, most_m: float) -> AnyArray:
    """(M,) int64 positions of the points whose distance lies within limits; compiled kernels are held to it."""
    x, y, z = points.T
    squared = x * x + y * y + z * z
    return np.flatnonzero((squared >= least_m**2) & (squared <= most_m**2))
