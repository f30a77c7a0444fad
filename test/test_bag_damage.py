"""Damaged bags are read as far as they go, and say what is missing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Callable

import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from bag_samples import (
    COUNT,
    EXPECTED,
    IMAGE,
    image_message,
    order_of,
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
from rosbags.rosbag2 import StoragePlugin

from mf_ros.bags.reader import open_recording
from mf_ros.errors import BagError, MessageError


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


def test_a_file_that_the_metadata_lists_but_is_gone_is_reported(tmp_path: Path) -> None:
    directory = write_split(tmp_path / "bag")
    (directory / "part_9.mcap").unlink()
    with open_recording(directory) as recording:
        assert order_of(recording) == EXPECTED[:14] + EXPECTED[28:]
        assert recording.damage is not None and "lacks part_9.mcap" in recording.damage


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


def test_an_unmerged_write_ahead_log_is_reported(tmp_path: Path) -> None:
    path = write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3)
    (path / "bag.db3-wal").write_bytes(b"pages")
    with open_recording(path) as recording:
        assert order_of(recording) == EXPECTED
        assert recording.damage is not None and "wal_checkpoint" in recording.damage


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


def nested_aliases(levels: str) -> str:
    """Nine levels, each of ten aliases of the one before: a billion values in a kilobyte."""
    lines = (f"l{n}: &l{n} {levels.format(', '.join([f'*l{n - 1}'] * 10))}\n" for n in range(1, 10))
    return "l0: &l0 {x: 1}\n" + "".join(lines)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: nested_aliases("[{}]") + text.replace("part_9.mcap", "*l9"), "more than 250000 values"),
        (lambda text: nested_aliases("{{<<: [{}]}}") + text, "more than 250000 values"),
        (lambda text: text.replace("part_9.mcap", "[" * 5000), "nested too deep"),
        (lambda text: text.replace("part_9.mcap", "{a: b}"), "no list of names"),
        (lambda text: text + "#" * 2**20, "more than 1048576 bytes"),
    ],
)
def test_metadata_that_cannot_be_used_is_reported_and_the_files_beside_it_are_read(
    change: Callable[[str], str], reason: str, tmp_path: Path
) -> None:
    directory = write_split(tmp_path / "bag")
    metadata = directory / "metadata.yaml"
    metadata.write_text(change(metadata.read_text()))
    with open_recording(directory) as recording:
        assert order_of(recording) == EXPECTED
        assert recording.damage is not None and reason in recording.damage


def test_a_qos_of_aliases_without_end_is_refused(tmp_path: Path) -> None:
    directory = write_rosbag2(tmp_path / "bag", StoragePlugin.SQLITE3)
    with closing(sqlite3.connect(next(directory.glob("*.db3")))) as connection:
        connection.execute("UPDATE topics SET offered_qos_profiles = ?", (nested_aliases("{{<<: [{}]}}"),))
        connection.commit()
    with pytest.raises(BagError, match=r"QoS of a topic is no YAML of ROS \(it stands for more than 250000 values\)"):
        open_recording(directory)
