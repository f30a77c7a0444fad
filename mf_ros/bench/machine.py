"""The machine that timings hold for: what it is, what else ran on it meanwhile, and what it can do at most."""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.bench.products import Product, products
from mf_ros.bench.timing import Clock, Task, interleaved

_COPIED_BYTES = 128 * 2**20
_ROUNDS = 7


def machine() -> Dict[str, object]:
    """The machine and the versions that the timings depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "load_1min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


class LoadWatch:
    """Tells how many cores other processes kept busy since it was made; None where the system does not say."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = _busy_s(), _own_s()

    def others(self) -> Optional[float]:
        """Cores that others used on average, including what a host took away from a virtual machine."""
        busy, elapsed = _busy_s(), time.perf_counter() - self._started
        if busy is None or self._busy is None or elapsed <= 0:
            return None
        return round(max(busy - self._busy - (_own_s() - self._own), 0.0) / elapsed, 2)


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most, measured.

    Attributes:
        threads: of all measurements.
        gflops: rate of matrix products in 10^9 operations per second by precision, a product and a sum counting two;
            the best of the products tried.
        by: with which library, and at which size.
        copy_gb_s: bytes read and written per second while a large array is copied, 10^9.
    """

    threads: int
    gflops: Mapping[str, float]
    by: Mapping[str, str]
    copy_gb_s: float

    @property
    def float32(self) -> float:
        """The rate in single precision, 10^9 operations per second."""
        return self.gflops["float32"]


def measure_ceilings(
    threads: int, clock: Clock = time.perf_counter, progress: Callable[[float], None] = lambda part: None
) -> Tuple[Ceilings, Dict[str, Product]]:
    """Measure the machine's ceilings; each is the best of several rounds, since nothing makes a machine faster.

    Args:
        threads: of the products and of the copy.
        clock: seconds.
        progress: told the part done, in [0, 1].

    Returns:
        The ceilings, and by precision the product that was fastest, to be timed again beside what is compared with it.
    """
    tried = products(threads)
    elapsed = interleaved(
        {each.name: Task(each.run) for each in tried}, repeats=_ROUNDS, clock=clock, progress=progress
    )
    best: Dict[str, Product] = {}
    rates = {each.name: each.flops / min(elapsed[each.name]) / 1e6 for each in tried}
    for each in tried:
        if each.precision not in best or rates[each.name] > rates[best[each.precision].name]:
            best[each.precision] = each
    found = Ceilings(
        threads,
        {precision: rates[each.name] for precision, each in best.items()},
        {precision: each.name for precision, each in best.items()},
        _copy_rate(threads, clock),
    )
    return found, best


def _copy_rate(threads: int, clock: Clock) -> float:
    """10^9 bytes per second, read and written."""
    source = np.ones(_COPIED_BYTES // 8)
    target = np.empty_like(source)
    parts: Sequence[Tuple[np.ndarray, np.ndarray]] = list(
        zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
    )
    with ThreadPoolExecutor(threads) as pool:

        def copy() -> None:
            # NumPy copies on one core, and lets other threads run meanwhile.
            list(pool.map(lambda part: np.copyto(*part), parts))

        elapsed = interleaved({"copy": Task(copy)}, repeats=_ROUNDS, clock=clock)["copy"]
    return 2 * source.nbytes / min(elapsed) / 1e6


def _busy_s() -> Optional[float]:
    """Seconds for which all cores together were not idle, since the start of the system."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1:9]]
    except (OSError, ValueError):
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _memory_gb() -> Optional[float]:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (OSError, ValueError):
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
