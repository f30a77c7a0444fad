"""A few kinds of solids that rays are intersected with analytically; world coordinates are metres, z up (REP 103)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Protocol, Sequence, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, FloatArray

Vec = Tuple[float, float, float]
Rays = Tuple[FloatArray, FloatArray, FloatArray]

MISS = np.float32(np.inf)
_EPS = np.float32(1e-4)
_LEAF_CELLS = 64
_LEAF_CELL_M = 0.035


def _leaf_volume() -> FloatArray:
    """Periodic smooth noise in [0, 1], (64, 64, 64), whose blobs have the size of a handful of leaves."""
    noise = np.random.default_rng(71).random((_LEAF_CELLS,) * 3)
    for axis in range(3):
        noise = noise + np.roll(noise, 1, axis) + 0.5 * (np.roll(noise, 2, axis) + np.roll(noise, -1, axis))
    rank = noise.ravel().argsort().argsort().reshape(noise.shape)
    return (rank / rank.size).astype(np.float32)


_LEAVES = _leaf_volume()


def leaf_noise(x: AnyArray, y: AnyArray, z: AnyArray, cell_m: float = _LEAF_CELL_M) -> FloatArray:
    """Uniformly distributed noise in [0, 1] fixed in the world, for arrays of coordinates of any one shape."""
    scale = np.float32(1.0 / cell_m)
    index = [np.floor(c * scale).astype(np.int32) & (_LEAF_CELLS - 1) for c in (x, y, z)]
    return np.asarray(_LEAVES.reshape(-1)[(index[0] * _LEAF_CELLS + index[1]) * _LEAF_CELLS + index[2]])


@dataclass(frozen=True)
class Batch:
    """How many solids of one kind are intersected at once.

    Attributes:
        hit: as ``Solid.intersect``, with the solid's row before the rays. Each number of the row may be an array that
            broadcasts against the rays.
        row: (K,) float32 what the solid is.
    """

    hit: Callable[[AnyArray, Rays, Rays], FloatArray]
    row: FloatArray


@dataclass(frozen=True)
class Hull:
    """A simple body that holds a solid: centre + sum of a[i] * axes[i], thickened by ``margin``.

    Attributes:
        axes: (3, 3) float32 rows, metres.
        margin: metres.
        oval: a is at most one long, else each of its components is at most one.
    """

    axes: FloatArray
    margin: float = 0.0
    oval: bool = False


class Solid(Protocol):
    """What the ray caster needs to know of a solid.

    Attributes:
        center: (3,) float32, metres.
        radius: of a sphere around it that holds the solid, metres.
    """

    center: FloatArray
    radius: float

    @property
    def hull(self) -> Optional[Hull]:
        """A tighter body around the same centre; None where there is none."""

    @property
    def batch(self) -> Optional[Batch]:
        """How it is intersected together with others of its kind; None: alone."""

    def intersect(self, o: Rays, d: Rays) -> FloatArray:
        """Distance along each unit ray to the surface, metres; inf where it misses.

        The directions are arrays of any one shape; the origins have that shape too, or are scalars.
        """

    def normal(self, p: FloatArray) -> FloatArray:
        """(N, 3) outward unit normals at surface points (N, 3)."""


def _dot(v: FloatArray, a: Rays) -> FloatArray:
    return np.asarray(v[0] * a[0] + v[1] * a[1] + v[2] * a[2])


def select_rays(a: Sequence[FloatArray], index: Tuple[AnyArray, ...]) -> Rays:
    """Some of the rays; of an origin that all share, that one."""
    if a[0].ndim == 0:
        return a[0], a[1], a[2]
    return a[0][index], a[1][index], a[2][index]


def _select_rows(row: AnyArray, index: Tuple[AnyArray, ...]) -> AnyArray:
    """The numbers of the solids that the chosen rays belong to: (K, P, 1) become (K, N), those of one solid stay."""
    return row if row.ndim == 1 else row[:, index[0], 0]


def _leafy(t: FloatArray, o: Rays, d: Rays, density: AnyArray) -> FloatArray:
    """The distances t (N,), inf where the surface has a hole between its leaves."""
    reach = np.where(np.isfinite(t), t, 0)
    x, y, z = (o[i] + reach * d[i] for i in range(3))
    fine, coarse = leaf_noise(x, y, z), leaf_noise(x, y, z, 4 * _LEAF_CELL_M)
    return np.where(np.float32(0.6) * fine + np.float32(0.4) * coarse < density, t, MISS)


def _f32(v: Sequence[float] | AnyArray) -> FloatArray:
    return np.asarray(v, dtype=np.float32)


def _hit_slabs(row: AnyArray, o: Rays, d: Rays) -> FloatArray:
    near = np.full(d[0].shape, -MISS, np.float32)
    far = np.full(d[0].shape, MISS, np.float32)
    rel = (o[0] - row[0], o[1] - row[1], o[2] - row[2])
    for k in range(3, len(row), 5):
        n, lo, hi = row[k : k + 3], row[k + 3], row[k + 4]
        slope = _dot(n, d)
        slope = np.where(np.abs(slope) < 1e-9, np.float32(1e-9), slope)
        base = _dot(n, rel)
        a = (lo - base) / slope
        b = (hi - base) / slope
        np.maximum(near, np.minimum(a, b), out=near)
        np.minimum(far, np.maximum(a, b), out=far)
    return np.where((near <= far) & (near > _EPS), near, MISS)


class Polyhedron:
    """A convex solid: the points with lo <= n·(p - center) <= hi for each of a few slabs."""

    def __init__(self, center: Vec, normals: AnyArray, lo: AnyArray, hi: AnyArray, hull: Hull, radius: float) -> None:
        self.center = _f32(center)
        self.radius = float(radius)
        self.hull = hull
        self.normals = _f32(normals)
        self._lo = _f32(lo)
        self._hi = _f32(hi)
        slabs = np.column_stack([self.normals, self._lo, self._hi])
        self.batch = Batch(_hit_slabs, np.concatenate([self.center, slabs.reshape(-1)]))

    def intersect(self, o: Rays, d: Rays) -> FloatArray:
        return _hit_slabs(self.batch.row, o, d)

    def normal(self, p: FloatArray) -> FloatArray:
        along = (p - self.center) @ self.normals.T
        over, under = along - self._hi, self._lo - along
        face = np.maximum(over, under).argmax(axis=1)
        rows = np.arange(len(p))
        sign = np.where(over[rows, face] >= under[rows, face], 1.0, -1.0).astype(np.float32)
        return np.asarray(self.normals[face] * sign[:, None])


def box(center: Vec, size: Vec, yaw: float = 0.0, pitch: float = 0.0) -> Polyhedron:
    """A box of full extents ``size``, turned by ``yaw`` about z after ``pitch`` about its own y, radians."""
    c, s, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    axes = np.array([[c * cp, s * cp, -sp], [-s, c, 0.0], [c * sp, s * sp, cp]])
    half = np.asarray(size) / 2
    hull = Hull(_f32(axes * half[:, None]))
    return Polyhedron(center, axes, -half, half, hull, float(np.linalg.norm(half)))


def frustum(center: Vec, size: Vec, yaw: float, front: float, rear: float, side: float) -> Polyhedron:
    """A box whose front, rear and sides lean inwards by the given lengths at the top, metres (a car's cabin)."""
    half = np.asarray(size) / 2
    c, s = np.cos(yaw), np.sin(yaw)
    axes = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    normals, lo, hi = [axes[2]], [-half[2]], [half[2]]
    for axis, sign, lean, reach in (
        (0, 1.0, front, half[0]),
        (0, -1.0, rear, half[0]),
        (1, 1.0, side, half[1]),
        (1, -1.0, side, half[1]),
    ):
        length = np.hypot(size[2], lean)
        normal = (sign * axes[axis] * size[2] + axes[2] * lean) / length
        normals.append(normal)
        lo.append(-1e4)
        hi.append((reach - lean / 2) * size[2] / length)
    # A negative lean widens the top.
    widest = half + np.maximum([max(-front, -rear), -side, 0.0], 0)
    hull = Hull(_f32(axes * widest[:, None]))
    return Polyhedron(center, np.array(normals), np.array(lo), np.array(hi), hull, float(np.linalg.norm(half)))


class Ground:
    """The plane z = 0, seen from above."""

    center = _f32((0.0, 0.0, 0.0))
    radius = 1e6
    hull = None
    batch = None

    def intersect(self, o: Rays, d: Rays) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -o[2] / d[2]
        return np.where((d[2] < -1e-6) & (t > _EPS), t, MISS)

    def normal(self, p: FloatArray) -> FloatArray:
        return np.broadcast_to(_f32((0.0, 0.0, 1.0)), p.shape)


def _hit_ellipsoids(row: AnyArray, o: Rays, d: Rays) -> FloatArray:
    """Of rows with centre, one over the radii and, for leafy ones, density."""
    c, k = row[:3], row[3:6]
    # Measured from the ray's closest approach, or float32 would lose small solids far away.
    shift = _dot(c, d) - (o[0] * d[0] + o[1] * d[1] + o[2] * d[2])
    e = [d[i] * k[i] for i in range(3)]
    q = [(o[i] + shift * d[i] - c[i]) * k[i] for i in range(3)]
    a = e[0] * e[0] + e[1] * e[1] + e[2] * e[2]
    b = e[0] * q[0] + e[1] * q[1] + e[2] * q[2]
    disc = b * b - a * (q[0] * q[0] + q[1] * q[1] + q[2] * q[2] - 1)
    best = np.full(a.shape, MISS, np.float32)
    hit = np.nonzero(disc >= 0)
    if not len(hit[0]):
        return best
    a, b, shift, root = a[hit], b[hit], shift[hit], np.sqrt(disc[hit])
    near, far = shift + (-b - root) / a, shift + (-b + root) / a
    near[near <= _EPS] = MISS
    if len(row) > 6:
        far[far <= _EPS] = MISS
        density = _select_rows(row[6:], hit)[0]
        at = select_rays(o, hit), select_rays(d, hit)
        near = np.minimum(_leafy(near, *at, density), _leafy(far, *at, density))
    best[hit] = near
    return best


class Ellipsoid:
    """An axis-aligned ellipsoid; ``density`` below one leaves holes like those of foliage."""

    def __init__(self, center: Vec, radii: Vec, density: float = 1.0) -> None:
        self.center = _f32(center)
        self.radius = float(max(radii))
        self.hull = Hull(np.diag(_f32(radii)), oval=True)
        self._inverse = 1 / _f32(radii)
        self.batch = Batch(_hit_ellipsoids, _f32([*self.center, *self._inverse, *([density] if density < 1 else [])]))

    def intersect(self, o: Rays, d: Rays) -> FloatArray:
        return _hit_ellipsoids(self.batch.row, o, d)

    def normal(self, p: FloatArray) -> FloatArray:
        n = (p - self.center) * self._inverse**2
        return np.asarray(n / np.linalg.norm(n, axis=1, keepdims=True))


def _hit_cones(row: AnyArray, o: Rays, d: Rays) -> FloatArray:
    """Of rows with centre, axis, half the length, slope, radius at the middle, square of the radius at both ends and,
    for leafy ones, density.
    """
    c, h, k, r = row[:3], row[3:6], row[7], row[8]
    shift = _dot(c, d) - (o[0] * d[0] + o[1] * d[1] + o[2] * d[2])
    q = (o[0] + shift * d[0] - c[0], o[1] + shift * d[1] - c[1], o[2] + shift * d[2] - c[2])
    dh, qh = _dot(h, d), _dot(h, q)
    w = 1 + k * k
    a = 1 - w * dh * dh
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    b = q[0] * d[0] + q[1] * d[1] + q[2] * d[2] - w * dh * qh - k * r * dh
    disc = b * b - a * (q[0] * q[0] + q[1] * q[1] + q[2] * q[2] - w * qh * qh - 2 * k * r * qh - r * r)
    result = np.full(a.shape, MISS, np.float32)
    # A ray nearly along the axis may enter by a cap without a crossing of the mantle.
    hit = np.nonzero((disc >= 0) | (a < 1e-3))
    if not len(hit[0]):
        return result
    a, b, disc, dh, qh, shift = a[hit], b[hit], disc[hit], dh[hit], qh[hit], shift[hit]
    q, at, row = select_rays(q, hit), (select_rays(o, hit), select_rays(d, hit)), _select_rows(row, hit)
    half = row[6]
    root = np.sqrt(np.maximum(disc, 0))
    best = np.full(a.shape, MISS, np.float32)
    for t in ((-b - root) / a, (-b + root) / a):
        good = (disc >= 0) & (np.abs(qh + t * dh) <= half) & (shift + t > _EPS)
        t = np.where(good, shift + t, MISS)
        if len(row) > 11:
            t = _leafy(t, *at, row[11])
        np.minimum(best, t, out=best)
    slope = np.where(np.abs(dh) < 1e-9, np.float32(1e-9), dh)
    for end, square in ((-half, row[9]), (half, row[10])):
        t = (end - qh) / slope
        off = [q[i] + t * at[1][i] - end * row[3 + i] for i in range(3)]
        inside = off[0] ** 2 + off[1] ** 2 + off[2] ** 2 <= square
        np.minimum(best, np.where(inside & (shift + t > _EPS), shift + t, MISS), out=best)
    result[hit] = best
    return result


class Cone:
    """A capped round bar from ``a`` to ``b`` with radii ``ra`` and ``rb``: pole, wire, trunk, wheel, cone."""

    def __init__(self, a: Vec, b: Vec, ra: float, rb: Optional[float] = None, density: float = 1.0) -> None:
        start, end = np.asarray(a, np.float64), np.asarray(b, np.float64)
        rb = ra if rb is None else rb
        length = float(np.linalg.norm(end - start))
        self.center = _f32((start + end) / 2)
        self.radius = float(np.hypot(length / 2, max(ra, rb)))
        self.axis = _f32((end - start) / length)
        self._half = np.float32(length / 2)
        self._slope = np.float32((rb - ra) / length)
        self._middle = np.float32((ra + rb) / 2)
        along = np.zeros((3, 3), np.float32)
        along[0] = self.axis * self._half
        self.hull = Hull(along, max(ra, rb))
        ends = [(self._middle + self._slope * half) ** 2 for half in (-self._half, self._half)]
        row = [*self.center, *self.axis, self._half, self._slope, self._middle, *ends]
        self.batch = Batch(_hit_cones, _f32([*row, *([density] if density < 1 else [])]))

    def intersect(self, o: Rays, d: Rays) -> FloatArray:
        return _hit_cones(self.batch.row, o, d)

    def normal(self, p: FloatArray) -> FloatArray:
        rel = p - self.center
        m = rel @ self.axis
        side = rel - m[:, None] * self.axis
        reach = np.linalg.norm(side, axis=1)
        on_cap = self._half - np.abs(m) < np.abs(self._middle + self._slope * m - reach)
        n = side / np.maximum(reach, 1e-9)[:, None] - self._slope * self.axis
        n = np.where(on_cap[:, None], np.sign(m)[:, None] * self.axis, n)
        return np.asarray(n / np.linalg.norm(n, axis=1, keepdims=True), dtype=np.float32)


class Panel:
    """An upright rectangle without thickness, cut into bars or a mesh: a fence.

    Bars: upright bars every ``pitch`` metres, ``bar`` wide, and two rails. Mesh: diagonal wires of the same pitch.
    """

    def __init__(
        self, start: Vec, end: Vec, height: float, pitch: float = 0.13, bar: float = 0.022, mesh: bool = False
    ) -> None:
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        self.length = float(np.linalg.norm(b - a))
        self.along = _f32((b - a) / self.length)
        self._normal = _f32((-self.along[1], self.along[0], 0.0))
        self.center = _f32((a + b) / 2 + (0, 0, height / 2))
        self.radius = float(np.hypot(self.length, height) / 2)
        self.height, self.pitch, self.bar, self.mesh = float(height), float(pitch), float(bar), mesh
        self.hull = Hull(_f32(np.array([(b - a) / 2, (0, 0, height / 2), (0, 0, 0)])))
        self.batch = None

    def intersect(self, o: Rays, d: Rays) -> FloatArray:
        slope = _dot(self._normal, d)
        slope = np.where(np.abs(slope) < 1e-9, np.float32(1e-9), slope)
        t = (np.float32(self._normal @ self.center) - _dot(self._normal, o)) / slope
        p = [o[i] + t * d[i] - self.center[i] for i in range(3)]
        u = self.along[0] * p[0] + self.along[1] * p[1] + np.float32(self.length / 2)
        v = p[2] + np.float32(self.height / 2)
        inside = (u >= 0) & (u <= self.length) & (v >= 0) & (v <= self.height) & (t > _EPS)
        return np.asarray(np.where(inside & self._solid(u, v), t, MISS), dtype=np.float32)

    def _solid(self, u: FloatArray, v: FloatArray) -> BoolArray:
        with np.errstate(invalid="ignore"):
            if self.mesh:
                wires = (np.mod(u + v, self.pitch) < self.bar) | (np.mod(u - v, self.pitch) < self.bar)
                return np.asarray(wires | (v > self.height - 0.04))
            rails = (np.abs(v - 0.18) < 0.025) | (np.abs(v - self.height + 0.12) < 0.025)
            return np.asarray(rails | (np.mod(u, self.pitch) < self.bar))

    def normal(self, p: FloatArray) -> FloatArray:
        return np.broadcast_to(self._normal, p.shape)
