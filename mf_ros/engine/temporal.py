"""Earlier frames used for the next one: their returns help the engine, their depth steadies what it makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import TemporalConfig
from mf_ros.core.deskew import Stamped
from mf_ros.core.rigid import invert
from mf_ros.core.temporal import CarriedReturns, PresentView, Survivors, remembered, supported, surviving
from mf_ros.core.temporal_depth import PastDepth, past_of, smoothed
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import CameraFrame, DepthEstimate, DoubleArray, SparseDepth
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import TransformError

_LONGEST_GAP_S = 0.5
# Faster than any robot: the pose jumped, as when a map is corrected.
_FASTEST_M_S, _FASTEST_RAD_S = 60.0, 8.0
_LEAST_STEP_M, _LEAST_STEP_RAD = 0.5, 0.2
# When so much of what was carried is contradicted, the scene is another one.
_MOST_CONTRADICTED = 0.5


@dataclass(frozen=True)
class _Past:
    """The last frame with a known pose: when, from where, by which camera, what it leaves."""

    stamp_ns: int
    T_fixed_camera: DoubleArray
    camera: CameraModel
    returns: CarriedReturns
    depth: PastDepth


def camera_pose(tree: TransformTree, frame: Stamped, fixed_frame: str) -> Optional[DoubleArray]:
    """(4, 4) T_fixed_camera at the image's stamp; None where it is not known then."""
    try:
        return tree.lookup(fixed_frame, frame.frame_id, frame.stamp_ns)
    except TransformError:
        return None


class TemporalReuse:
    """What one camera's stream remembers; each stream needs its own.

    An image without a pose gets the depth that it would get without memory, and so does the first one after a jump of
    the stamps, the pose or the camera, after a gap of half a second, and when the scene turns out to be another.

    Args:
        config: how far back is remembered, and how strongly.
    """

    def __init__(self, config: TemporalConfig) -> None:
        self._config = config
        self._past: Optional[_Past] = None

    def configure(self, config: TemporalConfig) -> None:
        """Use other settings from the next frame on."""
        if not config.enabled:
            self.reset()
        self._config = config

    def reset(self) -> None:
        """Forget earlier frames, because the next one does not follow them."""
        self._past = None

    def estimate(
        self, engine: DepthEngine, frame: CameraFrame, sparse: SparseDepth, pose: Optional[DoubleArray]
    ) -> DepthEstimate:
        """Dense depth of one frame, with what earlier ones still tell.

        Args:
            engine: makes the depth; it sees carried returns as further returns with a noise level of their own.
            frame: the image.
            sparse: its own returns.
            pose: (4, 4) T_fixed_camera at its stamp; None when it is not known, and then nothing is reused.

        Raises:
            MfRosError: the engine cannot make depth of this frame.
        """
        if pose is None or not self._config.enabled:
            return engine.estimate(frame.image, sparse, frame.camera)
        camera = frame.camera
        view = PresentView.of(frame.image, sparse.depth)
        past = self._past if self._past is not None and _follows(self._past, frame, pose) else None
        self._past = None
        survivors = Survivors(CarriedReturns.none(), np.zeros(0, np.int64), 0.0)
        if past is not None:
            moved = past.returns.moved(invert(pose) @ past.T_fixed_camera, (frame.stamp_ns - past.stamp_ns) / 1e9)
            found = surviving(moved, view, camera, self._config.max_age_s)
            if found.contradicted > _MOST_CONTRADICTED:
                past = None
            else:
                survivors = found
        estimate = engine.estimate(frame.image, supported(sparse, survivors), camera)
        if past is not None and self._config.smoothing > 0 and estimate.metric:
            T_then_now = invert(past.T_fixed_camera) @ pose
            estimate = smoothed(estimate, past.depth, view, sparse.depth, T_then_now, camera, self._config.smoothing)
        if estimate.metric:
            returns = remembered(survivors, view, sparse.depth, camera)
            self._past = _Past(frame.stamp_ns, pose, camera, returns, past_of(estimate, view))
        return estimate


def _follows(past: _Past, frame: CameraFrame, pose: DoubleArray) -> bool:
    """Whether a frame continues what is remembered, as far as stamps, camera and pose tell."""
    elapsed_s = (frame.stamp_ns - past.stamp_ns) / 1e9
    if not 0 < elapsed_s <= _LONGEST_GAP_S or frame.camera != past.camera:
        return False
    step = invert(past.T_fixed_camera) @ pose
    angle = math.acos(min(max((float(np.trace(step[:3, :3])) - 1) / 2, -1.0), 1.0))
    farthest = max(_FASTEST_M_S * elapsed_s, _LEAST_STEP_M)
    return float(np.linalg.norm(step[:3, 3])) <= farthest and angle <= max(_FASTEST_RAD_S * elapsed_s, _LEAST_STEP_RAD)
