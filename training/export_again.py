"""The graphs of a model anew from its weights, as this version writes them, with further ones where asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Collection

from mf_ros.core.config import EngineConfig
from mf_ros.engine.bundle import CARD, CONFIG, GRAPH, REFERENCE, WEIGHTS, load_bundle
from mf_ros.engine.onnx_backend import OnnxBackend
from mf_ros.engine.selftest import self_test
from mf_ros.engine.torch_backend import TorchBackend, load_network
from mf_ros.errors import require_package
from mf_training.export import Exported, check_replaceable, compare, whole_folder
from mf_training.graph import OLDEST_OPSET, write_graph
from mf_training.variants import with_figures, write_variants


def export_again(source: Path, out: Path, *, opset: int = OLDEST_OPSET, variants: Collection[str] = ()) -> Exported:
    """Write a model's graphs again; its weights, description and self-test stay as they are.

    Args:
        source: folder of a model.
        out: the folder to write, which may be the same; a model in it is replaced.
        opset: of the graph.
        variants: further graphs, of ``mf_training.variants.VARIANTS``.

    Raises:
        ModelError: ``source`` is damaged, ``out`` holds something else, or a graph does not compute what torch does.
    """
    require_package("onnxscript", extra="train")
    out = out.resolve()
    check_replaceable(out)
    bundle = load_bundle(str(source))
    network = load_network(bundle).eval()
    with whole_folder(out) as part:
        for name in (CONFIG, WEIGHTS, REFERENCE):
            shutil.copyfile(bundle.file(name), part / name)
        write_graph(network, part / GRAPH, opset, fused=opset == OLDEST_OPSET)
        copied, on_cpu = load_bundle(str(part)), EngineConfig(device="cpu")
        graph = OnnxBackend(copied, on_cpu)
        difference = compare(graph, TorchBackend(copied, on_cpu))
        self_test(copied, graph)
        figures = write_variants(network, part, variants)
        description = json.loads((part / CONFIG).read_text(encoding="utf-8"))
        (part / CONFIG).write_text(json.dumps({**description, "graphs": figures}, indent=2) + "\n", encoding="utf-8")
        card = source / CARD
        if card.is_file():
            text = with_figures(card.read_text(encoding="utf-8"), figures)
            (part / CARD).write_text(text, encoding="utf-8")
    parameters = sum(each.numel() for each in network.parameters())
    return Exported(out, parameters, difference, {path.name: path.stat().st_size for path in sorted(out.iterdir())})
