"""Replay waits for what was logged late, and looks for what was logged once, so that no frame is lost."""

from __future__ import annotations

from replayed import IMAGE, INFO, POINTS, record, run
from wall_scene import FRAME_NS, MedianEngine, camera_info, cloud, extrinsics, image, stamp, tf

from mf_ros.bags import feed as feed_module
from mf_ros.bags.feed import patient
from mf_ros.bags.reader import open_recording
from mf_ros.bags.replay import replay
from mf_ros.bags.window import RecordingWindow
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config
from mf_ros.core.topics import choose_topics


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


def test_a_lidar_logged_half_a_second_late_costs_no_frame(tmp_path):
    with McapWriter(tmp_path / "in.mcap") as writer:
        writer.write_raw("/tf_static", tf(extrinsics()), stamp(0))
        for number in range(20):
            writer.write_raw(INFO, camera_info(number), stamp(number))
            writer.write_raw(IMAGE, image(number), stamp(number))
            writer.write_raw(POINTS, cloud(number), stamp(number) + 5 * FRAME_NS)
    assert run(tmp_path / "in.mcap", tmp_path / "out").summary["frames_out"] == 20
