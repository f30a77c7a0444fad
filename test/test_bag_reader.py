"""Bags of every kind come out as the same messages, and damaged ones as far as they go."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from bag_samples import (
    COUNT,
    IMAGE,
    JAZZY,
    NOETIC,
    PERIOD_NS,
    START_NS,
    custom_typestore,
    image_message,
    serialized,
    timeline,
    write_mcap,
    write_rosbag1,
    write_rosbag2,
    write_split,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mf_ros.bags.mcap_source import McapSource
from mf_ros.bags.reader import Recording, open_recording
from mf_ros.errors import BagError, MessageError, TopicError

EXPECTED = [(log_ns, topic) for log_ns, topic, _, _ in timeline()]

KINDS = {
    "mcap, zstd chunks": lambda d: write_mcap(d / "a.mcap"),
    "mcap, lz4 chunks": lambda d: write_mcap(d / "a.mcap", compression=CompressionType.LZ4),
    "mcap, plain chunks": lambda d: write_mcap(d / "a.mcap", compression=CompressionType.NONE),
    "mcap without chunks": lambda d: write_mcap(d / "a.mcap", chunked=False),
    "mcap without index": lambda d: write_mcap(d / "a.mcap", summary=False),
    "rosbag2 mcap directory": lambda d: write_rosbag2(d / "bag", StoragePlugin.MCAP),
    "rosbag2 sqlite3 directory": lambda d: write_rosbag2(d / "bag", StoragePlugin.SQLITE3),
    "sqlite3, messages compressed": lambda d: write_rosbag2(d / "b", StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    "sqlite3, file compressed": lambda d: write_rosbag2(d / "b", StoragePlugin.SQLITE3, CompressionMode.FILE),
    "mcap, file compressed": lambda d: write_rosbag2(d / "b", StoragePlugin.MCAP, CompressionMode.FILE),
    "split recording": lambda d: write_split(d / "bag"),
    "metadata.yaml itself": lambda d: write_split(d / "bag") / "metadata.yaml",
    "db3 alone": lambda d: write_rosbag2(d / "bag", StoragePlugin.SQLITE3) / "bag.db3",
    "ROS 1": lambda d: write_rosbag1(d / "a.bag"),
    "ROS 1, bz2": lambda d: write_rosbag1(d / "a.bag", Rosbag1Writer.CompressionFormat.BZ2),
    "ROS 1, lz4": lambda d: write_rosbag1(d / "a.bag", Rosbag1Writer.CompressionFormat.LZ4),
}


def order_of(recording: Recording) -> list[tuple[int, str]]:
    return [(message.log_ns, message.topic) for message in recording.messages()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bag_gives_the_same_messages_in_log_order(kind: str, tmp_path: Path) -> None:
    with open_recording(KINDS[kind](tmp_path)) as recording:
        assert order_of(recording) == EXPECTED
        assert order_of(recording) == EXPECTED, "reading twice gives the same"
        assert [(t.name, t.count) for t in recording.topics] == [("/camera/image_raw", COUNT), ("/point", COUNT)]
        assert recording.topics[0].msgtype == IMAGE
        assert recording.topics[0].rate_hz == pytest.approx(10, rel=0.05)
        assert recording.start_ns == START_NS
        assert recording.end_ns == EXPECTED[-1][0]
        assert recording.damage is None
        image = next(recording.messages(["/camera/image_raw"])).decode()
        np.testing.assert_array_equal(image.data, image_message(0).data)
        assert image.header.frame_id == "camera"


def test_a_time_window_and_some_topics_can_be_read_alone(tmp_path: Path) -> None:
    for path in (write_mcap(tmp_path / "a.mcap"), write_rosbag1(tmp_path / "a.bag"), write_split(tmp_path / "bag")):
        with open_recording(path) as recording:
            window = {"start_ns": START_NS + 3 * PERIOD_NS, "stop_ns": START_NS + 7 * PERIOD_NS}
            times = [message.log_ns for message in recording.messages(["/camera/image_raw"], **window)]
        assert times == [START_NS + n * PERIOD_NS for n in range(3, 7)], "the stop is left out"


def test_several_recordings_are_read_as_one(tmp_path: Path) -> None:
    entries = timeline()
    images = write_mcap(tmp_path / "images.mcap", [entry for entry in entries if entry[2] == IMAGE])
    points = write_mcap(tmp_path / "points.mcap", [entry for entry in entries if entry[2] != IMAGE])
    with open_recording([points, images]) as recording:
        assert order_of(recording) == EXPECTED


def test_chunks_that_overlap_in_time_are_sorted(tmp_path: Path) -> None:
    shuffled = timeline()
    random.Random(0).shuffle(shuffled)
    with open_recording(write_mcap(tmp_path / "a.mcap", shuffled)) as recording:
        assert order_of(recording) == EXPECTED


@pytest.mark.parametrize("kind", ["mcap", "rosbag2 sqlite3", "rosbag1"])
def test_remote_paths_work_through_any_pathlib_like_object(kind: str, tmp_path: Path) -> None:
    upath = pytest.importorskip("upath")
    local = {
        "mcap": lambda: write_split(tmp_path / "bag"),
        "rosbag2 sqlite3": lambda: write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3),
        "rosbag1": lambda: write_rosbag1(tmp_path / "a.bag"),
    }[kind]()
    remote = upath.UPath(f"memory:///{kind.replace(' ', '_')}/{local.name}")
    for path in local.iterdir() if local.is_dir() else [local]:
        target = remote / path.name if local.is_dir() else remote
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with open_recording(remote) as recording:
        assert order_of(recording) == EXPECTED
    with open_recording(f"memory:///{kind.replace(' ', '_')}/{local.name}") as recording:
        assert recording.message_count == 2 * COUNT, "a URL as a string works too"


def test_memory_stays_flat(tmp_path: Path) -> None:
    # 600 images of 9 kB are 5.5 MB; a chunk is 50 kB. 1 MB leaves room for what Python itself keeps.
    path = write_mcap(tmp_path / "a.mcap", timeline(600))
    with open_recording(path) as recording:
        tracemalloc.start()
        count = sum(1 for _ in recording.messages())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 1200
    assert peak < 1_000_000


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE])
def test_a_truncated_mcap_is_read_as_far_as_it_goes_and_says_how_far(
    compression: CompressionType, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap", compression=compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with open_recording(path) as recording:
        read = order_of(recording)
        assert recording.damage is not None
        # A chunk holds a quarter of the messages, so half the bytes hold at least a quarter of them.
        assert 0.2 * len(EXPECTED) < len(read) < 0.6 * len(EXPECTED)
        assert read == EXPECTED[: len(read)]
        assert f"{len(read)} messages" in recording.damage
        assert f"{(read[-1][0] - read[0][0]) / 1e9:.1f} s" in recording.damage
        assert "a.mcap is cut off" in recording.damage


def test_a_truncated_mcap_without_chunks_loses_only_the_last_message(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", [e for e in timeline() if e[2] == IMAGE], chunked=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(serialized(IMAGE, 12)) + 100])
    with open_recording(path) as recording:
        assert order_of(recording) == [entry for entry in EXPECTED if entry[1] == "/camera/image_raw"][:12]


def test_a_truncated_last_file_of_a_split_recording_leaves_the_others(tmp_path: Path) -> None:
    directory = write_split(tmp_path / "bag")
    last = directory / "part_10.mcap"
    last.write_bytes(last.read_bytes()[:100])
    with open_recording(directory) as recording:
        assert order_of(recording) == EXPECTED[:28], "two files of 14 messages"
        assert recording.damage is not None and "28 of 40 messages" in recording.damage


def test_a_directory_without_metadata_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    directory = write_split(tmp_path / "bag")
    (directory / "metadata.yaml").unlink()
    with open_recording(directory) as recording:
        assert order_of(recording) == EXPECTED
        assert recording.damage is None


def test_a_file_that_the_metadata_lists_but_is_gone_is_reported(tmp_path: Path) -> None:
    directory = write_split(tmp_path / "bag")
    (directory / "part_9.mcap").unlink()
    with open_recording(directory) as recording:
        assert order_of(recording) == EXPECTED[:14] + EXPECTED[28:]
        assert recording.damage is not None and "lacks part_9.mcap" in recording.damage


def test_names_in_the_metadata_do_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    write_mcap(tmp_path / "secret.mcap")
    directory = write_split(tmp_path / "bag")
    metadata = directory / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("part_9.mcap", "../secret.mcap"))
    with open_recording(directory) as recording:
        assert len(order_of(recording)) == 26


@pytest.mark.parametrize("summary", [True, False])
def test_a_corrupt_chunk_is_skipped_and_reported(summary: bool, tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", compression=CompressionType.NONE, summary=summary)
    content = bytearray(path.read_bytes())
    place = content.index(serialized(IMAGE, 7)) + 500
    content[place] ^= 0xFF
    path.write_bytes(content)
    with open_recording(path) as recording:
        read = order_of(recording)
        assert recording.damage is not None and "corrupt chunk" in recording.damage
    # Six images and five points fill a chunk of 50 kB; only one chunk may be missing.
    assert len(EXPECTED) - 13 <= len(read) < len(EXPECTED)
    assert EXPECTED[14] not in read
    assert read == sorted(set(read) & set(EXPECTED))


def test_a_corrupt_chunk_of_a_ros1_bag_is_skipped_and_reported(tmp_path: Path) -> None:
    path = write_rosbag1(tmp_path / "a.bag", Rosbag1Writer.CompressionFormat.BZ2)
    content = bytearray(path.read_bytes())
    blocks = [place for place in range(len(content)) if content[place : place + 3] == b"BZh"]
    content[blocks[1] + 4000] ^= 0xFF
    path.write_bytes(content)
    with open_recording(path) as recording:
        read = order_of(recording)
        assert recording.damage is not None and "corrupt" in recording.damage
    assert read[0] == EXPECTED[0] and read[-1] == EXPECTED[-1]
    assert len(EXPECTED) - 13 <= len(read) < len(EXPECTED)


def test_a_corrupt_sqlite_file_is_read_up_to_the_defect(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3) / "bag.db3"
    content = bytearray(path.read_bytes())
    # Pages of 4 kB; the image of 9 kB spills into overflow pages, and an overflow chain that points nowhere is corrupt.
    place = content.index(bytes(image_message(15).data[4500:4600])) // 4096 * 4096
    content[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with open_recording(path) as recording:
        read = order_of(recording)
        assert recording.damage is not None and "corrupt" in recording.damage
    assert read == EXPECTED[: len(read)] and 20 <= len(read) <= 31


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_never_crashes_the_reader(data: st.DataObject, tmp_path: Path) -> None:
    whole = write_mcap(tmp_path / "a.mcap", timeline(4), chunk_size=10_000).read_bytes()
    content = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.mcap"
    path.write_bytes(content)
    try:
        recording = open_recording(path)
    except BagError:
        return
    with recording:
        for message in recording.messages():
            try:
                message.decode()
            except MessageError as error:
                assert message.topic in str(error)


def test_one_bad_message_does_not_end_the_reading(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", compression=CompressionType.NONE, chunked=False)
    content = bytearray(path.read_bytes())
    place = content.index(serialized(IMAGE, 3))
    # The length of the frame name, behind the encapsulation header and the stamp.
    content[place + 12 : place + 16] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    good = bad = 0
    with open_recording(path) as recording:
        for message in recording.messages(["/camera/image_raw"]):
            try:
                message.decode()
                good += 1
            except MessageError as error:
                bad += 1
                assert "/camera/image_raw" in str(error) and f"{message.log_ns / 1e9:.6f}" in str(error)
    assert (good, bad) == (COUNT - 1, 1)


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


def test_an_unmerged_write_ahead_log_is_reported(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3)
    (path / "bag.db3-wal").write_bytes(b"pages")
    with open_recording(path) as recording:
        assert order_of(recording) == EXPECTED
        assert recording.damage is not None and "wal_checkpoint" in recording.damage


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


def test_a_topic_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with (
        open_recording(write_mcap(tmp_path / "a.mcap")) as recording,
        pytest.raises(TopicError, match="no topic /nope; it holds /camera/image_raw, /point"),
    ):
        recording.messages(["/nope"])


def test_a_connection_that_fails_while_reading_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: int) -> bytes:
        raise TimeoutError("no answer")

    with open_recording(write_mcap(tmp_path / "a.mcap")) as recording:
        messages = recording.messages()
        next(messages)
        monkeypatch.setattr(McapSource, "_read", fail)
        with pytest.raises(BagError, match=r"Reading a\.mcap failed: no answer"):
            list(messages)


def test_what_is_no_bag_is_one_clear_error(tmp_path: Path) -> None:
    text, void, folder = tmp_path / "notes.mcap", tmp_path / "void.bag", tmp_path / "folder"
    text.write_text("hello, this is not a bag")
    void.write_bytes(b"")
    folder.mkdir()
    empty = write_mcap(tmp_path / "empty.mcap", [])
    header_only = tmp_path / "stub.mcap"
    header_only.write_bytes(empty.read_bytes()[:30])
    broken = tmp_path / "broken.db3"
    broken.write_bytes(b"SQLite format 3\0" + bytes(200))
    cut = tmp_path / "cut.bag"
    cut.write_bytes(write_rosbag1(tmp_path / "a.bag").read_bytes()[:5000])
    for path, reason in (
        (tmp_path / "missing.mcap", "does not exist"),
        (text, "is not a bag"),
        (void, "is empty"),
        (folder, "is not a bag: it holds no metadata.yaml"),
        (empty, "holds no messages"),
        (header_only, "holds no messages"),
        (broken, "cannot be read"),
        (cut, "cannot be read"),
    ):
        with pytest.raises(BagError, match=reason) as caught:
            open_recording(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unindexed_ros1_bag_says_how_to_index_it(tmp_path: Path) -> None:
    path = write_rosbag1(tmp_path / "a.bag")
    content = bytearray(path.read_bytes())
    place = content.index(b"index_pos=") + len(b"index_pos=")
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(BagError, match="rosbag reindex"):
        open_recording(path)


@pytest.mark.parametrize("make", [{}, {"summary": False}, {"chunked": False}, {"chunked": False, "summary": False}])
def test_messages_with_an_impossible_log_time_are_left_out_and_reported(make: dict[str, bool], tmp_path: Path) -> None:
    entries = timeline()
    strange = [(2**63 + 5, "/point", "geometry_msgs/msg/PointStamped", 3), (2**64 - 1, *entries[0][1:])]
    path = write_mcap(tmp_path / "a.mcap", [*entries[:10], *strange, *entries[10:]], **make)
    with open_recording(path) as recording:
        assert order_of(recording) == EXPECTED
        assert recording.end_ns == EXPECTED[-1][0]
        assert recording.duration_s == pytest.approx(1.95)
        assert recording.damage is not None and "log time is impossible" in recording.damage
        assert recording.damage.count("log time is impossible") == 1


def test_a_small_file_that_unpacks_to_more_than_the_disk_spares_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_mcap(tmp_path / "a.mcap").read_bytes()
    declared = zstandard.ZstdCompressor().compress(content)
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for packed in (declared, silent):
        (tmp_path / "a.mcap.zstd").write_bytes(packed)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * len(content)))
        with open_recording(tmp_path / "a.mcap.zstd") as recording:
            assert order_of(recording) == EXPECTED
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(content)))
        with pytest.raises(BagError, match=r"a\.mcap\.zstd unpacks to more than half of the free space .*TMPDIR"):
            open_recording(tmp_path / "a.mcap.zstd")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mcap", "a.mcap.zstd"], "nothing stays behind"
