"""How long the live node takes beside its engine, and whether its memory grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Optional, Tuple

import numpy as np

from mf_ros.bench.street import cropped, make_street
from mf_ros.core.types import LidarSweep
from mf_ros.errors import MissingDependencyError

if TYPE_CHECKING:
    from mf_ros.ros.load import LoadResult


def bench_node(
    engine: str,
    *,
    size: Tuple[int, int],
    rate_hz: float,
    frames: int,
    progress: Optional[Callable[[float], None]] = None,
) -> LoadResult:
    """Start the node on a simulated street: a 64-ring sweep of 120,000 returns for each image, all outputs heard.

    Args:
        engine: as ``engine.name``.
        size: width and height of the image, pixels; the street's image is cropped to it.
        rate_hz: images per second.
        frames: how many.
        progress: told the part done, in [0, 1].

    Raises:
        MissingDependencyError: no ROS 2 is sourced.
        MfRosError: the node does not start.
    """
    try:
        from mf_ros.ros.load import load_node
    except ImportError as error:
        raise MissingDependencyError(
            f"The node needs ROS 2 ({error}): source /opt/ros/DISTRO/setup.bash and use a Python that imports rclpy."
        ) from error
    street = cropped(make_street(), *size)
    ring = street.points.ring
    sweep = LidarSweep(street.points.points, 0, "", ring=None if ring is None else np.asarray(ring))
    return load_node(
        street.image, street.camera, sweep, engine=engine, rate_hz=rate_hz, frames=frames, progress=progress
    )
