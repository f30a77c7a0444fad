"""Settings from and to mappings and YAML, with types and ranges checked in one place."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import typing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Collection, Dict, List, Literal, Mapping, Optional, Tuple, Union

import yaml

from mf_ros.core.config import Config
from mf_ros.core.documents import bounded_text, values_of_yaml
from mf_ros.errors import ConfigError

_MAX_FILE_BYTES = 1_000_000

# Parameters that ROS itself reads from the same files.
_ROS_OWN = ("use_sim_time", "qos_overrides", "start_type_description_service")

_LIMITS: Mapping[str, Tuple[float, float]] = {
    "sync.tolerance_s": (0.0, 10.0),
    "sync.lidar_offset_s": (-10.0, 10.0),
    "sync.max_wait_s": (0.0, 60.0),
    "sync.queue_size": (1, 10_000),
    "lidar.min_range_m": (0.0, 100.0),
    "lidar.max_range_m": (0.1, 10_000.0),
    "projection.cull_margin": (0.0, 1.0),
    "cloud.min_depth_m": (0.0, 1000.0),
    "cloud.max_depth_m": (0.01, 10_000.0),
    "cloud.min_confidence": (0.0, 1.0),
    "cloud.edge_ratio": (0.0, 10.0),
    "cloud.voxel_m": (0.0, 10.0),
    "output.min_confidence": (0.0, 1.0),
    "output.scale": (0.05, 4.0),
    "engine.steps": (0, 100),
    "engine.threads": (0, 256),
    "engine.refine_steps": (0, 100),
    "engine.refine_rate_hz": (0.0, 100.0),
    "temporal.max_age_s": (0.0, 10.0),
    "temporal.smoothing": (0.0, 0.95),
    "node.report_period_s": (0.5, 600.0),
}

# One setting must stay below another for anything to come out.
_ORDERED = (("lidar.min_range_m", "lidar.max_range_m"), ("cloud.min_depth_m", "cloud.max_depth_m"))


@dataclass(frozen=True)
class Setting:
    """One setting, for parameter descriptors, help texts and documentation.

    Attributes:
        key: dotted name, for example ``sync.tolerance_s``.
        kind: the annotated Python type.
        default: its default value.
        description: what it does, with the unit.
        minimum, maximum: allowed range of a number (of each item of a list), or None.
        choices: allowed values of a setting that is one of several words; empty otherwise.
    """

    key: str
    kind: Any
    default: Any
    description: str
    minimum: Optional[float] = None
    maximum: Optional[float] = None
    choices: Tuple[str, ...] = ()

    def allowed(self) -> str:
        """What values are allowed, in words."""
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        many = typing.get_origin(self.kind) is tuple
        kind = typing.get_args(self.kind)[0] if many else self.kind
        text = {bool: "true or false", int: "a whole number", float: "a number", str: "a non-empty text"}[kind]
        if self.minimum is not None:
            text += f" from {self.minimum:g} to {self.maximum:g}"
        return f"a list, each item {text}" if many else text


@lru_cache(maxsize=1)
def settings() -> Mapping[str, Setting]:
    """Every setting by its dotted key, in the order of the dataclasses."""
    found: Dict[str, Setting] = {}
    _collect(Config(), "", found)
    return found


def config_from_mapping(mapping: Mapping[str, Any], *, extra: Collection[str] = ()) -> Config:
    """Settings from a mapping that is nested (``{"sync": {"queue_size": 5}}``), dotted, or both; the rest is default.

    Args:
        mapping: names to values, as a YAML file gives them.
        extra: top-level names that are someone else's and are skipped.

    Raises:
        ConfigError: an unknown name, a wrong type or a value out of range.
    """
    values: Dict[str, Any] = {}
    _flatten(mapping, "", extra, values)
    config: Config = _build(Config(), "", values)
    validate(config)
    return config


def config_to_mapping(config: Config) -> Dict[str, Any]:
    """Settings as a nested mapping of plain values, ready for YAML or JSON; inverse of ``config_from_mapping``."""
    return plain_values(dataclasses.asdict(config))  # type: ignore[no-any-return]


def load_config(path: Union[str, Path], *, extra: Collection[str] = ()) -> Config:
    """Settings from a YAML file, plain or in the form of a ROS 2 parameter file (``/**: ros__parameters: ...``).

    Args:
        path: the file; sections of several nodes are read in order, later ones win.
        extra: top-level names that are someone else's and are skipped; ROS's own are known.

    Raises:
        ConfigError: the file cannot be read or parsed, or a setting in it cannot be used.
    """
    path = Path(path)
    document = read_yaml(path)
    try:
        return config_from_mapping(_without_ros_root(document), extra=(*extra, *_ROS_OWN))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_yaml(path: Path) -> Any:
    """What a settings file holds.

    Raises:
        ConfigError: it cannot be read, is too large for settings, or is not YAML.
    """
    try:
        return values_of_yaml(bounded_text(path, _MAX_FILE_BYTES, "settings file", ConfigError))
    except OSError as error:
        raise ConfigError(f"Cannot read the settings file {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Cannot read the settings file {path}: it is not UTF-8 text.") from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"The settings file {path} is not YAML of settings: {' '.join(str(error).split())}."
        ) from error


def validate(config: Config) -> None:
    """Check types, ranges and relations of all settings.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    values = {key: value_of(config, key) for key in settings()}
    for key, value in values.items():
        _coerce(settings()[key], value)
    for low, high in _ORDERED:
        if not values[low] < values[high]:
            raise ConfigError(f"{low} is {values[low]!r}: it must be below {high}, which is {values[high]!r}.")


def value_of(config: Any, key: str) -> Any:
    """The setting of a dotted name in a tree of dataclasses."""
    value = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _collect(node: Any, prefix: str, found: Dict[str, Setting]) -> None:
    hints = typing.get_type_hints(type(node))
    texts = _attribute_texts(type(node))
    for item in dataclasses.fields(node):
        key, value = prefix + item.name, getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            _collect(value, key + ".", found)
            continue
        kind = hints[item.name]
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        low, high = _LIMITS.get(key, (None, None))
        found[key] = Setting(key, kind, value, texts.get(item.name, ""), low, high, choices)


def _attribute_texts(cls: type) -> Dict[str, str]:
    """The string below each attribute of a class: Python drops it, yet it is where the settings are documented."""
    try:
        body = ast.parse(inspect.getsource(cls)).body[0]
    except OSError:
        return {}  # installed without sources; only the descriptions are lost
    texts: Dict[str, str] = {}
    statements: List[ast.stmt] = getattr(body, "body", [])
    for statement, following in itertools.pairwise(statements):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                texts[statement.target.id] = " ".join(text.value.split())
    return texts


def _flatten(mapping: Any, prefix: str, extra: Collection[str], values: Dict[str, Any]) -> None:
    known = settings()
    groups = {key.rsplit(".", 1)[0] for key in known if "." in key}
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if not prefix and str(name).split(".")[0] in extra:
            continue
        if key in known:
            values[key] = _coerce(known[key], value)
        elif key not in groups:
            allowed = [item for item in known if item.startswith(prefix)]
            raise ConfigError(f"{key} (value {value!r}) is no setting; known are {', '.join(allowed)}.")
        elif isinstance(value, Mapping):
            _flatten(value, key + ".", extra, values)
        elif value is not None:  # an empty section in YAML is None
            raise ConfigError(f"{key} is {value!r}: it is a group, so it needs settings below it.")


def _build(node: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    changes: Dict[str, Any] = {}
    for item in dataclasses.fields(node):
        key, value = prefix + item.name, getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            changes[item.name] = _build(value, key + ".", values)
        elif key in values:
            changes[item.name] = values[key]
    return dataclasses.replace(node, **changes)


def _coerce(setting: Setting, value: Any) -> Any:
    """The value in the setting's own type (a YAML list becomes a tuple, a whole number a float where fitting)."""
    if typing.get_origin(setting.kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise _refused(setting, value)
        kind = typing.get_args(setting.kind)[0]
        return tuple(_scalar(setting, kind, item, value) for item in value)
    if setting.choices:
        if value not in setting.choices:
            raise _refused(setting, value)
        return value
    return _scalar(setting, setting.kind, value, value)


def _scalar(setting: Setting, kind: Any, item: Any, value: Any) -> Any:
    # bool is an int in Python, but `queue_size: true` is a mistake.
    is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
    if kind is float and is_number and math.isfinite(item):
        item = float(item)
    elif not (
        (kind is bool and isinstance(item, bool))
        or (kind is int and is_number and isinstance(item, int))
        or (kind is str and isinstance(item, str) and item.strip())
    ):
        raise _refused(setting, value)
    if setting.minimum is not None and setting.maximum is not None and not setting.minimum <= item <= setting.maximum:
        raise _refused(setting, value)
    return item


def _refused(setting: Setting, value: Any) -> ConfigError:
    hint = ""
    if isinstance(value, str) and not setting.choices and setting.kind is not str:
        hint = " (this is a text; YAML wants a number without quotes, and an exponent as in 1.0e-3)"
    return ConfigError(f"{setting.key} is {value!r}{hint}: allowed is {setting.allowed()}.")


def _without_ros_root(document: Any) -> Mapping[str, Any]:
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise ConfigError(f"settings are names with values, but this is a {type(document).__name__}.")
    sections = _ros_sections(document)
    if not sections:
        return document
    merged: Dict[str, Any] = {}
    for section in sections:
        _merge(merged, section)
    return merged


def _ros_sections(document: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """The parameter blocks of a ROS 2 parameter file, whose keys are node names nested by namespace."""
    found: List[Mapping[str, Any]] = []
    for key, value in document.items():
        if key == "ros__parameters":
            if isinstance(value, Mapping):
                found.append(value)
            elif value is not None:
                raise ConfigError(f"ros__parameters is {value!r}: it needs settings below it.")
        elif isinstance(value, Mapping):
            found.extend(_ros_sections(value))
    return found


def _merge(into: Dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        current = into.get(key)
        if isinstance(current, dict) and isinstance(value, Mapping):
            _merge(current, value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def plain_values(value: Any) -> Any:
    """Nested mappings and sequences as the dictionaries and lists that YAML and JSON hold; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    return [plain_values(item) for item in value] if isinstance(value, (tuple, list)) else value
