"""From messages to dense depth: the callbacks that the live node and the replay of recordings share."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, TypeVar, Union

from mf_ros.core import messages
from mf_ros.core.config import Config
from mf_ros.core.deskew import motion_wanted
from mf_ros.core.matching import JUMP_NS, StampMatcher
from mf_ros.core.transforms import StampedTransform, TransformTree
from mf_ros.core.types import LidarSweep
from mf_ros.engine import reasons
from mf_ros.engine.assemble import AssembledFrame, DecodedFrame
from mf_ros.engine.clocks import LidarClocks
from mf_ros.engine.frame import DepthResult, FrameProcessor
from mf_ros.engine.inputs import CameraInfos, FrameSet, StoredImage, StoredSweep
from mf_ros.engine.protocol import DepthEngine
from mf_ros.engine.reasons import DropError
from mf_ros.engine.stats import Latency, ReasonCounter
from mf_ros.errors import MessageError, MfRosError, TransformError

__all__ = ["DepthPipeline", "DepthResult"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

_CAMERA_INFOS_KEPT = 100

_REASON_OF_ROLE = {
    "image": reasons.BAD_IMAGE,
    "camera_info": reasons.BAD_CAMERA_INFO,
    "points": reasons.BAD_POINTS,
    "tf": reasons.BAD_TRANSFORM,
}

_MATCHER_TEXTS = {
    reasons.QUEUE_FULL: "More images than sync.queue_size holds waited for their sweeps: did the LiDAR stop?",
    reasons.TIME_JUMP: "Time jumped backward while the image waited, as when a recording is looped.",
    reasons.BAD_STAMP: "The image's stamp was more than a second off, and the next one was in sequence again.",
}


class DepthPipeline:
    """Messages in, dense depth out.

    The ``on_*`` callbacks only store and may be called from any thread; ``ready`` and ``process`` belong to one worker.
    No message ends the run: an image that cannot be processed is counted in ``dropped`` under one of
    ``mf_ros.engine.reasons``, so that ``frames_in`` is always ``frames_out`` plus all drops plus what is
    still waiting or being processed.

    Args:
        config: settings.
        engine: what turns sparse depth into dense depth; None where only ``assemble`` and ``decode`` are wanted.
        lidar_count: number of LiDARs, whose sweeps are given with an index from 0.
        rectified_input: the images are rectified already (``image_rect``), so camera_info's P holds and D does not.
        log_level: at which the first drop or warning of each reason is logged; WARNING where nobody sees the counters.

    Attributes:
        frames_in, frames_out: images received, and images that became depth.
        dropped: images that gave no depth, by reason.
        warnings: other trouble by reason, in messages or images.
        latency: milliseconds per stage over all processed images.

    Raises:
        ConfigError: the settings do not fit the number of LiDARs.
    """

    def __init__(
        self,
        config: Config,
        engine: Optional[DepthEngine],
        lidar_count: int = 1,
        *,
        rectified_input: bool = False,
        log_level: int = logging.INFO,
    ) -> None:
        self.frames_in = 0
        self.frames_out = 0
        self.dropped = ReasonCounter()
        self.warnings = ReasonCounter()
        self.latency = Latency()
        self._config = config
        self._log_level = log_level
        self._offsets_ns = [round(offset * 1e9) for offset in config.sync.lidar_offset_s] or [0] * lidar_count
        self._clocks = LidarClocks(config.sync, lidar_count)
        self._matcher: StampMatcher[StoredImage, StoredSweep] = StampMatcher(lidar_count, config.sync)
        self._tree = TransformTree()
        self._infos = CameraInfos(_CAMERA_INFOS_KEPT)
        self._processor = FrameProcessor(config, engine, self._infos, self._warn, rectified_input=rectified_input)
        self._lock = threading.RLock()
        self._matched: Deque[FrameSet] = deque()
        self._counted: Dict[str, int] = {}
        self._epoch = 0

    @property
    def waiting(self) -> int:
        """Images received that are neither processed nor dropped."""
        with self._lock:
            return self._matcher.pending() + len(self._matched)

    @property
    def transforms(self) -> TransformTree:
        """The transforms received, since the last jump backward in time where they are dynamic."""
        return self._tree

    def on_camera_info(self, message: Any) -> None:
        """Store a sensor_msgs/CameraInfo."""
        try:
            self._infos.add(message)
        except MessageError as error:
            self.on_bad_message("camera_info", error)

    def on_image(self, message: Any, received_ns: int = 0) -> None:
        """Store a sensor_msgs/Image or CompressedImage; ``received_ns`` is the time of reception, for reference."""
        header = getattr(message, "header", None)
        try:
            stamp, frame_id = messages.measured_stamp_ns(header), messages.frame_id_of(header)
        except MessageError as error:
            self.on_bad_message("image", error)
            return
        with self._lock:
            image = StoredImage(message, stamp, frame_id, received_ns, self.frames_in)
            self.frames_in += 1
            self._clocks.on_image(stamp)
            self._infos.on_image(stamp)
            self._matcher.add_image(stamp, image)
            self._collect()

    def on_sweep(self, sensor: int, message: Union[StoredSweep, LidarSweep, Any]) -> None:
        """Store a sensor_msgs/PointCloud2, or a sweep that is decoded already, of the LiDAR with that index.

        A ``stored_sweep`` may be given to several pipelines of the same settings, which then share its decoding.
        """
        try:
            sweep = message if isinstance(message, StoredSweep) else self.stored_sweep(sensor, message)
        except MessageError as error:
            self.on_bad_message("points", error)
            return
        with self._lock:
            self._clocks.on_sweep(sensor, sweep.stamp_ns + self._offsets_ns[sensor])
            self._matcher.add_sweep(sensor, sweep.stamp_ns, sweep)
            self._collect()

    def stored_sweep(self, sensor: int, message: Union[LidarSweep, Any]) -> StoredSweep:
        """A sensor_msgs/PointCloud2 of the LiDAR with that index, to be decoded when it is needed.

        Raises:
            MessageError: the message has no readable stamp.
        """
        return StoredSweep(message, self._config.lidar, self._offsets_ns[sensor])

    def configure(self, config: Config) -> None:
        """Use other settings from the next image on; ``sync`` and what decides the output's size stay as they were.

        What waits keeps the settings with which it was stored.
        """
        config = replace(
            config,
            sync=self._config.sync,
            output=replace(config.output, scale=self._config.output.scale, rectify=self._config.output.rectify),
        )
        self._config = config
        self._processor.configure(config)

    def use_engine(self, engine: DepthEngine) -> None:
        """Make depth with another engine from the next image on."""
        self._processor.use_engine(engine)

    def release(self) -> None:
        """Drop what waits and let go of the engine: nothing more will be processed. The counters stay."""
        for frame_set in self.ready(flush=True):
            self.count_drop(frame_set, reasons.INTERRUPTED, "processing was stopped.")
        self._processor.use_engine(None)

    def count_drop(self, frame_set: FrameSet, reason: str, text: str) -> None:
        """Count a set that ``ready`` gave out and that nobody wants processed."""
        self._drop(reason, f"Image at {frame_set.image.stamp_ns / 1e9:.3f} s: {text}")

    def on_transforms(
        self, transforms: Union[Iterable[StampedTransform], Any], static: bool, *, ahead: bool = False
    ) -> None:
        """Store a tf2_msgs/TFMessage, or transforms that are decoded already; a bad one does not cost the others.

        ``ahead`` is for messages that are read ahead and will be given again in their turn: bad ones count only then.
        """
        for item in getattr(transforms, "transforms", transforms):
            try:
                transform = item if isinstance(item, StampedTransform) else messages.transform_of(item)
                with self._lock:
                    self._tree.add(transform, static)
            except (MessageError, TransformError) as error:
                if not ahead:
                    self.on_bad_message("tf", error)

    def on_bad_message(self, role: str, error: MfRosError) -> None:
        """Count a message that could not even be read; ``role`` is one of image, camera_info, points, tf."""
        reason = _REASON_OF_ROLE[role]
        if role == "image":
            with self._lock:
                self.frames_in += 1
            self._drop(reason, str(error))
        else:
            self._warn(reason, str(error))

    def ready(self, flush: bool = False, latest: bool = False) -> List[FrameSet]:
        """Sets that can be processed now, oldest first.

        An image waits up to ``sync.max_wait_s`` of stamp time for its sweeps, its camera_info and its transforms.

        Args:
            flush: no more messages will come, so nothing waits any longer.
            latest: only the newest set that can be processed; older ones are dropped as stale.
        """
        with self._lock:
            self._collect(flush)
            waiting = list(self._matched)
        if latest:
            newest = next((i for i in reversed(range(len(waiting))) if flush or self._is_ready(waiting[i])), -1)
            taken = waiting[: newest + 1]
        else:
            blocked = next((i for i, each in enumerate(waiting) if not (flush or self._is_ready(each))), len(waiting))
            taken = waiting[:blocked]
        with self._lock:
            # The callbacks may have thrown out sets meanwhile, which are counted then.
            present = {id(each) for each in self._matched}
            taken = [each for each in taken if id(each) in present]
            gone = {id(each) for each in taken}
            self._matched = deque(each for each in self._matched if id(each) not in gone)
            # Off line nothing is lost; live, what was before a jump is of no use any more.
            current = [each for each in taken if each.epoch == self._epoch] if latest else taken
        if len(taken) > len(current):
            self._drop(reasons.TIME_JUMP, _MATCHER_TEXTS[reasons.TIME_JUMP], len(taken) - len(current))
        if latest and len(current) > 1:
            self._drop(reasons.STALE, "A newer image was ready before this one was begun.", len(current) - 1)
            current = current[-1:]
        return current

    def process(self, frame_set: FrameSet) -> Optional[DepthResult]:
        """Dense depth of one set; None when that is impossible, which is counted in ``dropped``."""
        result = self._done(self._processor.process, frame_set)
        if result is not None:
            self.latency.add(result.timings_ms)
        return result

    def assemble(self, frame_set: FrameSet) -> Optional[AssembledFrame]:
        """Image and returns of one set, without depth; None, and counted, as from ``process``."""
        return self._done(self._processor.assemble, frame_set)

    def decode(self, frame_set: FrameSet) -> Optional[DecodedFrame]:
        """One set decoded, and otherwise as it came; None, and counted, as from ``process``."""
        return self._done(self._processor.decode, frame_set)

    def _done(self, step: Callable[[FrameSet], T], frame_set: FrameSet) -> Optional[T]:
        try:
            result = step(frame_set)
        except DropError as drop:
            self.count_drop(frame_set, drop.reason, str(drop))
            return None
        self.frames_out += 1
        return result

    def _is_ready(self, frame_set: FrameSet) -> bool:
        """Whether nothing that may still come could change the result, or waiting has taken long enough."""
        image = frame_set.image
        newest_ns = self._matcher.newest_image_ns
        waited_ns = 0 if newest_ns is None else newest_ns - image.stamp_ns
        before_jump = frame_set.epoch != self._epoch or waited_ns < -JUMP_NS
        if before_jump or waited_ns >= self._config.sync.max_wait_s * 1e9:
            return True
        info = self._infos.find(image.stamp_ns)
        if info is None or not self._infos.is_complete(image.stamp_ns):
            return False
        frame_id = image.frame_id or messages.frame_id_of(info.header)
        try:
            sweeps = [None if stored is None else stored.sweep() for stored in frame_set.sweeps]
        except MessageError:
            return True  # processing says what is wrong with it
        if not all(
            sweep is None or frame_set.tree.can_lookup(frame_id, sweep.frame_id, image.stamp_ns) for sweep in sweeps
        ):
            return False
        return not motion_wanted(sweeps, replace(image, frame_id=frame_id), frame_set.tree, self._config.lidar)

    def _collect(self, flush: bool = False) -> None:
        matches = self._matcher.pop(flush)
        before = self._epoch, self._tree
        if self._matcher.epoch != self._epoch:
            self._epoch, self._tree = self._matcher.epoch, self._tree.after_jump()
        for match in matches:
            epoch, tree = before if match.epoch < self._epoch else (self._epoch, self._tree)
            self._matched.append(FrameSet(match.image, match.sweeps, match.dts_ns, epoch, tree))
        overflow = len(self._matched) - self._config.sync.queue_size
        for _ in range(overflow if not flush else 0):
            self._matched.popleft()
            self._drop(reasons.STALE, "More images than sync.queue_size waited for transforms or for processing.")
        for reason, count in self._matcher.counters.items():
            new = count - self._counted.get(reason, 0)
            self._counted[reason] = count
            if new and reason == reasons.NO_LIDAR:
                self._drop(reason, self._clocks.why_unmatched(self._matcher.nearest_miss_ns), new)
            elif new and reason in _MATCHER_TEXTS:
                self._drop(reason, _MATCHER_TEXTS[reason], new)
            elif new:
                self._warn(reason, "LiDAR sweeps were let go before an image came that they fit.", new)

    def _drop(self, reason: str, text: str, count: int = 1) -> None:
        self._log(self.dropped, reason, text)
        self.dropped.add(reason, text, count)

    def _warn(self, reason: str, text: str, count: int = 1) -> None:
        self._log(self.warnings, reason, text)
        self.warnings.add(reason, text, count)

    def _log(self, counter: ReasonCounter, reason: str, text: str) -> None:
        # Each reason is told once; the counters have the rest.
        level = logging.DEBUG if reason in counter.counts else self._log_level
        _log.log(level, "%s: %s", reason, text)
