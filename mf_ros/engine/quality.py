"""What the one knob between speed and accuracy stands for."""

from __future__ import annotations

from typing import Dict, NamedTuple

from mf_ros.core.config import EngineConfig, QualityName
from mf_ros.errors import ConfigError


class Quality(NamedTuple):
    """How much work goes into one frame.

    Attributes:
        cells: images of more pixels are worked on in a coarser grid of at most so many cells, and enlarged.
        thorough: the prior is the mean of two completions and not of one.
        coarser: a network also completes the image on a grid of at most so many cells, and hands out both joined;
            0 leaves it at one grid.
        network: ``engine.name`` auto takes a network.
    """

    cells: int
    thorough: bool
    coarser: int
    network: bool


QUALITIES: Dict[QualityName, Quality] = {
    "fast": Quality(cells=70_000, thorough=False, coarser=0, network=False),
    "balanced": Quality(cells=160_000, thorough=False, coarser=0, network=True),
    "best": Quality(cells=700_000, thorough=True, coarser=160_000, network=True),
}
BEST = QUALITIES["best"]


def quality_of(config: EngineConfig) -> Quality:
    """What the settings ask for.

    Raises:
        ConfigError: there is no quality of that name.
    """
    if config.quality not in QUALITIES:
        raise ConfigError(f"engine.quality is {config.quality!r}: allowed is one of {', '.join(map(repr, QUALITIES))}.")
    return QUALITIES[config.quality]
