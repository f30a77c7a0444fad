"""What went into a run: sensors, camera model, recorded and spent time, for its summary."""

from __future__ import annotations

import time
from typing import Any, Dict, Optional

import numpy as np

from mf_ros.core import messages
from mf_ros.core.config import TimeUnit
from mf_ros.core.types import CameraFrame
from mf_ros.engine.pipeline import DepthResult
from mf_ros.errors import MessageError


class InputsSeen:
    """Notes what a run was given; only the first message of each stream and the first frame are looked into.

    Args:
        time_unit: unit of the points' times, as in ``lidar.time_unit``.
    """

    def __init__(self, time_unit: TimeUnit = "auto") -> None:
        self._time_unit = time_unit
        self._began = time.perf_counter()
        self._image: Optional[Dict[str, Any]] = None
        self._lidars: Dict[str, Dict[str, Any]] = {}
        self._frame: Optional[CameraFrame] = None
        self._frames = 0
        self._first_ns = 0
        self._last_ns = 0

    def on_image(self, message: Any) -> None:
        """Note an image message, raw or compressed."""
        if self._image is None:
            self._image = {
                "encoding": str(getattr(message, "encoding", "") or getattr(message, "format", "")),
                "frame_id": str(getattr(getattr(message, "header", None), "frame_id", "")),
            }

    def on_points(self, topic: str, message: Any) -> None:
        """Note a point cloud message of a LiDAR; one that cannot be decoded leaves it to the next."""
        if topic in self._lidars:
            return
        try:
            sweep = messages.decode_cloud(message, time_unit=self._time_unit)
        except MessageError:
            return
        self._lidars[topic] = {
            "topic": topic,
            "frame_id": sweep.frame_id,
            "points": len(sweep),
            "rings": None if sweep.ring is None else len(np.unique(sweep.ring)),
            "has_time": sweep.time_s is not None,
        }

    def on_result(self, result: DepthResult) -> None:
        """Note a frame that became depth."""
        if self._frame is None:
            self._frame, self._first_ns = result.frame, result.frame.stamp_ns
        self._frames += 1
        self._last_ns = result.frame.stamp_ns

    def summary(self) -> Dict[str, Any]:
        """``image``, ``camera`` (as processed) and ``lidars``; None or empty where nothing came."""
        return {"image": self._image, "camera": self._camera(), "lidars": list(self._lidars.values())}

    def pace(self) -> Dict[str, Optional[float]]:
        """``recorded_s`` of the frames, ``wall_s`` spent, and their ratio ``real_time_factor`` (above 1: faster).

        A frame stands for the time to the next one, so n frames span n intervals; fewer than two span nothing.
        """
        wall_s = time.perf_counter() - self._began
        span_s = (self._last_ns - self._first_ns) / 1e9
        if self._frames < 2 or span_s <= 0:
            return {"recorded_s": None, "wall_s": round(wall_s, 3), "real_time_factor": None}
        recorded_s = span_s * self._frames / (self._frames - 1)
        factor = recorded_s / max(wall_s, 1e-9)
        return {"recorded_s": round(recorded_s, 3), "wall_s": round(wall_s, 3), "real_time_factor": round(factor, 4)}

    def _camera(self) -> Optional[Dict[str, Any]]:
        if self._frame is None:
            return None
        camera = self._frame.camera
        return {
            "width": camera.width,
            "height": camera.height,
            "frame_id": self._frame.frame_id,
            "distortion_model": camera.distortion_model if camera.has_distortion else "",
            "K": [float(value) for value in camera.K.reshape(-1)],
            "D": [float(value) for value in camera.D.reshape(-1)],
        }
