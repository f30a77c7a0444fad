"""One training sample from a scene: what the network is shown, and what is true.

Projection, culling and normalisation are those of the robot (``mf_ros.core``), so that a network meets in training what
it will meet in use. Real frames whose only truth is LiDAR go the same way: what is not shown supervises.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Dict, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import condition
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import ProjectedReturns, mark_visible, project_points, rasterize_nearest
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray
from mf_training.scenes.types import LidarScan, Scene

VISIBLE, HIDDEN = 1, 2
_SHOWN_WEIGHT = 0.15
_BETWEEN_WEIGHT = 0.1
_OUTSIDE_WEIGHT = 0.03
_SAME_SURFACE = 0.05
_AROUND, _GHOST_RATIO = 7, 0.93
_MARGIN = 48
_REACH_OF_LIDAR = 41
_TOO_DEEP = 1.08
_WINDOWS = 8


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn from scenes."""

    lines: float = 0.55
    """Share of samples that are shown whole scan lines, where the sensor has them."""
    points: float = 0.22
    """Share that is shown random returns."""
    block: float = 0.15
    """Share that is shown the returns of a part of the image; the rest is shown none."""
    outliers: float = 0.1
    """Share of samples in which up to 10% of the returns are wrong."""
    ghosts: float = 0.3
    """Share of samples that keep returns from nowhere, nearer than anything around; robots' drivers filter most."""
    cull_margin: float = ProjectionConfig.cull_margin
    """As ``projection.cull_margin`` on the robot."""
    photometric: bool = True
    """Vary brightness, contrast, colour and noise of the image."""


@dataclass(frozen=True)
class Sample:
    """Arrays of one sample; H and W are multiples of 16.

    Attributes:
        image: (3, H, W) uint8.
        truth: (H, W) float32 metres along Z; 0 unknown, infinite sky.
        weight: (H, W) float32 how much each pixel's truth counts.
        depth, level, prior: (H, W) float32 as in ``mf_ros.core.conditioning.Conditioning``.
        hidden: (H, W) uint8: ``VISIBLE`` or ``HIDDEN`` at shown returns of which that is known, else 0.
        scale: metres; without shown returns the median of the truth, which nobody but the loss may use.
    """

    image: ByteArray
    truth: FloatArray
    weight: FloatArray
    depth: FloatArray
    level: FloatArray
    prior: FloatArray
    hidden: ByteArray
    scale: float


@dataclass(frozen=True)
class _Returns:
    """Returns on the image, (M,) each: pixels, depth as shown and as measured, scan line, whether shown."""

    uv: FloatArray
    z: FloatArray
    measured: FloatArray
    ring: AnyArray
    shown: BoolArray


def _rasterized(returns: _Returns, z: FloatArray, keep: BoolArray, shape: Tuple[int, int]) -> FloatArray:
    pixels = np.rint(returns.uv[keep]).astype(np.int64)
    return rasterize_nearest(pixels[:, 1], pixels[:, 0], z[keep], shape)


def make_sample(
    scene: Scene, rng: np.random.Generator, shape: Tuple[int, int], config: Optional[SampleConfig] = None
) -> Sample:
    """Draw a sample: one of the scene's sweeps, which of its returns are shown, mirrored or not, and a crop of it all.

    Args:
        scene: what was rendered or recorded; ``depth`` all zero where only the LiDAR knows.
        rng: of every draw.
        shape: (H, W) of the crop, not larger than the scene.
        config: shares of the draws.
    """
    config = config or SampleConfig()
    mirrored = bool(rng.random() < 0.5)
    size = (scene.depth.shape[0], scene.depth.shape[1])
    returns = _projected(scene.scans[int(rng.integers(len(scene.scans)))], scene.camera(), mirrored)
    truth = scene.depth[:, ::-1] if mirrored else scene.depth
    if rng.random() >= config.ghosts:
        returns = _without_ghosts(returns, truth)
    if rng.random() < config.outliers:
        returns = _with_outliers(returns, rng)
    returns = _with_shown(returns, rng, size, config)
    if truth.any():
        weight = _as_measured(returns, truth, size, config.cull_margin)
    else:
        truth, weight = _held_out(returns, size, config.cull_margin)
    sparse = _visible_depth(returns, size, config.cull_margin)
    window = _window(sparse, rng, shape)
    depth, level, prior, scale = _conditioned(sparse, truth, window)
    image = np.ascontiguousarray((scene.image[..., ::-1] if mirrored else scene.image)[(slice(None), *window)])
    return Sample(
        _photometric(image, rng) if config.photometric else image,
        *(np.ascontiguousarray(each[window], np.float32) for each in (truth, weight)),
        depth,
        level,
        prior,
        _visibility(sparse, truth)[window].copy(),
        scale,
    )


def _window(sparse: FloatArray, rng: np.random.Generator, shape: Tuple[int, int]) -> Tuple[slice, slice]:
    """A random window; where the picture has returns another is drawn, a few times, while it shows none of them."""
    for _ in range(_WINDOWS):
        top, left = (int(rng.integers(full - part + 1)) for full, part in zip(sparse.shape, shape, strict=True))
        window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        if sparse[window].any() or not sparse.any():
            break
    return window


def _conditioned(
    sparse: FloatArray, truth: FloatArray, window: Tuple[slice, slice]
) -> Tuple[FloatArray, FloatArray, FloatArray, float]:
    """Depth, level and prior of a window of the picture, and the scale of the whole picture, as on the robot.

    The prior is made of the window and a margin: at a crop's own border it would be cut off from what lies beyond.
    A window without any return in itself is one without LiDAR.

    Args:
        sparse: (H, W) metres of visible returns.
        truth: (H, W) metres.
        window: rows and columns.
    """
    if not sparse[window].any():
        sparse = np.zeros_like(sparse)
    outer = tuple(slice(max(0, each.start - _MARGIN), each.stop + _MARGIN) for each in window)
    inner = tuple(
        slice(each.start - wide.start, each.stop - wide.start) for each, wide in zip(window, outer, strict=True)
    )
    returns = sparse[sparse > 0]
    conditioning = condition(sparse[outer], float(np.median(returns)) if len(returns) else 0.0)
    scale = conditioning.scale
    if not conditioning.metric:
        known = truth[(truth > 0) & np.isfinite(truth)]
        scale = float(np.median(known)) if known.size else 1.0
    depth, level, prior = (
        np.ascontiguousarray(each[inner]) for each in (conditioning.depth, conditioning.level, conditioning.prior)
    )
    return depth, level, prior, scale


def collate(samples: Sequence[Sample]) -> Dict[str, torch.Tensor]:
    """A batch: (B, C, H, W) of every array, (B,) of the scale; images stay bytes until they are used."""
    batch: Dict[str, torch.Tensor] = {}
    for each in fields(Sample):
        stacked = torch.from_numpy(np.stack([np.asarray(getattr(sample, each.name)) for sample in samples]))
        batch[each.name] = stacked.float() if each.name == "scale" else stacked
        if stacked.ndim == 3:
            batch[each.name] = stacked[:, None]
    return batch


def _projected(scan: LidarScan, camera: CameraModel, mirrored: bool) -> _Returns:
    returns = project_points(scan.as_points(), camera)
    uv = returns.uv
    if mirrored:
        uv = np.stack([camera.width - 1 - uv[:, 0], uv[:, 1]], 1)
    return _Returns(uv, returns.z, returns.z, scan.ring[returns.index], returns.visible)


def _without_ghosts(returns: _Returns, depth: FloatArray) -> _Returns:
    """The returns that something in the picture around them may have caused; all of them where depth is unknown."""
    known = np.where(depth > 0, depth, np.float32(np.inf))
    if not np.isfinite(known).any():
        return returns
    nearest = cv2.erode(known.astype(np.float32), np.ones((_AROUND, _AROUND), np.uint8))
    pixels = np.rint(returns.uv).astype(np.int64)
    real = np.flatnonzero(returns.z > _GHOST_RATIO * nearest[pixels[:, 1], pixels[:, 0]])
    uv, z, measured, ring, shown = (
        each[real] for each in (returns.uv, returns.z, returns.measured, returns.ring, returns.shown)
    )
    return _Returns(uv, z, measured, ring, shown)


def _with_outliers(returns: _Returns, rng: np.random.Generator) -> _Returns:
    """Some returns replaced by depths from elsewhere in the sweep, or by ones far too near."""
    if len(returns.z) == 0:
        return returns
    wrong = rng.random(len(returns.z)) < rng.uniform(0, 0.1)
    other = returns.z[rng.integers(len(returns.z), size=len(returns.z))]
    other = other * np.where(rng.random(len(other)) < 0.3, rng.uniform(0.2, 1.5, len(other)), 1.0)
    return replace(returns, z=np.where(wrong, other, returns.z).astype(np.float32))


def _with_shown(returns: _Returns, rng: np.random.Generator, shape: Tuple[int, int], config: SampleConfig) -> _Returns:
    """Which returns the network is shown: whole scan lines, random ones, those of a part of the image, or none."""
    draw, count = rng.random(), len(returns.z)
    has_lines = count > 0 and returns.ring.min() >= 0
    if draw < config.lines and has_lines:
        stride = int(rng.choice([1, 2, 2, 4, 4, 8, 8, 16]))
        shown = returns.ring % stride == int(rng.integers(stride))
        # A sensor with the same lines may turn more coarsely.
        shown &= rng.random(count) < rng.choice([1.0, 1.0, 0.6])
    elif draw < config.lines + config.points:
        wanted = np.exp(rng.uniform(np.log(0.0003), np.log(0.2))) * shape[0] * shape[1]
        shown = rng.random(count) < wanted / max(count, 1)
    elif draw < config.lines + config.points + config.block:
        shown = _in_part(returns, rng, shape)
        if has_lines:
            stride = int(rng.choice([1, 2, 4]))
            shown &= returns.ring % stride == int(rng.integers(stride))
    else:
        shown = np.zeros(count, np.bool_)
    return replace(returns, shown=shown)


def _in_part(returns: _Returns, rng: np.random.Generator, shape: Tuple[int, int]) -> BoolArray:
    """Returns in a random rectangle, outside of one, or nearer than a random depth."""
    kind = rng.random()
    if kind < 0.3 and len(returns.z):
        return np.asarray(returns.z < np.quantile(returns.z, rng.uniform(0.3, 0.9)))
    size = rng.uniform(0.25, 0.75, 2) * shape[::-1]
    low = rng.uniform(0, 1, 2) * (np.array(shape[::-1]) - size)
    inside: BoolArray = ((returns.uv >= low) & (returns.uv < low + size)).all(1)
    return inside if kind < 0.65 else ~inside


def _seen(returns: _Returns, z: FloatArray, keep: BoolArray, shape: Tuple[int, int], margin: float) -> BoolArray:
    """``keep`` less the returns that are lonely among the kept, or that nearer ones of them hide."""
    index = np.flatnonzero(keep)
    kept = ProjectedReturns.unmarked(returns.uv[index], z[index])
    seen = np.zeros(len(keep), np.bool_)
    seen[index] = mark_visible(kept, shape, ProjectionConfig(cull_margin=margin)).visible
    return seen


def _visible_depth(returns: _Returns, shape: Tuple[int, int], margin: float) -> FloatArray:
    seen = _seen(returns, returns.z, returns.shown, shape, margin)
    return _rasterized(returns, returns.z, seen, shape)


def _measured(returns: _Returns, shape: Tuple[int, int], margin: float) -> Tuple[FloatArray, FloatArray]:
    """Depth of the visible returns, withheld and given, (H, W) metres each, 0 = none.

    A return that is shown at a wrong depth is withheld as well: what is true there must be learned against it.
    """
    clean = returns.measured
    seen = _seen(returns, clean, np.ones(len(clean), np.bool_), shape, margin)
    given = returns.shown & (returns.z == clean)
    return _rasterized(returns, clean, seen & ~given, shape), _rasterized(returns, clean, seen & given, shape)


def _held_out(returns: _Returns, shape: Tuple[int, int], margin: float) -> Tuple[FloatArray, FloatArray]:
    """Sparse truth and its weight: the returns not shown as they are, and at a small weight those that were."""
    held_out, shown = _measured(returns, shape, margin)
    truth: FloatArray = np.where(held_out > 0, held_out, shown)
    weight = np.where(held_out > 0, 1.0, np.where(shown > 0, _SHOWN_WEIGHT, 0.0))
    return truth, weight.astype(np.float32)


def _as_measured(returns: _Returns, truth: FloatArray, shape: Tuple[int, int], margin: float) -> FloatArray:
    """Weight of dense truth: most where a real sensor would have measured it, some between, little outside.

    What a LiDAR measures is not a fair sample of a picture: gaps, glass, dark surfaces and what lies just behind an
    edge are missing. A network that learns from all pixels alike learns to see farther than LiDAR truth ever is.
    """
    held_out, shown = _measured(returns, shape, margin)
    either = np.where(held_out > 0, held_out, shown)
    finite = np.where(np.isfinite(truth) & (truth > 0), truth, np.float32(1))
    same = (either > 0) & (np.abs(np.log(np.where(either > 0, either, 1) / finite)) < _SAME_SURFACE)
    weight = np.where(_near_lidar(returns, shape), _BETWEEN_WEIGHT, _OUTSIDE_WEIGHT)
    weight = np.where(same, np.where(held_out > 0, 1.0, _SHOWN_WEIGHT), weight)
    return (weight * (truth > 0)).astype(np.float32)


def _near_lidar(returns: _Returns, shape: Tuple[int, int]) -> BoolArray:
    """Where the sensor measures at all, shown or not: what lies outside is guessed and counts less."""
    everywhere = _rasterized(returns, returns.z, np.ones(len(returns.z), np.bool_), shape) > 0
    side = _REACH_OF_LIDAR
    grown = cv2.boxFilter(everywhere.astype(np.float32), -1, (side, side), normalize=False)
    return np.asarray(grown > 0.5)


def _visibility(sparse: FloatArray, truth: FloatArray) -> ByteArray:
    known = (sparse > 0) & (truth > 0)
    # Within the surface's neighbourhood, as a return half a pixel off its edge is not hidden.
    finite = np.where(np.isfinite(truth), truth, np.float32(0))
    deepest = cv2.dilate(finite, np.ones((3, 3), np.uint8))
    hidden = known & np.isfinite(truth) & (sparse > deepest * _TOO_DEEP)
    return np.where(hidden, HIDDEN, np.where(known, VISIBLE, 0)).astype(np.uint8)


def _photometric(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Brightness, contrast, gamma, colour balance, blur and noise, as cameras differ."""
    values = image.astype(np.float32) / 255.0
    if rng.random() < 0.1:
        values[:] = values.mean(0)
    values = values ** np.float32(np.exp(rng.normal(0, 0.25)))
    values = values * np.exp(rng.normal(0, 0.08, (3, 1, 1))).astype(np.float32)
    values = (values - 0.5) * np.float32(np.exp(rng.normal(0, 0.15))) + np.float32(0.5 + rng.normal(0, 0.08))
    if rng.random() < 0.2:
        sigma = rng.uniform(0.3, 1.2)
        values = np.stack([cv2.GaussianBlur(each, (0, 0), sigma) for each in values])
    if rng.random() < 0.5:
        values = values + rng.normal(0, rng.uniform(0, 0.04), values.shape).astype(np.float32)
    return np.asarray(np.clip(values * 255.0 + 0.5, 0, 255).astype(np.uint8))
