"""Uncertainty judged on the truth, images without returns, few returns, and wrong ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from evaluated_wall import CAMERA, wall_frame, wall_points, write_frame

from mf_ros.cli.evaluate_tables import as_json, as_text
from mf_ros.cli.main import main
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.types import DepthEstimate, SparseDepth
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.metrics import scale_to
from mf_ros.evaluation.protocol import cases
from mf_ros.evaluation.run import Record, evaluate, headline
from mf_ros.evaluation.uncertainty import coverage, uncertainty
from mf_ros.evaluation.variants import few_points, with_outliers, without_returns


class Noisy:
    """A wall at 8 m, a fifth of it without returns; Laplace errors of scale ``b`` that are taken for ``believed``."""

    name = "noisy"

    def __init__(self, b: float = 0.1, believed: float = 0.1, states: bool = True) -> None:
        self.b, self.believed, self.states = b, believed, states

    def estimate(self, image: Any, sparse: SparseDepth, camera: Any) -> DepthEstimate:
        rng = np.random.default_rng(0)
        shape = image.shape[:2]
        doubt = rng.uniform(0.5, 1.5, shape)
        depth = (8.0 * np.exp(rng.laplace(size=shape) * self.b * doubt)).astype(np.float32)
        log_scale = np.log(self.believed * doubt).astype(np.float32)
        metric = sparse.count > 0
        depth = depth if metric else depth / 5
        return DepthEstimate(depth, np.exp(-log_scale), metric, self.name, log_scale if self.states else None)

    def describe(self) -> dict[str, str]:
        return {}


def record_of(records: list[Record], shown: str, engine: str = "noisy") -> Record:
    (found,) = (each for each in records if (each.input, each.engine, each.truth) == (shown, engine, "visible"))
    return found


def dense_frame() -> EvaluationFrame:
    """Enough truth that chance hardly moves a coverage."""
    depth = np.full((96, 160), 8.0, np.float32)
    return EvaluationFrame("rgbd_wall", "0", np.zeros((96, 160, 3), np.uint8), CAMERA, depth=depth)


@pytest.mark.parametrize(
    ("believed", "half", "nine_tenths"),
    # With twice the scale the intervals reach 2 ln 2 and 2 ln 10: 1 - exp(-2 ln 2) = 0.75 and 0.99.
    [(0.1, 0.5, 0.9), (0.2, 0.75, 0.99)],
)
def test_intervals_cover_what_they_promise_only_when_the_scale_is_right(
    believed: float, half: float, nine_tenths: float
) -> None:
    doubt = record_of(evaluate([dense_frame()], (8,), Noisy(believed=believed), baselines=()), "500pt").uncertainty
    assert doubt is not None
    # Fifteen thousand draws: a standard deviation of 0.004.
    assert doubt.coverage50 == pytest.approx(half, abs=0.015)
    assert doubt.coverage90 == pytest.approx(nine_tenths, abs=0.01)


def test_the_error_falls_when_pixels_are_dropped_whose_doubt_is_deserved() -> None:
    record = record_of(evaluate([dense_frame()], (8,), Noisy(), baselines=()), "500pt")
    assert record.uncertainty is not None
    steps = [record.mae, *record.uncertainty.left]
    assert (np.diff(steps) < 0).all() and steps[-1] < 0.85 * steps[0]


def test_dropping_by_hand() -> None:
    truth = np.full(10, 10.0, np.float32)
    predicted = truth + np.arange(10, dtype=np.float32)
    predicted[9] = np.nan
    doubt = uncertainty(predicted, truth, np.linspace(1, 0, 10, dtype=np.float32), None)
    # Errors 0 to 8 and a miss of the full 10 m, which goes first; then those of 8, and of 7 and 6.
    assert doubt.left == pytest.approx((4.0, 3.5, 2.5))
    assert doubt.relative == pytest.approx((0.4, 0.35, 0.25))
    assert np.isnan(doubt.coverage50)


def test_a_missing_depth_lies_in_no_interval() -> None:
    truth = np.array([4.0, 4.0])
    inside = coverage(np.array([4.1, np.nan]), truth, np.zeros(2))
    assert inside == {"coverage50": 0.5, "coverage90": 0.5}


def test_an_engine_without_intervals_is_judged_by_its_confidence_alone() -> None:
    records = evaluate([dense_frame()], (8,), Noisy(states=False), baselines=())
    record = record_of(records, "500pt")
    assert record.uncertainty is not None and np.isnan(record.uncertainty.coverage50)
    (line,) = (line for line in as_text(records, "noisy") if line.startswith("  rgbd_wall, 500pt"))
    assert line.split()[2:4] == ["-", "-"]
    assert json.loads(json.dumps(as_json(record)["mae90"])) < record.mae


def test_depth_without_returns_is_scored_up_to_its_scale_and_is_no_part_of_the_headline() -> None:
    frames = [wall_frame("a"), wall_frame("b")]
    records = evaluate(frames, (16, 8), Noisy(b=0.02))
    free = record_of([each for each in records if each.source == "a"], "none")
    assert not free.metric
    assert free.absrel < 0.03 and free.delta1 == 1.0, "a fifth of the depth is right up to its scale"
    assert as_json(free)["mae"] is None and as_json(free)["metric"] is False
    assert headline(records, "noisy") == headline([each for each in records if each.input != "none"], "noisy")
    text = "\n".join(as_text(records, "noisy"))
    assert "without metric scale" in text and "none, truth" not in text


def test_an_engine_that_needs_returns_has_no_row_without_them() -> None:
    records = evaluate([wall_frame()], (8,), ClassicalEngine(), baselines=())
    assert {record.input for record in records} == {"8"}
    assert "without metric scale" not in "\n".join(as_text(records, "classical"))


def test_nothing_is_shown_in_a_case_without_returns() -> None:
    case = next(iter(cases(wall_frame(), (8,))))
    free = without_returns(case)
    assert len(free.shown) == 0 and free.input == "none"
    assert np.array_equal(free.truth, case.truth)


def test_few_points_are_the_same_every_time_and_fewer_are_among_more() -> None:
    case = next(iter(cases(wall_frame(), (8,))))
    five, again, twenty = (one.shown for one in few_points(case, (5, 5, 20), CAMERA, ProjectionConfig()))
    assert len(five) == 5 and len(twenty) == 20
    assert np.array_equal(five.index, again.index)
    assert set(five.index) <= set(twenty.index) <= set(case.shown.index)


def test_few_points_are_never_ones_that_the_camera_cannot_see() -> None:
    near = wall_points(4.0)
    far = np.tile(np.array([[0.0, 0.0, 30.0]], np.float32), (400, 1)) + np.linspace(0, 0.5, 400)[:, None] * [1, 1, 0]
    points = type(near)(
        np.concatenate([near.points, far.astype(np.float32)]),
        np.append(near.ring, np.ones(400, np.int32)).astype(np.int32),
        np.zeros(len(near) + 400, np.uint8),
    )
    frame = EvaluationFrame("box", "0", np.zeros((96, 160, 3), np.uint8), CAMERA, points, 32)
    case = next(iter(cases(frame, (16,))))
    assert (case.shown.z > 20).sum() > 300
    (few,) = few_points(case, (200,), CAMERA, ProjectionConfig())
    assert (few.shown.z < 5).all()


def test_outliers_replace_their_share_of_the_shown_returns_and_no_truth() -> None:
    points = wall_points()
    # Every other return is as far again on its ray, so that the wrong depths have a range.
    points.points[::2] *= 2
    frame = EvaluationFrame("wall", "0", np.zeros((96, 160, 3), np.uint8), CAMERA, points, 32)
    case = next(iter(cases(frame, (16,))))
    wrong = with_outliers(case, 0.1)
    changed = wrong.shown.z != case.shown.z
    assert changed.mean() == pytest.approx(0.1, abs=0.02)
    assert case.shown.z.min() <= wrong.shown.z.min() and wrong.shown.z.max() <= case.shown.z.max()
    assert wrong.input == "16, 10% wrong" and np.array_equal(wrong.truth, case.truth)


def test_relative_depth_is_scaled_by_the_median_ratio_over_pixels_that_have_depth() -> None:
    assert scale_to(np.array([1.0, 2.0, np.nan, 3.0]), np.array([2.0, 4.0, 9.0, 60.0])) == 2.0
    assert scale_to(np.full(2, np.nan), np.ones(2)) == 1.0


def test_the_command_adds_rows_for_few_and_for_wrong_returns(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_frame(tmp_path / "yard" / "000")
    command = ["evaluate", str(tmp_path), "--engine", "classical", "--lines", "8", "--points", "1,5"]
    assert main([*command, "--outliers", "0.1", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["input"] for record in records} == {"8", "1pt", "5pt", "8, 10% wrong"}
    mae = {each["input"]: each["mae"] for each in records if (each["engine"], each["truth"]) == ("classical", "all")}
    assert mae["8"] < 0.01
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "yard, 1pt" in text and "Uncertainty of classical" in text
