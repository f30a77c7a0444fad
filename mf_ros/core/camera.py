"""Camera models: between points in the optical frame and pixels, after sensor_msgs/CameraInfo.

Pixel (0, 0) is the centre of the first pixel, so an image of width W spans -0.5 to W - 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.distortion import Distortion, canonical_coefficients, make_lens
from mf_ros.core.types import AnyArray, DoubleArray, FloatArray
from mf_ros.errors import CalibrationError

MAX_PIXELS = 100_000_000
"""Largest image that is accepted, so that a corrupt size cannot ask for all memory."""
# cv2.remap holds pixel positions in 16 bits.
_MAX_SIDE = 32_767
# Focal lengths and principal points, pixels.
_SHORTEST, _LONGEST = 1e-2, 1e7
# Points at a time, whose intermediate results stay in the cache.
_BLOCK = 8192

Window = Tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class CameraModel:
    """A calibrated camera; equal and hashed by value, so it can key a cache.

    Attributes:
        width, height: image size, pixels.
        K: (3, 3) float64 intrinsics of this very image, pixels.
        D: (n,) float64 coefficients: plumb_bob 5, rational_polynomial 8 or 12, equidistant 4 (OpenCV's order).
        distortion_model: plumb_bob, rational_polynomial or equidistant; "" or an empty D is plumb_bob of zeros.
        R: (3, 3) float64 stereo rectification, kept for publishing; projection takes points in the unrotated frame.

    Raises:
        CalibrationError: uncalibrated (K[0] = 0), not finite, unknown model, wrong number of coefficients, odd size, or
            a distortion that folds at the image centre.
    """

    width: int
    height: int
    K: DoubleArray
    D: DoubleArray
    distortion_model: str = "plumb_bob"
    R: DoubleArray = field(default_factory=lambda: np.eye(3))
    _lens: Optional[Distortion] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_size(self.width, self.height)
        model, D = canonical_coefficients(self.distortion_model, self.D)
        for name, value in (("K", _intrinsics(self.K)), ("D", D), ("R", _matrix(self.R, "R"))):
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "distortion_model", model)
        # Made here and not at its first use, so that whoever builds a camera hears of a lens that cannot be.
        object.__setattr__(self, "_lens", make_lens(model, D))

    @cached_property
    def key(self) -> Tuple[Any, ...]:
        """What makes two cameras the same."""
        arrays = (self.K.tobytes(), self.D.tobytes(), self.R.tobytes())
        return (self.width, self.height, self.distortion_model, *arrays)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CameraModel) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def has_distortion(self) -> bool:
        """Whether straight lines come out bent; a fisheye bends them even with all coefficients zero."""
        return self.distortion_model == "equidistant" or bool(self.D.any())

    @property
    def lens(self) -> Optional[Distortion]:
        """What bends the rays; None for an ideal pinhole."""
        return self._lens

    @property
    def max_angle(self) -> float:
        """Largest angle from the optical axis at which the distortion model holds, radians."""
        return self._lens.max_angle if self._lens is not None else float(np.pi / 2)

    def project(self, points: AnyArray) -> DoubleArray:
        """Pixels of points.

        Args:
            points: (N, 3) optical frame, metres.

        Returns:
            (N, 2) float64 u, v, which may lie outside the image; NaN where Z <= 0, where a coordinate is not finite,
            and past the angle at which the distortion model folds back.
        """
        points = np.asarray(points)
        uv = np.empty((len(points), 2))
        for start in range(0, len(points), _BLOCK):
            part = slice(start, start + _BLOCK)
            uv[part, 0], uv[part, 1] = self._projected(points[part])
        return uv

    def _projected(self, points: AnyArray) -> Tuple[DoubleArray, DoubleArray]:
        x, y, z = (points[:, axis].astype(np.float64) for axis in range(3))
        z[~((z > 0.0) & (z < np.inf))] = np.nan
        with np.errstate(invalid="ignore", over="ignore"):
            x /= z
            y /= z
            if self._lens is not None:
                x, y = self._lens.distort(x, y)
            u = self.K[0, 0] * x + self.K[0, 1] * y + self.K[0, 2]
            v = self.K[1, 1] * y + self.K[1, 2]
            lost = ~np.isfinite(u + v)
        u[lost] = v[lost] = np.nan
        return u, v

    def unproject(self, uv: AnyArray, depth: AnyArray) -> DoubleArray:
        """Points seen at pixels.

        Args:
            uv: (N, 2) pixels.
            depth: (N,) metres along the optical Z axis.

        Returns:
            (N, 3) float64 optical frame, metres; NaN where no ray that the distortion model knows reaches the pixel.
        """
        rays = np.ones((len(uv), 3))
        rays[:, 0], rays[:, 1] = self._normalised(np.asarray(uv, dtype=np.float64))
        rays[np.isnan(rays[:, 0]), 2] = np.nan
        points: DoubleArray = rays * np.asarray(depth, dtype=np.float64).reshape(-1, 1)
        return points

    def rays(self) -> FloatArray:
        """(H, W, 3) float32 rays (x, y, 1) through the pixel centres, read-only and computed once.

        NaN where the distortion model folds before it reaches the pixel. Depth times ray is the point.
        """
        return self._rays

    def ray_planes(self) -> FloatArray:
        """The same as (3, H, W), each coordinate contiguous, read-only and computed once."""
        return self._ray_planes

    def resized(self, width: int, height: int) -> CameraModel:
        """The camera of the image scaled to ``width`` x ``height``, with pixel areas (not centres) kept aligned."""
        _check_size(width, height)
        return self._scaled(width / self.width, height / self.height, width, height)

    def binned(self, bx: int, by: int) -> CameraModel:
        """The camera of the image whose pixels are averages of ``bx`` x ``by`` blocks; 0 means 1."""
        bx, by = max(int(bx), 1), max(int(by), 1)
        width, height = self.width // bx, self.height // by
        if width == 0 or height == 0:
            raise CalibrationError(
                f"Binning {bx} x {by} leaves nothing of a {self.width} x {self.height} image: correct camera_info."
            )
        return self._scaled(1.0 / bx, 1.0 / by, width, height)

    def cropped(self, x: int, y: int, width: int, height: int) -> CameraModel:
        """The camera of the window whose first pixel is (x, y).

        Raises:
            CalibrationError: the window is empty or leaves the image.
        """
        x, y, width, height = int(x), int(y), int(width), int(height)
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > self.width or y + height > self.height:
            raise CalibrationError(
                f"The region of interest {width} x {height} at ({x}, {y}) does not lie in the image of "
                f"{self.width} x {self.height}: correct the roi of camera_info."
            )
        K = self.K.copy()
        K[0, 2] -= x
        K[1, 2] -= y
        return CameraModel(width, height, K, self.D, self.distortion_model, self.R)

    def rectified(self) -> CameraModel:
        """The ideal pinhole with the same K, size and frame: D = 0, R = I."""
        return CameraModel(self.width, self.height, self.K, np.zeros(5), "plumb_bob")

    @cached_property
    def _ray_planes(self) -> FloatArray:
        planes = np.ascontiguousarray(np.moveaxis(self._rays, -1, 0))
        planes.flags.writeable = False
        return planes

    @cached_property
    def _rays(self) -> FloatArray:
        rays = np.ones((self.height, self.width, 3), dtype=np.float32)
        u, v = np.arange(self.width, dtype=np.float64), np.arange(self.height, dtype=np.float64)
        if self._lens is None:
            y = (v - self.K[1, 2]) / self.K[1, 1]
            rays[..., 0] = ((u - self.K[0, 2]) - (self.K[0, 1] * y)[:, None]) / self.K[0, 0]
            rays[..., 1] = y[:, None]
        else:
            grid = np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)
            x, y = self._normalised(grid)
            rays[..., 0], rays[..., 1] = x.reshape(rays.shape[:2]), y.reshape(rays.shape[:2])
            rays[np.isnan(rays[..., 0])] = np.nan
        rays.flags.writeable = False
        return rays

    @cached_property
    def _rectify_maps(self) -> Tuple[FloatArray, FloatArray]:
        rays = self.rectified().rays().reshape(-1, 3)
        # cv2.remap has no rule for NaN; a place outside the image becomes black.
        uv = np.nan_to_num(self.project(rays), nan=-1.0e4).astype(np.float32)
        np.clip(uv, -1.0e4, 4.0e4, out=uv)
        maps = uv.reshape(self.height, self.width, 2)
        map_x, map_y = np.ascontiguousarray(maps[..., 0]), np.ascontiguousarray(maps[..., 1])
        map_x.flags.writeable = map_y.flags.writeable = False
        return map_x, map_y

    def _normalised(self, uv: DoubleArray) -> Tuple[DoubleArray, DoubleArray]:
        y = (uv[:, 1] - self.K[1, 2]) / self.K[1, 1]
        x = (uv[:, 0] - self.K[0, 2] - self.K[0, 1] * y) / self.K[0, 0]
        return (x, y) if self._lens is None else self._lens.undistort(x, y)

    def _scaled(self, sx: float, sy: float, width: int, height: int) -> CameraModel:
        K = self.K.copy()
        K[0, :2] *= sx
        K[1, 1] *= sy
        K[0, 2] = (K[0, 2] + 0.5) * sx - 0.5
        K[1, 2] = (K[1, 2] + 0.5) * sy - 0.5
        return CameraModel(width, height, K, self.D, self.distortion_model, self.R)


def make_camera(
    width: int,
    height: int,
    K: Any,
    D: Any,
    distortion_model: str,
    *,
    R: Any = None,
    binning: Tuple[int, int] = (0, 0),
    roi: Window = (0, 0, 0, 0),
    image_size: Optional[Tuple[int, int]] = None,
) -> CameraModel:
    """The camera of the image that a sensor_msgs/CameraInfo goes with.

    Args:
        width, height: size of the full, unbinned image, pixels; both 0 (some drivers leave them out) take
            ``image_size`` when there is neither binning nor a region of interest.
        K: 9 values or (3, 3), of the full, unbinned image.
        D: distortion coefficients, in OpenCV's order.
        distortion_model: plumb_bob, rational_polynomial, equidistant or "".
        R: stereo rectification, 9 values or (3, 3); all zeros (never filled in) count as identity.
        binning: binning_x, binning_y; 0 means 1.
        roi: x_offset, y_offset, width, height in the full image; a size of 0 x 0 means all of it.
        image_size: (width, height) of the image at hand, checked when given.

    Raises:
        CalibrationError: the calibration cannot be used, or is of another size than the image.
    """
    binned = max(int(binning[0]), 1) > 1 or max(int(binning[1]), 1) > 1
    whole = int(roi[2]) == 0 and int(roi[3]) == 0
    if width == 0 and height == 0 and image_size is not None and whole and not binned:
        width, height = image_size
    # A comparison, because any() warns about NaN that came out of damaged bytes.
    if R is None or np.array_equal(np.asarray(R, dtype=np.float64).reshape(-1), np.zeros(9)):
        R = np.eye(3)
    camera = CameraModel(int(width), int(height), K, D, distortion_model, R)
    if not whole:
        camera = camera.cropped(*roi)
    if binned:
        camera = camera.binned(*binning)
    if image_size is not None and tuple(image_size) != (camera.width, camera.height):
        raise CalibrationError(
            f"The image is {image_size[0]} x {image_size[1]}, its camera_info describes "
            f"{camera.width} x {camera.height}: "
            "use the camera_info published beside the image, or have the node that resizes it rescale both."
        )
    return camera


def rectify_maps(camera: CameraModel) -> Tuple[FloatArray, FloatArray]:
    """Maps for cv2.remap from the camera's image to that of ``camera.rectified()``.

    Returns:
        Two (H, W) float32 arrays, u and v to read from, read-only and computed once; far outside the image where the
        distortion model does not reach.
    """
    return camera._rectify_maps


def rectify_image(image: AnyArray, camera: CameraModel) -> AnyArray:
    """The image as ``camera.rectified()`` would see it, interpolated linearly; zero where the camera saw nothing.

    Args:
        image: (H, W) or (H, W, C), of the camera's size.
        camera: the camera that took it.

    Raises:
        CalibrationError: the image is not of the camera's size.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise CalibrationError(
            f"The image is {image.shape[1]} x {image.shape[0]}, the camera {camera.width} x {camera.height}: "
            "resize the camera with the image."
        )
    if not camera.has_distortion:
        return image
    map_x, map_y = rectify_maps(camera)
    rectified: AnyArray = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return rectified


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE and width * height <= MAX_PIXELS):
        raise CalibrationError(
            f"An image of {width} x {height} pixels cannot be used (1 to {_MAX_SIDE} per side, {MAX_PIXELS} in all): "
            "correct width and height of camera_info."
        )


def _matrix(values: Any, name: str) -> DoubleArray:
    matrix: DoubleArray = np.array(values, dtype=np.float64)
    if matrix.size != 9:
        raise CalibrationError(f"{name} has {matrix.size} values instead of 9: correct camera_info.")
    if not np.isfinite(matrix).all():
        raise CalibrationError(f"{name} = {matrix.reshape(-1).tolist()} is not finite: calibrate the camera again.")
    return matrix.reshape(3, 3)


def _intrinsics(values: Any) -> DoubleArray:
    K = _matrix(values, "K")
    if K[0, 0] == 0.0 or K[1, 1] == 0.0:
        raise CalibrationError("The camera is not calibrated (K is zero): calibrate it and publish the camera_info.")
    if K[0, 0] < 0.0 or K[1, 1] < 0.0 or K[1, 0] != 0.0 or K[2].tolist() != [0.0, 0.0, 1.0]:
        raise CalibrationError(
            f"K = {K.reshape(-1).tolist()} is not of the form fx s cx, 0 fy cy, 0 0 1 with positive fx and fy: "
            "correct camera_info."
        )
    if min(K[0, 0], K[1, 1]) < _SHORTEST or np.abs(K).max() > _LONGEST:
        raise CalibrationError(
            f"K = {K.reshape(-1).tolist()} is of no real camera, whose focal lengths are {_SHORTEST:g} to {_LONGEST:g} "
            "pixels: correct camera_info."
        )
    return K
