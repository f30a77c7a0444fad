"""The node under load: a process of its own is sent the same image and sweep at a rate, and says how long it took."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from mf_ros.core.camera import CameraModel
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import ByteArray, LidarSweep
from mf_ros.engine.outputs import OUTPUTS
from mf_ros.errors import MfRosError
from mf_ros.ros.inputs import CAMERA_INFO, IMAGE, POINTS, TF
from mf_ros.ros.types import MessageTypes, message_builder

CAMERA_FRAME, LIDAR_FRAME = "camera", "lidar"
_START_S = 60.0
_WARM_PART = 0.1
_DOMAIN = 97


@dataclass(frozen=True)
class LoadResult:
    """What the node said of itself, and what arrived.

    Attributes:
        sent, received: images sent, and depth images heard.
        latency_ms: ``{stage: {"p50": ms, "p95": ms}}`` from /diagnostics, of the last minute.
        memory_mb: resident memory of the node after the first tenth of the images, and at the end.
    """

    sent: int
    received: int
    latency_ms: Dict[str, Dict[str, float]]
    memory_mb: List[float]


def load_node(
    image: ByteArray,
    camera: CameraModel,
    sweep: LidarSweep,
    *,
    engine: str,
    rate_hz: float,
    frames: int,
    progress: Optional[Callable[[float], None]] = None,
) -> LoadResult:
    """Start the node, send it ``frames`` images with their sweeps, subscribe to all of its outputs.

    Args:
        image: (H, W, 3) uint8 RGB.
        camera: model of ``image``.
        sweep: points in the camera's optical frame.
        engine: as ``engine.name``.
        rate_hz: images per second.
        frames: how many.
        progress: told the part done, in [0, 1].

    Raises:
        MfRosError: the node does not start, or says nothing.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "node.log").open("w+") as log:
        command = [sys.executable, "-m", "mf_ros.ros.depth_node", "--ros-args", "-p", f"engine.name:={engine}"]
        node = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "ROS_DOMAIN_ID": str(_DOMAIN)}
        )
        peer = _Peer()
        try:
            if not peer.wait_for_node(node):
                log.seek(0)
                raise MfRosError(f"The node did not start: {' '.join(log.read().split())[-1000:]}")
            return peer.send(image, camera, sweep, rate_hz, frames, progress or (lambda part: None))
        finally:
            peer.close()
            node.send_signal(signal.SIGINT)
            try:
                node.wait(_START_S)
            except subprocess.TimeoutExpired:
                node.kill()


class _Peer:
    """Publishes the inputs, hears the outputs."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=_DOMAIN)
        self._node = Node("mf_ros_load", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._types = MessageTypes()
        self._build = message_builder(reuse=False)
        self._heard = 0
        self._values: Dict[str, str] = {}
        for output, msgtype in OUTPUTS.items():
            # Not unpacked, as a recorder takes them: what consumers do with messages is not the node's time.
            self._node.create_subscription(self._types[msgtype], output, self._listener(output), 2, raw=True)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publishers = {
            topic: self._node.create_publisher(self._types[msgtype], topic, 1)
            for topic, msgtype in (("image", IMAGE), ("camera_info", CAMERA_INFO), ("points", POINTS))
        }
        self._static = self._node.create_publisher(self._types[TF], "/tf_static", latched)

    def wait_for_node(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the node subscribes to the image in time."""
        return self._until(
            lambda: self._publishers["points"].get_subscription_count() > 0 or process.poll() is not None, _START_S
        ) and (process.poll() is None)

    def send(
        self,
        image: ByteArray,
        camera: CameraModel,
        sweep: LidarSweep,
        rate_hz: float,
        frames: int,
        progress: Callable[[float], None],
    ) -> LoadResult:
        """Publish at the rate; the sweep goes first, so that the image waits for nothing."""
        self._static.publish(self._build.transforms([StampedTransform(CAMERA_FRAME, LIDAR_FRAME, 0, np.eye(4))])[1])
        begin, begin_ns = time.monotonic(), time.time_ns()
        # Made once, so that this process takes little of the machine from the node.
        messages = {
            "points": self._build.sweep(replace(sweep, frame_id=LIDAR_FRAME))[1],
            "camera_info": self._build.camera_info(camera, begin_ns, CAMERA_FRAME)[1],
            "image": self._build.image(image, begin_ns, CAMERA_FRAME, "rgb8")[1],
        }
        memory: List[float] = []
        for number in range(frames):
            self._until(lambda due=begin + number / rate_hz: time.monotonic() >= due, 1e9)  # type: ignore[misc]
            stamp = begin_ns + round(number * 1e9 / rate_hz)
            for topic, message in messages.items():
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
                self._publishers[topic].publish(message)
            if not memory and number >= _WARM_PART * frames and self._memory():
                memory.append(self._memory())
            progress(number / frames)
        self._values.clear()
        if not self._until(lambda: "latency overhead p95 ms" in self._values and self._memory() > 0, _START_S):
            raise MfRosError("The node says nothing on /diagnostics: did it receive anything? See docs/node.md on DDS.")
        return LoadResult(frames, self._heard, self._latencies(), [*memory, self._memory()])

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()
        self._context.shutdown()

    def _listener(self, output: str) -> Callable[[Any], None]:
        def heard(message: Any) -> None:
            self._heard += output == "depth/image"

        return heard

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self._values.update({each.key: each.value for each in status.values})

    def _memory(self) -> float:
        return float(self._values.get("memory of the process MB", 0.0))

    def _latencies(self) -> Dict[str, Dict[str, float]]:
        found: Dict[str, Dict[str, float]] = {}
        for key, value in self._values.items():
            if key.startswith("latency "):
                _, stage, percent, _ = key.split()
                found.setdefault(stage, {})[percent] = float(value)
        return found

    def _until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.001)
        return True
