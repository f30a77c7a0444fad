"""The PNG that a command draws: refused before the work where it cannot be written."""

from __future__ import annotations

from pathlib import Path

from mf_ros.errors import ConfigError


def check_sheet(out: Path) -> None:
    """Check that a sheet can be written to ``out``.

    Raises:
        ConfigError: it is no .png, or lies in a folder that does not exist.
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out is {out}: it must end in .png.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {out}: there is no folder {out.parent}; make it first.")
    if out.is_dir():
        raise ConfigError(f"--out is {out}: that is a folder; name a file in it.")
