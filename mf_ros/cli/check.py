"""``mf-ros check``: what is in a bag, what fits, what is wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, List

from mf_ros.bags.check import CheckReport, check
from mf_ros.cli.bag_options import BagOptions, Folder
from mf_ros.cli.options import FINDINGS, OK, print_json, printable, progress
from mf_ros.findings import lines_of


@dataclass(kw_only=True)
class Check(BagOptions):
    """Say what is in a bag, what fits, what is wrong and what to do about it.

    Reads the bag once: topics and rates, order of stamps, clocks of camera and LiDAR, calibration, transforms, point
    fields, damage. With --out it also draws the LiDAR on some of the images, which shows a wrong calibration at once.

    Exit code 0 when depth can be made from the bag (warnings are allowed), 1 when something stands in the way.

    Examples:
        mf-ros check my_bag --out check
        mf-ros check drive.mcap --points-topic /lidar_left/points --points-topic /lidar_right/points
        mf-ros check drive.bag --json | jq -r '.findings[].text'
    """

    out: Folder = None
    """Folder for pictures of the LiDAR projected on the image."""

    def run(self) -> int:
        """Check the bag and print what was found; 1 when one of the findings is an error."""
        config = self.checked_settings()
        with self.open() as recording, progress("reading") as advance:
            report = check(
                recording,
                image=self.image_topic,
                camera_info=self.camera_info_topic,
                points=self.points_topic,
                config=config,
                out=self.out,
                progress=advance,
            )
        if self.json:
            print_json(as_json(report))
        else:
            print("\n".join(map(printable, as_text(report))))
        return FINDINGS if report.has_errors else OK


def as_json(report: CheckReport) -> Dict[str, Any]:
    """The report as plain values."""
    return {
        "name": report.name,
        "duration_s": report.duration_s,
        "ok": not report.has_errors,
        "topics": [
            {**dataclasses.asdict(topic), "role": report.roles.get(topic.name), "times": report.times.get(topic.name)}
            for topic in report.topics
        ],
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "pictures": list(report.pictures),
    }


def as_text(report: CheckReport) -> List[str]:
    """The report as lines for people."""
    lines = [f"{report.name}: {report.duration_s:.1f} s", ""]
    width = max((len(topic.name) for topic in report.topics), default=0)
    for topic in report.topics:
        role = report.roles.get(topic.name, "")
        lines.append(f"  {role:<12} {topic.name:<{width}} {topic.count:>8}  {topic.msgtype}")
        if topic.name in report.times:
            lines.append(f"  {'':<12} {'':<{width}} {'':>8}  {report.times[topic.name]}")
    lines += ["", *(lines_of(report.findings) or ["Nothing is wrong: `mf-ros replay` can use it."])]
    lines += [f"picture: {path}" for path in report.pictures]
    return lines
