"""The import rule: (ros, cli, bench, training) -> dataset -> (bags, simulate) -> evaluation -> engine -> core."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = {"mf_ros": REPOSITORY / "mf_ros", "mf_training": REPOSITORY / "training"}

ROS_PACKAGES = {
    "rclpy",
    "rosidl_runtime_py",
    "sensor_msgs",
    "geometry_msgs",
    "std_msgs",
    "tf2_ros",
    "cv_bridge",
    "launch",
}
TORCH_PACKAGES = {"torch", "safetensors", "accelerate", "peft", "diffusers"}
MAY_USE_YAML = {"mf_ros.core.settings", "mf_ros.core.config", "mf_ros.core.documents"}
# The only door to compiled kernels; the modules kernels_* go through it.
MAY_USE_NUMBA = {"mf_ros.core.compiled"}
MAY_LOAD_EVALUATION = {"mf_ros.bags.replay", "mf_ros.bags.report", "mf_ros.bags.evaluation_frames"}

# What each package of mf_ros may import from the others, at any depth of its code.
ALLOWED = {
    "core": set(),
    "model": set(),
    "engine": {"core", "model"},
    "bags": {"core", "engine", "evaluation"},
    "evaluation": {"core", "engine"},
    "simulate": {"core", "engine", "bags"},
    "dataset": {"core", "engine", "evaluation", "bags"},
    "bench": {"core", "engine", "bags", "evaluation", "simulate", "ros"},
    "ros": {"core", "engine", "model"},
    "cli": {"core", "engine", "bags", "evaluation", "simulate", "dataset", "bench", "ros"},
}


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands, what it names, and whether loading the module runs it."""

    module: str
    target: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def imports_of(module: str, source: str, is_package: bool = False) -> list[Import]:
    """Every import of a module's source, inside functions too."""
    found: list[Import] = []

    def visit(node: ast.AST, at_load: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend(Import(module, alias.name, child.lineno, at_load) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parts = module.split(".")
                    kept = parts[: len(parts) - child.level + (1 if is_package else 0)]
                    base = ".".join([*kept, base]).rstrip(".")
                found.extend(Import(module, f"{base}.{alias.name}", child.lineno, at_load) for alias in child.names)
            else:
                runs = at_load and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                    runs = False
                visit(child, runs)

    visit(ast.parse(source), True)
    return found


def modules() -> Iterator[tuple[str, Path]]:
    for name, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def all_imports() -> list[Import]:
    return [item for name, path in modules() for item in imports_of(name, path.read_text(), path.name == "__init__.py")]


def package(module: str) -> str:
    """``core`` for ``mf_ros.core.camera``; "" for what lies directly in mf_ros, or elsewhere."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "mf_ros" and parts[1] in ALLOWED else ""


IMPORTS = all_imports()


def test_reads_relative_nested_and_type_only_imports() -> None:
    source = (
        "import numpy as np\n"
        "from . import types\n"
        "from ..errors import MfRosError\n"
        "if TYPE_CHECKING:\n    import rclpy\n"
        "def f():\n    from torch import nn\n"
    )
    found = [(item.target, item.at_load) for item in imports_of("mf_ros.core.camera", source)]
    assert found == [
        ("numpy", True),
        ("mf_ros.core.types", True),
        ("mf_ros.errors.MfRosError", True),
        ("rclpy", False),
        ("torch.nn", False),
    ]


def test_sees_the_modules_of_the_package() -> None:
    names = {name for name, _ in modules()}
    assert {"mf_ros", "mf_ros.core.types", "mf_ros.cli.main", "mf_training"} <= names


def test_every_package_has_a_rule() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "mf_ros").glob("*/__init__.py")}
    assert packages <= set(ALLOWED), "say in ALLOWED what the new package may import"


def test_imports_go_one_way() -> None:
    wrong = [
        str(item)
        for item in IMPORTS
        if package(item.module)
        and package(item.target) not in ("", package(item.module))
        and package(item.target) not in ALLOWED[package(item.module)]
    ]
    assert wrong == []


def test_the_package_does_not_import_its_training_side() -> None:
    wrong = [
        str(i)
        for i in IMPORTS
        if i.module.startswith("mf_ros") and i.target.split(".")[0] in ("mf_training", "training")
    ]
    assert wrong == []


def test_core_uses_numpy_opencv_and_the_standard_library_only() -> None:
    wrong = []
    for item in IMPORTS:
        root = item.target.split(".")[0]
        if package(item.module) != "core" or root in sys.stdlib_module_names or root in ("numpy", "cv2", "mf_ros"):
            continue
        if not ((root == "yaml" and item.module in MAY_USE_YAML) or (root == "numba" and item.module in MAY_USE_NUMBA)):
            wrong.append(str(item))
    assert wrong == []


def test_numba_and_the_kernels_that_need_it_are_loaded_by_one_module_and_only_when_asked() -> None:
    users = [item for item in IMPORTS if item.target.split(".")[0] == "numba"]
    assert {item.module for item in users} == MAY_USE_NUMBA
    assert not [str(item) for item in users if item.at_load]
    kernels = [item for item in IMPORTS if item.target.startswith("mf_ros.core.kernels_")]
    assert not [str(item) for item in kernels if not item.module.startswith("mf_ros.core.kernels_")]


@pytest.mark.parametrize(
    ("owner", "roots"),
    [
        ("mf_ros.ros", ROS_PACKAGES),
        ("mf_ros.model", TORCH_PACKAGES),
    ],
)
def test_heavy_packages_stay_where_they_belong(owner: str, roots: set[str]) -> None:
    torch_backend = ("mf_training", "mf_ros.engine.torch")
    wrong = [
        str(item)
        for item in IMPORTS
        if item.target.split(".")[0] in roots
        and not item.module.startswith(owner)
        and not (roots is TORCH_PACKAGES and item.module.startswith(torch_backend))
    ]
    assert wrong == []


def test_the_model_is_reached_only_from_the_torch_backend_and_training() -> None:
    wrong = [
        str(item)
        for item in IMPORTS
        if package(item.target) == "model"
        and not item.module.startswith(("mf_ros.model", "mf_ros.engine.torch", "mf_training"))
    ]
    assert wrong == []


def test_reading_bags_does_not_load_the_evaluation() -> None:
    wrong = [
        str(item)
        for item in IMPORTS
        if package(item.module) == "bags"
        and package(item.target) == "evaluation"
        and item.at_load
        and item.module not in MAY_LOAD_EVALUATION
    ]
    assert wrong == []


def test_the_command_loads_no_subcommand_and_no_optional_package() -> None:
    for module in ("mf_ros", "mf_ros.errors", "mf_ros.cli", "mf_ros.cli.main", "mf_ros.cli.options"):
        loaded = {item.target for item in IMPORTS if item.module == module and item.at_load}
        foreign = {t for t in loaded if t.split(".")[0] not in (*sys.stdlib_module_names, "mf_ros")}
        assert foreign == set(), f"{module} must load without any installed package"
        assert not {t for t in loaded if package(t) not in ("", "cli")}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, or nothing."""
    state: dict[str, str] = {}

    def visit(node: str, path: list[str]) -> list[str]:
        state[node] = "open"
        for following in sorted(graph.get(node, ())):
            if state.get(following) == "open":
                return [*path[path.index(following) :], following]
            if following not in state:
                cycle = visit(following, [*path, following])
                if cycle:
                    return cycle
        state[node] = "done"
        return []

    for start in sorted(graph):
        if start not in state:
            cycle = visit(start, [start])
            if cycle:
                return cycle
    return []


def test_finds_a_cycle_when_there_is_one() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    names = {name for name, _ in modules()}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for item in IMPORTS:
        # `from a.b import c` loads a.b, and a.b.c when that is a module.
        target = item.target if item.target in names else item.target.rpartition(".")[0]
        # A package's __init__ that gathers names from its own modules is no circle.
        if item.at_load and target in names and target != item.module and not item.module.startswith(target + "."):
            graph[item.module].add(target)
    assert find_cycle(graph) == []


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for item in IMPORTS:
        source, target = package(item.module), package(item.target)
        if item.at_load and source and target and source != target and item.module not in MAY_LOAD_EVALUATION:
            graph.setdefault(source, set()).add(target)
    assert find_cycle(graph) == []
