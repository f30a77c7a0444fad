"""Which engines a benchmark compares, as words of the command line name them."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

from mf_ros.core.config import Config, EngineConfig
from mf_ros.core.settings import config_from_mapping, settings
from mf_ros.engine import ENGINES
from mf_ros.engine.bundle import SHIPPED
from mf_ros.errors import ConfigError

_QUALITY = "engine.quality"


@dataclass(frozen=True)
class Chosen:
    """One engine to measure.

    Attributes:
        label: its words.
        config: its settings.
    """

    label: str
    config: EngineConfig


def default_words() -> Tuple[str, ...]:
    """The engines that are compared unless others are named: every quality preset, else those without choice."""
    quality = settings().get(_QUALITY)
    return tuple(quality.choices) if quality is not None else ("classical", "nano")


def chosen(words: Sequence[str], base: Config, threads: int) -> List[Chosen]:
    """The engines that words such as ``classical``, ``nano`` or ``nano,steps=4`` name.

    The first part is an engine's name, a shipped network's (onnxruntime runs it) or a quality preset; the others are
    settings of the group ``engine``. A network runs on as many threads as everything else, unless they are set.

    Raises:
        ConfigError: a word names no engine, or a setting that does not exist or cannot have that value.
    """
    return [Chosen(word, _config(word, base, threads)) for word in dict.fromkeys(words or default_words())]


def _config(word: str, base: Config, threads: int) -> EngineConfig:
    name, *rest = word.split(",")
    values: Dict[str, Any] = {**dataclasses.asdict(base.engine), "threads": threads, **_named(name)}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"'{part}' in the engine '{word}' is no setting: write it as name=value, say steps=4.")
        values[key] = _value(value)
    return config_from_mapping({"engine": values}).engine


def _named(name: str) -> Dict[str, Any]:
    """The settings that the first part of a word stands for."""
    quality = settings().get(_QUALITY)
    if name in ENGINES:
        return {"name": name}
    if quality is not None and name in quality.choices:
        return {"quality": name}
    if name and (SHIPPED / name).parent == SHIPPED and (SHIPPED / name).is_dir():
        return {"name": "onnx", "model": name}
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir())
    known = [*ENGINES, *shipped, *(quality.choices if quality is not None else ())]
    raise ConfigError(f"There is no engine '{name}' to measure: known are {', '.join(known)}.")


def _value(text: str) -> Any:
    """A number or a truth value where the text is one, else the text."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
