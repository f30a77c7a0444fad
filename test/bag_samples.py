"""Small bags of every kind, all with the same messages, for the tests of the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
import yaml
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mf_ros.bags.reader import Recording

JAZZY = get_typestore(Stores.ROS2_JAZZY)
NOETIC = get_typestore(Stores.ROS1_NOETIC)

IMAGE, POINT = "sensor_msgs/msg/Image", "geometry_msgs/msg/PointStamped"
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
COUNT = 20
"""Images in a sample bag; as many points lie half a period later."""


def image_message(number: int, store: Any = JAZZY) -> Any:
    """A 64x48 image whose pixels are random but depend on its number only; it hardly compresses."""
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(START_NS + number * PERIOD_NS, 10**9))
    sequence = () if store is JAZZY else (number,)
    header = types["std_msgs/msg/Header"](*sequence, stamp, "camera")
    pixels = np.random.default_rng(number).integers(0, 256, 64 * 48 * 3, dtype=np.uint8)
    return types[IMAGE](header, 48, 64, "rgb8", 0, 64 * 3, pixels)


def point_message(number: int, store: Any = JAZZY) -> Any:
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(START_NS + number * PERIOD_NS, 10**9))
    header = types["std_msgs/msg/Header"](*(() if store is JAZZY else (number,)), stamp, "lidar")
    return types[POINT](header, types["geometry_msgs/msg/Point"](float(number), 0.0, 1.0))


def timeline(count: int = COUNT) -> list[tuple[int, str, str, int]]:
    """(log time, topic, type, number) of every message in log order."""
    images = [(START_NS + n * PERIOD_NS, "/camera/image_raw", IMAGE, n) for n in range(count)]
    points = [(START_NS + n * PERIOD_NS + PERIOD_NS // 2, "/point", POINT, n) for n in range(count)]
    return sorted(images + points)


EXPECTED = [(log_ns, topic) for log_ns, topic, _, _ in timeline()]


def order_of(recording: Recording) -> list[tuple[int, str]]:
    return [(message.log_ns, message.topic) for message in recording.messages()]


def serialized(msgtype: str, number: int) -> bytes:
    return bytes(JAZZY.serialize_cdr((image_message if msgtype == IMAGE else point_message)(number), msgtype))


def write_mcap(
    path: Path,
    entries: Sequence[tuple[int, str, str, int]] | None = None,
    *,
    compression: CompressionType = CompressionType.ZSTD,
    chunked: bool = True,
    chunk_size: int = 50_000,
    summary: bool = True,
) -> Path:
    """An MCAP as rosbag2 writes it, with about five images a chunk."""
    with path.open("wb") as stream:
        index = {} if summary else {"index_types": IndexType.NONE, "repeat_channels": False, "repeat_schemas": False}
        extra = {} if summary else {"use_statistics": False, "use_summary_offsets": False}
        writer = Writer(stream, chunk_size=chunk_size, compression=compression, use_chunking=chunked, **index, **extra)
        writer.start("ros2")
        channels = {}
        for log_ns, topic, msgtype, number in timeline() if entries is None else entries:
            if topic not in channels:
                text = JAZZY.generate_msgdef(msgtype, ros_version=2)[0].encode()
                schema = writer.register_schema(msgtype, "ros2msg", text)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channels[topic], log_ns, serialized(msgtype, number), log_ns)
        writer.finish()
    return path


def write_rosbag2(path: Path, plugin: StoragePlugin, mode: CompressionMode = CompressionMode.NONE) -> Path:
    writer = Rosbag2Writer(path, version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {
            "/camera/image_raw": writer.add_connection("/camera/image_raw", IMAGE, typestore=JAZZY),
            "/point": writer.add_connection("/point", POINT, typestore=JAZZY),
        }
        for log_ns, topic, msgtype, number in timeline():
            writer.write(connections[topic], log_ns, serialized(msgtype, number))
    return path


def write_rosbag1(path: Path, compression: Any = None, chunk_bytes: int = 50_000) -> Path:
    writer = Rosbag1Writer(path)
    writer.chunk_threshold = chunk_bytes
    if compression is not None:
        writer.set_compression(compression)
    with writer:
        connections = {
            "/camera/image_raw": writer.add_connection("/camera/image_raw", IMAGE, typestore=NOETIC),
            "/point": writer.add_connection("/point", POINT, typestore=NOETIC),
        }
        for log_ns, topic, msgtype, number in timeline():
            message = (image_message if msgtype == IMAGE else point_message)(number, NOETIC)
            writer.write(connections[topic], log_ns, NOETIC.serialize_ros1(message, msgtype))
    return path


def write_split(directory: Path, files: int = 3) -> Path:
    """A rosbag2 directory whose recording was split; each file has a third of the time."""
    directory.mkdir()
    entries = timeline()
    size = -(-len(entries) // files)
    names = []
    for number in range(files):
        names.append(f"part_{number + 8}.mcap")
        write_mcap(directory / names[-1], entries[number * size : (number + 1) * size])
    information = {"version": 8, "message_count": len(entries), "relative_file_paths": names, "ros_distro": "jazzy"}
    (directory / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    return directory


def custom_typestore(definition: str, name: str) -> Any:
    """Jazzy's messages and one more."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(definition, name))
    return store
