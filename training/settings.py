"""Reading a ``TrainConfig``: YAML file or preset, then ``key.sub=value``; types checked, unknown names refused."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
import typing
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Literal, Mapping, Optional, Sequence, Tuple, Union

import yaml

from mf_ros.core.documents import values_of_yaml
from mf_ros.core.settings import plain_values, read_yaml
from mf_ros.errors import ConfigError
from mf_training.config import FREE_TO_CHANGE, TrainConfig, validate


def load_train_config(source: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Settings of a run, its model's settings filled in.

    Args:
        source: a YAML file, or the name of one in config/training.
        overrides: ``key.sub=value`` each, the value as YAML writes it; later ones win.

    Raises:
        ConfigError: the file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    mapping = dict(read_preset("training", source))
    for text in overrides:
        key, value = _override(text)
        if key == "data" and isinstance(value, str):
            key = "data.dataset.path"
        if key.startswith("model.") and not isinstance(mapping.get("model"), Mapping):
            mapping["model"] = read_preset("models", mapping.get("model", TrainConfig.model))
        _set(mapping, key, value)
    try:
        return train_config_from_mapping(mapping)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def train_config_from_mapping(mapping: Mapping[str, Any]) -> TrainConfig:
    """Settings from nested plain values, as YAML and JSON give them; what is missing is default.

    Raises:
        ConfigError: an unknown name, a wrong type or a value out of range.
    """
    config: TrainConfig = _build(TrainConfig, mapping, "")
    if isinstance(config.model, str):
        config = dataclasses.replace(config, model=read_preset("models", config.model))
    validate(config)
    return config


def train_config_to_mapping(config: TrainConfig) -> Dict[str, Any]:
    """Settings as nested plain values, for YAML and JSON; inverse of ``train_config_from_mapping``."""
    return plain_values(dataclasses.asdict(config))


def dump_train_config(config: TrainConfig) -> str:
    """Settings as YAML text that ``load_train_config`` reads back."""
    return yaml.safe_dump(train_config_to_mapping(config), sort_keys=False)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> List[str]:
    """Dotted names of the settings in which two runs differ and that make them different trainings.

    What one of them does not name is default: settings come into being after checkpoints that know nothing of them.
    """
    defaults = dict(_flat(train_config_to_mapping(TrainConfig(model={}))))
    first, second = {**defaults, **dict(_flat(one))}, {**defaults, **dict(_flat(other))}
    keys = sorted(set(first) | set(second))
    return [key for key in keys if key not in FREE_TO_CHANGE and first.get(key) != second.get(key)]


def read_preset(kind: str, source: Union[str, Path]) -> Dict[str, Any]:
    """The mapping in a YAML file, given by its path or by its name among the presets.

    Args:
        kind: ``models`` or ``training``, the folder of presets.
        source: name of a preset, or path of a file.

    Raises:
        ConfigError: there is no such file, or it cannot be read as settings.
    """
    path = Path(source)
    if not path.is_file():
        presets = {file.stem: file for folder in _preset_folders(kind) for file in sorted(folder.glob("*.yaml"))}
        if str(source) not in presets:
            known = ", ".join(presets) or "none"
            raise ConfigError(f"{source} is neither a file nor a preset of config/{kind}; those are: {known}.")
        path = presets[str(source)]
    document = read_yaml(path)
    if not isinstance(document or {}, Mapping):
        raise ConfigError(f"{path}: settings are names with values, but this is a {type(document).__name__}.")
    return dict(document or {})


def _preset_folders(kind: str) -> Iterator[Path]:
    """Where presets lie: beside the sources, or where setup.py installs them."""
    here = Path(__file__).resolve().parent
    for folder in (
        here.parent / "config",
        *(parent / "share/mf_ros/config" for parent in (Path(sys.prefix), *here.parents)),
    ):
        if (folder / kind).is_dir():
            yield folder / kind


def _override(text: str) -> Tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"'{text}' is no setting: write key=value, such as optimiser.lr=3.0e-4.")
    try:
        return key.strip(), values_of_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"The value of '{text}' cannot be read: {' '.join(str(error).split())}.") from error


def _set(mapping: Dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        inner = mapping.get(group)
        mapping[group] = dict(inner) if isinstance(inner, Mapping) else {}
        mapping = mapping[group]
    mapping[name] = value


def _build(cls: type, mapping: Any, prefix: str) -> Any:
    if mapping is None:  # an empty section in YAML
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{prefix[:-1]} is {mapping!r}: it is a group, so it needs settings below it.")
    hints = typing.get_type_hints(cls)
    for name in mapping:
        if name not in hints:
            raise ConfigError(_unknown(prefix + str(name), [prefix + known for known in hints]))
    return cls(**{name: _value(hints[name], value, prefix + name) for name, value in mapping.items()})


def _unknown(key: str, known: Iterable[str]) -> str:
    everything = [name for name, _ in _flat(train_config_to_mapping(TrainConfig()))]
    near = difflib.get_close_matches(key, [*known, *everything], n=1, cutoff=0.5)
    if not near:
        last = key.rsplit(".", 1)[-1]
        near = [name for name in everything if name.rsplit(".", 1)[-1] == last][:1]
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
    return f"{key} is no setting: {hint}"


def _value(kind: Any, value: Any, key: str) -> Any:
    """The value in the annotated type: a list becomes a tuple, a whole number a float where that is wanted."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, key + ".")
    if origin is Union and type(None) in inner:
        return None if value is None else _value(inner[0], value, key)
    if origin is Union:
        if isinstance(value, (str, Mapping)):
            return value
        raise ConfigError(f"{key} is {value!r}: a name or a group of settings is needed.")
    if origin is Literal:
        # YAML reads a bare `no` as false.
        value = "no" if value is False and "no" in inner else value
        if value not in inner:
            raise ConfigError(f"{key} is {value!r}: allowed is one of {', '.join(map(repr, inner))}.")
        return value
    if origin is tuple:
        many = inner[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or (not many and len(value) != len(inner)):
            raise ConfigError(f"{key} is {value!r}: a list{'' if many else f' of {len(inner)}'} is needed.")
        kinds = [inner[0]] * len(value) if many else inner
        return tuple(_value(each, item, key) for each, item in zip(kinds, value, strict=True))
    return _scalar(kind, value, key)


def _scalar(kind: Any, value: Any, key: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float:
        value = _exponent(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    elif (kind is int and number and isinstance(value, int)) or (kind is not int and isinstance(value, kind)):
        return value
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    raise ConfigError(f"{key} is {value!r}: {wanted} is needed.")


def _exponent(value: Any) -> Any:
    """YAML 1.1 reads 3e-4 as a text; nobody who writes that means one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> Optional[str]:
    """Where two models' settings first differ, in words; None when they are the same."""
    for key in {**one, **other}:
        if plain_values(one.get(key)) != plain_values(other.get(key)):
            return f"{key} is {plain_values(one.get(key))} there and {plain_values(other.get(key))} here"
    return None
