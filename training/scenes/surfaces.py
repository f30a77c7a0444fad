"""Holes and roughness of surfaces: whether a ray that meets a surface passes it, and how deep it gets.

The points are in the primitive's frame in metres, so camera and LiDAR rays find the same holes.
"""

from __future__ import annotations

from typing import Any, Tuple

import torch
from torch import Tensor

Part = Any
Point = Tuple[Tensor, Tensor, Tensor]


def hash_cells(x: Tensor, y: Tensor, z: Tensor, salt: Part) -> Tensor:
    """A number in [0, 1) for each whole-number cell, the same on every device."""
    key = x.floor().to(torch.int32) * 73856093
    key = key ^ (y.floor().to(torch.int32) * 19349663)
    key = key ^ (z.floor().to(torch.int32) * 83492791)
    extra = (salt * 65521.0).to(torch.int32) if isinstance(salt, Tensor) else int(salt * 65521.0)
    key = (key ^ extra) * 0x27D4EB2D
    key = key ^ ((key >> 15) & 0x1FFFF)
    key = key * 0x165667B1
    return ((key >> 8) & 0xFFFF).to(torch.float32) * (1.0 / 65536.0)


def clumps(p: Point, size: Part, phase: Part) -> Tensor:
    """Smooth random field about 0.5 with bumps of the given size (m)."""
    f = 6.2831853 / size
    x, y, z = p[0] * f, p[1] * f, p[2] * f
    shift = phase * 50.0
    a = torch.sin(x + 0.4 * y + 0.2 * z + shift)
    b = torch.sin(0.9 * y - 0.5 * x + 0.3 * z + 1.7 * shift)
    c = torch.sin(1.1 * z + 0.3 * x - 0.4 * y + 2.3 * shift)
    e = torch.sin(1.9 * x - 2.1 * z + 1.4 * y + 2.0 * a + shift)
    return 0.5 + 0.125 * (a + b + c + e)


def foliage(p: Point, cut: Tuple[Part, Part, Part, Part], phase: Part, chord: Tensor) -> Tuple[Tensor, Tensor]:
    """Leaves: (open, extra depth in metres) at the points; ``chord`` is the way of the ray inside the shape, metres.

    A short way through the rim meets few leaves, so outlines are ragged.
    """
    share, size, rough, leaf = cut
    share = share + 0.55 / (1.0 + (0.6 * chord / size) ** 2)
    field = clumps(p, size, phase)
    cell = hash_cells(p[0] / leaf, p[1] / leaf, p[2] / leaf, phase)
    return field + 0.5 * (cell - 0.5) > 1.0 - share, rough * (field + 0.35 * cell)


def _wave(x: Tensor, period: Part) -> Tensor:
    """Position inside the period, in [0, 1)."""
    u = x / period
    return u - u.floor()


def windows(p: Point, cut: Tuple[Part, Part, Part, Part], phase: Part) -> Tensor:
    """Openings of a façade, in the middle of each period along x and z; a negative period is shifted by its half.

    So an odd number of windows can be centred on the panel too.
    """
    u = _wave(p[0] + 0.5 * abs(cut[0]) * (cut[0] < 0), abs(cut[0]))
    v = _wave(p[2] + 0.5 * abs(cut[1]) * (cut[1] < 0), abs(cut[1]))
    return ((u - 0.5).abs() * 2 < cut[2]) & ((v - 0.5).abs() * 2 < cut[3])


def bars(p: Point, cut: Tuple[Part, Part, Part, Part], phase: Part) -> Tensor:
    """Gaps between upright bars; rails run along half a period ``c`` above and below the middle, and so on."""
    rail = _wave(p[2] + 0.5 * cut[2], cut[2])
    return (_wave(p[0], cut[0]) > cut[1]) & (rail > 0.06) & (rail < 0.94)


def mesh(p: Point, cut: Tuple[Part, Part, Part, Part], phase: Part) -> Tensor:
    """Gaps of a wire mesh."""
    return (_wave(p[0], cut[0]) > cut[1]) & (_wave(p[2], cut[0]) > cut[1])


def blades(p: Point, cut: Tuple[Part, Part, Part, Part], phase: Part) -> Tensor:
    """Air between blades of grass, which get thinner towards the top; ``c`` is half the height of the card."""
    height = (p[2] / cut[2] + 1.0) * 0.5
    lean = p[0] + 0.25 * cut[2] * height * height
    cell = hash_cells(lean / cut[0], torch.zeros_like(lean), torch.zeros_like(lean), phase)
    middle = (_wave(lean, cut[0]) - 0.5).abs() * 2
    return (cell < height) | (middle > cut[1] * (1.15 - height))


BY_SURFACE = {2: windows, 3: bars, 4: mesh, 5: blades}
