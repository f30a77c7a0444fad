"""The scenes on offer: a street and a works yard, both random and the same for the same seed."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mf_ros.errors import ConfigError
from mf_ros.simulate.geometry import Ellipsoid, box, frustum
from mf_ros.simulate.scene import Layout, Material, Scene, SceneBuilder

Style = Literal["street", "yard"]

_WALLS = (
    (0.62, 0.54, 0.42),
    (0.66, 0.62, 0.55),
    (0.55, 0.42, 0.32),
    (0.5, 0.53, 0.5),
    (0.68, 0.58, 0.38),
    (0.48, 0.5, 0.56),
    (0.6, 0.44, 0.38),
)
_BRICKS = ((0.34, 0.13, 0.085), (0.42, 0.2, 0.13), (0.3, 0.16, 0.12), (0.45, 0.3, 0.2))
_CARS = (
    (0.5, 0.02, 0.02),
    (0.03, 0.08, 0.3),
    (0.55, 0.56, 0.58),
    (0.02, 0.02, 0.025),
    (0.75, 0.75, 0.73),
    (0.05, 0.2, 0.18),
    (0.25, 0.27, 0.3),
    (0.6, 0.35, 0.05),
)
_CONTAINERS = ((0.45, 0.08, 0.05), (0.04, 0.15, 0.35), (0.05, 0.28, 0.14), (0.5, 0.28, 0.04), (0.4, 0.42, 0.43))
_TILES = ((0.28, 0.1, 0.06), (0.12, 0.12, 0.13), (0.22, 0.13, 0.1))
_CONCRETE = (0.42, 0.41, 0.39)


def make_scene(style: Style, seed: int, length: float) -> Scene:
    """Build a scene around a drive along +x that starts at the origin.

    Args:
        style: "street" or "yard".
        seed: of everything random in it.
        length: how far the drive goes, metres.

    Raises:
        ConfigError: ``style`` is not known.
    """
    builder = SceneBuilder(np.random.default_rng([seed, 11]))
    if style == "street":
        return _street(builder, seed, length)
    if style == "yard":
        return _yard(builder, seed, length)
    raise ConfigError(f"Unknown scene style '{style}': use 'street' or 'yard'.")


def _street(b: SceneBuilder, seed: int, length: float) -> Scene:
    center, half, walk = 1.9, 5.6, 3.6
    start, end = -25.0, length + 100.0
    right, left = center - half, center + half
    crossings = tuple(float(x) for x in np.arange(b.uniform(18, 23), end, 47.0))
    b.ground()
    for x in np.arange(start, end, 12.0):
        for inner, side in ((right, -1.0), (left, 1.0)):
            y = inner + side * walk / 2
            b.block((x + 6, y, 0.06), (12.0, walk - 0.36, 0.12), Material.PAVING, (0.37, 0.35, 0.33))
            b.block((x + 6, inner + side * 0.09, 0.065), (12.0, 0.18, 0.13), Material.STONE, (0.45, 0.44, 0.42))
            b.block(
                (x + 6, inner + side * (walk - 0.09), 0.065), (12.0, 0.18, 0.13), Material.STONE, (0.36, 0.35, 0.34)
            )
    for inner, side in ((right, -1.0), (left, 1.0)):
        _house_row(b, start, end, inner + side * walk, side)
        _parked_cars(b, start, end, inner - side * 1.05, side, crossings)
        _kerbside(b, start, end, inner, side, crossings)
    lane_y = left + 0.55
    b.wires([(float(x), lane_y) for x in np.arange(start + 4, min(end, length + 75), 21.0)], 6.9)
    for x in np.arange(12.0 + b.uniform(0, 5), length + 60, 19.0):
        b.person(float(x), b.uniform(right - 2.9, right - 1.5), b.uniform(-0.3, 0.3) + np.pi * b.rng.integers(2))
        b.person(float(x) + b.uniform(3, 9), b.uniform(left + 1.4, left + 2.9), np.pi * b.rng.integers(2))
    b.person(crossings[0] + b.uniform(-0.8, 0.8), center + b.uniform(0.6, 2.2), np.pi / 2)
    b.car(length + 28 + b.uniform(0, 6), center + 1.75, np.pi, b.choose(_CARS))
    b.car(length + 15 + b.uniform(0, 4), center - 1.7, 0.0, b.choose(_CARS), tall=True)
    for x, y, r in ((end + 60, 40, 60), (end + 90, -50, 75), (end + 50, -5, 40)):
        b.add(Ellipsoid((x, y, -6), (40, r, 22)), Material.LAWN, (0.09, 0.14, 0.06))
    azimuth = b.uniform(0.55, 1.0) * (1 if b.rng.random() < 0.5 else -1) + np.pi * (b.rng.random() < 0.35)
    sun = np.array([np.cos(azimuth), np.sin(azimuth), b.uniform(0.75, 1.1)])
    return b.build(Layout("street", center, half, crossings), sun, b.uniform(320, 600), seed)


def _house_row(b: SceneBuilder, start: float, end: float, edge: float, side: float) -> None:
    x = start
    last_gap = False
    while x < end:
        width = b.uniform(9.0, 15.0)
        if not last_gap and b.rng.random() < 0.24:
            _garden(b, x, width, edge, side)
            last_gap = True
        else:
            _house(b, x, width, edge + side * float(b.rng.choice([0.0, 0.0, 0.5])), side)
            last_gap = False
        x += width


def _house(b: SceneBuilder, x: float, width: float, edge: float, side: float) -> None:
    floors, floor = int(b.rng.integers(2, 6)), b.uniform(2.9, 3.3)
    depth, height = 9.0, floors * floor + 0.9
    brick = b.rng.random() < 0.4
    colour = b.choose(_BRICKS if brick else _WALLS)
    trim = (0.55, 0.53, 0.5) if brick else b.choose([(0.5, 0.47, 0.42), (0.7, 0.68, 0.64)])
    mid = (x + width / 2, edge + side * depth / 2)
    cells = max(3, round(width / b.uniform(2.1, 2.9)))
    frame, detail = (x, edge, 0.0), (width / cells, floor)
    wall = box((*mid, height / 2), (width, depth, height))
    b.add(wall, Material.BRICK if brick else Material.PLASTER, colour, frame, detail)
    b.block((mid[0], edge - side * 0.02, 0.35), (width, 0.12, 0.7), Material.STONE, (0.3, 0.29, 0.28))
    b.block((mid[0], edge - side * 0.12, height - 0.15), (width, 0.5, 0.3), Material.STONE, trim)
    if b.rng.random() < 0.55:
        roof = frustum((*mid, height + 1.3), (width, depth + 0.5, 2.6), 0.0, 0.0, 0.0, 4.0)
        b.add(roof, Material.ROOF, b.choose(_TILES), frame)
        b.block((x + b.uniform(1, width - 1), mid[1] + side, height + 2.4), (0.7, 0.6, 1.9), Material.BRICK, _BRICKS[1])
    balconies = b.rng.random() < 0.5
    for level in range(1, floors):
        for cell in range(cells):
            if balconies and (cell % 3 == 1):
                at = x + (cell + 0.5) * width / cells
                z = 0.9 + level * floor
                b.block((at, edge - side * 0.5, z + 0.05), (2.0, 1.0, 0.12), Material.STONE, trim)
                _railing(b, at, edge - side * 0.97, z + 0.1)
    door = x + (int(b.rng.integers(cells)) + 0.5) * width / cells
    b.block((door, edge - side * 0.35, 2.95), (1.9, 0.8, 0.1), Material.METAL, (0.12, 0.12, 0.13))
    b.block(
        (door, edge - side * 0.03, 1.3),
        (1.15, 0.12, 2.5),
        Material.WOOD,
        b.choose([(0.2, 0.08, 0.03), (0.04, 0.12, 0.1)]),
    )


def _railing(b: SceneBuilder, x: float, y: float, z: float) -> None:
    b.block((x, y, z + 0.45), (2.0, 0.04, 0.9), Material.GLASS, (0.2, 0.25, 0.27))
    b.block((x, y, z + 0.93), (2.04, 0.07, 0.06), Material.METAL, (0.2, 0.2, 0.21))


def _garden(b: SceneBuilder, x: float, width: float, edge: float, side: float) -> None:
    b.fence((x, edge), (x + width, edge), 1.5)
    b.block((x + width / 2, edge + side * 4.6, 0.03), (width, 8.8, 0.06), Material.LAWN, (0.1, 0.17, 0.04))
    b.block((x + width / 2, edge + side * 9.5, 1.1), (width, 0.25, 2.2), Material.BRICK, b.choose(_BRICKS), 0.0)
    b.hedge(x + width / 2, edge + side * 1.1, width - 1.0)
    for at in np.arange(x + 2.5, x + width - 1.5, 4.2):
        y = edge + side * b.uniform(3.5, 6.0)
        if b.rng.random() < 0.4:
            b.conifer(float(at), y, b.uniform(5, 9))
        else:
            b.tree(float(at), y, b.uniform(5, 8))


def _parked_cars(
    b: SceneBuilder, start: float, end: float, y: float, side: float, crossings: tuple[float, ...]
) -> None:
    yaw = 0.0 if side < 0 else np.pi
    for x in np.arange(start + b.uniform(0, 4), min(end, end - 20), 5.9):
        clear = all(abs(x - c) > 5.5 for c in crossings)
        if clear and b.rng.random() < 0.55:
            colour = b.choose(_CARS)
            b.car(
                float(x) + b.uniform(-0.3, 0.3),
                y + b.uniform(-0.1, 0.1),
                yaw + b.uniform(-0.02, 0.02),
                colour,
                b.rng.random() < 0.15,
            )


def _kerbside(
    b: SceneBuilder, start: float, end: float, edge: float, side: float, crossings: tuple[float, ...]
) -> None:
    for x in np.arange(start + b.uniform(0, 6), end, 23.0):
        if side < 0:
            b.lamp(float(x), edge + side * 0.5, 1.6)
        b.tree(float(x) + 9.0 + b.uniform(-1, 1), edge + side * 0.75, b.uniform(5.5, 7.5))
    for x in np.arange(start + b.uniform(0, 9), end, 15.0):
        what = int(b.rng.integers(5))
        y = edge + side * 0.5
        if what == 0:
            b.bin(float(x), y - side * 0.05, b.choose([(0.05, 0.16, 0.07), (0.06, 0.08, 0.2), (0.12, 0.12, 0.12)]))
        elif what == 1:
            b.sign(float(x), y, b.choose([(0.02, 0.1, 0.45), (0.55, 0.03, 0.03)]), b.rng.random() < 0.6, side)
        elif what == 2:
            b.traffic_cone(float(x), edge - side * 0.3)
    for x in crossings:
        b.sign(x - 2.4, edge + side * 0.45, (0.02, 0.1, 0.45), False)
        for offset in (-2.2, 2.2):
            b.block((x + offset, edge + side * 0.45, 0.5), (0.14, 0.14, 1.0), Material.METAL, (0.1, 0.1, 0.11))


def _yard(b: SceneBuilder, seed: int, length: float) -> Scene:
    end = length + 55.0
    b.ground()
    for side in (-1.0, 1.0):
        b.fence((-20.0, side * 24.0), (end, side * 24.0), 2.2, mesh=True)
        for x in np.arange(-15.0, end, 7.0):
            b.tree(float(x) + b.uniform(-2, 2), side * b.uniform(27, 34), b.uniform(7, 11))
        for x in np.arange(-8.0, end - 8, 8.2):
            _stack(b, float(x), side * b.uniform(8.0, 12.0), side)
    _hall(b, end)
    cars = [(length + b.uniform(14, 20), b.uniform(3.2, 5.0)), (b.uniform(9, 13), -5.2)]
    b.car(*cars[0], b.uniform(2.4, 2.9), b.choose(_CARS), tall=True)
    b.car(*cars[1], b.uniform(-0.3, 0.3), b.choose(_CARS))
    for _ in range(12):
        x, y = b.uniform(4, end - 12), b.uniform(2.5, 4.5) * float(b.rng.choice([-1, 1]))
        if all(np.hypot(x - u, y - v) > 3.5 for u, v in cars):
            b.traffic_cone(x, y)
    for x in np.arange(9.0, length + 35, 11.0):
        b.person(float(x) + b.uniform(-2, 2), b.uniform(2.6, 6.0) * float(b.rng.choice([-1, 1])), b.uniform(0, 6.28))
    for x in np.arange(4.0, end - 10, 24.0):
        b.lamp(float(x), -6.4, 1.6)
    b.wires([(float(x), 17.5) for x in np.arange(-16, end, 22.0)], 7.2)
    azimuth = b.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(azimuth), np.sin(azimuth), b.uniform(0.6, 1.0)])
    return b.build(Layout("yard", 0.0, 6.0, ()), sun, b.uniform(350, 700), seed)


def _stack(b: SceneBuilder, x: float, y: float, side: float) -> None:
    yaw = b.uniform(-0.06, 0.06) + (np.pi / 2 if b.rng.random() < 0.3 else 0.0)
    what = b.rng.random()
    if what < 0.55:
        for level in range(int(b.rng.integers(1, 3))):
            size = (6.06, 2.44, 2.59)
            center = (x, y + side * 2.0, 1.3 + level * 2.6)
            b.block(center, size, Material.CONTAINER, b.choose(_CONTAINERS), yaw)
    elif what < 0.8:
        for k in range(3):
            for level in range(int(b.rng.integers(1, 4))):
                spot = (x + k * 1.5 - 1.5, y, 0.075 + level * 0.95)
                b.block(spot, (1.2, 1.0, 0.15), Material.WOOD, (0.42, 0.3, 0.17), yaw)
                crate = (spot[0], spot[1], spot[2] + 0.47)
                b.block(crate, (1.1, 0.9, 0.78), Material.WOOD, b.choose([(0.45, 0.32, 0.18), (0.4, 0.4, 0.38)]), yaw)
    else:
        b.hedge(x, y, 4.0)
        b.conifer(x, y + side * 4, b.uniform(5, 8))


def _hall(b: SceneBuilder, end: float) -> None:
    for k, y in enumerate((-16.0, 0.0, 16.0)):
        height = 7.5 if k == 1 else 6.0
        b.block(
            (end + 6, y, height / 2),
            (10.0, 16.0, height),
            Material.CONTAINER,
            b.choose([(0.4, 0.43, 0.45), (0.35, 0.4, 0.36)]),
        )
        b.block((end + 0.9, y, 2.2), (0.3, 4.5, 4.4), Material.CONTAINER, b.choose(_CONTAINERS), 0.0)
        roof = frustum((end + 6, y, height + 0.7), (10.6, 16.4, 1.4), 0.0, 0.0, 0.0, 7.0)
        b.add(roof, Material.ROOF, (0.2, 0.2, 0.21), (end, y, 0.0))
    b.block((end / 2, -30.0, 2.2), (end + 40, 0.3, 4.4), Material.STONE, _CONCRETE)
