"""What several tests share: real frames, the command line in this process, and the rule for tests that need ROS 2."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import pytest

if TYPE_CHECKING:
    from broken_bags import Run
    from ros_peer import NodeProcess, Peer

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("rclpy") is None:
        skip = pytest.mark.skip(reason="ROS 2 is not sourced: this Python has no rclpy")
        for item in items:
            if "ros" in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def peer(started: tuple[NodeProcess, Peer]) -> Peer:
    """The peer that a module has ``started`` beside its node, which has heard nothing yet."""
    for heard in started[1].heard.values():
        heard.clear()
    return started[1]


@pytest.fixture
def node(started: tuple[NodeProcess, Peer]) -> NodeProcess:
    """The node that a module has ``started``."""
    return started[0]


@pytest.fixture(scope="session")
def real_frames() -> Path:
    """The folder of real frames: MF_ROS_REAL, or shared/real beside the repository."""
    named = os.environ.get("MF_ROS_REAL")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real frames: {folder} does not exist (set MF_ROS_REAL to their folder)")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """Runs a command of mf-ros; results go to ``tmp_path/out``, and ``check`` answers in JSON.

    Warnings of NumPy are failures, because a user would see them. Pytest gets its logging back at the end.
    """
    # Only here: tests that run without the packages of bags use this file too.
    from broken_bags import Outcome

    from mf_ros.cli.main import main

    def runner(command: str, *args: Any) -> Outcome:
        given = [command, *map(str, args)]
        # The engine that is the same on every machine, whatever networks and libraries are installed.
        defaults = (("replay", "--out", str(tmp_path / "out")), ("evaluate", "--lines", "4"))
        defaults += tuple((name, "--engine", "classical") for name in ("replay", "evaluate"))
        for name, option, value in defaults:
            if command == name and option not in given:
                given += [option, value]
        capsys.readouterr()
        code = main([*given, *(["--json"] if command == "check" else [])])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield runner
    root.handlers[:] = handlers
    root.setLevel(level)
