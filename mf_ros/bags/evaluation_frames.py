"""Evaluation frames from a recording: image, camera and LiDAR returns as the pipeline brings them together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Callable, Iterator, Optional

from mf_ros.bags.feed import feed, patient
from mf_ros.bags.reader import Recording
from mf_ros.core.config import Config
from mf_ros.core.topics import TopicChoice
from mf_ros.core.types import CameraPoints
from mf_ros.engine.inputs import FrameSet
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.engine.temporal import camera_pose
from mf_ros.errors import BagError
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.sequence import SequenceFrame

_log = logging.getLogger(__name__)

Report = Callable[[float], None]


def bag_frames(
    recording: Recording,
    topics: TopicChoice,
    config: Config,
    *,
    max_frames: int = 20,
    progress: Optional[Report] = None,
) -> Iterator[EvaluationFrame]:
    """Frames of a recording, evenly spread over it, with all LiDAR returns in the camera's frame.

    Pairing, motion compensation and calibration are those of replay. Images that give no frame are logged at the end.

    Args:
        recording: the open recording.
        topics: what to read.
        config: settings; rectification and scale apply to the frames.
        max_frames: how many images are used at most.
        progress: told the part read, in [0, 1].

    Raises:
        BagError: no image could be brought together with the LiDAR; says why.
    """
    settings = patient(config, recording, topics)
    pipeline = DepthPipeline(settings, None, len(topics.points), rectified_input=topics.rectified)
    count = next((topic.count for topic in recording.topics if topic.name == topics.image), 1)
    stride = max(1, -(-count // max(max_frames, 1)))
    source = Path(recording.name).name or recording.name
    for ready in feed(pipeline, recording, topics, progress=progress):
        yield from _frame(pipeline, ready, source, stride)
    texts = pipeline.dropped.texts
    if pipeline.frames_out == 0:
        reasons = "; ".join(texts.values()) or "it has no images in that part"
        raise BagError(f"{recording.name} gives no frame to evaluate: {reasons}")
    if texts:
        listed = "; ".join(f"{number} {reason}: {texts[reason]}" for reason, number in pipeline.dropped.counts.items())
        _log.warning("%d of %d images give no frame: %s", pipeline.dropped.total, pipeline.frames_in, listed)


def _frame(pipeline: DepthPipeline, ready: FrameSet, source: str, stride: int) -> Iterator[EvaluationFrame]:
    # Every image is matched, or the sweeps of the skipped ones would pile up; only these are decoded.
    result = pipeline.assemble(ready) if ready.image.number % stride == 0 else None
    if result is not None:
        frame, points = result.frame, result.points
        name = f"{frame.stamp_ns}"
        yield EvaluationFrame(source, name, frame.image, frame.camera, points, _ring_count(points))


def _ring_count(points: CameraPoints) -> int:
    """Scan lines of the sensor; 0 without rings."""
    return 0 if points.ring is None or not len(points) else int(points.ring.max()) + 1


def sequence_frames(
    recording: Recording, topics: TopicChoice, config: Config, *, progress: Optional[Report] = None
) -> Iterator[SequenceFrame]:
    """Every frame of a recording in order, with the camera's pose in ``lidar.fixed_frame``.

    Raises:
        BagError: no image could be brought together with the LiDAR, or no pose is known at any image.
    """
    settings = patient(config, recording, topics)
    pipeline = DepthPipeline(settings, None, len(topics.points), rectified_input=topics.rectified)
    posed = False
    for ready in feed(pipeline, recording, topics, progress=progress):
        result = pipeline.assemble(ready)
        if result is not None:
            pose = camera_pose(ready.tree, result.frame, config.lidar.fixed_frame)
            posed |= pose is not None
            yield SequenceFrame(result.frame, result.points, _ring_count(result.points), pose)
    if not posed:
        reasons = "; ".join(pipeline.dropped.texts.values())
        raise BagError(
            f"{recording.name} does not tell how the camera moves in '{config.lidar.fixed_frame}'"
            f"{': ' + reasons if reasons else ''}: name a frame of /tf that does not move in lidar.fixed_frame."
        )
