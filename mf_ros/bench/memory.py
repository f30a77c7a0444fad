"""How much memory an engine takes, measured in a process of its own that has held nothing else."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional

import cv2

from mf_ros.core.camera import CameraModel
from mf_ros.core.config import EngineConfig
from mf_ros.core.types import ByteArray, SparseDepth
from mf_ros.engine import make_engine

_FRAMES = 3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


@dataclass(frozen=True)
class Memory:
    """Resident memory beyond that of the process before the engine, 10^6 bytes.

    Attributes:
        loaded: once it is ready.
        peak: the most it ever took, while loading or over three frames.
    """

    loaded: float
    peak: float


def engine_memory(
    config: EngineConfig, image: ByteArray, sparse: SparseDepth, camera: CameraModel, threads: int
) -> Optional[Memory]:
    """Start a process, make the engine in it, let it estimate a few frames; None where the system does not tell.

    Raises:
        MfRosError: the engine cannot be made.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        try:
            return pool.submit(_measured, config, image, sparse, camera, threads).result()
        except BrokenProcessPool:
            return None


def _measured(
    config: EngineConfig, image: ByteArray, sparse: SparseDepth, camera: CameraModel, threads: int
) -> Optional[Memory]:
    cv2.setNumThreads(threads)
    try:
        _CLEAR.write_text(_FORGET_PEAK, encoding="ascii")
        before = _resident()["VmRSS"]
        engine = make_engine(config)
        loaded = _resident()["VmRSS"]
        for _ in range(_FRAMES):
            engine.estimate(image, sparse, camera)
        return Memory(loaded - before, _resident()["VmHWM"] - before)
    except (OSError, KeyError):
        return None


def _resident() -> Dict[str, float]:
    """Resident memory now (VmRSS) and at most (VmHWM), 10^6 bytes, as Linux tells it."""
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines())
    return {words[0][:-1]: int(words[1]) * 1024 / 1e6 for words in lines if words[:1] in (["VmRSS:"], ["VmHWM:"])}
