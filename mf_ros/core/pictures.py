"""Pictures for people: dots drawn on them, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Type

import cv2
import numpy as np

from mf_ros.core.colours import colour_error
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray
from mf_ros.errors import MfRosError

NO_ESTIMATE = (255, 0, 255)
"""Colour of errors that are unknown because the estimate is missing."""


def dot_radius(width: int) -> int:
    """Pixels, at which single returns can be seen on an image of a width."""
    return max(1, round(width / 900))


def draw_dots(picture: ByteArray, rows: AnyArray, cols: AnyArray, colours: ByteArray, radius: int) -> None:
    """Draw round dots into a picture, each over those before it.

    Args:
        picture: (H, W, 3) uint8, which is changed.
        rows, cols: (N,) whole numbers, the middles of the dots; dots whose middle lies outside are left out.
        colours: (N, 3) uint8.
        radius: pixels; 0 draws single pixels.
    """
    height, width = picture.shape[:2]
    inside: BoolArray = (cols >= 0) & (cols < width) & (rows >= 0) & (rows < height)
    rows, cols, colours = rows[inside], cols[inside], colours[inside]
    reach = np.arange(-radius, radius + 1)
    dy, dx = np.nonzero(reach[:, None] ** 2 + reach**2 <= radius**2)
    # All parts of a dot at once, else the rim of one would cover the middle of a later one.
    y = np.clip(rows[:, None] + dy - radius, 0, height - 1).reshape(-1)
    x = np.clip(cols[:, None] + dx - radius, 0, width - 1).reshape(-1)
    picture[y, x] = np.repeat(colours, len(dy), axis=0)


def draw_errors(image: ByteArray, rows: AnyArray, cols: AnyArray, part: FloatArray, radius: int) -> ByteArray:
    """The darkened grey image with errors as dots in the colours of ``colour_error``, the worst drawn last.

    Args:
        image: (H, W, 3) uint8 RGB.
        rows, cols: (N,) whole numbers, the middles of the dots.
        part: (N,) signed errors as parts of the largest shown; not finite without an estimate, then magenta.
        radius: pixels; 0 draws single pixels.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * np.float32(0.4)
    picture = np.asarray(cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)
    missing = ~np.isfinite(part)
    order = np.argsort(np.where(missing, np.inf, np.abs(part)), kind="stable")
    colours = colour_error(np.where(missing, np.float32(0), part))
    colours[missing] = NO_ESTIMATE
    draw_dots(picture, rows[order], cols[order], colours[order], radius)
    return picture


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
