"""A deeper network out of a trained one: it computes the same until its added blocks have learned something."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Dict, Iterator, Mapping, Set, Tuple

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
        self._weights = weights
        self._places: Dict[str, Tuple[str, bool]] = {}
        had = _lengths(weights)
        # A chain that only the trained network has stays as it is, so that it is noticed.
        has = {**had, **_lengths(wanted)}
        for chain in has:
            if not 0 < had.get(chain, 0) <= has[chain]:
                raise CheckpointError(
                    f"{source} has {had.get(chain, 0)} blocks in {chain} and the model {has[chain]}: grow=true adds "
                    "blocks to those there are and removes none. Choose a model with as many or more, or other weights."
                )
        for name in weights:
            match = _BLOCK.fullmatch(name)
            if match is None:
                self._places[name] = (name, False)
                continue
            chain, origin, rest = match[1], int(match[2]), match[3]
            places = [each for each in range(has[chain]) if each * had[chain] // has[chain] == origin]
            # Damaged weights may number their blocks with gaps: such a block keeps its number, and others are missing.
            first, *added = places or [origin]
            self._places[f"{chain}.{first}.{rest}"] = (name, False)
            for each in added:
                self._places[f"{chain}.{each}.{rest}"] = (name, rest.split(".")[0] in _LAST)

    def __getitem__(self, name: str) -> Tensor:
        origin, zero = self._places[name]
        value = self._weights[origin]
        return torch.zeros_like(value) if zero else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _lengths(names: Mapping[str, Tensor]) -> Dict[str, int]:
    """How many blocks each chain has."""
    numbers: Dict[str, Set[int]] = defaultdict(set)
    for match in filter(None, map(_BLOCK.fullmatch, names)):
        numbers[match[1]].add(int(match[2]))
    return {chain: len(found) for chain, found in numbers.items()}
