"""Scenes from seeds: draw a world, look at it with a camera, scan it with LiDARs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch

from mf_ros.errors import ConfigError
from mf_training.scenes import indoor, outdoor
from mf_training.scenes.appearance import albedo, haze, shade, sky
from mf_training.scenes.camera import TILE, Camera, draw_camera, from_tiles, perspective_rects, pixel_rays, to_tiles
from mf_training.scenes.caster import Hits, View, cast_all, cast_few, cast_tiles, make_batch, outlines
from mf_training.scenes.palette import Rng
from mf_training.scenes.patterns import Beams, draw_beams
from mf_training.scenes.photo import develop
from mf_training.scenes.returns import Echoes, draw_faults, measured, probes, to_scan
from mf_training.scenes.shapes import REFLECTIVITY, along
from mf_training.scenes.surface_points import SurfacePoints, glass, surface_points
from mf_training.scenes.types import DEFAULT_CONFIG, KINDS, LidarScan, Scene, SceneConfig
from mf_training.scenes.world import World

WORLDS = {
    "street": outdoor.street,
    "highway": outdoor.highway,
    "nature": outdoor.nature,
    "yard": outdoor.yard,
    "room": indoor.room,
    "floating": indoor.floating,
}
DEPTH_RANGE_M = (0.3, 120.0)
_LAYOUT, _CAMERA, _PHOTO, _SCAN = 0, 1, 2, 16
_BEAM_TILE = 128
_ATTEMPTS = 6


def _rng(seed: int, stream: int) -> Rng:
    return np.random.default_rng([seed, stream])


def make_scene(
    seed: int,
    size: Tuple[int, int] = (320, 512),
    device: Any = "cpu",
    scans: int = 3,
    config: SceneConfig = DEFAULT_CONFIG,
) -> Scene:
    """The scene of a seed: the same in every process for the same seed, size and configuration.

    Args:
        seed: a whole number of at least 0.
        size: height and width of the picture, multiples of 32.
        device: where rays are cast; a GPU gives the same scene up to rounding (use ``make_scenes`` to fill one).
        scans: number of LiDAR sweeps; the first ones do not depend on how many there are.

    Raises:
        ConfigError: a size, seed or weight cannot be used.
    """
    _check(seed, size, config)
    if torch.device(device).type != "cpu":
        return make_scenes([seed], size, device, scans, config)[0]
    kind, world, camera = _draw(seed, size, config)
    rays, cosine = pixel_rays(camera)
    tiles = to_tiles(rays)
    direction = torch.from_numpy(tiles)
    rects = perspective_rects(camera.axes, tiles)
    eye = camera.eye.astype(np.float32)
    hits = cast_tiles(world.table, world.ground, eye, direction, outlines(world.table, camera.view(), rects))
    lit = _lit_tiles(world, camera, direction, hits)
    order = {"t": hits.t.numpy(), "what": hits.what.numpy(), "lit": lit.numpy()}
    t, what, lit_image = (torch.from_numpy(from_tiles(order[name], size)) for name in ("t", "what", "lit"))

    def cast(heads: Sequence[Beams]) -> List[Tuple[torch.Tensor, Hits]]:
        return _cast_beams(world, camera, heads)

    return _compose(
        seed,
        kind,
        world,
        camera,
        rays,
        cosine,
        Hits(t, what),
        lit_image,
        _scan_all(seed, world, camera, scans, config, cast),
    )


def _check(seed: int, size: Tuple[int, int], config: SceneConfig) -> None:
    if seed < 0:
        raise ConfigError(f"A scene's seed must be 0 or more, not {seed}.")
    if min(size) < 2 * TILE or size[0] % (2 * TILE) or size[1] % (2 * TILE):
        raise ConfigError(f"A scene's size must be multiples of {2 * TILE}, not {size[0]} x {size[1]}.")
    unknown = set(config.kinds) - set(KINDS)
    if unknown or not sum(config.kinds.values()) > 0 or min(config.kinds.values()) < 0:
        raise ConfigError(
            f"The weights of scenes must be positive numbers for some of {', '.join(KINDS)}: {config.kinds}."
        )


def _draw(seed: int, size: Tuple[int, int], config: SceneConfig) -> Tuple[str, World, Camera]:
    """Kind, world and camera of a seed; a view that shows next to nothing is drawn again."""
    rng = _rng(seed, _LAYOUT)
    names = [name for name in KINDS if config.kinds.get(name, 0) > 0]
    weights = np.array([config.kinds[name] for name in names], np.float64)
    kind = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    lens = _rng(seed, _CAMERA)
    for _ in range(_ATTEMPTS):
        world = WORLDS[kind](rng, float(rng.uniform(*config.complexity)))
        camera = draw_camera(world, lens, size)
        if _worth_seeing(world, camera):
            break
    return kind, world, camera


def _worth_seeing(world: World, camera: Camera) -> bool:
    """True unless something fills the view from very near, or there is hardly anything in it."""
    rays = np.ascontiguousarray(pixel_rays(camera)[0][:, 8::20, 8::32]).reshape(3, -1)
    hits = cast_few(world.table, world.ground, camera.eye.astype(np.float32), torch.from_numpy(rays))
    t, what = hits.t.numpy(), hits.what.numpy()
    close, least = (0.6, 8) if world.indoors else (2.2, 5)
    return bool((t < close).mean() < 0.12 and np.isinf(t).mean() < 0.7 and len(np.unique(what)) >= least)


def _sun_view(world: World) -> View:
    return View(along(world.light.sun).T, np.zeros(3), parallel=True)


def _is_dark(world: World) -> bool:
    """Whether the sun is too weak for shadows."""
    return max(world.light.sun_colour) < 0.06


def _before_surface(eye: torch.Tensor, direction: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Where shadow rays start: a little before the surface, so that it does not shade itself; the eye without one."""
    return eye + torch.where(torch.isfinite(t), t * 0.999 - 0.02, torch.zeros_like(t)) * direction


def _lit_tiles(world: World, camera: Camera, direction: torch.Tensor, hits: Hits) -> torch.Tensor:
    """(T, n) part of the sun that arrives, from one shadow ray for each block of 2 x 2 pixels."""
    if _is_dark(world):
        return torch.zeros_like(hits.t)
    t = _every_second(hits.t)
    seen = torch.isfinite(t)
    d = torch.stack([_every_second(part) for part in direction])
    eye = torch.from_numpy(camera.eye.astype(np.float32)).view(3, 1, 1)
    points = _before_surface(eye, d, t)
    view = _sun_view(world)
    flat = torch.einsum("ij,jtn->itn", torch.from_numpy(view.axes.astype(np.float32)), points)
    big = torch.full_like(t, 1e9)
    low, high = (
        (torch.where(seen, part, big).amin(1) for part in flat),
        (torch.where(seen, part, -big).amax(1) for part in flat),
    )
    (u0, v0, w0), (u1, v1, _) = tuple(low), tuple(high)
    rects = torch.stack([u0, u1, v0, v1, w0, w0], 1).numpy()
    sun, outline = np.asarray(world.light.sun, np.float32), outlines(world.table, view, rects)
    found = cast_tiles(world.table, world.ground, points, sun, outline, shadow=True)
    lit = (~torch.isfinite(found.t)).float()
    n = TILE // 2
    return lit.view(-1, n, n).repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(hits.t.shape)


def _every_second(tiles: torch.Tensor) -> torch.Tensor:
    grid = tiles.view(-1, TILE, TILE)[:, ::2, ::2]
    return grid.reshape(grid.shape[0], -1)


def _cast_beams(world: World, camera: Camera, heads: Sequence[Beams]) -> List[Tuple[torch.Tensor, Hits]]:
    """Cast all sensors' beams at once on the CPU; returns the directions (3, N) and hits (N,) of each."""
    directions, origins, found = [], [], []
    for head in heads:
        padded = np.concatenate([head.true, np.repeat(head.true[-1:], -len(head.true) % _BEAM_TILE, 0)]).astype(
            np.float32
        )
        tiles = np.ascontiguousarray(padded.T).reshape(3, -1, _BEAM_TILE)
        rects = perspective_rects(camera.axes, tiles)
        found.append(outlines(world.table, View(camera.axes, head.origin), rects))
        directions.append(tiles)
        origins.append(np.broadcast_to(head.origin.astype(np.float32)[:, None, None], (3, tiles.shape[1], 1)))
    outline = np.concatenate([o[0] for o in found], 1), np.concatenate([o[1] for o in found], 1)
    origin, direction = torch.from_numpy(np.concatenate(origins, 1)), torch.from_numpy(np.concatenate(directions, 1))
    hits = cast_tiles(world.table, world.ground, origin, direction, outline)
    result, start = [], 0
    for head, tiles in zip(heads, directions, strict=True):
        part, count = slice(start, start + tiles.shape[1]), len(head.true)
        own = Hits(hits.t[part].reshape(-1)[:count], hits.what[part].reshape(-1)[:count])
        result.append((direction[:, part].reshape(3, -1)[:, :count], own))
        start += tiles.shape[1]
    return result


def _scan_all(seed: int, world: World, camera: Camera, scans: int, config: SceneConfig, cast: Any) -> List[LidarScan]:
    """All sweeps of a scene: their beams are drawn, cast together, and turned into what the sensors report."""
    drawn = []
    for k in range(scans):
        rng = _rng(seed, _SCAN + k)
        heads = [head for head in draw_beams(camera, world.indoors, rng) if len(head.true)]
        drawn.append((rng, heads, [probes(head, rng) for head in heads]))
    every = [
        replace(head, true=np.concatenate([head.true, extra.true]))
        for _, heads, second in drawn
        for head, (extra, _) in zip(heads, second, strict=True)
    ]
    met = iter(cast(every) if every else [])
    return [_sweep(world, camera, config, rng, heads, second, met) for rng, heads, second in drawn]


def _sweep(
    world: World, camera: Camera, config: SceneConfig, rng: Rng, heads: Sequence[Beams], second: Sequence[Any], met: Any
) -> LidarScan:
    if not heads:
        return LidarScan(np.zeros((0, 3), np.float32), np.zeros(0, np.int16), "none", 0)
    faults = draw_faults(heads[0].kind, rng, config.noise)
    ranges = []
    for head, (_, of) in zip(heads, second, strict=True):
        direction, hits = next(met)
        origin = torch.from_numpy(head.origin.astype(np.float32)).to(direction.device)[:, None]
        echoes = _echoes(surface_points(world.table, world.ground, origin, direction, hits), direction, hits)
        count = len(head.true)
        first, beside = _part(echoes, slice(None, count)), _part(echoes, slice(count, None))
        ranges.append(measured(first, beside, of, head, faults, rng))
    return to_scan(heads, ranges, camera, faults)


def _echoes(points: SurfacePoints, direction: torch.Tensor, hits: Hits) -> Echoes:
    incidence = (points.normal * direction).sum(0).abs()
    return Echoes(
        hits.t.double().cpu().numpy(),
        incidence.double().cpu().numpy(),
        points.row[REFLECTIVITY].double().cpu().numpy(),
        glass(points).cpu().numpy(),
    )


def _part(echoes: Echoes, part: slice) -> Echoes:
    return Echoes(echoes.range[part], echoes.incidence[part], echoes.reflectivity[part], echoes.glass[part])


def _compose(
    seed: int,
    kind: str,
    world: World,
    camera: Camera,
    rays: np.ndarray,
    cosine: np.ndarray,
    hits: Hits,
    lit: torch.Tensor,
    scans: Sequence[LidarScan],
) -> Scene:
    """Shade what the camera's rays met, and develop the picture."""
    size, device = camera.size, hits.t.device
    direction = torch.from_numpy(rays.reshape(3, -1)).to(device)
    flat = Hits(hits.t.reshape(-1), hits.what.reshape(-1))
    eye = torch.from_numpy(camera.eye.astype(np.float32)).to(device)[:, None]
    points = surface_points(world.table, world.ground, eye, direction, flat)
    t = torch.where(points.hit, flat.t, torch.full_like(flat.t, 1000.0))
    facing = (points.normal * direction).sum(0).abs().clamp(min=0.15)
    colour = albedo(points, world.ground, t / float(camera.K[0, 0]) / facing)
    seen = haze(shade(points, colour, direction, lit.reshape(-1), world.light), t, world.light)
    seen = torch.where(points.hit, seen, sky(direction, world.light))
    picture = develop(seen.reshape(3, *size).cpu().numpy(), _rng(seed, _PHOTO))
    depth = np.where(np.isfinite(t := hits.t.cpu().numpy()), t * cosine, np.inf).astype(np.float32)
    depth[depth > DEPTH_RANGE_M[1]] = np.inf
    return Scene(picture, depth, camera.K.astype(np.float32), tuple(scans), kind, seed)


def make_scenes(
    seeds: Sequence[int],
    size: Tuple[int, int] = (320, 512),
    device: Any = "cpu",
    scans: int = 3,
    config: SceneConfig = DEFAULT_CONFIG,
) -> List[Scene]:
    """Several scenes, cast together on the device: the same as ``make_scene`` gives, up to rounding."""
    for seed in seeds:
        _check(seed, size, config)
    drawn = [_draw(seed, size, config) for seed in seeds]
    worlds = [world for _, world, _ in drawn]
    batch = make_batch([w.table for w in worlds], [w.ground for w in worlds], device)
    rays = [pixel_rays(camera) for _, _, camera in drawn]
    direction = torch.from_numpy(np.stack([r.reshape(3, -1) for r, _ in rays], 1)).to(device)
    eyes = torch.from_numpy(np.stack([c.eye for _, _, c in drawn], 1).astype(np.float32)).to(device).unsqueeze(-1)
    hits = cast_all(batch, eyes, direction)
    sun = torch.tensor([w.light.sun for w in worlds], dtype=torch.float32, device=device).T.unsqueeze(-1)
    lit = _lit_all(batch, eyes, direction, hits, sun, size)
    scenes = []
    for i, (seed, (kind, world, camera)) in enumerate(zip(seeds, drawn, strict=True)):
        own = make_batch([world.table], [world.ground], device)

        def cast(heads: Sequence[Beams], own: Any = own) -> List[Tuple[torch.Tensor, Hits]]:
            return _cast_together(own, heads, device)

        own_hits = Hits(hits.t[i].view(size), hits.what[i].view(size))
        arrives = torch.zeros_like(lit[i]) if _is_dark(world) else lit[i]
        swept = _scan_all(seed, world, camera, scans, config, cast)
        scenes.append(_compose(seed, kind, world, camera, *rays[i], own_hits, arrives.view(size), swept))
    return scenes


def _cast_together(batch: Any, heads: Sequence[Beams], device: Any) -> List[Tuple[torch.Tensor, Hits]]:
    """What ``_cast_beams`` does, in one batch of one scene on the device."""
    counts = [len(head.true) for head in heads]
    direction = np.concatenate([head.true for head in heads]).astype(np.float32)
    origin = np.concatenate([np.broadcast_to(head.origin, head.true.shape) for head in heads]).astype(np.float32)
    d, o = (torch.from_numpy(np.ascontiguousarray(v.T)).to(device).unsqueeze(1) for v in (direction, origin))
    found = cast_all(batch, o, d)
    parts = zip(d[:, 0].split(counts, 1), found.t[0].split(counts), found.what[0].split(counts), strict=True)
    return [(own, Hits(t, what)) for own, t, what in parts]


def _lit_all(
    batch: Any, eyes: torch.Tensor, direction: torch.Tensor, hits: Hits, sun: torch.Tensor, size: Tuple[int, int]
) -> torch.Tensor:
    count = hits.t.shape[0]
    t = hits.t.view(count, *size)[:, ::2, ::2].reshape(count, -1)
    d = direction.view(3, count, *size)[:, :, ::2, ::2].reshape(3, count, -1)
    points = _before_surface(eyes, d, t)
    found = cast_all(batch, points, sun, shadow=True)
    lit = (~torch.isfinite(found.t)).float().view(count, size[0] // 2, size[1] // 2)
    return lit.repeat_interleave(2, 1).repeat_interleave(2, 2).reshape(count, -1)
