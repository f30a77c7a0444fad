"""How far a trained network's uncertainty must be corrected for its intervals to hold on held-out scenes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np
import torch

from mf_ros.core.conditioning import Conditioning
from mf_ros.core.grid import grid_shape, grid_step
from mf_ros.core.types import AnyArray, FloatArray
from mf_ros.engine.bundle import Calibration, Processing
from mf_ros.engine.network import Completion, finished
from mf_ros.evaluation.uncertainty import INTERVALS
from mf_ros.model import ModalityForcing
from mf_training import samples
from mf_training.config import TrainConfig
from mf_training.data import Batch, DataError, heldout_batches, open_parts
from mf_training.heldout import one_step

PICTURE = (480, 800)
"""Height and width at which the held-out scenes are rendered: about those of a robot's camera, and whole, since near a
crop's border a network is more wrong than in the middle of a picture."""
PROMISED = tuple(1.0 - math.exp(-width) for width in INTERVALS.values())
"""Part of the errors that each of ``INTERVALS`` should hold, as Laplace's distribution has it."""
_MEASURED = 0.99
_PER_SAMPLE = 2000
_ROUNDS = 2


def calibrate(
    network: ModalityForcing, config: TrainConfig, processing: Processing, picture: Tuple[int, int] = PICTURE
) -> Calibration:
    """Measure the correction of log b, on the full and on the coarse grid, on the scenes that a run holds out.

    They are seen as robots see: whole pictures, whole scan lines shown. Only pixels count whose truth a sensor would
    have measured.

    Args:
        network: the weights to ship.
        config: of the run; its held-out scenes are rendered where its cache does not hold them.
        processing: that the weights ship with.
        picture: (H, W) of the scenes; both grids are the same where it has no more pixels than the coarse one allows.

    Raises:
        DataError: the run holds nothing out, or no sample can be used.
    """
    fine = offset_of(measured_samples(network, config, picture, coarse=False), processing)
    if grid_step(picture, samples.COARSE_PIXELS) == 1:
        return Calibration(fine)
    return Calibration(fine, offset_of(measured_samples(network, config, picture, coarse=True), processing) - fine)


@dataclass(frozen=True)
class Measured:
    """One held-out sample: what the network made of it, and the truth where a sensor would have measured it.

    ``target`` is (H, W) float32 log of true depth over the scale, ``pixels`` the measured ones, as rows and columns.
    """

    done: Completion
    target: FloatArray
    pixels: Tuple[AnyArray, AnyArray]


def measured_samples(
    network: ModalityForcing, config: TrainConfig, picture: Tuple[int, int], *, coarse: bool
) -> List[Measured]:
    """What the network makes of the held-out scenes on one of the two grids.

    Raises:
        DataError: the run holds nothing out.
    """
    grid = grid_shape(picture, grid_step(picture, samples.COARSE_PIXELS if coarse else samples.MAX_PIXELS))
    patch = network.config.patch
    rows, cols = grid_shape(grid, patch)
    # Scenes only: real frames may lie elsewhere by now; and no wrong returns, which the robot leaves out.
    data = dataclasses.replace(
        config.data,
        workers=0,
        mix=dataclasses.replace(config.data.mix, scenes=1.0, frames=0.0, dataset=0.0),
        scenes=dataclasses.replace(config.data.scenes, size=picture),
        shapes=[(patch * rows, patch * cols)],
    )
    lines = {"lines": 1.0, "points": 0.0, "block": 0.0, "nearly": 0.0}
    shown = dataclasses.replace(
        config.samples, photometric=False, outliers=0.0, ghosts=0.0, coarse=float(coarse), **lines
    )
    batches = heldout_batches(
        open_parts(data),
        lambda scene, rng, shape, _: samples.make_sample(scene, rng, shape, shown),
        samples.collate,
        dataclasses.replace(config, data=data, batch=1),
        rank=0,
        world=1,
    )
    return [one for each in batches.values() for batch in each for one in completions(network, batch)]


@torch.inference_mode()
def completions(network: ModalityForcing, batch: Batch) -> List[Measured]:
    """One step of the network on each sample that shows returns."""
    out = one_step(network.eval(), batch)
    arrays = {name: value[:, 0].numpy() for name, value in batch.items() if value.ndim == 4 and value.shape[1] == 1}
    rng = np.random.default_rng(0)
    found = []
    for number, scale in enumerate(batch["scale"].tolist()):
        one = {name: value[number] for name, value in arrays.items()}
        truth = one["truth"]
        measured = (one["weight"] > _MEASURED) & (truth > 0) & np.isfinite(truth)
        if not measured.any() or not (one["level"] < 1).any():
            continue
        rows, cols = np.nonzero(measured)
        kept = rng.permutation(len(rows))[:_PER_SAMPLE]
        target = np.log(np.where(measured, truth, scale) / scale).astype(np.float32)
        conditioning = Conditioning(scale, one["prior"], one["depth"], one["level"], True)
        done = Completion(out.depth[number, 0].numpy(), out.log_scale[number, 0].numpy(), conditioning)
        found.append(Measured(done, target, (rows[kept], cols[kept])))
    return found


def offset_of(found: Sequence[Measured], processing: Processing) -> float:
    """The correction of log b at which all intervals are equally far from what they promise.

    One scale cannot mend the shape of a distribution: with tails heavier than Laplace's no correction makes them all
    exact, and of two the narrow one then holds as much more than it promises as the wide one holds less.

    Raises:
        DataError: there is no sample.
    """
    if not found:
        raise DataError("There is nothing to measure the uncertainty on: the run holds no scenes out.")
    offset = 0.0
    # The blend with the returns weighs them by b, so its result moves a little with the correction.
    for _ in range(_ROUNDS):
        errors = np.concatenate([error_over_scale(one, offset, processing) for one in found])
        # What all intervals hold together is their mean promise where so much of the errors over the widths lies below.
        over_width = np.concatenate([errors / width for width in INTERVALS.values()])
        offset += math.log(max(float(np.quantile(over_width, np.mean(PROMISED))), 1e-6))
    return offset


def error_over_scale(one: Measured, offset: float, processing: Processing) -> FloatArray:
    """|error of log depth| / b at the measured pixels, of depth and b as the engine hands them out."""
    made = finished(one.done._replace(log_scale=one.done.log_scale + np.float32(offset)), processing)
    ratio: FloatArray = (np.abs(made.log_ratio - one.target) * np.exp(-made.log_scale))[one.pixels]
    return ratio
