"""The node's subscriptions. Their callbacks only store: what a message holds is looked at by the worker."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)

from mf_ros.core import messages
from mf_ros.core.config import NodeConfig
from mf_ros.core.topics import CAMERA_INFO_TYPE, IMAGE_TYPES, POINTS_TYPE, TF_TYPES
from mf_ros.core.transforms import StampedTransform
from mf_ros.errors import MessageError, TransformError
from mf_ros.ros.camera_stream import CameraStream, qos_overrides
from mf_ros.ros.types import MessageTypes
from mf_ros.ros.watch import InputWatch, Publisher

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

IMAGE, COMPRESSED = IMAGE_TYPES
CAMERA_INFO, POINTS, TF = CAMERA_INFO_TYPE, POINTS_TYPE, TF_TYPES[0]

# Policies and no profiles: overriding one changes the profile that was given.
_SENSOR = {"history": HistoryPolicy.KEEP_LAST, "depth": 5, "reliability": ReliabilityPolicy.BEST_EFFORT}
_INFO = {**_SENSOR, "depth": 10}
_TF = {"history": HistoryPolicy.KEEP_LAST, "depth": 100, "reliability": ReliabilityPolicy.RELIABLE}
_TF_STATIC = {**_TF, "durability": DurabilityPolicy.TRANSIENT_LOCAL}
# A transform that comes sooner after the last one of its frame adds nothing that interpolation does not know.
_TF_STEP_NS = 4_000_000
_KEPT, _KEPT_TF = 3, 300


class Received(NamedTuple):
    """A message that was kept: the topic it came on, when in nanoseconds of the wall clock, and its type."""

    topic: str
    received_ns: int
    msgtype: str
    message: Any


class NodeInputs:
    """Subscribes to everything that the cameras need.

    Args:
        node: subscribes.
        config: names and transports.
        streams: the cameras; LiDARs and transforms go to all of them.
        wake: called after each message.

    Attributes:
        watches: what came, by subscription; those of /tf are left out, since robots may do without.
    """

    def __init__(
        self, node: LifecycleNode, config: NodeConfig, streams: Sequence[CameraStream], wake: Callable[[], None]
    ) -> None:
        self.watches: List[InputWatch] = []
        self._node = node
        self._streams = streams
        self._wake = wake
        self._types = MessageTypes()
        self._subscriptions: List[Any] = []
        self._recent: Dict[str, Deque[Received]] = {}
        self._tf_stamps: Dict[Tuple[str, str], int] = {}
        compressed = config.image_transport == "compressed"
        for stream in streams:
            image = stream.prefix + ("image/compressed" if compressed else "image")
            self._subscribe("image", image, COMPRESSED if compressed else IMAGE, _SENSOR, self._image_callback(stream))
            self._subscribe(
                "camera_info", f"{stream.prefix}camera_info", CAMERA_INFO, _INFO, self._info_callback(stream), kept=1
            )
        for sensor, topic in enumerate(config.points_topics):
            self._subscribe("points", topic, POINTS, _SENSOR, self._points_callback(sensor))
        self._subscribe("tf", "/tf", TF, _TF, self._on_tf, kept=_KEPT_TF, watched=False)
        self._subscribe("tf_static", "/tf_static", TF, _TF_STATIC, self._on_tf_static, kept=_KEPT_TF, watched=False)

    def recent(self) -> List[Received]:
        """The last messages of each topic, for a snapshot."""
        return [each for kept in self._recent.values() for each in list(kept)]

    def silent(self) -> Iterator[str]:
        """Why nothing comes, one sentence for each input that is silent."""
        silent = [watch for watch in self.watches if watch.is_silent]
        if not silent:
            return
        known = self._node.get_topic_names_and_types()
        own = {watch.topic for watch in self.watches}
        own.update(publisher.topic_name for stream in self._streams for publisher in stream.publishers.values())
        for watch in silent:
            publishers = [
                Publisher(
                    f"{info.node_namespace.rstrip('/')}/{info.node_name}",
                    info.topic_type,
                    info.qos_profile.reliability.name.lower(),
                    info.qos_profile.durability.name.lower(),
                )
                for info in self._node.get_publishers_info_by_topic(watch.topic)
            ]
            others = [
                topic
                for topic, types in known
                if watch.msgtype in types and topic not in own and self._node.count_publishers(topic)
            ]
            text = watch.why_silent(publishers, others)
            if text:
                yield text

    def destroy(self) -> None:
        """Take the subscriptions away."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _subscribe(
        self,
        role: str,
        topic: str,
        msgtype: str,
        qos: Dict[str, Any],
        store: Callable[[Any], None],
        *,
        kept: int = _KEPT,
        watched: bool = True,
    ) -> None:
        name = self._node.resolve_topic_name(topic)
        # Some drivers send the calibration once or rarely.
        watch = InputWatch(role, name, msgtype, once=msgtype == CAMERA_INFO)
        recent = self._recent.setdefault(name, deque(maxlen=kept))

        def on_message(message: Any) -> None:
            store(message)
            watch.note()
            recent.append(Received(name, time.time_ns(), msgtype, message))
            self._wake()

        def on_refused(event: Any) -> None:
            watch.note_refused(qos_policy_name_from_kind(event.last_policy_kind))

        self._subscriptions.append(
            self._node.create_subscription(
                self._types[msgtype],
                topic,
                on_message,
                QoSProfile(**qos),
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_refused),
                qos_overriding_options=qos_overrides(),
            )
        )
        if watched:
            self.watches.append(watch)

    def _image_callback(self, stream: CameraStream) -> Callable[[Any], None]:
        return lambda message: stream.pipeline.on_image(message, time.monotonic_ns())

    def _info_callback(self, stream: CameraStream) -> Callable[[Any], None]:
        return lambda message: stream.pipeline.on_camera_info(message)

    def _points_callback(self, sensor: int) -> Callable[[Any], None]:
        def store(message: Any) -> None:
            try:
                sweep = self._streams[0].pipeline.stored_sweep(sensor, message)
            except MessageError as error:
                for stream in self._streams:
                    stream.pipeline.on_bad_message("points", error)
                return
            for stream in self._streams:
                stream.pipeline.on_sweep(sensor, sweep)

        return store

    def _on_tf_static(self, message: Any) -> None:
        self._store_transforms(message.transforms, static=True)

    def _on_tf(self, message: Any) -> None:
        wanted = []
        for item in message.transforms:
            key = item.header.frame_id, item.child_frame_id
            stamp = item.header.stamp.sec * 1_000_000_000 + item.header.stamp.nanosec
            if not 0 <= stamp - self._tf_stamps.get(key, -_TF_STEP_NS) < _TF_STEP_NS:
                self._tf_stamps[key] = stamp
                wanted.append(item)
        self._store_transforms(wanted, static=False)

    def _store_transforms(self, items: Sequence[Any], static: bool) -> None:
        decoded: List[StampedTransform] = []
        for item in items:
            try:
                decoded.append(messages.transform_of(item))
            except (MessageError, TransformError) as error:
                for stream in self._streams:
                    stream.pipeline.on_bad_message("tf", error)
        for stream in self._streams:
            stream.pipeline.on_transforms(decoded, static)
