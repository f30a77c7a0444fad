"""What the pipeline holds between a callback and the processing: messages as they came, decoded once and late."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Deque, Optional, Tuple, Union

from mf_ros.core import messages
from mf_ros.core.config import LidarConfig
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import LidarSweep
from mf_ros.errors import MessageError


@dataclass(frozen=True)
class StoredImage:
    """An image message that waits; nothing of it is decoded but its header.

    Attributes:
        message: sensor_msgs/Image or CompressedImage, as it came.
        stamp_ns: header stamp, ns.
        frame_id: optical frame of the camera; empty when the driver left it out.
        received_ns: when it was received (live) or logged (recording), ns.
        number: position among the images received, from 0.
    """

    message: Any
    stamp_ns: int
    frame_id: str
    received_ns: int
    number: int


class StoredSweep:
    """A point cloud message that waits, decoded at most once however many images it serves.

    Args:
        source: sensor_msgs/PointCloud2, or a sweep that is decoded already.
        config: how its time field is read.
        offset_ns: added to the stamp of the decoded sweep, ns.

    Attributes:
        stamp_ns: header stamp, without the offset, ns.
        decode_ms: how long decoding took, milliseconds; 0 before it.

    Raises:
        MessageError: the message has no readable stamp, or a stamp of 0.
    """

    def __init__(self, source: Union[LidarSweep, Any], config: LidarConfig, offset_ns: int = 0) -> None:
        if isinstance(source, LidarSweep):
            self.stamp_ns = source.stamp_ns
        else:
            self.stamp_ns = messages.measured_stamp_ns(getattr(source, "header", None))
        self._source = source
        self._time_unit = config.time_unit
        self._offset_ns = offset_ns
        self._outcome: Union[LidarSweep, MessageError, None] = None
        self.decode_ms = 0.0

    def sweep(self) -> LidarSweep:
        """The decoded sweep, its stamp shifted by the sensor's offset.

        Raises:
            MessageError: the message cannot be decoded; again on every call.
        """
        if self._outcome is None:
            start = time.perf_counter()
            try:
                self._outcome = self._decode()
            except MessageError as error:
                self._outcome = error
            self.decode_ms = 1000.0 * (time.perf_counter() - start)
            self._source = None  # the decoded form is enough
        if isinstance(self._outcome, MessageError):
            raise self._outcome
        return self._outcome

    def _decode(self) -> LidarSweep:
        sweep = self._source
        if not isinstance(sweep, LidarSweep):
            sweep = messages.decode_cloud(sweep, time_unit=self._time_unit)
        return dataclasses.replace(sweep, stamp_ns=sweep.stamp_ns + self._offset_ns) if self._offset_ns else sweep


@dataclass(frozen=True)
class FrameSet:
    """One image with the sweeps that belong to it.

    Attributes:
        image: the image.
        sweeps: one entry per LiDAR, None where none is near enough in time.
        dt_ns: one entry per LiDAR, stamp of the sweep minus stamp of the image, ns, or None.
        epoch: number of jumps backward in time seen before it.
        tree: the transforms of that epoch.
    """

    image: StoredImage
    sweeps: Tuple[Optional[StoredSweep], ...]
    dt_ns: Tuple[Optional[int], ...]
    epoch: int
    tree: TransformTree


# Judged by so many images: does each have a camera_info of its own stamp?
_IMAGES_JUDGED = 8


class CameraInfos:
    """The newest camera_info messages, found by stamp; safe to use from several threads.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_stamp: OrderedDict[int, Any] = OrderedDict()
        self._images: Deque[int] = deque(maxlen=limit)
        self._lock = threading.Lock()

    def add(self, message: Any) -> None:
        """Store one sensor_msgs/CameraInfo.

        Raises:
            MessageError: its header has no readable stamp.
        """
        stamp = messages.stamp_ns(getattr(message, "header", None))
        with self._lock:
            self._by_stamp[stamp] = message
            self._by_stamp.move_to_end(stamp)
            if len(self._by_stamp) > self._limit:
                self._by_stamp.popitem(last=False)

    def on_image(self, stamp_ns: int) -> None:
        """Note the stamp of an image, in order of arrival."""
        with self._lock:
            self._images.append(stamp_ns)

    def find(self, stamp_ns: int) -> Optional[Any]:
        """The message of exactly this stamp, else the nearest one; None when there is none."""
        with self._lock:
            if stamp_ns in self._by_stamp:
                return self._by_stamp[stamp_ns]
            # Of two as near, the one received last.
            nearest = min(reversed(self._by_stamp), key=lambda stamp: abs(stamp - stamp_ns), default=None)
            return None if nearest is None else self._by_stamp[nearest]

    def is_complete(self, stamp_ns: int) -> bool:
        """Whether the right message for an image is here: that of its stamp, or any when they do not share stamps.

        They do while most of the images before this one have a message of their own stamp; where it is published once
        or rarely, no image waits for it.
        """
        with self._lock:
            if not self._by_stamp or stamp_ns in self._by_stamp:
                return bool(self._by_stamp)
            before = [stamp for stamp in self._images if stamp < stamp_ns][-_IMAGES_JUDGED:]
            return 2 * sum(stamp in self._by_stamp for stamp in before) <= len(before)

    def __len__(self) -> int:
        return len(self._by_stamp)
