"""A tree of coordinate frames fed by /tf_static and /tf: static edges hold at any time, dynamic ones interpolate."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Set, Tuple, Union

import numpy as np

from mf_ros.core.rigid import invert, quaternion_of
from mf_ros.core.transform_edges import (
    MAX_ABS_STAMP_NS,
    MAX_TRANSLATION_M,
    DynamicEdge,
    EdgeSamples,
    StaticEdge,
    require_samples,
)
from mf_ros.core.types import AnyArray, DoubleArray
from mf_ros.errors import TransformError

_log = logging.getLogger(__name__)

_MAX_FRAMES = 10_000
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


_Edge = Union[StaticEdge, DynamicEdge]
# A path from target to source: matrices of merged static edges, and dynamic edges with "inverted".
_Step = Union[DoubleArray, Tuple[DynamicEdge, bool]]


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
                self._edges[child] = StaticEdge(parent, T)
                self._paths.clear()
                return
            if not isinstance(edge, DynamicEdge) or edge.parent != parent:
                edge = DynamicEdge(parent, child, self._history_ns)
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
            T: Optional[DoubleArray] = None
            for step in steps if len(stamps) > 0 else []:
                if isinstance(step, tuple):
                    edge, inverted = step
                    pose = invert(edge.at(stamps)) if inverted else edge.at(stamps)
                else:
                    pose = step
                T = pose if T is None else T @ pose
            T = np.eye(4) if T is None else T
            return T if T.ndim == 3 else np.broadcast_to(T, (len(stamps), 4, 4)).copy()

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
                    edge.require_known(stamp_ns, stamp_ns)
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
                edge.require_known(newest, newest)
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
                kept = edge if isinstance(edge, StaticEdge) else edge.after_jump()
                if kept is not None:
                    tree._edges[child] = kept
            tree._two_parents = set(self._two_parents)
        return tree

    def edges_above(self, frames: Iterable[str], first_ns: int, last_ns: int) -> List[EdgeSamples]:
        """The edges from these frames up to their roots, with what decides the poses in a stretch of time.

        ``from_edges`` makes a tree of them that answers every question about these frames in that time as this one
        does, bit for bit. Frames that are not known are left out.

        Args:
            frames: names.
            first_ns, last_ns: the stretch of time, ns.
        """
        with self._lock:
            above = dict.fromkeys(child for frame in frames for child in self._ancestors(_frame(frame)))
            edges = [(child, self._edges[child]) for child in above if child in self._edges]
            return [
                edge.samples(child) if isinstance(edge, StaticEdge) else edge.samples(first_ns, last_ns)
                for child, edge in edges
            ]

    @classmethod
    def from_edges(cls, edges: Iterable[EdgeSamples]) -> TransformTree:
        """A tree of edges as plain arrays, which may come from strangers.

        Raises:
            TransformError: an edge is no rigid transform, has impossible stamps, or does not fit the others.
        """
        tree = cls()
        for edge in edges:
            if len(edge.stamps_ns) == 0:
                if edge.poses.shape != (1, 16):
                    raise TransformError(f"The fixed transform of '{edge.child}' in '{edge.parent}' is no 4x4 matrix.")
                tree.add(StampedTransform(edge.parent, edge.child, 0, edge.poses.reshape(4, 4)), static=True)
                continue
            require_samples(edge)
            tree._require_tree(edge.parent, edge.child, None)
            moving = DynamicEdge(edge.parent, edge.child, tree._history_ns)
            for stamp_ns, pose in zip(edge.stamps_ns.tolist(), edge.poses.tolist(), strict=True):
                moving.insert(stamp_ns, pose)
            tree._edges[edge.child] = moving
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

    def _dynamic(self, target: str, source: str) -> List[DynamicEdge]:
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
            if isinstance(edge, DynamicEdge):
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
    if abs(stamp_ns) > MAX_ABS_STAMP_NS:
        raise TransformError(f"{where} has the impossible stamp {stamp_ns} ns: check the node that publishes it.")
    # Plain numbers: NumPy takes ten times as long for so few, and every message of /tf comes here.
    rows: List[List[float]] = T.tolist() if T.shape == (4, 4) else []
    if not rows or not all(math.isfinite(value) for row in rows for value in row):
        raise TransformError(f"{where} is no finite 4x4 matrix: check the node that publishes it.")
    length = max(abs(row[3]) for row in rows[:3])
    if length > MAX_TRANSLATION_M:
        raise TransformError(f"{where} is {length:.3g} m long: check the node that publishes it.")
    if not _is_rotation(rows[0][:3], rows[1][:3], rows[2][:3]):
        raise TransformError(f"{where} is no rotation with a translation: check the calibration it comes from.")


def _is_rotation(a: List[float], b: List[float], c: List[float]) -> bool:
    """Whether the rows of a matrix are unit vectors at right angles, in the order of a right hand, to a thousandth."""
    across = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    pairs = ((a, a, 1.0), (b, b, 1.0), (c, c, 1.0), (a, b, 0.0), (a, c, 0.0), (b, c, 0.0))
    near = all(abs(u[0] * v[0] + u[1] * v[1] + u[2] * v[2] - wanted) <= 1e-3 for u, v, wanted in pairs)
    return near and across[0] * c[0] + across[1] * c[1] + across[2] * c[2] >= 0
