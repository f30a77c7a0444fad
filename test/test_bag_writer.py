"""The MCAP that the writer makes is what rosbag2, RViz and Foxglove expect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from mf_ros.bags.cdr import CdrBuffer
from mf_ros.bags.definitions import distro_typestore
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import CameraModel
from mf_ros.core.message_builder import MessageBuilder
from mf_ros.core.messages import camera_from_info, decode_cloud, decode_image, transform_of
from mf_ros.core.rigid import make_transform
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.errors import BagError, MessageError

STAMP_NS = 1_700_000_000_123_456_789
K = np.array([[700.0, 0.0, 31.5], [0.0, 710.0, 23.5], [0.0, 0.0, 1.0]])
CAMERA = CameraModel(64, 48, K, np.array([-0.1, 0.02, 0.001, -0.002, 0.0]), "plumb_bob")
POSE = StampedTransform("odom", "base", STAMP_NS, make_transform([1.0, 2.0, 3.0], [0.0, 0.0, 0.6, 0.8]))


def read_back(path: Path, topic: str) -> Any:
    """The first message of a topic, through rosbags' own reader."""
    with AnyReader([path]) as reader:
        connections = [connection for connection in reader.connections if connection.topic == topic]
        connection, _, data = next(reader.messages(connections))
        return reader.deserialize(data, connection.msgtype)


def stamp_of(header: Any) -> int:
    return int(header.stamp.sec * 10**9 + header.stamp.nanosec)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "out.mcap"


def test_a_depth_image_keeps_values_stamp_and_frame_exactly(path: Path) -> None:
    depth = np.linspace(0.5, 90.0, 48 * 64, dtype=np.float32).reshape(48, 64)
    depth[0, :3] = np.nan, np.inf, -np.inf
    with McapWriter(path) as writer:
        writer.write_depth("/depth/image", depth, STAMP_NS, "camera_optical")
    message = read_back(path, "/depth/image")
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", 48, 64, 256)
    assert message.is_bigendian == 0
    np.testing.assert_array_equal(message.data.view(np.float32).reshape(48, 64), depth)
    assert stamp_of(message.header) == STAMP_NS
    assert message.header.frame_id == "camera_optical"


def test_depth_in_millimetres(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_depth("/d", np.array([[1.2345, np.nan, 70.0]], np.float32), STAMP_NS, "c", encoding="16UC1")
    message = read_back(path, "/d")
    assert message.encoding == "16UC1"
    assert message.data.view("<u2").tolist() == [1234, 0, 0], "rounded; unknown and beyond 65.535 m are 0"


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding"),
    [
        ((4, 6, 3), "u1", "rgb8"),
        ((4, 6, 3), "u1", "bgr8"),
        ((4, 6, 4), "u1", "rgba8"),
        ((4, 6), "u1", "mono8"),
        ((4, 6), ">u2", "mono16"),
        ((4, 6), "f4", "32FC1"),
    ],
)
def test_images_of_every_layout(shape: tuple[int, ...], dtype: str, encoding: str, path: Path) -> None:
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    with McapWriter(path) as writer:
        writer.write_image("/image", image, STAMP_NS, "camera", encoding=encoding)
        writer.write_image("/view", image[:, ::-1], STAMP_NS, "camera", encoding=encoding)
    message = read_back(path, "/image")
    little = np.dtype(dtype).newbyteorder("<")
    assert message.encoding == encoding
    assert message.step * message.height == len(message.data)
    np.testing.assert_array_equal(message.data.view(little).reshape(shape), image)
    np.testing.assert_array_equal(read_back(path, "/view").data.view(little).reshape(shape), image[:, ::-1])


def test_a_compressed_image_keeps_its_bytes(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_compressed_image("/image/compressed", b"\xff\xd8 jpeg", STAMP_NS, "camera")
    message = read_back(path, "/image/compressed")
    assert (message.format, bytes(message.data)) == ("jpeg", b"\xff\xd8 jpeg")


def test_camera_info_holds_the_calibration(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_camera_info("/depth/camera_info", CAMERA, STAMP_NS, "camera_optical")
    message = read_back(path, "/depth/camera_info")
    np.testing.assert_array_equal(message.k.reshape(3, 3), K)
    np.testing.assert_array_equal(message.p.reshape(3, 4), np.hstack([K, np.zeros((3, 1))]))
    np.testing.assert_array_equal(message.r.reshape(3, 3), np.eye(3))
    np.testing.assert_array_equal(message.d, CAMERA.D)
    assert (message.width, message.height, message.distortion_model) == (64, 48, "plumb_bob")
    assert stamp_of(message.header) == STAMP_NS


def test_an_organized_cloud_has_the_image_s_width_and_height(path: Path) -> None:
    packed = np.zeros((3, 5, 4), np.float32)
    packed[..., 0] = np.arange(5)
    packed[..., 1] = np.arange(3)[:, None]
    packed[..., 2] = np.nan
    packed.view(np.uint32)[..., 3] = 0x00102030
    with McapWriter(path) as writer:
        writer.write_cloud("/points", packed, STAMP_NS, "camera_optical")
        writer.write_cloud("/thin", packed.reshape(-1, 4), STAMP_NS, "camera_optical")
    message = read_back(path, "/points")
    assert (message.height, message.width, message.point_step, message.row_step) == (3, 5, 16, 80)
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
    ]
    assert not message.is_dense and not message.is_bigendian
    np.testing.assert_array_equal(message.data.view(np.float32).reshape(3, 5, 4)[..., :2], packed[..., :2])
    # PCL's rgb in memory: blue, green, red, unused.
    assert bytes(message.data[12:16]) == b"\x30\x20\x10\x00"
    thin = read_back(path, "/thin")
    assert (thin.height, thin.width, thin.row_step) == (1, 15, 240)


def test_a_lidar_sweep_is_written_in_velodyne_s_layout(path: Path) -> None:
    count = 100
    sweep = LidarSweep(
        np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32),
        STAMP_NS,
        "lidar",
        time_s=np.linspace(-0.1, 0, count).astype(np.float32),
        ring=(np.arange(count) % 16).astype(np.int32),
        intensity=np.full(count, 7.0, np.float32),
    )
    with McapWriter(path) as writer:
        writer.write_points("/velodyne_points", sweep)
        writer.write_points("/plain", LidarSweep(sweep.points, STAMP_NS, "lidar"))
    message = read_back(path, "/velodyne_points")
    layout = np.dtype([("xyz", "<f4", 3), ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")])
    points = message.data.view(layout)
    assert [(f.name, f.offset, f.datatype) for f in message.fields][3:] == [
        ("intensity", 12, 7),
        ("ring", 16, 4),
        ("time", 18, 7),
    ]
    np.testing.assert_array_equal(points["xyz"], sweep.points)
    np.testing.assert_array_equal(points["ring"], sweep.ring)
    np.testing.assert_array_equal(points["time"], sweep.time_s)
    assert (message.width, message.height, message.header.frame_id) == (count, 1, "lidar")
    plain = read_back(path, "/plain")
    assert ([f.name for f in plain.fields], plain.point_step) == (["x", "y", "z"], 12)


def test_transforms_and_odometry(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_tf([POSE])
        writer.write_tf([StampedTransform("base", "lidar", 0, np.eye(4))], static=True, log_ns=STAMP_NS)
        writer.write_odometry("/odom", POSE)
    moving = read_back(path, "/tf").transforms[0]
    fixed = read_back(path, "/tf_static").transforms[0]
    odometry = read_back(path, "/odom")
    assert (moving.header.frame_id, moving.child_frame_id) == ("odom", "base")
    for position, rotation in (
        (moving.transform.translation, moving.transform.rotation),
        (odometry.pose.pose.position, odometry.pose.pose.orientation),
    ):
        assert (position.x, position.y, position.z) == (1.0, 2.0, 3.0)
        assert (rotation.z, rotation.w) == pytest.approx((0.6, 0.8))
    assert (fixed.header.frame_id, fixed.child_frame_id, fixed.transform.rotation.w) == ("base", "lidar", 1.0)
    assert (odometry.header.frame_id, odometry.child_frame_id, stamp_of(odometry.header)) == ("odom", "base", STAMP_NS)


def test_what_is_written_is_what_the_pipeline_reads(path: Path) -> None:
    points = np.random.default_rng(1).uniform(1, 9, (50, 3)).astype(np.float32)
    times = np.linspace(0, 0.1, 50).astype(np.float32)
    sweep = LidarSweep(points, STAMP_NS, "lidar", time_s=times, ring=np.arange(50, dtype=np.int32))
    image = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with McapWriter(path) as writer:
        writer.write_points("/points", sweep)
        writer.write_camera_info("/camera_info", CAMERA, STAMP_NS, "camera")
        writer.write_image("/image", image, STAMP_NS, "camera")
        writer.write_tf([POSE])
    with open_recording(path) as recording:
        messages = {message.topic: message.decode() for message in recording.messages()}
    read = decode_cloud(messages["/points"])
    np.testing.assert_array_equal(read.points, points)
    np.testing.assert_array_equal(read.time_s, times)
    np.testing.assert_array_equal(read.ring, sweep.ring)
    assert (read.stamp_ns, read.frame_id) == (STAMP_NS, "lidar")
    assert camera_from_info(messages["/camera_info"]) == CAMERA
    np.testing.assert_array_equal(decode_image(messages["/image"]), image)
    transform = transform_of(*messages["/tf"].transforms)
    assert (transform.parent, transform.child, transform.stamp_ns) == ("odom", "base", STAMP_NS)
    # A quaternion keeps about 15 digits of a rotation.
    np.testing.assert_allclose(transform.T_parent_child, POSE.T_parent_child, atol=1e-12)


def test_any_standard_message_can_be_written(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_odometry("/odom", POSE, twist=np.arange(6.0))
    odometry = read_back(path, "/odom")
    linear, angular = odometry.twist.twist.linear, odometry.twist.twist.angular
    assert [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z] == [0, 1, 2, 3, 4, 5]
    copy = path.with_name("copy.mcap")
    with McapWriter(copy) as writer:
        writer.write_raw("/odom2", odometry, STAMP_NS)
    assert read_back(copy, "/odom2").pose.pose.position.x == 1.0


def test_the_file_follows_the_conventions_of_rosbag2(path: Path) -> None:
    with McapWriter(path, ros_distro="jazzy") as writer:
        writer.write_tf([POSE])
        writer.write_tf([POSE], static=True, log_ns=STAMP_NS)
        writer.write_image("/image", np.zeros((4, 6, 3), np.uint8), STAMP_NS + 5, "camera")
    with path.open("rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        metadata = [record.metadata for record in reader.iter_metadata() if record.name == "rosbag2"]
        messages = [(schema.name, channel.topic) for schema, channel, _ in reader.iter_messages() if schema]
    assert sorted(messages) == [
        ("sensor_msgs/msg/Image", "/image"),
        ("tf2_msgs/msg/TFMessage", "/tf"),
        ("tf2_msgs/msg/TFMessage", "/tf_static"),
    ]
    schemas = {schema.name: schema for schema in summary.schemas.values()}
    assert {schema.encoding for schema in schemas.values()} == {"ros2msg"}
    text = schemas["tf2_msgs/msg/TFMessage"].data.decode()
    for dependency in ("geometry_msgs/TransformStamped", "std_msgs/Header", "builtin_interfaces/Time"):
        assert f"MSG: {dependency}\n" in text, "definitions of all dependencies are in the text"
    assert all(index.compression == "zstd" for index in summary.chunk_indexes)
    assert all(index.message_index_offsets for index in summary.chunk_indexes), "rosbag2 plays in order by these"
    durability = {}
    for channel in summary.channels.values():
        assert channel.message_encoding == "cdr"
        assert channel.metadata["topic_type_hash"].startswith("RIHS01_")
        (profile,) = yaml.safe_load(channel.metadata["offered_qos_profiles"])
        # Numbers of rmw's enumerations: keep last 1, reliable 1, transient local 1, volatile 2.
        assert (profile["history"], profile["reliability"]) == (1, 1)
        assert profile["deadline"] == profile["lifespan"] == {"sec": 9223372036, "nsec": 854775807}
        durability[channel.topic] = profile["durability"]
    assert durability == {"/tf": 2, "/tf_static": 1, "/image": 2}
    information = yaml.safe_load(metadata[-1]["serialized_metadata"])
    assert information["version"] == 8, "the version in which policies are numbers"
    assert information["ros_distro"] == metadata[-1]["ROS_DISTRO"] == "jazzy"
    assert information["message_count"] == 3
    assert information["duration"]["nanoseconds"] == 5
    assert {t["topic_metadata"]["name"] for t in information["topics_with_message_count"]} == set(durability)


def test_rosbags_sees_the_offered_qos(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_tf([POSE], static=True)
    with AnyReader([path]) as reader:
        (qos,) = reader.connections[0].ext.offered_qos_profiles
    assert (qos.durability.name, qos.reliability.name) == ("TRANSIENT_LOCAL", "RELIABLE")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for folder in ("a", "b"):
        with McapWriter(tmp_path / folder / "out.mcap") as writer:
            writer.write_tf([POSE])
            writer.write_camera_info("/camera_info", CAMERA, STAMP_NS, "camera")
        contents.append((tmp_path / folder / "out.mcap").read_bytes())
    assert contents[0] == contents[1]


def test_a_file_is_readable_after_every_byte_it_may_be_cut_at(path: Path) -> None:
    noise = np.random.default_rng(0)
    with McapWriter(path) as writer:
        for number in range(8):
            depth = noise.uniform(1, 80, (240, 320)).astype(np.float32)
            writer.write_depth("/depth", depth, STAMP_NS + number, "camera")
    whole = path.read_bytes()
    counts = []
    for part in range(4, 11):
        path.write_bytes(whole[: len(whole) * part // 10])
        with open_recording(path) as recording:
            assert part == 10 or recording.damage is not None
            counts.append(sum(message.decode().width == 320 for message in recording.messages()))
    assert counts == sorted(counts)
    # A chunk holds four of these images; half a file is more than half of its first chunk.
    assert counts[0] >= 1 and counts[-1] == 8


def test_a_killed_process_leaves_its_finished_chunks(path: Path) -> None:
    script = """
import os, sys
import numpy as np
from mf_ros.bags.writer import McapWriter
writer = McapWriter(sys.argv[1])
for number in range(10):
    writer.write_depth("/depth", np.random.default_rng(number).uniform(1, 80, (240, 320)), number, "camera")
os._exit(9)
"""
    result = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert result.returncode == 9
    with open_recording(path) as recording:
        # Four images of 300 kB fill a chunk of 1 MiB, so two chunks are finished and two images are lost.
        assert sum(1 for _ in recording.messages()) == 8
        assert recording.damage is not None and "8 messages" in recording.damage


def test_an_error_inside_the_with_statement_still_finishes_the_file(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), McapWriter(path) as writer:
        writer.write_tf([POSE])
        raise KeyboardInterrupt
    with open_recording(path) as recording:
        assert recording.damage is None and recording.message_count == 1


def test_what_cannot_be_written_is_refused_and_the_file_stays_sound(path: Path) -> None:
    with McapWriter(path) as writer:
        writer.write_tf([POSE])
        for refused in (
            lambda: writer.write_image("/image", np.zeros((4, 6, 2), np.uint8), STAMP_NS, "camera"),
            lambda: writer.write_image("/image", np.zeros((4, 6), np.uint8), STAMP_NS, "camera", encoding="rgb8"),
            lambda: writer.write_image("/image", np.zeros((0, 6), np.uint8), STAMP_NS, "camera"),
            lambda: writer.write_cloud("/cloud", np.zeros((4, 3), np.float32), STAMP_NS, "camera"),
            lambda: writer.write_tf([]),
            lambda: writer.write_raw("/odd", object(), STAMP_NS),
            lambda: writer.write_raw("/odd", object(), STAMP_NS, msgtype="std_msgs/msg/String"),
            lambda: writer.write_odometry("/tf", POSE),
            lambda: writer.write_odometry("/odom", POSE, twist=np.zeros(3)),
            lambda: writer.write_image("/image", np.zeros((4, 6), np.uint8), 2**70, "camera"),
            lambda: writer.write_image("/image", np.zeros((4, 6), np.uint8), -1, "camera"),
        ):
            with pytest.raises(MessageError):
                refused()
        assert writer.counts == {"/tf": 1}
    with open_recording(path) as recording:
        assert [topic.name for topic in recording.topics] == ["/tf"]
    with pytest.raises(BagError, match="closed"):
        writer.write_tf([POSE])


def test_places_and_distributions_that_cannot_be_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target, distro, reason in (
        (tmp_path / "file" / "out.mcap", "jazzy", "cannot be written"),
        (tmp_path, "jazzy", "cannot be written"),
        (tmp_path / "out.mcap", "noetic", "ROS 1"),
        (tmp_path / "out.mcap", "jazy", "not known"),
    ):
        with pytest.raises(BagError, match=reason):
            McapWriter(target, distro)


def test_humble_s_files_have_no_type_hash(path: Path) -> None:
    with McapWriter(path, ros_distro="humble") as writer:
        writer.write_tf([POSE])
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    assert [channel.metadata["topic_type_hash"] for channel in summary.channels.values()] == [""]


def test_the_bytes_of_a_message_do_not_depend_on_those_before_it() -> None:
    store = distro_typestore("jazzy")
    buffer, builder = CdrBuffer(store), MessageBuilder(store.types)
    image, cloud = np.full((9, 7), 255, np.uint8), np.full((5, 4), 7.0, np.float32)
    messages = [
        # Each leaves bytes where a later one has gaps between its fields.
        builder.colour_cloud(cloud, STAMP_NS, "c"),
        *(builder.image(image, STAMP_NS, "camera"[:length], None) for length in range(1, 7)),
        builder.transforms([POSE]),
        builder.colour_cloud(cloud[:1], STAMP_NS, "a longer name"),
        builder.camera_info(CAMERA, STAMP_NS, "camera"),
        builder.odometry(POSE, None),
        builder.image(image[:1, :1], STAMP_NS, "", None),
    ]
    for msgtype, message in messages + messages[::-1]:
        assert buffer.serialise(message, msgtype) == store.serialize_cdr(message, msgtype)
