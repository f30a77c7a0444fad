"""Check: a good bag passes, and each thing that can be wrong with one is named, with what to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import cv2
import numpy as np
import pytest

from mf_ros.bags.check import CheckReport, check
from mf_ros.bags.check_samples import Bad, Samples
from mf_ros.bags.check_time import Series, check_series
from mf_ros.bags.overlay import draw_returns
from mf_ros.bags.reader import open_recording
from mf_ros.bags.window import RecordingWindow
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.config import Config, LidarConfig, SyncConfig
from mf_ros.core.projection import ProjectedReturns
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.errors import BagError, MessageError
from mf_ros.findings import Finding

START = 1_700_000_000 * 10**9
MS = 10**6
WIDTH, HEIGHT = 160, 120
CAMERA = make_camera(WIDTH, HEIGHT, [100.0, 0, 79.5, 0, 100.0, 59.5, 0, 0, 1], [], "plumb_bob")
# The LiDAR's x forward, y left, z up in the camera's x right, y down, z forward (REP 103), 10 cm above it.
T_CAM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, 0], [0, 0, 0, 1]])


def wall() -> np.ndarray:
    """A wall 8 m ahead of the LiDAR, 16 rings of 64 points."""
    elevation, azimuth = np.meshgrid(np.linspace(-0.4, 0.4, 16), np.linspace(-0.6, 0.6, 64), indexing="ij")
    return np.stack([np.full(elevation.size, 8.0), 8 * azimuth.ravel(), 8 * elevation.ravel()], 1).astype(np.float32)


@dataclass(frozen=True)
class Bag:
    """What is written; a fault is a replaced field."""

    frames: int = 20
    camera: Optional[CameraModel] = CAMERA
    points: np.ndarray = field(default_factory=wall)
    ring: bool = True
    time: bool = True
    time_span_s: float = 0.1
    image_shape: tuple[int, int] = (HEIGHT, WIDTH)
    image_frame: str = "camera_optical"
    info_frame: str = "camera_optical"
    static_tf: Optional[np.ndarray] = field(default_factory=lambda: T_CAM_LIDAR)
    lidar_shift_ns: int = 0
    lidar_delay_ns: int = 0
    stamps_ms: Optional[list[int]] = None

    def write(self, path: Path) -> Path:
        ring = np.repeat(np.arange(16, dtype=np.int32), 64)[: len(self.points)] if self.ring else None
        time = np.linspace(0, self.time_span_s, len(self.points), dtype=np.float32) if self.time else None
        image = np.full((*self.image_shape, 3), 90, np.uint8)
        times = self.stamps_ms or [100 * k for k in range(self.frames)]
        with McapWriter(path) as bag:
            if self.static_tf is not None:
                tf = StampedTransform(self.image_frame, "lidar", START, self.static_tf)
                bag.write_tf([tf], static=True)
            for number, ms in enumerate(times):
                stamp, log = START + ms * MS, START + 100 * number * MS + 5 * MS
                if self.camera is not None:
                    bag.write_camera_info("/camera/camera_info", self.camera, stamp, self.info_frame, log_ns=log)
                bag.write_image("/camera/image_raw", image, stamp, self.image_frame, log_ns=log)
                sweep = LidarSweep(self.points, stamp + self.lidar_shift_ns, "lidar", time, ring)
                bag.write_points("/lidar/points", sweep, log_ns=log + self.lidar_delay_ns)
        return path


def report_of(bag: Bag, folder: Path, **options: Any) -> CheckReport:
    with open_recording(bag.write(folder / "bag.mcap")) as recording:
        return check(recording, **options)


def finding_with(report: CheckReport, text: str) -> Finding:
    found = [finding for finding in report.findings if text in finding.text]
    assert found, [finding.text for finding in report.findings]
    assert all(finding.advice for finding in found)
    return found[0]


def test_a_good_bag_has_no_findings(tmp_path: Path) -> None:
    report = report_of(Bag(), tmp_path)
    assert report.findings == ()
    assert not report.has_errors
    assert report.roles == {
        "/tf_static": "tf",
        "/lidar/points": "points",
        "/camera/image_raw": "image",
        "/camera/camera_info": "camera_info",
    }
    assert report.times["/lidar/points"].startswith("10.0 Hz")


def test_the_picture_shows_the_points_where_they_are(tmp_path: Path) -> None:
    report = report_of(Bag(), tmp_path, out=tmp_path / "pictures")
    assert report.pictures
    picture = cv2.imread(str(report.pictures[0]))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    # The wall covers about ±0.4 of the focal length vertically, so dots lie in the middle and none at the top.
    dimmed = np.full(3, int(90 * 0.6))
    assert (picture[40:80] != dimmed).any()
    assert (picture[:10] == dimmed).all()


def returns_at(*z: float, visible: bool = True) -> ProjectedReturns:
    """Returns at pixel (20, 20), one behind the other."""
    uv = np.full((len(z), 2), 20, np.float32)
    return ProjectedReturns(
        uv, np.array(z, np.float32), np.arange(len(z)), np.full(len(z), visible), np.full(len(z), False)
    )


def test_nearer_points_are_drawn_over_farther_ones() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    np.testing.assert_array_equal(draw_returns(image, returns_at(3.0, 70.0)), draw_returns(image, returns_at(3.0)))
    assert (draw_returns(image, returns_at(70.0)) != draw_returns(image, returns_at(3.0))).any()


def test_no_dot_covers_the_middle_of_a_nearer_one_beside_it() -> None:
    near = returns_at(3.0)
    beside = ProjectedReturns.unmarked(np.array([[20, 20], [19, 20], [20, 19]], np.float32), np.float32([3, 70, 70]))
    image = np.zeros((40, 40, 3), np.uint8)
    assert np.array_equal(draw_returns(image, beside)[20, 20], draw_returns(image, near)[20, 20])


def test_hidden_points_are_not_drawn() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    assert not draw_returns(image, returns_at(3.0, visible=False)).any()


def test_no_camera_info(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(camera=None), tmp_path), "no camera_info")
    assert finding.severity == "error"


def test_no_transforms_at_all(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(static_tf=None), tmp_path), "no transforms")
    assert finding.severity == "error"
    assert "/tf_static" in finding.advice


def test_transforms_that_do_not_reach_the_lidar(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("base", "camera_optical", START, np.eye(4))], static=True)
        bag.write_camera_info("/camera/camera_info", CAMERA, START, "camera_optical")
        bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, "camera_optical")
        bag.write_points("/lidar/points", LidarSweep(wall(), START, "lidar"))
    with open_recording(path) as recording:
        report = check(recording)
    finding = finding_with(report, "'lidar'")
    assert finding.severity == "error"
    assert "camera_optical" in finding.advice


def test_sweeps_without_a_single_valid_point(tmp_path: Path) -> None:
    report = report_of(Bag(points=np.full((1024, 3), np.nan, np.float32)), tmp_path)
    assert finding_with(report, "hold no valid point").severity == "error"


def test_an_image_of_another_size_than_camera_info(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(image_shape=(60, 80)), tmp_path), "80 x 60")
    assert finding.severity == "error"
    assert f"{WIDTH} x {HEIGHT}" in finding.text


def test_an_encoding_that_is_not_colour(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        bag.write_camera_info("/camera/camera_info", CAMERA, START, "camera_optical")
        bag.write_depth("/camera/image_raw", np.ones((HEIGHT, WIDTH), np.float32), START, "camera_optical")
        bag.write_points("/lidar/points", LidarSweep(wall(), START, "lidar"))
    with open_recording(path) as recording:
        report = check(recording, image="/camera/image_raw")
    assert finding_with(report, "32FC1").severity == "error"


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


def test_points_that_do_not_meet_the_image(tmp_path: Path) -> None:
    report = report_of(Bag(points=wall() * np.float32([-1, 1, 1])), tmp_path)
    finding = finding_with(report, "Only 0 LiDAR points fall into an image")
    assert finding.severity == "error"
    assert "REP 103" in finding.advice


def test_points_without_ring_and_time_are_noted_and_usable(tmp_path: Path) -> None:
    report = report_of(Bag(ring=False, time=False), tmp_path)
    assert not report.has_errors
    assert {finding.severity for finding in report.findings} == {"note"}
    finding_with(report, "no ring")
    finding_with(report, "no time")


def test_a_time_field_that_spans_more_than_a_sweep(tmp_path: Path) -> None:
    finding = finding_with(report_of(Bag(time_span_s=0.3), tmp_path), "span 300 ms")
    assert "lidar.time_unit" in finding.advice


def test_camera_info_in_another_frame(tmp_path: Path) -> None:
    assert finding_with(report_of(Bag(info_frame="camera_link"), tmp_path), "camera_link").severity == "warning"


def info_message(**changes: Any) -> Any:
    """A sensor_msgs/CameraInfo as rosbags makes it, with some fields replaced."""
    typesys = pytest.importorskip("rosbags.typesys")
    types = typesys.get_typestore(typesys.Stores.ROS2_JAZZY).types
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](START // 10**9, 0), "camera_optical")
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    K, P = CAMERA.K.reshape(-1), np.zeros(12)
    values = {"distortion_model": "plumb_bob", "d": np.zeros(5), "k": K, "r": np.eye(3).reshape(-1), "p": P, **changes}
    return types["sensor_msgs/msg/CameraInfo"](header, HEIGHT, WIDTH, binning_x=0, binning_y=0, roi=roi, **values)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"k": np.zeros(9)}, "not calibrated"),
        ({"distortion_model": "mystery"}, "mystery"),
        ({"d": np.zeros(3)}, "plumb_bob"),
    ],
)
def test_a_camera_info_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        bag.write_raw("/camera/camera_info", info_message(**changes), START)
        bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, "camera_optical")
        bag.write_points("/lidar/points", LidarSweep(wall(), START, "lidar"))
    with open_recording(path) as recording:
        report = check(recording)
    assert finding_with(report, text).severity == "error"


def test_several_cameras_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    with McapWriter(path) as bag:
        for name in ("left", "right"):
            bag.write_camera_info(f"/{name}/camera_info", CAMERA, START, name)
            bag.write_image(f"/{name}/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), START, name)
    with open_recording(path) as recording:
        finding = finding_with(check(recording), "several cameras")
    assert "/left/image_raw" in finding.text and "/right/image_raw" in finding.text
    assert "--image-topic" in finding.advice


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


def with_messages(good: Path, path: Path, change: Any, **window: float) -> CheckReport:
    """The report on a copy whose messages went through ``change(topic, message, log_ns)``, which gives several."""
    with open_recording(good) as recording, McapWriter(path) as bag:
        for message in recording.messages():
            for content, log_ns in change(message.topic, message.decode(), message.log_ns):
                bag.write_raw(message.topic, content, log_ns)
    with open_recording(path) as recording:
        return check(RecordingWindow(recording, **window) if window else recording)


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


def test_many_bad_messages_are_counted_without_keeping_them(tmp_path: Path) -> None:
    samples = Samples(open_recording(Bag().write(tmp_path / "bag.mcap")), {}, (), Config())
    for number in range(1000):
        for _ in range(2):  # one message may be looked into twice
            samples.note_bad("/lidar/points", number, MessageError(f"fault {number}"))
    assert samples.bad == {"/lidar/points": Bad("fault 0", 1000, 999)}


def test_pictures_are_drawn_with_the_offset_and_the_range_of_the_settings(tmp_path: Path) -> None:
    near = Config(lidar=LidarConfig(max_range_m=5.0))
    assert finding_with(report_of(Bag(), tmp_path, config=near), "Only 0 LiDAR points fall into an image")
    # The wall comes nearer by 10 cm per sweep; only with the offset the sweep of the image's own time is drawn.
    path = tmp_path / "moving.mcap"
    with McapWriter(path) as bag:
        bag.write_tf([StampedTransform("camera_optical", "lidar", START, T_CAM_LIDAR)], static=True)
        for number in range(20):
            stamp = START + 100 * number * MS
            bag.write_camera_info("/camera/camera_info", CAMERA, stamp, "camera_optical")
            bag.write_image("/camera/image_raw", np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp, "camera_optical")
            points = wall() - np.float32([0.1 * number, 0, 0])
            bag.write_points("/lidar/points", LidarSweep(points, stamp + 300 * MS, "lidar"), log_ns=stamp)
    roles = {"/lidar/points": "points", "/camera/image_raw": "image"}
    with open_recording(path) as recording:
        samples = Samples(recording, roles, ["/lidar/points"], Config(sync=SyncConfig(lidar_offset_s=(-0.3,))))
        samples.read(None)
    assert len(samples.images) == 8
    for image in samples.images:
        nearest = image.nearest["/lidar/points"]
        assert nearest.stamp_ns == image.stamp_ns
        assert nearest.points[0, 0] == pytest.approx(8.0 - (image.stamp_ns - START) / 1e9, abs=1e-4)


def test_a_file_that_is_no_bag_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a bag")
    with pytest.raises(BagError, match="not a bag"):
        open_recording(path)


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
