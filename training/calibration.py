"""How far a trained network's uncertainty must be corrected for its intervals to hold on held-out scenes."""

from __future__ import annotations

import dataclasses
import math
from typing import List

import numpy as np
import torch

from mf_ros.core.pixels import network_image
from mf_ros.core.types import FloatArray
from mf_ros.engine.bundle import Calibration
from mf_ros.model import ModalityForcing
from mf_training.config import TrainConfig
from mf_training.data import Batch, DataError, heldout_batches, open_parts
from mf_training.samples import collate, make_sample

QUANTILES = (0.5, 0.9)
"""Parts of the errors that the intervals promise to hold."""
_MEASURED = 0.99
_PER_SAMPLE = 2000


def calibrate(network: ModalityForcing, config: TrainConfig) -> Calibration:
    """Measure the correction of log b on the samples that a run holds out.

    Only pixels count whose truth a sensor would have measured, in samples that show returns. Of the corrections that
    make each of ``QUANTILES`` exact the mean is taken: one scale cannot mend the shape of a distribution.

    Args:
        network: the weights to ship.
        config: of the run; its held-out scenes are rendered where its cache does not hold them.

    Raises:
        DataError: the run holds nothing out, or no sample can be used.
    """
    quiet = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    batches = heldout_batches(
        open_parts(quiet.data),
        lambda scene, rng, shape, _: make_sample(
            scene, rng, shape, dataclasses.replace(config.samples, photometric=False)
        ),
        collate,
        quiet,
        rank=0,
        world=1,
    )
    ratios = [ratio for each in batches.values() for batch in each for ratio in error_over_scale(network, batch)]
    if not ratios:
        raise DataError("There is nothing to measure the uncertainty on: the run holds no scenes out.")
    pooled = np.concatenate(ratios)
    offsets = [math.log(max(float(np.quantile(pooled, q)), 1e-6) / -math.log(1.0 - q)) for q in QUANTILES]
    return Calibration(log_scale_offset=float(np.mean(offsets)))


@torch.inference_mode()
def error_over_scale(network: ModalityForcing, batch: Batch) -> List[FloatArray]:
    """|error of log depth| / b at measured pixels, one array for each sample that shows returns."""
    image = network_image(batch["image"].float())
    clean, unknown = image.new_zeros(len(image)), image.new_ones(len(image))
    out = network.eval()(image, clean, batch["depth"], batch["level"], unknown, batch["prior"])
    truth, scale = batch["truth"], batch["scale"][:, None, None, None]
    measured = (batch["weight"] > _MEASURED) & (truth > 0) & truth.isfinite()
    target = (torch.where(measured, truth, scale) / scale).log()
    ratio = (out.depth - target).abs() / out.log_scale.exp()
    shown = (batch["level"] < 1).flatten(1).any(1)
    rng = np.random.default_rng(0)
    found = [each[mask].numpy() for each, mask, use in zip(ratio, measured, shown, strict=True) if use and mask.any()]
    return [each[rng.permutation(len(each))[:_PER_SAMPLE]] for each in found]
