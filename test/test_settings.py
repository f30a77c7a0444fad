"""Settings: one tree, read from mappings, YAML files and ROS parameter files, refused with one clear sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mf_ros.core.config import Config, SyncConfig
from mf_ros.core.settings import (
    config_from_mapping,
    config_to_mapping,
    load_config,
    settings,
    validate,
)
from mf_ros.engine.quality import QUALITIES
from mf_ros.errors import ConfigError

DEPTH_YAML = Path(__file__).parents[1] / "config" / "depth.yaml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_nothing_given_means_the_defaults():
    assert config_from_mapping({}) == Config()


def test_nested_and_dotted_names_mean_the_same():
    nested = config_from_mapping({"sync": {"queue_size": 5}, "cloud": {"voxel_m": 0.1}})
    assert nested == config_from_mapping({"sync.queue_size": 5, "cloud.voxel_m": 0.1})
    assert (nested.sync.queue_size, nested.cloud.voxel_m) == (5, 0.1)


def test_a_mapping_reads_back_as_the_same_settings():
    config = config_from_mapping({"sync": {"lidar_offset_s": [0.1, -0.2]}, "lidar": {"time_unit": "us"}})
    assert config.sync.lidar_offset_s == (0.1, -0.2)
    assert config_from_mapping(config_to_mapping(config)) == config


def test_yaml_reads_back_as_the_same_settings(tmp_path):
    config = config_from_mapping({"output": {"encoding": "16UC1", "scale": 0.5, "rectify": True}})
    assert load_config(write(tmp_path, yaml.safe_dump(config_to_mapping(config)))) == config


def test_whole_numbers_are_fine_where_numbers_are_wanted():
    value = config_from_mapping({"lidar": {"max_range_m": 100}}).lidar.max_range_m
    assert value == 100.0 and isinstance(value, float)


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"sync": {"tolerence_s": 0.1}}, r"sync\.tolerence_s \(value 0\.1\) is no setting; .*sync\.tolerance_s"),
        ({"model": {"name": "x"}}, r"model \(.*\) is no setting"),
        ({"sync": 3}, r"sync is 3: it is a group"),
        ({"sync": {"queue_size": 2.5}}, r"sync\.queue_size is 2\.5: allowed is a whole number from 1 to 10000"),
        ({"sync": {"queue_size": True}}, r"sync\.queue_size is True"),
        ({"sync": {"queue_size": 0}}, r"sync\.queue_size is 0: allowed is a whole number from 1"),
        ({"sync": {"tolerance_s": "1e-2"}}, r"sync\.tolerance_s is '1e-2' .*without quotes.*a number from 0 to 10"),
        ({"sync": {"tolerance_s": float("nan")}}, r"sync\.tolerance_s is nan"),
        ({"sync": {"lidar_offset_s": 0.1}}, r"sync\.lidar_offset_s is 0\.1: allowed is a list"),
        ({"sync": {"lidar_offset_s": [0.1, 99]}}, r"sync\.lidar_offset_s is \[0\.1, 99\]"),
        ({"lidar": {"deskew": "yes"}}, r"lidar\.deskew is 'yes'.* true or false"),
        ({"lidar": {"time_unit": "minutes"}}, r"lidar\.time_unit is 'minutes': allowed is one of 'auto', 's'"),
        ({"lidar": {"fixed_frame": " "}}, r"lidar\.fixed_frame is ' ': allowed is a non-empty text"),
        ({"lidar": {"min_range_m": 50, "max_range_m": 20}}, r"lidar\.min_range_m is 50\.0: it must be below"),
        ({"output": {"scale": None}}, r"output\.scale is None"),
    ],
)
def test_what_cannot_work_is_refused_by_name_value_and_what_is_allowed(mapping, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_from_mapping(mapping)


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ConfigError, match=r"sync\.tolerance_s is -1"):
        validate(Config(sync=SyncConfig(tolerance_s=-1)))


def test_ros_parameter_files_are_read_under_any_node_name(tmp_path):
    text = """
/**:
  ros__parameters:
    use_sim_time: true
    sync: {queue_size: 5, tolerance_s: 0.1}
/robot:
  depth:
    ros__parameters:
      sync.queue_size: 7
"""
    config = load_config(write(tmp_path, text))
    assert (config.sync.queue_size, config.sync.tolerance_s) == (7, 0.1)


def test_a_ros_parameter_file_may_hold_names_of_the_node_itself(tmp_path):
    path = write(tmp_path, "/**:\n  ros__parameters:\n    camera_names: [front]\n")
    assert load_config(path, extra=["camera_names"]) == Config()
    with pytest.raises(ConfigError, match="camera_names"):
        load_config(path)


def of_aliases(lists):
    """Nine groups of ten aliases, each of the group before."""
    groups = "".join(f"l{n}: &l{n} {lists.format(', '.join([f'*l{n - 1}'] * 10))}\n" for n in range(1, 10))
    return "l0: &l0 {x: 1}\n" + groups + "engine: {quality: *l9}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1,", "is not YAML"),
        (of_aliases("[{}]"), "stands for more than 250000 values"),
        (of_aliases("{{<<: [{}]}}"), "stands for more than 250000 values"),
        ("engine: &it {quality: *it}", "stands for more than 250000 values"),
        ("- 1\n- 2\n", "names with values"),
        ("\xff\xfe", "settings"),
        ("[" * 5000, "nested too deep"),
        (" " * 1_000_001, "has more than 1000000 bytes: that is no settings file"),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path, text, sentence):
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_aliases_repeat_and_merge_what_was_written_once(tmp_path):
    text = "robots: &far {max_range_m: 40.0}\nlidar: {<<: *far}\n"
    assert load_config(write(tmp_path, text), extra=["robots"]).lidar.max_range_m == 40.0


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Cannot read the settings file .*nothing\.yaml"):
        load_config(tmp_path / "nothing.yaml")


def test_an_empty_file_means_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "")) == Config()


def test_the_shipped_file_states_the_defaults_of_every_setting():
    assert load_config(DEPTH_YAML) == Config()
    parameters = yaml.safe_load(DEPTH_YAML.read_text())["/**"]["ros__parameters"]
    stated = {f"{group}.{name}" for group, values in parameters.items() for name in values}
    missing = set(settings()) - stated
    # ROS 2 parameter files have no empty lists: those settings are shown as comments.
    assert all(settings()[key].default == () for key in missing)
    text = DEPTH_YAML.read_text()
    assert all(re.search(rf"# {key.split('.')[1]}: \[", text) for key in missing)


def test_the_shipped_file_explains_every_setting():
    lines = DEPTH_YAML.read_text().splitlines()
    for key in settings():
        group, name = key.split(".")
        # Below its group, since a setting may be called like another group.
        start = next(i for i, line in enumerate(lines) if line.strip() == f"{group}:") + 1
        at = next(i for i, line in enumerate(lines) if i >= start and re.match(rf"\s+(# )?{name}:", line))
        assert re.match(r"\s+# \w.{15,}\.$", lines[at - 1]), f"{key} has no comment"


def test_every_setting_is_described_and_every_number_has_a_range():
    for setting in settings().values():
        assert setting.description.endswith(".")
        if setting.kind in (int, float):
            assert setting.minimum is not None, setting.key
            assert setting.minimum <= setting.default <= setting.maximum


words = st.sampled_from(["", "queue_size", "deskew", "auto", "1e-3"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work may share the machine
@given(st.dictionaries(st.sampled_from([*settings(), "sync", "lidar", "x"]), plain, max_size=4))
def test_any_mapping_gives_settings_or_one_clear_error(mapping):
    try:
        config = config_from_mapping(mapping)
    except ConfigError as error:
        assert str(error)
    else:
        validate(config)


@pytest.mark.parametrize("name", QUALITIES)
def test_the_setting_of_quality_says_how_many_cells_each_works_on(name):
    assert f"{QUALITIES[name].cells:,}" in settings()["engine.quality"].description
