"""The PNG that a command draws: refused before the work where it cannot be written."""

from __future__ import annotations

from pathlib import Path

import cv2

from mf_ros.errors import ConfigError
from mf_training.scenes.sheet import Picture


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


def write_sheet(out: Path, sheet: Picture, scenes: int) -> None:
    """Write an (H, W, 3) uint8 RGB sheet of so many scenes as a PNG.

    Raises:
        ConfigError: it is too large for one, or cannot be written.
    """
    done, data = cv2.imencode(".png", sheet[..., ::-1])
    if not done:
        raise ConfigError(f"The sheet of {scenes} scenes is too large for one PNG: lower --count.")
    try:
        out.write_bytes(data.tobytes())
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}.") from error
