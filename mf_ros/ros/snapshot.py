"""The inputs and outputs of the moment as a small bag, to be sent with a bug report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Dict, Iterable, List

from rclpy.serialization import serialize_message

from mf_ros.errors import BagError, MissingDependencyError
from mf_ros.ros.inputs import CAMERA_INFO, Received

_STATIC = "/tf_static"
_STORAGES = ("mcap", "sqlite3")
_LATCHED = """- history: 1
  depth: 1
  reliability: 1
  durability: 1
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: 1
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""


def write_snapshot(folder: Path, received: Iterable[Received]) -> Path:
    """Write messages as a rosbag2 bag into a new folder inside ``folder``; MCAP where its storage is installed.

    They are logged at the time at which they came.

    Raises:
        MissingDependencyError: rosbag2 is not installed.
        BagError: there is nothing to write, or it cannot be written.
    """
    try:
        import rosbag2_py
    except ImportError as error:
        raise MissingDependencyError(
            f"rosbag2_py is not installed ({error}): apt install ros-$ROS_DISTRO-rosbag2-py."
        ) from error
    listed = _in_order(received)
    if not listed:
        raise BagError("There is no message to write yet: is the node active, and does it receive anything?")
    path = folder.expanduser() / time.strftime("snapshot_%Y%m%d_%H%M%S")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BagError(f"{path.parent} cannot be made ({error.strerror}): set node.snapshot_dir.") from error
    number = 1
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.split('-')[0]}-{number}")
    writer = _open(rosbag2_py, path)
    topics: Dict[str, str] = {each.topic: each.msgtype for each in listed}
    try:
        for number, (topic, msgtype) in enumerate(topics.items()):
            writer.create_topic(_topic(rosbag2_py, number, topic, msgtype))
        for each in listed:
            writer.write(each.topic, serialize_message(each.message), each.received_ns)
    except RuntimeError as error:
        raise BagError(f"{path} cannot be written: {error}.") from error
    finally:
        del writer  # closes the bag and writes its metadata
    return path


def _open(rosbag2_py: Any, path: Path) -> Any:
    failed: List[str] = []
    for storage in _STORAGES:
        writer = rosbag2_py.SequentialWriter()
        try:
            writer.open(
                rosbag2_py.StorageOptions(uri=str(path), storage_id=storage), rosbag2_py.ConverterOptions("cdr", "cdr")
            )
        except RuntimeError as error:
            failed.append(f"{storage}: {error}")
        else:
            return writer
    raise BagError(f"{path} cannot be written ({'; '.join(failed)}): set node.snapshot_dir to a folder that can be.")


def _topic(rosbag2_py: Any, number: int, topic: str, msgtype: str) -> Any:
    profiles: Any = _LATCHED if topic == _STATIC else ""
    common = {"name": topic, "type": msgtype, "serialization_format": "cdr"}
    try:
        profiles = rosbag2_py._storage.to_rclcpp_qos_vector(profiles, 9) if profiles else []
        return rosbag2_py.TopicMetadata(id=number, offered_qos_profiles=profiles, **common)
    except (AttributeError, TypeError):
        # Humble: no numbers, and profiles are the text itself.
        return rosbag2_py.TopicMetadata(offered_qos_profiles=profiles or "", **common)


def _in_order(received: Iterable[Received]) -> List[Received]:
    """By time; what is sent once and holds from then on comes with the first of the others.

    It may have come hours before them, and a player would wait as long.
    """
    listed = list(received)
    begin = min((each.received_ns for each in listed if not _holds(each)), default=0)
    moved = [each._replace(received_ns=max(each.received_ns, begin)) if _holds(each) else each for each in listed]
    # Of equal times it goes first.
    return sorted(moved, key=lambda each: (each.received_ns, not _holds(each)))


def _holds(received: Received) -> bool:
    return received.topic == _STATIC or received.msgtype == CAMERA_INFO
