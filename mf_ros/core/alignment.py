"""Do the edges that the LiDAR sees fall on edges of the image? Tells a wrong T_cam_lidar without a calibration target.

After Levinson and Thrun, Automatic Online Calibration of Cameras and Lasers (RSS 2013): where depth jumps, the image
mostly has an edge, so steps of depth are laid over the image's gradients and shifted; over some frames the shift at
which they fit best stands out. Two things differ. Steps across and down the image are compared with gradients of the
same direction only, and gradients are freed of their local mean, so that a part of the image that is full of texture
does not attract the shift.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.types import AnyArray, ByteArray, FloatArray

REACH = 28
"""Largest shift that is tried, cells of the working grid."""
BLOCKS = 6
"""Parts of the image, side by side, that are shifted on their own, so that a turn about the optical axis shows."""

# A cell of the working grid is about 0.15 degrees, as far apart as returns of a spinning LiDAR lie in a scan line.
_CELL_RAD = 0.0027
_STEP = 0.15
_STEEPER = 3.0
_STRIP, _WIDEST_STRIP = 2.0, 12.0
_NEIGHBOUR, _ACROSS_EDGE = 3.0, 4.0
_FLAT, _STRONGEST = 0.15, 4.0
_ROLLS_DEG = tuple(0.5 * number for number in range(-6, 7))
_ZERO = 1
# Shifts that the spacing of the scan lines explains are no error, those up and down least of all.
_CLOSE_U, _CLOSE_V, _CLOSE_DEG = 2, 3, 0.9
# With right calibrations (simulated drives with 16 to 64 scan lines and real ones, 375 single frames) wrong images
# reach a peak of 6.3. A gain of 3 comes from single objects whose top or bottom lies between two scan lines, with
# agreement up to 1.6; to the left or right none gains as much, so there it is enough that more than one block does.
_CLEAR, _BETTER = 6.5, 3.0
_AGREED, _AGREED_ACROSS = 1.75, 1.3
_DEVIATION_PER_MAD = 1.4826


@dataclass(frozen=True)
class Fit:
    """Where the LiDAR's edges fit the image best.

    Attributes:
        u, v: shift of the LiDAR's edges to the right and down, cells of the working grid.
        roll_deg: turn of the LiDAR's edges about the image's middle, clockwise, degrees.
        peak: score there, in standard deviations of the scores over all shifts. Where nothing fits, the best of all
            shifts reaches 4 to 6.
        unmoved: the best score within one cell of no shift and no turn, likewise.
        agreement: how evenly the blocks of the image share in what the shift gains over no shift: the sum of their
            gains over the root of the sum of squares; 1 where one block alone gains, sqrt(BLOCKS) where all gain alike.
    """

    u: int = 0
    v: int = 0
    roll_deg: float = 0.0
    peak: float = 0.0
    unmoved: float = 0.0
    agreement: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether the best shift stands out from those at which nothing fits."""
        return self.peak >= _CLEAR

    @property
    def is_displaced(self) -> bool:
        """Whether another place than the one that the calibration says is clearly better."""
        apart = abs(self.u) > _CLOSE_U or abs(self.v) > _CLOSE_V or abs(self.roll_deg) > _CLOSE_DEG
        agreed = self.agreement >= (_AGREED_ACROSS if abs(self.u) > _CLOSE_U else _AGREED)
        return self.is_known and apart and agreed and self.peak - self.unmoved >= _BETTER


def working_step(camera: CameraModel) -> int:
    """Pixels of the image to a cell of the working grid."""
    return max(1, round(_CELL_RAD * 0.5 * float(camera.K[0, 0] + camera.K[1, 1])))


def shift_scores(image: ByteArray, depth: FloatArray, step: int) -> FloatArray:
    """How well the LiDAR's edges fit the image at each shift.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = no return; visible returns only.
        step: pixels to a cell of the working grid.

    Returns:
        (BLOCKS, 2 * REACH + 1, 2 * REACH + 1) float32: block of the image from left to right, shift down, shift to the
        right, both from -REACH to REACH. Scores of several frames may be added. About 0 where nothing fits.
    """
    across, down = depth_edges(depth, step)
    size = 2 * REACH + 1
    scores = np.zeros((BLOCKS, size, size), np.float32)
    for gradient, edges in zip(_gradients(image, step), (across, down), strict=True):
        height, width = gradient.shape
        marks = np.zeros((height, width), np.float32)
        cells = np.rint(edges).astype(np.intp)
        marks[np.clip(cells[:, 1], 0, height - 1), np.clip(cells[:, 0], 0, width - 1)] = 1.0
        around = cv2.copyMakeBorder(gradient, REACH, REACH, REACH, REACH, cv2.BORDER_CONSTANT, value=0.0)
        limits = np.linspace(0, width, BLOCKS + 1).astype(int)
        for block, (left, right) in enumerate(itertools.pairwise(limits.tolist())):
            part = np.ascontiguousarray(marks[:, left:right])
            if part.any():
                scores[block] += cv2.matchTemplate(around[:, left : right + 2 * REACH], part, cv2.TM_CCORR)
    return scores


def depth_edges(depth: FloatArray, step: int) -> Tuple[FloatArray, FloatArray]:
    """Where the outline of something near runs between two returns.

    The near surface reaches beyond its last return by half a spacing of the returns on average. A slope is no step:
    inverse depth must jump by 15% and by more than three times what the slopes before and behind explain.

    Args:
        depth: (H, W) float32 metres, 0 = no return.
        step: pixels to a cell of the working grid.

    Returns:
        (N, 2) and (M, 2) float32 u, v on the working grid, of steps from left to right and of steps downward.
    """
    found = cv2.findNonZero(depth)
    if found is None:
        nothing = np.zeros((0, 2), np.float32)
        return nothing, nothing
    cols, rows = found.reshape(-1, 2).T
    inverse = np.float32(1.0) / depth[rows, cols]
    u, v = (((each + np.float32(0.5)) / step - np.float32(0.5)).astype(np.float32) for each in (cols, rows))
    # Columns first: they tell how far apart the scan lines are, and a strip of that height follows one of them.
    down, spacing = _steps(v, u, inverse, _STRIP)
    across, _ = _steps(u, v, inverse, float(np.clip(spacing, _STRIP, _WIDEST_STRIP)))
    return across, down[:, ::-1]


def _steps(along: FloatArray, beside: FloatArray, inverse: FloatArray, strip: float) -> Tuple[FloatArray, float]:
    """Steps between returns that follow each other in a strip: (N, 2) along, beside; and the usual spacing, cells."""
    number = np.floor((beside + np.float32(0.5)) / strip).astype(np.int32)
    order = np.lexsort((along, number))
    along, beside, inverse, number = along[order], beside[order], inverse[order], number[order]
    gap, joined = np.diff(along), np.diff(number) == 0
    spaced = gap[joined & (gap > 0)]
    if not len(spaced):
        return np.zeros((0, 2), np.float32), 0.0
    usual = float(np.median(spaced))
    near = joined & (gap <= _NEIGHBOUR * usual)
    # Four returns in a row; the step is between the second, i, and the third.
    i = 1 + np.flatnonzero(near[:-2] & near[2:] & joined[1:-1] & (gap[1:-1] > 0) & (gap[1:-1] <= _ACROSS_EDGE * usual))
    jump = np.abs(inverse[i + 1] - inverse[i])
    slope = np.maximum(_slope(inverse, gap, i - 1), _slope(inverse, gap, i + 1))
    edge = (jump > _STEP * np.maximum(inverse[i], inverse[i + 1])) & (jump > _STEEPER * slope * gap[i])
    i = i[edge]
    front_first = inverse[i] > inverse[i + 1]
    beyond = np.minimum(gap[i], usual) / 2
    position = np.where(front_first, along[i] + beyond, along[i + 1] - beyond)
    return np.stack([position, beside[np.where(front_first, i, i + 1)]], axis=1).astype(np.float32), usual


def _slope(inverse: FloatArray, gap: FloatArray, i: AnyArray) -> AnyArray:
    slope: AnyArray = np.abs(inverse[i + 1] - inverse[i]) / np.maximum(gap[i], 1.0)
    return slope


def _gradients(image: ByteArray, step: int) -> Tuple[FloatArray, FloatArray]:
    """Strength of edges across and down the image on the working grid, relative to what is usual around them."""
    height, width = max(image.shape[0] // step, 1), max(image.shape[1] // step, 1)
    small = image[: height * step, : width * step]
    if step > 1:
        small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    grey = np.sqrt(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32))
    grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.7), np.float32)
    return _relative(cv2.Sobel(grey, cv2.CV_32F, 1, 0)), _relative(cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _relative(gradient: AnyArray) -> FloatArray:
    side = (2 * REACH + 1, 2 * REACH + 1)
    strength = cv2.blur(np.abs(gradient), (3, 3))
    strength = np.minimum(strength / (cv2.blur(strength, side) + np.float32(_FLAT)), np.float32(_STRONGEST))
    relative: FloatArray = strength - cv2.blur(strength, side)
    return relative


def best_fit(scores: FloatArray, width: int) -> Fit:
    """The shift and turn at which the LiDAR's edges fit the image best.

    Args:
        scores: (BLOCKS, 2 * REACH + 1, 2 * REACH + 1) sum of ``shift_scores`` over frames.
        width: of the working grid, cells.
    """
    fits = np.stack([_turned(scores, width, roll).sum(axis=0) for roll in _ROLLS_DEG])
    middle = float(np.median(fits))
    spread = _DEVIATION_PER_MAD * float(np.median(np.abs(fits - middle)))
    if spread <= 0.0:
        return Fit()
    turn, row, col = np.unravel_index(int(fits.argmax()), fits.shape)
    best = Fit(int(col) - REACH, int(row) - REACH, _ROLLS_DEG[turn])
    gains = block_gains(scores, width, best)
    peak = float(fits[turn, row, col])
    agreement = float(gains.sum()) / max(float(np.sqrt(np.square(gains).sum())), 1e-9)
    unmoved = peak - float(gains.sum())
    return replace(best, peak=(peak - middle) / spread, unmoved=(unmoved - middle) / spread, agreement=agreement)


def block_gains(scores: FloatArray, width: int, fit: Fit) -> FloatArray:
    """(BLOCKS,) how much better each block fits at the shift of ``fit`` than within one cell of no shift."""
    moved = _turned(scores, width, fit.roll_deg)[:, fit.v + REACH, fit.u + REACH]
    first, last = REACH - _ZERO, REACH + _ZERO + 1
    about = scores[:, first:last, first:last].reshape(BLOCKS, -1)
    gains: FloatArray = moved - about[:, int(about.sum(axis=0).argmax())]
    return gains


def _turned(scores: FloatArray, width: int, roll_deg: float) -> FloatArray:
    """The same, with the blocks right of the middle moved down and those left of it up, as a turn does; 0 beyond."""
    size = scores.shape[1]
    centres = ((np.arange(BLOCKS) + 0.5) / BLOCKS - 0.5) * width
    turned = np.zeros_like(scores)
    for block, offset in enumerate(np.rint(np.deg2rad(roll_deg) * centres).astype(int).tolist()):
        first, last = max(0, -offset), min(size, size - offset)
        if first < last:
            turned[block, first:last] = scores[block, first + offset : last + offset]
    return turned
