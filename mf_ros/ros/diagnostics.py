"""What /diagnostics says: inputs, depth of each camera, engine, calibration."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_updater import DiagnosticStatusWrapper

from mf_ros.engine import reasons
from mf_ros.engine.protocol import DepthEngine
from mf_ros.engine.stats import Latency
from mf_ros.ros.advice import runnable
from mf_ros.ros.camera_stream import CameraStream
from mf_ros.ros.inputs import NodeInputs
from mf_ros.ros.refiner import Refiner

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
# Normal in use, and no sign that anything is wrong.
QUIET_REASONS = (reasons.STALE, reasons.UNHEARD)
# Longer than engines need for an image, other than on too weak a computer.
_STUCK_S = 10.0
_PERCENTILES = (50, 95)
_SHOWN_STAGES = (
    "received_to_published",
    "overhead",
    "waited",
    "estimate",
    "decode_points",
    "decode_image",
    "prepare",
    "to_camera",
    "project",
    "publish",
)


class DepthStatus:
    """Counts, rates and latencies of one camera, judged by what happened since the last call.

    Args:
        stream: of the camera.
        clock: seconds that never go back.
    """

    def __init__(self, stream: CameraStream, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._pipeline: Optional[object] = None
        self._last = 0, 0
        self._drops: Dict[str, int] = {}
        self._fine = 0.0

    def __call__(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        pipeline = self._stream.pipeline
        if pipeline is not self._pipeline:
            self._pipeline, self._last, self._drops, self._fine = pipeline, (0, 0), {}, self._clock()
        counts = pipeline.frames_in, pipeline.frames_out
        came, went = (now - before for now, before in zip(counts, self._last, strict=True))
        dropped = pipeline.dropped.counts
        new = {key: count - self._drops.get(key, 0) for key, count in dropped.items()}
        self._last, self._drops = counts, dropped
        if went or not came or new.get(reasons.UNHEARD, 0):
            self._fine = self._clock()
        level, text = _judged(came, went, new, pipeline.dropped.texts, self._clock() - self._fine)
        stat.summary(level, runnable(text))
        stat.add("images received", str(counts[0]))
        stat.add("images with depth", str(counts[1]))
        stat.add("images waiting", str(pipeline.waiting))
        for reason, count in dropped.items():
            stat.add(f"dropped: {reason}", str(count))
        for reason, count in pipeline.warnings.counts.items():
            stat.add(f"warning: {reason}", f"{count} ({pipeline.warnings.texts[reason]})")
        _add_latency(stat, pipeline.latency)
        return stat


class CalibrationStatus:
    """Whether LiDAR and depth agree, by the health monitor of one camera."""

    def __init__(self, stream: CameraStream) -> None:
        self._stream = stream

    def __call__(self, stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        report = self._stream.health.report()
        if report.warning:
            stat.summary(WARN, runnable(report.warning))
        elif report.frames == 0:
            stat.summary(OK, "nothing judged yet")
        else:
            stat.summary(OK, "LiDAR and depth agree")
        stat.add("images judged", str(report.frames))
        stat.add("returns rejected", f"{100 * report.rejected:.1f}%")
        stat.add("returns lonely", f"{100 * report.lonely:.1f}%")
        stat.add("residual", f"{100 * report.bias:+.2f}%")
        shift = report.shift_px
        stat.add("image shift px", "unknown" if shift is None else f"{shift[0]:+.1f}, {shift[1]:+.1f}")
        stat.add("scale m", f"{report.scale:.2f}")
        return stat


def input_status(inputs: Callable[[], Optional[NodeInputs]]) -> Callable[[Any], DiagnosticStatusWrapper]:
    """Rate and age of each input."""

    def status(stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        current = inputs()
        if current is None:
            stat.summary(OK, "the node is not active")
            return stat
        silent = list(current.silent())
        stat.summary(ERROR, " ".join(silent)) if silent else stat.summary(OK, "all inputs come")
        for watch in current.watches:
            stat.add(f"{watch.topic} Hz", f"{watch.rate_hz:.2f}")
            stat.add(f"{watch.topic} age s", "none came" if watch.age_s is None else f"{watch.age_s:.2f}")
        return stat

    return status


def engine_status(engine: Callable[[], Optional[DepthEngine]]) -> Callable[[Any], DiagnosticStatusWrapper]:
    """What makes depth, on which device, and the memory of the process."""

    def status(stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        current = engine()
        if current is None:
            stat.summary(OK, "no engine is loaded")
        else:
            stat.summary(OK, current.name)
            for key, value in current.describe().items():
                stat.add(key, value)
        memory = resident_mb()
        if memory is not None:
            stat.add("memory of the process MB", f"{memory:.0f}")
        return stat

    return status


def refined_status(refiner: Refiner) -> Callable[[Any], DiagnosticStatusWrapper]:
    """What refines depth, and the counts and latencies of each camera."""

    def status(stat: DiagnosticStatusWrapper) -> DiagnosticStatusWrapper:
        engine = refiner.engine
        if refiner.problem:
            stat.summary(WARN, runnable(f"depth is not refined: {refiner.problem}"))
        elif not refiner.running:
            stat.summary(OK, "depth is not refined")
        elif engine is None:
            stat.summary(OK, "the engine is being loaded")
        else:
            stat.summary(OK, engine.name)
            for key, value in engine.describe().items():
                stat.add(key, value)
        for stream in refiner.streams:
            stat.add(f"{stream.prefix}images offered", str(stream.offered))
            stat.add(f"{stream.prefix}images refined", str(stream.done))
            texts = stream.dropped.texts
            for reason, count in stream.dropped.counts.items():
                stat.add(f"{stream.prefix}dropped: {reason}", f"{count} ({texts[reason]})")
            _add_latency(stat, stream.latency, stream.prefix)
        return stat

    return status


def resident_mb() -> Optional[float]:
    """Resident memory of this process, MB; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _add_latency(stat: DiagnosticStatusWrapper, latency: Latency, prefix: str = "") -> None:
    for stage in _SHOWN_STAGES:
        for percent in _PERCENTILES:
            value = latency.percentile(stage, percent)
            if math.isfinite(value):
                stat.add(prefix + f"latency {stage} p{percent} ms", f"{value:.1f}")


def _judged(came: int, went: int, new: Dict[str, int], texts: Dict[str, str], stuck_s: float) -> Tuple[bytes, str]:
    """Level and sentence on what became of the images since the last call; those that were left alone do not count."""
    failed = {reason: count for reason, count in new.items() if count and reason not in QUIET_REASONS}
    lost = sum(failed.values())
    if lost > went:
        worst = max(failed, key=lambda reason: failed[reason])
        why = f"{worst}: {texts.get(worst, '')}"
        if went:
            return WARN, f"depth of {went} of {went + lost} images, {why}"
        return ERROR, f"no depth of {lost} images, {why}"
    if went:
        return OK, f"depth of {went} images"
    if not came:
        return OK, "no image came"
    if new.get(reasons.UNHEARD, 0):
        return OK, "nobody subscribes to an output"
    if stuck_s >= _STUCK_S:
        return WARN, f"images come, but there was no depth for {stuck_s:.0f} s: the engine is slow, or hangs"
    return OK, f"{came} images came, and wait for their sweep or for the engine"
