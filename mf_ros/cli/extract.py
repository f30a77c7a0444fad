"""``mf-ros extract``: a fleet's bags in, a data set for training out."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional

import tyro

from mf_ros.cli.bag_options import Bags, File, TopicOptions, Word
from mf_ros.cli.options import BAD_INPUT, FINDINGS, INTERRUPTED, OK, one_line, print_json, progress
from mf_ros.dataset.bag_job import Reading
from mf_ros.dataset.extract import ExtractReport, extract
from mf_ros.dataset.keyframes import KeyframeOptions
from mf_ros.dataset.manifest import BagRecord
from mf_ros.dataset.recording_rows import RowOptions
from mf_ros.dataset.sources import find_bags
from mf_ros.dataset.splits import SplitChoice
from mf_ros.errors import ConfigError

_REASONS_SHOWN = 3


@dataclass(kw_only=True)
class Extract(TopicOptions):
    """Make a data set for training of many bags, or add bags to one.

    Writes keyframes (image, all LiDAR sweeps unprojected, transforms, calibration) into the folder OUT, or into one
    file if OUT ends in .parquet. BAG is a path, a URL, a pattern in quotes, or a folder of bags. What is in the data
    set already is skipped, so the same command can be given again, after Ctrl-C or a crash too. OUT/manifest.jsonl
    has a line for each bag: what became of it, and why.

    A bag is rejected when its topics, clocks or transforms do not fit together, or when the LiDAR's edges do not fall
    on the image's: its calibration is wrong.

    Exit code 0 when all bags are in the data set, 1 when some failed or were rejected, 2 when nothing could be used,
    130 when interrupted; what was finished until then stays.

    Examples:
        mf-ros extract bags/ --out fleet
        mf-ros extract 'rover-1/*.mcap' --out fleet --robot-id rover-1 --site yard --workers 8
        mf-ros extract --list bags.tsv --out fleet.parquet --every-m 1
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DATASET")] = tyro.MISSING
    """Folder of the data set, or a file that ends in .parquet; added to when it exists."""
    bag: Bags = ()
    """ROS 1 .bag, rosbag2 folder, .mcap or .db3; a folder without metadata.yaml gives every bag in it."""
    list_file: Annotated[File, tyro.conf.arg(name="list")] = None
    """File with a bag on each line, and after tabs its robot and its site."""
    robot_id: Word = None
    """Robot that the bags are of; by default the name of the folder that holds the bag."""
    site: Word = None
    """Place where they were recorded."""
    split: SplitChoice = "auto"
    """How rows are shared out to train, val and test: group, by robot, day and site; time, each bag in pieces with
    gaps; auto, decided when the data set is made: group when there are ten groups or more."""
    every_m: float = 0.5
    """A keyframe every so many metres (0: every image, however alike),"""
    every_deg: float = 10.0
    """or every so many degrees."""
    max_rows: Annotated[int, tyro.conf.arg(metavar="N")] = 20_000
    """Of one bag, spread over it."""
    jpeg: Annotated[int, tyro.conf.arg(metavar="QUALITY")] = 0
    """Store raw images as JPEG of this quality (1 to 100) instead of lossless PNG."""
    workers: Annotated[Optional[int], tyro.conf.arg(metavar="N")] = None
    """Processes; by default one for each core, 0 works in this one."""
    ray: Annotated[Optional[str], tyro.conf.arg(metavar="ADDRESS")] = None
    """Work on this Ray cluster instead (auto, ray://host:10001; local starts one here); OUT must lie where all of its
    machines see it."""
    retry: bool = False
    """Read bags again that were rejected before."""
    keep_miscalibrated: bool = False
    """Use bags whose calibration is wrong."""

    def run(self) -> int:
        """Extract and print what became of each bag."""
        options = RowOptions(
            self.checked_settings(),
            KeyframeOptions(self.every_m, self.every_deg, self.max_rows).checked(),
            self.jpeg,
        )
        _require_range("--jpeg", self.jpeg, 0, 100)
        workers = len(os.sched_getaffinity(0)) if self.workers is None else self.workers
        _require_range("--workers", workers, 0, 1024)
        bags = find_bags(self.bag, self.list_file, self.robot_id or "", self.site or "")
        reading = Reading(
            self.image_topic, self.camera_info_topic, self.points_topic, self.ros_distro, self.keep_miscalibrated
        )
        with progress("extracting") as advance:
            report = extract(
                bags,
                self.out,
                options,
                reading,
                split=self.split,
                workers=workers,
                ray=self.ray,
                retry=self.retry,
                progress=advance,
            )
        if self.json:
            print_json(as_json(report))
        else:
            print("\n".join(as_text(report, self.out)))
        return _exit_code(report)


def _require_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}: use {low} to {high}.")


def _exit_code(report: ExtractReport) -> int:
    if report.interrupted:
        return INTERRUPTED
    if not sum(report.rows.values()):
        reasons = [record.reason for record in report.records if record.reason]
        why = one_line(reasons[0]) if reasons else "no recording was named."
        print(f"mf-ros: error: The data set has no rows: {why}", file=sys.stderr)
        return BAD_INPUT
    return FINDINGS if report.of("failed") or report.of("rejected") else OK


def as_json(report: ExtractReport) -> Dict[str, Any]:
    """The report as plain values."""
    made = report.of("done")
    return {
        "bags": [dataclasses.asdict(record) for record in report.records],
        "rows": dict(report.rows),
        "split": report.split,
        "new_rows": sum(record.rows for record in made),
        "bytes": sum(record.bytes for record in made),
        "read_bytes": sum(record.read_bytes for record in made),
        "seconds": report.seconds,
        "interrupted": report.interrupted,
    }


def as_text(report: ExtractReport, out: Path) -> List[str]:
    """The report as lines for people."""
    names = _short_names(report.records)
    width = max(map(len, names), default=0)
    lines = []
    for name, record in zip(names, report.records, strict=True):
        lines.append(f"{record.status:<11} {name:<{width}}  {_outcome(record)}".rstrip())
        lines += [f"{'':<11} {one_line(note)}" for note in record.notes if record.status == "done"]
    made = report.of("done")
    rows, seconds = sum(record.rows for record in made), max(report.seconds, 1e-9)
    stored, read = (sum(getattr(record, name) for record in made) / 1e6 for name in ("bytes", "read_bytes"))
    statuses = ("done", "skipped", "rejected", "failed", "interrupted")
    counts = [f"{len(report.of(status))} {status}" for status in statuses if report.of(status)]
    lines.append(f"{len(report.records)} bags: {', '.join(counts)}")
    lines.append(
        f"{rows} new rows in {seconds:.1f} s ({rows / seconds:.1f} rows/s), {stored:.1f} MB of {read:.1f} MB read "
        f"({read / seconds:.1f} MB/s)"
    )
    shares = ", ".join(f"{count} {name or 'in gaps'}" for name, count in report.rows.items() if name or count)
    gaps = sorted(record.gap_s for record in made if record.gap_s)
    apart = f" with gaps of {' to '.join(dict.fromkeys(f'{gap:.2g}' for gap in (gaps[0], gaps[-1])))} s" if gaps else ""
    lines.append(f"{out}: {sum(report.rows.values())} rows ({shares}), split by {report.split}{apart}")
    empty = [name for name, count in report.rows.items() if name and not count]
    if empty and sum(report.rows.values()):
        lines.append(
            f"warning: there is no row in {' and '.join(empty)}: add bags, or use --split time in a new folder"
        )
    return lines


def _short_names(records: Any) -> List[str]:
    """Names of the recordings without the folders that all of them share."""
    paths = [record.bag for record in records]
    shared = os.path.commonpath(paths) if len(paths) > 1 and all(path.startswith("/") for path in paths) else ""
    return [one_line(os.path.relpath(path, shared) if shared else path) for path in paths]


def _outcome(record: BagRecord) -> str:
    if record.status != "done":
        return one_line(record.reason)
    left_out = [f"{count} {reason}" for reason, count in list(record.dropped.items())[:_REASONS_SHOWN]]
    more = f" (left out: {', '.join(left_out)})" if left_out else ""
    return f"{record.rows} rows of {record.images} images, {record.bytes / 1e6:.1f} MB, {record.seconds:.1f} s{more}"
