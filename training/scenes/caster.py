"""One ray caster for camera, LiDAR and shadow rays: a running minimum over primitives.

Two ways to the same result. ``cast_tiles`` (CPU): the rays of one scene lie in tiles, and a primitive is tried only on
the tiles whose outline it can touch. ``cast_all`` (GPU): every primitive is tried on all rays of a batch of scenes,
without any decision that the host must wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mf_training.scenes.intersect import BY_SHAPE, Vector
from mf_training.scenes.shapes import (
    CASTS_SHADOW,
    CENTRE,
    COLUMNS,
    CUT,
    FRAME,
    HALF,
    PHASE,
    SHAPE,
    SHAPES,
    SURFACES,
    TAPER,
    Ground,
    Table,
    classes,
)
from mf_training.scenes.surfaces import BY_SURFACE, foliage

NOTHING, GROUND = -1, -2
FAR_M = 250.0
_NEAR_M = 0.02
_FOLIAGE = SURFACES.index("foliage")
_GROUND_STEPS, _GROUND_SECANTS = 8, 3

Rect = npt.NDArray[np.float32]
Outline = Tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Hits:
    """``t`` distance along unit rays in metres, inf without a hit; ``what`` row of the table, or NOTHING, GROUND."""

    t: Tensor
    what: Tensor


@dataclass(frozen=True)
class View:
    """A projection in which tiles of rays and primitives have outlines: rows of ``axes`` are right, down, forward.

    ``origin``: common origin of perspective rays; ``parallel`` rays run along ``axes[2]`` and the origin is unused.
    """

    axes: npt.NDArray[np.float64]
    origin: npt.NDArray[np.float64]
    parallel: bool = False


def _surface(
    shape: int,
    surface: int,
    o: Vector,
    d: Vector,
    half: Vector,
    taper: Any,
    cut: Any,
    phase: Any,
    nearer_than: Optional[Tensor] = None,
) -> Tensor:
    """Distance to the first solid point of a primitive, inf where there is none.

    With ``nearer_than`` (a CPU), holes are looked at only where a hit could be nearer than that.
    """
    entry, leave = BY_SHAPE[shape](o, d, taper)
    infinite = torch.full_like(entry, torch.inf)
    met = entry <= leave if shape != SHAPES.index("torus") else torch.isfinite(entry)
    if surface == 0:
        t = torch.where(entry > _NEAR_M, entry, leave)
        return torch.where(met & (t > _NEAR_M), t, infinite)
    if nearer_than is None:
        near, far = (_through_holes(surface, o, d, half, cut, phase, t, leave - entry) for t in (entry, leave))
        return torch.where(met, torch.where(torch.isfinite(near), near, far), infinite)
    rays = entry.shape

    def taken(part: Vector, chosen: Tensor) -> Vector:
        x, y, z = (v.expand(rays).reshape(-1).index_select(0, chosen) if isinstance(v, Tensor) else v for v in part)
        return x, y, z

    # The far side matters only where the near side is open.
    chosen = (met & (leave > _NEAR_M) & (entry < nearer_than)).reshape(-1).nonzero()[:, 0]
    chord = (leave - entry).reshape(-1)
    for t in (entry.reshape(-1), leave.reshape(-1)):
        part = _through_holes(
            surface,
            taken(o, chosen),
            taken(d, chosen),
            half,
            cut,
            phase,
            t.index_select(0, chosen),
            chord.index_select(0, chosen),
        )
        infinite.view(-1).index_copy_(0, chosen, part)
        chosen = chosen[torch.isinf(part)]
    return infinite


def _through_holes(
    surface: int, o: Vector, d: Vector, half: Vector, cut: Any, phase: Any, t: Tensor, chord: Tensor
) -> Tensor:
    """The distance itself, or somewhat more on a rough surface, where there is something solid; inf at holes."""
    p = tuple((o[i] + t * d[i]) * half[i] for i in range(3))
    solid = t > _NEAR_M
    if surface == _FOLIAGE:
        opening, depth = foliage(p, cut, phase, chord)  # type: ignore[arg-type]
        t = t + depth
    else:
        opening = BY_SURFACE[surface](p, cut, phase)  # type: ignore[arg-type]
    return torch.where(solid & ~opening, t, torch.full_like(t, torch.inf))


def _local(matrix: Any, v: Any) -> Vector:
    """Components of a (3, ...) tensor, or of a plain vector, turned by a plain (3, 3) matrix."""
    if isinstance(v, Tensor):
        turned = torch.mm(torch.from_numpy(np.ascontiguousarray(matrix)), v.reshape(3, -1)).reshape(v.shape)
        return turned[0], turned[1], turned[2]
    x, y, z = (matrix @ v).tolist()
    return x, y, z


def cast_tiles(
    table: Table,
    ground: Ground,
    origin: Any,
    direction: Any,
    outline: Outline,
    *,
    shadow: bool = False,
) -> Hits:
    """Cast the rays of one scene (float32, CPU).

    Args:
        table: (P, COLUMNS) primitives.
        origin, direction: (3, T, n) tensors, or a (3,) array that all rays share; directions have the length 1. The
            origin may be (3, T, 1), one for each tile.
        outline: what ``outlines`` says of these tiles.
        shadow: leave out the ground and what else casts no shadow.
    """
    sample = direction if isinstance(direction, Tensor) else origin
    best = torch.full(sample.shape[1:], torch.inf) if shadow else ground_distance(ground, origin, direction, sample)
    what = torch.where(torch.isfinite(best), GROUND, NOTHING).to(torch.int32)
    overlap, near = outline
    if shadow:
        overlap = overlap & (table[:, CASTS_SHADOW, None] > 0)
    farthest = best.amax(1).numpy().copy()
    rows_of = classes(table)
    order = np.argsort(near.min(1), kind="stable")
    code = {int(r): c for c, rows in rows_of.items() for r in rows}
    for row in order:
        tiles = np.flatnonzero(overlap[row] & (farthest > near[row]))
        if not len(tiles):
            continue
        shape, surface = code[int(row)]
        values = table[row].astype(np.float32)
        matrix = values[FRAME].reshape(3, 3)
        everywhere = overlap.shape[1] == len(tiles)
        index = None if everywhere else torch.from_numpy(tiles)
        centre = torch.from_numpy(values[CENTRE]).view(3, 1, 1) if isinstance(origin, Tensor) else values[CENTRE]
        o = _local(matrix, _take(origin, index) - centre)
        d = _local(matrix, _take(direction, index))
        half, cut = values[HALF].tolist(), values[CUT].tolist()
        old = best if index is None else best.index_select(0, index)
        t = _surface(shape, surface, o, d, half, values[TAPER].tolist(), cut, float(values[PHASE]), old)
        closer = t < old
        new = torch.where(closer, t, old)
        farthest[tiles] = new.amax(1).numpy()
        if index is None:
            best, what = new, torch.where(closer, int(row), what)
        else:
            best.index_copy_(0, index, new)
            what.index_copy_(0, index, torch.where(closer, int(row), what.index_select(0, index)))
    return Hits(best, what)


def _take(value: Any, index: Optional[Tensor]) -> Any:
    return value.index_select(1, index) if index is not None and isinstance(value, Tensor) else value


def outlines(table: Table, view: View, rects: Rect) -> Outline:
    """Which tiles a primitive may touch, and the least distance at which it may be met there: (P, T) both.

    ``rects``: (T, 6) outline of each tile in the view: lowest and highest u, lowest and highest v, and for parallel
    rays the lowest depth; an empty tile has low > high.
    """
    if not len(table):
        return np.zeros((0, len(rects)), bool), np.zeros((0, len(rects)))
    inverse = np.linalg.inv(table[:, FRAME].reshape(-1, 3, 3).astype(np.float64))
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    reach = np.ones((len(table), 1, 3))
    torus = table[:, SHAPE] == SHAPES.index("torus")
    minor = table[torus, TAPER.start]
    reach[torus] = np.stack([1 + minor, 1 + minor, minor], -1)[:, None]
    corners = np.einsum("pij,pkj->pki", inverse, signs * reach) + table[:, None, CENTRE]
    seen = (corners - (0.0 if view.parallel else view.origin)) @ view.axes.T
    depth = seen[..., 2]
    if view.parallel:
        u0, u1, v0, v1 = seen[..., 0].min(1), seen[..., 0].max(1), seen[..., 1].min(1), seen[..., 1].max(1)
        ahead = depth.max(1)[:, None] > rects[None, :, 4]
        near = np.full(len(table), -np.inf)
    else:
        u, v = _clipped(seen)
        u0, u1, v0, v1 = np.nanmin(u, 1), np.nanmax(u, 1), np.nanmin(v, 1), np.nanmax(v, 1)
        ahead = (depth.max(1) > 0)[:, None]
        # Distance of the box from the origin, measured in the box's own axes.
        local = np.einsum("pij,pj->pi", table[:, FRAME].reshape(-1, 3, 3), view.origin - table[:, CENTRE])
        outside = np.maximum(np.abs(local) - reach[:, 0], 0.0) * table[:, HALF]
        near = np.sqrt((outside**2).sum(1))
    margin = 1e-4
    touch = (u0[:, None] <= rects[None, :, 1] + margin) & (u1[:, None] >= rects[None, :, 0] - margin)
    touch &= (v0[:, None] <= rects[None, :, 3] + margin) & (v1[:, None] >= rects[None, :, 2] - margin)
    return touch & ahead & (rects[:, 0] <= rects[:, 1])[None], np.broadcast_to(near[:, None], touch.shape)


_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)])


def _clipped(seen: npt.NDArray[np.float64]) -> Tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Projected corners of boxes, cut at a near plane; NaN for what lies behind it."""
    plane = 0.02
    a, b = seen[:, _EDGES[:, 0]], seen[:, _EDGES[:, 1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (plane - a[..., 2]) / (b[..., 2] - a[..., 2])
        crossing = a + part[..., None] * (b - a)
        crossing[(part < 0) | (part > 1) | ~np.isfinite(part)] = np.nan
        crossing[..., 2] = plane
        points = np.concatenate([np.where(seen[..., 2:] > plane, seen, np.nan), crossing], 1)
        # A primitive wholly behind has only NaN: give it an outline that touches nothing.
        behind = np.isnan(points[..., 0]).all(1)
        points[behind] = np.array([1e9, 1e9, 1.0])
        return points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]


def ground_distance(ground: Ground, origin: Any, direction: Any, sample: Tensor) -> Tensor:
    """Distance along the rays to the ground, inf where they miss it."""
    shape, device = sample.shape[1:], sample.device
    if not ground.present:
        return torch.full(shape, torch.inf, device=device)
    waves = torch.from_numpy(np.asarray(ground.waves, np.float32)).to(device)
    return _march(origin, direction, ground.slope, ground.base, waves, torch.empty(shape, device=device))


def _march(origin: Any, direction: Any, slope: Any, base: Any, waves: Tensor, like: Tensor) -> Tensor:
    """Where the rays get below the ground: bracketed between the highest and lowest ground, stepped, then secants."""
    amplitude = waves[..., 3].abs().sum(-1) + 1e-3  # never zero, or a flat ground would have no bracket
    amplitude = amplitude.view(-1, 1) if amplitude.dim() else float(amplitude)
    # Height above the tilted plane is linear along the ray, so the bracket has a closed form.
    h0 = origin[2] - base - slope[0] * origin[0] - slope[1] * origin[1]
    rate = direction[2] - slope[0] * direction[0] - slope[1] * direction[1]
    h0, rate = (torch.as_tensor(v, dtype=like.dtype, device=like.device).expand_as(like) for v in (h0, rate))
    rate = torch.where(rate.abs() < 1e-7, torch.full_like(rate, -1e-7), rate)
    low, high = (amplitude - h0) / rate, (-amplitude - h0) / rate
    start, stop = torch.minimum(low, high).clamp(min=0.0), torch.maximum(low, high).clamp(max=FAR_M)
    valid = stop > start

    def above(t: Tensor) -> Tensor:
        x, y = origin[0] + t * direction[0], origin[1] + t * direction[1]
        total = torch.zeros_like(t)
        for k in range(waves.shape[-2]):
            kx, ky, phase, a = (waves[..., k, j] for j in range(4))
            if waves.dim() == 3:
                kx, ky, phase, a = (v.view(-1, 1) for v in (kx, ky, phase, a))
            total = total + a * torch.sin(kx * x + ky * y + phase)
        return h0 + rate * t - total

    before, value = start, above(start)
    after, below = stop, above(stop)
    found = torch.zeros_like(valid)
    span = (stop - start) / _GROUND_STEPS
    t = start
    f_before, f_after = value, below
    for k in range(1, _GROUND_STEPS + 1):
        following = start + span * k
        f = above(following)
        crossing = ~found & (value > 0) & (f <= 0)
        before, after = torch.where(crossing, t, before), torch.where(crossing, following, after)
        f_before, f_after = torch.where(crossing, value, f_before), torch.where(crossing, f, f_after)
        found = found | crossing
        t, value = following, f
    for _ in range(_GROUND_SECANTS):
        middle = before + (after - before) * (f_before / (f_before - f_after + 1e-12)).clamp(0.0, 1.0)
        f = above(middle)
        up = f > 0
        before, f_before = torch.where(up, middle, before), torch.where(up, f, f_before)
        after, f_after = torch.where(up, after, middle), torch.where(up, f_after, f)
    middle = before + (after - before) * (f_before / (f_before - f_after + 1e-12)).clamp(0.0, 1.0)
    return torch.where(valid & found & (middle > _NEAR_M), middle, torch.full_like(middle, torch.inf))


@dataclass(frozen=True)
class Batch:
    """Primitives of several scenes, padded by class: ``tables`` (S, P, COLUMNS), ``rows`` (S, P) int32 for each."""

    tables: Dict[Tuple[int, int], Tensor]
    rows: Dict[Tuple[int, int], Tensor]
    slope: Tensor
    base: Tensor
    waves: Tensor


def make_batch(tables: Sequence[Table], grounds: Sequence[Ground], device: Any) -> Batch:
    """Pad the scenes' primitives to equal counts; the padding lies far below everything."""
    split = [classes(table) for table in tables]
    nowhere = np.zeros(COLUMNS, np.float32)
    nowhere[CENTRE], nowhere[FRAME], nowhere[HALF] = (0, 0, -1e5), (np.eye(3) * 10).reshape(-1), 0.1
    nowhere[CUT] = 1.0
    padded, rows = {}, {}
    for code in sorted(set().union(*split)):
        count = max(len(s.get(code, ())) for s in split)
        block = np.broadcast_to(nowhere, (len(tables), count, COLUMNS)).copy()
        number = np.full((len(tables), count), NOTHING, np.int32)
        for i, (table, own) in enumerate(zip(tables, split, strict=True)):
            chosen = own.get(code, np.zeros(0, np.int64))
            block[i, : len(chosen)], number[i, : len(chosen)] = table[chosen], chosen
        padded[code], rows[code] = torch.from_numpy(block).to(device), torch.from_numpy(number).to(device)
    most = max(len(g.waves) for g in grounds)
    waves = np.zeros((len(grounds), most, 4), np.float32)
    for i, ground in enumerate(grounds):
        waves[i, : len(ground.waves)] = ground.waves
    # A scene without ground has one far below, where no ray gets to in range.
    base = [g.base if g.present else -1e6 for g in grounds]
    return Batch(
        padded,
        rows,
        torch.tensor([g.slope for g in grounds], dtype=torch.float32, device=device),
        torch.tensor(base, dtype=torch.float32, device=device),
        torch.from_numpy(waves).to(device),
    )


def cast_few(table: Table, ground: Ground, origin: npt.NDArray[np.float32], direction: Tensor) -> Hits:
    """Cast a few (3, n) rays from one origin (CPU): all primitives of a class at once, quick for hundreds of rays."""
    best = ground_distance(ground, origin, direction, direction)
    what = torch.where(torch.isfinite(best), GROUND, NOTHING).to(torch.int32)
    for surface_class, rows in classes(table).items():
        v = torch.from_numpy(table[rows])
        matrix = v[:, FRAME].reshape(-1, 3, 3)
        o = torch.einsum("pij,pj->ip", matrix, torch.from_numpy(origin) - v[:, CENTRE]).unsqueeze(-1)
        d = torch.einsum("pij,jn->ipn", matrix, direction)
        half, taper, cut = (_columns(v, part) for part in (HALF, TAPER, CUT))
        t = _surface(*surface_class, (o[0], o[1], o[2]), (d[0], d[1], d[2]), half, taper, cut, v[:, PHASE, None])
        nearest, which = t.min(0)
        what = torch.where(nearest < best, torch.from_numpy(rows)[which].to(torch.int32), what)
        best = torch.minimum(best, nearest)
    return Hits(best, what)


def _columns(rows: Tensor, part: slice) -> Any:
    """(S, 1) tensors of some columns of (S, COLUMNS) rows."""
    return rows[:, part].unsqueeze(-1).unbind(1)


def cast_all(batch: Batch, origin: Tensor, direction: Tensor, *, shadow: bool = False) -> Hits:
    """Cast (3, S, n) rays of a batch of scenes; the origin may be (3, S, 1), the direction too (not both)."""
    shape = torch.broadcast_shapes(origin.shape[1:], direction.shape[1:])
    like = torch.empty(shape, device=origin.device)
    slope = (batch.slope[:, :1], batch.slope[:, 1:])
    best = torch.full_like(like, torch.inf)
    if not shadow:
        best = _march(origin, direction, slope, batch.base[:, None], batch.waves, like)
    what = torch.where(torch.isfinite(best), GROUND, NOTHING).to(torch.int32)
    for surface_class, table in batch.tables.items():
        number = batch.rows[surface_class]
        for p in range(table.shape[1]):
            v = table[:, p]
            matrix = v[:, FRAME].reshape(-1, 3, 3)
            o = torch.einsum("bij,jbn->ibn", matrix, origin - v[:, CENTRE].T.unsqueeze(-1))
            d = torch.einsum("bij,jbn->ibn", matrix, direction)
            t = _surface(
                *surface_class,
                (o[0], o[1], o[2]),
                (d[0], d[1], d[2]),
                _columns(v, HALF),  # type: ignore[arg-type]
                _columns(v, TAPER),
                _columns(v, CUT),
                v[:, PHASE, None],
            )
            closer = t < best
            if shadow:
                closer = closer & (v[:, CASTS_SHADOW, None] > 0)
            best = torch.where(closer, t, best)
            what = torch.where(closer, number[:, p, None], what)
    return Hits(best, what)
