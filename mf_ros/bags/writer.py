"""Results as one MCAP file that Foxglove, RViz and ``ros2 bag play`` accept."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Optional, Sequence, Tuple, Type, Union

from mf_ros.bags.cdr import CdrBuffer
from mf_ros.bags.definitions import distro_typestore
from mf_ros.bags.rosbag2_records import METADATA_RECORD, bag_metadata, qos_profile
from mf_ros.bags.source import DAMAGED_DATA
from mf_ros.core.camera import CameraModel
from mf_ros.core.encoding import encode_depth
from mf_ros.core.message_builder import Message, MessageBuilder
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import AnyArray, LidarSweep
from mf_ros.errors import BagError, MessageError, require_package

mcap_writer = require_package("mcap.writer", extra="bags")
serde = require_package("rosbags.serde", extra="bags")
typesys = require_package("rosbags.typesys", extra="bags")

_CHUNK_BYTES = 2**20
_NO_TYPE_HASH = ("foxy", "galactic", "humble")


class McapWriter:
    """Writes one rosbag2-style MCAP file: profile ros2, CDR, full definitions, zstd chunks, QoS per topic.

    Use it in a ``with`` statement. Every finished chunk (1 MiB of messages) reaches the file at once, so a run that is
    killed leaves a file that can be read up to there. An existing file is replaced.

    Stamps are ns since the epoch; ``log_ns`` is the log time and defaults to the stamp.

    Args:
        path: the file to write; its directory is made.
        ros_distro: ROS 2 distribution whose definitions are written into the file.

    Attributes:
        builder: makes messages of the distribution, for ``write_message``.

    Raises:
        BagError: the file cannot be written, or the distribution is unknown or not ROS 2.
        MessageError: by the write methods, when an array does not fit the message.
    """

    def __init__(self, path: Union[str, os.PathLike[str]], ros_distro: str = "jazzy") -> None:
        self.path = Path(path)
        self._store: Any = distro_typestore(ros_distro)
        self._cdr = CdrBuffer(self._store)
        self._distro = ros_distro.strip().lower()
        if "seq" in dict(self._store.fielddefs["std_msgs/msg/Header"][1]):
            raise BagError(f"{ros_distro} is ROS 1: MCAP files are written for ROS 2, for example jazzy.")
        self.builder = MessageBuilder(self._store.types)
        self._channels: Dict[str, Tuple[int, str]] = {}
        self._schemas: Dict[str, int] = {}
        self._counts: Dict[str, int] = {}
        self._first_ns, self._last_ns = 2**63, 0
        self._closed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
        except OSError as error:
            raise BagError(f"{self.path} cannot be written: {error.strerror}.") from error
        compression = mcap_writer.CompressionType.ZSTD
        try:
            self._mcap: Any = mcap_writer.Writer(self._file, chunk_size=_CHUNK_BYTES, compression=compression)
            self._mcap.start(profile="ros2", library="mf_ros")
            # Before the messages as well, so that a file without its end still tells the version of its QoS profiles.
            self._mcap.add_metadata(METADATA_RECORD, bag_metadata(self.path.name, self._distro))
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            raise BagError(f"{self.path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> McapWriter:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def counts(self) -> Dict[str, int]:
        """Number of messages written so far, by topic."""
        return dict(self._counts)

    def close(self) -> None:
        """Write the index and close the file; more than once does nothing."""
        if self._closed:
            return
        self._closed = True
        topics = {
            topic: (msgtype, self._type_hash(msgtype), self._counts[topic])
            for topic, (_, msgtype) in self._channels.items()
        }
        first_ns = self._first_ns if topics else 0
        try:
            # The last record of this name counts.
            metadata = bag_metadata(self.path.name, self._distro, topics, first_ns, self._last_ns)
            self._mcap.add_metadata(METADATA_RECORD, metadata)
            self._mcap.finish()
            self._file.close()
        except OSError as error:
            raise BagError(f"{self.path} cannot be finished: {error.strerror}.") from error
        finally:
            # On a full disk closing fails once more, because it tries to write what is left.
            with contextlib.suppress(OSError):
                self._file.close()

    def write_image(
        self,
        topic: str,
        image: AnyArray,
        stamp_ns: int,
        frame_id: str,
        *,
        encoding: Optional[str] = None,
        log_ns: Optional[int] = None,
    ) -> None:
        """Write a sensor_msgs/Image.

        Args:
            image: (H, W, 3) or (H, W, 4) uint8 colour, (H, W) uint8 or uint16 grey, or (H, W) float32, which is
                written as it is (a confidence, say).
            encoding: name of the encoding when it is not rgb8, rgba8, mono8, mono16 or 32FC1, after the array.

        Raises:
            MessageError: the array's shape or type has no encoding, or not the named one.
        """
        message = self.builder.image(image, stamp_ns, frame_id, encoding)
        self._write(topic, message, stamp_ns if log_ns is None else log_ns)

    def write_compressed_image(
        self,
        topic: str,
        data: bytes,
        stamp_ns: int,
        frame_id: str,
        *,
        image_format: str = "jpeg",
        log_ns: Optional[int] = None,
    ) -> None:
        """Write a sensor_msgs/CompressedImage from the bytes of a JPEG or PNG file."""
        message = self.builder.compressed_image(data, stamp_ns, frame_id, image_format)
        self._write(topic, message, stamp_ns if log_ns is None else log_ns)

    def write_depth(
        self,
        topic: str,
        depth: AnyArray,
        stamp_ns: int,
        frame_id: str,
        *,
        encoding: str = "32FC1",
        log_ns: Optional[int] = None,
    ) -> None:
        """Write a depth image (REP 118, special values after REP 117).

        Args:
            depth: (H, W) float32 metres along the optical Z axis; NaN unknown, +Inf beyond range.
            encoding: 32FC1 metres or 16UC1 millimetres.
        """
        array, name = encode_depth(depth, encoding)
        self.write_image(topic, array, stamp_ns, frame_id, encoding=name, log_ns=log_ns)

    def write_camera_info(
        self, topic: str, camera: CameraModel, stamp_ns: int, frame_id: str, *, log_ns: Optional[int] = None
    ) -> None:
        """Write a sensor_msgs/CameraInfo whose P is K without a baseline."""
        message = self.builder.camera_info(camera, stamp_ns, frame_id)
        self._write(topic, message, stamp_ns if log_ns is None else log_ns)

    def write_cloud(
        self, topic: str, packed: AnyArray, stamp_ns: int, frame_id: str, *, log_ns: Optional[int] = None
    ) -> None:
        """Write a coloured sensor_msgs/PointCloud2 with the float32 fields x, y, z, rgb; ``is_dense`` is false.

        Args:
            packed: (H, W, 4) float32 for an organized cloud or (N, 4) for an unorganized one, as packed by
                `mf_ros.core.cloud`: metres, NaN where invalid, and PCL's rgb, whose bits are 0x00RRGGBB.

        Raises:
            MessageError: another shape or type.
        """
        message = self.builder.colour_cloud(packed, stamp_ns, frame_id)
        self._write(topic, message, stamp_ns if log_ns is None else log_ns)

    def write_points(self, topic: str, sweep: LidarSweep, *, log_ns: Optional[int] = None) -> None:
        """Write a LiDAR sweep as sensor_msgs/PointCloud2 in Velodyne's layout.

        Fields x, y, z (float32, metres), and those the sweep has of intensity (float32), ring (uint16) and time
        (float32, seconds after the stamp).
        """
        self._write(topic, self.builder.sweep(sweep), sweep.stamp_ns if log_ns is None else log_ns)

    def write_tf(
        self,
        transforms: Sequence[StampedTransform],
        *,
        static: bool = False,
        topic: Optional[str] = None,
        log_ns: Optional[int] = None,
    ) -> None:
        """Write transforms as one tf2_msgs/TFMessage on /tf, or on /tf_static.

        Raises:
            MessageError: there is no transform.
        """
        message = self.builder.transforms(transforms)
        latest = max(transform.stamp_ns for transform in transforms)
        name = topic or ("/tf_static" if static else "/tf")
        self._write(name, message, latest if log_ns is None else log_ns)

    def write_odometry(
        self, topic: str, pose: StampedTransform, *, twist: Optional[AnyArray] = None, log_ns: Optional[int] = None
    ) -> None:
        """Write a nav_msgs/Odometry.

        Args:
            pose: of ``pose.child`` in ``pose.parent``.
            twist: (6,) velocity of the child in its own frame, m/s and rad/s; None writes zeros.

        Raises:
            MessageError: the twist does not hold 6 numbers.
        """
        self._write(topic, self.builder.odometry(pose, twist), pose.stamp_ns if log_ns is None else log_ns)

    def write_raw(self, topic: str, msg: Any, log_ns: int, *, msgtype: Optional[str] = None) -> None:
        """Write any message object of a standard ROS 2 type.

        Args:
            msg: object with the fields of the message; rosbags' own tell their type.
            log_ns: log time, ns.
            msgtype: ``package/msg/Type`` when the object does not tell it.

        Raises:
            MessageError: the type is not a standard one, or the fields are not those of the type.
        """
        name = msgtype or getattr(msg, "__msgtype__", None)
        if not name or name not in self._store.fielddefs:
            raise MessageError(f"{topic}: {name or type(msg).__name__} is not a standard type of {self._distro}.")
        self._write(topic, (str(name), msg), log_ns)

    def _write(self, topic: str, message: Message, log_ns: int) -> None:
        if self._closed:
            raise BagError(f"{self.path} is closed already.")
        if not 0 <= log_ns < 2**63:
            raise MessageError(f"{topic}: a log time of {log_ns} ns cannot be written: stamps are ns since the epoch.")
        msgtype, content = message
        try:
            data = self._cdr.serialise(content, msgtype)
        except (serde.SerdeError, AttributeError, *DAMAGED_DATA) as error:
            raise MessageError(f"{topic}: not a valid {msgtype}: {error}.") from error
        try:
            channel = self._channel(topic, msgtype)
            self._mcap.add_message(channel, log_time=log_ns, publish_time=log_ns, data=data)
            self._file.flush()
        except OSError as error:
            raise BagError(f"{self.path} cannot be written: {error.strerror}.") from error
        self._counts[topic] += 1
        self._first_ns, self._last_ns = min(self._first_ns, log_ns), max(self._last_ns, log_ns)

    def _channel(self, topic: str, msgtype: str) -> int:
        if topic in self._channels:
            number, known = self._channels[topic]
            if known != msgtype:
                raise MessageError(f"{topic} holds {known} and cannot hold {msgtype} as well.")
            return number
        if msgtype not in self._schemas:
            text, _ = self._store.generate_msgdef(msgtype, ros_version=2)
            self._schemas[msgtype] = self._mcap.register_schema(msgtype, "ros2msg", text.encode())
        metadata = {"offered_qos_profiles": qos_profile(topic), "topic_type_hash": self._type_hash(msgtype)}
        number = self._mcap.register_channel(topic, "cdr", self._schemas[msgtype], metadata)
        self._channels[topic] = (number, msgtype)
        self._counts[topic] = 0
        return int(number)

    def _type_hash(self, msgtype: str) -> str:
        return "" if self._distro in _NO_TYPE_HASH else str(self._store.hash_rihs01(msgtype))
