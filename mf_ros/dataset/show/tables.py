"""What is counted of a data set without an image or a point: splits, robots, LiDARs, cameras, days and hours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, DoubleArray
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import SPLITS
from mf_ros.dataset.show.columns import Columns, Labels
from mf_ros.dataset.show.sensors import LARGEST_TABLE, CameraKind, Lidar, cameras_of, largest, lidars_of

_FASTEST_M_S = 60.0
# A robot that stands still makes no rows, which says nothing about how fast it drives.
_LONGEST_STEP_S = 5.0


@dataclass(frozen=True)
class Extent:
    """How much there is of something.

    Attributes:
        rows, recordings: how many.
        minutes: from row to row of one recording, as long as they belong to it.
        metres: between the cameras of such rows, where both have odometry.
        odometry: part of the rows whose pose in the fixed frame is known, in [0, 1]; NaN without rows.
        speed_m_s: mean speed from row to row where that took a few seconds at most; NaN where it is not known.
    """

    rows: int
    recordings: int
    minutes: float
    metres: float
    odometry: float
    speed_m_s: float


@dataclass(frozen=True)
class Robot:
    """One robot: its rows in all, and how many of them are in each split, ``""`` for those in none."""

    name: str
    extent: Extent
    splits: Dict[str, int]


@dataclass(frozen=True)
class Tables:
    """What is counted of all rows.

    Attributes:
        total: of all rows.
        splits: of each split, and of ``""``, the rows in none.
        robots, lidars, cameras: the largest ones first, at most ``LARGEST_TABLE`` of each.
        sites, days: rows of each, the largest sites and the latest days, at most ``LARGEST_TABLE`` of each.
        counts: how many robots, LiDARs, cameras, sites and days there are.
        hours: 24 numbers of rows, by the hour of the day in UTC.
        apart_s: shortest time between rows of one recording that are in two splits; None where there are none.
        repeated: rows whose ``sample_id`` another row has as well.
        versions: of the programs that wrote the rows.
    """

    total: Extent
    splits: Dict[str, Extent]
    robots: Tuple[Robot, ...]
    lidars: Tuple[Lidar, ...]
    cameras: Tuple[CameraKind, ...]
    sites: Dict[str, int]
    days: Dict[str, int]
    counts: Dict[str, int]
    hours: Tuple[int, ...]
    apart_s: Optional[float]
    repeated: int
    versions: Tuple[str, ...]


def tables_of(dataset: Dataset, columns: Columns, every: Columns) -> Tables:
    """Count.

    Args:
        dataset: where cameras are looked up.
        columns: of the rows that count.
        every: of all rows, for what is told of each split.
    """
    steps, every_steps = _Steps(columns), _Steps(every)
    splits = _split_codes(every.split)
    names = dict(enumerate((*SPLITS, "")))
    robots = _robots(columns, steps)
    lidars = lidars_of(columns)
    cameras = cameras_of(dataset, columns)
    sites, days = _counted(columns.site), _counted(columns.day)
    latest = sorted(days)[-LARGEST_TABLE:]
    return Tables(
        total=_extents(columns, steps, np.zeros(len(columns), np.int64), 1)[0],
        splits={names[code]: each for code, each in enumerate(_extents(every, every_steps, splits, len(names)))},
        robots=robots[0],
        lidars=lidars[0],
        cameras=cameras[0],
        sites=dict(sorted(sites.items(), key=lambda item: -item[1])[:LARGEST_TABLE]),
        days={day: days[day] for day in latest},
        counts={
            "robots": robots[1],
            "lidars": lidars[1],
            "cameras": cameras[1],
            "sites": len(sites),
            "days": len(days),
        },
        hours=tuple(np.bincount(columns.stamp_ns // 3_600_000_000_000 % 24, minlength=24).tolist()),
        apart_s=_apart_s(every, splits),
        repeated=columns.repeated,
        versions=tuple(sorted(_counted(columns.version)))[:10],
    )


class _Steps:
    """From each row to the next one of the same recording."""

    def __init__(self, columns: Columns) -> None:
        order = np.lexsort((columns.stamp_ns, columns.bag.codes))
        here, there = order[:-1], order[1:]
        same = columns.bag.codes[here] == columns.bag.codes[there]
        self.here, self.there = here[same], there[same]
        # As floats, because the difference of damaged stamps may be more than an integer holds.
        self.seconds: DoubleArray = _seconds(columns, self.there) - _seconds(columns, self.here)
        length = np.linalg.norm(columns.position[self.there] - columns.position[self.here], axis=1)
        # What is faster is no drive but odometry that began anew.
        self.driven: BoolArray = length <= _FASTEST_M_S * self.seconds
        self.metres: DoubleArray = np.where(self.driven, length, 0.0)


def _seconds(columns: Columns, rows: AnyArray) -> DoubleArray:
    return np.asarray(columns.stamp_ns[rows].astype(np.float64) * 1e-9)


def _extents(columns: Columns, steps: _Steps, codes: AnyArray, count: int) -> List[Extent]:
    """The extent of each group of rows, of which ``codes`` (N,) says to which each row belongs."""
    inside = codes[steps.here] == codes[steps.there]
    group = codes[steps.here[inside]]

    def total(values: AnyArray) -> DoubleArray:
        return np.asarray(np.bincount(group, values, minlength=count), np.float64)

    seconds, metres = total(steps.seconds[inside]), total(steps.metres[inside])
    short = (steps.driven & (steps.seconds <= _LONGEST_STEP_S))[inside]
    time, way = total(np.where(short, steps.seconds[inside], 0.0)), total(np.where(short, steps.metres[inside], 0.0))
    rows = np.bincount(codes, minlength=count)
    known = np.bincount(codes, np.isfinite(columns.position[:, 0]), minlength=count)
    recordings = np.bincount(np.unique(columns.bag.codes * count + codes) % count, minlength=count)
    return [
        Extent(
            int(rows[k]),
            int(recordings[k]),
            float(seconds[k] / 60.0),
            float(metres[k]),
            float(known[k] / rows[k]) if rows[k] else math.nan,
            float(way[k] / time[k]) if time[k] > 0 else math.nan,
        )
        for k in range(count)
    ]


def _split_codes(split: Labels) -> AnyArray:
    """Where each row's split is in ``(*SPLITS, "")``; a split that does not exist counts as none."""
    places = [SPLITS.index(name) if name in SPLITS else len(SPLITS) for name in split.names]
    return np.array(places, np.int64)[split.codes]


def _apart_s(columns: Columns, codes: AnyArray) -> Optional[float]:
    """Shortest time between two rows of one recording that are in different splits; rows in none lie between."""
    used = np.flatnonzero(codes < len(SPLITS))
    order = used[np.lexsort((columns.stamp_ns[used], columns.bag.codes[used]))]
    here, there = order[:-1], order[1:]
    meet = (columns.bag.codes[here] == columns.bag.codes[there]) & (codes[here] != codes[there])
    if not meet.any():
        return None
    return float((_seconds(columns, there[meet]) - _seconds(columns, here[meet])).min())


def _counted(labels: Labels) -> Dict[str, int]:
    counts = np.bincount(labels.codes, minlength=len(labels.names))
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True) if count}


def _robots(columns: Columns, steps: _Steps) -> Tuple[Tuple[Robot, ...], int]:
    """The largest robots, and how many there are."""
    found = largest(columns.robot.codes)
    splits, names = _split_codes(columns.split), (*SPLITS, "")
    robots = []
    # One group for each that is shown, and one for all others.
    place = np.full(len(columns.robot.names), len(found.codes), np.int64)
    place[found.codes] = np.arange(len(found.codes))
    group = place[columns.robot.codes]
    table = np.bincount(group * len(names) + splits, minlength=(len(found.codes) + 1) * len(names))
    for k, extent in enumerate(_extents(columns, steps, group, len(found.codes) + 1)[:-1]):
        counts = dict(zip(names, table.reshape(-1, len(names))[k].tolist(), strict=True))
        robots.append(Robot(columns.robot.names[found.codes[k]], extent, counts))
    return tuple(robots), found.kinds
