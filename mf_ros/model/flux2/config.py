"""Sizes of the network; plain Python, so that reading them needs no torch."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any, Dict, Literal, Mapping, Tuple

from mf_ros.errors import ConfigError

Variant = Literal["v1", "v2"]
OFFICIAL_VARIANTS: Dict[str, Variant] = {"flux_rgbd_9b_v1": "v1", "flux_rgbd_9b_v2": "v2"}
"""Names that the released config.json gives."""

_AXES = 4
# Least and most of each size: what a damaged file may not make us build.
_RANGES: Dict[str, Tuple[float, float]] = {
    "hidden": (8, 16384),
    "heads": (1, 256),
    "triple_blocks": (0, 128),
    "single_blocks": (0, 256),
    "depth_blocks": (0, 128),
    "mlp_ratio": (0.25, 16),
    "image_channels": (1, 4096),
    "depth_channels": (1, 4096),
    "text_channels": (1, 65536),
    "rope_theta": (1, 1e9),
}


@dataclass(frozen=True)
class Flux2Config:
    """Sizes of one network; the defaults are those of the released one.

    Raises:
        ConfigError: a size is out of range, or sizes do not fit each other.
    """

    variant: Variant = "v2"
    """``v2`` tells each modality the noise level of the other; ``v1`` does not."""
    hidden: int = 4096
    """Channels of a token."""
    heads: int = 32
    """Attention heads; they divide ``hidden``."""
    triple_blocks: int = 8
    """Blocks with weights of their own for text, image and depth."""
    single_blocks: int = 24
    """Blocks with one set of weights for all tokens."""
    depth_blocks: int = 4
    """Blocks that only depth passes, at the end."""
    mlp_ratio: float = 3.0
    """Channels behind the gate of an MLP, relative to ``hidden``."""
    image_channels: int = 128
    """Channels of an image token: 32 latent channels of 2x2 cells."""
    depth_channels: int = 256
    """Channels of a depth token: the pixels of a square patch."""
    text_channels: int = 12288
    """Channels of a text token: three hidden states of the text encoder."""
    rope_axes: Tuple[int, int, int, int] = (32, 32, 32, 32)
    """Channels of a head that turn with time, row, column and place in the text."""
    rope_theta: float = 2000.0
    """Base of the rotary embedding."""

    def __post_init__(self) -> None:
        if self.variant not in OFFICIAL_VARIANTS.values():
            raise ConfigError(f"flux2.variant is {reprlib.repr(self.variant)}: allowed is 'v1' or 'v2'.")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if type(value) not in (int, float) or not least <= value <= most:
                raise ConfigError(f"flux2.{name} is {reprlib.repr(value)}: allowed is {least:g} to {most:g}.")
        if self.hidden % self.heads:
            raise ConfigError(f"flux2.hidden {self.hidden} must be a multiple of flux2.heads ({self.heads}).")
        axes, head = self.rope_axes, self.hidden // self.heads
        if len(axes) != _AXES or any(each < 0 or each % 2 for each in axes) or sum(axes) != head:
            raise ConfigError(
                f"flux2.rope_axes is {reprlib.repr(axes)}: four even numbers are needed whose sum is the {head} "
                "channels of a head."
            )
        if self.patch**2 != self.depth_channels:
            raise ConfigError(
                f"flux2.depth_channels is {self.depth_channels}: it must be a square, such as 256 for 16x16."
            )

    @classmethod
    def from_variant(cls, name: str) -> Flux2Config:
        """The sizes of a released network.

        Args:
            name: ``flux_rgbd_9b_v1`` or ``flux_rgbd_9b_v2``.

        Raises:
            ConfigError: there is no such variant.
        """
        if name not in OFFICIAL_VARIANTS:
            raise ConfigError(f"There is no variant {reprlib.repr(name)}: known are {', '.join(OFFICIAL_VARIANTS)}.")
        return cls(variant=OFFICIAL_VARIANTS[name])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Flux2Config:
        """Sizes as a description in JSON gives them; what it leaves out is as in the released network.

        Raises:
            ConfigError: a name is not known, or a value has another type or is out of range.
        """
        known = {each.name: each.default for each in dataclasses.fields(cls)}
        made: Dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"flux2.{reprlib.repr(name)} is no size: known are {', '.join(known)}.")
            if isinstance(known[name], tuple) and isinstance(value, list):
                value = tuple(value)
            elif isinstance(known[name], float) and type(value) is int:
                value = float(value)
            whole = isinstance(value, tuple) and all(type(each) is int for each in value)
            if type(value) is not type(known[name]) or (isinstance(value, tuple) and not whole):
                raise ConfigError(f"flux2.{name} is {reprlib.repr(value)}: a value like {known[name]!r} is needed.")
            made[name] = value
        return cls(**made)

    @property
    def patch(self) -> int:
        """Pixels per side of a depth token: 16 in the released networks."""
        return math.isqrt(self.depth_channels)

    @property
    def mlp_hidden(self) -> int:
        """Channels behind the gate of an MLP."""
        return int(self.hidden * self.mlp_ratio)
