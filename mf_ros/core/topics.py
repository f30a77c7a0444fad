"""Which topics of a recording are the camera, its calibration, the LiDARs and the transforms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, Dict, FrozenSet, Iterable, Iterator, List, Optional, Protocol, Sequence, Tuple

from mf_ros.errors import MessageError, TopicError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
POINTS_TYPE = "sensor_msgs/msg/PointCloud2"
TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")

# LiDAR data that only its driver can turn into points.
_DRIVER_TYPES = ("CustomMsg", "VelodyneScan", "PacketMsg", "PandarScan", "HesaiScan", "RslidarPacket", "LaserScan")

# Words of topic names, between slashes and underscores.
_NOT_COLOUR = frozenset({"depth", "disparity", "confidence", "compresseddepth", "sparse", "infra", "infra1", "infra2"})
_NOT_COLOUR |= {"ir", "infrared", "thermal", "mask", "label", "labels", "segmentation", "semantic", "theora", "debug"}
_NOT_LIDAR = frozenset({"depth", "stereo", "map", "submap", "octomap", "costmap", "global", "local", "registered"})
_NOT_LIDAR |= {"cluster", "clusters", "ground", "obstacle", "obstacles", "debug", "filtered", "accumulated"}
_DEPTH_ENCODINGS = ("32FC1", "16UC1", "64FC1")
_RECTIFIED = frozenset({"rect", "rectified"})
_FIRST_FEW = 3
_TRANSPORTS = ("compressed", "raw")
_BEST_STREAMS = ("image_raw", "image_color", "image", "image_raw_color", "color", "image_mono", "image_gray")


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a recording.

    Attributes:
        name: topic name.
        msgtype: ``package/msg/Type``, also for ROS 1 recordings.
        count: number of messages the recording lists.
        rate_hz: messages per second over the whole recording; 0 for a single message.
    """

    name: str
    msgtype: str
    count: int
    rate_hz: float

    def __str__(self) -> str:
        return f"{self.name} [{self.msgtype}, {self.count} messages, {self.rate_hz:.1f} Hz]"


class Recorded(Protocol):
    """What choosing asks of a recording, whatever reads it."""

    @property
    def name(self) -> str:
        """What was opened, for messages to people."""
        ...

    @property
    def topics(self) -> Sequence[TopicInfo]:
        """What is in it."""
        ...

    def messages(self, topics: Iterable[str]) -> Iterator[Any]:
        """Messages of some topics, each with a method ``decode`` that may raise MessageError."""
        ...


@dataclass(frozen=True)
class TopicChoice:
    """The topics that a run uses.

    Attributes:
        image: colour (or grey) camera image, raw or compressed.
        image_type: its message type.
        camera_info: calibration of that camera.
        points: one PointCloud2 topic per LiDAR.
        tf: topics of moving transforms.
        tf_static: topics of fixed transforms.
        rectified: the image topic's name says that it is rectified, so D of its camera_info does not apply.
    """

    image: str
    image_type: str
    camera_info: str
    points: Tuple[str, ...]
    tf: Tuple[str, ...] = ()
    tf_static: Tuple[str, ...] = ()
    rectified: bool = False


def choose_topics(
    recording: Recorded,
    image: Optional[str] = None,
    camera_info: Optional[str] = None,
    points: Sequence[str] = (),
) -> TopicChoice:
    """The topics to run on: those that are named, and guesses for the others where only one fits.

    Args:
        recording: the open recording.
        image: image topic, or None to guess.
        camera_info: calibration topic, or None for the image's sibling.
        points: point cloud topics, or empty to guess; several LiDARs have to be named.

    Raises:
        TopicError: nothing fits, or several do; the message lists the candidates with counts and rates.
    """
    chosen_image = choose_image(recording, image)
    tf = [topic.name for topic in recording.topics if topic.msgtype in TF_TYPES and topic.count]
    return TopicChoice(
        image=chosen_image.name,
        image_type=chosen_image.msgtype,
        camera_info=choose_camera_info(recording, chosen_image.name, camera_info),
        points=choose_points(recording, points),
        tf=tuple(name for name in tf if not is_static(name)),
        tf_static=tuple(name for name in tf if is_static(name)),
        rectified=is_rectified(chosen_image.name),
    )


def is_rectified(image: str) -> bool:
    """Whether the image topic's name is one of those of rectified images, for which P holds and D does not."""
    return bool(_words(image) & _RECTIFIED)


def is_static(name: str) -> bool:
    """Whether a topic of transforms holds fixed ones, which hold at any time."""
    return name.endswith("static")


def choose_image(recording: Recorded, image: Optional[str] = None) -> TopicInfo:
    """The camera image: as named, or the best stream of the only camera.

    Raises:
        TopicError: no camera, or several.
    """
    if image:
        return _named(recording, image, IMAGE_TYPES, "an image")
    images = _topics(recording, IMAGE_TYPES)
    if not images:
        raise TopicError(f"{recording.name} has no camera image: record its Image or CompressedImage topic too.")
    cameras: Dict[str, List[TopicInfo]] = {}
    for topic in images:
        if not _words(topic.name) & _NOT_COLOUR and not _is_depth(recording, topic):
            cameras.setdefault(_namespace(topic.name), []).append(topic)
    if len(cameras) > 1:
        infos = {_namespace(name) for name in _names(recording, (CAMERA_INFO_TYPE,))}
        cameras = {name: streams for name, streams in cameras.items() if name in infos} or cameras
    if len(cameras) == 1:
        return min(next(iter(cameras.values())), key=_stream_rank)
    listed = [topic for streams in cameras.values() for topic in streams] or images
    reason = "several cameras" if cameras else "no colour image"
    raise TopicError(f"{recording.name} has {reason}: choose the image topic from {_listing(listed)}.")


def choose_camera_info(recording: Recorded, image: str, camera_info: Optional[str] = None) -> str:
    """The calibration: as named, the one beside the image topic, or the only one there is.

    Raises:
        TopicError: no calibration, or several and none beside the image.
    """
    if camera_info:
        return _named(recording, camera_info, (CAMERA_INFO_TYPE,), "a camera_info").name
    infos = _topics(recording, (CAMERA_INFO_TYPE,))
    if not infos:
        raise TopicError(
            f"{recording.name} has no camera_info for {image}: depth needs the camera's intrinsics. "
            "Calibrate the camera and record its CameraInfo topic too."
        )
    stream = _without_transport(image)
    names = [topic.name for topic in infos]
    for sibling in (f"{_namespace(image).rstrip('/')}/camera_info", f"{stream}/camera_info", f"{stream}_camera_info"):
        if sibling in names:
            return sibling
    if len(names) == 1:
        return names[0]
    raise TopicError(f"No camera_info lies beside {image}: choose the camera_info topic from {_listing(infos)}.")


def choose_points(recording: Recorded, points: Sequence[str] = ()) -> Tuple[str, ...]:
    """The LiDARs' clouds: as named, or the only one there is.

    Raises:
        TopicError: no cloud, or several.
    """
    if points:
        return tuple(_named(recording, name, (POINTS_TYPE,), "a point cloud").name for name in points)
    clouds = _topics(recording, (POINTS_TYPE,))
    if not clouds:
        raw = [topic for topic in recording.topics if topic.msgtype.rpartition("/")[2] in _DRIVER_TYPES]
        advice = "record the LiDAR's PointCloud2 topic too"
        if raw:
            advice = f"convert {_listing(raw)} to PointCloud2 with the sensor's driver"
        raise TopicError(f"{recording.name} has no LiDAR points: {advice}.")
    sensors = [topic for topic in clouds if not _words(topic.name) & _NOT_LIDAR]
    for candidates in (clouds, sensors):
        if len(candidates) == 1:
            return (candidates[0].name,)
    raise TopicError(
        f"{recording.name} has several point clouds: choose one, or one per LiDAR, from {_listing(clouds)}."
    )


def _topics(recording: Recorded, types: Sequence[str]) -> List[TopicInfo]:
    return [topic for topic in recording.topics if topic.msgtype in types and topic.count]


def _names(recording: Recorded, types: Sequence[str]) -> List[str]:
    return [topic.name for topic in _topics(recording, types)]


def _listing(topics: Sequence[TopicInfo]) -> str:
    return ", ".join(str(topic) for topic in topics)


def _named(recording: Recorded, name: str, types: Sequence[str], role: str) -> TopicInfo:
    by_name = {each.name: each for each in recording.topics}
    topic = by_name.get(name) or by_name.get(f"/{name}")
    candidates = _topics(recording, types)
    choice = f"choose from {_listing(candidates)}" if candidates else "the recording has no topic of that kind"
    if topic is None:
        raise TopicError(f"{recording.name} has no topic {name}: for {role}, {choice}.")
    if topic.msgtype not in types:
        raise TopicError(f"{topic.name} is {topic.msgtype}, not {role}: {choice}.")
    if not topic.count:
        raise TopicError(f"{topic.name} holds no messages: for {role}, {choice}.")
    return topic


def _words(name: str) -> FrozenSet[str]:
    return frozenset(re.split(r"[/_\-]+", name.lower()))


def _without_transport(image: str) -> str:
    head, _, tail = image.rpartition("/")
    return head if tail in _TRANSPORTS and head else image


def _namespace(name: str) -> str:
    """Camera that a topic belongs to: /cam for /cam/image_raw/compressed and /cam/camera_info."""
    return _without_transport(name).rpartition("/")[0] or "/"


def _stream_rank(topic: TopicInfo) -> Tuple[bool, int, bool, str]:
    """Best stream of one camera first: unrectified, in the usual order of names, raw before compressed."""
    stream = _without_transport(topic.name).rpartition("/")[2]
    rank = _BEST_STREAMS.index(stream) if stream in _BEST_STREAMS else len(_BEST_STREAMS)
    return is_rectified(stream), rank, topic.msgtype != IMAGE_TYPES[0], topic.name


def _is_depth(recording: Recorded, topic: TopicInfo) -> bool:
    """Whether the first image is depth by its encoding, whatever the topic is called."""
    if topic.msgtype != IMAGE_TYPES[0]:
        return False
    for message in islice(recording.messages([topic.name]), _FIRST_FEW):
        try:
            return getattr(message.decode(), "encoding", "") in _DEPTH_ENCODINGS
        except MessageError:
            continue
    return False
