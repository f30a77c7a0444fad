"""Dense depth without a learned part: the plane fit of ``core.completion``, with a confidence."""

from __future__ import annotations

from typing import Dict

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.completion import complete_depth
from mf_ros.core.types import ByteArray, DepthEstimate, FloatArray, SparseDepth
from mf_ros.errors import MessageError

_HALF_DISTANCE = 0.02
_HALF_SPREAD = 0.15
_EDGE_REACH = 0.005


class ClassicalEngine:
    """The engine that always works: LiDAR only, no weights, no state, the same result on every machine type."""

    @property
    def name(self) -> str:
        return "classical"

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """Dense metric depth from the returns alone; the image is not looked at.

        Confidence is 1 at a return on a smooth surface, falls by half with every 2% of the image's width of distance
        to the nearest return, and falls where depth varies around a pixel, since an edge runs there or returns
        contradict each other.

        Raises:
            MessageError: there is no return in the image.
        """
        if sparse.count == 0:
            raise MessageError(
                "No LiDAR return falls into the image, so there is no depth to fill in: check the extrinsic "
                "calibration (T_cam_lidar) with mf-ros check, and that both sensors look the same way."
            )
        completion = complete_depth(sparse.depth)
        depth = np.reciprocal(completion.inverse_depth)
        spread = np.log(completion.nearest / completion.farthest) + _local_spread(completion.inverse_depth)
        confidence = _nearness(sparse.depth) / (1.0 + np.square(spread / _HALF_SPREAD))
        return DepthEstimate(depth, confidence.astype(np.float32), metric=True, engine=self.name)

    def describe(self) -> Dict[str, str]:
        """Method and the hardware it runs on."""
        return {"method": "coarse-to-fine plane fit in inverse depth", "device": "cpu", "precision": "float32"}


def _nearness(depth: FloatArray) -> FloatArray:
    """(H, W) in (0, 1]: 1 at a return, halved with every 2% of the image's width away from it."""
    distance = cv2.distanceTransform((depth == 0).astype(np.uint8), cv2.DIST_L2, 3)
    nearness: FloatArray = np.exp2(distance * np.float32(-1.0 / (_HALF_DISTANCE * depth.shape[1])))
    return nearness


def _local_spread(inverse_depth: FloatArray) -> FloatArray:
    """(H, W) logarithm of largest over smallest depth within 0.5% of the image's width."""
    reach = max(1, round(_EDGE_REACH * inverse_depth.shape[1]))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    spread: FloatArray = np.log(cv2.dilate(inverse_depth, kernel) / cv2.erode(inverse_depth, kernel))
    return spread
