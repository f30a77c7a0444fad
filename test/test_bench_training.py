"""Benchmarks of training: steps are counted after the warm-up, scenes are told by part."""

from __future__ import annotations

from typing import Iterator

import pytest

pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState

from mf_ros.cli.bench_tables import as_text
from mf_training.bench import PARTS, bench_scenes, bench_train

ARGUMENTS = ("batch=2", "data.workers=0", "data.shapes=[[32, 48], [64, 64]]", "data.scenes.size=[64, 64]")
TINY = ("model.width=32", "model.layers=1", "model.heads=1", "model.stem=[8, 16]", "model.blocks=[1, 1]")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_steps_are_timed_after_those_that_warm_up() -> None:
    result = bench_train("nano", (*ARGUMENTS, *TINY), steps=5)
    assert (result["steps"], result["warm_up_steps"]) == (5, 2)
    assert (result["batch"], result["shape"]) == (2, (32, 48))
    pace = result["steps_per_s"]
    assert 0 < pace["low"] <= pace["median"] <= pace["high"]
    # Samples are made in the process that trains, so it waits for all of them.
    assert 0 < result["waiting"] < 1
    assert 0 < result["mfu"] < result["mfu_computing"] < 1
    assert result["gflops"] == pytest.approx(result["mfu"] * result["rate_gflops"])
    machine = {"cpu": "a", "cores": 1}
    text = "\n".join(as_text({"suite": "train", "machine": machine, "clock": "wall", **result}))
    assert "MFU" in text and "waiting for data" in text


def test_scenes_are_told_by_part() -> None:
    told = []
    result = bench_scenes(scenes=2, progress=told.append)
    assert set(result["parts"]) == {*PARTS.values(), "total"}
    for name, part in result["parts"].items():
        assert part["repeats"] == 2
        # In the dark no shadow is cast.
        assert part["median_ms"] > 0 or name == "shadow rays", name
    assert result["scenes_per_s"] > result["samples_per_s"] > 0
    assert told == sorted(told)
    document = {"suite": "scenes", "machine": {"cpu": "a"}, "threads": 1, "clock": "wall", **result}
    assert any(line.startswith("LiDAR rays") for line in as_text(document))
