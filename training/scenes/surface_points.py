"""What a ray has met: position on the primitive, normal, texture coordinates and material."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

import numpy as np
import torch
from torch import Tensor

from mf_training.scenes.caster import GROUND, NOTHING, Hits
from mf_training.scenes.shapes import (
    CENTRE,
    COLOUR,
    COLUMNS,
    CONTRAST,
    CUT,
    FRAME,
    GLASS,
    GLAZING,
    HALF,
    PHASE,
    REFLECTIVITY,
    SCALE,
    SECOND,
    SHAPE,
    SHAPES,
    SHINE,
    SURFACE,
    SURFACES,
    TAPER,
    TEXTURE,
    TEXTURES,
    Ground,
    Material,
    Table,
)
from mf_training.scenes.surfaces import hash_cells

_BOX, _WEDGE, _BALL, _CYLINDER, _CONE, _TORUS = range(len(SHAPES))


@dataclass(frozen=True)
class SurfacePoints:
    """N points: ``world`` and ``normal`` (3, N), ``uv`` (2, N) metres, ``local`` (3, N) in the unit frame, ``row``
    (COLUMNS, N) of the table, ``hit`` and ``ground`` (N,) bool, ``wall`` (N,) bool: an upright face of a box."""

    world: Tensor
    normal: Tensor
    uv: Tensor
    local: Tensor
    row: Tensor
    hit: Tensor
    ground: Tensor
    wall: Tensor


def ground_row(material: Material) -> np.ndarray:
    """The table's row for the ground."""
    row = np.zeros(COLUMNS, np.float32)
    row[FRAME], row[HALF] = np.eye(3).reshape(-1), 1.0
    row[COLOUR], row[SECOND] = material.colour, material.second
    row[TEXTURE], row[SCALE], row[CONTRAST] = TEXTURES.index(material.texture), material.scale, material.contrast
    row[SHINE], row[REFLECTIVITY] = material.shine, material.reflectivity
    return row


def surface_points(table: Table, ground: Ground, origin: Tensor, direction: Tensor, hits: Hits) -> SurfacePoints:
    """Look up what was met by rays: origin (3, N) or (3, 1), direction (3, N), hits (N,)."""
    device = direction.device
    nothing = ground_row(Material())
    rows = torch.from_numpy(np.concatenate([table, ground_row(ground.material)[None], nothing[None]]).T.copy()).to(
        device
    )
    # GROUND and NOTHING count from the end.
    what = hits.what.long()
    row = rows.index_select(1, torch.where(what < 0, what + rows.shape[1], what))
    hit, on_ground = what != NOTHING, what == GROUND
    t = torch.where(hit, hits.t, torch.ones_like(hits.t))
    world = origin + t * direction
    offset = world - row[CENTRE]
    frame = row[FRAME]
    local = torch.stack([(frame[3 * i : 3 * i + 3] * offset).sum(0) for i in range(3)])
    local_normal, axis = _unit_normal(local, row)
    normal = torch.stack([(frame[i::3] * local_normal).sum(0) for i in range(3)])
    normal = torch.where(on_ground, _ground_normal(ground, world), normal)
    normal = _unit(normal)
    normal = torch.where((normal * direction).sum(0) > 0, -normal, normal)
    metric = local * row[HALF]
    uv = _texture_coordinates(metric, axis, row, on_ground, world)
    wall = (row[SHAPE] <= _WEDGE) & (axis != 2) & ~on_ground
    leafy = (row[SURFACE] == SURFACES.index("foliage")) & ~on_ground
    return SurfacePoints(world, _rustle(normal, metric, leafy, row), uv, local, row, hit, on_ground, wall)


def _unit_normal(p: Tensor, row: Tensor) -> Tuple[Tensor, Tensor]:
    """Normals in the unit frame, and the axis (0, 1, 2) that they mostly point along."""
    shape, taper = row[SHAPE], row[TAPER]
    x, y, z = p
    sx, sy = taper[0] * 0.5, taper[1] * 0.5
    face = _largest(x.abs() + sx * z - (1 - sx), y.abs() + sy * z - (1 - sy), z.abs() - 1)
    zero = torch.zeros_like(x)
    normal = torch.stack([torch.where(face == 0, x.sign(), zero), torch.where(face == 1, y.sign(), zero), zero])
    normal[2] = torch.where(face == 2, z.sign(), torch.where(face == 0, sx, sy))
    normal = torch.where(shape == _BALL, p, normal)
    radius = torch.sqrt(x * x + y * y).clamp(min=1e-6)
    wall = torch.where(shape == _CONE, (1 - sx) - sx * z, torch.ones_like(x))
    side = radius - wall > z.abs() - 1
    slant = torch.where(shape == _CONE, sx, zero)
    round_normal = torch.stack([x / radius, y / radius, slant])
    cap = torch.stack([zero, zero, z.sign()])
    normal = torch.where((shape == _CYLINDER) | (shape == _CONE), torch.where(side, round_normal, cap), normal)
    normal = torch.where(shape == _TORUS, torch.stack([x - x / radius, y - y / radius, z]), normal)
    axis = torch.where(shape <= _WEDGE, face, _largest(*normal.abs()))
    axis = torch.where((shape == _CYLINDER) | (shape == _CONE), torch.where(side, 3, 2), axis)
    return normal, axis


def _texture_coordinates(metric: Tensor, axis: Tensor, row: Tensor, on_ground: Tensor, world: Tensor) -> Tensor:
    x, y, z = metric
    around = torch.atan2(y, x) * torch.minimum(row[HALF][0], row[HALF][1])
    u = torch.where(axis == 0, y, torch.where(axis == 3, around, x))
    v = torch.where(axis == 2, y, z)
    return torch.where(on_ground, world[:2], torch.stack([u, v]))


def _rustle(normal: Tensor, metric: Tensor, leafy: Tensor, row: Tensor) -> Tensor:
    """Leaves look everywhere: their normals are turned at random, leaf by leaf."""
    leaf = torch.where(leafy, row[CUT][3], torch.ones_like(row[PHASE])).clamp(min=1e-3)
    cells = metric / leaf
    one = hash_cells(*cells, row[PHASE] * 0.3)
    # Three numbers out of one: its digits at different places.
    turned = torch.stack([one, one * 41.0 - (one * 41.0).floor(), one * 1681.0 - (one * 1681.0).floor()]) - 0.5
    return torch.where(leafy, _unit(normal + 1.6 * turned), normal)


def _unit(v: Tensor) -> Tensor:
    # Much faster on a CPU than a norm along the first axis.
    return v / torch.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).clamp(min=1e-9)


def _largest(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Which of three is the largest: 0, 1 or 2."""
    return torch.where((x >= y) & (x >= z), 0, torch.where(y >= z, 1, 2))


def _ground_normal(ground: Ground, world: Tensor) -> Tensor:
    gx, gy = torch.full_like(world[0], ground.slope[0]), torch.full_like(world[0], ground.slope[1])
    for kx, ky, phase, amplitude in np.asarray(ground.waves, np.float32).tolist():
        swing = amplitude * torch.cos(kx * world[0] + ky * world[1] + phase)
        gx, gy = gx + kx * swing, gy + ky * swing
    return torch.stack([-gx, -gy, torch.ones_like(gx)])


def road_position(ground: Ground, world: Tensor) -> Tuple[Tensor, Tensor]:
    """Distance along the road and from its middle, metres."""
    _, offset, _, curvature, heading = ground.lanes
    c, s = float(np.cos(heading)), float(np.sin(heading))
    forward, left = c * world[0] + s * world[1], c * world[1] - s * world[0]
    return forward, left - 0.5 * curvature * forward * forward - offset


def glass(points: SurfacePoints) -> Tensor:
    """(N,) bool: where a LiDAR beam goes through and the camera sees a reflection."""
    kind, local = points.row[GLAZING], points.local
    cabin = (local[2] > -0.75) & (local[2] < 0.72) & points.wall
    # Pillars at the corners of the cabin, and one in the middle of each side.
    along_side = torch.where(
        local[0].abs() > local[1].abs(), local[1].abs() * 0.8, (local[0].abs() - 0.08).abs() + 0.06
    )
    cabin = cabin & (along_side > 0.1) & (along_side < 0.78)
    u, v = (points.uv / points.row[SCALE].clamp(min=0.05)).frac().abs()
    panes = points.wall & ((u - 0.5).abs() < 0.28) & ((v - 0.5).abs() < 0.3)
    chosen = (kind == GLASS.index("all")) | ((kind == GLASS.index("cabin")) & cabin)
    return points.hit & (chosen | ((kind == GLASS.index("panes")) & panes))
