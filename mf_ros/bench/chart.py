"""Growth curves as one PNG: a panel for each, both axes logarithmic, a dashed line where cost is in proportion."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.bench.growth import Curve
from mf_ros.core.pictures import write_png
from mf_ros.core.types import ByteArray
from mf_ros.errors import ConfigError

# Drawn so much larger and then shrunk, which smooths lines and letters.
_FINE = 3
_PANEL = (380, 560)
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 64, 46
_PAPER, _FRAME, _GRID, _TEXT = (255, 255, 255), (120, 124, 132), (228, 230, 234), (40, 44, 52)
_GUIDE = (170, 174, 182)
_COLOURS = ((31, 98, 190), (214, 92, 30), (36, 140, 74), (140, 70, 170), (180, 140, 0))
_ROUND = (1.0, 2.0, 5.0)
_MARGIN = 0.08
_MOST_LABELS = 8
_NAME = 18

Point = Tuple[int, int]


def write_chart(path: Path, curves: Sequence[Curve]) -> None:
    """Draw growth curves, two panels beside each other.

    Raises:
        ConfigError: the file cannot be written.
    """
    panels = [_panel(curve) for curve in curves]
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    rows = [np.hstack(panels[first : first + 2]) for first in range(0, len(panels), 2)]
    write_png(path, np.vstack(rows), ConfigError)


def _panel(curve: Curve) -> ByteArray:
    """(H, W, 3) uint8 RGB of one curve."""
    axes = _Axes(curve)
    axes.grid(curve)
    for number, series in enumerate(curve.series):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.guide(curve.x, series.median_ms)
        axes.line(curve.x, series.median_ms, colour, dots=True)
        axes.text(
            f"{series.label}: slope {series.slope:.2f}, upper half {series.upper_slope:.2f}",
            (_LEFT + 12, _TOP + _NAME * (number + 1)),
            colour,
            0.44,
        )
    axes.text(f"{curve.title} (ms by {curve.unit})", (_LEFT, _TOP - 34), _TEXT, 0.56)
    axes.text("dashed: in proportion", (_LEFT, _TOP - 12), _FRAME, 0.42)
    size = (_PANEL[1], _PANEL[0])
    return np.asarray(cv2.resize(axes.picture, size, interpolation=cv2.INTER_AREA), np.uint8)


class _Axes:
    """A panel's picture and where values lie on it."""

    def __init__(self, curve: Curve) -> None:
        height, width = _PANEL
        self.picture: ByteArray = np.full((height * _FINE, width * _FINE, 3), _PAPER, np.uint8)
        y = [value for series in curve.series for value in series.median_ms]
        self.x_range, (low, high) = _spread(curve.x), _spread(y)
        # Room above the lines for their names.
        names = _NAME * (len(curve.series) + 0.5) / (height - _TOP - _BOTTOM)
        self.y_range = low, low * (high / low) ** (1.0 / (1.0 - names))

    def at(self, x: float, y: float) -> Point:
        """Pixel of a value."""
        height, width = _PANEL
        across, up = _part(x, self.x_range), _part(y, self.y_range)
        return (
            round((_LEFT + across * (width - _LEFT - _RIGHT)) * _FINE),
            round((height - _BOTTOM - up * (height - _TOP - _BOTTOM)) * _FINE),
        )

    def grid(self, curve: Curve) -> None:
        """Lines and numbers of both axes."""
        x_low, x_high = self.x_range
        y_low, y_high = self.y_range
        for value in curve.x:
            cv2.line(self.picture, self.at(value, y_low), self.at(value, y_high), _GRID, _FINE)
            column, row = (each // _FINE for each in self.at(value, y_low))
            self.text(_short(value), (column - 14, row + 20), _TEXT, 0.42)
        for value in _ticks(self.y_range):
            cv2.line(self.picture, self.at(x_low, value), self.at(x_high, value), _GRID, _FINE)
            column, row = (each // _FINE for each in self.at(x_low, value))
            self.text(_short(value), (column - 46, row + 5), _TEXT, 0.42)
        cv2.rectangle(self.picture, self.at(x_low, y_high), self.at(x_high, y_low), _FRAME, _FINE)

    def line(self, x: Sequence[float], y: Sequence[float], colour: Tuple[int, int, int], dots: bool) -> None:
        """A line through values."""
        places = [self.at(*each) for each in zip(x, y, strict=True)]
        cv2.polylines(self.picture, [np.array(places, np.int32)], False, colour, 2 * _FINE, cv2.LINE_AA)
        for place in places if dots else ():
            cv2.circle(self.picture, place, 4 * _FINE, colour, -1, cv2.LINE_AA)

    def guide(self, x: Sequence[float], y: Sequence[float]) -> None:
        """From the last value back in proportion, dashed, as far as it lies in the panel."""
        parts = np.geomspace(max(x[0] / x[-1], self.y_range[0] / y[-1]), 1.0, 40)
        for first, second in zip(parts[:-1:2], parts[1::2], strict=True):
            ends = [self.at(x[-1] * part, y[-1] * part) for part in (first, second)]
            cv2.line(self.picture, ends[0], ends[1], _GUIDE, _FINE, cv2.LINE_AA)

    def text(self, text: str, at: Point, colour: Tuple[int, int, int], size: float) -> None:
        """Letters whose lower left corner is at a pixel of the finished panel."""
        place = (at[0] * _FINE, at[1] * _FINE)
        cv2.putText(self.picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size * _FINE, colour, _FINE, cv2.LINE_AA)


def _spread(values: Sequence[float]) -> Tuple[float, float]:
    """The range of positive values and a margin."""
    low, high = min(values), max(values)
    room = max(high / low, 1.5) ** _MARGIN
    return low / room, high * room


def _part(value: float, of: Tuple[float, float]) -> float:
    return float(np.log(value / of[0]) / np.log(of[1] / of[0]))


def _ticks(of: Tuple[float, float]) -> List[float]:
    decades = range(int(np.floor(np.log10(of[0]))), int(np.ceil(np.log10(of[1]))) + 1)
    every = [factor * 10.0**decade for decade in decades for factor in _ROUND]
    inside = [value for value in every if of[0] <= value <= of[1]]
    return inside if len(inside) <= _MOST_LABELS else [value for value in inside if f"{value:e}".startswith("1")]


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"
