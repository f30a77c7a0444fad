"""A model folder with a very small network of random weights, exported once for all tests that need one."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.types import ByteArray, SparseDepth

# Importing this skips the tests of a module where a package is missing.
for _module in ("torch", "safetensors", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(_module)


@functools.cache
def tiny_model() -> Path:
    """The folder; tests that change something copy it first, see ``copied_model``."""
    import torch

    from mf_ros.model import ModalityForcing, ModelConfig
    from mf_training.export import export_network

    torch.manual_seed(0)
    network = ModalityForcing(ModelConfig(width=16, layers=1, heads=1, stem=(8, 8), blocks=(1, 1)))
    with torch.no_grad():
        for parameter in network.parameters():
            # Layers that begin at zero would leave the prior as it is, and hide what lies behind them.
            parameter += 0.05 * torch.randn_like(parameter)
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rows = [{"input": "8 lines", "mae": 0.51234}]
    return export_network(network, folder / "tiny", metrics={"Held-out frames": rows}).folder


def copied_model(tmp_path: Path) -> Path:
    """A copy of the folder that may be damaged."""
    return Path(shutil.copytree(tiny_model(), tmp_path / "tiny"))


def edit_config(folder: Path, **changes: Any) -> None:
    """Replace groups of config.json; groups that are mappings are merged."""
    path = folder / "config.json"
    document = json.loads(path.read_text())
    for name, value in changes.items():
        document[name] = {**document[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(document))


def frame(height: int = 64, width: int = 96, lines: int = 4) -> tuple[ByteArray, SparseDepth, CameraModel]:
    """An image of random blocks, a slanted wall every ``lines``-th row of which is measured, and the camera."""
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1)[:height, :width])
    depth = np.zeros((height, width), np.float32)
    rows, cols = np.mgrid[0:height:lines, 0:width:3]
    depth[rows, cols] = 1.0 / (0.05 + 0.001 * rows + 0.0004 * cols)
    camera = make_camera(width, height, [80.0, 0, width / 2, 0, 80.0, height / 2, 0, 0, 1], [], "plumb_bob")
    return image, sparse_of(depth), camera


def sparse_of(depth: np.ndarray) -> SparseDepth:
    return SparseDepth(depth.astype(np.float32), int(np.count_nonzero(depth)))
