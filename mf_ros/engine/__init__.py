"""Engines that turn an image and sparse depth into dense depth, and the pipeline that feeds them."""

from __future__ import annotations

from typing import get_args

from mf_ros.core import compiled
from mf_ros.core.config import EngineConfig, EngineName
from mf_ros.engine.protocol import DepthEngine
from mf_ros.engine.quality import quality_of
from mf_ros.errors import ConfigError

__all__ = ["ENGINES", "DepthEngine", "make_engine"]

ENGINES = get_args(EngineName)
"""Names that ``engine.name`` may have."""


def make_engine(config: EngineConfig) -> DepthEngine:
    """The engine that the settings name, ready to run.

    Raises:
        ConfigError: there is no engine of that name.
        MissingDependencyError: a package that the named engine needs is not installed.
        ModelError: the network that is asked for is missing or damaged, or fails its self-test.
    """
    # Loading kernels takes half a second, and compiling them the first time some more: not during the first frame.
    compiled.prepare()
    # Imported on demand: an engine's packages are needed only by those who choose it.
    quality = quality_of(config)
    if config.name == "classical" or (config.name == "auto" and not quality.network):
        from mf_ros.engine.classical import ClassicalEngine

        return ClassicalEngine(quality)
    if config.name not in ENGINES:
        raise ConfigError(f"engine.name is {config.name!r}: allowed is one of {', '.join(map(repr, ENGINES))}.")
    from mf_ros.engine.choose import PUBLISHED, best_engine, network_engine, published_engine

    if config.name in PUBLISHED:
        return published_engine(config)
    return best_engine(config) if config.name == "auto" else network_engine(config)
