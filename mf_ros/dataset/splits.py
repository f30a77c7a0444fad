"""Which rows are to learn from, to choose by and to be judged on: never neighbours in time on two sides.

With several robots, places or days, all recordings of one robot at one place on one day go the same way, by a hash of
the three, so that what is added later does not move what is there. Where there are too few of these groups, each
recording is cut in time, with a gap on both sides of the middle piece.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Literal, Mapping, Set, Tuple, get_args

from mf_ros.dataset.row import NO_SPLIT, SPLITS, DatasetError

SplitKind = Literal["group", "time"]
SplitChoice = Literal["auto", "group", "time"]
Group = Tuple[str, str, str]
"""Robot, day and site."""

ENOUGH_GROUPS = 10

_SHARES = (0.7, 0.1)
_PERCENT = (80, 90)
_GAP_S = 60.0
_SHORT_GAP = 0.1


def split_of_group(group: Group) -> str:
    """The split of all recordings of a robot, day and site: train for 80% of all hashes, val and test for 10% each."""
    digest = hashlib.sha256("\t".join(group).encode()).digest()
    place = int.from_bytes(digest[:8], "big") % 100
    return SPLITS[sum(place >= limit for limit in _PERCENT)]


@dataclass(frozen=True)
class TimeBlocks:
    """A recording cut in time: train, a gap, val, a gap, test. Of what is not gap train has 70%, val 10%, test 20%.

    Attributes:
        start_ns, end_ns: log times of its first and last message, ns.
    """

    start_ns: int
    end_ns: int

    @property
    def gap_s(self) -> float:
        """Length of each gap, seconds: a minute, or a tenth of a recording of less than ten minutes."""
        return min(_GAP_S, _SHORT_GAP * max(self.end_ns - self.start_ns, 0) / 1e9)

    def split_at(self, log_ns: int) -> str:
        """The split of what was recorded at a time; ``NO_SPLIT`` within a gap."""
        seconds, gap = (log_ns - self.start_ns) / 1e9, self.gap_s
        used = (self.end_ns - self.start_ns) / 1e9 - 2 * gap
        train_end, val_end = _SHARES[0] * used, sum(_SHARES) * used + gap
        if seconds < train_end:
            return SPLITS[0]
        if train_end + gap <= seconds < val_end:
            return SPLITS[1]
        return SPLITS[2] if seconds >= val_end + gap else NO_SPLIT


def choose_split(groups: Iterable[Group]) -> SplitKind:
    """How to split: by group when there are ten groups or more and none of the splits stays empty, else by time.

    ``groups`` is read only as far as needed.
    """
    seen: Set[Group] = set()
    filled: Set[str] = set()
    for group in groups:
        seen.add(group)
        filled.add(split_of_group(group))
        if len(seen) >= ENOUGH_GROUPS and len(filled) == len(SPLITS):
            return "group"
    return "time"


def describe_split(kind: SplitKind) -> Dict[str, Any]:
    """What the description of a data set says about its splits."""
    if kind == "group":
        return {"by": "group", "of": ["robot_id", "day", "site"], "percent": [80, 10, 10]}
    return {"by": "time", "shares": [0.7, 0.1, 0.2], "gap_s": _GAP_S, "gap_of_short": _SHORT_GAP}


def described_split(description: Mapping[str, Any], asked: SplitChoice) -> SplitKind:
    """How the rows of a data set are split, from its description.

    Raises:
        DatasetError: it does not say, or another way is asked for.
    """
    kind = description.get("by")
    if kind not in get_args(SplitKind):
        raise DatasetError("The data set does not say how its rows are split: extract into another folder.")
    if asked not in ("auto", kind):
        raise DatasetError(
            f"The rows of the data set are split by {kind}, and --split {asked} is asked for: leave --split out, or "
            "name another folder with --out."
        )
    return "group" if kind == "group" else "time"
