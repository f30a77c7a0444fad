"""Replay goes on after bad messages, and what it wrote stays readable however the run ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_bags import IMAGE, INFO, POINTS, TF, Run, all_nan, command_line, cut, no_length, only, record
from wall_scene import WALL_M, camera_info, cloud, extrinsics, image, stamp, tf

from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.errors import BagError


@dataclass(frozen=True)
class OneBad:
    """One bad message among good ones, and how replay counts it."""

    dropped: dict[str, int]
    warned: dict[str, int]
    changes: dict[str, Any]


ONE_BAD = {
    "torn image": OneBad({"bad_image": 1}, {}, {"torn": [(IMAGE, 2)]}),
    "torn cloud": OneBad({"no_lidar": 1}, {"bad_points": 1}, {"torn": [(POINTS, 2)]}),
    "torn camera_info": OneBad({}, {"bad_camera_info": 1}, {"torn": [(INFO, 2)]}),
    "torn transform": OneBad({}, {"bad_transform": 1}, {"torn": [(TF, 2)]}),
    "first transform torn": OneBad({}, {"bad_transform": 1}, {"torn": [(TF, 0)]}),
    "first camera_info torn": OneBad({}, {"bad_camera_info": 1}, {"torn": [(INFO, 0)]}),
    "image of unknown encoding": OneBad({"bad_image": 1}, {}, {"image": only(2, encoding="smell8")}),
    "image too large": OneBad({"bad_image": 1}, {}, {"image": only(2, width=2**31, height=2**31)}),
    "cloud of a wrong length": OneBad({"bad_points": 1}, {}, {"points": only(2, width=2**31)}),
    "sweep of NaN": OneBad(
        {"no_returns": 1}, {}, {"points": lambda message, at: all_nan(message, at) if at == 2 else message}
    ),
    "camera_info of zeros": OneBad({"uncalibrated": 1}, {}, {"info": only(2, k=np.zeros(9))}),
    "transform without rotation": OneBad(
        {}, {"bad_transform": 1}, {"tf": lambda message, at: no_length(message, at) if at == 2 else message}
    ),
}


@pytest.mark.parametrize("case", ONE_BAD)
def test_one_bad_message_is_counted_and_the_rest_becomes_depth(case: str, run: Run, tmp_path: Path) -> None:
    bad = ONE_BAD[case]
    outcome = run("replay", record(tmp_path / "bag.mcap", 6, **bad.changes))
    assert outcome.code == 0 and outcome.err == ""
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["dropped"], summary["warnings"]) == (bad.dropped, bad.warned)
    assert (summary["frames_in"], summary["frames_out"]) == (6, 6 - sum(bad.dropped.values()))
    assert depth_images(tmp_path / "out" / "out.mcap") == summary["frames_out"]
    for reason in (*bad.dropped, *bad.warned):
        assert f" 1: {reason}: " in outcome.out


def depth_images(path: Path) -> int:
    """Depth images in a file; each shows the wall."""
    count = 0
    with open_recording(path) as recording:
        if recording.topic("/depth/image") is None:
            return 0
        for message in recording.messages(["/depth/image"]):
            depth = message.decode().data.view(np.float32)
            # The wall fills the image, but completion need not reach its corners.
            assert np.nanmedian(depth) == pytest.approx(WALL_M, rel=1e-3)
            count += 1
    return count


def test_a_cut_recording_is_used_as_far_as_it_goes_and_all_commands_say_so(run: Run, tmp_path: Path) -> None:
    with McapWriter(tmp_path / "bag.mcap") as writer:
        writer.write_raw(TF, tf(extrinsics()), stamp(0))
        for number in range(150):
            for topic, message in ((POINTS, cloud(number)), (INFO, camera_info(number)), (IMAGE, image(number))):
                writer.write_raw(topic, message, stamp(number))
    bag = cut(tmp_path / "bag.mcap", 0.6)
    says = r"bag.mcap is cut off or corrupt after byte \d+ of \d+; \d+ messages over \d+.\d s are readable"
    checked, replayed, evaluated = run("check", bag), run("replay", bag), run("evaluate", bag, "--max-frames", "1")
    assert (checked.code, replayed.code, evaluated.code) == (1, 0, 0)
    assert re.search(says, checked.errors_found[0])
    assert re.search(f"damaged input: {says}", replayed.out)
    assert re.search(f"WARNING: {says}", evaluated.err)
    assert 0 < depth_images(tmp_path / "out" / "out.mcap") < 150


@pytest.fixture(scope="module")
def long_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag that takes longer to replay than anyone here waits; its images do not compress."""
    noise = np.random.default_rng(0).integers(0, 256, 64 * 48 * 3, dtype=np.uint8)
    path = tmp_path_factory.mktemp("long") / "long.mcap"
    return record(path, 3000, image=lambda message, number: replace(message, data=np.roll(noise, number)))


def started(bag: Path, out: Path) -> subprocess.Popen[str]:
    """A replay of which some frames are in the file already; they can be read while it runs."""
    process = subprocess.Popen(
        command_line("replay", bag, "--out", out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if depth_images(out / "out.mcap") >= 10:
                return process
        except BagError:
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"no frame was written: {process.communicate()}")


def test_what_was_written_stays_readable_when_the_run_is_killed(long_bag: Path, tmp_path: Path) -> None:
    process = started(long_bag, tmp_path / "out")
    process.kill()
    process.communicate(timeout=30)
    path = tmp_path / "out" / "out.mcap"
    assert 10 <= depth_images(path) < 3000
    with open_recording(path) as recording:
        assert recording.damage is not None
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_whole_files(number: signal.Signals, long_bag: Path, tmp_path: Path) -> None:
    process = started(long_bag, tmp_path / "out")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["interrupted"] is True
    path = tmp_path / "out" / "out.mcap"
    assert depth_images(path) == summary["frames_out"] >= 10
    with open_recording(path) as recording:
        assert recording.damage is None
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
