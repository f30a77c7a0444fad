"""Scores an engine and every baseline on the same cases, side by side."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config, ProjectionConfig
from mf_ros.core.projection import mark_visible, to_sparse_depth
from mf_ros.core.types import DepthEstimate, FloatArray, SparseDepth
from mf_ros.engine.protocol import DepthEngine, forget_frames
from mf_ros.errors import MfRosError
from mf_ros.evaluation.baselines import BASELINES
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.metrics import METRICS, depth_metrics, mean_of, scale_to
from mf_ros.evaluation.protocol import NO_RETURNS, Case, cases
from mf_ros.evaluation.uncertainty import Uncertainty, mean_uncertainty, uncertainty
from mf_ros.evaluation.variants import variants, without_returns

_log = logging.getLogger(__name__)

CULLED = "+cull"
_HEADLINE_LINES = ("32", "16", "8")
_SIMPLE = ("nearest", "linear", "ip_basic")


@dataclass(frozen=True)
class Record:
    """Mean score of one method on one input of one source (``METRICS`` in metres, 1/km or ratios; ``ms`` per frame).

    ``metric`` is False for depth made without any return: it has no scale, so it was multiplied by the median ratio of
    truth to depth before it was scored, image by image. ``uncertainty`` is None for methods that state no confidence.
    """

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
    metric: bool = True
    uncertainty: Optional[Uncertainty] = None


@dataclass(frozen=True)
class Prediction:
    """What one method made of one case; handed to the caller's picture hook."""

    frame: EvaluationFrame
    case: Case
    engine: str
    sparse: FloatArray
    depth: FloatArray


Hook = Callable[[Prediction], None]


class _Row(NamedTuple):
    """What is averaged together."""

    source: str
    input: str
    engine: str
    truth: str
    lidar: bool
    metric: bool


class _Score(NamedTuple):
    metrics: Dict[str, float]
    uncertainty: Optional[Uncertainty]


class _Method(NamedTuple):
    """A method, whether hidden and lonely returns are kept from it, and how it makes depth."""

    name: str
    culled: bool
    run: Callable[[EvaluationFrame, SparseDepth], Union[FloatArray, DepthEstimate]]


class _Scores:
    """The scores of every image so far, by row of the tables."""

    def __init__(self, hook: Optional[Hook]) -> None:
        self._rows: Dict[_Row, List[_Score]] = defaultdict(list)
        self._hook = hook

    def add(self, frame: EvaluationFrame, case: Case, method: _Method, sparse: SparseDepth) -> None:
        """Run a method on a case and score what it made against both kinds of truth."""
        start = time.perf_counter()
        made = method.run(frame, sparse)
        elapsed_ms = 1000.0 * (time.perf_counter() - start)
        depth = made.depth if isinstance(made, DepthEstimate) else made
        metric = case.input != NO_RETURNS
        if not metric:
            at = case.rows[case.visible], case.cols[case.visible]
            depth = (depth * scale_to(depth[at], case.truth[case.visible])).astype(np.float32)
        for truth, mask in (("visible", case.visible), ("all", np.ones_like(case.visible))):
            at = case.rows[mask], case.cols[mask]
            score = depth_metrics(depth[at], case.truth[mask])
            doubt = None
            if metric and isinstance(made, DepthEstimate):
                log_scale = None if made.log_scale is None else made.log_scale[at]
                doubt = uncertainty(depth[at], case.truth[mask], made.confidence[at], log_scale)
            row = _Row(frame.source, case.input, method.name, truth, case.lidar, metric)
            self._rows[row].append(_Score({**score, "ms": elapsed_ms}, doubt))
        if self._hook is not None:
            self._hook(Prediction(frame, case, method.name, sparse.depth, depth))

    def records(self) -> List[Record]:
        """One record for each row, in the order met."""
        return [_record(row, scores) for row, scores in self._rows.items()]


def evaluate(
    frames: Iterable[EvaluationFrame],
    lines: Sequence[int],
    engine: DepthEngine,
    *,
    config: Optional[Config] = None,
    baselines: Sequence[str] = tuple(BASELINES),
    beside: Sequence[DepthEngine] = (),
    points: Sequence[int] = (),
    outliers: float = 0.0,
    hook: Optional[Hook] = None,
) -> List[Record]:
    """Score ``engine`` and the baselines, each baseline with and without culling of hidden and lonely input returns.

    The engine is also run once on each frame without any return, unless it refuses that.

    Args:
        frames: frames with truth; those without are passed over.
        lines: numbers of scan lines to show, for example (32, 16, 8, 4).
        engine: the engine under test; ``config.projection`` says which returns are kept from it.
        config: settings of the projection.
        baselines: names out of ``BASELINES``.
        beside: other engines, scored on the same input as ``engine`` but not without returns.
        points: also show this many random returns.
        outliers: also show each input with this share of its returns wrong; 0 does not.
        hook: called with each prediction, for pictures.

    Returns:
        One record per source, input, method and kind of truth, in the order met.
    """
    projection = (config or Config()).projection
    scores = _Scores(hook)
    for frame in frames:
        found = list(cases(frame, lines))
        if not found:
            _log.warning(
                "%s/%s is not scored: no truth on the image's grid, or too few scan lines.", frame.source, frame.name
            )
            continue
        for case in (*found, *variants(found, points, outliers, frame.camera, projection)):
            # Each case stands alone, whatever was scored before it.
            for each in (engine, *beside):
                forget_frames(each)
            shown = [shown_depth(case, frame.camera, kept) for kept in (None, projection)]
            for method in _methods((engine, *beside), baselines):
                scores.add(frame, case, method, shown[method.culled])
        forget_frames(engine)
        free = without_returns(found[0])
        method = next(_methods((engine,), ()))
        try:
            scores.add(frame, free, method, shown_depth(free, frame.camera, None))
        except MfRosError as error:
            _log.debug("%s makes nothing of an image alone: %s", engine.name, error)
    return scores.records()


def shown_depth(case: Case, camera: CameraModel, config: Optional[ProjectionConfig]) -> SparseDepth:
    """Sparse depth of a case's shown returns, without those that a configuration, if there is one, leaves out."""
    shown = case.shown if config is None else mark_visible(case.shown, (camera.height, camera.width), config)
    return to_sparse_depth(shown, camera)


def _methods(engines: Sequence[DepthEngine], baselines: Sequence[str]) -> Iterator[_Method]:
    for engine in engines:
        yield _Method(
            engine.name,
            True,
            lambda frame, sparse, engine=engine: engine.estimate(frame.image, sparse, frame.camera),  # type: ignore[misc]
        )
    for name in baselines:
        complete = BASELINES[name]
        for culled in (False, True):
            label = name + CULLED if culled else name
            yield _Method(
                label,
                culled,
                lambda frame, sparse, complete=complete: complete(sparse.depth, frame.camera),  # type: ignore[misc]
            )


def _record(row: _Row, scores: List[_Score]) -> Record:
    mean = mean_of(score.metrics for score in scores)
    doubts = [score.uncertainty for score in scores if score.uncertainty is not None]
    values: Dict[str, Any] = {**row._asdict(), **{name: mean[name] for name in (*METRICS, "ms")}}
    return Record(**values, frames=len(scores), uncertainty=mean_uncertainty(doubts))


@dataclass(frozen=True)
class Headline:
    """Mean MAE over the LiDAR cases at 32, 16 and 8 lines (metres), visible truth.

    Attributes:
        engine: of the engine under test.
        beside: of every other engine, by name.
        best_simple: of the best of nearest, linear and ip_basic, chosen anew in each case.
        best_baseline: of the best of all baselines, culled or not, chosen anew in each case.
        best_single_baseline: of the one baseline that is best on average, with its name.
        worst_ratio: largest engine / best simple over the cases, with the case's name.
        cases: how many cases entered.
    """

    engine: float
    beside: Dict[str, float]
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
    methods = [name for name in rows[0] if name != engine]
    others = [name for name in methods if name.split("+")[0] in BASELINES] or methods
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
        beside={name: float(np.mean([row[name] for row in rows])) for name in methods if name not in others},
        best_simple=float(np.mean([min(row[name] for name in simple) for row in rows])),
        best_baseline=float(np.mean([min(row[name] for name in others) for row in rows])),
        best_single_baseline=(best, single[best]),
        worst_ratio=(worst, ratios[worst]),
        cases=len(rows),
    )
