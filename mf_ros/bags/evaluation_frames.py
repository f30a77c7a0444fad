"""Evaluation frames from a recording: image, camera and LiDAR returns as the pipeline brings them together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional

import numpy as np

from mf_ros.bags.reader import Recording
from mf_ros.bags.topics import TopicChoice
from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config
from mf_ros.core.types import ByteArray, CameraPoints, DepthEstimate, SparseDepth
from mf_ros.engine.inputs import FrameSet
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.errors import BagError, MessageError
from mf_ros.evaluation.frames import EvaluationFrame

# Nobody waits for an evaluation, so sweeps and transforms may come later than on a robot.
_MIN_WAIT_S = 1.0

Report = Callable[[float], None]


class _NoEngine:
    """Stands in for the engine, because only what an engine would be given is wanted."""

    name = "none"

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """No depth, of the right size."""
        empty = np.full(sparse.depth.shape, np.nan, np.float32)
        return DepthEstimate(empty, np.zeros_like(empty), metric=True, engine=self.name)

    def describe(self) -> Dict[str, str]:
        """Nothing to describe."""
        return {}


def bag_frames(
    recording: Recording,
    topics: TopicChoice,
    config: Config,
    *,
    max_frames: int = 20,
    progress: Optional[Report] = None,
) -> Iterator[EvaluationFrame]:
    """Frames of a recording, evenly spread over it, with all LiDAR returns in the camera's frame.

    Pairing, motion compensation and calibration are those of live use and replay.

    Args:
        recording: the open recording.
        topics: what to read.
        config: settings; rectification and scale apply to the frames.
        max_frames: how many images are used at most.
        progress: told the part read, in [0, 1].

    Raises:
        BagError: no image could be brought together with the LiDAR; says why.
    """
    sync = dataclasses.replace(config.sync, max_wait_s=max(config.sync.max_wait_s, _MIN_WAIT_S))
    pipeline = DepthPipeline(
        dataclasses.replace(config, sync=sync), _NoEngine(), len(topics.points), rectified_input=topics.rectified
    )
    _add_latched(pipeline, recording, topics)
    count = next((topic.count for topic in recording.topics if topic.name == topics.image), 1)
    stride = max(1, -(-count // max(max_frames, 1)))
    span_ns = max(recording.end_ns - recording.start_ns, 1)
    source = Path(recording.name).name or recording.name
    names = (topics.image, topics.camera_info, *topics.points, *topics.tf, *topics.tf_static)
    for message in recording.messages(dict.fromkeys(names)):
        if progress is not None:
            progress((message.log_ns - recording.start_ns) / span_ns)
        try:
            content = message.decode()
        except MessageError:
            continue
        if message.topic == topics.image:
            pipeline.on_image(content, message.log_ns)
        elif message.topic == topics.camera_info:
            pipeline.on_camera_info(content)
        elif message.topic in topics.points:
            pipeline.on_sweep(topics.points.index(message.topic), content)
        else:
            pipeline.on_transforms(content, static=message.topic in topics.tf_static)
        for ready in pipeline.ready():
            yield from _frame(pipeline, ready, source, stride)
    for ready in pipeline.ready(flush=True):
        yield from _frame(pipeline, ready, source, stride)
    if pipeline.frames_out == 0:
        reasons = "; ".join(pipeline.dropped.texts.values()) or "it has no images in that part"
        raise BagError(f"{recording.name} gives no frame to evaluate: {reasons}")


def _add_latched(pipeline: DepthPipeline, recording: Recording, topics: TopicChoice) -> None:
    """What holds from the start although it may be logged later."""
    for message in recording.messages(topics.tf_static) if topics.tf_static else ():
        try:
            pipeline.on_transforms(message.decode(), static=True)
        except MessageError:
            continue
    for message in recording.messages([topics.camera_info]):
        try:
            pipeline.on_camera_info(message.decode())
        except MessageError:
            continue
        return


def _frame(pipeline: DepthPipeline, ready: FrameSet, source: str, stride: int) -> Iterator[EvaluationFrame]:
    # Every image is matched, or the sweeps of the skipped ones would pile up; only these are decoded.
    result = pipeline.process(ready) if ready.image.number % stride == 0 else None
    if result is not None:
        frame, points = result.frame, result.points
        name = f"{frame.stamp_ns}"
        yield EvaluationFrame(source, name, frame.image, frame.camera, points, _ring_count(points))


def _ring_count(points: CameraPoints) -> int:
    """Scan lines of the sensor; 0 without rings."""
    return 0 if points.ring is None or not len(points) else int(points.ring.max()) + 1
