"""Replay when something goes wrong: it is counted or said, and what was written stays whole."""

from __future__ import annotations

import dataclasses
import json
import signal
from typing import Any

import numpy as np
import pytest
from replayed import IMAGE, LATENCY_NS, read, record, run, stamps
from wall_scene import MedianEngine, camera_info, cloud, image, stamp

from mf_ros.bags.reader import RecordedMessage
from mf_ros.bags.writer import McapWriter
from mf_ros.errors import BagError, MessageError


def test_bad_messages_are_counted_and_the_rest_goes_on(tmp_path):
    bad = {
        "image_1": dataclasses.replace(image(1), encoding="smell8"),
        "image_2": dataclasses.replace(image(2), height=480),
        "points_3": dataclasses.replace(cloud(3), data=np.zeros(10, np.uint8)),
        "info_4": dataclasses.replace(camera_info(4), k=np.zeros(9)),
    }
    report = run(record(tmp_path / "in.mcap", **bad), tmp_path / "out")
    assert report.summary["dropped"] == {"bad_image": 2, "bad_points": 1, "uncalibrated": 1}
    assert report.summary["frames_out"] == 2
    assert "smell8" not in report.summary["dropped_messages"]["bad_points"]
    written = read(tmp_path / "out" / "out.mcap")
    assert stamps(written["/depth/image"]) == [stamp(0), stamp(5)]
    assert len(written[IMAGE]) == 6


def test_messages_that_cannot_be_decoded_are_counted_and_the_rest_goes_on(tmp_path, monkeypatch):
    bag = record(tmp_path / "in.mcap")
    decode = RecordedMessage.decode

    def torn(self: RecordedMessage) -> Any:
        if self.log_ns == stamp(2) + LATENCY_NS and self.topic in (IMAGE, "/tf"):
            raise MessageError("torn")
        return decode(self)

    monkeypatch.setattr(RecordedMessage, "decode", torn)
    summary = run(bag, tmp_path / "out").summary
    assert (summary["frames_in"], summary["frames_out"], summary["dropped"]) == (6, 5, {"bad_image": 1})
    assert summary["warnings"]["bad_transform"] == 1


def test_depth_that_cannot_be_written_is_counted_and_the_rest_goes_on(tmp_path, monkeypatch):
    write_raw = McapWriter.write_raw

    def write(self: McapWriter, topic: str, message: Any, *args: Any, **options: Any) -> None:
        # A camera whose clock jumps to the year 2106, which a stamp of ROS 2 cannot hold.
        if topic == "/depth/image" and message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp(2):
            message.header.stamp.sec += 2**32
        write_raw(self, topic, message, *args, **options)

    monkeypatch.setattr(McapWriter, "write_raw", write)
    summary = run(record(tmp_path / "in.mcap"), tmp_path / "out").summary
    assert (summary["frames_in"], summary["frames_out"], summary["dropped"]) == (6, 5, {"not_written": 1})
    assert "/depth/image" in summary["dropped_messages"]["not_written"]


class Interrupting(MedianEngine):
    """Presses Ctrl-C while it works on a frame."""

    at: int = 3

    def estimate(self, *args: Any) -> Any:
        estimate = super().estimate(*args)
        if self.calls == self.at:
            signal.raise_signal(signal.SIGINT)
        return estimate


def test_an_interrupted_run_leaves_whole_files_and_says_so(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    report = run(record(tmp_path / "in.mcap", frames=20), tmp_path / "out", Interrupting(), accuracy_every=0)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["frames_out"] == 3
    assert summary["frames_in"] == summary["frames_out"] + sum(summary["dropped"].values())
    written = read(tmp_path / "out" / "out.mcap")
    assert stamps(written["/depth/image"]) == [stamp(number) for number in range(3)]
    assert len(report.samples) == 3
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_progress_callback_that_is_interrupted_still_leaves_whole_files(tmp_path):
    def progress(part: float) -> None:
        if part > 0.5:
            raise KeyboardInterrupt

    report = run(record(tmp_path / "in.mcap", frames=20), tmp_path / "out", progress=progress)
    assert report.summary["interrupted"] is True
    assert len(read(tmp_path / "out" / "out.mcap")["/depth/image"]) == report.summary["frames_out"] > 0


def test_a_cut_recording_is_replayed_as_far_as_it_goes(tmp_path):
    bag = record(tmp_path / "in.mcap", frames=200)
    content = bag.read_bytes()
    bag.write_bytes(content[: len(content) * 2 // 3])
    summary = run(bag, tmp_path / "out").summary
    assert summary["damage"]
    assert 0 < summary["frames_out"] < 200


def test_an_output_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(BagError, match="out is a file"):
        run(record(tmp_path / "in.mcap"), tmp_path / "out")


def test_the_summary_of_an_earlier_run_does_not_stay_beside_a_failed_one(tmp_path):
    class Broken(MedianEngine):
        def estimate(self, *args: Any) -> Any:
            raise ZeroDivisionError

    bag = record(tmp_path / "in.mcap")
    run(bag, tmp_path / "out")
    with pytest.raises(ZeroDivisionError):
        run(bag, tmp_path / "out", Broken())
    assert not (tmp_path / "out" / "summary.json").exists()
