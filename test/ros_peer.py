"""For the tests that start the node: the node as a process, and a peer that sends it messages and hears its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_srvs.srv import Trigger
from wall_scene import CAMERA, CAMERA_FRAME, extrinsics, stamp, wall

from mf_ros.engine.outputs import OUTPUTS
from mf_ros.ros.types import MessageTypes, message_builder

TYPES = MessageTypes()
BUILD = message_builder(reuse=False)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TIMEOUT_S = 20.0

_SLOW_NODE = Path(__file__).with_name("slow_node.py")
_domains = itertools.count(os.getpid() % 60 + 101)


def stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def wait_until(done: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> bool:
    """Whether something became true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.02)
    return bool(done())


class NodeProcess:
    """The node in a process of its own.

    Args:
        folder: for its log and its files.
        domain: ROS domain, so that tests do not hear each other.
        parameters: settings by dotted name.
        arguments: further arguments after --ros-args.
        engine_s: how long its engine sleeps for each image; 0 leaves the engine alone.
        slow_engine: the only engine that does; empty for any.
    """

    def __init__(
        self,
        folder: Path,
        domain: int,
        parameters: Optional[dict[str, Any]] = None,
        arguments: tuple[str, ...] = (),
        engine_s: float = 0.0,
        slow_engine: str = "",
    ) -> None:
        self._log = folder / f"node{len(list(folder.glob('node*.log')))}.log"
        given = {"engine.name": "classical", "node.report_period_s": 0.5, **(parameters or {})}
        options = [part for key, value in given.items() for part in ("-p", f"{key}:={_yaml(value)}")]
        program = [str(_SLOW_NODE), f"{slow_engine}:{engine_s}"] if engine_s else ["-m", "mf_ros.ros.depth_node"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(folder), "HOME": str(folder)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--ros-args", *options, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def says(self, text: str, timeout_s: float = TIMEOUT_S) -> bool:
        """Whether the node logs a text in time."""
        return wait_until(lambda: text in self.log, timeout_s)

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it by a signal; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Peer:
    """Another node: publishes the scene of ``wall_scene`` and keeps what it hears."""

    def __init__(self, domain: int, prefix: str = "") -> None:
        self.prefix = prefix
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.status: dict[str, Any] = {}
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("peer", context=self._context)
        self._publishers: dict[str, Any] = {}
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._context.shutdown()
        self._thread.join(TIMEOUT_S)

    def listen_to(self, topic: str, msgtype: str) -> None:
        """Subscribe to one topic."""
        self.node.create_subscription(TYPES[msgtype], topic, self.heard[topic].append, 10)

    def listen(self, *outputs: str, prefix: Optional[str] = None, qos: Any = 10) -> None:
        """Subscribe to outputs of the node; all of them where none is named."""
        for output in outputs or OUTPUTS:
            topic = f"{self.prefix if prefix is None else prefix}/{output}"
            self.node.create_subscription(TYPES[OUTPUTS[output]], topic, self.heard[topic].append, qos)

    def publish(self, topic: str, message: tuple[str, Any], qos: Any = 10) -> None:
        """Publish on a topic, once whoever subscribes to it is known."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(TYPES[message[0]], topic, qos)
            wait_until(lambda: self._publishers[topic].get_subscription_count() > 0, 3.0)
        self._publishers[topic].publish(message[1])

    def publish_extrinsics(self) -> None:
        self.publish("/tf_static", BUILD.transforms([extrinsics()]), LATCHED)

    def publish_image(self, number: float, camera: str = "", compressed: bool = False, shift_ns: int = 0) -> int:
        """Image and camera_info of that number; returns the stamp."""
        at = stamp(number) + shift_ns
        pixels = np.full((CAMERA.height, CAMERA.width, 3), int(number) % 256, np.uint8)
        topic = f"{self.prefix}/{camera}image"
        self.publish(f"{self.prefix}/{camera}camera_info", BUILD.camera_info(CAMERA, at, CAMERA_FRAME))
        if compressed:
            data = cv2.imencode(".png", pixels)[1].tobytes()
            self.publish(f"{topic}/compressed", BUILD.compressed_image(data, at, CAMERA_FRAME, "png"))
        else:
            self.publish(topic, BUILD.image(pixels, at, CAMERA_FRAME, "rgb8"))
        return at

    def publish_sweep(self, number: float, topic: str = "points", qos: Any = 10, lift_m: float = 0.0) -> None:
        sweep = wall(number)
        lifted = replace(sweep, points=sweep.points + np.array([0, 0, lift_m], np.float32))
        self.publish(f"{self.prefix}/{topic}", BUILD.sweep(lifted), qos)

    def publish_set(self, number: float) -> int:
        """Sweep and image of that number; returns the stamp."""
        self.publish_sweep(number)
        return self.publish_image(number)

    def stamps(self, topic: str) -> list[int]:
        return [stamp_of(message) for message in self.heard[topic]]

    def waits_for(self, topic: str, count: int, timeout_s: float = TIMEOUT_S) -> bool:
        return wait_until(lambda: len(self.heard[topic]) >= count, timeout_s)

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Answer of a service."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(TIMEOUT_S), f"there is no service {service}"
        future = client.call_async(request)
        assert wait_until(future.done), f"{service} does not answer"
        self.node.destroy_client(client)
        return future.result()

    def trigger(self, name: str, node: str = "/mf_ros") -> Any:
        return self.call(Trigger, f"{node}/{name}", Trigger.Request())

    def set_parameter(self, name: str, value: Any, node: str = "/mf_ros") -> Any:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"{node}/set_parameters", request).results[0]

    def change_state(self, transition: str, node: str = "/mf_ros") -> bool:
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self.call(ChangeState, f"{node}/change_state", request).success)

    def state(self, node: str = "/mf_ros") -> str:
        return str(self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label)

    def diagnostic(self, name: str, key: str) -> str:
        """A value of /diagnostics; empty when there is none yet."""
        status = self.status.get(name)
        return next((each.value for each in status.values if each.key == key), "") if status else ""

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.status[status.name.split(": ", 1)[1]] = status

    def _spin(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self._executor.spin()


def new_domain() -> int:
    return next(_domains)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_yaml(each) for each in value) + "]"
    return str(value)


def frames(count: int, start: int = 0, period_s: float = 0.05) -> Iterator[int]:
    """Numbers, one each ``period_s`` of the wall clock."""
    for number in range(start, start + count):
        yield number
        time.sleep(period_s)
