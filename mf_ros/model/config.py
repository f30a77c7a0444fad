"""What a network is made of; plain Python, so that reading it needs no torch."""

from __future__ import annotations

import dataclasses
import reprlib
from dataclasses import dataclass
from typing import Any, Dict, Literal, Mapping, Tuple

from mf_ros.errors import ConfigError

Streams = Literal["fused", "separate"]
# Least and most of each size, or of each number of a list: what a damaged file may not make us allocate.
_RANGES: Dict[str, Tuple[float, float]] = {
    "width": (1, 16384),
    "layers": (1, 256),
    "heads": (1, 4096),
    "mlp_ratio": (0.25, 16),
    "stem": (1, 16384),
    "blocks": (0, 64),
    "propagation": (1, 64),
    "text_width": (0, 16384),
}
_MOST_PROPAGATION = 8


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of one network; saved beside its weights.

    Every field but ``streams`` is a size: the same code builds a few million parameters and billions.
    """

    width: int = 256
    """Channels of a token."""
    layers: int = 6
    """Transformer blocks."""
    heads: int = 4
    """Attention heads; they divide ``width``, and a head's channels are a multiple of 4."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, relative to ``width``."""
    streams: Streams = "fused"
    """``fused``: one token per patch holds image and depth; ``separate``: each modality has tokens of its own."""
    stem: Tuple[int, int] = (64, 128)
    """Channels of the convolutional stem and decoders at 1/4 and 1/8 of the image's size."""
    blocks: Tuple[int, int] = (2, 2)
    """Convolutional blocks at 1/4 and 1/8, in the stem and in each decoder."""
    propagation: Tuple[int, ...] = (4, 1)
    """Reach, in pixels, of each learned propagation step that follows the depth decoder."""
    text_width: int = 0
    """Channels of the text tokens; 0 builds a network without text."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not all(least <= each <= most for each in (value if isinstance(value, tuple) else (value,))):
                raise ConfigError(f"model.{name} is {reprlib.repr(value)}: allowed is {least:g} to {most:g}.")
        if self.width % (4 * self.heads):
            raise ConfigError(f"model.width {self.width} must be a multiple of 4 x model.heads ({self.heads}).")
        if self.streams not in ("fused", "separate"):
            raise ConfigError(f"model.streams is {self.streams!r}: allowed is 'fused' or 'separate'.")
        for name in ("stem", "blocks"):
            values = getattr(self, name)
            if len(values) != 2:
                raise ConfigError(f"model.{name} is {reprlib.repr(values)}: two numbers are needed, for 1/4 and 1/8.")
        if len(self.propagation) > _MOST_PROPAGATION:
            raise ConfigError(f"model.propagation has {len(self.propagation)} steps: at most {_MOST_PROPAGATION}.")

    @property
    def patch(self) -> int:
        """Pixels per side of a token: 16, the product of the strides of stem and tokens."""
        return 16

    def to_mapping(self) -> Dict[str, Any]:
        """The fields as plain lists and numbers, for YAML and JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ModelConfig:
        """Build from plain values as YAML and JSON give them.

        Raises:
            ConfigError: an unknown key, or a value of the wrong kind or size.
        """
        types = {each.name: each for each in dataclasses.fields(cls)}
        unknown = sorted(set(mapping) - set(types))
        if unknown:
            raise ConfigError(f"Unknown model setting {unknown[0]!r}: known are {', '.join(types)}.")
        values: Dict[str, Any] = {}
        for name, value in mapping.items():
            values[name] = _checked(name, value, types[name].default)
        return cls(**values)


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value in the type of its default."""
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and all(type(each) is int for each in value):
            return tuple(value)
        raise ConfigError(f"model.{name} is {reprlib.repr(value)}: a list of whole numbers is needed.")
    if isinstance(default, float) and type(value) in (int, float):
        return value
    if type(value) is type(default):
        return value
    raise ConfigError(f"model.{name} is {reprlib.repr(value)}: {type(default).__name__} is needed.")
