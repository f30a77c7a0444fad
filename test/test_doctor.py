"""Every trouble doctor knows of, made by hand; each finding names the trouble and says what to do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mf_ros.cli.doctor import diagnose, render
from mf_ros.cli.environment import Engine, Facts, Module, Script, gather, probe, probe_engine, shebang
from mf_ros.findings import Finding
from mf_ros.packages import install_command

HEALTHY_MODULES = {
    name: Module(version)
    for name, version in {
        "numpy": "1.26.4",
        "cv2": "4.6.0",
        "yaml": "6.0.1",
        "tyro": "1.0.17",
        "rich": "13.7.1",
        "rosbags": "0.11.9",
        "mcap": "1.6.0",
        "jinja2": "3.1.2",
        "scipy": "1.11.4",
        "rclpy": "",
    }.items()
}
ROBOT = Facts(
    python="3.12.3",
    modules=HEALTHY_MODULES,
    ros_variables={"ROS_DISTRO": "jazzy", "ROS_VERSION": "2", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"},
    ros_installed=("/opt/ros/jazzy",),
    rclpy_pythons=("3.12",),
)


def with_modules(facts: Facts, **modules: Module) -> Facts:
    return replace(facts, modules={**facts.modules, **modules})


def without_module(facts: Facts, name: str) -> Facts:
    return replace(facts, modules={key: value for key, value in facts.modules.items() if key != name})


def with_ros(facts: Facts, **variables: str) -> Facts:
    return replace(facts, ros_variables={**facts.ros_variables, **variables})


def only_finding(facts: Facts) -> Finding:
    (finding,) = diagnose(facts)
    return finding


def test_a_healthy_robot_has_no_findings() -> None:
    assert diagnose(ROBOT) == []
    assert "Nothing is wrong." in render(ROBOT, [])


def test_a_laptop_without_ros_gets_a_note_and_no_error() -> None:
    laptop = replace(without_module(ROBOT, "rclpy"), ros_variables={}, ros_installed=())
    assert only_finding(laptop).severity == "note"


TROUBLES = {
    "old Python": (replace(ROBOT, python="3.8.10", rclpy_pythons=()), "error", "3.8.10", "Python 3.10"),
    "a base package is missing": (without_module(ROBOT, "tyro"), "error", "'tyro'", "pip install tyro"),
    "an optional package is missing": (without_module(ROBOT, "rosbags"), "note", "'rosbags'", install_command("bags")),
    "a package is broken": (
        with_modules(ROBOT, cv2=Module(error="ImportError: libGL.so.1: cannot open shared object file")),
        "error",
        "libGL.so.1",
        "opencv-python-headless",
    ),
    "NumPy 2 with the system's cv_bridge": (
        with_modules(
            ROBOT,
            numpy=Module("2.2.6"),
            cv_bridge=Module(origin="/opt/ros/jazzy/lib/python3.12/site-packages/cv_bridge/__init__.py"),
        ),
        "warning",
        "cv_bridge",
        "numpy<2",
    ),
    "cv_bridge broken by NumPy 2": (
        with_modules(ROBOT, numpy=Module("2.2.6"), cv_bridge=Module(error="AttributeError: _ARRAY_API not found")),
        "warning",
        "_ARRAY_API not found",
        "numpy<2",
    ),
    "both onnxruntimes": (
        replace(ROBOT, onnx_distributions=("onnxruntime", "onnxruntime-gpu")),
        "error",
        "onnxruntime-gpu",
        "pip uninstall -y onnxruntime onnxruntime-gpu",
    ),
    "a GPU that onnxruntime does not use": (
        replace(
            with_modules(ROBOT, onnxruntime=Module("1.23.2", providers=("CPUExecutionProvider",))),
            gpus=("NVIDIA RTX A2000, 550.54, 8192 MiB",),
        ),
        "warning",
        "CPUExecutionProvider",
        install_command("onnx-gpu"),
    ),
    "a Jetson whose GPU onnxruntime does not use": (
        replace(
            with_modules(ROBOT, onnxruntime=Module("1.23.2", providers=("CPUExecutionProvider",))),
            jetson=True,
            machine="aarch64",
        ),
        "warning",
        "CPUExecutionProvider",
        "PyPI has none for aarch64; docs/node.md, On a Jetson",
    ),
    "GPU build without a GPU": (
        with_modules(ROBOT, onnxruntime=Module("1.23.2", providers=("CUDAExecutionProvider", "CPUExecutionProvider"))),
        "warning",
        "no GPU is seen",
        "nvidia-smi",
    ),
    "an engine that does not start": (
        replace(ROBOT, engine=Engine(error="mf_ros.errors.ModelError: The self-test failed")),
        "error",
        "The self-test failed",
        "--engine classical",
    ),
    "no network runs": (
        replace(ROBOT, engine=Engine("classical", {"device": "cpu"}, ("No network can run: no onnxruntime.",))),
        "warning",
        "no onnxruntime",
        install_command("onnx"),
    ),
    "ROS not sourced": (
        replace(without_module(ROBOT, "rclpy"), ros_variables={}),
        "note",
        "not sourced",
        "source /opt/ros/jazzy/setup.bash",
    ),
    "ROS half sourced": (with_ros(ROBOT, AMENT_PREFIX_PATH=""), "error", "AMENT_PREFIX_PATH", "setup.bash"),
    "ROS 1": (with_ros(ROBOT, ROS_DISTRO="noetic", ROS_VERSION="1"), "error", "ROS 1", "source ROS 2"),
    "a domain that is no number": (with_ros(ROBOT, ROS_DOMAIN_ID="robot7"), "error", "robot7", "0 to 101"),
    "a domain too large": (with_ros(ROBOT, ROS_DOMAIN_ID="300"), "error", "300", "0 to 101"),
    "a middleware that is not installed": (
        replace(with_ros(ROBOT, RMW_IMPLEMENTATION="rmw_cyclonedds_cpp"), rmw_found=False),
        "error",
        "rmw_cyclonedds_cpp",
        "ros-jazzy-rmw-cyclonedds-cpp",
    ),
    "local discovery only": (with_ros(ROBOT, ROS_LOCALHOST_ONLY="1"), "note", "ROS_LOCALHOST_ONLY", "Unset"),
    "a virtual environment without the system's packages": (
        replace(ROBOT, in_venv=True, sees_system_packages=False),
        "warning",
        "virtual environment",
        "--system-site-packages",
    ),
    "another Python than that of ROS": (
        replace(without_module(ROBOT, "rclpy"), python="3.11.7"),
        "error",
        "built for Python 3.12",
        "python3.12 -m venv",
    ),
    "rclpy not found": (without_module(ROBOT, "rclpy"), "error", "finds no rclpy", "source /opt/ros/jazzy"),
    "rclpy broken": (
        with_modules(ROBOT, rclpy=Module(error="ImportError: librcl.so: cannot open")),
        "error",
        "librcl.so",
        "--system-site-packages",
    ),
    "a script that runs another Python": (
        replace(
            ROBOT,
            scripts=(
                Script(
                    "/ws/install/lib/mf_ros/mf-ros", "/usr/bin/python3", "ModuleNotFoundError: No module named 'tyro'"
                ),
            ),
        ),
        "warning",
        "/usr/bin/python3",
        "source .venv/bin/activate",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_found_once_and_with_advice(name: str) -> None:
    facts, severity, text, advice = TROUBLES[name]
    finding = only_finding(facts)
    assert finding.severity == severity
    assert text in finding.text
    assert advice in finding.advice
    assert finding.advice in render(facts, [finding])


def test_what_pip_cannot_find_for_the_processor_is_not_advised() -> None:
    jetsons = [replace(facts, machine="aarch64") for facts, *_ in TROUBLES.values()]
    advice = [finding.advice for facts in jetsons for finding in diagnose(facts)]
    assert sum("On a Jetson" in each for each in advice) >= 3
    assert not any(install_command("onnx-gpu") in each for each in advice)


def test_errors_come_first() -> None:
    facts = without_module(without_module(ROBOT, "scipy"), "numpy")
    assert [finding.severity for finding in diagnose(facts)] == ["error", "note"]


def test_a_module_is_probed_in_its_own_process() -> None:
    assert probe("json", sys.executable).origin.endswith("__init__.py")
    assert "No module named 'no_such_module'" in probe("no_such_module", sys.executable).error


def test_a_module_that_kills_its_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "ended with status -6" in probe("deadly", sys.executable).error


def test_an_interpreter_that_is_gone_is_reported() -> None:
    assert "No such file" in probe("json", "/nowhere/python3").error


@pytest.mark.parametrize(
    ("content", "interpreter"),
    [
        (b"#!/usr/bin/python3\nprint()\n", "/usr/bin/python3"),
        (b"#!/usr/bin/env python3\n", "python3"),
        (b"#!/usr/bin/env -S python3 -u\n", "python3"),
        (b"\x7fELF\x02\x01", ""),
        (b"", ""),
    ],
)
def test_reads_the_interpreter_of_a_script(tmp_path: Path, content: bytes, interpreter: str) -> None:
    script = tmp_path / "mf-ros"
    script.write_bytes(content)
    assert shebang(script) == interpreter


def test_a_missing_script_has_no_interpreter(tmp_path: Path) -> None:
    assert shebang(tmp_path / "absent") == ""


def test_finds_a_script_whose_python_lacks_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bare_python"
    # -S -I leaves only the standard library, as a system Python without the packages has it.
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    script = tmp_path / "lib" / "mf_ros" / "mf-ros"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{bare}\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    (found,) = [item for item in gather().scripts if item.path == str(script)]
    assert found.interpreter == str(bare)
    assert "No module named" in found.error


def test_facts_of_this_machine_name_this_python() -> None:
    facts = gather()
    assert facts.executable == sys.executable
    assert facts.modules["numpy"].version
    assert not facts.modules["numpy"].error


def test_says_which_engine_runs_on_what_and_what_its_self_test_said() -> None:
    details = {"weights": "/w", "library": "onnxruntime 1.31", "device": "CUDAExecutionProvider", "self_test": "passed"}
    facts = replace(ROBOT, engine=Engine("mf-nano", details))
    assert diagnose(facts) == []
    assert "mf-nano: onnxruntime 1.31, CUDAExecutionProvider, self-test passed" in render(facts, [])


def test_the_default_engine_is_tried_in_its_own_process() -> None:
    engine = probe_engine(sys.executable)
    assert engine.name and not engine.error
    # Without a network that runs there is a reason; with one there is a self-test.
    assert engine.warnings if engine.name == "classical" else "passed" in engine.details["self_test"]
    assert "No such file" in probe_engine("/nowhere/python3").error
