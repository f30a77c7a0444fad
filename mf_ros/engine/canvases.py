"""Images of any shape on the square canvases of a network that was trained on one size, never stretched.

An image up to twice as long as high goes onto one canvas, with black bars beside it. A longer one would fill too little
of it: it is laid over several, which overlap by a quarter and are blended there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Iterator, List, Tuple

import cv2
import numpy as np

from mf_ros.core.types import AnyArray, ByteArray, DoubleArray, FloatArray

_LETTERBOXED = 2.0
_OVERLAP = 0.25
_MOST = 8


@dataclass(frozen=True)
class Canvases:
    """How an image lies on canvases; between both is the image scaled to their resolution, the sheet.

    Attributes:
        shape: height and width of the image.
        side: height and width of a canvas.
        size: height and width of the sheet.
        origins: row and column of each canvas's first pixel on the sheet; negative beside bars.
    """

    shape: Tuple[int, int]
    side: int
    size: Tuple[int, int]
    origins: Tuple[Tuple[int, int], ...]

    def images(self, image: ByteArray) -> ByteArray:
        """(N, side, side, 3) uint8 canvases of an image (H, W, 3); bars are black."""
        shrinks = self.size[0] < self.shape[0]
        size = (self.size[1], self.size[0])
        sheet = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return np.asarray(self.cut(np.asarray(sheet, np.uint8), 0), np.uint8)

    def returns(self, depth: FloatArray) -> FloatArray:
        """Sparse depth (H, W) on the sheet: the nearest return of each of its pixels, 0 = none."""
        rows, cols = np.nonzero(np.isfinite(depth) & (depth > 0))
        places = [
            ((index + 0.5) * (size / whole)).astype(np.intp)
            for index, size, whole in zip((rows, cols), self.size, self.shape, strict=True)
        ]
        sheet = np.full(self.size, np.inf, np.float32)
        np.minimum.at(sheet, (places[0], places[1]), depth[rows, cols].astype(np.float32))
        nearest: FloatArray = np.where(np.isfinite(sheet), sheet, np.float32(0))
        return nearest

    def cut(self, sheet: AnyArray, outside: float) -> AnyArray:
        """(N, side, side, ...) canvases of a sheet (h, w, ...); bars get the value ``outside``."""
        made = np.full((len(self.origins), self.side, self.side, *sheet.shape[2:]), outside, sheet.dtype)
        for canvas, (of_sheet, of_canvas) in zip(made, self._windows(), strict=True):
            canvas[of_canvas] = sheet[of_sheet]
        return made

    def joined(self, canvases: FloatArray) -> FloatArray:
        """Canvases (N, side, side) as one sheet (h, w) float32: a canvas counts less toward its border."""
        ramp = np.minimum(np.arange(self.side) + 0.5, self.side - 0.5 - np.arange(self.side))
        weight = np.minimum(ramp[:, None], ramp[None, :])
        total, weights = np.zeros(self.size), np.zeros(self.size)
        for canvas, (of_sheet, of_canvas) in zip(canvases, self._windows(), strict=True):
            total[of_sheet] += weight[of_canvas] * canvas[of_canvas]
            weights[of_sheet] += weight[of_canvas]
        sheet: FloatArray = (total / weights).astype(np.float32)
        return sheet

    def offsets(self, canvases: FloatArray) -> DoubleArray:
        """(N,) what to add to each canvas (N, side, side) so that neighbours agree, in the median, where they overlap.

        The first keeps its values.
        """
        found = [0.0]
        windows = list(self._windows())
        for one, other in zip(range(len(windows)), range(1, len(windows)), strict=False):
            patches = []
            for index in (one, other):
                sheet: FloatArray = np.full(self.size, np.nan, np.float32)
                of_sheet, of_canvas = windows[index]
                sheet[of_sheet] = canvases[index][of_canvas]
                patches.append(sheet)
            found.append(found[-1] + float(np.nanmedian(patches[0] - patches[1])))
        return np.asarray(found, np.float64)

    def enlarged(self, sheet: FloatArray) -> FloatArray:
        """A sheet (h, w) interpolated to the image's pixels (H, W) float32."""
        if self.size == self.shape:
            return sheet
        size = (self.shape[1], self.shape[0])
        return np.asarray(cv2.resize(sheet, size, interpolation=cv2.INTER_LINEAR), np.float32)

    def _windows(self) -> Iterator[Tuple[Tuple[slice, slice], Tuple[slice, slice]]]:
        """For each canvas, where it lies on the sheet, and where that part lies on the canvas."""
        for origin in self.origins:
            of_sheet = [slice(max(at, 0), min(at + self.side, end)) for at, end in zip(origin, self.size, strict=True)]
            of_canvas = [slice(part.start - at, part.stop - at) for part, at in zip(of_sheet, origin, strict=True)]
            yield (of_sheet[0], of_sheet[1]), (of_canvas[0], of_canvas[1])


def lay(shape: Tuple[int, int], side: int) -> Canvases:
    """How an image of a height and width goes onto canvases of ``side`` x ``side`` pixels.

    Of images more than six times as long as high a strip of the canvases stays black, so that there are at most eight.
    """
    long, short = max(shape), min(shape)
    scale = side / long
    if long > _LETTERBOXED * short:
        longest = side * (1 + (_MOST - 1) * (1 - _OVERLAP))
        scale = min(side / short, longest / long)
    size = (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    rows, cols = (_origins(length, side) for length in size)
    return Canvases(shape, side, size, tuple((row, col) for row in rows for col in cols))


def _origins(length: int, side: int) -> List[int]:
    if length <= side:
        return [-((side - length) // 2)]
    overlap = _OVERLAP * side
    count = math.ceil((length - overlap) / (side - overlap) - 1e-9)
    return [round(at) for at in np.linspace(0, length - side, count)]
