"""The model of a run, made when it is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Mapping

from mf_ros.core.documents import bounded_text
from mf_ros.engine.bundle import CONFIG
from mf_ros.errors import ModelError
from mf_training.export import export_run, find_checkpoint
from mf_training.recipe import DEFAULT_KIND

_log = logging.getLogger(__name__)

MODEL = "model"
"""Folder of the model within that of its run."""
_LARGEST_CONFIG = 1_000_000


def model_of_run(run: Path) -> Path:
    """Folder of a run's model; it is exported first where it is missing or of another checkpoint.

    Args:
        run: folder of the run.

    Raises:
        CheckpointError: the run has no complete checkpoint.
        ModelError: the export failed, or the network is of a family that engines of graphs do not run.
    """
    checkpoint, state = find_checkpoint(run)
    kind = state["config"]["model"].get("kind", DEFAULT_KIND)
    if kind != DEFAULT_KIND:
        raise ModelError(
            f"{run} trained a network of the kind {kind}, which cannot be used here by its run: write it with mf-ros "
            f"export {run} --out MODEL, and evaluate it with mf-ros evaluate BAG --engine flux --model MODEL."
        )
    folder = run / MODEL
    if not _is_of(folder, checkpoint, state):
        _log.info("exporting %s into %s", checkpoint, folder)
        export_run(run, folder)
    return folder


def _is_of(folder: Path, checkpoint: Path, state: Mapping[str, Any]) -> bool:
    """Whether a model was exported from a checkpoint: after it was written, and of the same step."""
    path = folder / CONFIG
    try:
        description = json.loads(bounded_text(path, _LARGEST_CONFIG, "description of a model", ModelError))
        newer = path.stat().st_mtime_ns >= (checkpoint / "state.json").stat().st_mtime_ns
    except (OSError, ValueError, RecursionError, ModelError):
        return False
    training = description.get("training") if isinstance(description, dict) else None
    return newer and isinstance(training, dict) and training.get("steps") == state.get("step")
