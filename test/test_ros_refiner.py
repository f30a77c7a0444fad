"""The node on a real ROS 2 with a second, slow engine that refines depth."""

from __future__ import annotations

from typing import Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from ros_peer import NodeProcess, Peer, frames, new_domain, wait_until
from wall_scene import CAMERA_FRAME

from mf_ros.engine.outputs import OUTPUTS
from mf_ros.ros.refiner import REFINED

pytestmark = pytest.mark.ros

DEPTH, REFINED_DEPTH = "/depth/image", "/depth/refined/image"
SLOW_S = 0.6


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Peer]]:
    """A node that refines with an engine that takes its time, and a peer that hears depth of both kinds."""
    domain = new_domain()
    node = NodeProcess(tmp_path_factory.mktemp("node"), domain, {"engine.refine": "flux"}, (), SLOW_S, "flux")
    peer = Peer(domain)
    assert node.says("Active") and node.says("Depth is refined by classical"), node.log
    peer.listen("depth/image")
    for output, topic in REFINED.items():
        peer.listen_to(f"/{topic}", OUTPUTS[output])
    peer.publish_extrinsics()
    yield node, peer
    peer.close()
    node.stop()


numbers = iter(range(0, 10_000_000, 1000))


def refined(peer: Peer) -> bool:
    """Publish sets until one was refined."""
    for number in frames(100, next(numbers), 0.1):
        peer.publish_set(number)
        if peer.heard[REFINED_DEPTH]:
            return True
    return False


def test_some_images_are_refined_while_all_others_go_on(peer: Peer) -> None:
    assert refined(peer)
    for heard in peer.heard.values():
        heard.clear()
    sent = {peer.publish_set(number) for number in frames(30, next(numbers), 0.1)}
    assert wait_until(lambda: all(len(peer.heard[f"/{topic}"]) >= 3 for topic in REFINED.values()))
    # The first may be of an image from before.
    better = [each for each in peer.stamps(REFINED_DEPTH) if each >= min(sent)]
    assert len(better) >= 2 and set(better) <= sent
    assert {message.header.frame_id for message in peer.heard[REFINED_DEPTH]} == {CAMERA_FRAME}
    # 3 s of images at 10 Hz, of which 0.6 s each are refined; a busy machine skips some of both.
    assert len(peer.heard[DEPTH]) > 2 * len(better)


def test_diagnostics_count_what_is_refined(peer: Peer) -> None:
    assert refined(peer)
    assert wait_until(lambda: int(peer.diagnostic("refined", "images refined") or 0) > 0)
    assert float(peer.diagnostic("refined", "latency estimate p50 ms")) >= 1000 * SLOW_S
    assert float(peer.diagnostic("depth", "latency estimate p50 ms")) < 1000 * SLOW_S
    assert int(peer.diagnostic("refined", "images offered")) >= int(peer.diagnostic("refined", "images refined"))
    assert wait_until(lambda: "dropped: stale" in {each.key for each in peer.status["refined"].values})


def test_it_is_deactivated_and_activated_in_the_middle_of_an_image(peer: Peer) -> None:
    assert refined(peer)
    assert peer.change_state("deactivate") and peer.state() == "inactive"
    assert wait_until(lambda: peer.node.count_publishers(REFINED_DEPTH) == 0)
    assert peer.change_state("activate") and peer.state() == "active"
    peer.heard[REFINED_DEPTH].clear()
    assert refined(peer)


def test_an_engine_that_is_not_there_leaves_depth_alone_and_is_said_once(node: NodeProcess, peer: Peer) -> None:
    assert peer.set_parameter("engine.refine", "marigold").successful
    assert peer.trigger("reload_model").success
    assert node.says("Depth is not refined: engine.refine_model names no model")
    assert wait_until(lambda: "engine.refine_model names no model" in peer.status["refined"].message)
    peer.heard[DEPTH].clear()
    for number in frames(20, next(numbers), 0.1):
        peer.publish_set(number)
    assert wait_until(lambda: peer.heard[DEPTH])
    assert node.log.count("Depth is not refined") == 1
    assert peer.set_parameter("engine.refine", "flux").successful
    assert peer.trigger("reload_model").success
    peer.heard[REFINED_DEPTH].clear()
    assert refined(peer)


def test_it_can_be_switched_off(peer: Peer) -> None:
    assert peer.set_parameter("engine.refine", "").successful
    assert peer.trigger("reload_model").success
    assert wait_until(lambda: peer.node.count_publishers(REFINED_DEPTH) == 0)
    assert wait_until(lambda: peer.status["refined"].message == "depth is not refined")


def test_it_ends_without_a_traceback(node: NodeProcess) -> None:
    assert node.stop() == 0
    assert "Traceback" not in node.log and "fault" not in node.log
