"""One denoising step of a network as an ONNX graph, weights in half precision."""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mf_ros.core.types import FloatArray
from mf_ros.engine.backend import StepInput
from mf_ros.engine.onnx_backend import OUTPUTS
from mf_ros.errors import ModelError, require_package
from mf_ros.model import ModalityForcing
from mf_training.graph_network import FusedNetwork, translations

OLDEST_OPSET = 20
"""Opset for every runtime: onnxruntime from 1.17 on, TensorRT."""

# The file version that came with that opset; torch writes a newer one, which older runtimes refuse.
_OLDEST_IR = 9
_HALVED_FROM = 256
_TRACED_SIZE = (96, 160)
_LARGEST_GRID = 512
_MOST_PARAMETERS = 400_000_000


class _Step(nn.Module):
    """One denoising step with plain tensors out."""

    def __init__(self, network: ModalityForcing) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, image_level: Tensor, depth: Tensor, level: Tensor, depth_level: Tensor, prior: Tensor
    ) -> Tuple[Tensor, Tensor]:
        prediction = self.network(image, image_level, depth, level, depth_level, prior)
        return prediction.depth, prediction.log_scale


def write_graph(network: ModalityForcing, path: Path, opset: int, *, fused: bool = False) -> None:
    """Write one denoising step as ONNX: batch 1, any height and width that are multiples of 16.

    Args:
        network: what to write.
        path: the file.
        opset: of the standard operators.
        fused: also use operators of onnxruntime's own, which are faster there and unknown elsewhere.

    Raises:
        ModelError: the network is too large, or the graph is not valid.
    """
    save_graph(graph_of(network, opset, fused=fused), path)


def graph_of(network: ModalityForcing, opset: int = OLDEST_OPSET, *, fused: bool = False, half: bool = False) -> Any:
    """The graph that ``write_graph`` writes, as an ``onnx.ModelProto`` with weights in the precision of the arithmetic.

    Args:
        network: what to write.
        opset: of the standard operators.
        fused: also use operators of onnxruntime's own.
        half: compute in half precision but for the network's ends; only with ``fused``.

    Raises:
        ModelError: the network is too large.
    """
    parameters = sum(each.numel() for each in network.parameters())
    if parameters > _MOST_PARAMETERS:
        raise ModelError(
            f"The network has {parameters / 1e6:.0f} million parameters and cannot be exported: one ONNX file holds at "
            f"most 2 GB, which is enough for {_MOST_PARAMETERS / 1e6:.0f} million."
        )
    patch = network.config.patch
    sides = {2: patch * torch.export.Dim("rows", min=1, max=_LARGEST_GRID)}
    sides[3] = patch * torch.export.Dim("cols", min=1, max=_LARGEST_GRID)
    grids = {name: sides if name in ("image", "depth", "level", "prior") else None for name in StepInput._fields}
    traced = tuple(torch.from_numpy(each) for each in random_input(*_TRACED_SIZE))
    exported = FusedNetwork.of(network) if fused else network
    if half and isinstance(exported, FusedNetwork):
        exported = exported.halved()
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Step(exported).eval(),
            traced,
            dynamo=True,
            opset_version=opset,
            input_names=StepInput._fields,
            output_names=OUTPUTS,
            dynamic_shapes=tuple(grids.values()),
            custom_translation_table=translations(),
            verbose=False,
        )
    model = program.model_proto
    if opset == OLDEST_OPSET:
        model.ir_version = _OLDEST_IR
    _strip(model)
    return model


def save_graph(model: Any, path: Path) -> None:
    """Write an ``onnx.ModelProto`` with its large weights in half precision.

    Raises:
        ModelError: the graph is not valid.
    """
    onnx = require_package("onnx", extra="train")
    _halve(model, onnx)
    onnx.save(model, str(path))
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"The exported graph is not valid: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of packages that are not needed; errors it raises."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip(model: Any) -> None:
    """Remove where in the sources each node came from: it is most of a small graph, and holds paths."""
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    model.graph.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""


def _halve(model: Any, onnx: Any) -> None:
    """Store large weights in half precision, each with a Cast that runtimes compute once, when they load the graph."""
    kinds = onnx.TensorProto
    casts: List[Any] = []
    for weight in model.graph.initializer:
        if weight.data_type != kinds.FLOAT or int(np.prod(weight.dims)) < _HALVED_FROM:
            continue
        name = weight.name
        values = onnx.numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=kinds.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def widened(model: Any) -> None:
    """Turn the weights of a graph of ``save_graph`` into single precision again, in place."""
    onnx = require_package("onnx", extra="train")
    halves = {weight.name: weight for weight in model.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in halves]:
        values = onnx.numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        halves[node.input[0]].CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)


def random_input(height: int, width: int) -> StepInput:
    """A step's input with returns at a third of the pixels."""
    rng = np.random.default_rng(height * width)

    def normal(channels: int, size: float) -> FloatArray:
        return rng.normal(0, size, (1, channels, height, width)).astype(np.float32)

    known = rng.random((1, 1, height, width)) < 1 / 3
    one = np.ones(1, np.float32)
    prior = normal(1, 0.3)
    depth = np.where(known, prior + normal(1, 0.05), 0).astype(np.float32)
    return StepInput(np.tanh(normal(3, 1.0)), 0 * one, depth, np.where(known, 0, 1).astype(np.float32), one, prior)
