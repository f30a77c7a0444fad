"""The pages of a data set and of one of its samples: single HTML files that need no network and no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np

from mf_ros import __version__
from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.pages import page_template
from mf_ros.bags.report_pictures import data_uri
from mf_ros.bags.whole_file import write_whole
from mf_ros.core.types import ByteArray
from mf_ros.dataset.show.histograms import histograms_of
from mf_ros.dataset.show.manifest import Manifest
from mf_ros.dataset.show.measure import Measured
from mf_ros.dataset.show.overview import Overview, summary_of
from mf_ros.dataset.show.pictures import depth_legend, figures_of
from mf_ros.dataset.show.sample import SampleView, sections
from mf_ros.dataset.show.text import (
    NOTHING,
    TableText,
    distances,
    dropped_line,
    facts,
    headline,
    manifest_line,
    measured_facts,
    number,
    percent,
    shown,
    tables_text,
)
from mf_ros.findings import Finding

MAX_BYTES = 4_000_000
"""Of the pictures on a page."""

_TEMPLATES = Path(__file__).with_name("templates")
_QUALITIES = (85, 75, 60, 45, 30)
_MOST_RECORDINGS = 200


@dataclass(frozen=True)
class Thumbnail:
    """One sample on the contact sheet."""

    uri: str
    place: int
    sample_id: str
    robot: str
    split: str
    facts: str


def page_path(out: Path, name: str) -> Path:
    """Where a page goes: the named file, or one called ``name`` in the named folder, which is made.

    Raises:
        BagError: the folder cannot be made or written to.
    """
    if out.suffix.lower() in (".html", ".htm") and not out.is_dir():
        make_output_folder(out.parent)
        return out
    make_output_folder(out)
    return out / name


def write_overview(path: Path, overview: Overview) -> None:
    """Write the page of a data set, whole or not at all.

    Raises:
        BagError: it cannot be written.
    """
    write_whole(path, render_overview(overview))


def write_sample(path: Path, view: SampleView) -> None:
    """Write the page of a sample, whole or not at all.

    Raises:
        BagError: it cannot be written.
    """
    write_whole(path, render_sample(view))


def render_overview(overview: Overview) -> str:
    """The page of a data set."""
    measurement = overview.measurement
    summary = summary_of(measurement.rows)
    manifest = overview.manifest
    page = page_template(_TEMPLATES / "dataset.html").render(
        version=__version__,
        name=overview.name,
        headline=headline(overview),
        state=_state(overview.findings),
        verdict=_verdict(overview.findings),
        findings=overview.findings,
        tiles=_tiles(overview),
        tables=[table for table in tables_text(overview) if table.rows],
        summary=summary,
        measured=[] if summary is None else measured_facts(summary),
        distances=[] if summary is None else distances(summary.by_distance),
        percent=percent,
        histograms=histograms_of(overview),
        legend=depth_legend(),
        thumbnails=_thumbnails(measurement.rows, measurement.pictures),
        aspect=_aspect(measurement.pictures),
        problems=measurement.problems,
        manifest=manifest,
        manifest_line="" if manifest is None else manifest_line(manifest),
        dropped=("" if manifest is None else dropped_line(manifest)),
        recordings=None if manifest is None else _recordings(manifest),
        facts=facts(overview),
    )
    return str(page)


def render_sample(view: SampleView) -> str:
    """The page of one sample."""
    figures = () if view.projected is None else figures_of(view.projected)
    uris = _encoded([figure.picture for figure in figures])
    page = page_template(_TEMPLATES / "sample.html").render(
        version=__version__,
        row=view.row,
        place=view.place,
        problem=view.problem,
        figures=list(zip(figures, uris, strict=True)),
        sections=sections(view),
    )
    return str(page)


def _state(findings: Sequence[Finding]) -> str:
    worst = {finding.severity for finding in findings}
    return "failed" if "error" in worst else "partly" if "warning" in worst else "complete"


def _verdict(findings: Sequence[Finding]) -> str:
    counts = [(kind, sum(finding.severity == kind for finding in findings)) for kind in ("error", "warning", "note")]
    told = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts if count]
    return (" and ".join([", ".join(told[:-1]), told[-1]]) if told[1:] else told[0]) if told else ""


def _tiles(overview: Overview) -> List[Tuple[str, str, str]]:
    """Title, number and small print of the figures at the top."""
    tables, summary = overview.tables, summary_of(overview.measurement.rows)
    splits = ", ".join(
        f"{extent.rows} {name or 'in no split'}" for name, extent in tables.splits.items() if extent.rows
    )
    total = tables.total
    tiles = [
        ("Rows", f"{total.rows:,}", splits),
        ("Recordings", f"{total.recordings:,}", f"{tables.counts['sites']} sites, {tables.counts['days']} days"),
        ("Robots", f"{tables.counts['robots']}", ", ".join(shown(robot.name) for robot in tables.robots[:4])),
        (
            "Driven",
            f"{number(total.minutes, 1 if total.minutes >= 1 else 2)} min",
            f"{total.metres:.0f} m where there is odometry, in {percent(total.odometry)} of the rows",
        ),
    ]
    if summary is not None:
        sees = f"of the image by the LiDAR, median of {summary.rows} rows"
        tiles.append(("Covered", percent(summary.covered.median), sees))
    return tiles


def _thumbnails(rows: Sequence[Measured], pictures: Sequence[ByteArray]) -> List[Thumbnail]:
    return [
        Thumbnail(
            uri,
            row.place,
            row.sample_id,
            shown(row.robot_id),
            row.split or "no split",
            f"{row.visible} returns, {percent(row.covered)} covered",
        )
        for row, uri in zip(rows, _encoded(pictures), strict=True)
    ]


def _aspect(pictures: Sequence[ByteArray]) -> float:
    """Width over height of the frame that most pictures fit into."""
    ratios = [picture.shape[1] / picture.shape[0] for picture in pictures]
    return float(np.clip(np.median(ratios), 1.0, 4.0)) if ratios else 1.0


def _encoded(pictures: Sequence[ByteArray]) -> List[str]:
    """Data URIs, as sharp as the size of a page allows."""
    uris: List[str] = []
    for quality in _QUALITIES:
        uris = [data_uri(picture, quality) for picture in pictures]
        if sum(map(len, uris)) <= MAX_BYTES:
            break
    return uris


def _recordings(manifest: Manifest) -> TableText:
    """What became of each recording: what did not work first."""
    order = {"failed": 0, "rejected": 1}
    bags = sorted(manifest.recordings, key=lambda each: order.get(each.status, 2))
    rows = [
        (
            each.status or NOTHING,
            each.bag or each.bag_id,
            shown(each.robot_id),
            " ".join((each.reason, *each.notes)).strip() or NOTHING,
            str(each.rows),
        )
        for each in bags[:_MOST_RECORDINGS]
    ]
    heads = ("status", "recording", "robot", "reason and notes", "rows")
    return TableText("Recordings", heads, tuple(rows), 4, len(bags) - len(rows))
