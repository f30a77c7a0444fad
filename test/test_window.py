"""A window on a recording: the messages inside it, and the fixed transforms from before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mf_ros.bags.reader import Recording, open_recording
from mf_ros.bags.window import RecordingWindow
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import make_camera
from mf_ros.core.transforms import StampedTransform
from mf_ros.errors import BagError

START = 1_700_000_000 * 10**9
STEP = 10**8
CAMERA = make_camera(2, 2, [2.0, 0, 0.5, 0, 2.0, 0.5, 0, 0, 1], [], "plumb_bob")


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """A transform, then eleven images, one every 0.1 s."""
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as writer:
        writer.write_tf([StampedTransform("base", "lidar", START, np.eye(4))], static=True)
        for number in range(11):
            writer.write_image("/image", np.zeros((2, 2), np.uint8), START + number * STEP, "camera")
    return path


def seen(recording: Recording, *topics: str) -> list[tuple[str, int]]:
    messages = recording.messages(topics or None)
    return [(message.topic, (message.log_ns - START) // STEP) for message in messages]


def test_only_messages_inside_are_read(bag: Path) -> None:
    with open_recording(bag) as recording:
        window = RecordingWindow(recording, 0.3, 0.2)
        assert seen(window, "/image") == [("/image", 3), ("/image", 4), ("/image", 5)]
        assert window.duration_s == pytest.approx(0.2)


def test_fixed_transforms_from_before_come_first(bag: Path) -> None:
    with open_recording(bag) as recording:
        window = RecordingWindow(recording, 0.9)
        assert seen(window) == [("/tf_static", 0), ("/image", 9), ("/image", 10)]
        assert seen(window, "/tf_static") == [("/tf_static", 0)]


def test_the_last_calibration_from_before_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as writer:
        for number in range(0, 200, 10):
            writer.write_image("/image", np.zeros((2, 2), np.uint8), START + number * STEP, "camera")
            if number < 30:
                writer.write_camera_info("/camera_info", CAMERA, START + number * STEP, "camera")
    with open_recording(path) as recording:
        # It lies farther back than the first look before the window.
        assert seen(RecordingWindow(recording, 19.0)) == [("/camera_info", 20), ("/image", 190)]
        assert seen(RecordingWindow(recording, 2.0, 1.0), "/camera_info") == [
            ("/camera_info", 10),
            ("/camera_info", 20),
        ]


def test_fixed_transforms_are_found_wherever_they_were_logged(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as writer:
        for number in range(11):
            writer.write_image("/image", np.zeros((2, 2), np.uint8), START + number * STEP, "camera")
        for number in (1, 5, 10):
            tf = StampedTransform("base", "lidar", START + number * STEP, np.eye(4))
            writer.write_tf([tf], static=True)
    with open_recording(path) as recording:
        window = RecordingWindow(recording, 0.4, 0.2)
        times = [(message.log_ns - START) // STEP for message in window.latched(["/tf_static"])]
        # The one that holds when the window begins comes last.
        assert times == [5, 10, 1]
        assert list(window.latched([])) == []


def test_a_window_over_everything_changes_nothing(bag: Path) -> None:
    with open_recording(bag) as recording:
        assert seen(RecordingWindow(recording, 0.0, 100.0)) == seen(recording)


@pytest.mark.parametrize(("start_s", "duration_s"), [(-1.0, None), (1.1, None), (0.0, 0.0), (float("nan"), None)])
def test_a_window_outside_is_refused(bag: Path, start_s: float, duration_s: float | None) -> None:
    with open_recording(bag) as recording, pytest.raises(BagError, match=r"1\.0 s long"):
        RecordingWindow(recording, start_s, duration_s)
