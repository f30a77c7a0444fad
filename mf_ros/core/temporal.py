"""Returns of earlier frames carried into the present view: what they still tell, and which of them are wrong by now.

A few scan lines leave most of the image unmeasured, but while the robot moves they sweep over it. Returns stay where
they were measured in the fixed frame; those that the present returns or the present image contradict are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.conditioning import Conditioning, present_pixels
from mf_ros.core.grid import cells_of, grid_shape, grid_step, mean_of_blocks
from mf_ros.core.projection import closing_window
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, DoubleArray, FloatArray, SparseDepth

CELLS = 240_000
"""Most cells of the grid on which earlier frames are compared with the present one."""

MOST_CARRIED = 40_000
"""Most returns that are carried on; the newest are kept."""

# Below 6 pixels between returns completion takes finer cells, at several times the cost.
_LEAST_SPACING = 6.1
_NEAREST_Z_M = 0.3
# By this part of its depth a carried return may be nearer than all that is measured above and below, or farther than
# the surface in front of it; right beside a present return only by the smaller one.
_MARGIN = 0.08
_MARGIN_BESIDE = 0.03
_BESIDE_CELLS = (3, 5)
_COLUMN_CELLS = 3
_SHADE_MARGIN = 15.0
_SHADE_SIDE = 3
# Error of a carried return, relative to its depth: at once, and what each second adds.
_ERROR, _ERROR_PER_S = 0.01, 0.02
# Between these shares of carried returns that the image contradicts, their age limit falls to a tenth.
_FEW_CONTRADICTED, _MANY_CONTRADICTED = 0.03, 0.10
_LEAST_AGE = 0.1


@dataclass(frozen=True)
class CarriedReturns:
    """Returns of earlier frames, newest first.

    Attributes:
        points: (N, 3) float32 metres, in the optical frame of the camera at the newest frame.
        age_s: (N,) float32 seconds since each was measured.
        shade: (N,) float32 grey value of the image around each when it was measured, 0 to 255.
    """

    points: FloatArray
    age_s: FloatArray
    shade: FloatArray

    @classmethod
    def none(cls) -> CarriedReturns:
        """No returns."""
        return cls(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.age_s)

    def moved(self, T_now_then: DoubleArray, elapsed_s: float) -> CarriedReturns:
        """The same returns in the camera's frame of a later moment."""
        if len(self) == 0:
            return self
        points: FloatArray = cv2.transform(self.points[None], T_now_then[:3].astype(np.float32))[0]
        return replace(self, points=points, age_s=self.age_s + np.float32(elapsed_s))

    def select(self, keep: AnyArray) -> CarriedReturns:
        """The returns picked by a (N,) bool mask or an index array."""
        return CarriedReturns(np.take(self.points, _index(keep), axis=0), self.age_s[keep], self.shade[keep])


@dataclass(frozen=True)
class PresentView:
    """What the present frame measured, on a coarse grid of its image.

    Attributes:
        shape: (H, W) of the image.
        step: pixels per side of a cell.
        pixel: (M,) int64 index of the pixels that hold a return.
        nearest: (h, w) float32 inverse depth of the nearest return of each cell, 1/m; 0 without any.
        farthest: (h, w) float32 that of the farthest; infinite without any.
        shade: (h, w) float32 grey value of the image around each cell.
    """

    shape: Tuple[int, int]
    step: int
    pixel: AnyArray
    nearest: FloatArray
    farthest: FloatArray
    shade: FloatArray

    @classmethod
    def of(cls, image: ByteArray, sparse: FloatArray) -> PresentView:
        """The view of an image (H, W, 3) uint8 RGB with its sparse depth (H, W), metres, 0 = no return."""
        shape = (sparse.shape[0], sparse.shape[1])
        step = grid_step(shape, CELLS)
        pixel = present_pixels(sparse)
        inverse = np.reciprocal(np.take(sparse, pixel))
        cells = cells_of(pixel, shape, step)
        far_to_near = np.argsort(inverse, kind="stable")
        nearest, farthest = np.zeros(grid_shape(shape, step), np.float32), np.full(grid_shape(shape, step), np.inf)
        # Of equal places the last written stays.
        nearest.reshape(-1)[cells[far_to_near]] = inverse[far_to_near]
        farthest.reshape(-1)[cells[far_to_near[::-1]]] = inverse[far_to_near[::-1]]
        grey = mean_of_blocks(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8), step)
        shade = np.asarray(cv2.blur(grey.astype(np.float32), (_SHADE_SIDE, _SHADE_SIDE)), np.float32)
        return cls(shape, step, pixel, nearest, farthest.astype(np.float32), shade)

    def cells(self, pixel: AnyArray) -> AnyArray:
        """(M,) int64 index of the cells of the grid in which pixels of the image lie."""
        return cells_of(pixel, self.shape, self.step)


@dataclass(frozen=True)
class Survivors:
    """Carried returns that nothing in the present view contradicts.

    Attributes:
        returns: M of them, newest first.
        pixel: (M,) int64 index of the pixel that each falls into.
        contradicted: share of the returns in view that present returns or the image contradict, in [0, 1].
    """

    returns: CarriedReturns
    pixel: AnyArray
    contradicted: float


def surviving(carried: CarriedReturns, view: PresentView, camera: CameraModel, max_age_s: float) -> Survivors:
    """Carried returns inside the image that present returns and image allow.

    A return is forgotten when

    - a surface in front of it hides it, or all that is measured above and below is farther: what was there has left;
    - a present return right beside it differs by more than 3%: something moves there;
    - the image has become lighter or darker there, beyond what happened to the whole image;
    - it is too old. The limit falls to a tenth where the image contradicts a tenth of all of them, because then much
      around moves, or the odometry is off, and the others are not to be trusted for long either.

    Args:
        carried: in the camera's present frame.
        view: of the present frame.
        camera: model of its image.
        max_age_s: age limit, seconds.
    """
    carried = carried.select((carried.age_s <= max_age_s) & (carried.points[:, 2] > _NEAREST_Z_M))
    uv = camera.project(carried.points)
    height, width = view.shape
    with np.errstate(invalid="ignore"):
        cols, rows = np.rint(uv).T
        inside = np.flatnonzero((cols >= 0) & (rows >= 0) & (cols < width) & (rows < height))
    carried = carried.select(inside)
    pixel = rows[inside].astype(np.int64) * width + cols[inside].astype(np.int64)
    if len(carried) == 0:
        return Survivors(carried, pixel, 0.0)
    cells = view.cells(pixel)
    z = carried.points[:, 2]
    moved = _moved(z, cells, view)
    shade = np.take(view.shade, cells) - carried.shade
    changed = np.abs(shade - np.median(shade)) > _SHADE_MARGIN
    limit_s = max_age_s * _age_part(float(changed.mean()))
    kept = np.flatnonzero(~(moved | changed | _out_of_sight(z, cells, view)) & (carried.age_s <= limit_s))
    return Survivors(carried.select(kept), pixel[kept], float((moved | changed).mean()))


def _out_of_sight(z: FloatArray, cells: AnyArray, view: PresentView) -> BoolArray:
    """(M,) bool: hidden by a surface in front, or in front of all that is measured above and below."""
    height, width = closing_window(view.nearest > 0)
    kernel = np.ones((height, width), np.uint8)
    closed = cv2.erode(cv2.dilate(view.nearest, kernel), kernel, borderType=cv2.BORDER_REPLICATE)
    # Narrow, or what has left would hide beside where it is now.
    column = np.ones((height, _COLUMN_CELLS), np.uint8)
    nearest = z * np.take(cv2.dilate(view.nearest, column), cells)
    lost: BoolArray = (z * np.take(closed, cells) > 1 + _MARGIN) | ((nearest > 0) & (nearest < 1 - _MARGIN))
    return lost


def _moved(z: FloatArray, cells: AnyArray, view: PresentView) -> BoolArray:
    """(M,) bool: a return of the present frame lies right beside, at another depth."""
    kernel = np.ones(_BESIDE_CELLS, np.uint8)
    nearest = z * np.take(cv2.dilate(view.nearest, kernel), cells)
    with np.errstate(over="ignore"):
        farthest = z * np.take(cv2.erode(view.farthest, kernel), cells)
    beside = nearest > 0
    moved: BoolArray = beside & ((nearest < 1 - _MARGIN_BESIDE) | (farthest > 1 + _MARGIN_BESIDE))
    return moved


def _age_part(contradicted: float) -> float:
    """Part of the age limit that holds when the image contradicts such a share of the carried returns."""
    part = (contradicted - _FEW_CONTRADICTED) / (_MANY_CONTRADICTED - _FEW_CONTRADICTED)
    return 1.0 - (1.0 - _LEAST_AGE) * min(max(part, 0.0), 1.0)


def supported(sparse: SparseDepth, survivors: Survivors) -> SparseDepth:
    """Sparse depth with carried returns in the pixels that hold none, each at its own noise level.

    The relative error sigma of a carried return grows with its age; as x_tau = (1 - tau) x + tau noise has it, that is
    the level tau = sigma / (1 + sigma). Where several share a pixel, the newest stays. Sparse returns are filled up no
    further than an engine's cost stays what it is, evenly over place and age.
    """
    if len(survivors.pixel) == 0:
        return sparse
    depth = sparse.depth.copy()
    level = np.where(depth > 0, np.float32(0), np.float32(1))
    free = np.flatnonzero(np.take(depth, survivors.pixel) == 0)
    most = int(depth.size / _LEAST_SPACING**2)
    if sparse.count < most < sparse.count + len(free):
        free = free[np.linspace(0, len(free) - 1, most - sparse.count).astype(np.int64)]
    free = free[::-1]
    pixel = survivors.pixel[free]
    sigma = np.float32(_ERROR) + np.float32(_ERROR_PER_S) * survivors.returns.age_s[free]
    depth.reshape(-1)[pixel] = survivors.returns.points[free, 2]
    level.reshape(-1)[pixel] = sigma / (1 + sigma)
    return replace(sparse, depth=depth, count=int(np.count_nonzero(depth)), level=level)


def at_own_level(made: Conditioning, level: Optional[FloatArray]) -> Conditioning:
    """What a network is given, with the noise level of each return.

    Args:
        made: all returns at level 0.
        level: (H, W) noise level of each pixel of the image; None leaves them at 0.
    """
    if level is None or made.returns is None:
        return made
    cells, of_return = made.returns.cells(), np.take(level, made.returns.pixel)
    # On a coarser grid a cell shows its nearest return.
    shown = made.returns.log_ratio == np.take(made.depth, cells)
    own = np.where(made.level == 0, np.float32(np.inf), made.level)
    np.minimum.at(own.reshape(-1), cells[shown], of_return[shown])
    own[np.isinf(own)] = 0
    return replace(made, depth=made.depth * (1 - own), level=own)


def remembered(survivors: Survivors, view: PresentView, sparse: FloatArray, camera: CameraModel) -> CarriedReturns:
    """What to carry to the next frame: the present returns and the survivors, the newest of each cell.

    Args:
        survivors: in the camera's present frame.
        view: of the present frame.
        sparse: (H, W) metres, the returns of the present frame alone.
        camera: model of its image.
    """
    rays = np.take(camera.rays().reshape(-1, 3), view.pixel, axis=0)
    points = rays * np.take(sparse, view.pixel)[:, None]
    cells = np.concatenate([view.cells(view.pixel), view.cells(survivors.pixel)])
    old = survivors.returns
    every = CarriedReturns(
        np.concatenate([points, old.points]),
        np.concatenate([np.zeros(len(points), np.float32), old.age_s]),
        np.concatenate([np.take(view.shade, cells[: len(points)]), old.shade]),
    )
    newest = np.full(view.nearest.size, -1, np.int64)
    newest[cells[::-1]] = np.arange(len(cells))[::-1]
    kept = np.sort(newest[newest >= 0])
    kept = kept[np.isfinite(every.points[kept, 0])]
    return every.select(kept[:MOST_CARRIED])


def _index(keep: AnyArray) -> AnyArray:
    index: AnyArray = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
    return index
