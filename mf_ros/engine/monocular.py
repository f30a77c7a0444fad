"""Engine of published networks that estimate depth from one image alone, made metric by the LiDAR.

What the network puts out is fitted to the returns (``core.scale_fit``); where the returns around a pixel still differ
from that, depth is moved toward them (``correction``).
"""

from __future__ import annotations

import logging
import math
from typing import Dict, Optional, Protocol

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import confidence
from mf_ros.core.config import OutputKind
from mf_ros.core.scale_fit import METRIC_LIMIT, ScaleFit, fit_scale, relative_scale, to_metric
from mf_ros.core.types import ByteArray, DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine.correction import Corrected, corrected
from mf_ros.engine.network import ENOUGH_RETURNS
from mf_ros.errors import MessageError, ModelError

_log = logging.getLogger(__name__)

WRONG_WAY = -0.5
"""Rank correlation below which the output is taken to be of another kind than it is said to be."""

_LARGEST_SPREAD = 2.0
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


def _beyond(made: Corrected, fit: ScaleFit) -> FloatArray:
    """Log scale, larger where depth lies outside of what the returns measured, since there the fit is a guess."""
    with np.errstate(invalid="ignore"):
        beyond, before = np.log(made.depth / np.float32(fit.farthest)), np.log(np.float32(fit.nearest) / made.depth)
        outside = np.maximum(beyond, before)
    outside = np.where(np.isfinite(outside), np.maximum(outside, 0), 0)
    scale = np.minimum(np.exp(made.log_scale) + _BEYOND_RETURNS * outside, _LARGEST_SPREAD)
    return np.asarray(np.log(scale), np.float32)
