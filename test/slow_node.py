"""The node with an engine that takes its time: ``slow_node.py SECONDS --ros-args ...``."""

from __future__ import annotations

import sys
import time
from typing import Any

from mf_ros.core.types import DepthEstimate
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.ros import depth_node


class SlowEngine(ClassicalEngine):
    def estimate(self, *args: Any) -> DepthEstimate:
        time.sleep(float(sys.argv[1]))
        return super().estimate(*args)


depth_node.make_engine = lambda config: SlowEngine()
sys.exit(depth_node.main(sys.argv))
