"""``mf-ros train``: train a network, or go on with a training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Callable, Iterator, List, Tuple

import tyro

from mf_ros.cli.options import INTERRUPTED, OK, Options, print_json
from mf_ros.errors import ConfigError
from mf_training.loop import Status
from mf_training.plan import plan_lines
from mf_training.processes import is_first, told_once
from mf_training.run import Summary, train
from mf_training.settings import dump_train_config, load_train_config

_QUIET_S = 10.0


@dataclass(kw_only=True)
class Train(Options):
    """Train a network on procedural scenes, data from bags, or both; a stopped training goes on with the same command.

    Ctrl-C or SIGTERM saves a checkpoint first. Several GPUs: torchrun --nproc-per-node 8 -m mf_ros.cli.main train ...

    Examples:
        mf-ros train nano
        mf-ros train nano out=out/mine data.scenes.cache=/data/scenes minutes=30
        mf-ros train --config config/training/posttrain.yaml data=DATASET init=nano patience=8
        mf-ros train posttrain data=DATASET model=medium init=my_model lora.rank=8
        mf-ros train posttrain_flux data=DATASET init=RELEASED_FOLDER --plan
    """

    words: Annotated[Tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[CONFIG] [KEY=VALUE ...]")] = ()
    """A YAML file of settings, or a preset of config/training, unless --config names it; then settings that replace
    those of the file, such as optimiser.lr=3e-4."""
    config: Annotated[str, tyro.conf.arg(metavar="CONFIG")] = ""
    """The file or preset, for those who prefer an option."""
    show: bool = False
    """Print all settings as YAML instead of training."""
    plan: bool = False
    """Print how much memory the run takes on each of 1, 2, 4 and 8 GPUs instead of training; needs no weights."""

    def run(self) -> int:
        """Train and say what came of it; 130 when a signal stopped it."""
        with told_once():
            return self._run()

    def _run(self) -> int:
        source, settings = self._named()
        config = load_train_config(source, settings)
        if self.show:
            print(dump_train_config(config), end="")
            return OK
        if self.plan:
            print("\n".join(plan_lines(config)))
            return OK
        with _reporter() as report:
            summary = train(config, report=report)
        if is_first():
            self._tell(summary)
        return INTERRUPTED if summary.reason == "interrupted" else OK

    def _named(self) -> Tuple[str, Tuple[str, ...]]:
        """The file or preset, and the settings that replace those in it."""
        if self.config:
            return self.config, self.words
        if self.words and ("=" not in self.words[0] or Path(self.words[0]).is_file()):
            return self.words[0], self.words[1:]
        raise ConfigError(
            "No settings are named: write mf-ros train CONFIG KEY=VALUE ..., or mf-ros train --config CONFIG KEY=VALUE "
            "..., where CONFIG is a YAML file or a preset such as nano or posttrain."
        )

    def _tell(self, summary: Summary) -> None:
        option = ["--config", self.config] if self.config else []
        again = shlex.join([*_launcher(), "train", *option, *self.words])
        if summary.reason == "interrupted":
            print(f"mf-ros: interrupted and saved at step {summary.tally.step}; to go on: {again}", file=sys.stderr)
        if self.json:
            print_json(dataclasses.asdict(summary))
        elif summary.reason != "interrupted":
            print("\n".join(_as_text(summary, again)))


def _launcher() -> List[str]:
    """How this command was started: by itself, or in several processes of this machine."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1" or processes != os.environ.get("LOCAL_WORLD_SIZE"):
        return ["mf-ros"]
    return ["torchrun", "--nproc-per-node", processes, "-m", "mf_ros.cli.main"]


def _as_text(summary: Summary, again: str) -> Iterator[str]:
    tally = summary.tally
    yield (
        f"{summary.out}: {tally.step} steps, {tally.samples} samples, {_duration(tally.seconds)}, "
        f"{tally.flops / 1e12:.3g} TFLOP of matrix products and convolutions"
    )
    if summary.trained < summary.weights:
        yield f"trained {summary.trained / 1e6:.3g} of {summary.weights / 1e6:.3g} million weights"
    if tally.best_ratio is not None:
        yield (
            f"held-out error relative to the prior: best {tally.best_ratio:.3f} at step {tally.best_step}, "
            f"last {tally.ratio:.3f}"
        )
    if summary.reason == "minutes":
        yield f"The time is over; to go on: {again}"
        return
    if summary.reason == "plateau":
        yield (
            f"Stopped at step {tally.step}, as the held-out error did not get better by min_gain in {tally.waited} "
            f"evaluations; it does not go on by itself: {again} patience=0"
        )
    yield f"Next: {shlex.join(['mf-ros', 'export', summary.out, '--out', 'MODEL'])}"


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
