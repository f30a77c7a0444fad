"""Depth of a published network moved smoothly toward the returns, and how far the result can be trusted."""

from __future__ import annotations

import math
from typing import NamedTuple, Tuple

import cv2
import numpy as np

from mf_ros.core.grid import enlarged, grid_step
from mf_ros.core.returns import Returns, drawn_to_returns
from mf_ros.core.scale_fit import ScaleFit
from mf_ros.core.types import BoolArray, FloatArray

_GRID_PIXELS = 1_300_000
# Of log depth.
_LARGEST_CORRECTION = 1.0
# From what a network misses over whole surfaces to what it misses at edges, in reaches of the returns.
_WINDOWS = (2.0, 1.0, 0.5)
# Away from the returns the correction halves about every so many reaches.
_FADE_REACHES = 3.0
# Returns are held out by cells of so many times their spacing.
_HELD_OUT_CELL = 2.0
_PRIOR_COUNT = 5
_LEAST_SPREAD = 0.003


class Corrected(NamedTuple):
    """Depth (H, W), metres, and the log of the Laplace scale of its error in log depth."""

    depth: FloatArray
    log_scale: FloatArray


def corrected(depth: FloatArray, returns: FloatArray, fit: ScaleFit) -> Corrected:
    """Depth drawn to the returns in windows of falling width, as ``drawn_to_returns`` says.

    It stays as it is where that brings it no closer to returns that are held out to see.

    Args:
        depth: (H, W) fitted depth, metres; NaN where there is none.
        returns: (H, W) metres, 0 = none; at least one where depth is.
        fit: where depth is from.
    """
    shape, step = (depth.shape[0], depth.shape[1]), grid_step(depth.shape, _GRID_PIXELS)
    pixel = np.flatnonzero((returns > 0) & np.isfinite(depth))
    missed = np.log(np.take(returns, pixel) / np.take(depth, pixel))
    shown = Returns(np.clip(missed, -_LARGEST_CORRECTION, _LARGEST_CORRECTION), pixel, shape, step)
    near, usual = _held_out_spread(shown, fit.spread)
    if not near < fit.spread:
        return Corrected(depth, np.full(shape, math.log(fit.spread), np.float32))
    correction, distance = _correction(shown, fit.spread), _distance(shown)
    # At the distance that was held out it is what was measured there; far away that of the fit.
    fade = np.exp2(np.minimum((usual - distance) * np.float32(step / (_FADE_REACHES * shown.reach)), 0))
    log_scale = np.log(fit.spread + (near - fit.spread) * fade).astype(np.float32)
    moved: FloatArray = (depth * np.exp(enlarged(correction, step, shape))).astype(np.float32)
    return Corrected(moved, enlarged(log_scale, step, shape))


def _correction(shown: Returns, spread: float) -> FloatArray:
    """(h, w) of log depth, on the grid of the returns."""
    correction: FloatArray = np.zeros(shown.grid, np.float32)
    for window in _WINDOWS:
        correction = drawn_to_returns(correction, math.log(spread), shown, math.inf, window)
    return correction


def _distance(shown: Returns) -> FloatArray:
    """(h, w) float32 distance to the nearest return, cells of the grid."""
    empty = np.ones(shown.grid, np.uint8)
    empty.flat[shown.cells()] = 0
    return np.asarray(cv2.distanceTransform(empty, cv2.DIST_L2, 3), np.float32)


def _held_out_spread(shown: Returns, usual: float) -> Tuple[float, float]:
    """Laplace scale of the error at returns that a correction from the others has not seen, and their distance to them.

    Held out is every other cell of a checkerboard, so that what is judged lies between returns and not beside one. Few
    returns count less than ``usual``, the scale before the correction.
    """
    side = max(1, round(_HELD_OUT_CELL * shown.spacing))
    rows, cols = np.divmod(shown.pixel, shown.shape[1])
    held: BoolArray = (rows // side + cols // side) % 2 == 0
    if held.all() or not held.any():
        return usual, 0.0
    judged, others = shown.where(held), shown.where(~held)
    errors = np.abs(judged.log_ratio - judged.sampled(_correction(others, usual)))
    own = max(float(np.median(errors)) / math.log(2.0), _LEAST_SPREAD)
    distance = float(np.median(np.take(_distance(others), judged.cells())))
    return (len(errors) * own + _PRIOR_COUNT * usual) / (len(errors) + _PRIOR_COUNT), distance
