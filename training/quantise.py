"""A graph that computes with 8-bit integers, calibrated on procedural scenes, and whether its depth is as good.

The convolutions of the stem and of the decoder and the matrix products of the transformer are quantised; what reads
pixels, what writes them, attention and its projection, norms and the noise levels stay in single precision. No recorded
frame is looked at: calibration and gate use procedural scenes, each its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from mf_ros.core.config import EngineConfig
from mf_ros.core.pixels import network_image
from mf_ros.core.types import AnyArray, FloatArray
from mf_ros.engine.backend import Backend, StepInput
from mf_ros.engine.bundle import GRAPH, load_bundle
from mf_ros.engine.onnx_backend import OnnxBackend
from mf_ros.errors import ModelError, require_package
from mf_ros.model import ModalityForcing
from mf_training.config import DataConfig, SceneSourceConfig, TrainConfig
from mf_training.data import heldout_batches, open_parts
from mf_training.graph import save_graph, widened
from mf_training.samples import collate, make_sample

LARGEST_CHANGE = 0.02
"""Part by which the mean error on held-out procedural scenes may be larger than in single precision."""

CALIBRATION_SCENES = (2_000_000_000, 16)
"""First seed and number of the scenes that tell the ranges of values."""
GATE_SCENES = (SceneSourceConfig().heldout_first_seed, 32)
"""First seed and number of the scenes that the gate judges by: those that no training sees."""

_SHAPE = (192, 384)
_MEASURED = 0.99
_QUANTISED = (".quarter.", ".eighth.")
_LAST_BLOCK = "depth_decoder.quarter.{}."


@dataclass(frozen=True)
class Gate:
    """How the integer graph compares with single precision on held-out procedural scenes.

    Attributes:
        scenes: how many of them have returns and truth.
        error: mean absolute error of log depth in single precision.
        error_int8: the same of the integer graph.
        change: part by which a scene's error grows, as a geometric mean over the scenes.
        difference: mean absolute difference of log depth between the two.
    """

    scenes: int
    error: float
    error_int8: float
    change: float
    difference: float

    def __str__(self) -> str:
        return (
            f"error of log depth {self.error:.4f} in float32, {self.error_int8:.4f} in int8 on {self.scenes} held-out "
            f"procedural scenes, {100 * self.change:+.2f}% for the mean scene; at most {100 * LARGEST_CHANGE:+g}% is "
            f"allowed; depth differs by {100 * self.difference:.2f}% on average"
        )


@dataclass(frozen=True)
class Case:
    """A procedural sample as the engine would ask the network about it.

    Attributes:
        inputs: of one step.
        target: (H, W) float32 log of true depth over the scale.
        measured: (H, W) bool, where a sensor would have measured it.
    """

    inputs: StepInput
    target: FloatArray
    measured: AnyArray


def write_int8(network: ModalityForcing, path: Path) -> None:
    """Write one denoising step with 8-bit integers, as QDQ nodes that onnxruntime turns into integer kernels.

    Args:
        network: whose graph in single precision lies beside ``path``.
        path: the file.

    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    quantization = require_package("onnxruntime.quantization", extra="train")
    onnx = require_package("onnx", extra="train")
    graph = onnx.load(str(path.with_name(GRAPH)))
    widened(graph)
    last = _LAST_BLOCK.format(network.config.blocks[0] - 1)
    # onnxruntime's quantiser cannot tell the type of what its own operators put out.
    unknown = {name for node in graph.graph.node if node.domain for name in node.output}
    chosen = [
        node.name for node in graph.graph.node if _is_quantised(node, last) and not unknown.intersection(node.input)
    ]
    with _quiet():
        quantization.quantize_static(
            graph,
            str(path),
            _Reader(quantization, procedural_cases(*CALIBRATION_SCENES)),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=chosen,
            op_types_to_quantize=["Conv", "MatMul"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibration_providers=["CPUExecutionProvider"],
        )
    save_graph(onnx.load(str(path)), path)


def judge_int8(folder: Path) -> Gate:
    """Compare a model's integer graph with its graph in single precision.

    Raises:
        ModelError: the error on held-out procedural scenes grows by more than ``LARGEST_CHANGE``, or cannot be told.
    """
    bundle = load_bundle(str(folder))
    backends = [
        OnnxBackend(bundle, EngineConfig(device="cpu", precision=precision))  # type: ignore[arg-type]
        for precision in ("float32", "int8")
    ]
    found = [figures for case in procedural_cases(*GATE_SCENES) if (figures := _errors(backends, case)) is not None]
    if not found:
        raise ModelError("The integer graph cannot be judged: no held-out scene has returns and truth.")
    errors = np.array(found)
    ratio = np.log(np.maximum(errors[:, 1], 1e-9) / np.maximum(errors[:, 0], 1e-9))
    means = errors.mean(0)
    gate = Gate(len(errors), float(means[0]), float(means[1]), math.expm1(float(ratio.mean())), float(means[2]))
    if not gate.change <= LARGEST_CHANGE:
        raise ModelError(f"The integer graph is refused: {gate}; export without --int8.")
    return gate


def procedural_cases(first: int, number: int) -> List[Case]:
    """Samples of the procedural scenes with these seeds, without false returns; the same ones every time."""
    default = TrainConfig()
    config = TrainConfig(
        batch=1,
        data=DataConfig(
            workers=0, shapes=(_SHAPE,), scenes=SceneSourceConfig(heldout_first_seed=first, heldout=number)
        ),
        samples=dataclasses.replace(default.samples, photometric=False, outliers=0.0, ghosts=0.0),
    )
    batches = heldout_batches(
        open_parts(config.data),
        lambda scene, rng, shape, samples: make_sample(scene, rng, shape, samples),
        collate,
        config,
        rank=0,
        world=1,
    )
    return [
        _case({name: value.numpy() for name, value in batch.items()}, network_image(batch["image"].float()).numpy())
        for batch in batches["scenes"]
    ]


def _case(batch: Dict[str, AnyArray], image: FloatArray) -> Case:
    clean = np.zeros(1, np.float32)
    inputs = StepInput(image, clean, batch["depth"], batch["level"], clean + 1, batch["prior"])
    truth, scale = batch["truth"][0, 0], float(batch["scale"][0])
    measured = (batch["weight"][0, 0] > _MEASURED) & (truth > 0) & np.isfinite(truth)
    return Case(inputs, np.log(np.where(measured, truth, scale) / scale).astype(np.float32), measured)


def _errors(backends: List[Backend], case: Case) -> Tuple[float, float, float] | None:
    """Mean error of each of two backends and their mean difference; None where there are no returns or no truth."""
    if not case.measured.any() or not (case.inputs.level < 1).any():
        return None
    plain, integer = (each.step(case.inputs).depth[0, 0] for each in backends)
    errors = [float(np.abs(each - case.target)[case.measured].mean()) for each in (plain, integer)]
    return errors[0], errors[1], float(np.abs(plain - integer).mean())


def _is_quantised(node: Any, last: str) -> bool:
    if node.op_type == "Conv":
        return any(part in node.input[1] for part in _QUANTISED) and last not in node.input[1]
    return bool(node.op_type == "MatMul")


class _Reader:
    """The samples as onnxruntime's calibration reads them."""

    def __init__(self, quantization: Any, cases: List[Case]) -> None:
        self._cases = iter(cases)

    def get_next(self) -> Dict[str, AnyArray] | None:
        """The next sample, None at the end."""
        case = next(self._cases, None)
        return None if case is None else dict(case.inputs._asdict())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantiser advises through the root logger, of passes that this graph does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
