"""The correction of the uncertainty is measured on depth as the engine hands it out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Dict, Tuple

import numpy as np
import pytest
from model_folders import frame, tiny_model

from mf_ros.core.conditioning import Conditioning, condition
from mf_ros.core.config import EngineConfig
from mf_ros.core.types import FloatArray
from mf_ros.engine.bundle import Calibration, Processing, load_bundle
from mf_ros.engine.network import Completion, NetworkEngine, complete
from mf_ros.engine.torch_backend import TorchBackend, load_network
from mf_ros.evaluation.uncertainty import INTERVALS
from mf_training import samples
from mf_training.calibration import Measured, calibrate, error_over_scale, measured_samples, offset_of
from mf_training.data import DataError
from mf_training.settings import train_config_from_mapping

SMALL = {"model": {}, "data": {"scenes": {"scans": 1, "heldout": 6}}}
PICTURE = (64, 96)


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


def calibrated(monkeypatch: pytest.MonkeyPatch, coarse_pixels: int) -> Tuple[Calibration, Dict[bool, FloatArray]]:
    """The correction of an untrained network, and |error| / b with it on the full and on the coarse grid."""
    monkeypatch.setattr(samples, "COARSE_PIXELS", coarse_pixels)
    network, config = load_network(load_bundle(str(tiny_model()))), train_config_from_mapping(SMALL)
    found = calibrate(network, config, Processing(), PICTURE)
    errors = {}
    for coarse in (False, True):
        offset = found.offset(2 if coarse else 1)
        shown = measured_samples(network, config, PICTURE, coarse=coarse)
        errors[coarse] = np.concatenate([error_over_scale(one, offset, Processing()) for one in shown])
    return found, errors


def test_both_intervals_miss_what_they_promise_equally_on_either_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    found, errors = calibrated(monkeypatch, coarse_pixels=PICTURE[0] * PICTURE[1] // 4)
    assert abs(found.log_scale_offset) > 0.1, "the network of the test must need a correction"
    assert abs(found.coarse_log_scale_offset) > 0.02, "the grids must differ"
    for ratio in errors.values():
        half, most = (np.mean(ratio < width) for width in INTERVALS.values())
        assert half - 0.5 == pytest.approx(0.9 - most, abs=0.02)


def test_pictures_that_need_no_coarse_grid_get_one_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    found, errors = calibrated(monkeypatch, coarse_pixels=PICTURE[0] * PICTURE[1])
    assert found.coarse_log_scale_offset == 0
    assert not np.array_equal(errors[False], errors[True]), "the coarse prior is made of one completion"


def test_errors_that_are_laplaces_give_exact_intervals() -> None:
    rng = np.random.default_rng(0)
    scale, error = 0.03, rng.laplace(0, 0.03, (100, 200)).astype(np.float32)
    nothing = Conditioning(1.0, np.zeros_like(error), np.zeros_like(error), np.ones_like(error), False)
    stated = Completion(np.zeros_like(error), np.full_like(error, math.log(scale) + 0.7), nothing)
    one = Measured(stated, error, np.nonzero(np.ones_like(error)))
    assert offset_of([one], Processing()) == pytest.approx(-0.7, abs=0.03)


def test_a_run_that_holds_nothing_out_cannot_be_calibrated() -> None:
    with pytest.raises(DataError, match="holds no scenes out"):
        offset_of([], Processing())
