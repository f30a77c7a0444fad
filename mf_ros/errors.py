"""The errors mf_ros raises on purpose; each message says what is wrong, where, and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType

from mf_ros.packages import install_command


class MfRosError(Exception):
    """Base of every error that mf_ros raises on purpose."""


class CalibrationError(MfRosError):
    """The camera's intrinsics or distortion cannot be used."""


class MessageError(MfRosError):
    """One message cannot be decoded; the stream may go on without it."""


class TransformError(MfRosError):
    """A transform is missing or does not cover the wanted time."""


class BagError(MfRosError):
    """A recording cannot be opened, or does not hold what is asked of it."""


class TopicError(BagError):
    """No topic, or several, fit a role; the message lists the candidates."""


class ConfigError(MfRosError):
    """A setting has a value that cannot work."""


class ModelError(MfRosError):
    """The files of a model cannot be used, or the network does not compute what it should."""


class MissingDependencyError(MfRosError):
    """An optional package is not installed."""


def require_package(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say in one sentence what installs it.

    Args:
        module: name to import, for example ``rosbags.highlevel``.
        extra: the pip extra of mf_ros that installs it.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).split(".")[0]
        if missing != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"The Python package '{missing}' is not installed: run {install_command(extra)}."
        ) from error
