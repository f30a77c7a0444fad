"""The two networks of a comparison: found by name or folder, or exported from their run, and told apart."""

from __future__ import annotations

import dataclasses
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from mf_ros.core.config import EngineConfig
from mf_ros.core.documents import bounded_text
from mf_ros.engine import make_engine
from mf_ros.engine.bundle import CONFIG, GRAPH, WEIGHTS, Bundle, load_bundle
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import ConfigError, ModelError, require_package
from mf_ros.evaluation.compare_document import Network, file_sha256

_LARGEST_CONFIG = 1_000_000
_CHECKPOINTS = ("step_*", "best_*")


@dataclass(frozen=True)
class Place:
    """Where a network lies.

    Attributes:
        given: as the user named it.
        bundle: its description.
        run: folder of the run that it was exported from, where a run was named.
    """

    given: str
    bundle: Bundle
    run: Optional[Path] = None


def network_at(given: str) -> Place:
    """The network that a name or a folder means; that of a run is exported into it first, where it is not yet.

    Raises:
        ModelError: there is none.
        CheckpointError: the run has no complete checkpoint.
        MissingDependencyError: a run is named and the packages that export it are not installed.
    """
    folder = Path(given).expanduser()
    if not _is_run(folder):
        return Place(given, load_bundle(given))
    require_package("torch", extra="train")
    training: Any = importlib.import_module("mf_training.run_model")
    return Place(given, load_bundle(str(training.model_of_run(folder))), folder)


def _is_run(folder: Path) -> bool:
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return False
    return any(next(folder.glob(pattern), None) is not None for pattern in _CHECKPOINTS)


def network_of(place: Place) -> Network:
    """What a report says of a network."""
    name = Path(place.given).name or place.given
    return Network(f"mf-{place.bundle.name}", name, file_sha256(_weights(place.bundle)), _step(place.bundle))


def check_different(tuned: Place, base: Place) -> None:
    """Refuse to compare a network with itself.

    Raises:
        ConfigError: both have the same weights and are prepared and corrected the same way.
    """
    described = [
        (file_sha256(_weights(each.bundle)), each.bundle.processing, each.bundle.calibration) for each in (tuned, base)
    ]
    if described[0] == described[1]:
        raise ConfigError(f"{base.given} and {tuned.given} are the same network: name the one before tuning first.")


def network_engine(config: EngineConfig, place: Place) -> DepthEngine:
    """A network, ready to run.

    Raises:
        ConfigError: none can run here, or another engine is asked for.
    """
    engine = make_engine(dataclasses.replace(config, model=str(place.bundle.folder)))
    if engine.name == ClassicalEngine().name:
        raise ConfigError(
            f"{place.given} cannot be compared, because no network runs here (engine.name is '{config.name}'): "
            "see mf-ros doctor."
        )
    return engine


def _weights(bundle: Bundle) -> Path:
    """The file that tells networks apart."""
    try:
        return bundle.file(WEIGHTS)
    except ModelError:
        return bundle.file(GRAPH)


def _step(bundle: Bundle) -> Optional[int]:
    text = bounded_text(bundle.folder / CONFIG, _LARGEST_CONFIG, "description of a model", ModelError)
    training = json.loads(text).get("training")
    step = training.get("steps") if isinstance(training, dict) else None
    return step if isinstance(step, int) else None
