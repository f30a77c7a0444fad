"""Stopping long work between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Dict, Optional, Type


class StopOnSignal:
    """While the block runs, the first SIGINT or SIGTERM only sets ``stopped``; a second one acts as usual.

    Work that looks at ``stopped`` between steps can finish its files. Outside the main thread, where Python allows no
    handlers, nothing changes.

    Attributes:
        stopped: whether a signal came.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._previous: Dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        self.stopped = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # A handler that was not set from Python reads as None and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()
