"""The nearest surface along each of many rays.

Rays travel in groups of neighbours. A group is bounded by a cone and by four planes, a solid by a sphere and by a
simple hull; a solid meets only the rays of the groups that touch both. Each group asks its solids from near to far, a
few at a time, until it is covered; solids of one kind that are due are intersected together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, FloatArray, IntArray
from mf_ros.simulate.geometry import MISS, Rays, Solid, select_rays

GROUP = 64
# Solids that a group asks before it looks for the first time how far away it is covered; twice as many each time
# after, since what is not covered by then mostly sees the sky between them.
_AT_ONCE = 8
# Rays that are intersected together: as many as the processor's cache holds with all that is worked out for them.
_RAYS_AT_ONCE = 32768


@dataclass(frozen=True)
class Hits:
    """Nearest surfaces met by rays.

    Attributes:
        t: (N,) float32 distance along each ray, metres; inf where nothing is met.
        solid: (N,) int32 index of the solid met; -1 where none.
    """

    t: FloatArray
    solid: IntArray


def tile_order(rows: int, cols: int, tile_rows: int = 8, tile_cols: int = 8) -> IntArray:
    """Flat indices of a (rows, cols) grid, tile by tile, so that neighbours in the list are neighbours on the grid."""
    r, c = np.divmod(np.arange(rows * cols), cols)
    key = (r // tile_rows) * (-(-cols // tile_cols)) + c // tile_cols
    return np.argsort(key, kind="stable").astype(np.int32)


def cast_rays(
    solids: Sequence[Solid], origins: FloatArray, directions: FloatArray, max_range: float = 600.0, group: int = GROUP
) -> Hits:
    """Find the nearest surface along each ray; see ``RayCaster.cast``."""
    return RayCaster(solids).cast(origins, directions, max_range, group)


class RayCaster:
    """Casts rays at the same solids again and again.

    Args:
        solids: the solids, in any order.
    """

    def __init__(self, solids: Sequence[Solid]) -> None:
        self._solids = solids
        self._centers = np.stack([s.center for s in solids]).astype(np.float32)
        self._radii = np.array([s.radius for s in solids], np.float32)
        none = np.zeros((3, 3), np.float32)
        self._axes = np.stack([none if s.hull is None else s.hull.axes for s in solids])
        self._margin = np.array([np.inf if s.hull is None else s.hull.margin for s in solids], np.float32)
        self._oval = np.array([s.hull is not None and s.hull.oval for s in solids])
        self._kinds: List[_Kind] = []
        self._kind = np.empty(len(solids), np.int32)
        self._row = np.empty(len(solids), np.int32)
        self._sort_into_kinds()

    def _sort_into_kinds(self) -> None:
        members: Dict[object, List[int]] = {}
        for i, solid in enumerate(self._solids):
            members.setdefault(i if solid.batch is None else (solid.batch.hit, len(solid.batch.row)), []).append(i)
        for indices in members.values():
            batches = [b for b in (self._solids[i].batch for i in indices) if b is not None]
            if batches:
                kind = _Kind(batches[0].hit, np.stack([b.row for b in batches], axis=1))
            else:
                kind = _Kind(_alone(self._solids[indices[0]]), None)
            self._kind[indices] = len(self._kinds)
            self._row[indices] = np.arange(len(indices))
            self._kinds.append(kind)

    def cast(self, origins: FloatArray, directions: FloatArray, max_range: float = 600.0, group: int = GROUP) -> Hits:
        """Find the nearest surface along each ray; of surfaces at the same place any, but always the same one.

        Args:
            origins: (N, 3) or (3,) float32, metres, world.
            directions: (N, 3) float32 unit vectors; neighbours in the list should point the same way (see
                ``tile_order``).
            max_range: surfaces farther than this are not met, metres.
            group: number of neighbouring rays that are tested together.
        """
        count = len(directions)
        if count == 0:
            return Hits(np.zeros(0, np.float32), np.zeros(0, np.int32))
        bundle = _Bundle(origins, directions, group)
        ahead = self._ahead(bundle, max_range)
        touched, nearest = self._touched(bundle, ahead)
        # Where surfaces coincide the first in this order is met.
        order = np.argsort(np.where(touched, nearest, np.inf).min(axis=1, initial=np.inf), kind="stable")
        rank = np.empty(len(ahead), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        due = _Due(touched & (nearest < np.float32(max_range)), nearest)
        cover = _Cover(bundle, max_range)
        while due.left():
            owner, chosen = due.take(cover.farthest)
            kept = self._inside(bundle, owner, ahead[chosen])
            owner, chosen = owner[kept], chosen[kept]
            t = self._intersect(bundle, owner, ahead[chosen])
            met = np.flatnonzero(np.isfinite(t).any(axis=1))
            cover.add(owner[met], rank[chosen[met]], t[met])
        t = cover.best.reshape(-1)[:count].copy()
        by_rank = np.append(ahead[order], -1)
        found = by_rank[cover.rank.reshape(-1)[:count]].astype(np.int32)
        t[found < 0] = MISS
        return Hits(t, found)

    def _ahead(self, bundle: _Bundle, max_range: float) -> AnyArray:
        """The solids within reach of all rays together, ascending."""
        apex = bundle.apex.mean(axis=0)
        spread = np.linalg.norm(bundle.apex - apex, axis=1).max() + bundle.slack.max()
        axis = bundle.axis.mean(axis=0)
        axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
        cos = float((bundle.d.reshape(-1, 3) @ axis).min()) - 1e-4
        away = self._centers - apex
        distance, along, reach = np.linalg.norm(away, axis=1), away @ axis, self._radii + spread
        kept = distance - reach < max_range
        if cos > 0:
            across = np.sqrt(np.maximum(distance**2 - along**2, 0))
            kept &= (across * cos - along * np.sqrt(1 - cos**2) <= reach + 1e-3 * distance) & (along >= -reach)
        return np.flatnonzero(kept)

    def _touched(self, bundle: _Bundle, solids: AnyArray) -> Tuple[BoolArray, FloatArray]:
        """Which solid may be met by which group of rays, and from which distance on: (solids, groups) each."""
        d, apex, axis = bundle.d, bundle.apex, bundle.axis
        cos = np.clip(np.einsum("gpi,gi->gp", d, axis).min(axis=1) - 1e-6, -1, 1)
        sin = np.sqrt(1 - cos * cos)
        v = self._centers[solids, None, :] - apex[None]
        along = v[:, 0] @ axis.T if len(apex) == 1 else np.einsum("mgi,gi->mg", v, axis)
        distance2 = np.einsum("mgi,mgi->mg", v, v)
        across = np.sqrt(np.maximum(distance2 - along * along, 0))
        reach = self._radii[solids, None] + bundle.slack
        touched = (across * cos - along * sin <= reach) & ((along >= -reach) | (cos < 0.1))
        nearest = np.broadcast_to(np.sqrt(distance2) - reach, touched.shape)
        return np.asarray(touched), np.asarray(nearest)

    def _inside(self, bundle: _Bundle, owner: AnyArray, solid: AnyArray) -> BoolArray:
        """(P,) bool: False where one of the group's planes keeps the solid's hull from the group's rays."""
        planes = bundle.planes[owner]
        away = self._centers[solid] - bundle.apex[owner if len(bundle.apex) > 1 else 0]
        middle = np.einsum("pki,pi->pk", planes, away)
        extent = np.einsum("pki,pji->pkj", planes, self._axes[solid])
        oval = self._oval[solid]
        reach = np.abs(extent).sum(axis=2)
        reach[oval] = np.linalg.norm(extent[oval], axis=2)
        # float32 leaves a few hundred-thousandths of the distance.
        room = bundle.slack[owner if bundle.slack.ndim else ...] + self._margin[solid] + np.float32(1e-3)
        room = room + np.float32(5e-5) * np.abs(away).sum(axis=1)
        return np.asarray((middle - reach <= room[:, None]).all(axis=1))

    def _intersect(self, bundle: _Bundle, owner: AnyArray, solid: AnyArray) -> FloatArray:
        """(P, group) distances at which the rays of the groups ``owner`` (P,) meet the solids (P,)."""
        t = np.empty((len(owner), bundle.d.shape[1]), np.float32)
        kinds = self._kind[solid]
        step = max(1, _RAYS_AT_ONCE // t.shape[1])
        for number in np.unique(kinds):
            every, kind = np.flatnonzero(kinds == number), self._kinds[number]
            for start in range(0, len(every), step):
                pairs = every[start : start + step]
                rays = select_rays(bundle.o_soa, (owner[pairs],)), select_rays(bundle.d_soa, (owner[pairs],))
                rows = np.zeros(0) if kind.table is None else kind.table[:, self._row[solid[pairs]], None]
                t[pairs] = kind.hit(rows, *rays)
        return t


@dataclass(frozen=True)
class _Kind:
    """Solids that are intersected together, with the (K, M) table of what they are."""

    hit: Callable[[AnyArray, Rays, Rays], FloatArray]
    table: Optional[FloatArray]


def _alone(solid: Solid) -> Callable[[AnyArray, Rays, Rays], FloatArray]:
    return lambda _, o, d: solid.intersect(o, d)


class _Bundle:
    """Rays in groups.

    Attributes:
        d: (groups, group, 3) directions, of which the last is repeated.
        d_soa, o_soa: three arrays (groups, group) each; the origin's are scalars when all rays share it.
        apex: (groups, 3) or (1, 3) where a group starts, and no ray of it starts farther than ``slack`` from it.
        axis: (groups, 3) unit vector in the middle of a group.
        planes: (groups, 4, 3) unit normals of planes through the apex; the group's rays lie below each of them. Zeros
            where a group is too wide for that.
    """

    def __init__(self, origins: FloatArray, directions: FloatArray, group: int) -> None:
        count = len(directions)
        groups = -(-count // group)

        def grouped(rays: FloatArray) -> FloatArray:
            return np.pad(rays, ((0, groups * group - count), (0, 0)), mode="edge").reshape(groups, group, 3)

        self.d = grouped(directions)
        self.d_soa = [np.ascontiguousarray(self.d[..., i], dtype=np.float32) for i in range(3)]
        if origins.ndim == 1:
            self.apex, self.slack = origins[None], np.asarray(1e-3, np.float32)
            self.o_soa = [np.asarray(origins[i], np.float32) for i in range(3)]
        else:
            o = grouped(origins)
            self.apex = o.mean(axis=1)
            self.slack = np.sqrt(((o - self.apex[:, None]) ** 2).sum(axis=2).max(axis=1)) + np.float32(1e-3)
            self.o_soa = [np.ascontiguousarray(o[..., i], dtype=np.float32) for i in range(3)]
        self.axis = self.d.mean(axis=1)
        self.axis /= np.linalg.norm(self.axis, axis=1, keepdims=True)
        self.planes = self._planes()

    def _planes(self) -> FloatArray:
        # The first plane's direction follows the group, which may be a long thin strand.
        u = self.d[:, -1] - self.d[:, 0]
        u = u - np.einsum("gi,gi->g", u, self.axis)[:, None] * self.axis
        size = np.linalg.norm(u, axis=1, keepdims=True)
        other = np.cross(self.axis, np.eye(3, dtype=np.float32)[np.abs(self.axis).argmin(axis=1)])
        u = np.where(size > 1e-4, u, other)
        u = u / np.linalg.norm(u, axis=1, keepdims=True)
        v = np.cross(self.axis, u)
        ahead = np.einsum("gpi,gi->gp", self.d, self.axis)
        narrow = ahead.min(axis=1) > 0.05
        ahead = np.maximum(ahead, np.float32(0.05))
        planes = []
        for side in (u, v):
            slope = np.einsum("gpi,gi->gp", self.d, side) / ahead
            planes += [side - slope.max(axis=1)[:, None] * self.axis, slope.min(axis=1)[:, None] * self.axis - side]
        normals = np.stack(planes, axis=1)
        normals = normals / np.linalg.norm(normals, axis=2, keepdims=True)
        return np.asarray(np.where(narrow[:, None, None], normals, 0), dtype=np.float32)


class _Due:
    """The solids that each group has yet to ask, nearest first."""

    def __init__(self, touched: BoolArray, nearest: FloatArray) -> None:
        owner, solid = np.nonzero(touched.T)
        near = nearest[solid, owner]
        order = np.lexsort((near, owner))
        self._owner, self._solid, self._near = owner[order], solid[order], near[order]
        bounds = np.searchsorted(self._owner, np.arange(touched.shape[1] + 1))
        self._next, self._end = bounds[:-1].copy(), bounds[1:]
        self._groups = np.flatnonzero(self._next < self._end)
        self._at_once = _AT_ONCE

    def left(self) -> bool:
        return len(self._groups) > 0

    def take(self, farthest: FloatArray) -> Tuple[AnyArray, AnyArray]:
        """(P,) groups, ascending, and (P,) solids to intersect them with; not those behind ``farthest`` (groups,)."""
        groups = self._groups
        slots = self._next[groups, None] + np.arange(self._at_once)
        slots = slots[slots < self._end[groups, None]]
        self._next[groups] += self._at_once
        self._at_once *= 2
        slots = slots[self._near[slots] < farthest[self._owner[slots]]]
        coming = self._next[groups]
        more = coming < self._end[groups]
        groups, coming = groups[more], coming[more]
        self._groups = groups[self._near[coming] < farthest[groups]]
        return self._owner[slots], self._solid[slots]


class _Cover:
    """What each ray has met so far.

    Attributes:
        best: (groups, group) distance.
        rank: (groups, group) rank of the solid in the order in which coincident ones are met, -1 none.
        farthest: (groups,) the largest ``best``: nothing behind it can be seen.
    """

    def __init__(self, bundle: _Bundle, max_range: float) -> None:
        self.best = np.full(bundle.d.shape[:2], np.float32(max_range))
        self.rank = np.full(bundle.d.shape[:2], -1, np.int32)
        self.farthest = np.full(len(bundle.d), np.float32(max_range))

    def add(self, owner: AnyArray, rank: AnyArray, t: FloatArray) -> None:
        """Surfaces at ``t`` (P, group) of the solids of ``rank`` (P,) for the groups ``owner`` (P,), ascending."""
        first = np.searchsorted(owner, owner)
        turn = np.arange(len(owner)) - first
        for k in range(int(turn.max(initial=-1)) + 1):
            now = np.flatnonzero(turn == k)
            groups, found, number = owner[now], t[now], rank[now, None]
            before, known = self.best[groups], self.rank[groups]
            better, same = found < before, found == before
            if same.any():
                better |= same & (number < known)
            np.copyto(known, number, where=better)
            self.best[groups], self.rank[groups] = np.minimum(found, before), known
        changed = np.unique(owner)
        self.farthest[changed] = self.best[changed].max(axis=1)


def surface_normals(solids: Sequence[Solid], hits: Hits, points: FloatArray) -> FloatArray:
    """(N, 3) unit normals of the surfaces met at ``points`` (N, 3); zeros where nothing was met."""
    normals = np.zeros_like(points)
    order = np.argsort(hits.solid, kind="stable")
    ids, starts = np.unique(hits.solid[order], return_index=True)
    for i, rows in zip(ids, np.split(order, starts[1:]), strict=True):
        if i >= 0:
            normals[rows] = solids[i].normal(points[rows])
    return normals
