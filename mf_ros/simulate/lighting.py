"""Sun, sky and shadows: what light reaches a point, looked up in maps that are cast once per stretch of road."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.types import DoubleArray, FloatArray
from mf_ros.simulate.atmosphere import DAY, Light
from mf_ros.simulate.geometry import Ground, Polyhedron
from mf_ros.simulate.raycast import RayCaster, tile_order
from mf_ros.simulate.scene import Material, Scene
from mf_ros.simulate.textures import NoiseTile, sample

_STRETCH_M = 30.0
_VEILED_CELL_M = 0.2
_LAMP_REACH_M = 35.0
LAMP_COLOUR: FloatArray = np.array([20.0, 12.0, 5.4], np.float32)
"""Light of a street lamp at one metre, linear RGB."""
_FAR = np.float32(1e4)


class ShadowMap:
    """Distance from far away along one direction to the first surface, on a grid across that direction."""

    def __init__(
        self, caster: RayCaster, towards: FloatArray, low: DoubleArray, high: DoubleArray, cell_m: float
    ) -> None:
        up = np.array([0.0, 0.0, 1.0])
        right = np.cross(up, towards)
        right /= np.linalg.norm(right)
        self._axes = np.stack([right, np.cross(towards, right), towards]).astype(np.float32)
        corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
        seen = corners @ self._axes.T.astype(np.float64)
        self._origin = seen.min(axis=0)[:2].astype(np.float32)
        self._top = np.float32(seen[:, 2].max() + 60.0)
        self._cell = np.float32(cell_m)
        cols, rows = (int(np.ceil(n / cell_m)) + 1 for n in (seen.max(axis=0) - seen.min(axis=0))[:2])
        order = tile_order(rows, cols, 16, 16)
        u = (order % cols).astype(np.float32) * self._cell + self._origin[0]
        v = (order // cols).astype(np.float32) * self._cell + self._origin[1]
        origins = u[:, None] * self._axes[0] + v[:, None] * self._axes[1] + self._top * self._axes[2]
        down = np.broadcast_to(-self._axes[2], origins.shape)
        hits = caster.cast(origins, down, group=256)
        table = np.empty(rows * cols, np.float32)
        table[order] = np.where(np.isfinite(hits.t), hits.t, _FAR)
        self._table: FloatArray = table.reshape(rows, cols)
        self._moments: Optional[FloatArray] = None

    def _locate(self, points: FloatArray) -> Tuple[FloatArray, FloatArray, FloatArray]:
        at = points @ self._axes.T
        x = (at[:, 0] - self._origin[0]) / self._cell
        y = (at[:, 1] - self._origin[1]) / self._cell
        return x, y, self._top - at[:, 2]

    def sharp(self, points: FloatArray, bias: float) -> FloatArray:
        """(N,) part of the light that reaches ``points`` (N, 3): four comparisons, blended."""
        x, y, depth = self._locate(points)
        rows, cols = self._table.shape
        inside = (x >= 0) & (y >= 0) & (x < cols - 1) & (y < rows - 1)
        x, y = np.clip(x, 0, cols - 2), np.clip(y, 0, rows - 2)
        i, j = x.astype(np.int32), y.astype(np.int32)
        fx, fy = x - i, y - j
        flat, base, limit = self._table.reshape(-1), j * cols + i, depth - np.float32(bias)
        lit = (1 - fy) * ((1 - fx) * (flat[base] > limit) + fx * (flat[base + 1] > limit))
        base = base + cols
        lit += fy * ((1 - fx) * (flat[base] > limit) + fx * (flat[base + 1] > limit))
        return np.where(inside, lit, 1).astype(np.float32)

    def soft(self, points: FloatArray, bias: float) -> FloatArray:
        """(N,) part of the light that reaches ``points`` (N, 3), with edges a few cells wide.

        A bound from mean and variance of the depth nearby (Donnelly and Lauritzen, Variance Shadow Maps, 2006).
        """
        if self._moments is None:
            ceiling = self._table[self._table < _FAR].max(initial=0.0)
            near = np.minimum(self._table, ceiling)
            blurred = cv2.GaussianBlur(np.dstack([near, near * near]), (0, 0), 2.0)
            self._moments = np.asarray(blurred, dtype=np.float32)
        x, y, depth = self._locate(points)
        moments = sample(self._moments, x, y)
        behind = depth - np.float32(bias) - moments[:, 0]
        variance = np.maximum(moments[:, 1] - moments[:, 0] ** 2, np.float32(0.15))
        return np.where(behind <= 0, 1, variance / (variance + behind * behind)).astype(np.float32)


class Lighting:
    """The light of one scene.

    Args:
        scene: the world.
        cell_m: grid of the sun's shadow map, metres.
        light: the time of day.

    Attributes:
        colours: the time of day.
        noise: the scene's noise tile, shared with its materials.
    """

    def __init__(self, scene: Scene, cell_m: float = 0.055, light: Light = DAY) -> None:
        self.noise = NoiseTile(scene.seed)
        self.colours = light
        self._scene = scene
        self._solids = RayCaster(scene.solids)
        self._cell = max(_VEILED_CELL_M, cell_m) if light.veiled else cell_m
        self._lamps = [s.center for s, m in zip(scene.solids, scene.material, strict=True) if m == Material.LAMP]
        self._sky_cell = max(0.2, 2 * cell_m)
        # Round solids are thin or leafy: in the coarse maps of the sky's light they would only draw stains.
        self._bulky = RayCaster([s for s in scene.solids if isinstance(s, Polyhedron | Ground)])
        self._baked: Dict[int, Tuple[ShadowMap, List[ShadowMap]]] = {}
        steep = [(0.5 + 2.1 * k, 1.15) for k in range(3)]
        flat = [(0.2 + 2 * np.pi * k / 6, 0.5) for k in range(6)]
        self._sky = np.array(
            [[np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)] for a, e in steep + flat], np.float32
        )

    def _maps(self, x: float) -> Tuple[ShadowMap, List[ShadowMap]]:
        stretch = int(np.floor(x / _STRETCH_M))
        if stretch not in self._baked:
            self._baked.clear()
            low = np.array([stretch * _STRETCH_M - 12.0, -16.0, 0.0])
            high = np.array([(stretch + 1) * _STRETCH_M + 42.0, 19.0, 14.0])
            sun = ShadowMap(self._solids, self._scene.sun, low, high, self._cell)
            self._baked[stretch] = (sun, [ShadowMap(self._bulky, d, low, high, self._sky_cell) for d in self._sky])
        return self._baked[stretch]

    def light(
        self, points: FloatArray, normals: FloatArray, leafy: FloatArray, viewer_x: float
    ) -> Tuple[FloatArray, FloatArray]:
        """Light on surfaces.

        Args:
            points: (N, 3) metres.
            normals: (N, 3) unit, facing the viewer.
            leafy: (N,) 0 to 1: how much light passes through the surface.
            viewer_x: where along the road the viewer is; decides which shadow maps are used.

        Returns:
            (N, 3) linear RGB irradiance, and (N,) the part of the sun that is seen.
        """
        colours = self.colours
        sun_map, sky_maps = self._maps(viewer_x)
        facing = normals @ self._scene.sun
        lifted = points + normals * np.float32(0.3)
        if colours.veiled:
            seen = sun_map.soft(lifted, 0.1)
            facing = 0.75 * facing + 0.25
        else:
            seen = sun_map.sharp(points + normals * np.float32(0.05), 0.06)
        direct = np.maximum(facing, 0) * (1 - leafy) + leafy * (0.3 + 0.45 * np.abs(facing))
        light = (seen * direct)[:, None] * colours.sun
        sky = np.zeros(len(points), np.float32)
        total = 0.0
        for direction, table in zip(self._sky, sky_maps, strict=True):
            weight = np.maximum(normals @ direction, 0) * (1 - leafy) + leafy * np.float32(0.45)
            sky += weight * table.soft(lifted, 0.1)
            total += max(float(direction[2]), 0.0)
        light += (sky / np.float32(total))[:, None] * colours.ambient
        bounce = np.clip(0.55 - 0.45 * normals[:, 2], 0, 1) * (0.25 + 0.75 * sky / np.float32(total))
        light += bounce[:, None] * colours.bounce
        if colours.lamps:
            light += self._lamplight(points, normals, viewer_x)
        return light.astype(np.float32), seen

    def _lamplight(self, points: FloatArray, normals: FloatArray, viewer_x: float) -> FloatArray:
        """(N, 3) light of the street lamps nearby, without shadows."""
        total = np.zeros(len(points), np.float32)
        for lamp in self._lamps:
            if not -_LAMP_REACH_M < lamp[0] - viewer_x < 2 * _LAMP_REACH_M:
                continue
            to = lamp - points
            square = np.einsum("ni,ni->n", to, to) + np.float32(1.0)
            slant = np.maximum(np.einsum("ni,ni->n", to, normals), 0) / np.sqrt(square)
            # A lamp shines downwards.
            total += slant * np.clip(to[:, 2] / np.sqrt(square) + np.float32(0.1), 0, 1) / square
        return np.asarray(total[:, None] * (self.colours.lamps * LAMP_COLOUR), dtype=np.float32)

    def sky(self, directions: FloatArray) -> FloatArray:
        """(N, 3) linear RGB of the sky along unit ``directions`` (N, 3)."""
        return self.colours.sky(directions, self._scene.sun, self.noise)
