"""Replay: what comes out of a recording, exactly, and what its summary says."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from replayed import IMAGE, LATENCY_NS, POINTS, read, record, run, stamps
from wall_scene import CAMERA, CAMERA_FRAME, WALL_M, cloud, stamp

from mf_ros.bags import seen
from mf_ros.bags.replay import write_json
from mf_ros.core.config import CloudConfig, Config, OutputConfig
from mf_ros.core.types import LidarSweep


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


def test_progress_rises_to_the_end(tmp_path):
    parts: list[float] = []
    run(record(tmp_path / "in.mcap"), tmp_path / "out", progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
