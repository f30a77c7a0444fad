"""What every subcommand shares: its options, how it writes results, and its progress bar."""

from __future__ import annotations

import contextlib
import json as json_module
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator

OK = 0
FINDINGS = 1
BAD_INPUT = 2
MISSING_DEPENDENCY = 3
INTERRUPTED = 130

_LONGEST_LINE = 2000

Advance = Callable[[float], None]


@dataclass(kw_only=True)
class Options:
    """Options that every subcommand takes."""

    json: bool = False
    """Print the result as JSON on standard output, for machines."""
    debug: bool = False
    """Log more, and show the traceback of an error."""


def plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays as lists, paths as text, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        # NumPy's arrays and scalars; `doctor` must print its findings even where NumPy cannot be imported.
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def printable(text: str) -> str:
    """A line of bounded length without the control characters that names and texts out of a bag may hide."""
    return "".join(char if char.isprintable() else "?" for char in text[:_LONGEST_LINE])


def one_line(text: str) -> str:
    """The same of a text that may have several lines."""
    return printable(" ".join(text.split()))


def print_json(value: Any) -> None:
    """Write a result to standard output as JSON."""
    print(json_module.dumps(plain(value), indent=2))


@contextlib.contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A progress bar on standard error while the block runs; nothing is drawn when that is not a terminal.

    Yields a function that takes the part done so far, in [0, 1].
    """
    if not sys.stderr.isatty():
        yield lambda part: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda part: bar.update(task, completed=min(max(part, 0.0), 1.0))
