"""From a checkpoint to the folder that the engine loads: weights, ONNX graph, description, self-test, model card.

Weights are stored in half precision and computed with in single precision. What is written is run and compared before
it appears under its name; a graph that computes something else than torch never does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mf_ros.core.conditioning import condition, to_depth
from mf_ros.core.config import EngineConfig
from mf_ros.core.types import ByteArray, FloatArray
from mf_ros.engine.bundle import (
    CARD,
    CONFIG,
    FORMAT,
    GRAPH,
    REFERENCE,
    REFERENCE_SIZE,
    WEIGHTS,
    Bundle,
    Calibration,
    Processing,
    load_bundle,
)
from mf_ros.engine.network import complete
from mf_ros.engine.onnx_backend import OnnxBackend
from mf_ros.engine.selftest import self_test
from mf_ros.engine.torch_backend import TorchBackend
from mf_ros.errors import ModelError, require_package
from mf_ros.evaluation.compare_document import file_sha256
from mf_ros.model import ModalityForcing, ModelConfig
from mf_training.calibration import calibrate
from mf_training.card import comparison_of, comparison_summary, model_card, origin_of
from mf_training.checkpoints import (
    Checkpoint,
    CheckpointError,
    best_checkpoint,
    latest_checkpoint,
    load_weights,
    read_checkpoint,
)
from mf_training.graph import OLDEST_OPSET, random_input, write_graph
from mf_training.lora import load_merged
from mf_training.recipe import kind_of
from mf_training.settings import train_config_from_mapping
from mf_training.variants import FILES, with_figures, write_variants

_log = logging.getLogger(__name__)

OPSETS = (OLDEST_OPSET, 23)
"""20 has attention as onnxruntime's own operator, from 1.17 on; 23 as one of ONNX itself, for recent runtimes."""
LICENCE = "Apache-2.0"
"""Of weights that are trained on nothing but this project's own scenes."""
TOLERANCE = 1e-3
"""Largest relative difference of depth between the graph and torch."""

_LARGEST_HALF = 65504.0
_CHECKED_SIZES = ((64, 96), (128, 80))


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        folder: the model's folder.
        parameters: number of weights.
        difference: largest relative difference of depth between the graph and torch; None without a graph.
        sizes: bytes of each file.
    """

    folder: Path
    parameters: int
    difference: Optional[float]
    sizes: Mapping[str, int]


def export_run(
    source: Path,
    out: Path,
    *,
    opset: Optional[int] = None,
    metrics: Optional[Mapping[str, Any]] = None,
    licence: str = LICENCE,
    calibrated: bool = False,
    base: str = "",
    variants: Collection[str] = (),
) -> Exported:
    """Export a checkpoint; adapters are merged into the weights they belong to.

    Graphs and corrected uncertainty are of this project's own network; other families write weights and a card.

    Args:
        source: a run's folder, whose best checkpoint is taken, else its last; or the folder of one checkpoint.
        out: the model's folder; a model in it is replaced.
        opset: of the ONNX graph; None takes the first of ``OPSETS``.
        metrics: results for the model card, as tables: title to rows, each of column to value.
        licence: SPDX identifier of the weights' licence.
        calibrated: correct the uncertainty by what the run's held-out scenes show.
        base: where the weights lie that adapters belong to, if no longer where the run found them.
        variants: further graphs, of ``mf_training.variants.VARIANTS``.

    Raises:
        CheckpointError: there is no checkpoint, or its weights cannot be used.
        ConfigError: graphs or a corrected uncertainty are asked for of a network without them.
        DataError: the uncertainty is to be corrected and nothing is held out.
        ModelError: the graph does not compute what torch does, or ``out`` holds something else than a model.
    """
    folder, state = find_checkpoint(source)
    asked = {"--opset": opset is not None, "--calibrate": calibrated, **{f"--{name}": True for name in variants}}
    done = kind_of(state["config"]["model"]).export(
        read_checkpoint(folder),
        out,
        base=base,
        licence=licence,
        metrics=metrics or {},
        graph_options=[name for name, given in asked.items() if given],
    )
    if done is not None:
        return done
    config = ModelConfig.from_mapping(state["config"]["model"])
    network = ModalityForcing(config)
    if "base" in state:
        load_merged(read_checkpoint(folder), train_config_from_mapping(state["config"]).lora, network, base)
    else:
        load_weights(folder, network)
    training = {**training_of(state), **origin_of(state)}
    calibration = None
    if calibrated:
        round_to_half(network)
        settings = train_config_from_mapping(state["config"])
        calibration = calibrate(network, settings, processing_of(network))
    return export_network(
        network,
        out,
        opset=opset or OPSETS[0],
        metrics=metrics,
        licence=licence,
        training=training,
        calibration=calibration,
        run=folder.parent,
        variants=variants,
    )


def find_checkpoint(source: Path) -> Tuple[Path, Mapping[str, Any]]:
    """The checkpoint meant by a run's folder or its own, and its state.

    Raises:
        CheckpointError: there is none, or it does not say what network it is of.
    """
    if (source / "state.json").is_file():
        found: Optional[Checkpoint] = read_checkpoint(source)
    else:
        found = best_checkpoint(source) or latest_checkpoint(source)
    if found is None:
        raise CheckpointError(f"{source} is no run and no checkpoint: name the folder that mf-ros train wrote.")
    config = found.state.get("config")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{found.path / 'state.json'} does not say what network it is of.")
    return found.path, found.state


def training_of(state: Mapping[str, Any]) -> Dict[str, Any]:
    """What a checkpoint's state says of its training, without the paths of the machine it ran on."""
    config, tally = state["config"], state.get("tally") or {}
    names = ("seed", "batch", "accumulate", "precision", "ema", "optimiser", "schedule", "lora", "samples", "losses")
    return {
        "steps": state.get("step"),
        **{name: tally[name] for name in ("samples", "flops", "seconds") if name in tally},
        "settings": {name: config[name] for name in names if name in config},
        "shapes": (config.get("data") or {}).get("shapes"),
        "shares": (config.get("data") or {}).get("mix"),
    }


def processing_of(network: ModalityForcing) -> Processing:
    """How the input of a network is prepared once it is exported."""
    return Processing(multiple=network.config.patch)


def export_network(
    network: ModalityForcing,
    out: Path,
    *,
    opset: int = OPSETS[0],
    metrics: Optional[Mapping[str, Any]] = None,
    licence: str = LICENCE,
    training: Optional[Mapping[str, Any]] = None,
    calibration: Optional[Calibration] = None,
    run: Optional[Path] = None,
    variants: Collection[str] = (),
) -> Exported:
    """Export a network; ``out`` appears when everything in it is written and checked.

    Args:
        network: with the weights to ship; they are rounded to half precision in place.
        out: the model's folder; a model in it is replaced.
        opset: of the ONNX graph.
        metrics: results for the model card.
        licence: SPDX identifier of the weights' licence.
        training: how it was trained, kept in config.json.
        calibration: corrections measured after training.
        run: folder of the run it is of; a comparison of these weights that lies there goes into the model card.
        variants: further graphs, of ``mf_training.variants.VARIANTS``.

    Raises:
        ModelError: the graph does not compute what torch does, weights do not fit half precision, or ``out`` holds
            something else than a model.
    """
    require_package("onnxscript", extra="train")
    if opset not in OPSETS:
        raise ModelError(f"There is no export to opset {opset}: choose {' or '.join(map(str, OPSETS))}.")
    out = out.resolve()
    check_replaceable(out)
    with whole_folder(out) as part:
        round_to_half(network)
        save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, part / WEIGHTS)
        kept = dict(training or {})
        comparison = None if run is None else comparison_of(run, file_sha256(part / WEIGHTS))
        if comparison is not None:
            kept["comparison"] = comparison_summary(comparison)
        description = {
            "format": FORMAT,
            "model": network.config.to_mapping(),
            "processing": dataclasses.asdict(processing_of(network)),
            "calibration": dataclasses.asdict(calibration or Calibration()),
            "training": kept,
            "licence": licence,
        }
        (part / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        write_graph(network.eval(), part / GRAPH, opset, fused=opset == OLDEST_OPSET)
        bundle, on_cpu = load_bundle(str(part)), EngineConfig(device="cpu")
        in_torch, graph = TorchBackend(bundle, on_cpu), OnnxBackend(bundle, on_cpu)
        write_reference(bundle, in_torch)
        difference = compare(graph, in_torch)
        self_test(bundle, graph)
        parameters = sum(each.numel() for each in network.parameters())
        card = model_card(out.name, bundle, parameters, opset, metrics or {}, kept, comparison)
        figures = write_variants(network, part, variants)
        (part / CONFIG).write_text(json.dumps({**description, "graphs": figures}, indent=2) + "\n", encoding="utf-8")
        (part / CARD).write_text(with_figures(card, figures), encoding="utf-8")
    return Exported(out, parameters, difference, {path.name: path.stat().st_size for path in sorted(out.iterdir())})


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``out`` once all is written; nothing of it stays otherwise."""
    part = out.parent / f".{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.iterdir():
            # safetensors writes files for their owner only, and a robot may run a model as another user.
            file.chmod(0o644)
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Refuse a folder that anything but a model would be lost with.

    Raises:
        ModelError: ``out`` exists, is not empty, and holds no model or something beside it.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    known = (CONFIG, WEIGHTS, GRAPH, REFERENCE, CARD, *FILES)
    foreign = (
        [path.name for path in out.iterdir() if path.name not in known or not path.is_file()] if out.is_dir() else []
    )
    if foreign:
        raise ModelError(f"{out} also holds {min(foreign)}, which is no part of a model: name a new folder.")
    try:
        load_bundle(str(out))
    except ModelError as error:
        raise ModelError(f"{out} holds something else than a model: name a new folder ({error})") from error


def round_to_half(network: nn.Module) -> None:
    """Round the weights to what half precision holds, so that every file describes the same network.

    Raises:
        ModelError: a weight is not finite or too large.
    """
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not bool((value.abs() <= _LARGEST_HALF).all()):
                raise ModelError(f"The weights {name} do not fit half precision: the training has diverged.")
            value.copy_(value.half().float())


def reference_input() -> Tuple[ByteArray, FloatArray]:
    """A frame for the self-test: a box in front of a slanted wall. (H, W, 3) uint8 RGB and (H, W) sparse metres."""
    rows, cols = np.mgrid[0 : REFERENCE_SIZE[0], 0 : REFERENCE_SIZE[1]]
    box = (rows > 20) & (rows < 50) & (cols > 30) & (cols < 60)
    depth = np.where(box, 4.0, 1.0 / (0.04 + 0.001 * rows + 0.0005 * cols))
    checks = (rows // 6 + cols // 6) % 2
    image = np.stack([np.where(box, 190, 60) + 40 * checks, 2 * rows + 60, 255 - 2 * cols], 2)
    lines = (rows % 6 == 2) & (cols % 3 == 1)
    return np.clip(image, 0, 255).astype(np.uint8), np.where(lines, depth, 0.0).astype(np.float32)


def write_reference(bundle: Bundle, in_torch: TorchBackend) -> None:
    """Store a frame and what torch makes of it, for the self-test of every engine."""
    image, sparse = reference_input()
    done = complete(bundle, in_torch, image, condition(sparse))
    depth = to_depth(done.log_ratio, done.conditioning.scale)
    np.savez_compressed(bundle.folder / REFERENCE, image=image, sparse=sparse, depth=depth, log_scale=done.log_scale)


def compare(graph: OnnxBackend, in_torch: TorchBackend) -> float:
    """The largest relative difference of depth between the graph in onnxruntime and torch, at sizes not traced.

    Raises:
        ModelError: it is more than ``TOLERANCE``.
    """
    worst = 0.0
    for size in _CHECKED_SIZES:
        inputs = random_input(*size)
        found, wanted = graph.step(inputs), in_torch.step(inputs)
        worst = max(worst, float(np.max(np.abs(np.expm1(found.depth - wanted.depth)))))
    if not worst <= TOLERANCE:
        raise ModelError(
            f"The exported graph differs from torch by up to {worst:.2g} of the depth ({TOLERANCE:g} is allowed): "
            "this version of torch exports it wrongly; try the one in constraints.txt."
        )
    return worst
