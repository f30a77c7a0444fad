"""ROS 2 message objects out of arrays, of the message classes of rclpy or of rosbags, which have the same fields."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel
from mf_ros.core.cloud import POINT_STEP
from mf_ros.core.rigid import quaternion_of
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import AnyArray, DoubleArray, LidarSweep
from mf_ros.errors import MessageError

_FLOAT32 = 7
# sensor_msgs/PointField datatype by type.
_DATATYPES = {"uint8": 2, "uint16": 4, "float32": _FLOAT32, "float64": 8}
_ENCODINGS: Dict[Tuple[str, int], Tuple[str, ...]] = {
    ("uint8", 1): ("mono8", "8UC1"),
    ("uint8", 3): ("rgb8", "bgr8", "8UC3"),
    ("uint8", 4): ("rgba8", "bgra8"),
    ("uint16", 1): ("mono16", "16UC1"),
    ("float32", 1): ("32FC1",),
}

Message = Tuple[str, Any]
"""Type and object of a message."""


class MessageBuilder:
    """Makes the messages that results consist of.

    Args:
        types: message classes by type name such as ``sensor_msgs/msg/Image``, made with their fields as keywords.
        sequence: what a field of many numbers is given for a contiguous array of one dimension: the array itself for
            rosbags, an ``array.array`` for rclpy, which looks at each element of anything else.
        empty: like ``numpy.empty``, for arrays that ``sequence`` takes without a copy.
    """

    def __init__(
        self,
        types: Mapping[str, Callable[..., Any]],
        sequence: Callable[[AnyArray], Any] = np.asarray,
        empty: Callable[[Tuple[int, ...], Any], AnyArray] = np.empty,
    ) -> None:
        self.empty = empty
        self._types = types
        self._sequence = sequence

    def image(self, image: AnyArray, stamp_ns: int, frame_id: str, encoding: Optional[str]) -> Message:
        """sensor_msgs/Image of an array; see ``McapWriter.write_image``."""
        image = np.asarray(image)
        channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
        known = _ENCODINGS.get((image.dtype.newbyteorder("=").name, channels), ())
        if not known or (encoding is not None and encoding not in known) or 0 in image.shape:
            held, wanted = f"{image.shape} {image.dtype}", f" as {encoding}" if encoding else ""
            raise MessageError(f"An array of {held} cannot be written{wanted} (known: {', '.join(known) or 'none'}).")
        height, width = image.shape[:2]
        return "sensor_msgs/msg/Image", self._make(
            "sensor_msgs/msg/Image",
            header=self._header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding=encoding or known[0],
            is_bigendian=0,
            step=width * channels * image.dtype.itemsize,
            data=self._sequence(_bytes_of(image)),
        )

    def compressed_image(self, data: bytes, stamp_ns: int, frame_id: str, image_format: str) -> Message:
        """sensor_msgs/CompressedImage of an image file's bytes."""
        return "sensor_msgs/msg/CompressedImage", self._make(
            "sensor_msgs/msg/CompressedImage",
            header=self._header(stamp_ns, frame_id),
            format=image_format,
            data=self._sequence(np.frombuffer(data, np.uint8)),
        )

    def camera_info(self, camera: CameraModel, stamp_ns: int, frame_id: str) -> Message:
        """sensor_msgs/CameraInfo of a camera model, with P = K and no baseline."""
        P = np.zeros((3, 4))
        P[:, :3] = camera.K
        window = {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0, "do_rectify": False}
        return "sensor_msgs/msg/CameraInfo", self._make(
            "sensor_msgs/msg/CameraInfo",
            header=self._header(stamp_ns, frame_id),
            height=camera.height,
            width=camera.width,
            distortion_model=camera.distortion_model or "plumb_bob",
            d=self._sequence(np.array(camera.D, np.float64).reshape(-1)),
            k=np.array(camera.K, np.float64).reshape(9),
            r=np.array(camera.R, np.float64).reshape(9),
            p=P.reshape(12),
            binning_x=0,
            binning_y=0,
            roi=self._make("sensor_msgs/msg/RegionOfInterest", **window),
        )

    def colour_cloud(self, packed: AnyArray, stamp_ns: int, frame_id: str) -> Message:
        """sensor_msgs/PointCloud2 of (H, W, 4) or (N, 4) float32 x, y, z, rgb; see ``McapWriter.write_cloud``."""
        packed = np.asarray(packed)
        if packed.dtype != np.float32 or packed.ndim not in (2, 3) or packed.shape[-1] != 4:
            raise MessageError(f"A cloud is (H, W, 4) or (N, 4) float32, not {packed.shape} {packed.dtype}.")
        size = packed.shape[:2] if packed.ndim == 3 else (1, len(packed))
        fields = [(name, 4 * index, _FLOAT32) for index, name in enumerate(("x", "y", "z", "rgb"))]
        return self._cloud(packed, size, POINT_STEP, fields, self._header(stamp_ns, frame_id), dense=False)

    def sweep(self, sweep: LidarSweep) -> Message:
        """sensor_msgs/PointCloud2 of a LiDAR sweep in Velodyne's layout; see ``McapWriter.write_points``."""
        columns = {name: sweep.points[:, index].astype(np.float32, copy=False) for index, name in enumerate("xyz")}
        if sweep.intensity is not None:
            columns["intensity"] = sweep.intensity.astype(np.float32, copy=False)
        if sweep.ring is not None:
            columns["ring"] = sweep.ring.astype(np.uint16)
        if sweep.time_s is not None:
            columns["time"] = sweep.time_s.astype(np.float32, copy=False)
        return self.point_columns(columns, sweep.stamp_ns, sweep.frame_id)

    def point_columns(self, columns: Mapping[str, AnyArray], stamp_ns: int, frame_id: str) -> Message:
        """sensor_msgs/PointCloud2 of (N,) arrays by field name: uint8, uint16, float32 or float64, packed in order."""
        layout = np.dtype([(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
        points = np.empty(len(next(iter(columns.values()))), layout)
        fields = []
        offset = 0
        for name, values in columns.items():
            points[name] = values
            fields.append((name, offset, _DATATYPES[values.dtype.name]))
            offset += values.dtype.itemsize
        header = self._header(stamp_ns, frame_id)
        return self._cloud(points, (1, len(points)), layout.itemsize, fields, header, dense=True)

    def transforms(self, transforms: Sequence[StampedTransform]) -> Message:
        """tf2_msgs/TFMessage of one transform or more."""
        if not transforms:
            raise MessageError("A transform message needs at least one transform.")
        stamped = [
            self._make(
                "geometry_msgs/msg/TransformStamped",
                header=self._header(transform.stamp_ns, transform.parent),
                child_frame_id=transform.child,
                transform=self._make(
                    "geometry_msgs/msg/Transform",
                    translation=self._vector("Vector3", transform.T_parent_child[:3, 3]),
                    rotation=self._quaternion(transform.T_parent_child),
                ),
            )
            for transform in transforms
        ]
        return "tf2_msgs/msg/TFMessage", self._make("tf2_msgs/msg/TFMessage", transforms=stamped)

    def odometry(self, pose: StampedTransform, twist: Optional[AnyArray]) -> Message:
        """nav_msgs/Odometry of pose and twist, with zero (unknown) covariances; see ``McapWriter.write_odometry``."""
        velocity = np.zeros(6) if twist is None else np.asarray(twist, np.float64).reshape(-1)
        if velocity.shape != (6,):
            raise MessageError(f"A twist is 6 numbers, linear and angular velocity, not {velocity.size}.")
        covariance = np.zeros(36)
        T = pose.T_parent_child
        place = self._make(
            "geometry_msgs/msg/Pose", position=self._vector("Point", T[:3, 3]), orientation=self._quaternion(T)
        )
        moving = self._make(
            "geometry_msgs/msg/Twist",
            linear=self._vector("Vector3", velocity[:3]),
            angular=self._vector("Vector3", velocity[3:]),
        )
        return "nav_msgs/msg/Odometry", self._make(
            "nav_msgs/msg/Odometry",
            header=self._header(pose.stamp_ns, pose.parent),
            child_frame_id=pose.child,
            pose=self._make("geometry_msgs/msg/PoseWithCovariance", pose=place, covariance=covariance),
            twist=self._make("geometry_msgs/msg/TwistWithCovariance", twist=moving, covariance=covariance),
        )

    def _make(self, msgtype: str, **fields: Any) -> Any:
        return self._types[msgtype](**fields)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(int(stamp_ns), 10**9)
        stamp = self._make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _vector(self, name: str, xyz: AnyArray) -> Any:
        x, y, z = (float(value) for value in xyz)
        return self._make(f"geometry_msgs/msg/{name}", x=x, y=y, z=z)

    def _quaternion(self, T: DoubleArray) -> Any:
        x, y, z, w = quaternion_of(T)
        return self._make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def _cloud(
        self,
        points: AnyArray,
        size: Tuple[int, int],
        point_step: int,
        fields: Sequence[Tuple[str, int, int]],
        header: Any,
        *,
        dense: bool,
    ) -> Message:
        listed = [
            self._make("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=datatype, count=1)
            for name, offset, datatype in fields
        ]
        height, width = size
        return "sensor_msgs/msg/PointCloud2", self._make(
            "sensor_msgs/msg/PointCloud2",
            header=header,
            height=height,
            width=width,
            fields=listed,
            is_bigendian=False,
            point_step=point_step,
            row_step=point_step * width,
            data=self._sequence(_bytes_of(points)),
            is_dense=dense,
        )


def _bytes_of(array: AnyArray) -> AnyArray:
    """The little-endian bytes of an array, without a copy where they lie so in memory already."""
    if array.dtype.fields is None:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
