"""Compiled kernels of ``core.pointcloud``: points out of a message's records, wherever they lie there, as by NumPy."""

from __future__ import annotations

import threading
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core import pointcloud
from mf_ros.core.compiled import jit
from mf_ros.core.types import AnyArray, FloatArray

_0, _INF = np.float32(0), np.float32(np.inf)
# Any distance from one number to the next, at any address.
_COLUMN = 'Array(float32, 1, "A", True, aligned=False)'


@jit(f"int64({_COLUMN}, {_COLUMN}, {_COLUMN}, float32[:,::1], int64[::1])")
def _gather(x: Any, y: Any, z: Any, points: Any, chosen: Any) -> int:
    """Write finite points that are not all zero, and their positions; returns how many there are."""
    count = 0
    for i in range(len(x)):
        a, b, c = x[i], y[i], z[i]
        # Written first and looked at then, without a branch: at most as many were written before as were read.
        points[count, 0], points[count, 1], points[count, 2] = a, b, c
        chosen[count] = i
        size = abs(a) + abs(b) + abs(c)
        count += (size > _0) & (size < _INF)
    return count


class _Kept(threading.local):
    """Positions, in an array that grows with the clouds; each thread has its own."""

    def __init__(self) -> None:
        self.chosen = np.zeros(0, np.int64)


_kept = _Kept()


def gather(columns: Sequence[AnyArray]) -> Optional[Tuple[FloatArray, Optional[AnyArray]]]:
    """``pointcloud.gathered_by_numpy``; None where that has to do the work: other types than float32."""
    x, y, z = columns
    if not x.dtype == y.dtype == z.dtype == np.float32:
        return None
    points = np.empty((len(x), 3), np.float32)
    if len(_kept.chosen) < len(points):
        _kept.chosen = np.zeros(len(points), np.int64)
    count = _gather(x, y, z, points, _kept.chosen)
    return (points, None) if count == len(x) else (points[:count].copy(), _kept.chosen[:count].copy())


def check() -> None:
    """Compare with NumPy on a few points.

    Raises:
        ArithmeticError: the kernels compute something else.
    """
    records = np.zeros(9, np.dtype([("ring", "u1"), ("x", "f4"), ("y", "f4"), ("z", "f4")]))
    records["x"][:6], records["z"][3:] = 2.5, [-1, np.inf, np.nan, 0, 4, 5]
    columns = [records[axis] for axis in "xyz"]
    ours, (points, chosen) = gather(columns), pointcloud.gathered_by_numpy(columns)
    same = ours is not None and np.array_equal(ours[0], points)
    if ours is None or not same or ours[1] is None or chosen is None or not np.array_equal(ours[1], chosen):
        raise ArithmeticError("they do not compute what NumPy computes")
