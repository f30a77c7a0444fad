"""Bad input through the command line: one clear sentence, the documented exit code, no traceback, nothing lost."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import pytest
from bag_samples import write_rosbag1, write_rosbag2
from broken_bags import (
    COMMANDS,
    IMAGE,
    INFO,
    POINTS,
    TF,
    Change,
    Outcome,
    Run,
    all_nan,
    always,
    command_line,
    cut,
    record,
    shifted,
    without_xyz,
)
from rosbags.rosbag2 import StoragePlugin
from wall_scene import camera_info, cloud, extrinsics, image, stamp, tf

from mf_ros.bags.writer import McapWriter
from mf_ros.cli.main import main


def not_a_bag(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder / "notes.txt"


def empty_bag(folder: Path) -> Path:
    with McapWriter(folder / "empty.mcap"):
        return folder / "empty.mcap"


def empty_file(folder: Path) -> Path:
    (folder / "empty.mcap").touch()
    return folder / "empty.mcap"


def folder_without_bag(folder: Path) -> Path:
    (folder / "notes").mkdir()
    return folder / "notes"


def folder_whose_files_are_gone(folder: Path) -> Path:
    bag = write_rosbag2(folder / "split", StoragePlugin.MCAP)
    for path in bag.glob("*.mcap"):
        path.unlink()
    return bag


UNREADABLE = {
    "not a bag": (not_a_bag, "notes.txt is not a bag"),
    "missing path": (lambda folder: folder / "absent.mcap", "does not exist: check the path"),
    "empty bag": (empty_bag, "holds no messages"),
    "empty file": (empty_file, r"is empty \(0 bytes\)"),
    "folder without a bag": (folder_without_bag, "holds no metadata.yaml and no .mcap"),
    "folder whose files are gone": (folder_whose_files_are_gone, "no file that its metadata.yaml lists"),
    "mcap cut in its header": (lambda folder: cut(record(folder / "cut.mcap"), 0.01), "cut off or corrupt after byte"),
    "ROS 1 bag cut": (lambda folder: cut(write_rosbag1(folder / "cut.bag"), 0.5), "rosbag reindex"),
    "sqlite cut": (
        lambda folder: cut(next(write_rosbag2(folder / "sql", StoragePlugin.SQLITE3).glob("*.db3")), 0.5),
        "damaged or cut off",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_one_sentence(case: str, command: str, run: Run, tmp_path: Path) -> None:
    make, says = UNREADABLE[case]
    outcome = run(command, make(tmp_path))
    assert outcome.code == 2
    assert re.search(says, outcome.error)
    assert str(tmp_path) in outcome.error
    assert not (tmp_path / "out").exists()


def two_of(folder: Path, *topics: str) -> Path:
    """Two cameras, or two LiDARs, of equal rank."""
    with McapWriter(folder / "two.mcap") as writer:
        writer.write_raw(TF, tf(extrinsics()), stamp(0))
        for number in range(4):
            for topic in {IMAGE, INFO, POINTS, *topics}:
                made = image if "image" in topic else camera_info if "info" in topic else cloud
                writer.write_raw(topic, made(number), stamp(number))
    return folder / "two.mcap"


def bag_without(name: str) -> Callable[[Path], Path]:
    return lambda folder: record(folder / "bag.mcap", **{name: None})


LACKING = {
    "no camera_info": (bag_without("info"), "no camera_info for /camera/image_raw.* record its CameraInfo"),
    "no image": (bag_without("image"), "no camera image: record"),
    "no point cloud": (bag_without("points"), "no LiDAR points: record"),
    "two cameras": (
        lambda folder: two_of(folder, "/rear/image_raw", "/rear/camera_info"),
        r"choose the image topic from /camera/image_raw \[.*/rear/image_raw \[",
    ),
    "two LiDARs": (
        lambda folder: two_of(folder, "/rear/points"),
        r"several point clouds: choose .*/lidar/points \[.*4 messages.*/rear/points \[.*--points-topic",
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_topics_that_lack_or_compete_are_one_sentence(case: str, run: Run, tmp_path: Path) -> None:
    make, says = LACKING[case]
    bag = make(tmp_path)
    checked = run("check", bag)
    assert checked.code == 1 and checked.err == ""
    assert len(checked.errors_found) == 1
    assert re.search(says, checked.errors_found[0])
    for command in ("replay", "evaluate"):
        outcome = run(command, bag)
        assert outcome.code == 2
        assert re.search(says, outcome.error)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("option", "candidates"),
    [("--image-topic", IMAGE), ("--camera-info-topic", INFO), ("--points-topic", POINTS)],
)
def test_an_unknown_topic_lists_the_candidates(
    command: str, option: str, candidates: str, run: Run, tmp_path: Path
) -> None:
    outcome = run(command, record(tmp_path / "bag.mcap"), option, "/nowhere")
    says = f"has no topic /nowhere: .* choose from {candidates} \\["
    if command == "check":
        assert outcome.code == 1
        assert any(re.search(says, found) for found in outcome.errors_found)
    else:
        assert outcome.code == 2
        assert re.search(says, outcome.error)


@dataclass(frozen=True)
class Useless:
    """A bag of which no image can become depth: how it is made, what the reason is called and what is said."""

    reason: str
    says: str
    changes: dict[str, Optional[Change]]
    frames: int = 4
    checked: str = ""


def other_tf(message: Any, number: int) -> Any:
    return tf(extrinsics("velodyne"))


USELESS = {
    "K of zeros": Useless("uncalibrated", "K is zero.*calibrate it", {"info": always(k=np.zeros(9))}),
    "K of nothing real": Useless(
        "uncalibrated", "no real camera.*correct", {"info": always(k=np.diag([1e-9, 1e-9, 1.0]).ravel())}
    ),
    "unknown distortion model": Useless(
        "uncalibrated",
        "Unknown distortion_model 'omni': known are plumb_bob, .*Convert",
        {"info": always(distortion_model="omni", d=np.ones(5))},
    ),
    "D of wrong length": Useless(
        "uncalibrated", "takes 4 or 5 distortion coefficients, D has 3: correct", {"info": always(d=np.ones(3))}
    ),
    "image size unlike camera_info": Useless(
        "size_mismatch", "64 x 48, its camera_info describes 640 x 480: use", {"info": always(width=640, height=480)}
    ),
    "no transform at all": Useless(
        "no_transform", "'camera_optical' is in no transform.*publish", {"tf": None}, checked="no transforms.*Record"
    ),
    "no transform between camera and LiDAR": Useless(
        "no_transform", "Frame 'lidar' is in no transform.*known: camera_optical, velodyne", {"tf": other_tf}
    ),
    "points without x, y, z": Useless("bad_points", "no field x, y, z; its fields are ring", {"points": without_xyz}),
    "cloud with too little data": Useless(
        "bad_points", "cloud holds 100 bytes, but width 960", {"points": always(data=np.zeros(100, np.uint8))}
    ),
    "sweeps of NaN": Useless("no_returns", "no valid point.*[Cc]heck the", {"points": all_nan}),
    "unknown encoding": Useless(
        "bad_image", "'smell8' is not supported: publish one of rgb8", {"image": always(encoding="smell8")}
    ),
    "image with too little data": Useless(
        "bad_image", "rows of 192 bytes.*data holds 100 bytes", {"image": always(data=np.zeros(100, np.uint8))}
    ),
    "LiDAR in another epoch": Useless(
        "no_lidar",
        r"clock of the LiDAR is 16000000\d\d.\d+ s behind.*Synchronise",
        {"points": shifted(-1_600_000_000)},
        frames=12,
        checked=r"count from different moments.*Synchronise",
    ),
}


@pytest.mark.parametrize("case", USELESS)
def test_a_bag_that_gives_no_depth_says_why_in_one_sentence(case: str, run: Run, tmp_path: Path) -> None:
    useless = USELESS[case]
    bag = record(tmp_path / "bag.mcap", useless.frames, **useless.changes)

    checked = run("check", bag)
    assert checked.code == 1 and checked.err == ""
    assert len(checked.errors_found) == 1, "one fault is one finding"
    assert re.search(useless.checked or useless.says, checked.errors_found[0])

    replayed = run("replay", bag)
    assert replayed.code == 1
    assert re.search(f"No depth was made, {useless.frames} of {useless.frames} images", replayed.error)
    assert f"dropped as {useless.reason}" in replayed.error
    assert re.search(useless.says, replayed.error)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames_out"], summary["dropped"]) == (0, {useless.reason: useless.frames})

    evaluated = run("evaluate", bag)
    assert evaluated.code == 2
    assert re.search(useless.says, evaluated.error)


def test_a_run_without_depth_says_why_beside_its_json_too(run: Run, tmp_path: Path) -> None:
    outcome = run("replay", record(tmp_path / "bag.mcap", info=always(k=np.zeros(9))), "--json")
    assert json.loads(outcome.out)["dropped"] == {"uncalibrated": 4}
    assert "K is zero" in outcome.error


@pytest.mark.parametrize("seconds", [-2.3, -7.0])
def test_a_clock_that_an_offset_mends_names_the_setting(seconds: float, run: Run, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag.mcap", 90, points=shifted(seconds))
    checked, replayed = run("check", bag), run("replay", bag)
    assert (checked.code, replayed.code) == (1, 1)
    (finding,) = checked.errors_found
    advised = re.search(r"set entry 1 of sync.lidar_offset_s to about (\S+\d)", finding)
    assert advised and float(advised[1]) == pytest.approx(-seconds, abs=0.01)
    # Without the recording times of check, the estimate is good to one period of the sensors.
    estimate = re.search(r"Set sync.lidar_offset_s to about \[(\S+)\]", replayed.error)
    assert estimate and float(estimate[1]) == pytest.approx(-seconds, abs=0.11)

    option = ("--sync.lidar-offset-s", advised[1])
    assert run("check", bag, *option).errors_found == []
    assert run("replay", bag, *option).code == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames_out"] == 90


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("in the way")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "out"


def unwritable(folder: Path) -> Path:
    # Not even the superuser can make folders there.
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc on this system")
    return Path("/proc/mf_ros_out")


@pytest.mark.parametrize(
    ("command", "option"), [("check", "--out"), ("replay", "--out"), ("evaluate", "--save-pictures")]
)
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (a_file, "is a file: name a folder"),
        (below_a_file, r"cannot be used \(Not a directory\): name one"),
        (unwritable, "cannot be used .*: name one that you may write to"),
    ],
)
def test_an_output_folder_that_cannot_be_used_is_told_before_the_work(
    command: str, option: str, make: Any, says: str, run: Run, tmp_path: Path
) -> None:
    out = make(tmp_path)
    outcome = run(command, record(tmp_path / "bag.mcap"), option, out)
    assert outcome.code == 2
    assert str(out) in outcome.error
    assert re.search(says, outcome.error)
    assert outcome.out == ""


def test_an_output_file_that_cannot_be_replaced_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "out.mcap").mkdir(parents=True)
    outcome = run("replay", record(tmp_path / "bag.mcap"))
    assert outcome.code == 2
    assert "out.mcap cannot be written: Is a directory" in outcome.error


def test_a_full_disk_is_one_sentence(run: Run, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "out.mcap").symlink_to("/dev/full")
    outcome = run("replay", record(tmp_path / "bag.mcap"))
    assert outcome.code == 2
    assert "No space left on device" in outcome.error


@pytest.mark.parametrize("given", ["out.mcap", ""])
def test_replay_does_not_write_over_the_bag_it_reads(given: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    bag = record(tmp_path / "out" / "out.mcap")
    before = bag.read_bytes()
    outcome = run("replay", tmp_path / "out" / given)
    assert outcome.code == 2
    assert "is the bag that is read: name another folder with --out" in outcome.error
    assert bag.read_bytes() == before


BAD_SETTINGS = {
    "unknown key": (
        "sync: {tolerance: 0.1}",
        r"sync.tolerance \(value 0.1\) is no setting; known are sync.tolerance_s",
    ),
    "unknown group": ("synchronisation: {tolerance_s: 0.1}", "synchronisation .* is no setting; known are"),
    "wrong type": ("sync: {queue_size: many}", "sync.queue_size is 'many'.*allowed is a whole number"),
    "out of range": ("cloud: {voxel_m: -1.0}", "cloud.voxel_m is -1.0: allowed is a number from 0 to 10"),
    "unknown engine setting": ("engine: {name: 5}", "engine.name is 5: allowed is"),
    "not YAML": ("sync: [", "is not YAML"),
    "no mapping": ("just words", "settings are names with values"),
    "binary": ("\x00\x01", "is not YAML"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_a_bad_settings_file_is_one_sentence(case: str, command: str, run: Run, tmp_path: Path) -> None:
    text, says = BAD_SETTINGS[case]
    (tmp_path / "robot.yaml").write_text(text)
    outcome = run(command, record(tmp_path / "bag.mcap"), "--config", tmp_path / "robot.yaml")
    assert outcome.code == 2
    assert "robot.yaml" in outcome.error
    assert re.search(says, outcome.error)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_settings_file_that_is_a_folder_is_one_sentence(command: str, run: Run, tmp_path: Path) -> None:
    outcome = run(command, record(tmp_path / "bag.mcap"), "--config", tmp_path)
    assert outcome.code == 2
    assert f"Cannot read the settings file {tmp_path}" in outcome.error


def test_offsets_that_do_not_fit_the_lidars_are_told_by_every_command(run: Run, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag.mcap")
    option = ("--sync.lidar-offset-s", "0.1", "0.2")
    says = "sync.lidar_offset_s has 2 values for 1 LiDARs"
    assert says in run("check", bag, *option).errors_found[0]
    for command in ("replay", "evaluate"):
        outcome = run(command, bag, *option)
        assert outcome.code == 2
        assert says in outcome.error


@pytest.mark.parametrize("command", ["replay", "evaluate"])
def test_an_unknown_engine_names_the_known_ones(command: str, run: Run, tmp_path: Path) -> None:
    outcome = run(command, record(tmp_path / "bag.mcap"), "--engine", "magic")
    assert outcome.code == 2
    assert re.search("engine.name is 'magic': allowed is one of 'auto', 'onnx', 'torch', 'classical'", outcome.error)


def test_names_out_of_a_bag_cannot_command_the_terminal(run: Run, tmp_path: Path) -> None:
    bag = record(tmp_path / "bag.mcap", image=always(encoding="\x1b[2J\nmf-ros: all is well\r"))
    outcome = run("replay", bag)
    assert "?[2J mf-ros: all is well" in outcome.error
    assert main(["check", str(bag)]) == 1


def test_a_process_prints_one_line_and_ends_with_the_documented_code(tmp_path: Path) -> None:
    for args, code in (
        (("check", not_a_bag(tmp_path)), 2),
        (
            (
                "replay",
                record(tmp_path / "bag.mcap", info=always(k=np.zeros(9))),
                "--engine",
                "classical",
                "--out",
                tmp_path / "out",
            ),
            1,
        ),
    ):
        done = subprocess.run(command_line(*args), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code
        assert Outcome(code, done.stdout, done.stderr).error
