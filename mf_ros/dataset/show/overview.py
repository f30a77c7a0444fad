"""What is in a data set: counted over all rows, measured on a few of them, and what would hurt a training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, ByteArray, FloatArray
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import SPLITS, DatasetError
from mf_ros.dataset.show.columns import read_columns
from mf_ros.dataset.show.findings import findings_of
from mf_ros.dataset.show.manifest import Manifest, read_manifest
from mf_ros.dataset.show.measure import ROWS, Measured, Measurement, Projected, chosen_rows, counts_by_distance, measure
from mf_ros.dataset.show.tables import Tables, tables_of
from mf_ros.errors import require_package
from mf_ros.findings import Finding

pc = require_package("pyarrow.compute", extra="fleet")

_MOST_FILES = 1_000_000


@dataclass(frozen=True, eq=False)
class Overview:
    """What there is to say of a data set.

    Attributes:
        name: of its folder or file.
        size_bytes: on the disk.
        fingerprint: of which rows it holds, as the card of a trained model states it.
        extractor_version: of the program that began it.
        split_by: how rows were shared out.
        only: the split that everything but ``tables.splits`` is told of; "" for all rows.
        tables: what is counted.
        measurement: what is measured on some rows.
        lines: most scan lines seen of a LiDAR, by robot and frame.
        manifest: what became of each recording; None where that is not known.
        findings: what would hurt, worst first.
    """

    name: str
    size_bytes: int
    fingerprint: str
    extractor_version: str
    split_by: Mapping[str, Any]
    only: str
    tables: Tables
    measurement: Measurement
    lines: Mapping[Tuple[str, str], int]
    manifest: Optional[Manifest]
    findings: Tuple[Finding, ...]


@dataclass(frozen=True)
class Spread:
    """10th, 50th and 90th percentile."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Summary:
    """The measured rows taken together.

    Attributes:
        rows: how many.
        visible, hidden, lonely: returns in an image, medians.
        per_1000_px: visible returns for each thousand pixels, by row.
        covered: part of the image that the LiDAR covers, by row.
        depth_m: of all visible returns.
        by_distance: how many of them lie in each of ``DISTANCES_M``.
        dark, bright: how many images are for the most part nearly black, or nearly white.
    """

    rows: int
    visible: float
    hidden: float
    lonely: float
    per_1000_px: Spread
    covered: Spread
    depth_m: Spread
    by_distance: Tuple[int, ...]
    dark: int
    bright: int


def look_into(
    dataset: Dataset,
    draw: Optional[Callable[[Projected], ByteArray]] = None,
    *,
    split: str = "",
    progress: Optional[Callable[[float], None]] = None,
) -> Overview:
    """Look into a data set: at the small columns of all rows, and at images and points of at most ``ROWS`` of them.

    Args:
        dataset: open.
        draw: makes the picture that is kept of each measured row.
        split: look at these rows only; "" looks at all.
        progress: told the part done, in [0, 1].

    Raises:
        DatasetError: it is damaged, or there is no such split.
    """
    if split and split not in SPLITS:
        raise DatasetError(f"There is no split '{split}': it is one of {', '.join(SPLITS)}.")
    every = read_columns(dataset)
    columns = every.in_split(split) if split else every
    tables = tables_of(dataset, columns, every)
    manifest = read_manifest(dataset.path)
    measurement = measure(dataset, chosen_rows(columns, ROWS), draw, progress)
    return Overview(
        name=dataset.path.resolve().name,
        size_bytes=size_on_disk(dataset.path),
        fingerprint=dataset.fingerprint,
        extractor_version=dataset.description.extractor_version,
        split_by=dataset.description.split,
        only=split,
        tables=tables,
        measurement=measurement,
        lines=_lines(measurement.rows),
        manifest=manifest,
        findings=tuple(findings_of(tables, measurement, manifest)),
    )


def summary_of(rows: Sequence[Measured]) -> Optional[Summary]:
    """The measured rows taken together; None when there are none."""
    if not rows:
        return None
    depths = depths_of(rows)
    visible, hidden, lonely = np.median([(row.visible, row.hidden, row.lonely) for row in rows], axis=0)
    return Summary(
        rows=len(rows),
        visible=float(visible),
        hidden=float(hidden),
        lonely=float(lonely),
        per_1000_px=spread(np.array([row.per_1000_px for row in rows])),
        covered=spread(np.array([row.covered for row in rows])),
        depth_m=spread(depths),
        by_distance=tuple(counts_by_distance(depths)),
        dark=sum(row.dark > 0.5 for row in rows),
        bright=sum(row.bright > 0.5 for row in rows),
    )


def depths_of(rows: Sequence[Measured]) -> FloatArray:
    """(V,) float32 depths of all visible returns of some rows, metres."""
    return np.concatenate([np.zeros(0, np.float32), *(row.depth_m for row in rows)])


def spread(values: AnyArray) -> Spread:
    """Percentiles of (N,) values; NaN when there are none."""
    low, median, high = np.percentile(values, (10, 50, 90)) if len(values) else (np.nan,) * 3
    return Spread(float(low), float(median), float(high))


def place_of(dataset: Dataset, sample: str) -> int:
    """Where in the table a sample is that somebody names by its id or by its place.

    Raises:
        DatasetError: there is none.
    """
    found = -1
    # No id is all digits, because it holds a slash.
    if sample.isdecimal() and len(sample) < 19:
        found = int(sample) if int(sample) < len(dataset) else -1
    elif len(dataset):
        found = int(pc.index(dataset.columns(("sample_id",)).column(0), sample).as_py())
    if found >= 0:
        return found
    if not len(dataset):
        raise DatasetError(f"There is no sample {sample}: the data set is empty.")
    first = dataset.columns(("sample_id",)).column(0)[0].as_py()
    raise DatasetError(
        f"There is no sample {sample}: name a place from 0 to {len(dataset) - 1}, or an id like {first}."
    )


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links are not followed."""
    if not path.is_dir():
        return path.stat().st_size
    total, files = 0, 0
    for folder, _, names in os.walk(path):
        for name in names:
            total += (Path(folder) / name).lstat().st_size
            files += 1
            if files >= _MOST_FILES:
                return total
    return total


def _lines(rows: Sequence[Measured]) -> Dict[Tuple[str, str], int]:
    most: Dict[Tuple[str, str], int] = {}
    for row in rows:
        for frame, count in row.lines.items():
            most[row.robot_id, frame] = max(most.get((row.robot_id, frame), 0), count)
    return most
