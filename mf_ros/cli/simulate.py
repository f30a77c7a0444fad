"""``mf-ros simulate``: a bag of a simulated drive, so that everything can be tried without data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from mf_ros.cli.options import OK, Options, print_json, progress
from mf_ros.simulate.atmosphere import LightName
from mf_ros.simulate.recording import LidarName, simulate
from mf_ros.simulate.robots import RobotName


@dataclass(kw_only=True)
class Simulate(Options):
    """Write a bag of a simulated drive: camera, LiDAR, calibration, transforms, odometry and the true depth.

    Every point has its time (and its ring, where the LiDAR spins), the robot moves while it measures, and the LiDAR
    sits away from the camera, as on a robot. The same seed and options give the same bag, byte for byte.

    Examples:
        mf-ros simulate --out sim.mcap
        mf-ros simulate --out fisheye.mcap --distortion-model equidistant --hfov-deg 140 --rings 16 --seed 7
        mf-ros simulate --out dusk.mcap --robot rover --lidar livox --tilt 5 --light dusk
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
    robot: RobotName = "shuttle"
    """Body of the robot: a rover sees from knee height, a mast from 3 m above the ground."""
    light: LightName = "day"
    """Dusk has a low sun behind haze, lit windows and lamps, and dark, noisy images."""
    lidar: LidarName = "spinning"
    """Spinning, with scan lines, or solid state with a rosette that does not repeat, as Livox makes it."""
    rings: int = 32
    """Scan lines of a spinning LiDAR."""
    columns: int = 1000
    """Measurements of each scan line in a turn."""
    points: int = 24_000
    """Measurements in a sweep of a Livox LiDAR."""
    tilt: float = 0.0
    """How far the LiDAR is pitched down on its mount, degrees."""
    width: int = 640
    """Width of the image, pixels."""
    height: int = 360
    """Height of the image, pixels."""
    distortion_model: Literal["plumb_bob", "rational_polynomial", "equidistant"] = "plumb_bob"
    """Lens of the camera, with typical coefficients; equidistant is a fisheye."""
    hfov_deg: Optional[float] = None
    """Horizontal field of view before distortion, degrees; unset: that of the robot's camera, 80 of the shuttle."""
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
                robot=self.robot,
                light=self.light,
                lidar=self.lidar,
                rings=self.rings,
                columns=self.columns,
                points=self.points,
                tilt_deg=self.tilt,
                width=self.width,
                height=self.height,
                distortion_model=self.distortion_model,
                hfov_deg=self.hfov_deg,
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
