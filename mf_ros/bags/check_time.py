"""Rules about time: rates, gaps, stamp order, and whether the clocks of camera and LiDAR agree."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Iterator, Sequence

import numpy as np

from mf_ros.core.config import SyncConfig
from mf_ros.core.types import AnyArray
from mf_ros.findings import Finding

# Nobody's sensor measured before this (2000-01-01), so such a stamp counts from when the sensor was switched on.
_EARLIEST_REAL_NS = 946_684_800 * 10**9
# Beyond this the clocks count from different moments; below it, one is late or drifts.
_OTHER_EPOCH_S = 10.0
_LATE_S = 0.3
_LONG_NS = 10**9
_ENOUGH_PAIRED = 0.9

REPLAY_WAIT_S = 1.0
"""Replay lets images wait this long for their sweep, in stamp time, seconds, if sync.max_wait_s is less."""


@dataclass
class Series:
    """The times of one topic's messages, in the order of the recording.

    Attributes:
        topic: its name.
        stamps: header stamps, int64 ns.
        logs: times of recording, int64 ns.
    """

    topic: str
    stamps: array[int] = field(default_factory=lambda: array("q"))
    logs: array[int] = field(default_factory=lambda: array("q"))

    def add(self, stamp_ns: int, log_ns: int) -> None:
        """Store the times of one message."""
        self.stamps.append(stamp_ns)
        self.logs.append(log_ns)

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def stamp_ns(self) -> AnyArray:
        """(N,) int64 header stamps, ns."""
        return np.array(self.stamps, dtype=np.int64)

    @property
    def rate_hz(self) -> float:
        """Messages per second by the header stamps; 0 when that cannot be told."""
        steps = np.diff(np.sort(self.stamp_ns))
        steps = steps[steps > 0]
        return float(1e9 / np.median(steps)) if len(steps) else 0.0

    @property
    def delay_s(self) -> float:
        """Median of log time minus header stamp, seconds; NaN without messages."""
        if not len(self):
            return float("nan")
        return float(np.median(np.array(self.logs, dtype=np.int64) - self.stamp_ns)) / 1e9


def check_series(series: Series) -> Iterator[Finding]:
    """Findings about one topic: no stamps, stamps that run backward or repeat, and gaps."""
    stamps = series.stamp_ns
    if not len(stamps):
        return
    if not stamps.any():
        advice = "Have the driver fill in header.stamp; without it images and sweeps cannot be paired."
        yield Finding("error", f"{series.topic}: every header stamp is 0.", advice)
        return
    steps = np.diff(stamps)
    backward = int(np.count_nonzero(steps < 0))
    if backward:
        worst = float(-steps.min()) / 1e9
        advice = "A bag played in a loop, or a driver that reorders? Pairing starts anew at each jump of over a second."
        text = f"{series.topic}: header stamps run backward {backward} times, by up to {worst:.3f} s."
        yield Finding("warning", text, advice)
    repeated = int(np.count_nonzero(steps == 0))
    if repeated:
        advice = "Check for a driver or a recorder that sends messages twice."
        yield Finding("warning", f"{series.topic}: {repeated} messages repeat the stamp before.", advice)
    forward = steps[steps > 0]
    if len(forward) >= 5:
        usual = float(np.median(forward))
        lost = int(np.sum(np.maximum(np.rint(forward / usual) - 1, 0)))
        longest = float(forward.max()) / 1e9
        if lost > 0.02 * len(stamps) or longest > 1.0 + 3 * usual / 1e9:
            text = (
                f"{series.topic}: about {lost} of {lost + len(stamps)} messages are missing at {1e9 / usual:.1f} Hz; "
                f"the longest gap is {longest:.2f} s."
            )
            advice = "The recorder or the network lost them: record to a faster disk, or with a larger cache."
            yield Finding("warning", text, advice)


def check_clocks(image: Series, points: Sequence[Series], config: SyncConfig) -> Iterator[Finding]:
    """Findings about the clocks of camera and LiDARs: epochs, lateness, overlap, and how many images find a sweep."""
    if not len(image):
        return
    for number, sweeps in enumerate(points):
        if len(sweeps):
            offset_s = config.lidar_offset_s[number] if number < len(config.lidar_offset_s) else 0.0
            yield from _check_pair(image, sweeps, offset_s, config, number)


def _check_pair(image: Series, sweeps: Series, offset_s: float, config: SyncConfig, number: int) -> Iterator[Finding]:
    images, lidar = np.sort(image.stamp_ns), np.sort(sweeps.stamp_ns + round(offset_s * 1e9))
    # Both were logged by one clock, so the difference of the delays is the difference of the sensors' clocks.
    shift = sweeps.delay_s - offset_s - image.delay_s
    side = "behind" if shift > 0 else "ahead"
    known = f" (by the recording times the LiDAR's clock is {abs(shift):.3f} s {side})" if abs(shift) > _LATE_S else ""
    entry = f"entry {number + 1} of sync.lidar_offset_s"
    remedy = f"for this bag set {entry} to about {offset_s + shift:.3f}" if known else "record both at the same time"
    if abs(shift) > _OTHER_EPOCH_S:
        early = [item.topic for item in (image, sweeps) if np.median(item.stamp_ns) < _EARLIEST_REAL_NS]
        reason = f" {' and '.join(early)} counts from when the sensor was switched on." if early else ""
        yield Finding(
            "error",
            f"The clocks of {image.topic} and {sweeps.topic} count from different moments: the LiDAR's is "
            f"{abs(shift):.3f} s {side}.{reason}",
            "Synchronise the sensors (PTP) or let the driver stamp with the host's time, and record again.",
        )
    elif lidar[0] > images[-1] or images[0] > lidar[-1]:
        gap = max(lidar[0] - images[-1], images[0] - lidar[-1]) / 1e9
        yield Finding(
            "error",
            f"The stamps of {image.topic} and {sweeps.topic} never overlap; {gap:.3f} s lie between them{known}.",
            f"Synchronise the clocks; {remedy}.",
        )
    else:
        yield from _coverage(image.topic, images, sweeps.topic, lidar)
        # A recording begins and ends in the middle of things: its first and last images may lack their sweep.
        margin = round(config.tolerance_s * 1e9)
        covered = images[(images >= lidar[0] - margin) & (images <= lidar[-1] + margin)]
        distance_s = np.abs(_distance_ns(covered if len(covered) else images, lidar)) / 1e9
        near = float(np.mean(distance_s <= config.tolerance_s))
        if near < _ENOUGH_PAIRED:
            advice = "Raise sync.tolerance_s if the robot is slow, or look for lost sweeps"
            yield Finding(
                "error" if near == 0 else "warning",
                f"Only {near:.0%} of the images have a sweep of {sweeps.topic} within {config.tolerance_s * 1e3:.0f} "
                f"ms; the median distance is {np.median(distance_s) * 1e3:.0f} ms{known}.",
                f"{advice}; {remedy}." if known else f"{advice}.",
            )
        elif shift > (wait_s := max(config.max_wait_s, REPLAY_WAIT_S)):
            yield Finding(
                "error",
                f"{sweeps.topic} is recorded {shift:.3f} s later after its stamp than {image.topic}, and images wait "
                f"{wait_s:g} s for their sweep.",
                f"If the clocks differ, set {entry} to about {offset_s + shift:.3f}; if only the LiDAR's messages are "
                f"late, raise sync.max_wait_s above {shift:.1f}.",
            )
        elif known:
            yield Finding(
                "warning",
                f"{sweeps.topic} is recorded {abs(shift) * 1e3:.0f} ms {'later' if shift > 0 else 'earlier'} after its "
                f"stamp than {image.topic}: slow transport, or clocks that differ.",
                f"Look at the picture of the projection for moving edges that do not fit; then {remedy}.",
            )


def _coverage(image_topic: str, images: AnyArray, topic: str, lidar: AnyArray) -> Iterator[Finding]:
    """A finding when the LiDAR starts more than a second after the camera, or ends more than a second before."""
    for missing_ns, when in ((lidar[0] - images[0], "at the beginning"), (images[-1] - lidar[-1], "at the end")):
        if missing_ns > _LONG_NS:
            text = f"{topic} does not cover {missing_ns / 1e9:.1f} s of {image_topic} {when}."
            advice = "These images give no depth; start the sensors before the recorder, and check that none fails."
            yield Finding("warning", text, advice)


def _distance_ns(images: AnyArray, lidar: AnyArray) -> AnyArray:
    """(N,) ns from each image to its nearest sweep; both sorted."""
    after = np.clip(np.searchsorted(lidar, images), 0, len(lidar) - 1)
    before = np.maximum(after - 1, 0)
    to_after, to_before = lidar[after] - images, lidar[before] - images
    nearest: AnyArray = np.where(np.abs(to_before) <= np.abs(to_after), to_before, to_after)
    return nearest


def summary(series: Series) -> str:
    """Rate, jitter and delay of one topic as a line for people."""
    steps_ms = np.diff(np.sort(series.stamp_ns)) / 1e6
    jitter = float(np.percentile(np.abs(steps_ms - np.median(steps_ms)), 95)) if len(steps_ms) else 0.0
    return f"{series.rate_hz:.1f} Hz, jitter {jitter:.1f} ms (p95), recorded {series.delay_s:.3f} s after its stamp"
