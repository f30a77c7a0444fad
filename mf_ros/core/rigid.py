"""Rigid transforms as matrices, and their rotations as quaternions in ROS's order x, y, z, w."""

from __future__ import annotations

import math
from typing import Any, Sequence, Tuple

import numpy as np

from mf_ros.core.types import DoubleArray
from mf_ros.errors import MessageError


def make_transform(translation: Sequence[float], quaternion_xyzw: Sequence[float]) -> DoubleArray:
    """(4, 4) float64 matrix of a translation in metres and an x, y, z, w quaternion, which is normalised.

    Raises:
        MessageError: a number is not finite, or the quaternion has no length (a default-constructed message).
    """
    x, y, z, w = (float(value) for value in quaternion_xyzw)
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not math.isfinite(length) or not all(math.isfinite(value) for value in translation):
        raise MessageError("A transform holds NaN or infinity: check the node that publishes it.")
    if length < 1e-3:
        raise MessageError(
            f"A transform's quaternion ({x}, {y}, {z}, {w}) has no length: check the node that publishes it; "
            "no rotation is (0, 0, 0, 1)."
        )
    rotation = _rotation(x / length, y / length, z / length, w / length)
    return np.array([*((*row, float(at)) for row, at in zip(rotation, translation, strict=True)), (0.0, 0.0, 0.0, 1.0)])


def invert(T: DoubleArray) -> DoubleArray:
    """Inverse of rigid transforms, (..., 4, 4) float64."""
    inverse = np.zeros_like(T)
    rotation = np.swapaxes(T[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, T[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def quaternion_of(T: DoubleArray) -> Tuple[float, float, float, float]:
    """Unit quaternion x, y, z, w of the rotation in a (3, 3) or (4, 4) matrix (Shepperd's method)."""
    (r00, r01, r02), (r10, r11, r12), (r20, r21, r22) = T[:3, :3].tolist()
    trace = r00 + r11 + r22
    if trace >= max(r00, r11, r22):
        x, y, z, w = r21 - r12, r02 - r20, r10 - r01, 1.0 + trace
    elif r00 >= max(r11, r22):
        x, y, z, w = 1.0 + r00 - r11 - r22, r10 + r01, r02 + r20, r21 - r12
    elif r11 >= r22:
        x, y, z, w = r10 + r01, 1.0 - r00 + r11 - r22, r21 + r12, r02 - r20
    else:
        x, y, z, w = r02 + r20, r21 + r12, 1.0 - r00 - r11 + r22, r10 - r01
    length = math.sqrt(x * x + y * y + z * z + w * w)
    return x / length, y / length, z / length, w / length


def rotations(q: DoubleArray) -> DoubleArray:
    """(N, 3, 3) rotation matrices of (N, 4) unit quaternions x, y, z, w."""
    matrices = np.empty((len(q), 3, 3))
    for row, entries in enumerate(_rotation(*q.T)):
        for column, entry in enumerate(entries):
            matrices[:, row, column] = entry
    return matrices


def _rotation(x: Any, y: Any, z: Any, w: Any) -> Tuple[Tuple[Any, Any, Any], ...]:
    """The rows of the matrix of a unit quaternion, whose parts are numbers or arrays of them."""
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )


def slerp(a: DoubleArray, b: DoubleArray, part: DoubleArray) -> DoubleArray:
    """(N, 4) unit quaternions on the shorter arc from a (part 0) to b (part 1) (Shoemake 1985)."""
    dot = np.einsum("ni,ni->n", a, b)
    b = np.where(dot[:, None] < 0.0, -b, b)
    # The half-angle from the chord keeps its precision where arccos of the dot product loses it.
    angle = 2.0 * np.arctan2(_lengths(a - b), _lengths(a + b))
    sine = np.sin(angle)
    near = sine < 1e-9
    safe = np.where(near, 1.0, sine)
    weight_a = np.where(near, 1.0 - part, np.sin((1.0 - part) * angle) / safe)
    weight_b = np.where(near, part, np.sin(part * angle) / safe)
    mixed = weight_a[:, None] * a + weight_b[:, None] * b
    unit: DoubleArray = mixed / _lengths(mixed)[:, None]
    return unit


def _lengths(vectors: DoubleArray) -> DoubleArray:
    """``np.linalg.norm`` of each row, without what that looks at before."""
    lengths: DoubleArray = np.sqrt(np.add.reduce(vectors * vectors, axis=1))
    return lengths
