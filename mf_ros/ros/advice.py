"""How the command ``mf-ros`` is called where the node runs, for what the node advises. It needs no ROS."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from pathlib import Path

# Those that a robot is looked into with; others are named for what they made.
_ADVISED = re.compile(r"\bmf-ros (?=check\b|doctor\b)")


@functools.lru_cache(maxsize=1)
def command() -> str:
    """The words that start ``mf-ros`` in a shell like that of this process."""
    if shutil.which("mf-ros") is not None:
        return "mf-ros"
    # A workspace keeps it beside the node, where only ros2 run looks.
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix and (Path(prefix) / "lib" / "mf_ros" / "mf-ros").is_file():
            return "ros2 run mf_ros mf-ros"
    return f"{sys.executable} -m mf_ros.cli.main"


def runnable(text: str) -> str:
    """A sentence of the library in which ``mf-ros check`` and ``mf-ros doctor`` are what can be typed here."""
    return _ADVISED.sub(lambda found: f"{command()} ", text)
