"""The network that a run trains: built, adapted, divided over processes, and filled with what it starts from."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mf_ros.model.flux2.memory import free_memory
from mf_training.checkpoints import Checkpoint, Weights, load_into, stored_weights
from mf_training.config import TrainConfig
from mf_training.growth import Deepened
from mf_training.lora import (
    adapt,
    base_tensors,
    base_weights,
    halve_frozen,
    place_of,
    start_factors,
    targets_of,
    trained_tensors,
)
from mf_training.plan import require_room
from mf_training.sharding import recompute_blocks, shard

Build = Callable[[Mapping[str, Any]], nn.Module]
Stored = Callable[[Path], Weights]


@dataclass(frozen=True)
class Network:
    """A network that is ready to be trained.

    Attributes:
        net: what steps run: prepared for several processes, compiled, in mixed precision.
        bare: the same network without any of that; it may be divided and adapted all the same.
        outline: to count operations with: the same network, or, where that is divided, its shapes on the meta device.
        base: which weights its adapters belong to, for checkpoints; None without adapters.
    """

    net: nn.Module
    bare: nn.Module
    outline: nn.Module
    base: Optional[Mapping[str, str]]

    def weights(self) -> Dict[str, Tensor]:
        """What belongs into a checkpoint: everything, or what is trained beside a base that lies elsewhere."""
        found: Dict[str, Tensor] = self.bare.state_dict() if self.base is None else trained_tensors(self.bare)
        return found


def make_network(
    config: TrainConfig,
    build: Build,
    accelerator: Accelerator,
    checkpoint: Optional[Checkpoint],
    stored: Stored = stored_weights,
) -> Network:
    """Build the network of a run and fill it from a checkpoint, else from ``init``, else at random.

    Args:
        config: of the run; its model is a mapping.
        build: makes a network of a model's settings.
        accelerator: its device and processes.
        checkpoint: to go on from.
        stored: reads the weights that ``init`` names.

    Raises:
        CheckpointError: the weights cannot be used.
        ConfigError: the adapters do not fit the network.
    """
    assert isinstance(config.model, Mapping)
    sharded = config.sharding != "none"
    filled = checkpoint is not None or bool(config.init)
    # What is filled from files has no memory before: it may be large, and of a divided network no process holds all.
    with torch.device("meta") if filled else contextlib.nullcontext():
        bare = build(config.model)
    outline = bare
    if sharded:
        with torch.device("meta"):
            outline = build(config.model)
    if config.lora.rank:
        targets = targets_of(bare, config.lora)
        for each in {bare, outline}:
            adapt(each, config.lora, targets)
            if config.lora.half:
                halve_frozen(each)
    if config.recompute:
        for each in {bare, outline}:
            recompute_blocks(each)
    if filled:
        processes = accelerator.num_processes if sharded else 1
        require_room(config, bare, processes, free_memory(accelerator.device), accelerator.device)
    if sharded:
        shard(bare, accelerator, half=config.precision == "bf16", compiled=config.compile)
        net = accelerator.prepare_model(bare, device_placement=False, evaluation_mode=True)
    else:
        if filled:
            bare.to_empty(device=accelerator.device)
        bare.to(accelerator.device)
        net = accelerator.prepare(bare)
    base = _fill_adapted(config, bare, accelerator, checkpoint, stored) if config.lora.rank else None
    if config.lora.rank == 0 and filled:
        _fill(config, bare, checkpoint, stored)
    return Network(net, bare, outline, base)


def _fill(config: TrainConfig, bare: nn.Module, checkpoint: Optional[Checkpoint], stored: Stored) -> None:
    if checkpoint is not None:
        load_into(bare, checkpoint.tensors("model"), str(checkpoint.path))
    else:
        weights: Mapping[str, Tensor] = stored(Path(config.init))
        if config.grow:
            weights = Deepened(weights, bare.state_dict(), config.init)
        load_into(bare, weights, config.init)


def _fill_adapted(
    config: TrainConfig,
    bare: nn.Module,
    accelerator: Accelerator,
    checkpoint: Optional[Checkpoint],
    stored: Stored,
) -> Mapping[str, str]:
    """Fill an adapted network with its base and its factors; returns what identifies the base."""
    if checkpoint is None:
        weights = stored(Path(config.init))
        sha256 = weights.fingerprint() if accelerator.is_main_process else ""
    else:
        saved: Any = checkpoint.state.get("base")
        weights = base_weights(saved, config.init, checkpoint.path, check=accelerator.is_main_process, stored=stored)
        sha256 = saved["sha256"]
    load_into(base_tensors(bare), weights, config.init)
    if checkpoint is None:
        start_factors(bare, config.seed)
    else:
        load_into(trained_tensors(bare), checkpoint.tensors("model"), str(checkpoint.path))
    return {"init": place_of(config.init), "sha256": sha256}
