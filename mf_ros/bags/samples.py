"""Sample frames of a run for its report: few, evenly spread, and small, however long the run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.projection import rasterize_nearest
from mf_ros.core.types import ByteArray, CameraFrame, DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine.pipeline import DepthResult

if TYPE_CHECKING:
    from mf_ros.evaluation.heldout import HeldOut

MAX_SAMPLES = 8
MAX_WIDTH = 960
_MAX_ERROR_POINTS = 20_000


@dataclass(frozen=True)
class Sample:
    """One frame of a run at a size that fits a report (at most ``MAX_WIDTH`` pixels wide).

    Attributes:
        number: position among the frames that became depth, from 0.
        stamp_ns: the image's stamp.
        image: (H, W, 3) uint8 RGB.
        sparse: (H, W) float32 metres, LiDAR returns that the camera can see; 0 = none.
        depth: (H, W) float32 metres; NaN invalid, +Inf beyond range.
        confidence: (H, W) float32 in [0, 1].
        error_uv: (M, 2) float32 pixels (of ``image``) of the held-out returns; M is 0 when none were held out.
        error_m: (M,) float32 estimated minus true depth, metres; NaN where there is no estimate.
        truth_m: (M,) float32 true depth, metres.
        metrics: errors of this frame on its held-out returns; empty when none were held out.
        timings_ms: milliseconds per stage.
        camera_size: width and height at which the frame was processed.
        camera: the model of ``image`` at its size here, to draw its cloud; None draws none.
        returns: LiDAR returns that the camera can see, at full size.
        hidden: returns inside the image that a nearer surface hides.
        lonely: returns inside the image that hardly any around them agrees with.
        uncertainty: (H, W) float32 Laplace scale b of log depth, about the expected relative error; None where the
            engine states none.
    """

    number: int
    stamp_ns: int
    image: ByteArray
    sparse: FloatArray
    depth: FloatArray
    confidence: FloatArray
    error_uv: FloatArray
    error_m: FloatArray
    truth_m: FloatArray
    metrics: Dict[str, float]
    timings_ms: Dict[str, float]
    camera_size: Tuple[int, int]
    camera: Optional[CameraModel] = None
    returns: int = 0
    hidden: int = 0
    lonely: int = 0
    uncertainty: Optional[FloatArray] = None


@dataclass(frozen=True)
class ReplayReport:
    """What a replay hands to its report.

    Attributes:
        summary: the content of summary.json.
        samples: up to ``MAX_SAMPLES`` frames, evenly spread over the run, in order.
    """

    summary: Dict[str, Any]
    samples: Tuple[Sample, ...]


class SampleKeeper:
    """Keeps frames at even distances without knowing how many will come.

    Every ``stride``-th frame is kept; when twice the wanted number is reached, every other one is let go and the
    stride doubles.

    Args:
        wanted: how many samples there are in the end, at most.
    """

    def __init__(self, wanted: int = MAX_SAMPLES) -> None:
        self._wanted = wanted
        self._stride = 1
        self._kept: List[Sample] = []

    def wants(self, number: int) -> bool:
        """Whether the frame with this number, counted from 0, should be given to ``keep``."""
        return number % self._stride == 0

    def keep(self, sample: Sample) -> None:
        """Keep a sample; numbers must rise from call to call."""
        self._kept.append(sample)
        if len(self._kept) >= 2 * self._wanted:
            self._stride *= 2
            self._kept = [each for each in self._kept if each.number % self._stride == 0]

    def samples(self) -> Tuple[Sample, ...]:
        """The chosen samples, first and last of those kept included."""
        if len(self._kept) <= self._wanted:
            return tuple(self._kept)
        chosen = np.linspace(0, len(self._kept) - 1, self._wanted).round().astype(int)
        return tuple(self._kept[index] for index in chosen)


def make_sample(number: int, result: DepthResult, held_out: Optional[HeldOut]) -> Sample:
    """A frame shrunk to report size; depth is picked and not averaged, so edges stay edges."""
    return shrunk_sample(number, result.frame, result.sparse, result.estimate, held_out, dict(result.timings_ms))


def shrunk_sample(
    number: int,
    frame: CameraFrame,
    full: SparseDepth,
    estimate: DepthEstimate,
    held_out: Optional[HeldOut],
    timings_ms: Dict[str, float],
) -> Sample:
    """The same of the parts of a result."""
    height, width = frame.image.shape[:2]
    small_width = min(width, MAX_WIDTH)
    small_height = max(1, round(height * small_width / width))
    size = (small_width, small_height)
    rows, cols = np.nonzero(full.depth)
    sparse = rasterize_nearest(
        rows * small_height // height,
        cols * small_width // width,
        full.depth[rows, cols],
        (small_height, small_width),
    )
    uv, error, truth = _errors(held_out)
    log_scale = estimate.log_scale

    def picked(values: FloatArray) -> FloatArray:
        return np.array(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST), np.float32)

    scale = np.array([small_width / width, small_height / height], np.float32)
    return Sample(
        number=number,
        stamp_ns=frame.stamp_ns,
        image=np.array(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), np.uint8),
        sparse=sparse,
        depth=picked(estimate.depth),
        confidence=picked(estimate.confidence),
        error_uv=(uv + np.float32(0.5)) * scale - np.float32(0.5),
        error_m=error,
        truth_m=truth,
        metrics={} if held_out is None else dict(held_out.metrics),
        timings_ms=timings_ms,
        camera_size=(width, height),
        camera=frame.camera.resized(small_width, small_height),
        returns=full.count,
        hidden=full.hidden,
        lonely=full.lonely,
        uncertainty=None if log_scale is None else np.exp(picked(log_scale)),
    )


def _errors(held_out: Optional[HeldOut]) -> Tuple[FloatArray, FloatArray, FloatArray]:
    if held_out is None:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32)
    step = -(-len(held_out.truth) // _MAX_ERROR_POINTS)
    predicted = np.where(np.isfinite(held_out.predicted), held_out.predicted, np.float32(np.nan))
    return held_out.uv[::step], (predicted - held_out.truth)[::step], held_out.truth[::step]
