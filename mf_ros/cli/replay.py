"""``mf-ros replay``: a bag in; dense metric depth, coloured clouds and a report of how good they are out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Dict, List, Optional, Sequence

import tyro

from mf_ros.bags.replay import OUTPUT_NAME, SUMMARY_NAME, replay
from mf_ros.bags.report import REPORT_NAME, write_report
from mf_ros.cli.bag_options import EngineOptions, engine_text
from mf_ros.cli.options import FINDINGS, INTERRUPTED, OK, one_line, print_json, progress
from mf_ros.engine import make_engine
from mf_ros.errors import BagError


@dataclass(kw_only=True)
class Replay(EngineOptions):
    """Run the pipeline over a bag and write dense metric depth, coloured clouds and a report.

    Writes into the folder OUT: out.mcap (depth, confidence, cloud, camera_info, sparse depth, with the images' own
    stamps and frame; open it in Foxglove or RViz), report.html (pictures, accuracy on held-out LiDAR rings, latency)
    and summary.json. No frame is skipped to save time; a bad message is counted and passed over.

    Exit code 0 when depth was made, 1 when no frame was (summary.json says why), 130 when interrupted; what was
    written until then stays readable.

    Examples:
        mf-ros replay my_bag --out out
        mf-ros replay drive.mcap --out out --start 60 --duration 10
        mf-ros replay drive.bag --out out --config my_robot.yaml --cloud.voxel-m 0.1
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("out")
    """Folder for the results; files of an earlier run in it are replaced."""

    def run(self) -> int:
        """Replay the bag, write the report, print the summary."""
        config = self.engine_settings()
        with self.open() as recording:
            topics = self.choose(recording)
            _require_other_file(self.bag, self.out / OUTPUT_NAME)
            # What is wrong with the bag is told first: loading a network takes a while.
            engine = make_engine(config.engine)
            with progress("replaying") as advance:
                result = replay(recording, topics, config, self.out, engine, progress=advance)
        write_report(result, self.out)
        if self.json:
            print_json(result.summary)
        else:
            print("\n".join(as_text(result.summary, self.out)))
        if result.summary["interrupted"]:
            return INTERRUPTED
        if result.summary["frames_out"]:
            return OK
        print(f"mf-ros: error: {one_line(why_nothing(result.summary))}", file=sys.stderr)
        return FINDINGS


def why_nothing(summary: Dict[str, Any]) -> str:
    """One line on why a run made no depth at all, and what to do."""
    reason = _main_reason(summary)
    if reason is None:
        image = summary["topics"]["image"]
        return f"No depth was made: no message of {image} could be read from this part of {summary['recording']}."
    count, text = summary["dropped"][reason], summary["dropped_messages"].get(reason, "")
    return f"No depth was made, {count} of {summary['frames_in']} images were dropped as {reason}. {text}"


def _main_reason(summary: Dict[str, Any]) -> Optional[str]:
    dropped = summary["dropped"]
    return max(dropped, key=lambda reason: dropped[reason]) if dropped else None


def _require_other_file(bags: Sequence[str], target: Path) -> None:
    """Refuse to write over the recording that is being read."""
    for given in bags:
        path = Path(given).expanduser()
        same = [path, path / target.name] if path.is_dir() else [path]
        if any(target.exists() and each.exists() and each.samefile(target) for each in same):
            raise BagError(f"{target} is the bag that is read: name another folder with --out.")


def as_text(summary: Dict[str, Any], out: Path) -> List[str]:
    """The summary as lines for people."""
    engine = engine_text(summary["engine"], summary["engine_details"])
    lines = [f"{summary['frames_out']} of {summary['frames_in']} images became depth (engine {engine})"]
    # When nothing came out, its main reason is told as the error.
    told = None if summary["frames_out"] or summary["interrupted"] else _main_reason(summary)
    for what, texts in (("dropped", "dropped_messages"), ("warnings", "warning_messages")):
        for reason, count in summary[what].items():
            text = "" if reason == told else one_line(summary[texts].get(reason, ""))
            lines.append(f"  {what.removesuffix('s')} {count}: {reason}: {text}".rstrip(": "))
    if summary["frames_out"]:
        latency = summary["latency_ms"]
        lines.append(f"latency: {latency['p50']:.0f} ms (median), {latency['p95']:.0f} ms (p95)")
    accuracy = summary["accuracy"]
    if accuracy:
        lines.append(
            f"accuracy on {accuracy['held_out']}, {accuracy['frames']} frames: MAE {accuracy['mae']:.2f} m, "
            f"RMSE {accuracy['rmse']:.2f} m, median {accuracy['median']:.3f} m"
        )
    if summary["damage"]:
        lines.append(f"damaged input: {summary['damage']}")
    lines += [f"report:  {out / REPORT_NAME}", f"bag:     {out / OUTPUT_NAME}", f"summary: {out / SUMMARY_NAME}"]
    return lines
