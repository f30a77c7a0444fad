"""A camera that renders through its real lens model."""

from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.types import BoolArray, ByteArray, DoubleArray, FloatArray, IntArray
from mf_ros.simulate.lighting import Lighting
from mf_ros.simulate.materials import look_of
from mf_ros.simulate.raycast import Hits, RayCaster, surface_normals, tile_order
from mf_ros.simulate.scene import Material, Scene

_SUBSAMPLES = {
    2: ((0.25, 0.25), (-0.25, -0.25)),
    4: ((0.125, 0.375), (-0.375, 0.125), (-0.125, -0.375), (0.375, -0.125)),
}
_LEAFY = np.array([0.9 if m == Material.LEAVES else 0.25 if m == Material.LAWN else 0.0 for m in Material], np.float32)


class Camera:
    """A global-shutter camera in a scene.

    Rays come from ``CameraModel.rays()``, so the picture has the lens distortion of the model. Pixels on edges get more
    rays; depth is that of the pixel's centre.
    """

    def __init__(self, scene: Scene, camera: CameraModel, lighting: Lighting) -> None:
        self._scene, self._camera, self._lighting = scene, camera, lighting
        self._caster = RayCaster(scene.solids)
        rays = np.asarray(camera.rays(), np.float32)
        self._seen: BoolArray = np.asarray(np.isfinite(rays).all(axis=2))
        rays = np.where(self._seen[..., None], rays, np.array([0, 0, 1], np.float32)).astype(np.float32)
        down, across = np.gradient(rays, axis=(0, 1))
        self._more = lighting.colours.edge_rays
        shifted = np.stack([rays + dx * across + dy * down for dx, dy in _SUBSAMPLES[self._more]], axis=2)
        self._fine_rays = shifted.reshape(-1, self._more, 3).astype(np.float32)
        self._rays = rays.reshape(-1, 3)
        self._per_metre = np.float32(1.0) / np.linalg.norm(self._rays, axis=1)
        self._order = tile_order(camera.height, camera.width, 16, 16)
        self._pixel = (np.sqrt(np.linalg.norm(across, axis=2) * np.linalg.norm(down, axis=2))).reshape(-1)
        # Not zero where the lens sees nothing.
        self._pixel = np.maximum(self._pixel * self._per_metre, 1e-9).astype(np.float32)
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
        pixels = np.repeat(chosen, self._more)
        extra = self._shade(T_world_optical, rays, pixels, self._shoot(T_world_optical, rays, 128))
        total = colour[chosen] + extra.reshape(-1, self._more, 3).sum(axis=1)
        colour[chosen] = total / (1 + self._more)
        colour[~self._seen.reshape(-1)] = 0
        return self._develop(colour.reshape(*shape, 3), rng), self._depth(hits)

    def _shoot(self, pose: DoubleArray, rays: FloatArray, group: int) -> Hits:
        directions = rays @ pose[:3, :3].T.astype(np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return self._caster.cast(pose[:3, 3].astype(np.float32), directions, group=group)

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
        scene, light_of = self._scene, self._lighting.colours
        directions = rays @ pose[:3, :3].T.astype(np.float32)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        colour = np.empty_like(directions)
        sky = np.flatnonzero(hits.solid < 0)
        colour[sky] = self._lighting.sky(directions[sky])
        at = np.flatnonzero(hits.solid >= 0)
        if not len(at):
            return np.asarray(colour)
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
        if light_of.lamps and look.shine is not None:
            surface += look.shine * np.float32(light_of.lamps)
        haze = np.exp(-t / np.float32(scene.haze_m))[:, None]
        colour[at] = surface * haze + light_of.haze * np.float32(0.9) * (1 - haze)
        return np.asarray(colour)

    def _reflect(
        self, surface: FloatArray, d: FloatArray, n: FloatArray, gloss: FloatArray, seen: FloatArray
    ) -> FloatArray:
        cos = np.clip(-np.einsum("ni,ni->n", d, n), 0, 1)
        mirrored = d + 2 * cos[:, None] * n
        above = self._lighting.sky(mirrored)
        # What a low reflection meets is taken to be the houses across the street.
        open_sky = np.clip((mirrored[:, 2] - 0.22) * 5, 0, 1)[:, None]
        seen_there = above * open_sky + self._lighting.colours.facade * (1 - open_sky)
        fresnel = gloss * (0.1 + 0.9 * (1 - cos) ** 4)
        glint = gloss * seen * np.clip(mirrored @ self._scene.sun, 0, 1) ** 90 * 5
        w = fresnel[:, None]
        return np.asarray(surface * (1 - w) + np.minimum(seen_there, 1.6) * w + glint[:, None], dtype=np.float32)

    def _develop(self, linear: FloatArray, rng: np.random.Generator) -> ByteArray:
        light = self._lighting.colours
        x = cv2.GaussianBlur(linear, (0, 0), 0.45) * self._vignette * np.float32(light.exposure)
        # Fit of a film curve (Narkowicz, ACES Filmic Tone Mapping Curve, 2015).
        x = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        if light.grain:
            # As by the reconstruction of colours from the sensor's mosaic, at the same strength.
            noise = cv2.GaussianBlur(noise, (0, 0), light.grain) * np.float32(2 * np.sqrt(np.pi) * light.grain)
        x = x + np.sqrt(light.noise[0] + light.noise[1] * x) * noise
        x = np.clip(x, 0, 1) ** np.float32(1 / 2.2)
        return np.asarray(np.rint(x * 255), dtype=np.uint8)
