"""What the project promises on real frames, checked wherever they are (see ``real_frames`` in conftest.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mf_ros.core.config import ProjectionConfig
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.evaluation.frames import load_frames
from mf_ros.evaluation.protocol import cases
from mf_ros.evaluation.run import Record, evaluate, headline, shown_depth

pytestmark = pytest.mark.real


LINES = (32, 16, 8)


@pytest.fixture(scope="module")
def records(real_frames: Path) -> list[Record]:
    return evaluate(load_frames(real_frames), LINES, ClassicalEngine())


def test_every_source_with_truth_is_scored(records: list[Record]) -> None:
    sources = {record.source for record in records}
    assert sources >= {"kitti_object", "kitti_sequence", "dgp_ddad", "pjlab_opencalib", "rellis3d", "rgbd_nyu"}
    assert all(np.isfinite(record.mae) for record in records)


def test_classical_is_a_fifth_below_the_best_simple_method_of_each_case_on_average(records: list[Record]) -> None:
    total = headline(records, "classical")
    assert total is not None
    assert total.engine <= 0.8 * total.best_simple


def test_classical_is_not_above_the_best_of_all_baselines_of_each_case_on_average(records: list[Record]) -> None:
    total = headline(records, "classical")
    assert total is not None
    assert total.engine <= total.best_baseline


def test_classical_is_below_the_simple_methods_in_every_lidar_case(records: list[Record]) -> None:
    total = headline(records, "classical")
    assert total is not None
    assert total.worst_ratio[1] < 1.0, f"worst case: {total.worst_ratio}"


@pytest.mark.parametrize("lines", [32, 8])
def test_dropping_the_least_confident_pixels_lowers_the_error_step_by_step(real_frames: Path, lines: int) -> None:
    kept_errors = []
    for frame in load_frames(real_frames):
        for case in cases(frame, (lines,)):
            if case.lidar:
                sparse = shown_depth(case, frame.camera, ProjectionConfig())
                estimate = ClassicalEngine().estimate(frame.image, sparse, frame.camera)
                rows, cols = case.rows[case.visible], case.cols[case.visible]
                error = np.abs(estimate.depth[rows, cols] - case.truth[case.visible])
                error = error[np.argsort(estimate.confidence[rows, cols], kind="stable")]
                kept_errors.append([error[round(part * len(error)) :].mean() for part in (0, 0.1, 0.2, 0.4)])
    steps = np.mean(kept_errors, axis=0)
    assert (np.diff(steps) < 0).all(), f"mean errors after dropping 0, 10, 20, 40%: {steps}"
    assert steps[2] < 0.6 * steps[0]
