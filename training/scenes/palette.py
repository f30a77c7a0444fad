"""Materials drawn at random: what things are made of outdoors and indoors."""

from __future__ import annotations

import colorsys
from typing import Sequence

import numpy as np

from mf_training.scenes.shapes import Material, Triple

Rng = np.random.Generator

CAR_PAINTS = ((0.02, 0.02, 0.025), (0.3, 0.31, 0.33), (0.6, 0.61, 0.62), (0.75, 0.75, 0.74), (0.08, 0.09, 0.11))


def hue(rng: Rng, saturation: float, value: float) -> Triple:
    """A random colour of about this saturation and value, linear RGB."""
    s, v = float(np.clip(saturation * rng.uniform(0.3, 1.5), 0, 1)), float(np.clip(value * rng.uniform(0.6, 1.4), 0, 1))
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), s, v)
    return (r**1.6, g**1.6, b**1.6)


def shift(rng: Rng, colour: Triple, amount: float = 0.15) -> Triple:
    """The colour with a random change of tone and a smaller one of tint."""
    factor = np.exp(rng.normal(0, amount)) * np.exp(rng.normal(0, amount * 0.3, 3))
    r, g, b = (float(np.clip(c * f, 0.005, 0.95)) for c, f in zip(colour, factor, strict=True))
    return (r, g, b)


def pick(rng: Rng, options: Sequence[str]) -> str:
    """One of the names."""
    return options[int(rng.integers(len(options)))]


def wall(rng: Rng) -> Material:
    """Plaster, brick, concrete or painted wall of a building."""
    base = shift(
        rng,
        ((0.55, 0.5, 0.42), (0.35, 0.17, 0.11), (0.4, 0.4, 0.39), (0.65, 0.63, 0.58), (0.5, 0.38, 0.22))[
            int(rng.integers(5))
        ],
        0.3,
    )
    texture = pick(rng, ("plain", "plain", "bricks", "patches", "planks", "stripes"))
    scale = {"bricks": 0.3, "patches": 1.5, "planks": 0.25, "stripes": 0.8}.get(texture, 1.5)
    return Material(
        base,
        shift(rng, base, 0.35),
        texture,
        scale * rng.uniform(0.6, 1.8),
        rng.uniform(0.08, 0.3),
        0.0,
        float(np.clip(rng.normal(0.4, 0.15), 0.1, 0.8)),
    )


def window_pane(rng: Rng) -> Material:
    """Glass in front of a dark room, with curtains or frames as a pattern."""
    return Material(
        (0.03, 0.035, 0.04),
        shift(rng, (0.3, 0.3, 0.28), 0.4),
        "patches",
        rng.uniform(0.8, 2.0),
        0.2,
        0.5,
        0.15,
        "all" if rng.random() < 0.7 else "none",
    )


def leaves(rng: Rng) -> Material:
    """Foliage: mostly green, sometimes autumn or bare twigs."""
    base = ((0.05, 0.1, 0.02), (0.09, 0.13, 0.03), (0.03, 0.06, 0.02), (0.16, 0.1, 0.03), (0.14, 0.11, 0.08))[
        int(rng.choice(5, p=(0.35, 0.3, 0.15, 0.1, 0.1)))
    ]
    base = shift(rng, base, 0.25)
    return Material(
        base,
        shift(rng, tuple(min(1.0, 2.2 * c) for c in base), 0.2),
        "leaves",
        rng.uniform(0.15, 0.5),  # type: ignore[arg-type]
        rng.uniform(0.2, 0.5),
        0.0,
        rng.uniform(0.3, 0.6),
    )


def bark(rng: Rng) -> Material:
    """Trunks, posts and fences of wood."""
    base = shift(rng, (0.12, 0.09, 0.06), 0.4)
    return Material(base, shift(rng, base, 0.4), "wood", rng.uniform(0.1, 0.4), 0.4, 0.0, 0.35)


def metal(rng: Rng) -> Material:
    """Poles, rails and frames."""
    base = shift(rng, (0.3, 0.3, 0.3) if rng.random() < 0.6 else (0.05, 0.06, 0.06), 0.3)
    return Material(base, shift(rng, base), "plain", 0.5, 0.1, rng.uniform(0, 0.5), rng.uniform(0.15, 0.6))


def paint(rng: Rng) -> Material:
    """Car body: shiny, sometimes so dark that a LiDAR hardly sees it."""
    base = shift(rng, CAR_PAINTS[int(rng.integers(len(CAR_PAINTS)))]) if rng.random() < 0.75 else hue(rng, 0.8, 0.5)
    dark = max(base) < 0.12
    reflectivity = rng.uniform(0.02, 0.2) if dark else rng.uniform(0.2, 0.7)
    return Material(base, base, "plain", 2.0, 0.05, rng.uniform(0.4, 1.0), reflectivity)


def cloth(rng: Rng) -> Material:
    """Clothes, cushions, curtains."""
    base = hue(rng, 0.5, 0.4)
    texture = pick(rng, ("plain", "plain", "stripes", "checker", "patches"))
    return Material(
        base, hue(rng, 0.4, 0.5), texture, rng.uniform(0.03, 0.25), rng.uniform(0.1, 0.35), 0.0, rng.uniform(0.15, 0.7)
    )


def thing(rng: Rng) -> Material:
    """Any smaller object: plastic, card, print, wood, metal."""
    base = hue(rng, 0.55, 0.55) if rng.random() < 0.7 else shift(rng, (0.4, 0.4, 0.4), 0.7)
    texture = pick(rng, ("plain", "plain", "patches", "stripes", "checker", "wood", "bricks"))
    return Material(
        base,
        hue(rng, 0.5, 0.6),
        texture,
        float(np.exp(rng.uniform(np.log(0.03), np.log(0.5)))),
        rng.uniform(0.05, 0.4),
        rng.uniform(0, 0.6) if rng.random() < 0.4 else 0.0,
        float(np.clip(rng.normal(0.45, 0.25), 0.03, 0.95)),
    )


def asphalt(rng: Rng) -> Material:
    """Road surface."""
    base = shift(rng, (0.16, 0.16, 0.165), 0.35)
    return Material(
        base,
        shift(rng, tuple(0.6 * c for c in base)),
        "asphalt",
        rng.uniform(0.1, 0.4),
        rng.uniform(0.1, 0.3),  # type: ignore[arg-type]
        0.0,
        rng.uniform(0.08, 0.3),
    )


def paving(rng: Rng) -> Material:
    """Sidewalk."""
    base = shift(rng, (0.33, 0.32, 0.3), 0.25)
    return Material(
        base,
        shift(rng, base, 0.25),
        pick(rng, ("plain", "checker", "bricks", "asphalt")),
        rng.uniform(0.3, 1.0),
        rng.uniform(0.1, 0.25),
        0.0,
        rng.uniform(0.15, 0.4),
    )


def soil(rng: Rng) -> Material:
    """Grass, earth, gravel, snow-like ground."""
    base = ((0.07, 0.12, 0.03), (0.12, 0.15, 0.05), (0.17, 0.13, 0.08), (0.25, 0.23, 0.2))[
        int(rng.choice(4, p=(0.45, 0.25, 0.2, 0.1)))
    ]
    base = shift(rng, base, 0.2)
    return Material(
        base, shift(rng, base, 0.4), "grass", rng.uniform(0.15, 0.8), rng.uniform(0.2, 0.5), 0.0, rng.uniform(0.2, 0.5)
    )


def floor(rng: Rng) -> Material:
    """Floor of a room."""
    base = shift(
        rng, ((0.3, 0.2, 0.12), (0.4, 0.4, 0.38), (0.2, 0.2, 0.22), (0.45, 0.4, 0.33))[int(rng.integers(4))], 0.25
    )
    return Material(
        base,
        shift(rng, base, 0.25),
        pick(rng, ("planks", "checker", "plain", "wood", "grass")),
        rng.uniform(0.1, 0.9),
        rng.uniform(0.05, 0.25),
        rng.uniform(0, 0.35),
        rng.uniform(0.2, 0.6),
    )


def plaster(rng: Rng) -> Material:
    """Walls and ceilings of rooms."""
    base = shift(rng, (0.6, 0.58, 0.54), 0.15) if rng.random() < 0.8 else hue(rng, 0.2, 0.6)
    texture = pick(rng, ("plain", "plain", "plain", "bricks", "stripes"))
    scale = {"bricks": 0.25, "stripes": 0.2}.get(texture, 2.0)
    return Material(base, shift(rng, base, 0.2), texture, scale, rng.uniform(0.02, 0.12), 0.0, rng.uniform(0.4, 0.8))
