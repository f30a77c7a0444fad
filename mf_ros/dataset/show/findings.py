"""What in a data set would hurt a training, in plain words."""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

from mf_ros.dataset.show.manifest import Manifest
from mf_ros.dataset.show.measure import Measured, Measurement
from mf_ros.dataset.show.tables import Tables
from mf_ros.findings import Finding, Severity, worst_first

FEW_ROWS = 200
FEW_RETURNS = 200

_NEARLY_ALL = 0.9
_SOME = 0.5
_MOVES_M_S = 0.3
_SMALL_COVER = 0.2
_MANY = 0.25
_NEAR_S = 5.0
_MOST_NAMES = 5

_WITHOUT = {
    "train": ("error", "There is nothing to learn from."),
    "val": ("warning", "A training cannot tell when to stop, and may learn its recordings by heart."),
    "test": ("warning", "A network cannot be judged fairly: mf-ros evaluate --compare has nothing to judge it on."),
}


def findings_of(tables: Tables, measurement: Measurement, manifest: Optional[Manifest]) -> List[Finding]:
    """All findings, worst first."""
    found = _Findings()
    if tables.total.rows == 0:
        found.add("error", "There is no row.", "Look at the reasons in the manifest, and extract recordings.")
    else:
        _of_splits(found, tables)
        _of_robots(found, tables)
        _of_sensors(found, tables)
        _of_pictures(found, measurement.rows)
        _of_motion(found, tables, measurement.rows)
    measured = len(measurement.rows) + len(measurement.problems)
    if measurement.problems:
        first = measurement.problems[0][1]
        text = f"{len(measurement.problems)} of the {measured} rows looked into cannot be used; the first: {first}"
        found.add("warning" if measurement.rows else "error", text, "Extract the recordings they come from anew.")
    if manifest is not None:
        _of_manifest(found, manifest)
    return worst_first(found.all)


class _Findings:
    def __init__(self) -> None:
        self.all: List[Finding] = []

    def add(self, severity: Severity, text: str, advice: str) -> None:
        self.all.append(Finding(severity, text, advice))


def _of_splits(found: _Findings, tables: Tables) -> None:
    more = "Extract more recordings, or other shares of them for train, val and test."
    for name, (severity, meaning) in _WITHOUT.items():
        if tables.splits[name].rows == 0:
            found.add("error" if severity == "error" else "warning", f"The split '{name}' is empty. {meaning}", more)
    rows = sum(extent.rows for name, extent in tables.splits.items() if name)
    if rows < FEW_ROWS:
        text = (
            f"There are only {rows} rows in the splits: a network learns them by heart, and scores on them vary much."
        )
        found.add("warning", text, f"Extract more recordings; {FEW_ROWS} rows are few, thousands are better.")
    if tables.apart_s is not None and tables.apart_s < _NEAR_S:
        text = (
            f"Rows of one recording that are in different splits are only {tables.apart_s:.1f} s apart, so what is "
            "held out looks like what was learned."
        )
        found.add(
            "warning",
            text,
            "Extract longer recordings, whose gaps are longer, or split by robot, day and site: --split group.",
        )
    if tables.repeated:
        text = f"{tables.repeated} rows have the sample_id of another row: they count twice, perhaps in two splits."
        found.add("warning", text, "Extract into a new data set.")


def _of_robots(found: _Findings, tables: Tables) -> None:
    rows = tables.total.rows
    largest = tables.robots[0]
    if tables.counts["robots"] > 1 and largest.extent.rows > _NEARLY_ALL * rows:
        text = (
            f"Robot {_name(largest.name)} holds {100 * largest.extent.rows / rows:.0f}% of the rows: the network will "
            "suit it and hardly any other."
        )
        found.add("warning", text, "Extract more of the other robots, or fewer rows of this one.")
    without = {
        _name(robot.name): f"{100 * robot.extent.odometry:.0f}% have it"
        for robot in tables.robots
        if robot.extent.odometry < _SOME
    }
    if without:
        text = (
            f"Most rows have no odometry on robot {_listed(without)}: the motion between sweep and image is not "
            "compensated, and how far the robot drove is not known."
        )
        found.add("warning", text, "Record /tf of a world-fixed frame, and name it in lidar.fixed_frame.")


def _of_sensors(found: _Findings, tables: Tables) -> None:
    speed = {robot.name: robot.extent.speed_m_s for robot in tables.robots}
    timeless = {
        f"{_name(lidar.frame)} on robot {_name(lidar.robot)}": f"{speed[lidar.robot]:.1f} m/s"
        for lidar in tables.lidars
        if lidar.has_time < _SOME and speed.get(lidar.robot, 0.0) > _MOVES_M_S
    }
    if timeless:
        text = (
            f"Points have no times of their own although the robot drives: {_listed(timeless)}. Each sweep is "
            "distorted by the way that the robot makes during it."
        )
        advice = "Use the driver's point type with a time field, unless all points are measured at once."
        found.add("warning", text, advice)
    rare = {
        f"{_name(lidar.frame)} on robot {_name(lidar.robot)}": f"{100 * lidar.share:.0f}%"
        for lidar in tables.lidars
        if lidar.share < 1 - _MANY
    }
    if rare:
        text = f"Not all rows of a robot have a sweep of each of its LiDARs: {_listed(rare)}."
        found.add("note", text, "Compare the clocks with mf-ros check, or raise sync.tolerance_s.")


def _of_pictures(found: _Findings, rows: Sequence[Measured]) -> None:
    groups: Dict[str, List[Measured]] = {}
    for row in rows:
        groups.setdefault(row.robot_id, []).append(row)
    visible = {name: float(np.median([row.visible for row in group])) for name, group in groups.items()}
    cover = {name: float(np.median([row.covered for row in group])) for name, group in groups.items()}
    few = {_name(name): f"{count:.0f}" for name, count in visible.items() if count < FEW_RETURNS}
    if few:
        text = (
            f"Hardly any LiDAR returns fall into the image (medians of the rows looked into) on robot {_listed(few)}."
        )
        advice = "Check the transform between LiDAR and camera with mf-ros check BAG --out FOLDER."
        found.add("warning", text, advice)
    small = {
        _name(name): f"{100 * part:.0f}%"
        for name, part in cover.items()
        if part < _SMALL_COVER and visible[name] >= FEW_RETURNS
    }
    if small:
        text = (
            "The LiDAR covers only a small part of the image (medians of the rows looked into), and the rest has "
            f"nothing to learn from, on robot {_listed(small)}."
        )
        advice = "Depth there stays a guess; a LiDAR with more lines or a camera with a narrower lens would help."
        found.add("warning", text, advice)
    _of_light(found, groups, "too dark: more than half of each is nearly black", lambda row: row.dark)
    _of_light(found, groups, "too bright: more than half of each is nearly white", lambda row: row.bright)


def _of_motion(found: _Findings, tables: Tables, rows: Sequence[Measured]) -> None:
    # What is said of robots without odometry holds for their rows.
    able = {robot.name for robot in tables.robots if robot.extent.odometry >= _SOME}
    rows = [row for row in rows if row.robot_id in able]
    still = sum(not row.compensated for row in rows)
    if still > _MANY * len(rows):
        text = f"The motion between sweep and image is not compensated in {still} of {len(rows)} rows looked into"
        text += " whose robot has odometry."
        advice = "Record /tf of a world-fixed frame over the whole sweep, and name it in lidar.fixed_frame."
        found.add("note", text, advice)


def _of_light(
    found: _Findings, groups: Mapping[str, Sequence[Measured]], what: str, part: Callable[[Measured], float]
) -> None:
    many = {}
    for name, group in groups.items():
        count = sum(part(row) > _SOME for row in group)
        if count > _MANY * len(group):
            many[_name(name)] = f"{count} of {len(group)}"
    if many:
        text = f"Many images are {what}. Of those looked into, on robot {_listed(many)}."
        found.add("warning", text, "Look at the exposure of the camera; such images teach little.")


def _of_manifest(found: _Findings, manifest: Manifest) -> None:
    failed, rejected = len(manifest.with_status("failed")), len(manifest.with_status("rejected"))
    every = len(manifest.recordings)
    if failed:
        advice = "Mend what the reasons name, and run mf-ros extract again: it does only what is left."
        found.add("warning", f"Failed: {failed} of {every} recordings.", advice)
    if rejected:
        found.add("note", f"Rejected as unfit: {rejected} of {every} recordings.", "The reasons are in the manifest.")
    if manifest.unreadable:
        text = f"{manifest.unreadable} lines of the manifest cannot be read."
        found.add("note", text, "What became of some recordings is not told here.")
    if manifest.cut:
        text = f"The manifest is too large; only its first {every} recordings are told of."
        found.add("note", text, "Look into the manifest itself.")


def _name(name: str) -> str:
    return f"'{name}'" if name else "without a name"


def _listed(named: Mapping[str, str]) -> str:
    """Names with what is said of each, a few of them."""
    shown = ", ".join(f"{name} ({value})" for name, value in list(named.items())[:_MOST_NAMES])
    rest = len(named) - _MOST_NAMES
    return shown + (f" and {rest} more" if rest > 0 else "")
