"""Compiled kernels are an option: NumPy takes their place without a word, or with one where they are broken."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mf_ros.cli.doctor import render
from mf_ros.cli.environment import Facts, probe_compiled
from mf_ros.core import compiled
from mf_ros.core.completion import RowPattern, complete_inverse_depth
from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.packages import install_command

SPARSE = np.zeros((8, 9), np.float32)
SPARSE[3, 4], SPARSE[6, 1] = 4.0, 5.0
LOADED_BY = "import sys; from mf_ros.core import compiled; compiled.prepare(); print('numba' in sys.modules)"


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_loaded", {})
    monkeypatch.delenv(compiled.SWITCH, raising=False)


def hide_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)


def test_without_numba_numpy_does_the_work_and_nobody_is_warned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hide_numba(monkeypatch)
    filled = complete_inverse_depth(SPARSE, RowPattern(0, 0))
    assert filled.shape == SPARSE.shape and np.isfinite(filled).all()
    assert [compiled.kernels(name) for name in compiled.NAMES] == [None] * len(compiled.NAMES)
    assert compiled.state() == f"not in use: numba is not installed ({install_command('speed')})"
    assert not caplog.records


def test_the_switch_leaves_kernels_out_and_numba_unloaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY],
        env={**os.environ, compiled.SWITCH: "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_the_switch_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "0")
    assert not compiled.available()
    assert compiled.state() == "not in use: MF_ROS_COMPILED is 0"


@pytest.mark.parametrize("error", [ImportError("Numba needs NumPy 2.4 or less"), OSError("no LLVM"), KeyError("cpu")])
def test_kernels_that_cannot_be_loaded_are_warned_of_once_and_numpy_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(compiled, "available", lambda: True)
    monkeypatch.setattr(compiled.importlib, "import_module", fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.isfinite(complete_inverse_depth(SPARSE, RowPattern(0, 0))).all()
    (record,) = caplog.records
    assert "completion cannot be loaded, NumPy takes their place" in record.getMessage()
    assert type(error).__name__ in record.getMessage()
    assert "completion" in compiled.state()


def test_kernels_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("numba")
    from mf_ros.core import kernels_completion

    complete = kernels_completion.complete
    monkeypatch.setattr(kernels_completion, "complete", lambda *given: complete(*given) * np.float32(1.001))
    assert compiled.kernels("completion") is None
    assert "do not compute what NumPy computes" in caplog.text


def test_making_an_engine_loads_all_kernels_so_that_no_frame_waits_for_them() -> None:
    make_engine(EngineConfig(name="classical"))
    assert set(compiled._loaded) == set(compiled.NAMES)


def test_doctor_says_in_one_line_whether_kernels_are_in_use() -> None:
    assert "kernels      compiled ones are in use" in render(Facts(compiled="in use"), [])
    assert "kernels" not in render(Facts(), [])
    assert probe_compiled("/nowhere/python3").startswith("not in use: ")


def test_kernels_are_in_use_where_numba_is_installed() -> None:
    pytest.importorskip("numba")
    assert probe_compiled(sys.executable) == "in use"


def test_where_no_folder_can_be_written_to_kernels_are_compiled_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    module = tmp_path / "toy.py"
    module.write_text(
        "from mf_ros.core.compiled import jit\n\n\n"
        "@jit('float32(float32)')\ndef twice(x):\n    return x + x\n\n\n"
        "print(float(twice(3)))\n"
    )
    # A file in place of the folder: this holds for root too, whom no permission stops.
    (tmp_path / "file").touch(stat.S_IRUSR)
    blocked = str(tmp_path / "file")
    (tmp_path / "__pycache__").touch()
    done = subprocess.run(
        [sys.executable, "toy.py"],
        cwd=tmp_path,
        env={**os.environ, "HOME": blocked, "XDG_CACHE_HOME": blocked, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == ("6.0", 0), done.stderr
