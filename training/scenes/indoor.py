"""Rooms, corridors, offices, desks, and primitives floating anywhere."""

from __future__ import annotations

import numpy as np

from mf_training.scenes import palette
from mf_training.scenes.outdoor import rack
from mf_training.scenes.palette import Rng
from mf_training.scenes.shapes import SHAPES, Builder, Cut, Ground, Material, along
from mf_training.scenes.world import World, daylight, finish, lamplight, no_ground, rolling


def room(rng: Rng, complexity: float) -> World:
    """A furnished room, office, corridor or hall, seen from inside."""
    b = Builder()
    style = rng.random()
    length, width = (
        (rng.uniform(3.0, 9), rng.uniform(2.6, 7)) if style < 0.7 else (rng.uniform(8, 25), rng.uniform(1.6, 3))
    )
    height = rng.uniform(2.3, 3.3)
    # The camera stands near the back wall and looks along x.
    back = rng.uniform(0.3, 1.5) if style < 0.7 else rng.uniform(0.5, 3)
    side = rng.uniform(-0.35, 0.35) * width
    near, far, left, right = -back, length - back, width / 2 - side, -width / 2 - side
    shell = {"casts_shadow": False}
    middle, half = ((near + far) / 2, (left + right) / 2), (length / 2, width / 2)
    t = 0.1
    b.add("box", (*middle, -t), (*half, t), palette.floor(rng), **shell)
    b.add("box", (*middle, height + t), (*half, t), palette.plaster(rng), **shell)
    walls = palette.plaster(rng)
    for y in (left + t, right - t):
        b.add("box", (middle[0], y, height / 2), (half[0] + 2 * t, t, height / 2), walls, **shell)
    for x in (far + t, near - t):
        b.add(
            "box",
            (x, middle[1], height / 2),
            (t, half[1], height / 2),
            walls if rng.random() < 0.7 else palette.plaster(rng),
            **shell,
        )
    area = (near, far, right, left, height)
    _wall_things(b, rng, area, complexity)
    _furniture(b, rng, area, complexity)
    eye_height = rng.uniform(0.3, 1.8)
    pitch = rng.normal(0.12, 0.12) * (0.5 + eye_height / 2)
    if rng.random() < 0.3:
        pitch = _desk_before_camera(b, rng, eye_height)
    # The camera looks at some place in the far half of the room.
    aim = np.arctan2(rng.uniform(0.75 * right, 0.75 * left), rng.uniform(0.5, 1.0) * far)
    angles = (aim + rng.normal(0, 0.15), pitch, rng.normal(0, 0.04))
    return finish(b, no_ground(), lamplight(rng), (0.0, 0.0, eye_height), angles, indoors=True)


Area = tuple[float, float, float, float, float]


def _wall_things(b: Builder, rng: Rng, area: Area, complexity: float) -> None:
    """Doors, pictures, windows, radiators, boards, skirting, pipes and lamps along walls and ceiling."""
    near, far, right, left, height = area
    b.place((0, 0, 0))
    skirting = palette.bark(rng) if rng.random() < 0.5 else palette.plaster(rng)
    if rng.random() < 0.6:
        for y, s in ((left, -1), (right, 1)):
            b.add("box", ((near + far) / 2, y + s * 0.008, 0.04), ((far - near) / 2, 0.01, 0.05), skirting)
        b.add("box", (far - 0.008, (left + right) / 2, 0.04), (0.01, (left - right) / 2, 0.05), skirting)
    for _ in range(rng.poisson(5 * complexity) + 1):
        which = rng.integers(3)
        if which == 0:
            at, yaw = (far, rng.uniform(right + 0.5, left - 0.5)), 0.0
        else:
            at, yaw = (
                (rng.uniform(0.8, far - 0.4), left if which == 1 else right),
                np.pi / 2 if which == 1 else -np.pi / 2,
            )
        b.place((*at, 0), yaw)
        what = rng.random()
        if what < 0.25:
            wood = palette.thing(rng)
            b.add("box", (-0.02, 0, 1.0), (0.03, 0.42, 1.0), wood)
            for y in (0.46, -0.46):
                b.add("box", (-0.03, y, 1.02), (0.05, 0.05, 1.02), palette.bark(rng))
            b.add("ellipsoid", (-0.08, 0.35, 1.0), (0.05, 0.05, 0.02), palette.metal(rng))
        elif what < 0.55:
            w, h, z = rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.5), rng.uniform(1.2, 1.9)
            b.add("box", (-0.012, 0, z), (0.015, w, h), palette.thing(rng))
        elif what < 0.7:
            w = rng.uniform(0.4, 0.9)
            sky = Material((0.8, 0.85, 0.9), (0.5, 0.6, 0.5), "patches", 0.5, 0.2, 0.3, 0.1, "all")
            b.add("box", (-0.003, 0, 1.5), (0.005, w, 0.6), sky)
            for y in (-w, 0, w):
                b.add("box", (-0.03, y, 1.5), (0.04, 0.03, 0.65), palette.plaster(rng))
            for z in (0.88, 2.12):
                b.add("box", (-0.05, 0, z), (0.07, w + 0.03, 0.03), palette.plaster(rng))
        elif what < 0.85:
            b.add(
                "box",
                (-0.08, 0, 0.4),
                (0.06, rng.uniform(0.3, 0.8), 0.3),
                palette.plaster(rng),
                cut=Cut("bars", 0.08, 0.7, 0.6),
            )
        else:
            r = rng.uniform(0.02, 0.1)
            b.add("cylinder", (-r - 0.03, 0, height / 2), (r, r, height / 2), palette.metal(rng))
    b.place((0, 0, 0))
    for _ in range(rng.poisson(1.5)):
        x, y = rng.uniform(0.5, far), rng.uniform(right, left)
        lamp = Material((0.95, 0.93, 0.85), (0.9, 0.9, 0.85), "plain", 1.0, 0.02, 0.5)
        if rng.random() < 0.6:
            b.add("box", (x, y, height - 0.03), (0.6, 0.12, 0.04), lamp)
        else:
            b.add("cone", (x, y, height - 0.6), (0.2, 0.2, 0.12), lamp, taper=(0.8, 0))
            b.rod((x, y, height - 0.5), (x, y, height), 0.01, palette.metal(rng))
    if rng.random() < 0.25:
        y, r = rng.uniform(right + 0.2, left - 0.2), rng.uniform(0.04, 0.14)
        b.rod((near, y, height - r - 0.1), (far, y, height - r - 0.1), r, palette.metal(rng))


def _furniture(b: Builder, rng: Rng, area: Area, complexity: float) -> None:
    _near, far, right, left, _ = area
    narrow = left - right < 3.2
    for _ in range(rng.poisson((6 if narrow else 10) * complexity) + 3):
        x = rng.uniform(1.0, max(1.2, far - 0.3))
        against = rng.random() < (0.9 if narrow else 0.55)
        side = 1 if rng.random() < 0.5 else -1
        y = (left - 0.35 if side > 0 else right + 0.35) if against else rng.uniform(right + 0.6, left - 0.6)
        if np.hypot(x, y) < 1.3:
            continue
        yaw = (-side * np.pi / 2 if against else rng.uniform(0, 6.28)) + rng.normal(0, 0.04)
        if rng.random() < 0.2:
            x, yaw = far - 0.4, np.pi
        b.place((x, y, 0), yaw)
        what = rng.random()
        if what < 0.2:
            table(b, rng)
        elif what < 0.4:
            chair(b, rng)
        elif what < 0.58:
            shelf(b, rng)
        elif what < 0.7:
            half = (rng.uniform(0.2, 0.35), rng.uniform(0.25, 0.7), rng.uniform(0.35, 1.05))
            b.add("box", (0, 0, half[2]), half, palette.thing(rng))
            _clutter(b, rng, (0, 0, 2 * half[2]), half[0], half[1], int(rng.integers(0, 4)))
        elif what < 0.8:
            sofa(b, rng)
        elif what < 0.88:
            plant(b, rng)
        elif what < 0.93:
            rack(b, rng, rng.uniform(0.8, 1.8), rng.uniform(1.2, 2.2))
        else:
            _clutter(b, rng, (0, 0, 0), 0.5, 0.5, int(rng.integers(2, 7)), 2.5)


def table(b: Builder, rng: Rng) -> None:
    """A table with things on it, in the builder's frame."""
    w, d, h = rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.5), rng.uniform(0.4, 0.78)
    wood = palette.floor(rng).but(texture=palette.pick(rng, ("wood", "plain")), shine=0.2)
    if rng.random() < 0.8:
        b.add("box", (0, 0, h - 0.02), (d, w, 0.02), wood)
        for x in (d - 0.05, 0.05 - d):
            for y in (w - 0.05, 0.05 - w):
                b.add("box", (x, y, h / 2), (0.025, 0.025, h / 2), wood if rng.random() < 0.7 else palette.metal(rng))
    else:
        b.add("cylinder", (0, 0, h - 0.02), (d, d, 0.02), wood)
        b.add("cylinder", (0, 0, h / 2), (0.04, 0.04, h / 2), palette.metal(rng))
        b.add("cylinder", (0, 0, 0.02), (0.25, 0.25, 0.02), palette.metal(rng))
    _clutter(b, rng, (0, 0, h), d * 0.8, w * 0.8, int(rng.integers(1, 7)))


def chair(b: Builder, rng: Rng) -> None:
    """A chair with four legs or a swivel foot, in the builder's frame."""
    seat, h, back = palette.thing(rng), rng.uniform(0.42, 0.5), rng.uniform(0.75, 1.1)
    frame = palette.metal(rng) if rng.random() < 0.5 else palette.bark(rng)
    b.add("box", (0, 0, h), (0.21, 0.21, 0.025), seat)
    if rng.random() < 0.7:
        for x in (0.18, -0.18):
            for y in (0.18, -0.18):
                b.rod((x * 1.1, y * 1.1, 0), (x, y, h), 0.016, frame)
    else:
        b.rod((0, 0, 0.06), (0, 0, h), 0.03, frame)
        for k in range(5):
            a = k * 1.2566
            b.rod((0, 0, 0.1), (0.28 * np.cos(a), 0.28 * np.sin(a), 0.04), 0.02, frame)
    if rng.random() < 0.4:
        b.add(
            "box", (-0.2, 0, (h + back) / 2 + 0.05), (0.015, 0.2, (back - h) / 2), seat, cut=Cut("bars", 0.09, 0.4, 0.3)
        )
    else:
        b.add("box", (-0.2, 0, (h + back) / 2 + 0.08), (0.02, 0.2, (back - h) / 2 - 0.05), seat)
        for y in (0.17, -0.17):
            b.rod((-0.2, y, h), (-0.22, y, back), 0.014, frame)


def shelf(b: Builder, rng: Rng) -> None:
    """A shelf with books and boxes, open to the front (x), in the builder's frame."""
    w, d, h = rng.uniform(0.35, 0.9), rng.uniform(0.13, 0.25), rng.uniform(0.8, 2.2)
    wood = palette.floor(rng).but(texture=palette.pick(rng, ("wood", "plain")))
    for y in (w, -w):
        b.add("box", (0, y, h / 2), (d, 0.012, h / 2), wood)
    if rng.random() < 0.7:
        b.add("box", (-d, 0, h / 2), (0.008, w, h / 2), wood)
    step = rng.uniform(0.28, 0.42)
    for z in np.arange(0.08, h + 0.01, step):
        b.add("box", (0, 0, z), (d, w, 0.012), wood)
        y = -w + 0.03
        while z < h - 0.2 and y < w - 0.1 and rng.random() < 0.9:
            size = rng.uniform(0.02, 0.16)
            tall = rng.uniform(0.35, 0.9) * step / 2
            if rng.random() < 0.75:
                books = palette.thing(rng).but(texture="stripes", scale=rng.uniform(0.04, 0.12))
                b.add("box", (rng.uniform(-0.04, 0.02), y + size, z + 0.012 + tall), (d * 0.8, size, tall), books)
            y += 2 * size + rng.exponential(0.05)


def sofa(b: Builder, rng: Rng) -> None:
    """A sofa, an armchair or a bed, in the builder's frame."""
    cloth, w = palette.cloth(rng), rng.uniform(0.4, 1.05)
    b.add("box", (0, 0, 0.22), (0.42, w, 0.2), cloth)
    b.add("wedge", (-0.35, 0, 0.6), (0.14, w, 0.25), cloth, taper=(0.4, 0.05))
    for y in (w, -w):
        b.add("box", (0, y, 0.35), (0.42, 0.09, 0.28), cloth)
    for _ in range(int(rng.integers(0, 4))):
        b.add(
            "ellipsoid",
            (-0.15, rng.uniform(-0.8, 0.8) * w, 0.55),
            (0.09, 0.2, 0.18),
            palette.cloth(rng),
            rng.normal(0, 0.3),
        )


def plant(b: Builder, rng: Rng) -> None:
    """A pot plant, in the builder's frame."""
    pot, size = palette.thing(rng), rng.uniform(0.12, 0.25)
    b.add("cone", (0, 0, size), (size * 0.7, size * 0.7, size), pot, taper=(-0.35, 0))
    leaf = palette.leaves(rng)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(2, 5))):
            half = size * rng.uniform(0.7, 1.6, 3)
            b.add(
                "ellipsoid",
                (*rng.normal(0, size * 0.5, 2), 2 * size + half[2] * rng.uniform(0.4, 1.2)),
                half,
                leaf,
                cut=Cut("foliage", rng.uniform(0.3, 0.6), size, 0.3 * size, rng.uniform(0.02, 0.05)),
            )
    else:
        for _ in range(int(rng.integers(6, 12))):
            lean = rng.normal(0, 0.5, 2)
            reach = size * rng.uniform(1.5, 3.5)
            axes = along((*lean, 1.0))
            b.add(
                "ellipsoid", np.array([0, 0, 2 * size]) + axes[:, 2] * reach / 2, (0.025, 0.006, reach / 2), leaf, axes
            )


def _clutter(b: Builder, rng: Rng, base: tuple, depth: float, width: float, count: int, size: float = 1.0) -> None:
    """Things on a surface: boxes, books, cups, bottles, balls, monitors, lamps, bags."""
    for _ in range(count):
        x, y, z = base[0] + rng.uniform(-1, 1) * depth, base[1] + rng.uniform(-1, 1) * width, base[2]
        stuff, what, s = palette.thing(rng), rng.random(), size * rng.uniform(0.6, 1.4)
        if what < 0.35:
            half = s * np.array([rng.uniform(0.04, 0.15), rng.uniform(0.04, 0.18), rng.uniform(0.01, 0.15)])
            b.add("box", (x, y, z + half[2]), half, stuff, rng.uniform(0, 3.14))
        elif what < 0.5:
            r, h = s * rng.uniform(0.025, 0.05), s * rng.uniform(0.04, 0.13)
            b.add("cylinder", (x, y, z + h), (r, r, h), stuff)
            if h > 0.09:
                b.add("cone", (x, y, z + 2 * h + 0.02), (r, r, 0.04), stuff, taper=(0.7, 0))
        elif what < 0.6:
            r = s * 0.04
            b.add("cylinder", (x, y, z + 0.05 * s), (r, r, 0.05 * s), stuff)
            b.add("torus", (x, y + r, z + 0.05 * s), (0.03 * s,) * 3, stuff, along((1, 0, 0)), taper=(0.2, 0))
        elif what < 0.68:
            r = s * rng.uniform(0.03, 0.12)
            b.add("ellipsoid", (x, y, z + r), (r, r, r), stuff)
        elif what < 0.8:
            dark = Material(
                (0.02, 0.02, 0.022),
                (0.3, 0.35, 0.5),
                "patches" if rng.random() < 0.4 else "plain",
                0.1,
                0.1,
                0.35,
                0.05,
            )
            b.add("box", (x, y, z + 0.3), (0.02, 0.26, 0.16), dark)
            b.add("box", (x - 0.03, y, z + 0.1), (0.02, 0.03, 0.1), dark)
            b.add("box", (x - 0.03, y, z + 0.01), (0.1, 0.13, 0.01), dark)
        elif what < 0.88:
            b.rod((x, y, z), (x, y, z + 0.35 * s), 0.012, palette.metal(rng))
            b.add("cylinder", (x, y, z + 0.01), (0.08, 0.08, 0.012), palette.metal(rng))
            b.add("cone", (x, y, z + 0.4 * s), (0.13, 0.13, 0.09), stuff, taper=(0.5, 0))
        else:
            half = s * rng.uniform(0.06, 0.14, 3)
            b.add("ellipsoid", (x, y, z + half[2] * 0.8), half, palette.cloth(rng), rng.uniform(0, 3))


def _desk_before_camera(b: Builder, rng: Rng, eye: float) -> float:
    """A desk right before the camera; returns how far down the camera must look, radians."""
    top = max(0.3, eye - rng.uniform(0.35, 0.8))
    wood = palette.floor(rng).but(texture=palette.pick(rng, ("wood", "plain", "plain")), shine=0.15)
    x, d, w = rng.uniform(1.1, 1.9), rng.uniform(0.4, 0.7), rng.uniform(0.6, 1.3)
    b.place((x, rng.normal(0, 0.2), 0), rng.normal(0, 0.3))
    b.add("box", (0, 0, top - 0.02), (d, w, 0.02), wood)
    b.add("box", (0, w * 0.8, top / 2), (d * 0.9, 0.03, top / 2 - 0.02), wood)
    b.add("box", (0, -w * 0.8, top / 2), (d * 0.9, 0.03, top / 2 - 0.02), wood)
    _clutter(b, rng, (0, 0, top), d * 0.85, w * 0.85, int(rng.integers(5, 14)))
    return float(np.arctan2(eye - top, x) * rng.uniform(0.4, 1.0))


def floating(rng: Rng, complexity: float) -> World:
    """Primitives of every shape, size and material anywhere before the camera."""
    b = Builder()
    scale = float(np.exp(rng.uniform(np.log(0.3), np.log(2.0))))
    present = rng.random() < 0.6
    ground = no_ground()
    if present:
        ground = Ground(
            True,
            (rng.normal(0, 0.05), rng.normal(0, 0.05)),
            rolling(rng, 0.3 * scale, (3, 30), 4),
            palette.soil(rng),
            palette.soil(rng),
        )
    if rng.random() < 0.7:
        far = rng.uniform(10, 40) * scale
        b.place((far, 0, 0), rng.normal(0, 0.4), 0, 0)
        b.add("box", (1, 0, 0), (1, 60 * scale, 40 * scale), palette.wall(rng), casts_shadow=False)
    for _ in range(20 + int(70 * complexity)):
        x = scale * float(np.exp(rng.uniform(np.log(1.5), np.log(25))))
        b.place((x, rng.uniform(-0.9, 0.9) * x, rng.normal(1.0, 0.35 * x)), *rng.uniform(-1.6, 1.6, 3))
        half = 0.06 * x * np.exp(rng.normal(0, 0.8, 3))
        shape = SHAPES[int(rng.choice(6, p=(0.3, 0.12, 0.2, 0.2, 0.1, 0.08)))]
        if shape == "cylinder" and rng.random() < 0.5:
            half = np.array([0.006 * x, 0.006 * x, 0.4 * x])
        cut = (
            Cut("foliage", rng.uniform(0, 0.4), float(half[0]), float(0.2 * half[0]), float(0.15 * half[0]))
            if (shape == "ellipsoid" and rng.random() < 0.3)
            else Cut()
        )
        taper = (rng.uniform(0.08, 0.4), 0.0) if shape == "torus" else (rng.uniform(0, 0.95), rng.uniform(0, 0.95))
        b.add(shape, (0, 0, 0), half, palette.thing(rng).but(scale=float(half.max())), taper=taper, cut=cut)
    eye = (0.0, 0.0, ground.height(0, 0) + 1.2 * scale)
    return finish(b, ground, daylight(rng), eye, rng.normal(0, 0.1, 3))
