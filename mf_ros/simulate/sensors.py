"""A camera that renders through its real lens model, and a spinning LiDAR that measures while it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.types import BoolArray, ByteArray, DoubleArray, FloatArray, IntArray
from mf_ros.simulate.geometry import Hits, cast_rays, surface_normals, tile_order
from mf_ros.simulate.lighting import HAZE_COLOUR, Lighting
from mf_ros.simulate.materials import look_of
from mf_ros.simulate.scene import REFLECTIVITY, Material, Scene

_SUBSAMPLES = ((0.125, 0.375), (-0.375, 0.125), (-0.125, -0.375), (0.375, -0.125))
_LEAFY = np.array([0.9 if m == Material.LEAVES else 0.25 if m == Material.LAWN else 0.0 for m in Material], np.float32)


class Camera:
    """A global-shutter camera in a scene.

    Rays come from ``CameraModel.rays()``, so the picture has the lens distortion of the model. Pixels on edges get four
    more rays; depth is that of the pixel's centre.
    """

    def __init__(self, scene: Scene, camera: CameraModel, lighting: Lighting) -> None:
        self._scene, self._camera, self._lighting = scene, camera, lighting
        rays = np.asarray(camera.rays(), np.float32)
        self._seen: BoolArray = np.asarray(np.isfinite(rays).all(axis=2))
        rays = np.where(self._seen[..., None], rays, np.array([0, 0, 1], np.float32)).astype(np.float32)
        down, across = np.gradient(rays, axis=(0, 1))
        shifted = np.stack([rays + dx * across + dy * down for dx, dy in _SUBSAMPLES], axis=2)
        self._fine_rays = shifted.reshape(-1, len(_SUBSAMPLES), 3).astype(np.float32)
        self._rays = rays.reshape(-1, 3)
        self._per_metre = np.float32(1.0) / np.linalg.norm(self._rays, axis=1)
        self._order = tile_order(camera.height, camera.width, 16, 16)
        self._pixel = (np.sqrt(np.linalg.norm(across, axis=2) * np.linalg.norm(down, axis=2))).reshape(-1)
        self._pixel = (self._pixel * self._per_metre).astype(np.float32)
        v, u = np.mgrid[: camera.height, : camera.width]
        radius2 = ((u - camera.width / 2) ** 2 + (v - camera.height / 2) ** 2) / (camera.width / 2) ** 2
        self._vignette = (1 - 0.16 * radius2)[..., None].astype(np.float32)

    def depth(self, T_world_optical: DoubleArray) -> FloatArray:
        """(H, W) float32 exact Z depth of the pixel centres, metres; +Inf sky, NaN where the lens sees nothing."""
        return self._depth(self._cast(T_world_optical))

    def render(self, T_world_optical: DoubleArray, rng: np.random.Generator) -> Tuple[ByteArray, FloatArray]:
        """Take a picture.

        Args:
            T_world_optical: (4, 4) pose of the optical frame.
            rng: of the sensor noise.

        Returns:
            (H, W, 3) uint8 RGB with sensor noise, and the depth that ``depth`` gives.
        """
        hits = self._cast(T_world_optical)
        shape = (self._camera.height, self._camera.width)
        every = np.arange(len(self._rays), dtype=np.int32)
        colour = self._shade(T_world_optical, self._rays, every, hits)
        chosen = self._order[self._edges(hits).reshape(-1)[self._order]]
        rays = self._fine_rays[chosen].reshape(-1, 3)
        pixels = np.repeat(chosen, len(_SUBSAMPLES))
        extra = self._shade(T_world_optical, rays, pixels, self._shoot(T_world_optical, rays, 128))
        total = colour[chosen] + extra.reshape(-1, len(_SUBSAMPLES), 3).sum(axis=1)
        colour[chosen] = total / (1 + len(_SUBSAMPLES))
        colour[~self._seen.reshape(-1)] = 0
        return self._develop(colour.reshape(*shape, 3), rng), self._depth(hits)

    def _shoot(self, pose: DoubleArray, rays: FloatArray, group: int) -> Hits:
        directions = rays @ pose[:3, :3].T.astype(np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return cast_rays(self._scene.solids, pose[:3, 3].astype(np.float32), directions, group=group)

    def _cast(self, pose: DoubleArray) -> Hits:
        hits = self._shoot(pose, self._rays[self._order], 256)
        t, solid = np.empty_like(hits.t), np.empty_like(hits.solid)
        t[self._order], solid[self._order] = hits.t, hits.solid
        return Hits(t, solid)

    def _depth(self, hits: Hits) -> FloatArray:
        depth = (hits.t * self._per_metre).reshape(self._seen.shape)
        return np.where(self._seen, depth, np.nan).astype(np.float32)

    def _edges(self, hits: Hits) -> BoolArray:
        solid = hits.solid.reshape(self._seen.shape)
        with np.errstate(divide="ignore"):
            inverse = (1 / hits.t).reshape(self._seen.shape)
        edge = np.zeros(solid.shape, bool)
        for axis in (0, 1):
            a = (slice(1, None), slice(None)) if axis == 0 else (slice(None), slice(1, None))
            b = (slice(None, -1), slice(None)) if axis == 0 else (slice(None), slice(None, -1))
            jump = np.abs(inverse[a] - inverse[b]) > 0.04 * np.maximum(inverse[a], inverse[b])
            differs = jump | ((solid[a] != solid[b]) & (np.minimum(inverse[a], inverse[b]) > 0.004))
            edge[a] |= differs
            edge[b] |= differs
        return edge

    def _shade(self, pose: DoubleArray, rays: FloatArray, pixels: IntArray, hits: Hits) -> FloatArray:
        scene = self._scene
        directions = rays @ pose[:3, :3].T.astype(np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        colour = np.empty_like(directions)
        sky = np.flatnonzero(hits.solid < 0)
        colour[sky] = self._lighting.sky(directions[sky])
        at = np.flatnonzero(hits.solid >= 0)
        d, t = directions[at], hits.t[at]
        p = pose[:3, 3].astype(np.float32) + t[:, None] * d
        met = Hits(t, hits.solid[at])
        n = surface_normals(scene.solids, met, p)
        cos = np.einsum("ni,ni->n", n, d)
        n = np.where((cos > 0)[:, None], -n, n)
        size = t * self._pixel[pixels[at]] / np.sqrt(np.clip(np.abs(cos), 0.02, 1))
        look = look_of(scene, self._lighting.noise, met.solid, p, n, size)
        leafy = _LEAFY[scene.material[met.solid]]
        light, sun_seen = self._lighting.light(p, n, leafy, float(pose[0, 3]))
        surface = look.colour * light
        shiny = np.flatnonzero(look.gloss > 0.03)
        if len(shiny):
            surface[shiny] = self._reflect(surface[shiny], d[shiny], n[shiny], look.gloss[shiny], sun_seen[shiny])
        haze = np.exp(-t / np.float32(scene.haze_m))[:, None]
        colour[at] = surface * haze + HAZE_COLOUR * np.float32(0.9) * (1 - haze)
        return np.asarray(colour)

    def _reflect(
        self, surface: FloatArray, d: FloatArray, n: FloatArray, gloss: FloatArray, seen: FloatArray
    ) -> FloatArray:
        cos = np.clip(-np.einsum("ni,ni->n", d, n), 0, 1)
        mirrored = d + 2 * cos[:, None] * n
        above = self._lighting.sky(mirrored)
        # What a low reflection meets is taken to be the houses across the street.
        open_sky = np.clip((mirrored[:, 2] - 0.22) * 5, 0, 1)[:, None]
        seen_there = above * open_sky + np.array([0.17, 0.155, 0.14], np.float32) * (1 - open_sky)
        fresnel = gloss * (0.1 + 0.9 * (1 - cos) ** 4)
        glint = gloss * seen * np.clip(mirrored @ self._scene.sun, 0, 1) ** 90 * 5
        w = fresnel[:, None]
        return np.asarray(surface * (1 - w) + np.minimum(seen_there, 1.6) * w + glint[:, None], dtype=np.float32)

    def _develop(self, linear: FloatArray, rng: np.random.Generator) -> ByteArray:
        x = cv2.GaussianBlur(linear, (0, 0), 0.45) * self._vignette * np.float32(0.62)
        # Fit of a film curve (Narkowicz, ACES Filmic Tone Mapping Curve, 2015).
        x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
        sigma = np.sqrt(0.000002 + 0.00014 * x)
        x = x + sigma * rng.standard_normal(x.shape, dtype=np.float32)
        x = np.clip(x, 0, 1) ** np.float32(1 / 2.2)
        return np.asarray(np.rint(x * 255), dtype=np.uint8)


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
class Returns:
    """What a sweep measured, in the order of the firings.

    Attributes:
        points: (N, 3) float32 in the sensor's frame at each point's own time, metres.
        intensity: (N,) float32, 0 to 255.
        ring: (N,) uint16.
        time_s: (N,) float32 seconds since the sweep began.
    """

    points: FloatArray
    intensity: FloatArray
    ring: IntArray
    time_s: FloatArray


class SpinningLidar:
    """A spinning LiDAR in a scene; it turns clockwise seen from above and starts each sweep facing backwards."""

    def __init__(self, scene: Scene, model: LidarModel, rate_hz: float) -> None:
        self._scene, self._model = scene, model
        self._column_time = np.arange(model.columns) / (model.columns * rate_hz)
        self._azimuth = np.pi - 2 * np.pi * np.arange(model.columns) / model.columns
        low, high = np.deg2rad(model.elevation_deg)
        self._elevation = np.linspace(low, high, model.rings)
        self._order = tile_order(model.rings, model.columns, 8, 8)
        tint = scene.colour @ np.array([0.5, 0.35, 0.15], np.float32)
        self._albedo = REFLECTIVITY[scene.material] * (0.7 + 0.6 * np.minimum(tint, 1))

    def sweep(self, pose_at: Callable[[DoubleArray], DoubleArray], start_s: float, rng: np.random.Generator) -> Returns:
        """Measure one turn.

        Args:
            pose_at: gives (N, 4, 4) T_world_lidar at times (N,), seconds.
            start_s: when the sweep begins, seconds.
            rng: of noise, drop-out and mixed ranges.
        """
        model = self._model
        poses = pose_at(start_s + self._column_time)
        ring, column = np.divmod(self._order, model.columns)
        local = self._directions(self._elevation[ring], self._azimuth[column])
        rotations = poses[:, :3, :3].astype(np.float32)[column]
        origins = poses[:, :3, 3].astype(np.float32)[column]
        directions = np.einsum("nij,nj->ni", rotations, local)
        hits = cast_rays(self._scene.solids, origins, directions, model.max_range_m)
        mixed = self._mixed(hits, ring, column, origins, rotations, rng)
        at = np.flatnonzero(hits.solid >= 0)
        p = origins[at] + hits.t[at, None] * directions[at]
        n = surface_normals(self._scene.solids, Hits(hits.t[at], hits.solid[at]), p)
        cos = np.abs(np.einsum("ni,ni->n", n, directions[at]))
        albedo = self._albedo[hits.solid[at]]
        # The echo fades with albedo, incidence and the square of the range; a weak one is lost more often.
        echo = albedo * (0.06 + 0.94 * cos) * (model.max_range_m / np.maximum(hits.t[at], 1.0)) ** 2
        kept = rng.random(len(at)) < 0.995 * np.clip(1 - np.exp(-1.6 * echo), 0, 1)
        kept &= ~((self._scene.material[hits.solid[at]] == Material.GLASS) & (rng.random(len(at)) < 0.8))
        at, cos, albedo = at[kept], cos[kept], albedo[kept]
        noise = rng.standard_normal(len(at)) * (model.noise_m + 0.001 * mixed[at])
        points = (mixed[at] + noise).astype(np.float32)[:, None] * local[at]
        intensity = np.clip(255 * albedo * (0.35 + 0.65 * cos) + rng.normal(0, 3, len(at)), 0, 255)
        firing = np.lexsort((ring[at], column[at]))
        at = at[firing]
        return Returns(
            points[firing],
            intensity[firing].astype(np.float32),
            ring[at].astype(np.uint16),
            self._column_time[column[at]].astype(np.float32),
        )

    @staticmethod
    def _directions(elevation: DoubleArray, azimuth: DoubleArray) -> FloatArray:
        flat = np.cos(elevation)
        parts = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)]
        return np.asarray(np.stack(parts, axis=1), dtype=np.float32)

    def _mixed(
        self,
        hits: Hits,
        ring: IntArray,
        column: IntArray,
        origins: FloatArray,
        rotations: FloatArray,
        rng: np.random.Generator,
    ) -> FloatArray:
        """(N,) ranges, of which some on edges lie between the two surfaces that the beam covers."""
        model = self._model
        t: FloatArray = hits.t.copy()
        grid = np.empty((model.rings, model.columns), np.float32)
        grid[ring, column] = np.where(np.isfinite(t), t, 1e3)
        jump = np.abs(grid - np.roll(grid, 1, axis=1)) > 0.15
        edge = np.flatnonzero((jump | np.roll(jump, -1, axis=1))[ring, column] & np.isfinite(t))
        if not len(edge):
            return t
        shift = rng.uniform(-0.5, 0.5, (2, len(edge))) * model.divergence_rad
        local = self._directions(self._elevation[ring[edge]] + shift[0], self._azimuth[column[edge]] + shift[1])
        directions = np.einsum("nij,nj->ni", rotations[edge], local)
        other = cast_rays(self._scene.solids, origins[edge], directions, model.max_range_m, group=16).t
        gap = np.abs(other - t[edge])
        # Echoes closer together than the pulse is long melt into one.
        melt = np.isfinite(other) & (gap > 0.05) & (gap < 1.8)
        weight = rng.random(len(edge)).astype(np.float32)
        blend = t[edge] * weight + np.where(melt, other, 0) * (1 - weight)
        t[edge] = np.where(melt, blend, np.minimum(t[edge], other))
        return np.asarray(t)
