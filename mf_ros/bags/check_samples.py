"""What ``check`` keeps of a recording while it streams by; its size does not grow with the recording's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from mf_ros.bags.check_time import Series
from mf_ros.bags.reader import RecordedMessage, Recording
from mf_ros.core import messages
from mf_ros.core.config import Config
from mf_ros.core.topics import is_static
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import LidarSweep
from mf_ros.errors import MessageError, TransformError

_SAMPLES = 8
_NEVER = 2**63


@dataclass
class Bad:
    """Messages or transforms of one topic that cannot be used.

    Attributes:
        first: what is wrong with the first of them.
        count: how many there are.
        last: time of the last of them, because one message may be looked into several times in a row.
    """

    first: str
    count: int
    last: int


@dataclass
class ImageSample:
    """One image that is looked into.

    Attributes:
        message: as it came.
        stamp_ns: its header stamp.
        nearest: for each LiDAR topic the sweep nearest to it so far.
    """

    message: Any
    stamp_ns: int
    nearest: Dict[str, LidarSweep]


class Samples:
    """Everything ``check`` judges a recording by: all times, all transforms, and some images and sweeps.

    Args:
        recording: what is read.
        roles: topic name to what it is used as: "image", "camera_info", "points" or "tf".
        lidars: the point topics in the order of ``sync.lidar_offset_s``.
        config: how sweeps are read and shifted in time.

    Attributes:
        tree: all transforms.
        series: times of each topic but those of transforms.
        images: some images, evenly spread.
        infos: the first camera_info, and the first of other intrinsics.
        sweeps: some sweeps of each LiDAR, evenly spread, their stamps shifted by the offset.
        bad: what cannot be used, by topic.
        good_transforms: how many transforms can be used.
    """

    def __init__(self, recording: Recording, roles: Mapping[str, str], lidars: Sequence[str], config: Config) -> None:
        self.tree = TransformTree()
        self.series = {name: Series(name) for name, role in roles.items() if role != "tf"}
        self.images: List[ImageSample] = []
        self.infos: List[Any] = []
        self.sweeps: Dict[str, List[LidarSweep]] = {}
        self.bad: Dict[str, Bad] = {}
        self.good_transforms = 0
        self._recording = recording
        self._roles = roles
        self._time_unit = config.lidar.time_unit
        offsets = config.sync.lidar_offset_s
        self._offsets_ns = {name: round(offset * 1e9) for name, offset in zip(lidars, offsets, strict=False)}
        self._length = max(recording.end_ns - recording.start_ns, 1)
        start = recording.start_ns
        self._due = iter([start + self._length * (2 * k + 1) // (2 * _SAMPLES) for k in range(_SAMPLES)])
        self._next_image = next(self._due)
        # The last message of each LiDAR, because it may be nearer to the next image than the one that follows.
        self._latest: Dict[str, Tuple[int, Any]] = {}

    def read(self, progress: Optional[Callable[[float], None]]) -> None:
        """Read the recording; ``progress`` is told the part read, in [0, 1]."""
        if not self._roles:
            return
        for message in self._recording.latched(self._static()):
            self._take_ahead(message)
        for message in self._recording.messages(self._roles):
            if progress is not None:
                progress(self._recording.part_before(message.log_ns))
            try:
                self._take(message, message.decode())
            except MessageError as error:
                self.note_bad(message.topic, message.log_ns, error)

    def _static(self) -> List[str]:
        return [name for name, role in self._roles.items() if role == "tf" and is_static(name)]

    def note_bad(self, topic: str, time_ns: int, error: Exception) -> None:
        """Count what cannot be used, once for each time."""
        known = self.bad.get(topic)
        if known is None:
            self.bad[topic] = Bad(str(error), 1, time_ns)
        elif known.last != time_ns:
            known.count += 1
            known.last = time_ns

    def _take(self, message: RecordedMessage, decoded: Any) -> None:
        topic, log_ns = message.topic, message.log_ns
        role = self._roles[topic]
        if role == "tf":
            self._take_transforms(message, decoded)
            return
        stamp_of = messages.measured_stamp_ns if role in ("image", "points") else messages.stamp_ns
        stamp = stamp_of(decoded.header)
        self.series[topic].add(stamp, log_ns)
        if role == "camera_info":
            self._take_info(decoded)
        elif role == "points":
            self._take_sweep(topic, decoded, stamp + self._offsets_ns.get(topic, 0), log_ns)
        elif log_ns >= self._next_image or not self.images:
            self._take_image(decoded, stamp)
            self._next_image = next(self._due, _NEVER)
            while self._next_image <= log_ns:
                self._next_image = next(self._due, _NEVER)

    def _take_ahead(self, message: RecordedMessage) -> None:
        """A fixed transform as replay looks ahead for it; what is bad counts when its turn comes."""
        try:
            decoded = message.decode()
        except MessageError:
            return
        for transform in decoded.transforms:
            self._add_transform(transform, static=True)

    def _take_transforms(self, message: RecordedMessage, decoded: Any) -> None:
        """The good transforms of a message; a bad one does not cost the others."""
        errors = [self._add_transform(each, is_static(message.topic)) for each in decoded.transforms]
        bad = [error for error in errors if error is not None]
        self.good_transforms += len(errors) - len(bad)
        if bad:
            self.note_bad(message.topic, message.log_ns, bad[0])
            self.bad[message.topic].count += len(bad) - 1

    def _add_transform(self, item: Any, static: bool) -> Optional[Exception]:
        try:
            self.tree.add(messages.transform_of(item), static)
        except (MessageError, TransformError) as error:
            return error
        return None

    def _take_info(self, decoded: Any) -> None:
        known = self.infos
        if not known or (len(known) < 2 and _intrinsics(decoded) != _intrinsics(known[0])):
            known.append(decoded)

    def _take_image(self, decoded: Any, stamp: int) -> None:
        nearest: Dict[str, LidarSweep] = {}
        for topic, (log_ns, latest) in self._latest.items():
            try:
                nearest[topic] = self._sweep(topic, latest)
            except MessageError as error:
                self.note_bad(topic, log_ns, error)
        self.images.append(ImageSample(decoded, stamp, nearest))

    def _sweep(self, topic: str, decoded: Any) -> LidarSweep:
        sweep = messages.decode_cloud(decoded, time_unit=self._time_unit)
        return dataclasses.replace(sweep, stamp_ns=sweep.stamp_ns + self._offsets_ns.get(topic, 0))

    def _take_sweep(self, topic: str, decoded: Any, stamp: int, log_ns: int) -> None:
        """Decode a sweep only where it may be the nearest of a sampled image, or serves to judge the fields."""
        self._latest[topic] = (log_ns, decoded)
        taken = self.sweeps.setdefault(topic, [])
        wanted = [
            each
            for each in self.images
            if topic not in each.nearest
            or abs(stamp - each.stamp_ns) < abs(each.nearest[topic].stamp_ns - each.stamp_ns)
        ]
        due = len(taken) < _SAMPLES and log_ns >= self._recording.start_ns + self._length * len(taken) // _SAMPLES
        if not wanted and not due:
            return
        sweep = self._sweep(topic, decoded)
        if due:
            taken.append(sweep)
        for each in wanted:
            each.nearest[topic] = sweep


def _intrinsics(info: Any) -> Tuple[float, ...]:
    K = getattr(info, "k", None)
    return tuple(float(value) for value in (info.K if K is None else K))
