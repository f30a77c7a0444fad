"""How much memory is left, as the operating system says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional

import torch

from mf_ros.errors import ModelError

ADVICE = "free memory there, or use a larger machine"
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> Optional[int]:
    """Bytes that can still be allocated on ``device``, or None where that is not known.

    On the CPU the smaller of what the machine has available, page cache included, and what the container may still use.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [each for each in (_available(), _container()) if each is not None]
    return min(known) if known else None


def check_memory(what: str, needed: int, device: torch.device, advice: str = ADVICE) -> None:
    """See that something fits before any memory is taken for it; where it is not known what is free, it does.

    Args:
        what: to load, the subject of the message.
        needed: bytes.
        device: where to.
        advice: what to do, for the message.

    Raises:
        ModelError: it does not fit.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise ModelError(
            f"{what} needs {needed / 2**30:.1f} GiB on {device}, where {free / 2**30:.1f} GiB are free: {advice}."
        )


def _available() -> Optional[int]:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container() -> Optional[int]:
    """What the limit of the control group (version 2) leaves; its page cache can be dropped and counts as free."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((_CGROUP / "memory.current").read_text())
        lines: List[List[str]] = [line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()]
        cache = sum(int(value) for name, value in lines if name in ("active_file", "inactive_file"))
        return max(int(limit) - used + cache, 0)
    except (OSError, ValueError):
        return None
