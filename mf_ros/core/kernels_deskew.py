"""Compiled kernels of ``core.deskew``: one pass moves each point by the pose of its time, to the bits NumPy gets."""

from __future__ import annotations

import threading
from typing import Any, Optional

import numpy as np

from mf_ros.core import deskew
from mf_ros.core.compiled import jit, plain
from mf_ros.core.types import AnyArray, DoubleArray, FloatArray

_0 = np.float32(0)


@jit("void(float64[:,::1], int64, float32[:,::1])")
def _blend(poses: Any, steps: Any, table: Any) -> None:
    """Fill the table with poses and linear steps between them."""
    for i in range(len(poses) - 1):
        for step in range(steps):
            part = step / steps
            for k in range(12):
                table[i * steps + step, k] = poses[i, k] + part * (poses[i + 1, k] - poses[i, k])
    for k in range(12):
        table[(len(poses) - 1) * steps, k] = poses[-1, k]


@jit(
    'void(Array(float32, 2, "C", True), Array(float32, 1, "C", True), float32[:,::1], int64, float32, float32, '
    "float32[:,::1])"
)
def _move(points: Any, times: Any, table: Any, last: Any, first_s: Any, rate: Any, moved: Any) -> None:
    start = 0
    while start < len(points):
        # Most sensors measure a column of points at once: its pose is fetched once, and vector instructions move it.
        end = start + 1
        while end < len(points) and times[end] == times[start]:
            end += 1
        position = np.rint((times[start] - first_s) * rate)
        # Compared before it becomes a whole number, which neither NaN nor what is too large has.
        place = last if position >= last else 0
        if (position > _0) & (position < last):
            place = int(position)
        T = table[place]
        xx, xy, xz, x0, yx, yy, yz, y0 = T[0], T[1], T[2], T[3], T[4], T[5], T[6], T[7]
        zx, zy, zz, z0 = T[8], T[9], T[10], T[11]
        for i in range(start, end):
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            moved[i, 0] = xx * x + xy * y + xz * z + x0
            moved[i, 1] = yx * x + yy * y + yz * z + y0
            moved[i, 2] = zx * x + zy * y + zz * z + z0
        start = end


@jit('boolean(Array(float32, 2, "C", True), float32, float32)')
def _all_within(points: Any, least: Any, most: Any) -> bool:
    """Whether the squared distances of all points lie within limits."""
    within = 0
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        squared = x * x + y * y + z * z
        within += (squared >= least) & (squared <= most)
    return within == len(points)


@jit('int64(Array(float32, 2, "C", True), float32, float32, int64[::1])')
def _choose(points: Any, least: Any, most: Any, chosen: Any) -> int:
    """Write the positions of points whose squared distance lies within limits; returns how many there are."""
    count = 0
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        squared = x * x + y * y + z * z
        chosen[count] = i
        count += (squared >= least) & (squared <= most)
    return count


class _Kept(threading.local):
    """Buffers that grow with what they have to hold; each thread has its own."""

    def __init__(self) -> None:
        self.table = np.zeros((0, 12), np.float32)
        self.chosen = np.zeros(0, np.int64)


_kept = _Kept()


def move(
    points: FloatArray, times: FloatArray, poses: DoubleArray, first_s: float, last_s: float
) -> Optional[FloatArray]:
    """``deskew.moved_by_numpy``; None where that has to do the work: other types, arrays that are not C-contiguous."""
    if not (plain(points, np.float32) and plain(times, np.float32)):
        return None
    steps = deskew.steps_between(len(poses))
    last = (len(poses) - 1) * steps
    if len(_kept.table) <= last:
        _kept.table = np.zeros((last + 1, 12), np.float32)
    _blend(np.ascontiguousarray(poses), steps, _kept.table)
    moved = np.empty(points.shape, np.float32)
    _move(points, times, _kept.table, last, np.float32(first_s), np.float32(last / (last_s - first_s)), moved)
    return moved


def all_within(points: FloatArray, least_m: float, most_m: float) -> bool:
    """Whether ``choose`` would choose all points, told in a third of its time; False where it has to look."""
    return plain(points, np.float32) and _all_within(points, np.float32(least_m**2), np.float32(most_m**2))


def choose(points: FloatArray, least_m: float, most_m: float) -> Optional[AnyArray]:
    """``deskew.chosen_by_numpy``; None where that has to do the work: another type, points not C-contiguous."""
    if not plain(points, np.float32):
        return None
    if len(_kept.chosen) <= len(points):
        _kept.chosen = np.zeros(len(points) + 1, np.int64)
    count = _choose(points, np.float32(least_m**2), np.float32(most_m**2), _kept.chosen)
    chosen: AnyArray = _kept.chosen[:count].copy()
    return chosen


def check() -> None:
    """Compare with NumPy on a few points.

    Raises:
        ArithmeticError: the kernels compute something else.
    """
    points = np.linspace(-9, 9, 60, dtype=np.float32).reshape(20, 3)
    times = np.linspace(0, 0.01, 20, dtype=np.float32)
    given = (points, times, np.linspace(0, 1, 36).reshape(3, 12), 0.0, 0.01)
    moved, chosen = move(*given), choose(points, 2.0, 7.0)
    wanted = (deskew.moved_by_numpy(*given), deskew.chosen_by_numpy(points, 2.0, 7.0))
    if moved is None or chosen is None or not all(map(np.array_equal, (moved, chosen), wanted)):
        raise ArithmeticError("they do not compute what NumPy computes")
