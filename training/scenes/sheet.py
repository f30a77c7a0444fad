"""A contact sheet of scenes: picture, depth, and every LiDAR sweep over the picture."""

from __future__ import annotations

from typing import List, Optional, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from mf_ros.core.colours import colour_depth
from mf_ros.core.types import FloatArray
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
    """Log depth in colours, red near to blue far, spread over what ``like`` holds, by default the depth itself."""
    of = depth if like is None else like
    values = np.log(of[np.isfinite(of) & (of > 0)])
    low, high = np.percentile(values, (1, 99)) if len(values) else (0.0, 1.0)
    known = np.isfinite(depth) & (depth > 0)
    z = np.log(np.where(known, depth, 1.0))
    level = np.clip((high - z) / max(high - low, 1e-3), 0, 1) * 255
    coloured = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    shown: Picture = np.where(known[..., None], coloured, np.uint8(0))
    return shown


def _range(depth: FloatArray) -> str:
    known = depth[np.isfinite(depth) & (depth > 0)]
    return "none" if not len(known) else f"{known.min():.1f} to {known.max():.0f} m"


def behind(points: FloatArray, scene: Scene) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Pixels (N, 2) of points in the camera frame, which of them are in the picture, which behind its depth."""
    u = scene.K[0, 0] * points[:, 0] / points[:, 2] + scene.K[0, 2]
    v = scene.K[1, 1] * points[:, 1] / points[:, 2] + scene.K[1, 2]
    height, width = scene.depth.shape
    inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    column = np.clip(np.rint(np.nan_to_num(u)), 0, width - 1).astype(int)
    row = np.clip(np.rint(np.nan_to_num(v)), 0, height - 1).astype(int)
    front = scene.depth[row, column]
    hidden = inside & (front > 0) & (points[:, 2] > front * (1 + _BEHIND_RATIO) + _BEHIND_M)
    return np.stack([u, v], 1).astype(np.float32), inside, hidden


def _sweep(picture: Picture, scene: Scene, scan: LidarScan) -> Picture:
    shown: Picture = (picture * np.float32(0.5)).astype(np.uint8)
    uv, inside, hidden = behind(scan.points, scene)
    order = np.flatnonzero(inside)[np.argsort(-scan.points[inside, 2], kind="stable")]
    colours = colour_depth(scan.points[:, 2])
    for i in order:
        at = (round(float(uv[i, 0])), round(float(uv[i, 1])))
        if hidden[i]:
            cv2.circle(shown, at, 2, _RED, 1)
        shown[at[1], at[0]] = colours[i]
    seen = max(1, int(inside.sum()))
    lines = f", {scan.lines} lines" if scan.lines else ""
    return labelled(shown, f"{scan.kind}{lines}, {seen} returns, {hidden.sum() / seen:.1%} hidden")


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
