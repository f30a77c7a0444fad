"""What a comparison came to as plain values: the content of ``comparison.json``, which reports and model cards read."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from mf_ros import __version__
from mf_ros.evaluation.bootstrap import Estimate
from mf_ros.evaluation.compare import BASE, RANGE_NAMES, TUNED, InputResult, Results
from mf_ros.evaluation.gate import Verdict
from mf_ros.evaluation.metrics import RANGES_M

COMPARISON = "comparison.json"
FORMAT = 1

_PIECE = 1 << 20


@dataclass(frozen=True)
class Network:
    """One of the networks compared.

    Attributes:
        name: as its engine is called.
        given: what the user named it by: the last part of a path only.
        sha256: of the file of its weights.
        step: of its training, None where that is not known.
    """

    name: str
    given: str
    sha256: str
    step: Optional[int] = None


def comparison_document(
    tuned: Network,
    base: Network,
    dataset: Mapping[str, Any],
    held_out: str,
    results: Results,
    canary: Optional[Results],
    verdict: Verdict,
) -> Dict[str, Any]:
    """All of a comparison; a number that is not known is None.

    Args:
        tuned, base: what was compared.
        dataset: what is said of the data: name, split, fingerprint, rows and recordings.
        held_out: what was held out, in words.
        results: on the data set.
        canary: on the procedural scenes, or None.
        verdict: of the gate.
    """
    return {
        "format": FORMAT,
        "mf_ros": __version__,
        TUNED: asdict(tuned),
        BASE: asdict(base),
        "dataset": dict(dataset),
        "held_out": held_out,
        "ranges_m": {name: list(ends) for name, ends in zip(RANGE_NAMES, RANGES_M, strict=True)},
        **_results(results),
        "canary": None if canary is None else _results(canary),
        "gate": {"passed": verdict.passed, "checks": [asdict(check) for check in verdict.checks]},
    }


def _results(results: Results) -> Dict[str, Any]:
    return {
        "frames": results.frames,
        "recordings": results.recordings,
        "intervals": results.intervals,
        "inputs": [_input(each) for each in results.inputs],
    }


def _input(result: InputResult) -> Dict[str, Any]:
    return {
        "input": result.input,
        "frames": result.frames,
        "frames_by_column": dict(result.frames_by_column),
        "methods": {name: _estimates(each) for name, each in result.methods.items()},
        "change": _estimates(result.change),
    }


def _estimates(columns: Mapping[str, Estimate]) -> Dict[str, Dict[str, Optional[float]]]:
    return {
        name: {end: value if math.isfinite(value) else None for end, value in asdict(each).items()}
        for name, each in columns.items()
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read piece by piece.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
