"""Parts of the node that need ROS 2, but no process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_updater import DiagnosticStatusWrapper
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_peer import new_domain
from wall_scene import CAMERA, CAMERA_FRAME, extrinsics, stamp, wall

from mf_ros.engine import reasons
from mf_ros.engine.outputs import OUTPUTS
from mf_ros.engine.stats import Latency, ReasonCounter
from mf_ros.ros.depth_node import DepthNode
from mf_ros.ros.diagnostics import ERROR, OK, WARN, DepthStatus
from mf_ros.ros.inputs import Received
from mf_ros.ros.snapshot import write_snapshot
from mf_ros.ros.types import message_builder

pytestmark = pytest.mark.ros

# rclpy itself is loaded first, because it uses the newer module where that exists.
_AS_ON_HUMBLE = """
import sys, types
import rclpy.node
from rclpy.event_handler import SubscriptionEventCallbacks
sys.modules["rclpy.event_handler"] = None
sys.modules["rclpy.qos_event"] = types.ModuleType("rclpy.qos_event")
sys.modules["rclpy.qos_event"].SubscriptionEventCallbacks = SubscriptionEventCallbacks
import mf_ros.ros.depth_node
"""


def test_the_node_finds_the_events_of_qos_where_humble_has_them() -> None:
    done = subprocess.run([sys.executable, "-c", _AS_ON_HUMBLE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


class Camera:
    """What a camera's status looks at: images that came, gave depth or were dropped, and a clock that a test sets."""

    def __init__(self) -> None:
        self.pipeline = SimpleNamespace(
            frames_in=0,
            frames_out=0,
            waiting=0,
            dropped=ReasonCounter(),
            warnings=ReasonCounter(),
            latency=Latency(),
        )
        self.now = 0.0
        self._status = DepthStatus(self, lambda: self.now)

    def after(self, seconds: float, came: int, went: int, **dropped: int) -> tuple[bytes, str]:
        """Level and sentence after some time in which this happened."""
        self.now += seconds
        self.pipeline.frames_in += came
        self.pipeline.frames_out += went
        for reason, count in dropped.items():
            self.pipeline.dropped.add(reason, f"text of {reason}", count)
        stat = self._status(DiagnosticStatusWrapper())
        return stat.level, stat.message


def test_an_engine_that_is_slower_than_the_camera_is_no_fault() -> None:
    camera = Camera()
    assert camera.after(1.0, 30, 12, stale=18) == (OK, "depth of 12 images")
    assert camera.after(1.0, 30, 0, stale=29)[0] == OK, "an engine of two seconds for an image"
    assert camera.after(1.0, 30, 0, unheard=30) == (OK, "nobody subscribes to an output")


def test_images_that_fail_are_judged_without_those_that_were_left_alone() -> None:
    camera = Camera()
    level, text = camera.after(1.0, 30, 0, stale=20, no_transform=9)
    assert (level, text) == (ERROR, "no depth of 9 images, no_transform: text of no_transform")
    level, text = camera.after(1.0, 30, 4, stale=18, no_lidar=8)
    assert (level, text) == (WARN, "depth of 4 of 12 images, no_lidar: text of no_lidar")
    assert camera.after(1.0, 30, 8, stale=18, no_lidar=4)[0] == OK


def test_an_engine_that_hangs_is_told() -> None:
    camera = Camera()
    levels = [camera.after(1.0, 30, 0, **{reasons.STALE: 30})[0] for _ in range(12)]
    assert levels == [OK] * 10 + [WARN] * 2, "ten seconds after the first look"
    assert camera.after(1.0, 30, 1)[0] == OK
    assert camera.after(30.0, 0, 0) == (OK, "no image came")
    assert camera.after(1.0, 30, 0, stale=29)[0] == OK, "the pause is no time of the engine"


def test_a_snapshot_begins_with_what_is_sent_once_however_long_ago_that_was(tmp_path: Path) -> None:
    pytest.importorskip("rosbag2_py")
    pytest.importorskip("rosbags")
    from mf_ros.bags.reader import open_recording

    build = message_builder(reuse=False)
    now, hours = 1_700_000_000 * 10**9, 4 * 3600 * 10**9
    received = [
        Received("/points", now + 10**8, *build.sweep(wall(1))),
        Received("/tf", now - 10**9, *build.transforms([extrinsics()])),
        Received("/tf_static", now - hours, *build.transforms([extrinsics()])),
        Received("/camera_info", now - hours, *build.camera_info(CAMERA, stamp(0), CAMERA_FRAME)),
    ]
    with open_recording(write_snapshot(tmp_path, received)) as bag:
        logged = [(each.topic, each.log_ns - now) for each in bag.messages([each.topic for each in received])]
    assert logged[:2] == [("/tf_static", -(10**9)), ("/camera_info", -(10**9))]
    assert logged[2:] == [("/tf", -(10**9)), ("/points", 10**8)]


@pytest.fixture
def node_with() -> Iterator[Callable[..., DepthNode]]:
    """Makes nodes with settings that are not spun."""
    context = Context()
    rclpy.init(context=context, domain_id=new_domain())
    nodes = []

    def make(**settings: Any) -> DepthNode:
        given = {"engine.name": "classical", **settings}
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in given.items()]
        nodes.append(DepthNode(context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def test_what_was_advertised_is_forgotten_at_cleanup(node_with: Callable[..., DepthNode]) -> None:
    node = node_with()
    before = len(list(node.publishers))
    for _ in range(3):
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert len(node._managed_entities) == len(OUTPUTS)
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert not node._managed_entities, "they would change their state with the node for ever"
    assert len(list(node.publishers)) == before


def test_a_camera_that_cannot_be_made_takes_the_one_before_along(node_with: Callable[..., DepthNode]) -> None:
    node = node_with(node__camera_names=["front", "rear camera"])
    before = len(list(node.publishers))
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert len(list(node.publishers)) == before and not node._managed_entities
