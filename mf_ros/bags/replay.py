"""A recording through the pipeline: dense depth as MCAP, and a summary of how it went."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any, Dict, Optional, Union

import numpy as np

from mf_ros import __version__
from mf_ros.bags.depth_output import DepthOutput
from mf_ros.bags.feed import Progress, feed, patient
from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.reader import RecordedMessage, Recording
from mf_ros.bags.report import REPORT_NAME
from mf_ros.bags.report_texts import NOT_WRITTEN, PUBLISHED
from mf_ros.bags.samples import ReplayReport, SampleKeeper, make_sample
from mf_ros.bags.seen import InputsSeen
from mf_ros.bags.whole_file import write_whole
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config
from mf_ros.core.settings import config_to_mapping
from mf_ros.core.topics import TF_TYPES, TopicChoice
from mf_ros.core.types import FloatArray
from mf_ros.engine import reasons
from mf_ros.engine.inputs import FrameSet
from mf_ros.engine.pipeline import DepthPipeline, DepthResult
from mf_ros.engine.protocol import DepthEngine
from mf_ros.engine.stats import Latency
from mf_ros.errors import BagError, MessageError
from mf_ros.evaluation.heldout import HeldOut, score_held_out
from mf_ros.interrupt import StopOnSignal

_log = logging.getLogger(__name__)

OUTPUT_NAME = "out.mcap"
SUMMARY_NAME = "summary.json"

NOT_COPIED = "not_copied"


def replay(
    recording: Recording,
    topics: TopicChoice,
    config: Config,
    out_dir: Union[str, Path],
    engine: DepthEngine,
    *,
    progress: Optional[Progress] = None,
    accuracy_every: int = 10,
) -> ReplayReport:
    """Run the pipeline over a recording and write ``out.mcap`` and ``summary.json`` into a directory.

    No image is skipped to save time. A message that cannot be used is counted and passed over. On SIGINT or SIGTERM
    both files are finished with what was done so far; ``summary["interrupted"]`` tells.

    Args:
        recording: the open recording.
        topics: what to read.
        config: settings; waiting times and queues are lengthened, because no robot waits.
        out_dir: made when it does not exist; files of an earlier run in it are replaced.
        engine: makes the depth; on frames that are scored, one without memory also sees the reduced input.
        progress: called with the part done, in [0, 1].
        accuracy_every: every so many frames the even rings are held out and the engine is scored on them; 0 never.

    Returns:
        The summary and sample frames for the report.

    Raises:
        BagError: the output cannot be written.
        ConfigError: the settings do not fit the number of LiDARs.
    """
    folder = Path(out_dir)
    settings = patient(config, recording, topics)
    pipeline = DepthPipeline(settings, engine, len(topics.points), rectified_input=topics.rectified)
    make_output_folder(folder)
    try:
        for name in (SUMMARY_NAME, REPORT_NAME):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise BagError(f"{folder / name} cannot be replaced ({error.strerror}): remove it.") from error
    with StopOnSignal() as signals, McapWriter(folder / OUTPUT_NAME) as writer:
        run = _Run(pipeline, writer, config, engine, accuracy_every)
        try:
            sets = feed(
                pipeline,
                recording,
                topics,
                on_message=run.note,
                stopped=lambda: signals.stopped,
                progress=progress,
            )
            for frame_set in sets:
                run.process(frame_set)
        except KeyboardInterrupt:
            # Only where signals could not be caught, or on the second one.
            signals.stopped = True
    unfinished = pipeline.frames_in - pipeline.frames_out - pipeline.dropped.total
    if unfinished:
        pipeline.dropped.add(reasons.INTERRUPTED, "The run was stopped before this image was processed.", unfinished)
    summary = run.summary(recording, topics, interrupted=signals.stopped)
    write_json(folder / SUMMARY_NAME, summary)
    return ReplayReport(summary, run.keeper.samples())


def write_json(path: Path, value: Dict[str, Any]) -> None:
    """Write JSON so that the file is either whole or not there.

    Raises:
        BagError: it cannot be written.
    """
    write_whole(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


class _Run:
    """What a replay accumulates; its size does not depend on the length of the recording."""

    def __init__(
        self, pipeline: DepthPipeline, writer: McapWriter, config: Config, engine: DepthEngine, accuracy_every: int
    ) -> None:
        self.pipeline = pipeline
        self.writer = writer
        self.keeper = SampleKeeper()
        self.inputs = InputsSeen(config.lidar.time_unit)
        self._output = DepthOutput(writer, config)
        self._config = config
        self._engine = engine
        self._accuracy_every = accuracy_every
        self._accuracy = _Accuracy()
        self._offset = Latency()
        self._first_stamp_ns: Optional[int] = None
        self._last_stamp_ns: Optional[int] = None

    def process(self, frame_set: FrameSet) -> None:
        """One set through the pipeline into the file."""
        result = self.pipeline.process(frame_set)
        if result is None:
            return
        try:
            self.pipeline.latency.add(self._output.write(result))
        except MessageError as error:
            self.pipeline.frames_out -= 1
            self.pipeline.dropped.add(NOT_WRITTEN, str(error))
            return
        self.inputs.on_result(result)
        self._offset.add({f"lidar_{i}": abs(dt) / 1e6 for i, dt in enumerate(result.dt_ns) if dt is not None})
        number = self.pipeline.frames_out - 1
        self._first_stamp_ns = result.frame.stamp_ns if self._first_stamp_ns is None else self._first_stamp_ns
        self._last_stamp_ns = result.frame.stamp_ns
        wanted = self.keeper.wants(number)
        held_out = None
        scored = self._accuracy_every > 0 and number % self._accuracy_every == 0
        if scored or (wanted and self._accuracy_every > 0):
            held_out = self._score(result)
        # Samples crowd at the start of a run, so only the evenly spread frames enter the mean.
        if scored and held_out is not None:
            self._accuracy.add(held_out, result.estimate.depth)
        if wanted:
            self.keeper.keep(make_sample(number, result, held_out))

    def note(self, role: str, message: RecordedMessage, content: Any) -> None:
        """One input message; images and transforms go to the output as they came."""
        if role == "image":
            self.inputs.on_image(content)
        elif role == "points":
            self.inputs.on_points(message.topic, content)
        if role in ("image", "tf"):
            self._copy(message, content)

    def _copy(self, message: RecordedMessage, content: Any) -> None:
        msgtype = TF_TYPES[0] if message.msgtype.endswith("/tfMessage") else message.msgtype
        try:
            self.writer.write_raw(message.topic, content, message.log_ns, msgtype=msgtype)
        except MessageError as error:
            self.pipeline.warnings.add(NOT_COPIED, str(error))

    def summary(self, recording: Recording, topics: TopicChoice, *, interrupted: bool) -> Dict[str, Any]:
        """The content of summary.json."""
        pipeline = self.pipeline
        stages = pipeline.latency.summary()
        return {
            "version": __version__,
            "recording": recording.name,
            "interrupted": interrupted,
            "damage": recording.damage,
            "frames_in": pipeline.frames_in,
            "frames_out": pipeline.frames_out,
            "dropped": pipeline.dropped.counts,
            "dropped_messages": pipeline.dropped.texts,
            "warnings": pipeline.warnings.counts,
            "warning_messages": pipeline.warnings.texts,
            "latency_ms": {**stages.pop("total", {"p50": math.nan, "p95": math.nan}), "stages": stages},
            "camera_lidar_offset_ms": self._offset.summary(),
            "engine": self._engine.name,
            "engine_details": self._engine.describe(),
            "accuracy": self._accuracy.summary(),
            **self.inputs.pace(),
            "inputs": self.inputs.summary(),
            "topics": dataclasses.asdict(topics),
            "first_stamp_ns": self._first_stamp_ns,
            "last_stamp_ns": self._last_stamp_ns,
            "messages_written": self.writer.counts,
            "config": config_to_mapping(self._config),
        }

    def _score(self, result: DepthResult) -> Optional[HeldOut]:
        frame = result.frame
        return score_held_out(frame.image, result.points, frame.camera, self._engine, self._config.projection)


class _Accuracy:
    """Mean of each metric over the scored frames (per frame first, as on the KITTI benchmark)."""

    def __init__(self) -> None:
        self._frames = 0
        self._sums: Dict[str, float] = {}
        self._what = ""

    def add(self, held_out: HeldOut, published: FloatArray) -> None:
        """Add a frame; ``published`` is its (H, W) depth as written, NaN where its confidence is too low."""
        self._frames += 1
        self._what = held_out.what
        cols, rows = np.rint(held_out.uv).astype(np.intp).T
        shown = 1.0 - float(np.isnan(published[rows, cols]).mean())
        for name, value in {**held_out.metrics, PUBLISHED: shown}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def summary(self) -> Optional[Dict[str, Any]]:
        if self._frames == 0:
            return None
        means = {name: value / self._frames for name, value in self._sums.items()}
        return {"held_out": self._what, "frames": self._frames, **means}


def _finite(value: Any) -> Any:
    """The value with NaN and infinity, which JSON does not have, as null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
