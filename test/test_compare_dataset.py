"""``mf-ros evaluate --compare`` on small data sets, with engines whose errors are known, and the report it writes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")
pytest.importorskip("jinja2")
pytest.importorskip("scipy")

from broken_bags import Run
from dataset_rows import wall_rows, write_dataset
from test_report import Page

from mf_ros.cli import compare as command
from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config, OutputConfig, ProjectionConfig
from mf_ros.core.types import ByteArray, DepthEstimate, SparseDepth
from mf_ros.dataset.compare.frames import Extremes
from mf_ros.dataset.compare.report import render_comparison
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.frames import chosen_rows, split_frames
from mf_ros.dataset.row import DatasetError, Row
from mf_ros.engine.bundle import SHIPPED
from mf_ros.errors import MissingDependencyError
from mf_ros.evaluation.compare import Scorer
from mf_ros.evaluation.protocol import robot_cases

SHIPPED_STEPS = json.loads((SHIPPED / "nano" / "config.json").read_text(encoding="utf-8"))["training"]["steps"]


class Scaled:
    """An engine that answers the median of its returns times a factor; 1 m without any."""

    name = "scaled"

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        returns = sparse.depth[sparse.depth > 0]
        value = self._factor * (float(np.median(returns)) if len(returns) else 1.0)
        depth = np.full(sparse.depth.shape, value, np.float32)
        return DepthEstimate(depth, np.ones_like(depth), True, self.name)

    def describe(self) -> dict[str, str]:
        return {"method": "scaled"}


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of two frames each, walls at 4 to 15 m, and training rows that must not be judged on."""
    rows = [row for number in range(6) for row in wall_rows(f"drive{number}", (4 + 2 * number, 5 + 2 * number))]
    rows += wall_rows("learned", (30.0, 31.0), split="train")
    return write_dataset(tmp_path_factory.mktemp("walls") / "fleet", rows)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A model folder like nano with other weights; what computes is replaced by ``networks``."""
    folder = Path(shutil.copytree(SHIPPED / "nano", tmp_path / "mine"))
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"tuned")
    return folder


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Lets nano and the tuned model answer depth that is wrong by these factors."""

    def answer(tuned: float, base: float) -> None:
        factors = {"mine": tuned, "nano": base}
        monkeypatch.setattr(command, "network_engine", lambda config, place: Scaled(factors[Path(place.given).name]))

    return answer


def compared(run: Run, tuned: Path, dataset: Path, *more: Any) -> Any:
    options = [] if "--canary" in more else ["--canary", 0]
    options += [] if "--max-frames" in more else ["--max-frames", 1]
    return run("evaluate", "--compare", "nano", tuned, dataset, "--engine", "onnx", *LINES, *options, *more)


# The fixture that runs commands asks for fewer lines than the default, which a comparison takes none of.
LINES = ("--lines", "32,16,8,4")


def test_frames_of_a_split_come_by_recording_and_time_through_the_robots_code(walls: Path) -> None:
    frames = list(split_frames(Dataset(walls), "test"))
    assert [frame.source for frame in frames] == sorted(frame.source for frame in frames)
    assert len(frames) == 12 and frames[0].name == "100000000000"
    assert frames[3].n_rings == 16 and frames[3].points is not None
    # The LiDAR's pose is applied: it sits 0.3 m above the camera, and y points down.
    assert frames[3].points.points[:, 2] == pytest.approx(7.0, abs=1e-4)
    assert frames[3].points.points[:, 1].min() == pytest.approx(-0.36 * 7 - 0.3, abs=1e-3)


def test_settings_and_calibration_may_be_replaced(walls: Path) -> None:
    moved = np.eye(4)
    moved[2, 3] = 1.0
    smaller = dataclasses.replace(Config(), output=OutputConfig(scale=0.5))
    frame = next(split_frames(Dataset(walls), "test", settings=smaller, corrections={"lidar": moved}))
    assert frame.image.shape == (48, 80, 3) and frame.points is not None
    assert frame.points.points[:, 2] == pytest.approx(5.0, abs=1e-4)


def test_long_recordings_are_thinned_evenly(tmp_path: Path) -> None:
    dataset = Dataset(write_dataset(tmp_path / "set", wall_rows("long", range(3, 14)) + wall_rows("short", (5,))))
    chosen = chosen_rows(dataset, "test", 3)
    stamps = {bag: [dataset.row(place).stamp_ns // 10**9 for place in places] for bag, places in chosen.items()}
    assert stamps == {"long": [100, 105, 110], "short": [100]}


def test_robots_of_a_fleet_may_have_lidars_of_different_lines(tmp_path: Path) -> None:
    rows = wall_rows("a", (8,), rings=32) + wall_rows("b", (8,), rings=8) + wall_rows("c", (8,), rings=0)
    frames = list(split_frames(Dataset(write_dataset(tmp_path / "set", rows)), "test"))
    assert [frame.n_rings for frame in frames] == [32, 8, 0]
    halves = [len(robot_cases(frame)[1].shown) / len(robot_cases(frame)[-1].truth) for frame in frames]
    assert halves == pytest.approx([0.5, 0.5, 0.5], abs=0.01)


def damaged(row: Row) -> Row:
    return dataclasses.replace(row, image=b"no picture")


def test_damaged_rows_are_passed_over_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = wall_rows("drive", (5, 6, 7))
    dataset = Dataset(write_dataset(tmp_path / "set", [damaged(rows[0]), *rows[1:]]))
    assert len(list(split_frames(dataset, "test"))) == 2
    assert "1 of 3 rows give no frame" in caplog.text
    ruined = Dataset(write_dataset(tmp_path / "ruined", [damaged(row) for row in rows]))
    with pytest.raises(DatasetError, match="No row of the split test of ruined gives a frame: Sample drive/"):
        list(split_frames(ruined, "test"))


def test_numbers_intervals_and_files_of_a_comparison(
    run: Run, networks: Any, tuned: Path, walls: Path, tmp_path: Path
) -> None:
    """Walls at 4 to 15 m, 9.5 m on average: an error of 10% is 0.95 m, one of 20% 1.9 m."""
    networks(1.1, 1.2)
    out = tmp_path / "report"
    assert compared(run, tuned, walls, "--gate", "--out", out, "--max-frames", 20).code == 0
    document = json.loads((out / "comparison.json").read_text())
    assert (document["frames"], document["recordings"]) == (12, 6)
    assert document["intervals"] == "95% intervals: bootstrap over 6 recordings"
    deployed = document["inputs"][0]
    values = {name: deployed["methods"][name]["mae"]["value"] for name in ("tuned", "base", "nearest+cull")}
    assert values == pytest.approx({"tuned": 0.95, "base": 1.9, "nearest+cull": 0.0}, abs=1e-3)
    assert list(deployed["change"]["mae"].values()) == pytest.approx([-0.5] * 3, abs=1e-4)
    # 5, 6, 7, 8 and 9 m lie between 5 and 10 m: 7 m on average. Five of six recordings reach there, not two more.
    assert deployed["methods"]["base"]["mae_5_10"]["value"] == pytest.approx(1.4, abs=1e-3)
    assert deployed["methods"]["base"]["mae_5_10"]["low"] is None
    assert deployed["methods"]["base"]["mae_40_80"]["value"] is None
    assert document["dataset"]["fingerprint"] == Dataset(walls).fingerprint
    assert document["tuned"]["sha256"] != document["base"]["sha256"] and document["base"]["step"] == SHIPPED_STEPS
    assert (out / "report.html").is_file()


def test_a_comparison_gives_the_same_numbers_every_time(run: Run, networks: Any, tuned: Path, walls: Path) -> None:
    networks(1.1, 1.2)
    first, second = (compared(run, tuned, walls, "--json").out for _ in range(2))
    assert first == second and json.loads(first)["gate"]["passed"] is True


def test_tables_are_printed_for_people(run: Run, networks: Any, tuned: Path, walls: Path) -> None:
    networks(1.1, 1.2)
    text = compared(run, tuned, walls).out
    assert f"tuned mf-mine (mine, step {SHIPPED_STEPS}) against base mf-nano (nano, step {SHIPPED_STEPS})" in text
    assert "on fleet, split test: 6 frames of 6 recordings" in text
    assert "tuned - base      MAE -50.0% (-50.0% to -50.0%)" in text
    assert "  ok   The MAE on held-out returns falls by 50.0%" in text
    assert "    -  The MAE on the procedural scenes was not measured." in text


def test_a_worse_network_fails_the_gate_and_only_with_it_the_command(
    run: Run, networks: Any, tuned: Path, walls: Path
) -> None:
    networks(1.2, 1.1)
    closed = compared(run, tuned, walls, "--gate")
    assert closed.code == 1 and "Gate: failed" in closed.out
    assert "  FAIL The MAE on held-out returns rises by 100.0%" in closed.out
    assert compared(run, tuned, walls).code == 0


def test_what_cannot_be_compared_is_told_in_one_sentence(
    run: Run, networks: Any, tuned: Path, walls: Path, tmp_path: Path
) -> None:
    networks(1.1, 1.2)
    cases = [
        (compared(run, Path("nano"), walls), "nano and nano are the same network"),
        (compared(run, tmp_path / "nowhere", walls), "there is no such folder"),
        (compared(run, tuned, tmp_path), "is no data set"),
        (compared(run, tuned, walls, "--split", "val"), "no rows of the split val: it holds 2 train, 12 test"),
        (compared(run, tuned, walls, "--split", "best"), "There is no split 'best'"),
        (compared(run, tuned, walls, "--points", "5"), "--points does not go with --compare"),
        (compared(run, tuned, walls, "--canary", -1), "--canary is -1"),
        (compared(run, tuned, walls, "--lidar.min-range-m", 3), "Settings other than those of the engine"),
        (run("evaluate", walls, walls, "--compare", "nano", tuned, *LINES, "--engine", "onnx"), "takes one data set"),
        (run("evaluate", walls, "--gate", *LINES), "--gate only goes with --compare"),
    ]
    for outcome, text in cases:
        assert outcome.code == 2 and text in outcome.err, (text, outcome.err)
        assert outcome.err.count("\n") == 1, outcome.err


def test_a_copy_of_the_same_weights_is_the_same_network(run: Run, walls: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(SHIPPED / "nano", tmp_path / "copy"))
    assert "are the same network" in compared(run, copy, walls).err


def test_without_any_network_there_is_nothing_to_compare(run: Run, tuned: Path, walls: Path) -> None:
    outcome = run("evaluate", "--compare", "nano", tuned, walls, *LINES, "--engine", "classical")
    assert outcome.code == 2 and "no network runs here" in outcome.err


def test_the_gate_needs_the_procedural_scenes_and_the_tables_do_not(
    run: Run, networks: Any, tuned: Path, walls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks(1.1, 1.2)

    def no_torch(module: str, *, extra: str) -> None:
        raise MissingDependencyError(f"The Python package '{module}' is not installed: run pip install '[{extra}]'.")

    monkeypatch.setattr(command, "require_package", no_torch)
    without = compared(run, tuned, walls, "--canary", 3)
    assert without.code == 0 and "The procedural scenes are left out: The Python package 'torch'" in without.err
    gated = compared(run, tuned, walls, "--canary", 3, "--gate")
    assert gated.code == 3 and "'torch' is not installed" in gated.err


@pytest.fixture
def report(run: Run, networks: Any, tuned: Path, walls: Path, tmp_path: Path) -> str:
    networks(0.9, 1.15)
    assert compared(run, tuned, walls, "--out", tmp_path / "report").code == 0
    return (tmp_path / "report" / "report.html").read_text()


def test_the_report_shows_verdict_intervals_tables_and_the_frames_that_changed_most(report: str) -> None:
    page = Page(report)
    assert page.open == []
    for words in (
        "Gate: passed",
        "95% intervals: bootstrap over 6 recordings",
        "deployed, MAE",
        "-33.3% (-33.3% to -33.3%)",
        "Got better",
        "No frame got worse.",
        "drive5, 1970-01-01 00:01:40 UTC",
        "every 4th scan line",
    ):
        assert words in page.text, words
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * 6, "two frames of six pictures"
    assert sum(tag == "circle" for tag, _ in page.tags) >= 6 + 2 * 3


def test_the_report_needs_no_network_and_lets_no_name_act(run: Run, tmp_path: Path, report: str) -> None:
    for _, attributes in Page(report).tags:
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(("data:image/", "#"))
    document = json.loads((tmp_path / "report" / "comparison.json").read_text())
    document["dataset"]["name"] = "<script>alert(1)</script>"
    page = Page(render_comparison(document, ((), ())))
    assert "script" not in {tag for tag, _ in page.tags} and "<script>alert(1)</script>" in page.text


def test_the_frames_shown_are_those_that_changed_most(walls: Path) -> None:
    class Mixed(Scaled):
        """Right up to 9 m, and wrong beyond."""

        def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
            far = sparse.depth.max() > 9.5
            return Scaled(1.3 if far else 1.0).estimate(image, sparse, camera)

    extremes = Extremes(shown=2)
    scorer = Scorer({"tuned": Mixed(1.0), "base": Scaled(1.1)}, ProjectionConfig(), hook=extremes.offer)
    for frame in split_frames(Dataset(walls), "test"):
        scorer.add(frame, robot_cases(frame)[:1])
    better, worse = extremes.frames()
    assert [frame.recording for frame in better] == ["drive2", "drive2"], "9 m, then 8 m: 0.9 and 0.8 m less"
    assert [frame.change_m for frame in better] == pytest.approx([-0.9, -0.8], abs=1e-3)
    assert [frame.change_m for frame in worse] == pytest.approx([3.0, 2.8], abs=1e-3)
