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
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Tuple

from mf_ros.engine.outputs import OUTPUTS
from mf_ros.errors import BagError, MfRosError, MissingDependencyError, TopicError
from mf_ros.ros.types import MessageTypes

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO, POINTS, TF = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage"
BODY = "base_link"

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
        points: topic of the LiDAR.
        fixed_frame: frame to show everything in: base_link, or the LiDAR's where there is no such frame.
    """

    image: str
    image_transport: str
    camera_info: str
    points: str
    fixed_frame: str = BODY


def choose(topics: Mapping[str, str], image: str = "", camera_info: str = "", points: str = "") -> Recorded:
    """The topics that are named, and for the others the only ones that fit.

    Args:
        topics: message type by topic.
        image, camera_info, points: names that are known already; empty ones are looked for.

    Raises:
        TopicError: nothing fits, or several do.
    """
    names = [name for name in topics if not name.endswith(tuple(f"/{output}" for output in OUTPUTS))]
    images = [name for name in names if topics[name] in (IMAGE, COMPRESSED)]
    if image:
        streams = [_stream(image)]
    else:
        streams = sorted({_stream(name) for name in images if _calibrations(_stream(name), topics)})
    stream = _only(streams, images, "camera image with a camera_info beside it", "image_topic")
    if stream not in images and f"{stream}/compressed" not in images:
        raise TopicError(f"The recording has no image {stream}; choose image_topic from: {_listed(images)}.")
    infos = [camera_info] if camera_info else _calibrations(stream, topics)
    all_infos = [name for name in names if topics[name] == CAMERA_INFO]
    info = _only(infos[:1], all_infos, f"camera_info beside {stream}", "camera_info_topic")
    clouds = [name for name in names if topics[name] == POINTS]
    cloud = points or _only(clouds, clouds, "point cloud", "points_topic")
    is_raw = stream in images and not image.endswith("/compressed")
    return Recorded(stream, "raw" if is_raw else "compressed", info, cloud)


def look_into(bag: Path, image: str = "", camera_info: str = "", points: str = "") -> Recorded:
    """The same for a bag, with the frame to show it in.

    Raises:
        BagError: it cannot be read, or no topics fit.
        MissingDependencyError: rosbag2 is not installed.
    """
    topics = {each.name: each.type for each in _reader(bag).get_all_topics_and_types()}
    found = choose(topics, image, camera_info, points)
    lidar = found.points.split(",")[0]
    frames = set()
    for _, message in _messages(bag, topics, [name for name, msgtype in topics.items() if msgtype == TF]):
        for item in message.transforms:
            frames |= {item.header.frame_id, item.child_frame_id}
    if BODY in frames or topics.get(lidar) != POINTS:
        return found
    _, cloud = next(_messages(bag, topics, [lidar]), (lidar, None))
    return found if cloud is None else dataclasses.replace(found, fixed_frame=cloud.header.frame_id)


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


def _stream(image: str) -> str:
    return image[: -len("/compressed")] if image.endswith("/compressed") else image


def _calibrations(stream: str, topics: Mapping[str, str]) -> List[str]:
    """The camera_info topics that lie beside an image topic, the usual place first."""
    beside = (f"{stream.rpartition('/')[0]}/camera_info", f"{stream}/camera_info")
    return [name for name in beside if topics.get(name) == CAMERA_INFO]


def _only(found: Sequence[str], candidates: Sequence[str], what: str, argument: str) -> str:
    if len(found) == 1:
        return found[0]
    many = "several topics fit" if found else "there is none"
    raise TopicError(f"The recording's {what} is not clear, {many}; set {argument} to one of: {_listed(candidates)}.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "(the recording has none)"


def _reader(bag: Path, topics: Optional[List[str]] = None) -> Any:
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
    if topics is not None:
        reader.set_filter(rosbag2_py.StorageFilter(topics=topics))
    return reader


def _messages(bag: Path, topics: Mapping[str, str], wanted: List[str]) -> Iterator[Tuple[str, Any]]:
    """The first messages of some topics, decoded."""
    from rclpy.serialization import deserialize_message

    if not wanted:
        return
    reader, types = _reader(bag, wanted), MessageTypes()
    for _ in range(_READ):
        if not reader.has_next():
            return
        topic, data, _ = reader.read_next()
        yield topic, deserialize_message(data, types[topics[topic]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
