"""``mf-ros train``: train a network, or go on with a training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Callable, Iterator, Tuple

import tyro

from mf_ros.cli.options import INTERRUPTED, OK, Options, print_json
from mf_training.loop import Status
from mf_training.run import Summary, train
from mf_training.settings import dump_train_config, load_train_config

_QUIET_S = 10.0


@dataclass(kw_only=True)
class Train(Options):
    """Train a network on procedural scenes, real frames or both; a stopped training goes on with the same command.

    Ctrl-C or SIGTERM saves a checkpoint first. Several GPUs: torchrun --nproc-per-node 8 -m mf_ros.cli.main train ...

    Examples:
        mf-ros train nano
        mf-ros train nano out=out/mine data.scenes.cache=/data/scenes minutes=30
        mf-ros train posttrain init=out/mine data.frames.folder=my_frames data.frames.heldout_folder=my_other_frames
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """A YAML file of settings, or a preset of config/training."""
    settings: Annotated[Tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Settings that replace those of the file, such as optimiser.lr=3e-4."""
    show: bool = False
    """Print all settings as YAML instead of training."""

    def run(self) -> int:
        """Train and say what came of it; 130 when a signal stopped it."""
        config = load_train_config(self.config, self.settings)
        if self.show:
            print(dump_train_config(config), end="")
            return OK
        with _reporter() as report:
            summary = train(config, report=report)
        if int(os.environ.get("RANK", "0")) == 0:
            self._tell(summary)
        return INTERRUPTED if summary.reason == "interrupted" else OK

    def _tell(self, summary: Summary) -> None:
        again = shlex.join(["mf-ros", "train", self.config, *self.settings])
        if summary.reason == "interrupted":
            print(f"mf-ros: interrupted and saved at step {summary.tally.step}; to go on: {again}", file=sys.stderr)
        if self.json:
            print_json(dataclasses.asdict(summary))
        elif summary.reason != "interrupted":
            print("\n".join(_as_text(summary, again)))


def _as_text(summary: Summary, again: str) -> Iterator[str]:
    tally = summary.tally
    yield (
        f"{summary.out}: {tally.step} steps, {tally.samples} samples, {_duration(tally.seconds)}, "
        f"{tally.flops / 1e12:.3g} TFLOP of matrix products and convolutions"
    )
    if tally.best_ratio is not None:
        yield (
            f"held-out error relative to the prior: best {tally.best_ratio:.3f} at step {tally.best_step}, "
            f"last {tally.ratio:.3f}"
        )
    if summary.reason == "minutes":
        yield f"The time is over; to go on: {again}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _line(status: Status) -> str:
    ratio = "-" if status.ratio is None else f"{status.ratio:.3f}"
    return (
        f"loss {status.loss:.4f}  held-out/prior {ratio}  {status.samples_per_s:.1f} samples/s  "
        f"waiting for data {100 * status.waiting:.0f}%  left {_duration(status.eta_s)}"
    )


@contextlib.contextmanager
def _reporter() -> Iterator[Callable[[Status], None]]:
    """Shows the status on standard error: a bar on a terminal, else a line every ten seconds."""
    if not sys.stderr.isatty():
        last = [-_QUIET_S]

        def say(status: Status) -> None:
            if time.monotonic() - last[0] >= _QUIET_S or status.step == status.steps:
                last[0] = time.monotonic()
                print(f"step {status.step}/{status.steps}  {_line(status)}", file=sys.stderr, flush=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda status: bar.update(task, total=status.steps, completed=status.step, description=_line(status))
