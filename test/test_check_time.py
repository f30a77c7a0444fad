"""Check of times: clocks, offsets, gaps and jumps are named, and parts of a recording need what lies outside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from checked_bags import (
    CAMERA,
    HEIGHT,
    MS,
    START,
    T_CAM_LIDAR,
    WIDTH,
    Bag,
    finding_with,
    report_of,
    wall,
    with_messages,
)

from mf_ros.bags.check import check
from mf_ros.bags.check_time import Series, check_series
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config, SyncConfig
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep


def test_clocks_of_different_epochs(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(lidar_shift_ns=-START + 30 * 10**9), tmp_path), "count from different moments")
    assert finding.severity == "error"
    assert "/lidar/points counts from when the sensor was switched on" in finding.text
    assert "PTP" in finding.advice


def test_clocks_that_never_overlap_and_the_offset_that_mends_them(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(lidar_shift_ns=5 * 10**9), tmp_path), "never overlap")
    assert finding.severity == "error"
    # The LiDAR's stamps are 5 s ahead, so 5 s are taken off.
    assert "sync.lidar_offset_s to about -5.000" in finding.advice


def test_the_advised_offset_mends_the_bag(tmp_path: Path) -> None:
    mended = Config(sync=SyncConfig(lidar_offset_s=(-5.0,)))
    assert report_of(Bag(lidar_shift_ns=5 * 10**9), tmp_path, config=mended).findings == ()


def test_sweeps_too_far_from_the_images(tmp_path: Path) -> None:
    # Half a second apart on 10 Hz streams: a sweep is always near, but the wrong one; the recording times tell.
    report = report_of(Bag(lidar_shift_ns=-500 * MS), tmp_path)
    finding = finding_with(report, "0.500 s behind" if "behind" in str(report.findings) else "500 ms later")
    assert "0.500" in finding.advice


def test_a_late_lidar_is_no_problem(tmp_path: Path) -> None:
    assert report_of(Bag(lidar_delay_ns=105 * MS), tmp_path).findings == ()


def test_a_bag_that_was_played_in_a_loop(tmp_path: Path) -> None:
    times = [100 * k for k in range(10)] * 2
    finding = finding_with(report_of(Bag(stamps_ms=times), tmp_path), "run backward 1 times, by up to 0.900 s")
    assert finding.severity == "warning"


def test_missing_messages(tmp_path: Path) -> None:
    times = [100 * k for k in range(30) if k % 10 < 7]
    assert finding_with(report_of(Bag(stamps_ms=times), tmp_path), "are missing at 10.0 Hz").severity == "warning"


def test_a_lidar_that_stops_before_the_camera(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        for number in range(40):
            stamp = START + 100 * number * MS
            bag.write_camera_info("/camera/camera_info", CAMERA, stamp, "camera_optical")
            bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp, "camera_optical")
            if number < 20:
                bag.write_points("/lidar/points", LidarSweep(wall(), stamp, "lidar"))
    with open_recording(path) as recording:
        report = check(recording)
    assert finding_with(report, "does not cover 2.0 s").severity == "warning"


def test_a_time_field_that_spans_more_than_a_sweep(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(time_span_s=0.3), tmp_path), "span 300 ms")
    assert "lidar.time_unit" in finding.advice


def test_transforms_recorded_after_the_part_that_is_checked_hold_in_it(tmp_path: Path) -> None:
    def late(topic: str, message: Any, log_ns: int) -> list[tuple[Any, int]]:
        return [(message, log_ns + 3 * 10**9 if topic == "/tf_static" else log_ns)]

    good = Bag().write(tmp_path / "good.mcap")
    assert with_messages(good, tmp_path / "bag.mcap", late, start_s=0.0, duration_s=1.0).findings == ()


def once(topic: str, log_ns: int, wanted_ns: int) -> bool:
    return topic != "/camera/camera_info" or log_ns == wanted_ns


def test_a_calibration_logged_once_before_the_part_that_is_checked_holds_in_it(tmp_path: Path) -> None:
    def first(topic: str, message: Any, log_ns: int) -> list[tuple[Any, int]]:
        return [(message, log_ns)] if once(topic, log_ns, START + 5 * MS) else []

    good = Bag().write(tmp_path / "good.mcap")
    assert with_messages(good, tmp_path / "bag.mcap", first, start_s=1.0).findings == ()


def test_a_part_without_calibration_is_an_error(tmp_path: Path) -> None:
    def last(topic: str, message: Any, log_ns: int) -> list[tuple[Any, int]]:
        return [(message, log_ns)] if once(topic, log_ns, START + 1905 * MS) else []

    good = Bag().write(tmp_path / "good.mcap")
    report = with_messages(good, tmp_path / "bag.mcap", last, start_s=0.0, duration_s=1.0)
    assert report.has_errors
    assert "--start" in finding_with(report, "/camera/camera_info: none of its messages lies in this part").advice


def series_of(*stamps_ns: int) -> Series:
    series = Series("/t")
    for stamp in stamps_ns:
        series.add(stamp, START)
    return series


def test_stamps_that_nobody_filled_in() -> None:
    (finding,) = check_series(series_of(0, 0, 0))
    assert finding.severity == "error"
    assert "every header stamp is 0" in finding.text


def test_messages_sent_twice() -> None:
    (finding,) = check_series(series_of(START, START, START + 100 * MS))
    assert "1 messages repeat the stamp" in finding.text


def test_a_topic_without_messages_has_no_findings() -> None:
    assert list(check_series(Series("/t"))) == []
