"""A contact sheet of scenes: picture, depth, and every LiDAR sweep over the picture."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np
import numpy.typing as npt

from mf_ros.core.colours import mapped
from mf_ros.core.pictures import draw_dots
from mf_ros.core.projection import ProjectedReturns, project_points
from mf_ros.core.types import BoolArray, FloatArray
from mf_training.scenes.types import LidarScan, Scene

Picture = npt.NDArray[np.uint8]
_BAR, _GAP = 18, 4
_BEHIND_RATIO, _BEHIND_M = 0.05, 0.3
_RED = (230, 20, 20)


def contact_sheet(scenes: Sequence[Scene]) -> Picture:
    """One row for each scene, (H, W, 3) uint8 RGB.

    Returns are coloured by their depth; a return ringed in red lies clearly behind what the camera sees there.
    """
    rows = []
    for scene in scenes:
        picture = np.ascontiguousarray(scene.image.transpose(1, 2, 0))
        sky = np.isinf(scene.depth).mean()
        cells = [
            labelled(picture, f"seed {scene.seed}: {scene.kind}, f {scene.K[0, 0]:.0f} px"),
            labelled(depth_picture(scene.depth), f"depth {_range(scene.depth)}, sky {sky:.0%}"),
        ]
        cells += [_sweep(picture, scene, scan) for scan in scene.scans]
        rows.append(side_by_side(cells))
    return stacked(rows)


def depth_picture(depth: FloatArray, like: Optional[FloatArray] = None) -> Picture:
    """Colours (..., 3) of the logarithm of depth (...), red near to blue far, black where there is none.

    They are spread over what ``like`` holds, by default the depth itself.
    """
    of = depth if like is None else like
    values = np.log(of[np.isfinite(of) & (of > 0)])
    low, high = np.percentile(values, (1, 99)) if len(values) else (0.0, 1.0)
    known = np.isfinite(depth) & (depth > 0)
    z = np.log(np.where(known, depth, 1.0))
    level = np.clip((high - z) / max(high - low, 1e-3), 0, 1) * 255
    shown: Picture = np.where(known[..., None], mapped(level.astype(np.uint8), cv2.COLORMAP_TURBO), np.uint8(0))
    return shown


def _range(depth: FloatArray) -> str:
    known = depth[np.isfinite(depth) & (depth > 0)]
    return "none" if not len(known) else f"{known.min():.1f} to {known.max():.0f} m"


def behind(scan: LidarScan, scene: Scene) -> Tuple[ProjectedReturns, BoolArray]:
    """The returns in the picture, and which of them (M,) lie clearly behind its depth."""
    returns = project_points(scan.as_points(), scene.camera())
    front = scene.depth[returns.pixels()]
    return returns, (front > 0) & (returns.z > front * (1 + _BEHIND_RATIO) + _BEHIND_M)


def _sweep(picture: Picture, scene: Scene, scan: LidarScan) -> Picture:
    returns, hidden = behind(scan, scene)
    shown = darkened(picture)
    for row, col in np.transpose(returns.pixels())[hidden].tolist():
        cv2.circle(shown, (col, row), 2, _RED, 1)
    draw_returns(shown, returns, scene.depth, 0)
    seen = max(1, len(returns))
    lines = f", {scan.lines} lines" if scan.lines else ""
    return labelled(shown, f"{scan.kind}{lines}, {seen} returns, {hidden.sum() / seen:.1%} hidden")


def darkened(picture: Picture) -> Picture:
    """The picture at half its brightness, so that dots stand out on it."""
    return (picture * np.float32(0.5)).astype(np.uint8)


def draw_returns(picture: Picture, returns: ProjectedReturns, like: FloatArray, radius: int) -> None:
    """Draw the visible returns into the picture as dots, in the colours of ``depth_picture`` with ``like``."""
    order = returns.drawing_order()
    rows, cols = returns.pixels()
    draw_dots(picture, rows[order], cols[order], depth_picture(returns.z[order], like), radius)


def labelled(picture: Picture, text: str, below: Optional[str] = None) -> Picture:
    """The picture with a line of text above it, and another below it when there is one."""
    bars = [_bar(text, picture), picture] + ([] if below is None else [_bar(below, picture)])
    joined: Picture = np.concatenate(bars)
    return joined


def _bar(text: str, picture: Picture) -> Picture:
    bar = np.full((_BAR, picture.shape[1], 3), 24, np.uint8)
    cv2.putText(bar, text, (4, _BAR - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return bar


def stacked(rows: Sequence[Picture]) -> Picture:
    """Rows under each other, narrower ones filled up with black."""
    width = max(row.shape[1] for row in rows)
    padded = [cv2.copyMakeBorder(r, 0, _GAP, 0, width - r.shape[1], cv2.BORDER_CONSTANT) for r in rows]
    sheet: Picture = np.concatenate(padded)
    return sheet


def side_by_side(cells: List[Picture]) -> Picture:
    """Cells of one height in a row, with gaps."""
    gap = np.zeros((cells[0].shape[0], _GAP, 3), np.uint8)
    joined: Picture = np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1)
    return joined
