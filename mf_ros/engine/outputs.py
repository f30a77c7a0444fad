"""Results of the pipeline as messages: the same for the topics of the live node and for the file of a replay."""

from __future__ import annotations

from typing import Dict, Optional, Tuple

import numpy as np

from mf_ros.core.cloud import pack_cloud, thin_cloud
from mf_ros.core.config import Config
from mf_ros.core.encoding import encode_depth
from mf_ros.core.message_builder import Message, MessageBuilder
from mf_ros.core.types import FloatArray
from mf_ros.engine.frame import DepthResult

DEPTH = "depth/image"
CONFIDENCE = "depth/confidence"
CAMERA_INFO = "depth/camera_info"
POINTS = "depth/points"
SPARSE_DEPTH = "sparse_depth/image"

OUTPUTS: Dict[str, str] = {
    DEPTH: "sensor_msgs/msg/Image",
    CONFIDENCE: "sensor_msgs/msg/Image",
    CAMERA_INFO: "sensor_msgs/msg/CameraInfo",
    POINTS: "sensor_msgs/msg/PointCloud2",
    SPARSE_DEPTH: "sensor_msgs/msg/Image",
}
"""Message type by topic, relative to the camera's name."""


class ResultMessages:
    """Makes the messages of results, each with the image's stamp and frame.

    Args:
        builder: makes message objects.
        config: depth encoding and cloud filters.
    """

    def __init__(self, builder: MessageBuilder, config: Config) -> None:
        self.config = config
        self._builder = builder
        self._buffer: Optional[FloatArray] = None

    def make(self, output: str, result: DepthResult) -> Message:
        """Type and message of one of ``OUTPUTS``.

        A cloud's numbers lie in a buffer of this object and change when the next cloud is made.

        Raises:
            MessageError: the result cannot be written in the wanted encoding.
        """
        frame = result.frame
        at: Tuple[int, str] = frame.stamp_ns, frame.frame_id
        if output == CAMERA_INFO:
            return self._builder.camera_info(frame.camera, *at)
        if output == POINTS:
            return self._builder.colour_cloud(self._cloud(result), *at)
        if output == CONFIDENCE:
            return self._builder.image(result.estimate.confidence, *at, "32FC1")
        if output == SPARSE_DEPTH:
            depth = np.where(result.sparse.depth > 0, result.sparse.depth, np.float32(np.nan))
            return self._builder.image(depth, *at, "32FC1")
        array, encoding = encode_depth(result.estimate.depth, self.config.output.encoding)
        return self._builder.image(array, *at, encoding)

    def _cloud(self, result: DepthResult) -> FloatArray:
        frame, estimate = result.frame, result.estimate
        shape = (*estimate.depth.shape, 4)
        if self._buffer is None or self._buffer.shape != shape:
            self._buffer = self._builder.empty(shape, np.float32)
        pack_cloud(estimate.depth, frame.image, frame.camera, self.config.cloud, estimate.confidence, self._buffer)
        voxel_m = self.config.cloud.voxel_m
        return thin_cloud(self._buffer, voxel_m) if voxel_m > 0.0 else self._buffer
