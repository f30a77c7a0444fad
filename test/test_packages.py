"""The command that a message gives for a missing package works in the Python that runs, wherever mf_ros came from."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import List

import pytest

from mf_ros import packages
from mf_ros.errors import MissingDependencyError, require_package
from mf_ros.packages import install_command, pip_install

ROOT = Path(__file__).parents[1]
RECORDED = [
    "numpy>=1.21",
    'rosbags>=0.11.1; extra == "bags"',
    "mcap>=1.2 ; extra == 'bags'",
    'torch>=2.9; python_version >= "3.10" and extra == "train"',
]


def recorded(monkeypatch: pytest.MonkeyPatch, requirements: List[str]) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)


def test_the_command_is_of_the_python_that_runs_and_safe_in_a_shell() -> None:
    line = pip_install("numpy<2", "tyro")
    assert shlex.split(line) == [sys.executable, "-m", "pip", "install", "numpy<2", "tyro"]
    assert "'numpy<2'" in line


def test_an_extra_is_spelled_out_because_no_index_need_have_mf_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, RECORDED)
    assert install_command("bags") == pip_install("rosbags>=0.11.1", "mcap>=1.2")
    assert install_command("train") == pip_install("torch>=2.9")


def test_where_nothing_is_recorded_the_folder_of_the_source_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(name: str) -> List[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert install_command("bags") == pip_install(f"{ROOT}[bags]")
    monkeypatch.setattr(packages, "__file__", str(tmp_path / "site-packages" / "mf_ros" / "packages.py"))
    assert install_command("bags") == pip_install("mf_ros[bags]")


def test_a_missing_package_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, RECORDED)
    with pytest.raises(MissingDependencyError) as caught:
        require_package("no_such_package.part", extra="bags")
    assert str(caught.value) == (
        f"The Python package 'no_such_package' is not installed: run {install_command('bags')}."
    )
