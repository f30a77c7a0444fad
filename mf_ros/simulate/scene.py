"""What a simulated world consists of: solids with a material each, and the parts that scenes are built from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import List, Sequence, Tuple

import numpy as np

from mf_ros.core.types import DoubleArray, FloatArray, IntArray
from mf_ros.simulate.geometry import Cone, Ellipsoid, Ground, Panel, Solid, Vec, box, frustum

Colour = Tuple[float, float, float]


class Material(IntEnum):
    """How a surface looks to the camera and to the LiDAR."""

    GROUND = 0
    PAVING = 1
    PLASTER = 2
    BRICK = 3
    ROOF = 4
    STONE = 5
    PAINT = 6
    GLASS = 7
    RUBBER = 8
    METAL = 9
    LEAVES = 10
    BARK = 11
    CLOTH = 12
    CONTAINER = 13
    WOOD = 14
    LAWN = 15
    LAMP = 16
    RETRO = 17


REFLECTIVITY: FloatArray = np.array(
    [0.22, 0.32, 0.5, 0.35, 0.25, 0.4, 0.45, 0.06, 0.07, 0.35, 0.45, 0.25, 0.45, 0.35, 0.4, 0.4, 0.6, 0.95], np.float32
)
"""Part of the near-infrared light that each material sends back, by ``Material``."""


@dataclass(frozen=True)
class Layout:
    """Where the ground's markings are.

    Attributes:
        style: "street" or "yard".
        center_y: middle of the road, metres.
        half_width: half of the carriageway with its parking strips, metres.
        crossings: x of the zebra crossings, metres.
    """

    style: str
    center_y: float
    half_width: float
    crossings: Tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """A still world in the fixed frame (metres, z up); the arrays are indexed by solid.

    Attributes:
        solids: what rays can meet.
        material: (M,) int32, see ``Material``.
        colour: (M, 3) float32 linear RGB.
        frame: (M, 3) float32 x, y and yaw of the object that each solid belongs to, for its texture.
        detail: (M, 4) float32: two lengths that the material uses, and two random numbers in [0, 1].
        layout: where the ground's markings are.
        sun: (3,) float32 unit vector towards the sun.
        haze_m: distance at which haze hides two thirds of a surface, metres.
        seed: of the textures.
    """

    solids: Sequence[Solid]
    material: IntArray
    colour: FloatArray
    frame: FloatArray
    detail: FloatArray
    layout: Layout
    sun: FloatArray
    haze_m: float
    seed: int


class SceneBuilder:
    """Collects solids; each method adds one object that stands on the ground."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._solids: List[Solid] = []
        self._material: List[int] = []
        self._colour: List[Colour] = []
        self._frame: List[Tuple[float, float, float]] = []
        self._detail: List[Tuple[float, float, float, float]] = []

    def add(
        self,
        solid: Solid,
        material: Material,
        colour: Colour,
        frame: Tuple[float, float, float] = (0.0, 0.0, 0.0),
        detail: Tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """Add one solid."""
        self._solids.append(solid)
        self._material.append(int(material))
        self._colour.append(colour)
        self._frame.append(frame)
        self._detail.append((*detail, float(self.rng.random()), float(self.rng.random())))

    def build(self, layout: Layout, sun: DoubleArray, haze_m: float, seed: int) -> Scene:
        """The finished scene."""
        return Scene(
            tuple(self._solids),
            np.array(self._material, np.int32),
            np.array(self._colour, np.float32),
            np.array(self._frame, np.float32),
            np.array(self._detail, np.float32),
            layout,
            (sun / np.linalg.norm(sun)).astype(np.float32),
            haze_m,
            seed,
        )

    def uniform(self, low: float, high: float) -> float:
        """One random number."""
        return float(self.rng.uniform(low, high))

    def choose(self, colours: Sequence[Colour]) -> Colour:
        """One of ``colours``, a little lighter or darker."""
        pick = np.asarray(colours[int(self.rng.integers(len(colours)))]) * self.uniform(0.85, 1.15)
        return (float(pick[0]), float(pick[1]), float(pick[2]))

    def ground(self) -> None:
        """The infinite ground plane."""
        self.add(Ground(), Material.GROUND, (0.1, 0.1, 0.1))

    def block(self, center: Vec, size: Vec, material: Material, colour: Colour, yaw: float = 0.0) -> None:
        """A box."""
        self.add(box(center, size, yaw), material, colour, (center[0], center[1], yaw))

    def car(self, x: float, y: float, yaw: float, colour: Colour, tall: bool = False) -> None:
        """A car, or a van when ``tall``, about 4.4 m long."""
        c, s = np.cos(yaw), np.sin(yaw)

        def at(u: float, v: float, z: float) -> Vec:
            return (float(x + c * u - s * v), float(y + s * u + c * v), z)

        frame = (x, y, yaw)
        length, width = (4.9, 1.9) if tall else (4.35, 1.76)
        self.add(frustum(at(0, 0, 0.62), (length, width, 0.62), yaw, 0.16, 0.1, 0.06), Material.PAINT, colour, frame)
        self.add(
            frustum(at(0, 0, 0.38), (length - 0.1, width, 0.3), yaw, -0.12, -0.1, 0), Material.PAINT, colour, frame
        )
        if tall:
            self.add(
                frustum(at(-0.35, 0, 1.45), (4.1, 1.84, 1.1), yaw, 0.75, 0.06, 0.14), Material.PAINT, colour, frame
            )
        else:
            self.add(frustum(at(-0.3, 0, 1.18), (2.75, 1.62, 0.52), yaw, 0.7, 0.5, 0.2), Material.GLASS, colour, frame)
            self.add(frustum(at(-0.38, 0, 1.45), (1.5, 1.2, 0.06), yaw, 0.1, 0.1, 0.06), Material.PAINT, colour, frame)
        for u in (-0.31 * length, 0.3 * length):
            for v in (-0.5, 0.5):
                outer, inner = at(u, v * (width + 0.03), 0.32), at(u, v * (width - 0.4), 0.32)
                self.add(Cone(inner, outer, 0.32), Material.RUBBER, (0.02, 0.02, 0.022), (outer[0], outer[1], yaw))

    def person(self, x: float, y: float, yaw: float) -> None:
        """A standing or walking person of round bars and ellipsoids."""
        size = self.uniform(0.92, 1.06)
        coat = self.choose(
            [(0.3, 0.05, 0.05), (0.05, 0.1, 0.28), (0.45, 0.4, 0.3), (0.05, 0.2, 0.12), (0.5, 0.33, 0.06)]
        )
        legs = self.choose([(0.04, 0.05, 0.09), (0.1, 0.08, 0.06), (0.03, 0.03, 0.03)])
        skin = self.choose([(0.6, 0.36, 0.25), (0.3, 0.16, 0.1), (0.48, 0.28, 0.2)])
        c, s, stride = np.cos(yaw), np.sin(yaw), self.uniform(0.05, 0.22)

        def at(u: float, v: float, z: float) -> Vec:
            return (float(x + c * u - s * v), float(y + s * u + c * v), z * size)

        frame = (x, y, yaw)
        for side in (-1.0, 1.0):
            self.add(
                Cone(at(side * stride, side * 0.09, 0.0), at(0, side * 0.09, 0.85), 0.06, 0.09),
                Material.CLOTH,
                legs,
                frame,
            )
            self.add(
                Cone(at(-side * stride * 0.8, side * 0.27, 0.78), at(0, side * 0.21, 1.4), 0.04, 0.055),
                Material.CLOTH,
                coat,
                frame,
            )
        self.add(Cone(at(0, 0, 0.8), at(0, 0, 1.38), 0.16, 0.2), Material.CLOTH, coat, frame)
        self.add(Ellipsoid(at(0, 0, 1.38), (0.21, 0.21, 0.1)), Material.CLOTH, coat, frame)
        self.add(Cone(at(0, 0, 1.4), at(0, 0, 1.54), 0.055), Material.CLOTH, skin, frame)
        self.add(Ellipsoid(at(0.01, 0, 1.62), (0.1, 0.095, 0.125)), Material.CLOTH, skin, frame)
        self.add(Ellipsoid(at(-0.015, 0, 1.665), (0.108, 0.103, 0.1)), Material.CLOTH, (0.03, 0.02, 0.015), frame)

    def tree(self, x: float, y: float, height: float) -> None:
        """A broad-leaved tree: trunk, limbs and overlapping leafy ellipsoids."""
        green = self.choose([(0.1, 0.19, 0.03), (0.14, 0.22, 0.04), (0.07, 0.16, 0.035), (0.2, 0.2, 0.03)])
        bark = (0.13, 0.095, 0.065)
        trunk = height * 0.45
        lean = (self.uniform(-0.2, 0.2), self.uniform(-0.2, 0.2))
        top = (x + lean[0], y + lean[1], trunk)
        self.add(Cone((x, y, 0), top, 0.034 * height**0.7, 0.022 * height**0.7), Material.BARK, bark, (x, y, 0))
        spread = height * 0.2
        for k in range(7):
            angle = k * 2.4 + self.uniform(-0.4, 0.4)
            out = spread * (0.0 if k == 0 else self.uniform(0.55, 1.05))
            z = height * (0.8 if k == 0 else self.uniform(0.5, 0.8))
            center = (x + lean[0] + out * np.cos(angle), y + lean[1] + out * np.sin(angle), z)
            r = height * self.uniform(0.12, 0.2)
            self.add(Cone(top, center, 0.05, 0.015), Material.BARK, bark, (x, y, 0))
            self.add(Ellipsoid(center, (r * 1.15, r * 1.15, r * 0.95), 0.47), Material.LEAVES, green, (x, y, 0))
            self.add(Ellipsoid(center, (r * 0.8, r * 0.8, r * 0.68), 0.56), Material.LEAVES, green, (x, y, 0))

    def conifer(self, x: float, y: float, height: float) -> None:
        """A conifer: a trunk and three leafy cones."""
        green = self.choose([(0.05, 0.12, 0.04), (0.04, 0.1, 0.05)])
        self.add(Cone((x, y, 0), (x, y, height * 0.3), 0.13), Material.BARK, (0.1, 0.075, 0.05), (x, y, 0))
        for low, high, r in ((0.12, 0.55, 0.24), (0.35, 0.78, 0.18), (0.6, 1.0, 0.12)):
            solid = Cone((x, y, height * low), (x, y, height * high), height * r, 0.03, 0.78)
            self.add(solid, Material.LEAVES, green, (x, y, 0))

    def hedge(self, x: float, y: float, length: float, yaw: float = 0.0) -> None:
        """A row of leafy bushes."""
        green = self.choose([(0.08, 0.16, 0.03), (0.1, 0.15, 0.05)])
        for u in np.arange(-length / 2 + 0.5, length / 2, 0.75):
            r = self.uniform(0.5, 0.65)
            center = (x + float(np.cos(yaw) * u), y + float(np.sin(yaw) * u), 0.45)
            self.add(Ellipsoid(center, (r, r, 0.62), 0.8), Material.LEAVES, green, (x, y, yaw))

    def lamp(self, x: float, y: float, reach: float) -> None:
        """A street lamp whose arm reaches along y."""
        grey = (0.16, 0.17, 0.18)
        self.add(Cone((x, y, 0), (x, y, 6.6), 0.085, 0.05), Material.METAL, grey, (x, y, 0))
        self.add(Cone((x, y, 6.55), (x, y + reach, 6.9), 0.035), Material.METAL, grey, (x, y, 0))
        self.add(Ellipsoid((x, y + reach, 6.87), (0.13, 0.34, 0.07)), Material.LAMP, (0.75, 0.74, 0.7), (x, y, 0))
        self.add(Cone((x, y, 0), (x, y, 0.5), 0.12), Material.METAL, grey, (x, y, 0))

    def sign(self, x: float, y: float, colour: Colour, round_plate: bool, facing: float = -1.0) -> None:
        """A traffic sign; ``facing`` -1 looks down the x axis."""
        self.add(Cone((x, y, 0), (x, y, 2.45), 0.03), Material.METAL, (0.35, 0.36, 0.37), (x, y, 0))
        front = x + 0.04 * facing
        if round_plate:
            self.add(Cone((x, y, 2.2), (front, y, 2.2), 0.3), Material.RETRO, colour, (x, y, 0), (2.2, 0.3))
        else:
            plate = box(((x + front) / 2, y, 2.2), (0.03, 0.55, 0.55))
            self.add(plate, Material.RETRO, colour, (x, y, 0), (2.2, 0.3))

    def wires(self, poles: Sequence[Tuple[float, float]], height: float) -> None:
        """Wooden poles with a cross-arm and two sagging wires between neighbours."""
        for x, y in poles:
            self.add(Cone((x, y, 0), (x, y, height + 0.5), 0.13, 0.1), Material.WOOD, (0.2, 0.15, 0.1), (x, y, 0))
            self.block((x, y, height), (0.1, 1.5, 0.12), Material.WOOD, (0.18, 0.13, 0.09))
        for (x0, y0), (x1, y1) in pairwise(poles):
            for side in (-0.65, 0.65):
                knots = np.linspace(0, 1, 6)
                sag = height + 0.08 - 4 * 0.45 * knots * (1 - knots)
                spots = [(x0 + (x1 - x0) * k, y0 + (y1 - y0) * k + side, z) for k, z in zip(knots, sag, strict=True)]
                for a, b in pairwise(spots):
                    self.add(Cone(a, b, 0.013), Material.RUBBER, (0.02, 0.02, 0.02))

    def fence(self, start: Tuple[float, float], end: Tuple[float, float], height: float, mesh: bool = False) -> None:
        """A fence of bars, or of wire mesh, with posts, in pieces of at most 3 m."""
        a, b = np.asarray(start), np.asarray(end)
        pieces = max(1, round(float(np.linalg.norm(b - a)) / 3.0))
        knots = [a + (b - a) * k / pieces for k in range(pieces + 1)]
        colour = (0.3, 0.32, 0.33) if mesh else (0.05, 0.07, 0.06)
        for p, q in pairwise(knots):
            panel = Panel((*p, 0.0), (*q, 0.0), height, 0.09 if mesh else 0.13, 0.006 if mesh else 0.022, mesh)
            self.add(panel, Material.METAL, colour, (p[0], p[1], 0))
        for p in knots:
            self.add(Cone((*p, 0.0), (*p, height + 0.06), 0.035), Material.METAL, colour, (p[0], p[1], 0))

    def bin(self, x: float, y: float, colour: Colour) -> None:
        """A wheeled waste bin."""
        self.add(
            frustum((x, y, 0.5), (0.55, 0.6, 0.96), 0.0, -0.06, -0.06, -0.05), Material.PAINT, colour, (x, y, 0), (0, 0)
        )
        self.add(box((x, y, 1.02), (0.64, 0.7, 0.07)), Material.PAINT, colour, (x, y, 0), (0, 0))

    def traffic_cone(self, x: float, y: float) -> None:
        """A striped traffic cone."""
        self.add(Cone((x, y, 0.03), (x, y, 0.72), 0.16, 0.03), Material.RETRO, (0.8, 0.16, 0.02), (x, y, 0), (0, 0))
        self.block((x, y, 0.02), (0.42, 0.42, 0.04), Material.RUBBER, (0.03, 0.03, 0.03))
