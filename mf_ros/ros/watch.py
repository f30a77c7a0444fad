"""What comes in: rates and ages, and one sentence on why nothing does. It needs no ROS, to be tested without."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Optional, Sequence

_KEPT = 30
# Silence is what lasts so long, and so many times as long as the topic usually takes from one message to the next.
_SILENT_S = 2.0
_SILENT_PERIODS = 3
_LISTED = 4


@dataclass(frozen=True)
class Publisher:
    """Who offers a topic.

    Attributes:
        node: full name of its node.
        msgtype: name of the message type.
        reliability, durability: what it offers, in lower case, for example best_effort.
    """

    node: str
    msgtype: str
    reliability: str
    durability: str


class InputWatch:
    """When the messages of one topic came; safe to use from several threads.

    Args:
        role: what the node calls it, for example ``image``.
        topic: its full name after remapping.
        msgtype: of the subscription, for example ``sensor_msgs/msg/Image``.
        once: one message is enough, so that silence after it is none.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        role: str,
        topic: str,
        msgtype: str,
        *,
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.role = role
        self.topic = topic
        self.msgtype = msgtype
        self.count = 0
        self.refused_policy = ""
        self._once = once
        self._clock = clock
        self._started = clock()
        self._times: Deque[float] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def note(self) -> None:
        """A message came."""
        with self._lock:
            self.count += 1
            self._times.append(self._clock())

    def note_refused(self, policy: str) -> None:
        """A publisher was found whose QoS policy does not fit, for example ``RELIABILITY``."""
        self.refused_policy = policy

    @property
    def rate_hz(self) -> float:
        """Messages per second over the last ones; 0 when nothing came lately."""
        with self._lock:
            times = list(self._times)
        if len(times) < 2 or self._clock() - times[-1] > _patience_s(times):
            return 0.0
        span = times[-1] - times[0]
        return (len(times) - 1) / span if span > 0 else 0.0

    @property
    def age_s(self) -> Optional[float]:
        """Seconds since the last message, None when none came."""
        with self._lock:
            return self._clock() - self._times[-1] if self._times else None

    @property
    def silent_s(self) -> float:
        """Seconds since the last message, or since watching began."""
        age = self.age_s
        return self._clock() - self._started if age is None else age

    @property
    def is_silent(self) -> bool:
        """Whether nothing came for longer than the topic's own rate explains."""
        with self._lock:
            times = list(self._times)
        return not (self._once and times) and self.silent_s >= _patience_s(times)

    def why_silent(self, publishers: Sequence[Publisher], others: Sequence[str]) -> str:
        """One sentence on why nothing comes and what to do; empty while messages come.

        Args:
            publishers: of the topic, as the graph knows them.
            others: other topics of the wanted type that somebody publishes.
        """
        if not self.is_silent:
            return ""
        for_s = f"for {self.silent_s:.0f} s"
        fitting = [each for each in publishers if each.msgtype == self.msgtype]
        if not publishers:
            listed = ", ".join(others[:_LISTED])
            hint = (
                f"topics of that type: {listed}; remap '{self.role}' to one of them" if listed else "no such topic yet"
            )
            return f"No {self.role}: nobody publishes '{self.topic}' ({self.msgtype}); {hint}."
        if not fitting:
            return f"No {self.role}: '{self.topic}' is published as {publishers[0].msgtype}, not as {self.msgtype}."
        who = fitting[0]
        if self.refused_policy and not self.count:
            policy = self.refused_policy.lower()
            offered = getattr(who, policy, "")
            wanted = f": {offered}" if offered else ""
            return (
                f"No {self.role}: {who.node} offers '{self.topic}' with another {policy} than this node asks for; set "
                f"qos_overrides.{self.topic}.subscription.{policy}{wanted}."
            )
        if self._once and who.durability == "transient_local":
            return (
                f"No {self.role} {for_s}: {who.node} may have sent it before this node was active, and keeps it for "
                f"those who ask: set qos_overrides.{self.topic}.subscription.durability: transient_local, and "
                "reliability: reliable."
            )
        return (
            f"No {self.role} {for_s}: {who.node} publishes '{self.topic}' ({who.reliability}, {who.durability}) but "
            "sends nothing: look at that node, and with large messages at the socket buffers of the DDS (docs/node.md)."
        )


def _patience_s(times: Sequence[float]) -> float:
    """How long nothing may come after these times before that is silence, seconds."""
    periods = [after - before for before, after in itertools.pairwise(times)]
    return max(_SILENT_S, _SILENT_PERIODS * statistics.median(periods)) if periods else _SILENT_S
