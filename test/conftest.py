"""What several tests share: the folder of real frames, and the rule for tests that need a sourced ROS 2."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("rclpy") is None:
        skip = pytest.mark.skip(reason="ROS 2 is not sourced: this Python has no rclpy")
        for item in items:
            if "ros" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_frames() -> Path:
    """The folder of real frames: MF_ROS_REAL, or shared/real beside the repository."""
    named = os.environ.get("MF_ROS_REAL")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real frames: {folder} does not exist (set MF_ROS_REAL to their folder)")
    return folder
