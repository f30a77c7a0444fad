"""The health of a running camera and LiDAR: do returns, depth and image fit together?

Two questions are asked. Do the returns agree with the depth made from them? Depth follows the returns, whatever the
calibration, so this tells wrong returns and an engine that fails, and hardly anything about the calibration. And do
steps of depth that the LiDAR sees fall on edges of the image? They do not when T_cam_lidar or the clocks are wrong
(``core.alignment``).

Nothing is rejected here. A return that disagrees with the depth by more than three times what both uncertainties allow
has no weight in the network's output (``core.conditioning.blend``), and one that nothing around it confirms never comes
so far (``core.outliers``); both are counted.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Deque, List, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.alignment import Fit, best_fit, block_gains, shift_scores, working_step
from mf_ros.core.returns import NOISE_M, NOISE_RATIO, PLAUSIBLE
from mf_ros.core.types import AnyArray, FloatArray

if TYPE_CHECKING:
    from mf_ros.core.camera import CameraModel
    from mf_ros.engine.frame import DepthResult


_FRAMES, _VIEWS = 100, 20
_LONGEST_NS = 60_000_000_000
_VIEW_NS = 450_000_000
_ENOUGH_FRAMES, _ENOUGH_VIEWS = 30, 8
_PIXELS, _RETURNS = 250_000, 4000
# Laplace scale where the engine does not say: about that of the classical engine at its returns.
_USUAL_SCALE = 0.02
# Drives with a right calibration: bias up to 0.0002, up to 2% rejected.
_LARGEST_BIAS, _MOST_REJECTED = 0.01, 0.1
_PERSISTENT = 0.8
_HALF_GAIN = 0.25
# Smaller turns come and go with the scene.
_TOLD_DEG = 1.0


@dataclass(frozen=True)
class HealthReport:
    """What the newest frames say, as plain numbers; those that need frames are 0 before there are any.

    Attributes:
        frames: frames judged, up to 100 and none more than a minute older than the newest.
        rejected: share of shown returns that disagree with the depth.
        lonely: share of returns in the image that are left out because nothing around them confirms them.
        bias: median over the frames of the median of log(z of a return / depth); above 0 returns are farther.
        shift_px: shift to the right and down, pixels of the processed image, at which the LiDAR's edges fit the image
            best; None while that is not known, as with a camera that sees no edges.
        scale: median depth of the returns, metres.
        warning: one sentence with cause, number and what to do; empty when all is well.
    """

    frames: int = 0
    rejected: float = 0.0
    lonely: float = 0.0
    bias: float = 0.0
    shift_px: Optional[Tuple[float, float]] = None
    scale: float = 0.0
    warning: str = ""


@dataclass(frozen=True)
class _Frame:
    """What the returns of one frame say; see ``HealthReport``."""

    stamp_ns: int
    rejected: float
    lonely: float
    bias: float
    scale: float


@dataclass(frozen=True)
class _View:
    """What the edges of one frame say."""

    stamp_ns: int
    scores: FloatArray


class HealthMonitor:
    """Judges every processed frame, its edges about twice a second; safe to use from two threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames: Deque[_Frame] = deque(maxlen=_FRAMES)
        self._views: Deque[_View] = deque(maxlen=_VIEWS)
        self._camera: Optional[CameraModel] = None
        self._count = 0

    def reset(self) -> None:
        """Forget all frames: time jumped, or another engine makes the depth."""
        with self._lock:
            self._frames.clear()
            self._views.clear()

    def update(self, result: DepthResult) -> None:
        """Judge a frame; to be called by one thread, for each frame in order."""
        stamp_ns, camera = result.frame.stamp_ns, result.frame.camera
        if camera is not self._camera and camera != self._camera:
            self.reset()
            self._camera = camera
        self._count += 1
        frame = _judge(result, self._count)
        with self._lock:
            due = not self._views or abs(stamp_ns - self._views[-1].stamp_ns) >= _VIEW_NS
        view = None
        if due:
            scores = shift_scores(result.frame.image, result.sparse.depth, working_step(camera))
            view = _View(stamp_ns, scores)
        with self._lock:
            if frame is not None:
                self._frames.append(frame)
            if view is not None:
                self._views.append(view)
            while self._frames and abs(stamp_ns - self._frames[0].stamp_ns) > _LONGEST_NS:
                self._frames.popleft()
            while self._views and abs(stamp_ns - self._views[0].stamp_ns) > _LONGEST_NS:
                self._views.popleft()

    def report(self) -> HealthReport:
        """What the newest frames say; takes a few milliseconds, from any thread."""
        with self._lock:
            frames, views, camera = list(self._frames), list(self._views), self._camera
        if not frames or camera is None:
            return HealthReport()
        table = np.array([(each.rejected, each.lonely, each.bias, each.scale) for each in frames])
        rejected, lonely, bias, scale = np.median(table, axis=0).tolist()
        fit = _fit_of(views, camera)
        shift_px, warning = None, ""
        if fit.is_known:
            step = working_step(camera)
            shift_px = (float(fit.u * step), float(fit.v * step))
            if fit.is_displaced and _persists(views, camera, fit):
                warning = _calibration_text(fit, shift_px, camera)
        if not warning and len(frames) >= _ENOUGH_FRAMES:
            warning = _residual_text(table[:, 2], table[:, 0])
        return HealthReport(len(frames), rejected, lonely, bias, shift_px, scale, warning)


def _judge(result: DepthResult, turn: int) -> Optional[_Frame]:
    """What the returns of a frame say; None when there is no return with depth.

    A part of the returns is enough: a part of the rows of a large image, other ones each turn.
    """
    sparse, estimate = result.sparse, result.estimate
    stride = -(-sparse.depth.size // _PIXELS)
    rows = slice(turn % stride, None, stride)
    shown, depth = sparse.depth[rows], estimate.depth[rows]
    found = cv2.findNonZero(np.ascontiguousarray(shown))
    if found is None:
        return None
    places = found.reshape(-1, 2)
    at = tuple(places[:: -(-len(places) // _RETURNS), axis] for axis in (1, 0))
    z, made = shown[at], depth[at]
    usable = np.isfinite(made) & (made > 0)
    if not usable.any():
        return None
    scale = float(np.median(z))
    z, made = z[usable], made[usable]
    error: AnyArray = np.float32(_USUAL_SCALE)
    if estimate.log_scale is not None:
        error = np.exp(estimate.log_scale[rows][at][usable])
    residual = np.log(z / made)
    rejected = np.abs(residual) > PLAUSIBLE * (error + NOISE_RATIO + NOISE_M / made)
    projected = sparse.count + sparse.hidden + sparse.lonely
    return _Frame(
        result.frame.stamp_ns,
        float(np.mean(rejected)),
        sparse.lonely / max(projected, 1),
        float(np.median(residual)),
        scale,
    )


def _fit_of(views: List[_View], camera: CameraModel) -> Fit:
    if len(views) < _ENOUGH_VIEWS:
        return Fit()
    return best_fit(_sum(views), camera.width // working_step(camera))


def _sum(views: List[_View]) -> FloatArray:
    total: FloatArray = np.sum([view.scores for view in views], axis=0)
    return total


def _persists(views: List[_View], camera: CameraModel, fit: Fit) -> bool:
    """Whether both the older and the newer half of the views speak for the shift."""
    width, middle = camera.width // working_step(camera), len(views) // 2
    halves = [float(block_gains(_sum(part), width, fit).sum()) for part in (views[:middle], views[middle:])]
    return min(halves) >= _HALF_GAIN * sum(halves)


def _calibration_text(fit: Fit, shift_px: Tuple[float, float], camera: CameraModel) -> str:
    u, v = shift_px
    moves = [f"{abs(u):.0f} px {'right' if u > 0 else 'left'}"] if u else []
    moves += [f"{abs(v):.0f} px {'down' if v > 0 else 'up'}"] if v else []
    degrees = math.degrees(math.atan(math.hypot(u / camera.K[0, 0], v / camera.K[1, 1])))
    texts = [f"moved {' and '.join(moves)} ({degrees:.1f} degrees)"] if moves else []
    if abs(fit.roll_deg) >= _TOLD_DEG:
        texts.append(f"turned {abs(fit.roll_deg):.1f} degrees {'' if fit.roll_deg > 0 else 'counter'}clockwise")
    return (
        f"The LiDAR's edges fit the image best {' and '.join(texts)}, so the extrinsic calibration T_cam_lidar or the "
        "time between image and sweep is wrong: look at both with mf-ros check and calibrate again."
    )


def _residual_text(biases: AnyArray, rejected: AnyArray) -> str:
    bias, share = float(np.median(biases)), float(np.median(rejected))
    if abs(bias) > _LARGEST_BIAS and np.mean(biases * np.sign(bias) > _LARGEST_BIAS / 2) >= _PERSISTENT:
        return (
            f"LiDAR returns lie {100 * abs(math.expm1(bias)):.1f}% {'behind' if bias > 0 else 'before'} the depth made "
            "from them, so the ranges, camera_info or the engine are wrong: run mf-ros check, which also shows "
            "T_cam_lidar, and mf-ros doctor."
        )
    if share > _MOST_REJECTED and np.mean(rejected > _MOST_REJECTED / 2) >= _PERSISTENT:
        return (
            f"{100 * share:.0f}% of the LiDAR returns disagree with the depth made from them, so returns of several "
            "LiDARs contradict each other or the engine is wrong: run mf-ros check, which also shows T_cam_lidar, and "
            "mf-ros doctor."
        )
    return ""
