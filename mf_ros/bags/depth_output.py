"""Results of the pipeline as topics of one MCAP file."""

from __future__ import annotations

import time
from typing import Dict, Optional

import numpy as np

from mf_ros.bags.writer import McapWriter
from mf_ros.core.cloud import pack_cloud, thin_cloud
from mf_ros.core.config import Config
from mf_ros.core.types import FloatArray
from mf_ros.engine.pipeline import DepthResult

DEPTH = "/depth/image"
CONFIDENCE = "/depth/confidence"
CAMERA_INFO = "/depth/camera_info"
POINTS = "/points"
SPARSE_DEPTH = "/sparse_depth/image"


class DepthOutput:
    """Writes each result as depth, confidence, camera_info, cloud and sparse depth with the image's stamp and frame.

    Args:
        writer: the open file.
        config: depth encoding and cloud filters.
    """

    def __init__(self, writer: McapWriter, config: Config) -> None:
        self._writer = writer
        self._config = config
        self._buffer: Optional[FloatArray] = None

    def write(self, result: DepthResult) -> Dict[str, float]:
        """Write one result, logged at the time at which its image was; returns milliseconds for cloud and writing."""
        start = time.perf_counter()
        cloud = self._cloud(result)
        packed = time.perf_counter()
        frame, log_ns = result.frame, result.source.received_ns
        stamp, frame_id = frame.stamp_ns, frame.frame_id
        encoding = self._config.output.encoding
        depth = result.estimate.depth
        self._writer.write_depth(DEPTH, depth, stamp, frame_id, encoding=encoding, log_ns=log_ns)
        self._writer.write_image(CONFIDENCE, result.estimate.confidence, stamp, frame_id, log_ns=log_ns)
        self._writer.write_camera_info(CAMERA_INFO, frame.camera, stamp, frame_id, log_ns=log_ns)
        self._writer.write_cloud(POINTS, cloud, stamp, frame_id, log_ns=log_ns)
        sparse = np.where(result.sparse.depth > 0, result.sparse.depth, np.float32(np.nan))
        self._writer.write_depth(SPARSE_DEPTH, sparse, stamp, frame_id, log_ns=log_ns)
        return {"cloud": 1000.0 * (packed - start), "write": 1000.0 * (time.perf_counter() - packed)}

    def _cloud(self, result: DepthResult) -> FloatArray:
        frame, estimate = result.frame, result.estimate
        shape = (*estimate.depth.shape, 4)
        if self._buffer is None or self._buffer.shape != shape:
            self._buffer = np.empty(shape, np.float32)
        pack_cloud(estimate.depth, frame.image, frame.camera, self._config.cloud, estimate.confidence, self._buffer)
        voxel_m = self._config.cloud.voxel_m
        return thin_cloud(self._buffer, voxel_m) if voxel_m > 0.0 else self._buffer
