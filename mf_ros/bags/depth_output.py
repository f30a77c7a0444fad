"""Results of the pipeline as topics of one MCAP file."""

from __future__ import annotations

import time
from typing import Dict

from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config
from mf_ros.engine.outputs import OUTPUTS, ResultMessages
from mf_ros.engine.pipeline import DepthResult


class DepthOutput:
    """Writes each result as the messages that the live node publishes.

    Args:
        writer: the open file.
        config: depth encoding and cloud filters.
    """

    def __init__(self, writer: McapWriter, config: Config) -> None:
        self._writer = writer
        self._messages = ResultMessages(writer.builder, config)

    def write(self, result: DepthResult) -> Dict[str, float]:
        """Write one result, logged at the time at which its image was; returns milliseconds for making and writing."""
        taken = {"messages": 0.0, "write": 0.0}
        for output in OUTPUTS:
            start = time.perf_counter()
            msgtype, message = self._messages.make(output, result)
            made = time.perf_counter()
            self._writer.write_raw(f"/{output}", message, result.source.received_ns, msgtype=msgtype)
            taken["messages"] += 1000.0 * (made - start)
            taken["write"] += 1000.0 * (time.perf_counter() - made)
        return taken
