"""Pictures for people: PNG files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mf_ros.core.pictures import write_png
from mf_ros.errors import BagError, ConfigError


def test_a_png_holds_the_picture_in_its_colours(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", picture, BagError)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], picture)


def test_a_picture_that_cannot_be_written_is_never_passed_over(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"1 x 1000001 pixels are too many for one PNG; make fewer or smaller"):
        write_png(tmp_path / "a.png", np.zeros((1_000_001, 1, 3), np.uint8), BagError)
    with pytest.raises(ConfigError, match=r"b\.png cannot be written: No such file or directory"):
        write_png(tmp_path / "nowhere" / "b.png", np.zeros((2, 2, 3), np.uint8), ConfigError)
