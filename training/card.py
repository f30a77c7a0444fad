"""The model card: what a network is, where it comes from, and how it compares with the one it was tuned from.

What runs and comparisons left behind is read with care, because it lies in files that anyone may have written: names
are cut to one short line, and only known names with values of the known types are taken.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from mf_ros.engine.bundle import Bundle
from mf_ros.evaluation.compare import BASE, RANGE_NAMES, TUNED
from mf_ros.evaluation.compare_document import COMPARISON
from mf_ros.evaluation.compare_document import FORMAT as COMPARISON_FORMAT
from mf_ros.evaluation.compare_texts import INPUTS, NAMES, TITLES, cell, changed, with_interval
from mf_ros.evaluation.protocol import NO_RETURNS
from mf_training.checkpoints import CheckpointError, read_json

_log = logging.getLogger(__name__)

_LONGEST = 200
_LONGEST_PATH = 4096
_MOST_SCORES = 40
_SHORT_HASH = 12
_ORIGINS = {"dataset": ("name", "fingerprint", "rows", "bags"), "parent": ("name", "sha256", "licence")}
_MARKS = {True: "ok", False: "**fails**", None: "left out"}


def origin_of(state: Mapping[str, Any]) -> Dict[str, Any]:
    """What a checkpoint's state says of the data and the network that training started from, and of its score.

    Groups that the state does not have are left out: ``dataset`` (name, fingerprint, rows, bags), ``parent`` (name,
    sha256 of its weights, licence) and ``heldout`` (errors on what was held out while training).
    """
    sources = state.get("sources")
    sources = sources if isinstance(sources, Mapping) else {}
    found: Dict[str, Any] = {}
    for group, names in (
        ("dataset", ("name", "fingerprint", "rows", "bags")),
        ("parent", ("name", "sha256", "licence")),
    ):
        values = sources.get(group)
        if isinstance(values, Mapping):
            # A name and no path: the model travels, the machine's folders do not.
            shown = {**values, "name": Path(str(values.get("name", ""))[:_LONGEST_PATH]).name}
            found[group] = {name: _plain(shown[name]) for name in names if name in shown}
    scores, tally = state.get("scores"), state.get("tally")
    if scores is None and isinstance(tally, Mapping):
        scores = {"ratio": tally.get("ratio")}
    if isinstance(scores, Mapping):
        numbers = {str(name)[:_LONGEST]: value for name, value in scores.items() if _is_number(value)}
        if numbers:
            found["heldout"] = dict(list(numbers.items())[:_MOST_SCORES])
    return found


def _plain(value: Any) -> Any:
    return value if _is_number(value) else _line(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _line(text: Any) -> str:
    """One short line that a table of the card can hold."""
    shown = "".join(char if char.isprintable() else " " for char in str(text)[:_LONGEST])
    return " ".join(shown.replace("|", "/").replace("<", "(").replace(">", ")").split())


def comparison_of(run: Path, sha256: str) -> Optional[Dict[str, Any]]:
    """The comparison in a run's folder, when it is of these weights; else None.

    Args:
        run: folder of the run.
        sha256: of the exported file of weights.
    """
    path = run / COMPARISON
    if not path.is_file():
        return None
    try:
        document = read_json(path)
        if document["format"] != COMPARISON_FORMAT or document[TUNED]["sha256"] != sha256:
            return None
        # What cannot be drawn is no comparison of this program.
        comparison_lines(document)
        comparison_summary(document)
        return document
    except (CheckpointError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        _log.warning("%s is passed over, because it is damaged: %s", path, _line(error))
        return None


def comparison_summary(document: Mapping[str, Any]) -> Dict[str, Any]:
    """What config.json keeps of a comparison: on what, against what, the changes, and the gate."""
    canary = document["canary"]
    return {
        "dataset": {name: _plain(document["dataset"][name]) for name in ("name", "split", "fingerprint")},
        "base": {name: _plain(document[BASE][name]) for name in ("name", "sha256")},
        "frames": _plain(document["frames"]),
        "change": {str(_line(each["input"])): _changes(each) for each in document["inputs"][:8]},
        "procedural": None if canary is None else _changes(canary["inputs"][0]),
        "gate": {
            "passed": document["gate"]["passed"] is True,
            "checks": [_line(check["text"]) for check in document["gate"]["checks"][:8]],
        },
    }


def _changes(result: Mapping[str, Any]) -> Dict[str, Dict[str, Optional[float]]]:
    return {
        name: {end: _number(result["change"][name][end]) for end in ("value", "low", "high")}
        for name in NAMES
        if name in result["change"]
    }


def _number(value: Any) -> Optional[float]:
    return float(value) if _is_number(value) else None


def comparison_lines(document: Mapping[str, Any]) -> List[str]:
    """The comparison as a section of the card."""
    dataset, gate = document["dataset"], document["gate"]
    lines = [
        "## Comparison with its parent",
        "",
        f"Against {_line(document[BASE]['name'])} (weights {_line(document[BASE]['sha256'])[:_SHORT_HASH]}) on "
        f"{_line(dataset['name'])}, split {_line(dataset['split'])} (fingerprint "
        f"{_line(dataset['fingerprint'])[:_SHORT_HASH]}): {int(document['frames'])} frames of "
        f"{int(document['recordings'])} recordings, {_line(document['intervals'])}. Held out: "
        f"{_line(document['held_out'])}.",
        "",
    ]
    for result in document["inputs"][:8]:
        if result["input"] != NO_RETURNS:
            lines += [f"Input {_line(result['input'])}: {INPUTS.get(result['input'], '')}.", "", *_methods(result), ""]
    first = document["inputs"][0]
    if RANGE_NAMES[0] in first["change"]:
        lines += [f"By depth, input {_line(first['input'])}:", "", *_ranges(first, document["ranges_m"]), ""]
    lines += [*_relative(document), ""]
    lines += [f"The gate {'was passed' if gate['passed'] is True else '**was not passed**'}:", ""]
    return lines + [f"- {_MARKS[check['passed']]}: {_line(check['text'])}" for check in gate["checks"][:8]]


def _methods(result: Mapping[str, Any]) -> List[str]:
    columns = list(NAMES)
    rows = [
        {
            "method": _line(name),
            TITLES["mae"]: with_interval(values["mae"]),
            **{TITLES[column]: cell(column, values[column]["value"]) for column in columns[1:]},
        }
        for name, values in list(result["methods"].items())[:20]
    ]
    change = {TITLES[column]: changed(result["change"][column]) for column in columns}
    return table([*rows, {"method": "tuned minus base", **change}])


def _ranges(result: Mapping[str, Any], ranges: Mapping[str, Sequence[float]]) -> List[str]:
    return table(
        [
            {
                "depth": f"{float(low):g} to {float(high):g} m",
                **{name: cell("mae", result["methods"][name][column]["value"]) for name in (TUNED, BASE)},
                "change": changed(result["change"][column]),
            }
            for column, (low, high) in ranges.items()
            if column in RANGE_NAMES
        ]
    )


def _relative(document: Mapping[str, Any]) -> List[str]:
    results = [("image alone", each) for each in document["inputs"] if each["input"] == NO_RETURNS]
    results += [("procedural scenes", each) for each in (document["canary"] or {"inputs": ()})["inputs"]]
    rows = [
        {
            "AbsRel on": name,
            **{role: cell("absrel", each["methods"][role]["absrel"]["value"]) for role in (TUNED, BASE)},
            "change": changed(each["change"]["absrel"]),
        }
        for name, each in results[:8]
    ]
    return table(rows) if rows else []


def model_card(
    name: str,
    bundle: Bundle,
    parameters: int,
    opset: int,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    comparison: Optional[Mapping[str, Any]] = None,
) -> str:
    """Text of the model's README.

    Args:
        name: of the model.
        bundle: its description.
        parameters: number of weights.
        opset: of the graph.
        metrics: title to rows of a table, or name to value.
        training: as kept in config.json.
        comparison: with the network it was tuned from, or None.
    """
    sizes = ", ".join(f"{key} {value}" for key, value in bundle.model.items())
    lines = [
        f"# {name}",
        "",
        "Dense metric depth from one image and the returns of a LiDAR: one transformer over image and depth, with a",
        "noise level per depth pixel (Modality Forcing, arXiv 2606.13676, with LiDAR as partial depth).",
        "",
        f"- {parameters / 1e6:.1f} million parameters; {sizes}",
        f"- weights in half precision, computed in single; ONNX opset {opset}; licence {bundle.licence}",
        "- input: RGB image, sparse depth on its grid without hidden returns",
        "- output: depth in metres, and the scale of its error",
        "- loaded by `engine.model` of mf_ros; `mf-ros doctor` runs its self-test",
        *training_lines(training),
    ]
    if comparison is not None:
        lines += ["", *comparison_lines(comparison)]
    elif "dataset" in training or "parent" in training:
        lines.append(
            "- not compared with the network it was tuned from when it was exported: run "
            "`mf-ros evaluate --compare BASE RUN DATASET`, then export again"
        )
    return "\n".join([*lines, *metrics_lines(metrics)]) + "\n"


def metrics_lines(metrics: Mapping[str, Any]) -> List[str]:
    """A section of a card for each result: title to rows of a table, or name to value."""
    lines = []
    for title, rows in metrics.items():
        tabular = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
        lines += ["", f"## {title}", "", *(table(rows) if tabular else [f"{rows}"])]
    return lines


def training_lines(training: Mapping[str, Any]) -> List[str]:
    """Lines of a card: how long, from what and on what a network was trained, as config.json keeps it."""
    said = [f"{training['steps']} steps"] if training.get("steps") else []
    said += [f"{training['samples']} samples"] if training.get("samples") else []
    said += [f"{training['flops'] / 1e15:.2f} PFLOP"] if training.get("flops") else []
    lines = [f"- trained for {', '.join(said)}; every setting is in config.json"] if said else []
    parent, dataset = training.get("parent"), training.get("dataset")
    if parent:
        lines.append(f"- tuned from {parent.get('name', 'a network')}, weights `{parent.get('sha256', 'unknown')}`")
    if dataset:
        size = ", ".join(f"{dataset[key]} {word}" for key, word in _SIZES.items() if key in dataset)
        lines.append(
            f"- on the data set {dataset.get('name', '')}{f' ({size})' if size else ''}, fingerprint "
            f"`{dataset.get('fingerprint', 'unknown')}`"
        )
    ratio = (training.get("heldout") or {}).get("ratio")
    if ratio is not None:
        lines.append(f"- error of log depth on what was held out while training: {ratio:.3f} of the prior's")
    return lines


_SIZES = {"rows": "rows", "bags": "recordings"}


def table(rows: Sequence[Mapping[str, Any]]) -> List[str]:
    """Rows of a table in Markdown; the first row names the columns."""
    columns = list(rows[0]) if rows else []
    shown = [
        [f"{row.get(c, ''):.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        for row in rows
    ]
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *shown)]
