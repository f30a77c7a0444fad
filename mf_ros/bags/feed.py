"""A recording fed to the pipeline off line: everything in log order, and nothing dropped for lack of patience."""

from __future__ import annotations

import dataclasses
import math
from itertools import islice
from typing import Any, Callable, Iterator, Optional, Tuple

from mf_ros.bags.check_time import REPLAY_WAIT_S
from mf_ros.bags.reader import RecordedMessage, Recording
from mf_ros.core.config import Config
from mf_ros.core.topics import TopicChoice
from mf_ros.engine.inputs import FrameSet
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.errors import MessageError

MIN_QUEUE, MAX_QUEUE = 100, 2000
_MAX_QUEUED_BYTES = 2**31
# Sweeps are kept for images from one wait before to one wait after them; the third is room for uneven rates.
_WAITS_KEPT = 3
_RATE_SAMPLE = 50

Progress = Callable[[float], None]
OnMessage = Callable[[str, RecordedMessage, Any], None]


def patient(config: Config, recording: Recording, topics: TopicChoice) -> Config:
    """The settings for a run that nobody waits for: late sweeps and transforms get more time than on a robot.

    Images wait ``REPLAY_WAIT_S`` at least, and the queues hold what comes in that time even from a fast camera, as far
    as about 2 GiB of messages go.
    """
    wait_s = max(config.sync.max_wait_s, REPLAY_WAIT_S)
    needed = MIN_QUEUE
    for name in (topics.image, *topics.points):
        rate_hz, size = _rate_and_size(recording, name)
        wanted = min(math.ceil(min(_WAITS_KEPT * rate_hz * wait_s, MAX_QUEUE)), _MAX_QUEUED_BYTES // max(size, 1))
        needed = max(needed, wanted)
    sync = dataclasses.replace(config.sync, max_wait_s=wait_s, queue_size=max(config.sync.queue_size, needed))
    return dataclasses.replace(config, sync=sync)


def feed(
    pipeline: DepthPipeline,
    recording: Recording,
    topics: TopicChoice,
    *,
    on_message: Optional[OnMessage] = None,
    stopped: Callable[[], bool] = lambda: False,
    progress: Optional[Progress] = None,
) -> Iterator[FrameSet]:
    """Give the pipeline every message of the chosen topics; yields every set as soon as it is complete.

    Fixed transforms and the first calibration are given ahead, because a recorder may log them after the first images.
    A message that cannot be decoded is counted by the pipeline.

    Args:
        pipeline: takes the messages; its counters tell what was dropped.
        recording: the open recording.
        topics: what to read.
        on_message: called with role ("image", "camera_info", "points" or "tf"), message and content of each message
            that could be decoded.
        stopped: asked between two steps; when true, nothing more is read or yielded.
        progress: called with the part done, in [0, 1].
    """
    _look_ahead(pipeline, recording, topics)
    names = (topics.image, topics.camera_info, *topics.points, *topics.tf, *topics.tf_static)
    for message in recording.messages(dict.fromkeys(names)):
        _dispatch(pipeline, message, topics, on_message)
        for frame_set in pipeline.ready():
            if stopped():
                return
            yield frame_set
        if stopped():
            return
        if progress is not None:
            progress(recording.part_before(message.log_ns))
    for frame_set in pipeline.ready(flush=True):
        if stopped():
            return
        yield frame_set
    if progress is not None and not stopped():
        progress(1.0)


def _dispatch(
    pipeline: DepthPipeline, message: RecordedMessage, topics: TopicChoice, on_message: Optional[OnMessage]
) -> None:
    """One message to the callback of its role."""
    topic = message.topic
    role = _role(topic, topics)
    try:
        content = message.decode()
    except MessageError as error:
        pipeline.on_bad_message(role, error)
        return
    if role == "image":
        pipeline.on_image(content, message.log_ns)
    elif role == "camera_info":
        pipeline.on_camera_info(content)
    elif role == "tf":
        pipeline.on_transforms(content, static=topic in topics.tf_static)
    else:
        for sensor, name in enumerate(topics.points):
            if name == topic:
                pipeline.on_sweep(sensor, content)
    if on_message is not None:
        on_message(role, message, content)


def _role(topic: str, topics: TopicChoice) -> str:
    if topic == topics.image:
        return "image"
    if topic == topics.camera_info:
        return "camera_info"
    return "points" if topic in topics.points else "tf"


def _look_ahead(pipeline: DepthPipeline, recording: Recording, topics: TopicChoice) -> None:
    """What holds from the start although it may be logged later; bad messages are counted when their turn comes."""
    for message in recording.latched(topics.tf_static):
        try:
            pipeline.on_transforms(message.decode(), static=True, ahead=True)
        except MessageError:
            continue
    for message in recording.messages([topics.camera_info]):
        try:
            pipeline.on_camera_info(message.decode())
        except MessageError:
            continue
        return


def _rate_and_size(recording: Recording, name: str) -> Tuple[float, int]:
    """Messages per second, of all of them or of the first ones if those come faster, and bytes of the largest."""
    listed = recording.topic(name)
    first = [(message.log_ns, message.size) for message in islice(recording.messages([name]), _RATE_SAMPLE)]
    span_s = (first[-1][0] - first[0][0]) / 1e9 if first else 0.0
    rate_hz = (len(first) - 1) / span_s if span_s > 0 else 0.0
    return max(rate_hz, 0.0 if listed is None else listed.rate_hz), max((size for _, size in first), default=0)
