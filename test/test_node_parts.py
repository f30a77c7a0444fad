"""The parts of the node that need no ROS: what it says of its inputs, its worker, its arrays."""

from __future__ import annotations

import array
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mf_ros.ros.advice import command, runnable
from mf_ros.ros.types import ReusedArrays
from mf_ros.ros.watch import InputWatch, Publisher
from mf_ros.ros.worker import Worker

IMAGE = "sensor_msgs/msg/Image"
CAMERA_NODE = Publisher("/camera", IMAGE, "best_effort", "volatile")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> InputWatch:
    return InputWatch("image", "/image", IMAGE, clock=clock)


def test_rate_and_age_follow_the_messages(watch: InputWatch, clock: Clock) -> None:
    assert (watch.rate_hz, watch.age_s) == (0.0, None)
    for _ in range(11):
        clock.now += 0.1
        watch.note()
    assert watch.rate_hz == pytest.approx(10.0)
    clock.now += 1.0
    assert watch.age_s == pytest.approx(1.0)
    clock.now += 5.0
    assert watch.rate_hz == 0.0, "nothing came lately"


def test_nothing_is_said_while_messages_come_or_might_still_come(watch: InputWatch, clock: Clock) -> None:
    assert watch.why_silent([], []) == ""
    clock.now += 10.0
    watch.note()
    assert watch.why_silent([CAMERA_NODE], []) == ""


def test_a_slow_sensor_is_silent_only_when_it_misses_its_own_rate(watch: InputWatch, clock: Clock) -> None:
    said = []
    for _ in range(5):
        watch.note()
        clock.now += 5.0
        said.append(watch.is_silent)
    assert said == [True, False, False, False, False], "one message has no rate yet"
    assert watch.rate_hz == pytest.approx(0.2)
    clock.now += 11.0
    assert watch.is_silent and watch.rate_hz == 0.0


def test_one_pause_changes_nothing_about_what_a_fast_sensor_usually_does(watch: InputWatch, clock: Clock) -> None:
    for number in range(20):
        clock.now += 600.0 if number == 15 else 0.1
        watch.note()
    clock.now += 2.1
    assert watch.is_silent


def test_a_calibration_that_came_once_is_not_silent(clock: Clock) -> None:
    watch = InputWatch("camera_info", "/camera_info", "sensor_msgs/msg/CameraInfo", once=True, clock=clock)
    latched = Publisher("/camera", "sensor_msgs/msg/CameraInfo", "reliable", "transient_local")
    clock.now += 3.0
    assert "qos_overrides./camera_info.subscription.durability: transient_local" in watch.why_silent([latched], [])
    watch.note()
    clock.now += 3600.0
    assert watch.why_silent([latched], []) == ""


@pytest.mark.parametrize(
    ("publishers", "others", "said"),
    [
        ([], [], "nobody publishes '/image' (sensor_msgs/msg/Image); no such topic yet."),
        ([], ["/cam/image_raw"], "topics of that type: /cam/image_raw; remap 'image' to one of them."),
        (
            [Publisher("/camera", "std_msgs/msg/String", "reliable", "volatile")],
            [],
            "is published as std_msgs/msg/String",
        ),
        ([CAMERA_NODE], [], "/camera publishes '/image' (best_effort, volatile) but sends nothing"),
    ],
)
def test_silence_is_explained(
    watch: InputWatch, clock: Clock, publishers: list[Publisher], others: list[str], said: str
) -> None:
    clock.now += 10.0
    assert said in watch.why_silent(publishers, others)


def test_a_refused_qos_names_the_override_that_fits(watch: InputWatch, clock: Clock) -> None:
    watch.note_refused("RELIABILITY")
    clock.now += 10.0
    assert "set qos_overrides./image.subscription.reliability: best_effort" in watch.why_silent([CAMERA_NODE], [])


def test_the_worker_works_while_there_is_work_and_then_waits_to_be_woken() -> None:
    left = [3]
    idle, rounds = threading.Event(), []

    def job() -> bool:
        rounds.append(left[0])
        if left[0] == 0:
            idle.set()
            return False
        left[0] -= 1
        return True

    worker = Worker([job], lambda: None, lambda error: None)
    worker.start()
    assert idle.wait(5.0)
    assert rounds[:4] == [3, 2, 1, 0]
    left[0] = 1
    idle.clear()
    worker.wake()
    assert idle.wait(5.0) and left[0] == 0
    assert worker.stop()
    count = len(rounds)
    time.sleep(0.15)
    assert len(rounds) == count, "it goes on after the stop"


def test_a_fault_in_one_camera_neither_ends_the_worker_nor_stops_the_others() -> None:
    faults: list[Exception] = []
    done = threading.Event()

    def broken() -> bool:
        raise ValueError("broken")

    def fine() -> bool:
        if len(faults) > 2:
            done.set()
        return False

    worker = Worker([broken, fine], lambda: None, faults.append)
    worker.start()
    assert done.wait(5.0)
    assert worker.stop()
    assert all(str(fault) == "broken" for fault in faults)


def test_arrays_are_reused_by_size_and_hold_the_numbers() -> None:
    arrays = ReusedArrays()
    first = arrays(np.arange(6, dtype=np.uint8))
    assert isinstance(first, array.array) and first.typecode == "B" and list(first) == list(range(6))
    assert arrays(np.full(6, 9, np.uint8)) is first and list(first) == [9] * 6
    assert arrays(np.array([0.5, 1.5])).typecode == "d"
    assert len(arrays(np.empty(0, np.float64))) == 0
    for size in range(1, 50):
        arrays(np.zeros(size, np.uint8))
    assert len(arrays._kept) < 10, "sizes that never come again are kept"


def test_a_lent_array_is_given_back_without_a_copy() -> None:
    arrays = ReusedArrays()
    lent = arrays.empty((2, 3), np.float32)
    lent[:] = 7.0
    given = arrays(lent.reshape(-1).view(np.uint8))
    assert np.frombuffer(given, np.float32).tolist() == [7.0] * 6
    lent[:] = 8.0
    assert np.frombuffer(given, np.float32).tolist() == [8.0] * 6, "it was copied"


@pytest.mark.parametrize(
    ("script", "typed"),
    [
        ("bin/mf-ros", "mf-ros"),
        ("lib/mf_ros/mf-ros", "ros2 run mf_ros mf-ros"),
        ("share/nothing", f"{sys.executable} -m mf_ros.cli.main"),
    ],
)
def test_what_is_advised_can_be_typed_where_the_node_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, typed: str
) -> None:
    path = tmp_path / script
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/elsewhere:{tmp_path}")
    command.cache_clear()
    try:
        said = runnable("Look with mf-ros check, or mf-ros doctor. Is it a folder of mf-ros export?")
    finally:
        command.cache_clear()
    assert said == f"Look with {typed} check, or {typed} doctor. Is it a folder of mf-ros export?"
