"""The optimisers, their learning rate at each step, and the average of the weights."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Dict, Iterable, Iterator, List, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mf_ros.errors import ConfigError
from mf_training.checkpoints import ADAPTER
from mf_training.config import OptimiserConfig, ScheduleConfig
from mf_training.sharding import joined, part


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
    (Liu et al., arXiv 2502.16982), so that one learning rate serves both. The factors of adapters go to AdamW: each is
    half of a product, and its singular values by themselves mean nothing.

    Raises:
        ConfigError: Muon is wanted and this torch does not have it, or a matrix is divided too far for it.
    """
    muon: List[Tensor] = []
    decayed: List[Tensor] = []
    plain: List[Tensor] = []
    others = (*config.adamw_names, ADAPTER)
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            plain.append(parameter)
        elif config.name == "muon" and parameter.ndim == 2 and not any(part in name for part in others):
            _require_rows(name, parameter)
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


def _require_rows(name: str, matrix: Tensor) -> None:
    """Muon works on divided matrices, but not where a process would hold no row."""
    if isinstance(matrix, DTensor) and len(matrix) < matrix.device_mesh.size():
        raise ConfigError(
            f"Muon cannot follow {name}, whose {len(matrix)} rows are divided over {matrix.device_mesh.size()} "
            "processes: set optimiser.name=adamw, or add its name to optimiser.adamw_names."
        )


class Average:
    """An exponential moving average of the weights that are trained, whose decay grows while few steps are averaged.

    Weights that are frozen have no second copy; those of a divided network are averaged in parts.

    Args:
        net: the network, which keeps its parameters from here on.
        decay: of the average, once enough steps are averaged.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        def update(averaged: Any, current: Any, _: Any) -> None:
            # The module's own count lies on the CPU; reading the one passed here would make a GPU wait.
            count = int(self._average.n_averaged)
            get_ema_multi_avg_fn(average_decay(count, decay))(averaged, current, count)

        self._trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
        parts = nn.ParameterList(part(weight.detach()) for weight in self._trained.values()).requires_grad_(False)
        self._average = AveragedModel(parts, multi_avg_fn=update)
        self._averaged = list(self._average.module.parameters())

    def update(self) -> None:
        """Take in the present weights."""
        self._average.update_parameters(_Parts(self._trained.values()))

    def weights(self) -> Dict[str, Tensor]:
        """The averaged weights by their names in the network."""
        pairs = zip(self._trained.items(), self._averaged, strict=True)
        return {name: joined(averaged.detach(), own.detach()) for (name, own), averaged in pairs}

    def start_from(self, count: int) -> None:
        """Say how many steps are in ``weights()``, which someone has filled."""
        self._average.n_averaged.fill_(count)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights for the time of the block, and its own again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, averaged in zip(self._trained.values(), self._averaged, strict=True):
            own = part(weight)
            kept = own.clone()
            own.copy_(averaged)
            averaged.copy_(kept)


class _Parts(nn.Module):
    """This process's parts of weights, as they lie at the moment, for torch's average to read."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._weights = list(weights)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return (part(weight) for weight in self._weights)  # type: ignore[misc]


def average_decay(count: int, decay: float) -> float:
    """Decay after ``count`` updates: short memory at first, or the random first weights would stay for long."""
    return min(decay, (1 + count) / (10 + count))


def _groups(*groups: Any) -> List[Dict[str, Any]]:
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
