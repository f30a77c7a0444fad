"""Lens distortion on normalised image coordinates (x = X/Z, y = Y/Z), with the field of view each fit is valid in.

A polynomial fitted to a calibration board bends back somewhere outside the board's reach: beyond that angle a point far
off to the side would land in the middle of the image. Both lenses here know that angle and give NaN past it.

Formulas: OpenCV's calibration documentation (pinhole with rational, tangential and thin prism terms; fisheye after
Kannala and Brandt, 2006), which is what sensor_msgs/CameraInfo names plumb_bob, rational_polynomial and equidistant.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Optional, Protocol, Tuple

import numpy as np

from mf_ros.core.types import DoubleArray
from mf_ros.errors import CalibrationError

KNOWN_MODELS = ("plumb_bob", "rational_polynomial", "equidistant")

# One ray per 0.02 degrees up to almost 90: finer than half a pixel for lenses up to a focal length of 1400 pixels.
_ANGLES: DoubleArray = np.radians(np.linspace(0.0, 89.9, 4496))
_DIRECTIONS = 48
# Newton runs on blocks that stay in the cache; on a full image this is several times faster than all pixels at once.
_BLOCK = 32768
_NEWTON_STEPS = 10
_CONVERGED = 1e-10
# A rig has a handful of cameras; a lens holds up to 72 kB.
_LENSES_KEPT = 32

XY = Tuple[DoubleArray, DoubleArray]


class Distortion(Protocol):
    """A lens that moves normalised coordinates; angles are from the optical axis, radians."""

    max_angle: float

    def distort(self, x: DoubleArray, y: DoubleArray) -> XY:
        """(N,) ideal coordinates to (N,) distorted ones; NaN past ``max_angle``."""

    def undistort(self, xd: DoubleArray, yd: DoubleArray) -> XY:
        """(N,) distorted coordinates to (N,) ideal ones; NaN where no ray within ``max_angle`` lands."""


class PolynomialLens:
    """plumb_bob and rational_polynomial: radial ratio of polynomials, tangential and thin prism terms.

    Args:
        D: k1 k2 p1 p2 k3 [k4 k5 k6 [s1 s2 s3 s4]], OpenCV's order.

    Attributes:
        D: all 12 of them.
        off_axis, rational: whether tangential or prism terms, and whether k4 to k6 do something.
        max_s: x² + y² up to which it holds.
    """

    def __init__(self, D: DoubleArray) -> None:
        self.D: Tuple[float, ...] = tuple(float(d) for d in D) + (0.0,) * (12 - len(D))
        self.off_axis = any(self.D[i] != 0.0 for i in (2, 3, 8, 9, 10, 11))
        self.rational = any(self.D[i] != 0.0 for i in (5, 6, 7))
        self.max_angle, self._radii, self._distorted_radii = self._valid_range()
        self.max_s = float(self._radii[-1]) ** 2

    def distort(self, x: DoubleArray, y: DoubleArray) -> XY:
        s = x * x + y * y
        xd, yd = self._offset(x, y, s, self._radial(s))
        beyond = ~(s <= self.max_s)
        xd[beyond] = np.nan
        yd[beyond] = np.nan
        return xd, yd

    def undistort(self, xd: DoubleArray, yd: DoubleArray) -> XY:
        x, y = np.empty_like(xd), np.empty_like(yd)
        for start in range(0, len(xd), _BLOCK):
            part = slice(start, start + _BLOCK)
            x[part], y[part] = self._newton(xd[part], yd[part])
        return x, y

    def _radial(self, s: DoubleArray) -> DoubleArray:
        k1, k2, _, _, k3, k4, k5, k6 = self.D[:8]
        gain: DoubleArray = 1.0 + s * (k1 + s * (k2 + s * k3))
        return gain / (1.0 + s * (k4 + s * (k5 + s * k6))) if self.rational else gain

    def _radial_slope(self, s: DoubleArray) -> DoubleArray:
        """Derivative of the radial gain by s = r²."""
        k1, k2, _, _, k3, k4, k5, k6 = self.D[:8]
        slope: DoubleArray = k1 + s * (2.0 * k2 + s * 3.0 * k3)
        if not self.rational:
            return slope
        top = 1.0 + s * (k1 + s * (k2 + s * k3))
        bottom = 1.0 + s * (k4 + s * (k5 + s * k6))
        return (slope * bottom - top * (k4 + s * (2.0 * k5 + s * 3.0 * k6))) / (bottom * bottom)

    def _offset(self, x: DoubleArray, y: DoubleArray, s: DoubleArray, gain: DoubleArray) -> XY:
        if not self.off_axis:
            return x * gain, y * gain
        p1, p2 = self.D[2:4]
        s1, s2, s3, s4 = self.D[8:12]
        xy = 2.0 * x * y
        xd = x * gain + p1 * xy + p2 * (s + 2.0 * x * x) + s * (s1 + s * s2)
        yd = y * gain + p2 * xy + p1 * (s + 2.0 * y * y) + s * (s3 + s * s4)
        return xd, yd

    def _jacobian(
        self, x: DoubleArray, y: DoubleArray, s: DoubleArray, gain: DoubleArray
    ) -> Tuple[DoubleArray, DoubleArray, DoubleArray, DoubleArray]:
        """dxd/dx, dxd/dy, dyd/dx, dyd/dy."""
        slope = 2.0 * self._radial_slope(s)
        mixed = x * y * slope
        xx, yy = gain + x * x * slope, gain + y * y * slope
        if not self.off_axis:
            return xx, mixed, mixed, yy
        p1, p2 = self.D[2:4]
        s1, s2, s3, s4 = self.D[8:12]
        across = mixed + 2.0 * (p1 * x + p2 * y)
        prism_x = 2.0 * s1 + 4.0 * s2 * s
        prism_y = 2.0 * s3 + 4.0 * s4 * s
        xx = xx + 2.0 * p1 * y + 6.0 * p2 * x + prism_x * x
        yy = yy + 6.0 * p1 * y + 2.0 * p2 * x + prism_y * y
        return xx, across + prism_x * y, across + prism_y * x, yy

    def _valid_range(self) -> Tuple[float, DoubleArray, DoubleArray]:
        """The angle before the mapping folds in any direction, and the radial table up to there."""
        radii: DoubleArray = np.tan(_ANGLES)
        turns = np.linspace(0.0, 2.0 * np.pi, _DIRECTIONS if self.off_axis else 1, endpoint=False)
        x, y = radii[:, None] * np.cos(turns), radii[:, None] * np.sin(turns)
        s = x * x + y * y
        with np.errstate(all="ignore"):
            gain = self._radial(s)
            xx, xy, yx, yy = self._jacobian(x, y, s, gain)
            good = (gain > 0.0) & (xx + yy > 0.0) & (xx * yy - xy * yx > 0.0)
            distorted = radii * self._radial(radii * radii)
        good_rows = good.all(axis=1)
        end = len(radii) if good_rows.all() else int(np.argmin(good_rows))
        if end < 2:
            raise _folds_at_centre(self.D)
        return float(_ANGLES[end - 1]), radii[:end], np.maximum.accumulate(distorted[:end])

    def _newton(self, xd: DoubleArray, yd: DoubleArray) -> XY:
        with np.errstate(all="ignore"):
            distorted = np.hypot(xd, yd)
            start = np.interp(distorted, self._distorted_radii, self._radii)
            ratio = np.where(distorted > 0.0, start / distorted, 1.0)
            x, y = xd * ratio, yd * ratio
            for _ in range(_NEWTON_STEPS):
                s = x * x + y * y
                gain = self._radial(s)
                ex, ey = self._offset(x, y, s, gain)
                ex, ey = ex - xd, ey - yd
                xx, xy, yx, yy = self._jacobian(x, y, s, gain)
                scale = 1.0 / (xx * yy - xy * yx)
                step_x = (yy * ex - xy * ey) * scale
                step_y = (xx * ey - yx * ex) * scale
                x, y = x - step_x, y - step_y
                if not (np.abs(step_x) + np.abs(step_y) > _CONVERGED).any():
                    break
            # A pixel that no valid ray reaches leaves Newton unconverged, or converged past the fold: not answers.
            back_x, back_y = self.distort(x, y)
            missed = ~(np.abs(back_x - xd) + np.abs(back_y - yd) < 1e-7)
        x[missed] = np.nan
        y[missed] = np.nan
        return x, y


class EquidistantLens:
    """equidistant: the fisheye polynomial in the angle from the optical axis.

    Args:
        D: k1 k2 k3 k4.
    """

    def __init__(self, D: DoubleArray) -> None:
        self._k: Tuple[float, ...] = tuple(float(d) for d in D)
        with np.errstate(all="ignore"):
            rising = self._slope(_ANGLES) > 0.0
            distorted = self._bent(_ANGLES)
        end = len(_ANGLES) if rising.all() else int(np.argmin(rising))
        if end < 2:
            raise _folds_at_centre(self._k)
        self.max_angle = float(_ANGLES[end - 1])
        self._angles, self._bent_angles = _ANGLES[:end], distorted[:end]

    def distort(self, x: DoubleArray, y: DoubleArray) -> XY:
        r = np.hypot(x, y)
        angle = np.arctan(r)
        ratio = self._bent(angle) / np.where(r > 0.0, r, 1.0)
        ratio[r == 0.0] = 1.0
        ratio[~(angle <= self.max_angle)] = np.nan
        return x * ratio, y * ratio

    def undistort(self, xd: DoubleArray, yd: DoubleArray) -> XY:
        bent = np.hypot(xd, yd)
        angle = np.interp(bent, self._bent_angles, self._angles)
        for _ in range(3):
            angle = angle - (self._bent(angle) - bent) / self._slope(angle)
        ratio = np.tan(angle) / np.where(bent > 0.0, bent, 1.0)
        ratio[bent == 0.0] = 1.0
        ratio[~(bent <= self._bent_angles[-1])] = np.nan
        return xd * ratio, yd * ratio

    def _bent(self, angle: DoubleArray) -> DoubleArray:
        k1, k2, k3, k4 = self._k
        s = angle * angle
        return angle * (1.0 + s * (k1 + s * (k2 + s * (k3 + s * k4))))

    def _slope(self, angle: DoubleArray) -> DoubleArray:
        k1, k2, k3, k4 = self._k
        s = angle * angle
        return 1.0 + s * (3.0 * k1 + s * (5.0 * k2 + s * (7.0 * k3 + s * 9.0 * k4)))


def canonical_coefficients(distortion_model: str, D: Any) -> Tuple[str, DoubleArray]:
    """The model's name and its coefficients in the length it uses: plumb_bob 5, rational 8 or 12, equidistant 4.

    No coefficients at all mean an ideal pinhole, whatever the name: (plumb_bob, zeros).

    Raises:
        CalibrationError: unknown name, wrong number of coefficients, a value that is not finite, or a tilted sensor.
    """
    coefficients: DoubleArray = np.array(D, dtype=np.float64).reshape(-1)
    model = distortion_model.strip()
    if model not in (*KNOWN_MODELS, "", "none"):
        raise CalibrationError(
            f"Unknown distortion_model '{model}': known are {', '.join(KNOWN_MODELS)}. Convert the calibration to "
            "one of them, or rectify the images and publish a camera_info without distortion."
        )
    if not np.isfinite(coefficients).all():
        raise CalibrationError(
            f"Distortion coefficients are not finite (D = {coefficients.tolist()}): calibrate again."
        )
    if len(coefficients) == 0:
        return "plumb_bob", np.zeros(5)
    if model == "equidistant":
        return model, _cut(coefficients, model, (4,), keep=4)
    if model == "rational_polynomial":
        coefficients = _cut(coefficients, model, (4, 5, 8, 12, 14), keep=12)
        return model, coefficients if coefficients[8:].any() else coefficients[:8]
    return "plumb_bob", _cut(coefficients, "plumb_bob", (4, 5, 8, 12, 14), keep=5)


def _cut(D: DoubleArray, model: str, lengths: Tuple[int, ...], keep: int) -> DoubleArray:
    """D padded or cut to ``keep`` values; a cut never drops a coefficient that does something."""
    usual = {"plumb_bob": "4 or 5", "rational_polynomial": "8", "equidistant": "4"}[model]
    if len(D) not in lengths:
        raise CalibrationError(
            f"{model} takes {usual} distortion coefficients, D has {len(D)}: "
            "correct D or distortion_model of camera_info."
        )
    if D[keep:].any():
        advice = "name it rational_polynomial" if model == "plumb_bob" else "calibrate without the tilted sensor model"
        raise CalibrationError(f"{model} takes {usual} distortion coefficients, D has {len(D)} in use: {advice}.")
    return np.concatenate([D, np.zeros(max(0, keep - len(D)))])[:keep]


def _folds_at_centre(D: Tuple[float, ...]) -> CalibrationError:
    return CalibrationError(
        f"Distortion coefficients D = {list(D)} fold the image at its very centre: calibrate the camera again."
    )


def make_lens(distortion_model: str, D: DoubleArray) -> Optional[Distortion]:
    """The lens of canonical coefficients; None for an ideal pinhole.

    Equal coefficients give the same lens, since a camera is built anew for each image and its lens takes milliseconds.

    Raises:
        CalibrationError: the coefficients fold the image at its very centre.
    """
    return _lens_of(distortion_model, tuple(float(d) for d in D))


@lru_cache(maxsize=_LENSES_KEPT)
def _lens_of(distortion_model: str, D: Tuple[float, ...]) -> Optional[Distortion]:
    coefficients: DoubleArray = np.array(D)
    if distortion_model == "equidistant":
        return EquidistantLens(coefficients)
    return PolynomialLens(coefficients) if coefficients.any() else None
