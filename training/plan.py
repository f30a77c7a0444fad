"""How much memory a run takes on each GPU, from its settings alone: networks are built without memory of their own."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mf_ros.errors import ConfigError
from mf_training.config import OptimiserConfig, TrainConfig
from mf_training.lora import LoraConfig, adapt, halve_frozen, targets_of
from mf_training.recipe import kind_of
from mf_training.schedule import make_optimisers
from mf_training.sharding import blocks_of

PROCESSES = (1, 2, 4, 8)

# Values that an optimiser keeps for each weight.
_KEPT = {"adamw": 2, "muon": 1}
_HALF = 2
_UNDIVIDED = " (this run has sharding=none: each takes what a single one does, and its gradients once more)"
_GATHERED_BLOCKS = 2


@dataclass(frozen=True)
class Held:
    """Bytes of the tensors that a process holds from one step to the next.

    Attributes:
        parameters: weights, frozen ones too.
        gradients: of what is trained.
        optimiser: its state.
        average: of what is trained.
    """

    parameters: int
    gradients: int
    optimiser: int
    average: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimiser + self.average


@dataclass(frozen=True)
class Memory:
    """Bytes on each process, while a step runs.

    Attributes:
        processes: how many.
        held: what lasts.
        gathered: weights that are brought together or converted for the step: of a divided network what lies outside
            of its blocks, two blocks at a time and the gradients of one; of a whole one copies in half precision of
            what is trained.
        activations: about what a backward pass keeps.
    """

    processes: int
    held: Held
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """All of it; the allocator's gaps and the libraries' own (1 to 2 GB) come on top."""
        return self.held.total + self.gathered + self.activations


def planned_network(config: TrainConfig) -> nn.Module:
    """The network of a run, adapted and without memory.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    model = config.model
    assert isinstance(model, Mapping)
    with torch.device("meta"):
        net = kind_of(model).build(model)
    if config.lora.rank:
        adapt(net, config.lora, targets_of(net, config.lora))
        if config.lora.half:
            halve_frozen(net)
    return net


def held_bytes(net: nn.Module, optimiser: OptimiserConfig, processes: int = 1) -> Held:
    """What each of some processes holds of a network that is divided over them, or of the whole of one.

    Args:
        net: a network, perhaps without memory.
        optimiser: of the run.
        processes: how many it is divided over; 1 divides nothing.
    """
    own = {id(weight): _part(weight, processes) * weight.element_size() for weight in net.parameters()}
    trained = sum(own[id(weight)] for weight in net.parameters() if weight.requires_grad)
    kept = 0
    for name, each in make_optimisers(net, optimiser).items():
        weights = [weight for group in each.param_groups for weight in group["params"]]
        kept += sum(_KEPT[name] * own[id(weight)] for weight in weights)
    return Held(sum(own.values()), trained, kept, trained)


def memory(config: TrainConfig, processes: int, net: Optional[nn.Module] = None) -> Memory:
    """What a run takes on each of some processes; on several the network is divided by FSDP2.

    Args:
        config: of the run.
        processes: how many.
        net: its network, where it is there already.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    return _memory(config, processes, planned_network(config) if net is None else net, _activations(config))


def _activations(config: TrainConfig) -> int:
    assert isinstance(config.model, Mapping)
    return kind_of(config.model).activations(config.model, config)


def _memory(config: TrainConfig, processes: int, net: nn.Module, activations: int) -> Memory:
    held = held_bytes(net, config.optimiser, processes)
    half = config.precision == "bf16"
    if processes == 1:
        gathered = sum(_HALF * weight.numel() for weight in net.parameters() if weight.requires_grad and half)
    else:
        gathered = _gathered(net, half)
    return Memory(processes, held, gathered, activations)


def _gathered(net: nn.Module, half: bool) -> int:
    blocks = [list(block.parameters()) for block in blocks_of(net)]
    in_blocks = {id(weight) for weights in blocks for weight in weights}
    outside = [weight for weight in net.parameters() if id(weight) not in in_blocks]
    largest = max((_bytes(weights, _HALF if half else None) for weights in blocks), default=0)
    gradients = max((_bytes((w for w in weights if w.requires_grad), None) for weights in blocks), default=0)
    of_outside = _bytes((weight for weight in outside if weight.requires_grad), None)
    return _bytes(outside, None) + of_outside + _GATHERED_BLOCKS * largest + gradients


def _bytes(weights: Iterable[Tensor], width: Optional[int]) -> int:
    return sum(weight.numel() * (width or weight.element_size()) for weight in weights)


def _part(weight: Tensor, processes: int) -> int:
    """Values of a weight on the process that holds most of it: FSDP2 divides the first axis."""
    if processes == 1 or not weight.dim():
        return weight.numel()
    return math.ceil(weight.shape[0] / processes) * math.prod(weight.shape[1:])


def plans(config: TrainConfig, processes: Sequence[int] = PROCESSES) -> Dict[str, List[Memory]]:
    """Memory by number of processes: with all weights trained, and with adapters where the settings have some.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    ways: Dict[str, TrainConfig] = {"all weights": dataclasses.replace(config, lora=LoraConfig())}
    if config.lora.rank:
        ways[f"adapters of rank {config.lora.rank}"] = config
    found: Dict[str, List[Memory]] = {}
    activations = _activations(config)  # of all weights; fewer with adapters
    for name, way in ways.items():
        net = planned_network(way)
        found[name] = [_memory(way, count, net, activations) for count in processes]
    return found


def plan_lines(config: TrainConfig) -> List[str]:
    """The plans as a table.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    net = planned_network(config)
    trained = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    whole = sum(weight.numel() for weight in net.parameters())
    lines = [
        f"{whole / 1e6:,.0f} million weights, {trained / 1e6:,.0f} million trained; batch {config.batch} of each GPU, "
        f"crops up to {'x'.join(map(str, max(config.data.shapes, key=math.prod)))}, precision {config.precision}, "
        f"recompute {'on' if config.recompute else 'off'}",
        f"GB of each GPU; two and more with sharding=fsdp2{_UNDIVIDED if config.sharding == 'none' else ''}:",
        _row("", "GPUs", "weights", "gradients", "optimiser", "average", "gathered", "activations", "total"),
    ]
    for name, each in plans(config).items():
        lines += [_row(name, str(one.processes), *_cells(one)) for one in each]
    return lines


def _cells(one: Memory) -> Tuple[str, ...]:
    held = one.held
    values = (held.parameters, held.gradients, held.optimiser, held.average, one.gathered, one.activations, one.total)
    return tuple(f"{value / 1e9:.3g}" for value in values)


def _row(name: str, *cells: str) -> str:
    return f"{name:22}" + "".join(f"{cell:>12}" for cell in cells)


def require_room(config: TrainConfig, net: nn.Module, processes: int, free: Optional[int], device: Any) -> None:
    """Refuse a network whose weights, gradients and states do not fit a device, before any of them is made.

    Args:
        config: of the run.
        net: the network, without memory.
        processes: that it is divided over.
        free: bytes, None where that is not known.
        device: for the message.

    Raises:
        ConfigError: they do not fit.
    """
    needed = held_bytes(net, config.optimiser, processes).total
    if free is not None and needed > free:
        raise ConfigError(
            f"This training holds {needed / 1e9:.1f} GB on {device}, where {free / 1e9:.1f} GB are free: see mf-ros "
            "train ... --plan; adapters (lora.rank, lora.half) need less, as does sharding=fsdp2 over more GPUs."
        )
