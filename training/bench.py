"""How fast training runs here, and what makes its scenes; ``mf-ros bench train`` and ``mf-ros bench scenes``."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch

from mf_ros.bench.products import SIZES, Product, products
from mf_ros.bench.stages import StageClock, staged
from mf_ros.bench.timing import Clock, Progress, Task, interleaved, ratio, summary
from mf_training import samples
from mf_training.config import TrainConfig
from mf_training.loop import Status
from mf_training.run import Recipe, train
from mf_training.scenes import scene
from mf_training.settings import load_train_config

PARTS: Mapping[str, str] = {
    "mf_training.scenes.scene:make_scene": "camera rays",
    "mf_training.scenes.scene:_draw": "layout",
    "mf_training.scenes.scene:_lit_tiles": "shadow rays",
    "mf_training.scenes.scene:_cast_beams": "LiDAR rays",
    "mf_training.scenes.scene:_scan_all": "LiDAR returns",
    "mf_training.scenes.scene:_compose": "shading",
    "mf_training.scenes.photo:develop": "photograph",
    "mf_training.samples:make_sample": "sample",
}
"""The part of each function's own time, less that of the functions in this table that it calls."""

_ROUNDS = 7
_WARM_SCENES = 2
_SIZE, _SWEEPS, _CROP = (320, 512), 3, (256, 384)
_PREFETCHED = 4
_NEVER = 1_000_000_000


def bench_scenes(
    *,
    scenes: int = 20,
    threads: int = 1,
    clock: Clock = time.perf_counter,
    progress: Progress = lambda part: None,
) -> Dict[str, Any]:
    """Make procedural scenes, and a training sample of each, and time their parts.

    Args:
        scenes: how many are timed, each of another seed.
        threads: of torch and OpenCV; a training prepares samples in processes of one.
        clock: seconds.
        progress: told the part done, in [0, 1].
    """
    taken: Dict[str, List[float]] = defaultdict(list)
    with _threads(threads), staged(PARTS) as clocks:
        for number in range(_WARM_SCENES + scenes):
            progress(number / (_WARM_SCENES + scenes))
            part = StageClock(clock)
            with clocks.on(part):
                made = scene.make_scene(number, _SIZE, scans=_SWEEPS)
                samples.make_sample(made, np.random.default_rng(number), _CROP)
            if number >= _WARM_SCENES:
                spent = part.take()
                for name in PARTS.values():
                    taken[name].append(spent.get(name, 0.0))
                taken["total"].append(sum(spent.values()))
    scene_ms = sum(taken["total"]) - sum(taken["sample"])
    return {
        "scenes": scenes,
        "size": _SIZE,
        "sweeps": _SWEEPS,
        "scenes_per_s": scenes / (scene_ms / 1e3),
        "samples_per_s": scenes / (sum(taken["total"]) / 1e3),
        "parts": {name: asdict(summary(name, each)) for name, each in taken.items()},
    }


@contextlib.contextmanager
def _threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def bench_train(
    preset: str,
    assignments: Sequence[str] = (),
    *,
    steps: int = 20,
    recipe: Optional[Recipe] = None,
    progress: Progress = lambda part: None,
) -> Dict[str, Any]:
    """Train for a few steps, without evaluations, into a folder that is thrown away.

    All steps crop their samples to the first of the preset's shapes, so that they cost the same. Steps that may still
    live on batches prepared before the first one are not counted.

    Args:
        preset: of config/training, or a YAML file.
        assignments: settings that replace those of the preset, ``key=value``.
        steps: how many are timed.
        recipe: what to train; the package's own when not given.
        progress: told the part done, in [0, 1].

    Raises:
        MfRosError: the training cannot run.
        KeyboardInterrupt: a signal stopped it.
    """
    wanted = load_train_config(preset, assignments)
    warm = 2 + _PREFETCHED * wanted.data.workers
    seen: List[Status] = []

    def report(status: Status) -> None:
        if not seen or status.step > seen[-1].step:
            seen.append(status)
            progress(status.step / (warm + steps))

    with tempfile.TemporaryDirectory() as folder:
        config = _short(wanted, warm + steps, folder)
        done = train(config, recipe, report)
    if done.reason == "interrupted":
        # The trainer has caught the signal and saved; there is nothing to tell of half a measurement.
        raise KeyboardInterrupt
    threads = torch.get_num_threads()
    rate, by = _rate(config, threads)
    timed = seen[warm:]
    per_step = config.batch * config.accumulate
    step_s = [per_step / status.samples_per_s for status in timed]
    waited_s = [status.waiting * each for status, each in zip(timed, step_s, strict=True)]
    gflop = done.tally.flops / done.tally.step / 1e9
    pace = ratio([1.0] * len(step_s), step_s)
    return {
        "preset": preset,
        "threads": threads,
        "workers": config.data.workers,
        "weights": done.weights,
        "batch": per_step,
        "shape": config.data.shapes[0],
        "device": _device(config),
        "precision": "bf16" if config.precision == "bf16" else "float32",
        "steps": len(timed),
        "warm_up_steps": warm,
        "steps_per_s": {"median": pace.value, "low": pace.low, "high": pace.high},
        "samples_per_s": per_step * len(timed) / sum(step_s),
        "waiting": sum(waited_s) / sum(step_s),
        "gflop_per_step": gflop,
        "gflops": gflop * len(timed) / sum(step_s),
        "rate_gflops": rate,
        "rate_by": by,
        "mfu": gflop * len(timed) / sum(step_s) / rate,
        "mfu_computing": gflop * len(timed) / max(sum(step_s) - sum(waited_s), 1e-9) / rate,
    }


def _short(wanted: TrainConfig, steps: int, folder: str) -> TrainConfig:
    """The same training with so many steps, all alike and all reported, and nothing held out."""
    data = wanted.data
    return dataclasses.replace(
        wanted,
        data=dataclasses.replace(
            data,
            shapes=data.shapes[:1],
            scenes=dataclasses.replace(data.scenes, heldout=0),
            frames=dataclasses.replace(data.frames, heldout_folder=""),
            dataset=dataclasses.replace(data.dataset, heldout=0),
        ),
        steps=steps,
        out=folder,
        resume=None,
        minutes=0.0,
        patience=0,
        log_every=1,
        eval_every=_NEVER,
        save_every=_NEVER,
        tracker="none",
    )


def _device(config: TrainConfig) -> str:
    return "cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu"


def _rate(config: TrainConfig, threads: int) -> Tuple[float, str]:
    """The machine's rate of matrix products in the training's precision, 10^9 operations per second, and of which."""
    device = _device(config)
    kind = torch.bfloat16 if config.precision == "bf16" else torch.float32
    sizes = ((4096, 4096, 4096), (8192, 8192, 8192)) if device == "cuda" else SIZES
    tried = [_product(size, device, kind) for size in sizes]
    if device == "cpu" and kind == torch.float32:
        tried += [each for each in products(threads, numpy=False) if each.precision == "float32"]
    elapsed = interleaved({each.name: Task(each.run) for each in tried}, repeats=_ROUNDS)
    best = max(tried, key=lambda each: each.flops / min(elapsed[each.name]))
    return best.flops / min(elapsed[best.name]) / 1e6, best.name


def _product(size: Tuple[int, int, int], device: str, kind: torch.dtype) -> Product:
    rows, inner, columns = size
    a, b = (torch.randn(shape, device=device, dtype=kind) for shape in ((rows, inner), (inner, columns)))
    out = torch.empty((rows, columns), device=device, dtype=kind)
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def run() -> None:
        torch.mm(a, b, out=out)
        wait()

    name = str(kind).removeprefix("torch.")
    return Product(f"torch {device} {name} {rows}x{inner}x{columns}", name, 2.0 * rows * inner * columns, run)
