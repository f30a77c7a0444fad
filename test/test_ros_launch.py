"""The launch files on a real ROS 2: what they refuse, what they start, and what they leave behind."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("launch_ros")

from launch.logging import launch_config
from rcl_interfaces.srv import GetParameters
from ros_peer import TIMEOUT_S, Peer, new_domain, wait_until
from test_launch_files import launch_arguments
from wall_scene import LIDAR_FRAME, camera_info, extrinsics, image, wall

from mf_ros.bags.writer import McapWriter
from mf_ros.ros.recorded import look_into
from mf_ros.simulate import simulate

pytestmark = pytest.mark.ros

LAUNCH = Path(__file__).resolve().parents[1] / "launch" / "depth.launch.py"
FRAMES = 12


class Launched:
    """``ros2 launch mf_ros`` in a session of its own, so that everything it started can be found."""

    def __init__(self, folder: Path, domain: int, file: str, *arguments: str) -> None:
        self._log = folder / "launch.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["ros2", "launch", "mf_ros", file, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(folder)},
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def says(self, text: str) -> bool:
        return wait_until(lambda: text in self.log)

    def running(self) -> list[int]:
        """Processes of the session."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    def node_pid(self) -> int:
        found = re.search(r"depth_node-\d+\]: process started with pid \[(\d+)\]", self.log)
        assert found, self.log
        return int(found[1])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(TIMEOUT_S)
        finally:
            for pid in self.running():
                os.kill(pid, signal.SIGKILL)


Start = Callable[..., Launched]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """The package where ROS looks for it."""
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        packages.get_package_prefix("mf_ros")
    except packages.PackageNotFoundError:
        pytest.skip("mf_ros is not installed where ROS looks: run bash scripts/test_ros.sh")


@pytest.fixture
def domain() -> int:
    return new_domain()


@pytest.fixture
def start(tmp_path: Path, domain: int) -> Iterator[Start]:
    """Starts a launch file with the classical engine, and ends it after the test."""
    started: list[Launched] = []

    def starter(*arguments: str, file: str = "depth.launch.py") -> Launched:
        started.append(Launched(tmp_path, domain, file, "engine:=classical", *arguments))
        return started[-1]

    yield starter
    for each in started:
        each.stop()


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    made = Peer(domain)
    yield made
    made.close()


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short simulated drive."""
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    simulate(path, seconds=FRAMES / 10, rings=16, columns=300, width=128, height=72, ground_truth=True)
    return path


def module() -> Any:
    """depth.launch.py as a module."""
    spec = importlib.util.spec_from_file_location("depth_launch", LAUNCH)
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def given(**arguments: str) -> dict[str, str]:
    """Values of all arguments."""
    defaults = {name: default for name, default, _, _ in module().ARGUMENTS}
    return {**defaults, **arguments}


def shown_arguments(file: str) -> str:
    command = ["ros2", "launch", "mf_ros", file, "--show-args"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_show_args_lists_every_argument_with_a_description() -> None:
    shown = shown_arguments("depth.launch.py")
    assert re.findall(r"^    '(\w+)':", shown, re.MULTILINE) == launch_arguments()
    assert "(no description given)" not in shown


def test_the_launch_file_for_several_cameras_takes_the_same_arguments() -> None:
    shown = shown_arguments("multi_camera.launch.py")
    assert set(re.findall(r"^    '(\w+)':", shown, re.MULTILINE)) == set(launch_arguments())
    assert "(default: 'front,rear')" in shown and "(default: '/{camera}/image_raw')" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bag:=/nowhere.mcap"], "bag: there is no recording /nowhere.mcap"),
        (["params_file:=/nowhere.yaml"], "params_file: there is no file /nowhere.yaml"),
        (["bag:={folder}"], "has no metadata.yaml"),
        (["bag:={folder}/old.bag"], "is a ROS 1 bag"),
        (["bag:={folder}/empty.mcap", "bag_rate:=0"], "bag_rate: 0 is not a speed"),
        (["rviz:=perhaps"], "perhaps"),
        (["cameras:=front,rear", "image_topic:=/cam/image"], "put {camera} where they differ"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    start: Start, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    for name in ("old.bag", "empty.mcap"):
        (tmp_path / name).touch()
    launched = start(*(each.replace("{folder}", str(tmp_path)) for each in arguments))
    assert launched.process.wait(TIMEOUT_S) == 1
    assert sentence in launched.log
    assert "process started" not in launched.log


def test_arguments_reach_the_node(start: Start, peer: Peer) -> None:
    launched = start("namespace:=robot", "image_topic:=/cam/image_raw", "points_topic:=/top,left")
    assert launched.says("Active: waiting for /cam/image_raw, /cam/camera_info, /top, /robot/left."), launched.log
    assert peer.state("/robot/mf_ros") == "active"


def test_choices_of_engines_reach_the_node(start: Start, peer: Peer) -> None:
    # Without the name of its model the second engine is not made, and depth goes on.
    launched = start("quality:=fast", "refine:=transformers", "device:=cpu")
    assert launched.says("Active: waiting") and launched.says("engine.refine_model names no model"), launched.log
    names = [f"engine.{name}" for name in ("name", "quality", "refine", "device")]
    answer = peer.call(GetParameters, "/mf_ros/get_parameters", GetParameters.Request(names=names))
    assert [value.string_value for value in answer.values] == ["classical", "fast", "transformers", "cpu"]


def test_several_cameras_get_their_own_topics(start: Start) -> None:
    launched = start("cameras:=a,b", "image_transport:=compressed", file="multi_camera.launch.py")
    waited = "/a/image_raw/compressed, /a/camera_info, /b/image_raw/compressed, /b/camera_info, /points"
    assert launched.says(f"Active: waiting for {waited}."), launched.log


def test_without_autostart_the_node_waits_to_be_configured(start: Start, peer: Peer) -> None:
    start("autostart:=false")
    assert peer.state() == "unconfigured"


def test_everything_ends_when_the_node_ends(start: Start) -> None:
    launched = start()
    assert launched.says("Active: waiting"), launched.log
    os.kill(launched.node_pid(), signal.SIGKILL)
    launched.process.wait(TIMEOUT_S)
    assert wait_until(lambda: not launched.running(), 5.0)


def test_ctrl_c_leaves_nothing_behind_and_no_complaint(start: Start) -> None:
    launched = start()
    assert launched.says("Active: waiting"), launched.log
    launched.process.send_signal(signal.SIGINT)
    launched.process.wait(TIMEOUT_S)
    assert wait_until(lambda: not launched.running(), 5.0)
    assert "Traceback" not in launched.log and "Caught exception" not in launched.log


def test_a_bag_is_played_for_the_node_from_its_first_image_on(start: Start, peer: Peer, drive: Path) -> None:
    pytest.importorskip("rosbag2_py")
    peer.listen("depth/image", "depth/points")
    launched = start(f"bag:={drive}", "bag_rate:=0.5")
    # Without another sweep the last image cannot know that it has the nearest one.
    assert peer.waits_for("/depth/image", FRAMES - 1), launched.log
    first, step = 1_700_000_000_035_000_000, 100_000_000
    wanted = [first + number * step for number in range(FRAMES)]
    assert peer.stamps("/depth/image") == wanted[: len(peer.stamps("/depth/image"))]
    assert set(peer.stamps("/depth/points")) <= set(wanted)
    assert {message.header.frame_id for message in peer.heard["/depth/points"]} == {"camera_optical_frame"}
    assert launched.says("process has finished cleanly")
    assert peer.state() == "active"
    names = [f"qos_overrides.{topic}.subscription.reliability" for topic in ("/camera/image_raw", "/points")]
    answer = peer.call(GetParameters, "/mf_ros/get_parameters", GetParameters.Request(names=names))
    assert [value.string_value for value in answer.values] == ["reliable", "reliable"]


def test_an_interpreter_that_cannot_run_the_node_is_named(start: Start, tmp_path: Path) -> None:
    bag = tmp_path / "any.mcap"
    bag.touch()
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    launched = start(f"bag:={bag}", f"python:={bare}")
    assert launched.process.wait(TIMEOUT_S) == 1
    assert re.search(rf"bag: {bare} cannot look into it: .*No module named", launched.log), launched.log


def test_what_a_simulated_drive_holds_is_found(drive: Path) -> None:
    pytest.importorskip("rosbag2_py")
    found = look_into(drive)
    assert (found.image, found.image_transport, found.camera_info) == (
        "/camera/image_raw",
        "raw",
        "/camera/camera_info",
    )
    assert (found.points, found.fixed_frame) == ("/points", "base_link")


def test_a_recording_without_base_link_is_shown_in_the_frame_of_the_lidar(tmp_path: Path) -> None:
    pytest.importorskip("rosbag2_py")
    path = tmp_path / "bare.mcap"
    with McapWriter(path) as writer:
        writer.write_tf([extrinsics()], static=True)
        writer.write_raw("/cam/image_raw", image(), 1)
        writer.write_raw("/cam/camera_info", camera_info(), 1)
        writer.write_points("/lidar/points", wall())
    assert look_into(path).fixed_frame == LIDAR_FRAME


def test_remappings_follow_the_image() -> None:
    found = module().remappings(given(image_topic="/cam/image_raw/compressed"))
    assert found == [
        ("image", "/cam/image_raw"),
        ("camera_info", "/cam/camera_info"),
        ("image/compressed", "/cam/image_raw/compressed"),
    ]
    assert module().remappings(given()) == []


def test_each_camera_has_its_own_remappings() -> None:
    named = given(cameras="a, b", image_topic="/{camera}/rgb", camera_info_topic="/calibration/{camera}")
    found = dict(module().remappings(named))
    assert found["a/image"] == "/a/rgb" and found["b/image/compressed"] == "/b/rgb/compressed"
    assert found["b/camera_info"] == "/calibration/b"


def test_the_topics_of_a_recording_are_played_and_received_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(launch_config), "log_dir", str(tmp_path))
    named = given(namespace="robot", bag="x.mcap", image_topic="/cam/image_raw", points_topic="top")
    wanted = {"/cam/image_raw", "/cam/image_raw/compressed", "/cam/camera_info", "/robot/top"}
    module().playback(Path("x.mcap"), named)
    profiles = yaml.safe_load((tmp_path / "playback_qos.yaml").read_text())
    assert set(profiles) == set(module().played(named)) == wanted
    assert {profile["reliability"] for profile in profiles.values()} == {"reliable"}


def test_rviz_opens_with_the_names_of_this_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(launch_config), "log_dir", str(tmp_path))
    named = given(namespace="robot", image_topic="/cam/image_raw", points_topic="top", fixed_frame="velodyne")
    module().rviz({**named, "image_transport": "compressed"})
    manager = yaml.safe_load((tmp_path / "depth.rviz").read_text())["Visualization Manager"]
    shown = {each["Name"]: each["Topic"]["Value"] for each in manager["Displays"] if "Topic" in each}
    assert shown == {
        "LiDAR": "/robot/top",
        "Depth cloud": "/robot/depth/points",
        "Image": "/cam/image_raw/compressed",
        "Depth": "/robot/depth/image",
        "Confidence": "/robot/depth/confidence",
    }
    assert manager["Global Options"]["Fixed Frame"] == "velodyne"


def test_rviz_shows_the_first_of_several_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(launch_config), "log_dir", str(tmp_path))
    module().rviz(given(cameras="front,rear", image_topic="/{camera}/image_raw"))
    manager = yaml.safe_load((tmp_path / "depth.rviz").read_text())["Visualization Manager"]
    shown = {each["Name"]: each["Topic"]["Value"] for each in manager["Displays"] if "Topic" in each}
    assert (shown["Image"], shown["Depth"], shown["LiDAR"]) == ("/front/image_raw", "/front/depth/image", "/points")
