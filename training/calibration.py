"""How far a trained network's uncertainty must be corrected for its intervals to hold on held-out scenes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import List, Tuple

import numpy as np
import torch

from mf_ros.core.conditioning import Conditioning
from mf_ros.core.types import AnyArray, FloatArray
from mf_ros.engine.bundle import Calibration, Processing
from mf_ros.engine.network import Completion, finished
from mf_ros.model import ModalityForcing
from mf_training.config import TrainConfig
from mf_training.data import Batch, DataError, heldout_batches, open_parts
from mf_training.heldout import one_step
from mf_training.samples import collate, make_sample

HALF = 0.5
"""Part of the errors that the correction makes the interval of that promise hold, exactly on the held-out scenes."""
_MEASURED = 0.99
_PER_SAMPLE = 2000
_ROUNDS = 2


def calibrate(network: ModalityForcing, config: TrainConfig, processing: Processing) -> Calibration:
    """Measure the correction of log b on the samples that a run holds out.

    Only pixels count whose truth a sensor would have measured, in samples that show returns. One scale cannot
    mend the shape of a distribution, whose tails are heavier than Laplace's: the median is made exact, and wider
    intervals hold a little less than they promise.

    Args:
        network: the weights to ship.
        config: of the run; its held-out scenes are rendered where its cache does not hold them.
        processing: that the weights ship with.

    Raises:
        DataError: the run holds nothing out, or no sample can be used.
    """
    # Scenes only: real frames may lie elsewhere by now; and no wrong returns, which the robot leaves out.
    scenes_only = dataclasses.replace(config.data.mix, scenes=1.0, frames=0.0)
    quiet = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0, mix=scenes_only))
    shown = dataclasses.replace(config.samples, photometric=False, outliers=0.0, ghosts=0.0)
    batches = heldout_batches(
        open_parts(quiet.data),
        lambda scene, rng, shape, _: make_sample(scene, rng, shape, shown),
        collate,
        quiet,
        rank=0,
        world=1,
    )
    found = [one for each in batches.values() for batch in each for one in completions(network, batch)]
    if not found:
        raise DataError("There is nothing to measure the uncertainty on: the run holds no scenes out.")
    offset = 0.0
    # The blend with the returns weighs them by b, so its result moves a little with the correction.
    for _ in range(_ROUNDS):
        pooled = np.concatenate([error_over_scale(one, offset, processing) for one in found])
        offset += math.log(max(float(np.quantile(pooled, HALF)), 1e-6) / -math.log(1 - HALF))
    return Calibration(log_scale_offset=offset)


@dataclass(frozen=True)
class Measured:
    """One held-out sample: what the network made of it, and the truth where a sensor would have measured it.

    ``target`` is (H, W) float32 log of true depth over the scale, ``pixels`` the measured ones, as rows and columns.
    """

    done: Completion
    target: FloatArray
    pixels: Tuple[AnyArray, AnyArray]


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


def error_over_scale(one: Measured, offset: float, processing: Processing) -> FloatArray:
    """|error of log depth| / b at the measured pixels, of depth as the engine hands it out."""
    log_scale = one.done.log_scale + np.float32(offset)
    made = finished(one.done._replace(log_scale=log_scale), processing)
    ratio: FloatArray = (np.abs(made - one.target) * np.exp(-log_scale))[one.pixels]
    return ratio
