"""What the project promises on real frames, checked wherever they are (see ``real_frames`` in conftest.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mf_ros.engine.classical import ClassicalEngine
from mf_ros.evaluation.frames import load_frames
from mf_ros.evaluation.run import Record, evaluate, headline

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def records(real_frames: Path) -> list[Record]:
    return evaluate(load_frames(real_frames), (32, 16, 8), ClassicalEngine())


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
