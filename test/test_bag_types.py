"""Types of messages in bags: defined there, by a distribution, or nowhere."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from bag_samples import IMAGE, JAZZY, NOETIC, custom_typestore, image_message, serialized, write_mcap, write_rosbag2
from rosbags.rosbag2 import StoragePlugin

from mf_ros.bags.reader import open_recording
from mf_ros.errors import BagError, MessageError


def write_custom_mcap(path: Path, text: str) -> Path:
    from mcap.writer import Writer

    store = custom_typestore("int32 value", "robot_msgs/msg/Odd")
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros2")
        odd = writer.register_channel("/odd", "cdr", writer.register_schema("robot_msgs/msg/Odd", "ros2msg", text))
        schema = writer.register_schema(IMAGE, "ros2msg", JAZZY.generate_msgdef(IMAGE, ros_version=2)[0].encode())
        image = writer.register_channel("/image", "cdr", schema)
        for n in range(3):
            message = store.types["robot_msgs/msg/Odd"](n)
            writer.add_message(odd, n, bytes(store.serialize_cdr(message, "robot_msgs/msg/Odd")), n)
            writer.add_message(image, n, serialized(IMAGE, n), n)
        writer.finish()
    return path


def test_custom_types_are_read_with_the_definition_in_the_bag(tmp_path: Path) -> None:
    with open_recording(write_custom_mcap(tmp_path / "a.mcap", b"int32 value")) as recording:
        assert [message.decode().value for message in recording.messages(["/odd"])] == [0, 1, 2]


@pytest.mark.parametrize("text", [b"", b"this is (not) a definition"])
def test_unknown_types_are_skipped_with_one_warning_unless_asked_for(
    text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_recording(write_custom_mcap(tmp_path / "a.mcap", text)) as recording:
        with caplog.at_level(logging.WARNING):
            assert [message.topic for message in recording.messages()] == ["/image"] * 3
            assert sum(1 for _ in recording.messages()) == 3
        assert len(caplog.records) == 1 and "/odd (robot_msgs/msg/Odd)" in caplog.text
        asked = list(recording.messages(["/odd"]))
        assert len(asked) == 3
        with pytest.raises(MessageError, match="robot_msgs/msg/Odd is unknown"):
            asked[0].decode()


def test_mcap_with_ros1_messages_is_read(tmp_path: Path) -> None:
    from mcap.writer import Writer

    path = tmp_path / "a.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros1")
        schema = writer.register_schema("sensor_msgs/Image", "ros1msg", NOETIC.generate_msgdef(IMAGE)[0].encode())
        channel = writer.register_channel("/image", "ros1", schema)
        writer.add_message(channel, 5, bytes(NOETIC.serialize_ros1(image_message(1, NOETIC), IMAGE)), 5)
        writer.finish()
    with open_recording(path) as recording:
        assert recording.topics[0].msgtype == IMAGE
        assert next(recording.messages()).decode().header.seq == 1


def test_messages_that_are_not_ros_are_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mcap.writer import Writer

    path = tmp_path / "a.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        channel = writer.register_channel("/log", "json", writer.register_schema("Log", "jsonschema", b"{}"))
        writer.add_message(channel, 5, b"{}", 5)
        writer.finish()
    with open_recording(path) as recording:
        assert list(recording.messages()) == []
        assert "/log" in caplog.text
        with pytest.raises(MessageError, match="/log"):
            next(recording.messages(["/log"])).decode()


def without_definitions(path: Path) -> Path:
    """The same sqlite3 bag as Humble writes it."""
    with sqlite3.connect(path / "bag.db3") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
    return path


def test_sqlite_bags_without_definitions_use_those_of_a_distribution(tmp_path: Path) -> None:
    path = without_definitions(write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3))
    for distro in (None, "humble", "jazzy"):
        with open_recording(path, ros_distro=distro) as recording:
            assert next(recording.messages(["/camera/image_raw"])).decode().encoding == "rgb8"


def test_an_unknown_distribution_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="humble, iron, jazzy"):
        open_recording(write_mcap(tmp_path / "a.mcap"), ros_distro="jazy")
