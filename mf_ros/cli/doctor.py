"""``mf-ros doctor``: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Iterator, List, Tuple

from mf_ros import __version__
from mf_ros.cli.environment import Facts, gather
from mf_ros.cli.options import FINDINGS, OK, Options, print_json
from mf_ros.findings import Finding, has_errors, lines_of, worst_first
from mf_ros.packages import install_command, pip_install

# The extras that bags need: what for, and which modules they bring.
EXTRAS = {
    "cv": ("reading images and every geometric step", ("cv2",)),
    "bags": ("reading and writing bags and reports", ("rosbags", "mcap", "jinja2")),
    "eval": ("the baselines of evaluate", ("scipy",)),
}
# PyPI has no onnxruntime-gpu for these processors.
_NO_GPU_BUILD = ("aarch64", "arm64")
BASE = {"numpy": "numpy", "yaml": "pyyaml", "tyro": "tyro", "rich": "rich"}


@dataclass(kw_only=True)
class Doctor(Options):
    """Say what is wrong with this installation and what to do: packages, GPU, ROS, virtual environment.

    Exit code 0 when nothing is broken (warnings are allowed), 1 when something is.

    Examples:
        mf-ros doctor
        mf-ros doctor --json | jq '.findings[] | select(.severity == "error")'
    """

    def run(self) -> int:
        """Print facts and findings; 1 when one of the findings is an error."""
        facts = gather()
        findings = diagnose(facts)
        if self.json:
            print_json(
                {
                    "mf_ros": __version__,
                    "facts": dataclasses.asdict(facts),
                    "findings": [dataclasses.asdict(finding) for finding in findings],
                }
            )
        else:
            print(render(facts, findings))
        return FINDINGS if has_errors(findings) else OK


def diagnose(facts: Facts) -> List[Finding]:
    """All findings about an installation, the worst first."""
    rules = (_python, _packages, _onnxruntime, _engine, _numpy_and_cv_bridge, _ros, _rclpy, _scripts)
    return worst_first(finding for rule in rules for finding in rule(facts))


def render(facts: Facts, findings: List[Finding]) -> str:
    """Facts and findings as text for a person."""
    lines = [
        f"mf_ros     {__version__}",
        f"Python     {facts.python}  {facts.executable}{'  (virtual environment)' if facts.in_venv else ''}",
        f"platform   {facts.platform}",
        f"GPU        {', '.join(facts.gpus) or ('Jetson' if facts.jetson else 'none seen')}",
    ]
    distro = facts.ros_variables.get("ROS_DISTRO")
    installed = ", ".join(f"{path}, not sourced" for path in facts.ros_installed)
    lines.append(f"ROS        {f'{distro} sourced' if distro else installed or 'none'}")
    for name, module in facts.modules.items():
        state = f"broken: {module.error}" if module.error else module.version or "present"
        providers = f"  providers: {', '.join(module.providers)}" if module.providers else ""
        lines.append(f"{name:<12} {state}{providers}")
    if facts.engine is not None:
        shown = ("library", "device", "precision", "self_test")
        details = [
            f"{key.replace('_', '-')} {value}" if key == "self_test" else value
            for key, value in facts.engine.details.items()
            if key in shown
        ]
        lines.append(f"engine       {facts.engine.name or 'none'}: {', '.join(details) or facts.engine.error}")
    if facts.compiled:
        lines.append(f"kernels      compiled ones are {facts.compiled}")
    lines.append("")
    lines += lines_of(findings) or ["Nothing is wrong."]
    return "\n".join(lines)


def _version(text: str) -> Tuple[int, ...]:
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _python(facts: Facts) -> Iterator[Finding]:
    if _version(facts.python) < (3, 10):
        yield Finding("error", f"Python {facts.python} is too old.", "Use Python 3.10 or newer.")


def _packages(facts: Facts) -> Iterator[Finding]:
    for name, module in facts.modules.items():
        # rclpy and cv_bridge have reasons of their own.
        if module.error and name not in ("rclpy", "cv_bridge"):
            package = {**BASE, "cv2": "opencv-python-headless"}.get(name, name)
            yield Finding(
                "error",
                f"'{name}' is installed but cannot be imported: {module.error}",
                f"Reinstall it: {facts.executable} -m pip install --force-reinstall {package}",
            )
    for name, package in BASE.items():
        if name not in facts.modules:
            advice = f"Run: {pip_install(package)}"
            yield Finding("error", f"The package '{name}' is not installed.", advice)
    for extra, (purpose, names) in EXTRAS.items():
        missing = [f"'{name}'" for name in names if name not in facts.modules]
        if missing:
            advice = f"If you need it, run: {install_command(extra)}"
            verb = "is" if len(missing) == 1 else "are"
            yield Finding("note", f"{', '.join(missing)} {verb} not installed: for {purpose}.", advice)
    numpy = facts.modules.get("numpy")
    if numpy is not None and numpy.version and _version(numpy.version) < (1, 21):
        yield Finding("error", f"NumPy {numpy.version} is too old.", f"Run: {pip_install('numpy>=1.21')}")


def _onnxruntime(facts: Facts) -> Iterator[Finding]:
    if len(facts.onnx_distributions) > 1:
        yield Finding(
            "error",
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files.",
            f"Run: {facts.executable} -m pip uninstall -y onnxruntime onnxruntime-gpu, then install one: "
            f"{install_command('onnx')}, or for the GPU {_gpu_build(facts)}",
        )
    module = facts.modules.get("onnxruntime")
    if module is None or module.error:
        return
    on_gpu = {"CUDAExecutionProvider", "TensorrtExecutionProvider"} & set(module.providers)
    if (facts.gpus or facts.jetson) and not on_gpu:
        yield Finding(
            "warning",
            f"There is a GPU, but onnxruntime only has {', '.join(module.providers) or 'no provider'}.",
            f"Run: {facts.executable} -m pip uninstall -y onnxruntime, then {_gpu_build(facts)}",
        )
    if on_gpu and not (facts.gpus or facts.jetson):
        yield Finding(
            "warning",
            "onnxruntime is the GPU build, but no GPU is seen; models will run on the CPU.",
            "Check nvidia-smi; in a container, start it with --gpus all (or --runtime nvidia).",
        )


def _engine(facts: Facts) -> Iterator[Finding]:
    if facts.engine is None:
        return
    if facts.engine.error:
        yield Finding(
            "error",
            f"The engine cannot be started: {facts.engine.error}",
            "Run mf-ros replay with --debug for the whole story; --engine classical works without a network.",
        )
    for text in facts.engine.warnings:
        yield Finding(
            "warning",
            text,
            f"If onnxruntime is missing, run: {install_command('onnx')}, or for a GPU {_gpu_build(facts)} "
            "With engine.name onnx or torch, mf-ros replay says what else is wrong.",
        )


def _gpu_build(facts: Facts) -> str:
    """How the onnxruntime that uses an NVIDIA GPU is installed on this processor, as the end of a sentence."""
    if facts.machine not in _NO_GPU_BUILD:
        return f"{install_command('onnx-gpu')}."
    return (
        f"NVIDIA's own build for this Jetson's JetPack: PyPI has none for {facts.machine}; docs/node.md, On a Jetson, "
        "has the command."
    )


def _numpy_and_cv_bridge(facts: Facts) -> Iterator[Finding]:
    numpy, bridge = facts.modules.get("numpy"), facts.modules.get("cv_bridge")
    if bridge is None or numpy is None or numpy.error:
        return
    if _version(numpy.version)[:1] >= (2,) and (bridge.error or bridge.origin.startswith("/opt/ros")):
        yield Finding(
            "warning",
            f"NumPy {numpy.version} is used, but the cv_bridge of ROS is usually built for NumPy 1"
            + (f": {bridge.error}" if bridge.error else "."),
            f"mf_ros does not use cv_bridge; for other nodes in this Python run: {pip_install('numpy<2')}.",
        )
    elif bridge.error:
        advice = (
            "mf_ros does not use it; for other nodes run: sudo apt-get install --reinstall ros-$ROS_DISTRO-cv-bridge"
        )
        yield Finding("note", f"cv_bridge cannot be imported: {bridge.error}", advice)


def _ros(facts: Facts) -> Iterator[Finding]:
    variables = facts.ros_variables
    if "ROS_DISTRO" not in variables:
        if facts.ros_installed:
            setup = f"source {facts.ros_installed[-1]}/setup.bash"
            yield Finding("note", "ROS is installed but not sourced in this shell.", f"For the node run: {setup}")
        else:
            advice = "Bags work without it; the live node needs ROS 2 (docs.ros.org)."
            yield Finding("note", "There is no ROS 2 on this machine.", advice)
        return
    if variables.get("ROS_VERSION", "2") != "2":
        advice = "Open a new shell and source ROS 2 only; ROS 1 bags can be read without ROS."
        yield Finding("error", f"ROS 1 ({variables['ROS_DISTRO']}) is sourced.", advice)
    if not variables.get("AMENT_PREFIX_PATH"):
        advice = f"Source it again in this shell: source /opt/ros/{variables['ROS_DISTRO']}/setup.bash"
        yield Finding("error", "ROS_DISTRO is set but AMENT_PREFIX_PATH is empty: ROS is half sourced.", advice)
    domain = variables.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isdigit() and int(domain) <= 232):
        advice = "Set it to a number from 0 to 101, the same on every machine of the robot, or unset it."
        yield Finding("error", f"ROS_DOMAIN_ID is '{domain}', which no DDS accepts.", advice)
    rmw = variables.get("RMW_IMPLEMENTATION", "")
    if rmw and not facts.rmw_found:
        package = f"ros-{variables['ROS_DISTRO']}-{rmw.replace('_', '-')}"
        advice = f"Run: sudo apt-get install {package}, or unset RMW_IMPLEMENTATION."
        yield Finding("error", f"RMW_IMPLEMENTATION is {rmw}, which is not installed.", advice)
    local = variables.get("ROS_LOCALHOST_ONLY") == "1"
    if local or variables.get("ROS_AUTOMATIC_DISCOVERY_RANGE") in ("LOCALHOST", "OFF"):
        name = "ROS_LOCALHOST_ONLY" if local else "ROS_AUTOMATIC_DISCOVERY_RANGE"
        advice = f"Unset {name} to see other machines."
        yield Finding("note", f"{name} keeps ROS on this machine; topics of other machines are not seen.", advice)


def _rclpy(facts: Facts) -> Iterator[Finding]:
    if "ROS_DISTRO" not in facts.ros_variables:
        return
    if facts.in_venv and not facts.sees_system_packages:
        yield Finding(
            "warning",
            "ROS is sourced, but this virtual environment does not see the system's Python packages that ROS uses.",
            "Make it again: python3 -m venv --system-site-packages .venv",
        )
    module = facts.modules.get("rclpy")
    if module is not None and not module.error:
        return
    wanted = facts.rclpy_pythons
    running = ".".join(facts.python.split(".")[:2])
    if wanted and running not in wanted:
        text = f"rclpy is built for Python {', '.join(wanted)}, but this is Python {facts.python}."
        advice = f"Use the Python of ROS: python{wanted[0]} -m venv --system-site-packages .venv"
    elif module is None:
        text = "ROS is sourced, but this Python finds no rclpy."
        setup = f"/opt/ros/{facts.ros_variables['ROS_DISTRO']}/setup.bash"
        advice = f"Source ROS after activating the environment: source {setup}"
    else:
        text = f"rclpy cannot be imported: {module.error}"
        advice = "Make the environment again with the system's packages: python3 -m venv --system-site-packages .venv"
    yield Finding("error", text, advice)


def _scripts(facts: Facts) -> Iterator[Finding]:
    for script in facts.scripts:
        if script.error:
            yield Finding(
                "warning",
                f"{script.path} runs {script.interpreter}, which cannot run mf_ros: {script.error}",
                "Build the workspace with the environment active (source .venv/bin/activate, then "
                "python -m colcon build), or install the packages for that Python.",
            )
