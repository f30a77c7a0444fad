"""Settings of a training: YAML in and out, overrides, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

from mf_ros.errors import ConfigError
from mf_training.config import TrainConfig
from mf_training.settings import (
    differences,
    dump_train_config,
    load_train_config,
    train_config_from_mapping,
    train_config_to_mapping,
)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "config" / "training").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_preset_can_be_used(path: Path) -> None:
    config = load_train_config(path.stem, ["data=dataset", "init=nano"])
    assert config.steps > 0
    assert config.model.get("width", config.model.get("hidden")) > 0, "the model's preset is filled in"


def test_settings_survive_yaml(tmp_path: Path) -> None:
    config = train_config_from_mapping(
        {"model": {"width": 64}, "data": {"shapes": [[32, 48]], "mix": {"scenes": 2}}, "optimiser": {"muon_lr": 0.1}}
    )
    (tmp_path / "config.yaml").write_text(dump_train_config(config))
    assert load_train_config(str(tmp_path / "config.yaml")) == config


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: nano\noptimiser: {name: adamw, lr: 0.1}\n")
    config = load_train_config(
        str(path),
        ["optimiser.lr=3e-4", "data.shapes=[[64, 96], [32, 32]]", "compile=true", "precision=no", "model.width=64"],
    )
    assert (config.optimiser.name, config.optimiser.lr) == ("adamw", 3e-4)
    assert config.data.shapes == ((64, 96), (32, 32))
    assert (config.compile, config.precision) == (True, "no")
    assert config.model["width"] == 64
    assert "stem" in config.model, "the rest of the model stays the preset's"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimiser.learning=1", "optimiser.learning is no setting: did you mean optimiser"),
        ("batchsize=3", "batchsize is no setting: did you mean batch?"),
        ("worker=3", "did you mean data.workers?"),
        ("optimiser=3", "optimiser is 3: it is a group"),
        ("steps=1.5", "steps is 1.5: a whole number is needed"),
        ("steps=0", "steps is 0: it must be at least 1"),
        ("steps=true", "steps is True: a whole number"),
        ("optimiser.lr=fast", "optimiser.lr is 'fast': a number is needed"),
        ("optimiser.lr=.nan", "optimiser.lr is nan"),
        ("optimiser.name=sgd", "allowed is one of 'muon', 'adamw'"),
        ("ema=1", "ema is 1.0: it must be at least 0 and below 1"),
        ("losses.joint=-1", "losses.joint is -1.0"),
        ("data.shapes=[[250, 384]]", "250 x 384"),
        ("data.scenes.size=[320,496]", "320 x 496 in data.scenes.size: height and width must be multiples of 32"),
        ("optimiser.betas=[0.9,1]", "optimiser.betas is 1.0: it must be at least 0 and below 1"),
        ("optimiser.momentum=1", "optimiser.momentum is 1.0"),
        ("samples.lines=0.8", "samples.block, samples.nearly are shares of all samples: 1.17 is more"),
        ("samples.outliers=2", "samples.outliers is 2.0: it is a share"),
        (
            "losses={complete: 0, partial: 0, lidar: 0, image: 0, to_image: 0, joint: 0}",
            "losses.joint are all 0: no regime is left to train",
        ),
        ("data.shapes=[]", "data.shapes is empty"),
        ("data.mix.scenes=0", "nothing is left to train on"),
        ("data.mix.frames=1", "data.frames.folder must name"),
        ("data.frames.part=[0.5,0.5]", "data.frames.part is [0.5, 0.5]: two numbers from 0 to 1, the first smaller"),
        ("data.frames.heldout_part=[0.5,2]", "data.frames.heldout_part is [0.5, 2.0]"),
        ("data.scenes.heldout_first_seed=5", "they must not overlap"),
        ("steps", "'steps' is no setting: write key=value"),
        ("steps=[", "cannot be read"),
        ("model=tiny", "tiny is neither a file nor a preset of config/models"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_name(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_train_config("nano", [override])
    assert words in str(caught.value)


def test_post_training_must_be_told_what_to_start_from() -> None:
    with pytest.raises(ConfigError, match="name the weights to start from: init=nano"):
        load_train_config("posttrain", ["data=dataset"])


def test_a_data_set_is_named_in_short_and_the_rest_of_the_data_stays_the_presets() -> None:
    config = load_train_config("posttrain", ["data=here/fleet", "init=nano"])
    assert config.data.dataset.path == "here/fleet"
    assert config.data.mix.dataset > 0 and config.data.mix.scenes > 0


def test_post_training_without_data_says_how_to_name_it() -> None:
    with pytest.raises(ConfigError, match="name the data set that mf-ros extract wrote: data=DATASET; for a folder"):
        load_train_config("posttrain", ["init=nano"])


def test_parts_of_one_drive_are_trained_on_and_held_out_only_when_they_do_not_overlap() -> None:
    frames = ["data.mix.frames=0.6", "data.mix.dataset=0"]
    drive = ["init=nano", *frames, "data.frames.folder=drive", "data.frames.heldout_folder=./drive"]
    config = load_train_config("posttrain", [*drive, "data.frames.part=[0,0.5]", "data.frames.heldout_part=[0.5,1]"])
    assert (config.data.frames.part, config.data.frames.heldout_part) == ((0.0, 0.5), (0.5, 1.0))
    with pytest.raises(ConfigError, match="the same frames of drive"):
        load_train_config("posttrain", [*drive, "data.frames.part=[0,0.6]", "data.frames.heldout_part=[0.5,1]"])


@pytest.mark.parametrize(
    ("content", "words"), [("- 1\n", "this is a list"), ("a: [\n", "is not YAML"), ("\xff\xfe", "cannot|not|no")]
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.yaml").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=words):
        load_train_config(str(tmp_path / "run.yaml"))


def test_only_what_changes_the_training_counts_as_a_difference() -> None:
    one = train_config_to_mapping(TrainConfig(model={}))
    other = train_config_to_mapping(TrainConfig(model={}, minutes=5.0, out="elsewhere", batch=3))
    assert differences(one, other) == ["batch"]
