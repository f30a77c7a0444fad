"""The report of a comparison: one HTML file with verdict, intervals, tables and the frames that changed most."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any, List, Mapping, Sequence, Tuple

from mf_ros.bags import report_pictures as pictures
from mf_ros.bags.pages import page_template
from mf_ros.bags.report import MAX_BYTES, REPORT_NAME, FrameView
from mf_ros.bags.whole_file import write_whole
from mf_ros.dataset.compare.charts import change_chart, change_rows, range_chart
from mf_ros.dataset.compare.frames import ChangedFrame, change_scales_of, figures_of, scales_of
from mf_ros.evaluation.compare import BASE, COLUMNS, RANGE_NAMES, TUNED
from mf_ros.evaluation.compare_texts import (
    INPUTS,
    NAMES,
    TITLES,
    cell,
    changed,
    count_text,
    network_text,
    percent,
    with_interval,
)
from mf_ros.evaluation.protocol import DEPLOYED, NO_RETURNS

Chosen = Tuple[Sequence[ChangedFrame], Sequence[ChangedFrame]]
"""Frames that got better, and frames that got worse."""

_TEMPLATE = Path(__file__).with_name("templates") / "comparison.html"
_QUALITIES = (88, 78, 66, 50, 35)
_SCORES = tuple(name for name in COLUMNS if name not in RANGE_NAMES)


def write_comparison(document: Mapping[str, Any], frames: Chosen, out_dir: Path) -> Path:
    """Write ``report.html`` into a folder, so that the file is either whole or not there.

    Args:
        document: as ``comparison_document`` makes it.
        frames: that got better and that got worse.
        out_dir: an existing folder; a report in it is replaced.

    Raises:
        BagError: it cannot be written.
    """
    path = out_dir / REPORT_NAME
    write_whole(path, render_comparison(document, frames))
    return path


def render_comparison(document: Mapping[str, Any], frames: Chosen) -> str:
    """The report as the text of one self-contained HTML file of at most about ``MAX_BYTES``."""
    dataset, gate = document["dataset"], document["gate"]
    deployed = next((each for each in document["inputs"] if each["input"] == DEPLOYED), None)
    better, worse = _views(frames)
    page = page_template(_TEMPLATE).render(
        tuned=network_text(document[TUNED]),
        base=network_text(document[BASE]),
        networks=[(role, document[role]) for role in (TUNED, BASE)],
        dataset=dataset,
        version=document["mf_ros"],
        frames_text=count_text(document["frames"], "frame"),
        recordings_text=count_text(document["recordings"], "recording"),
        held_out=document["held_out"],
        intervals=document["intervals"],
        state="complete" if gate["passed"] else "failed",
        gate=gate,
        tiles=_tiles(document),
        changes=change_chart(change_rows(document)),
        ranges=None if deployed is None else range_chart(deployed, document["ranges_m"]),
        range_rows=[] if deployed is None else _range_rows(deployed, document["ranges_m"]),
        tables=[_table(each) for each in document["inputs"] if each["input"] != NO_RETURNS],
        score_titles=[TITLES[name] for name in _SCORES],
        relative=_relative(document),
        canary=document["canary"],
        better=better,
        worse=worse,
    )
    return str(page)


def _tiles(document: Mapping[str, Any]) -> List[Tuple[str, str, str]]:
    """Title, number and small print of the figures at the top."""
    tiles = []
    for result in document["inputs"]:
        if result["input"] == DEPLOYED:
            for column, title in (("mae", "MAE, held out"), ("rmse", "RMSE, held out")):
                tiles.append(_tile(title, result, column, " m"))
        elif result["input"] == NO_RETURNS:
            tiles.append(_tile("Image alone, AbsRel", result, "absrel", ""))
    for result in (document["canary"] or {}).get("inputs", ()):
        tiles.append(_tile("Procedural, MAE", result, "mae", " m"))
    tiles.append(("Frames", str(document["frames"]), f"of {count_text(document['recordings'], 'recording')}"))
    return tiles


def _tile(title: str, result: Mapping[str, Any], column: str, unit: str) -> Tuple[str, str, str]:
    before, after = (cell(column, result["methods"][name][column]["value"]) for name in (BASE, TUNED))
    return title, percent(result["change"][column]["value"]), f"{before}{unit} before, {after}{unit} after"


def _table(result: Mapping[str, Any]) -> Tuple[str, str, List[Tuple[str, bool, List[str]]], List[str]]:
    """Title, what is shown, (method, whether it is the best, cells), and the changes below."""
    methods = result["methods"]
    best = min(each["mae"]["value"] for each in methods.values())
    rows = [
        (
            name,
            columns["mae"]["value"] == best,
            [with_interval(columns["mae"]), *(cell(column, columns[column]["value"]) for column in _SCORES[1:])],
        )
        for name, columns in methods.items()
    ]
    change = [changed(result["change"][column]) for column in NAMES]
    shown = f"{INPUTS.get(result['input'], '')}; {count_text(result['frames'], 'frame')}"
    return str(result["input"]), shown, rows, change


def _range_rows(result: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]) -> List[List[str]]:
    """Depth, frames, base, tuned and change."""
    rows = []
    for column, (low, high) in ranges.items():
        values = (with_interval(result["methods"][name][column]) for name in (BASE, TUNED))
        count = str(result["frames_by_column"][column])
        rows.append([f"{low:g} to {high:g} m", count, *values, changed(result["change"][column])])
    return rows


def _relative(document: Mapping[str, Any]) -> List[List[str]]:
    """What is judged, frames, AbsRel of base and tuned, and change."""
    results = [("image alone", each) for each in document["inputs"] if each["input"] == NO_RETURNS]
    results += [("procedural scenes", each) for each in (document["canary"] or {}).get("inputs", ())]
    return [
        [
            name,
            str(each["frames"]),
            *(with_interval(each["methods"][role]["absrel"], 4) for role in (BASE, TUNED)),
            changed(each["change"]["absrel"]),
        ]
        for name, each in results
    ]


def _views(chosen: Chosen) -> Tuple[List[FrameView], List[FrameView]]:
    """The frames as figures, as sharp as the size of the file allows."""
    every = [frame for frames in chosen for frame in frames]
    if not every:
        return [], []
    scales, change_scales = scales_of(every), change_scales_of(every)
    drawn = [figures_of(frame, scales, change_scales) for frame in every]
    encoded: List[List[str]] = []
    for quality in _QUALITIES:
        encoded = [[pictures.data_uri(figure.picture, quality) for figure in figures] for figures in drawn]
        if sum(len(uri) for uris in encoded for uri in uris) <= MAX_BYTES:
            break
    views = [
        FrameView(*_heading(frame), tuple(zip(figures, uris, strict=True)))
        for frame, figures, uris in zip(every, drawn, encoded, strict=True)
    ]
    return views[: len(chosen[0])], views[len(chosen[0]) :]


def _heading(frame: ChangedFrame) -> Tuple[str, Tuple[str, ...]]:
    when = datetime.fromtimestamp(frame.stamp_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    part = percent(frame.change_m / frame.mae[BASE] if frame.mae[BASE] > 0 else None)
    facts = f"MAE {frame.mae[BASE]:.3f} m before, {frame.mae[TUNED]:.3f} m after ({frame.change_m:+.3f} m, {part})"
    return f"{frame.recording}, {when} UTC", (facts,)
