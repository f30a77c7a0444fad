"""The training loss: what it holds predictions against."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import torch

from mf_ros.model import Prediction
from mf_training.losses import LossConfig, depth_terms, make_inputs


def outdoors(scale: float) -> dict[str, torch.Tensor]:
    """A surface at 20 m under the sky; ``scale`` is the median of the returns, which all lie nearer."""
    truth = torch.full((1, 1, 16, 16), 20.0)
    truth[..., :8, :] = torch.inf
    zeros = torch.zeros_like(truth)
    return {
        "image": torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        "truth": truth,
        "weight": torch.ones_like(truth),
        "depth": zeros,
        "level": torch.ones_like(truth),
        "prior": zeros,
        "hidden": zeros.to(torch.uint8),
        "scale": torch.tensor([scale]),
    }


@pytest.mark.parametrize(("regime", "scale"), [("complete", 2.0), ("image", 20.0), ("joint", 20.0)])
def test_sky_counts_as_reached_at_a_hundred_metres_in_every_regime(regime: str, scale: float) -> None:
    batch = outdoors(scale=2.0)
    inputs = make_inputs(batch, regime, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert inputs.scale.tolist() == [scale], "without LiDAR depth is divided by the truth's own median"

    def sky(metres: float) -> float:
        depth = torch.full((1, 1, 16, 16), metres / scale).log()
        out = Prediction(depth, torch.zeros_like(depth), torch.zeros_like(depth), None)
        return depth_terms(out, inputs, batch, LossConfig())["sky"].item()

    assert sky(101.0) == 0 and sky(90.0) > 0
