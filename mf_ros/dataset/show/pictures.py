"""Pictures of samples: returns on the image, what became of them, and the points from above and from the side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable, List, Optional, Tuple

import cv2
import numpy as np

from mf_ros.bags.overlay import draw_returns
from mf_ros.bags.report_figures import Figure
from mf_ros.bags.report_pictures import Legend, Tick, grid_step
from mf_ros.core.colours import colour_depth
from mf_ros.core.pictures import draw_dots
from mf_ros.core.projection import ProjectedReturns
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, DoubleArray
from mf_ros.dataset.show.measure import Projected

_THUMBNAIL_PIXELS = 480 * 300
_FIGURE_PIXELS = 800 * 500
_VISIBLE, _HIDDEN, _LONELY, _OUTSIDE = (70, 220, 140), (255, 60, 220), (255, 225, 40), (104, 110, 124)
_BACKGROUND, _GRID, _TEXT, _CAMERA = (22, 24, 30), (52, 56, 66), (190, 196, 206), (255, 255, 255)
_TICKS_M = (2.0, 3.0, 5.0, 10.0, 20.0, 80.0)
_STOPS = 24


def thumbnail(projected: Projected) -> ByteArray:
    """The image of a sample, small, with its visible returns coloured by depth."""
    return draw_returns(*_fitted(projected, _THUMBNAIL_PIXELS))


def figures_of(projected: Projected) -> Tuple[Figure, ...]:
    """All pictures of one sample."""
    image, returns = _fitted(projected, _FIGURE_PIXELS)
    depth, marks = depth_legend(), _marks_legend()
    places = _Places(projected)
    above = f"Camera in the middle, forward to the right, left upward; grid {grid_step(2 * places.reach_m):g} m."
    side = f"Only what is in the image; camera at the left, up is up; grid {grid_step(places.reach_m):g} m."
    black: ByteArray = np.zeros_like(image)
    return (
        Figure("Image", image),
        Figure("Visible returns on the image", draw_returns(image, returns), depth),
        Figure("What became of the returns", _marked(image, returns), marks),
        Figure("Sparse depth, as the network is given it", draw_returns(black, returns), depth),
        Figure("Points from above", places.above(image.shape), _marks_legend((_OUTSIDE, "not in the image")), above),
        Figure("Points from the side", places.side(image.shape), marks, side),
    )


def depth_legend() -> Legend:
    """Of the colours of visible returns."""
    near, far = _TICKS_M[0], _TICKS_M[-1]
    colours = colour_depth(np.geomspace(near, far, _STOPS).astype(np.float32))
    ticks = [Tick(100 * float(np.log(each / near) / np.log(far / near)), f"{each:g}") for each in _TICKS_M]
    return Legend(", ".join(map(_css, colours)), tuple(ticks), "m")


def _marks_legend(*more: Tuple[Tuple[int, int, int], str]) -> Legend:
    named = ((_VISIBLE, "visible"), (_HIDDEN, "hidden"), (_LONELY, "lonely"), *more)
    return Legend("", (), "", tuple((_css(colour), name) for colour, name in named))


def _css(colour: Iterable[Any]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(channel) for channel in colour))


def _fitted(projected: Projected, most_pixels: int) -> Tuple[ByteArray, ProjectedReturns]:
    """Image and returns no larger than that, so that dots are drawn in the size in which they are seen."""
    image, returns = projected.image, projected.returns
    height, width = image.shape[:2]
    factor = (most_pixels / (height * width)) ** 0.5
    if factor >= 1.0:
        return image, returns
    small = np.asarray(
        cv2.resize(
            image, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA
        ),
        np.uint8,
    )
    scale = np.array([small.shape[1] / width, small.shape[0] / height], np.float32)
    uv = np.clip((returns.uv + 0.5) * scale - 0.5, -0.49, [small.shape[1] - 0.51, small.shape[0] - 0.51])
    return small, replace(returns, uv=uv.astype(np.float32))


def _marked(image: ByteArray, returns: ProjectedReturns) -> ByteArray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * np.float32(0.5)
    picture: ByteArray = np.asarray(cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)
    rows, cols = returns.pixels()
    for keep, colour in _kinds(returns):
        _draw(picture, rows[keep], cols[keep], colour)
    return picture


def _kinds(returns: ProjectedReturns) -> List[Tuple[BoolArray, Tuple[int, int, int]]]:
    """Which returns are of each kind, with its colour, the rarest last."""
    hidden = ~returns.visible & ~returns.lonely
    return [(returns.visible, _VISIBLE), (hidden, _HIDDEN), (returns.lonely, _LONELY)]


def _draw(picture: ByteArray, rows: AnyArray, cols: AnyArray, colour: Tuple[int, int, int], radius: int = 1) -> None:
    draw_dots(picture, rows, cols, np.broadcast_to(np.array(colour, np.uint8), (len(rows), 3)), radius)


class _Places:
    """The points of a sample around its camera, in axes forward, left and up, of which up is against gravity where it
    is known, metres."""

    def __init__(self, projected: Projected) -> None:
        R = level_axes(projected.row.T_world_cam)
        self._points: DoubleArray = projected.assembled.points.points.astype(np.float64) @ R.T
        self._returns = projected.returns
        distance = np.linalg.norm(self._points[:, :2], axis=1)
        self.reach_m = max(2.0, float(np.percentile(distance, 90)))
        camera = projected.assembled.frame.camera
        middle = (camera.height - 1) / 2
        edges = camera.unproject(np.array([[0.0, middle], [camera.width - 1.0, middle]]), np.ones(2))
        self._edges: DoubleArray = edges[np.isfinite(edges).all(axis=1)] @ R.T

    def above(self, shape: Tuple[int, ...]) -> ByteArray:
        """From above, of ``shape`` (H, W)."""
        height, width = shape[:2]
        picture = _Picture(shape, (height - 1) / 2, (width - 1) / 2, (width - 1) / (2 * self.reach_m))
        for edge in self._edges:
            picture.line(edge[:2] / np.linalg.norm(edge[:2]) * 3 * self.reach_m)
        outside = np.ones(len(self._points), np.bool_)
        outside[self._returns.index] = False
        picture.dots(self._points[outside][:, :2], _OUTSIDE, 0)
        self._in_image(picture, (0, 1))
        return picture.done()

    def side(self, shape: Tuple[int, ...]) -> ByteArray:
        """From the right side, what is in the image, of ``shape`` (H, W)."""
        height, width = shape[:2]
        picture = _Picture(shape, (height - 1) / 2, 0.0, (width - 1) / self.reach_m)
        self._in_image(picture, (0, 2))
        return picture.done()

    def _in_image(self, picture: _Picture, axes: Tuple[int, int]) -> None:
        for keep, colour in _kinds(self._returns):
            picture.dots(self._points[self._returns.index[keep]][:, axes], colour, 1)


class _Picture:
    """A view with a grid in metres, horizontal and vertical axis to the right and upward, the camera at (0, 0)."""

    def __init__(self, shape: Tuple[int, ...], row: float, col: float, metre: float) -> None:
        height, width = shape[:2]
        self._picture: ByteArray = np.full((height, width, 3), _BACKGROUND, np.uint8)
        self._row, self._col, self._metre = row, col, metre
        self._step = grid_step(width / metre)
        self._lines = [k * self._step for k in range(-100, 101)]
        for at in self._lines:
            row_, col_ = round(row - at * metre), round(col + at * metre)
            if 0 <= row_ < height:
                self._picture[row_] = _GRID
            if 0 <= col_ < width:
                self._picture[:, col_] = _GRID

    def _pixels(self, places: DoubleArray) -> Tuple[AnyArray, AnyArray]:
        # Clipped, because a point may be farther away than pixels can be counted.
        far = np.clip(places * self._metre, -1e6, 1e6)
        return np.rint(self._row - far[:, 1]).astype(np.intp), np.rint(self._col + far[:, 0]).astype(np.intp)

    def dots(self, places: DoubleArray, colour: Tuple[int, int, int], radius: int) -> None:
        """Dots at (N, 2) places."""
        _draw(self._picture, *self._pixels(places), colour, radius)

    def line(self, place: DoubleArray) -> None:
        """A line from the camera to a place."""
        (here, there), (left, right) = self._pixels(np.stack([np.zeros(2), place]))
        cv2.line(self._picture, (int(left), int(here)), (int(right), int(there)), _GRID, 2, cv2.LINE_AA)

    def done(self) -> ByteArray:
        """The picture with the camera and the numbers of the grid on it."""
        picture = self._picture
        height, width = picture.shape[:2]
        at = (round(self._col), round(self._row))
        cv2.circle(picture, at, 5, _CAMERA, -1, cv2.LINE_AA)
        for metres in self._lines:
            col = round(self._col + metres * self._metre)
            if 0 < col < width - 50:
                place = (col + 3, height - 6)
                for colour, thick in (((0, 0, 0), 4), (_TEXT, 1)):
                    text = f"{metres:g} m"
                    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thick, cv2.LINE_AA)
        return picture


def level_axes(T_world_cam: Optional[DoubleArray]) -> DoubleArray:
    """(3, 3) rotation from the optical frame to forward, left and up.

    Up is against gravity where the pose is known, else the camera's own.
    """
    up, forward = np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    if T_world_cam is not None and abs(np.linalg.norm(T_world_cam[2, :3]) - 1.0) < 1e-3:
        up = T_world_cam[2, :3]
    level = forward - up * (up @ forward)
    if np.linalg.norm(level) < 0.1:
        # It looks straight up or down: what is at the top of the image counts as forward.
        level = np.array([0.0, -1.0, 0.0]) + up * up[1]
    level = level / np.linalg.norm(level)
    return np.stack([level, np.cross(up, level), up])
