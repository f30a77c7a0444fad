"""Results of the pipeline as messages: the same for the topics of the live node and for the file of a replay."""

from __future__ import annotations

from typing import Dict, Tuple

import numpy as np

from mf_ros.core.cloud import pack_cloud, thin_cloud
from mf_ros.core.config import Config
from mf_ros.core.encoding import encode_depth, encode_sparse
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
        self._buffers: Dict[str, FloatArray] = {}

    def make(self, output: str, result: DepthResult) -> Message:
        """Type and message of one of ``OUTPUTS``.

        The numbers of clouds and of sparse depth lie in buffers of this object and change when the next one is made;
        the others may be those of the result itself.

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
            sparse = result.sparse.depth
            return self._builder.image(encode_sparse(sparse, self._buffer(output, sparse.shape)), *at, "32FC1")
        array, encoding = encode_depth(result.estimate.depth, self.config.output.encoding)
        return self._builder.image(array, *at, encoding)

    def _cloud(self, result: DepthResult) -> FloatArray:
        frame, estimate = result.frame, result.estimate
        packed = self._buffer(POINTS, (*estimate.depth.shape, 4))
        pack_cloud(estimate.depth, frame.image, frame.camera, self.config.cloud, estimate.confidence, packed)
        voxel_m = self.config.cloud.voxel_m
        return thin_cloud(packed, voxel_m) if voxel_m > 0.0 else packed

    def _buffer(self, output: str, shape: Tuple[int, ...]) -> FloatArray:
        if output not in self._buffers or self._buffers[output].shape != shape:
            self._buffers[output] = self._builder.empty(shape, np.float32)
        return self._buffers[output]
