"""How far the network is from the truth on held-out samples, beside the prior it starts from."""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping

import torch
from torch import Tensor, nn

from mf_ros.core.pixels import network_image
from mf_ros.model import Prediction
from mf_training.data import Batch

Predict = Callable[[nn.Module, Batch], Tensor]
"""Log of depth over each sample's scale, (B, 1, H, W), as a network in use would make it."""

_SUMS = ("error", "prior_error", "count", "free_error", "free_count")


def one_step(net: nn.Module, batch: Batch) -> Prediction:
    """What a network makes of a batch in one step; unknown depth is at level 1, so it depends on no random number."""
    image = network_image(batch["image"].float())
    clean, unknown = image.new_zeros(len(image)), image.new_ones(len(image))
    made: Prediction = net(image, clean, batch["depth"], batch["level"], unknown, batch["prior"])
    return made


def predicted_in_one_step(net: nn.Module, batch: Batch) -> Tensor:
    """Log of depth over the scale, (B, 1, H, W) float32, of a network that ``one_step`` runs."""
    return one_step(net, batch).depth.float()


def score(
    net: nn.Module,
    batches: Mapping[str, List[Batch]],
    device: torch.device,
    predict: Predict = predicted_in_one_step,
) -> Dict[str, Dict[str, Tensor]]:
    """Sums over this process's held-out samples, by source; ``scores`` makes figures of them.

    Args:
        net: the network.
        batches: of each source.
        device: where to compute.
        predict: what runs the network.
    """
    # Not inference mode: what a divided network gathers under it could not be trained with afterwards.
    with torch.no_grad():
        return {name: _sums(net, each, device, predict) for name, each in batches.items()}


def scores(sums: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> Dict[str, float]:
    """Figures by name, from the sums of all processes.

    ``SOURCE/error`` and ``SOURCE/prior_error`` are mean absolute errors of log depth over samples with returns,
    ``SOURCE/ratio`` their ratio, ``SOURCE/free_error`` the error over samples without any return, and ``ratio`` the
    mean ratio, weighted with the sources' shares.
    """
    found: Dict[str, float] = {}
    for name, each in sums.items():
        if each["count"]:
            found[f"{name}/error"] = each["error"] / each["count"]
            found[f"{name}/prior_error"] = each["prior_error"] / each["count"]
            found[f"{name}/ratio"] = each["error"] / max(each["prior_error"], 1e-9)
        if each["free_count"]:
            found[f"{name}/free_error"] = each["free_error"] / each["free_count"]
    ratios = {name: found[f"{name}/ratio"] for name in sums if f"{name}/ratio" in found}
    if ratios:
        found["ratio"] = sum(weights[name] * ratios[name] for name in ratios) / sum(weights[name] for name in ratios)
    return found


def _sums(net: nn.Module, batches: List[Batch], device: torch.device, predict: Predict) -> Dict[str, Tensor]:
    total = {name: torch.zeros((), dtype=torch.float64, device=device) for name in _SUMS}
    for batch in batches:
        moved = {key: value.to(device) for key, value in batch.items()}
        truth, prior, level = moved["truth"], moved["prior"], moved["level"]
        depth = predict(net, moved)
        scale = moved["scale"][:, None, None, None]
        valid = (truth > 0) & torch.isfinite(truth)
        weight = moved["weight"] * valid
        target = torch.log(torch.where(valid, truth, scale) / scale)
        error, prior_error = _means((depth - target).abs(), weight), _means((prior - target).abs(), weight)
        scored = (weight > 0).flatten(1).any(1)
        given = scored & (level < 1).flatten(1).any(1)
        free = scored & ~given
        for name, values in (("error", error), ("prior_error", prior_error), ("count", torch.ones_like(error))):
            total[name] += values[given].sum()
        total["free_error"] += error[free].sum()
        total["free_count"] += free.sum()
    return total


def _means(values: Tensor, weight: Tensor) -> Tensor:
    """(B,) float64 weighted means, 0 without any weight."""
    total = (values * weight).double().flatten(1).sum(1)
    return total / weight.double().flatten(1).sum(1).clamp(min=1e-9)
