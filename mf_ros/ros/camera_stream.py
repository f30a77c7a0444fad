"""One camera of the node: its pipeline, and the topics of its results."""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Dict, Optional

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from mf_ros.core.config import Config
from mf_ros.core.message_builder import Message, MessageBuilder
from mf_ros.engine import reasons
from mf_ros.engine.health import HealthMonitor
from mf_ros.engine.inputs import FrameSet
from mf_ros.engine.outputs import OUTPUTS, ResultMessages
from mf_ros.engine.pipeline import DepthPipeline, DepthResult
from mf_ros.engine.protocol import DepthEngine, without_memory
from mf_ros.engine.stats import RECENT, Latency
from mf_ros.errors import MfRosError
from mf_ros.ros.refiner import RefinedStream
from mf_ros.ros.types import MessageTypes, message_builder

# Policies and no profile: overriding one changes the profile that was given.
_OUTPUT_QOS = {"history": HistoryPolicy.KEEP_LAST, "depth": 2, "reliability": ReliabilityPolicy.RELIABLE}
_OVERRIDABLE = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
_LONGEST_UNJUDGED_S = 1.0


def qos_overrides() -> QoSOverridingOptions:
    """What parameters may change about the QoS of each of the node's topics."""
    return QoSOverridingOptions(_OVERRIDABLE)


class CameraStream:
    """Depth of one camera.

    Args:
        node: publishes.
        name: of the camera, the first part of its topics; empty for none.
        config: settings.
        engine: shared by all cameras; what it remembers of earlier frames is each camera's own.

    Attributes:
        prefix: first part of its topics.
        label: first part of its names in the diagnostics.
        last, last_ns: the last result that was made, and when it was published, nanoseconds of the wall clock.
        refined: where results are offered to be refined; None while nothing is.
    """

    def __init__(self, node: LifecycleNode, name: str, config: Config, engine: DepthEngine) -> None:
        self.prefix = f"{name}/" if name else ""
        self.label = f"{name}: " if name else ""
        self.pipeline = self._pipeline(config, engine)
        self.health = HealthMonitor()
        self.last: Optional[DepthResult] = None
        self.last_ns = 0
        self.refined: Optional[RefinedStream] = None
        self._epoch = 0
        self._judged = 0.0
        self._node = node
        self._messages = ResultMessages(message_builder(), config)
        self._types = MessageTypes()
        self.publishers: Dict[str, Any] = {
            output: self._advertise(node.create_lifecycle_publisher, output, msgtype)
            for output, msgtype in OUTPUTS.items()
        }

    def advertise(self, topic: str, msgtype: str) -> Any:
        """A publisher on a topic below the camera's name, as those of its outputs; for an active node."""
        return self._advertise(self._node.create_publisher, topic, msgtype)

    def retract(self, publisher: Any) -> None:
        """Take a publisher away."""
        self._node.destroy_publisher(publisher)

    def restart(self, config: Config, engine: DepthEngine) -> None:
        """Begin anew: nothing waits, nothing is counted."""
        self.pipeline = self._pipeline(config, engine)
        self.health.reset()
        self.last = None
        self._epoch = 0
        self._messages.config = config

    def configure(self, config: Config) -> None:
        """Use other settings from the next image on."""
        self.pipeline.configure(config)
        self._messages.config = config

    def use_engine(self, engine: DepthEngine) -> None:
        """Make depth with another engine from the next image on."""
        self.pipeline.use_engine(without_memory(engine))
        self.health.reset()

    def message(self, builder: MessageBuilder, output: str) -> Message:
        """Type and message of the last result, which there must be."""
        assert self.last is not None
        return ResultMessages(builder, self._messages.config).make(output, self.last)

    def release(self) -> None:
        """Let go of the engine and of everything that waits; ``restart`` brings them back."""
        self.pipeline.release()

    def work(self) -> bool:
        """Process and publish the newest image that can be; returns whether there was one."""
        taken = self.pipeline.ready(latest=True)
        for frame_set in taken:
            self._process(frame_set)
        return bool(taken)

    def destroy(self) -> None:
        """Take the topics away."""
        for publisher in self.publishers.values():
            # The other way to destroy one leaves it among those whose state the node changes with its own.
            self._node.destroy_lifecycle_publisher(publisher)
        self.publishers = {}

    def _process(self, frame_set: FrameSet) -> None:
        if frame_set.epoch != self._epoch:
            self._epoch = frame_set.epoch
            self.health.reset()
        heard = [output for output, publisher in self.publishers.items() if publisher.get_subscription_count() > 0]
        refined = self.refined
        refine = refined is not None and refined.wanted
        if not heard and not refine:
            self.pipeline.count_drop(frame_set, reasons.UNHEARD, "nobody subscribes to an output.")
            return
        begun_ns = time.monotonic_ns()
        result = self.pipeline.process(frame_set)
        if result is None:
            return
        start = time.perf_counter()
        try:
            for output in heard:
                _, message = self._messages.make(output, result)
                self.publishers[output].publish(message)
        except MfRosError as error:
            self.pipeline.warnings.add(reasons.NOT_PUBLISHED, str(error))
            return
        published = time.perf_counter()
        self.last, self.last_ns = result, time.time_ns()
        if refined is not None and refine:
            refined.offer(result, self._epoch)
        age_ms = (time.monotonic_ns() - result.source.received_ns) / 1e6
        waited_ms = (begun_ns - result.source.received_ns) / 1e6
        self.pipeline.latency.add(
            {
                "waited": waited_ms,
                "publish": 1000.0 * (published - start),
                "received_to_published": age_ms,
                "overhead": age_ms - result.timings_ms["estimate"],
            }
        )
        # Health can wait while images do, though not for long.
        if self.pipeline.waiting == 0 or published - self._judged > _LONGEST_UNJUDGED_S:
            self._judged = published
            self.health.update(result)

    def _advertise(self, create: Callable[..., Any], topic: str, msgtype: str) -> Any:
        return create(
            self._types[msgtype],
            self.prefix + topic,
            QoSProfile(**_OUTPUT_QOS),
            qos_overriding_options=qos_overrides(),
        )

    def _pipeline(self, config: Config, engine: DepthEngine) -> DepthPipeline:
        pipeline = DepthPipeline(
            config,
            without_memory(engine),
            len(config.node.points_topics),
            rectified_input=config.node.rectified_input,
            log_level=logging.WARNING,
        )
        pipeline.latency = Latency(RECENT)
        return pipeline
