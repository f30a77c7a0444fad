"""Reuse of earlier frames in the pipeline that node and replay share, and its score on a recording."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from simulated_drives import SMALL
from temporal_scene import shot
from wall_scene import CAMERA_FRAME, camera_info, cloud, extrinsics, image, stamp, tf

from mf_ros.cli.main import main
from mf_ros.core.config import Config, TemporalConfig
from mf_ros.core.settings import config_from_mapping
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import CameraPoints
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.errors import ConfigError
from mf_ros.evaluation.sequence import SequenceFrame, evaluate_sequence
from mf_ros.simulate.recording import simulate

ON = Config(temporal=TemporalConfig(enabled=True))


class Watched(ClassicalEngine):
    """Remembers how many returns it was shown, and of which of them it was told that they are old."""

    def __init__(self):
        super().__init__()
        self.shown, self.old = [], []

    def estimate(self, image, sparse, camera):
        self.shown.append(sparse.count)
        self.old.append(0 if sparse.level is None else int(np.count_nonzero((sparse.level > 0) & (sparse.level < 1))))
        return super().estimate(image, sparse, camera)


def raised(number, metres=0.1):
    pose = np.eye(4)
    pose[1, 3] = metres * number
    return StampedTransform("odom", CAMERA_FRAME, stamp(number), pose)


def run(config, frames=4, odometry=True, epochs=1):
    """The wall in front of a camera that sinks by a pixel per frame; each epoch is the same drive again."""
    engine = Watched()
    pipeline = DepthPipeline(config, engine)
    pipeline.on_camera_info(camera_info())
    pipeline.on_transforms(tf(extrinsics()), static=True)
    results = []
    for _ in range(epochs):
        for number in range(frames):
            if odometry:
                pipeline.on_transforms(tf(raised(number)), static=False)
            pipeline.on_sweep(0, cloud(number))
            pipeline.on_image(image(number))
            results += [pipeline.process(each) for each in pipeline.ready()]
    results += [pipeline.process(each) for each in pipeline.ready(flush=True)]
    assert None not in results and len(results) == epochs * frames
    return engine, results


def test_the_pipeline_hands_the_engine_returns_of_earlier_frames():
    engine, results = run(ON)
    assert engine.old[0] == 0 and min(engine.old[1:]) > 20
    # What is published as the frame's own returns stays that.
    assert results[-1].sparse.count == engine.shown[-1] - engine.old[-1]


def test_it_does_so_only_when_asked():
    engine, _ = run(Config())
    assert engine.old == [0] * 4


def test_without_odometry_depth_is_what_it_is_without_memory():
    (_, plain), (engine, made) = run(Config(), odometry=False), run(ON, odometry=False)
    assert engine.old == [0] * 4
    assert all(
        np.array_equal(a.estimate.depth, b.estimate.depth, equal_nan=True) for a, b in zip(plain, made, strict=True)
    )


def test_a_recording_that_starts_again_starts_without_memory():
    engine, _ = run(ON, frames=20, epochs=2)
    assert engine.old[19] > 0 and engine.old[20] == 0 and engine.old[21] > 0


def test_switching_it_off_forgets_and_another_engine_starts_anew():
    engine = Watched()
    pipeline = DepthPipeline(ON, engine)
    pipeline.on_camera_info(camera_info())
    pipeline.on_transforms(tf(extrinsics()), static=True)

    def step(number):
        pipeline.on_transforms(tf(raised(number)), static=False)
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
        for each in pipeline.ready(flush=True):
            assert pipeline.process(each) is not None

    for number in range(2):
        step(number)
    pipeline.configure(Config())
    pipeline.configure(ON)
    step(2)
    pipeline.use_engine(engine)
    step(3)
    step(4)
    assert [count > 0 for count in engine.old] == [False, True, False, False, True]


@pytest.mark.parametrize("setting", [{"max_age_s": -1.0}, {"smoothing": 1.0}, {"enabled": 1}])
def test_settings_that_cannot_work_are_refused(setting):
    with pytest.raises(ConfigError, match="temporal"):
        config_from_mapping({"temporal": setting})


def sequence(count=8):
    for number in range(count):
        each = shot(number)
        rows, cols = np.nonzero(np.ones_like(each.truth))
        lines = rows % 12 == 0
        rows, cols = rows[lines], cols[lines]
        rays = each.frame.camera.rays()[rows, cols]
        points = CameraPoints(
            (rays * each.truth[rows, cols, None]).astype(np.float32),
            (rows // 12).astype(np.int32),
            np.zeros(len(rows), np.uint8),
        )
        yield SequenceFrame(each.frame, points, 16, each.pose)


def test_a_sequence_is_scored_with_and_without():
    without, with_ = evaluate_sequence(sequence(), [4], [ClassicalEngine()], Config())
    assert (without.reuse, with_.reuse) == (False, True)
    assert (without.lines, without.engine, without.frames) == (4, "classical", 8)
    assert with_.mae < without.mae and np.isfinite(with_.flicker)


def test_flicker_is_the_change_of_the_error_of_log_depth():
    class Alternates(ClassicalEngine):
        """The truth, and 5% more in every other frame."""

        def estimate(self, image, sparse, camera):
            made = super().estimate(image, sparse, camera)
            number = next(k for k in range(8) if np.array_equal(shot(k).frame.image, image))
            return replace(made, depth=shot(number).truth * np.float32(1.05 ** (number % 2)))

    records = evaluate_sequence(sequence(4), [4], [Alternates()], Config())
    assert records[0].flicker == pytest.approx(np.log(1.05), rel=0.05)


def test_without_poses_both_are_the_same_and_flicker_is_unknown():
    frames = [replace(each, pose=None) for each in sequence(3)]
    without, with_ = evaluate_sequence(frames, [4], [ClassicalEngine()], Config())
    assert with_.mae == without.mae and np.isnan(with_.flicker)


def test_the_command_scores_a_recording(tmp_path, capsys):
    simulate(tmp_path / "drive.mcap", seconds=0.6, **SMALL)
    arguments = ["evaluate", str(tmp_path / "drive.mcap"), "--lines", "4", "--sequence", "--engine", "classical"]
    assert main([*arguments, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(each["reuse"], each["frames"]) for each in records] == [(False, 6), (True, 6)]
    assert main(arguments) == 0
    assert "4 lines, classical with " in capsys.readouterr().out


def test_the_command_says_when_a_recording_has_no_odometry(tmp_path, capsys):
    simulate(tmp_path / "drive.mcap", seconds=0.3, **SMALL)
    arguments = ["evaluate", str(tmp_path / "drive.mcap"), "--lines", "4", "--sequence", "--engine", "classical"]
    assert main([*arguments, "--lidar.fixed-frame", "map"]) != 0
    assert "lidar.fixed_frame" in capsys.readouterr().err
