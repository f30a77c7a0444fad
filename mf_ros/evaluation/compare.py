"""Two networks on the same frames, beside simple methods: errors by frame, their means, and how sure these are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.config import ProjectionConfig
from mf_ros.core.types import DepthEstimate, DoubleArray, FloatArray, SparseDepth
from mf_ros.engine.protocol import DepthEngine, forget_frames
from mf_ros.evaluation.baselines import BASELINES
from mf_ros.evaluation.bootstrap import Estimate, Frame, Resampling, groups_of, interval_text
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.metrics import RANGES_M, absolute_error, depth_metrics, scale_to
from mf_ros.evaluation.protocol import DEPLOYED, NO_RETURNS, Case
from mf_ros.evaluation.run import CULLED, shown_depth
from mf_ros.evaluation.uncertainty import INTERVALS, coverage

TUNED, BASE = "tuned", "base"
NETWORKS = (TUNED, BASE)
SIMPLE = ("nearest", "linear", "ip_basic")
RANGE_NAMES = tuple(f"mae_{low:g}_{high:g}" for low, high in RANGES_M)
COLUMNS = ("mae", "rmse", "absrel", *INTERVALS, *RANGE_NAMES)
"""What is measured of each frame; ``mae_5_10`` is the MAE of truth from 5 to 10 m."""
RELATIVE = ("absrel",)
"""What remains of depth that has no metric scale."""


@dataclass(frozen=True)
class ComparedFrame:
    """What both networks made of the ``deployed`` input of a frame, for pictures.

    Attributes:
        frame: image, camera and all returns.
        case: what was shown, and the truth.
        sparse: the input, without hidden and lonely returns.
        made: depth, by ``NETWORKS``.
        mae: metres, by ``NETWORKS``.
    """

    frame: EvaluationFrame
    case: Case
    sparse: SparseDepth
    made: Mapping[str, DepthEstimate]
    mae: Mapping[str, float]

    @property
    def change_m(self) -> float:
        """How much larger the tuned network's MAE is, metres."""
        return self.mae[TUNED] - self.mae[BASE]


Hook = Callable[[ComparedFrame], None]


@dataclass(frozen=True)
class InputResult:
    """Means over the frames of one input.

    Attributes:
        input: name of the input.
        frames: how many frames entered.
        frames_by_column: how many of them have a value, by column.
        methods: method to column to mean; metres, or parts for AbsRel and coverage.
        change: column to how much larger the tuned network's mean is than the base's, as a part of it.
    """

    input: str
    frames: int
    frames_by_column: Mapping[str, int]
    methods: Mapping[str, Mapping[str, Estimate]]
    change: Mapping[str, Estimate]


@dataclass(frozen=True)
class Results:
    """What a set of frames came to.

    Attributes:
        inputs: one result for each input, in the order met.
        intervals: what the intervals were made of, in words.
        frames: how many frames were scored.
        recordings: of how many recordings.
    """

    inputs: Tuple[InputResult, ...]
    intervals: str
    frames: int
    recordings: int

    def input(self, name: str) -> Optional[InputResult]:
        """The result of that input, None where there was none."""
        return next((each for each in self.inputs if each.input == name), None)


class Scorer:
    """Scores both networks and the methods beside them, frame by frame.

    Args:
        networks: engines by ``NETWORKS``.
        projection: which returns are kept from every method: those that are hidden or lonely.
        beside: other engines.
        baselines: names out of ``BASELINES``.
        hook: told of each ``deployed`` input.
    """

    def __init__(
        self,
        networks: Mapping[str, DepthEngine],
        projection: ProjectionConfig,
        *,
        beside: Sequence[DepthEngine] = (),
        baselines: Sequence[str] = (),
        hook: Optional[Hook] = None,
    ) -> None:
        self._networks = {name: networks[name] for name in NETWORKS}
        self._projection = projection
        self._beside = {engine.name: engine for engine in beside}
        self._baselines = tuple(baselines)
        self._hook = hook
        self._frames: Dict[str, List[Frame]] = defaultdict(list)
        self._rows: Dict[Tuple[str, str], List[List[float]]] = defaultdict(list)

    def add(self, frame: EvaluationFrame, cases: Iterable[Case]) -> bool:
        """Score a frame, named by its recording and stamp; False when it has no case."""
        scored = False
        for case in cases:
            self._frames[case.input].append((frame.source, int(frame.name)))
            self._add(frame, case)
            scored = True
        return scored

    def _add(self, frame: EvaluationFrame, case: Case) -> None:
        free = case.input == NO_RETURNS
        sparse = shown_depth(case, frame.camera, None if free else self._projection)
        engines = self._networks if free else {**self._networks, **self._beside}
        made: Dict[str, DepthEstimate] = {}
        for name, engine in engines.items():
            # Each case stands alone, whatever was scored before it.
            forget_frames(engine)
            made[name] = engine.estimate(frame.image, sparse, frame.camera)
            self._rows[case.input, name].append(_scores(case, made[name].depth, made[name].log_scale))
        for name in () if free else self._baselines:
            self._rows[case.input, name + CULLED].append(
                _scores(case, BASELINES[name](sparse.depth, frame.camera), None)
            )
        if self._hook is not None and case.input == DEPLOYED:
            mae = {name: self._rows[case.input, name][-1][0] for name in NETWORKS}
            self._hook(ComparedFrame(frame, case, sparse, {name: made[name] for name in NETWORKS}, mae))

    def results(self, recordings_are: str = "recordings") -> Results:
        """Means, intervals and changes of what was scored so far.

        Args:
            recordings_are: what to call recordings in words.
        """
        every = sorted({frame for frames in self._frames.values() for frame in frames})
        groups = groups_of(every, recordings_are)
        resampling = Resampling(groups)
        return Results(
            tuple(self._result(name, resampling) for name in self._frames),
            interval_text(groups),
            len(every),
            len({recording for recording, _ in every}),
        )

    def _result(self, name: str, resampling: Resampling) -> InputResult:
        frames = self._frames[name]
        columns = RELATIVE if name == NO_RETURNS else COLUMNS
        picked = [COLUMNS.index(column) for column in columns]
        values: Dict[str, DoubleArray] = {
            method: np.array(rows)[:, picked] for (shown, method), rows in self._rows.items() if shown == name
        }
        counts = np.isfinite(values[TUNED]).sum(0)
        methods = {
            method: dict(zip(columns, resampling.mean(frames, each), strict=True)) for method, each in values.items()
        }
        change = resampling.change(frames, values[TUNED], values[BASE])
        return InputResult(
            name,
            len(frames),
            dict(zip(columns, map(int, counts), strict=True)),
            methods,
            dict(zip(columns, change, strict=True)),
        )


def _scores(case: Case, depth: FloatArray, log_scale: Optional[FloatArray]) -> List[float]:
    """One value for each of ``COLUMNS``, of the truth that the camera sees; NaN where there is none."""
    at = case.rows[case.visible], case.cols[case.visible]
    truth, predicted = case.truth[case.visible], depth[at]
    if case.input == NO_RETURNS:
        predicted = (predicted * scale_to(predicted, truth)).astype(np.float32)
    metrics = depth_metrics(predicted, truth)
    # The part of the truth that got depth is called coverage there; here it is that of the intervals.
    inside = dict.fromkeys(INTERVALS, float("nan"))
    if log_scale is not None:
        inside = coverage(predicted, truth, log_scale[at])
    error = absolute_error(predicted, truth)
    ranges = [error[(truth >= low) & (truth < high)] for low, high in RANGES_M]
    by_range = [float(each.mean()) if len(each) else float("nan") for each in ranges]
    return [metrics["mae"], metrics["rmse"], metrics["absrel"], *inside.values(), *by_range]
