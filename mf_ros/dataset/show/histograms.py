"""Histograms of a data set as bars and ticks, ready to be drawn."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np

from mf_ros.bags.report_pictures import Tick
from mf_ros.core.types import AnyArray
from mf_ros.dataset.show.overview import Overview, depths_of
from mf_ros.dataset.show.text import percent

_DEPTHS_M = (0.5, 200.0)
_DEPTH_TICKS_M = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Bar:
    """From where to where in percent of the width, how high in percent of the height, and what it stands for."""

    left: float
    width: float
    height: float
    meaning: str


@dataclass(frozen=True)
class Histogram:
    """Bars over an axis; ``note`` says what the highest of them stands for."""

    title: str
    bars: Tuple[Bar, ...]
    ticks: Tuple[Tick, ...]
    note: str


def histograms_of(overview: Overview) -> List[Histogram]:
    """Depth, density and cover of the measured rows, and the hours of all rows."""
    rows = overview.measurement.rows
    found = []
    if rows:
        found += [
            _depths(depths_of(rows)),
            _densities(np.array([row.per_1000_px for row in rows])),
            _covers(np.array([row.covered for row in rows])),
        ]
    if overview.tables.total.rows:
        hours = np.array(overview.tables.hours)
        ticks = [Tick(100 * hour / 24, f"{hour:02d}") for hour in (0, 6, 12, 18)]
        names = [f"{hour:02d}:00 to {hour + 1:02d}:00" for hour in range(24)]
        found.append(_histogram("Time of day, h UTC", hours, names, ticks))
    return found


def _depths(depths: AnyArray) -> Histogram:
    edges = np.geomspace(*_DEPTHS_M, 31)
    span = np.log(_DEPTHS_M[1] / _DEPTHS_M[0])
    ticks = [Tick(100 * float(np.log(each / _DEPTHS_M[0]) / span), f"{each}") for each in _DEPTH_TICKS_M]
    counts = np.histogram(np.clip(depths, *_DEPTHS_M), edges)[0]
    return _histogram("Depth of visible returns, m", counts, _between(edges, " m"), ticks)


def _densities(densities: AnyArray) -> Histogram:
    top = max(float(densities.max()), 1.0)
    step = 10 ** np.floor(np.log10(top))
    top = float(np.ceil(top / step) * step)
    edges = np.linspace(0, top, 13)
    ticks = [Tick(50.0 * k, f"{top * k / 2:g}") for k in range(2)] + [Tick(100.0, f"{top:g}")]
    counts = np.histogram(densities, edges)[0]
    return _histogram("Returns per 1000 pixels", counts, _between(edges, ""), ticks)


def _covers(covers: AnyArray) -> Histogram:
    edges = np.linspace(0, 1, 11)
    ticks = [Tick(25.0 * k, f"{25 * k}") for k in range(5)]
    counts = np.histogram(covers, edges)[0]
    names = _between(100 * edges, "%")
    return _histogram("Covered part of the image, %", counts, names, ticks)


def _between(edges: AnyArray, unit: str) -> List[str]:
    return [f"{low:.3g} to {high:.3g}{unit}" for low, high in itertools.pairwise(edges)]


def _histogram(title: str, counts: AnyArray, names: Sequence[str], ticks: Sequence[Tick]) -> Histogram:
    width, most, total = 100.0 / len(counts), max(int(counts.max()), 1), max(int(counts.sum()), 1)
    bars = [
        Bar(k * width, width, 100.0 * count / most, f"{names[k]}: {count} ({percent(count / total)})")
        for k, count in enumerate(counts.tolist())
    ]
    return Histogram(title, tuple(bars), tuple(ticks), f"Highest bar {percent(most / total)}")
