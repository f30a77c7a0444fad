"""Post-training of FLUX.2 networks with depth: on planes of which every other return is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("safetensors")
pytest.importorskip("peft")
pytest.importorskip("diffusers", minversion="0.37")
pytest.importorskip("cv2")

from flux_training_toys import LORA, start, trained
from training_toys import assert_same, begin_after, fresh_accelerator, last  # noqa: F401


def test_only_what_is_named_is_trained_and_the_rest_stays(tmp_path: Path) -> None:

    init = start(tmp_path / "base")
    trained(tmp_path / "run", init, lora=LORA)
