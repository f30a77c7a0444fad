"""What colcon, rosdep and pip read must be valid and agree with each other."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import mf_ros

REPOSITORY = Path(__file__).resolve().parents[1]
MANIFEST = ET.parse(REPOSITORY / "package.xml").getroot()
# Elements of package format 3 (REP 149).
ONCE = {"name", "version", "description"}
KNOWN = ONCE | {
    "maintainer",
    "license",
    "url",
    "author",
    "build_depend",
    "buildtool_depend",
    "exec_depend",
    "depend",
    "doc_depend",
    "test_depend",
    "conflict",
    "replace",
    "group_depend",
    "member_of_group",
    "export",
}


def setup_keywords() -> dict[str, Any]:
    """The arguments of setup() in setup.py that are literals; setup.py is not run."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text())
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    found = {}
    for keyword in call.keywords:
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


SETUP = setup_keywords()


def text(tag: str) -> str:
    return (MANIFEST.findtext(tag) or "").strip()


def test_the_manifest_is_package_format_3() -> None:
    assert MANIFEST.tag == "package"
    assert MANIFEST.get("format") == "3"
    tags = [child.tag for child in MANIFEST]
    assert set(tags) <= KNOWN
    for tag in ONCE:
        assert tags.count(tag) == 1, tag
    assert tags.count("export") == 1
    assert text("description")


def test_the_name_follows_ros_and_is_the_same_everywhere() -> None:
    assert re.fullmatch(r"[a-z](_?[a-z0-9]+)*", text("name"))
    assert text("name") == SETUP["name"] == mf_ros.__name__
    # The index marker is what makes `ros2 pkg` and ament find the package.
    assert (REPOSITORY / "resource" / text("name")).is_file()


def test_the_versions_agree() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", text("version"))
    assert text("version") == SETUP["version"] == mf_ros.__version__


def test_every_maintainer_has_a_name_and_an_address() -> None:
    maintainers = MANIFEST.findall("maintainer")
    assert maintainers
    for maintainer in maintainers:
        assert (maintainer.text or "").strip()
        assert re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", maintainer.get("email", ""))
    assert SETUP["maintainer_email"] in {maintainer.get("email") for maintainer in maintainers}


def test_the_licence_is_named_and_shipped() -> None:
    licences = MANIFEST.findall("license")
    assert [licence.text for licence in licences] == [SETUP["license"]] == ["Apache-2.0"]
    shipped = (REPOSITORY / licences[0].get("file", "LICENSE")).read_text()
    assert "Apache License" in shipped and "Version 2.0, January 2004" in shipped


def test_colcon_takes_it_for_a_python_package() -> None:
    assert MANIFEST.findtext("export/build_type") == "ament_python"
    # There is no rosdep key of that name; declaring it breaks `rosdep install`.
    assert "ament_python" not in {depend.text for depend in MANIFEST.findall("buildtool_depend")}


def test_every_dependency_key_is_written_once_and_as_rosdep_writes_them() -> None:
    keys = [child.text or "" for child in MANIFEST if child.tag.endswith("depend")]
    assert len(keys) == len(set(keys))
    assert all(re.fullmatch(r"[a-z][a-z0-9_-]*", key) for key in keys), keys


def test_rosdep_brings_what_it_can_and_nothing_by_pip() -> None:
    keys = {child.text or "" for child in MANIFEST if child.tag.endswith("depend")}
    packages = ("numpy", "opencv", "yaml", "rich", "jinja2", "scipy")
    assert {f"python3-{package}" for package in packages} <= keys
    # Where the system forbids pip (PEP 668), rosdep installs nothing at all when one of them is missing.
    assert not [key for key in keys if key.endswith("-pip")]


def test_ros2_run_finds_the_scripts() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    assert config["develop"]["script_dir"] == config["install"]["install_scripts"] == f"$base/lib/{text('name')}"


def test_setup_imports_nothing_of_the_package() -> None:
    tree = ast.parse((REPOSITORY / "setup.py").read_text())
    roots = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    roots |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots <= {"glob", "setuptools", "os", "pathlib"}


def test_the_command_is_declared() -> None:
    assert SETUP["entry_points"]["console_scripts"] == ["mf-ros = mf_ros.cli.main:main"]


def test_the_installed_command_starts_main() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="mf-ros")
    if not scripts:
        pytest.skip("mf_ros runs from its source tree: it is not installed in this environment")
    from mf_ros.cli.main import main

    assert next(iter(scripts)).load() is main


def test_the_base_install_needs_neither_opencv_nor_torch_nor_ros() -> None:
    names = {re.split(r"[<>=!\[; ]", requirement)[0] for requirement in SETUP["install_requires"]}
    assert names == {"numpy", "pyyaml", "tyro", "rich"}


def test_pins_satisfy_what_the_package_asks_for() -> None:
    pins = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, _, rest = line.partition("==")
            pins.setdefault(name.lower(), []).append(rest.split(";")[0].strip())
    for requirement in SETUP["install_requires"]:
        name, _, minimum = requirement.partition(">=")
        for pin in pins[name]:
            assert [int(n) for n in pin.split(".")] >= [int(n) for n in minimum.split(".")], name
