"""What ``mf-ros evaluate --sequence`` prints."""

from __future__ import annotations

import dataclasses
import math
from typing import Dict, List, Sequence, Tuple

from mf_ros.evaluation.sequence import SequenceRecord


def sequence_json(record: SequenceRecord) -> Dict[str, object]:
    """One record with the documented keys."""
    return dataclasses.asdict(record)


def sequence_text(records: Sequence[SequenceRecord]) -> List[str]:
    """A table with a line for each number of scan lines and engine: without reuse, with it, and the change."""
    lines = [
        "Earlier frames reused (with) and not (without); flicker: change of log depth at a surface point per frame, %",
        f"  {'':<34}{'frames':>7}{'mae':>9}{'rmse':>9}{'flicker':>9}{'ms':>9}",
    ]
    pairs: Dict[Tuple[int, str], Dict[bool, SequenceRecord]] = {}
    for record in records:
        pairs.setdefault((record.lines, record.engine), {})[record.reuse] = record
    for (count, engine), both in pairs.items():
        shown = f"{count} lines" if count else "half of the returns"
        for reuse, text in ((False, "without"), (True, "with")):
            lines.append(f"  {f'{shown}, {engine} {text}':<34}" + _row(both[reuse]))
        lines.append(f"  {'':<41}" + _change(both[False], both[True]))
    return lines


def _row(record: SequenceRecord) -> str:
    values = f"{record.frames:>7}{record.mae:>9.3f}{record.rmse:>9.3f}"
    return values + f"{_number(100 * record.flicker):>9}{record.ms:>9.1f}"


def _change(before: SequenceRecord, after: SequenceRecord) -> str:
    return "".join(
        f"{_percent(getattr(before, name), getattr(after, name)):>9}" for name in ("mae", "rmse", "flicker", "ms")
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _percent(before: float, after: float) -> str:
    if not (math.isfinite(before) and math.isfinite(after)) or before == 0:
        return "-"
    return f"{100 * (after / before - 1):+.1f}%"
