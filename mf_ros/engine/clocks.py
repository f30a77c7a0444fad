"""Why images find no sweep: a LiDAR that is silent, clocks that differ, or too narrow a tolerance."""

from __future__ import annotations

from typing import List, Optional

from mf_ros.core.config import SyncConfig
from mf_ros.core.settings import settings

# Sensors stamp and deliver within this; beyond it, a difference is one of the clocks.
_USUAL_DELAY_S = 0.3
_SILENT_S = 1.0


class LidarClocks:
    """Compares each LiDAR's stamps with those of the images that arrive at the same time.

    Args:
        config: tolerance and offsets; stamps are given with their offset.
        lidar_count: number of LiDARs.
    """

    def __init__(self, config: SyncConfig, lidar_count: int) -> None:
        self._config = config
        self._image_ns: Optional[int] = None
        # For each LiDAR the stamps of its last sweep, and of the image that came last before it.
        self._sweep_ns: List[Optional[int]] = [None] * lidar_count
        self._image_then_ns: List[Optional[int]] = [None] * lidar_count

    def on_image(self, stamp_ns: int) -> None:
        """Note an image's stamp in order of arrival, ns."""
        self._image_ns = stamp_ns
        self._image_then_ns = [
            stamp_ns if then is None and sweep is not None else then
            for then, sweep in zip(self._image_then_ns, self._sweep_ns, strict=True)
        ]

    def on_sweep(self, sensor: int, stamp_ns: int) -> None:
        """Note a sweep's stamp in order of arrival, offset included, ns."""
        self._sweep_ns[sensor] = stamp_ns
        self._image_then_ns[sensor] = self._image_ns

    def why_unmatched(self, nearest_ns: Optional[int]) -> str:
        """One sentence on why no sweep fits the images, and what to do.

        Args:
            nearest_ns: smallest distance between an unmatched image and a sweep, ns; None when there was no sweep.
        """
        behind = {
            sensor: (image - sweep) / 1e9
            for sensor, (image, sweep) in enumerate(zip(self._image_then_ns, self._sweep_ns, strict=True))
            if image is not None and sweep is not None
        }
        if not behind or nearest_ns is None:
            return "No sweep was received: check the LiDAR's topic."
        start = (
            f"No sweep within sync.tolerance_s ({self._config.tolerance_s:g} s) of the image, "
            f"the nearest is {nearest_ns / 1e9:.3f} s away"
        )
        sensor = min(behind, key=lambda index: abs(behind[index]))
        shift_s = behind[sensor]
        name = "the LiDAR" if len(behind) == 1 else f"LiDAR {sensor}"
        how = f"the clock of {name} is {abs(shift_s):.3f} s {'behind' if shift_s > 0 else 'ahead of'} the camera's"
        offsets = list(self._config.lidar_offset_s) or [0.0] * len(self._sweep_ns)
        offsets[sensor] += shift_s
        if abs(shift_s) > _USUAL_DELAY_S and not _allowed(offsets[sensor]):
            return f"{start}: {how}. Synchronise the two (PTP), or have both drivers stamp with the host's time."
        if abs(shift_s) > max(_USUAL_DELAY_S, self._config.tolerance_s):
            listed = ", ".join(f"{offset:.3f}" for offset in offsets)
            return f"{start}: {how}. Set sync.lidar_offset_s to about [{listed}]; mf-ros check measures it on a bag."
        silent_s = self._silence_s(sensor)
        if silent_s > _SILENT_S:
            return f"{start}: {name} has sent nothing for {silent_s:.1f} s. Check its driver and its connection."
        return f"{start}: raise sync.tolerance_s, or look for sweeps that are lost on the way."

    def _silence_s(self, sensor: int) -> float:
        image, then = self._image_ns, self._image_then_ns[sensor]
        return 0.0 if image is None or then is None else (image - then) / 1e9


def _allowed(offset_s: float) -> bool:
    limits = settings()["sync.lidar_offset_s"]
    return limits.minimum is not None and limits.maximum is not None and limits.minimum <= offset_s <= limits.maximum
