"""The frames of a comparison that changed most, before and after, as pictures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np

from mf_ros.bags import report_pictures as pictures
from mf_ros.bags.report_figures import Figure
from mf_ros.bags.samples import Sample, shrunk_sample
from mf_ros.core.types import CameraFrame
from mf_ros.evaluation.compare import BASE, NETWORKS, TUNED, ComparedFrame
from mf_ros.evaluation.heldout import HeldOut

SHOWN = 2
"""How many of the frames that got better, and of those that got worse, are shown at most."""


@dataclass(frozen=True)
class ChangedFrame:
    """One frame, small enough to keep.

    Attributes:
        recording: it is of.
        stamp_ns: of its image.
        mae: metres, by ``NETWORKS``.
        samples: by ``NETWORKS``; they differ in depth and error only.
    """

    recording: str
    stamp_ns: int
    mae: Dict[str, float]
    samples: Dict[str, Sample]

    @property
    def change_m(self) -> float:
        """How much larger the tuned network's MAE is, metres."""
        return self.mae[TUNED] - self.mae[BASE]


class Extremes:
    """Keeps the frames whose MAE fell and rose most; of equal ones the first."""

    def __init__(self, shown: int = SHOWN) -> None:
        self._shown = shown
        self._better: List[ChangedFrame] = []
        self._worse: List[ChangedFrame] = []

    def offer(self, compared: ComparedFrame) -> None:
        """Keep a frame if it is among the extremes so far."""
        change = compared.change_m
        kept, sign = (self._better, 1.0) if change < 0 else (self._worse, -1.0)
        if change == 0 or (len(kept) == self._shown and sign * change >= sign * kept[-1].change_m):
            return
        kept.append(_shrunk(compared))
        kept.sort(key=lambda each: sign * each.change_m)
        del kept[self._shown :]

    def frames(self) -> Tuple[Tuple[ChangedFrame, ...], Tuple[ChangedFrame, ...]]:
        """Those that got better and those that got worse, the most changed first."""
        return tuple(self._better), tuple(self._worse)


def _shrunk(compared: ComparedFrame) -> ChangedFrame:
    frame, case = compared.frame, compared.case
    stamp = int(frame.name)
    image = CameraFrame(frame.image, frame.camera, stamp, "")
    rows, cols, truth = (each[case.visible] for each in (case.rows, case.cols, case.truth))
    uv = np.stack([cols, rows], axis=1).astype(np.float32)
    samples = {}
    for name in NETWORKS:
        estimate = compared.made[name]
        held_out = HeldOut("", uv, truth, estimate.depth[rows, cols], {})
        samples[name] = shrunk_sample(0, image, compared.sparse, estimate, held_out, {})
    return ChangedFrame(frame.source, stamp, dict(compared.mae), samples)


def scales_of(frames: Sequence[ChangedFrame]) -> pictures.Scales:
    """Ranges of colours that all pictures share."""
    return pictures.scales_of([sample for frame in frames for sample in frame.samples.values()])


def change_scales_of(frames: Sequence[ChangedFrame]) -> pictures.Scales:
    """The same for the pictures of the change."""
    return pictures.scales_of([_change(frame) for frame in frames])


def figures_of(frame: ChangedFrame, scales: pictures.Scales, change_scales: pictures.Scales) -> List[Figure]:
    """Image and returns, depth and errors of both networks on one scale, and where the error changed."""
    before, after, change = frame.samples[BASE], frame.samples[TUNED], _change(frame)
    samples = (before, after)
    depth = pictures.depth_legend(scales, [each.depth for each in samples])
    error = pictures.error_legend(scales, [each.error_m for each in samples])
    note = "Estimate minus held-out return: blue too near, red too far."
    changed = pictures.error_legend(change_scales, [change.error_m])
    return [
        Figure("Image and the returns shown", pictures.lidar_picture(before, scales), depth),
        Figure("Base: depth", pictures.depth_picture(before.depth, scales), depth),
        Figure("Tuned: depth", pictures.depth_picture(after.depth, scales), depth),
        Figure(
            "Change of the error",
            pictures.error_picture(change, change_scales),
            changed,
            "Of the size of the error: blue smaller, red larger.",
        ),
        Figure("Base: error at held-out returns", pictures.error_picture(before, scales), error, note),
        Figure("Tuned: error at held-out returns", pictures.error_picture(after, scales), error, note),
    ]


def _change(frame: ChangedFrame) -> Sample:
    """A sample whose error is how much larger the tuned network's error is; NaN where one gave no depth."""
    before, after = frame.samples[BASE], frame.samples[TUNED]
    return dataclasses.replace(after, error_m=np.abs(after.error_m) - np.abs(before.error_m))
