"""Benchmarks: the clock is read as it should be, and the street is what the benchmark says it is."""

from __future__ import annotations

import json
import time
from typing import Callable

import cv2
import numpy as np
import pytest

from mf_ros.bench import core
from mf_ros.bench.machine import LoadWatch, machine
from mf_ros.bench.street import COLUMNS, HEIGHT, RINGS, WIDTH, cropped, make_street, scaled
from mf_ros.bench.timing import Task, interleaved, measure, ratio
from mf_ros.cli.main import main
from mf_ros.core.config import EngineConfig, ProjectionConfig
from mf_ros.core.projection import project_points
from mf_ros.core.types import DepthEstimate
from mf_ros.engine import DepthEngine
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import ConfigError, ModelError


def test_warm_up_is_not_timed() -> None:
    calls: list[int] = []

    def slow_at_first() -> None:
        calls.append(1)
        time.sleep(0.05 if len(calls) == 1 else 0.0)

    timing = measure("part", slow_at_first, warmup=1, repeats=10)
    assert len(calls) == 11
    assert timing.repeats == 10
    assert timing.p95_ms < 50.0


def test_the_median_is_in_milliseconds_and_below_the_95th_percentile() -> None:
    timing = measure("part", lambda: time.sleep(0.004), warmup=0, repeats=5)
    # A sleep never ends early; how late it ends depends on the machine's load.
    assert timing.median_ms >= 4.0
    assert timing.p95_ms >= timing.median_ms


def test_a_slow_part_is_repeated_less_often_but_at_least_five_times() -> None:
    assert measure("part", lambda: time.sleep(0.01), warmup=0, repeats=1000, budget_s=0.0).repeats == 5


def test_what_is_compared_runs_in_turns_each_first_equally_often() -> None:
    order: list[str] = []
    tasks = {name: Task(lambda name=name: order.append(name)) for name in "ABC"}
    elapsed = interleaved(tasks, warmup=1, repeats=3)
    assert "".join(order) == "ABC" + "ABC" + "BCA" + "CAB"
    assert [len(each) for each in elapsed.values()] == [3, 3, 3]


def test_what_comes_before_a_task_is_not_timed() -> None:
    elapsed = interleaved({"part": Task(lambda: None, before=lambda: time.sleep(0.02))}, warmup=0, repeats=5)
    assert max(elapsed["part"]) < 20.0


def test_a_ratio_is_of_the_same_round_so_that_a_slow_round_does_not_change_it() -> None:
    # The machine is ten times as slow in half of the rounds; the second is always twice as fast.
    slow = [1.0, 10.0] * 10
    of_both = ratio([2.0 * each for each in slow], slow)
    assert (of_both.value, of_both.low, of_both.high) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_ratio_holds_it_and_narrows_with_more_rounds() -> None:
    rng = np.random.default_rng(1)
    noisy = np.exp(rng.normal(0.0, 0.2, 400))
    few, many = ratio(noisy[:10].tolist(), [1.0] * 10), ratio(noisy.tolist(), [1.0] * 400)
    for each in (few, many):
        assert each.low < each.value < each.high
    assert many.low < 1.0 < many.high
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_own_work_is_no_load_of_others() -> None:
    watch = LoadWatch()
    others = watch.others()
    assert others is None or 0.0 <= others <= 2.0 * (machine()["cores"] or 1)  # type: ignore[operator]


def test_the_machine_is_described() -> None:
    told = machine()
    assert told["numpy"] == np.__version__
    assert told["opencv"] == cv2.__version__
    assert told["cpu"]


def test_the_street_has_the_size_that_the_benchmark_names() -> None:
    street = make_street()
    assert len(street.points) == RINGS * COLUMNS == 120_000
    assert np.isfinite(street.points.points).all()
    assert street.image.shape == (HEIGHT, WIDTH, 3) == (375, 1242, 3)
    assert np.isfinite(street.depth).all() and street.depth.min() > 0


def test_the_streets_lidar_agrees_with_its_true_depth_but_for_what_is_hidden() -> None:
    street = make_street()
    returns = project_points(street.points, street.camera, ProjectionConfig())
    rows, cols = returns.pixels()
    # 2 cm of range noise; a return rounded to its pixel may lie across an edge, so the median is judged.
    assert len(returns) > 10_000
    assert np.median(np.abs(returns.z - street.depth[rows, cols])) < 0.05
    # Behind the farthest depth around its pixel: no rounding explains that, the camera cannot see it.
    farthest = cv2.dilate(street.depth, np.ones((3, 3), np.uint8))[rows, cols]
    hidden = returns.z > 1.1 * farthest
    assert hidden.sum() > 200
    assert (hidden & ~returns.visible).sum() > 0.75 * hidden.sum()


def test_a_crop_of_the_street_is_its_lower_middle_with_the_same_points_on_it() -> None:
    whole = make_street()
    part = cropped(whole, 1216, 352)
    assert (part.camera.width, part.camera.height) == (1216, 352)
    assert part.image.shape == (352, 1216, 3)
    np.testing.assert_array_equal(part.depth, whole.depth[-352:, 13:-13])
    point = np.array([[1.0, 0.5, 10.0]])
    np.testing.assert_allclose(part.camera.project(point), whole.camera.project(point) - [13, 23])


def test_a_street_scaled_to_more_pixels_shows_the_same_points_at_the_same_part_of_the_image() -> None:
    whole = make_street(columns=100)
    large = scaled(whole, 1e6)
    assert large.camera.width * large.camera.height == pytest.approx(1e6, rel=0.01)
    assert large.image.shape == (large.camera.height, large.camera.width, 3)
    factor = large.camera.width / whole.camera.width
    point = np.array([[1.0, 0.5, 10.0]])
    # Pixel centres lie at whole numbers, so a half is added and taken away.
    expected = (whole.camera.project(point) + 0.5) * factor - 0.5
    np.testing.assert_allclose(large.camera.project(point), expected, atol=1.0)


@pytest.mark.parametrize("size", [(1243, 375), (1242, 376), (0, 10)])
def test_a_crop_larger_than_the_street_or_empty_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"There is no crop of .*: the street is 1242x375 pixels"):
        cropped(make_street(), *size)


def test_the_shipped_network_completes_the_same_frame() -> None:
    pytest.importorskip("onnxruntime")
    street = cropped(make_street(), 320, 192)
    parts = core._parts(street, "classical", 1)
    made = {name: parts[name]() for name in ("classical", core.NETWORK)}
    for estimate in made.values():
        assert isinstance(estimate, DepthEstimate) and estimate.depth.shape == (192, 320) and estimate.metric
    assert made[core.NETWORK].engine == "mf-nano"


def test_a_network_that_cannot_run_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(config: EngineConfig) -> DepthEngine:
        if config.name == "classical":
            return ClassicalEngine()
        raise ModelError("There is no network.")

    monkeypatch.setattr(core, "make_engine", refuse)
    parts = core._parts(cropped(make_street(), 64, 64), "classical", 1)
    assert core.NETWORK not in parts and "classical" in parts
    assert "The network is not timed: There is no network." in caplog.text


def test_ratios_are_to_the_engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def parts(street: object, engine: str, threads: int) -> dict[str, Callable[[], object]]:
        def work(seconds: float) -> Callable[[], object]:
            return lambda: time.sleep(seconds)

        return {
            "projection": work(0.0),
            engine: work(0.01),
            "network": work(0.02),
            "linear": work(0.03),
            "ip_basic": work(0.01),
        }

    monkeypatch.setattr(core, "_parts", parts)
    threads = cv2.getNumThreads()
    assert main(["bench", "core", "--repeats", "5", "--json"]) == 0
    assert cv2.getNumThreads() == threads
    told = json.loads(capsys.readouterr().out)
    ratio = {row["name"]: row["ratio"] for row in told["timings"]}
    assert ratio["projection"] is None
    assert ratio["classical"]["value"] == 1.0
    # Sleeps of 30 ms against 10 ms, with room for a busy machine.
    assert 1.5 < ratio["linear"]["value"] < 6.0
    assert 1.0 < ratio["network"]["value"] < 4.0
    assert ratio["linear"]["low"] <= ratio["linear"]["value"] <= ratio["linear"]["high"]
    assert told["threads"] == 1
    assert told["machine"]["cpu"]
