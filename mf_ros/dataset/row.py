"""One sample of a data set: what camera and LiDARs measured, unprojected, with the transforms that it needs.

A row holds what the pipeline is given and not what it makes of it. Projection, culling and motion compensation happen
when it is read, by the robot's own code, so that other settings or a corrected calibration need no new extraction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

import numpy as np

from mf_ros.core import messages
from mf_ros.core.camera import CameraModel
from mf_ros.core.transform_edges import EdgeSamples
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import DoubleArray, LidarSweep
from mf_ros.engine.assemble import DecodedFrame
from mf_ros.errors import MfRosError

SPLITS = ("train", "val", "test")
"""What rows are for: to learn from, to choose by while training, and to be judged on. Rows in a gap have none."""

NO_SPLIT = ""


class DatasetError(MfRosError):
    """A data set is missing, damaged, or cannot be written."""


@dataclass(frozen=True, eq=False)
class Row:
    """One sample.

    Attributes:
        sample_id: unique within a data set: ``BAG_ID/STAMP_NS``.
        bag_id: of the recording, the same whenever the same file is extracted with the same settings.
        robot_id, site, day: where it comes from, as far as that is known; the day as YYYY-MM-DD in UTC.
        stamp_ns: of the image, ns.
        log_ns: when the image was recorded, ns.
        image: the recorded bytes where they were JPEG or PNG, else the decoded image as PNG, which loses nothing.
        image_format: as in sensor_msgs/CompressedImage, so that the bytes are decoded as the message would be.
        camera: of the image, with its distortion.
        camera_frame: optical frame of the camera.
        sweeps: one entry for each LiDAR, points in its own frame at their own times; None where it had none.
        dt_ns: stamp of each sweep minus that of the image, ns, or None.
        edges: the transforms that connect camera, LiDARs and the fixed frame over sweeps and image.
        T_world_cam: (4, 4) float64 pose of the camera in the fixed frame at the image's stamp; None where unknown.
        split: one of ``SPLITS``, or ``NO_SPLIT`` in the gap between two of them.
        keyframe: the camera had moved or turned since the row before; False for what was kept for another reason.
        phash: perceptual hash of the image, 16 hexadecimal digits.
        extractor_version: of the program that wrote the row.
    """

    sample_id: str
    bag_id: str
    robot_id: str
    site: str
    day: str
    stamp_ns: int
    log_ns: int
    image: bytes
    image_format: str
    camera: CameraModel
    camera_frame: str
    sweeps: Tuple[Optional[LidarSweep], ...]
    dt_ns: Tuple[Optional[int], ...]
    edges: Tuple[EdgeSamples, ...]
    T_world_cam: Optional[DoubleArray]
    split: str
    keyframe: bool
    phash: str
    extractor_version: str

    def decoded(self, corrections: Optional[Mapping[str, DoubleArray]] = None) -> DecodedFrame:
        """The row as the pipeline's next step takes it.

        Args:
            corrections: child frame to (4, 4) T_parent_child that replaces a fixed transform of the recording.

        Raises:
            DatasetError: something in it is damaged.
        """
        tree = self.tree(corrections)
        try:
            image = messages.decode_compressed(self.image, self.image_format)
        except MfRosError as error:
            raise DatasetError(f"Sample {self.sample_id} cannot be used: {error}") from error
        size = (image.shape[1], image.shape[0])
        if size != (self.camera.width, self.camera.height):
            raise DatasetError(
                f"Sample {self.sample_id} has an image of {size[0]} x {size[1]} pixels, but a camera of "
                f"{self.camera.width} x {self.camera.height}."
            )
        return DecodedFrame(image, self.camera, self.stamp_ns, self.camera_frame, self.sweeps, tree)

    def tree(self, corrections: Optional[Mapping[str, DoubleArray]] = None) -> TransformTree:
        """The transforms, some of them replaced as in ``decoded``.

        Raises:
            DatasetError: they are damaged.
        """
        try:
            return TransformTree.from_edges(_corrected(edge, corrections or {}) for edge in self.edges)
        except MfRosError as error:
            raise DatasetError(f"Sample {self.sample_id} cannot be used: {error}") from error


def _corrected(edge: EdgeSamples, corrections: Mapping[str, DoubleArray]) -> EdgeSamples:
    if edge.child not in corrections:
        return edge
    pose = np.asarray(corrections[edge.child], np.float64).reshape(1, 16)
    return EdgeSamples(edge.parent, edge.child, np.zeros(0, np.int64), pose)
