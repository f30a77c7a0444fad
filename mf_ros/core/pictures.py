"""Pictures for people: written as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Type

import cv2

from mf_ros.core.types import ByteArray
from mf_ros.errors import MfRosError


def write_png(path: Path, picture: ByteArray, refused: Type[MfRosError]) -> None:
    """Write an (H, W, 3) uint8 RGB picture; an existing file is replaced.

    Args:
        path: the file.
        picture: at least one pixel.
        refused: the error that is raised when it cannot be written.

    Raises:
        MfRosError: of the kind ``refused``: the picture is too large for a PNG, or the file cannot be written.
    """
    done, data = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        height, width = picture.shape[:2]
        raise refused(f"{path}: {width} x {height} pixels are too many for one PNG; make fewer or smaller pictures.")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise refused(f"{path} cannot be written: {error.strerror}.") from error
