"""The data that flows through mf_ros, with units and frames stated once.

Lengths are metres, stamps are integer nanoseconds since the epoch, camera coordinates are optical frames
(REP 103: x right, y down, z forward), depth is the Z coordinate and not the range (REP 118).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mf_ros.core.camera import CameraModel

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
IntArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
AnyArray = NDArray[Any]


@dataclass(frozen=True)
class CameraFrame:
    """One image with its camera.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        camera: the model whose width and height are those of ``image``.
        stamp_ns: acquisition time, ns, copied from the message.
        frame_id: optical frame of the camera, copied from the message.
    """

    image: ByteArray
    camera: CameraModel
    stamp_ns: int
    frame_id: str


@dataclass(frozen=True)
class LidarSweep:
    """One LiDAR sweep in its own frame; every point is finite.

    Attributes:
        points: (N, 3) float32 xyz, metres, in ``frame_id``.
        stamp_ns: header stamp, ns.
        frame_id: the LiDAR's frame.
        time_s: (N,) float32 seconds relative to ``stamp_ns`` at which each point was measured, or None.
        ring: (N,) int32 scan line of each point, or None.
        intensity: (N,) float32, sensor units, or None.
    """

    points: FloatArray
    stamp_ns: int
    frame_id: str
    time_s: Optional[FloatArray] = None
    ring: Optional[IntArray] = None
    intensity: Optional[FloatArray] = None

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class CameraPoints:
    """LiDAR returns of one or more merged sweeps, in a camera's optical frame at the image's stamp.

    Attributes:
        points: (N, 3) float32 xyz, metres, optical frame.
        ring: (N,) int32 scan line within its sensor, or None when some sensor gave none.
        sensor: (N,) uint8 index of the LiDAR that measured the point.
    """

    points: FloatArray
    ring: Optional[IntArray]
    sensor: ByteArray

    def __len__(self) -> int:
        return len(self.points)

    def select(self, keep: AnyArray) -> CameraPoints:
        """The returns picked by a (N,) bool mask or an index array."""
        ring = None if self.ring is None else self.ring[keep]
        return CameraPoints(self.points[keep], ring, self.sensor[keep])


@dataclass(frozen=True)
class SparseDepth:
    """LiDAR depth on the image grid.

    Attributes:
        depth: (H, W) float32 metres along the optical Z axis; 0 where there is no return.
        count: number of pixels that hold a return.
        hidden: number of projected returns removed because a nearer surface hides them from the camera.
        lonely: number of projected returns removed because hardly any around them agrees with them.
        level: (H, W) float32 noise level of each pixel: 0 at returns of this frame, between 0 and 1 at those carried
            from earlier ones, 1 without any; None says that all returns are of this frame.
    """

    depth: FloatArray
    count: int
    hidden: int = 0
    lonely: int = 0
    level: Optional[FloatArray] = None


@dataclass(frozen=True)
class DepthEstimate:
    """Dense depth for one image.

    Attributes:
        depth: (H, W) float32 metres along the optical Z axis (REP 118); NaN invalid, +Inf beyond range (REP 117).
        confidence: (H, W) float32 in [0, 1]; 0 where depth is not finite.
        metric: False when no metric scale could be found and the depth is only relative.
        engine: name of the engine that made it.
        log_scale: (H, W) float32 log b, where log depth has a Laplace error of scale b (half of the errors are below
            0.69 b, nine tenths below 2.3 b); None from engines that do not say.
    """

    depth: FloatArray
    confidence: FloatArray
    metric: bool
    engine: str
    log_scale: Optional[FloatArray] = None
