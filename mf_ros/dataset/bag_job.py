"""The work on one recording, in whichever process: read it, judge it, write its rows for the coordinator to commit."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Tuple

import cv2

from mf_ros.bags.reader import Recording, open_recording
from mf_ros.core.topics import TopicChoice, choose_topics
from mf_ros.dataset.manifest import BagRecord
from mf_ros.dataset.quality import unusable
from mf_ros.dataset.recording_rows import Origin, RecordingRows, RowOptions, day_of
from mf_ros.dataset.row import DatasetError, Row
from mf_ros.dataset.splits import SplitKind, TimeBlocks, split_of_group
from mf_ros.dataset.stores import Pieces, Store, batches, first_line, row_bytes
from mf_ros.errors import MfRosError, TopicError

_log = logging.getLogger(__name__)

_STOP = "stop"
_LOOK_EVERY_S, _TELL_EVERY_S = 0.3, 0.5


@dataclass(frozen=True)
class Reading:
    """How recordings are read.

    Attributes:
        image_topic, camera_info_topic, points_topics: topics that are named; the others are guessed in each recording.
        ros_distro: whose message definitions to use where a recording carries none.
        keep_miscalibrated: a recording whose calibration is wrong is used all the same.
    """

    image_topic: Optional[str] = None
    camera_info_topic: Optional[str] = None
    points_topics: Tuple[str, ...] = ()
    ros_distro: Optional[str] = None
    keep_miscalibrated: bool = False

    def choose(self, recording: Recording) -> TopicChoice:
        """The topics of a recording.

        Raises:
            TopicError: nothing fits, or several do.
        """
        try:
            return choose_topics(recording, self.image_topic, self.camera_info_topic, self.points_topics)
        except TopicError as error:
            options = "--image-topic, --camera-info-topic and --points-topic"
            raise TopicError(f"{error} (Topics are named with {options}.)") from error


@dataclass(frozen=True)
class BagJob:
    """One recording to extract.

    Attributes:
        path: absolute path or URL.
        bag_id, robot_id, site: see ``Row``.
        size: bytes.
        reading: how it is read.
        options: what rows are made of.
        split: how they are shared out.
        store: where they go.
    """

    path: str
    bag_id: str
    robot_id: str
    site: str
    size: int
    reading: Reading
    options: RowOptions
    split: SplitKind
    store: Store

    def record(self) -> BagRecord:
        """What is known before it is read."""
        return BagRecord(self.path, self.bag_id, robot_id=self.robot_id, site=self.site, read_bytes=self.size)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        record: for the manifest.
        pieces: what was written, to be committed; empty unless the record says done.
    """

    record: BagRecord
    pieces: Pieces = ()


class Signals:
    """What coordinator and workers tell each other through files in the workshop, on one machine or on many.

    Args:
        workshop: the folder.
        name: of the job; "" for the coordinator.
    """

    def __init__(self, workshop: Path, name: str = "") -> None:
        self._workshop, self._name = workshop, name
        self._looked_s = self._told_s = 0.0
        self._stopped = False

    def stop(self) -> None:
        """Ask every worker to stop between two messages."""
        with contextlib.suppress(OSError):
            (self._workshop / _STOP).touch()

    def stopped(self) -> bool:
        """Whether that was asked; looked up a few times a second, so it may be called often."""
        now = time.monotonic()
        if not self._stopped and now - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = now
            self._stopped = (self._workshop / _STOP).exists()
        return self._stopped

    def progress(self, part: float) -> None:
        """Say how much of the job is done, in [0, 1]; passed on a few times a second."""
        now = time.monotonic()
        if now - self._told_s >= _TELL_EVERY_S:
            self._told_s = now
            with contextlib.suppress(OSError):
                (self._workshop / f"{self._name}.part").write_text(f"{part:.4f}")

    def part_of(self, name: str) -> float:
        """How much of a job is done, in [0, 1]."""
        try:
            return min(max(float((self._workshop / f"{name}.part").read_text()), 0.0), 1.0)
        except (OSError, ValueError):
            return 0.0


def run_job(job: BagJob) -> Outcome:
    """Extract one recording; whatever goes wrong with it is told in the record."""
    start_s, threads = time.monotonic(), cv2.getNumThreads()
    # Processes share the cores; threads of each of them would only wait for those of the others.
    cv2.setNumThreads(1)
    try:
        outcome = _Extraction(job).run()
    except TopicError as error:
        outcome = Outcome(replace(job.record(), status="rejected", reason=first_line(error)))
    except MfRosError as error:
        outcome = Outcome(replace(job.record(), reason=first_line(error)))
    except Exception as error:
        # A recording that is damaged in a way that nobody thought of must not cost the others.
        _log.debug("%s", job.path, exc_info=True)
        reason = f"An unexpected {type(error).__name__} stopped it: {first_line(error)}"
        outcome = Outcome(replace(job.record(), reason=reason))
    finally:
        cv2.setNumThreads(threads)
    return replace(outcome, record=replace(outcome.record, seconds=round(time.monotonic() - start_s, 3)))


def peek_day(path: str, reading: Reading) -> str:
    """The day of a recording; "" where it cannot be told."""
    try:
        with open_recording(path, ros_distro=reading.ros_distro) as recording:
            return day_of(recording, reading.choose(recording))
    except Exception as error:
        # What is wrong with it is told when it is its turn.
        _log.debug("%s: %s", path, error)
        return ""


class _Extraction:
    """One run of a job."""

    def __init__(self, job: BagJob) -> None:
        self._job = job
        self._signals = Signals(job.store.workshop, job.bag_id)
        self._record = job.record()
        self._bytes = 0
        self._error: Optional[BaseException] = None

    def run(self) -> Outcome:
        job = self._job
        with open_recording(job.path, ros_distro=job.reading.ros_distro) as recording:
            topics = job.reading.choose(recording)
            reason = unusable(recording, topics)
            if reason:
                return Outcome(replace(self._record, status="rejected", reason=reason))
            day = day_of(recording, topics)
            self._record = replace(self._record, day=day)
            blocks = TimeBlocks(recording.start_ns, recording.end_ns)
            group_split = split_of_group((job.robot_id, day, job.site))
            origin = Origin(job.bag_id, job.robot_id, job.site, day)
            split_at: Callable[[int], str] = blocks.split_at if job.split == "time" else lambda log_ns: group_split
            rows = RecordingRows(recording, topics, job.options, origin, split_at)
            pieces = self._write(rows)
            notes = _notes(recording, rows)
            if job.split == "time":
                self._record = replace(self._record, gap_s=round(blocks.gap_s, 3))
        return self._judged(rows, pieces, notes)

    def _write(self, rows: RecordingRows) -> Pieces:
        try:
            return self._job.store.write(self._job.bag_id, batches(self._watched(rows)))
        except Exception as error:
            if self._error is not None:
                # The library that asked for the rows wraps what making them raised.
                raise self._error from None
            raise DatasetError(f"{self._job.store.path} cannot be written: {first_line(error)}") from error

    def _watched(self, rows: RecordingRows) -> Iterator[Row]:
        try:
            for row in rows.read(self._signals.stopped, self._signals.progress):
                self._bytes += row_bytes(row)
                yield row
        except Exception as error:
            self._error = error
            raise

    def _judged(self, rows: RecordingRows, pieces: Pieces, notes: List[str]) -> Outcome:
        """The pieces where the recording is fit, else why not."""
        record = replace(self._record, images=rows.images, dropped=rows.dropped)
        wrong = rows.miscalibrated()
        if wrong and self._job.reading.keep_miscalibrated:
            notes.append(wrong)
            wrong = ""
        reason = rows.too_few() or wrong
        if self._signals.stopped():
            record = replace(record, status="interrupted", reason="The run was stopped.")
        elif reason:
            record = replace(record, status="rejected", reason=first_line(reason), notes=tuple(notes))
        else:
            record = replace(record, status="done", rows=rows.count, bytes=self._bytes, notes=tuple(notes))
            return Outcome(record, pieces)
        self._job.store.discard(pieces)
        return Outcome(record)


def _notes(recording: Recording, rows: RecordingRows) -> List[str]:
    notes = [f"Damaged, and used as far as it can be read: {recording.damage}"] if recording.damage else []
    if rows.without_pose:
        notes.append(f"{rows.without_pose} rows have no pose in the fixed frame: lidar.fixed_frame names it.")
    if rows.uncompensated:
        notes.append(f"The motion during the sweep is not known in {rows.uncompensated} rows.")
    return notes
