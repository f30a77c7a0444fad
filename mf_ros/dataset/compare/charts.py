"""Charts of a comparison: where their marks lie, in the units of their drawing; the page only draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from mf_ros.evaluation.compare import BASE, TUNED
from mf_ros.evaluation.compare_texts import NAMES, Numbers, cell, changed
from mf_ros.evaluation.protocol import DEPLOYED, HALF, NO_RETURNS, QUARTER

WIDTH = 1000.0
_LEFT, _RIGHT, _ROW, _TOP, _BOTTOM = 300.0, 190.0, 30.0, 12.0, 34.0
_PLOT = WIDTH - _LEFT - _RIGHT
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_MOST_PART = 3.0


@dataclass(frozen=True)
class Tick:
    """A line of the grid at ``x`` with its label."""

    x: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A value with its interval.

    Attributes:
        row: middle of its row.
        y: its own height in the row.
        x: the value.
        low, high: the ends of the interval, or ``x`` where there is none.
        role: ``better``, ``worse``, ``unsure`` (the interval includes no change), or the network that it is of.
        text: the value in words, for the right; empty for the second mark of a row.
        label: of the row, for the left; likewise.
    """

    row: float
    y: float
    x: float
    low: float
    high: float
    role: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart of rows; ``zero`` is where no change lies, None without such a line."""

    width: float
    height: float
    marks: Tuple[Mark, ...]
    ticks: Tuple[Tick, ...]
    bottom: float
    zero: Optional[float] = None


def change_chart(rows: Sequence[Tuple[str, Numbers]]) -> Optional[Chart]:
    """Changes as parts with their intervals, one row for each (label, estimate); None when none is known."""
    known = [(label, each) for label, each in rows if each["value"] is not None]
    if not known:
        return None
    ends = [abs(value) for _, each in known for value in each.values() if value is not None]
    reach = min(max(max(ends), 0.01) * 1.08, _MOST_PART)
    middle = _LEFT + _PLOT / 2

    def place(part: float) -> float:
        return middle + max(-1.0, min(1.0, part / reach)) * _PLOT / 2

    marks = []
    for number, (label, each) in enumerate(known):
        value = each["value"] or 0.0
        low, high = (value if each[end] is None else each[end] or 0.0 for end in ("low", "high"))
        sure = each["low"] is not None and (low > 0 or high < 0)
        role = "unsure" if not sure else "better" if value < 0 else "worse"
        row = _middle(number)
        marks.append(Mark(row, row, place(value), place(low), place(high), role, changed(each), label))
    step = next((each for each in _STEPS if reach / each <= 4), _STEPS[-1])
    count = int(reach / step)
    ticks = [Tick(place(number * step), f"{100 * number * step:+g}%") for number in range(-count, count + 1)]
    ticks[count] = Tick(middle, "0")
    bottom = _TOP + _ROW * len(known)
    return Chart(WIDTH, bottom + _BOTTOM, tuple(marks), tuple(ticks), bottom, middle)


def range_chart(result: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]) -> Optional[Chart]:
    """MAE of base and tuned network by depth with their intervals, on a logarithmic scale; None without any."""
    rows = []
    for column, (low, high) in ranges.items():
        pair = [result["methods"][name][column] for name in (BASE, TUNED)]
        if all(each["value"] is not None and each["value"] > 0 for each in pair):
            frames = result["frames_by_column"][column]
            rows.append((f"{low:g} to {high:g} m ({frames} frame{'' if frames == 1 else 's'})", pair))
    ends = [value for _, pair in rows for each in pair for value in each.values() if value is not None and value > 0]
    if not ends:
        return None
    least, most = min(ends) / 1.15, max(ends) * 1.15
    span = math.log(most / least)

    def place(metres: float) -> float:
        return _LEFT + _PLOT * math.log(max(metres, least) / least) / span

    marks = []
    for number, (label, pair) in enumerate(rows):
        for role, each, offset in zip((BASE, TUNED), pair, (-5.5, 5.5), strict=True):
            value = each["value"]
            low, high = (value if each[end] is None else each[end] for end in ("low", "high"))
            text = " → ".join(cell("mae", one["value"]) for one in pair) + " m" if role == BASE else ""
            row = _middle(number)
            label_once = label if role == BASE else ""
            marks.append(Mark(row, row + offset, place(value), place(low), place(high), role, text, label_once))
    bottom = _TOP + _ROW * len(rows)
    ticks = tuple(Tick(place(value), f"{value:g}") for value in _round_numbers(least, most))
    return Chart(WIDTH, bottom + _BOTTOM, tuple(marks), ticks, bottom)


def change_rows(document: Mapping[str, Any]) -> List[Tuple[str, Numbers]]:
    """Label and change of what the gate looks at, and of the other inputs."""
    rows: List[Tuple[str, Numbers]] = []
    for result in document["inputs"]:
        known = [column for column in NAMES if column in result["change"]]
        title = _ROWS.get(result["input"], result["input"])
        # The first column says enough of the inputs that decide nothing.
        for column in known if result["input"] == DEPLOYED else known[:1]:
            rows.append((f"{title}, {NAMES[column]}", result["change"][column]))
    for result in (document["canary"] or {}).get("inputs", ()):
        rows += [(f"procedural scenes, {NAMES[column]}", result["change"][column]) for column in ("absrel", "mae")]
    return rows


_ROWS = {NO_RETURNS: "image alone", HALF: "half shown", QUARTER: "a quarter shown"}


def _middle(number: int) -> float:
    return _TOP + _ROW * (number + 0.5)


def _round_numbers(low: float, high: float) -> List[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**decade for decade in decades for factor in (1.0, 2.0, 5.0)]
    inside = [value for value in every if low <= value <= high]
    return inside if len(inside) <= 9 else [value for value in inside if f"{value:e}".startswith("1")]
