"""Which topics of a recording the launch file connects the node to, when its arguments name none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Iterable, Iterator

import pytest

from mf_ros.core.topics import TopicInfo
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


class Bag:
    """A recording of topics by type; every image is in colour."""

    name = "drive.mcap"

    def __init__(self, topics: dict[str, str]) -> None:
        self.topics = [TopicInfo(name, msgtype, 10, 10.0) for name, msgtype in topics.items()]

    def messages(self, topics: Iterable[str]) -> Iterator[Any]:
        return (SimpleNamespace(decode=lambda: SimpleNamespace(encoding="rgb8")) for _ in topics)


def test_the_only_camera_and_lidar_are_found() -> None:
    assert choose(Bag(DRIVE)) == Recorded("/camera/image_raw", "raw", "/camera/camera_info", "/points")


def test_compressed_images_are_found_by_their_base_name() -> None:
    topics = {name: kind for name, kind in DRIVE.items() if name != "/camera/image_raw"}
    topics["/camera/image_raw/compressed"] = COMPRESSED
    expected = Recorded("/camera/image_raw", "compressed", "/camera/camera_info", "/points")
    assert choose(Bag(topics)) == choose(Bag(topics), image="/camera/image_raw") == expected


def test_of_raw_and_compressed_images_of_one_stream_the_raw_ones_are_taken() -> None:
    topics = {**DRIVE, "/camera/image_raw/compressed": COMPRESSED}
    assert choose(Bag(topics)).image_transport == "raw"
    assert choose(Bag(topics), image="/camera/image_raw/compressed").image_transport == "compressed"


def test_what_the_node_published_earlier_is_not_taken_for_its_input() -> None:
    assert choose(Bag({**DRIVE, **{f"/{output}": kind for output, kind in OUTPUTS.items()}})) == choose(Bag(DRIVE))


def test_a_rectified_image_is_known_by_its_name() -> None:
    topics = {"/camera/image_rect": IMAGE, "/camera/camera_info": CAMERA_INFO, "/points": POINTS}
    assert choose(Bag(topics)).rectified and not choose(Bag(DRIVE)).rectified


def test_named_topics_are_taken_as_they_are() -> None:
    topics = {**DRIVE, "/right/image_raw": IMAGE, "/right/camera_info": CAMERA_INFO, "/top": POINTS}
    found = choose(Bag(topics), image="/right/image_raw", points="/points, /top")
    assert found == Recorded("/right/image_raw", "raw", "/right/camera_info", "/points,/top")


@pytest.mark.parametrize(
    ("more", "less", "sentence"),
    [
        ({"/b/image": IMAGE, "/b/camera_info": CAMERA_INFO}, (), r"several cameras.*/camera/image_raw.*/b/image"),
        ({}, ("/camera/camera_info",), r"no camera_info"),
        ({"/top": POINTS}, (), r"several point clouds.*/points.*/top"),
        ({}, ("/points",), r"no LiDAR points"),
    ],
)
def test_where_not_one_topic_fits_the_sentence_says_so(
    more: dict[str, str], less: tuple[str, ...], sentence: str
) -> None:
    topics = {name: kind for name, kind in {**DRIVE, **more}.items() if name not in less}
    with pytest.raises(TopicError, match=sentence):
        choose(Bag(topics))


def test_a_named_topic_that_was_not_recorded_is_refused() -> None:
    with pytest.raises(TopicError, match="no topic /other"):
        choose(Bag(DRIVE), image="/other")
