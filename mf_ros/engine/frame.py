"""One matched set to dense depth: decode, prepare, transform, project, estimate."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from mf_ros.core import messages
from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config
from mf_ros.core.deskew import pose_age_ns
from mf_ros.core.encoding import unknown_where, zero_where
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import ByteArray, CameraFrame, CameraPoints, DepthEstimate, DoubleArray, LidarSweep, SparseDepth
from mf_ros.engine import reasons
from mf_ros.engine.assemble import AssembledFrame, DecodedFrame, FrameAssembler
from mf_ros.engine.inputs import CameraInfos, FrameSet, StoredImage
from mf_ros.engine.protocol import DepthEngine, forget_frames
from mf_ros.engine.reasons import DropError
from mf_ros.engine.temporal import TemporalReuse, camera_pose
from mf_ros.errors import CalibrationError, MessageError, MfRosError, TransformError


@dataclass(frozen=True)
class DepthResult:
    """Dense depth of one image with everything it was made from.

    Attributes:
        frame: the image as processed (rectified and resized as the settings say), its camera, stamp and frame.
        points: all LiDAR returns in the camera's optical frame at the image's stamp.
        sparse: those that the camera can see, on the image grid.
        estimate: dense depth and confidence.
        timings_ms: milliseconds per stage, and ``total``.
        dt_ns: stamp of each LiDAR's sweep minus that of the image, ns; None where a LiDAR had none.
        source: the image message as it came, with its time of reception.
    """

    frame: CameraFrame
    points: CameraPoints
    sparse: SparseDepth
    estimate: DepthEstimate
    timings_ms: Dict[str, float]
    dt_ns: Tuple[Optional[int], ...]
    source: StoredImage


class _Timer:
    """Wall time of consecutive stages, milliseconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._stages: Dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """The time since the last call belongs to this stage."""
        now = time.perf_counter()
        self._stages[stage] = 1000.0 * (now - self._last)
        self._last = now

    def spent(self, stage: str, ms: float) -> None:
        """A stage that was measured elsewhere; what passed since the last call belongs to no stage."""
        self._stages[stage] = ms
        self._last = time.perf_counter()

    def finish(self) -> Dict[str, float]:
        return {**self._stages, "total": sum(self._stages.values())}


class FrameProcessor:
    """Makes dense depth of matched sets, one at a time.

    Args:
        config: settings.
        engine: what turns sparse depth into dense depth; None makes none.
        infos: camera_info messages received so far.
        warn: called with a reason and a text for trouble that does not cost the image.
        rectified_input: the images are rectified already, so camera_info's P holds and D does not.
    """

    def __init__(
        self,
        config: Config,
        engine: Optional[DepthEngine],
        infos: CameraInfos,
        warn: Callable[[str, str], None],
        *,
        rectified_input: bool = False,
    ) -> None:
        self._config = config
        self._engine = engine
        self._infos = infos
        self._warn = warn
        self._rectified_input = rectified_input
        self._assembler = FrameAssembler(config)
        self._reuse = TemporalReuse(config.temporal)
        self._epoch = 0

    def configure(self, config: Config) -> None:
        """Use other settings from the next set on; those of ``output`` that decide the size must be the same."""
        self._config = config
        self._assembler.configure(config)
        self._reuse.configure(config.temporal)

    def use_engine(self, engine: Optional[DepthEngine]) -> None:
        """Make depth with another engine from the next set on; None lets go of it and makes none."""
        self._engine = engine
        self._reuse.reset()

    def process(self, frame_set: FrameSet) -> DepthResult:
        """Dense depth of one set.

        Raises:
            DropError: it cannot be made; says why.
        """
        if frame_set.epoch != self._epoch:
            self._epoch = frame_set.epoch
            self._reuse.reset()
            if self._engine is not None:
                forget_frames(self._engine)
        timer = _Timer()
        assembled = self._assemble(frame_set, timer)
        frame, points = assembled.frame, assembled.points
        returns = project_points(points, frame.camera, self._config.projection)
        sparse = to_sparse_depth(returns, frame.camera)
        if sparse.count == 0:
            raise DropError(
                reasons.NO_RETURNS,
                f"none of {len(points)} LiDAR returns falls into the image: check the transform between "
                f"'{frame.frame_id}' and the LiDAR, and that camera and LiDAR look the same way.",
            )
        timer.lap("project")
        wanted = self._config.temporal.enabled
        pose = camera_pose(frame_set.tree, frame, self._config.lidar.fixed_frame) if wanted else None
        estimate = self._estimate(frame, sparse, pose)
        timer.lap("estimate")
        return DepthResult(frame, points, sparse, estimate, timer.finish(), frame_set.dt_ns, frame_set.image)

    def assemble(self, frame_set: FrameSet) -> AssembledFrame:
        """Image and returns of one set, without depth.

        Raises:
            DropError: they cannot be brought together; says why.
        """
        return self._assemble(frame_set, _Timer())

    def decode(self, frame_set: FrameSet) -> DecodedFrame:
        """One set decoded, and otherwise as it came.

        Raises:
            DropError: something in it cannot be read; says what.
        """
        return self._decode(frame_set, _Timer())

    def _decode(self, frame_set: FrameSet, timer: _Timer) -> DecodedFrame:
        sweeps = self._decode_sweeps(frame_set)
        # Sweeps may have been decoded while the set waited for transforms, which is no less work.
        timer.spent("decode_points", sum(stored.decode_ms for stored in frame_set.sweeps if stored is not None))
        image, camera, frame_id = self._decode_image(frame_set.image)
        timer.lap("decode_image")
        return DecodedFrame(image, camera, frame_set.image.stamp_ns, frame_id, tuple(sweeps), frame_set.tree)

    def _assemble(self, frame_set: FrameSet, timer: _Timer) -> AssembledFrame:
        decoded = self._decode(frame_set, timer)
        assembled = self._assembler.assemble(decoded, timer.lap)
        try:
            for sweep, used in zip(decoded.sweeps, assembled.compensated, strict=True):
                if sweep is not None and not used:
                    self._warn_of_motion(sweep, assembled.frame, decoded.tree)
        except TransformError as error:
            raise DropError(reasons.NO_TRANSFORM, str(error)) from error
        return assembled

    def _decode_sweeps(self, frame_set: FrameSet) -> List[Optional[LidarSweep]]:
        sweeps: List[Optional[LidarSweep]] = []
        errors: List[str] = []
        for sensor, stored in enumerate(frame_set.sweeps):
            sweep = None
            if stored is None:
                errors.append(f"LiDAR {sensor} has no sweep within sync.tolerance_s")
            else:
                try:
                    sweep = stored.sweep()
                except MessageError as error:
                    errors.append(f"LiDAR {sensor}: {error}")
            sweeps.append(sweep)
        if all(sweep is None for sweep in sweeps):
            bad = any(stored is not None for stored in frame_set.sweeps)
            raise DropError(reasons.BAD_POINTS if bad else reasons.NO_LIDAR, "; ".join(errors) or "there is no LiDAR.")
        if errors:
            self._warn(reasons.PARTIAL_LIDAR, "; ".join(errors))
        return sweeps

    def _decode_image(self, stored: StoredImage) -> Tuple[ByteArray, CameraModel, str]:
        info = self._infos.find(stored.stamp_ns)
        if info is None:
            raise DropError(
                reasons.NO_CAMERA_INFO, "no camera_info was received: publish or record it beside the image."
            )
        try:
            image = messages.decode_image(stored.message)
        except MessageError as error:
            raise DropError(reasons.BAD_IMAGE, str(error)) from error
        size = (image.shape[1], image.shape[0])
        try:
            camera = messages.camera_from_info(info, size, rectified=self._rectified_input)
            return image, camera, stored.frame_id or messages.frame_id_of(info.header)
        except MessageError as error:
            raise DropError(reasons.BAD_CAMERA_INFO, str(error)) from error
        except CalibrationError as error:
            reason = reasons.SIZE_MISMATCH if self._is_calibrated(info) else reasons.UNCALIBRATED
            raise DropError(reason, str(error)) from error

    def _is_calibrated(self, info: Any) -> bool:
        try:
            messages.camera_from_info(info, rectified=self._rectified_input)
        except CalibrationError:
            return False
        return True

    def _warn_of_motion(self, sweep: LidarSweep, frame: CameraFrame, tree: TransformTree) -> None:
        age_ns = pose_age_ns(sweep.frame_id, frame, tree)
        if age_ns > 0:
            self._warn(
                reasons.OLD_POSE,
                f"The pose of '{sweep.frame_id}' in '{frame.frame_id}', which moves, is {age_ns / 1e9:.3f} s older "
                "than the image: raise sync.max_wait_s above the delay of /tf.",
            )
        fixed = self._config.lidar.fixed_frame
        if self._config.lidar.deskew and (sweep.time_s is not None or fixed in tree.frames()):
            self._warn(
                reasons.NOT_DESKEWED,
                f"The motion in '{fixed}' is not known over sweep and image: name a frame of "
                "/tf that does not move in lidar.fixed_frame, or switch lidar.deskew off.",
            )

    def _estimate(self, frame: CameraFrame, sparse: SparseDepth, pose: Optional[DoubleArray]) -> DepthEstimate:
        if self._engine is None:
            raise DropError(reasons.INTERRUPTED, "no engine is loaded any more.")
        try:
            estimate = self._reuse.estimate(self._engine, frame, sparse, pose)
        except MfRosError as error:
            raise DropError(reasons.ENGINE_FAILED, str(error)) from error
        return checked_estimate(estimate, frame.image.shape[:2], self._config.output.min_confidence)


def checked_estimate(estimate: DepthEstimate, size: Tuple[int, ...], min_confidence: float) -> DepthEstimate:
    """What an engine made of an image, without what it hardly believes itself.

    Args:
        estimate: of the engine.
        size: height and width of the image.
        min_confidence: depth below this confidence becomes NaN.

    Raises:
        DropError: it is of another size, or has no metric scale.
    """
    if estimate.depth.shape != size or estimate.confidence.shape != size or estimate.depth.dtype != np.float32:
        raise DropError(
            reasons.ENGINE_FAILED,
            f"engine {estimate.engine} returned {estimate.depth.dtype} depth of shape {estimate.depth.shape} "
            f"for an image of {size}.",
        )
    if not estimate.metric:
        raise DropError(reasons.NOT_METRIC, f"engine {estimate.engine} found no metric scale: too few LiDAR returns.")
    return _without_guesses(estimate, min_confidence)


def _without_guesses(estimate: DepthEstimate, min_confidence: float) -> DepthEstimate:
    """The estimate with NaN depth (REP 117: invalid) and no confidence where confidence is below the limit."""
    guessed = estimate.confidence < min_confidence
    if not guessed.any():
        return estimate
    depth = unknown_where(guessed, estimate.depth, np.empty_like(estimate.depth))
    confidence = zero_where(guessed, estimate.confidence, np.empty_like(estimate.confidence))
    return replace(estimate, depth=depth, confidence=confidence)
