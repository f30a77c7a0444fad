"""The engine that looks at the image: a network that corrects and refines what the returns suggest."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Dict, List, NamedTuple, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import Conditioning, blend, condition, confidence, present_pixels, restrained, to_depth
from mf_ros.core.grid import enlarged, grid_step, mean_of_blocks
from mf_ros.core.temporal import at_own_level
from mf_ros.core.types import ByteArray, DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine.backend import Backend, StepInput, StepOutput
from mf_ros.engine.bundle import Bundle, Processing
from mf_ros.engine.quality import BEST, Quality
from mf_ros.errors import MessageError, ModelError

ENOUGH_RETURNS = 20
"""With fewer returns than this their median is no scale to rely on."""

_LONGEST_HOLD = 30
_HOLD_DECAY = 0.9
_SMALLEST_LEVEL = 0.05
_SEED = 0

# Log b is made smooth over windows of 4x4 cells of 4x4 pixels, one patch; the prior's own texture stays below this.
_SMOOTHING_CELL, _SMOOTHING_WINDOW = 4, (4, 4)
_SMOOTHING_TEXTURE = 1e-3

_ONE_SURFACE, _TWO_SURFACES = 0.05, 0.1


class Completion(NamedTuple):
    """What the network made of one frame, on the grid it works on; arrays are (h, w) float32.

    Attributes:
        log_ratio: log of depth over the scale.
        log_scale: log of the Laplace scale of its error.
        conditioning: what it was made from.
    """

    log_ratio: FloatArray
    log_scale: FloatArray
    conditioning: Conditioning


class HeldScale:
    """Remembers the metric scale over frames with hardly any return, for up to 30 frames, with decaying trust."""

    def __init__(self) -> None:
        self._scale = 0.0
        self._age = 0

    def choose(self, returns: FloatArray) -> Tuple[float, float]:
        """The scale of a frame, metres, or 0 when nothing tells it, and the trust in it in [0, 1].

        Args:
            returns: (N,) depth of the frame's returns, metres.
        """
        if returns.size >= ENOUGH_RETURNS:
            self._scale, self._age = float(np.median(returns)), 0
            return self._scale, 1.0
        self._age += 1
        if self._scale and self._age <= _LONGEST_HOLD:
            return self._scale, float(_HOLD_DECAY**self._age)
        return float(np.median(returns)) if returns.size else 0.0, returns.size / ENOUGH_RETURNS


class NetworkEngine:
    """Dense depth from image and returns by a network, with calibrated confidence.

    Args:
        bundle: the network's description.
        backend: what runs it.
        steps: denoising steps; above 1 they start from noise, which is the same for every frame.
        tested: what the self-test said, for reports.
        quality: how much work goes into a frame.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, *, steps: int = 1, tested: str = "not run", quality: Quality = BEST
    ) -> None:
        self._bundle = bundle
        self._backend = backend
        self._steps = steps
        self._tested = tested
        self._quality = quality
        self._held = HeldScale()

    @property
    def name(self) -> str:
        return f"mf-{self._bundle.name}"

    def fresh(self) -> NetworkEngine:
        """The same network, loaded once, with nothing remembered."""
        return NetworkEngine(self._bundle, self._backend, steps=self._steps, tested=self._tested, quality=self._quality)

    def reset(self) -> None:
        """Forget earlier frames, because the next one does not follow them."""
        self._held = HeldScale()

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """Dense depth from image and returns.

        Confidence is the probability that depth is right within 2%. With fewer than 20 returns the last scale is held
        with falling confidence; without one, confidence falls with the number of returns, and without any return depth
        is relative. The pipeline drops an image without any return before it comes here, so in it the scale is held
        over images with 1 to 19 returns. Images of more pixels than the quality allows, or the network was
        made for, are completed on a coarser grid; quality best joins the results of two grids.

        Raises:
            MessageError: image and sparse depth differ in size.
            ModelError: the network failed.
        """
        shape = sparse.depth.shape
        if image.shape != (*shape, 3):
            raise MessageError(f"The image has the shape {image.shape}, but sparse depth has {shape}: they must fit.")
        scale, trust = self._held.choose(np.take(sparse.depth, present_pixels(sparse.depth)))
        finest, *coarser = self._grids(shape)
        log_ratio, log_scale, made = self._completed(image, sparse, scale, finest, self._quality.thorough)
        for step in coarser:
            other = self._completed(image, sparse, scale, step, thorough=False)
            log_ratio, log_scale = joined(log_ratio, other.log_ratio), _mean(log_scale, other.log_scale)
        trusted: FloatArray = confidence(log_scale) * np.float32(trust if made.metric else 1.0)
        return DepthEstimate(to_depth(log_ratio, made.scale), trusted, made.metric, self.name, log_scale)

    def _grids(self, shape: Tuple[int, ...]) -> List[int]:
        """Pixels per side of a cell of each grid that the quality asks for, the finest grid first."""
        most = min(self._quality.cells, self._bundle.processing.max_pixels)
        fewer = min(self._quality.coarser or most, most)
        return sorted({grid_step(shape, cells) for cells in (most, fewer)})

    def _completed(self, image: ByteArray, sparse: SparseDepth, scale: float, step: int, thorough: bool) -> Completion:
        """What the network makes of a frame on one grid, enlarged to the image."""
        made = replace(condition(sparse.depth, scale, step, thorough=thorough), metric=scale > 0)
        made = at_own_level(made, sparse.level)
        done = complete(self._bundle, self._backend, mean_of_blocks(image, step), made, self._steps, step)
        done = finished(done, self._bundle.processing)
        shape = sparse.depth.shape
        return Completion(enlarged(done.log_ratio, step, shape), enlarged(done.log_scale, step, shape), made)

    def describe(self) -> Dict[str, str]:
        """Weights, library, device, precision, steps, what the self-test said."""
        return {
            "method": "network over image and returns",
            "weights": str(self._bundle.folder),
            "licence": self._bundle.licence,
            **self._backend.describe(),
            "steps": str(self._steps),
            "self_test": self._tested,
        }


def complete(
    bundle: Bundle, backend: Backend, image: ByteArray, made: Conditioning, steps: int = 1, cell: int = 1
) -> Completion:
    """Run the network on one frame.

    Args:
        bundle: how input is prepared.
        backend: what runs the network.
        image: (h, w, 3) uint8 RGB.
        made: sparse depth of the same grid.
        steps: denoising steps.
        cell: pixels per side of a cell of the grid.

    Raises:
        ModelError: the network failed, or computed values that are not finite.
    """
    processing = bundle.processing
    height, width = image.shape[:2]
    rows, cols = -height % processing.multiple, -width % processing.multiple
    around = (0, rows, 0, cols)
    # What is filled up repeats the border, and nothing is known of its depth.
    pixels = cv2.copyMakeBorder(image, *around, cv2.BORDER_REPLICATE).astype(np.float32)
    pixels = pixels / np.float32(processing.image_scale) - np.float32(processing.image_offset)
    prior, depth, level = (
        np.asarray(cv2.copyMakeBorder(plane, *around, kind, value=value), np.float32)[None, None]
        for plane, kind, value in (
            (made.prior, cv2.BORDER_REPLICATE, 0.0),
            (made.depth, cv2.BORDER_CONSTANT, 0.0),
            (made.level, cv2.BORDER_CONSTANT, 1.0),
        )
    )
    clean = np.zeros(1, np.float32)
    start = StepInput(np.ascontiguousarray(pixels.transpose(2, 0, 1))[None], clean, depth, level, clean + 1, prior)
    result = denoise(backend, start, steps, processing.level_shift)
    log_ratio, log_scale = (each[0, 0, :height, :width] for each in result)
    log_scale = log_scale + np.float32(bundle.calibration.offset(cell))
    if not (np.isfinite(log_ratio).all() and np.isfinite(log_scale).all()):
        what = ", ".join(backend.describe().values())
        raise ModelError(f"The network computed values that are not finite ({what}): run it with engine.device cpu.")
    return Completion(log_ratio, log_scale, made)


def finished(done: Completion, processing: Processing) -> Completion:
    """What the engine hands out: depth blended with the returns and, where there are any, restrained; smooth log b.

    Args:
        done: what the network made of a frame.
        processing: how far depth may recede beyond the prior, and which corrections of it fade out.
    """
    # The blend weighs with log b as the network says it: smooth, it makes depth on real frames 0.2% worse.
    log_ratio, made = blend(done.log_ratio, done.log_scale, done.conditioning), done.conditioning
    if (made.level == 0).any():
        log_ratio = restrained(log_ratio, made.prior, processing.recession, processing.negligible)
    return Completion(log_ratio, smoothed(done.log_scale, made.prior), made)


def smoothed(log_scale: FloatArray, prior: FloatArray) -> FloatArray:
    """Log b without the grid of the network's patches, which their decoder leaves in it.

    In windows of a patch it becomes linear in the prior, so that it still changes where depth jumps: the guided filter
    (He, Sun and Tang, ECCV 2010), its coefficients found on a coarser grid (He and Sun, arXiv 1505.00996).

    Args:
        log_scale: (h, w) log of the Laplace scale.
        prior: (h, w) log depth that the returns suggest.

    Returns:
        (h, w) float32, nowhere beyond the least and the largest value of ``log_scale``.
    """
    height, width = prior.shape
    coarse = (-(-width // _SMOOTHING_CELL), -(-height // _SMOOTHING_CELL))
    guide, values = (
        cv2.resize(np.ascontiguousarray(each), coarse, interpolation=cv2.INTER_AREA) for each in (prior, log_scale)
    )
    # A window of even side lies off its middle; the second one lies off to the other side.
    moments = cv2.blur(cv2.merge([guide, values, guide * values, guide * guide]), _SMOOTHING_WINDOW, anchor=(2, 2))
    mean_guide, mean, product, square = cv2.split(moments)
    slope = (product - mean_guide * mean) / (np.maximum(square - mean_guide**2, 0) + np.float32(_SMOOTHING_TEXTURE))
    line = cv2.blur(cv2.merge([slope, mean - slope * mean_guide]), _SMOOTHING_WINDOW, anchor=(1, 1))
    slope, level = (cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in cv2.split(line))
    smooth = np.asarray(cv2.add(cv2.multiply(slope, prior), level), np.float32)
    return np.clip(smooth, log_scale.min(), log_scale.max(), out=smooth)


def joined(one: FloatArray, other: FloatArray) -> FloatArray:
    """One depth from two: their mean where they see the same surface, the nearer one where they see different ones.

    Between two surfaces there is nothing, so their mean would be a point in the air; of the two the nearer one is right
    more often on real frames, and for who drives there the safer one.

    Args:
        one, other: (H, W) log depth; up to 5% apart they are one surface, beyond 10% two, and in between they turn.
    """
    apart = np.abs(one - other)
    two = np.clip((apart - _ONE_SURFACE) / np.float32(_TWO_SURFACES - _ONE_SURFACE), 0, 1)
    nearer: FloatArray = _mean(one, other) - np.float32(0.5) * two * apart
    return nearer


def _mean(one: FloatArray, other: FloatArray) -> FloatArray:
    both: FloatArray = np.float32(0.5) * (one + other)
    return both


def denoise(backend: Backend, start: StepInput, steps: int, shift: float) -> StepOutput:
    """Euler steps from noise to clean depth; the returns are put in again at each step, at their own noise level.

    One step needs no noise: the network does not look at pixels about which nothing is known. Flow matching as in
    Modality Forcing (arXiv 2606.13676): x_t = (1 - t) x_0 + t noise, v = (x - x_0) / max(t, 0.05).
    """
    noisy = start.depth
    if steps > 1:
        noisy = np.random.default_rng(_SEED).standard_normal(start.depth.shape, np.float32)
    for now, following in itertools.pairwise(step_levels(steps, shift)):
        given = start.level <= now
        inputs = start._replace(
            depth=np.where(given, start.depth, noisy),
            level=np.where(given, start.level, np.float32(now)),
            depth_level=np.full_like(start.depth_level, now),
        )
        result = backend.step(inputs)
        noisy = noisy + np.float32((following - now) / max(now, _SMALLEST_LEVEL)) * (noisy - result.depth)
    return result


def step_levels(steps: int, shift: float) -> List[float]:
    """The steps + 1 noise levels from 1 to 0 at which the sampler stops, moved towards noise by e^shift."""
    growth = math.exp(shift)
    inner = (number / steps for number in range(steps - 1, 0, -1))
    return [1.0, *(growth / (growth + 1.0 / level - 1.0) for level in inner), 0.0]
