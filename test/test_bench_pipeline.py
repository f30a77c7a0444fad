"""Benchmarks of the pipeline: stages are told apart, measuring changes nothing, and sizes grow as they should."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np
import pytest

from mf_ros.bench.chart import write_chart
from mf_ros.bench.choice import chosen
from mf_ros.bench.drive import Drive, give, recorded_drive, simulated_drive
from mf_ros.bench.growth import Curve, Series, bench_growth, slope
from mf_ros.bench.pipeline import CompletionEngine, Lane, bench_pipeline, method_result
from mf_ros.bench.stages import ENGINE, OF_FUNCTION, REST, SERIALISE, STAGES, StageClock, Staged, staged
from mf_ros.cli.bench_tables import as_text, table
from mf_ros.cli.main import main
from mf_ros.core import messages
from mf_ros.core.config import Config
from mf_ros.core.types import FloatArray
from mf_ros.engine import frame
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import BagError, ConfigError
from mf_ros.evaluation.baselines import BASELINES
from mf_ros.packages import install_command

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

SMALL = (96, 64, 16, 120)


class Ticks:
    """A clock that moves only when it is told to, seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mf_ros.simulate.recording import simulate

    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    width, height, rings, columns = SMALL
    simulate(path, seconds=0.4, width=width, height=height, rings=rings, columns=columns, ground_truth=False)
    return path


@pytest.fixture(scope="module")
def drive(bag: Path) -> Drive:
    return recorded_drive([str(bag)], Config(), frames=4)


def test_a_stage_inside_another_takes_its_time_from_it() -> None:
    ticks = Ticks()
    clock = StageClock(ticks)
    with clock.stage("outer"):
        ticks.now += 1.0
        with clock.stage("inner"):
            ticks.now += 2.0
        ticks.now += 4.0
    ticks.now += 8.0  # belongs to nothing
    with clock.stage("inner"):
        ticks.now += 16.0
    assert clock.take() == {"outer": 5000.0, "inner": 18000.0}
    assert clock.take() == {}


def test_a_stage_that_fails_is_over() -> None:
    ticks = Ticks()
    clock = StageClock(ticks)
    with clock.stage("outer"):
        with pytest.raises(ValueError), clock.stage("inner"):
            ticks.now += 1.0
            raise ValueError
        ticks.now += 2.0
    assert clock.take() == {"inner": 1000.0, "outer": 2000.0}


def test_other_threads_do_not_report_to_a_clock() -> None:
    clock = StageClock(Ticks())

    def elsewhere() -> None:
        with clock.stage("elsewhere"):
            time.sleep(0.001)

    thread = threading.Thread(target=elsewhere)
    with clock.stage("here"):
        thread.start()
        thread.join()
    assert set(clock.take()) == {"here"}


def test_every_function_of_the_table_exists_and_belongs_to_a_known_stage() -> None:
    assert set(OF_FUNCTION.values()) <= set(STAGES)
    with staged() as clocks:
        assert isinstance(clocks, Staged)


def test_the_parts_of_training_scenes_exist() -> None:
    pytest.importorskip("accelerate")
    from mf_training.bench import PARTS

    with staged(PARTS) as clocks:
        assert isinstance(clocks, Staged)


def test_a_function_is_timed_wherever_it_was_imported_to_and_left_as_it_was() -> None:
    before = frame.project_points, messages.decode_image, ClassicalEngine.estimate
    with staged(engines=[ClassicalEngine()]):
        during = frame.project_points, messages.decode_image, ClassicalEngine.estimate
    after = frame.project_points, messages.decode_image, ClassicalEngine.estimate
    assert after == before
    assert all(one is not other for one, other in zip(before, during, strict=True))


def test_a_table_with_a_function_that_is_gone_changes_nothing() -> None:
    before = frame.project_points
    table_of = {"mf_ros.core.projection:project_points": "project", "mf_ros.core.projection:gone": "project"}
    with pytest.raises(AttributeError), staged(table_of):
        raise AssertionError("never reached")
    assert frame.project_points is before


def _depths(drive: Drive) -> Iterator[FloatArray]:
    pipeline = drive.pipeline(ClassicalEngine())
    for message in drive.heard:
        give(pipeline, message)
        for frame_set in pipeline.ready():
            result = pipeline.process(frame_set)
            if result is not None:
                yield result.estimate.depth


def test_measuring_changes_no_result(drive: Drive) -> None:
    plain = list(_depths(drive))
    with staged(engines=[ClassicalEngine()]) as clocks, clocks.on(StageClock()):
        measured = list(_depths(drive))
    assert len(plain) == len(measured) >= 3
    for one, other in zip(plain, measured, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_stage_of_every_method_is_told(drive: Drive) -> None:
    pytest.importorskip("scipy")
    result = bench_pipeline(chosen(["classical"], Config(), 1), drive, repeats=5)
    assert [method.label for method in result.methods] == ["classical", "ip_basic", "linear"]
    assert result.returns > 20
    for method in result.methods:
        assert set(method.stages) == {*STAGES, "total"}
        own = ("blend",) if method.label == "classical" else ("prior", "blend")
        for stage in set(STAGES) - set(own):
            assert method.stages[stage].median_ms > 0.0, f"{method.label} spends no time on {stage}"
        assert 0.0 < method.beside_share < 1.0
        assert method.stages["total"].repeats >= 5
    first = result.methods[0].ratio
    assert (first.value, first.low, first.high) == (1.0, 1.0, 1.0)


def test_totals_and_what_is_beside_the_engine_are_those_of_single_frames() -> None:
    # Of three frames: 10 ms decoding and 30, 50, 90 ms of the engine; the other method takes half as long for each.
    ours = [{"decode_points": 10.0, "prior": ms / 2, ENGINE: ms / 2} for ms in (30.0, 50.0, 90.0)]
    other = [{"decode_points": ms} for ms in (20.0, 30.0, 50.0)]
    first, second = (method_result(name, ClassicalEngine(), each, ours) for name, each in (("a", ours), ("b", other)))
    assert first.stages["total"].median_ms == 60.0 and first.beside_engine.median_ms == 10.0
    assert first.beside_share == pytest.approx(10 / 60)
    assert second.beside_share == 1.0
    assert (second.ratio.value, second.ratio.low, second.ratio.high) == (0.5, 0.5, 0.5)


def test_the_stages_of_a_frame_are_its_whole_time(drive: Drive) -> None:
    ticks = Ticks()

    def slow_estimate(depth: FloatArray, camera: object) -> FloatArray:
        ticks.now += 0.5
        return np.where(depth > 0, depth, np.float32(5))

    with staged(engines=[CompletionEngine("slow", slow_estimate)]) as clocks:
        lane = Lane(drive, CompletionEngine("slow", slow_estimate), clocks, ticks)
        for message in drive.heard:
            lane.take(message)
        lane.flush()
    frames = lane.passed().frames
    assert len(frames) == 4
    for each in frames:
        assert each[ENGINE] == pytest.approx(500.0)
        assert sum(each.values()) == pytest.approx(500.0)
        assert {SERIALISE, REST, "cloud", "decode_points"} <= set(each)


def test_a_simple_method_in_the_engines_place_gives_its_own_depth(drive: Drive) -> None:
    engine = CompletionEngine("nearest", BASELINES["nearest"])
    results = [drive.pipeline(engine)]
    made = []
    for message in drive.heard:
        give(results[0], message)
        made += [results[0].process(each) for each in results[0].ready()]
    result = next(each for each in made if each is not None)
    expected = BASELINES["nearest"](result.sparse.depth, result.frame.camera)
    np.testing.assert_array_equal(result.estimate.depth, expected)
    assert result.estimate.confidence.min() == 1.0


def test_cameras_beside_one_lidar_decode_its_sweeps_once(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = messages.decode_cloud

    def counted(*args: object, **kwargs: object) -> object:
        decoded.append(1)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(messages, "decode_cloud", counted)

    def sweeps_decoded(cameras: int) -> int:
        decoded.clear()
        lanes = [Lane(drive, ClassicalEngine(), Staged()) for _ in range(cameras)]
        for message in drive.heard:
            sweep = lanes[0].stored(message)
            for lane in lanes:
                lane.take(message, sweep)
        assert all(len(lane.passed().frames) >= 3 for lane in lanes)
        return len(decoded)

    assert sweeps_decoded(3) == sweeps_decoded(1) > 0


def test_a_drive_holds_the_beginning_of_a_recording(bag: Path) -> None:
    short = recorded_drive([str(bag)], Config(), frames=2)
    assert short.frames == 2 and short.lidars == 1
    assert short.heard[0].role in ("camera_info", "tf_static")
    assert len(list(_depths(short))) >= 1


def test_a_simulated_drive_has_jpeg_images_where_they_are_wanted() -> None:
    made = simulated_drive(Config(), frames=1, compressed=True, size=SMALL)
    (image,) = (each.content for each in made.heard if each.role == "image")
    assert "CompressedImage" in type(image).__name__
    assert "JPEG" in made.name


def test_a_recording_whose_images_become_no_depth_is_refused(drive: Drive) -> None:
    heard = tuple(each for each in drive.heard if each.role not in ("tf", "tf_static"))
    blind = Drive("a drive without transforms", heard, drive.config, 1, False, drive.frames)
    with pytest.raises(BagError, match="Hardly any image of a drive without transforms becomes depth"):
        bench_pipeline(chosen(["classical"], Config(), 1), blind, baselines=(), repeats=5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_slope_is_the_exponent_of_a_power_law(power: float) -> None:
    x = [1.0, 3.0, 10.0, 50.0]
    assert slope(x, [7.0 * each**power for each in x]) == pytest.approx(power, abs=1e-9)


def test_growth_has_a_curve_for_each_size_and_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from mf_ros.bench import growth

    monkeypatch.setattr(growth, "_CAMERA_DRIVE", SMALL)
    monkeypatch.setattr(growth, "_STEP_CROP", (64, 32))
    monkeypatch.setattr(growth, "_BUDGET_S", 0.0)
    curves = bench_growth(
        chosen(["nano"], Config(), 1),
        repeats=5,
        points=(1000, 100_000),
        megapixels=(0.005, 0.02),
        cameras=(1, 3),
        steps=(1, 8),
        clock=time.process_time,
    )
    assert [curve.unit for curve in curves] == ["points", "pixels", "cameras", "steps"]
    assert [series.label for series in curves[1].series] == ["nano", "cloud"]
    assert [series.label for series in curves[3].series] == ["nano"]
    (cameras,) = curves[2].series
    # Three pipelines take longer than one, and a hundred times the points than those, whatever else the machine does.
    assert cameras.median_ms[1] > 1.5 * cameras.median_ms[0]
    assert curves[0].series[0].median_ms[1] > curves[0].series[0].median_ms[0]

    path = tmp_path / "growth.png"
    write_chart(path, curves)
    picture = cv2.imread(str(path))
    assert picture.shape == (2 * 380, 2 * 560, 3)
    # Something is drawn in each panel, and most of it is paper.
    for panel in (picture[:380, :560], picture[:380, 560:], picture[380:, :560], picture[380:, 560:]):
        assert 0.01 < (panel.min(axis=2) < 250).mean() < 0.3


def test_a_chart_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    curve = Curve("title", "points", "linear", (1.0, 10.0), (Series("a", (1.0, 10.0), (1.0, 10.0), 1.0, 1.0),))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_chart(tmp_path / "missing" / "growth.png", [curve])


def test_the_command_measures_a_bag_and_prints_what_it_also_writes_as_json(
    bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy")
    asked = ["bench", "pipeline", "--bag", str(bag), "--engine", "classical", "--repeats", "5", "--clock", "cpu"]
    assert main([*asked, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["suite"] == "pipeline" and document["clock"] == "cpu" and document["threads"] == 1
    assert document["machine"]["cores"] >= 1
    text = as_text(document)
    for word in (*STAGES, "total", "ratio of totals", "beside the engine"):
        assert any(line.startswith(word) for line in text), word
    assert main([*asked, "--without-baselines"]) == 0
    printed = capsys.readouterr().out
    assert "ip_basic" not in printed and "classical" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["core", "--threads", "0"], "--threads and --rate-hz must be above zero"),
        (["core", "--threads", "2", "--clock", "cpu"], "use it with --threads 1"),
        (["core", "--plot", "a.png"], "growth draws one .png"),
        (["growth", "--plot", "a.jpg"], "growth draws one .png"),
        (["core", "--engine", "classical", "--engine", "nano"], "core measures one engine"),
        (["engine", "--engine", "fastest"], "There is no engine 'fastest'"),
        (["pipeline", "--bag", "missing.mcap"], "missing.mcap"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    told = capsys.readouterr().err
    assert text in told and told.count("\n") == 1


def test_a_package_that_training_needs_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mf_ros.cli import bench_suites

    monkeypatch.setattr(bench_suites, "_TRAINING", "accelerate_that_nobody_has")
    assert main(["bench", "train"]) == 3
    assert install_command("train") in capsys.readouterr().err


def test_a_table_has_columns_of_even_width() -> None:
    assert table(["a", "long"], [["word", "1"], ["b", "22"]]) == ["a     long", "word     1", "b       22"]
