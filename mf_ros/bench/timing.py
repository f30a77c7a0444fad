"""Timing of a function: warm-up, repeats, median and 95th percentile, and a description of the machine."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List

import cv2
import numpy as np

_MIN_REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """How long one part took.

    Attributes:
        name: the part.
        median_ms: median of the repeats, milliseconds.
        p95_ms: 95th percentile of the repeats, milliseconds.
        repeats: number of timed calls.
    """

    name: str
    median_ms: float
    p95_ms: float
    repeats: int


def measure(
    name: str, function: Callable[[], object], *, warmup: int = 3, repeats: int = 50, budget_s: float = 10.0
) -> Timing:
    """Time a function after a warm-up.

    Args:
        name: what the timing is called.
        function: called without arguments.
        warmup: calls before the timed ones; they fill caches.
        repeats: timed calls.
        budget_s: a slow function is repeated less often so that it ends in about this time, but at least five times.
    """
    for _ in range(warmup):
        function()
    elapsed_ms: List[float] = []
    start = time.perf_counter()
    while len(elapsed_ms) < repeats:
        before = time.perf_counter()
        function()
        after = time.perf_counter()
        elapsed_ms.append((after - before) * 1e3)
        if after - start > budget_s and len(elapsed_ms) >= _MIN_REPEATS:
            break
    return Timing(name, float(np.median(elapsed_ms)), float(np.percentile(elapsed_ms, 95)), len(elapsed_ms))


def machine() -> Dict[str, object]:
    """The machine and the versions that the timings depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
