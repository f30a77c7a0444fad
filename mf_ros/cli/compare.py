"""``mf-ros evaluate --compare``: a tuned network against the one it came from, on a data set's held-out part."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.whole_file import write_whole
from mf_ros.cli.compare_networks import check_different, network_at, network_engine, network_of
from mf_ros.cli.compare_tables import as_text
from mf_ros.cli.options import FINDINGS, OK, print_json, progress
from mf_ros.core.config import Config
from mf_ros.core.types import DoubleArray
from mf_ros.dataset.calibration import load_calibration
from mf_ros.dataset.compare.frames import Extremes
from mf_ros.dataset.compare.report import write_comparison
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.frames import chosen_rows, split_frames
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import ConfigError, MissingDependencyError, require_package
from mf_ros.evaluation.compare import BASE, SIMPLE, TUNED, Results, Scorer
from mf_ros.evaluation.compare_document import COMPARISON, comparison_document
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.gate import judge
from mf_ros.evaluation.protocol import CELL_DEG, LINE_HELD_OUT, has_lines, robot_cases

_log = logging.getLogger(__name__)

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Comparing:
    """What is to be compared on what; as the options of ``mf-ros evaluate`` say.

    Attributes:
        base, tuned: names or folders of models, or folders of runs.
        dataset: path of the data set.
        config: settings; ``engine`` of them is always used.
        own_settings: use all of ``config`` instead of the data set's settings.
        split: of the data set.
        max_frames: of each recording.
        stride: how many times fewer lines, or how many times less of a sweep, the robots have than was recorded.
        canary: number of procedural scenes; 0 leaves them out.
        gate: a failed condition is a finding.
        out: folder of the report, or None.
        calibration: file of transforms that replace recorded ones, or None.
        json: print the document instead of tables.
    """

    base: str
    tuned: str
    dataset: Path
    config: Config
    own_settings: bool
    split: str
    max_frames: int
    stride: int
    canary: int
    gate: bool
    out: Optional[Path]
    calibration: Optional[Path]
    json: bool

    def run(self) -> int:
        """Compare, print and write; 1 when the gate is asked for and fails."""
        if self.out is not None:
            make_output_folder(self.out)
        dataset = Dataset(self.dataset)
        recordings = chosen_rows(dataset, self.split, self.max_frames)
        places = {TUNED: network_at(self.tuned), BASE: network_at(self.base)}
        run = places[TUNED].run
        if run is not None:
            make_output_folder(run)
        networks = {role: network_of(place) for role, place in places.items()}
        check_different(places[TUNED], places[BASE])
        engines = {role: network_engine(self.config.engine, place) for role, place in places.items()}
        extremes = Extremes()
        held_out: List[bool] = []
        with progress("comparing") as advance:
            results = self._on_dataset(dataset, engines, extremes, held_out, advance)
        canary = self._on_scenes(engines)
        verdict = judge(results, canary)
        about = {
            "name": dataset.path.name,
            "split": self.split,
            "fingerprint": dataset.fingerprint,
            "rows": len(dataset),
            "recordings": len(recordings),
        }
        document = comparison_document(
            networks[TUNED], networks[BASE], about, _held_out_text(held_out, self.stride), results, canary, verdict
        )
        for folder in (self.out, run):
            if folder is not None:
                write_whole(folder / COMPARISON, json.dumps(document, indent=1) + "\n")
        if self.out is not None:
            write_comparison(document, extremes.frames(), self.out)
        if self.json:
            print_json(document)
        else:
            print("\n".join(as_text(document)))
            if self.out is not None:
                print(f"Report: {self.out / 'report.html'}")
        return FINDINGS if self.gate and not verdict.passed else OK

    def _on_dataset(
        self,
        dataset: Dataset,
        engines: Dict[str, DepthEngine],
        extremes: Extremes,
        held_out: List[bool],
        advance: Advance,
    ) -> Results:
        settings = self.config if self.own_settings else dataset.description.settings
        scorer = Scorer(engines, settings.projection, beside=[ClassicalEngine()], baselines=SIMPLE, hook=extremes.offer)
        for frame in self._frames(dataset, settings, advance):
            if scorer.add(frame, robot_cases(frame, self.stride)):
                held_out.append(has_lines(frame))
            else:
                _log.warning("%s/%s is not scored: no LiDAR return in the image.", frame.source, frame.name)
        if not held_out:
            raise ConfigError(f"No frame of {dataset.path.name} can be scored: no LiDAR return falls into an image.")
        return scorer.results()

    def _frames(self, dataset: Dataset, settings: Config, advance: Advance) -> Iterator[EvaluationFrame]:
        corrections: Optional[Dict[str, DoubleArray]] = None
        if self.calibration is not None:
            corrections = load_calibration(self.calibration)
        return split_frames(
            dataset,
            self.split,
            settings=settings,
            corrections=corrections,
            max_frames=self.max_frames,
            progress=advance,
        )

    def _on_scenes(self, engines: Dict[str, DepthEngine]) -> Optional[Results]:
        """Results on procedural scenes; None where they were left out."""
        if self.canary == 0:
            return None
        try:
            require_package("torch", extra="train")
        except MissingDependencyError as error:
            if self.gate:
                raise
            _log.warning("The procedural scenes are left out: %s", error)
            return None
        canary: Any = importlib.import_module("mf_training.canary")
        scorer = Scorer(engines, self.config.projection)
        with progress("procedural scenes") as advance:
            for number, (frame, case) in enumerate(canary.canary_cases(self.canary, canary.user_cache()), 1):
                scorer.add(frame, [case])
                advance(number / self.canary)
        return scorer.results("scenes")


def _held_out_text(with_lines: List[bool], stride: int) -> str:
    """What the ``deployed`` input holds out, in words."""
    lines = f"every {LINE_HELD_OUT}th scan line"
    cells = f"a random quarter of the directions, in cells of {CELL_DEG:g} degrees"
    if stride > 1:
        lines = f"every even scan line, and one of {stride} is shown"
        cells = f"the second half of the sweep, and its first 1/{stride} is shown"
    if all(with_lines):
        return lines
    if not any(with_lines):
        return cells
    return f"{lines} ({sum(with_lines)} frames), of sensors without scan lines {cells}"


def comparing(base: str, tuned: str, dataset: Path, config: Config, own_settings: bool, **options: Any) -> Comparing:
    """The comparison that the options ask for.

    Raises:
        ConfigError: they do not go together.
    """
    for name, least in (("canary", 0), ("max_frames", 1), ("stride", 1)):
        if options[name] < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {options[name]}: it takes {least} or more.")
    plain = dataclasses.replace(config, engine=Config().engine)
    if not own_settings and plain != Config():
        raise ConfigError(
            "Settings other than those of the engine are the data set's: leave them out, or give all of them with "
            "--config FILE."
        )
    return Comparing(base, tuned, dataset, config, own_settings, **options)
