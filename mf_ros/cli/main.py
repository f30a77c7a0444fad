"""The ``mf-ros`` command: finds the subcommand, imports only that one, and turns errors into one line.

Exit codes: 0 done; 1 done, with findings or failures (``check`` and ``doctor`` found errors, ``replay`` made no
frame); 2 bad usage or input; 3 a package is missing; 130 interrupted.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Type

from mf_ros import __version__
from mf_ros.cli.options import BAD_INPUT, INTERRUPTED, MISSING_DEPENDENCY, OK, one_line
from mf_ros.errors import MfRosError, MissingDependencyError
from mf_ros.packages import install_command, pip_install

PIPE_CLOSED = 141

EXTRA_OF_MODULE = {
    "cv2": "cv",
    "rosbags": "bags",
    "mcap": "bags",
    "jinja2": "bags",
    "scipy": "eval",
    "onnxruntime": "onnx",
    "torch": "torch",
    "safetensors": "torch",
    "transformers": "monocular",
    "diffusers": "diffusion",
    "accelerate": "train",
    "onnx": "train",
    "onnxscript": "train",
    "tensorboard": "train",
    "peft": "lora",
    "upath": "remote",
    "fsspec": "remote",
    "pyarrow": "fleet",
    "lance": "fleet",
    "imagehash": "fleet",
    "PIL": "fleet",
    "ray": "ray",
}


@dataclass(frozen=True)
class Command:
    """Where a subcommand lives, and its line in the help."""

    module: str
    name: str
    summary: str


COMMANDS = {
    "replay": Command("mf_ros.cli.replay", "Replay", "run the pipeline over a bag; write depth, clouds and a report"),
    "check": Command("mf_ros.cli.check", "Check", "say what is in a bag, what fits, what is wrong and what to do"),
    "simulate": Command("mf_ros.cli.simulate", "Simulate", "make a bag of a simulated drive, with true depth"),
    "evaluate": Command("mf_ros.cli.evaluate", "Evaluate", "measure accuracy on held-out LiDAR rings beside baselines"),
    "extract": Command("mf_ros.cli.extract", "Extract", "make a data set for training of a fleet's bags"),
    "dataset": Command("mf_ros.cli.dataset", "Dataset", "look into a data set for training, or at one of its samples"),
    "train": Command("mf_training.cli.train", "Train", "train a network, or go on with a training"),
    "export": Command("mf_training.cli.export", "Export", "write a trained network as a folder for the engine"),
    "sample": Command("mf_training.cli.sample", "Sample", "draw what a network makes of image, LiDAR, depth or noise"),
    "scenes": Command("mf_training.cli.scenes", "Scenes", "draw procedural training scenes on a contact sheet"),
    "doctor": Command("mf_ros.cli.doctor", "Doctor", "say what is wrong with this installation and what to do"),
    "bench": Command("mf_ros.cli.bench", "Bench", "measure how fast the parts run on this machine"),
}

USAGE = """\
usage: mf-ros COMMAND [options]        mf-ros COMMAND --help

Dense metric depth and point clouds from a camera and a sparse LiDAR.

commands:
{commands}

examples:
  mf-ros simulate --out sim.mcap             no data yet? make some
  mf-ros check my_bag                        is this bag usable?
  mf-ros replay my_bag --out out             then open out/report.html
  mf-ros evaluate my_bag --lines 32,16,8     how accurate is it on my data?

Every command takes --json (results for machines on standard output) and --debug (tracebacks).

exit codes:
  0  done
  1  done, with findings or failures: check or doctor found errors, replay made no frame
  2  bad usage or input
  3  a Python package is missing; the message names it
  130  interrupted
"""


def usage() -> str:
    """The help of ``mf-ros`` itself."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return USAGE.format(commands="\n".join(lines))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run ``mf-ros`` with the given arguments (``sys.argv`` by default) and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="mf-ros: %(levelname)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    try:
        code = _run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("mf-ros: interrupted; output written so far stays readable", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left (`mf-ros check bag | head`): not an error, but nobody is listening.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (MfRosError, OSError) as error:
        if debug:
            raise
        print(f"mf-ros: error: {_one_line(error)}", file=sys.stderr)
        return MISSING_DEPENDENCY if isinstance(error, MissingDependencyError) else BAD_INPUT


def _run(args: List[str]) -> int:
    leading = [arg for arg in args if arg != "--debug"]
    if not leading or leading[0] in ("-h", "--help", "help"):
        print(usage(), end="", file=sys.stdout if leading else sys.stderr)
        return OK if leading else BAD_INPUT
    if leading[0] == "--version":
        print(f"mf-ros {__version__}")
        return OK
    name = leading[0]
    if name not in COMMANDS:
        raise MfRosError(f"There is no command '{name}'; the commands are {', '.join(COMMANDS)} (mf-ros --help).")
    rest = list(args)
    rest.remove(name)
    try:
        options = _parse(name, rest)
        return int(options.run())
    except ImportError as error:
        missing = _missing(error)
        if missing is None:
            raise
        raise missing from error
    except SystemExit as stop:
        # The parser has printed its own help or usage error.
        return OK if stop.code in (None, 0) else BAD_INPUT


def _parse(name: str, args: List[str]) -> Any:
    """The subcommand's dataclass, filled from the command line."""
    command = COMMANDS[name]
    kind: Type[Any] = getattr(importlib.import_module(command.module), command.name)
    try:
        import tyro
    except ImportError:
        # `doctor` is what tells people that packages are missing, so it must not need one itself.
        simple = [arg for arg in args if arg in ("--json", "--debug")]
        if name == "doctor" and len(simple) == len(args):
            return kind(**{arg.strip("-"): True for arg in simple})
        raise
    prepare = getattr(kind, "defaults_from", None)
    default = {} if prepare is None else {"default": prepare(args)}
    return tyro.cli(
        kind,
        prog=f"mf-ros {name}",
        description=inspect.cleandoc(kind.__doc__ or ""),
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
        **default,
    )


def _missing(error: ImportError) -> Optional[MissingDependencyError]:
    """One sentence for a package that is absent or broken; None for a fault inside mf_ros itself."""
    module = (error.name or "").split(".")[0]
    if module in ("mf_ros", "mf_training"):
        return None
    if not isinstance(error, ModuleNotFoundError):
        return MissingDependencyError(f"A Python package cannot be loaded ({_one_line(error)}): run mf-ros doctor.")
    if module in EXTRA_OF_MODULE:
        what = install_command(EXTRA_OF_MODULE[module])
    else:
        what = pip_install("pyyaml" if module == "yaml" else module)
    return MissingDependencyError(f"The Python package '{module}' is not installed: run {what}.")


def _one_line(error: BaseException) -> str:
    return one_line(str(error)) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
