"""The correction of the uncertainty is measured on depth as the engine hands it out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from model_folders import frame, tiny_model

from mf_ros.core.conditioning import condition
from mf_ros.core.config import EngineConfig
from mf_ros.engine.bundle import Processing, load_bundle
from mf_ros.engine.network import NetworkEngine, complete
from mf_ros.engine.torch_backend import TorchBackend, load_network
from mf_training.calibration import HALF, Measured, calibrate, completions, error_over_scale
from mf_training.data import heldout_batches, open_parts
from mf_training.samples import collate, make_sample
from mf_training.settings import train_config_from_mapping

SMALL = {
    "model": {},
    "samples": {"photometric": False, "outliers": 0.0, "ghosts": 0.0},
    "data": {"scenes": {"size": [64, 96], "scans": 1, "heldout": 6}, "shapes": [[64, 96]], "workers": 0},
}


@pytest.mark.parametrize("recession", [0.1, 0.01])
def test_errors_are_those_of_the_engine_whatever_its_processing(recession: float) -> None:
    image, sparse, camera = frame()
    bundle = load_bundle(str(tiny_model()))
    bundle = replace(bundle, processing=replace(bundle.processing, recession=recession))
    backend = TorchBackend(bundle, EngineConfig(device="cpu"))
    estimate = NetworkEngine(bundle, backend).estimate(image, sparse, camera)
    done = complete(bundle, backend, image, condition(sparse.depth))
    truth = 1.05 * estimate.depth
    pixels = np.nonzero(truth > 0)
    raw = done._replace(log_scale=done.log_scale - np.float32(0.5))
    errors = error_over_scale(
        Measured(raw, np.log(truth / done.conditioning.scale), pixels), offset=0.5, processing=bundle.processing
    )
    assert errors == pytest.approx(np.log(1.05) * np.exp(-estimate.log_scale[pixels]), rel=1e-3)


def test_half_of_the_errors_lie_within_the_corrected_interval_that_promises_it() -> None:
    network, config, processing = (
        load_network(load_bundle(str(tiny_model()))),
        train_config_from_mapping(SMALL),
        Processing(),
    )
    offset = calibrate(network, config, processing).log_scale_offset
    batches = heldout_batches(open_parts(config.data), make_sample, collate, config, rank=0, world=1)
    shown = [one for each in batches.values() for batch in each for one in completions(network, batch)]
    errors = np.concatenate([error_over_scale(one, offset, processing) for one in shown])
    assert abs(offset) > 0.1, "the network of the test must need a correction"
    assert np.mean(errors < math.log(2)) == pytest.approx(HALF, abs=0.01)
