"""Parts of the node that need ROS 2, but no process of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("rclpy")

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
