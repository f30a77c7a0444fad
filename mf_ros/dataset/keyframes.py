"""Which images are worth a row: those that show something else than the rows before.

With odometry, the camera has moved or turned; without it, the picture has changed (perceptual hash) and some time has
passed. Places that were passed just before and look the same are left out, and so is most of what a standing robot
sees.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Deque, Optional

import cv2
import numpy as np

from mf_ros.core.types import ByteArray, DoubleArray
from mf_ros.errors import ConfigError, require_package

NOT_MOVED = "not_moved"
"""Neither moved nor turned far enough since the row before."""
TOO_SOON = "too_soon"
"""Too soon after the row before, where there is no odometry."""
SAME_PICTURE = "same_picture"
"""Nothing moved, and the picture is that of a row before."""
DUPLICATE = "duplicate"
"""Moved, but to the place of a row before, and the picture is the same."""
ROWS_LIMIT = "max_rows"
"""The recording has as many rows already as it may have up to there."""

_SAME_BITS = 6
_STANDING_NS = 10_000_000_000
_WITHOUT_ODOMETRY_NS = 500_000_000
_REMEMBERED = 200
_HASH_PIXELS = 128


@dataclass(frozen=True)
class KeyframeOptions:
    """How close rows may be.

    Attributes:
        every_m: metres that the camera moves between two rows; 0 makes a row of every image.
        every_deg: or degrees that it turns.
        max_rows: of one recording; they are spread over it.

    Raises:
        ConfigError: by ``checked``.
    """

    every_m: float = 0.5
    every_deg: float = 10.0
    max_rows: int = 20_000

    def checked(self) -> KeyframeOptions:
        """The options, when all of them can work."""
        if not 0 <= self.every_m <= 1000:
            raise ConfigError(f"--every-m is {self.every_m:g}: use 0, for every image, to 1000.")
        if not 0 < self.every_deg <= 180:
            raise ConfigError(f"--every-deg is {self.every_deg:g}: use a value above 0 and up to 180.")
        if not 1 <= self.max_rows <= 1_000_000:
            raise ConfigError(f"--max-rows is {self.max_rows}: use 1 to 1000000.")
        return self


@dataclass(frozen=True, eq=False)
class View:
    """From where and when a camera looked.

    Attributes:
        stamp_ns: of the image, ns.
        T_world_cam: (4, 4) float64 in the fixed frame; None where that is not known.
        part: of the recording that lies before it, in [0, 1].
    """

    stamp_ns: int
    T_world_cam: Optional[DoubleArray]
    part: float


@dataclass(frozen=True, eq=False)
class _Kept:
    view: View
    phash: int


class Keyframes:
    """Chooses the images of one recording, in their order.

    For each image ``skip`` is asked first, before anything is decoded; then ``refuse``, with the picture's hash; and
    ``keep`` is told of those that become rows.
    """

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options
        self._recent: Deque[_Kept] = deque(maxlen=_REMEMBERED)
        self._count = 0
        self._place: Optional[View] = None
        self._looked_ns = 0

    def has_moved(self, view: View) -> bool:
        """Whether the camera is known to have moved or turned far enough; true for the first image with a pose."""
        if view.T_world_cam is None:
            return False
        return self._place is None or self._place.T_world_cam is None or not self._near(self._place, view)

    def skip(self, view: View) -> str:
        """Why an image is not worth decoding; "" when it may be."""
        if self._options.every_m > 0 and self._place is not None and not self.has_moved(view):
            waited_ns = abs(view.stamp_ns - self._looked_ns)
            if view.T_world_cam is None and waited_ns < _WITHOUT_ODOMETRY_NS:
                return TOO_SOON
            if view.T_world_cam is not None and waited_ns < _STANDING_NS:
                return NOT_MOVED
        if self._count >= min(self._options.max_rows, 1 + int(self._options.max_rows * view.part)):
            return ROWS_LIMIT
        return ""

    def refuse(self, view: View, phash: str) -> str:
        """Why an image is no row after all; "" when it is one."""
        moved = self.has_moved(view)
        self._looked_ns = view.stamp_ns
        if self._options.every_m == 0:
            return ""
        bits = int(phash, 16)
        for kept in self._recent:
            if (kept.phash ^ bits).bit_count() <= _SAME_BITS and self._may_be_near(kept.view, view):
                # Measured from here on, or every image of the way back would be decoded.
                self._place = view if moved else self._place
                return DUPLICATE if moved else SAME_PICTURE
        return ""

    def keep(self, view: View, phash: str) -> None:
        """Note that an image is a row."""
        self._recent.append(_Kept(view, int(phash, 16)))
        self._count += 1
        self._place = view

    def _may_be_near(self, one: View, other: View) -> bool:
        return one.T_world_cam is None or other.T_world_cam is None or self._near(one, other)

    def _near(self, one: View, other: View) -> bool:
        assert one.T_world_cam is not None and other.T_world_cam is not None
        T = np.linalg.inv(one.T_world_cam) @ other.T_world_cam
        turned = math.degrees(math.acos(min(max((float(np.trace(T[:3, :3])) - 1.0) / 2.0, -1.0), 1.0)))
        moved = float(np.linalg.norm(T[:3, 3]))
        return moved < self._options.every_m and turned < self._options.every_deg


def perceptual_hash(image: ByteArray) -> str:
    """The perceptual hash of an (H, W, 3) uint8 RGB image, 64 bits as 16 hexadecimal digits (imagehash's phash)."""
    imagehash = require_package("imagehash", extra="fleet")
    pillow = require_package("PIL.Image", extra="fleet")
    # The hash looks at 32 x 32 pixels; Pillow would take most of the time with a large picture.
    small = cv2.resize(image, (_HASH_PIXELS, _HASH_PIXELS), interpolation=cv2.INTER_AREA)
    return str(imagehash.phash(pillow.fromarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))))
