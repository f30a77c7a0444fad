"""The optimisers, their learning rate at each step, and the average of the weights."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mf_ros.errors import ConfigError
from mf_training.config import OptimiserConfig, ScheduleConfig


def learning_rate_part(step: int, steps: int, config: ScheduleConfig) -> float:
    """Learning rate of step ``step`` (from 0) of ``steps``, relative to the highest.

    The ``one_cycle`` form follows Smith and Topin, arXiv 1708.07120; both end at ``config.final``.
    """
    warmup = min(config.warmup, steps)
    if step < warmup:
        part = (step + 1) / warmup
        return 0.5 - 0.5 * math.cos(math.pi * part) if config.name == "one_cycle" else part
    if config.name == "constant":
        return 1.0
    done = (step + 1 - warmup) / max(steps - warmup, 1)
    return config.final + (1 - config.final) * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))


def make_optimisers(net: nn.Module, config: OptimiserConfig) -> Dict[str, torch.optim.Optimizer]:
    """Optimisers by name (``adamw``, ``muon``), each parameter in one of them; learning rates are the highest.

    Muon (Jordan et al. 2024) takes matrices of hidden layers only, with updates scaled to AdamW's size
    (Liu et al., arXiv 2502.16982), so that one learning rate serves both.

    Raises:
        ConfigError: Muon is wanted and this torch does not have it.
    """
    muon: List[Tensor] = []
    decayed: List[Tensor] = []
    plain: List[Tensor] = []
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            plain.append(parameter)
        elif config.name == "muon" and parameter.ndim == 2 and not any(part in name for part in config.adamw_names):
            muon.append(parameter)
        else:
            decayed.append(parameter)
    found: Dict[str, torch.optim.Optimizer] = {}
    groups = _groups((decayed, config.weight_decay), (plain, 0.0))
    if groups:
        found["adamw"] = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
    if muon:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"torch {torch.__version__} has no Muon: update torch, or set optimiser.name=adamw.")
        found["muon"] = torch.optim.Muon(
            muon,
            lr=config.lr if config.muon_lr is None else config.muon_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
    for optimiser in found.values():
        for group in optimiser.param_groups:
            group["highest_lr"] = group["lr"]
    return found


def set_learning_rate(optimisers: Sequence[torch.optim.Optimizer], part: float) -> None:
    """Give every group of parameters this part of its highest learning rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["highest_lr"] * part


def make_average(net: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights, whose decay grows to ``decay`` while few steps are averaged."""

    def update(averaged: Any, current: Any, _: Any) -> None:
        # The module's own count lies on the CPU; reading the one passed here would make a GPU wait.
        count = int(average.n_averaged)
        get_ema_multi_avg_fn(average_decay(count, decay))(averaged, current, count)

    average = AveragedModel(net, multi_avg_fn=update)
    return average.eval()


def average_decay(count: int, decay: float) -> float:
    """Decay after ``count`` updates: short memory at first, or the random first weights would stay for long."""
    return min(decay, (1 + count) / (10 + count))


def _groups(*groups: Any) -> List[Dict[str, Any]]:
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
