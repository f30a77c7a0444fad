"""A comparison in words: what was shown, and numbers with their intervals as text."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from mf_ros.evaluation.protocol import DEPLOYED, HALF, QUARTER

Numbers = Mapping[str, Optional[float]]
"""``value``, ``low`` and ``high`` of an estimate."""

INPUTS = {
    DEPLOYED: "as much shown as the robot has",
    HALF: "half of the scan lines or of the sweep shown, judged on the other half",
    QUARTER: "a quarter of them shown, judged on the same half",
}
"""What each input shows."""
NAMES = {"mae": "MAE", "rmse": "RMSE", "absrel": "AbsRel"}
"""What changes are stated of."""
TITLES = {
    "mae": "MAE [m]",
    "rmse": "RMSE [m]",
    "absrel": "AbsRel",
    "coverage50": "in 50%",
    "coverage90": "in 90%",
}
_PERCENT = ("coverage50", "coverage90")


def network_text(network: Mapping[str, Any]) -> str:
    """``mf-model (mine, step 400)``."""
    known = [str(network["given"]), *([f"step {network['step']}"] if network["step"] is not None else [])]
    return f"{network['name']} ({', '.join(known)})"


def count_text(number: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def cell(column: str, value: Optional[float]) -> str:
    """A mean as text."""
    if value is None:
        return "-"
    return f"{100 * value:.0f}%" if column in _PERCENT else f"{value:.4f}" if column == "absrel" else f"{value:.3f}"


def with_interval(estimate: Numbers, decimals: int = 3) -> str:
    """``0.412 (0.391 to 0.440)``."""
    value, low, high = (estimate[end] for end in ("value", "low", "high"))
    if value is None:
        return "-"
    if low is None or high is None:
        return f"{value:.{decimals}f}"
    return f"{value:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"


def percent(part: Optional[float]) -> str:
    """A change as text: ``-3.2%``."""
    return "-" if part is None else f"{100 * part:+.1f}%"


def changed(estimate: Numbers) -> str:
    """``-3.2% (-4.0% to -2.1%)``."""
    if estimate["low"] is None:
        return percent(estimate["value"])
    return f"{percent(estimate['value'])} ({percent(estimate['low'])} to {percent(estimate['high'])})"
