"""What ``mf-ros evaluate --compare`` prints for people."""

from __future__ import annotations

from typing import Any, List, Mapping

from mf_ros.evaluation.compare import BASE, COLUMNS, RANGE_NAMES, TUNED
from mf_ros.evaluation.compare_texts import (
    INPUTS,
    NAMES,
    TITLES,
    Numbers,
    cell,
    changed,
    count_text,
    network_text,
    percent,
    with_interval,
)
from mf_ros.evaluation.protocol import NO_RETURNS

_SCORES = tuple(name for name in COLUMNS if name not in RANGE_NAMES)
_NAME, _WIDE = 18, 25
_MARKS = {True: "ok   ", False: "FAIL ", None: "  -  "}


def as_text(document: Mapping[str, Any]) -> List[str]:
    """A comparison as lines of text: a table for each input, the image alone, procedural scenes, and the gate."""
    tuned, base, dataset = document[TUNED], document[BASE], document["dataset"]
    lines = [
        f"tuned {network_text(tuned)} against base {network_text(base)}",
        f"on {dataset['name']}, split {dataset['split']}: {count_text(document['frames'], 'frame')} of "
        f"{count_text(document['recordings'], 'recording')}",
        f"deployed input: held out is {document['held_out']}",
        document["intervals"],
        "",
    ]
    for result in document["inputs"]:
        if result["input"] == NO_RETURNS:
            lines += _relative("image alone, scaled by the median ratio of truth to depth", result)
        else:
            lines += _metric(result, document["ranges_m"])
    canary = document["canary"]
    if canary is not None:
        for result in canary["inputs"]:
            lines += _relative(f"procedural scenes with LiDAR, dense truth; {canary['intervals']}", result)
    return [*lines, *verdict_lines(document["gate"])]


def verdict_lines(gate: Mapping[str, Any]) -> List[str]:
    """The gate's verdict, one line for each condition."""
    lines = [f"Gate: {'passed' if gate['passed'] else 'failed'}"]
    return lines + [f"  {_MARKS[check['passed']]}{check['text']}" for check in gate["checks"]]


def _metric(result: Mapping[str, Any], ranges: Mapping[str, Any]) -> List[str]:
    methods, change = result["methods"], result["change"]
    best = min(each["mae"]["value"] for each in methods.values())
    shown = INPUTS.get(result["input"], "")
    lines = [f"{result['input']}: {shown}, {count_text(result['frames'], 'frame')}"]
    lines.append(f"  {'':<{_NAME}}{TITLES['mae']:>{_WIDE}}" + "".join(f"{TITLES[name]:>10}" for name in _SCORES[1:]))
    for name, columns in methods.items():
        mark = "*" if columns["mae"]["value"] == best else " "
        cells = "".join(f"{cell(column, columns[column]['value']):>10}" for column in _SCORES[1:])
        lines.append(f"{mark} {name:<{_NAME}}{with_interval(columns['mae']):>{_WIDE}}{cells}")
    lines += [_changes(change), ""]
    heads = [f"{low:g}-{high:g} m" for low, high in (ranges[name] for name in RANGE_NAMES)]
    lines.append(f"  {'MAE [m] by depth':<{_NAME}}" + "".join(f"{head:>12}" for head in heads))
    for name in (TUNED, BASE):
        cells = "".join(f"{cell('mae', methods[name][column]['value']):>12}" for column in RANGE_NAMES)
        lines.append(f"  {name:<{_NAME}}{cells}")
    lines.append(
        f"  {'tuned - base':<{_NAME}}" + "".join(f"{percent(change[column]['value']):>12}" for column in RANGE_NAMES)
    )
    ends = [change[column] for column in RANGE_NAMES]
    if any(each["low"] is not None for each in ends):
        lines.append(f"  {'  interval, %':<{_NAME}}" + "".join(f"{_ends(each):>12}" for each in ends))
    return [*lines, ""]


def _relative(title: str, result: Mapping[str, Any]) -> List[str]:
    lines = [f"{title}, {count_text(result['frames'], 'frame')}", f"  {'':<{_NAME}}{TITLES['absrel']:>{_WIDE}}"]
    for name, columns in result["methods"].items():
        lines.append(f"  {name:<{_NAME}}{with_interval(columns['absrel'], 4):>{_WIDE}}")
    return [*lines, _changes(result["change"]), ""]


def _changes(change: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name} {changed(change[column])}" for column, name in NAMES.items() if column in change)
    return f"  {'tuned - base':<{_NAME}}{shown}"


def _ends(estimate: Numbers) -> str:
    low, high = estimate["low"], estimate["high"]
    return "-" if low is None or high is None else f"{100 * low:+.0f} to {100 * high:+.0f}"
