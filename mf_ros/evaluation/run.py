"""Scores an engine and every baseline on the same cases, side by side."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config
from mf_ros.core.projection import mark_hidden, to_sparse_depth
from mf_ros.core.types import BoolArray, FloatArray, SparseDepth
from mf_ros.engine.protocol import DepthEngine, forget_frames
from mf_ros.evaluation.baselines import BASELINES
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.metrics import METRICS, depth_metrics, mean_of
from mf_ros.evaluation.protocol import Case, cases

_log = logging.getLogger(__name__)

CULLED = "+cull"
_HEADLINE_LINES = ("32", "16", "8")
_SIMPLE = ("nearest", "linear", "ip_basic")


@dataclass(frozen=True)
class Record:
    """Mean score of one method on one input of one source (``METRICS`` in metres, 1/km or ratios; ``ms`` per frame)."""

    source: str
    input: str
    engine: str
    truth: str
    mae: float
    rmse: float
    imae: float
    irmse: float
    absrel: float
    delta1: float
    median: float
    ms: float
    frames: int
    lidar: bool


@dataclass(frozen=True)
class Prediction:
    """What one method made of one case; handed to the caller's picture hook."""

    frame: EvaluationFrame
    case: Case
    engine: str
    sparse: FloatArray
    depth: FloatArray


Method = Callable[[EvaluationFrame, SparseDepth], FloatArray]
Hook = Callable[[Prediction], None]


def evaluate(
    frames: Iterable[EvaluationFrame],
    lines: Sequence[int],
    engine: DepthEngine,
    *,
    config: Optional[Config] = None,
    baselines: Sequence[str] = tuple(BASELINES),
    hook: Optional[Hook] = None,
) -> List[Record]:
    """Score ``engine`` and the baselines, each baseline with and without culling of hidden input returns.

    Args:
        frames: frames with truth; those without are passed over.
        lines: numbers of scan lines to show, for example (32, 16, 8, 4).
        engine: the engine under test; its input is culled as ``config.projection`` says.
        config: settings of the projection.
        baselines: names out of ``BASELINES``.
        hook: called with each prediction, for pictures.

    Returns:
        One record per source, input, method and kind of truth, in the order met.
    """
    margin = (config or Config()).projection.cull_margin
    culls = (config or Config()).projection.cull_hidden
    scores: Dict[Tuple[str, str, str, str, bool], List[Dict[str, float]]] = defaultdict(list)
    for frame in frames:
        found = list(cases(frame, lines))
        if not found:
            _log.warning(
                "%s/%s is not scored: no truth on the image's grid, or too few scan lines.", frame.source, frame.name
            )
        for case in found:
            # Each case stands alone, whatever was scored before it.
            forget_frames(engine)
            shown = {culled: shown_depth(case, frame.camera, margin if culled else None) for culled in (False, True)}
            for name, culled, method in _methods(engine, culls, baselines):
                sparse = shown[culled]
                start = time.perf_counter()
                depth = method(frame, sparse)
                elapsed_ms = 1000.0 * (time.perf_counter() - start)
                for truth, mask in (("visible", case.visible), ("all", np.ones_like(case.visible))):
                    score = _score(depth, case, mask)
                    scores[frame.source, case.input, name, truth, case.lidar].append({**score, "ms": elapsed_ms})
                if hook is not None:
                    hook(Prediction(frame, case, name, sparse.depth, depth))
    return [_record(key, values) for key, values in scores.items()]


def shown_depth(case: Case, camera: CameraModel, margin: Optional[float]) -> SparseDepth:
    """Sparse depth of a case's shown returns, hidden ones removed when a margin is given."""
    shown = case.shown if margin is None else mark_hidden(case.shown, camera, margin)
    return to_sparse_depth(shown, camera)


def _methods(engine: DepthEngine, culls: bool, baselines: Sequence[str]) -> Iterator[Tuple[str, bool, Method]]:
    yield engine.name, culls, lambda frame, sparse: engine.estimate(frame.image, sparse, frame.camera).depth
    for name in baselines:
        complete = BASELINES[name]
        for culled in (False, True):
            label = name + CULLED if culled else name
            yield label, culled, lambda frame, sparse, complete=complete: complete(sparse.depth, frame.camera)  # type: ignore[misc]


def _score(depth: FloatArray, case: Case, mask: BoolArray) -> Dict[str, float]:
    return depth_metrics(depth[case.rows[mask], case.cols[mask]], case.truth[mask])


def _record(key: Tuple[str, str, str, str, bool], values: List[Dict[str, float]]) -> Record:
    source, shown, engine, truth, lidar = key
    mean = mean_of(values)
    return Record(
        source, shown, engine, truth, **{name: mean[name] for name in (*METRICS, "ms")}, frames=len(values), lidar=lidar
    )


@dataclass(frozen=True)
class Headline:
    """Mean MAE over the LiDAR cases at 32, 16 and 8 lines (metres), visible truth.

    Attributes:
        engine: of the engine under test.
        best_simple: of the best of nearest, linear and ip_basic, chosen anew in each case.
        best_baseline: of the best of all baselines, culled or not, chosen anew in each case.
        best_single_baseline: of the one baseline that is best on average, with its name.
        worst_ratio: largest engine / best simple over the cases, with the case's name.
        cases: how many cases entered.
    """

    engine: float
    best_simple: float
    best_baseline: float
    best_single_baseline: Tuple[str, float]
    worst_ratio: Tuple[str, float]
    cases: int


def headline(records: Sequence[Record], engine: str) -> Optional[Headline]:
    """Sum records up into the headline, or None when there is no LiDAR case at 32, 16 or 8 lines."""
    table: Dict[Tuple[str, str], Dict[str, float]] = defaultdict(dict)
    for record in records:
        if record.lidar and record.truth == "visible" and record.input in _HEADLINE_LINES and np.isfinite(record.mae):
            table[record.source, record.input][record.engine] = record.mae
    table = {case: row for case, row in table.items() if engine in row and len(row) > 1}
    if not table:
        return None
    rows = list(table.values())
    others = [name for name in rows[0] if name != engine]
    simple = [name for name in _SIMPLE if name in others] or others
    single = {name: float(np.mean([row[name] for row in rows])) for name in others}
    best = min(single, key=lambda name: single[name])
    ratios = {
        f"{source} {shown}": row[engine] / max(min(row[name] for name in simple), 1e-9)
        for (source, shown), row in table.items()
    }
    worst = max(ratios, key=lambda name: ratios[name])
    return Headline(
        engine=float(np.mean([row[engine] for row in rows])),
        best_simple=float(np.mean([min(row[name] for name in simple) for row in rows])),
        best_baseline=float(np.mean([min(row[name] for name in others) for row in rows])),
        best_single_baseline=(best, single[best]),
        worst_ratio=(worst, ratios[worst]),
        cases=len(rows),
    )
