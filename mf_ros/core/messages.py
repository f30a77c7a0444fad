"""Standard ROS messages to the types of mf_ros.

Any object with a message's fields will do: rclpy's classes, the dataclasses of a bag reader, ROS 1 messages with their
upper-case K, D, R, P. Frame names lose the leading '/' of ROS 1. Messages come from strangers: sizes are bounded and no
length field is trusted.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.camera import MAX_PIXELS, CameraModel, make_camera
from mf_ros.core.config import TimeUnit
from mf_ros.core.encoding import decode_depth
from mf_ros.core.pointcloud import PointField, parse_cloud
from mf_ros.core.rigid import make_transform
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import AnyArray, ByteArray, FloatArray, LidarSweep
from mf_ros.errors import MessageError

# Encoding: channels, bytes per channel, conversion to RGB. OpenCV names a Bayer pattern by its second row and column,
# sensor_msgs/image_encodings.hpp by its first. Unnamed colour (8UC3) is taken in OpenCV's order.
_FORMATS: Dict[str, Tuple[int, int, Optional[int]]] = {
    "rgb8": (3, 1, None),
    "bgr8": (3, 1, cv2.COLOR_BGR2RGB),
    "rgba8": (4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC3": (3, 1, cv2.COLOR_BGR2RGB),
    "8UC4": (4, 1, cv2.COLOR_BGRA2RGB),
    "rgb16": (3, 2, None),
    "bgr16": (3, 2, cv2.COLOR_BGR2RGB),
    "rgba16": (4, 2, cv2.COLOR_RGBA2RGB),
    "bgra16": (4, 2, cv2.COLOR_BGRA2RGB),
    "mono16": (1, 2, cv2.COLOR_GRAY2RGB),
    "16UC1": (1, 2, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (1, 2, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (1, 2, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (1, 2, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (1, 2, cv2.COLOR_BayerGB2RGB),
    "uyvy": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuv422_yuy2": (2, 1, cv2.COLOR_YUV2RGB_YUY2),
}
# A full-size luma plane, then a half-size plane of colour pairs.
_SEMI_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_DEPTH_BYTES = {"32FC1": 4, "16UC1": 2, "mono16": 2}

SUPPORTED_ENCODINGS = (*_FORMATS, *_SEMI_PLANAR)

# tf2 discards transforms whose quaternion's squared length is farther from 1 than this.
_QUATERNION_TOLERANCE = 1e-2


def stamp_ns(header: Any) -> int:
    """Nanoseconds of a std_msgs/Header's stamp, ROS 2 (sec, nanosec) or ROS 1 (secs, nsecs).

    A stamp of 0 is right for what holds at all times: static transforms, and the camera_info of some drivers.

    Raises:
        MessageError: no header, negative seconds, or a billion nanoseconds and more (builtin_interfaces/Time).
    """
    stamp = _field(header, "stamp")
    seconds, rest = int(_field(stamp, "sec", "secs")), int(_field(stamp, "nanosec", "nsecs", "nsec"))
    if seconds < 0 or not 0 <= rest < 1_000_000_000:
        raise MessageError(
            f"A stamp of {seconds} s and {rest} ns (frame '{getattr(header, 'frame_id', '')}') is no time: seconds "
            "start at 0, nanoseconds end before a billion. Correct the driver, or record anew if the file is damaged."
        )
    return seconds * 1_000_000_000 + rest


def measured_stamp_ns(header: Any) -> int:
    """``stamp_ns`` of what was measured at one moment: an image or a point cloud.

    Raises:
        MessageError: as ``stamp_ns``, and for a stamp of 0, which means that nobody filled it in.
    """
    stamp = stamp_ns(header)
    if stamp == 0:
        raise MessageError(
            f"The stamp is 0 (frame '{getattr(header, 'frame_id', '')}'): the driver does not stamp its messages, so "
            "images and sweeps cannot be paired. Let the driver fill in header.stamp with the time of acquisition."
        )
    return stamp


def frame_id_of(header: Any) -> str:
    """A std_msgs/Header's frame, without the leading '/' of ROS 1."""
    return _frame(_field(header, "frame_id"))


def decode_image(msg: Any) -> ByteArray:
    """Colour image of a sensor_msgs/Image or sensor_msgs/CompressedImage (JPEG or PNG).

    16-bit values are scaled by 255/65535, so a 12-bit camera that does not fill its 16 bits comes out dark. YUV is
    BT.601, Bayer patterns are interpolated, alpha is dropped, an orientation tag is ignored (CameraInfo has none).

    Returns:
        (H, W, 3) uint8 RGB, contiguous and independent of the message.

    Raises:
        MessageError: unknown encoding, sizes that do not fit the data, damaged or too large an image, no stamp.
    """
    if hasattr(msg, "encoding") or hasattr(msg, "format"):
        measured_stamp_ns(_field(msg, "header"))
        if hasattr(msg, "encoding"):
            return _decode_raw(msg)
        return decode_compressed(_bytes(_field(msg, "data")).tobytes(), str(_field(msg, "format")))
    raise MessageError(f"{type(msg).__name__} is no image: choose a sensor_msgs/Image or CompressedImage topic.")


def decode_depth_image(msg: Any) -> FloatArray:
    """Depth of a sensor_msgs/Image in 32FC1 metres or 16UC1 millimetres (REP 118).

    Returns:
        (H, W) float32 metres; NaN unknown, infinities as in REP 117.

    Raises:
        MessageError: another encoding, or sizes that do not fit the data.
    """
    encoding = str(_field(msg, "encoding")).strip()
    if encoding not in _DEPTH_BYTES:
        raise MessageError(f"'{encoding}' is not a depth encoding: choose a topic in 32FC1 or 16UC1 (REP 118).")
    order = ">" if _field(msg, "is_bigendian") else "<"
    dtype = np.dtype(f"{order}{'f4' if encoding == '32FC1' else 'u2'}")
    return decode_depth(_pixels(msg, encoding, 1, dtype)[..., 0], encoding)


def camera_from_info(msg: Any, image_size: Optional[Tuple[int, int]] = None, *, rectified: bool = False) -> CameraModel:
    """The camera of a sensor_msgs/CameraInfo.

    Args:
        msg: the message, of ROS 2 or ROS 1.
        image_size: (width, height) of the image it goes with, checked when given.
        rectified: the images are already rectified (image_rect), so P holds and there is no distortion.

    Raises:
        CalibrationError: the calibration cannot be used, or is of another size than the image.
        MessageError: not a CameraInfo.
    """
    roi = _field(msg, "roi")
    window = tuple(int(_field(roi, name)) for name in ("x_offset", "y_offset", "width", "height"))
    P = np.asarray(_field(msg, "p", "P"), dtype=np.float64).reshape(-1)
    use_p = rectified and len(P) == 12
    return make_camera(
        int(_field(msg, "width")),
        int(_field(msg, "height")),
        P.reshape(3, 4)[:, :3] if use_p else _field(msg, "k", "K"),
        () if rectified else _field(msg, "d", "D"),
        "plumb_bob" if rectified else str(_field(msg, "distortion_model")),
        R=None if rectified else _field(msg, "r", "R"),
        binning=(int(_field(msg, "binning_x")), int(_field(msg, "binning_y"))),
        roi=(window[0], window[1], window[2], window[3]),
        image_size=image_size,
    )


def decode_cloud(msg: Any, *, time_unit: TimeUnit = "auto") -> LidarSweep:
    """The sweep of a sensor_msgs/PointCloud2.

    Args:
        msg: the message.
        time_unit: unit of the per-point time field; auto infers it.

    Raises:
        MessageError: no x, y, z, a layout that does not fit the data, or no stamp.
    """
    header = _field(msg, "header")
    fields = [
        PointField(
            str(_field(field, "name")),
            int(_field(field, "offset")),
            int(_field(field, "datatype")),
            int(_field(field, "count")),
        )
        for field in _field(msg, "fields")
    ]
    frame = frame_id_of(header)
    return parse_cloud(
        width=int(_field(msg, "width")),
        height=int(_field(msg, "height")),
        fields=fields,
        is_bigendian=bool(_field(msg, "is_bigendian")),
        point_step=int(_field(msg, "point_step")),
        row_step=int(_field(msg, "row_step")),
        data=_bytes(_field(msg, "data")),
        stamp_ns=measured_stamp_ns(header),
        frame_id=frame,
        time_unit=time_unit,
        where=f"PointCloud2 in frame '{frame}'",
    )


def transform_of(item: Any) -> StampedTransform:
    """A geometry_msgs/TransformStamped as a tf2_msgs/TFMessage lists them, refused where tf2 would discard it.

    Raises:
        MessageError: a frame without a name or that is its own parent, a number that is not finite, or a quaternion
            that is not of unit length.
    """
    header, pose = _field(item, "header"), _field(item, "transform")
    parent, child = frame_id_of(header), _frame(_field(item, "child_frame_id"))
    if not parent or not child or parent == child:
        raise MessageError(f"A transform from '{parent}' to '{child}' names no two frames: correct its publisher.")
    offset, rotation = _field(pose, "translation"), _field(pose, "rotation")
    translation = [float(_field(offset, axis)) for axis in "xyz"]
    quaternion = [float(_field(rotation, axis)) for axis in "xyzw"]
    if abs(sum(value * value for value in quaternion) - 1.0) > _QUATERNION_TOLERANCE:
        raise MessageError(
            f"The transform from '{parent}' to '{child}' has the quaternion {tuple(quaternion)}, which is not of unit "
            "length: correct its publisher; no rotation is (0, 0, 0, 1)."
        )
    try:
        matrix = make_transform(translation, quaternion)
    except MessageError as error:
        raise MessageError(f"From '{parent}' to '{child}': {error}") from error
    return StampedTransform(parent, child, stamp_ns(header), matrix)


def _decode_raw(msg: Any) -> ByteArray:
    encoding = str(_field(msg, "encoding")).strip()
    if encoding in _SEMI_PLANAR:
        return _decode_semi_planar(msg, encoding)
    if encoding not in _FORMATS:
        raise MessageError(
            f"Image encoding '{encoding}' is not supported: publish one of {', '.join(SUPPORTED_ENCODINGS)}."
        )
    channels, size, code = _FORMATS[encoding]
    order = ">" if _field(msg, "is_bigendian") else "<"
    pixels = _pixels(msg, encoding, channels, np.dtype(np.uint8 if size == 1 else f"{order}u2"))
    if encoding in ("uyvy", "yuv422", "yuyv", "yuv422_yuy2") and pixels.shape[1] % 2:
        raise MessageError(f"A {encoding} image cannot be {pixels.shape[1]} pixels wide: its width must be even.")
    if size == 2:
        pixels = cv2.convertScaleAbs(pixels.astype(np.uint16), alpha=255.0 / 65535.0).reshape(pixels.shape)
    return _to_rgb(pixels, channels, code)


def _to_rgb(pixels: AnyArray, channels: int, code: Optional[int]) -> ByteArray:
    if code is None:
        return np.array(pixels, dtype=np.uint8, order="C")
    pixels = np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels)
    return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


def _decode_semi_planar(msg: Any, encoding: str) -> ByteArray:
    width, height = _image_size(msg, encoding)
    if width % 2 or height % 2:
        raise MessageError(f"A {encoding} image cannot be {width} x {height}: both sides must be even.")
    planes = _rows(msg, encoding, width, height * 3 // 2, width, 1, np.dtype(np.uint8))
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(planes[..., 0]), _SEMI_PLANAR[encoding]), dtype=np.uint8)


def _pixels(msg: Any, encoding: str, channels: int, dtype: np.dtype[Any]) -> AnyArray:
    """(H, W, channels) view of a raw image's data."""
    width, height = _image_size(msg, encoding)
    return _rows(msg, encoding, width, height, width * channels * dtype.itemsize, channels, dtype)


def _rows(
    msg: Any, encoding: str, width: int, height: int, row_bytes: int, channels: int, dtype: np.dtype[Any]
) -> AnyArray:
    data = _bytes(_field(msg, "data"))
    # Drivers that leave step at 0 pack their rows; nothing else can be meant when the data is just that long.
    step = int(_field(msg, "step")) or row_bytes
    if step < row_bytes or len(data) < step * (height - 1) + row_bytes:
        raise MessageError(
            f"The {width} x {height} {encoding} image needs rows of {row_bytes} bytes: step is {step} and data holds "
            f"{len(data)} bytes. It was cut short, or its publisher fills in the wrong size or encoding."
        )
    strides = (step, channels * dtype.itemsize, dtype.itemsize)
    rows: AnyArray = np.ndarray((height, width, channels), dtype=dtype, buffer=data, strides=strides)
    return rows


def _image_size(msg: Any, encoding: str) -> Tuple[int, int]:
    width, height = int(_field(msg, "width")), int(_field(msg, "height"))
    _check_pixels(width, height, encoding)
    return width, height


def _check_pixels(width: int, height: int, kind: str) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise MessageError(
            f"The {kind} image claims {width} x {height} pixels, accepted are 1 to {MAX_PIXELS}: the message is empty "
            "or damaged, or the image must be made smaller."
        )


def decode_compressed(content: bytes, described: str) -> ByteArray:
    """Colour image of a JPEG or PNG, as ``decode_image`` makes it of a sensor_msgs/CompressedImage.

    Args:
        content: the file's bytes.
        described: the message's ``format``, which names the encoding of what was compressed.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        MessageError: damaged, too large, or neither JPEG nor PNG.
    """
    described = described.strip()
    _check_compressed(content, described)
    data = np.frombuffer(content, np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise MessageError(f"The compressed image ('{described}') is damaged: {error}") from error
    if pixels is None:
        raise MessageError(f"The compressed image ('{described}') is damaged and cannot be decoded.")
    if pixels.ndim == 3:
        return _to_rgb(pixels, 3, cv2.COLOR_BGR2RGB)
    # image_transport compresses a Bayer mosaic as it is and names its pattern before the semicolon.
    pattern = described.split(";")[0].strip()
    code = _FORMATS[pattern][2] if pattern.startswith("bayer_") and pattern in _FORMATS else cv2.COLOR_GRAY2RGB
    return _to_rgb(pixels[..., None], 1, code)


def _check_compressed(data: bytes, described: str) -> None:
    """Refuse, before anything is decoded, what is not a whole JPEG or PNG of an acceptable size."""
    if data.startswith(b"\xff\xd8\xff"):
        size, end = _jpeg_size(data)
        # Decoders fill the missing part of a cut file with grey and say nothing to their caller.
        whole = data.rfind(b"\xff\xd9", end) >= 0
    elif data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        size = struct.unpack(">II", data[16:24])
        whole = data.rfind(b"IEND") >= 0
    else:
        raise MessageError(
            f"The compressed image ('{described}', {len(data)} bytes) is neither JPEG nor PNG: publish one of these, "
            "or choose the raw image topic."
        )
    if size is None or not whole:
        raise MessageError(f"The compressed image ('{described}', {len(data)} bytes) is cut short or damaged.")
    _check_pixels(size[0], size[1], "compressed")


def _jpeg_size(data: bytes) -> Tuple[Optional[Tuple[int, ...]], int]:
    """(width, height) from a JPEG's frame header and where that header starts (ITU T.81, annex B)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return (width, height), at
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA or length < 2:
            break
        at += 2 + length
    return None, at


def _bytes(data: Any) -> ByteArray:
    """Flat (N,) uint8 view of a message's data: NumPy array, array.array, bytes, or a list of numbers."""
    try:
        if isinstance(data, np.ndarray):
            return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if isinstance(data, (list, tuple)):
            return np.frombuffer(bytes(data), dtype=np.uint8)
        return np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError) as error:
        raise MessageError(f"The data of a message cannot be read as bytes ({type(data).__name__}): {error}") from error


def _frame(name: Any) -> str:
    return str(name).lstrip("/")


def _field(msg: Any, *names: str) -> Any:
    """The first of the fields that the message has."""
    for name in names:
        value = getattr(msg, name, None)
        if value is not None:
            return value
    raise MessageError(f"{type(msg).__name__} has no field '{names[0]}': it is not the message type expected here.")
