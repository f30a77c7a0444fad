"""LiDAR returns on the image grid: projection, z-buffer, and removal of returns the camera cannot see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core import compiled
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.encoding import zero_where
from mf_ros.core.outliers import lonely_returns
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, CameraPoints, DoubleArray, FloatArray, SparseDepth

if TYPE_CHECKING:
    from mf_ros.core.camera import CameraModel

NEAREST_Z_M = 0.05
"""Nearer points, along the optical axis, are not projected."""
_CULL_GRID_WIDTH = 700


@dataclass(frozen=True)
class ProjectedReturns:
    """LiDAR returns that fall inside the image.

    Attributes:
        uv: (M, 2) float32 pixel coordinates, pixel centres at integers.
        z: (M,) float32 metres along the optical Z axis.
        index: (M,) int64 position of each return in the points that were projected.
        visible: (M,) bool, False where the return is not used: it is lonely, or a nearer surface hides it.
        lonely: (M,) bool, True where hardly any return around it agrees with it.
    """

    uv: FloatArray
    z: FloatArray
    index: AnyArray
    visible: BoolArray
    lonely: BoolArray

    @classmethod
    def unmarked(cls, uv: FloatArray, z: FloatArray, index: Optional[AnyArray] = None) -> ProjectedReturns:
        """Returns of which all count as visible; ``index`` is their own order unless it is given."""
        index = np.arange(len(z)) if index is None else index
        return cls(uv, z, index, np.ones(len(z), np.bool_), np.zeros(len(z), np.bool_))

    def __len__(self) -> int:
        return len(self.z)

    def pixels(self) -> Tuple[AnyArray, AnyArray]:
        """Row and column of the pixel each return falls in, (M,) int64 each, computed once."""
        return self._pixels

    @cached_property
    def far_to_near(self) -> AnyArray:
        """(M,) int64 positions from the farthest return to the nearest; equal ones keep their order."""
        return _far_to_near(self.z)

    def drawing_order(self) -> AnyArray:
        """(K,) int64 positions of the visible returns, far to near, so that what the camera sees is written last."""
        return self.far_to_near[self.visible[self.far_to_near]]

    def marked(self, visible: BoolArray, lonely: BoolArray) -> ProjectedReturns:
        """The same returns with other marks."""
        marked = replace(self, visible=visible, lonely=lonely)
        # Marks move no return, so what was computed of their places is handed on.
        vars(marked).update({name: vars(self)[name] for name in ("_pixels", "far_to_near") if name in vars(self)})
        return marked

    def select(self, keep: AnyArray) -> ProjectedReturns:
        """The returns picked by a (M,) bool mask or an index array."""
        return ProjectedReturns(self.uv[keep], self.z[keep], self.index[keep], self.visible[keep], self.lonely[keep])

    @cached_property
    def _pixels(self) -> Tuple[AnyArray, AnyArray]:
        u, v = self.uv.T
        return np.rint(v).astype(np.int64), np.rint(u).astype(np.int64)


def project_points(
    points: CameraPoints, camera: CameraModel, config: Optional[ProjectionConfig] = None
) -> ProjectedReturns:
    """Project returns into the image and mark those that are lonely or that a nearer surface hides.

    Args:
        points: returns in the camera's optical frame at the image's stamp.
        camera: the camera; distorted models project onto the distorted image.
        config: what to mark; None marks nothing, every return in the image counts as visible.

    Returns:
        The returns inside the image, in the order of ``points``.
    """
    kernels = compiled.kernels("projection")
    found = None if kernels is None else kernels.project(points.points, camera)
    returns = ProjectedReturns.unmarked(*(projected_by_numpy(points.points, camera) if found is None else found))
    return returns if config is None else mark_visible(returns, (camera.height, camera.width), config)


def projected_by_numpy(xyz: FloatArray, camera: CameraModel) -> Tuple[FloatArray, FloatArray, AnyArray]:
    """Pixels, z and positions of the points that fall into the image; compiled kernels are held to it.

    Args:
        xyz: (N, 3) float32 optical frame, metres.

    Returns:
        (M, 2) float32 u, v, (M,) float32 z and (M,) int64 positions, as ``ProjectedReturns`` holds them.
    """
    ahead = np.flatnonzero(xyz[:, 2] > NEAREST_Z_M)
    # np.take and not an index, which is several times slower for rows.
    uv = camera.project(np.take(xyz, ahead, axis=0))
    upper = np.array([camera.width - 0.5, camera.height - 0.5])
    # A NaN compares False, so points outside the lens' valid field of view drop out here too.
    u, v = uv.T
    inside = np.flatnonzero((u >= -0.5) & (v >= -0.5) & (u < upper[0]) & (v < upper[1]))
    index = ahead[inside]
    # Rounding to float32 may push a coordinate onto the border that the float64 value respected.
    pixels: FloatArray = np.clip(np.take(uv, inside, axis=0), -0.49, upper - 0.01).astype(np.float32)
    return pixels, np.ascontiguousarray(xyz[index, 2]), index


def mark_visible(returns: ProjectedReturns, shape: Tuple[int, int], config: ProjectionConfig) -> ProjectedReturns:
    """The same returns, visible only where they are neither lonely nor hidden, as far as ``config`` asks for it.

    A lonely return hides nothing: a drop of rain in front of a wall is no surface.
    """
    if len(returns) == 0:
        return returns
    rows, cols = returns.pixels()
    lonely = lonely_returns(rows, cols, returns.z, shape) if config.reject_lonely else np.zeros(len(returns), np.bool_)
    visible = ~lonely
    if config.cull_hidden:
        visible &= ~hidden_returns(returns, shape, config.cull_margin, ~lonely)
    return returns.marked(visible, lonely)


def to_sparse_depth(returns: ProjectedReturns, camera: CameraModel) -> SparseDepth:
    """Depth image of the visible returns; where several share a pixel the nearest stays (z-buffer)."""
    rows, cols = returns.pixels()
    depth = _nearest(returns, rows * camera.width + cols, returns.visible, (camera.height, camera.width))
    visible, lonely = int(np.count_nonzero(returns.visible)), int(np.count_nonzero(returns.lonely))
    return SparseDepth(depth, int(np.count_nonzero(depth > 0)), len(returns) - visible - lonely, lonely)


def rasterize_nearest(rows: AnyArray, cols: AnyArray, z: FloatArray, shape: Tuple[int, int]) -> FloatArray:
    """(H, W) float32 image of the smallest ``z`` per pixel, 0 where there is none."""
    flat, used = rows * shape[1] + cols, np.ones(len(z), np.bool_)
    kernels = compiled.kernels("culling")
    image: Optional[FloatArray] = None if kernels is None else kernels.nearest(flat, z, used, shape)
    return nearest_by_numpy(flat, z, used, shape) if image is None else image


def _nearest(returns: ProjectedReturns, flat: AnyArray, used: BoolArray, shape: Tuple[int, int]) -> FloatArray:
    """(H, W) float32 z-buffer of those returns that are used, 0 where there is none; ``flat`` are their pixels."""
    kernels = compiled.kernels("culling")
    image: Optional[FloatArray] = None if kernels is None else kernels.nearest(flat, returns.z, used, shape)
    if image is None:
        image = nearest_by_numpy(flat, returns.z, used, shape, returns.far_to_near)
    return image


def nearest_by_numpy(
    flat: AnyArray, z: FloatArray, used: BoolArray, shape: Tuple[int, int], order: Optional[AnyArray] = None
) -> FloatArray:
    """The z-buffer of (M,) int64 pixels ``flat``; compiled kernels are held to it. ``order`` is ``_far_to_near(z)``."""
    order = _far_to_near(z) if order is None else order
    order = order[used[order]]
    depth = np.zeros(shape, np.float32)
    # Of a pixel's values, given far to near, the last stays.
    depth.reshape(-1)[flat[order]] = z[order]
    return depth


def _far_to_near(z: FloatArray) -> AnyArray:
    """(M,) int64 positions from the largest z to the smallest, all above zero; equal ones keep their order."""
    # Bits of positive floats sort as the floats do, and a key that holds the position too needs no stable sort, which
    # takes several times as long.
    bits = np.ascontiguousarray(z, np.float32).view(np.uint32).astype(np.uint64)
    key = ((np.uint64(0xFFFFFFFF) - bits) << np.uint64(32)) | np.arange(len(bits), dtype=np.uint64)
    key.sort()
    order: AnyArray = (key & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return order


def hidden_returns(returns: ProjectedReturns, shape: Tuple[int, int], margin: float, hiding: BoolArray) -> BoolArray:
    """Which returns lie behind a surface that nearer returns around them outline.

    A LiDAR mounted away from the camera sees past the edges of near objects; such a return projects *between*
    returns of the near object. The morphological closing of the inverse-depth image (dilation, then erosion, so
    only max-pooling is needed) fills the near surface in between its scan lines, while it leaves a surface that is
    merely next to a nearer one unchanged: a return farther than the closing says is hidden.

    Args:
        returns: M returns inside the image.
        shape: (H, W) of the image.
        margin: relative depth by which the front surface must be nearer.
        hiding: (M,) bool, the returns that may hide others.

    Returns:
        (M,) bool.
    """
    step = max(1, int(np.ceil(shape[1] / _CULL_GRID_WIDTH)))
    grid = ((shape[0] - 1) // step + 1, (shape[1] - 1) // step + 1)
    rows, cols = returns.pixels()
    flat = (rows // step) * grid[1] + cols // step
    nearest = _nearest(returns, flat, hiding, grid)
    occupied = nearest > 0
    with np.errstate(divide="ignore"):
        inverse = np.reciprocal(nearest)
    # Nothing in an empty cell is infinitely far.
    zero_where(~occupied, inverse, inverse)
    height, width = closing_window(occupied)
    kernel = np.ones((height, width), np.uint8)
    closed = cv2.morphologyEx(inverse, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
    hidden: BoolArray = returns.z * np.take(closed, flat) > 1.0 + margin
    return hidden


def closing_window(occupied: BoolArray) -> Tuple[int, int]:
    """Height and width, in cells and odd, of the window that bridges neighbouring scan lines.

    The vertical gap is measured on the image itself, because it follows from the sensor, the lens and the
    subsampling alike: the typical number of empty cells between two occupied ones in a column.
    """
    thick = np.asarray(cv2.dilate(occupied.view(np.uint8), np.ones((1, 9), np.uint8)), np.uint8)
    kernels = compiled.kernels("culling")
    starts, covered = runs_by_numpy(thick) if kernels is None else kernels.runs(thick)
    busy = starts >= 2
    gap = _median(covered[busy] / starts[busy]) if busy.any() else 3.0
    height = 2 * int(np.clip(round(gap), 1, 40)) + 1
    width = 2 * int(np.clip(round(0.8 * gap), 2, 8)) + 1
    return height, width


def _median(values: DoubleArray) -> float:
    """``np.median`` of one number or more, without the checks that take most of its time; reorders them."""
    middle = len(values) // 2
    values.partition((middle - 1, middle))
    return float(values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2)


def runs_by_numpy(occupied: ByteArray) -> Tuple[AnyArray, AnyArray]:
    """Of each column how often empty cells turn into occupied ones, and how many cells these span.

    Compiled kernels are held to it where there are occupied cells.

    Args:
        occupied: (H, W) uint8, 1 where it is.

    Returns:
        (W,) int64 each.
    """
    starts = np.count_nonzero((occupied[1:] > 0) & (occupied[:-1] == 0), axis=0)
    return starts, occupied.shape[0] - occupied[::-1].argmax(axis=0) - occupied.argmax(axis=0)
