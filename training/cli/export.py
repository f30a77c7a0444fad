"""``mf-ros export``: a trained network as the folder that the engine loads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from mf_ros.cli.options import OK, Options, print_json
from mf_ros.engine.bundle import CONFIG, WEIGHTS, shipped_folder
from mf_ros.errors import ConfigError
from mf_training.checkpoints import read_json
from mf_training.export import LICENCE, OPSETS, Exported, export_run
from mf_training.export_again import export_again
from mf_training.variants import VARIANTS


@dataclass(kw_only=True)
class Export(Options):
    """Write a trained network as a folder for engine.model: weights, ONNX graph, description, self-test, model card.

    Takes the best checkpoint of a run, or the one that is named. The graph is run with onnxruntime at sizes it was not
    traced with and compared with torch; the folder appears only if depth differs by less than a thousandth.

    The model card says what the network was trained from and on, and how it compares with its base where
    mf-ros evaluate --compare left a comparison of these weights in the run's folder.

    The name or folder of a model writes its graphs again, for other graphs of the same weights. Integers are calibrated
    and judged on procedural scenes, which takes a minute; they are refused, with the figures, where depth on the scenes
    held out gets more than 2% worse.

    Examples:
        mf-ros export runs/nano --out my_model
        mf-ros export runs/nano/step_00020000 --out my_model --opset 23
        mf-ros export nano --out my_nano --float16 --plain
        mf-ros replay my_bag --out out --model my_model
    """

    source: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")]]
    """Folder of a run or of one of its checkpoints; or a model, to write its graphs again."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """The model's folder; a model in it is replaced."""
    opset: Optional[Literal[20, 23]] = None
    """ONNX operators: 20, the default, with onnxruntime's own, from 1.17 on; 23 has ONNX's alone, for recent
    runtimes."""
    int8: bool = False
    """Also write a graph of 8-bit integers, for engine.precision int8 on CPUs."""
    float16: bool = False
    """Also write a graph in half precision, for GPUs."""
    plain: bool = False
    """Also write a graph of ONNX operators alone, for TensorRT and other runtimes."""
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
        variants = [name for name in VARIANTS if getattr(self, name)]
        model = shipped_folder(str(self.source)) or self.source
        if (model / WEIGHTS).is_file() and (model / CONFIG).is_file():
            self._refuse_what_is_of_runs()
            return self._say(export_again(model, self.out, opset=self.opset or OPSETS[0], variants=variants))
        metrics = None if self.metrics is None else read_json(self.metrics)
        done = export_run(
            self.source,
            self.out,
            opset=self.opset,
            metrics=metrics,
            licence=self.licence,
            calibrated=self.calibrate,
            base=self.base,
            variants=variants,
        )
        return self._say(done)

    def _refuse_what_is_of_runs(self) -> None:
        """Say what would do nothing where a model's graphs are written again."""
        asked = {
            "--metrics": self.metrics is not None,
            "--licence": self.licence != LICENCE,
            "--base": bool(self.base),
            "--calibrate": self.calibrate,
        }
        given = [name for name, is_given in asked.items() if is_given]
        if given:
            raise ConfigError(
                f"{self.source} is a model, of which the graphs alone are written again: leave {' and '.join(given)} "
                "out, or name the run that it was exported from."
            )

    def _say(self, done: Exported) -> int:
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
