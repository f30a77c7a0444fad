"""Compiled kernels for the hot paths: used where numba is installed (extra ``speed``), left out where it is not.

NumPy computes the same; it is the reference, and what runs wherever a kernel cannot. The environment variable
``MF_ROS_COMPILED=0`` switches kernels off. They run on the thread that calls them and let go of the interpreter's lock.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import threading
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

from numpy.typing import DTypeLike

from mf_ros.core.types import AnyArray
from mf_ros.packages import install_command

_log = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])

SWITCH = "MF_ROS_COMPILED"
"""Environment variable; 0 leaves all kernels out."""

NAMES: Tuple[str, ...] = ("completion", "cloud", "pointcloud", "deskew", "projection", "culling")
"""The modules ``kernels_*`` beside this one, each with the kernels of one."""

_loaded: Dict[str, Optional[ModuleType]] = {}
_lock = threading.Lock()


def available() -> bool:
    """Whether numba is installed and kernels are not switched off; nothing is imported for the answer."""
    return os.environ.get(SWITCH, "1") != "0" and importlib.util.find_spec("numba") is not None


def kernels(name: str) -> Optional[ModuleType]:
    """The module ``kernels_<name>``, loaded by the first call; None where NumPy is to do the work.

    The first call of a machine compiles for some seconds and stores what it made, later processes load that. A module
    that cannot be loaded, for whatever reason, is warned of once.
    """
    if name not in _loaded:
        with _lock:
            if name not in _loaded:
                _loaded[name] = _load(name) if available() else None
    return _loaded[name]


def prepare() -> None:
    """Load all kernels now, so that no frame has to wait for them."""
    for name in NAMES:
        kernels(name)


def state() -> str:
    """One line for a person: whether kernels are in use, and if not, why. Loads them."""
    if os.environ.get(SWITCH, "1") == "0":
        return f"not in use: {SWITCH} is 0"
    if not available():
        return f"not in use: numba is not installed ({install_command('speed')})"
    prepare()
    missing = [name for name in NAMES if kernels(name) is None]
    return f"not in use for: {', '.join(missing)}" if missing else "in use"


def jit(signature: str) -> Callable[[_Function], _Function]:
    """Compile a function for one signature as soon as it is defined, or load what an earlier process compiled.

    Arithmetic keeps its order and rounding (no fast math), so that results equal NumPy's.

    Args:
        signature: types of result and arguments as numba writes them.
    """

    def compiled(function: _Function) -> _Function:
        try:
            return _jit(function, signature, cache=True)
        except (RuntimeError, OSError):
            # No folder can be written to, neither beside this file nor the user's: compiled in every process.
            return _jit(function, signature)

    return compiled


def inner(function: _Function) -> _Function:
    """Compile a function as a part of the kernels that call it, for the types that they pass."""
    return _jit(function, no_cpython_wrapper=True)


def _jit(function: _Function, *signature: str, **settings: bool) -> _Function:
    import numba  # type: ignore[import-not-found, import-untyped, unused-ignore]

    njit: Any = numba.njit
    kernel: _Function = njit(*signature, nogil=True, error_model="numpy", no_cfunc_wrapper=True, **settings)(function)
    return kernel


def plain(array: AnyArray, dtype: DTypeLike) -> bool:
    """Whether an array is as kernels read it: of this type, C-contiguous and aligned."""
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned


def _load(name: str) -> Optional[ModuleType]:
    try:
        module = importlib.import_module(f"mf_ros.core.kernels_{name}")
        # Stored kernels are made anew when their file changes, but not when a constant of another module does.
        module.check()
        return module
    except Exception as error:
        # numba fails in many ways (another NumPy, no LLVM for this processor); none of them is a reason to stop.
        lines = str(error).strip().splitlines() or [""]
        _log.warning(
            "The compiled kernels of %s cannot be loaded, NumPy takes their place: %s: %s. Reinstall them with "
            "%s, or set %s=0.",
            name,
            type(error).__name__,
            lines[0].rstrip("."),
            install_command("speed"),
            SWITCH,
        )
        return None
