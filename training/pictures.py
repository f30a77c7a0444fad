"""What a network makes of procedural scenes, on a contact sheet: any of image and depth from any other."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import List, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from mf_ros.core.conditioning import Conditioning, condition, to_depth
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.pixels import displayed_image, network_image
from mf_ros.core.projection import project_points, to_sparse_depth
from mf_ros.core.returns import LOG_LIMIT
from mf_ros.core.types import FloatArray
from mf_ros.evaluation.metrics import depth_metrics, scale_to
from mf_ros.model import ModalityForcing
from mf_ros.model.protocol import Sampled, Sampler
from mf_ros.model.sampler import Known, sample
from mf_training.losses import SKY_M
from mf_training.scenes.sheet import Picture, darkened, depth_picture, draw_returns, labelled, side_by_side, stacked
from mf_training.scenes.types import Scene


@dataclass(frozen=True)
class Cell:
    """One picture of a scene's row.

    Attributes:
        name: what it shows, and from what it was made.
        picture: (H, W, 3) uint8 RGB.
        error: mean relative error of its depth (AbsRel); None for what has no truth.
        note: what to know of the error.
    """

    name: str
    picture: Picture
    error: Optional[float] = None
    note: str = ""


def sample_sheet(rows: Sequence[Sequence[Cell]]) -> Picture:
    """The rows of several scenes under each other, (H, W, 3) uint8 RGB."""
    return stacked([side_by_side([labelled(cell.picture, cell.name, _below(cell)) for cell in row]) for row in rows])


def _below(cell: Cell) -> str:
    error = [] if cell.error is None else [f"error {cell.error:.1%}"]
    return ", ".join([*error, *([cell.note] if cell.note else [])])


def sample_row(net: Union[ModalityForcing, Sampler], scene: Scene, steps: int, depth_steps: int = 1) -> List[Cell]:
    """Everything that the network can make of one scene.

    Depth from image or LiDAR takes ``depth_steps``, one of which depends on no noise in this project's own network;
    images, and both from nothing, take ``steps``. The noise depends on the scene's seed alone.

    Args:
        net: the network, on the CPU, or a sampler of another.
        scene: its first sweep is shown, culled as on the robot; height and width are multiples of 16.
        steps: denoising steps.
        depth_steps: of depth from image or LiDAR.
    """
    make: Sampler = functools.partial(sample, net) if isinstance(net, ModalityForcing) else net
    image = np.ascontiguousarray(scene.image.transpose(1, 2, 0))
    camera = scene.camera()
    returns = project_points(scene.scans[0].as_points(), camera, ProjectionConfig())
    sparse = to_sparse_depth(returns, camera)
    made = condition(sparse.depth)
    given = network_image(torch.from_numpy(scene.image).float())[None]
    lidar = Known(given, _plane(made.depth), _plane(made.level), _plane(made.prior))
    nothing = _nothing_of(scene.depth.shape)

    def made_of(known: Known, count: int) -> Sampled:
        return make(known, count, torch.Generator().manual_seed(scene.seed))

    lidar_picture = darkened(image)
    draw_returns(lidar_picture, returns, scene.depth, 1)
    truth, scale = _as_known(scene.depth)
    both = made_of(nothing, steps)
    joint = to_depth(_array(both.depth), scale)
    return [
        Cell("image", image, note=f"seed {scene.seed}, {scene.kind}"),
        Cell("true depth", depth_picture(scene.depth)),
        Cell("LiDAR shown", lidar_picture, note=_sweep_text(scene, sparse.count)),
        _depth_cell("image + LiDAR to depth", made_of(lidar, depth_steps), scene, made),
        _depth_cell("LiDAR to depth", made_of(replace(lidar, image=None), depth_steps), scene, made),
        _depth_cell("image to depth", made_of(replace(nothing, image=given), depth_steps), scene),
        Cell(f"depth to image, {steps} steps", _picture(made_of(truth, steps).image)),
        Cell(f"joint image, {steps} steps", _picture(both.image), note="from noise"),
        Cell(f"joint depth, {steps} steps", depth_picture(joint), note="from noise: nothing to compare with"),
    ]


def _sweep_text(scene: Scene, count: int) -> str:
    scan = scene.scans[0]
    lines = f", {scan.lines} lines" if scan.lines else ""
    return f"{scan.kind}{lines}, {count} returns"


def _depth_cell(name: str, out: Sampled, scene: Scene, made: Optional[Conditioning] = None) -> Cell:
    """Depth in the colours of the truth; without returns multiplied to fit it, as it has no scale then."""
    metric = made is not None and made.metric
    depth = to_depth(_array(out.depth), made.scale if made is not None else 1.0)
    known = np.isfinite(scene.depth) & (scene.depth > 0)
    if not metric:
        depth = depth * np.float32(scale_to(depth[known], scene.depth[known]))
    error = depth_metrics(depth[known], scene.depth[known])["absrel"]
    return Cell(name, depth_picture(depth, like=scene.depth), error, "" if metric else "scaled by the median")


def _as_known(depth: FloatArray) -> tuple[Known, float]:
    """True depth as what is known, as training shows it when an image is wanted, and its scale, metres."""
    known, sky = np.isfinite(depth) & (depth > 0), np.isinf(depth)
    scale = float(np.median(depth[known])) if known.any() else 1.0
    metres = np.where(sky, np.float32(SKY_M), np.where(known, depth, np.float32(scale)))
    ratio = np.clip(np.log(metres / scale), -LOG_LIMIT, LOG_LIMIT)
    level = np.where(known | sky, 0.0, 1.0)
    prior = torch.zeros(1, 1, *depth.shape)
    return Known(None, _plane(ratio), _plane(level), prior, sample_depth=False), scale


def _nothing_of(shape: Sequence[int]) -> Known:
    zeros = torch.zeros(1, 1, *shape)
    return Known(None, zeros, zeros + 1, zeros)


def _plane(values: FloatArray) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))[None, None]


def _array(plane: Tensor) -> FloatArray:
    values: FloatArray = plane[0, 0].float().numpy()
    return values


def _picture(image: Optional[Tensor]) -> Picture:
    assert image is not None
    values = np.clip(displayed_image(image[0].float().numpy().transpose(1, 2, 0)), 0, 255)
    return np.ascontiguousarray(np.rint(values).astype(np.uint8))
