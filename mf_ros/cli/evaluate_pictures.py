"""Pictures of what ``mf-ros evaluate`` scored: what was shown, the depth, and where it is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import cv2
import numpy as np

from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.overlay import draw_returns
from mf_ros.core.colours import colour_depth
from mf_ros.core.pictures import dot_radius, draw_errors, write_png
from mf_ros.core.types import ByteArray
from mf_ros.errors import BagError
from mf_ros.evaluation.metrics import absolute_error
from mf_ros.evaluation.run import Prediction

LARGEST_ERROR = 0.25
"""Error, as a part of the true depth, at the ends of the colours."""
_CAPTION_ROWS = 26
_BACKGROUND, _TEXT = (22, 24, 30), (220, 224, 232)


def case_picture(prediction: Prediction) -> ByteArray:
    """The returns on the image, the depth, and its relative error at the visible truth, one below the other.

    Args:
        prediction: what one method made of one case.

    Returns:
        (3 H + caption, W, 3) uint8 RGB. Errors are blue where depth is 25% too near, red where it is 25% too far.
    """
    case, frame = prediction.case, prediction.frame
    rows, cols, truth = (each[case.visible] for each in (case.rows, case.cols, case.truth))
    found = prediction.depth[rows, cols]
    part = ((found - truth) / (truth * np.float32(LARGEST_ERROR))).astype(np.float32)
    errors = draw_errors(frame.image, rows, cols, part, dot_radius(frame.image.shape[1]))
    mae = absolute_error(found, truth).mean() if len(truth) else np.nan
    title = f"{frame.source} {frame.name}, input {case.input}: MAE {mae:.2f} m"
    caption = _caption(f"{title}; errors to -{LARGEST_ERROR:.0%} blue, +{LARGEST_ERROR:.0%} red", frame.image.shape[1])
    panels = (caption, draw_returns(frame.image, case.shown), colour_depth(prediction.depth), errors)
    return np.concatenate(panels)


def picture_hook(folder: Path, engine: str) -> Callable[[Prediction], None]:
    """A hook of ``evaluate`` that writes the picture of each case of an engine into a folder, which it makes.

    Raises:
        BagError: the folder cannot be made; from the hook, a picture cannot be written.
    """
    make_output_folder(folder)

    def save(prediction: Prediction) -> None:
        if prediction.engine != engine:
            return
        name = f"{prediction.frame.source}_{prediction.frame.name}_{prediction.case.input}.png".replace(os.sep, "_")
        write_png(folder / name, case_picture(prediction), BagError)

    return save


def _caption(text: str, width: int) -> ByteArray:
    strip = np.full((_CAPTION_ROWS, width, 3), _BACKGROUND, np.uint8)
    (length, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    size = 0.5 * min(1.0, (width - 16) / length)
    cv2.putText(strip, text, (8, _CAPTION_ROWS - 8), cv2.FONT_HERSHEY_SIMPLEX, size, _TEXT, 1, cv2.LINE_AA)
    return strip
