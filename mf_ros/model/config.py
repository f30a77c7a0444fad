"""What a network is made of; plain Python, so that reading it needs no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, Literal, Mapping, Tuple

from mf_ros.errors import ConfigError

Streams = Literal["fused", "separate"]
_LARGEST_WIDTH = 16384
_MOST_LAYERS = 256


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
        for name in ("width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}: it must be at least 1.")
        if self.width > _LARGEST_WIDTH or self.layers > _MOST_LAYERS:
            raise ConfigError(
                f"A model of width {self.width} and {self.layers} layers is beyond what is built here "
                f"({_LARGEST_WIDTH}, {_MOST_LAYERS})."
            )
        if self.width % (4 * self.heads):
            raise ConfigError(f"model.width {self.width} must be a multiple of 4 x model.heads ({self.heads}).")
        if self.streams not in ("fused", "separate"):
            raise ConfigError(f"model.streams is {self.streams!r}: allowed is 'fused' or 'separate'.")
        for name, least in (("stem", 1), ("blocks", 0)):
            values = getattr(self, name)
            if len(values) != 2 or min(values) < least:
                raise ConfigError(
                    f"model.{name} is {values}: two numbers are needed, for 1/4 and 1/8, from {least} up."
                )
        if any(reach < 1 or reach > 64 for reach in self.propagation):
            raise ConfigError(f"model.propagation is {self.propagation}: a reach is 1 to 64 pixels.")

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
        raise ConfigError(f"model.{name} is {value!r}: a list of whole numbers is needed.")
    if isinstance(default, float) and type(value) in (int, float):
        return float(value)
    if type(value) is type(default):
        return value
    raise ConfigError(f"model.{name} is {value!r}: {type(default).__name__} is needed.")
