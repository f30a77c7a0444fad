"""Steps that are prepared for one size each, for a few sizes, and checked before depth comes from them.

A CUDA graph, a TensorRT engine and a compiled network fit one image size and cost seconds to minutes each. Sizes are
rounded up so that few are needed. The first result of each is compared with that of the network as it was loaded, which
passed the self-test; where they differ, or the preparation fails, the network runs as it was loaded.
"""

from __future__ import annotations

import logging
from typing import Callable, Dict, Optional, Tuple

import numpy as np

from mf_ros.core.types import FloatArray
from mf_ros.engine.backend import StepInput, StepOutput, failure_text
from mf_ros.errors import ModelError

_log = logging.getLogger(__name__)

Step = Callable[[StepInput], StepOutput]

MULTIPLE = 32
"""Heights and widths are rounded up to a multiple of this many pixels."""
MOST_SIZES = 4
"""Further sizes run as the network was loaded."""

# A few pixels at edges of objects may fall to either side, whatever is wrong.
_COMPARED = 0.999


class Bucketed:
    """A step that is prepared for each of the first few sizes it is asked for.

    Args:
        plain: the network as it was loaded.
        prepare: makes a step for inputs of exactly this size.
        name: what is prepared, for messages.
        tolerance: largest relative difference of depth from ``plain``, leaving out one pixel in a thousand.
    """

    def __init__(self, plain: Step, prepare: Callable[[StepInput], Step], name: str, tolerance: float) -> None:
        self.name = name
        self._plain, self._prepare, self._tolerance = plain, prepare, tolerance
        self._steps: Dict[Tuple[int, ...], Optional[Step]] = {}

    def __call__(self, inputs: StepInput) -> StepOutput:
        """One denoising step.

        Raises:
            ModelError: the network failed.
        """
        filled = filled_up(inputs)
        size = filled.depth.shape
        if size not in self._steps:
            if len(self._steps) >= MOST_SIZES:
                return self._plain(inputs)
            self._steps[size] = self._checked(filled)
            if len(self._steps) == MOST_SIZES:
                _log.warning("%s: %d sizes are prepared, others run without.", self.name, MOST_SIZES)
        step = self._steps[size]
        if step is None:
            return self._plain(inputs)
        try:
            made = step(filled)
        except ModelError as error:
            self._drop(size, str(error))
            return self._plain(inputs)
        height, width = inputs.depth.shape[-2:]
        return StepOutput(*(each[..., :height, :width] for each in made))

    def _checked(self, inputs: StepInput) -> Optional[Step]:
        """A prepared step whose first two results are right, else None: CUDA graphs are replayed from the second on."""
        try:
            step = self._prepare(inputs)
            results = [step(inputs), step(inputs)]
        except Exception as error:  # libraries' errors have no common base but this
            self._drop(inputs.depth.shape, failure_text(error))
            return None
        wanted = self._plain(inputs)
        worst = max(_difference(each, wanted) for each in results)
        if not worst <= self._tolerance:
            allowed = f"{self._tolerance:g} is allowed"
            self._drop(inputs.depth.shape, f"its depth differs by up to {worst:.2g} of itself ({allowed})")
            return None
        return step

    def _drop(self, size: Tuple[int, ...], reason: str) -> None:
        self._steps[size] = None
        _log.warning("%s is not used for %d x %d pixels: %s.", self.name, size[-1], size[-2], reason.rstrip("."))


def filled_up(inputs: StepInput, multiple: int = MULTIPLE) -> StepInput:
    """Inputs whose height and width are multiples; the border repeats, and nothing is known of its depth."""
    rows, cols = (-side % multiple for side in inputs.depth.shape[-2:])
    if not rows and not cols:
        return inputs
    around = ((0, 0), (0, 0), (0, rows), (0, cols))

    def repeated(plane: FloatArray) -> FloatArray:
        return np.pad(plane, around, mode="edge")

    return inputs._replace(
        image=repeated(inputs.image),
        prior=repeated(inputs.prior),
        depth=np.pad(inputs.depth, around),
        level=np.pad(inputs.level, around, constant_values=1.0),
    )


def _difference(found: StepOutput, wanted: StepOutput) -> float:
    if not np.isfinite(found.depth).all():
        return float("inf")
    return float(np.quantile(np.abs(np.expm1(found.depth - wanted.depth)), _COMPARED))
