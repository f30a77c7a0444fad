"""What each suite of ``mf-ros bench`` runs, and the document that it comes to, which is also its JSON."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping

from mf_ros.bench.machine import LoadWatch, machine
from mf_ros.bench.timing import CLOCKS
from mf_ros.cli.options import Advance, progress
from mf_ros.core.config import Config
from mf_ros.core.settings import load_config
from mf_ros.errors import ConfigError, MissingDependencyError
from mf_ros.packages import install_command

if TYPE_CHECKING:
    from mf_ros.cli.bench import Bench

# Of the training side, which this package does not import: found by name, as the command finds its subcommands.
_TRAINING = "mf_training.bench"


def measured(options: Bench) -> Dict[str, Any]:
    """Run the suite that the options name.

    Returns:
        ``suite``, ``machine``, ``threads``, ``clock``, ``others_busy`` (cores that others used meanwhile), and
        the result.

    Raises:
        MissingDependencyError: a package or ROS 2 is missing.
        MfRosError: what was asked for cannot be measured.
    """
    watch = LoadWatch()
    told = machine()
    with progress(f"measuring {options.suite}") as advance:
        result = _SUITES[options.suite](options, advance)
    return {
        "suite": options.suite,
        "machine": told,
        "threads": options.threads,
        "clock": options.clock,
        "others_busy": watch.others(),
        **result,
    }


def _core(options: Bench, advance: Advance) -> Dict[str, Any]:
    from mf_ros.bench.core import bench_core

    engine, size = _only_engine(options), (options.width, options.height)
    parts = bench_core(
        engine,
        size=size,
        threads=options.threads,
        repeats=options.repeats or 50,
        clock=CLOCKS[options.clock],
        progress=advance,
    )
    rows = [{**asdict(part.timing), "ratio": None if part.ratio is None else asdict(part.ratio)} for part in parts]
    return {"size": list(size), "engine": engine, "timings": rows}


def _engine(options: Bench, advance: Advance) -> Dict[str, Any]:
    from mf_ros.bench.choice import chosen
    from mf_ros.bench.engines import bench_engines, kept_from_rate, operator_rows
    from mf_ros.bench.street import cropped, make_street

    engines = chosen(options.engine, _settings(options), options.threads)
    street = cropped(make_street(), options.width, options.height)
    result = bench_engines(
        engines,
        street,
        threads=options.threads,
        repeats=options.repeats or 20,
        clock=CLOCKS[options.clock],
        progress=advance,
    )
    document = asdict(result)
    for row, each in zip(document["engines"], result.engines, strict=True):
        if each.network is not None:
            row["network"]["operators"] = operator_rows(each.network, result)
            row["network"]["kept_from_rate_ms"] = dict(kept_from_rate(each.network, result.best_gflops))
    return document


def _pipeline(options: Bench, advance: Advance) -> Dict[str, Any]:
    from mf_ros.bench.choice import chosen
    from mf_ros.bench.drive import SIMULATED, recorded_drive, simulated_drive
    from mf_ros.bench.pipeline import COMPARED, bench_pipeline

    config, frames = _settings(options), options.frames or 6
    engines = chosen(options.engine, config, options.threads)
    if options.bag:
        drive = recorded_drive(options.bag, config, frames=frames)
    else:
        size = (options.width, options.height, *SIMULATED[2:])
        compressed = options.images == "jpeg"
        drive = simulated_drive(
            config, frames=frames, compressed=compressed, size=size, progress=lambda part: advance(0.2 * part)
        )
    result = bench_pipeline(
        engines,
        drive,
        baselines=() if options.without_baselines else COMPARED,
        threads=options.threads,
        repeats=options.repeats or 20,
        clock=CLOCKS[options.clock],
        progress=lambda part: advance(0.2 + 0.8 * part),
    )
    return asdict(result)


def _node(options: Bench, advance: Advance) -> Dict[str, Any]:
    from mf_ros.bench.node import bench_node

    engine, size = _only_engine(options), (options.width, options.height)
    result = bench_node(engine, size=size, rate_hz=options.rate_hz, frames=options.frames or 300, progress=advance)
    return {"engine": engine, "size": list(size), "rate_hz": options.rate_hz, **asdict(result)}


def _growth(options: Bench, advance: Advance) -> Dict[str, Any]:
    from mf_ros.bench.chart import write_chart
    from mf_ros.bench.choice import chosen
    from mf_ros.bench.growth import bench_growth

    engines = chosen(options.engine, _settings(options), options.threads)
    curves = bench_growth(
        engines, threads=options.threads, repeats=options.repeats or 7, clock=CLOCKS[options.clock], progress=advance
    )
    if options.plot is not None:
        write_chart(options.plot, curves)
    return {"curves": [asdict(curve) for curve in curves], "plot": options.plot}


def _train(options: Bench, advance: Advance) -> Dict[str, Any]:
    return dict(_of_training("bench_train")(options.preset, options.set, steps=options.repeats or 20, progress=advance))


def _scenes(options: Bench, advance: Advance) -> Dict[str, Any]:
    bench = _of_training("bench_scenes")
    return dict(
        bench(scenes=options.repeats or 20, threads=options.threads, clock=CLOCKS[options.clock], progress=advance)
    )


def _of_training(function: str) -> Callable[..., Mapping[str, Any]]:
    try:
        found: Callable[..., Mapping[str, Any]] = getattr(importlib.import_module(_TRAINING), function)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "mf_ros":
            raise
        raise MissingDependencyError(f"Training is not installed ({error}): run {install_command('train')}.") from error
    return found


def _only_engine(options: Bench) -> str:
    """The one engine that core and node measure."""
    if len(options.engine) > 1:
        raise ConfigError(f"{options.suite} measures one engine: name one, or run mf-ros bench engine.")
    return options.engine[0] if options.engine else "classical"


def _settings(options: Bench) -> Config:
    return Config() if options.config is None else load_config(options.config)


_SUITES: Dict[str, Callable[[Bench, Advance], Dict[str, Any]]] = {
    "core": _core,
    "engine": _engine,
    "pipeline": _pipeline,
    "growth": _growth,
    "node": _node,
    "train": _train,
    "scenes": _scenes,
}
