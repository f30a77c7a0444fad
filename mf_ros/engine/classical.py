"""Dense depth without a learned part: the plane fit of ``core.completion``, with a confidence."""

from __future__ import annotations

from typing import Dict

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import condition
from mf_ros.core.grid import enlarged, grid_step
from mf_ros.core.types import ByteArray, DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine.quality import BEST, Quality
from mf_ros.errors import MessageError

_HALF_DISTANCE = 0.02
_HALF_BEND = 0.1
_EDGE_CONFIDENCE = 0.1
# Finer cells cost more and are no better: returns lie farther apart.
_MOST_CELLS = 250_000
_BEND_REACHES = (0.01, 0.005)


class ClassicalEngine:
    """The engine that always works: LiDAR only, no weights, no state, the same result on every machine type.

    Args:
        quality: how much work goes into a frame.
    """

    def __init__(self, quality: Quality = BEST) -> None:
        self._cells = min(quality.cells, _MOST_CELLS)
        self._thorough = quality.thorough

    @property
    def name(self) -> str:
        return "classical"

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """Dense metric depth from the returns alone; the image is not looked at.

        Confidence is 1 at a return on a flat surface, falls by half with every 2% of the image's width of distance to
        the nearest return, and falls, down to a tenth, where the surface bends within 1% of the width, since an edge
        runs there or returns contradict each other. Large images are completed on a coarser grid, since returns lie
        many pixels apart there, and enlarged.

        Raises:
            MessageError: there is no return in the image, or none of finite depth.
        """
        made = condition(sparse.depth, step=grid_step(sparse.depth.shape, self._cells), thorough=self._thorough)
        if made.returns is None:
            raise MessageError(
                "No usable LiDAR return falls into the image, so there is no depth to fill in: check the extrinsic "
                "calibration (T_cam_lidar) with mf-ros check, and that both sensors look the same way."
            )
        shape, step = made.returns.shape, made.returns.step
        inverse_depth = np.exp(-made.prior) * np.float32(1 / made.scale)
        flatness = _EDGE_CONFIDENCE + (1.0 - _EDGE_CONFIDENCE) / (1.0 + np.square(_bend(inverse_depth) / _HALF_BEND))
        confidence: FloatArray = _nearness(made.level) * flatness
        inverse_depth, confidence = (enlarged(each, step, shape) for each in (inverse_depth, confidence))
        return DepthEstimate(np.reciprocal(inverse_depth), confidence, metric=True, engine=self.name)

    def describe(self) -> Dict[str, str]:
        """Method and the hardware it runs on."""
        return {"method": "coarse-to-fine plane fit in inverse depth", "device": "cpu", "precision": "float32"}


def _nearness(level: FloatArray) -> FloatArray:
    """(H, W) in (0, 1]: 1 at a return, halved with every 2% of the image's width away from it."""
    distance = cv2.distanceTransform((level > 0).astype(np.uint8), cv2.DIST_L2, 3)
    nearness: FloatArray = np.exp2(distance * np.float32(-1.0 / (_HALF_DISTANCE * level.shape[1])))
    return nearness


def _bend(inverse_depth: FloatArray) -> FloatArray:
    """(H, W) how far inverse depth departs from a plane, relative to itself: the largest second difference around."""
    width = inverse_depth.shape[1]
    bend: FloatArray = np.zeros_like(inverse_depth)
    for reach in {max(1, round(part * width)) for part in _BEND_REACHES}:
        padded = cv2.copyMakeBorder(inverse_depth, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
        middle, rows = padded[reach:-reach], padded[:, reach:-reach]
        for before, after in (
            (middle[:, : -2 * reach], middle[:, 2 * reach :]),
            (rows[: -2 * reach], rows[2 * reach :]),
        ):
            np.maximum(bend, np.abs(before + after - 2 * inverse_depth), out=bend)
    return np.asarray(cv2.dilate(bend / inverse_depth, np.ones((3, 3), np.uint8)), np.float32)
