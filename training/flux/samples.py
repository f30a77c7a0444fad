"""Samples of the FLUX.2 networks: the picture on the canvas of the robot's engine, and the unit of its depth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from mf_ros.core.conditioning import condition
from mf_ros.core.types import FloatArray
from mf_ros.engine.canvases import lay
from mf_training.losses import SKY_M
from mf_training.samples import Sample, SampleConfig, make_sample, resized, zoomed
from mf_training.scenes.types import Scene

_DENSE = 0.5
_ARRAYS = ("truth", "weight", "depth", "level", "prior", "hidden", "filled")


@dataclass(frozen=True)
class FluxSample(Sample):
    """A sample with a map that has no holes.

    Attributes:
        unit: metres that the network is to count as 1: the mean of the map over the picture, without the sky.
        filled: (H, W) float32 log of metres: the truth where it is dense, else completed from all returns, as
            ``mf_ros.core.conditioning`` completes them.
    """

    unit: float
    filled: FloatArray


def make_flux_sample(
    scene: Scene, rng: np.random.Generator, shape: Tuple[int, int], config: Optional[SampleConfig] = None
) -> FluxSample:
    """Draw a sample as ``mf_training.samples.make_sample`` does, of a recorded frame as it lies on a canvas.

    The frame is scaled as the engine scales it; where it is smaller than the crop, black bars stand beside it.

    Args:
        scene: what was rendered or recorded.
        rng: of every draw.
        shape: (H, W) of the crop: the canvas.
        config: shares of the draws.
    """
    config = config or SampleConfig()
    if not scene.depth.any():
        size = lay((scene.depth.shape[0], scene.depth.shape[1]), max(shape)).size
        scene = resized(scene, size, shrinks=size[0] < scene.depth.shape[0])
        scene = zoomed(scene, rng.spawn(1)[0], shape, config)
    sample = make_sample(scene, rng, shape, dataclasses.replace(config, zoom=(1.0, 1.0)))
    inside = (min(scene.depth.shape[0], shape[0]), min(scene.depth.shape[1], shape[1]))
    return _centred(with_map(sample, inside), inside)


def with_map(sample: Sample, inside: Optional[Tuple[int, int]] = None) -> FluxSample:
    """A sample with the map and its mean.

    Args:
        sample: any sample.
        inside: rows and columns, from the upper left, that show the picture; all when not given.
    """
    rows, cols = inside or sample.truth.shape
    picture = (slice(0, rows), slice(0, cols))
    known, sky = (sample.truth > 0) & np.isfinite(sample.truth), np.isposinf(sample.truth)
    values = sample.truth[known]
    middle = float(np.median(values)) if values.size else sample.scale
    if (known | sky)[picture].mean() > _DENSE:
        metres = np.where(known, sample.truth, np.where(sky, np.float32(SKY_M), np.float32(middle)))
        unit = float(values.mean()) if values.size else SKY_M
    elif values.size:
        completed = condition(np.where(known, sample.truth, np.float32(0))[picture])
        metres = np.full(sample.truth.shape, middle, np.float32)
        metres[picture] = np.exp(completed.prior) * np.float32(completed.scale)
        unit = float(metres[picture].mean())
    else:
        metres, unit = np.full(sample.truth.shape, middle, np.float32), middle
    given = {each.name: getattr(sample, each.name) for each in dataclasses.fields(Sample)}
    return FluxSample(**given, unit=unit, filled=np.log(metres).astype(np.float32))


def _centred(sample: FluxSample, inside: Tuple[int, int]) -> FluxSample:
    """The picture in the middle of the canvas, and nothing to be seen beside it."""
    shape = sample.truth.shape
    if inside == shape:
        return sample
    moved = [(full - part) // 2 for full, part in zip(shape, inside, strict=True)]
    image = np.zeros_like(sample.image)
    image[:, moved[0] : moved[0] + inside[0], moved[1] : moved[1] + inside[1]] = sample.image[
        :, : inside[0], : inside[1]
    ]
    arrays = {name: np.roll(getattr(sample, name), moved, (0, 1)) for name in _ARRAYS}
    return dataclasses.replace(sample, image=image, **arrays)
