"""What is told of a data set: the cells of its tables, lines for a terminal, values for machines."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from mf_ros.dataset.row import SPLITS
from mf_ros.dataset.show.manifest import Manifest
from mf_ros.dataset.show.measure import DISTANCES_M
from mf_ros.dataset.show.overview import Overview, Spread, Summary, summary_of
from mf_ros.dataset.show.tables import Extent
from mf_ros.findings import lines_of

NOTHING = "–"

_WIDEST = 40
_MOST_LINES = 20
_SPLIT_NAMES = {**{name: name for name in SPLITS}, "": "none (gaps)"}


@dataclass(frozen=True)
class TableText:
    """A table in words.

    Attributes:
        title: what it is of.
        heads: of its columns.
        rows: its cells.
        names: how many columns on the left hold names; the others hold numbers.
        more: how many entries there are besides.
        note: what a reader has to know of its numbers.
    """

    title: str
    heads: Tuple[str, ...]
    rows: Tuple[Tuple[str, ...], ...]
    names: int = 1
    more: int = 0
    note: str = ""


def tables_text(overview: Overview) -> List[TableText]:
    """The tables of what is counted."""
    return [_splits(overview), _robots(overview), _lidars(overview), _cameras(overview)]


def _splits(overview: Overview) -> TableText:
    splits = overview.tables.splits
    total = sum(extent.rows for extent in splits.values())
    rows = [
        (_SPLIT_NAMES[name], str(extent.rows), percent(extent.rows / total if total else math.nan), *_extent(extent))
        for name, extent in splits.items()
        if name or extent.rows
    ]
    heads = ("split", "rows", "share", "recordings", "minutes", "metres", "odometry")
    note = "Minutes and metres from row to row of a recording; rows without a split lie in the gaps between two."
    return TableText("Splits", heads, tuple(rows), note=note)


def _extent(extent: Extent) -> Tuple[str, ...]:
    return (
        str(extent.recordings),
        number(extent.minutes, 1 if extent.minutes >= 1 else 2),
        f"{extent.metres:.0f}",
        percent(extent.odometry),
    )


def _robots(overview: Overview) -> TableText:
    tables = overview.tables
    rows = [
        (
            shown(robot.name),
            str(robot.extent.rows),
            percent(robot.extent.rows / tables.total.rows),
            *_extent(robot.extent),
            number(robot.extent.speed_m_s, 1),
            *(str(robot.splits[name]) for name in (*SPLITS, "")),
        )
        for robot in tables.robots
    ]
    heads = ("robot", "rows", "share", "recordings", "minutes", "metres", "odometry", "m/s", *SPLITS, "none")
    return TableText("Robots", heads, tuple(rows), more=tables.counts["robots"] - len(rows))


def _lidars(overview: Overview) -> TableText:
    tables, rows = overview.tables, []
    for lidar in tables.lidars:
        fewest, median, most = lidar.points
        lines = overview.lines.get((lidar.robot, lidar.frame), 0)
        rows.append(
            (
                shown(lidar.robot),
                shown(lidar.frame),
                f"{lidar.rows} ({percent(lidar.share)})",
                f"{median:.0f}",
                f"{fewest} to {most}",
                str(lines or NOTHING),
                percent(lidar.has_time),
                percent(lidar.has_intensity),
                *(number(value, 1) for value in lidar.offset_ms),
            )
        )
    heads = ("robot", "LiDAR", "rows", "points", "fewest to most", "lines", "times", "intensity", "offset ms", "p95 ms")
    note = (
        "Points of a sweep: median, then fewest to most. Times: part of the sweeps whose points have their own. "
        "Offset: between the stamps of sweep and image, median and 95th percentile."
    )
    return TableText("LiDARs", heads, tuple(rows), 2, tables.counts["lidars"] - len(rows), note)


def _cameras(overview: Overview) -> TableText:
    tables, rows = overview.tables, []
    for camera in tables.cameras:
        low, median, high = camera.focal_px
        same = not high > 1.001 * low
        rows.append(
            (
                shown(camera.robot),
                shown(camera.frame),
                camera.model[:_WIDEST] or "pinhole",
                str(camera.rows),
                f"{camera.width} x {camera.height}",
                " x ".join(number(angle, 0) for angle in camera.fov_deg),
                number(median, 1) if same else f"{median:.1f} ({low:.1f} to {high:.1f})",
            )
        )
    heads = ("robot", "camera", "lens", "rows", "pixels", "view °", "fx px")
    note = "View: horizontal and vertical field of view through the middle of the image."
    return TableText("Cameras", heads, tuple(rows), 3, tables.counts["cameras"] - len(rows), note)


def headline(overview: Overview) -> str:
    """The data set in one line."""
    tables = overview.tables
    of = f"rows of split '{overview.only}'" if overview.only else "rows"
    counts = [
        f"{tables.total.recordings} recordings",
        *(f"{tables.counts[k]} {k}" for k in ("robots", "sites", "days")),
    ]
    return f"{tables.total.rows} {of}, " + ", ".join(_singular(each) for each in counts)


def _singular(text: str) -> str:
    return text[:-1] if text.startswith("1 ") else text


def facts(overview: Overview) -> List[Tuple[str, str]]:
    """Name and value of what else there is to know."""
    tables, found = overview.tables, [("Size on disk", size(overview.size_bytes))]
    split_by = ", ".join(f"{key} {value}" for key, value in list(overview.split_by.items())[:20])
    found += [
        ("Sites", _counted(tables.sites, tables.counts["sites"])),
        ("Days", _days(tables.days, tables.counts["days"])),
        ("Split by", split_by[:500] or NOTHING),
        ("Extracted by", ", ".join(each or NOTHING for each in tables.versions) or overview.extractor_version),
        ("Fingerprint", overview.fingerprint),
    ]
    return found


def _counted(counts: Mapping[str, int], kinds: int, most: int = 8) -> str:
    named = ", ".join(f"{shown(name)} {count}" for name, count in list(counts.items())[:most])
    return (named or NOTHING) + (f" and {kinds - most} more" if kinds > most else "")


def _days(days: Mapping[str, int], kinds: int) -> str:
    known = [day for day in days if day]
    if len(known) > 8:
        return f"{kinds} days, {shown(known[0])} to {shown(known[-1])}" if kinds == len(days) else f"{kinds} days"
    return _counted(days, kinds)


def measured_facts(summary: Summary) -> List[Tuple[str, str]]:
    """Name and value of what is measured."""
    visible = f"{summary.visible:.0f} visible, {summary.hidden:.0f} hidden, {summary.lonely:.0f} lonely (medians)"
    cover = summary.covered
    return [
        ("Returns in the image", visible),
        ("Per 1000 pixels", spread_text(summary.per_1000_px, 2)),
        ("Image that is covered", f"{percent(cover.median)} (10% of the rows below {percent(cover.low)})"),
        ("Depth of the returns, m", spread_text(summary.depth_m, 1)),
        ("Images too dark / too bright", f"{summary.dark} / {summary.bright} of {summary.rows}"),
    ]


def spread_text(values: Spread, decimals: int) -> str:
    """Percentiles in words."""
    parts = (number(each, decimals) for each in (values.low, values.median, values.high))
    return "10% {}, median {}, 90% {}".format(*parts)


def distances(by_distance: Sequence[int]) -> List[Tuple[str, int, float]]:
    """Name, number of returns and part of all of them, of each range of depth."""
    total = max(sum(by_distance), 1)
    names = [f"{near:g} to {far:g} m" if math.isfinite(far) else f"over {near:g} m" for near, far in DISTANCES_M]
    return [(name, count, count / total) for name, count in zip(names, by_distance, strict=True)]


def overview_lines(overview: Overview) -> List[str]:
    """A data set as lines for a terminal."""
    lines = [f"{overview.name}: {headline(overview)}", ""]
    lines += _aligned(facts(overview))
    for table in tables_text(overview):
        if table.rows:
            lines += ["", *table_lines(table)]
    summary = summary_of(overview.measurement.rows)
    if summary is not None:
        lines += ["", f"Measured on {summary.rows} rows, spread evenly over splits and recordings"]
        lines += _aligned(measured_facts(summary))
        by_distance = ", ".join(f"{name} {percent(part)}" for name, _, part in distances(summary.by_distance))
        lines += _aligned([("Returns by depth", by_distance)])
    if overview.manifest is not None:
        lines += ["", *_manifest_lines(overview.manifest)]
    return [*lines, "", *(lines_of(overview.findings) or ["Nothing here would hurt a training."])]


def table_lines(table: TableText) -> List[str]:
    """A table with columns of even width."""
    kept = table.rows[:_MOST_LINES]
    cells = [table.heads, *kept]
    widths = [max(len(row[place]) for row in cells) for place in range(len(table.heads))]
    lines = [table.title]
    for row in cells:
        parts = [
            f"{cell:<{width}}" if place < table.names else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(parts)).rstrip())
    more = table.more + len(table.rows) - len(kept)
    return [*lines, *([f"  and {more} more"] if more else [])]


def _aligned(pairs: Sequence[Tuple[str, str]]) -> List[str]:
    return [f"  {name:<28}  {value}" for name, value in pairs]


def manifest_line(manifest: Manifest) -> str:
    """How many recordings came out how."""
    counts: Dict[str, int] = {}
    for each in manifest.recordings:
        counts[each.status] = counts.get(each.status, 0) + 1
    told = ", ".join(f"{count} {status[:_WIDEST] or 'unknown'}" for status, count in list(counts.items())[:10])
    return _singular(f"{len(manifest.recordings)} recordings") + f": {told or 'none'}"


def dropped_line(manifest: Manifest) -> str:
    """Why images became no row; "" when all did, or nobody knows."""
    reasons = list(manifest.dropped().items())
    told = ", ".join(f"{count} {shown(reason)}" if reason else str(count) for reason, count in reasons[:10])
    return f"Images that became no row: {told}" if told else ""


def _manifest_lines(manifest: Manifest) -> List[str]:
    lines = [manifest_line(manifest)]
    for status in ("failed", "rejected"):
        bags = manifest.with_status(status)
        lines += [f"  {status:<9} {each.bag or each.bag_id}: {each.reason or NOTHING}" for each in bags[:_MOST_LINES]]
        if len(bags) > _MOST_LINES:
            lines.append(f"  and {len(bags) - _MOST_LINES} more {status}")
    noted = [each for each in manifest.recordings if each.status == "done" and each.notes][:_MOST_LINES]
    lines += [f"  note      {each.bag or each.bag_id}: {' '.join(each.notes)}" for each in noted]
    dropped = dropped_line(manifest)
    return [*lines, *([f"  {dropped}"] if dropped else [])]


def overview_json(overview: Overview) -> Dict[str, Any]:
    """A data set as plain values."""
    tables = dataclasses.asdict(overview.tables)
    for lidar in tables["lidars"]:
        lidar["lines"] = overview.lines.get((lidar["robot"], lidar["frame"]))
    summary = summary_of(overview.measurement.rows)
    manifest = overview.manifest
    return {
        "name": overview.name,
        "size_bytes": overview.size_bytes,
        "fingerprint": overview.fingerprint,
        "extractor_version": overview.extractor_version,
        "split_by": dict(overview.split_by),
        "only_split": overview.only or None,
        **tables,
        "measured": None if summary is None else dataclasses.asdict(summary),
        "distances_m": DISTANCES_M,
        "unusable_rows": [{"place": place, "reason": text} for place, text in overview.measurement.problems],
        "manifest": None if manifest is None else {**dataclasses.asdict(manifest), "dropped": manifest.dropped()},
        "findings": [dataclasses.asdict(finding) for finding in overview.findings],
    }


def shown(name: str) -> str:
    """A name that fits into a table."""
    if not name:
        return "(unknown)"
    return name if len(name) <= _WIDEST else name[: _WIDEST - 1] + "…"


def percent(part: float) -> str:
    """A part of 1 as a percentage; a small one is told from none, and nearly all from all."""
    if not math.isfinite(part):
        return NOTHING
    rounded = round(100 * part)
    if 0 < part < 1 and rounded in (0, 100):
        return ">99%" if rounded else "<1%"
    return f"{rounded}%"


def number(value: float, decimals: int) -> str:
    """A number, or a dash where there is none."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else NOTHING


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
