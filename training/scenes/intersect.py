"""Where a ray enters and leaves the unit shapes; every argument may be a tensor or a number.

All functions take the ray's origin and direction in the shape's own frame, each as three parts (x, y, z), and return
the parameters (entry, exit) along the ray; entry > exit where the ray misses.
"""

from __future__ import annotations

from typing import Any, Tuple

import torch
from torch import Tensor

Part = Any  # a float or a tensor
Vector = Tuple[Part, Part, Part]
Span = Tuple[Tensor, Tensor]

_TINY = 1e-9
_TORUS_STEPS = 28


def _safe(value: Part) -> Part:
    """The value, kept away from zero so that it can divide."""
    if isinstance(value, Tensor):
        return torch.where(value.abs() < _TINY, torch.full_like(value, _TINY), value)
    return value if abs(value) >= _TINY else _TINY


def _slab(o: Part, d: Part) -> Span:
    """Between -1 and 1 along one axis."""
    inverse = 1.0 / _safe(d)
    a, b = (-1.0 - o) * inverse, (1.0 - o) * inverse
    return torch.minimum(a, b), torch.maximum(a, b)


def box(o: Vector, d: Vector, taper: Tuple[Part, Part]) -> Span:
    """The cube [-1, 1]^3."""
    x0, x1 = _slab(o[0], d[0])
    y0, y1 = _slab(o[1], d[1])
    z0, z1 = _slab(o[2], d[2])
    return torch.maximum(torch.maximum(x0, y0), z0), torch.minimum(torch.minimum(x1, y1), z1)


def wedge(o: Vector, d: Vector, taper: Tuple[Part, Part]) -> Span:
    """The cube whose x and y are scaled by 1 at the foot and 1 - taper at the top."""
    entry, leave = _slab(o[2], d[2])
    for axis in (0, 1):
        half = taper[axis] * 0.5
        for sign in (1.0, -1.0):
            # sign * x + half * z <= 1 - half
            value = sign * o[axis] + half * o[2] - (1.0 - half)
            rate = _safe(sign * d[axis] + half * d[2])
            t = -value / rate
            inward = rate < 0 if isinstance(rate, Tensor) else torch.full_like(t, rate < 0, dtype=torch.bool)
            entry = torch.where(inward, torch.maximum(entry, t), entry)
            leave = torch.where(inward, leave, torch.minimum(leave, t))
    return entry, leave


def ellipsoid(o: Vector, d: Vector, taper: Tuple[Part, Part]) -> Span:
    """The unit ball."""
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    middle = -b / a
    # The distance of the line from the centre, computed where it is smallest: exact for far, small balls.
    px, py, pz = o[0] + middle * d[0], o[1] + middle * d[1], o[2] + middle * d[2]
    room = (1.0 - (px * px + py * py + pz * pz)) / a
    half = torch.sqrt(room.clamp(min=0.0))
    entry = torch.where(room > 0, middle - half, torch.full_like(half, torch.inf))
    return entry, middle + half


def cylinder(o: Vector, d: Vector, taper: Tuple[Part, Part]) -> Span:
    """The cylinder of radius 1 around z, |z| <= 1."""
    a = _safe(d[0] * d[0] + d[1] * d[1])
    middle = -(o[0] * d[0] + o[1] * d[1]) / a
    px, py = o[0] + middle * d[0], o[1] + middle * d[1]
    room = (1.0 - (px * px + py * py)) / a
    z0, z1 = _slab(o[2], d[2])
    half = torch.sqrt(torch.as_tensor(room).clamp(min=0.0))
    entry = torch.where(torch.as_tensor(room) > 0, torch.maximum(middle - half, z0), torch.full_like(z0, torch.inf))
    return entry, torch.minimum(middle + half, z1)


def cone(o: Vector, d: Vector, taper: Tuple[Part, Part]) -> Span:
    """The frustum around z with the radius 1 at z = -1 and 1 - taper at z = 1."""
    slope = taper[0] * 0.5
    z0, z1 = _slab(o[2], d[2])
    # radius at height z: r0 - slope * z; the quadric x^2 + y^2 - (r0 - slope z)^2 <= 0
    reach, fall = (1.0 - slope) - slope * o[2], -slope * d[2]
    a = _safe(d[0] * d[0] + d[1] * d[1] - fall * fall)
    b = o[0] * d[0] + o[1] * d[1] - reach * fall
    c = o[0] * o[0] + o[1] * o[1] - reach * reach
    a_, b_, c_ = torch.broadcast_tensors(*(torch.as_tensor(v, dtype=z0.dtype, device=z0.device) for v in (a, b, c)))
    room = b_ * b_ - a_ * c_
    root = torch.sqrt(room.clamp(min=0.0))
    first, second = (-b_ - root) / a_, (-b_ + root) / a_
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    opening = a_ < 0
    # Inside is between the roots, or, for a ray steeper than the cone, outside them: only one part is in the slab.
    before = torch.minimum(z1, low)
    use_before = opening & (before > z0)
    entry = torch.where(opening, torch.where(use_before, z0, torch.maximum(z0, high)), torch.maximum(z0, low))
    leave = torch.where(opening, torch.where(use_before, before, z1), torch.minimum(z1, high))
    miss = (room <= 0) & ~opening
    return torch.where(miss, torch.full_like(entry, torch.inf), entry), leave


def torus(o: Vector, d: Vector, taper: Tuple[Part, Part]) -> Span:
    """The ring of major radius 1 around z and minor radius ``taper[0]``, found by stepping; it has no exit."""
    minor = taper[0]
    speed = torch.sqrt(torch.as_tensor(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]))
    entry, leave = ellipsoid(
        tuple(p / (1.0 + minor) for p in o),  # type: ignore[arg-type]
        tuple(p / (1.0 + minor) for p in d),  # type: ignore[arg-type]
        taper,
    )
    t = torch.where(torch.isfinite(entry), entry, torch.zeros_like(entry)).clamp(min=0.0)
    distance = torch.full_like(t, torch.inf)
    for _ in range(_TORUS_STEPS):
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        ring = torch.sqrt(x * x + y * y) - 1.0
        distance = torch.sqrt(ring * ring + z * z) - minor
        t = t + distance / speed
    found = (distance.abs() < 2e-3) & torch.isfinite(entry) & (t <= leave)
    return torch.where(found, t, torch.full_like(t, torch.inf)), torch.full_like(t, -torch.inf)


BY_SHAPE = (box, wedge, ellipsoid, cylinder, cone, torus)
