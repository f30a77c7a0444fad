"""The figures of a report's sample frames: what is drawn of each, under which title, with which words below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence

import numpy as np

from mf_ros.bags import report_pictures as pictures
from mf_ros.bags.samples import Sample
from mf_ros.core.config import CloudConfig
from mf_ros.core.types import ByteArray


@dataclass(frozen=True)
class Figure:
    """One picture of a sample frame."""

    title: str
    picture: ByteArray
    legend: Optional[pictures.Legend] = None
    note: str = ""


def figures_of(sample: Sample, scales: pictures.Scales, cloud: CloudConfig, samples: Sequence[Sample]) -> List[Figure]:
    """The figures of one sample; legends fit all ``samples``, because they share one scale of colours."""
    depth = pictures.depth_legend(scales, [each.depth for each in samples])
    figures = [
        Figure("LiDAR returns on the image", pictures.lidar_picture(sample, scales), depth),
        Figure("Dense depth", pictures.depth_picture(sample.depth, scales), depth),
    ]
    if sample.uncertainty is not None:
        figures.append(_uncertainty(sample, samples))
    if len(sample.error_m):
        legend = pictures.error_legend(scales, [each.error_m for each in samples])
        note = "Estimate minus held-out return: blue too near, red too far."
        figures.append(Figure("Error on held-out returns", pictures.error_picture(sample, scales), legend, note))
    if sample.uncertainty is None:
        note = "As the engine gives it; not a measured error."
        confidence = pictures.confidence_picture(sample.confidence)
        figures.append(Figure("Confidence", confidence, pictures.confidence_legend(), note))
    views = pictures.cloud_views(sample, scales, cloud)
    if views is not None:
        left_out = f"As in /depth/points; cloud.* leaves out {100.0 * views.left_out:.0f}% of the pixels with depth."
        grid = (
            f"Camera at the left edge, forward to the right; grid {pictures.grid_step(scales.view_m):g} m; LiDAR cyan."
        )
        figures.append(Figure("Coloured cloud, from behind and above", views.oblique, note=left_out))
        figures.append(Figure("Cloud and LiDAR, from the top", views.top, note=grid))
    return figures


def _uncertainty(sample: Sample, samples: Sequence[Sample]) -> Figure:
    note = "The engine's own guess of its relative error, b; not a measured error."
    return Figure("Uncertainty", pictures.uncertainty_picture(sample), pictures.uncertainty_legend(samples), note)


def uncertainty_line(samples: Sequence[Sample], accuracy: Optional[Mapping[str, Any]]) -> str:
    """How uncertain the engine says it is, and how true that is where it was measured; "" when it says nothing."""
    stated = [
        each.uncertainty[np.isfinite(each.depth)]
        for each in samples
        if each.uncertainty is not None and np.isfinite(each.depth).any()
    ]
    if not stated:
        return ""
    values = np.concatenate(stated)
    text = (
        f"Uncertainty b, over the pixels with depth: mean {100.0 * values.mean():.1f}%, "
        f"median {100.0 * float(np.median(values)):.1f}%."
    )
    if not accuracy or "coverage50" not in accuracy:
        return text
    return (
        f"{text} Of the held-out returns {100.0 * accuracy['coverage50']:.0f}% lie within its 50% interval and "
        f"{100.0 * accuracy['coverage90']:.0f}% within its 90% interval."
    )
