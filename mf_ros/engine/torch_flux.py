"""The released Modality Forcing network as an engine: LiDAR as partial depth makes its relative depth metric.

It runs twice. The first time it sees the image alone; a robust fit of its depth to the returns tells what it counts as
1. The second time the returns, divided by that, are depth that is known, put in anew at each step. What is still missed
at the returns is then corrected smoothly, and says how far the result can be trusted.
"""

from __future__ import annotations

from typing import Dict, Optional

import numpy as np
import torch

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import confidence, to_depth
from mf_ros.core.config import EngineConfig
from mf_ros.core.pixels import network_image
from mf_ros.core.scale_fit import fit_scale
from mf_ros.core.types import ByteArray, DepthEstimate, DoubleArray, FloatArray, SparseDepth
from mf_ros.engine.backend import failure_text
from mf_ros.engine.canvases import Canvases, lay
from mf_ros.engine.correction import Corrected, corrected
from mf_ros.engine.network import ENOUGH_RETURNS, HeldScale
from mf_ros.engine.torch_flux_parts import load_parts
from mf_ros.errors import MessageError, ModelError
from mf_ros.model.protocol import Sampler
from mf_ros.model.sampler import Known

_SEED = 0
_STEPS = 50
# Laplace scale of the error of log depth, where no return says anything else.
_USUAL_ERROR = 0.1


def flux_engine(config: EngineConfig) -> FluxEngine:
    """The engine that the settings describe.

    Raises:
        MissingDependencyError: a package is not installed.
        ModelError: files are missing or of another network, the licence was not accepted, or memory is short.
    """
    parts = load_parts(config)
    steps = config.steps or _STEPS
    details = {**parts.details, "steps": str(steps)}
    return FluxEngine(parts.sampler, parts.side, steps, details, correct=config.local_correction)


class FluxEngine:
    """Dense metric depth from image and returns by a network that knows relative depth.

    Args:
        sampler: the network.
        side: height and width of the images that it was trained on.
        steps: denoising steps of each of the two runs; every frame starts from the same noise.
        details: for ``describe``.
        correct: correct smoothly what is still missed at the returns.
    """

    def __init__(
        self, sampler: Sampler, side: int, steps: int, details: Dict[str, str], *, correct: bool = True
    ) -> None:
        self._sampler = sampler
        self._side = side
        self._steps = steps
        self._details = details
        self._correct = correct
        self._held = HeldScale()

    @property
    def name(self) -> str:
        return "flux"

    def fresh(self) -> FluxEngine:
        """The same network, loaded once, with nothing remembered."""
        return FluxEngine(self._sampler, self._side, self._steps, self._details, correct=self._correct)

    def reset(self) -> None:
        """Forget earlier frames, because the next one does not follow them."""
        self._held = HeldScale()

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """Dense depth from image and returns.

        Confidence is the probability that depth is right within 2%, as far as the returns tell. With fewer than 20 of
        them the scale is that of an earlier frame, with falling confidence, as in the engines of this project's own
        network; without any, and none to hold, depth is relative.

        Raises:
            MessageError: image and sparse depth differ in size.
            ModelError: the network failed.
        """
        shape = sparse.depth.shape
        if image.shape != (*shape, 3):
            raise MessageError(f"The image has the shape {image.shape}, but sparse depth has {shape}: they must fit.")
        canvases = lay((shape[0], shape[1]), self._side)
        images = canvases.images(image)
        alone = self._sampled(images)
        offsets = canvases.offsets(alone)
        sheet = canvases.joined((alone + offsets[:, None, None]).astype(np.float32))
        returns = canvases.returns(sparse.depth)
        at = returns > 0
        scale, trust = self._held.choose((returns[at] / np.exp(sheet[at])).astype(np.float32))
        if not scale:
            return self._relative(canvases.enlarged(sheet))
        if np.count_nonzero(at) >= ENOUGH_RETURNS:
            scale = fit_scale(sheet[at], returns[at], "log_depth").scale
        if not at.any():
            return self._held_estimate(canvases.enlarged(sheet), scale, trust)
        return self._with_returns(images, canvases, returns, np.log(scale) + offsets, trust)

    def describe(self) -> Dict[str, str]:
        """Method, weights, licence, library, device, precision, steps."""
        return {"method": "image diffusion network, LiDAR as partial depth", **self._details}

    def _with_returns(
        self,
        images: ByteArray,
        canvases: Canvases,
        returns: FloatArray,
        units: DoubleArray,
        trust: float,
    ) -> DepthEstimate:
        """Depth made anew with the returns as what is known of it.

        Args:
            images: (N, S, S, 3) canvases.
            canvases: how the image lies on them.
            returns: (h, w) on the sheet, metres.
            units: (N,) log of what each canvas's depth counts as 1, metres.
            trust: in [0, 1], in the scale.
        """
        made = self._sampled(images, canvases.cut(returns, 0.0), units)
        sheet = canvases.joined((made + units[:, None, None]).astype(np.float32))
        at = returns > 0
        fit = fit_scale(sheet[at], returns[at], "log_depth")
        # Of a few returns the scale of earlier frames knows more.
        depth = np.exp(sheet) * np.float32(fit.scale if fit.count >= ENOUGH_RETURNS else 1.0)
        done = Corrected(depth, np.full(depth.shape, np.log(fit.spread), np.float32))
        middle = float(np.median(returns[at]))
        if self._correct:
            done = corrected(depth, returns, fit)
        log_ratio: FloatArray = np.log(done.depth / np.float32(middle))
        log_ratio, log_scale = (canvases.enlarged(each) for each in (log_ratio, done.log_scale))
        trusted: FloatArray = confidence(log_scale) * np.float32(trust)
        return DepthEstimate(to_depth(log_ratio, middle), trusted, True, self.name, log_scale)

    def _relative(self, log_depth: FloatArray) -> DepthEstimate:
        middle = np.float32(np.median(log_depth))
        return self._without_returns(log_depth - middle, 1.0, 1.0, metric=False)

    def _held_estimate(self, log_depth: FloatArray, scale: float, trust: float) -> DepthEstimate:
        middle = np.float32(np.median(log_depth))
        return self._without_returns(log_depth - middle, scale * float(np.exp(middle)), trust, metric=True)

    def _without_returns(self, log_ratio: FloatArray, scale: float, trust: float, metric: bool) -> DepthEstimate:
        log_scale = np.full(log_ratio.shape, np.log(_USUAL_ERROR), np.float32)
        trusted: FloatArray = confidence(log_scale) * np.float32(trust)
        return DepthEstimate(to_depth(log_ratio, scale), trusted, metric, self.name, log_scale)

    def _sampled(
        self, images: ByteArray, measured: Optional[FloatArray] = None, units: Optional[DoubleArray] = None
    ) -> FloatArray:
        """(N, S, S) log of depth over what each canvas counts as 1.

        Args:
            images: (N, S, S, 3) canvases.
            measured: (N, S, S) returns on them, metres, 0 = none; None for the image alone.
            units: (N,) log of what each canvas's depth counts as 1, metres; with ``measured``.
        """
        pixels = network_image(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)))
        nothing = torch.zeros(len(images), 1, *images.shape[1:3])
        depth, level = nothing, nothing + 1
        if measured is not None and units is not None:
            present = measured > 0
            ratio = np.log(np.where(present, measured, 1.0)) - units[:, None, None]
            depth = torch.from_numpy(np.where(present, ratio, 0.0).astype(np.float32))[:, None]
            level = torch.from_numpy(np.where(present, np.float32(0), np.float32(1)))[:, None]
        try:
            known = Known(pixels, depth, level, nothing)
            out = self._sampler(known, self._steps, torch.Generator().manual_seed(_SEED))
            made: FloatArray = out.depth[:, 0].float().cpu().numpy()
        except RuntimeError as error:
            raise ModelError(f"The network failed in torch: {failure_text(error)}") from error
        if not np.isfinite(made).all():
            raise ModelError(
                "The network computed depth that is not finite: its weights are damaged or of another kind."
            )
        return made
