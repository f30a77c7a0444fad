"""Bags of every kind come out as the same messages, and what is no bag is one clear error."""

from __future__ import annotations

import random
import shutil
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
    EXPECTED,
    IMAGE,
    PERIOD_NS,
    START_NS,
    image_message,
    order_of,
    timeline,
    write_mcap,
    write_rosbag1,
    write_rosbag2,
    write_split,
)
from mcap.writer import CompressionType
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mf_ros.bags.mcap_source import McapSource
from mf_ros.bags.reader import open_recording
from mf_ros.errors import BagError, TopicError

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


def test_a_directory_without_metadata_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    directory = write_split(tmp_path / "bag")
    (directory / "metadata.yaml").unlink()
    with open_recording(directory) as recording:
        assert order_of(recording) == EXPECTED
        assert recording.damage is None


def test_names_in_the_metadata_do_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    write_mcap(tmp_path / "secret.mcap")
    directory = write_split(tmp_path / "bag")
    metadata = directory / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("part_9.mcap", "../secret.mcap"))
    with open_recording(directory) as recording:
        assert len(order_of(recording)) == 26


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
