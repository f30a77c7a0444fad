"""Rows of a data set as training samples: the very arrays that the robot's network gets, and what may be changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pyarrow")
pytest.importorskip("lance")
pytest.importorskip("imagehash")

from fleet_bags import drive, extracted
from model_folders import tiny_model

from mf_ros.bags.feed import feed, patient
from mf_ros.bags.reader import open_recording
from mf_ros.core.config import Config
from mf_ros.core.pixels import network_image
from mf_ros.core.settings import config_from_mapping
from mf_ros.core.topics import choose_topics
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import DatasetError
from mf_ros.engine.backend import StepInput, StepOutput
from mf_ros.engine.bundle import load_bundle
from mf_ros.engine.network import NetworkEngine
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.errors import ConfigError
from mf_ros.simulate.recording import simulate
from mf_training import samples as training_samples
from mf_training.config import DatasetSourceConfig
from mf_training.recorded import RecordedSource, open_split
from mf_training.returns import SampleConfig
from mf_training.samples import Sample, collate, make_sample

# Everything is shown, nothing is changed.
AS_ON_THE_ROBOT = SampleConfig(
    lines=0.0, points=0.0, block=0.0, nearly=0.0, outliers=0.0, ghosts=1.0, photometric=False
)


class Witness:
    """Runs no network, but keeps what it would have been given."""

    tolerance = 0.0

    def __init__(self) -> None:
        self.given: list[StepInput] = []

    def step(self, inputs: StepInput) -> StepOutput:
        self.given.append(inputs)
        return StepOutput(inputs.prior, np.zeros_like(inputs.prior))

    def describe(self) -> dict[str, str]:
        return {}


def given_on_the_robot(bag: Path, settings: Config, max_pixels: int) -> dict[int, StepInput]:
    """Input of the network for every image of a bag, by stamp."""
    witness = Witness()
    bundle = load_bundle(str(tiny_model()))
    bundle = replace(bundle, processing=replace(bundle.processing, max_pixels=max_pixels))
    found = {}
    with open_recording(bag) as recording:
        topics = choose_topics(recording)
        engine = NetworkEngine(bundle, witness)
        pipeline = DepthPipeline(patient(settings, recording, topics), engine, len(topics.points))
        for ready in feed(pipeline, recording, topics):
            assert pipeline.process(ready) is not None
            found[ready.image.stamp_ns] = witness.given[-1]
    return found


def given_in_training(source: RecordedSource, index: int, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """The sample of a row that shows all returns, not mirrored, at its full size."""
    monkeypatch.setattr(training_samples, "with_shown", lambda returns, rng, camera, config: returns)
    scene = source.get(index)
    shape = tuple(-(-side // 16) * 16 for side in scene.depth.shape)
    unmirrored = next(seed for seed in range(99) if np.random.default_rng(seed).random() >= 0.5)
    return make_sample(scene, np.random.default_rng(unmirrored), (shape[0], shape[1]), AS_ON_THE_ROBOT)


SETTINGS = {
    "as they are": {},
    "rectified and smaller": {"output": {"rectify": True, "scale": 0.8}},
    "no motion compensation, short range": {"lidar": {"deskew": False, "max_range_m": 25.0}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_training_gives_the_network_bit_for_bit_what_the_robot_gives_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = tmp_path / "fast.mcap"
    simulate(bag, seconds=1.2, rate_hz=5, rings=16, columns=300, width=150, height=90, speed=12.0, compressed=True)
    settings = config_from_mapping(SETTINGS[name])
    report = extracted([bag], tmp_path / "set", config=settings)
    assert report.records[0].status == "done"
    robot = given_on_the_robot(bag, settings, 700_000)
    dataset = Dataset(tmp_path / "set")
    source = RecordedSource(dataset, range(len(dataset)), settings, {})
    assert len(source) >= 4
    for index in range(len(source)):
        sample = given_in_training(source, index, monkeypatch)
        wanted = robot[dataset.row(index).stamp_ns]
        batch = collate([sample])
        assert np.array_equal(network_image(batch["image"].float()).numpy(), wanted.image)
        for part in ("depth", "level", "prior"):
            assert np.array_equal(batch[part].numpy(), getattr(wanted, part)), part


def test_large_pictures_are_learned_on_the_grid_on_which_the_robot_completes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = tmp_path / "large.mcap"
    simulate(bag, seconds=0.8, rate_hz=5, rings=16, columns=300, width=150, height=90, compressed=True)
    extracted([bag], tmp_path / "set")
    monkeypatch.setattr(training_samples, "MAX_PIXELS", 5000)
    robot = given_on_the_robot(bag, Config(), 5000)
    dataset = Dataset(tmp_path / "set")
    source = RecordedSource(dataset, range(len(dataset)), Config(), {})
    scene = source.get(0)
    monkeypatch.setattr(training_samples, "with_shown", lambda returns, rng, camera, config: returns)
    sample = make_sample(scene, np.random.default_rng(0), (48, 80), AS_ON_THE_ROBOT)
    mirrored = bool(np.random.default_rng(0).random() < 0.5)
    assert not mirrored
    wanted = robot[dataset.row(0).stamp_ns]
    batch = collate([sample])
    assert wanted.level.shape == batch["level"].shape == (1, 1, 48, 80)
    assert np.array_equal(network_image(batch["image"].float()).numpy(), wanted.image)
    for part in ("depth", "level", "prior"):
        assert np.array_equal(batch[part].numpy(), getattr(wanted, part)), part


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    bags = [drive(folder / f"{name}.mcap", seed=seed) for seed, name in enumerate("ab")]
    extracted(bags, folder / "set")
    return folder / "set"


def test_the_velocity_of_the_camera_is_that_of_the_robot(dataset: Path) -> None:
    scene = open_split(DatasetSourceConfig(path=str(dataset)), "train").get(2)
    assert scene.twist == pytest.approx([0, 0, 4.0, 0, 0, 0], abs=1e-3), "4 m/s along the optical axis"


def test_held_out_rows_are_spread_evenly_over_the_split(dataset: Path) -> None:
    config = DatasetSourceConfig(path=str(dataset))
    everything = open_split(config, "train")
    some = open_split(config, "train", 3)
    assert len(some) == 3 < len(everything)
    for place, wanted in ((0, 0), (2, len(everything) - 1)):
        assert np.array_equal(some.get(place).image, everything.get(wanted).image)


def test_a_corrected_calibration_moves_the_returns_without_a_new_extraction(dataset: Path, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text("lidar: {xyz: [0.0, 0.1, 1.7], quaternion: [0, 0, 0, 1]}\n")
    before = open_split(DatasetSourceConfig(path=str(dataset)), "train").get(0).scans[0].points
    after = open_split(DatasetSourceConfig(path=str(dataset), calibration=str(fixed)), "train").get(0).scans[0].points
    assert np.allclose(after - before, [0, -1, 0], atol=1e-5), "a metre higher on the robot, so a metre up on the image"


def test_other_settings_of_the_robot_hold_for_rows_that_are_there_already(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text("output: {scale: 0.5}\n")
    scene = open_split(DatasetSourceConfig(path=str(dataset), settings=str(path)), "train").get(0)
    assert scene.image.shape == (3, 32, 48)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds no transforms"),
        ("lidar: {xyz: [0, 0, 1]}", "needs xyz in metres and quaternion"),
        ("lidar: {xyz: [0, 0, 1], quaternion: [0, 0, 0]}", "4 numbers are needed"),
        ("lidar: {xyz: [0, 0, 1], quaternion: [0, 0, 0, 0]}", "no rotation is"),
    ],
)
def test_a_calibration_that_cannot_be_used_is_refused(text: str, words: str, dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_split(DatasetSourceConfig(path=str(dataset), calibration=str(path)), "train")


def test_an_empty_split_says_what_to_do(tmp_path: Path) -> None:
    bag = drive(tmp_path / "a.mcap", frames=3)
    extracted([bag], tmp_path / "set")
    with pytest.raises(DatasetError, match="no rows of the split val: extract more bags"):
        open_split(DatasetSourceConfig(path=str(tmp_path / "set")), "val")
