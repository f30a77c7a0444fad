"""Colours of surfaces and of the sky, and the light that falls on them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mf_training.scenes.shapes import COLOUR, CONTRAST, PHASE, SCALE, SECOND, SHINE, TEXTURE, TEXTURES, Ground, Triple
from mf_training.scenes.surface_points import SurfacePoints, glass, road_position
from mf_training.scenes.surfaces import hash_cells

_NOISE_SIZE = 512
# A repeat of the noise image covers this many texture sizes.
_REPEAT = 8.0


@dataclass(frozen=True)
class Light:
    """Sun (direction towards it, colour), light from above and below, haze, and what the sky looks like."""

    sun: Triple
    sun_colour: Triple
    above: Triple
    below: Triple
    haze_per_m: float
    haze: Triple
    zenith: Triple
    horizon: Triple
    clouds: float


@functools.lru_cache(maxsize=8)
def noise_image(device: torch.device) -> Tensor:
    """(1, 4, N + 1, N + 1) tiling noise of zero mean and unit deviation: cloudy, mixed, gritty, streaked along x."""
    rng = np.random.default_rng(20240607)
    fx, fy = np.meshgrid(np.fft.fftfreq(_NOISE_SIZE), np.fft.fftfreq(_NOISE_SIZE))
    layers = []
    for power, stretch in ((1.7, 1.0), (1.2, 1.0), (0.5, 1.0), (1.2, 12.0)):
        f = np.sqrt((fx * stretch) ** 2 + fy**2)
        f[0, 0] = 1.0
        spectrum = np.fft.fft2(rng.standard_normal((_NOISE_SIZE, _NOISE_SIZE))) / f**power
        spectrum[0, 0] = 0.0
        layer = np.fft.ifft2(spectrum).real
        layers.append(np.pad(layer / layer.std(), ((0, 1), (0, 1)), mode="wrap"))
    return torch.from_numpy(np.stack(layers)[None].astype(np.float32)).to(device)


def noise_at(u: Tensor, v: Tensor) -> Tensor:
    """(4, N) noise at coordinates in repeats."""
    grid = torch.stack([u - u.floor(), v - v.floor()], -1) * 2 - 1
    image = noise_image(u.device)
    return F.grid_sample(image, grid.view(1, 1, -1, 2), mode="bilinear", align_corners=True)[0, :, 0]


def albedo(points: SurfacePoints, ground: Ground, footprint: Tensor) -> Tensor:
    """(3, N) linear colour; detail finer than ``footprint`` (N,), a pixel on the surface (m), is left out."""
    row, (u, v) = points.row, points.uv
    scale, contrast, code, phase = row[SCALE].clamp(min=1e-3), row[CONTRAST], row[TEXTURE], row[PHASE]
    a, b = u / scale, v / scale
    coarse = noise_at(a / (_REPEAT * 3) + phase * 7.3, b / (_REPEAT * 3) + phase * 3.1)
    fine = noise_at(a / _REPEAT + phase * 5.7, b / _REPEAT + phase * 1.9)
    # Patterns finer than a pixel must fade, or they would sparkle at a distance.
    keep = 1.0 / (1.0 + (2.5 * footprint / scale) ** 2)
    keep_fine = 1.0 / (1.0 + (20.0 * footprint / scale) ** 2)
    pattern, mean = _patterns(a, b, code, phase, fine)
    mix = (mean + (pattern - mean) * keep).clamp(0, 1)
    colour = row[COLOUR] * (1 - mix) + row[SECOND] * mix
    tone = 0.55 * coarse[0] + (0.35 * coarse[1] + 0.3 * fine[1] + 0.4 * fine[2]) * keep_fine
    if ground.present and ground.lanes[0] > 0:
        colour, tone = _road(points, ground, colour, tone, fine, footprint)
    return (colour * torch.exp(1.5 * contrast * tone)).clamp(0.0, 1.0)


def _is(code: Tensor, name: str) -> Tensor:
    return code == TEXTURES.index(name)


def _patterns(a: Tensor, b: Tensor, code: Tensor, phase: Tensor, fine: Tensor) -> Tuple[Tensor, Tensor]:
    """Share of the second colour in [0, 1] at (a, b) texture sizes, and its mean over the texture."""
    fa, fb = a - a.floor(), b - b.floor()
    zero = torch.zeros_like(a)
    cell = hash_cells(a, b, zero, phase)
    share, mean = zero, zero

    def put(name: str, value: Tensor, average: float) -> None:
        nonlocal share, mean
        chosen = _is(code, name)
        share = torch.where(chosen, value, share)
        mean = torch.where(chosen, torch.full_like(mean, average), mean)

    put("stripes", (fa < 0.5).float(), 0.5)
    put("checker", ((fa < 0.5) ^ (fb < 0.5)).float(), 0.5)
    rowed = a + 0.5 * (3 * b).floor()
    joint = ((rowed - rowed.floor()) < 0.06) | ((3 * b - (3 * b).floor()) < 0.15)
    tone = hash_cells(rowed, 3 * b, zero, phase)
    put("bricks", torch.where(joint, torch.ones_like(a), 0.45 * tone), 0.4)
    put("panes", (((fa - 0.5).abs() < 0.28) & ((fb - 0.5).abs() < 0.3)).float() * 0.9 + 0.08 * cell, 0.3)
    inside = ((fa - 0.5).abs() < 0.2 + 0.25 * cell) & ((fb - 0.5).abs() < 0.45 - 0.2 * cell)
    put("patches", torch.where(inside, cell, zero), 0.3)
    put("leaves", hash_cells(a * 3, b * 3, zero, phase), 0.5)
    put("wood", (0.5 + 0.3 * fine[3]).clamp(0, 1), 0.5)
    put("planks", torch.where(fa < 0.05, torch.ones_like(a), 0.5 * hash_cells(a, zero, zero, phase)), 0.3)
    put("asphalt", (0.3 + 0.25 * fine[2]).clamp(0, 1), 0.3)
    put("grass", (0.5 + 0.25 * fine[1] + 0.2 * fine[2]).clamp(0, 1), 0.5)
    return share, mean


def _road(
    points: SurfacePoints, ground: Ground, colour: Tensor, tone: Tensor, fine: Tensor, footprint: Tensor
) -> Tuple[Tensor, Tensor]:
    """The road's own colour with its markings, and the verge beside it."""
    half, _, lane, _, _ = ground.lanes
    forward, left = road_position(ground, points.world)
    on_road = points.ground & (left.abs() < half + 0.05 * fine[0])
    off_road = points.ground & ~on_road
    verge = torch.tensor(ground.verge.colour, device=colour.device)[:, None]
    other = torch.tensor(ground.verge.second, device=colour.device)[:, None]
    mix = (0.5 + 0.35 * fine[1]).clamp(0, 1)
    colour = torch.where(off_road, verge * (1 - mix) + other * mix, colour)
    place = (left + half) / lane
    to_line = ((place - place.round()).abs() * lane).clamp(max=10.0)
    edge = (place.round() <= 0) | (place.round() >= round(2 * half / lane))
    dash = ((forward / 9.0) - (forward / 9.0).floor() < 0.4) | edge
    width = 0.07 + 0.25 * footprint
    paint = (0.07 / width) * (to_line < width) * dash * on_road
    worn = (paint * (0.85 + 0.3 * fine[1])).clamp(0, 1)
    return colour * (1 - worn) + 0.75 * worn, tone * (1 - 0.7 * worn)


def shade(points: SurfacePoints, colour: Tensor, direction: Tensor, lit: Tensor, light: Light) -> Tensor:
    """(3, N) light that comes back along the rays; ``lit`` (N,) in [0, 1] is the part of the sun that arrives."""
    device = colour.device
    vector = functools.partial(_column, device=device)
    sun, normal = vector(light.sun), points.normal
    facing = (normal * sun).sum(0).clamp(min=0) * lit
    up = 0.5 + 0.5 * normal[2:3]
    sky_light = vector(light.above) * up + vector(light.below) * (1 - up)
    glazed = glass(points)
    # Glass is dark and mirrors the sky; what stands behind it is not modelled.
    colour = torch.where(glazed, colour.new_tensor([[0.02], [0.025], [0.03]]), colour)
    shine = torch.where(glazed, torch.full_like(facing, 0.6), points.row[SHINE])
    mirrored = direction - 2 * (direction * normal).sum(0) * normal
    glint = (mirrored * sun).sum(0).clamp(min=0) ** 40 * lit
    fresnel = 0.06 + 0.94 * (1 - (direction * normal).sum(0).abs()) ** 4
    result = colour * (sky_light + vector(light.sun_colour) * facing)
    result = result + shine * (fresnel * sky(mirrored, light, smooth=True) * 0.6 + vector(light.sun_colour) * glint)
    return result


def sky(direction: Tensor, light: Light, smooth: bool = False) -> Tensor:
    """(3, N) colour of the sky along directions, with clouds and a bright patch about the sun."""
    vector = functools.partial(_column, device=direction.device)
    height = direction[2].clamp(0.0, 1.0)
    mix = height**0.5
    colour = vector(light.horizon) * (1 - mix) + vector(light.zenith) * mix
    if smooth:
        return torch.where(direction[2] > -0.02, colour, vector(light.below) * torch.ones_like(mix))
    scale = 0.15 / (height + 0.15)
    cloud = noise_at(direction[0] * scale + 0.37, direction[1] * scale + 0.11)[0]
    cover = ((cloud + 2.0 * light.clouds - 1.0) * 0.8).clamp(0, 1)
    white = vector(light.horizon).mean() * 1.1
    colour = colour * (1 - cover) + white * cover
    near_sun = (direction * vector(light.sun)).sum(0).clamp(min=0) ** 30
    return colour + 0.6 * near_sun * vector(light.sun_colour)


def haze(colour: Tensor, distance: Tensor, light: Light) -> Tensor:
    """The colour seen through the air."""
    clear = torch.exp(-light.haze_per_m * distance)
    return colour * clear + _column(light.haze, colour.device) * (1 - clear)


def _column(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]
