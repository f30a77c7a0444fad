"""``mf-ros replay``: a bag in; dense metric depth, coloured clouds and a report of how good they are out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Dict, List

import tyro

from mf_ros.bags.replay import OUTPUT_NAME, SUMMARY_NAME, replay
from mf_ros.bags.report import REPORT_NAME, write_report
from mf_ros.bags.topics import choose_topics
from mf_ros.cli.bag_options import BagOptions, Word, with_engine
from mf_ros.cli.options import FINDINGS, INTERRUPTED, OK, print_json, progress
from mf_ros.engine import make_engine


@dataclass(kw_only=True)
class Replay(BagOptions):
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
    engine: Word = None
    """Engine to use instead of the one in the settings, for example classical."""

    def run(self) -> int:
        """Replay the bag, write the report, print the summary."""
        config = with_engine(self.checked_settings(), self.engine)
        engine = make_engine(config.engine)
        with self.open() as recording:
            topics = choose_topics(recording, self.image_topic, self.camera_info_topic, self.points_topic)
            with progress("replaying") as advance:
                result = replay(recording, topics, config, self.out, engine, progress=advance)
        write_report(result, self.out)
        if self.json:
            print_json(result.summary)
        else:
            print("\n".join(as_text(result.summary, self.out)))
        if result.summary["interrupted"]:
            return INTERRUPTED
        return OK if result.summary["frames_out"] else FINDINGS


def as_text(summary: Dict[str, Any], out: Path) -> List[str]:
    """The summary as lines for people."""
    lines = [f"{summary['frames_out']} of {summary['frames_in']} images became depth (engine {summary['engine']})"]
    for reason, count in summary["dropped"].items():
        lines.append(f"  dropped {count}: {reason}: {summary['dropped_messages'].get(reason, '')}".rstrip(": "))
    for reason, count in summary["warnings"].items():
        lines.append(f"  warning {count}: {reason}: {summary['warning_messages'].get(reason, '')}".rstrip(": "))
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
