"""The rows of one recording, made one after the other while it is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import cv2
import numpy as np

from mf_ros.bags.feed import feed, patient
from mf_ros.bags.reader import RecordedMessage, Recording
from mf_ros.core import messages
from mf_ros.core.config import Config
from mf_ros.core.topics import TopicChoice
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import ByteArray, DoubleArray, LidarSweep
from mf_ros.dataset.keyframes import KeyframeOptions, Keyframes, View, perceptual_hash
from mf_ros.dataset.quality import CalibrationProbe, Tally, too_few
from mf_ros.dataset.row import Row
from mf_ros.dataset.stores import row_bytes
from mf_ros.engine.assemble import DecodedFrame, FrameAssembler
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.inputs import FrameSet
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.engine.reasons import DropError
from mf_ros.errors import MessageError

EXTRACTOR_VERSION = "1"
"""Of what a row holds and which rows are kept: data sets of different versions are not mixed."""

TOO_LARGE = "too_large"
"""Image, sweeps and transforms together are larger than a row may be."""
REPEATED = "repeated"
"""An image of the same stamp is a row already, as when a recording was played in a loop."""

_MAX_ROW_BYTES = 100_000_000
# Room for the speed of the camera, which is taken from where it was shortly before the image.
_MARGIN_NS = 50_000_000
# Nobody's sensor measured before this (2000-01-01): such a stamp counts from when the sensor was switched on.
_EARLIEST_REAL_NS = 946_684_800 * 10**9


@dataclass(frozen=True)
class RowOptions:
    """What rows are made of, and which.

    Attributes:
        settings: with which image, sweeps and transforms are brought together.
        keyframes: how close rows may be.
        jpeg: quality with which raw images are stored as JPEG; 0 stores them as PNG, which loses nothing.
    """

    settings: Config
    keyframes: KeyframeOptions
    jpeg: int = 0


@dataclass(frozen=True)
class Origin:
    """Where rows come from; see ``Row``."""

    bag_id: str
    robot_id: str
    site: str
    day: str


class RecordingRows:
    """The rows of one recording, which is read once from its beginning to its end.

    Args:
        recording: the open recording.
        topics: what to read.
        options: what rows are made of.
        origin: where they come from.
        split_at: gives the split of an image from its log time, ns.

    Attributes:
        uncompensated: rows in which the motion of some sweep is not known.
        without_pose: rows without a pose in the fixed frame.
    """

    def __init__(
        self,
        recording: Recording,
        topics: TopicChoice,
        options: RowOptions,
        origin: Origin,
        split_at: Callable[[int], str],
    ) -> None:
        settings = patient(options.settings, recording, topics)
        self.uncompensated = 0
        self.without_pose = 0
        self._recording, self._topics = recording, topics
        self._options, self._origin, self._split_at = options, origin, split_at
        # The engine is for the calibration only.
        self._pipeline = DepthPipeline(
            settings, ClassicalEngine(), len(topics.points), rectified_input=topics.rectified
        )
        self._assembler = FrameAssembler(settings)
        self._keyframes = Keyframes(options.keyframes)
        self._probe = CalibrationProbe(recording.start_ns, recording.end_ns)
        self._tally = Tally()
        self._left_out: Counter[str] = Counter()
        self._sweeps: Counter[str] = Counter()
        self._stamps: Set[int] = set()
        self._info_frame = ""

    def read(self, stopped: Callable[[], bool], progress: Callable[[float], None]) -> Iterator[Row]:
        """The rows in the order of the recording.

        Args:
            stopped: asked at every message; when true, nothing more is read.
            progress: called with the part done, in [0, 1].

        Raises:
            BagError: the disk or the connection fails.
        """
        sets = feed(
            self._pipeline,
            self._recording,
            self._topics,
            on_message=self._note,
            stopped=lambda: self._tally.hopeless or stopped(),
            progress=progress,
        )
        for frame_set in sets:
            self._tally.sets += 1
            row = self._row(frame_set) if self._passes(frame_set) else None
            if row is not None:
                self._tally.rows += 1
                yield row

    @property
    def count(self) -> int:
        """Rows that were made."""
        return self._tally.rows

    @property
    def images(self) -> int:
        """Images that were read."""
        return self._pipeline.frames_in

    @property
    def dropped(self) -> Dict[str, int]:
        """Images that became no row, by reason, the most frequent first."""
        return dict((Counter(self._pipeline.dropped.counts) + self._left_out).most_common())

    def too_few(self) -> str:
        """Why too little fits together, in a sentence; "" when enough does."""
        return too_few(self._tally, self._pipeline)

    def miscalibrated(self) -> str:
        """What is wrong with the calibration, in a sentence; "" when nothing is known to be wrong."""
        return self._probe.error()

    def _note(self, role: str, message: RecordedMessage, content: Any) -> None:
        if role == "points":
            self._sweeps[message.topic] += 1
            self._tally.sweeps = max(self._sweeps.values())
        elif role == "camera_info":
            self._info_frame = messages.frame_id_of(content.header)

    def _passes(self, frame_set: FrameSet) -> bool:
        """Whether depth can be made of a set, where it is one of those that calibration is judged by."""
        log_ns = frame_set.image.received_ns
        if not self._probe.wants(log_ns):
            return True
        result = self._pipeline.process(frame_set)
        if result is None:
            self._tally.tried += 1
            self._tally.failed += 1
            return False
        self._probe.judge(log_ns, result)
        return True

    def _row(self, frame_set: FrameSet) -> Optional[Row]:
        """The row of a set; None where there is none, which is counted."""
        image = frame_set.image
        pose = self._pose(image.frame_id or self._info_frame, image.stamp_ns, frame_set.tree)
        view = View(image.stamp_ns, pose, self._recording.part_before(image.received_ns))
        reason = REPEATED if image.stamp_ns in self._stamps else self._keyframes.skip(view)
        if reason:
            self._left_out[reason] += 1
            return None
        self._tally.tried += 1
        decoded = self._pipeline.decode(frame_set)
        if decoded is None:
            self._tally.failed += 1
            return None
        phash = perceptual_hash(decoded.image)
        reason = self._keyframes.refuse(view, phash)
        if reason:
            self._left_out[reason] += 1
            return None
        if not self._fits_together(frame_set, decoded):
            self._tally.failed += 1
            return None
        row = self._made(frame_set, decoded, view, phash)
        if row_bytes(row) > _MAX_ROW_BYTES:
            self._left_out[TOO_LARGE] += 1
            return None
        self._stamps.add(image.stamp_ns)
        self.without_pose += pose is None
        self._keyframes.keep(view, phash)
        return row

    def _made(self, frame_set: FrameSet, decoded: DecodedFrame, view: View, phash: str) -> Row:
        image = frame_set.image
        encoded, image_format = self._encoded(image.message, decoded.image)
        return Row(
            sample_id=f"{self._origin.bag_id}/{image.stamp_ns}",
            bag_id=self._origin.bag_id,
            robot_id=self._origin.robot_id,
            site=self._origin.site,
            day=self._origin.day,
            stamp_ns=image.stamp_ns,
            log_ns=image.received_ns,
            image=encoded,
            image_format=image_format,
            camera=decoded.camera,
            camera_frame=decoded.frame_id,
            sweeps=decoded.sweeps,
            dt_ns=frame_set.dt_ns,
            edges=tuple(self._edges(decoded)),
            T_world_cam=view.T_world_cam,
            split=self._split_at(image.received_ns),
            keyframe=self._keyframes.has_moved(view),
            phash=phash,
            extractor_version=EXTRACTOR_VERSION,
        )

    def _pose(self, camera_frame: str, stamp_ns: int, tree: TransformTree) -> Optional[DoubleArray]:
        fixed = self._options.settings.lidar.fixed_frame
        return tree.lookup(fixed, camera_frame, stamp_ns) if tree.can_lookup(fixed, camera_frame, stamp_ns) else None

    def _fits_together(self, frame_set: FrameSet, decoded: DecodedFrame) -> bool:
        """Whether training can bring image and sweeps together, as the robot does; counted where it cannot."""
        try:
            assembled = self._assembler.assemble(decoded)
        except DropError as drop:
            self._pipeline.count_drop(frame_set, drop.reason, str(drop))
            return False
        pairs = zip(decoded.sweeps, assembled.compensated, strict=True)
        self.uncompensated += any(sweep is not None and not used for sweep, used in pairs)
        return True

    def _edges(self, decoded: DecodedFrame) -> List[Any]:
        """The transforms that this set needs, over all times at which something in it was measured."""
        times = [decoded.stamp_ns]
        for sweep in _given(decoded.sweeps):
            measured = np.zeros(1) if sweep.time_s is None or not len(sweep) else sweep.time_s
            times += [sweep.stamp_ns + round(float(at) * 1e9) for at in (measured.min(), measured.max())]
        frames = [decoded.frame_id, *(sweep.frame_id for sweep in _given(decoded.sweeps))]
        frames.append(self._options.settings.lidar.fixed_frame)
        return decoded.tree.edges_above(frames, min(times) - _MARGIN_NS, max(times) + _MARGIN_NS)

    def _encoded(self, message: Any, image: ByteArray) -> Tuple[bytes, str]:
        """The image's file and format: the recorded file where there is one."""
        if not hasattr(message, "encoding"):
            return bytes(np.asarray(message.data, np.uint8).tobytes()), str(message.format)
        return _encode(image, self._options.jpeg)


def _given(sweeps: Tuple[Optional[LidarSweep], ...]) -> List[LidarSweep]:
    return [sweep for sweep in sweeps if sweep is not None]


def _encode(image: ByteArray, jpeg: int) -> Tuple[bytes, str]:
    """An (H, W, 3) RGB image as PNG, or as JPEG of a quality above 0, in one channel where it is grey."""
    grey = bool((image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all())
    pixels = np.ascontiguousarray(image[..., 0] if grey else image[..., ::-1])
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg] if jpeg else []
    done, data = cv2.imencode(".jpg" if jpeg else ".png", pixels, options)
    if not done:
        raise MessageError(f"An image of {image.shape[1]} x {image.shape[0]} pixels cannot be encoded.")
    return bytes(data.tobytes()), "jpeg" if jpeg else "png"


def day_of(recording: Recording, topics: TopicChoice) -> str:
    """The day of a recording as YYYY-MM-DD in UTC, by the stamp of its first image.

    One day for all of it, because rows of one day are not parted; by its log time where the camera's clock counts from
    when it was switched on.
    """
    day_ns = recording.start_ns
    for message in recording.messages([topics.image]):
        try:
            stamp_ns = messages.measured_stamp_ns(message.decode().header)
        except MessageError:
            continue
        day_ns = stamp_ns if stamp_ns >= _EARLIEST_REAL_NS else message.log_ns
        break
    return datetime.fromtimestamp(day_ns // 10**9, timezone.utc).strftime("%Y-%m-%d")
