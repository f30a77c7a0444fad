"""Procedural scenes that no training sees, on which it shows when a tuned network has lost what it could do before."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Iterator, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.projection import project_points
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.protocol import DEPLOYED, TRUTH_RANGE_M, Case
from mf_training.scenes import Scene, SceneStore

_log = logging.getLogger(__name__)

SCENES = 24
FIRST_SEED = 2_000_000_000
"""Far from the seeds that are trained on, from 0, and from those held out while training, from 1,000,000,000."""
SIZE = (256, 384)
_REACH_PX = 20.0


def canary_cases(count: int = SCENES, cache: Optional[Path] = None) -> Iterator[Tuple[EvaluationFrame, Case]]:
    """Scenes with all returns of one LiDAR shown, judged on their exact depth.

    Truth are the pixels within 20 px of a return, since a sensor's surroundings are what it can be asked about; sky and
    what lies outside of ``TRUTH_RANGE_M`` are left out. Scenes in which the LiDAR meets nothing are passed over.

    Args:
        count: how many seeds; the scenes of a smaller count are among those of a larger.
        cache: folder that keeps the scenes; None makes them anew.
    """
    store = SceneStore(cache, size=SIZE, scans=1)
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        found = scene_case(store.get(seed))
        if found is not None:
            yield found


def scene_case(scene: Scene) -> Optional[Tuple[EvaluationFrame, Case]]:
    """The frame and the case of one scene; None without a return in the picture or truth around it."""
    camera = scene.camera()
    points = scene.scans[0].as_points()
    returns = project_points(points, camera)
    if not len(returns):
        return None
    empty = np.ones(scene.depth.shape, np.uint8)
    empty[returns.pixels()] = 0
    near = cv2.distanceTransform(empty, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= _REACH_PX
    truth = near & (scene.depth >= TRUTH_RANGE_M[0]) & (scene.depth <= TRUTH_RANGE_M[1])
    if not truth.any():
        return None
    rows, cols = np.nonzero(truth)
    image = np.ascontiguousarray(scene.image.transpose(1, 2, 0))
    name = f"scene {scene.seed}"
    frame = EvaluationFrame(name, "0", image, camera, points, scene.scans[0].lines, depth=scene.depth)
    visible = np.ones(len(rows), np.bool_)
    return frame, Case(DEPLOYED, True, returns, rows, cols, scene.depth[rows, cols], visible)


def user_cache() -> Optional[Path]:
    """Where scenes are kept for a user; None where that cannot be written."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(named) if named else Path.home() / ".cache") / "mf_ros" / "scenes"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        _log.debug("scenes are not kept: %s", error)
        return None
    return folder if os.access(folder, os.W_OK) else None
