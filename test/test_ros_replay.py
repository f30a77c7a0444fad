"""The node and ``mf-ros replay`` make the same depth of the same recording."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from rclpy.serialization import deserialize_message
from ros_peer import LATCHED, TYPES, NodeProcess, Peer, new_domain, stamp_of, wait_until

from mf_ros.bags.reader import open_recording
from mf_ros.bags.replay import replay
from mf_ros.core.config import Config, EngineConfig
from mf_ros.core.topics import choose_topics
from mf_ros.engine import make_engine
from mf_ros.simulate.recording import IMAGE_TOPIC, INFO_TOPIC, POINTS_TOPIC, simulate

pytestmark = pytest.mark.ros

SECONDS, RATE_HZ, SLOWER = 1.5, 10.0, 3.0
TYPE_OF = {
    IMAGE_TOPIC: "sensor_msgs/msg/Image",
    INFO_TOPIC: "sensor_msgs/msg/CameraInfo",
    POINTS_TOPIC: "sensor_msgs/msg/PointCloud2",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short drive with motion during each sweep, so that its compensation is compared as well."""
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    simulate(path, seconds=SECONDS, rate_hz=RATE_HZ, rings=16, columns=400, width=160, height=96)
    return path


def replayed(drive: Path, out: Path, output: str) -> dict[int, Any]:
    with open_recording(drive) as recording:
        topics = choose_topics(recording)
        replay(recording, topics, Config(), out, make_engine(EngineConfig(name="classical")), accuracy_every=0)
    with open_recording(out / "out.mcap") as recording:
        return {stamp_of(each): each for each in (message.decode() for message in recording.messages([output]))}


def test_live_depth_and_cloud_are_those_of_the_replay(drive: Path, tmp_path: Path) -> None:
    domain = new_domain()
    remapped = tuple(
        part
        for wanted, topic in (("image", IMAGE_TOPIC), ("camera_info", INFO_TOPIC), ("points", POINTS_TOPIC))
        for part in ("-r", f"{wanted}:={topic}")
    )
    # Played slower, so that no image is skipped on a busy machine, whose stamps are as before.
    node = NodeProcess(tmp_path, domain, arguments=remapped)
    peer = Peer(domain)
    try:
        assert node.says("Active"), node.log
        peer.listen("depth/image", "depth/points")
        play(peer, drive)
        wait_until(lambda: len(peer.heard["/depth/image"]) >= SECONDS * RATE_HZ - 1, 5.0)
        for output in ("/depth/image", "/depth/points"):
            expected = replayed(drive, tmp_path / output.replace("/", "_"), output)
            live = {stamp_of(message): message for message in list(peer.heard[output])}
            assert len(live) >= 0.7 * len(expected) > 5, node.log
            for stamp, message in live.items():
                assert np.array_equal(np.frombuffer(message.data, np.uint8), expected[stamp].data), (
                    f"{output} at {stamp}"
                )
    finally:
        peer.close()
        node.stop()


def play(peer: Peer, drive: Path) -> None:
    """Publish a recording's messages at the rate at which they were logged, slowed down."""
    with open_recording(drive) as recording:
        messages = [(each.topic, each.log_ns, bytes(each.data)) for each in recording.messages(list(TYPE_OF))]
    begin = time.monotonic()
    for topic, log_ns, data in messages:
        due = begin + SLOWER * (log_ns - messages[0][1]) / 1e9
        time.sleep(max(0.0, due - time.monotonic()))
        message = deserialize_message(data, TYPES[TYPE_OF[topic]])
        peer.publish(topic, (TYPE_OF[topic], message), LATCHED if topic == "/tf_static" else 50)
