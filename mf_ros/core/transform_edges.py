"""Edges of a transform tree: poses of one child in its parent, fixed or sampled over time, and as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from mf_ros.core.rigid import rotations, slerp
from mf_ros.core.types import DoubleArray
from mf_ros.errors import TransformError

MAX_ABS_STAMP_NS = 2**62
MAX_TRANSLATION_M = 1e9
"""Farther than any frame on Earth is from another, and exact enough for float32 points."""

_MAX_SAMPLES = 20_000
_UNIT = 1e-9
# Samples farther behind the newest may be the first ones after the clock was set back.
_BACK_NS = 1_000_000_000
# So many in a row over that time: the clock was set back, they are not late.
_BACK_BEFORE_RESTART = 10
_MAX_BACK = 2000


@dataclass(frozen=True, eq=False)
class EdgeSamples:
    """One edge as plain arrays, from which it comes back bit for bit.

    Attributes:
        parent, child: names of the frames.
        stamps_ns: (N,) int64, rising; empty for an edge that holds at any time.
        poses: (N, 7) float64 translation in metres and unit quaternion x, y, z, w of the child in its parent; (1, 16)
            the whole matrix T_parent_child, row by row, of an edge that holds at any time.
    """

    parent: str
    child: str
    stamps_ns: NDArray[np.int64]
    poses: DoubleArray


class StaticEdge:
    """A pose that holds at any time."""

    def __init__(self, parent: str, T: DoubleArray) -> None:
        self.parent = parent
        self.T = T

    def samples(self, child: str) -> EdgeSamples:
        """The edge as plain arrays."""
        return EdgeSamples(self.parent, child, np.zeros(0, np.int64), self.T.reshape(1, 16))


class DynamicEdge:
    """Poses of one child in its parent, sorted by stamp, no older than the history."""

    def __init__(self, parent: str, child: str, history_ns: int) -> None:
        self.parent = parent
        self.child = child
        self._history_ns = history_ns
        self._stamps = np.zeros(64, np.int64)
        self._poses = np.zeros((64, 7))
        self._first = 0
        self._last = 0
        self.back: List[Tuple[int, Sequence[float]]] = []
        """The samples since the newest one, where all of them are far behind it."""

    @property
    def oldest(self) -> int:
        return int(self._stamps[self._first])

    @property
    def newest(self) -> int:
        return int(self._stamps[self._last - 1])

    def insert(self, stamp_ns: int, pose: Sequence[float]) -> None:
        if self._last == self._first or stamp_ns >= self.newest - _BACK_NS:
            self.back = []
            self._store(stamp_ns, pose)
            return
        self.back.append((stamp_ns, pose))
        if stamp_ns >= self.newest - self._history_ns:
            self._store(stamp_ns, pose)
        elif self._set_back():
            samples, self.back = self.back, []
            self._first = self._last = 0
            for sample in samples:
                self._store(*sample)
        del self.back[:-_MAX_BACK]

    def _set_back(self) -> bool:
        if not _BACK_BEFORE_RESTART <= len(self.back) < _MAX_BACK:
            return len(self.back) >= _MAX_BACK
        stamps = [stamp for stamp, _ in self.back]
        return max(stamps) - min(stamps) >= _BACK_NS

    def after_jump(self) -> Optional[DynamicEdge]:
        """The edge with only what came since the clock was set back; None when nothing did."""
        if not self.back:
            return None
        edge = DynamicEdge(self.parent, self.child, self._history_ns)
        for sample in self.back:
            edge.insert(*sample)
        return edge

    def _store(self, stamp_ns: int, pose: Sequence[float]) -> None:
        if self._last == len(self._stamps):
            self._make_room()
        at = self._last
        if at > self._first and stamp_ns <= self.newest:
            at = self._first + int(np.searchsorted(self._stamps[self._first : self._last], stamp_ns))
            if self._stamps[at] == stamp_ns:
                self._poses[at] = pose
                return
            self._stamps[at + 1 : self._last + 1] = self._stamps[at : self._last].copy()
            self._poses[at + 1 : self._last + 1] = self._poses[at : self._last].copy()
        self._stamps[at] = stamp_ns
        self._poses[at] = pose
        self._last += 1
        start = self.newest - self._history_ns
        while self.oldest < start or self._last - self._first > _MAX_SAMPLES:
            self._first += 1

    def _make_room(self) -> None:
        used = self._last - self._first
        size = len(self._stamps) * (2 if used > len(self._stamps) // 2 else 1)
        stamps, poses = np.zeros(size, np.int64), np.zeros((size, 7))
        stamps[:used] = self._stamps[self._first : self._last]
        poses[:used] = self._poses[self._first : self._last]
        self._stamps, self._poses, self._first, self._last = stamps, poses, 0, used

    def at(self, stamps_ns: NDArray[np.int64]) -> DoubleArray:
        """(N, 4, 4) T_parent_child at each stamp; raises TransformError outside the known time."""
        stamps = self._stamps[self._first : self._last]
        poses = self._poses[self._first : self._last]
        self.require_known(int(stamps_ns.min()), int(stamps_ns.max()))
        after = np.searchsorted(stamps, stamps_ns)
        before = np.where(stamps[after] == stamps_ns, after, after - 1)
        gap = np.maximum(stamps[after] - stamps[before], 1)
        part = (stamps_ns - stamps[before]) / gap
        a, b = poses[before], poses[after]
        T = np.zeros((len(stamps_ns), 4, 4))
        T[:, :3, :3] = rotations(slerp(a[:, 3:], b[:, 3:], part))
        T[:, :3, 3] = a[:, :3] + part[:, None] * (b[:, :3] - a[:, :3])
        T[:, 3, 3] = 1.0
        return T

    def require_known(self, lowest: int, highest: int) -> None:
        if lowest >= self.oldest and highest <= self.newest:
            return
        if highest > self.newest:
            stamp, miss, side = highest, highest - self.newest, "after the newest"
            hint = "wait for /tf, or check that the clocks of sensors and odometry agree"
        else:
            stamp, miss, side = lowest, self.oldest - lowest, "before the oldest"
            hint = "the data is older than the transforms kept, or the clocks differ"
        raise TransformError(
            f"The transform of '{self.child}' in '{self.parent}' is wanted at {stamp / 1e9:.3f} s, {miss / 1e9:.3f} s "
            f"{side} one known ({self.oldest / 1e9:.3f} s to {self.newest / 1e9:.3f} s): {hint}."
        )

    def samples(self, first_ns: int, last_ns: int) -> EdgeSamples:
        """The samples that decide the poses from ``first_ns`` to ``last_ns``, and whether they are known."""
        stamps = self._stamps[self._first : self._last]
        begin = max(int(np.searchsorted(stamps, first_ns, side="right")) - 1, 0)
        end = int(np.searchsorted(stamps, last_ns)) + 1
        poses = self._poses[self._first : self._last]
        return EdgeSamples(self.parent, self.child, stamps[begin:end].copy(), poses[begin:end].copy())


def require_samples(edge: EdgeSamples) -> None:
    """Check the arrays of an edge that moves.

    Raises:
        TransformError: its stamps do not rise, or its poses are no finite translations with unit quaternions.
    """
    where = f"The stored transform of '{edge.child}' in '{edge.parent}'"
    stamps, poses = edge.stamps_ns, edge.poses
    if not edge.parent or not edge.child or edge.parent == edge.child:
        raise TransformError(f"{where} has no two frames.")
    if poses.shape != (len(stamps), 7) or len(stamps) > _MAX_SAMPLES:
        raise TransformError(f"{where} has {len(stamps)} stamps and poses of the shape {poses.shape}.")
    if (np.diff(stamps) <= 0).any() or np.abs(stamps).max() > MAX_ABS_STAMP_NS:
        raise TransformError(f"{where} has impossible stamps.")
    lengths = np.linalg.norm(poses[:, 3:], axis=1)
    if not (np.isfinite(poses).all() and np.abs(poses[:, :3]).max() <= MAX_TRANSLATION_M):
        raise TransformError(f"{where} is not finite.")
    if np.abs(lengths - 1.0).max() > _UNIT:
        raise TransformError(f"{where} is no rotation with a translation.")
