"""Many recordings into one data set: what is new is read on many cores, and committed one recording at a time.

A run may be killed at any moment and started again. The table alone says what is done: each recording is one commit,
and the manifest is written after it and mended from the table at the start of the next run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from mf_ros.core.config import Config
from mf_ros.core.settings import config_to_mapping
from mf_ros.dataset.bag_job import BagJob, Outcome, Reading, Signals, peek_day
from mf_ros.dataset.dataset import TABLE, Dataset, is_dataset
from mf_ros.dataset.jobs import Backend, Result, make_backend, run_jobs
from mf_ros.dataset.manifest import BagRecord, Manifest, TableBag
from mf_ros.dataset.recording_rows import EXTRACTOR_VERSION, RowOptions
from mf_ros.dataset.row import SPLITS, DatasetError
from mf_ros.dataset.schema import FORMAT
from mf_ros.dataset.sources import BagSource, identify
from mf_ros.dataset.splits import Group, SplitChoice, SplitKind, choose_split, describe_split, described_split
from mf_ros.dataset.stores import Store, first_line, open_store
from mf_ros.interrupt import StopOnSignal

_DECISIVE = ("sync", "lidar", "projection", "output")
_READERS = 16


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did.

    Attributes:
        records: one for each recording that was named, in that order.
        rows: of the whole data set, by split; "" are those in gaps.
        split: how rows are shared out.
        seconds: that it took.
        interrupted: it was stopped before its end.
    """

    records: Tuple[BagRecord, ...]
    rows: Mapping[str, int]
    split: SplitKind
    seconds: float
    interrupted: bool

    def of(self, status: str) -> Tuple[BagRecord, ...]:
        """The recordings of a status."""
        return tuple(record for record in self.records if record.status == status)


def extract(
    bags: Sequence[BagSource],
    out: Path,
    options: RowOptions,
    reading: Reading,
    *,
    split: SplitChoice = "auto",
    workers: int = 0,
    ray: Optional[str] = None,
    retry: bool = False,
    progress: Callable[[float], None] = lambda part: None,
) -> ExtractReport:
    """Add recordings to a data set, which is made where there is none; what it has already is skipped.

    On SIGINT or SIGTERM what is committed stays, and the report says that it was interrupted.

    Args:
        bags: what to read.
        out: folder of the data set, or a file ending in .parquet.
        options: what rows are made of; those of the data set where it exists.
        reading: how recordings are read.
        split: how rows are shared out; auto decides when the data set is made.
        workers: processes; 0 works in this one.
        ray: address of a Ray cluster to use instead; "local" starts one.
        retry: recordings that were rejected before are read again.
        progress: told the part done, in [0, 1].

    Raises:
        DatasetError: the data set cannot be written, was made with other settings, or nothing can be read at all.
    """
    started_s = time.monotonic()
    store = open_store(out)
    known = _identified(bags)
    _require_place(store)
    with StopOnSignal() as signals, Manifest(store.manifest) as manifest:
        if not is_dataset(store.path):
            store.create(_description(options, split, bags, known, reading))
        kind = _require_same(store.path, options, split)
        run = _Run(store, manifest, options, reading, kind, retry)
        jobs = run.jobs(bags, known)
        with make_backend(min(workers, max(len(jobs), 1)) if workers else 0, ray if jobs else None) as backend:
            run.work(jobs, backend, signals, progress)
        store.finish()
    rows = Counter(Dataset(store.path).columns(["split"]).column(0).to_pylist())
    counted = {name: rows[name] for name in (*SPLITS, "")}
    seconds = time.monotonic() - started_s
    return ExtractReport(tuple(run.records[bag.path] for bag in bags), counted, kind, seconds, signals.stopped)


_Known = Mapping[str, Union[Tuple[str, int], str]]
"""By path: what tells a recording from others and its size, or why it cannot be read."""


def _identified(bags: Sequence[BagSource]) -> _Known:
    def identified(bag: BagSource) -> Union[Tuple[str, int], str]:
        try:
            return identify(bag.path)
        except Exception as error:
            # Clients of remote storage raise what they like, and one recording must not stop the others.
            return first_line(error)

    with ThreadPoolExecutor(_READERS) as readers:
        known = dict(zip((bag.path for bag in bags), readers.map(identified, bags), strict=True))
    reasons = [found for found in known.values() if isinstance(found, str)]
    if len(reasons) == len(known):
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise DatasetError(f"Nothing can be read{more}: {reasons[0]}" if reasons else "No recording was named.")
    return known


def _require_place(store: Store) -> None:
    """See that the data set is there, or can be made there, without touching what is not one."""
    path, folder = store.path, store.manifest.parent
    of_an_earlier_try = {store.manifest.name, store.workshop.name, TABLE}
    try:
        if not is_dataset(path) and path.is_dir() and {each.name for each in path.iterdir()} - of_an_earlier_try:
            raise DatasetError(f"{path} is a folder of something else: name a new folder with --out.")
        if path.is_file() and not is_dataset(path):
            raise DatasetError(f"{path} is a file: name a folder, or a file that ends in .parquet, with --out.")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be used: {error.strerror or error}.") from error


def _description(
    options: RowOptions, split: SplitChoice, bags: Sequence[BagSource], known: _Known, reading: Reading
) -> Dict[str, Any]:
    kind = choose_split(_groups(bags, known, reading)) if split == "auto" else split
    return {
        "format": FORMAT,
        "extractor_version": EXTRACTOR_VERSION,
        "split": describe_split(kind),
        "extraction": _extraction(options),
        "settings": config_to_mapping(options.settings),
    }


def _groups(bags: Sequence[BagSource], known: _Known, reading: Reading) -> Iterator[Group]:
    """Robot, day and site of the recordings, which are looked into as far as the answer is wanted."""
    readable = [bag for bag in bags if not isinstance(known[bag.path], str)]
    with ThreadPoolExecutor(_READERS) as readers:
        for first in range(0, len(readable), _READERS):
            some = readable[first : first + _READERS]
            days = list(readers.map(lambda bag: peek_day(bag.path, reading), some))
            yield from ((bag.robot_id, day, bag.site) for bag, day in zip(some, days, strict=True) if day)


def _extraction(options: RowOptions) -> Dict[str, Any]:
    return {**dataclasses.asdict(options.keyframes), "jpeg": options.jpeg}


def _require_same(path: Path, options: RowOptions, split: SplitChoice) -> SplitKind:
    """How a data set is split; the settings must be those it was made with.

    Raises:
        DatasetError: they are not.
    """
    description = Dataset(path).description
    if description.extractor_version != EXTRACTOR_VERSION:
        raise DatasetError(
            f"{path} was made by version {description.extractor_version} of the extraction, and this is "
            f"{EXTRACTOR_VERSION}: extract all recordings into another folder."
        )
    theirs = {**_decisive(description.settings), **description.extraction}
    ours = {**_decisive(options.settings), **_extraction(options)}
    other = [f"{name} is {ours[name]!r}, there {theirs.get(name)!r}" for name in ours if ours[name] != theirs.get(name)]
    if other:
        raise DatasetError(
            f"{path} was made with other settings, and a data set has one set of them ({'; '.join(other[:5])}): use "
            "those, or name another folder with --out."
        )
    return described_split(description.split, split)


def _decisive(settings: Config) -> Dict[str, Any]:
    """The settings that decide what rows are, and what is made of them."""
    groups = config_to_mapping(settings)
    return {f"{group}.{name}": value for group in _DECISIVE for name, value in groups[group].items()}


class _Run:
    """One extraction into a data set that exists.

    Attributes:
        records: what became of each recording, by path.
    """

    def __init__(
        self,
        store: Store,
        manifest: Manifest,
        options: RowOptions,
        reading: Reading,
        split: SplitKind,
        retry: bool,
    ) -> None:
        self.records: Dict[str, BagRecord] = {}
        self._store, self._manifest, self._retry = store, manifest, retry
        self._options, self._reading, self._split = options, reading, split
        self._held: Dict[str, TableBag] = store.recover()
        manifest.mend(self._held)

    def jobs(self, bags: Sequence[BagSource], known: _Known) -> List[BagJob]:
        """What is to be done, the largest first, so that no core ends long after the others."""
        jobs: Dict[str, BagJob] = {}
        for bag in bags:
            found = known[bag.path]
            if isinstance(found, str):
                self._settle(BagRecord(bag.path, reason=found, robot_id=bag.robot_id, site=bag.site))
                continue
            job = BagJob(
                bag.path,
                self._bag_id(found[0]),
                bag.robot_id,
                bag.site,
                found[1],
                self._reading,
                self._options,
                self._split,
                self._store,
            )
            refused = self._refused(job, jobs)
            if refused is None:
                jobs[job.bag_id] = job
            else:
                self.records[bag.path] = refused
        return sorted(jobs.values(), key=lambda job: (-job.size, job.path))

    def work(
        self, jobs: Sequence[BagJob], backend: Backend, signals: StopOnSignal, progress: Callable[[float], None]
    ) -> None:
        """Do the jobs and commit what they give."""
        total, done = max(sum(job.size for job in jobs), 1), 0
        control = Signals(self._store.workshop)

        def tick(running: Sequence[BagJob]) -> bool:
            if signals.stopped:
                control.stop()
            progress((done + sum(job.size * control.part_of(job.bag_id) for job in running)) / total)
            return signals.stopped

        self._store.workshop.mkdir(exist_ok=True)
        try:
            for job, result in run_jobs(jobs, backend, tick):
                self._settle(self._committed(job, result))
                done += job.size
        except BaseException:
            control.stop()
            raise
        for job in jobs:
            if job.path not in self.records:
                self.records[job.path] = replace(job.record(), status="interrupted", reason="The run was stopped.")

    def _bag_id(self, identity: str) -> str:
        """Of a recording, and of what is made of it here."""
        topics = (self._reading.image_topic, self._reading.camera_info_topic, self._reading.points_topics)
        made = json.dumps([identity, EXTRACTOR_VERSION, _decisive(self._options.settings), topics])
        made += json.dumps(_extraction(self._options))
        return hashlib.sha256(made.encode()).hexdigest()[:16]

    def _refused(self, job: BagJob, jobs: Mapping[str, BagJob]) -> Optional[BagRecord]:
        """Why a recording is not read; None when it is."""
        record = replace(job.record(), status="skipped")
        if job.bag_id in self._held:
            bag = self._held[job.bag_id]
            return replace(record, reason="It is in the data set already.", day=bag.day)
        if job.bag_id in jobs:
            return replace(record, reason=f"It is the same recording as {jobs[job.bag_id].path}.")
        status, reason = self._manifest.last(job.bag_id) or ("", "")
        if status == "rejected" and not self._retry:
            return replace(record, reason=f"It was rejected before (--retry tries again): {reason}")
        earlier = [bag_id for bag_id in self._manifest.ids_of(job.path) if bag_id in self._held]
        if earlier and not self._named_topics():
            reason = (
                f"The data set has rows of another version of this file ({earlier[0]}), so its images would be in it "
                "twice: extract into another folder, or rename the file if it is another recording."
            )
            return replace(record, status="rejected", reason=reason)
        return None

    def _named_topics(self) -> bool:
        return bool(self._reading.image_topic or self._reading.points_topics)

    def _committed(self, job: BagJob, result: Result) -> BagRecord:
        """The record of a job whose rows are in the data set, if it has any."""
        if not isinstance(result, Outcome):
            return replace(job.record(), reason=f"Its worker failed: {first_line(result)}")
        if result.record.status == "done":
            try:
                self._store.commit(result.pieces)
            except DatasetError as error:
                return replace(result.record, status="failed", reason=str(error), rows=0)
        return result.record

    def _settle(self, record: BagRecord) -> None:
        self.records[record.bag] = record
        if record.status != "interrupted":
            self._manifest.add(record)
