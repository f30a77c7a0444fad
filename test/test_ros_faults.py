"""The node on a real ROS 2 when clocks, networks, transforms, engines and users do what they should not."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from ros_peer import BEST_EFFORT, BUILD, LATCHED, TYPES, NodeProcess, Peer, frames, new_domain, stamp_of, wait_until
from wall_scene import CAMERA, CAMERA_FRAME, stamp

pytestmark = pytest.mark.ros

DEPTH = "/depth/image"
Start = Callable[..., "tuple[NodeProcess, Peer]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts nodes, each with a peer in the same domain, and ends them all."""
    running: list[NodeProcess] = []
    peers: list[Peer] = []

    def started(
        parameters: dict[str, Any] | None = None,
        *,
        arguments: tuple[str, ...] = (),
        engine_s: float = 0.0,
        prefix: str = "",
        listen: tuple[str, ...] = ("depth/image",),
        extrinsics: bool = True,
        active: bool = True,
        domain: int | None = None,
    ) -> tuple[NodeProcess, Peer]:
        domain = new_domain() if domain is None else domain
        node = NodeProcess(tmp_path, domain, parameters, arguments, engine_s)
        running.append(node)
        peer = Peer(domain, prefix)
        peers.append(peer)
        if active:
            assert node.says("Active"), node.log
        if listen:
            peer.listen(*listen)
        if extrinsics:
            peer.publish_extrinsics()
        return node, peer

    yield started
    for peer in peers:
        peer.close()
    for node in running:
        node.stop()


def until_depth(peer: Peer, start: int = 0, topic: str = DEPTH) -> int:
    """Publish sets until depth comes; returns the next number."""
    for number in frames(100, start, 0.1):
        peer.publish_set(number)
        if peer.heard[topic]:
            return number + 1
    raise AssertionError("no depth was published")


def test_a_recording_that_is_played_again_gives_depth_again(start: Start) -> None:
    _, peer = start()
    until_depth(peer, 1000)
    for _ in range(2):
        peer.heard[DEPTH].clear()
        sent = {peer.publish_set(number) for number in frames(12, 0, 0.1)}
        assert wait_until(lambda sent=sent: len(set(peer.stamps(DEPTH)) & sent) >= 9), len(peer.heard[DEPTH])


def test_sweeps_that_come_105_ms_late_are_waited_for(start: Start) -> None:
    _, peer = start()
    until_depth(peer, 1000)
    peer.heard[DEPTH].clear()
    sent = set()
    for number in frames(20, 2000, 0.1):
        sent.add(peer.publish_image(number))
        if number > 2001:
            peer.publish_sweep(number - 1)
    assert wait_until(lambda: len(set(peer.stamps(DEPTH)) & sent) >= 15), len(peer.heard[DEPTH])


def test_a_slow_camera_beside_a_fast_lidar(start: Start) -> None:
    _, peer = start()
    until_depth(peer, 1000)
    peer.heard[DEPTH].clear()
    sent = []
    for number in frames(40, 2000, 0.05):
        peer.publish_sweep(number / 2)
        if number % 10 == 0:
            sent.append(peer.publish_image(number / 2))
    assert wait_until(lambda: set(sent[:-1]) <= set(peer.stamps(DEPTH)))


def test_without_transforms_nothing_is_published_and_the_frames_are_named(start: Start) -> None:
    node, peer = start(extrinsics=False)
    for number in frames(20, 0, 0.1):
        peer.publish_set(number)
    assert node.says("no_transform")
    assert "'camera_optical' is in no transform" in node.log
    assert not peer.heard[DEPTH]
    peer.publish_extrinsics()
    until_depth(peer, 100)


def test_a_qos_that_does_not_fit_is_said_with_the_override_that_does(start: Start) -> None:
    node, peer = start({"qos_overrides./points.subscription.reliability": "reliable"})
    peer.publish_sweep(0, qos=BEST_EFFORT)
    assert node.says("qos_overrides./points.subscription.reliability: best_effort"), node.log


def test_an_override_of_the_qos_works(start: Start) -> None:
    _, peer = start({"qos_overrides./image.subscription.reliability": "reliable"})
    until_depth(peer)
    reliability = {
        topic: peer.node.get_subscriptions_info_by_topic(topic)[0].qos_profile.reliability.name
        for topic in ("/image", "/points")
    }
    assert reliability == {"/image": "RELIABLE", "/points": "BEST_EFFORT"}


def test_a_calibration_that_was_sent_once_before_the_node_was_there(start: Start) -> None:
    domain = new_domain()
    camera = Peer(domain)
    msgtype, info = BUILD.camera_info(CAMERA, stamp(0), CAMERA_FRAME)
    camera.node.create_publisher(TYPES[msgtype], "/camera_info", LATCHED).publish(info)
    node, peer = start(domain=domain)
    assert node.says("qos_overrides./camera_info.subscription.durability: transient_local"), node.log
    node.stop()
    kept = {"durability": "transient_local", "reliability": "reliable"}
    overrides = {f"qos_overrides./camera_info.subscription.{policy}": value for policy, value in kept.items()}
    start(overrides, domain=domain, listen=(), extrinsics=False)
    pixels = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    for number in frames(40, 0, 0.1):
        peer.publish_sweep(number)
        peer.publish("/image", BUILD.image(pixels, stamp(number), CAMERA_FRAME, "rgb8"))
    assert peer.heard[DEPTH]
    assert wait_until(lambda: float(peer.diagnostic("inputs", "/camera_info age s") or 0) > 2.5)
    assert "camera_info" not in peer.status["inputs"].message
    camera.close()


def test_a_slow_engine_skips_images_and_keeps_latency_bounded(start: Start) -> None:
    engine_s = 0.3
    _, peer = start(engine_s=engine_s)
    until_depth(peer, 1000)
    peer.heard[DEPTH].clear()
    sent_at: dict[int, float] = {}
    late: list[float] = []
    for number in frames(90, 2000, 0.033):
        sent_at[peer.publish_set(number)] = time.monotonic()
        while len(late) < len(peer.heard[DEPTH]):
            late.append(time.monotonic() - sent_at.get(stamp_of(peer.heard[DEPTH][len(late)]), time.monotonic()))
    assert 4 <= len(late) < 30
    assert sorted(peer.stamps(DEPTH)) == peer.stamps(DEPTH), "an older image came after a newer one"
    # One image in the engine, one that waits for it, and room for a busy machine.
    assert max(late) < 3 * engine_s + 0.5, late
    assert wait_until(lambda: int(peer.diagnostic("depth", "dropped: stale") or 0) > 20)


def test_two_cameras_in_one_node_share_the_lidar(start: Start) -> None:
    _, peer = start({"node.camera_names": ["front", "rear"]}, listen=())
    for camera in ("front", "rear"):
        peer.listen("depth/image", prefix=f"/{camera}")
    for number in frames(100, 0, 0.1):
        peer.publish_sweep(number)
        for camera in ("front", "rear"):
            peer.publish_image(number, f"{camera}/")
        if peer.heard["/front/depth/image"] and peer.heard["/rear/depth/image"]:
            break
    assert peer.heard["/front/depth/image"] and peer.heard["/rear/depth/image"]
    assert wait_until(lambda: {"front: depth", "rear: depth"} <= set(peer.status))


def test_two_nodes_in_two_namespaces_do_not_meet(start: Start) -> None:
    domain = new_domain()
    _, left = start(prefix="/left", arguments=("-r", "__ns:=/left"), domain=domain)
    _, right = start(prefix="/right", arguments=("-r", "__ns:=/right"), domain=domain)
    until_depth(left, topic="/left/depth/image")
    assert not right.heard["/right/depth/image"]
    until_depth(right, topic="/right/depth/image")


def test_two_lidars_are_merged_and_a_missing_one_is_told(start: Start) -> None:
    node, peer = start({"node.points_topics": ["points", "points_2"]}, listen=("sparse_depth/image",))
    counts: list[int] = []
    for number in frames(40, 0, 0.1):
        peer.publish_sweep(number)
        peer.publish_sweep(number, "points_2", lift_m=0.12)
        peer.publish_image(number)
        counts = [np.isfinite(_floats(message)).sum() for message in peer.heard["/sparse_depth/image"]]
        if len(counts) >= 5:
            break
    alone = []
    for number in frames(40, 1000, 0.1):
        peer.publish_set(number)
        after = [message for message in peer.heard["/sparse_depth/image"] if stamp_of(message) >= stamp(1000)]
        alone = [np.isfinite(_floats(message)).sum() for message in after]
        if len(alone) >= 3:
            break
    assert np.median(counts) > 1.3 * np.median(alone) > 0
    assert node.says("partial_lidar")


def test_compressed_images(start: Start) -> None:
    _, peer = start({"node.image_transport": "compressed"})
    for number in frames(60, 0, 0.1):
        peer.publish_sweep(number)
        peer.publish_image(number, compressed=True)
        if peer.heard[DEPTH]:
            break
    assert peer.heard[DEPTH]


def test_nothing_is_computed_that_nobody_hears(start: Start) -> None:
    _, peer = start(listen=())
    for number in frames(60, 0, 0.1):
        peer.publish_set(number)
        if int(peer.diagnostic("depth", "dropped: unheard") or 0) > 3:
            break
    assert int(peer.diagnostic("depth", "dropped: unheard")) > 3
    assert peer.diagnostic("depth", "images with depth") == "0"
    peer.listen("depth/image")
    until_depth(peer, 1000)


def test_a_topic_that_nobody_publishes_is_told_with_what_there_is(start: Start) -> None:
    node, peer = start(arguments=("-r", "image:=/cam/image_raw"))
    peer.publish_image(0, "other/")
    assert node.says("nobody publishes '/cam/image_raw'")
    assert node.says("/other/image; remap 'image' to one of them")
    assert wait_until(lambda: peer.status.get("inputs") and "nobody publishes" in peer.status["inputs"].message)


def test_a_lidar_with_another_clock_is_told(start: Start) -> None:
    node, peer = start()
    for number in frames(20, 0, 0.1):
        peer.publish_sweep(number + 370)
        peer.publish_image(number)
    assert wait_until(lambda: re.search(r"the clock of the LiDAR is 3[67]\.\d+ s ahead of the camera's", node.log))
    assert not peer.heard[DEPTH]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"output.scale": 99.0}, "output.scale"),
        ({"engine.quality": "turbo"}, "engine.quality"),
        ({"cloud.voxel_m": "abc"}, "cloud.voxel_m"),
        ({"cloud.min_depth_m": 9.0, "cloud.max_depth_m": 2.0}, "cloud.min_depth_m"),
        ({"node.camera_names": ["front", "front"]}, "node.camera_names"),
    ],
)
def test_parameters_that_cannot_be_used_end_the_start_with_one_sentence(
    start: Start, given: dict[str, Any], named: str
) -> None:
    node, _ = start(given, active=False, listen=(), extrinsics=False)
    assert node.process.wait(20) == 2
    assert named in node.log and "Traceback" not in node.log
    assert len(node.log.strip().splitlines()) == 1, node.log


def test_a_name_that_no_parameter_has_is_told_and_a_whole_number_is_a_number(start: Start) -> None:
    node, _ = start({"cloud.min_dept_m": 1.0, "cloud.max_depth_m": 50}, listen=(), extrinsics=False)
    assert node.says("'cloud.min_dept_m' is not one of this node's: cloud.min_depth_m")


def test_without_a_gpu_the_one_that_was_asked_for_is_missed(start: Start) -> None:
    node, _ = start({"engine.name": "onnx", "engine.device": "cuda"}, active=False, listen=(), extrinsics=False)
    if node.says("Active", 10.0):
        pytest.skip("there is a GPU")
    assert node.process.wait(20) == 1
    assert "cuda" in node.log.lower() and "Traceback" not in node.log


def test_a_lifecycle_manager_can_start_it(start: Start) -> None:
    _, peer = start({"node.autostart": False}, active=False)
    assert peer.state() == "unconfigured"
    assert peer.change_state("configure") and peer.change_state("activate")
    until_depth(peer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_without_a_trace(start: Start, number: int) -> None:
    node, peer = start()
    until_depth(peer)
    node.process.send_signal(number)
    assert node.stop(number) == 0
    assert "Traceback" not in node.log


def test_a_shutdown_leaves_nothing_behind(start: Start) -> None:
    node, peer = start()
    until_depth(peer)
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
    assert peer.call(ChangeState, "/mf_ros/change_state", request).success
    assert peer.state() == "finalized"
    assert wait_until(lambda: peer.node.count_publishers(DEPTH) == 0 and peer.node.count_subscribers("/image") == 0)
    assert node.stop() == 0


def _floats(message: Any) -> np.ndarray:
    return np.frombuffer(message.data, np.float32)
