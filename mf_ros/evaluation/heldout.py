"""How right the depth of a running pipeline is, judged on LiDAR returns that the engine was not shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.core.types import BoolArray, ByteArray, CameraPoints, FloatArray
from mf_ros.engine.protocol import DepthEngine, without_memory
from mf_ros.errors import MfRosError
from mf_ros.evaluation.metrics import depth_metrics
from mf_ros.evaluation.protocol import TRUTH_RANGE_M, held_out_rings, thin_rings
from mf_ros.evaluation.uncertainty import coverage
from mf_ros.evaluation.visibility import visible_to_camera

EVEN_RINGS = "even rings"
RANDOM_HALF = "a random half of the returns"


@dataclass(frozen=True)
class HeldOut:
    """Errors of one frame on the returns that were held out.

    Attributes:
        what: which returns were held out, in words.
        uv: (M, 2) float32 pixels of the held-out returns that the camera can see.
        truth: (M,) float32 their depth, metres.
        predicted: (M,) float32 the engine's depth there, metres; not finite where it gave none.
        metrics: as ``depth_metrics`` gives them, with ``coverage`` of the intervals where the engine states any.
    """

    what: str
    uv: FloatArray
    truth: FloatArray
    predicted: FloatArray
    metrics: Dict[str, float]


def score_held_out(
    image: ByteArray, points: CameraPoints, camera: CameraModel, engine: DepthEngine, config: ProjectionConfig
) -> Optional[HeldOut]:
    """Run the engine on the odd rings alone and judge it on the even rings.

    Sensors without rings hold out a fixed random half of their returns; that is easier, because held-out returns then
    have nearer neighbours. Truth is what lies within ``TRUTH_RANGE_M`` and no nearer surface hides.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: all LiDAR returns, optical frame.
        camera: the camera of ``image``.
        engine: the engine to judge. What it remembers of earlier frames is neither used, since that may hold the
            truth, nor changed.
        config: how its input is projected and culled.

    Returns:
        The errors, or None when there is no input or no truth, or the engine refused the input.
    """
    shown, truth_mask, what = _split(points)
    sparse = to_sparse_depth(project_points(shown, camera, config), camera)
    returns = project_points(points, camera)
    if sparse.count == 0 or len(returns) == 0:
        return None
    low, high = TRUTH_RANGE_M
    judged = truth_mask[returns.index] & (returns.z >= low) & (returns.z <= high)
    judged &= visible_to_camera(points, returns, camera)
    if not judged.any():
        return None
    try:
        estimate = without_memory(engine).estimate(image, sparse, camera)
    except MfRosError:
        return None
    rows, cols = returns.pixels()
    predicted = estimate.depth[rows[judged], cols[judged]]
    truth = returns.z[judged]
    metrics = depth_metrics(predicted, truth)
    if estimate.log_scale is not None:
        metrics.update(coverage(predicted, truth, estimate.log_scale[rows[judged], cols[judged]]))
    return HeldOut(what, returns.uv[judged], truth, predicted, metrics)


def _split(points: CameraPoints) -> Tuple[CameraPoints, BoolArray, str]:
    """Returns to show, (N,) bool of those to judge on, and what these are called."""
    if points.ring is not None and len(points):
        rings = max(int(points.ring.max()) + 1, 2)
        shown = thin_rings(points.ring, rings, rings // 2)
        if shown is not None:
            return points.select(shown), held_out_rings(points.ring), EVEN_RINGS
    truth: BoolArray = np.random.default_rng(0).random(len(points)) < 0.5
    return points.select(~truth), truth, RANDOM_HALF
