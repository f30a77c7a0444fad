"""Counters and latency statistics of a run of any length, in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict, deque
from typing import Callable, Deque, Dict, Mapping, Tuple

_STEP = math.log(1.01)
_SMALLEST_MS = 1e-3
_MAX_TEXT = 500
_RECENT_S = 60.0
RECENT = 1000
"""How many durations of each stage tell how a robot does now: what changes after hours of driving must be seen."""


def _bin(value_ms: float) -> int:
    return round(math.log(max(value_ms, _SMALLEST_MS)) / _STEP)


_LOWEST_BIN = _bin(0.0)


class ReasonCounter:
    """How often something happened, by a stable reason, with the last message text of each reason."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._texts: Dict[str, str] = {}

    def add(self, reason: str, text: str, count: int = 1) -> None:
        """Count ``count`` events of a reason; ``text`` says what the last one was."""
        with self._lock:
            self._counts[reason] += count
            self._texts[reason] = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."

    @property
    def counts(self) -> Dict[str, int]:
        """Events by reason, most frequent first."""
        with self._lock:
            return dict(self._counts.most_common())

    @property
    def texts(self) -> Dict[str, str]:
        """Last message text by reason."""
        with self._lock:
            return dict(self._texts)

    @property
    def total(self) -> int:
        """All events together."""
        with self._lock:
            return sum(self._counts.values())


class Latency:
    """Percentiles of durations by stage, to within 1% (below 1 us: 0), from a histogram with logarithmic bins.

    Args:
        recent: how many of the last durations of each stage count, none of them but the newest older than a minute;
            infinite for all that there ever were.
        clock: seconds that never go back.
    """

    def __init__(self, recent: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._recent = recent
        self._clock = clock
        self._lock = threading.Lock()
        self._bins: Dict[str, Counter[int]] = defaultdict(Counter)
        self._order: Dict[str, Deque[Tuple[float, int]]] = defaultdict(deque)

    def add(self, timings_ms: Mapping[str, float]) -> None:
        """Count one duration, milliseconds, for each stage."""
        now = self._clock()
        with self._lock:
            for stage, value in timings_ms.items():
                index = _bin(value)
                self._bins[stage][index] += 1
                if self._recent < math.inf:
                    self._order[stage].append((now, index))
                    self._forget(stage)

    def percentile(self, stage: str, percent: float) -> float:
        """Nearest-rank percentile of a stage, milliseconds; NaN when nothing was measured."""
        with self._lock:
            if stage in self._order:
                self._forget(stage)
            bins = sorted(self._bins[stage].items()) if stage in self._bins else []
        rank = math.ceil(percent / 100.0 * sum(count for _, count in bins))
        for index, count in bins:
            rank -= count
            if rank <= 0:
                return math.exp(index * _STEP) if index > _LOWEST_BIN else 0.0
        return math.nan

    def summary(self) -> Dict[str, Dict[str, float]]:
        """``{stage: {"p50": ms, "p95": ms}}`` in the order in which the stages first came."""
        stages = list(self._bins)
        return {
            stage: {name: round(self.percentile(stage, percent), 3) for name, percent in (("p50", 50), ("p95", 95))}
            for stage in stages
        }

    def _forget(self, stage: str) -> None:
        order, bins, oldest = self._order[stage], self._bins[stage], self._clock() - _RECENT_S
        while len(order) > self._recent or (len(order) > 1 and order[0][0] < oldest):
            _, index = order.popleft()
            bins[index] -= 1
            if bins[index] == 0:
                del bins[index]
