"""The node with an engine that takes its time: ``slow_node.py [ENGINE:]SECONDS --ros-args ...``, by default any."""

from __future__ import annotations

import sys
import time
from typing import Any

from mf_ros.core.config import EngineConfig
from mf_ros.core.types import DepthEstimate
from mf_ros.engine import DepthEngine, make_engine
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.ros import depth_node

NAME, _, SECONDS = sys.argv[1].rpartition(":")


class SlowEngine(ClassicalEngine):
    def estimate(self, *args: Any) -> DepthEstimate:
        time.sleep(float(SECONDS))
        return super().estimate(*args)


def make(config: EngineConfig) -> DepthEngine:
    return SlowEngine() if NAME in ("", config.name) else make_engine(config)


depth_node.make_engine = make
sys.exit(depth_node.main(sys.argv))
