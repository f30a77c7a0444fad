"""Which topics of a recording the launch file connects the node to, when its arguments name none."""

from __future__ import annotations

import re

import pytest

from mf_ros.engine.outputs import OUTPUTS
from mf_ros.errors import TopicError
from mf_ros.ros.recorded import CAMERA_INFO, COMPRESSED, IMAGE, POINTS, Recorded, choose

DRIVE = {
    "/camera/image_raw": IMAGE,
    "/camera/camera_info": CAMERA_INFO,
    "/camera/depth/ground_truth": IMAGE,
    "/points": POINTS,
    "/odom": "nav_msgs/msg/Odometry",
}


def test_the_image_is_the_one_that_has_a_calibration_beside_it() -> None:
    assert choose(DRIVE) == Recorded("/camera/image_raw", "raw", "/camera/camera_info", "/points")


def test_a_calibration_may_lie_below_the_image() -> None:
    topics = {"/cam/image": IMAGE, "/cam/image/camera_info": CAMERA_INFO, "/points": POINTS}
    assert choose(topics).camera_info == "/cam/image/camera_info"


def test_compressed_images_are_found_by_their_base_name() -> None:
    topics = {name: kind for name, kind in DRIVE.items() if name != "/camera/image_raw"}
    topics["/camera/image_raw/compressed"] = COMPRESSED
    assert choose(topics) == Recorded("/camera/image_raw", "compressed", "/camera/camera_info", "/points")


def test_of_raw_and_compressed_images_of_one_stream_the_raw_ones_are_taken() -> None:
    topics = {**DRIVE, "/camera/image_raw/compressed": COMPRESSED}
    assert choose(topics).image_transport == "raw"
    assert choose(topics, image="/camera/image_raw/compressed").image_transport == "compressed"


def test_what_the_node_published_earlier_is_not_taken_for_its_input() -> None:
    assert choose({**DRIVE, **{f"/{output}": kind for output, kind in OUTPUTS.items()}}) == choose(DRIVE)


def test_named_topics_are_taken_as_they_are() -> None:
    topics = {**DRIVE, "/right/image_raw": IMAGE, "/right/camera_info": CAMERA_INFO, "/top": POINTS}
    found = choose(topics, image="/right/image_raw", points="/points,/top")
    assert found == Recorded("/right/image_raw", "raw", "/right/camera_info", "/points,/top")
    assert choose(topics, "/right/image_raw", "/camera/camera_info", "/top").camera_info == "/camera/camera_info"


@pytest.mark.parametrize(
    ("more", "less", "sentence"),
    [
        ({"/b/image": IMAGE, "/b/camera_info": CAMERA_INFO}, (), r"several topics fit; set image_topic to .*/b/image"),
        ({}, ("/camera/camera_info",), r"there is none; set image_topic to one of: /camera/image_raw, /camera/depth"),
        ({"/top": POINTS}, (), r"point cloud is not clear, several topics fit; set points_topic to .*/points, /top"),
        ({}, ("/points",), r"point cloud is not clear, there is none; .*\(the recording has none\)"),
    ],
)
def test_where_not_one_topic_fits_the_sentence_lists_them(
    more: dict[str, str], less: tuple[str, ...], sentence: str
) -> None:
    topics = {name: kind for name, kind in {**DRIVE, **more}.items() if name not in less}
    with pytest.raises(TopicError, match=sentence):
        choose(topics)


def test_a_named_image_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(TopicError, match=re.escape("no image /other; choose image_topic from: /camera/image_raw")):
        choose(DRIVE, image="/other")
