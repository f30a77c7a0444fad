"""For the tests of replay: a recording of the wall, its replay, and what was written."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

from wall_scene import CAMERA_FRAME, MedianEngine, camera_info, cloud, extrinsics, image, stamp, tf

from mf_ros.bags.reader import open_recording
from mf_ros.bags.replay import replay
from mf_ros.bags.samples import ReplayReport
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config
from mf_ros.core.topics import choose_topics

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
