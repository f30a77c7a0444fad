"""Evaluation frames from a data set: image, camera and LiDAR returns as the robot brings them together."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import groupby
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.config import Config
from mf_ros.core.types import DoubleArray
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import NO_SPLIT, SPLITS, DatasetError
from mf_ros.engine.assemble import FrameAssembler
from mf_ros.engine.reasons import DropError
from mf_ros.evaluation.frames import EvaluationFrame

_log = logging.getLogger(__name__)

MAX_FRAMES = 20
"""Of each recording."""


def split_frames(
    dataset: Dataset,
    split: str,
    *,
    settings: Optional[Config] = None,
    corrections: Optional[Mapping[str, DoubleArray]] = None,
    max_frames: int = MAX_FRAMES,
    progress: Callable[[float], None] = lambda part: None,
) -> Iterator[EvaluationFrame]:
    """Frames of one split, in the order of recordings and time; named by their recording and stamp.

    The number of scan lines is that of the recording, because the robots of a fleet may have different LiDARs. Rows
    that give no frame are logged at the end.

    Args:
        dataset: the data set.
        split: train, val or test.
        settings: of the robot, instead of those that the data set was made with.
        corrections: child frame to (4, 4) T_parent_child, metres, instead of the recorded ones.
        max_frames: how many frames of a recording are used at most, evenly spread over it.
        progress: told the part done, in [0, 1].

    Raises:
        DatasetError: the split is empty, or none of its rows gives a frame; says why.
    """
    places = chosen_rows(dataset, split, max_frames)
    refused: Counter[str] = Counter()
    done = 0
    for bag_id, of_bag in places.items():
        assembler = FrameAssembler(settings or dataset.description.settings)
        n_rings = _ring_count(dataset, of_bag)
        for place in of_bag:
            try:
                row = dataset.row(place)
                made = assembler.assemble(row.decoded(corrections))
            except (DropError, DatasetError) as error:
                refused[str(error)] += 1
            else:
                yield EvaluationFrame(
                    bag_id, str(row.stamp_ns), made.frame.image, made.frame.camera, made.points, n_rings
                )
            done += 1
            progress(done / sum(map(len, places.values())))
    if refused:
        text, _ = refused.most_common(1)[0]
        if refused.total() == done:
            raise DatasetError(f"No row of the split {split} of {dataset.path.name} gives a frame: {text}")
        _log.warning("%d of %d rows give no frame, most of them because: %s", refused.total(), done, text)


def chosen_rows(dataset: Dataset, split: str, max_frames: int) -> Dict[str, List[int]]:
    """Places of the rows of a split by recording, at most ``max_frames`` of each, evenly spread.

    Raises:
        DatasetError: there are none; says which there are.
    """
    bags: Sequence[str] = dataset.columns(["bag_id"]).column(0).to_pylist()
    found = {bag: list(each) for bag, each in groupby(dataset.indices(split), key=lambda place: bags[place])}
    if not found:
        raise DatasetError(
            f"{dataset.path.name} has no rows of the split {split}: it holds {_counts(dataset)}. Extract recordings "
            "that fall into it, or name another one with --split."
        )
    return {bag: _spread(each, max_frames) for bag, each in found.items()}


def _spread(places: List[int], most: int) -> List[int]:
    chosen = np.unique(np.linspace(0, len(places) - 1, min(max(most, 1), len(places))).round().astype(int))
    return [places[index] for index in chosen]


def _counts(dataset: Dataset) -> str:
    counts: Counter[str] = Counter(dataset.columns(["split"]).column(0).to_pylist())
    named: List[Tuple[str, str]] = [(name, name) for name in SPLITS] + [(NO_SPLIT, "without a split")]
    return ", ".join(f"{counts[key]} {text}" for key, text in named if counts[key]) or "no row at all"


def _ring_count(dataset: Dataset, places: Sequence[int]) -> int:
    """Scan lines of the LiDAR with the most of them; 0 without lines. One sweep may lack the uppermost."""
    most = -1
    for place in places:
        try:
            sweeps = dataset.row(place).sweeps
        except DatasetError:
            continue  # It is counted when its frame is made.
        rings = [sweep.ring for sweep in sweeps if sweep is not None and sweep.ring is not None and len(sweep)]
        most = max([most, *(int(ring.max()) for ring in rings)])
    return most + 1
