"""Operations of a network's matrix products and convolutions, from the shapes of what goes in and comes out."""

from __future__ import annotations

import math
from typing import Sequence, Tuple

Shape = Tuple[int, ...]

CONVOLUTION, PRODUCT = "convolutions", "matrix products"

# Operator: what it is counted as, and which of its inputs holds a convolution's kernel.
_CONVOLUTIONS = {
    "Conv": 1,
    "FusedConv": 1,
    "NhwcFusedConv": 1,
    "NhwcConv": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
    "ConvTranspose": 1,
}
_PRODUCTS = (
    "MatMul",
    "FusedMatMul",
    "Gemm",
    "FusedGemm",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "MatMulNBits",
)
_ATTENTION = ("Attention", "MultiHeadAttention")


def family(operator: str) -> str:
    """``CONVOLUTION``, ``PRODUCT``, or "" for an operator that is not counted."""
    if operator in _CONVOLUTIONS:
        return CONVOLUTION
    return PRODUCT if operator in _PRODUCTS or operator in _ATTENTION else ""


def operations(operator: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    """How many sums and products one node computes; 0 for an operator that is neither product nor convolution.

    Args:
        operator: its ONNX name.
        inputs: shapes of its inputs, in order, weights among them.
        outputs: shapes of its outputs.
    """
    if operator == "ConvTranspose":
        # Every input value goes through the kernel: C_in, C_out / groups, then the window.
        return 2.0 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if operator in _CONVOLUTIONS:
        # The kernel's own shape is C_out, C_in / groups, then the window: groups are in it.
        return 2.0 * math.prod(outputs[0]) * math.prod(inputs[_CONVOLUTIONS[operator]][1:])
    if operator in ("Gemm", "FusedGemm", "QGemm"):
        # Either factor may be transposed; the inner length is what remains of the first one.
        return 2.0 * math.prod(outputs[0]) * math.prod(inputs[0]) / outputs[0][0]
    if operator in _PRODUCTS:
        return 2.0 * math.prod(outputs[0]) * inputs[0][-1]
    if operator in _ATTENTION:
        # Scores of every query with every key, then the weighted sum of the values.
        query, key = inputs[0], inputs[1]
        return 2.0 * (math.prod(query) + math.prod(outputs[0])) * key[-2]
    return 0.0
