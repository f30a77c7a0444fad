"""Engines that turn an image and sparse depth into dense depth, and the pipeline that feeds them."""

from __future__ import annotations

from mf_ros.core.config import EngineConfig
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import ConfigError

__all__ = ["ENGINES", "DepthEngine", "make_engine"]

ENGINES = ("classical",)
"""Names that ``engine.name`` may have."""


def make_engine(config: EngineConfig) -> DepthEngine:
    """The engine that the settings name, ready to run.

    Raises:
        ConfigError: there is no engine of that name.
    """
    if config.name == "classical":
        # Imported on demand: an engine's packages are needed only by those who choose it.
        from mf_ros.engine.classical import ClassicalEngine

        return ClassicalEngine()
    raise ConfigError(f"engine.name is {config.name!r}: allowed is one of {', '.join(map(repr, ENGINES))}.")
