"""Images and cameras in the geometry in which depth is published."""

from __future__ import annotations

from typing import Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel, rectify_image
from mf_ros.core.config import OutputConfig
from mf_ros.core.types import ByteArray
from mf_ros.errors import CalibrationError


class ImagePreparer:
    """Brings images to the published geometry: rectified and resized as the settings say, with the camera to match.

    Args:
        config: ``rectify`` and ``scale``.
    """

    def __init__(self, config: OutputConfig) -> None:
        self._config = config
        self._source: Optional[CameraModel] = None
        self._target: Optional[CameraModel] = None

    def prepare(self, image: ByteArray, camera: CameraModel) -> Tuple[ByteArray, CameraModel]:
        """The image and its camera in the published geometry.

        The same camera object comes back as long as the calibration stays the same, so what it caches (rays, maps)
        is computed once.

        Raises:
            CalibrationError: the image would become smaller than one pixel.
        """
        if self._source is None or self._target is None or camera != self._source:
            self._source, self._target = camera, self._target_of(camera)
        if self._config.rectify:
            image = np.asarray(rectify_image(image, self._source), np.uint8)
        target = self._target
        if image.shape[:2] != (target.height, target.width):
            shrinking = target.width < image.shape[1]
            method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
            resized = cv2.resize(image, (target.width, target.height), interpolation=method)
            return np.asarray(resized, np.uint8), target
        return image, target

    def _target_of(self, camera: CameraModel) -> CameraModel:
        target = camera.rectified() if self._config.rectify else camera
        if self._config.scale == 1.0:
            return target
        width, height = (round(side * self._config.scale) for side in (camera.width, camera.height))
        if width < 1 or height < 1:
            raise CalibrationError(
                f"output.scale is {self._config.scale}: it leaves nothing of {camera.width} x {camera.height} pixels."
            )
        return target.resized(width, height)
