"""LiDAR returns on the image grid: projection, z-buffer, and removal of returns the camera cannot see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Tuple

import cv2
import numpy as np

from mf_ros.core.config import ProjectionConfig
from mf_ros.core.types import AnyArray, BoolArray, CameraPoints, FloatArray, SparseDepth

if TYPE_CHECKING:
    from mf_ros.core.camera import CameraModel

_NEAREST_Z_M = 0.05
_CULL_GRID_WIDTH = 700


@dataclass(frozen=True)
class ProjectedReturns:
    """LiDAR returns that fall inside the image.

    Attributes:
        uv: (M, 2) float32 pixel coordinates, pixel centres at integers.
        z: (M,) float32 metres along the optical Z axis.
        index: (M,) int64 position of each return in the points that were projected.
        visible: (M,) bool, False where a nearer surface hides the return from the camera.
    """

    uv: FloatArray
    z: FloatArray
    index: AnyArray
    visible: BoolArray

    def __len__(self) -> int:
        return len(self.z)

    def pixels(self) -> Tuple[AnyArray, AnyArray]:
        """Row and column of the pixel each return falls in, (M,) int64 each."""
        nearest = np.rint(self.uv).astype(np.int64)
        return nearest[:, 1], nearest[:, 0]

    def select(self, keep: AnyArray) -> ProjectedReturns:
        """The returns picked by a (M,) bool mask or an index array."""
        return ProjectedReturns(self.uv[keep], self.z[keep], self.index[keep], self.visible[keep])


def project_points(points: CameraPoints, camera: CameraModel, config: ProjectionConfig) -> ProjectedReturns:
    """Project returns into the image and mark those that a nearer surface hides.

    Args:
        points: returns in the camera's optical frame at the image's stamp.
        camera: the camera; distorted models project onto the distorted image.
        config: whether and how to cull.

    Returns:
        The returns inside the image, in the order of ``points``.
    """
    xyz = points.points
    ahead = np.flatnonzero(xyz[:, 2] > _NEAREST_Z_M)
    uv = camera.project(xyz[ahead])
    upper = np.array([camera.width - 0.5, camera.height - 0.5])
    # A NaN compares False, so points outside the lens' valid field of view drop out here too.
    inside = ((uv >= -0.5) & (uv < upper)).all(axis=1)
    index = ahead[inside]
    # Rounding to float32 may push a coordinate onto the border that the float64 value respected.
    pixels: FloatArray = np.clip(uv[inside], -0.49, upper - 0.01).astype(np.float32)
    returns = ProjectedReturns(pixels, np.ascontiguousarray(xyz[index, 2]), index, np.ones(len(index), np.bool_))
    return mark_hidden(returns, camera, config.cull_margin) if config.cull_hidden else returns


def mark_hidden(returns: ProjectedReturns, camera: CameraModel, margin: float) -> ProjectedReturns:
    """The same returns, visible only where no nearer surface hides them; ``margin`` as in ``hidden_returns``."""
    if len(returns) == 0:
        return returns
    return replace(returns, visible=~hidden_returns(returns.uv, returns.z, (camera.height, camera.width), margin))


def to_sparse_depth(returns: ProjectedReturns, camera: CameraModel) -> SparseDepth:
    """Depth image of the visible returns; where several share a pixel the nearest stays (z-buffer)."""
    rows, cols = returns.pixels()
    keep = np.flatnonzero(returns.visible)
    depth = rasterize_nearest(rows[keep], cols[keep], returns.z[keep], (camera.height, camera.width))
    return SparseDepth(depth, int(np.count_nonzero(depth)), len(returns) - len(keep))


def rasterize_nearest(rows: AnyArray, cols: AnyArray, z: FloatArray, shape: Tuple[int, int]) -> FloatArray:
    """(H, W) float32 image of the smallest ``z`` per pixel, 0 where there is none."""
    depth = np.zeros(shape, np.float32)
    # Assigned far to near, so the nearest return of a pixel is written last.
    order = np.argsort(-z, kind="stable")
    depth.reshape(-1)[(rows * shape[1] + cols)[order]] = z[order]
    return depth


def hidden_returns(uv: FloatArray, z: FloatArray, shape: Tuple[int, int], margin: float) -> BoolArray:
    """Which returns lie behind a surface that nearer returns around them outline.

    A LiDAR mounted away from the camera sees past the edges of near objects; such a return projects *between*
    returns of the near object. The morphological closing of the inverse-depth image (dilation, then erosion, so
    only max-pooling is needed) fills the near surface in between its scan lines, while it leaves a surface that is
    merely next to a nearer one unchanged: a return farther than the closing says is hidden.

    Args:
        uv: (M, 2) pixel coordinates inside the image.
        z: (M,) metres, positive.
        shape: (H, W) of the image.
        margin: relative depth by which the front surface must be nearer.

    Returns:
        (M,) bool.
    """
    step = max(1, int(np.ceil(shape[1] / _CULL_GRID_WIDTH)))
    grid = ((shape[0] - 1) // step + 1, (shape[1] - 1) // step + 1)
    cell = np.rint(uv).astype(np.int64) // step
    flat = cell[:, 1] * grid[1] + cell[:, 0]
    inverse = np.zeros(grid, np.float32)
    order = np.argsort(-z, kind="stable")
    inverse.reshape(-1)[flat[order]] = 1.0 / z[order]
    height, width = closing_window(inverse > 0)
    kernel = np.ones((height, width), np.uint8)
    closed = cv2.morphologyEx(inverse, cv2.MORPH_CLOSE, kernel, borderType=cv2.BORDER_REPLICATE)
    hidden: BoolArray = z * closed.reshape(-1)[flat] > 1.0 + margin
    return hidden


def closing_window(occupied: BoolArray) -> Tuple[int, int]:
    """Height and width, in cells and odd, of the window that bridges neighbouring scan lines.

    The vertical gap is measured on the image itself, because it follows from the sensor, the lens and the
    subsampling alike: the typical number of empty cells between two occupied ones in a column.
    """
    thick = cv2.dilate(occupied.astype(np.uint8), np.ones((1, 9), np.uint8))
    starts = np.count_nonzero((thick[1:] > 0) & (thick[:-1] == 0), axis=0)
    covered = np.maximum(
        np.count_nonzero(np.maximum.accumulate(thick, 0) & np.maximum.accumulate(thick[::-1], 0)[::-1], axis=0), 1
    )
    busy = starts >= 2
    gap = float(np.median(covered[busy] / starts[busy])) if busy.any() else 3.0
    height = 2 * int(np.clip(round(gap), 1, 40)) + 1
    width = 2 * int(np.clip(round(0.8 * gap), 2, 8)) + 1
    return height, width
