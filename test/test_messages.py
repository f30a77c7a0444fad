"""Messages of ROS 1 and ROS 2 into the types of mf_ros: a bag reader's message classes, small hand-made images."""

from __future__ import annotations

import array
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core import messages
from mf_ros.errors import CalibrationError, MessageError, MfRosError

typesys = pytest.importorskip("rosbags.typesys", reason="rosbags brings the message classes")
ROS2 = typesys.get_typestore(typesys.Stores.ROS2_JAZZY).types
ROS1 = typesys.get_typestore(typesys.Stores.ROS1_NOETIC).types

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def header(frame_id="camera", sec=12, nanosec=345_678_901):
    time = ROS2["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    return ROS2["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def image_message(data, encoding, width, height, step, is_bigendian=0):
    data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    return ROS2["sensor_msgs/msg/Image"](
        header=header(),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=step,
        data=data,
    )


def packed(pixels: np.ndarray, encoding: str, padding: int = 0):
    """An image message of an (H, W, ...) array, with bytes of rubbish behind each row."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    rows = np.hstack([rows, np.full((height, padding), 0xEE, np.uint8)])
    return image_message(rows.reshape(-1), encoding, width, height, rows.shape[1])


def compressed(data: bytes, described: str = "jpeg"):
    data = np.frombuffer(data, np.uint8)
    return ROS2["sensor_msgs/msg/CompressedImage"](header=header(), format=described, data=data)


def encoded(extension: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(extension, pixels)[1].tobytes()


def camera_info(types=ROS2, **changes):
    values = {
        "header": header(),
        "height": 480,
        "width": 640,
        "distortion_model": "plumb_bob",
        "d": np.array([-0.3, 0.1, 0.001, -0.001, 0.0]),
        "k": np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1]),
        "r": np.eye(3).reshape(-1),
        "p": np.array([450.0, 0, 310, 0, 0, 460, 230, 0, 0, 0, 1, 0]),
        "binning_x": 0,
        "binning_y": 0,
        "roi": types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        **changes,
    }
    if types is ROS1:
        values = {name.upper() if len(name) == 1 else name: value for name, value in values.items()}
    return types["sensor_msgs/msg/CameraInfo"](**values)


def transform_message(parent="odom", child="base", translation=(1.0, 2.0, 3.0), rotation=(0.0, 0.0, 0.0, 1.0)):
    transform = ROS2["geometry_msgs/msg/Transform"](
        translation=ROS2["geometry_msgs/msg/Vector3"](*translation),
        rotation=ROS2["geometry_msgs/msg/Quaternion"](*rotation),
    )
    stamped = ROS2["geometry_msgs/msg/TransformStamped"](
        header=header(parent), child_frame_id=child, transform=transform
    )
    return ROS2["tf2_msgs/msg/TFMessage"](transforms=[stamped])


def cloud_message(points: np.ndarray, frame_id="lidar", **changes):
    field = ROS2["sensor_msgs/msg/PointField"]
    data = np.ascontiguousarray(points, dtype="<f4").reshape(-1).view(np.uint8)
    values = {
        "header": header(frame_id),
        "height": 1,
        "width": len(points),
        "fields": [field(name=name, offset=4 * i, datatype=7, count=1) for i, name in enumerate("xyz")],
        "is_bigendian": False,
        "point_step": 12,
        "row_step": 12 * len(points),
        "data": data,
        "is_dense": True,
        **changes,
    }
    return ROS2["sensor_msgs/msg/PointCloud2"](**values)


def test_stamps_of_both_ros_versions_are_whole_nanoseconds():
    assert messages.stamp_ns(header(sec=1_700_000_000, nanosec=1)) == 1_700_000_000_000_000_001
    ros1 = SimpleNamespace(stamp=SimpleNamespace(secs=3, nsecs=5), frame_id="/map")
    assert messages.stamp_ns(ros1) == 3_000_000_005
    assert messages.frame_id_of(ros1) == "map"


@pytest.mark.parametrize(("sec", "nanosec"), [(1, 1_000_000_000), (1, 2**32 - 1), (-1, 0), (1, -1)])
def test_a_stamp_that_is_no_time_is_refused(sec, nanosec):
    with pytest.raises(MessageError, match=rf"A stamp of {sec} s and {nanosec} ns \(frame 'camera'\) is no time"):
        messages.stamp_ns(header(sec=sec, nanosec=nanosec))


def test_images_and_clouds_without_a_stamp_are_refused():
    unstamped = header(sec=0, nanosec=0)
    image = packed(np.zeros((2, 3, 3), np.uint8), "rgb8")
    small = compressed(encoded(".png", np.zeros((2, 3, 3), np.uint8)), "png")
    for message in (image, small):
        assert messages.decode_image(message).shape == (2, 3, 3)
        message.header = unstamped
        with pytest.raises(MessageError, match="the driver does not stamp its messages"):
            messages.decode_image(message)
    with pytest.raises(MessageError, match="the driver does not stamp its messages"):
        messages.decode_cloud(cloud_message(np.ones((2, 3)), header=unstamped))
    with pytest.raises(MessageError, match="the driver does not stamp its messages"):
        messages.measured_stamp_ns(unstamped)


def test_what_always_holds_needs_no_stamp():
    static = transform_message()
    static.transforms[0].header = header("odom", 0, 0)
    transform = messages.transform_of(*static.transforms)
    assert transform.stamp_ns == 0
    info = camera_info(header=header(sec=0, nanosec=0))
    assert messages.stamp_ns(info.header) == 0
    assert messages.camera_from_info(info).width == 640


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", [10, 20, 30]),
        ("bgr8", [30, 20, 10]),
        ("8UC3", [30, 20, 10]),
        ("rgba8", [10, 20, 30, 77]),
        ("bgra8", [30, 20, 10, 77]),
        ("8UC4", [30, 20, 10, 77]),
    ],
)
@pytest.mark.parametrize("padding", [0, 1, 7])
def test_colour_encodings_come_out_as_rgb_whatever_the_row_padding(encoding, pixel, padding):
    pixels = np.tile(np.array(pixel, np.uint8), (3, 5, 1))
    pixels[1, 2, :3] = pixels[1, 2, :3] + 100
    image = messages.decode_image(packed(pixels, encoding, padding))
    expected = np.tile(np.array([10, 20, 30], np.uint8), (3, 5, 1))
    expected[1, 2] += 100
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_three_equal_channels(encoding):
    grey = np.arange(15, dtype=np.uint8).reshape(3, 5)
    np.testing.assert_array_equal(messages.decode_image(packed(grey, encoding, 3)), np.dstack([grey] * 3))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_sixteen_bits_are_scaled_to_eight_in_either_byte_order(encoding, is_bigendian):
    values = struct.pack(">4H" if is_bigendian else "<4H", 0, 257 * 9, 257 * 200, 65535)
    image = messages.decode_image(image_message(values, encoding, 2, 2, 4, is_bigendian))
    assert image[..., 0].tolist() == [[0, 9], [200, 255]]


def test_sixteen_bit_colour_with_an_odd_step_is_read():
    pixels = np.tile(np.array([257 * 3, 257 * 2, 257], "<u2"), (2, 3, 1))
    assert messages.decode_image(packed(pixels, "bgr16", 1))[1, 2].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("pattern", "tile"), [("rggb", "RGGB"), ("bggr", "BGGR"), ("gbrg", "GBRG"), ("grbg", "GRBG")])
@pytest.mark.parametrize("colour", [RED, GREEN, BLUE])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns_give_back_the_colour_of_the_scene(pattern, tile, colour, bits):
    # What a sensor with this filter measures in front of a wall of one colour.
    filters = [colour["RGB".index(letter)] for letter in tile]
    mosaic = np.tile(np.array(filters).reshape(2, 2), (4, 5))
    mosaic = mosaic.astype(np.uint8) if bits == 8 else (mosaic * 257).astype("<u2")
    image = messages.decode_image(packed(mosaic, f"bayer_{pattern}{bits}", 2))
    assert image.shape == (8, 10, 3)
    np.testing.assert_array_equal(image, np.broadcast_to(np.array(colour, np.uint8), image.shape))


@pytest.mark.parametrize(
    ("encoding", "order"), [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")]
)
def test_yuv422_is_read_in_its_order(encoding, order):
    # BT.601 video range: this is pure red.
    values = iter([81, 81])
    quad = [{"u": 90, "v": 240}.get(letter) or next(values) for letter in order]
    pixels = np.tile(np.array(quad, np.uint8), (4, 3)).reshape(4, 6, 2)
    image = messages.decode_image(packed(pixels, encoding, 4))
    assert np.abs(image.astype(int) - RED).max() <= 2


@pytest.mark.parametrize(("encoding", "pair"), [("nv12", (90, 240)), ("nv21", (240, 90))])
def test_semi_planar_yuv_is_read_in_its_order(encoding, pair):
    luma, chroma = np.full((4, 6), 81, np.uint8), np.tile(np.array(pair, np.uint8), (2, 3))
    planes = np.vstack([luma, chroma])
    planes = np.hstack([planes, np.zeros((6, 2), np.uint8)])
    image = messages.decode_image(image_message(planes.reshape(-1), encoding, 6, 4, 8))
    assert image.shape == (4, 6, 3) and np.abs(image.astype(int) - RED).max() <= 2


@pytest.mark.parametrize("container", [bytes, bytearray, lambda data: array.array("B", data), list])
def test_every_container_that_clients_use_for_data_is_read(container):
    message = image_message(container(bytes(range(12))), "rgb8", 2, 2, 6)
    message.data = container(bytes(range(12)))
    assert messages.decode_image(message).reshape(-1).tolist() == list(range(12))


def test_the_image_does_not_share_the_messages_memory():
    message = packed(np.zeros((2, 2, 3), np.uint8), "rgb8")
    image = messages.decode_image(message)
    image[:] = 9
    assert not message.data.any()


def test_rows_may_end_at_the_last_pixel_and_step_may_be_left_out():
    pixels = np.arange(18, dtype=np.uint8)
    cut = np.concatenate([pixels[:9], [0, 0], pixels[9:]]).astype(np.uint8)
    for message in (image_message(cut, "rgb8", 3, 2, 11), image_message(pixels, "rgb8", 3, 2, 0)):
        assert messages.decode_image(message).reshape(-1).tolist() == pixels.tolist()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (image_message(bytes(12), "rgb9", 2, 2, 6), "'rgb9' is not supported: publish one of rgb8, bgr8"),
        (image_message(bytes(16), "32FC1", 2, 2, 8), "'32FC1' is not supported"),
        (image_message(bytes(11), "rgb8", 2, 2, 6), "data holds 11 bytes"),
        (image_message(bytes(12), "rgb8", 2, 2, 5), "step is 5"),
        (image_message(bytes(12), "rgb8", 0, 2, 6), "claims 0 x 2"),
        (image_message(bytes(12), "rgb8", 2**31, 2**31, 6), "claims 2147483648"),
        (image_message(b"", "rgb8", 2, 2, 6), "data holds 0 bytes"),
        (image_message(bytes(12), "uyvy", 3, 2, 6), "must be even"),
        (image_message(bytes(12), "nv21", 3, 2, 3), "must be even"),
        (header(), "is no image"),
        (SimpleNamespace(encoding="rgb8"), "no field"),
    ],
)
def test_an_image_that_cannot_be_read_says_why(message, text):
    with pytest.raises(MessageError, match=text):
        messages.decode_image(message)


@settings(max_examples=150, deadline=None)
@given(
    encoding=st.sampled_from([*messages.SUPPORTED_ENCODINGS, "", "jpeg"]),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 5),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 5),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 40),
    data=st.binary(max_size=200),
)
def test_no_header_makes_raw_decoding_read_past_the_data(encoding, width, height, step, data):
    try:
        image = messages.decode_image(image_message(data, encoding, width, height, step))
    except MessageError:
        return
    assert image.shape == (height, width, 3) and width * height <= len(data)


@pytest.mark.parametrize(("extension", "described"), [(".png", "png"), (".png", "rgb8; png compressed bgr8")])
def test_png_comes_back_exactly_as_rgb(extension, described):
    rgb = np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8)
    image = messages.decode_image(compressed(encoded(extension, rgb[..., ::-1]), described))
    np.testing.assert_array_equal(image, rgb)


def test_jpeg_comes_back_as_rgb():
    bgr = np.full((32, 48, 3), BLUE[::-1], np.uint8)
    image = messages.decode_image(compressed(encoded(".jpg", bgr), "bgr8; jpeg compressed bgr8"))
    assert image.shape == (32, 48, 3) and np.abs(image.astype(int) - BLUE).max() <= 3


def test_compressed_grey_becomes_rgb_and_a_compressed_mosaic_is_interpolated():
    mosaic = np.tile(np.array([[255, 0], [0, 0]], np.uint8), (4, 4))
    grey = messages.decode_image(compressed(encoded(".png", mosaic), "mono8; png compressed "))
    np.testing.assert_array_equal(grey, np.dstack([mosaic] * 3))
    colour = messages.decode_image(compressed(encoded(".png", mosaic), "bayer_rggb8; png compressed "))
    np.testing.assert_array_equal(colour, np.broadcast_to(np.uint8(RED), colour.shape))


def test_an_orientation_tag_does_not_turn_the_image_away_from_its_calibration():
    jpeg = encoded(".jpg", np.zeros((16, 32, 3), np.uint8))
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    exif = b"Exif\x00\x00" + tiff
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (32, 16, 3)
    assert messages.decode_image(compressed(turned)).shape == (16, 32, 3)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_compressed_image_that_was_cut_short_is_refused(extension):
    whole = encoded(extension, np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    messages.decode_image(compressed(whole))
    for length in (0, 1, 3, 10, 30, len(whole) // 2, len(whole) - 20):
        with pytest.raises(MessageError):
            messages.decode_image(compressed(whole[:length]))


def test_a_small_file_that_unpacks_to_a_huge_image_is_refused_before_it_is_decoded():
    png = bytearray(encoded(".png", np.zeros((8, 8), np.uint8)))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    jpeg = bytearray(encoded(".jpg", np.zeros((8, 8), np.uint8)))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    for data in (png, jpeg):
        with pytest.raises(MessageError, match="60000 x 60000"):
            messages.decode_image(compressed(bytes(data)))


@pytest.mark.parametrize("described", ["h264", "16UC1; compressedDepth png"])
def test_another_compression_is_refused_by_name(described):
    with pytest.raises(MessageError, match=f"'{described}'.*neither JPEG nor PNG"):
        messages.decode_image(compressed(b"\x00" * 40, described))


def test_depth_images_are_read_in_both_encodings():
    metres = np.array([[1.5, np.nan], [np.inf, 0.0]], "<f4")
    expected = np.array([[1.5, np.nan], [np.inf, np.nan]], np.float32)
    np.testing.assert_array_equal(messages.decode_depth_image(packed(metres, "32FC1", 3)), expected)
    big = image_message(metres.astype(">f4").tobytes(), "32FC1", 2, 2, 8, is_bigendian=1)
    np.testing.assert_array_equal(messages.decode_depth_image(big), expected)
    millimetres = packed(np.array([[0, 1500]], "<u2"), "16UC1")
    np.testing.assert_array_equal(messages.decode_depth_image(millimetres), np.float32([[np.nan, 1.5]]))
    with pytest.raises(MessageError, match="'rgb8' is not a depth encoding"):
        messages.decode_depth_image(packed(np.zeros((2, 2, 3), np.uint8), "rgb8"))


@pytest.mark.parametrize("types", [ROS1, ROS2], ids=["ROS 1", "ROS 2"])
def test_camera_info_of_both_ros_versions(types):
    camera = messages.camera_from_info(camera_info(types), image_size=(640, 480))
    assert (camera.width, camera.height, camera.distortion_model) == (640, 480, "plumb_bob")
    assert camera.K.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    assert camera.D.tolist() == [-0.3, 0.1, 0.001, -0.001, 0.0]


def test_camera_info_honours_roi_and_binning():
    roi = ROS2["sensor_msgs/msg/RegionOfInterest"](x_offset=100, y_offset=50, height=200, width=400, do_rectify=False)
    camera = messages.camera_from_info(camera_info(roi=roi, binning_x=2, binning_y=4), image_size=(200, 50))
    assert camera.K[0].tolist() == [250.0, 0.0, (320 - 100 + 0.5) / 2 - 0.5]
    assert camera.K[1].tolist() == [0.0, 127.5, (240 - 50 + 0.5) / 4 - 0.5]


def test_rectified_images_use_P_and_no_distortion():
    camera = messages.camera_from_info(camera_info(), rectified=True)
    assert not camera.has_distortion
    assert camera.K.tolist() == [[450, 0, 310], [0, 460, 230], [0, 0, 1]]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"k": np.zeros(9)}, "not calibrated"),
        ({"distortion_model": "omnidirectional"}, "'omnidirectional'"),
        ({"width": 800}, "640 x 480.*800 x 480"),
    ],
)
def test_a_camera_info_that_cannot_be_used_says_why(changes, text):
    with pytest.raises(CalibrationError, match=text):
        messages.camera_from_info(camera_info(**changes), image_size=(640, 480))


def test_a_message_of_another_type_is_no_camera_info():
    with pytest.raises(MessageError, match="has no field 'roi'"):
        messages.camera_from_info(header())


def test_a_cloud_becomes_a_sweep_in_its_frame():
    points = np.array([[1, 2, 3], [np.nan, 0, 0], [4, 5, 6]], np.float32)
    sweep = messages.decode_cloud(cloud_message(points, "/velodyne"))
    assert sweep.frame_id == "velodyne" and sweep.stamp_ns == 12_345_678_901
    np.testing.assert_array_equal(sweep.points, points[[0, 2]])


def test_a_cloud_that_cannot_be_read_says_which():
    with pytest.raises(MessageError, match="frame 'lidar'"):
        messages.decode_cloud(cloud_message(np.zeros((2, 3)), width=1000))
    with pytest.raises(MessageError, match="frame 'lidar'"):
        messages.decode_cloud(cloud_message(np.ones((2, 3)), fields=[]))
    with pytest.raises(MessageError, match="has no field"):
        messages.decode_cloud(header())


def test_transforms_map_points_from_child_to_parent():
    quarter = np.sqrt(0.5)
    message = transform_message("/odom", "/base", (1, 2, 3), (0, 0, quarter, quarter))
    transform = messages.transform_of(*message.transforms)
    assert (transform.parent, transform.child, transform.stamp_ns) == ("odom", "base", 12_345_678_901)
    # A quarter turn to the left takes x to y.
    np.testing.assert_allclose(transform.T_parent_child @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rotation": (0.0, 0.0, 0.0, 0.0)}, "'odom' to 'base'.*unit length"),
        ({"rotation": (0.0, 0.0, 0.0, 1.1)}, "unit length"),
        ({"rotation": (0.0, 0.0, 0.0, float("nan"))}, "'odom' to 'base'.*NaN"),
        ({"translation": (0.0, float("inf"), 0.0)}, "'odom' to 'base'.*infinity"),
        ({"child": "/odom"}, "names no two frames"),
        ({"parent": ""}, "names no two frames"),
    ],
)
def test_a_transform_that_cannot_be_used_is_refused(changes, text):
    with pytest.raises(MfRosError, match=text):
        messages.transform_of(*transform_message(**changes).transforms)


def test_a_quaternion_rounded_to_two_digits_is_normalised():
    transform = messages.transform_of(*transform_message(rotation=(0.71, 0.0, 0.0, 0.71)).transforms)
    rotation = transform.T_parent_child[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
