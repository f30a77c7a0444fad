"""Streets, highways, countryside and yards."""

from __future__ import annotations

import numpy as np

from mf_training.scenes import objects, palette
from mf_training.scenes.palette import Rng
from mf_training.scenes.shapes import Builder, Ground, Material
from mf_training.scenes.world import Road, World, daylight, finish, rolling


def _tilt(rng: Rng, size: float = 1.0) -> np.ndarray:
    """Yaw, pitch and roll of a camera on a vehicle, radians."""
    return rng.normal(0, (np.radians(6) * size, np.radians(1.5) * size, np.radians(1.0) * size))


def _road_ground(rng: Rng, lanes: int, bend: float) -> Ground:
    lane = rng.uniform(2.8, 3.7)
    half = lanes * lane / 2
    # The camera drives in one of the right-hand lanes (or, where people drive on the left, not).
    own = (rng.integers(max(1, lanes // 2)) + 0.5) * lane
    offset = (half - own) * (1 if rng.random() < 0.8 else -1) + rng.normal(0, 0.25)
    return Ground(
        True,
        (rng.normal(0, 0.015), rng.normal(0, 0.012)),
        rolling(rng, 0.05, (8.0, 60.0), 4),
        palette.asphalt(rng),
        palette.soil(rng) if rng.random() < 0.5 else palette.paving(rng),
        (half, float(offset), lane, float(rng.normal(0, bend)), float(rng.normal(0, np.radians(4)))),
    )


def street(rng: Rng, complexity: float) -> World:
    """A town street: houses, parked and moving cars, sidewalks with kerbs, trees, poles, signs, people, wires."""
    b, ground = Builder(), _road_ground(rng, int(rng.choice((1, 2, 2, 3, 4, 4))), 0.003)
    road = Road(ground)
    walk = rng.uniform(1.5, 4.5)
    parking = rng.random() < 0.7
    kerb = rng.uniform(0.08, 0.16)
    edge = road.half + (2.2 if parking and rng.random() < 0.5 else 0.0)
    for side in (1, -1):
        _sidewalk(b, rng, road, side, edge, walk, kerb)
        _frontage(b, rng, road, side, edge + walk, kerb)
        if parking and rng.random() < 0.85:
            _parked(b, rng, road, side, edge, complexity)
        _furniture(b, rng, road, side, edge, walk, kerb, complexity)
    _traffic(b, rng, road, complexity)
    if rng.random() < 0.3:
        _crossing_house(b, rng, road)
    if rng.random() < 0.35:
        _wires(b, rng, road, edge)
    eye = (0.0, 0.0, ground.height(0, 0) + rng.uniform(1.2, 2.0))
    return finish(b, ground, daylight(rng), eye, _tilt(rng))


def _sidewalk(b: Builder, rng: Rng, road: Road, side: int, edge: float, walk: float, kerb: float) -> None:
    material, step = palette.paving(rng), 12.0
    stone = palette.paving(rng).but(texture="plain")
    for start in np.arange(-6.0, 84.0, step):
        middle = start + step / 2
        ahead, back = road.place(start + step, 0)[2], road.place(start, 0)[2]
        pitch = -float(np.arctan2(ahead - back, step))
        b.place(road.place(middle, side * (edge + walk / 2 + 3), kerb), road.direction(middle), pitch)
        b.add("box", (0, 0, -0.25), (step / 2 * 1.01, walk / 2 + 3, 0.25), material)
        b.add("box", (0, -side * (walk / 2 + 2.93), -0.24), (step / 2 * 1.01, 0.08, 0.25), stone)


def _frontage(b: Builder, rng: Rng, road: Road, side: int, line: float, kerb: float) -> None:
    """Houses, gardens and gaps along one side."""
    along = rng.uniform(-6.0, 4.0)
    density = rng.uniform(0.35, 1.0)
    while along < 85:
        length = rng.uniform(6, 22)
        middle = along + length / 2
        yaw = road.direction(middle) + (0 if side > 0 else np.pi)
        setback = rng.uniform(0, 1.0) if rng.random() < 0.6 else rng.uniform(2, 7)
        if rng.random() < density:
            objects.building(b, rng, road.place(middle, side * (line + setback), kerb - 0.2), yaw, length, middle < 50)
        elif rng.random() < 0.8:
            if rng.random() < 0.4:
                at = road.place(middle, side * (line + rng.uniform(1.5, 4)))
                objects.thicket(b, rng, at, yaw, length, rng.uniform(1.5, 5))
            for _ in range(int(rng.integers(1, 3))):
                at = road.place(along + rng.uniform(0, length), side * (line + rng.uniform(2, 10)))
                objects.tree(b, rng, at, rng.uniform(0.7, 1.3), _blobs(rng, along))
        if setback > 1.5:
            if rng.random() < 0.7:
                border = objects.hedge if rng.random() < 0.4 else objects.fence
                border(b, rng, road.place(middle, side * (line + 0.3), kerb), yaw, length)
            _garden(b, rng, road, side, (along, length, line, setback))
        along += length + (rng.uniform(0, 6) if rng.random() < 0.5 else 0.0)


def _garden(b: Builder, rng: Rng, road: Road, side: int, plot: tuple[float, float, float, float]) -> None:
    """Bushes and small trees before a house; ``plot``: start, length, distance of its border and depth, metres."""
    start, length, line, depth = plot
    for _ in range(rng.poisson(0.12 * length)):
        along, left = start + rng.uniform(0, length), side * (line + rng.uniform(0.6, depth))
        if rng.random() < 0.75:
            objects.bush(b, rng, road.place(along, left), rng.uniform(0.4, 1.4))
        else:
            objects.tree(b, rng, road.place(along, left), rng.uniform(0.4, 0.8), _blobs(rng, along))


def _parked(b: Builder, rng: Rng, road: Road, side: int, edge: float, complexity: float) -> None:
    along, full = rng.uniform(2.5, 9), rng.uniform(0.3, 1.0) * min(1.0, complexity + 0.2)
    while along < 60:
        if rng.random() < full:
            at = road.place(along, side * (edge - 1.05 + rng.normal(0, 0.1)))
            yaw = road.direction(along) + (np.pi if rng.random() < 0.5 else 0) + rng.normal(0, 0.03)
            objects.car(b, rng, at, yaw, along < 30)
        along += rng.uniform(5.2, 6.6)


def _blobs(rng: Rng, distance: float) -> int:
    """Parts of a crown: more where they can be seen."""
    return int(rng.integers(8, 18) if distance < 25 else rng.integers(4, 9))


def _traffic(b: Builder, rng: Rng, road: Road, complexity: float, fast: bool = False) -> None:
    lanes = max(1, round(2 * road.half / road.lane))
    taken = []
    for _ in range(rng.poisson(2.8 * complexity)):
        lane = (rng.integers(lanes) + 0.5) * road.lane - road.half
        along = float(np.exp(rng.uniform(np.log(6), np.log(70))))
        if any(abs(lane - other) < 1 and abs(along - place) < 9 for other, place in taken):
            continue
        taken.append((lane, along))
        yaw = road.direction(along) + (np.pi if lane > 0 else 0) + rng.normal(0, 0.03)
        at = road.place(along, lane + rng.normal(0, 0.2))
        what = rng.random()
        if what < 0.75 or (fast and what > 0.93):
            objects.car(b, rng, at, yaw, along < 35)
        elif along > 14 and (fast or what < 0.88):
            objects.truck(b, rng, at, yaw)
        elif not fast:
            objects.bicycle(b, rng, at, yaw, True)


def _furniture(
    b: Builder, rng: Rng, road: Road, side: int, edge: float, walk: float, kerb: float, complexity: float
) -> None:
    row = rng.random() < 0.45
    for _ in range(rng.poisson(9 * complexity)):
        along = float(np.exp(rng.uniform(np.log(6), np.log(70))))
        near, far = edge + 0.35, edge + walk - 0.3
        yaw = road.direction(along)
        at_kerb = road.place(along, side * near, kerb)
        anywhere = road.place(along, side * rng.uniform(near, far), kerb)
        what = rng.random()
        if what < 0.2:
            objects.pole(b, rng, at_kerb, yaw + (np.pi / 2 if side < 0 else -np.pi / 2))
        elif what < 0.37:
            objects.sign(b, rng, at_kerb, yaw)
        elif what < 0.55 and row:
            objects.tree(b, rng, at_kerb, rng.uniform(0.6, 1.1), _blobs(rng, along), rng.random() < 0.9)
        elif what < 0.75:
            objects.person(b, rng, anywhere, rng.uniform(0, 6.28))
        elif what < 0.82:
            objects.bicycle(b, rng, anywhere, yaw + rng.normal(0, 0.5), False)
        elif what < 0.9:
            objects.bush(b, rng, road.place(along, side * far, kerb), rng.uniform(0.3, 0.8))
        else:
            objects.bin_or_box(b, rng, anywhere, yaw + np.pi / 2)
    if rng.random() < 0.2:
        start = rng.uniform(3, 20)
        objects.fence(b, rng, road.place(start + 5, side * (edge + 0.2), kerb), road.direction(start + 5), 10)


def _crossing_house(b: Builder, rng: Rng, road: Road) -> None:
    """The street ends at a house front, as at a crossing."""
    along = rng.uniform(30, 75)
    objects.building(
        b, rng, road.place(along, rng.normal(0, 4)), road.direction(along) - np.pi / 2, rng.uniform(14, 30)
    )


def _wires(b: Builder, rng: Rng, road: Road, edge: float) -> None:
    side, height, metal = rng.choice([-1, 1]), rng.uniform(5, 8), palette.metal(rng)
    for start in (-10, 15, 40):
        a, c = road.place(start, side * (edge + 0.4)), road.place(start + 25, side * (edge + 0.4))
        b.place((0, 0, 0))
        b.rod((a[0], a[1], a[2]), (a[0], a[1], a[2] + height + 0.5), 0.12, palette.bark(rng))
        for k in range(3):
            lift, shift = height + 0.25 * k, 0.3 * (k - 1)
            b.rod((a[0], a[1] + shift, a[2] + lift), (c[0], c[1] + shift, c[2] + lift), 0.012, metal)


def highway(rng: Rng, complexity: float) -> World:
    """An open road: guard rails, verges, few cars and lorries, trees or hills far away, sign gantries."""
    b, ground = Builder(), _road_ground(rng, int(rng.integers(2, 7)), 0.0012)
    road = Road(ground)
    for side in (1, -1):
        if rng.random() < 0.6:
            for start in range(-4, 90, 12):
                at = road.place(start + 6, side * (road.half + rng.uniform(0.6, 0.7)))
                objects.guard_rail(b, rng, at, road.direction(start + 6), 12.05)
        _verge(b, rng, road, side, complexity)
    _traffic(b, rng, road, 2.2 * complexity, fast=True)
    _horizon(b, rng, road)
    if rng.random() < 0.3:
        along, steel = rng.uniform(25, 70), palette.metal(rng)
        b.place(road.place(along, 0), road.direction(along))
        for y in (road.half + 1, -road.half - 1):
            b.add("cylinder", (0, y, 3.2), (0.2, 0.2, 3.4), steel)
        b.add("box", (0, 0, 6.4), (0.15, road.half + 1, 0.2), steel)
        b.add(
            "box",
            (-0.2, rng.normal(0, 2), 6.2),
            (0.05, rng.uniform(1.5, 3), 1.2),
            palette.thing(rng).but(reflectivity=0.95),
        )
    eye = (0.0, 0.0, ground.height(0, 0) + rng.uniform(1.2, 2.2))
    return finish(b, ground, daylight(rng), eye, _tilt(rng))


def _verge(b: Builder, rng: Rng, road: Road, side: int, complexity: float) -> None:
    wooded, distance = rng.random() < 0.6, rng.uniform(3, 14)
    for _ in range(rng.poisson((10 if wooded else 3) * complexity)):
        along = float(np.exp(rng.uniform(np.log(6), np.log(100))))
        left = side * (road.half + distance + rng.exponential(3))
        if rng.random() < 0.55:
            objects.tree(b, rng, road.place(along, left), rng.uniform(0.6, 1.3), _blobs(rng, along))
        else:
            objects.bush(b, rng, road.place(along, left), rng.uniform(0.5, 1.8))
    for _ in range(rng.poisson(3 * complexity)):
        along = rng.uniform(8, 80)
        thing = objects.pole if rng.random() < 0.6 else objects.sign
        thing(b, rng, road.place(along, side * (road.half + rng.uniform(1, 3))), road.direction(along))
    if wooded:
        _wood_edge(b, rng, road, side * (road.half + distance + 2), rng.uniform(1.5, 7))
    elif rng.random() < 0.4:
        height = rng.uniform(2, 5)
        for start in range(0, 90, 18):
            b.place(road.place(start + 9, side * (road.half + 2.5)), road.direction(start + 9))
            b.add("box", (0, 0, height / 2), (9.1, 0.1, height / 2), palette.wall(rng))


def nature(rng: Rng, complexity: float) -> World:
    """Paths, meadows, parks and woods on uneven ground."""
    grass = palette.soil(rng)
    path = rng.random() < 0.7
    lanes = (
        rng.uniform(0.8, 2.0),
        float(rng.normal(0, 0.8)),
        100.0,
        float(rng.normal(0, 0.01)),
        float(rng.normal(0, 0.1)),
    )
    waves = np.concatenate(
        [rolling(rng, rng.uniform(0.2, 1.2), (12, 60), 3), rolling(rng, rng.uniform(0.02, 0.12), (1.0, 6.0), 3)]
    )
    earth = Material(palette.shift(rng, (0.16, 0.13, 0.1), 0.3), (0.1, 0.08, 0.06), "grass", 0.5, 0.4)
    slope = (rng.normal(0, 0.04), rng.normal(0, 0.05))
    ground = Ground(True, slope, waves, earth if path else grass, grass, lanes if path else (0.0,) * 5)
    b, road = Builder(), Road(ground)
    clear, wood = rng.uniform(1.5, 5), rng.random() < 0.5
    for side in (1, -1):
        if rng.random() < 0.65:
            _wood_edge(
                b,
                rng,
                road,
                side * (clear + rng.exponential(4) + 1.5),
                float(np.exp(rng.uniform(np.log(0.8), np.log(5)))),
            )
    _horizon(b, rng, road)
    for _ in range(rng.poisson((11 if wood else 5) * complexity)):
        at = _beside(rng, road, clear, 60)
        objects.tree(b, rng, at, rng.uniform(0.5, 1.3), _blobs(rng, at[0]), rng.random() < 0.75)
    for _ in range(rng.poisson(12 * complexity)):
        objects.bush(b, rng, _beside(rng, road, clear * 0.8, 45), float(np.exp(rng.uniform(np.log(0.25), np.log(1.8)))))
    for _ in range(rng.poisson(22 * complexity)):
        objects.grass_tuft(b, rng, _beside(rng, road, 0.3, 12), rng.uniform(0.2, 1.0))
    for _ in range(rng.poisson(3 * complexity)):
        b.place(_beside(rng, road, 1.0, 25), rng.uniform(0, 6.28), rng.normal(0, 0.3), rng.normal(0, 0.3))
        size = rng.uniform(0.1, 0.6)
        stone = Material(palette.shift(rng, (0.25, 0.24, 0.22), 0.3), (0.15, 0.15, 0.15), "asphalt", 0.3, 0.4)
        b.add("ellipsoid", (0, 0, size * 0.3), size * rng.uniform(0.5, 1.2, 3), stone)
    for _ in range(rng.poisson(0.8)):
        objects.person(b, rng, _beside(rng, road, 0.2, 25), rng.uniform(0, 6.28))
    for _ in range(rng.poisson(0.8)):
        along = rng.uniform(4, 30)
        objects.fence(
            b, rng, road.place(along, rng.choice([-1, 1]) * rng.uniform(2, 8)), rng.uniform(0, 3.14), rng.uniform(4, 14)
        )
    eye = (0.0, 0.0, ground.height(0, 0) + rng.uniform(0.4, 1.6))
    return finish(b, ground, daylight(rng), eye, _tilt(rng, 1.8))


def _wood_edge(b: Builder, rng: Rng, road: Road, left: float, height: float) -> None:
    """Thickets along the road at about this distance, with gaps."""
    full, start = rng.uniform(0.5, 1.0), rng.uniform(1.0, 6.0)
    while start < 75:
        length = rng.uniform(3, 6) * max(1.0, height / 2)
        if rng.random() < full:
            at = road.place(start + length / 2, left + np.sign(left) * rng.uniform(0, 1.5 + 0.5 * height))
            objects.thicket(b, rng, at, road.direction(start), length, height * rng.uniform(0.7, 1.3))
        start += length


def _horizon(b: Builder, rng: Rng, road: Road) -> None:
    """A row of trees or buildings far ahead."""
    if rng.random() < 0.75:
        for _ in range(int(rng.integers(1, 4))):
            along, left = rng.uniform(45, 100), rng.normal(0, 25)
            at = road.place(along, left)
            if rng.random() < 0.8:
                objects.thicket(b, rng, at, rng.uniform(1.2, 1.9), rng.uniform(15, 50), rng.uniform(4, 12))
            else:
                objects.building(b, rng, at, -np.pi / 2 + rng.normal(0, 0.5), rng.uniform(8, 25), False)


def _beside(rng: Rng, road: Road, clear: float, far: float) -> tuple[float, float, float]:
    """A place beside the path, more often near than far."""
    along = float(np.exp(rng.uniform(np.log(2.5), np.log(far))))
    left = rng.choice([-1, 1]) * (clear + rng.exponential(1.0 + 0.25 * along))
    return road.place(along, float(left))


def yard(rng: Rng, complexity: float) -> World:
    """A yard or warehouse: containers, pallets, racks, barrels, pipes, a hall around or behind."""
    ground = Ground(
        True,
        (rng.normal(0, 0.005), rng.normal(0, 0.005)),
        rolling(rng, 0.02, (8, 40), 2),
        palette.asphalt(rng),
        palette.paving(rng),
        (rng.uniform(2, 30), 0.0, rng.uniform(2, 5), 0.0, rng.normal(0, 0.5)),
    )
    b = Builder()
    if rng.random() < 0.5:
        b.place((rng.uniform(5, 25), rng.uniform(-5, 5), 0), rng.normal(0, 0.2))
        b.add(
            "box",
            (0, 0, 2.5),
            (rng.uniform(28, 45), rng.uniform(8, 20), rng.uniform(3, 5)),
            palette.wall(rng),
            casts_shadow=False,
        )
    for _ in range(rng.poisson(14 * complexity) + 4):
        x = float(np.exp(rng.uniform(np.log(3), np.log(40))))
        y = rng.uniform(-0.8, 0.8) * x + rng.normal(0, 1)
        at, yaw, what = (x, y, ground.height(x, y)), rng.normal(0, 0.3) + rng.integers(4) * np.pi / 2, rng.random()
        b.place(at, yaw)
        if what < 0.25 and x > 8:
            b.add(
                "box", (0, 0, 1.3), (rng.uniform(2, 6), 1.2, 1.3), palette.thing(rng).but(texture="stripes", scale=0.25)
            )
        elif what < 0.5:
            for k in range(int(rng.integers(1, 4))):
                half = rng.uniform(0.2, 0.6, 3)
                b.add(
                    "box",
                    (*rng.normal(0, 0.15, 2), 0.15 + k * 0.8 + half[2] * 0.5),
                    half,
                    palette.thing(rng),
                    rng.normal(0, 0.1),
                )
        elif what < 0.65:
            b.add("cylinder", (0, 0, 0.45), (0.3, 0.3, 0.45), palette.thing(rng))
        elif what < 0.8:
            rack(b, rng, rng.uniform(1.5, 3.5), rng.uniform(2, 5))
        elif what < 0.9:
            objects.fence(b, rng, at, yaw, rng.uniform(3, 9))
        else:
            (objects.car if rng.random() < 0.5 else objects.person)(b, rng, at, yaw)
    eye = (0.0, 0.0, ground.height(0, 0) + rng.uniform(0.4, 1.8))
    return finish(b, ground, daylight(rng), eye, _tilt(rng, 1.5))


def rack(b: Builder, rng: Rng, width: float, height: float) -> None:
    """A rack with goods, in the builder's frame."""
    steel = palette.thing(rng).but(texture="plain")
    for x in (-width / 2, width / 2):
        for y in (-0.45, 0.45):
            b.add("box", (x, y, height / 2), (0.04, 0.04, height / 2), steel)
    for z in np.arange(0.2, height, rng.uniform(0.7, 1.4)):
        b.add("box", (0, 0, z), (width / 2, 0.5, 0.04), steel)
        for _ in range(int(rng.integers(0, 4))):
            half = rng.uniform(0.1, 0.35, 3)
            b.add(
                "box",
                (rng.uniform(-0.4, 0.4) * width, rng.normal(0, 0.1), z + 0.04 + half[2]),
                half,
                palette.thing(rng),
                rng.normal(0, 0.2),
            )
