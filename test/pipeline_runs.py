"""Pipelines that are ready to go, for the tests of the pipeline."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from wall_scene import (
    CAMERA_FRAME,
    MedianEngine,
    camera_info,
    extrinsics,
    stamp,
    tf,
)

from mf_ros.core.config import Config
from mf_ros.core.transforms import StampedTransform
from mf_ros.engine.pipeline import DepthPipeline, DepthResult


def make_pipeline(config: Optional[Config] = None, lidars: int = 1, **engine: Any) -> DepthPipeline:
    return DepthPipeline(config or Config(), MedianEngine(**engine), lidars)


def started(config: Optional[Config] = None, lidars: int = 1, **engine: Any) -> DepthPipeline:
    """A pipeline that has its calibration and extrinsics."""
    pipeline = make_pipeline(config, lidars, **engine)
    pipeline.on_camera_info(camera_info())
    pipeline.on_transforms(tf(extrinsics()), static=True)
    return pipeline


def run(pipeline: DepthPipeline, flush: bool = True) -> list[DepthResult]:
    results = [pipeline.process(each) for each in pipeline.ready(flush)]
    return [result for result in results if result is not None]


def only_drop(pipeline: DepthPipeline) -> str:
    """The one reason why images were dropped, after checking that the books balance."""
    assert pipeline.frames_out == 0
    assert pipeline.frames_in == pipeline.dropped.total
    (reason,) = pipeline.dropped.counts
    return reason


def odometry(number: float) -> StampedTransform:
    return StampedTransform("odom", CAMERA_FRAME, stamp(number), np.eye(4))
