"""What onnxruntime does in a network: time, operations and bytes of every kind of operator, from its own profiler."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from mf_ros.bench.flops import family, operations
from mf_ros.bench.timing import Clock
from mf_ros.engine import DepthEngine
from mf_ros.errors import ModelError, require_package

_RUN, _KERNEL = "model_run", "_kernel_time"
_LARGEST_PROFILE = 2**30


@dataclass(frozen=True)
class OperatorTime:
    """One kind of operator over a whole frame; convolutions count as one kind, and so do matrix products.

    Attributes:
        name: ONNX's name, or that of the kind.
        calls: how often it runs.
        ms: how long that takes, milliseconds; all operators of a network add up to its time.
        gflop: 10^9 operations; 0 for what is neither product nor convolution.
        gb: 10^9 bytes of its inputs and outputs.
    """

    name: str
    calls: int
    ms: float
    gflop: float
    gb: float


@dataclass(frozen=True)
class NetworkProfile:
    """A network over one frame.

    Attributes:
        runs: how often it is run: the denoising steps.
        ms: median time of these runs, milliseconds, with the profiler on.
        gflop: 10^9 operations of products and convolutions in the graph as it was exported.
        provider: what runs most of it.
        operators: what it consists of, the slowest first.
    """

    runs: int
    ms: float
    gflop: float
    provider: str
    operators: Tuple[OperatorTime, ...]


@dataclass
class _Run:
    """One run of a graph, out of a profile."""

    ms: float
    nodes: List[Mapping[str, Any]] = field(default_factory=list)


def profile_network(
    make: Callable[[], DepthEngine],
    frame: Callable[[DepthEngine], object],
    *,
    frames: int = 10,
    clock: Clock = time.perf_counter,
) -> NetworkProfile:
    """Run an engine's graphs with onnxruntime's profiler on, and say where the time goes.

    Operations are counted on the graphs as they were exported, run once without any of onnxruntime's rewriting; the
    times are those of the rewritten graphs. What others take from a machine falls on single operators at random: each
    kind of operator counts with its fastest frame, and all together fill the median time of the network.

    Args:
        make: makes an engine that runs its network with onnxruntime.
        frame: lets it estimate one frame.
        frames: how many are profiled, after one that warms up.
        clock: for the time of the network, seconds; the profiler has its own for operators.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelError: the engine ran nothing with onnxruntime.
    """
    plain = _frames(make, frame, count=1, optimised=False, clock=clock)[0]
    counted: Dict[str, float] = defaultdict(float)
    for node in _nodes(plain):
        counted[family(node["op_name"])] += _operations(node)
    measured = _frames(make, frame, count=1 + frames, optimised=True, clock=clock)[1:]
    network_ms = float(np.median([sum(run.ms for run in runs) for runs in measured]))
    kinds = [_by_kind(_nodes(runs)) for runs in measured]
    fastest = {name: min(_total_ms(each.get(name, [])) for each in kinds) for name in kinds[0]}
    filling = network_ms / max(sum(fastest.values()), 1e-9)
    providers = Counter(str(node.get("provider", "")) for node in _nodes(measured[0]))
    found = [_operator(name, part, fastest[name] * filling, counted[name]) for name, part in kinds[0].items()]
    return NetworkProfile(
        len(measured[0]),
        network_ms,
        sum(counted.values()) / 1e9,
        providers.most_common(1)[0][0],
        tuple(sorted(found, key=lambda each: -each.ms)),
    )


def _frames(
    make: Callable[[], DepthEngine],
    frame: Callable[[DepthEngine], object],
    *,
    count: int,
    optimised: bool,
    clock: Clock,
) -> List[List[_Run]]:
    """The runs of each frame, over all graphs of the engine."""
    with tempfile.TemporaryDirectory() as folder:
        with _profiled_sessions(Path(folder), optimised, clock) as sessions:
            engine = make()
        # A self-test, say, is none of the frames.
        before = [len(session.ran_ms) for session in sessions]
        try:
            for _ in range(count):
                frame(engine)
        finally:
            files = [Path(session.end_profiling()) for session in sessions]
        per_session = [
            [_Run(ms, run.nodes) for run, ms in zip(read_runs(path), session.ran_ms, strict=True)][skip:]
            for path, session, skip in zip(files, sessions, before, strict=True)
        ]
    frames: List[List[_Run]] = [[] for _ in range(count)]
    for runs in per_session:
        each = len(runs) // count
        for number in range(count):
            frames[number] += runs[number * each : (number + 1) * each]
    if not all(frames):
        raise ModelError("The engine runs no network with onnxruntime, so there is nothing to profile.")
    return frames


@contextlib.contextmanager
def _profiled_sessions(folder: Path, optimised: bool, clock: Clock) -> Iterator[List[Any]]:
    """Sessions that are made inside the block profile themselves, with whatever settings their makers chose.

    Their ``ran_ms`` holds the milliseconds of every run by the clock.
    """
    ort: Any = require_package("onnxruntime", extra="onnx")
    made: List[Any] = []
    plain = ort.InferenceSession

    class Profiled(plain):  # type: ignore[misc, valid-type]
        def __init__(self, model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
            options = ort.SessionOptions() if sess_options is None else sess_options
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / f"session{len(made)}")
            if not optimised:
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            super().__init__(model, options, *args, **kwargs)
            self.ran_ms: List[float] = []
            made.append(self)

        def run(self, *args: Any, **kwargs: Any) -> Any:
            return self._timed(super().run, *args, **kwargs)

        def run_with_iobinding(self, *args: Any, **kwargs: Any) -> Any:
            return self._timed(super().run_with_iobinding, *args, **kwargs)

        def _timed(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            before = clock()
            result = run(*args, **kwargs)
            self.ran_ms.append((clock() - before) * 1e3)
            return result

    ort.InferenceSession = Profiled
    try:
        yield made
    finally:
        ort.InferenceSession = plain


def read_runs(path: Path) -> List[_Run]:
    """The runs of a graph in a profile that onnxruntime wrote, in order.

    Raises:
        ModelError: the file is no such profile.
    """
    try:
        if path.stat().st_size > _LARGEST_PROFILE:
            raise ModelError(f"{path} is too large for a profile of a few frames.")
        events = json.loads(path.read_text(encoding="utf-8"))
        spans = [event for event in events if event.get("cat") == "Session" and event.get("name") == _RUN]
        spans.sort(key=lambda event: event["ts"])
        runs = [_Run(event["dur"] / 1e3) for event in spans]
        ends = np.array([event["ts"] + event["dur"] for event in spans])
        for event in events:
            if event.get("cat") == "Node" and str(event.get("name", "")).endswith(_KERNEL):
                number = int(np.searchsorted(ends, event["ts"]))
                if number < len(runs):
                    runs[number].nodes.append({**event["args"], "ms": event["dur"] / 1e3})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a profile of onnxruntime ({error}).") from error
    return runs


def _nodes(runs: List[_Run]) -> List[Mapping[str, Any]]:
    return [node for run in runs for node in run.nodes]


def _by_kind(nodes: List[Mapping[str, Any]]) -> Dict[str, List[Mapping[str, Any]]]:
    found: Dict[str, List[Mapping[str, Any]]] = {}
    for node in nodes:
        found.setdefault(family(node["op_name"]) or node["op_name"], []).append(node)
    return found


def _total_ms(nodes: List[Mapping[str, Any]]) -> float:
    return float(sum(node["ms"] for node in nodes))


def _operator(name: str, nodes: List[Mapping[str, Any]], ms: float, counted: float) -> OperatorTime:
    sizes = ("activation_size", "parameter_size", "output_size")
    moved = sum(int(node.get(size, 0)) for node in nodes for size in sizes)
    return OperatorTime(name, len(nodes), ms, counted / 1e9, moved / 1e9)


def _operations(node: Mapping[str, Any]) -> float:
    if not family(node["op_name"]):
        return 0.0
    return operations(node["op_name"], _shapes(node["input_type_shape"]), _shapes(node["output_type_shape"]))


def _shapes(listed: List[Mapping[str, List[int]]]) -> List[Tuple[int, ...]]:
    """Shapes out of ``[{"float": [1, 3, 8, 8]}, ...]``."""
    return [tuple(shape) for each in listed for shape in each.values()]
