"""What surfaces look like: diffuse colour and gloss by material."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Optional

import numpy as np

from mf_ros.core.types import AnyArray, BoolArray, FloatArray, IntArray
from mf_ros.simulate.geometry import leaf_noise
from mf_ros.simulate.scene import Layout, Material, Scene
from mf_ros.simulate.textures import NoiseTile, cell_noise, pulse, stripe

_LAMP_GLASS: FloatArray = np.array([6.0, 4.2, 2.3], np.float32)


@dataclass(frozen=True)
class Patch:
    """Points of one material.

    Attributes:
        p: (N, 3) position, metres, world.
        local: (N, 3) position in the frame of the object, metres.
        n: (N, 3) unit normal.
        ln: (N, 3) unit normal in the frame of the object.
        size: (N,) width of a pixel on the surface, metres.
        colour: (N, 3) base colour.
        detail: (N, 4) see ``Scene.detail``.
        noise: the scene's noise.
        layout: the ground's markings.
    """

    p: FloatArray
    local: FloatArray
    n: FloatArray
    ln: FloatArray
    size: FloatArray
    colour: FloatArray
    detail: FloatArray
    noise: NoiseTile
    layout: Layout


@dataclass
class Look:
    """Diffuse colour (N, 3), mirror-like part (N,) and, where something shines at dusk, its light (N, 3)."""

    colour: FloatArray
    gloss: FloatArray
    shine: Optional[FloatArray] = None


def _mix(a: AnyArray, b: AnyArray | tuple[float, ...], weight: AnyArray) -> FloatArray:
    w = weight[:, None]
    return np.asarray(a * (1 - w) + np.asarray(b, np.float32) * w, dtype=np.float32)


def _plain(patch: Patch, variation: float = 0.06, feature: float = 0.4) -> FloatArray:
    side = np.abs(patch.n[:, 2]) < 0.7
    v = np.where(side, patch.p[:, 2], patch.p[:, 1])
    u = np.where(side, patch.p[:, 0] + patch.p[:, 1], patch.p[:, 0])
    grain = patch.noise.fractal(u, v, feature, patch.size, 3)
    return np.asarray(patch.colour * (1 + np.float32(variation) * grain)[:, None], dtype=np.float32)


def _matt(colour: FloatArray) -> Look:
    return Look(colour, np.zeros(len(colour), np.float32))


def _ground(patch: Patch) -> Look:
    return _matt(_road(patch) if patch.layout.style == "street" else _concrete_yard(patch))


def _road(patch: Patch) -> FloatArray:
    x, y = patch.p[:, 0], patch.p[:, 1] - np.float32(patch.layout.center_y)
    fp, noise, half = patch.size, patch.noise, patch.layout.half_width
    coarse = noise.fractal(x, y * 2, 5.0, fp, 3)
    fine = noise(x, y, 0.035, fp) + noise(x + 3, y, 0.012, fp)
    tracks = np.exp(-(((np.abs(np.abs(y) - 1.75) - 0.75) / 0.28) ** 2))
    shade = 0.115 * (1 + 0.14 * coarse + 0.28 * fine) * (1 - 0.12 * tracks)
    cracks = np.abs(noise.fractal(x + 31, y + 11, 2.7, fp, 3)) < 0.012 + 0.2 * fp
    shade *= 1 - 0.4 * cracks * np.clip(1 - fp * 16, 0, 1) * (noise(x, y, 7.0, fp) > 0.05)
    # The ground's own random number moves what would else lie at the same place in every street.
    along = x + 97 * patch.detail[:, 2]
    patches = (cell_noise(along / 5.3, (y + 40) / 2.1, 5) < 0.07) * (0.12 + 0.35 * cell_noise(along / 5.3, 0 * y, 6))
    shade *= 1 - patches
    colour = shade[:, None] * np.array([1.0, 0.985, 0.96], np.float32)
    marks = pulse(x, 7.0, 0.0, 3.0, fp) * stripe(y, -0.07, 0.07, fp)
    parking = stripe(np.abs(y), half - 2.15, half - 2.05, fp)
    marks = np.maximum(marks, parking)
    for crossing in patch.layout.crossings:
        lane = stripe(x, crossing - 1.7, crossing + 1.7, fp)
        clear = 1 - stripe(x, crossing - 3.0, crossing + 3.0, fp)
        zebra = lane * pulse(y + 20, 1.0, 0.0, 0.5, fp) * (np.abs(y) < half - 0.4)
        stop = stripe(np.abs(x - crossing), 2.5, 2.8, fp) * stripe(y * np.sign(crossing - x), -half + 2.2, -0.1, fp)
        marks = np.maximum(np.maximum(marks * clear, zebra), stop)
    wear = np.clip(0.86 + 0.2 * noise.fractal(x, y, 0.5, fp, 3) - 0.16 * tracks, 0.25, 0.95)
    colour = _mix(colour, (0.62, 0.61, 0.58), marks * wear)
    lid = np.hypot(np.mod(along, 16.0) - 8.0, y - 1.0)
    colour = _mix(
        colour, (0.07, 0.066, 0.06), stripe(lid, -1, 0.33, fp) * (0.75 + 0.25 * pulse(x + y, 0.09, 0, 0.05, fp))
    )
    gutter = stripe(np.abs(y), half - 0.28, half, fp)
    colour = _mix(colour, (0.17, 0.165, 0.155), gutter * 0.7)
    outside = np.clip((np.abs(y) - half - 3.7) * 4, 0, 1)
    return _mix(colour, _grass(patch, 0.12), outside)


def _grass(patch: Patch, strength: float = 0.2) -> FloatArray:
    x, y, fp = patch.p[:, 0], patch.p[:, 1], patch.size
    tone = patch.noise.fractal(x, y, 3.0, fp, 3)
    blades = patch.noise(x * 2, y, 0.03, fp) + patch.noise(x, y * 2, 0.06, fp)
    base = np.array([0.1, 0.15, 0.04], np.float32) * (1 + 0.25 * tone + strength * 2 * blades)[:, None]
    return _mix(np.asarray(base, np.float32), (0.2, 0.17, 0.08), np.clip(tone * 0.5 - 0.1, 0, 0.6))


def _concrete_yard(patch: Patch) -> FloatArray:
    x, y, fp, noise = patch.p[:, 0], patch.p[:, 1], patch.size, patch.noise
    grain = noise(x, y, 0.03, fp) + noise(x, y, 0.1, fp)
    stains = np.clip(noise.fractal(x + 9, y, 2.5, fp, 4), 0, 1)
    slab = cell_noise(x / 4.0, y / 4.0, 3)
    shade = 0.22 * (1 + 0.1 * grain + 0.16 * (slab - 0.5)) * (1 - 0.3 * stains)
    joints = np.maximum(pulse(x, 4.0, 0, 0.03, fp), pulse(y, 4.0, 0, 0.03, fp))
    clean = shade[:, None] * np.array([1.0, 0.97, 0.91], np.float32) * (1 - 0.6 * joints)[:, None]
    worn = np.clip(0.75 + 0.35 * noise.fractal(x, y, 0.6, fp, 3), 0.1, 0.9)
    lines = stripe(np.abs(y), 4.8, 4.92, fp)
    bays = pulse(x, 8.2, 0, 0.12, fp) * stripe(np.abs(y), 4.8, 7.4, fp)
    colour = _mix(clean, (0.6, 0.4, 0.05), np.maximum(lines, bays) * worn)
    tyres = stripe(np.abs(y + 0.5 * np.sin(x / 6) + 1.6), 0.6, 0.85, fp) * np.clip(0.5 + noise(x, y, 1.5, fp), 0, 1)
    colour = _mix(colour, (0.07, 0.07, 0.07), 0.4 * tyres)
    outside = np.clip((np.abs(y) - 22 + noise(x, y, 2.0, fp)) * 2, 0, 1)
    return _mix(colour, _grass(patch), outside)


def _paving(patch: Patch) -> Look:
    x, y, fp = patch.p[:, 0], patch.p[:, 1], patch.size
    row = np.floor(y / 0.4)
    shifted = x + row * np.float32(0.31)
    tone = cell_noise(shifted / 0.6, row, 9) - 0.5
    fade = np.clip(1.4 - fp / 0.5, 0, 1)
    joints = np.maximum(pulse(shifted, 0.6, 0, 0.014, fp), pulse(y, 0.4, 0, 0.014, fp))
    grain = patch.noise.fractal(x, y, 0.8, fp, 4)
    shade = (1 + 0.16 * tone * fade + 0.11 * grain) * (1 - 0.5 * joints)
    return _matt(patch.colour * shade[:, None])


def _wall(patch: Patch, brick: bool) -> Look:
    fp, noise = patch.size, patch.noise
    front = np.abs(patch.n[:, 1]) > 0.7
    u = np.where(front, patch.local[:, 0], patch.p[:, 1])
    z = patch.p[:, 2]
    dirt = noise.fractal(u, z * 0.45, 2.2, fp, 4)
    shade = 1 + 0.07 * dirt - 0.14 * np.exp(-z / 0.9)
    if brick:
        row = np.floor(z / 0.085)
        shifted = u + row * np.float32(0.13)
        fade = np.clip(1.5 - fp / 0.16, 0, 1)
        shade *= 1 + 0.45 * fade * (cell_noise(shifted / 0.26, row, 4) - 0.5)
        mortar = np.maximum(pulse(shifted, 0.26, 0, 0.013, fp), pulse(z, 0.085, 0, 0.012, fp))
        colour = _mix(patch.colour * shade[:, None], (0.38, 0.35, 0.31), mortar * 0.8)
    else:
        shade += 0.05 * noise(u, z, 0.05, fp)
        streak = np.clip(noise(u, z * 0.06, 0.5, fp) - 0.25, 0, 1)
        colour = np.asarray(patch.colour * (shade * (1 - 0.14 * streak))[:, None], np.float32)
    return _windows(patch, np.asarray(colour, np.float32), u, z - np.float32(0.9), front)


def _windows(patch: Patch, colour: FloatArray, u: AnyArray, v: AnyArray, front: BoolArray) -> Look:
    pitch, floor, luck = patch.detail[:, 0], patch.detail[:, 1], patch.detail[:, 2]
    fp = patch.size
    level = np.floor(v / floor)
    shop = (luck > 0.55) & (level < 0.5)
    half = np.where(shop, 0.43 * pitch, 0.21 * pitch + 0.04)
    sill, top = np.where(shop, -0.35, 0.75), np.where(shop, 1.95, 0.75 + 1.45 + 0.25 * luck)
    on = front & (v > -0.85) & (floor > 2)
    c = pitch * np.float32(0.5)

    def rect(grow: float) -> FloatArray:
        across = pulse(u, pitch, c - half - grow, c + half + grow, fp)
        return np.asarray(
            across * pulse(v, floor, np.maximum(sill - grow, 0.0) + np.minimum(sill, 0), top + grow, fp) * on
        )

    # A shop window starts below its floor's line, so it is measured on its own rather than per period.
    base = stripe(v, -0.45, 1.95, fp) * pulse(u, pitch, c - half, c + half, fp) * on
    glass = np.where(shop, base, rect(0.0))
    around = np.where(shop, base, rect(0.13))
    trim = np.where(luck > 0.35, np.float32(0.62), np.float32(0.3))
    colour = _mix(colour, trim[:, None] * np.array([1, 0.97, 0.92], np.float32), around)
    ledge = pulse(u, pitch, c - half - 0.2, c + half + 0.2, fp) * pulse(v, floor, 0.56, 0.66, fp) * on * ~shop
    colour = _mix(colour, (0.5, 0.48, 0.45), ledge)
    cell = cell_noise(u / pitch, level + 3, np.asarray(luck * 9999, np.int64))
    inside = np.where(cell > 0.6, 0.16 + 0.25 * (cell - 0.6), 0.022)
    height = (v - level * floor - sill) / np.maximum(top - sill, 0.1)
    curtain = np.abs(np.mod(u, pitch) - c) / np.maximum(half, 0.1) > 0.45 + 0.5 * cell
    inside = np.where(curtain & ~shop & (cell > 0.25), 0.3, inside) * np.where(height > 0.88, 0.35, 1.0)
    tint = inside[:, None].astype(np.float32) * np.array([1.0, 0.93, 0.82], np.float32)
    colour = _mix(colour, tint, glass)
    bars = np.where(
        shop,
        pulse(u, pitch, c - 0.03, c + 0.03, fp),
        np.maximum(pulse(u, pitch, c - 0.025, c + 0.025, fp), pulse(v, floor, sill + 1.0, sill + 1.05, fp)),
    )
    colour = _mix(colour, (0.5, 0.49, 0.47), bars * glass)
    band = stripe(v, 2.05, 2.5, fp) * on * (luck > 0.55) * pulse(u, pitch, 0.06 * pitch, 0.94 * pitch, fp)
    hue = patch.detail[:, 3][:, None] * 6.28 + np.array([0.0, 2.1, 4.2], np.float32)
    colour = _mix(colour, np.asarray(0.2 + 0.17 * np.cos(hue), np.float32), band)
    pane = glass * (1 - bars)
    # Warm rooms behind some of the windows, brighter below their ceiling lamps and dimmed by curtains.
    lit = np.where(shop, cell > 0.35, cell > 0.72) * (0.35 + 0.65 * np.clip(height, 0, 1)) * np.where(curtain, 0.6, 1.0)
    hue = np.array([1.0, 0.62, 0.27], np.float32) + luck[:, None] * np.array([0.0, 0.18, 0.3], np.float32)
    return Look(colour, np.asarray(pane * 0.9, np.float32), np.asarray((0.75 * lit * pane)[:, None] * hue, np.float32))


def _roof(patch: Patch) -> Look:
    fp = patch.size
    rows = pulse(patch.p[:, 2], 0.14, 0, 0.03, fp)
    tone = cell_noise(patch.p[:, 0] / 0.3, patch.p[:, 2] / 0.14, 8) - 0.5
    return _matt(
        _plain(patch, 0.1, 1.5) * ((1 - 0.4 * rows) * (1 + 0.2 * tone * np.clip(1.4 - fp / 0.2, 0, 1)))[:, None]
    )


def _paint(patch: Patch) -> Look:
    u, v, z, fp = patch.local[:, 0], patch.local[:, 1], patch.p[:, 2], patch.size
    colour = patch.colour.copy()
    gloss = np.full(len(u), 0.22, np.float32)
    car = patch.detail[:, 0] > 0.5
    ends, sides = np.abs(patch.ln[:, 0]) > 0.7, np.abs(patch.ln[:, 1]) > 0.7
    low = stripe(z, 0.0, 0.34, fp)
    colour = _mix(colour, (0.025, 0.025, 0.027), low * car)
    lamp = stripe(np.abs(v), 0.52, 0.8, fp) * stripe(z, 0.62, 0.78, fp) * ends * car
    colour = _mix(colour, np.where(u[:, None] > 0, np.array([0.8, 0.8, 0.76]), np.array([0.5, 0.01, 0.01])), lamp)
    grille = stripe(np.abs(v), -1, 0.42, fp) * stripe(z, 0.56, 0.72, fp) * ends * (u > 0) * car
    colour = _mix(colour, (0.03, 0.03, 0.03), grille * (0.6 + 0.4 * pulse(z, 0.05, 0, 0.03, fp)))
    plate = stripe(np.abs(v), -1, 0.26, fp) * stripe(z, 0.4, 0.52, fp) * ends * car
    colour = _mix(colour, (0.7, 0.7, 0.66), plate)
    seams = (
        (stripe(np.abs(u - 0.1), 0.0, 0.012, fp) + stripe(np.abs(u + 0.95), 0, 0.012, fp)) * sides * (z > 0.36) * car
    )
    colour = _mix(colour, (0.02, 0.02, 0.02), np.clip(seams, 0, 1) * 0.8)
    van = (z > 1.25) & car & (z < 1.78)
    screen = (van & (patch.ln[:, 0] > 0.35) & (np.abs(v) < 0.78)).astype(np.float32)
    side_glass = (van & sides & (u > 0.45) & (u < 1.25)).astype(np.float32)
    rear_glass = (van & (z > 1.35) & (patch.ln[:, 0] < -0.7) & (np.abs(np.abs(v) - 0.4) < 0.33)).astype(np.float32)
    windows = np.maximum(np.maximum(screen, side_glass), rear_glass)
    colour = _mix(colour, (0.02, 0.025, 0.03), windows)
    gloss = np.where(windows > 0.5, 0.8, gloss * (1 - low)).astype(np.float32)
    gloss *= np.where(car, 1.0, 0.25).astype(np.float32)
    return Look(np.asarray(colour, np.float32), gloss)


def _glass(patch: Patch) -> Look:
    u, z, fp = patch.local[:, 0], patch.p[:, 2], patch.size
    sides = np.abs(patch.ln[:, 1]) > 0.7
    edge = np.maximum(stripe(z, 1.41, 1.6, fp), stripe(z, 0.9, 0.95, fp))
    pillar = np.maximum(stripe(np.abs(u + 0.35), 0, 0.045, fp) * sides, edge) * (z > 0.9)
    body = patch.colour.max(axis=1) > 0
    colour = _mix(np.full_like(patch.colour, 0.025), patch.colour, pillar * body)
    return Look(colour, np.asarray(0.85 * (1 - pillar) + 0.2 * pillar, np.float32))


def _rubber(patch: Patch) -> Look:
    r = np.hypot(patch.local[:, 0], patch.p[:, 2] - 0.32)
    hub = (r < 0.2) & (np.abs(patch.ln[:, 1]) > 0.7) & (patch.p[:, 2] < 0.7)
    angle = np.arctan2(patch.p[:, 2] - 0.32, patch.local[:, 0])
    spokes = np.where((np.cos(angle * 5) > -0.2) | (r > 0.165) | (r < 0.06), 0.42, 0.04)
    colour = np.where(hub[:, None], spokes[:, None] * np.ones(3, np.float32), patch.colour)
    return Look(colour.astype(np.float32), np.where(hub, 0.15, 0.02).astype(np.float32))


def _leaves(patch: Patch) -> Look:
    x, y, z = patch.p.T
    small, large = leaf_noise(x, y, z, 0.02), leaf_noise(x + 5, y, z, 0.16)
    shade = (0.55 + 0.75 * small) * (0.75 + 0.5 * large)
    warm = np.clip(large - 0.55, 0, 1)[:, None] * np.array([0.12, 0.07, 0.0], np.float32)
    return _matt(
        np.asarray(patch.colour * shade[:, None] + warm * patch.colour.mean(axis=1, keepdims=True) * 3, np.float32)
    )


def _bark(patch: Patch) -> Look:
    angle = np.arctan2(patch.local[:, 1], patch.local[:, 0])
    ridges = patch.noise.fractal(angle * 0.3, patch.p[:, 2] * 0.2, 0.06, patch.size, 2)
    return _matt(patch.colour * np.clip(1 + 0.4 * ridges, 0.3, 2)[:, None])


def _cloth(patch: Patch) -> Look:
    folds = patch.noise.fractal(patch.p[:, 0] + patch.p[:, 1], patch.p[:, 2] * 0.5, 0.16, patch.size, 2)
    return _matt(patch.colour * (1 + 0.16 * folds)[:, None])


def _container(patch: Patch) -> Look:
    side = np.abs(patch.ln[:, 1]) > 0.7
    u = np.where(side, patch.local[:, 0], patch.local[:, 1])
    fp = patch.size
    upright = np.abs(patch.n[:, 2]) < 0.5
    ribs = np.where(upright, pulse(u, 0.28, 0.0, 0.12, fp) - pulse(u, 0.28, 0.2, 0.28, fp), 0)
    rust = np.clip(patch.noise.fractal(u, patch.p[:, 2] * 0.5, 1.1, fp, 4) - 0.45, 0, 1)
    ribbed = patch.colour * (1 - 0.28 * ribs)[:, None]
    frame = np.maximum(
        stripe(np.abs(u), np.where(side, 2.93, 1.14).min(), 9.0, fp), pulse(patch.p[:, 2], 2.6, 0.0, 0.13, fp)
    )
    colour = _mix(ribbed, patch.colour * np.float32(0.8), frame * upright * (np.abs(u) < 3.1))
    return Look(_mix(colour, (0.16, 0.07, 0.035), rust * 0.7), np.full(len(u), 0.04, np.float32))


def _wood(patch: Patch) -> Look:
    u, z, fp = patch.local[:, 0] + patch.local[:, 1], patch.p[:, 2], patch.size
    grain = patch.noise.fractal(u * 0.3, z, 0.05, fp, 2) + patch.noise(u, z * 0.15, 0.08, fp)
    boards = pulse(z, 0.13, 0, 0.012, fp) * (np.abs(patch.n[:, 2]) < 0.5)
    return _matt(patch.colour * ((1 + 0.16 * grain) * (1 - 0.5 * boards))[:, None])


def _retro(patch: Patch) -> Look:
    fp = patch.size
    plate = patch.detail[:, 0] > 1
    r = np.where(plate, np.hypot(patch.local[:, 1], patch.p[:, 2] - 2.2), 1.0)
    rim = np.clip(stripe(r, 0.24, 0.29, fp) + stripe(r, -1, 0.12, fp) * (patch.detail[:, 2] > 0.5), 0, 1)
    bands = pulse(patch.p[:, 2], 0.3, 0.13, 0.28, fp) * ~plate
    back = plate & (patch.detail[:, 1] > 0) & (np.abs(patch.n[:, 0]) < 0.5)
    colour = _mix(patch.colour, (0.75, 0.75, 0.73), np.maximum(rim * plate, bands))
    return _matt(_mix(colour, (0.3, 0.3, 0.3), back.astype(np.float32)))


_SHADERS: Dict[Material, Callable[[Patch], Look]] = {
    Material.GROUND: _ground,
    Material.PAVING: _paving,
    Material.PLASTER: lambda patch: _wall(patch, False),
    Material.BRICK: lambda patch: _wall(patch, True),
    Material.ROOF: _roof,
    Material.STONE: lambda patch: _matt(_plain(patch, 0.12, 0.7)),
    Material.PAINT: _paint,
    Material.GLASS: _glass,
    Material.RUBBER: _rubber,
    Material.METAL: lambda patch: Look(_plain(patch, 0.05), np.full(len(patch.p), 0.06, np.float32)),
    Material.LEAVES: _leaves,
    Material.BARK: _bark,
    Material.CLOTH: _cloth,
    Material.CONTAINER: _container,
    Material.WOOD: _wood,
    Material.LAWN: lambda patch: _matt(_grass(patch)),
    Material.LAMP: lambda patch: Look(patch.colour, np.zeros(len(patch.p), np.float32), patch.colour * _LAMP_GLASS),
    Material.RETRO: _retro,
}


def look_of(scene: Scene, noise: NoiseTile, solid: IntArray, p: FloatArray, n: FloatArray, size: FloatArray) -> Look:
    """Colour and gloss of surface points.

    Args:
        scene: the world.
        noise: its noise tile.
        solid: (N,) solids met, none negative.
        p: (N, 3) positions, metres.
        n: (N, 3) unit normals.
        size: (N,) width of a pixel on the surface, metres.
    """
    colour, gloss, shine = np.empty_like(p), np.empty(len(p), np.float32), np.zeros_like(p)
    kinds = scene.material[solid]
    frame = scene.frame[solid]
    c, s = np.cos(frame[:, 2]), np.sin(frame[:, 2])
    x, y = p[:, 0] - frame[:, 0], p[:, 1] - frame[:, 1]
    local = np.stack([c * x + s * y, c * y - s * x, p[:, 2]], axis=1)
    ln = np.stack([c * n[:, 0] + s * n[:, 1], c * n[:, 1] - s * n[:, 0], n[:, 2]], axis=1)
    for kind in np.unique(kinds):
        at = np.flatnonzero(kinds == kind)
        ids = solid[at]
        patch = Patch(
            p[at], local[at], n[at], ln[at], size[at], scene.colour[ids], scene.detail[ids], noise, scene.layout
        )
        look = _SHADERS[Material(int(kind))](patch)
        colour[at], gloss[at] = look.colour, look.gloss
        if look.shine is not None:
            shine[at] = look.shine
    return Look(colour, gloss, shine)
