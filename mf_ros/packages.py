"""How packages that are missing are installed: for the Python that runs, and for it alone."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import List

_EXTRA = re.compile(r"extra\s*==\s*[\"']([\w.-]+)[\"']")


def pip_install(*requirements: str) -> str:
    """The command line that installs packages, such as ``numpy>=1.21``, for the Python that runs."""
    # A bare pip may be that of another Python.
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *requirements])


def install_command(extra: str) -> str:
    """The command line that installs what an extra of mf_ros names.

    The extra itself means something to pip only where mf_ros comes from a package index, and a workspace of colcon is
    none; its packages can be had everywhere.

    Args:
        extra: one of setup.py's, for example ``bags``.
    """
    found = _requirements(extra)
    if found:
        return pip_install(*found)
    source = Path(__file__).resolve().parents[1]
    return pip_install(f"{source if (source / 'setup.py').is_file() else 'mf_ros'}[{extra}]")


def _requirements(extra: str) -> List[str]:
    """Requirements of an extra as the installation recorded them; none where nothing is recorded."""
    from importlib import metadata  # slow to import, and needed by those who lack a package alone

    try:
        recorded = metadata.requires("mf_ros") or []
    except metadata.PackageNotFoundError:
        return []
    parts = [text.partition(";") for text in recorded]
    return [name.strip() for name, _, marker in parts if extra in _EXTRA.findall(marker)]
