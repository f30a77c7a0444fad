"""One training sample from a scene: what the network is shown, and what is true.

Projection, culling and normalisation are those of the robot (``mf_ros.core``), so that a network meets in training what
it will meet in use. Real frames whose only truth is LiDAR go the same way: what is not shown supervises.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Dict, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import condition
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.grid import grid_step, mean_of_blocks, nearest_of_blocks
from mf_ros.core.projection import ProjectedReturns, mark_visible, rasterize_nearest
from mf_ros.core.types import BoolArray, ByteArray, FloatArray
from mf_ros.engine.bundle import Processing
from mf_ros.engine.quality import QUALITIES
from mf_training.restyle import restyled
from mf_training.returns import (
    Returns,
    SampleConfig,
    project_returns,
    with_outliers,
    with_shown,
    without_ghosts,
    wrong_pose,
)
from mf_training.scenes.types import Scene

__all__ = ["HIDDEN", "VISIBLE", "Sample", "SampleConfig", "collate", "make_sample"]

MAX_PIXELS = Processing().max_pixels
"""Larger pictures are learned on the coarser grid on which engines complete them."""
COARSE_PIXELS = QUALITIES["balanced"].cells
"""The same for samples that are seen as ``engine.quality`` balanced sees them."""
VISIBLE, HIDDEN = 1, 2
_SHOWN_WEIGHT = 0.15
_BETWEEN_WEIGHT = 0.1
_OUTSIDE_WEIGHT = 0.03
_SAME_SURFACE = 0.05
_MARGIN = 48
_REACH_OF_LIDAR = 41
_TOO_DEEP = 1.08
_WINDOWS = 8


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


def make_sample(
    scene: Scene, rng: np.random.Generator, shape: Tuple[int, int], config: Optional[SampleConfig] = None
) -> Sample:
    """Draw a sample: one of the scene's sweeps, which of its returns are shown, mirrored or not, and a crop of it all.

    Args:
        scene: what was rendered or recorded; ``depth`` all zero where only the LiDAR knows.
        rng: of every draw.
        shape: (H, W) of the crop; a smaller picture is filled up at its right and its lower side, where nothing counts.
        config: shares of the draws.
    """
    config = config or SampleConfig()
    mirrored = bool(rng.random() < 0.5)
    # Draws that only some settings ask for come from their own stream, so that they change no other draw.
    extra = rng.spawn(1)[0]
    # Recorded frames have no dense truth.
    rendered = bool(scene.depth.any())
    if not rendered:
        scene = zoomed(scene, extra, shape, config)
    coarse = config.coarse > 0 and extra.random() < config.coarse
    view = _View(scene.camera(), grid_step(scene.depth.shape, COARSE_PIXELS if coarse else MAX_PIXELS), config)
    T_wrong = None
    if not rendered and extra.random() < config.miscalibrated:
        T_wrong = wrong_pose(extra, config, scene.twist)
    scan = scene.scans[int(rng.integers(len(scene.scans)))]
    returns = project_returns(scan, view.camera, mirrored, T_wrong)
    truth = scene.depth[:, ::-1] if mirrored else scene.depth
    if rng.random() >= config.ghosts:
        returns = without_ghosts(returns, truth)
    if rng.random() < config.outliers:
        returns = with_outliers(returns, rng)
    returns = with_shown(returns, rng, view.camera, config)
    if rendered:
        truth = view.coarse_truth(truth)
        weight = _as_measured(returns, truth, view)
    else:
        truth, weight = _held_out(returns, view)
    every = view.full(returns.at, returns.z, view.seen(returns.at, returns.z, returns.shown))
    sparse = nearest_of_blocks(every, view.step)
    window = _window(sparse, rng, shape)
    depth, level, prior, scale = _conditioned(every, truth, window, view.step, thorough=not coarse)
    image = np.ascontiguousarray(
        view.coarse_image(scene.image[..., ::-1] if mirrored else scene.image)[(slice(None), *window)]
    )
    image = _photometric(image, rng) if config.photometric else image
    if rendered and config.restyled > 0 and extra.random() < config.restyled:
        image = restyled(image, extra)
    hidden = _visibility(sparse, truth)[window]
    made = Sample(image, truth[window], weight[window], depth, level, prior, hidden, scale)
    return _filled_up(made, shape)


@dataclass(frozen=True)
class _View:
    """How the robot looks at a picture: its camera, the step of its grid, and what it leaves out."""

    camera: CameraModel
    step: int
    config: SampleConfig

    def full(self, uv: FloatArray, z: FloatArray, keep: BoolArray) -> FloatArray:
        """(H, W) metres of the nearest kept return at each pixel of the picture, 0 = none."""
        pixels = np.rint(uv[keep]).astype(np.int64)
        return rasterize_nearest(pixels[:, 1], pixels[:, 0], z[keep], (self.camera.height, self.camera.width))

    def rasterized(self, uv: FloatArray, z: FloatArray, keep: BoolArray) -> FloatArray:
        """(h, w) metres of the nearest kept return in each cell of the grid, 0 = none."""
        return nearest_of_blocks(self.full(uv, z, keep), self.step)

    def seen(self, uv: FloatArray, z: FloatArray, keep: BoolArray) -> BoolArray:
        """``keep`` less the returns that are lonely among the kept, or that nearer ones of them hide."""
        index = np.flatnonzero(keep)
        kept = ProjectedReturns.unmarked(uv[index], z[index])
        seen = np.zeros(len(keep), np.bool_)
        projection = ProjectionConfig(cull_margin=self.config.cull_margin, reject_lonely=self.config.reject_lonely)
        seen[index] = mark_visible(kept, (self.camera.height, self.camera.width), projection).visible
        return seen

    def coarse_image(self, image: ByteArray) -> ByteArray:
        """(3, h, w) picture on the grid."""
        if self.step == 1:
            return image
        return mean_of_blocks(np.ascontiguousarray(image.transpose(1, 2, 0)), self.step).transpose(2, 0, 1)

    def coarse_truth(self, truth: FloatArray) -> FloatArray:
        """(h, w) dense truth on the grid: the depth at each cell's upper left pixel."""
        return np.ascontiguousarray(truth[:: self.step, :: self.step])


def zoomed(scene: Scene, rng: np.random.Generator, shape: Tuple[int, int], config: SampleConfig) -> Scene:
    """A recorded frame at a random size, not so small that the crop would reach beyond it."""
    low, high = config.zoom
    if low == high == 1.0:
        return scene
    height, width = scene.depth.shape
    fitting = min(max(shape[0] / height, shape[1] / width), 1.0)
    factor = max(float(np.exp(rng.uniform(np.log(low), np.log(high)))), fitting)
    return resized(scene, (round(height * factor), round(width * factor)), shrinks=factor < 1)


def resized(scene: Scene, size: Tuple[int, int], *, shrinks: bool) -> Scene:
    """A recorded frame at another size (H, W), with the camera that sees it so."""
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = cv2.resize(np.ascontiguousarray(scene.image.transpose(1, 2, 0)), size[::-1], interpolation=method)
    return replace(
        scene,
        image=np.ascontiguousarray(image.transpose(2, 0, 1)),
        depth=np.zeros(size, np.float32),
        lens=scene.camera().resized(*size[::-1]),
    )


def _filled_up(sample: Sample, shape: Tuple[int, int]) -> Sample:
    """The sample at a crop's full size, as the engine fills up what is no multiple of its patches."""
    rows, cols = shape[0] - sample.truth.shape[0], shape[1] - sample.truth.shape[1]
    after = ((0, rows), (0, cols))
    contiguous = {name: np.ascontiguousarray(getattr(sample, name)) for name in _PADDING}
    contiguous["image"] = np.ascontiguousarray(sample.image)
    if rows or cols:
        contiguous = {name: np.pad(contiguous[name], after, **how) for name, how in _PADDING.items()}
        contiguous["image"] = np.pad(sample.image, ((0, 0), *after), mode="edge")
    return replace(sample, **contiguous)


_PADDING: Dict[str, Dict[str, Any]] = {
    **{name: {"mode": "constant"} for name in ("truth", "weight", "depth", "hidden")},
    "level": {"mode": "constant", "constant_values": 1.0},
    "prior": {"mode": "edge"},
}


def _window(sparse: FloatArray, rng: np.random.Generator, shape: Tuple[int, int]) -> Tuple[slice, slice]:
    """A random window; where the picture has returns another is drawn, a few times, while it shows none of them."""
    for _ in range(_WINDOWS):
        sides = [min(full, part) for full, part in zip(sparse.shape, shape, strict=True)]
        top, left = (int(rng.integers(full - part + 1)) for full, part in zip(sparse.shape, sides, strict=True))
        window = (slice(top, top + sides[0]), slice(left, left + sides[1]))
        if sparse[window].any() or not sparse.any():
            break
    return window


def _conditioned(
    sparse: FloatArray, truth: FloatArray, window: Tuple[slice, slice], step: int, *, thorough: bool
) -> Tuple[FloatArray, FloatArray, FloatArray, float]:
    """Depth, level and prior of a window of the picture, and the scale of the whole picture, as on the robot.

    The prior is made of the window and a margin: at a crop's own border it would be cut off from what lies beyond.
    A window without any return in itself is one without LiDAR.

    Args:
        sparse: (H, W) metres of visible returns.
        truth: (h, w) metres on the grid.
        window: rows and columns of the grid.
        step: pixels per side of a cell of the grid.
        thorough: as in ``condition``.
    """
    outer = tuple(slice(max(0, each.start - _MARGIN), each.stop + _MARGIN) for each in window)
    shown, around = (
        sparse[tuple(slice(step * each.start, step * each.stop) for each in part)] for part in (window, outer)
    )
    if not shown.any():
        sparse, around = np.zeros_like(sparse), np.zeros_like(around)
    inner = tuple(
        slice(each.start - wide.start, each.stop - wide.start) for each, wide in zip(window, outer, strict=True)
    )
    returns = sparse[sparse > 0]
    scale = float(np.median(returns)) if len(returns) else 0.0
    conditioning = condition(around, scale, step, thorough=thorough)
    scale = conditioning.scale
    if not conditioning.metric:
        known = truth[(truth > 0) & np.isfinite(truth)]
        scale = float(np.median(known)) if known.size else 1.0
    depth, level, prior = (
        np.ascontiguousarray(each[inner]) for each in (conditioning.depth, conditioning.level, conditioning.prior)
    )
    return depth, level, prior, scale


def collate(samples: Sequence[Sample]) -> Dict[str, torch.Tensor]:
    """A batch: (B, C, H, W) of every array, (B,) of single numbers; images stay bytes until they are used."""
    batch: Dict[str, torch.Tensor] = {}
    for each in fields(samples[0]):
        stacked = torch.from_numpy(np.stack([np.asarray(getattr(sample, each.name)) for sample in samples]))
        batch[each.name] = stacked.float() if stacked.ndim == 1 else stacked
        if stacked.ndim == 3:
            batch[each.name] = stacked[:, None]
    return batch


def _measured(returns: Returns, view: _View) -> Tuple[FloatArray, FloatArray]:
    """Depth of the visible returns, withheld and given, (h, w) metres each, 0 = none.

    A return that is shown at a wrong depth or place is withheld as well: what is true there must be learned against it.
    """
    clean = returns.measured
    seen = view.seen(returns.uv, clean, np.ones(len(clean), np.bool_))
    given = returns.true
    return view.rasterized(returns.uv, clean, seen & ~given), view.rasterized(returns.uv, clean, seen & given)


def _held_out(returns: Returns, view: _View) -> Tuple[FloatArray, FloatArray]:
    """Sparse truth and its weight: the returns not shown as they are, and at a small weight those that were."""
    held_out, shown = _measured(returns, view)
    truth: FloatArray = np.where(held_out > 0, held_out, shown)
    weight = np.where(held_out > 0, 1.0, np.where(shown > 0, _SHOWN_WEIGHT, 0.0))
    return truth, weight.astype(np.float32)


def _as_measured(returns: Returns, truth: FloatArray, view: _View) -> FloatArray:
    """Weight of dense truth: most where a real sensor would have measured it, some between, little outside.

    What a LiDAR measures is not a fair sample of a picture: gaps, glass, dark surfaces and what lies just behind an
    edge are missing. A network that learns from all pixels alike learns to see farther than LiDAR truth ever is.
    """
    held_out, shown = _measured(returns, view)
    either = np.where(held_out > 0, held_out, shown)
    finite = np.where(np.isfinite(truth) & (truth > 0), truth, np.float32(1))
    same = (either > 0) & (np.abs(np.log(np.where(either > 0, either, 1) / finite)) < _SAME_SURFACE)
    weight = np.where(_near_lidar(returns, view), _BETWEEN_WEIGHT, _OUTSIDE_WEIGHT)
    weight = np.where(same, np.where(held_out > 0, 1.0, _SHOWN_WEIGHT), weight)
    return (weight * (truth > 0)).astype(np.float32)


def _near_lidar(returns: Returns, view: _View) -> BoolArray:
    """Where the sensor measures at all, shown or not: what lies outside is guessed and counts less."""
    everywhere = view.rasterized(returns.at, returns.z, np.ones(len(returns.z), np.bool_)) > 0
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
