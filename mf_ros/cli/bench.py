"""``mf-ros bench``: how fast the parts run on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Optional, Tuple

import tyro

from mf_ros.cli.options import OK, Options, print_json
from mf_ros.errors import ConfigError

# Read by the linear algebra libraries when NumPy is first imported, which is why they are set here.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Suite = Literal["core", "engine", "pipeline", "growth", "node", "train", "scenes"]
Words = Annotated[tyro.conf.UseAppendAction[Tuple[str, ...]], tyro.conf.arg(metavar="NAME[,SETTING=VALUE...]")]
Assignments = Annotated[tyro.conf.UseAppendAction[Tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")]
Paths = Annotated[Tuple[str, ...], tyro.conf.arg(metavar="BAG")]
File = Annotated[Optional[Path], tyro.conf.arg(metavar="FILE")]


@dataclass(kw_only=True)
class Bench(Options):
    """Measure how fast the parts run on this machine; what is compared runs in turns, so that all feel the same load.

    core: projection, culling, cloud, the engine and simple methods on a simulated street.

    engine: engines beside each other: latency, memory, operations, their share of the machine's measured rate of
    matrix products, and which operators keep the network from it.

    pipeline: messages in, serialised results out, stage by stage, and with simple methods in the engine's place.

    growth: how the cost grows with points, pixels, cameras and denoising steps.

    node, with ROS 2 sourced: the live node's latencies, what it takes beside its engine, and its memory.

    train, scenes: steps of training and the part of the machine's rate that they reach; procedural scenes by part.

    Run it on an otherwise idle machine; the load that others put on it is printed.

    Examples:
        mf-ros bench core --threads 2 --width 1216 --height 352
        mf-ros bench engine --engine classical --engine nano --engine nano,steps=4
        mf-ros bench pipeline --bag my_bag --json > pipeline.json
        mf-ros bench growth --plot growth.png
        mf-ros bench train --set batch=4 --set data.workers=1
    """

    suite: tyro.conf.Positional[Suite] = "core"
    """Which benchmarks to run."""
    engine: Words = ()
    """Engine to measure; given again, another one beside it. NAME is an engine, a shipped network or a preset."""
    repeats: int = 0
    """Timed rounds; 0 takes the suite's own number. Slow parts are repeated less often."""
    threads: int = 1
    """Threads of OpenCV, of linear algebra and of networks."""
    clock: Literal["wall", "cpu"] = "wall"
    """All but node and train: wall is the time that passes; cpu that which a processor spends on this process,
    which on one thread hardly changes while others use the machine."""
    width: int = 1242
    """Width of the image, pixels; core, engine and node take at most 1242."""
    height: int = 375
    """Height of the image, pixels; core, engine and node take at most 375."""
    bag: Paths = ()
    """pipeline: measure on the beginning of this bag instead of a simulated street."""
    config: File = None
    """engine, pipeline: YAML file of settings."""
    images: Literal["raw", "jpeg"] = "raw"
    """pipeline: kind of the simulated images."""
    without_baselines: bool = False
    """pipeline: leave IP-Basic and linear interpolation, which are measured in the engine's place, out."""
    frames: int = 0
    """pipeline: images to feed again and again, by default 6; node: images to send, by default 300."""
    rate_hz: float = 10.0
    """node: images per second."""
    plot: File = None
    """growth: PNG to draw."""
    preset: str = "nano"
    """train: preset of config/training, or a YAML file of settings."""
    set: Assignments = ()
    """train: a setting that replaces that of the preset; given again, another one."""

    def run(self) -> int:
        """Run the benchmarks and print them."""
        if self.threads < 1 or self.repeats < 0 or self.frames < 0 or self.rate_hz <= 0:
            raise ConfigError("--threads and --rate-hz must be above zero, --repeats and --frames not below it.")
        if self.plot is not None and (self.suite != "growth" or self.plot.suffix.lower() != ".png"):
            raise ConfigError(f"--plot {self.plot}: growth draws one .png.")
        if self.clock == "cpu" and self.threads > 1:
            raise ConfigError("--clock cpu adds the time of all threads up: use it with --threads 1.")
        if self.suite != "train":
            for name in _THREAD_VARIABLES:
                os.environ[name] = str(self.threads)
        from mf_ros.cli.bench_suites import measured
        from mf_ros.cli.bench_tables import as_text

        document = measured(self)
        if self.json:
            print_json(document)
        else:
            print("\n".join(as_text(document)))
        return OK
