"""Timing of functions: warm-up, repeats in turns, median and 95th percentile, and ratios with an interval."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

MIN_REPEATS = 5
"""A slow part is timed at least so often."""

_DRAWS = 2000
_LEVEL = 0.95
_SEED = 0

Progress = Callable[[float], None]
Clock = Callable[[], float]

CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds that pass, and seconds that processors spend on this process: on one thread, what others do adds little."""


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


@dataclass(frozen=True)
class Ratio:
    """A ratio of times measured in turns, with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Task:
    """What is timed: ``run``, after ``before``, which is not timed."""

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None


def summary(name: str, elapsed_ms: Sequence[float]) -> Timing:
    """Median and 95th percentile of at least one repeat."""
    return Timing(name, float(np.median(elapsed_ms)), float(np.percentile(elapsed_ms, 95)), len(elapsed_ms))


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
    elapsed = interleaved({name: Task(function)}, warmup=warmup, repeats=repeats, budget_s=budget_s)
    return summary(name, elapsed[name])


def interleaved(
    tasks: Mapping[str, Task],
    *,
    warmup: int = 2,
    repeats: int = 20,
    budget_s: float = 60.0,
    clock: Clock = time.perf_counter,
    progress: Optional[Progress] = None,
) -> Dict[str, List[float]]:
    """Time functions in turns, A B C, B C A, so that what slows the machine down for a while slows all of them alike.

    Args:
        tasks: by name.
        warmup: rounds before the timed ones.
        repeats: timed rounds; each calls every function once.
        budget_s: rounds that begin later than this are left out, but at least five are run.
        clock: what is read before and after each call, seconds.
        progress: told the part done, in [0, 1].

    Returns:
        Milliseconds by name, one for each round: those of the same place were measured right after each other.
    """
    names = list(tasks)
    for _ in range(warmup):
        for task in tasks.values():
            task.before()
            task.run()
    elapsed: Dict[str, List[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for done in range(repeats):
        if done >= MIN_REPEATS and time.perf_counter() - start > budget_s:
            break
        if progress is not None:
            progress(done / repeats)
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            tasks[name].before()
            before = clock()
            tasks[name].run()
            elapsed[name].append((clock() - before) * 1e3)
    return elapsed


def ratio(times: Sequence[float], to: Sequence[float]) -> Ratio:
    """Median over the rounds of the ratio of two times of the same round, with its bootstrap interval.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval of a median).
    """
    rounds = np.asarray(times, np.float64) / np.asarray(to, np.float64)
    drawn = np.random.default_rng(_SEED).integers(0, len(rounds), (_DRAWS, len(rounds)))
    medians = np.median(rounds[drawn], axis=1)
    low, high = np.quantile(medians, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return Ratio(float(np.median(rounds)), float(low), float(high))
