"""What stands in launch files, viewer configurations and docs/node.md fits the node; read without ROS.

``python3 test/test_launch_files.py`` prints the parameter table of docs/node.md.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, Iterator, Sequence, Tuple

import pytest
import yaml

from mf_ros.core.settings import Setting, settings
from mf_ros.engine import reasons
from mf_ros.engine.outputs import OUTPUTS

REPOSITORY = Path(__file__).resolve().parents[1]
GUIDE = (REPOSITORY / "docs" / "node.md").read_text()
RVIZ = yaml.safe_load((REPOSITORY / "config" / "rviz" / "depth.rviz").read_text())
FOXGLOVE = json.loads((REPOSITORY / "config" / "foxglove" / "depth.json").read_text())
# What the simulated drive records; the launch files put other names in their place.
RECEIVED = {"/camera/image_raw", "/camera/camera_info", "/points"}
TOPICS = RECEIVED | {f"/{output}" for output in OUTPUTS}
BEFORE_TABLE = "| parameter | default | allowed | changes | meaning |\n|---|---|---|---|---|\n"


def constants(path: str) -> dict[str, Any]:
    """The values of a module's upper-case names that are literals; the module is not run, since it may need ROS."""
    found = {}
    for node in ast.parse((REPOSITORY / path).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def launch_arguments() -> list[str]:
    """Names of the arguments of depth.launch.py, in order."""
    return list(launch_choices())


def launch_choices() -> dict[str, list[str]]:
    """Names of the arguments of depth.launch.py, in order, each with the values that it lists as allowed."""
    tree = ast.parse((REPOSITORY / "launch" / "depth.launch.py").read_text())
    listed = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS"
    )
    assert isinstance(listed, ast.List)
    entries = [entry.elts for entry in listed.elts if isinstance(entry, ast.Tuple)]
    return {
        ast.literal_eval(name): [each.value for each in ast.walk(choices) if isinstance(each, ast.Constant)]
        for name, _, _, choices in entries
    }


def parameter_table() -> str:
    """The table of docs/node.md, from the settings and from what the node does with changes."""
    rules = constants("mf_ros/ros/parameters.py")
    changes: Sequence[Tuple[str, Tuple[str, ...]]] = (
        ("start", rules["READ_ONLY"]),
        ("reload", rules["AT_RELOAD"]),
        ("inactive", rules["WHILE_INACTIVE"]),
    )
    return BEFORE_TABLE + "".join(_row(setting, changes) for setting in settings().values())


def _row(setting: Setting, changes: Sequence[Tuple[str, Tuple[str, ...]]]) -> str:
    change = next((name for name, prefixes in changes if setting.key.startswith(prefixes)), "now")
    default = setting.default
    if isinstance(default, tuple):
        default = "[" + ", ".join(map(str, default)) + "]"
    elif isinstance(default, bool):
        default = str(default).lower()
    default = default if default != "" else '""'
    allowed = setting.allowed().replace("''", '""').replace("'", "")
    return f"| `{setting.key}` | `{default}` | {allowed} | {change} | {setting.description} |\n"


def strings(document: Any) -> Iterator[str]:
    """Every text in a JSON document, keys included."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from strings(value)
    elif isinstance(document, list):
        for value in document:
            yield from strings(value)


def panels_of(layout: Any) -> Iterator[str]:
    if isinstance(layout, str):
        yield layout
    else:
        yield from panels_of(layout["first"])
        yield from panels_of(layout["second"])


def displays(kind: str) -> dict[str, dict[str, Any]]:
    """The displays of a class by the topic they show."""
    found = [each for each in RVIZ["Visualization Manager"]["Displays"] if each["Class"].endswith(f"/{kind}")]
    return {each["Topic"]["Value"]: each for each in found}


def test_rviz_shows_image_depth_confidence_lidar_and_cloud() -> None:
    assert set(displays("Image")) == {"/camera/image_raw", "/depth/image", "/depth/confidence"}
    assert set(displays("PointCloud2")) == {"/points", "/depth/points"}
    assert {*displays("Image"), *displays("PointCloud2")} <= TOPICS
    assert displays("PointCloud2")["/depth/points"]["Color Transformer"] == "RGB8"


def test_rviz_receives_sensors_of_every_reliability() -> None:
    for topic, display in {**displays("Image"), **displays("PointCloud2")}.items():
        if topic in RECEIVED:
            assert display["Topic"]["Reliability Policy"] == "Best Effort"


def test_rviz_draws_depth_and_confidence_on_scales_that_infinity_does_not_spoil() -> None:
    for topic, high in (("/depth/image", 50), ("/depth/confidence", 1)):
        display = displays("Image")[topic]
        assert (display["Normalize Range"], display["Min Value"], display["Max Value"]) == (False, 0, high)


def test_the_launch_file_knows_the_names_in_the_rviz_configuration() -> None:
    names = constants("launch/depth.launch.py")
    assert {names["RVIZ_IMAGE"], names["RVIZ_POINTS"]} == RECEIVED - {"/camera/camera_info"}
    assert RVIZ["Visualization Manager"]["Global Options"]["Fixed Frame"] == "base_link"


def test_every_panel_of_the_foxglove_layout_is_configured_and_placed() -> None:
    assert sorted(panels_of(FOXGLOVE["layout"])) == sorted(FOXGLOVE["configById"])
    assert {name.split("!")[0] for name in FOXGLOVE["configById"]} == {
        "3D",
        "DiagnosticStatusPanel",
        "DiagnosticSummary",
        "Image",
        "Plot",
    }


def test_foxglove_shows_topics_that_exist() -> None:
    shown: set[str] = set()
    for panel in FOXGLOVE["configById"].values():
        shown |= set(panel.get("topics", {}))
        shown |= {value for key, value in panel.get("imageMode", {}).items() if key.endswith("Topic")}
    assert shown <= TOPICS
    assert {"/camera/image_raw", "/depth/image", "/depth/confidence", "/depth/points", "/points"} <= shown


def test_foxglove_plots_keys_that_the_diagnostics_hold() -> None:
    source = (REPOSITORY / "mf_ros" / "ros" / "diagnostics.py").read_text()
    stages = constants("mf_ros/ros/diagnostics.py")["_SHOWN_STAGES"]
    assert 'f"latency {stage} p{percent} ms"' in source
    paths = [path["value"] for path in FOXGLOVE["configById"]["Plot!latency"]["paths"]]
    for path in paths:
        found = re.fullmatch(
            r'/diagnostics\.status\[:\]\{name=="mf_ros: depth"\}'
            r'\.values\[:\]\{key=="latency (\w+) p(?:50|95) ms"\}\.value',
            path,
        )
        assert found and found[1] in stages, path
    assert paths


def test_every_launch_argument_is_documented_and_every_documented_one_exists() -> None:
    section = GUIDE.split("## Launch arguments")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert documented == launch_arguments()


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("image_transport", "node.image_transport"),
        ("engine", "engine.name"),
        ("quality", "engine.quality"),
        ("refine", "engine.refine"),
        ("device", "engine.device"),
    ],
)
def test_a_launch_argument_takes_every_value_of_its_setting_and_no_other(argument: str, key: str) -> None:
    # Empty leaves what the parameter file says.
    assert {*launch_choices()[argument]} == {"", *settings()[key].choices}


def test_the_parameter_table_is_that_of_the_settings() -> None:
    assert parameter_table() in GUIDE, "run python3 test/test_launch_files.py and put its output into docs/node.md"


def test_every_output_is_documented() -> None:
    missing = [output for output in OUTPUTS if f"| `{output}` | {OUTPUTS[output].replace('/msg/', '/')} |" not in GUIDE]
    assert missing == []


def test_every_reason_for_no_depth_is_explained() -> None:
    names = [value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)]
    # Interrupted is a recording's end.
    missing = [name for name in names if name != reasons.INTERRUPTED and f"`{name}`" not in GUIDE]
    assert missing == []


@pytest.mark.parametrize("service", ["reload_model", "snapshot"])
def test_the_services_are_documented(service: str) -> None:
    assert f"~/{service}" in (REPOSITORY / "mf_ros" / "ros" / "depth_node.py").read_text()
    assert f"`~/{service}`" in GUIDE


if __name__ == "__main__":
    print(parameter_table(), end="")
