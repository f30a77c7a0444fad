"""``mf-ros simulate``: a bag of a simulated drive, so that everything can be tried without data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mf_ros.cli.options import OK, Options, print_json, progress
from mf_ros.simulate.recording import simulate


@dataclass(kw_only=True)
class Simulate(Options):
    """Write a bag of a simulated drive: camera, LiDAR, calibration, transforms, odometry and the true depth.

    The LiDAR has rings and a time for every point, the robot moves while it measures, and the LiDAR sits away from
    the camera, as on a robot. The same seed and options give the same bag, byte for byte.

    Examples:
        mf-ros simulate --out sim.mcap
        mf-ros simulate --out fisheye.mcap --distortion-model equidistant --rings 16 --seed 7
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The MCAP file to write; replaced if it exists."""
    seed: int = 0
    """Of the scene and of all noise."""
    seconds: float = 4.0
    """Length of the drive, seconds."""
    rate_hz: float = 10.0
    """Images and sweeps per second."""
    scene: Literal["street", "yard"] = "street"
    """What is driven through."""
    rings: int = 32
    """Scan lines of the LiDAR."""
    columns: int = 1000
    """Measurements of each scan line in a turn."""
    width: int = 640
    """Width of the image, pixels."""
    height: int = 360
    """Height of the image, pixels."""
    distortion_model: Literal["plumb_bob", "rational_polynomial", "equidistant"] = "plumb_bob"
    """Lens of the camera, with typical coefficients."""
    speed: float = 4.0
    """Speed of the robot, m/s."""
    compressed: bool = False
    """Write JPEG images instead of raw ones."""

    def run(self) -> int:
        """Simulate and say what was written."""
        with progress("simulating") as advance:
            summary = simulate(
                self.out,
                seed=self.seed,
                seconds=self.seconds,
                rate_hz=self.rate_hz,
                scene=self.scene,
                rings=self.rings,
                columns=self.columns,
                width=self.width,
                height=self.height,
                distortion_model=self.distortion_model,
                speed=self.speed,
                compressed=self.compressed,
                progress=lambda done, total: advance(done / total),
            )
        if self.json:
            print_json(dataclasses.asdict(summary))
        else:
            print(
                f"{summary.path}: {summary.frames} images and {summary.sweeps} sweeps of a drive of "
                f"{summary.distance_m:.0f} m, {summary.size_bytes / 1e6:.1f} MB"
            )
            print(f"Next: mf-ros replay {summary.path} --out out")
        return OK
