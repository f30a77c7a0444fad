"""A finding: one thing that is wrong or worth knowing, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Literal

Severity = Literal["error", "warning", "note"]

_ORDER = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing, with what to do.

    Attributes:
        severity: "error" stops something from working, "warning" may surprise, "note" is for information.
        text: what is the case.
        advice: what to do.
    """

    severity: Severity
    text: str
    advice: str


def worst_first(findings: Iterable[Finding]) -> List[Finding]:
    """Errors, then warnings, then notes; otherwise in the given order."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether one of the findings is an error."""
    return any(finding.severity == "error" for finding in findings)


def lines_of(findings: Iterable[Finding]) -> List[str]:
    """Two lines of text per finding: what is the case, and what to do."""
    return [line for finding in findings for line in (f"{finding.severity}: {finding.text}", f"    {finding.advice}")]
