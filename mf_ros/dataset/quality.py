"""What makes a recording unfit to learn from, told in one sentence."""

from __future__ import annotations

import dataclasses

from mf_ros.bags.reader import Recording
from mf_ros.core.topics import TopicChoice
from mf_ros.engine.frame import DepthResult
from mf_ros.engine.health import HealthMonitor
from mf_ros.engine.pipeline import DepthPipeline

_PROBES = 20
_APART_NS = 450_000_000
_SECOND_NS = 1_000_000_000
_ENOUGH_USABLE = 0.5


class CalibrationProbe:
    """Do the LiDAR's edges fall on the image's, over a few frames spread over a recording?

    The live node asks the same of what it saw last (``engine.health``). Fewer than eight frames are not judged.

    Args:
        start_ns, end_ns: log times of the recording, ns.
    """

    def __init__(self, start_ns: int, end_ns: int) -> None:
        # Nearer to each other they would show the same and count as several.
        self._step_ns = max((end_ns - start_ns) // _PROBES, _APART_NS)
        self._due_ns = start_ns
        self._monitor = HealthMonitor()
        self._count = 0

    def wants(self, log_ns: int) -> bool:
        """Whether the frame that was logged then is one of those to judge."""
        return self._count < _PROBES and log_ns >= self._due_ns

    def judge(self, log_ns: int, result: DepthResult) -> None:
        """Take a frame that was wanted, with the depth made of it."""
        self._due_ns = log_ns + self._step_ns
        self._count += 1
        # The monitor forgets what is older than a minute, as a robot should; here all of the recording counts.
        frame = dataclasses.replace(result.frame, stamp_ns=self._count * _SECOND_NS)
        self._monitor.update(dataclasses.replace(result, frame=frame))

    def error(self) -> str:
        """What is wrong with the calibration, in one sentence; "" when nothing is known to be wrong."""
        return self._monitor.report().warning


def unusable(recording: Recording, topics: TopicChoice) -> str:
    """Why it is not worth reading a recording at all; "" when it may be."""
    if not topics.tf and not topics.tf_static:
        return (
            f"{recording.name} has no transforms, so the LiDAR's place at the camera is unknown: record /tf_static, or "
            "publish the pose of each sensor with static_transform_publisher."
        )
    return ""


@dataclasses.dataclass
class Tally:
    """How many images came how far.

    Attributes:
        sweeps: of the LiDAR that sent most.
        sets: images that got their sweeps.
        tried: of these, the ones that were looked into.
        failed: of these, the ones that camera, LiDAR and transforms could not be brought together for.
        rows: that were made.
    """

    sweeps: int = 0
    sets: int = 0
    tried: int = 0
    failed: int = 0
    rows: int = 0

    @property
    def hopeless(self) -> bool:
        """Whether so many images failed, and no other, that it is not worth reading on."""
        return self.rows == 0 and self.failed >= 200


def too_few(tally: Tally, pipeline: DepthPipeline) -> str:
    """Why too little of what was read fits together; "" when most of it does.

    A camera that is faster than the LiDAR cannot have a sweep for each image, so the slower of the two counts.
    """
    images = pipeline.frames_in
    if not images:
        return "No image could be read."
    possible = min(images, max(tally.sweeps, 1))
    usable = min(tally.sets / possible, 1.0) * (1.0 - tally.failed / max(tally.tried, 1))
    if tally.rows and usable >= _ENOUGH_USABLE:
        return ""
    counts, texts = pipeline.dropped.counts, pipeline.dropped.texts
    if not counts:
        return "No image gave a row."
    reason = next(iter(counts))
    return f"Only {usable:.0%} of the images fit together with the LiDAR, mostly because of {reason}: {texts[reason]}"
