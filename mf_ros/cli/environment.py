"""Facts about this machine and this Python that decide whether mf_ros can run; gathered here, judged in doctor."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

PROBED_MODULES = (
    "numpy",
    "cv2",
    "yaml",
    "tyro",
    "rich",
    "rosbags",
    "mcap",
    "jinja2",
    "scipy",
    "onnxruntime",
    "numba",
    "torch",
    "safetensors",
    "rclpy",
    "cv_bridge",
)

ROS_VARIABLES = (
    "ROS_DISTRO",
    "ROS_VERSION",
    "AMENT_PREFIX_PATH",
    "RMW_IMPLEMENTATION",
    "ROS_DOMAIN_ID",
    "ROS_LOCALHOST_ONLY",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
)

JETSON_SIGNS = ("/etc/nv_tegra_release", "/dev/nvhost-ctrl", "/dev/nvhost-gpu", "/dev/nvgpu")

# A module is imported in a process of its own: one built for another NumPy may end the process that imports it.
_PROBE = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
answer = {"version": str(getattr(module, "__version__", "")), "origin": str(getattr(module, "__file__", "") or "")}
if sys.argv[1] == "onnxruntime":
    answer["providers"] = module.get_available_providers()
print("\\n" + json.dumps(answer))
"""


# The engine that the default settings come to, tried as a command would: it may end the process as well.
_ENGINE_PROBE = """
import json, logging
warnings = []
class Collect(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())
logging.getLogger().addHandler(Collect(logging.WARNING))
from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
engine = make_engine(EngineConfig())
print("\\n" + json.dumps({"name": engine.name, "details": engine.describe(), "warnings": warnings}))
"""

# Kernels may have to be compiled, and numba for another NumPy may end the process.
_COMPILED_PROBE = """
import json
from mf_ros.core import compiled
print("\\n" + json.dumps({"state": compiled.state()}))
"""


@dataclass(frozen=True)
class Engine:
    """The engine that runs where nothing else is asked for.

    Attributes:
        name: its name; "" when making it failed.
        details: what it runs on, and what its self-test said.
        warnings: what was said while it was chosen.
        error: why there is none.
    """

    name: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Module:
    """What importing one module gave.

    Attributes:
        version: its version, "" when it states none.
        origin: the file it was loaded from.
        error: why it cannot be imported though it is there; "" when it can.
        providers: onnxruntime's execution providers.
    """

    version: str = ""
    origin: str = ""
    error: str = ""
    providers: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Script:
    """One installed ``mf-ros`` script.

    Attributes:
        path: the script.
        interpreter: the Python named in its first line.
        error: what that Python cannot import, "" when it can run mf_ros.
    """

    path: str
    interpreter: str
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything ``doctor`` judges; a test can make one by hand."""

    python: str = "3.11.0"
    executable: str = "/usr/bin/python3"
    platform: str = "Linux"
    machine: str = "x86_64"
    in_venv: bool = False
    sees_system_packages: bool = True
    modules: Mapping[str, Module] = field(default_factory=dict)
    engine: Optional[Engine] = None
    compiled: str = ""
    onnx_distributions: Tuple[str, ...] = ()
    gpus: Tuple[str, ...] = ()
    jetson: bool = False
    ros_variables: Mapping[str, str] = field(default_factory=dict)
    ros_installed: Tuple[str, ...] = ()
    rclpy_pythons: Tuple[str, ...] = ()
    rmw_found: bool = True
    scripts: Tuple[Script, ...] = ()


def gather() -> Facts:
    """Look at this machine and this Python; nothing is changed, and no module is imported into this process."""
    present = [name for name in PROBED_MODULES if _is_present(name)]
    with ThreadPoolExecutor(4) as pool:
        probes = pool.map(lambda name: (name, probe(name, sys.executable)), present)
        modules = dict(probes)
    usable = not any(_unusable(modules, name) for name in ("numpy", "cv2"))
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return Facts(
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        machine=platform.machine(),
        in_venv=sys.prefix != sys.base_prefix,
        sees_system_packages=_sees_system_packages(),
        modules=modules,
        engine=probe_engine(sys.executable) if usable else None,
        compiled=probe_compiled(sys.executable) if usable else "",
        onnx_distributions=_onnx_distributions(),
        gpus=nvidia_gpus(),
        jetson=any(Path(sign).exists() for sign in JETSON_SIGNS),
        ros_variables={name: os.environ[name] for name in ROS_VARIABLES if name in os.environ},
        ros_installed=tuple(sorted(str(setup.parent) for setup in Path("/opt/ros").glob("*/setup.bash"))),
        rclpy_pythons=_rclpy_pythons(prefixes),
        rmw_found=_rmw_found(prefixes),
        scripts=_scripts(prefixes),
    )


def probe(module: str, interpreter: str) -> Module:
    """Import a module in a fresh process of a Python interpreter and report what came of it."""
    answer = _answer([interpreter, "-c", _PROBE, module], "the import")
    if isinstance(answer, str):
        return Module(error=answer)
    version = answer["version"] or _distribution_version(module)
    return Module(version, answer["origin"], providers=tuple(answer.get("providers", ())))


def probe_engine(interpreter: str) -> Engine:
    """Make the default engine in a fresh process of a Python interpreter and report what came of it."""
    answer = _answer([interpreter, "-c", _ENGINE_PROBE], "starting the engine")
    if isinstance(answer, str):
        return Engine(error=answer)
    return Engine(answer["name"], answer["details"], tuple(answer["warnings"]))


def probe_compiled(interpreter: str) -> str:
    """Whether a Python interpreter uses compiled kernels, in a few words; tried in a fresh process of it."""
    answer = _answer([interpreter, "-c", _COMPILED_PROBE], "loading compiled kernels")
    return f"not in use: {answer}" if isinstance(answer, str) else str(answer["state"])


def _answer(command: List[str], what: str) -> Union[Dict[str, Any], str]:
    """What a process prints as JSON in its last line, or why it did not."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{what} takes more than a minute"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        answer: Dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"{what} ended with status {done.returncode}"


def _unusable(modules: Mapping[str, Module], name: str) -> bool:
    return name not in modules or bool(modules[name].error)


def shebang(script: Path) -> str:
    """The interpreter named in a script's first line, "" when there is none."""
    try:
        with script.open("rb") as file:
            first = file.readline(1024).decode("utf-8", "replace").strip()
    except OSError:
        return ""
    if not first.startswith("#!"):
        return ""
    words = first[2:].split()
    if words and Path(words[0]).name == "env":
        return next((word for word in words[1:] if not word.startswith("-")), "")
    return words[0] if words else ""


def nvidia_gpus() -> Tuple[str, ...]:
    """Name, driver and memory of each GPU that nvidia-smi lists; empty when there is none."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def _is_present(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _distribution_version(module: str) -> str:
    name = {"yaml": "PyYAML", "cv2": "opencv-python-headless"}.get(module, module)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _onnx_distributions() -> Tuple[str, ...]:
    found: List[str] = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def _sees_system_packages() -> bool:
    config = Path(sys.prefix) / "pyvenv.cfg"
    if sys.prefix == sys.base_prefix or not config.is_file():
        return True
    settings: Dict[str, str] = {}
    for line in config.read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        settings[key.strip().lower()] = value.strip().lower()
    return settings.get("include-system-site-packages") == "true"


def _rclpy_pythons(prefixes: List[str]) -> Tuple[str, ...]:
    """The Python versions, such as "3.12", that the sourced ROS has rclpy for."""
    versions = set()
    for prefix in prefixes:
        for found in Path(prefix).glob("lib/python3.*/site-packages/rclpy"):
            versions.add(found.parent.parent.name[len("python") :])
    return tuple(sorted(versions))


def _rmw_found(prefixes: List[str]) -> bool:
    name = os.environ.get("RMW_IMPLEMENTATION")
    return not name or any((Path(prefix) / "share" / name).is_dir() for prefix in prefixes)


def _scripts(prefixes: List[str]) -> Tuple[Script, ...]:
    """The ``mf-ros`` on the PATH and those that colcon installed, each tried with its own interpreter."""
    paths = [Path(prefix) / "lib" / "mf_ros" / "mf-ros" for prefix in prefixes]
    on_path: Optional[str] = shutil.which("mf-ros")
    if on_path is not None:
        paths.insert(0, Path(on_path))
    found = []
    for path in dict.fromkeys(paths):
        interpreter = shebang(path)
        if not interpreter:
            continue
        same = shutil.which(interpreter) == sys.executable
        errors = [] if same else [probe(name, interpreter).error for name in ("mf_ros", "numpy", "yaml", "tyro", "cv2")]
        found.append(Script(str(path), interpreter, next((error for error in errors if error), "")))
    return tuple(found)
