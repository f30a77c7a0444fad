"""The mf-ros command: help that teaches, exit codes that mean something, one line instead of a traceback."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

from mf_ros.bags.writer import McapWriter
from mf_ros.cli import main as cli
from mf_ros.cli.evaluate import parse_counts
from mf_ros.cli.main import COMMANDS, main
from mf_ros.cli.options import Options, plain, progress
from mf_ros.core.camera import make_camera
from mf_ros.core.config import EngineConfig
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import ConfigError

START = 1_700_000_000 * 10**9
SMALL = ["--seconds", "0.5", "--width", "160", "--height", "96", "--rings", "16", "--columns", "400"]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What a failed command printed on standard error, which must be one line without a traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("mf-ros: WARNING")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("mf-ros: error: ")
    return lines[0]


def run_without(modules: list[str], *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh Python where some packages are not installed."""
    code = (
        "import sys\n"
        f"for name in {modules!r}: sys.modules[name] = None\n"
        "from mf_ros.cli.main import main\n"
        f"code = main({list(args)!r})\n"
        "print('loaded', *sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says about a small bag that it simulated."""
    path = tmp_path_factory.mktemp("bag") / "sim.mcap"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["simulate", "--out", str(path), *SMALL, "--json"]) == 0
    told: dict[str, Any] = json.loads(printed.getvalue())
    return told


@pytest.fixture(scope="module")
def bag(simulated: dict[str, Any]) -> Path:
    return Path(simulated["path"])


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"]])
def test_help_lists_commands_examples_and_exit_codes(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name}" in text
    assert "examples:" in text
    assert "exit codes:" in text


def test_without_arguments_the_help_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: mf-ros COMMAND" in captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_takes_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"    mf-ros {name}" in text
    assert "--json" in text and "--debug" in text


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mf-ros 0.")


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reply"]) == 2
    assert "replay, check" in error_line(capsys)


def test_an_unknown_option_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--colour"]) == 2
    assert "--colour" in capsys.readouterr().err


def test_help_and_version_load_no_installed_package() -> None:
    done = run_without([], "--help")
    loaded = set(done.stderr.split("loaded")[-1].split())
    assert done.returncode == 0
    assert not loaded & {"numpy", "cv2", "yaml", "tyro", "rich", "rosbags", "mcap", "scipy", "torch"}


def test_doctor_works_where_everything_optional_is_missing() -> None:
    done = run_without(["numpy", "cv2", "yaml", "tyro", "rich", "rosbags", "mcap", "scipy"], "doctor", "--json")
    assert done.returncode in (0, 1)
    assert json.loads(done.stdout)["facts"]["python"]


@pytest.mark.parametrize(
    ("missing", "command", "remedy"),
    [
        (["cv2"], ["replay", "x"], "-m pip install 'opencv-python-headless>=4.5'"),
        (["rosbags", "mcap"], ["check", "x"], "-m pip install 'rosbags>=0.11.1' 'mcap>=1.2' 'jinja2>=3.0'"),
        (["tyro"], ["check", "x"], f"{sys.executable} -m pip install tyro"),
        (["yaml"], ["replay", "x"], f"{sys.executable} -m pip install pyyaml"),
    ],
)
def test_a_missing_package_is_one_sentence(missing: list[str], command: list[str], remedy: str) -> None:
    done = run_without(missing, *command)
    assert done.returncode == 3
    lines = [line for line in done.stderr.splitlines() if not line.startswith("loaded")]
    assert len(lines) == 1, lines
    assert "is not installed" in lines[0]
    assert remedy in lines[0]


def test_a_fault_of_our_own_is_not_called_a_missing_package() -> None:
    done = run_without(["mf_ros.bags.reader"], "check", "x")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_an_interrupted_command_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str, args: list[str]) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parse", interrupt)
    assert main(["check", "x"]) == 130
    assert "stays readable" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error(bag: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mf_ros.cli.main", "check", str(bag)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == 141


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="does not exist"):
        main(["check", str(tmp_path / "absent"), "--debug"])


def test_debug_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "doctor", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["facts"]


def test_simulate_tells_what_it_wrote(simulated: dict[str, Any]) -> None:
    assert simulated["frames"] == 5
    assert simulated["size_bytes"] == Path(simulated["path"]).stat().st_size


def test_simulate_refuses_what_cannot_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--out", str(tmp_path / "x.mcap"), "--rings", "0"]) == 2
    assert "rings" in error_line(capsys)


def test_check_passes_the_simulated_bag(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bag), "--out", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert {topic["role"] for topic in told["topics"]} >= {"image", "camera_info", "points", "tf"}
    assert all(Path(picture).is_file() for picture in told["pictures"]) and told["pictures"]


def test_check_prints_findings_with_advice_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no_tf.mcap"
    camera = make_camera(8, 8, [8.0, 0, 4, 0, 8.0, 4, 0, 0, 1], [], "")
    with McapWriter(path) as writer:
        writer.write_camera_info("/camera/camera_info", camera, START, "camera")
        writer.write_image("/camera/image_raw", np.zeros((8, 8, 3), np.uint8), START, "camera")
        writer.write_points("/points", LidarSweep(np.ones((4, 3), np.float32), START, "lidar"))
    assert main(["check", str(path)]) == 1
    text = capsys.readouterr().out
    assert "error: " in text and "/tf_static" in text


def test_replay_writes_depth_report_and_summary(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(bag), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["frames_in"] == told["frames_out"] == 5
    assert told == json.loads((tmp_path / "out" / "summary.json").read_text())
    for name in ("out.mcap", "report.html"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_replay_of_a_part(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["replay", str(bag), "--out", str(tmp_path), "--start", "0.2", "--duration", "0.25", "--json"]
    assert main(command) == 0
    assert 1 <= json.loads(capsys.readouterr().out)["frames_in"] <= 3


def test_replay_says_where_the_report_is(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(bag), "--out", str(tmp_path), "--duration", "0.3"]) == 0
    text = capsys.readouterr().out
    assert str(tmp_path / "report.html") in text
    assert "images became depth" in text


def test_replay_without_a_single_frame_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "apart.mcap"
    camera = make_camera(32, 32, [32.0, 0, 16, 0, 32.0, 16, 0, 0, 1], [], "")
    with McapWriter(path) as writer:
        writer.write_tf([StampedTransform("camera", "lidar", START, np.eye(4))], static=True)
        writer.write_camera_info("/camera/camera_info", camera, START, "camera")
        writer.write_image("/camera/image_raw", np.zeros((32, 32, 3), np.uint8), START, "camera")
        late = START + 60 * 10**9
        writer.write_points("/points", LidarSweep(np.ones((4, 3), np.float32), late, "lidar"))
    assert main(["replay", str(path), "--out", str(tmp_path / "out"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["frames_out"] == 0
    assert sum(told["dropped"].values()) == told["frames_in"] == 1


def test_evaluate_prints_records_with_the_documented_keys(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(bag), "--lines", "8,4", "--max-frames", "2", "--json", "--engine", "classical"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["input"] for record in records} == {"8", "4"}
    assert {record["engine"] for record in records} >= {"classical", "linear", "linear+cull", "ip_basic"}
    keys = "source input engine truth mae rmse imae irmse absrel delta1 median ms frames"
    keys += " metric coverage50 coverage90 mae90 mae80 mae60 absrel90 absrel80 absrel60"
    assert " ".join(records[0]) == keys
    assert all(record["frames"] == 2 for record in records)


@pytest.mark.parametrize(("given", "used"), [([], 1), (["--engine.threads", "3"], 3)])
def test_evaluate_runs_the_network_on_one_thread_unless_told_otherwise(
    bag: Path, given: list[str], used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def made(config: EngineConfig) -> ClassicalEngine:
        threads.append(config.threads)
        return ClassicalEngine()

    monkeypatch.setattr("mf_ros.cli.evaluate.make_engine", made)
    assert main(["evaluate", str(bag), "--lines", "8", "--max-frames", "1", *given]) == 0
    assert threads == [used]


def test_evaluate_saves_pictures_and_a_table(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(bag), "--lines", "8", "--max-frames", "1", "--engine", "classical"]
    assert main([*command, "--save-pictures", str(tmp_path / "p")]) == 0
    assert "linear+cull" in capsys.readouterr().out
    assert len(list((tmp_path / "p").glob("*.png"))) == 1


@pytest.mark.parametrize("text", ["", "8,", "0", "-4", "8;4", "x"])
def test_lines_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--lines"):
        parse_counts("--lines", text)


def test_a_share_of_outliers_above_one_is_refused(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(bag), "--outliers", "10"]) == 2
    assert "--outliers is 10: it takes a share from 0 to 1" in error_line(capsys)


def test_lines_keep_their_order_once() -> None:
    assert parse_counts("--lines", "32, 16,8,16") == (32, 16, 8)


def not_a_bag(folder: Path) -> list[str]:
    (folder / "notes.txt").write_text("hello")
    return [str(folder / "notes.txt")]


def empty_bag(folder: Path) -> list[str]:
    with McapWriter(folder / "empty.mcap"):
        pass
    return [str(folder / "empty.mcap")]


def no_such_file(folder: Path) -> list[str]:
    return [str(folder / "absent.mcap")]


def empty_folder(folder: Path) -> list[str]:
    (folder / "nothing").mkdir()
    return [str(folder / "nothing")]


BAD_INPUT = [not_a_bag, empty_bag, no_such_file, empty_folder]


@pytest.mark.parametrize("command", ["check", "replay", "evaluate"])
@pytest.mark.parametrize("make", BAD_INPUT)
def test_bad_input_is_one_clear_line(
    command: str, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    args = [command, *make(tmp_path / "in")]
    if command == "replay":
        args += ["--out", str(tmp_path / "out")]
    assert main(args) == 2
    assert len(error_line(capsys)) > 30


@pytest.mark.parametrize("command", ["check", "replay", "evaluate"])
def test_a_bag_has_to_be_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    error_line(capsys)


def test_an_output_folder_that_cannot_be_made_is_one_line(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["replay", str(bag), "--out", str(tmp_path / "file" / "out")]) == 2
    assert str(tmp_path / "file") in error_line(capsys)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (["--sync.queue-size", "0"], "sync.queue_size"),
        (["--engine", "magic"], "magic"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--image-topic", "/nothing"], "/nothing"),
        (["--start", "1000"], "1000"),
        (["--ros-distro", "hydro"], "hydro"),
    ],
)
def test_bad_options_of_replay_are_one_line(
    bag: Path, tmp_path: Path, option: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(bag), "--out", str(tmp_path / "out"), *option]) == 2
    assert text in error_line(capsys)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "robot.yaml"
    settings.write_text("/**:\n  ros__parameters:\n    cloud: {max_depth_m: 40.0, voxel_m: 0.5}\n")
    command = ["replay", str(bag), "--out", str(tmp_path / "out"), "--duration", "0.3", "--json"]
    assert main([*command, "--config", str(settings), "--cloud.voxel-m", "0.2"]) == 0
    used = json.loads(capsys.readouterr().out)["config"]["cloud"]
    assert used["voxel_m"] == 0.2
    assert used["max_depth_m"] == 40.0
    assert used["edge_ratio"] == 0.08


def test_results_become_plain_json() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": Path("x"), "e": (np.int64(3), None, True)}
    assert plain(value) == {"a": 0.5, "b": [0, 1], "c": None, "d": "x", "e": [3, None, True]}


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work") as advance:
        advance(0.5)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("counting sheep") as advance:
        advance(0.25)
    assert "counting sheep" in capsys.readouterr().err


def test_every_command_shares_the_common_options() -> None:
    for command in COMMANDS.values():
        assert issubclass(getattr(importlib.import_module(command.module), command.name), Options)


@pytest.fixture(autouse=True)
def quiet_logging() -> Iterator[None]:
    """Commands set up logging for a process of their own; the next test gets pytest's back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
