"""What rosbag2 writes into an MCAP file beside the messages: QoS of each topic and the bag's metadata.

Durability and the other policies are written as the numbers of rmw's enumerations: every rosbag2 since Humble reads
these, while their names are understood from metadata version 9 on only.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

import yaml

METADATA_RECORD = "rosbag2"

# The newest version in which policies are numbers and the distribution is named.
_METADATA_VERSION = 8
_INFINITE = {"sec": 9223372036, "nsec": 854775807}
_KEEP_LAST, _RELIABLE, _TRANSIENT_LOCAL, _VOLATILE, _AUTOMATIC = 1, 1, 1, 2, 1


def qos_profile(topic: str) -> str:
    """YAML of the QoS that a topic's publisher offers, as in a channel's ``offered_qos_profiles``.

    Reliable and volatile; /tf_static is transient local, with room for the transforms of many publishers, so that
    who subscribes late still gets all of them.
    """
    latched = topic.endswith("/tf_static")
    profile = {
        "history": _KEEP_LAST,
        "depth": 100 if latched else 10,
        "reliability": _RELIABLE,
        "durability": _TRANSIENT_LOCAL if latched else _VOLATILE,
        "deadline": dict(_INFINITE),
        "lifespan": dict(_INFINITE),
        "liveliness": _AUTOMATIC,
        "liveliness_lease_duration": dict(_INFINITE),
        "avoid_ros_namespace_conventions": False,
    }
    return yaml.safe_dump([profile], sort_keys=False)


def bag_metadata(
    file_name: str,
    ros_distro: str,
    topics: Mapping[str, Tuple[str, str, int]] = {},
    first_ns: int = 0,
    last_ns: int = 0,
) -> Dict[str, str]:
    """Content of the metadata record, for `ros2 bag info` and for telling the version of the QoS profiles.

    Args:
        file_name: name of the MCAP file.
        ros_distro: ROS distribution whose message definitions are in it.
        topics: for each topic its type, type hash and number of messages.
        first_ns: log time of the first message, ns.
        last_ns: log time of the last message, ns.
    """
    listed: List[Dict[str, Any]] = [
        {
            "topic_metadata": {
                "name": name,
                "type": msgtype,
                "serialization_format": "cdr",
                "offered_qos_profiles": qos_profile(name),
                "type_description_hash": type_hash,
            },
            "message_count": count,
        }
        for name, (msgtype, type_hash, count) in topics.items()
    ]
    total = sum(count for _, _, count in topics.values())
    extent = {
        "starting_time": {"nanoseconds_since_epoch": first_ns},
        "duration": {"nanoseconds": last_ns - first_ns},
        "message_count": total,
    }
    document = {
        "version": _METADATA_VERSION,
        "storage_identifier": "mcap",
        **extent,
        "topics_with_message_count": listed,
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file_name],
        "files": [{"path": file_name, **extent}],
        "custom_data": {},
        "ros_distro": ros_distro,
    }
    return {"serialized_metadata": yaml.safe_dump(document, sort_keys=False), "ROS_DISTRO": ros_distro}
