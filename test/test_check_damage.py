"""Check of damaged bags: what cannot be read is counted and named, and the rest is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checked_bags import Bag, finding_with, wall, with_messages

from mf_ros.bags.check import check
from mf_ros.bags.check_samples import Bad, Samples
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config
from mf_ros.errors import BagError, MessageError


def test_a_truncated_file_says_how_far_it_was_read(tmp_path: Path) -> None:
    whole = Bag(frames=100, points=wall()).write(tmp_path / "whole.mcap").read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) // 2])
    with open_recording(cut) as recording:
        report = check(recording)
    assert report.has_errors
    finding = finding_with(report, "are readable")
    assert finding.severity == "error"


def test_one_bad_message_among_good_ones_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    Bag().write(tmp_path / "good.mcap")
    with open_recording(tmp_path / "good.mcap") as good, McapWriter(path) as bag:
        bad = next(good.messages(["/lidar/points"])).log_ns
        for message in good.messages():
            decoded = message.decode()
            if message.topic == "/lidar/points" and message.log_ns == bad:
                decoded = replace(decoded, fields=[field for field in decoded.fields if field.name != "x"])
            bag.write_raw(message.topic, decoded, message.log_ns)
    with open_recording(path) as recording:
        report = check(recording)
    finding = finding_with(report, "/lidar/points: of the messages looked into, 1 cannot be used")
    assert finding.severity == "warning"


def with_a_bad_transform(topic: str, message: Any, log_ns: int) -> list[tuple[Any, int]]:
    if topic == "/tf_static":
        item = message.transforms[0]
        zero = replace(item.transform.rotation, x=0.0, y=0.0, z=0.0, w=0.0)
        bad = replace(item, child_frame_id="flag", transform=replace(item.transform, rotation=zero))
        message = replace(message, transforms=[bad, bad, item])
    return [(message, log_ns)]


def test_a_bad_transform_costs_neither_the_others_of_its_message_nor_the_bag(tmp_path: Path) -> None:
    report = with_messages(Bag().write(tmp_path / "good.mcap"), tmp_path / "bag.mcap", with_a_bad_transform)
    assert [finding.severity for finding in report.findings] == ["warning"]
    assert "/tf_static: of the transforms, 2 cannot be used" in report.findings[0].text
    assert "'flag'" in report.findings[0].text


def test_many_bad_messages_are_counted_without_keeping_them(tmp_path: Path) -> None:
    samples = Samples(open_recording(Bag().write(tmp_path / "bag.mcap")), {}, (), Config())
    for number in range(1000):
        for _ in range(2):  # one message may be looked into twice
            samples.note_bad("/lidar/points", number, MessageError(f"fault {number}"))
    assert samples.bad == {"/lidar/points": Bad("fault 0", 1000, 999)}


def test_a_file_that_is_no_bag_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a bag")
    with pytest.raises(BagError, match="not a bag"):
        open_recording(path)
