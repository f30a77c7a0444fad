"""``mf-ros evaluate``: accuracy on held-out LiDAR returns, for an engine and all baselines side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Callable, Dict, Iterator, List, Sequence, Tuple

import cv2
import numpy as np
import tyro

from mf_ros.bags.evaluation_frames import bag_frames
from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.overlay import colour_depth, draw_returns
from mf_ros.cli.bag_options import BagOptions, Folder, Word, engine_text, with_engine
from mf_ros.cli.options import FINDINGS, OK, print_json, progress
from mf_ros.core.config import Config
from mf_ros.engine import make_engine
from mf_ros.errors import ConfigError
from mf_ros.evaluation.frames import EvaluationFrame, load_frames
from mf_ros.evaluation.run import Prediction, Record, evaluate, headline

_log = logging.getLogger(__name__)

COLUMNS = ("mae", "rmse", "imae", "irmse", "absrel", "delta1", "median", "ms")


@dataclass(kw_only=True)
class Evaluate(BagOptions):
    """Measure how accurate depth is where the LiDAR was not shown, beside simple baselines.

    The input is every k-th odd ring, the truth all even rings (without rings: a random half), scored with all truth
    and without the returns that the camera cannot see. PATH is a bag, or a folder of frames: SOURCE/FRAME/image.png
    with calib.json and points.npz or depth.npz. Times are milliseconds per frame with OpenCV on one thread.

    Prints one table per source, input and kind of truth; --json prints a list of records {source, input, engine,
    truth, mae, rmse, imae, irmse, absrel, delta1, median, ms, frames} (metres; imae and irmse in 1/km). Baselines
    marked +cull were given the input without the returns hidden from the camera.

    Examples:
        mf-ros evaluate my_bag --lines 32,16,8
        mf-ros evaluate frames/ --lines 32,16,8,4 --save-pictures pictures
        mf-ros evaluate my_bag --lines 16 --json > scores.json
    """

    lines: Annotated[str, tyro.conf.arg(metavar="N,N,...")] = "32,16,8,4"
    """Numbers of scan lines to show."""
    engine: Word = None
    """Engine to use instead of the one in the settings, for example classical."""
    max_frames: int = 20
    """How many images of a bag are used at most, evenly spread."""
    save_pictures: Folder = None
    """Folder for a picture of each case: the input on the image, and the engine's depth below it."""

    def run(self) -> int:
        """Evaluate and print the tables; 1 when nothing could be scored."""
        lines = parse_lines(self.lines)
        config = with_engine(self.checked_settings(), self.engine)
        with _one_thread(), progress("evaluating") as advance, self._frames(config, advance) as frames:
            engine = make_engine(config.engine)
            hook = None if self.save_pictures is None else _picture_hook(self.save_pictures, engine.name)
            records = evaluate(frames, lines, engine, config=config, hook=hook)
        if self.json:
            print_json([as_json(record) for record in records])
        else:
            print(f"engine {engine_text(engine.name, engine.describe())}\n")
            print("\n".join(as_text(records, engine.name)))
        return OK if records else FINDINGS

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


def _holds_frames(folder: Path) -> bool:
    # No deeper than SOURCE/FRAME: a large tree that was named by mistake must not be searched.
    return any(next(folder.glob(f"{above}calib.json"), None) is not None for above in ("", "*/", "*/*/"))


def parse_lines(text: str) -> Tuple[int, ...]:
    """Numbers of scan lines from text such as ``32,16,8``.

    Raises:
        ConfigError: it is not a list of positive whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--lines is '{text}': it takes whole numbers above 0 with commas between, such as 32,16,8.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def as_json(record: Record) -> Dict[str, object]:
    """One record with exactly the documented keys."""
    values = dataclasses.asdict(record)
    return {key: values[key] for key in ("source", "input", "engine", "truth", *COLUMNS, "frames")}


def as_text(records: Sequence[Record], engine: str) -> List[str]:
    """The records as one table per source, input and kind of truth, and what they come to."""
    tables: Dict[Tuple[str, str, str], List[Record]] = {}
    for record in records:
        tables.setdefault((record.source, record.input, record.truth), []).append(record)
    lines: List[str] = []
    for (source, shown, truth), rows in tables.items():
        unit = " lines" if shown.isdecimal() else ""
        lines.append(f"{source}, {shown}{unit}, truth: {truth}, {rows[0].frames} frames")
        lines.append(f"  {'':<20}" + "".join(f"{name:>9}" for name in COLUMNS))
        best = min((row.mae for row in rows if np.isfinite(row.mae)), default=float("nan"))
        for row in rows:
            mark = "*" if row.mae == best else " "
            values = "".join(f"{_number(name, getattr(row, name)):>9}" for name in COLUMNS)
            lines.append(f"{mark} {row.engine:<20}{values}")
        lines.append("")
    total = headline(records, engine)
    if total is not None:
        name, mae = total.best_single_baseline
        lines += [
            f"Mean MAE over {total.cases} LiDAR cases of 32, 16 and 8 lines, visible truth:",
            f"  {engine:<42} {total.engine:.3f} m",
            f"  {'best of nearest, linear, ip_basic per case':<42} {total.best_simple:.3f} m",
            f"  {'best of all baselines per case':<42} {total.best_baseline:.3f} m",
            f"  {'best single baseline: ' + name:<42} {mae:.3f} m",
            f"  worst case against the simple ones: {total.worst_ratio[0]} at {total.worst_ratio[1]:.2f} of their MAE",
        ]
    return lines or ["There was nothing to score: the frames hold no truth, or fewer scan lines than asked for."]


def _number(name: str, value: float) -> str:
    return f"{value:.1f}" if name in ("ms", "imae", "irmse") else f"{value:.3f}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread while the block runs, so that times can be compared between machines."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _picture_hook(folder: Path, engine: str) -> Callable[[Prediction], None]:
    make_output_folder(folder)

    def save(prediction: Prediction) -> None:
        if prediction.engine != engine:
            return
        shown = draw_returns(prediction.frame.image, prediction.case.shown)
        both = np.concatenate([shown, colour_depth(prediction.depth)])
        name = f"{prediction.frame.source}_{prediction.frame.name}_{prediction.case.input}.png".replace(os.sep, "_")
        done, data = cv2.imencode(".png", cv2.cvtColor(both, cv2.COLOR_RGB2BGR))
        if done:
            (folder / name).write_bytes(data.tobytes())

    return save
