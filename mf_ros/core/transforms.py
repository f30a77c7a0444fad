"""A tree of coordinate frames fed by /tf_static and /tf: static edges hold at any time, dynamic ones interpolate."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from mf_ros.core.rigid import invert, quaternion_of, rotations, slerp
from mf_ros.core.types import AnyArray, DoubleArray
from mf_ros.errors import TransformError

_log = logging.getLogger(__name__)

_MAX_FRAMES = 10_000
_MAX_SAMPLES = 20_000
_MAX_ABS_STAMP_NS = 2**62
# Farther than any frame on Earth is from another, and exact enough for float32 points.
_MAX_TRANSLATION_M = 1e9
# Samples farther behind the newest may be the first ones after the clock was set back.
_BACK_NS = 1_000_000_000
# So many in a row over that time: the clock was set back, they are not late.
_BACK_BEFORE_RESTART = 10
_MAX_BACK = 2000
_NAMES_IN_MESSAGE = 8


@dataclass(frozen=True, eq=False)
class StampedTransform:
    """Pose of a child frame in its parent at one time (geometry_msgs/TransformStamped).

    Attributes:
        parent: name of the parent frame (``header.frame_id``).
        child: name of the child frame (``child_frame_id``).
        stamp_ns: time of the pose, ns.
        T_parent_child: (4, 4) float64, maps points from child to parent, metres.
    """

    parent: str
    child: str
    stamp_ns: int
    T_parent_child: DoubleArray


class _StaticEdge:
    """A pose that holds at any time."""

    def __init__(self, parent: str, T: DoubleArray) -> None:
        self.parent = parent
        self.T = T


class _DynamicEdge:
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

    def after_jump(self) -> Optional[_DynamicEdge]:
        """The edge with only what came since the clock was set back; None when nothing did."""
        if not self.back:
            return None
        edge = _DynamicEdge(self.parent, self.child, self._history_ns)
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
        self._require_known(int(stamps_ns.min()), int(stamps_ns.max()))
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

    def _require_known(self, lowest: int, highest: int) -> None:
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


_Edge = Union[_StaticEdge, _DynamicEdge]
# A path from target to source: matrices of merged static edges, and dynamic edges with "inverted".
_Step = Union[DoubleArray, Tuple[_DynamicEdge, bool]]


class TransformTree:
    """Frames connected by static and by timed transforms, as tf2 keeps them; safe to use from several threads.

    Translation is interpolated linearly and rotation on the shorter arc; nothing is ever extrapolated. A child has
    one parent: the newest message wins. Names lose a leading slash (ROS 1).

    Args:
        history_s: how long dynamic transforms are kept behind the newest one of the same child, seconds.
    """

    def __init__(self, history_s: float = 10.0) -> None:
        self._history_ns = round(history_s * 1e9)
        self._edges: Dict[str, _Edge] = {}
        self._paths: Dict[Tuple[str, str], List[_Step]] = {}
        self._two_parents: Set[str] = set()
        self._lock = threading.RLock()

    def add(self, transform: StampedTransform, static: bool) -> None:
        """Store one transform; a static one holds at any time.

        Raises:
            TransformError: empty or equal names, a matrix that is no rigid transform, a loop, or too many frames.
        """
        parent, child = _frame(transform.parent), _frame(transform.child)
        T = np.array(transform.T_parent_child, dtype=np.float64)
        _require_rigid(T, parent, child, transform.stamp_ns)
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent:
                self._require_tree(parent, child, edge)
            if static:
                T.setflags(write=False)
                self._edges[child] = _StaticEdge(parent, T)
                self._paths.clear()
                return
            if not isinstance(edge, _DynamicEdge) or edge.parent != parent:
                edge = _DynamicEdge(parent, child, self._history_ns)
                self._edges[child] = edge
                self._paths.clear()
            edge.insert(int(transform.stamp_ns), (*T[:3, 3].tolist(), *quaternion_of(T)))

    def lookup(self, target: str, source: str, stamp_ns: int) -> DoubleArray:
        """T_target_source at one time, (4, 4) float64: maps points from source to target.

        Raises:
            TransformError: a frame is unknown, the two are not connected, or a dynamic transform is not known then.
        """
        T: DoubleArray = self.lookup_many(target, source, np.array([stamp_ns], dtype=np.int64))[0]
        return T

    def lookup_many(self, target: str, source: str, stamps_ns: AnyArray) -> DoubleArray:
        """T_target_source at (N,) int64 stamps, (N, 4, 4) float64; raises as ``lookup`` does."""
        stamps = np.asarray(stamps_ns, dtype=np.int64)
        with self._lock:
            steps = self._path(_frame(target), _frame(source))
            T: DoubleArray = np.broadcast_to(np.eye(4), (len(stamps), 4, 4)).copy()
            if len(stamps) == 0:
                return T
            for step in steps:
                if isinstance(step, tuple):
                    edge, inverted = step
                    pose = edge.at(stamps)
                    T = T @ (invert(pose) if inverted else pose)
                else:
                    T = T @ step
            return T

    def lookup_latest(self, target: str, source: str) -> DoubleArray:
        """T_target_source, (4, 4) float64, at the newest time at which all of it is known; raises as ``lookup``."""
        with self._lock:
            stamp = self.latest_stamp(target, source)
            return self.lookup(target, source, 0 if stamp is None else stamp)

    def can_lookup(self, target: str, source: str, stamp_ns: int) -> bool:
        """Whether ``lookup`` with the same arguments would succeed."""
        try:
            with self._lock:
                for edge in self._dynamic(target, source):
                    edge._require_known(stamp_ns, stamp_ns)
        except TransformError:
            return False
        return True

    def latest_stamp(self, target: str, source: str) -> Optional[int]:
        """Newest stamp in ns at which the transform is known; None when all of it is static (known at any time).

        Raises:
            TransformError: a frame is unknown, the two are not connected, or their times never overlap.
        """
        with self._lock:
            edges = self._dynamic(target, source)
            if not edges:
                return None
            newest = min(edge.newest for edge in edges)
            for edge in edges:
                edge._require_known(newest, newest)
            return newest

    def frames(self) -> Tuple[str, ...]:
        """Names of all known frames, sorted."""
        with self._lock:
            return tuple(sorted(self._edges.keys() | {edge.parent for edge in self._edges.values()}))

    def after_jump(self) -> TransformTree:
        """A new tree for the time after a jump backward: the static transforms, and the dynamic ones from after it.

        This tree stays as it is, for what is left to do of the time before.
        """
        tree = TransformTree(self._history_ns / 1e9)
        with self._lock:
            for child, edge in self._edges.items():
                kept = edge if isinstance(edge, _StaticEdge) else edge.after_jump()
                if kept is not None:
                    tree._edges[child] = kept
            tree._two_parents = set(self._two_parents)
        return tree

    def _require_tree(self, parent: str, child: str, edge: Optional[_Edge]) -> None:
        if parent == child:
            raise TransformError(f"Frame '{child}' is published as its own parent: check the node that publishes it.")
        if parent in self._edges and child in self._ancestors(parent):
            raise TransformError(
                f"The transform of '{child}' in '{parent}' would close a loop, because '{parent}' already hangs below "
                f"'{child}': check which nodes publish the two."
            )
        if edge is None and len(self._edges) >= _MAX_FRAMES:
            raise TransformError(f"More than {_MAX_FRAMES} frames: check the node that publishes '{child}'.")
        if edge is not None and child not in self._two_parents:
            self._two_parents.add(child)
            _log.warning("Frame '%s' changed its parent from '%s' to '%s'.", child, edge.parent, parent)

    def _ancestors(self, frame: str) -> List[str]:
        """The frame itself, its parent, and so on up to the root."""
        chain = [frame]
        while chain[-1] in self._edges:
            chain.append(self._edges[chain[-1]].parent)
        return chain

    def _dynamic(self, target: str, source: str) -> List[_DynamicEdge]:
        return [step[0] for step in self._path(_frame(target), _frame(source)) if isinstance(step, tuple)]

    def _path(self, target: str, source: str) -> List[_Step]:
        key = (target, source)
        known = self._paths.get(key)
        if known is not None:
            return known
        up, down = self._ancestors(target), self._ancestors(source)
        if up[-1] != down[-1] or (target == source and target not in self.frames()):
            raise TransformError(self._not_connected(target, source))
        shared = set(up) & set(down)
        edges = [(self._edges[frame], True) for frame in up if frame not in shared]
        edges += [(self._edges[frame], False) for frame in reversed(down) if frame not in shared]
        steps: List[_Step] = []
        for edge, inverted in edges:
            if isinstance(edge, _DynamicEdge):
                steps.append((edge, inverted))
                continue
            T = invert(edge.T) if inverted else edge.T
            last = steps[-1] if steps else None
            if last is None or isinstance(last, tuple):
                steps.append(T)
            else:
                steps[-1] = last @ T
        # Asking for ever new names must not fill the memory.
        if len(self._paths) >= 256:
            self._paths.clear()
        self._paths[key] = steps
        return steps

    def _not_connected(self, target: str, source: str) -> str:
        frames = set(self.frames())
        for frame in (target, source):
            if not frame:
                return "A header has an empty frame_id: have the driver fill in the frame of the camera or LiDAR."
            if frame not in frames:
                return (
                    f"Frame '{frame}' is in no transform received so far (known: {_names(frames)}): "
                    "publish its pose on /tf_static, or correct the frame_id."
                )
        sides = []
        for frame in (target, source):
            root = self._ancestors(frame)[-1]
            sides.append({other for other in frames if self._ancestors(other)[-1] == root})
        return (
            f"No transform connects '{source}' to '{target}': '{source}' is connected with {_names(sides[1])}, "
            f"'{target}' with {_names(sides[0])}. Publish the missing transform between the two groups on /tf_static."
        )


def _frame(name: str) -> str:
    return name[1:] if name.startswith("/") else name


def _names(frames: Set[str]) -> str:
    shown = sorted(frames)[:_NAMES_IN_MESSAGE]
    rest = len(frames) - len(shown)
    return (", ".join(shown) or "nothing") + (f" and {rest} more" if rest else "")


def _require_rigid(T: DoubleArray, parent: str, child: str, stamp_ns: int) -> None:
    where = f"The transform of '{child}' in '{parent}'"
    if not parent or not child:
        raise TransformError(f"{where} has an empty frame name: check the node that publishes it.")
    if abs(stamp_ns) > _MAX_ABS_STAMP_NS:
        raise TransformError(f"{where} has the impossible stamp {stamp_ns} ns: check the node that publishes it.")
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise TransformError(f"{where} is no finite 4x4 matrix: check the node that publishes it.")
    if np.abs(T[:3, 3]).max() > _MAX_TRANSLATION_M:
        raise TransformError(f"{where} is {np.abs(T[:3, 3]).max():.3g} m long: check the node that publishes it.")
    rotation = T[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise TransformError(f"{where} is no rotation with a translation: check the calibration it comes from.")
