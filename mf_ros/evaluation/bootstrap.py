"""How sure a mean over frames is: frames of one recording are alike, so whole recordings are drawn again, not frames.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals; clustered resampling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, DoubleArray

LEVEL = 0.95
ENOUGH_GROUPS = 5
"""With fewer recordings their blocks of time are drawn; with fewer groups of either kind there is no interval."""

BLOCKS = "blocks of time"

_ABOUT_BLOCKS = 10
_DRAWS = 2000
_SEED = 0

Frame = Tuple[str, int]
"""Recording and stamp in ns."""


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval; these are NaN where there are too few groups to tell them."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


@dataclass(frozen=True)
class Groups:
    """What is drawn again together.

    Attributes:
        kind: what they are: recordings, or ``BLOCKS`` within them.
        count: how many there are.
        of: the group of each frame.
    """

    kind: str
    count: int
    of: Dict[Frame, int]


def groups_of(frames: Sequence[Frame], recordings_are: str = "recordings") -> Groups:
    """Recordings as groups where there are at least ``ENOUGH_GROUPS``, else about 10 blocks of time within them.

    Blocks are runs of frames that follow each other, as equal as can be. They are less independent than recordings
    are, so that their intervals are rather too narrow.
    """
    recordings: Dict[str, List[Frame]] = {}
    for frame in sorted(set(frames)):
        recordings.setdefault(frame[0], []).append(frame)
    if len(recordings) >= ENOUGH_GROUPS or all(len(part) == 1 for part in recordings.values()):
        parts = list(recordings.values())
        return Groups(recordings_are, len(parts), {frame: k for k, part in enumerate(parts) for frame in part})
    each = -(-_ABOUT_BLOCKS // max(len(recordings), 1))
    of: Dict[Frame, int] = {}
    count = 0
    for part in recordings.values():
        blocks = min(each, len(part))
        of.update({frame: count + place * blocks // len(part) for place, frame in enumerate(part)})
        count += blocks
    return Groups(BLOCKS, count, of)


class Resampling:
    """Draws of groups with replacement, the same for everything that is compared, so that differences are paired.

    Args:
        groups: of which frames.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        count = max(groups.count, 1)
        draws = np.random.default_rng(_SEED).multinomial(count, [1.0 / count] * count, size=_DRAWS)
        # The first line is what was measured, every group once.
        self._times = np.concatenate([np.ones((1, count)), draws]).astype(np.float64)

    def mean(self, frames: Sequence[Frame], values: AnyArray) -> List[Estimate]:
        """Mean of each column over the frames.

        Args:
            frames: F frames.
            values: (F, K), NaN where a frame has no value.
        """
        means, spread = self._means(frames, values)
        return _estimates(means, spread)

    def change(self, frames: Sequence[Frame], values: AnyArray, base: AnyArray) -> List[Estimate]:
        """How much larger the mean of each column is than that of ``base``, as a part of it: -0.1 is 10% less."""
        (means, spread), (other, _) = self._means(frames, values), self._means(frames, base)
        with np.errstate(divide="ignore", invalid="ignore"):
            # Nothing stays nothing: 0 of 0 has not changed.
            return _estimates(np.where(means == other, 0.0, means / other - 1.0), spread)

    def _means(self, frames: Sequence[Frame], values: AnyArray) -> Tuple[DoubleArray, AnyArray]:
        """(1 + draws, K), NaN where a draw holds no value, and (K,) how many groups hold any."""
        index = np.array([self._groups.of[frame] for frame in frames], np.int64)
        known = np.isfinite(values)
        sums, counts = (np.zeros((self._times.shape[1], values.shape[1])) for _ in range(2))
        np.add.at(sums, index, np.where(known, values, 0.0))
        np.add.at(counts, index, known)
        with np.errstate(divide="ignore", invalid="ignore"):
            means: DoubleArray = (self._times @ sums) / (self._times @ counts)
        return means, np.count_nonzero(counts, axis=0)


def _estimates(drawn: DoubleArray, spread: AnyArray) -> List[Estimate]:
    part = 100.0 * (1.0 - LEVEL) / 2.0
    found = []
    for column, groups in zip(drawn.T, spread, strict=True):
        draws = column[1:][np.isfinite(column[1:])]
        ends = (
            np.percentile(draws, (part, 100.0 - part)) if groups >= ENOUGH_GROUPS and len(draws) else (np.nan, np.nan)
        )
        found.append(Estimate(float(column[0]), float(ends[0]), float(ends[1])))
    return found


def interval_text(groups: Groups) -> str:
    """What intervals were made of, in words."""
    if groups.count < ENOUGH_GROUPS:
        return f"no intervals: {groups.count} {groups.kind} are too few"
    text = f"{100 * LEVEL:.0f}% intervals: bootstrap over {groups.count} {groups.kind}"
    if groups.kind == BLOCKS:
        text += f" (fewer than {ENOUGH_GROUPS} recordings; neighbouring blocks are alike, so rather too narrow)"
    return text
