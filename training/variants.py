"""Further graphs of a model, beside the one in single precision: half precision, integers, operators of ONNX alone.

Each is run and passes the self-test before it is kept; of integers the depth is also judged on procedural scenes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Collection, Dict, List

from mf_ros.core.config import EngineConfig
from mf_ros.engine.bundle import GRAPHS, PLAIN, load_bundle
from mf_ros.engine.onnx_backend import OnnxBackend
from mf_ros.engine.selftest import self_test
from mf_ros.model import ModalityForcing
from mf_training.graph import OLDEST_OPSET, graph_of, save_graph, write_graph
from mf_training.quantise import judge_int8, write_int8

VARIANTS = ("float16", "int8", "plain")
"""Graphs that are written where they are asked for; ``plain`` is for TensorRT and runtimes other than onnxruntime."""

_SAYS = "- `engine.precision:"

FILES = (GRAPHS["float16"], GRAPHS["int8"], PLAIN)
"""Their files, in the same order."""


def write_variants(network: ModalityForcing, folder: Path, names: Collection[str]) -> Dict[str, Dict[str, float]]:
    """Write further graphs into a model's folder.

    Args:
        network: with the weights that the folder holds.
        folder: of the model, complete but for these.
        names: some of ``VARIANTS``.

    Returns:
        Figures by name: ``self_test``, and for integers how they were judged.

    Raises:
        ModelError: one of them computes something else, or its depth is worse than allowed.
    """
    bundle = load_bundle(str(folder))
    figures: Dict[str, Dict[str, float]] = {}
    for name in names:
        if name == "plain":
            write_graph(network, folder / PLAIN, OLDEST_OPSET)
            continue
        write = write_int8 if name == "int8" else write_float16
        write(network, folder / GRAPHS[name])
        backend = OnnxBackend(bundle, EngineConfig(device="cpu", precision=name))  # type: ignore[arg-type]
        figures[name] = {"self_test": self_test(bundle, backend)}
    if "int8" in names:
        figures["int8"].update(dataclasses.asdict(judge_int8(folder)))
    return figures


def with_figures(card: str, figures: Dict[str, Dict[str, float]]) -> str:
    """A model card that says what further graphs the model has; what it said of them before is replaced."""
    lines = [line for line in card.splitlines() if not line.startswith(_SAYS)]
    place = next((number for number, line in enumerate(lines, 1) if line.startswith("- loaded by")), len(lines))
    lines[place:place] = _lines(figures)
    return "\n".join(lines) + "\n"


def _lines(figures: Dict[str, Dict[str, float]]) -> List[str]:
    lines = []
    if "float16" in figures:
        difference = 100 * figures["float16"]["self_test"]
        lines.append(f"{_SAYS} float16`, for GPUs: depth of the self-test differs by up to {difference:.2g}%")
    if "int8" in figures:
        found = figures["int8"]
        lines.append(
            f"{_SAYS} int8`, for CPUs: error of log depth {found['error_int8']:.4f} on {found['scenes']:.0f} held-out "
            f"procedural scenes, {found['error']:.4f} in single precision ({100 * found['change']:+.2f}% for the mean "
            "scene)"
        )
    return lines


def write_float16(network: ModalityForcing, path: Path) -> None:
    """Write one denoising step in half precision but for its ends."""
    save_graph(graph_of(network, fused=True, half=True), path)
