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
QUEUE_FULL = "queue_full"
"""More images waited than ``queue_size``."""
TIME_JUMP = "time_jump"
"""The image was waiting when time jumped backward (a bag was looped or restarted), or came too late from before."""
BAD_STAMP = "bad_stamp"
"""The image's stamp was far off, and the next image was in sequence again."""
SWEEP_QUEUE_FULL = "sweep_queue_full"
"""A sweep made room for a newer one of its LiDAR; the image it fits may already be gone, or may still come."""
SWEEP_TIME_JUMP = "sweep_time_jump"
"""The sweep was queued when time jumped backward, or came too late from before."""
SWEEP_BAD_STAMP = "sweep_bad_stamp"
"""The sweep's stamp was far off, and the next sweep was in sequence again."""

JUMP_NS = 1_000_000_000
"""Stamps farther back than this are a jump in time, or wrong."""
# A step forward is suspicious beyond so many times the longest recent gap of the stream.
_LONG_GAPS = 3
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
        epoch: number of jumps backward in time before the image.
    """

    stamp_ns: int
    image: ImageT
    sweeps: Tuple[Optional[SweepT], ...]
    dt_ns: int
    dts_ns: Tuple[Optional[int], ...]
    epoch: int = 0


class _Queue(Generic[T]):
    """Items of one stream, sorted by stamp, and what is known about the stream's time."""

    def __init__(self, size: int, reasons: str = "") -> None:
        self.size = size
        self.reasons = reasons
        self.epoch = 0
        self.held: Optional[Tuple[int, T]] = None
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

    def restart(self, epoch: int) -> None:
        """Forget the stream's time; its next message is the first of an epoch."""
        self.epoch = epoch
        self.newest = None
        self.gaps = []

    def step_ns(self) -> int:
        """How far apart two messages in a row may be without being suspicious."""
        return max(JUMP_NS, _LONG_GAPS * max(self.gaps, default=0))

    def in_sequence(self, stamp_ns: int, now_ns: int) -> bool:
        """Whether a stamp goes on where the stream is, or where the others (at ``now_ns``) are by now."""
        if self.newest is None:
            return True
        return self.newest - JUMP_NS <= stamp_ns <= max(self.newest, now_ns) + self.step_ns()

    def went_back_to(self, stamp_ns: int) -> bool:
        """Whether the message that is held aside went back in time, to about this stamp."""
        if self.held is None or self.newest is None:
            return False
        return self.held[0] < self.newest and abs(self.held[0] - stamp_ns) <= JUMP_NS

    def nearest(self, stamp_ns: int) -> Optional[int]:
        """Index of the item nearest in time: the earlier stamp of two, and of equal stamps what was received last."""
        if not self.stamps:
            return None
        at = bisect_left(self.stamps, stamp_ns)
        if at == len(self.stamps) or (at > 0 and stamp_ns - self.stamps[at - 1] <= self.stamps[at] - stamp_ns):
            return at - 1
        return bisect_right(self.stamps, self.stamps[at]) - 1

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

    A stamp more than 1 s behind its own stream's newest may be a jump backward (a looped recording) or one bad stamp,
    so the message is held aside: when the next one of the stream, or another stream, has gone back to the same time,
    it is a jump. Images of before then come out with the sweeps they have, the queues begin anew, and the other
    streams follow when their stamps do. A step far forward is held aside in the same way. What is held while the next
    message is in sequence is dropped as a bad stamp. Not thread-safe.

    ``counters`` maps each reason of this module to a count; ``sweep_*`` count sweeps, the others images. Each image
    given is pending, matched, or counted once. ``epoch`` is the number of jumps so far.

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
        self._sweeps: List[_Queue[SweepT]] = [_Queue(config.queue_size, "sweep_") for _ in range(sensors)]
        self._streams: List[_Queue[Any]] = [self._images, *self._sweeps]
        self._before_jump: List[Match[ImageT, SweepT]] = []
        self.counters: Dict[str, int] = {}
        self.epoch = 0
        self.nearest_miss_ns: Optional[int] = None
        """Smallest distance between an image dropped for ``no_lidar`` and a sweep; days mean clocks that differ."""

    @property
    def newest_image_ns(self) -> Optional[int]:
        """Newest stamp of the images of this epoch, or of the one before while there is none; None at the start."""
        return self._images.newest

    def add_image(self, stamp_ns: int, item: ImageT) -> bool:
        """Queue an image; True when its stamp is the first to show that time jumped backward."""
        return self._add(self._images, stamp_ns, item)

    def add_sweep(self, sensor: int, stamp_ns: int, item: SweepT) -> bool:
        """Queue a sweep of the LiDAR with that index; True when it is the first to show a jump backward in time."""
        return self._add(self._sweeps[sensor], stamp_ns + self._offsets_ns[sensor], item)

    def pop(self, flush: bool = False) -> List[Match[ImageT, SweepT]]:
        """Take every image that is decided, oldest first; with ``flush``, decide all of them now (end of the data).

        Images of before a jump come first; their ``epoch`` tells them apart.
        """
        matches, self._before_jump = self._before_jump, []
        if flush:
            self._settle_held()
        while len(self._images) > 0 and (flush or self._decided(self._images.stamps[0])):
            match = self._match(0)
            self._images.drop_first(1)
            if self._has_lidar(match):
                matches.append(match)
            else:
                self._drop_without_lidar(match.stamp_ns)
            self._forget_sweeps(match.stamp_ns)
        return matches

    def pending(self) -> int:
        """Number of images that wait for a decision."""
        return len(self._images) + len(self._before_jump) + (self._images.held is not None)

    def _count(self, reason: str, number: int = 1) -> None:
        if number > 0:
            self.counters[reason] = self.counters.get(reason, 0) + number

    def _add(self, stream: _Queue[T], stamp_ns: int, item: T) -> bool:
        if stream.epoch < self.epoch and not self._joins(stream, stamp_ns):
            self._count(stream.reasons + TIME_JUMP)
            return False
        held, now = stream.held, self._newest_ns(stamp_ns)
        if held is not None and stream.in_sequence(held[0], now):
            # The other streams have come after it.
            stream.held = None
            self._insert(stream, *held)
            held = None
        if stream.newest is None or stream.in_sequence(stamp_ns, now):
            self._drop_held(stream)
            self._insert(stream, stamp_ns, item)
            return False
        back = stamp_ns < stream.newest
        if held is not None and abs(held[0] - stamp_ns) <= stream.step_ns():
            stream.held = None
            jumped = back and self._jump(stream, min(held[0], stamp_ns))
            self._insert(stream, *held)
            self._insert(stream, stamp_ns, item)
            return jumped
        self._drop_held(stream)
        if back and any(other.went_back_to(stamp_ns) for other in self._streams):
            jumped = self._jump(stream, stamp_ns)
            self._insert(stream, stamp_ns, item)
            return jumped
        stream.held = (stamp_ns, item)
        return False

    def _insert(self, stream: _Queue[T], stamp_ns: int, item: T) -> None:
        self._count(stream.reasons + QUEUE_FULL, stream.insert(stamp_ns, item))

    def _drop_held(self, stream: _Queue[Any]) -> None:
        self._count(stream.reasons + BAD_STAMP, int(stream.held is not None))
        stream.held = None

    def _settle_held(self) -> None:
        """Nothing comes any more to tell what the held messages are: a step forward is believed, one back is not."""
        for stream in self._streams:
            if stream.held is not None and stream.newest is not None and stream.held[0] > stream.newest:
                held, stream.held = stream.held, None
                self._insert(stream, *held)
            self._drop_held(stream)

    def _newest_ns(self, default_ns: int) -> int:
        newest = [stream.newest for stream in self._streams if stream.epoch == self.epoch]
        return max((stamp for stamp in newest if stamp is not None), default=default_ns)

    def _joins(self, stream: _Queue[Any], stamp_ns: int) -> bool:
        """Whether a stream that was left behind by a jump has come after it; until then its messages are old ones."""
        left = stamp_ns if stream.newest is None else stream.newest
        back = stamp_ns < left - JUMP_NS or stamp_ns <= self._newest_ns(stamp_ns) + JUMP_NS
        # So much is never in flight: the clock of another sensor went back alone.
        goes_on = stamp_ns > left + self._max_wait_ns + JUMP_NS
        if back or goes_on:
            stream.restart(self.epoch)
        return back or goes_on

    def _jump(self, stream: _Queue[Any], stamp_ns: int) -> bool:
        """Leave the old time; streams that are in the new one already keep what they have."""
        others = [other for other in self._streams if other is not stream and other.epoch == self.epoch]
        newest = [other.newest for other in others if other.newest is not None]
        if newest and all(abs(other - stamp_ns) <= JUMP_NS for other in newest):
            # Only this stream's clock was set back, to the time where all others have been before.
            self._empty(stream)
            stream.restart(self.epoch)
            return False
        self._decide_before_jump(stamp_ns)
        self.epoch += 1
        for other in self._streams:
            if other is not stream and (other.newest is None or other.newest <= stamp_ns + JUMP_NS):
                other.epoch = self.epoch
                continue
            self._empty(other)
            if other is stream:
                other.restart(self.epoch)
            elif other.held is not None and other.went_back_to(stamp_ns):
                held, other.held = other.held, None
                other.restart(self.epoch)
                self._insert(other, *held)
            self._drop_held(other)
        return True

    def _empty(self, stream: _Queue[Any]) -> None:
        self._count(stream.reasons + TIME_JUMP, len(stream))
        stream.drop_first(len(stream))

    def _decide_before_jump(self, stamp_ns: int) -> None:
        """Images of the old time get the sweeps that are there: what was still to come is lost."""
        if self._images.newest is None or self._images.newest <= stamp_ns + JUMP_NS:
            return
        matches = [self._match(index) for index in range(len(self._images))]
        matched = [match for match in matches if self._has_lidar(match)]
        self._before_jump += matched
        self._count(TIME_JUMP, len(matches) - len(matched))
        self._images.drop_first(len(matches))

    def _now(self) -> Optional[int]:
        """Newest stamp; sweeps far ahead of all images do not count: they are of another clock."""
        now = self._images.newest
        if now is None:
            return None
        limit = now + self._max_wait_ns + JUMP_NS
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
        return Match(stamp, self._images.items[index], tuple(sweeps), farthest, tuple(dts), self.epoch)

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
