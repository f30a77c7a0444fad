"""What a recording holds, as far as the launch file asks: the topics to connect to and the frame to show them in.

``python3 -m mf_ros.ros.recorded BAG [IMAGE] [CAMERA_INFO] [POINTS]`` prints it as JSON, or one sentence on why not.
It reads with rosbag2, as ``ros2 bag play`` does.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from mf_ros.core import topics
from mf_ros.errors import BagError, MfRosError, MissingDependencyError
from mf_ros.ros.types import MessageTypes

IMAGE, COMPRESSED = topics.IMAGE_TYPES
CAMERA_INFO, POINTS, TF = topics.CAMERA_INFO_TYPE, topics.POINTS_TYPE, topics.TF_TYPES[0]
BODY = "base_link"
_COMPRESSED = "/compressed"

# Transforms and clouds of a robot repeat themselves; a frame that is not in the first ones is taken as missing.
_READ = 500
_FAILED = 2


@dataclass(frozen=True)
class Recorded:
    """What the node is connected to when a recording is played.

    Attributes:
        image: base name of the image topic, without the transport.
        image_transport: raw or compressed.
        camera_info: topic of the calibration.
        points: topics of the LiDARs, with commas.
        rectified: the image topic's name says that it is rectified.
        fixed_frame: frame to show everything in: base_link, or the LiDAR's where there is no such frame.
    """

    image: str
    image_transport: str
    camera_info: str
    points: str
    rectified: bool = False
    fixed_frame: str = BODY


def choose(recording: topics.Recorded, image: str = "", camera_info: str = "", points: str = "") -> Recorded:
    """The topics that are named, and for the others those that ``mf-ros replay`` takes.

    Args:
        recording: what can be read of it.
        image, camera_info, points: names that are known already, several point clouds with commas; empty ones are
            looked for. An image that was recorded compressed only may be named without its transport.

    Raises:
        TopicError: nothing fits, or several do.
    """
    names = {topic.name for topic in recording.topics}
    if image and image not in names and f"{image}{_COMPRESSED}" in names:
        image += _COMPRESSED
    listed = [name.strip() for name in points.split(",") if name.strip()]
    found = topics.choose_topics(recording, image or None, camera_info or None, listed)
    compressed = found.image_type == COMPRESSED
    stream = found.image[: -len(_COMPRESSED)] if compressed else found.image
    transport = "compressed" if compressed else "raw"
    return Recorded(stream, transport, found.camera_info, ",".join(found.points), found.rectified)


def look_into(bag: Path, image: str = "", camera_info: str = "", points: str = "") -> Recorded:
    """The same for a bag, with the frame to show it in.

    Raises:
        BagError: it cannot be read, or no topics fit.
        MissingDependencyError: rosbag2 is not installed.
    """
    recording = _Rosbag2(bag)
    found = choose(recording, image, camera_info, points)
    frames = set()
    transforms = [topic.name for topic in recording.topics if topic.msgtype == TF]
    for message in recording.messages(transforms):
        for item in message.decode().transforms:
            frames |= {item.header.frame_id, item.child_frame_id}
    if BODY in frames:
        return found
    cloud = next(recording.messages(found.points.split(",")[:1]), None)
    return found if cloud is None else dataclasses.replace(found, fixed_frame=cloud.decode().header.frame_id)


def storage_of(bag: Path) -> str:
    """What rosbag2 calls the storage of a single file; empty for folders, whose metadata say it."""
    return {".mcap": "mcap", ".db3": "sqlite3"}.get(bag.suffix, "")


def main(args: Sequence[str]) -> int:
    """Print what the recording holds; returns the exit code."""
    try:
        print(json.dumps(dataclasses.asdict(look_into(Path(args[0]), *args[1:]))))
    except MfRosError as error:
        print(error, file=sys.stderr)
        return _FAILED
    return 0


def _reader(bag: Path, wanted: Optional[List[str]] = None) -> Any:
    try:
        import rosbag2_py
    except ImportError as error:
        raise MissingDependencyError(
            "Playing a recording needs rosbag2: "
            "sudo apt-get install ros-$ROS_DISTRO-rosbag2 ros-$ROS_DISTRO-rosbag2-storage-mcap."
        ) from error
    reader = rosbag2_py.SequentialReader()
    try:
        reader.open(rosbag2_py.StorageOptions(str(bag), storage_of(bag)), rosbag2_py.ConverterOptions("", ""))
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise BagError(
            f"rosbag2 cannot read {bag} ({why}); MCAP needs ros-$ROS_DISTRO-rosbag2-storage-mcap."
        ) from error
    if wanted is not None:
        reader.set_filter(rosbag2_py.StorageFilter(topics=wanted))
    return reader


class _Message(NamedTuple):
    """One message as it was recorded."""

    data: bytes
    kind: Any

    def decode(self) -> Any:
        """The message object."""
        from rclpy.serialization import deserialize_message

        return deserialize_message(self.data, self.kind)


class _Rosbag2:
    """The first messages of a bag, read with rosbag2.

    Raises:
        BagError: it cannot be read.
    """

    def __init__(self, bag: Path) -> None:
        self.name = str(bag)
        self._bag = bag
        metadata = _reader(bag).get_metadata()
        seconds = metadata.duration.nanoseconds / 1e9
        listed = sorted(metadata.topics_with_message_count, key=lambda each: each.topic_metadata.name)
        self.topics = [
            topics.TopicInfo(
                each.topic_metadata.name,
                each.topic_metadata.type,
                each.message_count,
                max(each.message_count - 1, 0) / seconds if seconds > 0 else 0.0,
            )
            for each in listed
        ]

    def messages(self, names: Iterable[str]) -> Iterator[_Message]:
        """The first messages of some topics."""
        wanted = list(names)
        if not wanted:
            return
        reader, types = _reader(self._bag, wanted), MessageTypes()
        types_of = {topic.name: topic.msgtype for topic in self.topics}
        for _ in range(_READ):
            if not reader.has_next():
                return
            topic, data, _ = reader.read_next()
            yield _Message(data, types[types_of[topic]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
