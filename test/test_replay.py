"""Replay: what comes out of a recording, exactly, and what stays when something goes wrong."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wall_scene import (
    CAMERA,
    CAMERA_FRAME,
    FRAME_NS,
    WALL_M,
    MedianEngine,
    camera_info,
    cloud,
    extrinsics,
    image,
    stamp,
    tf,
)

from mf_ros.bags import feed as feed_module
from mf_ros.bags import seen
from mf_ros.bags.feed import patient
from mf_ros.bags.reader import RecordedMessage, open_recording
from mf_ros.bags.replay import replay, write_json
from mf_ros.bags.samples import ReplayReport, Sample, SampleKeeper
from mf_ros.bags.window import RecordingWindow
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import make_camera
from mf_ros.core.config import CloudConfig, Config, OutputConfig
from mf_ros.core.topics import choose_topics
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.errors import BagError, MessageError

IMAGE, INFO, POINTS = "/camera/image_raw", "/camera/camera_info", "/lidar/points"
LATENCY_NS = 7_000_000


def record(path: Path, frames: int = 6, lidars: int = 1, rings: bool = True, **replaced: Any) -> Path:
    """A recording at 10 Hz, logged 7 ms after the stamps; ``replaced`` maps ``image_2`` and the like to a message."""
    with McapWriter(path) as writer:
        frames_of = [f"lidar_{index}" for index in range(lidars)]
        writer.write_raw("/tf_static", tf(*(extrinsics(name) for name in frames_of)), stamp(0))
        for number in range(frames):
            log_ns = stamp(number) + LATENCY_NS
            for index, name in enumerate(frames_of):
                sweep = replaced.get(f"points_{number}", cloud(number, frame_id=name))
                if not rings:
                    sweep = dataclasses.replace(sweep, fields=[f for f in sweep.fields if f.name in "xyz"])
                writer.write_raw(POINTS if lidars == 1 else f"{POINTS}_{index}", sweep, log_ns)
            writer.write_raw(INFO, replaced.get(f"info_{number}", camera_info(number)), log_ns)
            writer.write_raw(IMAGE, replaced.get(f"image_{number}", image(number)), log_ns)
            odom = dataclasses.replace(extrinsics(CAMERA_FRAME), parent="odom", stamp_ns=stamp(number))
            writer.write_raw("/tf", tf(odom), log_ns)
    return path


def run(bag: Path, out: Path, engine: Any = None, config: Config | None = None, **options: Any) -> ReplayReport:
    with open_recording(bag) as recording:
        lidars = sorted(topic.name for topic in recording.topics if topic.name.startswith(POINTS))
        topics = choose_topics(recording, points=lidars)
        return replay(recording, topics, config or Config(), out, engine or MedianEngine(), **options)


def read(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Messages of a recording by topic, as (log time, message)."""
    found = defaultdict(list)
    with open_recording(path) as recording:
        for message in recording.messages():
            found[message.topic].append((message.log_ns, message.decode()))
    return found


def stamps(messages: list[tuple[int, Any]]) -> list[int]:
    return [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for _, message in messages]


def test_every_image_becomes_depth_with_its_own_stamp_frame_and_log_time(tmp_path):
    run(record(tmp_path / "in.mcap"), tmp_path / "out")
    written = read(tmp_path / "out" / "out.mcap")
    for topic in ("/depth/image", "/depth/confidence", "/depth/camera_info", "/depth/points", "/sparse_depth/image"):
        assert stamps(written[topic]) == [stamp(number) for number in range(6)], topic
        assert {message.header.frame_id for _, message in written[topic]} == {CAMERA_FRAME}
        assert [log_ns for log_ns, _ in written[topic]] == [stamp(number) + LATENCY_NS for number in range(6)]
    depth = written["/depth/image"][0][1]
    assert depth.encoding == "32FC1"
    np.testing.assert_allclose(depth.data.view(np.float32), WALL_M, rtol=1e-6)


def test_the_cloud_is_organized_and_where_the_wall_is(tmp_path):
    run(record(tmp_path / "in.mcap", frames=1), tmp_path / "out")
    message = read(tmp_path / "out" / "out.mcap")["/depth/points"][0][1]
    assert (message.height, message.width, message.point_step, message.is_dense) == (48, 64, 16, False)
    assert [field.name for field in message.fields] == ["x", "y", "z", "rgb"]
    points = message.data.view(np.float32).reshape(48, 64, 4)
    u, v = 10, 40
    expected = [(u - 31.5) / 50 * WALL_M, (v - 23.5) / 50 * WALL_M, WALL_M]
    np.testing.assert_allclose(points[v, u, :3], expected, rtol=1e-5)


def test_image_and_transforms_are_passed_through_as_they_came(tmp_path):
    bag = record(tmp_path / "in.mcap")
    run(bag, tmp_path / "out")
    before, after = read(bag), read(tmp_path / "out" / "out.mcap")
    for topic in (IMAGE, "/tf", "/tf_static"):
        assert [log_ns for log_ns, _ in after[topic]] == [log_ns for log_ns, _ in before[topic]]
    np.testing.assert_array_equal(after[IMAGE][3][1].data, before[IMAGE][3][1].data)
    assert after["/tf_static"][0][1].transforms[0].child_frame_id == "lidar_0"


def test_the_summary_says_what_happened(tmp_path):
    report = run(record(tmp_path / "in.mcap"), tmp_path / "out", accuracy_every=2)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_out"], summary["dropped"]) == (6, 6, {})
    assert summary["interrupted"] is False and summary["damage"] is None
    assert summary["engine"] == "median"
    assert summary["topics"]["image"] == IMAGE and summary["topics"]["points"] == [POINTS]
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"]
    assert {"decode_image", "project", "estimate", "messages", "write"} <= set(summary["latency_ms"]["stages"])
    assert summary["messages_written"]["/depth/image"] == 6
    assert summary["config"]["sync"]["max_wait_s"] == Config().sync.max_wait_s
    assert report.summary["frames_out"] == 6


def test_accuracy_is_that_of_the_engine_on_the_rings_it_was_not_shown(tmp_path):
    class TooFar(MedianEngine):
        def estimate(self, *args: Any) -> Any:
            estimate = super().estimate(*args)
            return dataclasses.replace(estimate, depth=estimate.depth * np.float32(1.1))

    engine = TooFar()
    report = run(record(tmp_path / "in.mcap"), tmp_path / "out", engine, accuracy_every=1)
    accuracy = report.summary["accuracy"]
    assert accuracy["held_out"] == "even rings" and accuracy["frames"] == 6
    # The wall is at 5 m and the engine 10% too far; LiDAR points are float32.
    assert accuracy["mae"] == pytest.approx(0.5, abs=1e-4)
    assert accuracy["rmse"] == pytest.approx(0.5, abs=1e-4)
    assert accuracy["absrel"] == pytest.approx(0.1, abs=1e-5)
    assert engine.calls == 12


def test_accuracy_can_be_switched_off(tmp_path):
    engine = MedianEngine()
    report = run(record(tmp_path / "in.mcap"), tmp_path / "out", engine, accuracy_every=0)
    assert report.summary["accuracy"] is None
    assert engine.calls == 6


def test_a_lidar_without_rings_holds_out_a_random_half(tmp_path):
    report = run(record(tmp_path / "in.mcap", rings=False), tmp_path / "out", accuracy_every=1)
    assert report.summary["accuracy"]["held_out"] == "a random half of the returns"
    assert report.summary["accuracy"]["mae"] == pytest.approx(0, abs=1e-4)


def test_two_lidars_go_in(tmp_path):
    report = run(record(tmp_path / "in.mcap", lidars=2), tmp_path / "out")
    assert report.summary["frames_out"] == 6
    assert report.summary["topics"]["points"] == (f"{POINTS}_0", f"{POINTS}_1")
    assert set(report.summary["camera_lidar_offset_ms"]) == {"lidar_0", "lidar_1"}


def test_settings_shape_the_output(tmp_path):
    config = Config(output=OutputConfig(encoding="16UC1", scale=0.5), cloud=CloudConfig(voxel_m=0.5))
    run(record(tmp_path / "in.mcap", frames=1), tmp_path / "out", config=config)
    written = read(tmp_path / "out" / "out.mcap")
    depth, info, points = (written[topic][0][1] for topic in ("/depth/image", "/depth/camera_info", "/depth/points"))
    assert (depth.encoding, depth.height, depth.width) == ("16UC1", 24, 32)
    assert set(depth.data.view(np.uint16)) == {round(WALL_M * 1000)}
    assert (info.width, info.height) == (32, 24)
    np.testing.assert_allclose(info.k, CAMERA.resized(32, 24).K.reshape(-1))
    assert points.height == 1 and 1 < points.width < 32 * 24


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


def test_extrinsics_and_calibration_logged_a_little_late_cost_no_frame(tmp_path):
    with McapWriter(tmp_path / "in.mcap") as writer:
        for number in range(40):
            writer.write_raw(IMAGE, image(number), stamp(number))
            writer.write_raw(POINTS, cloud(number), stamp(number))
            if number == 30:
                writer.write_raw("/tf_static", tf(extrinsics()), stamp(number))
                writer.write_raw(INFO, camera_info(number), stamp(number))
    summary = run(tmp_path / "in.mcap", tmp_path / "out").summary
    assert (summary["frames_out"], summary["dropped"]) == (40, {})


def test_extrinsics_logged_long_after_the_start_cost_no_frame(tmp_path):
    with McapWriter(tmp_path / "in.mcap") as writer:
        for number in range(0, 140, 10):
            writer.write_raw(INFO, camera_info(number), stamp(number))
            writer.write_raw(IMAGE, image(number), stamp(number))
            writer.write_raw(POINTS, cloud(number), stamp(number))
            if number == 120:
                writer.write_raw("/tf_static", tf(extrinsics()), stamp(number))
    with open_recording(tmp_path / "in.mcap") as recording:
        topics = choose_topics(recording)
        for part, frames in ((recording, 14), (RecordingWindow(recording, 0.0, 5.0), 6)):
            summary = replay(part, topics, Config(), tmp_path / "out", MedianEngine()).summary
            assert (summary["frames_out"], summary["dropped"]) == (frames, {})


def test_a_calibration_logged_once_holds_in_a_later_part(tmp_path):
    with McapWriter(tmp_path / "in.mcap") as writer:
        writer.write_raw("/tf_static", tf(extrinsics()), stamp(0))
        writer.write_raw(INFO, camera_info(0), stamp(0))
        for number in range(60):
            writer.write_raw(IMAGE, image(number), stamp(number))
            writer.write_raw(POINTS, cloud(number), stamp(number))
    with open_recording(tmp_path / "in.mcap") as recording:
        part = RecordingWindow(recording, 3.0)
        summary = replay(part, choose_topics(part), Config(), tmp_path / "out", MedianEngine()).summary
    assert (summary["frames_out"], summary["dropped"]) == (30, {})


def test_no_image_of_a_fast_camera_is_dropped_while_it_waits_for_a_late_lidar(tmp_path):
    with McapWriter(tmp_path / "in.mcap") as writer:
        writer.write_raw("/tf_static", tf(extrinsics()), stamp(0))
        writer.write_raw(INFO, camera_info(0), stamp(0))
        # 200 Hz against 10 Hz; the sweeps are logged 0.8 s late, so that 160 images wait. A pause lowers the mean rate.
        messages = [(stamp(number / 20), IMAGE, image(number / 20)) for number in range(400)]
        messages += [(stamp(number) + 8 * FRAME_NS, POINTS, cloud(number)) for number in range(21)]
        messages += [(stamp(600), INFO, camera_info(600))]
        for log_ns, topic, message in sorted(messages, key=lambda item: item[0]):
            writer.write_raw(topic, message, log_ns)
    summary = run(tmp_path / "in.mcap", tmp_path / "out", accuracy_every=0).summary
    assert (summary["frames_out"], summary["dropped"]) == (400, {})


def test_the_queue_follows_the_rate_and_is_bounded_by_memory(tmp_path, monkeypatch):
    with open_recording(record(tmp_path / "in.mcap")) as recording:
        topics = choose_topics(recording)
        assert patient(Config(), recording, topics).sync.queue_size == feed_module.MIN_QUEUE
        for rate_hz, size, expected in (
            (200.0, 10**6, 600),
            (200.0, 10**7, 214),
            (10.0**9, 10, 2000),
            (200.0, 2**31, 100),
        ):
            monkeypatch.setattr(feed_module, "_rate_and_size", lambda *_, found=(rate_hz, size): found)
            assert patient(Config(), recording, topics).sync.queue_size == expected


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


def test_accuracy_says_how_many_judged_returns_lie_on_published_depth(tmp_path):
    class Unsure(MedianEngine):
        def estimate(self, *args: Any) -> Any:
            estimate = super().estimate(*args)
            estimate.confidence[:, :32] = 0.001  # below output.min_confidence
            return estimate

    accuracy = run(record(tmp_path / "in.mcap"), tmp_path / "out", Unsure(), accuracy_every=1).summary["accuracy"]
    assert accuracy["coverage"] == 1.0, "the errors are of all estimates"
    # The wall fills the image from side to side, so half of the returns lie left of the middle, give or take a column.
    assert accuracy["published"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("unit", "has_time"), [("auto", False), ("s", True)])
def test_the_inputs_are_read_as_the_settings_say(tmp_path, monkeypatch, unit, has_time):
    decode = seen.messages.decode_cloud
    asked = []

    def decode_cloud(message: Any, *, time_unit: str = "auto") -> LidarSweep:
        asked.append(time_unit)
        return dataclasses.replace(decode(message), time_s=np.zeros(960, np.float32) if time_unit == "s" else None)

    inputs = seen.InputsSeen(unit)
    monkeypatch.setattr(seen.messages, "decode_cloud", decode_cloud)
    inputs.on_points(POINTS, cloud(0))
    assert asked == [unit]
    assert inputs.summary()["lidars"][0]["has_time"] is has_time


def test_a_lidar_logged_half_a_second_late_costs_no_frame(tmp_path):
    with McapWriter(tmp_path / "in.mcap") as writer:
        writer.write_raw("/tf_static", tf(extrinsics()), stamp(0))
        for number in range(20):
            writer.write_raw(INFO, camera_info(number), stamp(number))
            writer.write_raw(IMAGE, image(number), stamp(number))
            writer.write_raw(POINTS, cloud(number), stamp(number) + 5 * FRAME_NS)
    assert run(tmp_path / "in.mcap", tmp_path / "out").summary["frames_out"] == 20


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


def test_progress_rises_to_the_end(tmp_path):
    parts: list[float] = []
    run(record(tmp_path / "in.mcap"), tmp_path / "out", progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


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


def test_samples_hold_what_a_report_shows(tmp_path):
    report = run(record(tmp_path / "in.mcap", frames=30), tmp_path / "out", accuracy_every=10)
    assert len(report.samples) == 8
    sample = report.samples[0]
    assert sample.image.shape == (48, 64, 3) and sample.image.dtype == np.uint8
    assert sample.depth.shape == sample.sparse.shape == sample.confidence.shape == (48, 64)
    assert len(sample.error_uv) == len(sample.error_m) == len(sample.truth_m) > 50
    np.testing.assert_allclose(sample.error_m, 0, atol=1e-4)
    assert sample.metrics["mae"] == pytest.approx(0, abs=1e-4)


@pytest.mark.real
def test_real_frames_go_through_with_most_of_the_scene_covered(tmp_path, real_frames):
    folder = real_frames / "kitti_sequence"
    calib = json.loads((folder / "calib.json").read_text())
    camera = make_camera(calib["width"], calib["height"], calib["K"], calib["dist"], "plumb_bob")
    bag = tmp_path / "kitti.mcap"
    with McapWriter(bag) as writer:
        writer.write_tf([StampedTransform("camera", "velodyne", 0, np.array(calib["T_cam_lidar"]))], static=True)
        for number, path in enumerate(sorted(folder.glob("*.npz"))[:3]):
            data = np.load(path)
            points = (data["xyz_mm"] / 1000).astype(np.float32)
            sweep = LidarSweep(points, stamp(number), "velodyne", ring=data["ring"].astype(np.int32))
            writer.write_points(POINTS, sweep)
            writer.write_camera_info("/camera/image_raw/camera_info", camera, stamp(number), "camera")
            jpeg = path.with_suffix(".jpg").read_bytes()
            writer.write_compressed_image("/camera/image_raw/compressed", jpeg, stamp(number), "camera")
    report = run(bag, tmp_path / "out", accuracy_every=1)
    assert (report.summary["frames_out"], report.summary["dropped"]) == (3, {})
    for sample in report.samples:
        # A 64-line sweep gives this camera about 19000 returns; fewer pixels are left after culling and shrinking.
        assert 8_000 < np.count_nonzero(sample.sparse) < 25_000
        assert len(sample.error_uv) > 3_000
        assert sample.image.shape[1] == 960


def empty_sample(number: int) -> Sample:
    image, depth, none = np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.float32), np.zeros(0, np.float32)
    return Sample(number, 0, image, depth, depth, depth, np.zeros((0, 2), np.float32), none, none, {}, {}, (1, 1))


@pytest.mark.parametrize("frames", [1, 5, 8, 9, 15, 16, 17, 100, 5000])
def test_samples_are_few_and_evenly_spread_however_long_the_run(frames):
    keeper = SampleKeeper(8)
    most = 0
    for number in range(frames):
        if keeper.wants(number):
            keeper.keep(empty_sample(number))
        most = max(most, len(keeper._kept))
    numbers = [sample.number for sample in keeper.samples()]
    assert most < 16
    assert len(numbers) == min(frames, 8)
    assert numbers[0] == 0 and numbers[-1] >= frames * 3 // 4
    gaps = np.diff(numbers)
    # Every 2nd of 15 kept frames cannot be hit exactly: one gap may be twice another.
    assert len(gaps) == 0 or gaps.max() <= 2 * gaps.min()


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
