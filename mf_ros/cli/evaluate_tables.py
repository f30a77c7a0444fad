"""What ``mf-ros evaluate`` prints: records for machines, tables for people."""

from __future__ import annotations

import dataclasses
from typing import Dict, List, Sequence, Tuple

import numpy as np

from mf_ros.evaluation.run import Record, headline
from mf_ros.evaluation.uncertainty import DROPPED, UNKNOWN

COLUMNS = ("mae", "rmse", "imae", "irmse", "absrel", "delta1", "median", "ms")

_OF_RATIO = ("absrel", "delta1", "ms")


def as_json(record: Record) -> Dict[str, object]:
    """One record with exactly the documented keys."""
    values = dataclasses.asdict(record)
    found: Dict[str, object] = {key: values[key] for key in ("source", "input", "engine", "truth")}
    # Metres mean nothing where the scale was taken from the truth.
    found.update({key: values[key] if record.metric or key in _OF_RATIO else None for key in COLUMNS})
    found.update(frames=record.frames, metric=record.metric)
    doubt = record.uncertainty or UNKNOWN
    found.update(coverage50=doubt.coverage50, coverage90=doubt.coverage90)
    for name, values_left in (("mae", doubt.left), ("absrel", doubt.relative)):
        kept = (round(100 * (1 - part)) for part in DROPPED)
        found.update({f"{name}{part}": value for part, value in zip(kept, values_left, strict=True)})
    return found


def as_text(records: Sequence[Record], engine: str) -> List[str]:
    """The records as one table per source, input and kind of truth, and what they come to."""
    tables: Dict[Tuple[str, str, str], List[Record]] = {}
    for record in records:
        if record.metric:
            tables.setdefault((record.source, record.input, record.truth), []).append(record)
    lines: List[str] = []
    for (source, shown, truth), rows in tables.items():
        lines.append(f"{source}, {_input(shown)}, truth: {truth}, {rows[0].frames} frames")
        lines.append(f"  {'':<20}" + "".join(f"{name:>9}" for name in COLUMNS))
        best = min((row.mae for row in rows if np.isfinite(row.mae)), default=float("nan"))
        for row in rows:
            mark = "*" if row.mae == best else " "
            values = "".join(f"{_number(name, getattr(row, name)):>9}" for name in COLUMNS)
            lines.append(f"{mark} {row.engine:<20}{values}")
        lines.append("")
    visible = [record for record in records if record.engine == engine and record.truth == "visible"]
    lines += _uncertainty(visible, engine)
    lines += _without_returns(visible, engine)
    lines += _headline(records, engine)
    return lines or ["There was nothing to score: the frames hold no truth, or fewer scan lines than asked for."]


def _input(shown: str) -> str:
    """``8 lines`` of ``8``, and of ``8, 10% wrong`` the same with its addition."""
    count, comma, addition = shown.partition(",")
    return f"{count} lines{comma}{addition}" if count.isdecimal() else shown


def _uncertainty(records: Sequence[Record], engine: str) -> List[str]:
    rows = [(record, record.uncertainty) for record in records if record.uncertainty is not None]
    if not rows:
        return []
    dropped = [f"-{100 * part:.0f}%" for part in DROPPED]
    lines = [
        f"Uncertainty of {engine}, visible truth: errors within its 50% and 90% intervals; MAE [m] and AbsRel of all",
        "pixels and without the least confident",
        f"  {'':<38}{'in 50%':>8}{'in 90%':>8}"
        + "".join(f"{name:>8}" for name in ("mae", *dropped, "absrel", *dropped)),
    ]
    for record, doubt in rows:
        inside = "".join(f"{_percent(value):>8}" for value in (doubt.coverage50, doubt.coverage90))
        left = "".join(f"{value:>8.3f}" for value in (record.mae, *doubt.left, record.absrel, *doubt.relative))
        lines.append(f"  {f'{record.source}, {_input(record.input)}':<38}{inside}{left}")
    return [*lines, ""]


def _without_returns(records: Sequence[Record], engine: str) -> List[str]:
    rows = [record for record in records if not record.metric]
    if not rows:
        return []
    lines = [
        f"{engine} on the image alone, without metric scale: multiplied by the median ratio of truth to depth, visible",
        "truth",
        f"  {'':<38}{'absrel':>8}{'delta1':>8}{'frames':>8}",
    ]
    lines += [f"  {row.source:<38}{row.absrel:>8.3f}{row.delta1:>8.3f}{row.frames:>8}" for row in rows]
    return [*lines, ""]


def _headline(records: Sequence[Record], engine: str) -> List[str]:
    total = headline(records, engine)
    if total is None:
        return []
    name, mae = total.best_single_baseline
    return [
        f"Mean MAE over {total.cases} LiDAR cases of 32, 16 and 8 lines, visible truth:",
        f"  {engine:<42} {total.engine:.3f} m",
        *(f"  {name:<42} {mean:.3f} m" for name, mean in total.beside.items()),
        f"  {'best of nearest, linear, ip_basic per case':<42} {total.best_simple:.3f} m",
        f"  {'best of all baselines per case':<42} {total.best_baseline:.3f} m",
        f"  {'best single baseline: ' + name:<42} {mae:.3f} m",
        f"  worst case against the simple ones: {total.worst_ratio[0]} at {total.worst_ratio[1]:.2f} of their MAE",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%" if np.isfinite(value) else "-"


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name in ("ms", "imae", "irmse") else f"{value:.3f}"
