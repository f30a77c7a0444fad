"""The contact sheet of what a network makes of a scene, and the command that draws it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from model_folders import tiny_model

from mf_ros.cli.main import main
from mf_ros.model import ModalityForcing, ModelConfig
from mf_training.pictures import Cell, sample_row, sample_sheet
from mf_training.scenes.types import LidarScan, Scene

SIZE = (32, 64)
NAMES = [
    "image",
    "true depth",
    "LiDAR shown",
    "image + LiDAR to depth",
    "LiDAR to depth",
    "image to depth",
    "depth to image, 2 steps",
    "joint image, 2 steps",
    "joint depth, 2 steps",
]


def wall(returns: bool = True) -> Scene:
    """A wall at 6 m, sky above it, measured at every fourth row and column when there are ``returns``."""
    depth = np.full(SIZE, 6.0, np.float32)
    depth[:8] = np.inf
    rows, cols = np.mgrid[8 : SIZE[0] : 4, 0 : SIZE[1] : 4].reshape(2, -1)
    xyz = np.stack([(cols - 31.5) / 40 * 6, (rows - 15.5) / 40 * 6, np.full(len(rows), 6.0)], 1).astype(np.float32)
    K = np.array([[40, 0, 31.5], [0, 40, 15.5], [0, 0, 1]], np.float32)
    image = np.random.default_rng(0).integers(0, 256, (3, *SIZE)).astype(np.uint8)
    scan = LidarScan(xyz if returns else xyz[:0], (rows if returns else rows[:0]).astype(np.int16), "solid", 0)
    return Scene(image, depth, K, (scan,), "wall", 5)


@pytest.fixture(scope="module")
def untrained() -> ModalityForcing:
    """It returns its prior: what the returns say, or a constant without any."""
    return ModalityForcing(ModelConfig(width=16, layers=1, heads=1, stem=(8, 8), blocks=(1, 1))).eval()


def test_a_row_holds_every_direction_and_errors_where_there_is_a_truth(untrained: ModalityForcing) -> None:
    row = sample_row(untrained, wall(), 2)
    assert [cell.name for cell in row] == NAMES
    assert [cell.name for cell in row if cell.error is not None] == NAMES[3:6]
    assert all(cell.picture.shape == (*SIZE, 3) and cell.picture.dtype == np.uint8 for cell in row)
    # The prior of a flat wall is the wall, whose pixels all have the median depth.
    assert all(cell.error < 0.01 for cell in row[3:6])
    assert "scaled" in row[5].note and "scaled" not in row[3].note


def test_without_returns_depth_is_scaled_and_says_so(untrained: ModalityForcing) -> None:
    row = sample_row(untrained, wall(returns=False), 1)
    assert "0 returns" in row[2].note
    assert row[3].error is not None and row[3].error < 0.01 and "scaled" in row[3].note


def test_an_image_is_made_from_depth_as_in_training(untrained: ModalityForcing) -> None:
    """Level 0 says that depth is given as far as it is known; only the image's own level falls from step to step."""
    seen: list[tuple[float, float]] = []
    hook = untrained.register_forward_pre_hook(lambda _, args: seen.append((args[1].item(), args[4].item())))
    sample_row(untrained, wall(), 3)
    hook.remove()
    given = [image_level for image_level, depth_level in seen if depth_level == 0]
    assert len(given) == 3 and given[0] == 1 and given == sorted(given, reverse=True)


def test_the_same_scene_gives_the_same_pictures(untrained: ModalityForcing) -> None:
    torch.manual_seed(1)
    first = sample_row(untrained, wall(), 2)
    torch.manual_seed(2)
    again = sample_row(untrained, wall(), 2)
    assert all(np.array_equal(one.picture, other.picture) for one, other in zip(first, again, strict=True))


def test_the_sheet_has_a_row_for_each_scene_and_words_above_and_below() -> None:
    white = np.full((*SIZE, 3), 255, np.uint8)
    row = [Cell("depth", white, 0.125), Cell("image", white)]
    one, two = sample_sheet([row]), sample_sheet([row, row])
    assert two.shape[0] == 2 * one.shape[0] and one.shape[1] > 2 * SIZE[1]
    above, below = one[:18, : SIZE[1]], one[18 + SIZE[0] : 36 + SIZE[0], : SIZE[1]]
    assert above.max() > 200 and below.max() > 200, "both lines are written on"
    assert one[18 + SIZE[0] : 36 + SIZE[0], SIZE[1] + 4 :].max() < 100, "what has no error has nothing below"


def test_the_command_writes_the_sheet_and_states_the_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "samples.png"
    command = ["sample", str(tiny_model()), "--out", str(out), "--count", "1", "--steps", "1", "--height", "64"]
    assert main([*command, "--width", "96", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["relative_errors"]) == set(NAMES[3:6])
    assert said["seeds"] == [1_000_000_000]
    assert cv2.imread(str(out)).shape[1] == 9 * 96 + 8 * 4


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--out", "sheet.jpg", "must end in .png"),
        ("--out", "nowhere/sheet.png", "there is no folder nowhere"),
        ("--steps", "0", "--steps must be"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(
    option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", str(tiny_model()), *([] if option == "--out" else ["--out", "sheet.png"]), option, value]
    assert main(command) == 2
    assert says in capsys.readouterr().err
