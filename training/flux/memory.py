"""How much one backward pass of a FLUX.2 network keeps: a formula over its sizes, counted on tiny networks.

In values a token and block, with h channels and m behind the gate of the MLP: its input h, and of its inside 13 h + 4 m
in a block with one set of weights and 17 h + 4 m in one with three (what goes into each product, norm, rotation and
gate, and the attention's query, key, value and result; its weights are never kept). In half precision 14 h bytes more,
as norms and rotations are in single. With ``recompute`` all blocks keep their input, and one at a time its inside.
Where weights are frozen less is kept, so with adapters this is an upper estimate.
"""

from __future__ import annotations

from mf_ros.model.flux2 import Flux2Config
from mf_ros.model.flux2.text import LENGTH
from mf_training.config import TrainConfig

_SINGLE, _TRIPLE = 13, 17
_OF_MLP = 4
_IN_SINGLE_PRECISION = 14


def activation_bytes(sizes: Flux2Config, config: TrainConfig, words: int = LENGTH) -> int:
    """Bytes that one backward pass keeps on each process, of the largest crop.

    Args:
        sizes: of the network.
        config: batch, crops, precision and ``recompute``.
        words: text tokens.
    """
    height, width = max(config.data.shapes, key=lambda shape: shape[0] * shape[1])
    cells = (height // sizes.patch) * (width // sizes.patch)
    tokens = words + 2 * cells
    half = config.precision == "bf16"
    value = 2 if half else 4

    def inside(factor: int) -> int:
        more = _IN_SINGLE_PRECISION * sizes.hidden if half else 0
        return (factor * sizes.hidden + _OF_MLP * sizes.mlp_hidden) * value + more

    single, triple = tokens * inside(_SINGLE), tokens * inside(_TRIPLE)
    inputs = (sizes.triple_blocks + sizes.single_blocks) * tokens + sizes.depth_blocks * cells
    insides = sizes.triple_blocks * triple + sizes.single_blocks * single + sizes.depth_blocks * cells * inside(_SINGLE)
    if config.recompute:
        insides = triple if sizes.triple_blocks else single
    return config.batch * (inputs * sizes.hidden * value + insides)
