"""Pictures of mf-ros evaluate show what was given, the depth, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mf_ros.cli.evaluate_pictures import case_picture, picture_hook
from mf_ros.core.camera import CameraModel
from mf_ros.core.colours import colour_error
from mf_ros.core.pictures import NO_ESTIMATE
from mf_ros.core.projection import ProjectedReturns
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.protocol import Case
from mf_ros.evaluation.run import Prediction

HEIGHT, WIDTH = 60, 320
AT = {"near": 40, "right": 120, "far": 200, "missing": 280}
FOUND = {"near": 7.5, "right": 10.0, "far": 12.5, "missing": np.nan}


def prediction(engine: str = "made") -> Prediction:
    camera = CameraModel(WIDTH, HEIGHT, np.array([[300.0, 0, 160], [0, 300.0, 30], [0, 0, 1]]), np.zeros(0))
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    cols = np.array([*AT.values(), 300])
    depth = np.full((HEIGHT, WIDTH), 10, np.float32)
    for name, col in AT.items():
        depth[30, col] = FOUND[name]
    shown = ProjectedReturns.unmarked(np.array([[10.0, 50.0]], np.float32), np.array([3.0], np.float32))
    truth, visible = np.full(5, 10, np.float32), np.array([True, True, True, True, False])
    case = Case("8", True, shown, np.full(5, 30), cols, truth, visible)
    frame = EvaluationFrame("drive", "0001", image, camera)
    return Prediction(frame, case, engine, np.zeros((HEIGHT, WIDTH), np.float32), depth)


def test_the_lowest_panel_shows_where_depth_is_too_near_and_where_too_far() -> None:
    picture = case_picture(prediction())
    errors = picture[-HEIGHT:]
    expected = {"near": colour_error(np.float32(-1)), "right": colour_error(np.float32(0)), "missing": NO_ESTIMATE}
    expected["far"] = colour_error(np.float32(1))
    for name, col in AT.items():
        assert tuple(errors[30, col]) == tuple(expected[name]), name
    # Truth that the camera cannot see is not judged here, and the rest is the darkened image.
    assert tuple(errors[30, 300]) == tuple(errors[5, 5]) == (80, 80, 80)


def test_above_are_a_caption_the_returns_that_were_shown_and_the_depth() -> None:
    picture = case_picture(prediction())
    caption, returns, depth, _ = np.split(picture, [len(picture) - panels * HEIGHT for panels in (3, 2, 1)])
    assert caption.max() > 150 and len(caption) < HEIGHT
    assert (returns[50, 10] != returns[5, 5]).any()
    assert (depth[30, AT["near"]] != depth[0, 0]).any() and not depth[30, AT["missing"]].any()


@pytest.mark.parametrize("name", ["0001", "a/b"])
def test_the_hook_writes_one_file_for_each_case_of_its_engine(tmp_path: Path, name: str) -> None:
    hook = picture_hook(tmp_path / "new", "made")
    made = prediction()
    frame = EvaluationFrame("drive", name, made.frame.image, made.frame.camera)
    hook(Prediction(frame, made.case, "made", made.sparse, made.depth))
    hook(prediction("another"))
    (written,) = (tmp_path / "new").iterdir()
    assert written.name == f"drive_{name.replace('/', '_')}_8.png"
    assert np.array_equal(cv2.imread(str(written))[-HEIGHT:, :, ::-1], case_picture(made)[-HEIGHT:])
