"""Engine of published networks that estimate depth from one image alone, made metric by the LiDAR.

What the network puts out is fitted to the returns (``core.scale_fit``); where the returns around a pixel still differ
from that, depth is moved toward them, the less the farther they are.
"""

from __future__ import annotations

import logging
import math
from typing import Dict, NamedTuple, Optional, Protocol, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.completion import complete_inverse_depth, row_pattern
from mf_ros.core.conditioning import confidence
from mf_ros.core.config import OutputKind
from mf_ros.core.grid import enlarged, grid_step
from mf_ros.core.returns import spread
from mf_ros.core.scale_fit import METRIC_LIMIT, ScaleFit, fit_scale, relative_scale, to_metric
from mf_ros.core.types import BoolArray, ByteArray, DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine.network import ENOUGH_RETURNS
from mf_ros.errors import MessageError, ModelError

_log = logging.getLogger(__name__)

WRONG_WAY = -0.5
"""Rank correlation below which the output is taken to be of another kind than it is said to be."""

_GRID_PIXELS = 1_300_000
# Of log depth.
_LARGEST_CORRECTION = 1.0
# Returns that differ by more than so many times the spread from those around them count as wrong.
_PLAUSIBLE = 4.0
_AROUND = 2.0
# Away from the returns a correction halves with every so much of the image's width.
_REACH = 0.1
# Returns are held out by cells of so many times their spacing.
_HELD_OUT_CELL = 2.0
_PRIOR_COUNT = 5
_LEAST_SPREAD, _LARGEST_SPREAD = 0.003, 2.0
_BEYOND_RETURNS = 0.5
_NEARLY_LIMIT = 0.999 * math.log(METRIC_LIMIT)


class MonocularModel(Protocol):
    """A loaded network that estimates depth from an image."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def kind(self) -> OutputKind:
        """What it puts out."""
        ...

    def predict(self, image: ByteArray) -> FloatArray:
        """The network's output, (H, W) float32 of the image's size, for an image (H, W, 3) uint8 RGB; NaN: none.

        Raises:
            ModelError: the network failed, for example for lack of memory.
        """
        ...

    def describe(self) -> Dict[str, str]:
        """Weights, licence, library, device, precision."""
        ...


class Corrected(NamedTuple):
    """Depth (H, W), metres, and the log of the Laplace scale of its error in log depth."""

    depth: FloatArray
    log_scale: FloatArray


class MonocularEngine:
    """Dense depth from the image by a published network, its scale and shift from the returns.

    Args:
        model: the network.
        local_correction: move depth toward the returns where they differ from the fit.
    """

    def __init__(self, model: MonocularModel, *, local_correction: bool = True) -> None:
        self._model = model
        self._local_correction = local_correction
        self._warned = False

    @property
    def name(self) -> str:
        return self._model.name

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """Dense metric depth of one frame.

        Confidence is the probability that depth is right within 2%, from how far the returns differ from the result:
        all of them from the fit, and, near returns, those that were held out from what the others correct. It falls
        where depth lies beyond the returns, and with fewer than 20 of them. Without any return depth is relative.

        Raises:
            MessageError: image and sparse depth differ in size, or the output holds no depth.
            ModelError: the network failed.
        """
        shape = sparse.depth.shape
        if image.shape != (*shape, 3):
            raise MessageError(f"The image has the shape {image.shape}, but sparse depth has {shape}: they must fit.")
        output = self._output(image)
        shown = np.isfinite(sparse.depth) & (sparse.depth > 0) & np.isfinite(output)
        count = int(np.count_nonzero(shown))
        fit = fit_scale(output[shown], sparse.depth[shown], self._model.kind) if count else None
        if fit is None:
            fit = relative_scale(output, self._model.kind)
        else:
            self._warn(fit)
        depth = to_metric(output, fit)
        made = Corrected(depth, np.full(shape, math.log(fit.spread), np.float32))
        if count and self._local_correction:
            made = corrected(depth, np.where(shown, sparse.depth, np.float32(0)), fit)
        log_scale = _beyond(made, fit) if count else made.log_scale
        trust = min(count / ENOUGH_RETURNS, 1.0) if count else 1.0
        known = np.isfinite(made.depth)
        trusted: FloatArray = np.where(known, confidence(log_scale), np.float32(0)) * np.float32(trust)
        return DepthEstimate(made.depth, trusted.astype(np.float32), count > 0, self.name, log_scale)

    def describe(self) -> Dict[str, str]:
        """Method, output, weights, licence, library, device, precision."""
        local = "corrected near returns" if self._local_correction else "one fit for the image"
        return {"method": f"monocular depth fitted to the returns, {local}", **self._model.describe()}

    def _output(self, image: ByteArray) -> FloatArray:
        output = self._model.predict(image)
        if output.shape != image.shape[:2]:
            raise ModelError(f"{self.name} put out {output.shape} for an image of {image.shape[:2]}.")
        if not np.isfinite(output).any():
            what = ", ".join(self._model.describe().values())
            raise ModelError(f"{self.name} computed no finite value ({what}): run it with engine.device cpu.")
        return output

    def _warn(self, fit: ScaleFit) -> None:
        """Say once when what the network puts out is not what it is taken for."""
        text: Optional[str] = None
        if fit.correlation is not None and fit.correlation < WRONG_WAY:
            other = "depth" if fit.kind == "disparity" else "disparity"
            text = (
                f"falls where depth at the returns says that {fit.kind} rises (correlation {fit.correlation:.2f}): it "
                f"may be {other}; set engine.output to what the model puts out"
            )
        elif fit.kind == "metric" and fit.count >= ENOUGH_RETURNS and abs(math.log(fit.scale)) > _NEARLY_LIMIT:
            text = (
                f"is said to be metric but is more than {METRIC_LIMIT:g} times off: set engine.output to depth, or see "
                "whether camera_info is right"
            )
        if text is not None and not self._warned:
            _log.warning("The output of %s %s.", self.name, text)
            self._warned = True


def corrected(depth: FloatArray, returns: FloatArray, fit: ScaleFit) -> Corrected:
    """Depth moved toward the returns, smoothly: by the completion of their ratios to it, fading with the distance.

    It stays as it is where that brings it no closer to returns that are held out to see.

    Args:
        depth: (H, W) fitted depth, metres; NaN where there is none.
        returns: (H, W) metres, 0 = none; at least one where depth is.
        fit: where depth is from.
    """
    step = grid_step(depth.shape, _GRID_PIXELS)
    residual, shown = _residuals(depth, returns, step)
    shown = _plausible(residual, shown, fit.spread)
    near, usual = _held_out_spread(residual, shown, fit.spread)
    if not near < fit.spread:
        return Corrected(depth, np.full(depth.shape, math.log(fit.spread), np.float32))
    correction, distance = _completed(residual, shown)
    # At the distance that was held out it is what was measured there; far away that of the fit.
    scale = fit.spread + (near - fit.spread) * _fade(distance, usual)
    correction, log_scale = (enlarged(each, step, depth.shape) for each in (correction, np.log(scale)))
    return Corrected((depth * np.exp(correction)).astype(np.float32), log_scale.astype(np.float32))


def _residuals(depth: FloatArray, returns: FloatArray, step: int) -> Tuple[FloatArray, BoolArray]:
    """Log of returns over depth on a grid that is coarser by ``step``, mean by cell, and which cells hold any."""
    rows, cols = np.nonzero((returns > 0) & np.isfinite(depth))
    limit = _LARGEST_CORRECTION
    each = np.clip(np.log(returns[rows, cols] / depth[rows, cols]), -limit, limit)
    height, width = (-(-side // step) for side in depth.shape)
    cell = rows // step * width + cols // step
    count = np.bincount(cell, minlength=height * width)
    total = np.bincount(cell, weights=each, minlength=height * width)
    mean: FloatArray = (total / np.maximum(count, 1)).reshape(height, width).astype(np.float32)
    return mean, (count > 0).reshape(height, width)


def _spacing(shown: BoolArray) -> float:
    """Mean distance between neighbouring returns, pixels."""
    return float(math.sqrt(shown.size / max(int(np.count_nonzero(shown)), 1)))


def _plausible(residual: FloatArray, shown: BoolArray, scale: float) -> BoolArray:
    """Without the returns that hardly any around them agrees with; all where that would leave none.

    Beside the network's depth, which knows the edges in the image, wrong returns stand out more than beside each other.
    """
    weight = shown / np.square(1.0 + np.square(residual / (_PLAUSIBLE * scale)))
    sums = spread(np.dstack([weight * residual, weight]).astype(np.float32), _AROUND * _spacing(shown))
    mean = sums[..., 0] / np.maximum(sums[..., 1], np.float32(1e-12))
    kept: BoolArray = shown & (np.abs(residual - mean) < _PLAUSIBLE * scale)
    return kept if kept.any() else shown


def _completed(residual: FloatArray, shown: BoolArray) -> Tuple[FloatArray, FloatArray]:
    """Correction of log depth for all pixels, and their distance to the nearest return, pixels."""
    ratio: FloatArray = np.where(shown, np.exp(residual), np.float32(0)).astype(np.float32)
    complete: FloatArray = -np.log(complete_inverse_depth(ratio, row_pattern(shown)))
    distance = np.asarray(cv2.distanceTransform((~shown).astype(np.uint8), cv2.DIST_L2, 3), np.float32)
    # Between the returns it does not fade, or lines of them would show.
    return complete * _fade(distance, _AROUND * _spacing(shown)), distance


def _fade(distance: FloatArray, start: float) -> FloatArray:
    """1 up to a distance in pixels, from there on halved with every tenth of the image's width."""
    reach = _REACH * distance.shape[1]
    fade: FloatArray = np.exp2(np.minimum((min(start, reach) - distance) / np.float32(reach), 0)).astype(np.float32)
    return fade


def _held_out_spread(residual: FloatArray, shown: BoolArray, usual: float) -> Tuple[float, float]:
    """Laplace scale of the error at returns that a correction from the others has not seen, and their distance to them.

    Held out is every other cell of a checkerboard, so that what is judged lies between returns and not beside one. Few
    returns count less than ``usual``, the scale before the correction.
    """
    side = max(1, round(_HELD_OUT_CELL * _spacing(shown)))
    rows, cols = np.ogrid[: shown.shape[0], : shown.shape[1]]
    held = shown & ((rows // side + cols // side) % 2 == 0)
    others = shown & ~held
    if not (held.any() and others.any()):
        return usual, 0.0
    correction, distance = _completed(residual, others)
    errors = np.abs(residual - correction)[held]
    own = max(float(np.median(errors)) / math.log(2.0), _LEAST_SPREAD)
    return (len(errors) * own + _PRIOR_COUNT * usual) / (len(errors) + _PRIOR_COUNT), float(np.median(distance[held]))


def _beyond(made: Corrected, fit: ScaleFit) -> FloatArray:
    """Log scale, larger where depth lies outside of what the returns measured, since there the fit is a guess."""
    with np.errstate(invalid="ignore"):
        beyond, before = np.log(made.depth / np.float32(fit.farthest)), np.log(np.float32(fit.nearest) / made.depth)
        outside = np.maximum(beyond, before)
    outside = np.where(np.isfinite(outside), np.maximum(outside, 0), 0)
    scale = np.minimum(np.exp(made.log_scale) + _BEYOND_RETURNS * outside, _LARGEST_SPREAD)
    return np.asarray(np.log(scale), np.float32)
