"""Things that stand outdoors, built from primitives: cars, trees, people, poles, fences, buildings.

Every function adds one object whose foot is at ``at`` (world, metres) and whose front looks along ``yaw``.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from mf_training.scenes import palette
from mf_training.scenes.palette import Rng
from mf_training.scenes.shapes import Builder, Cut, Material, along

Place = Sequence[float]

_TYRE = Material((0.02, 0.02, 0.02), (0.05, 0.05, 0.05), "plain", 0.3, 0.1, 0.0, 0.08)
_LAMP = Material((0.5, 0.45, 0.4), (0.5, 0.1, 0.08), "plain", 0.3, 0.1, 0.8, 0.9)


def car(b: Builder, rng: Rng, at: Place, yaw: float, detail: bool = True) -> None:
    """A passenger car or small van: body, tapered hood and cabin with windows, wheels, mirrors, plates."""
    b.place(at, yaw, rng.normal(0, 0.01), rng.normal(0, 0.01))
    paint = palette.paint(rng)
    van = rng.random() < 0.2
    length, width = rng.uniform(3.6, 4.9) + 0.6 * van, rng.uniform(1.65, 1.9)
    low, belt = rng.uniform(0.16, 0.26), rng.uniform(0.82, 1.0) + 0.15 * van
    height = rng.uniform(1.38, 1.6) + van * rng.uniform(0.2, 0.7)
    hood, trunk = rng.uniform(0.22, 0.3) * (0.6 if van else 1), rng.uniform(0.02, 0.2) * (0.3 if van else 1)
    front, back = length / 2 - hood * length, -length / 2 + trunk * length
    shoulder = belt - rng.uniform(0.12, 0.24)
    b.add(
        "wedge",
        (0, 0, (low + shoulder) / 2),
        (length / 2 - 0.06, width / 2, (shoulder - low) / 2),
        paint,
        taper=(0.02, 0.03),
    )
    b.add(
        "wedge",
        ((front + back) / 2, 0, (shoulder + belt) / 2),
        ((front - back) / 2 + 0.05, width / 2 * 0.985, (belt - shoulder) / 2),
        paint,
        taper=(0.02, 0.06),
    )
    # Hood, trunk and bumpers are rounded.
    for start, end in ((front, length / 2), (back, -length / 2)):
        b.add(
            "ellipsoid",
            (start, 0, shoulder - 0.06),
            (abs(end - start) * 1.02, width / 2 * 0.97, belt - shoulder + 0.07),
            paint,
        )
        b.add(
            "ellipsoid",
            (end * 0.93, 0, (low + shoulder) / 2),
            (length * 0.045, width / 2 * 0.98, (shoulder - low) * 0.45),
            paint,
        )
    cabin = paint.but(glass="cabin")
    rake = rng.uniform(0.3, 0.5) * (0.5 if van else 1)
    b.add(
        "wedge",
        ((front + back) / 2, 0, (belt + height) / 2 - 0.02),
        ((front - back) / 2, width / 2 * 0.94, (height - belt) / 2 + 0.02),
        cabin,
        taper=(rake, 0.2),
    )
    roof = (front - back) / 2 * (1 - rake) * 1.04
    b.add("ellipsoid", ((front + back) / 2, 0, height - 0.02), (roof, width / 2 * 0.78, 0.06), paint)
    radius = rng.uniform(0.29, 0.35)
    base = length * rng.uniform(0.28, 0.31)
    sideways = along((0, 1, 0))
    for x in (base, -base):
        sides = (1, -1) if detail else (0,)
        for side in sides:
            half = 0.11 if detail else width / 2 * 0.98
            b.add("cylinder", (x, side * (width / 2 - 0.1), radius), (radius, radius, half), _TYRE, sideways)
    if not detail:
        return
    b.add("box", (0, 0, low + 0.06), (length / 2 * 0.9, width / 2 * 0.85, 0.1), _TYRE)
    for side in (1, -1):
        b.add("ellipsoid", (front - 0.15, side * (width / 2 + 0.06), belt + 0.06), (0.07, 0.1, 0.07), paint)
        b.add("ellipsoid", (length / 2 - 0.12, side * width * 0.36, belt * 0.72), (0.14, 0.16, 0.08), _LAMP)
        b.add(
            "box",
            (-length / 2 + 0.05, side * width * 0.4, belt * 0.78),
            (0.06, 0.12, 0.09),
            _LAMP.but(colour=(0.4, 0.02, 0.02)),
        )
    for end in (1, -1):
        b.add("box", (end * (length / 2 - 0.02), 0, 0.45), (0.05, 0.26, 0.06), _LAMP.but(colour=(0.7, 0.7, 0.65)))


def truck(b: Builder, rng: Rng, at: Place, yaw: float) -> None:
    """A lorry or bus: a box on wheels, with or without a separate cab."""
    b.place(at, yaw)
    length, width, height = rng.uniform(5.5, 11), rng.uniform(2.2, 2.55), rng.uniform(2.5, 3.7)
    paint, side = palette.paint(rng), palette.paint(rng)
    side = side.but(
        texture="panes" if rng.random() < 0.4 else "patches",
        scale=rng.uniform(0.9, 1.6),
        second=palette.hue(rng, 0.5, 0.4),
    )
    cab = rng.uniform(1.6, 2.3)
    b.add("box", (-cab / 2 - 0.1, 0, (0.9 + height) / 2), ((length - cab) / 2, width / 2, (height - 0.9) / 2), side)
    b.add(
        "wedge",
        (length / 2 - cab / 2, 0, 1.6),
        (cab / 2, width / 2 * 0.96, 1.15),
        paint.but(glass="cabin"),
        taper=(0.2, 0.05),
    )
    b.add("box", (0, 0, 0.7), (length / 2 * 0.97, width / 2 * 0.4, 0.2), _TYRE)
    for x in (length / 2 - 1.0, -length / 2 + 1.0, -length / 2 + 2.2):
        for y in (1, -1):
            b.add("cylinder", (x, y * (width / 2 - 0.16), 0.48), (0.48, 0.48, 0.15), _TYRE, along((0, 1, 0)))


def tree(b: Builder, rng: Rng, at: Place, size: float = 1.0, blobs: int = 9, leafy: bool = True) -> None:
    """A trunk, a few branches and a cluster of porous crowns; without leaves only branches."""
    lean = rng.normal(0, 0.04)
    b.place(at, rng.uniform(0, 6.28), lean, rng.normal(0, 0.04))
    height = size * rng.uniform(4.5, 11.0)
    stem = height * rng.uniform(0.22, 0.5)
    radius = size * rng.uniform(0.07, 0.24)
    wood, leaf = palette.bark(rng), palette.leaves(rng)
    b.add("cone", (0, 0, height * 0.38 - 0.1), (radius, radius, height * 0.38 + 0.1), wood, taper=(0.65, 0))
    spread = rng.uniform(0.2, 0.42) * height
    branches = int(rng.integers(1, 4)) if leafy else int(rng.integers(5, 10))
    for _ in range(branches):
        angle, up = rng.uniform(0, 6.28), rng.uniform(0.3, 1.0)
        start = (0, 0, rng.uniform(stem * 0.8, height * 0.7))
        reach = spread * rng.uniform(0.6, 1.2)
        end = (reach * np.cos(angle), reach * np.sin(angle), start[2] + up * reach)
        b.rod(start, end, radius * rng.uniform(0.15, 0.4), wood)
    if not leafy:
        return
    clump = rng.uniform(0.5, 1.6)
    for _ in range(blobs):
        angle, r = rng.uniform(0, 6.28), spread * np.sqrt(rng.uniform(0, 0.8))
        z = rng.uniform(stem, height)
        taper = 1.0 - 0.5 * (z - stem) / (height - stem)
        half = np.array([1, 1, rng.uniform(0.6, 0.9)]) * spread * rng.uniform(0.3, 0.6) * (9 / blobs) ** 0.3
        cut = Cut("foliage", rng.uniform(0.15, 0.45), clump, float(0.5 * half[0]), rng.uniform(0.04, 0.12))
        b.add(
            "ellipsoid",
            (r * taper * np.cos(angle), r * taper * np.sin(angle), z),
            half,
            leaf,
            rng.uniform(0, 3),
            cut=cut,
        )


def bush(b: Builder, rng: Rng, at: Place, size: float) -> None:
    """A bush of a few rough, porous balls."""
    b.place(at, rng.uniform(0, 6.28))
    leaf = palette.leaves(rng)
    for _ in range(int(rng.integers(2, 6))):
        half = size * rng.uniform(0.35, 0.9, 3) * np.array([1, 1, 0.8])
        cut = Cut(
            "foliage",
            rng.uniform(0.1, 0.45),
            rng.uniform(0.2, 0.7) * size,
            float(0.5 * half[0]),
            rng.uniform(0.02, 0.06),
        )
        b.add("ellipsoid", (*rng.normal(0, size * 0.5, 2), half[2] * 0.7), half, leaf, rng.uniform(0, 3), cut=cut)


def hedge(b: Builder, rng: Rng, at: Place, yaw: float, length: float) -> None:
    """A cut hedge along x."""
    b.place(at, yaw)
    height, depth = rng.uniform(0.6, 2.2), rng.uniform(0.3, 0.7)
    cut = Cut("foliage", rng.uniform(0.02, 0.2), rng.uniform(0.3, 0.9), rng.uniform(0.08, 0.3), rng.uniform(0.04, 0.1))
    b.add("box", (0, 0, height / 2), (length / 2, depth, height / 2), palette.leaves(rng), cut=cut)


def grass_tuft(b: Builder, rng: Rng, at: Place, size: float) -> None:
    """Crossed cards of grass blades."""
    b.place(at, rng.uniform(0, 6.28))
    leaf = palette.leaves(rng)
    height = size * rng.uniform(0.25, 0.7)
    for k in range(2):
        cut = Cut("blades", rng.uniform(0.01, 0.05), rng.uniform(0.4, 0.9), height / 2)
        b.add("box", (0, 0, height / 2 - 0.03), (size, 0.004, height / 2), leaf, k * 1.4, cut=cut)


def thicket(b: Builder, rng: Rng, at: Place, yaw: float, length: float, height: float) -> None:
    """A wall of leaves along x: the edge of a wood or an overgrown verge, lumpy at every scale."""
    b.place(at, yaw)
    leaf = palette.leaves(rng)
    clump, fine = rng.uniform(0.2, 0.5) * height, rng.uniform(0.02, 0.05) * max(1.0, height / 3)
    for x in np.arange(-length / 2, length / 2, 0.45 * height):
        half = height * rng.uniform((0.3, 0.2, 0.35), (0.6, 0.5, 0.6))
        cut = Cut("foliage", rng.uniform(0.1, 0.35), float(clump), float(0.6 * half[1]), float(fine))
        mixed = leaf if rng.random() < 0.7 else palette.leaves(rng)
        where = (x, rng.normal(0, 0.2) * height, half[2] * rng.uniform(0.6, 1.0))
        b.add("ellipsoid", where, half, mixed, rng.uniform(0, 3), cut=cut)


def person(b: Builder, rng: Rng, at: Place, yaw: float) -> None:
    """A standing or walking pedestrian."""
    b.place(at, yaw)
    tall = rng.uniform(1.5, 1.9)
    top, legs, skin = palette.cloth(rng), palette.cloth(rng), Material(palette.shift(rng, (0.4, 0.25, 0.18), 0.4))
    stride = rng.uniform(0, 0.28)
    hip = tall * 0.5
    for side in (1, -1):
        b.rod((side * stride, side * 0.1, 0.0), (0, side * 0.09, hip), 0.075, legs)
        swing = rng.uniform(-0.25, 0.25)
        b.rod((0, side * 0.21, tall * 0.8), (swing, side * 0.26, tall * 0.48), 0.045, top)
    b.add("ellipsoid", (0, 0, tall * 0.66), (0.14, 0.22, tall * 0.2), top)
    b.add("ellipsoid", (0.02, 0, tall * 0.93), (0.1, 0.085, 0.125), skin)


def bicycle(b: Builder, rng: Rng, at: Place, yaw: float, rider: bool) -> None:
    """A bicycle, with a rider or leaning."""
    b.place(at, yaw, 0.0, 0.0 if rider else rng.normal(0, 0.12))
    frame = palette.thing(rng).but(texture="plain")
    upright = along((0, 1, 0))
    for x in (0.52, -0.52):
        b.add("torus", (x, 0, 0.34), (0.32, 0.32, 0.32), _TYRE, upright, taper=(0.07, 0))
    for start, end in (
        ((-0.52, 0, 0.34), (-0.1, 0, 0.75)),
        ((-0.1, 0, 0.75), (0.4, 0, 0.72)),
        ((0.52, 0, 0.34), (0.4, 0, 0.95)),
        ((-0.1, 0, 0.34), (0.4, 0, 0.7)),
        ((0.38, -0.25, 1.0), (0.38, 0.25, 1.0)),
    ):
        b.rod(start, end, 0.02, frame)
    b.add("ellipsoid", (-0.15, 0, 0.92), (0.13, 0.07, 0.04), _TYRE)
    if rider:
        top = palette.cloth(rng)
        b.rod((-0.12, 0.1, 0.95), (0.12, 0.1, 0.35), 0.07, palette.cloth(rng))
        b.rod((-0.12, -0.1, 0.95), (0.05, -0.1, 0.5), 0.07, palette.cloth(rng))
        b.add("ellipsoid", (0.02, 0, 1.25), (0.16, 0.2, 0.32), top, along((0.35, 0, 1)))
        b.add("ellipsoid", (0.16, 0, 1.68), (0.1, 0.09, 0.13), Material((0.3, 0.2, 0.15)))


def pole(b: Builder, rng: Rng, at: Place, yaw: float) -> None:
    """A lamp post, a traffic light or a bare mast."""
    b.place(at, yaw, *rng.normal(0, 0.01, 2))
    metal = palette.metal(rng)
    height, radius = rng.uniform(3.0, 9.0), rng.uniform(0.03, 0.14)
    b.add("cone", (0, 0, height / 2), (radius, radius, height / 2), metal, taper=(rng.uniform(0, 0.4), 0))
    what = rng.random()
    if what < 0.4:
        arm = rng.uniform(0.6, 2.4)
        b.rod((0, 0, height - 0.1), (0, arm, height + 0.3), 0.04, metal)
        b.add("ellipsoid", (0, arm, height + 0.28), (0.14, 0.35, 0.08), metal)
    elif what < 0.6:
        b.add("box", (0.1, 0, min(height, 3.4) - 0.5), (0.12, 0.15, 0.42), metal.but(colour=(0.03, 0.03, 0.03)))


def sign(b: Builder, rng: Rng, at: Place, yaw: float) -> None:
    """A traffic sign on a post: a strong reflector."""
    b.place(at, yaw + rng.normal(0, 0.15))
    height = rng.uniform(1.9, 2.8)
    b.add("cylinder", (0, 0, height / 2), (0.03, 0.03, height / 2), palette.metal(rng))
    face = Material(
        palette.hue(rng, 0.9, 0.6),
        (0.8, 0.8, 0.8),
        palette.pick(rng, ("patches", "stripes", "plain")),
        rng.uniform(0.2, 0.6),
        0.05,
        0.1,
        0.95,
    )
    size = rng.uniform(0.25, 0.45)
    if rng.random() < 0.5:
        b.add("cylinder", (-0.05, 0, height - size), (size, size, 0.012), face, along((1, 0, 0)))
    else:
        b.add("box", (-0.05, 0, height - size), (0.012, size * rng.uniform(0.7, 1.8), size), face)


def fence(b: Builder, rng: Rng, at: Place, yaw: float, length: float) -> None:
    """A railing, a mesh fence, a paling or a low wall, along x."""
    b.place(at, yaw)
    height = rng.uniform(0.8, 2.0)
    metal, wood = palette.metal(rng), palette.bark(rng)
    what = rng.random()
    if what < 0.4:
        period = rng.uniform(0.1, 0.16)
        cut = Cut("bars", period, rng.uniform(0.12, 0.3), height * 0.9)
        b.add("box", (0, 0, height * 0.55), (length / 2, 0.012, height * 0.45), metal, cut=cut)
    elif what < 0.6:
        cut = Cut("mesh", rng.uniform(0.06, 0.15), rng.uniform(0.1, 0.25))
        b.add("box", (0, 0, height / 2), (length / 2, 0.008, height / 2), metal, cut=cut)
    elif what < 0.8:
        cut = Cut("bars", rng.uniform(0.12, 0.3), rng.uniform(0.6, 0.9), height)
        b.add("box", (0, 0, height / 2), (length / 2, 0.02, height / 2), wood, cut=cut)
    else:
        b.add("box", (0, 0, height / 2 - 0.2), (length / 2, 0.12, height / 2 + 0.2), palette.wall(rng))
        return
    for x in np.arange(-length / 2, length / 2 + 0.1, rng.uniform(1.8, 3.0)):
        b.add("box", (x, 0, height / 2), (0.04, 0.04, height / 2 + 0.04), metal if what < 0.6 else wood)


def guard_rail(b: Builder, rng: Rng, at: Place, yaw: float, length: float) -> None:
    """A steel guard rail with its posts."""
    b.place(at, yaw)
    steel = palette.metal(rng).but(colour=(0.4, 0.4, 0.4), reflectivity=0.5)
    for z in (0.52, 0.68):
        b.add("cylinder", (0, 0, z), (0.085, 0.05, length / 2), steel, along((1, 0, 0)))
    for x in np.arange(-length / 2 + 0.5, length / 2, rng.choice([2.0, 4.0])):
        b.add("box", (x, -0.06, 0.35), (0.03, 0.05, 0.36), steel)


def bin_or_box(b: Builder, rng: Rng, at: Place, yaw: float) -> None:
    """Street furniture: a bin, a cabinet, a bench, a bollard, a hydrant or crates."""
    b.place(at, yaw)
    what, stuff = rng.random(), palette.thing(rng)
    if what < 0.3:
        h = rng.uniform(0.7, 1.2)
        b.add("wedge", (0, 0, h / 2), (0.3, 0.3, h / 2), stuff, taper=(-0.15, -0.15))
    elif what < 0.5:
        w, h = rng.uniform(0.2, 0.8), rng.uniform(0.8, 1.6)
        b.add("box", (0, 0, h / 2), (0.2, w, h / 2), stuff)
    elif what < 0.7:
        b.add("box", (0, 0, 0.45), (0.22, 0.8, 0.03), palette.bark(rng))
        b.add("box", (-0.2, 0, 0.7), (0.02, 0.8, 0.2), palette.bark(rng))
        for y in (0.6, -0.6):
            b.add("box", (0, y, 0.22), (0.2, 0.03, 0.22), palette.metal(rng))
    else:
        h = rng.uniform(0.5, 1.1)
        b.add("cylinder", (0, 0, h / 2), (0.09, 0.09, h / 2), stuff)
        b.add("ellipsoid", (0, 0, h), (0.09, 0.09, 0.07), stuff)


def building(b: Builder, rng: Rng, at: Place, yaw: float, length: float, detail: bool = True) -> None:
    """A house along x whose façade is the face at y = 0 towards -y: recessed windows, door, balconies, roof."""
    b.place(at, yaw)
    storey, storeys = rng.uniform(2.7, 3.6), int(rng.integers(1, 6))
    height, depth = storey * storeys + rng.uniform(0.3, 1.0), rng.uniform(6, 14)
    stone, recess = palette.wall(rng), rng.uniform(0.06, 0.3)
    bays = max(1, round(length / rng.uniform(2.2, 4.0)))
    if detail and rng.random() < 0.8:
        cut = Cut("windows", length / bays, storey, rng.uniform(0.3, 0.65), rng.uniform(0.4, 0.65))
        b.add(
            "box",
            (0, recess / 2, storey * storeys / 2),
            (length / 2, recess / 2, storey * storeys / 2),
            stone,
            cut=_aligned(cut, bays, storeys),
        )
        b.add(
            "box",
            (0, recess + 0.02 + depth / 2, storey * storeys / 2),
            (length / 2, depth / 2, storey * storeys / 2),
            palette.window_pane(rng),
        )
        b.add(
            "box",
            (0, depth / 2, (height + storey * storeys) / 2),
            (length / 2, depth / 2, (height - storey * storeys) / 2 + 0.01),
            stone,
        )
        if rng.random() < 0.5:
            b.add("box", (0, recess - 0.02, storey * 0.13), (length / 2, recess, storey * 0.13), palette.wall(rng))
    else:
        b.add(
            "box",
            (0, depth / 2, height / 2),
            (length / 2, depth / 2, height / 2),
            stone.but(texture="panes", scale=storey, glass="panes"),
        )
    if rng.random() < 0.7:
        rise = rng.uniform(1.0, 4.0)
        over = rng.uniform(0.1, 0.5)
        b.add(
            "wedge",
            (0, depth / 2, height + rise / 2),
            (length / 2 + over, depth / 2 + over, rise / 2),
            palette.wall(rng).but(texture="bricks", scale=0.6),
            taper=(0.0 if rng.random() < 0.6 else 0.5, 0.97),
        )
    if not detail:
        return
    door = rng.uniform(-0.4, 0.4) * length
    b.add("box", (door, -0.02, 1.05), (0.5, 0.05, 1.05), palette.thing(rng))
    b.add("box", (door, -0.2, 0.08), (0.8, 0.3, 0.1), palette.paving(rng))
    for _ in range(int(rng.integers(0, 5)) if storeys > 1 and rng.random() < 0.4 else 0):
        bay, level = rng.integers(bays), rng.integers(1, storeys)
        x, z = (bay + 0.5) * length / bays - length / 2, level * storey
        b.add("box", (x, -0.5, z), (1.0, 0.55, 0.08), stone)
        b.add("box", (x, -1.0, z + 0.5), (1.0, 0.015, 0.45), palette.metal(rng), cut=Cut("bars", 0.12, 0.2, 0.8))


def _aligned(cut: Cut, bays: int, storeys: int) -> Cut:
    """The same openings with whole periods on a panel centred on 0: see ``surfaces.windows`` for odd counts."""
    return Cut(cut.kind, cut.a if bays % 2 == 0 else -cut.a, cut.b if storeys % 2 == 0 else -cut.b, cut.c, cut.d)
