"""What a run is made of: the network it started from and the data set it learns from, told apart by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from mf_ros.errors import ConfigError
from mf_ros.evaluation.compare_document import file_sha256
from mf_training.checkpoints import CheckpointError, weight_files
from mf_training.config import TrainConfig

Sources = Dict[str, Dict[str, Any]]


def sources_of(
    config: TrainConfig,
    resumed: Optional[Mapping[str, Any]] = None,
    files: Callable[[Path], List[Path]] = weight_files,
    licence: str = "",
) -> Sources:
    """The parent and the data set of a run, for its checkpoints and for the model card.

    Args:
        config: of the run.
        resumed: the state of the checkpoint that the run goes on from.
        files: where the weights lie that ``init`` names.
        licence: of those.

    Returns:
        ``parent`` (name, sha256 of its weights, licence if it is known) where there is one, and ``dataset`` (name,
        fingerprint, rows, bags).

    Raises:
        CheckpointError: there are no weights under ``init``.
        ConfigError: the data set has changed since the checkpoint, and ``resume`` does not say that this is wanted.
    """
    found: Sources = {}
    before = (resumed or {}).get("sources")
    before = before if isinstance(before, Mapping) else {}
    if resumed is not None:
        # Where it was may hold something else by now, or nothing.
        found.update({"parent": dict(before["parent"])} if isinstance(before.get("parent"), Mapping) else {})
    elif config.init:
        found["parent"] = {**_parent(Path(config.init), files), **({"licence": licence} if licence else {})}
    if config.data.mix.dataset > 0:
        found["dataset"] = _dataset(config.data.dataset.path)
        known = before.get("dataset")
        same = not isinstance(known, Mapping) or known.get("fingerprint") == found["dataset"]["fingerprint"]
        if not same and config.resume is None:
            raise ConfigError(
                f"{config.data.dataset.path} holds other rows than when the training in {config.out} was begun: add "
                "resume=true to go on with these, or name another folder with out=."
            )
    return found


def _parent(init: Path, files: Callable[[Path], List[Path]]) -> Dict[str, Any]:
    found = files(init)
    try:
        hashes = [file_sha256(file) for file in found]
    except OSError as error:
        raise CheckpointError(f"{init} cannot be read: {error.strerror or error}.") from error
    return {"name": init.name, "sha256": " ".join(hashes)}


def _dataset(path: str) -> Dict[str, Any]:
    from mf_ros.dataset.dataset import Dataset

    dataset = Dataset(path)
    bags = set(dataset.columns(["bag_id"]).column(0).to_pylist())
    return {"name": dataset.path.name, "fingerprint": dataset.fingerprint, "rows": len(dataset), "bags": len(bags)}
