"""Flow matching: how signals are noised to a level, and how levels are drawn and stepped.

x_t = (1 - t) x_0 + t eps, with t from 1 (noise) to 0 (clean); source: rectified flow as in Modality Forcing
(arXiv 2606.13676), whose shift of the levels and floor of the velocity are used.
"""

from __future__ import annotations

import math
from typing import List

import torch
from torch import Tensor

LEVEL_SHIFT = 1.1
"""mu of the level's shift; larger spends more steps on noisy levels."""
SMALLEST_LEVEL = 0.05
"""Levels below count as this one where a velocity is divided by the level."""


def noised(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """``clean`` at ``level``; the tensors broadcast."""
    return (1 - level) * clean + level * noise


def shifted(level: Tensor, mu: float = LEVEL_SHIFT) -> Tensor:
    """Levels in (0, 1] moved towards noise: e^mu / (e^mu + 1 / t - 1)."""
    return math.exp(mu) / (math.exp(mu) + 1 / level.clamp(min=1e-6) - 1)


def drawn_levels(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(count,) random levels, shifted."""
    return shifted(torch.rand(count, generator=generator, device=generator.device)).to(device)


def step_levels(steps: int, mu: float = LEVEL_SHIFT) -> List[float]:
    """The steps + 1 levels from 1 down to 0 at which a sampler stops."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return [1.0, *(float(shifted(level, mu)) for level in even[1:-1]), 0.0]


def stepped(noisy: Tensor, clean: Tensor, level: float, following: float) -> Tensor:
    """One Euler step from ``level`` to ``following`` along the velocity that the prediction ``clean`` implies."""
    return noisy + (following - level) * (noisy - clean) / max(level, SMALLEST_LEVEL)
