"""Nearest-stamp matching of LiDAR sweeps to images: every image comes out once, matched or counted as dropped."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Any, Dict, Generic, List, Optional, Tuple, TypeVar

from mf_ros.core.config import SyncConfig
from mf_ros.errors import ConfigError

ImageT = TypeVar("ImageT")
SweepT = TypeVar("SweepT")
T = TypeVar("T")

NO_LIDAR = "no_lidar"
"""No LiDAR has a sweep near enough to the image."""
STALE = "stale"
"""A newer image was taken first, because live processing only wants the newest."""
QUEUE_FULL = "queue_full"
"""More images waited than ``queue_size``."""
TIME_JUMP = "time_jump"
"""The image was waiting when time jumped backward (a bag was looped or restarted)."""
SWEEP_QUEUE_FULL = "sweep_queue_full"
"""A sweep made room for a newer one of its LiDAR; the image it fits may already be gone, or may still come."""
SWEEP_TIME_JUMP = "sweep_time_jump"
"""The sweep was queued when time jumped backward."""

_JUMP_NS = 1_000_000_000
# A LiDAR's shortest recent gap between sweeps is trusted after so many.
_GAPS = 5


@dataclass(frozen=True)
class Match(Generic[ImageT, SweepT]):
    """One image with the nearest sweep of each LiDAR.

    Attributes:
        stamp_ns: the image's stamp, ns.
        image: what was given to ``add_image``.
        sweeps: what was given to ``add_sweep``, for each LiDAR; None where none is near enough.
        dt_ns: the farthest sweep's stamp (offset included) minus the image's, ns; 0 without LiDARs.
        dts_ns: the same for each LiDAR; None where there is no sweep.
    """

    stamp_ns: int
    image: ImageT
    sweeps: Tuple[Optional[SweepT], ...]
    dt_ns: int
    dts_ns: Tuple[Optional[int], ...]


class _Queue(Generic[T]):
    """Items of one stream, sorted by stamp, and what is known about the stream's time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stamps: List[int] = []
        self.items: List[T] = []
        self.newest: Optional[int] = None
        self.gaps: List[int] = []

    def __len__(self) -> int:
        return len(self.stamps)

    def insert(self, stamp_ns: int, item: T) -> int:
        """Keep the item; returns how many old ones had to go."""
        if self.newest is not None and stamp_ns > self.newest:
            self.gaps = [*self.gaps[1 - _GAPS :], stamp_ns - self.newest]
        self.newest = stamp_ns if self.newest is None else max(self.newest, stamp_ns)
        at = bisect_right(self.stamps, stamp_ns)
        self.stamps.insert(at, stamp_ns)
        self.items.insert(at, item)
        overflow = max(len(self.stamps) - self.size, 0)
        self.drop_first(overflow)
        return overflow

    def drop_first(self, count: int) -> None:
        del self.stamps[:count]
        del self.items[:count]

    def clear(self) -> int:
        """Forget items and time; returns how many items went."""
        count = len(self.stamps)
        self.drop_first(count)
        self.newest = None
        self.gaps = []
        return count

    def nearest(self, stamp_ns: int) -> Optional[int]:
        """Index of the item nearest in time, the earlier one of two."""
        if not self.stamps:
            return None
        at = bisect_left(self.stamps, stamp_ns)
        if at == len(self.stamps) or (at > 0 and stamp_ns - self.stamps[at - 1] <= self.stamps[at] - stamp_ns):
            return bisect_left(self.stamps, self.stamps[at - 1])
        return at

    def may_get_nearer(self, stamp_ns: int, distance_ns: int) -> bool:
        """Whether a sweep still to come could be nearer than ``distance_ns``, if the stream keeps its order."""
        if self.newest is None:
            return True
        # Half the shortest gap of late is the earliest that a next sweep can be expected.
        gap = min(self.gaps) // 2 if len(self.gaps) == _GAPS else 0
        return self.newest < stamp_ns and self.newest + gap < stamp_ns + distance_ns


class StampMatcher(Generic[ImageT, SweepT]):
    """Pairs images with the nearest sweep of each LiDAR, by header stamps alone: the same input gives the same pairs.

    An image is decided as soon as no sweep still to come can be nearer, or when ``max_wait_s`` of stamp time has
    passed; it then goes on with the LiDARs it has, and without any it is dropped. One sweep may serve several images.
    A stamp more than 1 s behind its own stream's newest is a jump backward and empties the queues of the old time.
    Not thread-safe.

    ``counters`` maps each reason of this module to a count; ``sweep_*`` count sweeps, the others images. Each image
    given is pending, matched, or counted once.

    Args:
        sensors: number of LiDARs; with 0, every image matches at once.
        config: tolerance, offsets, waiting time and queue size.

    Raises:
        ConfigError: the offsets do not fit the number of LiDARs, or the queue size is below 1.
    """

    def __init__(self, sensors: int, config: SyncConfig) -> None:
        offsets = config.lidar_offset_s or (0.0,) * sensors
        if len(offsets) != sensors:
            raise ConfigError(
                f"sync.lidar_offset_s has {len(offsets)} values for {sensors} LiDARs: "
                "give one per point topic, or none."
            )
        if config.queue_size < 1:
            raise ConfigError(f"sync.queue_size is {config.queue_size}: it must be at least 1.")
        self._offsets_ns = [round(offset * 1e9) for offset in offsets]
        self._tolerance_ns = round(config.tolerance_s * 1e9)
        self._max_wait_ns = round(config.max_wait_s * 1e9)
        self._images: _Queue[ImageT] = _Queue(config.queue_size)
        self._sweeps: List[_Queue[SweepT]] = [_Queue(config.queue_size) for _ in range(sensors)]
        self.counters: Dict[str, int] = {}
        self.time_jumps = 0
        self.nearest_miss_ns: Optional[int] = None
        """Smallest distance between an image dropped for ``no_lidar`` and a sweep; days mean clocks that differ."""

    def add_image(self, stamp_ns: int, item: ImageT) -> bool:
        """Queue an image; True when its stamp is the first to show that time jumped backward."""
        jumped = self._jumped(self._images, stamp_ns)
        self._count(QUEUE_FULL, self._images.insert(stamp_ns, item))
        return jumped

    def add_sweep(self, sensor: int, stamp_ns: int, item: SweepT) -> bool:
        """Queue a sweep of the LiDAR with that index; True when it is the first to show a jump backward in time."""
        stamp_ns += self._offsets_ns[sensor]
        jumped = self._jumped(self._sweeps[sensor], stamp_ns)
        self._count(SWEEP_QUEUE_FULL, self._sweeps[sensor].insert(stamp_ns, item))
        return jumped

    def pop(self, flush: bool = False) -> List[Match[ImageT, SweepT]]:
        """Take every image that is decided, oldest first; with ``flush``, decide all of them now (end of the data)."""
        matches = []
        while len(self._images) > 0 and (flush or self._decided(self._images.stamps[0])):
            match = self._match(0)
            self._images.drop_first(1)
            if self._has_lidar(match):
                matches.append(match)
            else:
                self._drop_without_lidar(match.stamp_ns)
            self._forget_sweeps(match.stamp_ns)
        return matches

    def latest(self) -> Optional[Match[ImageT, SweepT]]:
        """Take the newest image that is decided and has LiDAR; older ones are dropped, newer ones wait on."""
        for index in reversed(range(len(self._images))):
            if not self._decided(self._images.stamps[index]):
                continue
            match = self._match(index)
            if self._has_lidar(match):
                for older in range(index):
                    if self._has_lidar(self._match(older)):
                        self._count(STALE)
                    else:
                        self._drop_without_lidar(self._images.stamps[older])
                self._images.drop_first(index + 1)
                self._forget_sweeps(match.stamp_ns)
                return match
        self.pop()
        return None

    def pending(self) -> int:
        """Number of images that wait for a decision."""
        return len(self._images)

    def ages_s(self, now_ns: int) -> Dict[str, Optional[float]]:
        """Seconds since the newest stamp of "image", "lidar_0", "lidar_1"...; None before the first message."""
        streams = {"image": self._images.newest}
        streams.update({f"lidar_{index}": queue.newest for index, queue in enumerate(self._sweeps)})
        return {name: None if newest is None else (now_ns - newest) / 1e9 for name, newest in streams.items()}

    def _count(self, reason: str, number: int = 1) -> None:
        if number > 0:
            self.counters[reason] = self.counters.get(reason, 0) + number

    def _jumped(self, stream: _Queue[Any], stamp_ns: int) -> bool:
        """Empty what belongs to the old time; streams that are already in the new one keep theirs."""
        if stream.newest is None or stream.newest - stamp_ns <= _JUMP_NS:
            return False
        streams: List[_Queue[Any]] = [self._images, *self._sweeps]
        # The message after the last ones in flight: another stream has already shown this jump.
        follows = any(other.newest is not None and abs(other.newest - stamp_ns) <= _JUMP_NS for other in streams)
        for other in streams:
            if other is stream or (other.newest is not None and other.newest > stamp_ns + _JUMP_NS):
                self._count(TIME_JUMP if other is self._images else SWEEP_TIME_JUMP, other.clear())
        self.time_jumps += not follows
        return not follows

    def _now(self) -> Optional[int]:
        """Newest stamp; sweeps far ahead of all images do not count: they are of another clock, or of before a jump."""
        now = self._images.newest
        if now is None:
            return None
        limit = now + self._max_wait_ns + _JUMP_NS
        for queue in self._sweeps:
            below = bisect_right(queue.stamps, limit)
            if below > 0:
                now = max(now, queue.stamps[below - 1])
        return now

    def _decided(self, stamp_ns: int) -> bool:
        now = self._now()
        if now is not None and now - stamp_ns >= self._max_wait_ns:
            return True
        for queue in self._sweeps:
            at = queue.nearest(stamp_ns)
            # Nothing near enough yet: one that arrives out of order may still be.
            distance = self._tolerance_ns + 1 if at is None else abs(queue.stamps[at] - stamp_ns)
            if distance > self._tolerance_ns or queue.may_get_nearer(stamp_ns, distance):
                return False
        return True

    def _match(self, index: int) -> Match[ImageT, SweepT]:
        stamp = self._images.stamps[index]
        sweeps: List[Optional[SweepT]] = []
        dts: List[Optional[int]] = []
        for queue in self._sweeps:
            at = queue.nearest(stamp)
            near = at is not None and abs(queue.stamps[at] - stamp) <= self._tolerance_ns
            sweeps.append(queue.items[at] if near and at is not None else None)
            dts.append(queue.stamps[at] - stamp if near and at is not None else None)
        farthest = max((dt for dt in dts if dt is not None), key=abs, default=0)
        return Match(stamp, self._images.items[index], tuple(sweeps), farthest, tuple(dts))

    def _has_lidar(self, match: Match[ImageT, SweepT]) -> bool:
        return not self._sweeps or any(sweep is not None for sweep in match.sweeps)

    def _drop_without_lidar(self, stamp_ns: int) -> None:
        self._count(NO_LIDAR)
        for queue in self._sweeps:
            at = queue.nearest(stamp_ns)
            nearest = queue.newest if at is None else queue.stamps[at]
            if nearest is not None:
                miss = abs(nearest - stamp_ns)
                self.nearest_miss_ns = miss if self.nearest_miss_ns is None else min(self.nearest_miss_ns, miss)

    def _forget_sweeps(self, stamp_ns: int) -> None:
        """Let go of sweeps that no image, even one that comes a little out of order, can still want."""
        oldest = stamp_ns - self._tolerance_ns - self._max_wait_ns
        for queue in self._sweeps:
            queue.drop_first(bisect_left(queue.stamps, oldest))
