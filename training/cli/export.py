"""``mf-ros export``: a trained network as the folder that the engine loads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from mf_ros.cli.options import OK, Options, print_json
from mf_training.checkpoints import read_json
from mf_training.export import LICENCE, export_run


@dataclass(kw_only=True)
class Export(Options):
    """Write a trained network as a folder for engine.model: weights, ONNX graph, description, self-test, model card.

    Takes the best checkpoint of a run, or the one that is named. The graph is run with onnxruntime at sizes it was not
    traced with and compared with torch; the folder appears only if depth differs by less than a thousandth.

    The model card says what the network was trained from and on, and how it compares with its base where
    mf-ros evaluate --compare left a comparison of these weights in the run's folder.

    Examples:
        mf-ros export runs/nano --out my_model
        mf-ros export runs/nano/step_00020000 --out my_model --opset 23
        mf-ros replay my_bag --out out --model my_model
    """

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")]]
    """Folder of a run or of one of its checkpoints."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """The model's folder; a model in it is replaced."""
    opset: Literal[20, 23] = 20
    """ONNX operators: 20 runs everywhere, TensorRT included; 23 may be faster on a recent onnxruntime."""
    metrics: Annotated[Optional[Path], tyro.conf.arg(metavar="FILE")] = None
    """JSON of results for the model card: title to rows of a table."""
    licence: Annotated[str, tyro.conf.arg(metavar="SPDX")] = LICENCE
    """Licence of the weights, which depends on what they were trained on."""

    base: Annotated[str, tyro.conf.arg(metavar="WEIGHTS")] = ""
    """Of a run with adapters: the weights it started from, if they no longer lie where they lay."""
    calibrate: bool = False
    """Correct the uncertainty by what the run's held-out scenes show; makes those that are not cached."""

    def run(self) -> int:
        """Export and say what was written."""
        metrics = None if self.metrics is None else read_json(self.metrics)
        done = export_run(
            self.source,
            self.out,
            opset=self.opset,
            metrics=metrics,
            licence=self.licence,
            calibrated=self.calibrate,
            base=self.base,
        )
        if self.json:
            print_json(dataclasses.asdict(done))
            return OK
        files = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in done.sizes.items())
        print(f"{done.folder}: {done.parameters / 1e6:.1f} million parameters; {files}")
        engine = " --engine flux" if done.difference is None else ""
        if done.difference is not None:
            print(f"The graph differs from torch by up to {done.difference:.1e} of the depth.")
        print(f"Next: mf-ros replay BAG --out out{engine} --model {self.out}")
        return OK
