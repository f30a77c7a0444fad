"""Which engine the settings come to on this machine."""

from __future__ import annotations

import importlib
import logging
from typing import Any, Callable, Dict, List, NamedTuple, Tuple, Type

from mf_ros.core.config import EngineConfig
from mf_ros.engine.backend import Backend
from mf_ros.engine.bundle import Bundle, load_bundle
from mf_ros.engine.protocol import DepthEngine
from mf_ros.engine.quality import quality_of
from mf_ros.errors import MfRosError, MissingDependencyError, ModelError, require_package

_log = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Code that is imported when it is used, because it needs packages that not everyone has.

    Attributes:
        packages: what it needs.
        extra: brings them.
        module: ours.
        attribute: what to take from it.
    """

    packages: Tuple[str, ...]
    extra: str
    module: str
    attribute: str


# Classes of libraries that run networks of mf-ros export, in the order in which auto tries them.
BACKENDS: Dict[str, _Source] = {
    "onnx": _Source(("onnxruntime",), "onnx", "mf_ros.engine.onnx_backend", "OnnxBackend"),
    "torch": _Source(("torch",), "torch", "mf_ros.engine.torch_backend", "TorchBackend"),
}

# Functions that make an engine of a published model, given the settings.
PUBLISHED: Dict[str, _Source] = {
    "transformers": _Source(
        ("torch", "transformers"), "monocular", "mf_ros.engine.torch_transformers", "transformers_engine"
    ),
    "marigold": _Source(
        ("torch", "transformers", "diffusers"), "diffusion", "mf_ros.engine.torch_marigold", "marigold_engine"
    ),
    "flux": _Source(("torch", "safetensors"), "flux", "mf_ros.engine.torch_flux", "flux_engine"),
}


class _BrokenPackageError(MissingDependencyError):
    """An optional package is installed but cannot be loaded, which auto does not pass over in silence."""


def network_engine(config: EngineConfig) -> DepthEngine:
    """The network on the library that ``config.name`` names.

    Raises:
        MissingDependencyError: the library is not installed.
        ModelError: the network cannot be loaded, or fails its self-test.
    """
    return _engine(load_bundle(config.model), config, config.name)


def published_engine(config: EngineConfig) -> DepthEngine:
    """The published depth model that ``config.model`` names, as an engine.

    Raises:
        MissingDependencyError: a package that it needs is not installed.
        ModelError: the model is not on this machine, cannot be loaded, or its licence was not accepted.
    """
    make: Callable[[EngineConfig], DepthEngine] = _loaded(PUBLISHED[config.name])
    return make(config)


def best_engine(config: EngineConfig) -> DepthEngine:
    """The network on the first library that runs it, else the classical engine with one warning that says why.

    Raises:
        ModelError: a model other than the default was asked for and is not there; depth of another origin would be a
            surprise.
    """
    reasons: List[str] = []
    try:
        bundle = load_bundle(config.model)
    except ModelError as error:
        if config.model != EngineConfig().model:
            raise
        return _classical(config, [str(error)])
    failed = False
    for name in BACKENDS:
        try:
            engine = _engine(bundle, config, name)
        except MfRosError as error:
            reasons.append(str(error))
            failed |= isinstance(error, _BrokenPackageError) or not isinstance(error, MissingDependencyError)
            continue
        if failed:
            _log.warning("The network runs with %s, because: %s", name, " ".join(reasons))
        return engine
    return _classical(config, reasons)


def _engine(bundle: Bundle, config: EngineConfig, name: str) -> DepthEngine:
    from mf_ros.engine.network import NetworkEngine
    from mf_ros.engine.selftest import self_test

    backend = _backend(bundle, config, name)
    tested = "not run"
    if config.self_test:
        tested = f"passed, depth differs by up to {self_test(bundle, backend):.1e} of itself"
    return NetworkEngine(bundle, backend, steps=config.steps or 1, tested=tested, quality=quality_of(config))


def _backend(bundle: Bundle, config: EngineConfig, name: str) -> Backend:
    made: Type[Backend] = _loaded(BACKENDS[name])
    return made(bundle, config)  # type: ignore[call-arg]


def _loaded(source: _Source) -> Any:
    package = source.packages[0]
    try:
        for package in source.packages:
            require_package(package, extra=source.extra)
        return getattr(importlib.import_module(source.module), source.attribute)
    except (ImportError, OSError) as error:
        raise _BrokenPackageError(
            f"The Python package '{package}' cannot be loaded ({' '.join(str(error).split())}): run mf-ros doctor."
        ) from error


def _classical(config: EngineConfig, reasons: List[str]) -> DepthEngine:
    from mf_ros.engine.classical import ClassicalEngine

    _log.warning(
        "No network can run, so depth comes from the classical engine, which does not look at the image "
        "(engine.name classical chooses it without this warning): %s",
        " ".join(reasons),
    )
    return ClassicalEngine(quality_of(config))
