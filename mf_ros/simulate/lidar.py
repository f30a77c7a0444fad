"""A spinning and a solid-state LiDAR, each of which measures while it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Protocol, Tuple, Union

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, DoubleArray, FloatArray, IntArray
from mf_ros.simulate.raycast import Hits, RayCaster, surface_normals, tile_order
from mf_ros.simulate.scene import REFLECTIVITY, Material, Scene

PoseAt = Callable[[DoubleArray], DoubleArray]
"""Gives (N, 4, 4) T_world_lidar at times (N,), seconds."""

# Turns per second of the two prisms of a Livox Mid (Liu, Wang and Zhang, Low-cost Retina-like Robotic Lidars Based on
# Incommensurable Scanning, 2021).
_PRISM_HZ = (7294 / 60, -4664 / 60)
# Neighbouring ranges that differ by more lie on two surfaces, metres.
_JUMP_M = 0.15


@dataclass(frozen=True)
class LidarModel:
    """A spinning LiDAR.

    Attributes:
        rings: number of scan lines; ring 0 is the lowest.
        columns: firings per turn.
        elevation_deg: lowest and highest line, degrees.
        max_range_m: nothing is measured beyond.
        noise_m: standard deviation of the range at zero distance; it grows by a thousandth of the range.
        divergence_rad: width of the beam; a beam on an edge may return a range between both surfaces.
    """

    rings: int = 32
    columns: int = 1000
    elevation_deg: Tuple[float, float] = (-25.0, 15.0)
    max_range_m: float = 120.0
    noise_m: float = 0.012
    divergence_rad: float = 0.003


@dataclass(frozen=True)
class RosetteModel:
    """A solid-state LiDAR whose beam two turning prisms lead along a rosette that does not repeat.

    Attributes:
        points: measurements per sweep.
        fov_deg: diameter of the round field of view around the sensor's x axis, degrees.
        max_range_m, noise_m, divergence_rad: as of ``LidarModel``.
    """

    points: int = 24_000
    fov_deg: float = 70.4
    max_range_m: float = 150.0
    noise_m: float = 0.015
    divergence_rad: float = 0.004


AnyLidar = Union[LidarModel, RosetteModel]


@dataclass(frozen=True)
class Returns:
    """What a sweep measured, in the order of the firings.

    Attributes:
        points: (N, 3) float32 in the sensor's frame at each point's own time, metres.
        intensity: (N,) float32, 0 to 255.
        ring: (N,) uint16; None for a LiDAR without scan lines.
        time_s: (N,) float32 seconds since the sweep began.
    """

    points: FloatArray
    intensity: FloatArray
    ring: Optional[IntArray]
    time_s: FloatArray


class Lidar(Protocol):
    """A LiDAR in a scene."""

    def sweep(self, pose_at: PoseAt, start_s: float, rng: np.random.Generator) -> Returns:
        """Measure one sweep.

        Args:
            pose_at: where the LiDAR is at what time.
            start_s: when the sweep begins, seconds.
            rng: of noise, drop-out and mixed ranges.
        """


def make_lidar(scene: Scene, model: AnyLidar, rate_hz: float) -> Lidar:
    """The LiDAR of that model in a scene, with ``rate_hz`` sweeps per second."""
    if isinstance(model, RosetteModel):
        return RosetteLidar(scene, model, rate_hz)
    return SpinningLidar(scene, model, rate_hz)


class SpinningLidar:
    """A spinning LiDAR in a scene; it turns clockwise seen from above and starts each sweep facing backwards."""

    def __init__(self, scene: Scene, model: LidarModel, rate_hz: float) -> None:
        self._echo = _Echo(scene, model)
        self._model = model
        self._column_time = np.arange(model.columns) / (model.columns * rate_hz)
        self._azimuth = np.pi - 2 * np.pi * np.arange(model.columns) / model.columns
        low, high = np.deg2rad(model.elevation_deg)
        self._elevation = np.linspace(low, high, model.rings)
        self._order = tile_order(model.rings, model.columns, 8, 8)

    def sweep(self, pose_at: PoseAt, start_s: float, rng: np.random.Generator) -> Returns:
        """Measure one turn; see ``Lidar``."""
        poses = pose_at(start_s + self._column_time)
        ring, column = np.divmod(self._order, self._model.columns)
        elevation, azimuth = self._elevation[ring], self._azimuth[column]
        beams = _Beams(
            _directions(elevation, azimuth),
            poses[:, :3, 3].astype(np.float32)[column],
            poses[:, :3, :3].astype(np.float32)[column],
        )
        hits = self._echo.cast(beams)
        edge = np.flatnonzero(self._jumps(hits, ring, column) & np.isfinite(hits.t))
        shift = rng.uniform(-0.5, 0.5, (2, len(edge))) * self._model.divergence_rad
        aside = _directions(elevation[edge] + shift[0], azimuth[edge] + shift[1])
        at, points, intensity = self._echo.returns(beams, hits, edge, aside, rng)
        firing = np.lexsort((ring[at], column[at]))
        at = at[firing]
        return Returns(
            points[firing],
            intensity[firing],
            ring[at].astype(np.uint16),
            self._column_time[column[at]].astype(np.float32),
        )

    def _jumps(self, hits: Hits, ring: IntArray, column: IntArray) -> BoolArray:
        grid = np.empty((self._model.rings, self._model.columns), np.float32)
        grid[ring, column] = np.where(np.isfinite(hits.t), hits.t, 1e3)
        jump = np.abs(grid - np.roll(grid, 1, axis=1)) > _JUMP_M
        return np.asarray((jump | np.roll(jump, -1, axis=1))[ring, column])


class RosetteLidar:
    """A solid-state LiDAR in a scene; no two sweeps look the same way."""

    def __init__(self, scene: Scene, model: RosetteModel, rate_hz: float) -> None:
        self._echo = _Echo(scene, model)
        self._model = model
        self._time = np.arange(model.points) / (model.points * rate_hz)

    def sweep(self, pose_at: PoseAt, start_s: float, rng: np.random.Generator) -> Returns:
        """Measure one sweep; see ``Lidar``."""
        poses = pose_at(start_s + self._time)
        off_axis = self.rosette(start_s + self._time)
        beams = _Beams(_around_x(off_axis), poses[:, :3, 3].astype(np.float32), poses[:, :3, :3].astype(np.float32))
        hits = self._echo.cast(beams)
        jump = np.abs(np.diff(np.where(np.isfinite(hits.t), hits.t, np.float32(1e3)))) > _JUMP_M
        beside = np.append(jump, False) | np.append(False, jump)
        edge = np.flatnonzero(beside & np.isfinite(hits.t))
        shift = rng.uniform(-0.5, 0.5, (len(edge), 2)) * self._model.divergence_rad
        at, points, intensity = self._echo.returns(beams, hits, edge, _around_x(off_axis[edge] + shift), rng)
        return Returns(points, intensity, None, self._time[at].astype(np.float32))

    def rosette(self, seconds: DoubleArray) -> DoubleArray:
        """(N, 2) angles of the beam to the left of and above the sensor's x axis at times (N,), radians."""
        half = np.deg2rad(self._model.fov_deg) / 4
        turns = [2 * np.pi * np.mod(hz * seconds, 1.0) for hz in _PRISM_HZ]
        return np.stack([half * sum(np.cos(a) for a in turns), half * sum(np.sin(a) for a in turns)], axis=1)


def _directions(elevation: DoubleArray, azimuth: DoubleArray) -> FloatArray:
    """(N, 3) float32 unit vectors, x forward, z up."""
    flat = np.cos(elevation)
    parts = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)]
    return np.asarray(np.stack(parts, axis=1), dtype=np.float32)


def _around_x(off_axis: DoubleArray) -> FloatArray:
    """(N, 3) float32 unit vectors that point ``off_axis`` (N, 2) radians to the left of and above the x axis."""
    angle = np.linalg.norm(off_axis, axis=1)
    aside = np.sinc(angle / np.pi)[:, None] * off_axis
    return np.asarray(np.column_stack([np.cos(angle), aside]), dtype=np.float32)


@dataclass(frozen=True)
class _Beams:
    """Unit directions in the sensor's frame (N, 3), and where the sensor was (N, 3) and how turned (N, 3, 3)."""

    local: FloatArray
    origins: FloatArray
    rotations: FloatArray

    def directions(self) -> FloatArray:
        return np.asarray(np.einsum("nij,nj->ni", self.rotations, self.local))


class _Echo:
    """What comes back of a beam: which surfaces return it, at what range, and how brightly."""

    def __init__(self, scene: Scene, model: AnyLidar) -> None:
        self._scene, self._model = scene, model
        self._caster = RayCaster(scene.solids)
        tint = scene.colour @ np.array([0.5, 0.35, 0.15], np.float32)
        self._albedo = REFLECTIVITY[scene.material] * (0.7 + 0.6 * np.minimum(tint, 1))

    def cast(self, beams: _Beams) -> Hits:
        return self._caster.cast(beams.origins, beams.directions(), self._model.max_range_m)

    def returns(
        self, beams: _Beams, hits: Hits, edge: AnyArray, aside: FloatArray, rng: np.random.Generator
    ) -> Tuple[AnyArray, FloatArray, FloatArray]:
        """Measure.

        Args:
            beams: N beams.
            hits: what their middles meet.
            edge: (E,) beams that an edge may cut.
            aside: (E, 3) another direction within each of those, in the sensor's frame.
            rng: of noise, drop-out and mixed ranges.

        Returns:
            (M,) beams that returned, (M, 3) float32 points in the sensor's frame, (M,) float32 intensities.
        """
        model, scene = self._model, self._scene
        mixed = self._mixed(beams, hits, edge, aside, rng)
        directions = beams.directions()
        at = np.flatnonzero(hits.solid >= 0)
        p = beams.origins[at] + hits.t[at, None] * directions[at]
        n = surface_normals(scene.solids, Hits(hits.t[at], hits.solid[at]), p)
        cos = np.abs(np.einsum("ni,ni->n", n, directions[at]))
        albedo = self._albedo[hits.solid[at]]
        # The echo fades with albedo, incidence and the square of the range; a weak one is lost more often.
        echo = albedo * (0.06 + 0.94 * cos) * (model.max_range_m / np.maximum(hits.t[at], 1.0)) ** 2
        kept = rng.random(len(at)) < 0.995 * np.clip(1 - np.exp(-1.6 * echo), 0, 1)
        kept &= ~((scene.material[hits.solid[at]] == Material.GLASS) & (rng.random(len(at)) < 0.8))
        at, cos, albedo = at[kept], cos[kept], albedo[kept]
        noise = rng.standard_normal(len(at)) * (model.noise_m + 0.001 * mixed[at])
        points = (mixed[at] + noise).astype(np.float32)[:, None] * beams.local[at]
        intensity = np.clip(255 * albedo * (0.35 + 0.65 * cos) + rng.normal(0, 3, len(at)), 0, 255)
        return at, points, intensity.astype(np.float32)

    def _mixed(
        self, beams: _Beams, hits: Hits, edge: AnyArray, aside: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """(N,) ranges, of which some on edges lie between the two surfaces that the beam covers."""
        t: FloatArray = hits.t.copy()
        if not len(edge):
            return t
        second = _Beams(aside, beams.origins[edge], beams.rotations[edge])
        other = self._caster.cast(second.origins, second.directions(), self._model.max_range_m, group=16).t
        gap = np.abs(other - t[edge])
        # Echoes closer together than the pulse is long melt into one.
        melt = np.isfinite(other) & (gap > 0.05) & (gap < 1.8)
        weight = rng.random(len(edge)).astype(np.float32)
        blend = t[edge] * weight + np.where(melt, other, 0) * (1 - weight)
        t[edge] = np.where(melt, blend, np.minimum(t[edge], other))
        return np.asarray(t)
