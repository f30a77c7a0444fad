"""How much one backward pass of this project's network keeps: counted in a pass over tensors without memory."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mf_ros.model import ModalityForcing, ModelConfig
from mf_training.config import TrainConfig
from mf_training.losses import loss_under
from mf_training.sharding import blocks_of

# Weights in half precision are kept as well; between two numbers of samples only what grows with them differs.
_FEW, _MORE = 2, 4


def activation_bytes(sizes: ModelConfig, config: TrainConfig) -> int:
    """Bytes that one backward pass keeps on each process, of the largest crop and of the regime that keeps most.

    Where weights are frozen less is kept, so with adapters this is an upper estimate.

    Args:
        sizes: of the network.
        config: batch, crops, precision, ``recompute`` and losses.
    """
    few, more = (_kept(sizes, config, count) for count in (_FEW, _MORE))
    return config.batch * (more - few) // (_MORE - _FEW)


def _kept(sizes: ModelConfig, config: TrainConfig, count: int) -> int:
    """Bytes kept of so many samples."""
    generator = torch.Generator().manual_seed(0)
    generates = config.losses.to_image + config.losses.joint > 0
    with FakeTensorMode():
        net = ModalityForcing(sizes)
        counted = _Counted(net)
        batch = empty_samples(count, max(config.data.shapes, key=math.prod))
        with counted.saved(), torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss_under("joint" if generates else "complete", net, batch, generator, config.losses)
    return counted.recomputed() if config.recompute else counted.total()


def empty_samples(count: int, shape: Tuple[int, int]) -> Dict[str, Tensor]:
    """A batch as ``mf_training.samples.collate`` makes it, without values."""
    maps = ("truth", "weight", "depth", "level", "prior")
    batch = {name: torch.zeros(count, 1, *shape) for name in maps}
    batch["image"] = torch.zeros(count, 3, *shape, dtype=torch.uint8)
    batch["hidden"] = torch.zeros(count, 1, *shape, dtype=torch.uint8)
    batch["scale"] = torch.ones(count)
    return batch


class _Counted:
    """The memory that a forward pass keeps, each piece once, and in which block it was kept first.

    Args:
        net: its outermost blocks are told apart.
    """

    def __init__(self, net: nn.Module) -> None:
        self._weights = {_memory(weight) for weight in net.parameters()}
        self._kept: Dict[int, Tuple[Tensor, Optional[int]]] = {}
        self._inputs: Dict[int, Tensor] = {}
        self._block: Optional[int] = None
        for number, block in enumerate(blocks_of(net)):
            block.register_forward_pre_hook(self._entering(number))
            block.register_forward_hook(self._leaving(number))

    def total(self) -> int:
        """Bytes of all of it."""
        return sum(_bytes(tensor) for tensor, _ in self._kept.values())

    def recomputed(self) -> int:
        """Bytes where blocks keep their inputs alone, and one of them at a time its inside."""
        insides: Dict[Optional[int], int] = {}
        for tensor, block in self._kept.values():
            insides[block] = insides.get(block, 0) + _bytes(tensor)
        outside = insides.pop(None, 0)
        known = {place for place, (_, block) in self._kept.items() if block is None}
        inputs = sum(_bytes(tensor) for place, tensor in self._inputs.items() if place not in known)
        return outside + inputs + max(insides.values(), default=0)

    @contextlib.contextmanager
    def saved(self) -> Iterator[None]:
        """Counts what is kept within."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        if _memory(tensor) not in self._weights:
            self._kept.setdefault(_memory(tensor), (tensor, self._block))
        return tensor

    def _entering(self, number: int) -> Any:
        def hook(_: nn.Module, inputs: Tuple[Any, ...]) -> None:
            if self._block is None:
                self._block = number
                self._inputs.update({_memory(each): each for each in inputs if isinstance(each, Tensor)})

        return hook

    def _leaving(self, number: int) -> Any:
        def hook(*_: Any) -> None:
            if self._block == number:
                self._block = None

        return hook


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())
