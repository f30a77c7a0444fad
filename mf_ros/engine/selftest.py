"""Compares a loaded network with the result that was stored when it was exported."""

from __future__ import annotations

import numpy as np

from mf_ros.core.conditioning import condition, to_depth
from mf_ros.engine.backend import Backend
from mf_ros.engine.bundle import REFERENCE, Bundle, load_reference
from mf_ros.engine.network import complete
from mf_ros.errors import ModelError

_LOG_SCALE_FACTOR = 10.0


def self_test(bundle: Bundle, backend: Backend) -> float:
    """The largest relative difference of depth from the stored result, one step, before blending with the returns.

    It covers the preparation of the input too, so a network that was trained with another one is found out.

    Raises:
        ModelError: it is more than the arithmetic in use explains, or the stored result cannot be read.
    """
    stored = load_reference(bundle.file(REFERENCE))
    done = complete(bundle, backend, stored["image"], condition(stored["sparse"]))
    depth = to_depth(done.log_ratio, done.conditioning.scale)
    difference = float(np.max(np.abs(depth / stored["depth"] - 1.0)))
    of_scale = float(np.max(np.abs(done.log_scale - stored["log_scale"])))
    allowed = backend.tolerance
    if not (difference <= allowed and of_scale <= _LOG_SCALE_FACTOR * allowed):
        what = ", ".join(backend.describe().values())
        raise ModelError(
            f"The self-test of the model {bundle.folder} failed on {what}: depth differs from the stored result by "
            f"up to {difference:.2g} of itself ({allowed:g} is allowed), its log scale by {of_scale:.2g}; "
            "try engine.device cpu, or export the model again."
        )
    return difference
