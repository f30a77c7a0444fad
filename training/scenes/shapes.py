"""Primitives of a scene as one table: where each stands, how it is cut, and what it is made of.

World frame: x forward, y left, z up, metres. A primitive is a unit shape in its own frame, stretched by half sizes:
box [-1, 1]^3; wedge = box whose x and y shrink towards the top; ellipsoid = unit ball; cylinder and cone along z;
torus around z with the major radius 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

SHAPES = ("box", "wedge", "ellipsoid", "cylinder", "cone", "torus")
SURFACES = ("solid", "foliage", "windows", "bars", "mesh", "blades")
TEXTURES = ("plain", "stripes", "checker", "bricks", "panes", "patches", "leaves", "wood", "planks", "asphalt", "grass")
GLASS = ("none", "all", "cabin", "panes")

# Columns of the table.
CENTRE, FRAME, HALF, TAPER, CUT = slice(0, 3), slice(3, 12), slice(12, 15), slice(15, 17), slice(17, 21)
SHAPE, SURFACE, PHASE, CASTS_SHADOW = 21, 22, 23, 24
COLOUR, SECOND, TEXTURE, SCALE, CONTRAST, SHINE, REFLECTIVITY, GLAZING = (
    slice(25, 28),
    slice(28, 31),
    31,
    32,
    33,
    34,
    35,
    36,
)
COLUMNS = 37

Table = npt.NDArray[np.float32]
Triple = Tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """Look of a surface, and how it answers a LiDAR.

    ``colour`` and ``second``: linear RGB in [0, 1]; ``scale``: size of the texture, metres; ``reflectivity`` in [0, 1]
    at the LiDAR's wavelength; ``glass``: which part lets the beam through.
    """

    colour: Triple = (0.5, 0.5, 0.5)
    second: Triple = (0.3, 0.3, 0.3)
    texture: str = "plain"
    scale: float = 1.0
    contrast: float = 0.3
    shine: float = 0.0
    reflectivity: float = 0.4
    glass: str = "none"

    def but(self, **changes: Union[float, str, Triple]) -> Material:
        """The same material with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cut:
    """What is missing from a surface, so that rays pass.

    foliage: a = part that is open, b = size of the clumps (m), c = depth of the roughness (m), d = size of a leaf (m);
    windows: a, b = period along x and z (m), c, d = open part of each period;
    bars: a = period (m), b = solid part, c = height of the rails (m); mesh: a = period (m), b = solid part;
    blades: a = width of a blade (m), b = solid part at the foot.
    """

    kind: str = "solid"
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


SOLID = Cut()


def turn(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> npt.NDArray[np.float64]:
    """(3, 3) rotation from a body (x forward, y left, z up) to the world: roll, then pitch (nose down), then yaw."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return rz @ ry @ rx


def along(direction: Sequence[float]) -> npt.NDArray[np.float64]:
    """(3, 3) rotation whose z axis is the given direction."""
    z = np.asarray(direction, np.float64)
    z = z / np.linalg.norm(z)
    helper = np.array([1.0, 0, 0]) if abs(z[0]) < 0.9 else np.array([0, 1.0, 0])
    x = np.cross(helper, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


class Builder:
    """Collects primitives; ``frame`` moves whatever is added next (position and rotation of an object)."""

    def __init__(self) -> None:
        self._rows: List[npt.NDArray[np.float64]] = []
        self.place((0.0, 0.0, 0.0))

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, position: Sequence[float], yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> None:
        """Make this the frame of all parts that are added from now on."""
        self._origin, self._turn = np.asarray(position, np.float64), turn(yaw, pitch, roll)

    def add(
        self,
        shape: str,
        centre: Sequence[float],
        half: Sequence[float],
        material: Material,
        rotation: Union[float, npt.NDArray[np.float64]] = 0.0,
        taper: Tuple[float, float] = (0.0, 0.0),
        cut: Cut = SOLID,
        casts_shadow: bool = True,
    ) -> None:
        """Add a primitive: centre and half sizes in metres, rotation as a yaw or a matrix, all in the current frame.

        ``taper``: wedge = parts of x and y lost at the top; cone = part of the radius lost at the top;
        torus = minor radius over major radius.
        """
        local = rotation if isinstance(rotation, np.ndarray) else turn(float(rotation))
        size = np.maximum(np.asarray(half, np.float64), 1e-3)
        row = np.zeros(COLUMNS)
        row[CENTRE] = self._origin + self._turn @ np.asarray(centre, np.float64)
        row[FRAME] = ((self._turn @ local).T / size[:, None]).reshape(-1)
        row[HALF], row[TAPER], row[CUT] = size, taper, (cut.a, cut.b, cut.c, cut.d)
        row[SHAPE], row[SURFACE] = SHAPES.index(shape), SURFACES.index(cut.kind)
        row[PHASE], row[CASTS_SHADOW] = (len(self._rows) * 0.618034) % 1.0, casts_shadow
        row[COLOUR], row[SECOND] = material.colour, material.second
        row[TEXTURE], row[SCALE], row[CONTRAST] = TEXTURES.index(material.texture), material.scale, material.contrast
        row[SHINE], row[REFLECTIVITY], row[GLAZING] = material.shine, material.reflectivity, GLASS.index(material.glass)
        self._rows.append(row)

    def rod(self, start: Sequence[float], end: Sequence[float], radius: float, material: Material) -> None:
        """Add a thin cylinder between two points (current frame)."""
        a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
        length = float(np.linalg.norm(b - a))
        if length > 1e-6:
            self.add("cylinder", (a + b) / 2, (radius, radius, length / 2), material, along(b - a))

    def table(self) -> Table:
        """(P, COLUMNS) float32, ordered by shape and surface."""
        if not self._rows:
            return np.zeros((0, COLUMNS), np.float32)
        rows = np.stack(self._rows)
        order = np.argsort(rows[:, SHAPE] * len(SURFACES) + rows[:, SURFACE], kind="stable")
        return rows[order].astype(np.float32)


def classes(table: Table) -> Dict[Tuple[int, int], npt.NDArray[np.int64]]:
    """Row numbers of each (shape, surface) that occurs."""
    code = (table[:, SHAPE] * len(SURFACES) + table[:, SURFACE]).astype(int)
    return {divmod(int(c), len(SURFACES)): np.flatnonzero(code == c) for c in np.unique(code)}  # type: ignore[misc]


@dataclass(frozen=True)
class Ground:
    """Height of the ground, z = base + slope . (x, y) + sum of waves; ``present`` False = there is none.

    ``waves`` (N, 4): wave numbers along x and y (1/m), phase, amplitude (m). ``lanes`` describes what is painted on it:
    half width of the road, offset, width of a lane, curvature and heading of the road.
    """

    present: bool
    slope: Tuple[float, float]
    waves: npt.NDArray[np.float32]
    material: Material
    verge: Material
    lanes: Tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    base: float = 0.0

    def height(self, x: float, y: float) -> float:
        """Height (m) at a place."""
        kx, ky, phase, amplitude = np.asarray(self.waves, np.float64).T
        wave = float(np.sum(amplitude * np.sin(kx * x + ky * y + phase)))
        return self.base + self.slope[0] * x + self.slope[1] * y + wave
