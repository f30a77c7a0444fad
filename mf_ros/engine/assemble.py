"""Image and sweeps brought together: the one path that live images, recordings and training samples take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Tuple

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config
from mf_ros.core.deskew import to_camera
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import ByteArray, CameraFrame, CameraPoints, LidarSweep
from mf_ros.engine import reasons
from mf_ros.engine.prepare import ImagePreparer
from mf_ros.engine.reasons import DropError
from mf_ros.errors import CalibrationError, TransformError

Lap = Callable[[str], None]


@dataclass(frozen=True)
class DecodedFrame:
    """One image with its sweeps, decoded and otherwise as they came.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        camera: of the image.
        stamp_ns: of the image, ns.
        frame_id: optical frame of the camera.
        sweeps: one entry for each LiDAR, each in its own frame; None where there is none for this image.
        tree: the transforms.
    """

    image: ByteArray
    camera: CameraModel
    stamp_ns: int
    frame_id: str
    sweeps: Tuple[Optional[LidarSweep], ...]
    tree: TransformTree


@dataclass(frozen=True)
class AssembledFrame:
    """An image in the published geometry, with all returns in its frame.

    Attributes:
        frame: the image (rectified and resized as the settings say), its camera, stamp and frame.
        points: all LiDAR returns in the camera's optical frame at the image's stamp.
        compensated: for each LiDAR whether its motion was compensated.
    """

    frame: CameraFrame
    points: CameraPoints
    compensated: Tuple[bool, ...]


class FrameAssembler:
    """Prepares images and brings sweeps into the camera's frame, as the settings say.

    Args:
        config: settings; of them ``output`` and ``lidar`` decide.
    """

    def __init__(self, config: Config) -> None:
        self._lidar = config.lidar
        self._preparer = ImagePreparer(config.output)

    def configure(self, config: Config) -> None:
        """Use other settings from the next frame on; those of ``output`` that decide the size must be the same."""
        self._lidar = config.lidar

    def assemble(self, decoded: DecodedFrame, lap: Lap = lambda stage: None) -> AssembledFrame:
        """One image with its returns.

        Args:
            decoded: what was measured.
            lap: told the name of each stage when it is over.

        Raises:
            DropError: the geometry cannot be made, no pose of a LiDAR is known, or no return is left.
        """
        try:
            image, camera = self._preparer.prepare(decoded.image, decoded.camera)
        except CalibrationError as error:
            raise DropError(reasons.UNCALIBRATED, str(error)) from error
        lap("prepare")
        frame = CameraFrame(image, camera, decoded.stamp_ns, decoded.frame_id)
        try:
            points, compensated = to_camera(decoded.sweeps, frame, decoded.tree, self._lidar)
        except TransformError as error:
            raise DropError(reasons.NO_TRANSFORM, str(error)) from error
        if len(points) == 0:
            raise DropError(
                reasons.NO_RETURNS,
                "the sweep holds no valid point; all are NaN, infinite, at the origin, or outside "
                f"lidar.min_range_m = {self._lidar.min_range_m:g} to lidar.max_range_m = {self._lidar.max_range_m:g}: "
                "check the LiDAR and these limits.",
            )
        lap("to_camera")
        return AssembledFrame(frame, points, compensated)
