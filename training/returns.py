"""The returns of one sweep as a sample has them: what is measured, what is shown of it, and what is wrong with that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import project_points
from mf_ros.core.types import AnyArray, BoolArray, DoubleArray, FloatArray
from mf_training.scenes.types import LidarScan

_AROUND, _GHOST_RATIO = 7, 0.93
_LAGS_S = 0.05
_CELL_DEG = (0.4, 4.0)


@dataclass(frozen=True)
class SampleConfig:
    """How samples are drawn from scenes."""

    lines: float = 0.55
    """Share of samples that are shown some scan lines, or where the sensor has none a stretch of the sweep."""
    strides: Tuple[int, ...] = (1, 2, 2, 4, 4, 8, 8, 16)
    """Of these one is drawn: every so-manieth line is shown, or such a part of the sweep, as by a shorter exposure. So
    the returns shown can be made as few as those of another sensor than the one that recorded."""
    points: float = 0.22
    """Share that is shown random returns."""
    block: float = 0.15
    """Share that is shown the returns of a part of the image; what is left of the shares is shown none."""
    nearly: float = 0.0
    """Share that is shown nearly all: all but every 3rd to 8th scan line, or all but small patches of the picture where
    the sensor has no lines. As dense as on the robot, whose own sensor is the one to learn."""
    outliers: float = 0.1
    """Share of samples in which up to 10% of the returns are wrong."""
    ghosts: float = 0.3
    """Share of samples that keep returns from nowhere, nearer than anything around; robots' drivers filter most."""
    miscalibrated: float = 0.0
    """Share of samples whose returns are shown as a slightly wrong calibration, or clocks up to 50 ms apart, put them;
    recorded frames only, as rendered sweeps have their errors inside."""
    miscalibrated_deg: float = 0.3
    """Standard deviation of that wrong rotation, degrees."""
    miscalibrated_m: float = 0.015
    """Standard deviation of that wrong translation along each axis, metres."""
    faded: float = 0.0
    """Share of samples in which far returns are lost, as from a weaker sensor or in haze."""
    zoom: Tuple[float, float] = (1.0, 1.0)
    """Smallest and largest size at which a recorded frame is used, relative to its own; camera and returns follow."""
    cull_margin: float = ProjectionConfig.cull_margin
    """As ``projection.cull_margin`` on the robot."""
    reject_lonely: bool = ProjectionConfig.reject_lonely
    """As ``projection.reject_lonely`` on the robot."""
    coarse: float = 0.0
    """Share of samples seen on the coarser grid on which ``engine.quality`` balanced works."""
    photometric: bool = True
    """Vary brightness, contrast, colour and noise of the image."""
    restyled: float = 0.0
    """Share of samples of rendered scenes whose picture gets colours, light and shadows that no camera sees, so that
    the network does not take the looks of rendered pictures for those of real ones."""


@dataclass(frozen=True)
class Returns:
    """Returns on the image.

    Attributes:
        uv: (M, 2) float32 pixels where they were measured.
        measured: (M,) float32 metres.
        at: (M, 2) float32 pixels where they are shown.
        z: (M,) float32 metres as they are shown.
        ring: (M,) scan line, -1 without lines.
        shown: (M,) bool.
    """

    uv: FloatArray
    measured: FloatArray
    at: FloatArray
    z: FloatArray
    ring: AnyArray
    shown: BoolArray

    def select(self, keep: AnyArray) -> Returns:
        """The returns picked by a mask or an index array."""
        return Returns(
            self.uv[keep], self.measured[keep], self.at[keep], self.z[keep], self.ring[keep], self.shown[keep]
        )

    @property
    def true(self) -> BoolArray:
        """(M,) bool, those that are shown as they were measured."""
        same: BoolArray = self.shown & (self.z == self.measured) & (self.at == self.uv).all(1)
        return same


def project_returns(
    scan: LidarScan, camera: CameraModel, mirrored: bool, T_wrong: Optional[DoubleArray] = None
) -> Returns:
    """The returns of a sweep that fall into the image; every one is shown.

    Args:
        scan: the sweep.
        camera: of the image.
        mirrored: left and right change places.
        T_wrong: (4, 4), puts points where a wrong calibration would; what it puts outside of the image is not shown.
    """
    found = project_points(scan.as_points(), camera)
    uv, z = found.uv, found.z
    at, as_shown, shown = uv, z, found.visible
    if T_wrong is not None:
        moved = scan.points[found.index] @ T_wrong[:3, :3].T.astype(np.float32) + T_wrong[:3, 3].astype(np.float32)
        wrong = project_points(replace(scan, points=moved, ring=scan.ring[found.index]).as_points(), camera)
        at, as_shown, shown = uv.copy(), z.copy(), np.zeros(len(z), np.bool_)
        at[wrong.index], as_shown[wrong.index], shown[wrong.index] = wrong.uv, wrong.z, True
    if mirrored:
        uv, at = (np.stack([camera.width - 1 - each[:, 0], each[:, 1]], 1) for each in (uv, at))
    return Returns(uv, z, at, as_shown, scan.ring[found.index], shown)


def wrong_pose(rng: np.random.Generator, config: SampleConfig, twist: FloatArray) -> DoubleArray:
    """(4, 4) displacement of points by a wrong calibration, or by clocks that differ while the robot moves.

    Args:
        rng: of the draws.
        config: how wrong a calibration is.
        twist: (6,) velocity of the camera in its own frame, m/s and rad/s; zeros where it is not known.
    """
    rotation = np.deg2rad(rng.normal(0, config.miscalibrated_deg, 3))
    translation = rng.normal(0, config.miscalibrated_m, 3)
    lag_s = rng.uniform(-_LAGS_S, _LAGS_S)
    if twist.any() and rng.random() < 0.5:
        # What stands still moves against the camera.
        translation, rotation = -lag_s * twist[:3], -lag_s * twist[3:]
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.asarray(rotation, np.float64))[0]
    T[:3, 3] = translation
    return T


def without_ghosts(returns: Returns, depth: FloatArray) -> Returns:
    """The returns that something in the picture around them may have caused; all of them where depth is unknown."""
    known = np.where(depth > 0, depth, np.float32(np.inf))
    if not np.isfinite(known).any():
        return returns
    nearest = cv2.erode(known.astype(np.float32), np.ones((_AROUND, _AROUND), np.uint8))
    pixels = np.rint(returns.uv).astype(np.int64)
    return returns.select(np.flatnonzero(returns.z > _GHOST_RATIO * nearest[pixels[:, 1], pixels[:, 0]]))


def with_outliers(returns: Returns, rng: np.random.Generator) -> Returns:
    """Some returns replaced by depths from elsewhere in the sweep, or by ones far too near."""
    if len(returns.z) == 0:
        return returns
    wrong = rng.random(len(returns.z)) < rng.uniform(0, 0.1)
    other = returns.z[rng.integers(len(returns.z), size=len(returns.z))]
    other = other * np.where(rng.random(len(other)) < 0.3, rng.uniform(0.2, 1.5, len(other)), 1.0)
    return replace(returns, z=np.where(wrong, other, returns.z).astype(np.float32))


def with_shown(returns: Returns, rng: np.random.Generator, camera: CameraModel, config: SampleConfig) -> Returns:
    """Choose which returns the network is shown, by the shares of the settings; those outside the image never are."""
    draw, count = rng.random(), len(returns.z)
    has_lines = count > 0 and returns.ring.min() >= 0
    shape = (camera.height, camera.width)
    bounds = np.cumsum([config.lines, config.points, config.block, config.nearly])
    if draw < bounds[0]:
        stride = int(rng.choice(config.strides))
        turn = int(rng.integers(stride))
        # A sweep's returns come in the order in which they were measured.
        stretch = returns.ring % stride if has_lines else np.arange(count) * stride // max(count, 1)
        shown = stretch == turn
        # A sensor with the same lines may turn more coarsely.
        shown &= rng.random(count) < rng.choice([1.0, 1.0, 0.6])
    elif draw < bounds[1]:
        wanted = np.exp(rng.uniform(np.log(0.0003), np.log(0.2))) * shape[0] * shape[1]
        shown = rng.random(count) < wanted / max(count, 1)
    elif draw < bounds[2]:
        shown = _in_part(returns, rng, shape)
        if has_lines:
            stride = int(rng.choice([1, 2, 4]))
            shown &= returns.ring % stride == int(rng.integers(stride))
    elif draw < bounds[3]:
        shown = _nearly_all(returns, rng, camera, has_lines)
    else:
        shown = np.zeros(count, np.bool_)
    if config.faded and rng.random() < config.faded:
        shown = shown & (rng.random(count) < np.exp(-returns.z / rng.uniform(5, 60)))
    return replace(returns, shown=shown & returns.shown)


def _nearly_all(returns: Returns, rng: np.random.Generator, camera: CameraModel, has_lines: bool) -> BoolArray:
    if has_lines:
        stride = int(rng.integers(3, 9))
        shown: BoolArray = returns.ring % stride != int(rng.integers(stride))
        return shown
    # Single returns withheld from a dense sweep lie next to others that tell them; patches have to be bridged.
    side = max(camera.K[0, 0] * np.deg2rad(np.exp(rng.uniform(*np.log(_CELL_DEG)))), 2.0)
    cells = np.floor(returns.uv / side + rng.random(2)).astype(np.int64)
    across = int(camera.width / side) + 3
    number = cells[:, 1] * across + cells[:, 0]
    held_out = rng.random(int(number.max()) + 1 if len(number) else 1) < rng.uniform(0.15, 0.4)
    return np.asarray(~held_out[number])


def _in_part(returns: Returns, rng: np.random.Generator, shape: Tuple[int, int]) -> BoolArray:
    """Returns in a random rectangle, outside of one, or nearer than a random depth."""
    kind = rng.random()
    if kind < 0.3 and len(returns.z):
        return np.asarray(returns.z < np.quantile(returns.z, rng.uniform(0.3, 0.9)))
    size = rng.uniform(0.25, 0.75, 2) * shape[::-1]
    low = rng.uniform(0, 1, 2) * (np.array(shape[::-1]) - size)
    inside: BoolArray = ((returns.uv >= low) & (returns.uv < low + size)).all(1)
    return inside if kind < 0.65 else ~inside
