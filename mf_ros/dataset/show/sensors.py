"""What is counted of a data set's sensors: the LiDARs and the cameras of each robot."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Sequence, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.types import AnyArray, DoubleArray
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import DatasetError
from mf_ros.dataset.show.columns import Columns

LARGEST_TABLE = 100
"""Entries of each kind that are told apart; the largest ones, where there are more."""


@dataclass(frozen=True)
class Lidar:
    """One LiDAR of one robot.

    Attributes:
        robot, frame: names.
        rows: with a sweep of it.
        share: of the robot's rows, in [0, 1].
        points: fewest, median and most points of a sweep.
        offset_ms: median and 95th percentile of the time between the stamps of sweep and image, without sign.
        has_time, has_ring, has_intensity: part of its sweeps, in [0, 1].
    """

    robot: str
    frame: str
    rows: int
    share: float
    points: Tuple[int, float, int]
    offset_ms: Tuple[float, float]
    has_time: float
    has_ring: float
    has_intensity: float


@dataclass(frozen=True)
class CameraKind:
    """The images of one camera of one robot, of one size and lens model.

    Attributes:
        robot, frame, model: names; no model is a pinhole.
        width, height: pixels.
        rows: with it.
        focal_px: smallest, median and largest focal length, pixels.
        fov_deg: horizontal and vertical field of view through the middle of the image; NaN where it is not known.
    """

    robot: str
    frame: str
    width: int
    height: int
    model: str
    rows: int
    focal_px: Tuple[float, float, float]
    fov_deg: Tuple[float, float]


@dataclass(frozen=True)
class Largest:
    """The values that occur most often, the most frequent first, and how many different ones there are."""

    codes: AnyArray
    kinds: int


def largest(codes: AnyArray) -> Largest:
    """The values of (N,) ``codes`` that occur most often."""
    values, counts = np.unique(codes, return_counts=True)
    return Largest(values[np.argsort(-counts, kind="stable")[:LARGEST_TABLE]], len(values))


def _combined(parts: Sequence[AnyArray]) -> AnyArray:
    """(N,) one number for each combination of (N,) numbers."""
    code = np.zeros(len(parts[0]), np.int64)
    for part in parts:
        values, place = np.unique(part, return_inverse=True)
        code = np.unique(code * max(len(values), 1) + place.reshape(-1), return_inverse=True)[1].reshape(-1)
    return code


def lidars_of(columns: Columns) -> Tuple[Tuple[Lidar, ...], int]:
    """The LiDARs with most rows, at most ``LARGEST_TABLE``, and how many there are."""
    sweeps = columns.sweeps
    robot = columns.robot.codes[sweeps.row]
    named = np.array([bool(name) for name in sweeps.frame.names], np.bool_)
    given = np.flatnonzero(named[sweeps.frame.codes]) if len(named) else np.zeros(0, np.int64)
    code = _combined([robot[given], sweeps.frame.codes[given]])
    found = largest(code)
    of_robot = np.bincount(columns.robot.codes, minlength=len(columns.robot.names))
    lidars = []
    for each in found.codes:
        at = given[code == each]
        count, offset_ms = sweeps.count[at], np.abs(sweeps.offset_s[at]) * 1e3
        # A row may hold two sweeps of one frame.
        rows = len(np.unique(sweeps.row[at]))
        lidars.append(
            Lidar(
                columns.robot.names[robot[at[0]]],
                sweeps.frame.names[sweeps.frame.codes[at[0]]],
                rows,
                rows / int(of_robot[robot[at[0]]]),
                (int(count.min()), float(np.median(count)), int(count.max())),
                _median_and_p95(offset_ms[np.isfinite(offset_ms)]),
                *(float(has[at].mean()) for has in (sweeps.has_time, sweeps.has_ring, sweeps.has_intensity)),
            )
        )
    return tuple(lidars), found.kinds


def _median_and_p95(values: DoubleArray) -> Tuple[float, float]:
    if not len(values):
        return math.nan, math.nan
    median, high = np.percentile(values, (50, 95))
    return float(median), float(high)


def cameras_of(dataset: Dataset, columns: Columns) -> Tuple[Tuple[CameraKind, ...], int]:
    """The cameras with most rows, at most ``LARGEST_TABLE``, and how many there are."""
    parts = [columns.robot.codes, columns.camera_frame.codes, columns.model.codes, columns.width, columns.height]
    code = _combined(parts)
    found = largest(code)
    return tuple(_camera(dataset, columns, np.flatnonzero(code == each)) for each in found.codes), found.kinds


def _camera(dataset: Dataset, columns: Columns, at: AnyArray) -> CameraKind:
    usable = at[np.isfinite(columns.fx[at])]
    focal, fov = (math.nan, math.nan, math.nan), (math.nan, math.nan)
    if len(usable):
        fx = columns.fx[usable]
        middle = float(np.median(fx))
        focal = (float(fx.min()), middle, float(fx.max()))
        with contextlib.suppress(DatasetError):
            typical = usable[np.argmin(np.abs(fx - middle))]
            fov = field_of_view(dataset.row(int(columns.place[typical])).camera)
    return CameraKind(
        columns.robot.names[columns.robot.codes[at[0]]],
        columns.camera_frame.names[columns.camera_frame.codes[at[0]]],
        int(columns.width[at[0]]),
        int(columns.height[at[0]]),
        columns.model.names[columns.model.codes[at[0]]],
        len(at),
        focal,
        fov,
    )


def field_of_view(camera: CameraModel) -> Tuple[float, float]:
    """Horizontal and vertical angle between the rays through the middles of opposite edges, degrees."""
    u, v = (camera.width - 1) / 2, (camera.height - 1) / 2
    edges = np.array([[-0.5, v], [camera.width - 0.5, v], [u, -0.5], [u, camera.height - 0.5]])
    rays = camera.unproject(edges, np.ones(4))
    # Where the lens model folds before the edge, no ray is farther out than that.
    angles = np.nan_to_num(np.arctan(rays[[0, 1, 2, 3], [0, 0, 1, 1]] * [-1, 1, -1, 1]), nan=camera.max_angle)
    return float(np.rad2deg(angles[:2].sum())), float(np.rad2deg(angles[2:].sum()))
