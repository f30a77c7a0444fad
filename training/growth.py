"""A deeper network out of a trained one: it computes the same until its added blocks have learned something."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Dict, Iterator, Mapping, Set

import torch
from torch import Tensor

from mf_training.checkpoints import CheckpointError, Weights

_BLOCK = re.compile(r"(blocks|\w+\.(?:quarter|eighth))\.(\d+)\.(.+)")
"""Name of a tensor of a residual block: the chain of blocks, the block's number, the tensor's name in the block."""
_LAST = ("attention_proj", "contract", "second")
"""Layers through which a residual block adds to what it was given."""


class Deepened(Weights):
    """Weights for a network with more residual blocks in a chain than they were trained for.

    Blocks are spread over the longer chain in their order. One that is added is a copy of the block before it whose
    last layers are zero, so that it adds nothing at first and what it sees is familiar (function-preserving growth as
    in Net2Net, arXiv 1511.05641; copies as in stacking, arXiv 2405.15319).

    Args:
        weights: of the trained network.
        wanted: names, and by them sizes, of the deeper one.
        source: where the weights come from, for messages.

    Raises:
        CheckpointError: a chain of the trained network is longer than the other's, or empty.
    """

    def __init__(self, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> None:
        self._weights, self._wanted = weights, wanted
        self._had, self._has = _lengths(weights), _lengths(wanted)
        for chain, has in self._has.items():
            had = self._had.get(chain, 0)
            if not 0 < had <= has:
                raise CheckpointError(
                    f"{source} has {had} blocks in {chain} and the model {has}: grow=true adds blocks to those there "
                    "are and removes none. Choose a model with as many or more, or other weights."
                )

    def __getitem__(self, name: str) -> Tensor:
        match = _BLOCK.fullmatch(name)
        if match is None:
            return self._weights[name]
        chain, number, rest = match[1], int(match[2]), match[3]
        origin = self._origin(chain, number)
        value = self._weights[f"{chain}.{origin}.{rest}"]
        added = number > 0 and self._origin(chain, number - 1) == origin
        return torch.zeros_like(value) if added and rest.split(".")[0] in _LAST else value

    def _origin(self, chain: str, number: int) -> int:
        return number * self._had[chain] // self._has[chain]

    def __iter__(self) -> Iterator[str]:
        # What belongs to no chain is kept under its name, so that a tensor of another network is noticed.
        yield from (name for name in self._wanted if _BLOCK.fullmatch(name) or name in self._weights)
        yield from (name for name in self._weights if not _BLOCK.fullmatch(name) and name not in self._wanted)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _lengths(names: Mapping[str, Tensor]) -> Dict[str, int]:
    """How many blocks each chain has."""
    numbers: Dict[str, Set[int]] = defaultdict(set)
    for match in filter(None, map(_BLOCK.fullmatch, names)):
        numbers[match[1]].add(int(match[2]))
    return {chain: len(found) for chain, found in numbers.items()}
