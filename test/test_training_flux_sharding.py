"""A FLUX.2 network divided over two processes (FSDP2) is post-trained as a whole one is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("peft")
pytest.importorskip("diffusers", minversion="0.37")
pytest.importorskip("cv2")

import flux_training_toys
from flux_training_toys import LORA, NOISELESS, short_prompt, start, trained  # noqa: F401
from training_toys import assert_close, assert_same, fresh_accelerator  # noqa: F401

from mf_training.export import export_run

# Depth in one step from returns and image, from the same noise for every sample.
PLAIN: Dict[str, Any] = {
    "same_noise": True,
    "losses": NOISELESS,
    "lora": LORA,
    "flux": {"unit_jitter": 0, "one_step": 1},
    "data": {"shapes": [[16, 32]], "workers": 0, "scenes": {"heldout": 3, "number": 8}},
    "steps": 4,
    "save_every": 2,
    "eval_every": 4,
    "optimiser": {"name": "adamw", "lr": 0.001},
}
WHOLE = {**PLAIN, "lora": {"rank": 0}, "steps": 2, "eval_every": 2}
# Everything that a large network needs at once.
ROUGH: Dict[str, Any] = {
    **PLAIN,
    "same_noise": False,
    "lora": {**LORA, "half": True},
    "precision": "bf16",
    "recompute": True,
    "accumulate": 2,
    "losses": {"complete": 0.3, "partial": 0.2, "lidar": 0.1, "image": 0.2, "to_image": 0.1, "joint": 0.1},
}


def in_two_processes(runs: list[Dict[str, Any]]) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*torchrun, flux_training_toys.__file__, json.dumps(runs)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs; all that are divided are trained by one pair of processes, as starting it takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    init = start(folder / "base")
    own = {"init": str(init), "sharding": "fsdp2", "batch": 2}
    plan: Dict[str, Dict[str, Any]] = {
        "divided": {**own, **PLAIN},
        "all weights": {**own, **WHOLE},
        "rough": {**own, **ROUGH},
        "rough again": {**own, **ROUGH, "after": str(folder / "rough" / "step_00000002")},
    }
    in_two_processes([{**run, "out": str(folder / name)} for name, run in plan.items()])
    return folder


def test_a_divided_network_is_trained_like_a_whole_one_with_twice_the_batch(runs: Path, tmp_path: Path) -> None:
    trained(tmp_path / "alone", runs / "base", **{**PLAIN, "batch": 4})
    # AdamW makes whole steps of gradients that are nothing but rounding.
    assert_close(tmp_path / "alone", runs / "divided", tolerance=1e-4)


def test_all_weights_of_a_divided_network_are_trained(runs: Path, tmp_path: Path) -> None:
    trained(
        tmp_path / "alone", runs / "base", **{**PLAIN, "lora": {"rank": 0}, "batch": 4, "steps": 2, "eval_every": 2}
    )
    assert_close(tmp_path / "alone", runs / "all weights", tolerance=1e-4)


def test_a_divided_run_in_half_precision_goes_on_bit_for_bit(runs: Path) -> None:
    assert_same(runs / "rough", runs / "rough again")


def test_a_divided_run_is_exported_by_one_process(runs: Path, tmp_path: Path) -> None:
    export_run(runs / "rough", tmp_path / "tuned")
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
