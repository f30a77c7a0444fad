"""``mf-ros evaluate``: accuracy on held-out LiDAR returns, for an engine and baselines, or for two networks."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Callable, Iterator, Sequence, Tuple

import cv2
import numpy as np
import tyro

from mf_ros.bags.evaluation_frames import bag_frames, sequence_frames
from mf_ros.cli.bag_options import EngineOptions, File, Folder, Word, engine_text, with_engine
from mf_ros.cli.evaluate_pictures import picture_hook
from mf_ros.cli.evaluate_sequence import sequence_json, sequence_text
from mf_ros.cli.evaluate_tables import as_json, as_text
from mf_ros.cli.options import FINDINGS, OK, print_json, progress
from mf_ros.core.config import Config
from mf_ros.engine import make_engine
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import ConfigError
from mf_ros.evaluation.frames import EvaluationFrame, load_frames
from mf_ros.evaluation.run import evaluate
from mf_ros.evaluation.sequence import evaluate_sequence

_log = logging.getLogger(__name__)

_WITH_COMPARE = ("gate", "out", "split", "stride", "canary", "calibration")
_WITHOUT_SEQUENCE = ("points", "outliers", "grey_image", "max_frames", "save_pictures")
_WITHOUT_COMPARE = (
    *("sequence", "lines", "points", "outliers", "grey_image", "model", "accept_noncommercial", "save_pictures"),
    *("image_topic", "camera_info_topic", "points_topic", "start", "duration", "ros_distro"),
)


@dataclass(kw_only=True)
class Evaluate(EngineOptions):
    """Measure how accurate depth is where the LiDAR was not shown, beside simple baselines.

    The input is every k-th odd ring, the truth all even rings (without rings: a random half), scored with all truth
    and without the returns that the camera cannot see. PATH is a bag, or a folder of frames: SOURCE/FRAME/image.png
    with calib.json and points.npz or depth.npz. Times are milliseconds per frame with OpenCV on one
    thread, and the network too unless engine.threads says otherwise.

    An engine that can do without returns is also scored on the image alone, input "none": that depth has no metric
    scale, so it is multiplied by the median ratio of truth to depth first.

    Prints one table per source, input and kind of truth, then how far the engine's uncertainty can be believed, depth
    without returns, and what it comes to. --json prints a list of records {source, input, engine, truth, mae, rmse,
    imae, irmse, absrel, delta1, median, ms, frames, metric, coverage50, coverage90, mae90, mae80, mae60, absrel90,
    absrel80, absrel60}: metres; imae and irmse in 1/km; coverage of the 50% and 90% intervals; mae90 is the MAE of the
    90% of the pixels that are most confident; null where it does not apply. Baselines marked +cull were given the
    input without the returns hidden from the camera.

    --compare judges a tuned network against the one it came from, on the part of a data set of mf-ros extract that
    training does not see: on every 4th scan line (without lines on a quarter of the directions), at half and at a
    quarter of the density, on the image alone, and on procedural scenes that show what was forgotten. --gate makes it
    an error when the tuned network is not better on the data set, or more than 2% worse on one of the last two.

    --sequence scores all frames in order, without and with the reuse of earlier ones (the settings temporal.*), and
    how much depth flickers; --json then prints {lines, engine, reuse, mae, rmse, flicker, ms, frames}.

    Examples:
        mf-ros evaluate my_bag --lines 32,16,8
        mf-ros evaluate my_bag --lines 8 --sequence --lidar.fixed-frame odom
        mf-ros evaluate my_bag --lines 16 --points 1,5,20 --outliers 0.1
        mf-ros evaluate my_bag --lines 16 --grey-image
        mf-ros evaluate my_bag --engine transformers --model depth-anything/Depth-Anything-V2-Small-hf
        mf-ros evaluate frames/ --lines 32,16,8,4 --save-pictures pictures
        mf-ros evaluate my_bag --lines 16 --json > scores.json
        mf-ros evaluate --compare nano runs/mine my_dataset --gate --out compared
    """

    lines: Annotated[str, tyro.conf.arg(metavar="N,N,...")] = "32,16,8,4"
    """Numbers of scan lines to show."""
    points: Annotated[str, tyro.conf.arg(metavar="N,N,...")] = ""
    """Also show this many random returns of those that the camera can see."""
    outliers: float = 0.0
    """Also show each input with this share of its returns at wrong depths, from 0 to 1."""
    grey_image: bool = False
    """Show the engine uniform grey instead of the image, to learn what the image is worth to it."""
    max_frames: int = 20
    """How many images of a bag, or of each recording in a data set, are used at most, evenly spread."""
    save_pictures: Folder = None
    """Folder for a picture of each case: the input on the image, the engine's depth, and where it is wrong."""
    sequence: bool = False
    """Score all frames in order, without and with the reuse of earlier ones; needs odometry."""
    compare: Annotated[Tuple[str, str], tyro.conf.arg(metavar="BASE TUNED")] = ("", "")
    """Compare two networks on a data set: names of shipped ones, folders of models, or folders of mf-ros train."""
    gate: bool = False
    """With --compare: exit with 1 unless the tuned network may replace the base."""
    out: Folder = None
    """With --compare: folder for report.html and comparison.json."""
    split: Word = None
    """With --compare: the part of the data set, test by default."""
    stride: int = 1
    """With --compare: show one of so many scan lines, or such a part of each sweep, where the robots' sensor is thinner
    than the one that recorded."""
    canary: Annotated[int, tyro.conf.arg(metavar="SCENES")] = 24
    """With --compare: number of procedural scenes; 0 leaves them out."""
    calibration: File = None
    """With --compare: YAML file of transforms that replace recorded ones."""

    def run(self) -> int:
        """Evaluate and print the tables; 1 when nothing could be scored, or the gate is closed."""
        if self.compare != ("", ""):
            return self._compare()
        self._refuse(_WITH_COMPARE, "only goes with --compare BASE TUNED DATASET")
        lines = parse_counts("--lines", self.lines)
        points = parse_counts("--points", self.points) if self.points else ()
        if not 0 <= self.outliers <= 1:
            raise ConfigError(f"--outliers is {self.outliers:g}: it takes a share from 0 to 1, such as 0.1.")
        config = _with_one_thread(self.engine_settings())
        if self.sequence:
            return self._sequence(config, lines)
        with _one_thread(), progress("evaluating") as advance, self._frames(config, advance) as frames:
            engine = make_engine(config.engine)
            # What a network corrects stands beside it, so that everyone sees what the network itself is worth.
            beside = [] if engine.name == "classical" else [ClassicalEngine()]
            hook = None if self.save_pictures is None else picture_hook(self.save_pictures, engine.name)
            records = evaluate(
                map(_greyed, frames) if self.grey_image else frames,
                lines,
                engine,
                config=config,
                beside=beside,
                points=points,
                outliers=self.outliers,
                hook=hook,
            )
        if self.json:
            print_json([as_json(record) for record in records])
        else:
            details = engine.describe()
            licence = f"\nweights {details['weights']}, licence {details['licence']}" if "licence" in details else ""
            print(f"engine {engine_text(engine.name, details)}{licence}\n")
            print("\n".join(as_text(records, engine.name)))
        return OK if records else FINDINGS

    def _sequence(self, config: Config, lines: Tuple[int, ...]) -> int:
        self._refuse(_WITHOUT_SEQUENCE, "does not go with --sequence")
        with _one_thread(), progress("evaluating") as advance, self.open() as recording:
            frames = sequence_frames(recording, self.choose(recording), config, progress=advance)
            engine = make_engine(config.engine)
            engines = [engine] if engine.name == "classical" else [engine, ClassicalEngine()]
            records = evaluate_sequence(frames, lines, engines, config)
        if self.json:
            print_json([sequence_json(record) for record in records])
        else:
            print("\n".join(sequence_text(records)))
        return OK if records else FINDINGS

    def _compare(self) -> int:
        self._refuse(_WITHOUT_COMPARE, "does not go with --compare")
        if len(self.bag) != 1:
            raise ConfigError("--compare BASE TUNED takes one data set: the folder or .parquet file of mf-ros extract.")
        # Its packages are needed by nobody else.
        from mf_ros.cli.compare import comparing

        return comparing(
            *self.compare,
            Path(self.bag[0]),
            with_engine(self.checked_settings(), self.engine, quality=self.quality),
            self.config is not None,
            split=self.split or "test",
            max_frames=self.max_frames,
            stride=self.stride,
            canary=self.canary,
            gate=self.gate,
            out=self.out,
            calibration=self.calibration,
            json=self.json,
        ).run()

    def _refuse(self, names: Sequence[str], why: str) -> None:
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ConfigError(f"--{name.replace('_', '-')} {why}.")

    @contextlib.contextmanager
    def _frames(self, config: Config, advance: Callable[[float], None]) -> Iterator[Iterator[EvaluationFrame]]:
        folders = [Path(path) for path in self.bag]
        if len(folders) == 1 and folders[0].is_dir() and _holds_frames(folders[0]):
            yield load_frames(folders[0])
            return
        with self.open() as recording:
            topics = self.choose(recording)
            yield bag_frames(recording, topics, config, max_frames=self.max_frames, progress=advance)
            if recording.damage:
                _log.warning("%s", recording.damage)


def _greyed(frame: EvaluationFrame) -> EvaluationFrame:
    return dataclasses.replace(frame, image=np.full_like(frame.image, 128))


def _holds_frames(folder: Path) -> bool:
    # No deeper than SOURCE/FRAME: a large tree that was named by mistake must not be searched.
    return any(next(folder.glob(f"{above}calib.json"), None) is not None for above in ("", "*/", "*/*/"))


def parse_counts(option: str, text: str) -> Tuple[int, ...]:
    """Numbers of scan lines or returns from text such as ``32,16,8``.

    Raises:
        ConfigError: it is not a list of positive whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} is '{text}': it takes whole numbers above 0 with commas between, such as 32,16,8.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _with_one_thread(config: Config) -> Config:
    """The settings with the network on one thread, as OpenCV is, unless they name a number."""
    threads = config.engine.threads or 1
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, threads=threads))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread while the block runs, so that times can be compared between machines."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
