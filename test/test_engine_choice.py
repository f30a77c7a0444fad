"""engine.name auto: the network on the first library that runs it, else classical; never silently something else."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from model_folders import copied_model, frame, tiny_model

from mf_ros.core.config import Config, EngineConfig
from mf_ros.core.settings import config_from_mapping
from mf_ros.engine import ENGINES, bundle, make_engine
from mf_ros.engine.onnx_backend import CUDA, OnnxBackend
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import ConfigError, MissingDependencyError, ModelError
from mf_ros.packages import install_command


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny network in the place of those that come with the package."""
    folder = tmp_path / "weights"
    folder.mkdir()
    copied_model(folder).rename(folder / "nano")
    monkeypatch.setattr(bundle, "SHIPPED", folder)
    return folder / "nano"


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make modules look as if they were not installed."""
    for module in modules:
        for name in [name for name in sys.modules if name.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> object:
        if name.split(".")[0] in modules:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fake)


def auto(caplog: pytest.LogCaptureFixture, **settings: object) -> tuple[DepthEngine, list[str]]:
    """The engine that auto comes to on the CPU, and the warnings it gave."""
    with caplog.at_level(logging.WARNING):
        made = make_engine(EngineConfig(**{"device": "cpu", **settings}))
    return made, [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_auto_runs_the_shipped_network_with_onnxruntime(caplog: pytest.LogCaptureFixture) -> None:
    made, warnings = auto(caplog)
    assert made.name == "mf-nano" and "onnxruntime" in made.describe()["library"]
    assert warnings == []
    assert np.isfinite(made.estimate(*frame()).depth).all()


def test_without_onnxruntime_torch_runs_it(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "onnxruntime")
    made, warnings = auto(caplog)
    assert made.name == "mf-nano" and "torch" in made.describe()["library"]
    assert warnings == []


def test_when_the_graph_fails_its_self_test_torch_runs_it_with_a_warning(
    caplog: pytest.LogCaptureFixture, shipped: Path
) -> None:
    (shipped / "model.onnx").write_bytes(b"damaged")
    made, (warning,) = auto(caplog)
    assert "torch" in made.describe()["library"]
    assert "runs with torch" in warning and "onnxruntime cannot load" in warning


def test_without_any_library_classical_runs_with_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "onnxruntime", "torch")
    made, (warning,) = auto(caplog)
    assert made.name == "classical"
    assert install_command("onnx") in warning and install_command("torch") in warning and "classical" in warning


def test_when_every_library_fails_classical_runs_with_one_warning(
    caplog: pytest.LogCaptureFixture, shipped: Path
) -> None:
    (shipped / "model.onnx").write_bytes(b"damaged")
    (shipped / "model.safetensors").write_bytes(b"damaged")
    made, (warning,) = auto(caplog)
    assert made.name == "classical"
    assert "onnxruntime cannot load" in warning and "weights" in warning


def test_without_shipped_weights_classical_runs_with_one_warning(
    caplog: pytest.LogCaptureFixture, shipped: Path
) -> None:
    (shipped / "config.json").unlink()
    made, (warning,) = auto(caplog)
    assert made.name == "classical" and "engine.model is 'nano'" in warning and "none" in warning


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_library_that_is_installed_but_broken_is_named(
    kind: type[Exception], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def fake(name: str, package: str | None = None) -> object:
        if name == "onnxruntime":
            raise kind("numpy.core.multiarray failed to import")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", fake)
    made, (warning,) = auto(caplog)
    assert "torch" in made.describe()["library"] and "multiarray failed" in warning
    with pytest.raises(MissingDependencyError, match=r"onnxruntime.*multiarray failed.*mf-ros doctor"):
        make_engine(EngineConfig(name="onnx"))


def test_a_model_asked_for_by_its_path_is_never_replaced() -> None:
    with pytest.raises(ModelError, match="no such folder"):
        make_engine(EngineConfig(model="no/such/model"))


def test_a_library_asked_for_by_name_is_never_replaced(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shipped / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        make_engine(EngineConfig(name="onnx"))
    without(monkeypatch, "onnxruntime", "torch")
    for name in ("onnx", "torch"):
        with pytest.raises(MissingDependencyError, match=re.escape(install_command(name))):
            make_engine(EngineConfig(name=name))


def test_a_gpu_that_is_not_there_is_refused_when_asked_for() -> None:
    import onnxruntime
    import torch

    if CUDA in onnxruntime.get_available_providers() or torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for name, sentence in (("onnx", "only has .*CPUExecutionProvider"), ("torch", "torch sees no GPU")):
        with pytest.raises(ModelError, match=rf"engine\.device is cuda, but .*{sentence}"):
            make_engine(EngineConfig(name=name, device="cuda"))


class FallsBack:
    """onnxruntime as it is where CUDA is installed but cannot start: it offers CUDA, warns nobody and takes the CPU."""

    __version__ = "9.9"

    def __init__(self) -> None:
        import onnxruntime

        self.SessionOptions = onnxruntime.SessionOptions
        self._session = onnxruntime.InferenceSession

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def InferenceSession(self, path: str, options: object, providers: list[str]) -> object:
        return self._session(path, options, providers=[name for name in providers if name != CUDA])


def test_a_silent_fall_to_the_cpu_is_told_or_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = bundle.load_bundle(str(tiny_model()))
    monkeypatch.setattr("mf_ros.engine.onnx_backend.require_package", lambda module, extra: FallsBack())
    with caplog.at_level(logging.WARNING):
        backend = OnnxBackend(loaded, EngineConfig(device="auto"))
    assert backend.describe()["device"] == "CPUExecutionProvider"
    assert "could not start CUDAExecutionProvider" in caplog.text
    with pytest.raises(ModelError, match=r"could not start CUDAExecutionProvider.*mf-ros doctor"):
        OnnxBackend(loaded, EngineConfig(device="cuda"))


def test_a_gpu_without_room_for_the_network_is_no_crash(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that something else has filled."""
    import torch

    def full(self: torch.nn.Module, *args: object, **kwargs: object) -> torch.nn.Module:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 16.00 MiB.")

    for name in ("is_available", "is_bf16_supported"):
        monkeypatch.setattr(torch.cuda, name, lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ModelError, match=r"to cuda: CUDA out of memory.*engine\.device to cpu"):
        make_engine(EngineConfig(name="torch"))
    without(monkeypatch, "onnxruntime")
    made, (warning,) = auto(caplog, device="auto")
    assert made.name == "classical" and "CUDA out of memory" in warning


def test_names_of_engines_are_checked_in_settings_too() -> None:
    assert ENGINES[:4] == ("auto", "onnx", "torch", "classical") and Config().engine.name == "auto"
    with pytest.raises(ConfigError, match=r"engine\.name is 'magic': allowed is one of 'auto', 'onnx'"):
        config_from_mapping({"engine": {"name": "magic"}})
