"""``mf-ros bench``: how fast the parts run on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Literal

import tyro

from mf_ros.cli.options import OK, Options, print_json, progress
from mf_ros.errors import ConfigError

# Read by the linear algebra libraries when NumPy is first imported, which is why they are set here.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

WHAT = {
    "projection": "projection + culling of a 64-ring sweep (120k points) into {size}",
    "cloud": "packing of a {size} organized coloured cloud",
    "network": "the shipped network in onnxruntime on the CPU, same frame and input",
    "linear": "baseline: linear over the Delaunay triangles, {size}",
    "ip_basic": "baseline: IP-Basic, {size}",
}


@dataclass(kw_only=True)
class Bench(Options):
    """Measure how fast the parts run on one core of this machine, or on more, on a simulated street.

    core: every part is warmed up and repeated; the median and the 95th percentile are printed, and for the engine, the
    shipped network and the baselines, which complete the same frame, the ratio to the engine. Run it on an otherwise
    idle machine.

    node, with ROS 2 sourced: the live node is started and sent images with 64-ring sweeps while all of its outputs are
    heard; printed are its latencies, what it takes beside its engine (overhead), and its memory.

    Examples:
        mf-ros bench core
        mf-ros bench core --threads 2 --width 1216 --height 352
        mf-ros bench core --json > bench.json
        mf-ros bench node --rate-hz 5 --frames 300
    """

    suite: tyro.conf.Positional[Literal["core", "node"]] = "core"
    """Which benchmarks to run."""
    engine: str = "classical"
    """Engine to time beside the baselines."""
    repeats: int = 50
    """Timed calls of each part; a slow part is repeated less often."""
    threads: int = 1
    """Threads of OpenCV, of linear algebra and of networks."""
    width: int = 1242
    """Width of the image, pixels; less than 1242 crops it."""
    height: int = 375
    """Height of the image, pixels; less than 375 crops it."""
    rate_hz: float = 10.0
    """Images per second that the node is sent."""
    frames: int = 300
    """Images that the node is sent."""

    def run(self) -> int:
        """Run the benchmarks and print them."""
        return self._run_node() if self.suite == "node" else self._run_core()

    def _run_node(self) -> int:
        from mf_ros.bench.node import bench_node
        from mf_ros.bench.timing import machine

        if self.frames < 1 or self.rate_hz <= 0:
            raise ConfigError("--frames and --rate-hz must be above zero.")
        size = (self.width, self.height)
        with progress("sending") as advance:
            result = bench_node(self.engine, size=size, rate_hz=self.rate_hz, frames=self.frames, progress=advance)
        if self.json:
            print_json(
                {"machine": machine(), "engine": self.engine, "size": size, "rate_hz": self.rate_hz, **asdict(result)}
            )
            return OK
        print("  ".join(f"{key} {value}" for key, value in machine().items()))
        print(
            f"{result.sent} images of {self.width}x{self.height} sent at {self.rate_hz:g} Hz, "
            f"{result.received} depth images heard"
        )
        for stage, values in result.latency_ms.items():
            print(f"{values['p50']:7.1f} ms median {values['p95']:7.1f} ms p95  {stage}")
        print(f"memory of the node, MB: {' to '.join(f'{value:.0f}' for value in result.memory_mb)}")
        return OK

    def _run_core(self) -> int:
        threads = max(self.threads, 1)
        for name in _THREAD_VARIABLES:
            os.environ.setdefault(name, str(threads))
        from mf_ros.bench.core import COMPARED_BASELINES, NETWORK, bench_core
        from mf_ros.bench.timing import machine

        with progress("timing") as advance:
            timings = bench_core(
                self.engine,
                size=(self.width, self.height),
                threads=threads,
                repeats=max(self.repeats, 1),
                progress=advance,
            )
        median = {timing.name: timing.median_ms for timing in timings}
        completing = (self.engine, NETWORK, *COMPARED_BASELINES)
        rows = [
            {
                "name": timing.name,
                "median_ms": round(timing.median_ms, 3),
                "p95_ms": round(timing.p95_ms, 3),
                "repeats": timing.repeats,
                "ratio": round(timing.median_ms / median[self.engine], 3) if timing.name in completing else None,
            }
            for timing in timings
        ]
        if self.json:
            size = [self.width, self.height]
            print_json({"machine": machine(), "threads": threads, "size": size, "engine": self.engine, "timings": rows})
            return OK
        print("  ".join(f"{key} {value}" for key, value in {**machine(), "threads": threads}.items()))
        print(f"{'median':>9} {'p95':>9} {'repeats':>8} {'ratio':>6}")
        for row in rows:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            name = str(row["name"])
            what = WHAT.get(name, f"engine {name} per {{size}} frame, input of 32 rings")
            what = what.format(size=f"{self.width}x{self.height}")
            print(f"{row['median_ms']:6.1f} ms {row['p95_ms']:6.1f} ms {row['repeats']:8} {ratio:>6}  {name}: {what}")
        return OK
