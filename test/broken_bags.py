"""Bags with faults, and the command line run on them, for the tests of bad input."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import numpy as np
from mcap.writer import Writer
from wall_scene import STORE, camera_info, cloud, extrinsics, image, stamp, tf

IMAGE, INFO, POINTS, TF = "/camera/image_raw", "/camera/camera_info", "/lidar/points", "/tf_static"
TYPES = {
    IMAGE: "sensor_msgs/msg/Image",
    INFO: "sensor_msgs/msg/CameraInfo",
    POINTS: "sensor_msgs/msg/PointCloud2",
    TF: "tf2_msgs/msg/TFMessage",
}
LATENCY_NS = 7_000_000
COMMANDS = ("check", "replay", "evaluate")
Change = Callable[[Any, int], Any]


def record(path: Path, frames: int = 4, *, torn: Sequence[tuple[str, int]] = (), **changes: Optional[Change]) -> Path:
    """A bag of camera, LiDAR and transforms.

    ``image``, ``info``, ``points`` and ``tf`` take a function of a message and its number that returns another message,
    or None to leave the topic out. ``torn`` lists (topic, number) of messages of which only half is in the file.
    """
    makers = {TF: lambda number: tf(extrinsics()), POINTS: cloud, INFO: camera_info, IMAGE: image}
    names = {TF: "tf", POINTS: "points", INFO: "info", IMAGE: "image"}
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros2")
        channels = {}
        for topic, msgtype in TYPES.items():
            if changes.get(names[topic], lambda message, number: message) is not None:
                text = STORE.generate_msgdef(msgtype, ros_version=2)[0].encode()
                schema = writer.register_schema(msgtype, "ros2msg", text)
                channels[topic] = writer.register_channel(topic, "cdr", schema)
        for number in range(frames):
            for topic, channel in channels.items():
                message = makers[topic](number)
                change = changes.get(names[topic])
                data = bytes(STORE.serialize_cdr(change(message, number) if change else message, TYPES[topic]))
                data = data[: len(data) // 2] if (topic, number) in torn else data
                log_ns = stamp(number) + LATENCY_NS
                writer.add_message(channel, log_ns, data, log_ns)
        writer.finish()
    return path


def always(**fields: Any) -> Change:
    """Replaces fields of every message."""
    return lambda message, number: replace(message, **fields)


def only(number: int, **fields: Any) -> Change:
    """Replaces fields of one message."""
    return lambda message, at: replace(message, **fields) if at == number else message


def shifted(seconds: float) -> Change:
    """Moves header stamps, as a sensor does whose clock is off."""

    def change(message: Any, number: int) -> Any:
        old = message.header.stamp
        sec, nanosec = divmod(old.sec * 10**9 + old.nanosec + round(seconds * 1e9), 10**9)
        return replace(message, header=replace(message.header, stamp=replace(old, sec=sec, nanosec=nanosec)))

    return change


def without_xyz(message: Any, number: int) -> Any:
    return replace(message, fields=[field for field in message.fields if field.name not in "xyz"])


def all_nan(message: Any, number: int) -> Any:
    points = np.array(message.data).reshape(-1, message.point_step)
    points[:, :12] = np.full((len(points), 3), np.nan, np.float32).view(np.uint8)
    return replace(message, data=points.reshape(-1))


def no_length(message: Any, number: int) -> Any:
    """A default-constructed rotation, whose quaternion is 0, 0, 0, 0."""
    item = message.transforms[0]
    zero = replace(item.transform.rotation, x=0.0, y=0.0, z=0.0, w=0.0)
    return replace(message, transforms=[replace(item, transform=replace(item.transform, rotation=zero))])


def cut(path: Path, part: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mf-ros: error: ")
        sentence = lines[0].removeprefix("mf-ros: error: ")
        assert sentence[-1] in ".)", "a sentence, not the name of an exception"
        assert not re.search(r"Traceback|Error\(|Errno|<class|0x[0-9a-f]{6}", sentence)
        return sentence

    @property
    def errors_found(self) -> list[str]:
        """Findings of ``check`` that are errors, each with its advice."""
        found = json.loads(self.out)["findings"]
        assert all(finding["text"] and finding["advice"] for finding in found)
        return [f"{item['text']} {item['advice']}" for item in found if item["severity"] == "error"]


Run = Callable[..., Outcome]


def command_line(*args: Any) -> list[str]:
    """The command for a process of its own."""
    return [sys.executable, "-m", "mf_ros.cli.main", *map(str, args)]
