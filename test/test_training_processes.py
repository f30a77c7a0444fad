"""What several processes of one training say, and what they leave to the first."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("cv2")

from torch.distributed import TCPStore

from mf_training import processes

WRONG = ["train", "nano", "steps=-1"]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """That of torchrun, as the processes that it started find it."""
    made = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(made.port))
    monkeypatch.setattr(processes, "_WAIT", datetime.timedelta(seconds=0.5))
    return made


def test_only_the_first_process_tells_an_error_that_all_have(
    run: Any, store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    first = run(*WRONG)
    monkeypatch.setenv("RANK", "1")
    other = run(*WRONG)
    assert first.code == other.code == 2
    assert first.error.startswith("nano: steps is -1") and other.err == ""


def test_another_process_tells_the_error_that_it_alone_has(
    run: Any, store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    outcome = run(*WRONG)
    assert outcome.code == 2 and outcome.error.startswith("nano: steps is -1")


def test_without_a_store_every_process_tells_its_error(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert run(*WRONG).error.startswith("nano: steps is -1")


def test_torchrun_shows_an_error_once() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, "-m", "mf_ros.cli.main", *WRONG]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode != 0 and done.stderr.count("mf-ros: error: nano: steps is -1") == 1, done.stderr[-3000:]
