"""Whether a tuned network may replace its base: better on its own data, and not worse at what it could do before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

from mf_ros.evaluation.bootstrap import Estimate
from mf_ros.evaluation.compare import BASE, TUNED, Results
from mf_ros.evaluation.compare_texts import NAMES
from mf_ros.evaluation.protocol import DEPLOYED, NO_RETURNS

TOLERANCE = 0.02
"""How much worse, as a part, a tuned network may be without returns and on procedural scenes."""


@dataclass(frozen=True)
class Check:
    """One condition.

    Attributes:
        name: of the condition.
        passed: None where it was not measured.
        text: one sentence that says what was found.
    """

    name: str
    passed: Optional[bool]
    text: str


@dataclass(frozen=True)
class Verdict:
    """All conditions; what was not measured does not fail."""

    checks: Tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)


def judge(results: Results, canary: Optional[Results], *, tolerance: float = TOLERANCE) -> Verdict:
    """Hold a comparison against the conditions.

    A tuned network must have a lower MAE on the held-out returns of the ``deployed`` input; that the interval of the
    change includes 0 is said, but decides nothing. Its AbsRel on the image alone, which has no metres, and its MAE on
    the procedural scenes may rise by ``tolerance``; how AbsRel moves there is said as well.

    Args:
        results: on the data set.
        canary: on the procedural scenes, or None where they were left out.
        tolerance: as a part.
    """
    return Verdict(
        (
            _better("held-out returns", results),
            _not_worse("image alone", results, NO_RETURNS, "absrel", tolerance),
            _not_worse("procedural scenes", canary, DEPLOYED, "mae", tolerance),
        )
    )


def _better(name: str, results: Results) -> Check:
    found = results.input(DEPLOYED)
    if found is None:
        return Check(name, None, "The MAE on held-out returns was not measured.")
    change = found.change["mae"]
    values = " to ".join(f"{found.methods[method]['mae'].value:.3f} m" for method in (BASE, TUNED))
    text = f"The MAE on held-out returns {_moved(change)}, from {values}"
    passed = change.value < 0
    if change.low <= 0 <= change.high:
        text += ", which may be chance: the interval includes 0"
    if not passed:
        text += "; a tuned network must be better there"
    return Check(name, passed, text + ".")


def _not_worse(name: str, results: Optional[Results], shown: str, column: str, tolerance: float) -> Check:
    found = None if results is None else results.input(shown)
    if found is None:
        return Check(name, None, f"The {NAMES[column]} on {_THE[name]} was not measured.")
    change = found.change[column]
    unit, decimals = (" m", 3) if column == "mae" else ("", 4)
    values = " to ".join(f"{found.methods[method][column].value:.{decimals}f}{unit}" for method in (BASE, TUNED))
    text = f"The {NAMES[column]} on {_THE[name]} {_moved(change)}, from {values}"
    if column != "absrel":
        text += f"; AbsRel {_moved(found.change['absrel'])}"
    # Anything that is no number is not known to be within the limit.
    passed = change.value <= tolerance
    if not passed:
        text += f"; at most {100 * tolerance:g}% more {NAMES[column]} is allowed"
    return Check(name, passed, text + ".")


_THE = {"image alone": "the image alone", "procedural scenes": "the procedural scenes"}


def _moved(change: Estimate) -> str:
    if not math.isfinite(change.value):
        return "cannot be compared"
    if change.value == 0:
        return "stays the same"
    ends = ""
    if math.isfinite(change.low):
        ends = f" ({100 * change.low:+.1f}% to {100 * change.high:+.1f}%)"
    return f"{'falls' if change.value < 0 else 'rises'} by {abs(100 * change.value):.1f}%{ends}"
