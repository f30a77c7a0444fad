"""Harder inputs made of a case: no return, a few, or some of them wrong; the truth stays that of the case."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, Sequence

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.projection import mark_visible
from mf_ros.evaluation.protocol import NO_RETURNS, Case


def without_returns(case: Case) -> Case:
    """The case with nothing shown."""
    return replace(case, input=NO_RETURNS, shown=case.shown.select(np.zeros(len(case.shown), np.bool_)))


def few_points(case: Case, counts: Sequence[int], camera: CameraModel, projection: ProjectionConfig) -> Iterator[Case]:
    """For each count the case with that many random returns of those that the camera can see, or all of these.

    Args:
        case: whose shown returns are drawn from.
        counts: how many to show; the returns of a smaller count are among those of a larger.
        camera: of the case's frame.
        projection: what the camera can see; single returns cannot outline what hides them, so all decide.
    """
    visible = np.flatnonzero(mark_visible(case.shown, (camera.height, camera.width), projection).visible)
    drawn = np.random.default_rng(0).permutation(visible)
    for count in counts:
        yield replace(case, input=f"{count}pt", shown=case.shown.select(np.sort(drawn[:count])))


def with_outliers(case: Case, share: float) -> Case:
    """The case with a random share of its shown returns at wrong depths, uniform between its nearest and farthest."""
    rng = np.random.default_rng(0)
    shown = case.shown
    wrong = rng.random(len(shown)) < share
    lies = rng.uniform(shown.z.min(), shown.z.max(), len(shown)).astype(np.float32)
    name = f"{case.input}, {100 * share:g}% wrong"
    return replace(case, input=name, shown=replace(shown, z=np.where(wrong, lies, shown.z)))


def variants(
    found: Sequence[Case], points: Sequence[int], outliers: float, camera: CameraModel, projection: ProjectionConfig
) -> Iterator[Case]:
    """What is asked for beside the cases of one frame.

    Args:
        found: the cases of the frame.
        points: numbers of returns; drawn from the case that shows most.
        outliers: share of wrong returns in each case; 0 makes none.
        camera: of the frame.
        projection: what the camera can see.
    """
    most = max(found, key=lambda case: len(case.shown))
    taken = {case.input for case in found}
    counts = [count for count in points if f"{count}pt" not in taken]
    if counts:
        yield from few_points(most, counts, camera, projection)
    if outliers > 0:
        for case in found:
            yield with_outliers(case, outliers)
