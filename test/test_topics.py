"""Topics are guessed when one fits, and listed when several do."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable, Mapping

import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("mcap")

from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.camera import CameraModel
from mf_ros.core.topics import TopicChoice, choose_topics, is_rectified
from mf_ros.core.transforms import StampedTransform
from mf_ros.core.types import LidarSweep
from mf_ros.errors import TopicError

K = np.array([[50.0, 0.0, 3.5], [0.0, 50.0, 1.5], [0.0, 0.0, 1.0]])
CAMERA = CameraModel(8, 4, K, np.zeros(5))
COLOUR, DEPTH = np.zeros((4, 8, 3), np.uint8), np.ones((4, 8), np.float32)
POINTS = np.ones((3, 3), np.float32)
PERIOD_NS = 100_000_000

BASIC = {
    "/camera/image_raw": "colour",
    "/camera/camera_info": "info",
    "/velodyne_points": "points",
    "/tf": "tf",
    "/tf_static": "tf",
    "/odom": "odometry",
}


def write_bag(path: Path, topics: Mapping[str, str], count: int = 11) -> Path:
    """A bag with these topics at 10 Hz; the value says what is on them."""
    with McapWriter(path) as writer:
        for stamp in range(0, count * PERIOD_NS, PERIOD_NS):
            pose = StampedTransform("odom", "base", stamp, np.eye(4))
            for topic, kind in topics.items():
                if kind == "colour":
                    writer.write_image(topic, COLOUR, stamp, "camera")
                elif kind == "jpeg":
                    writer.write_compressed_image(topic, b"jpeg", stamp, "camera")
                elif kind == "depth":
                    writer.write_depth(topic, DEPTH, stamp, "camera")
                elif kind == "info":
                    writer.write_camera_info(topic, CAMERA, stamp, "camera")
                elif kind == "points":
                    writer.write_points(topic, LidarSweep(POINTS, stamp, "lidar"))
                elif kind == "tf":
                    writer.write_tf([pose], topic=topic)
                else:
                    writer.write_odometry(topic, pose)
    return path


@pytest.fixture
def choose(tmp_path: Path):
    def choose_from(
        topics: Mapping[str, str],
        image: str | None = None,
        camera_info: str | None = None,
        points: Iterable[str] = (),
    ) -> TopicChoice:
        with open_recording(write_bag(tmp_path / "bag.mcap", topics)) as recording:
            return choose_topics(recording, image, camera_info, tuple(points))

    return choose_from


def without(topic: str) -> dict[str, str]:
    return {name: kind for name, kind in BASIC.items() if name != topic}


def test_one_camera_and_one_lidar_need_no_names(choose) -> None:
    choice = choose(BASIC)
    assert choice == TopicChoice(
        image="/camera/image_raw",
        image_type="sensor_msgs/msg/Image",
        camera_info="/camera/camera_info",
        points=("/velodyne_points",),
        tf=("/tf",),
        tf_static=("/tf_static",),
    )


@pytest.mark.parametrize(
    ("streams", "best"),
    [
        ({"/camera/image_raw": "colour", "/camera/image_raw/compressed": "jpeg"}, "/camera/image_raw"),
        ({"/camera/image_raw/compressed": "jpeg"}, "/camera/image_raw/compressed"),
        ({"/camera/image_raw": "colour", "/camera/image_rect_color": "colour"}, "/camera/image_raw"),
        ({"/camera/image_rect": "colour", "/camera/image_raw/compressed": "jpeg"}, "/camera/image_raw/compressed"),
        ({"/camera/image_mono": "colour", "/camera/image_color": "colour"}, "/camera/image_color"),
    ],
)
def test_the_best_stream_of_a_camera_is_taken(streams: dict[str, str], best: str, choose) -> None:
    choice = choose({**without("/camera/image_raw"), **streams})
    assert choice.image == best
    assert choice.camera_info == "/camera/camera_info"
    assert not choice.rectified


def test_a_rectified_image_is_marked(choose) -> None:
    assert choose({**without("/camera/image_raw"), "/camera/image_rect_color": "colour"}).rectified


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/cam/image_rect", True),
        ("/cam/rectified/image", True),
        ("/cam/image_rect_color/compressed", True),
        ("/cam/image_raw", False),
        ("/direct/image", False),
    ],
)
def test_the_name_tells_whether_an_image_is_rectified(topic: str, rectified: bool) -> None:
    assert is_rectified(topic) is rectified


def test_depth_images_are_not_cameras_whatever_they_are_called(choose) -> None:
    depth = {"/d435/aligned_depth_to_color/image_raw": "colour", "/sensor/picture": "depth", "/ir/image": "colour"}
    assert choose({**BASIC, **depth}).image == "/camera/image_raw"


def test_a_recording_with_depth_only_has_no_colour_image(choose) -> None:
    with pytest.raises(TopicError, match=r"no colour image.*/camera/depth/image"):
        choose({**without("/camera/image_raw"), "/camera/depth/image": "depth"})


def test_a_camera_with_calibration_wins_over_one_without(choose) -> None:
    assert choose({**BASIC, "/webcam/image_raw": "colour"}).image == "/camera/image_raw"


def test_several_cameras_are_listed_with_counts_and_rates(choose) -> None:
    stereo = {"/left/image_raw": "colour", "/left/camera_info": "info"}
    with pytest.raises(TopicError) as caught:
        choose({**BASIC, **stereo})
    for topic in ("/camera/image_raw", "/left/image_raw"):
        assert f"{topic} [sensor_msgs/msg/Image, 11 messages, 10.0 Hz]" in str(caught.value)
    choice = choose({**BASIC, **stereo}, image="/left/image_raw")
    assert choice.camera_info == "/left/camera_info", "the sibling of the named image"
    assert choose({**BASIC, **stereo}, image="left/image_raw").image == "/left/image_raw", "the slash may be missing"


@pytest.mark.parametrize(
    ("image", "info"),
    [
        ("/front/camera/image", "/front/camera/camera_info"),
        ("/image", "/camera_info"),
        ("/camera/image", "/camera/image/camera_info"),
        ("/zed/left/image_color/compressed", "/zed/left/camera_info"),
        ("/front/image", "/calibration/front_intrinsics"),
    ],
)
def test_the_calibration_beside_the_image_or_the_only_one_is_found(image: str, info: str, choose) -> None:
    kind = "jpeg" if image.endswith("compressed") else "colour"
    assert choose({image: kind, info: "info", "/points": "points"}).camera_info == info


def test_a_calibration_that_could_be_of_any_camera_is_not_guessed(choose) -> None:
    topics = {"/front/image": "colour", "/a/camera_info": "info", "/b/camera_info": "info", "/points": "points"}
    with pytest.raises(TopicError, match=r"No camera_info lies beside /front/image.*/a/camera_info.*/b/camera_info"):
        choose(topics)
    assert choose(topics, camera_info="/b/camera_info").camera_info == "/b/camera_info"


def test_several_clouds_are_listed_and_may_be_named_together(choose) -> None:
    topics = {**BASIC, "/rear/points": "points"}
    with pytest.raises(TopicError, match=r"several point clouds.*/rear/points \[.*/velodyne_points \["):
        choose(topics)
    named = ("/velodyne_points", "/rear/points")
    assert choose(topics, points=named).points == named, "in the order given"


def test_clouds_of_depth_cameras_and_maps_do_not_compete_with_the_lidar(choose) -> None:
    topics = {**BASIC, "/d435/depth/color/points": "points", "/map": "points"}
    assert choose(topics).points == ("/velodyne_points",)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("/camera/image_raw", "has no camera image"),
        ("/camera/camera_info", "has no camera_info for /camera/image_raw"),
        ("/velodyne_points", "has no LiDAR points"),
    ],
)
def test_what_is_missing_is_one_clear_error(missing: str, reason: str, choose) -> None:
    with pytest.raises(TopicError, match=reason):
        choose(without(missing))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"image": "/nope"}, "has no topic /nope: for an image, choose from /camera/image_raw"),
        ({"image": "/velodyne_points"}, "/velodyne_points is sensor_msgs/msg/PointCloud2, not an image"),
        ({"camera_info": "/odom"}, "/odom is nav_msgs/msg/Odometry, not a camera_info"),
        ({"points": ("/velodyne_points", "/nope")}, "has no topic /nope: for a point cloud"),
    ],
)
def test_a_wrong_name_is_answered_with_the_candidates(given: dict[str, str], reason: str, choose) -> None:
    with pytest.raises(TopicError, match=reason):
        choose(BASIC, **given)


def test_names_may_be_namespaced(choose) -> None:
    choice = choose({f"/robot1{name}": kind for name, kind in BASIC.items()})
    assert (choice.image, choice.tf, choice.tf_static) == (
        "/robot1/camera/image_raw",
        ("/robot1/tf",),
        ("/robot1/tf_static",),
    )


def test_a_driver_s_packets_are_named_as_the_reason_for_missing_points(tmp_path: Path) -> None:
    from bag_samples import custom_typestore
    from mcap.writer import Writer

    path = tmp_path / "livox.mcap"
    name, text = "livox_ros_driver2/msg/CustomMsg", "uint32 point_num"
    store = custom_typestore(text, name)
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros2")
        schema = writer.register_schema(name, "ros2msg", text.encode())
        channel = writer.register_channel("/livox/lidar", "cdr", schema)
        writer.add_message(channel, 0, bytes(store.serialize_cdr(store.types[name](1), name)), 0)
        schema = writer.register_schema("sensor_msgs/msg/CompressedImage", "ros2msg", b"")
        writer.add_message(writer.register_channel("/image/compressed", "cdr", schema), 0, b"", 0)
        schema = writer.register_schema("sensor_msgs/msg/CameraInfo", "ros2msg", b"")
        writer.add_message(writer.register_channel("/camera_info", "cdr", schema), 0, b"", 0)
        writer.finish()
    with (
        open_recording(path) as recording,
        pytest.raises(TopicError, match=r"convert /livox/lidar .* to PointCloud2"),
    ):
        choose_topics(recording)
