"""The node on a real ROS 2: what it publishes, and how it is controlled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

import message_filters
from ros_peer import NodeProcess, Peer, frames, new_domain, stamp_of, wait_until
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from wall_scene import CAMERA, CAMERA_FRAME, WALL_M

from mf_ros.engine.outputs import OUTPUTS

pytestmark = pytest.mark.ros

DEPTH = "/depth/image"


def depth_of(message: Image) -> np.ndarray:
    return np.frombuffer(message.data, np.float32).reshape(message.height, message.width)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Peer]]:
    """A node that is active, and a peer that hears all of its outputs."""
    domain = new_domain()
    node = NodeProcess(tmp_path_factory.mktemp("node"), domain)
    peer = Peer(domain)
    assert node.says("Active"), node.log
    peer.listen()
    peer.publish_extrinsics()
    yield node, peer
    peer.close()
    node.stop()


numbers = iter(range(0, 10_000_000, 1000))


def depth_for_new_image(peer: Peer) -> Image:
    """Publish sets until one came out; the node may hear the first ones late."""
    for number in frames(100, next(numbers), 0.1):
        peer.publish_set(number)
        if peer.heard[DEPTH]:
            break
    assert peer.heard[DEPTH], "no depth was published"
    return peer.heard[DEPTH][-1]


def test_every_output_has_the_images_stamp_and_frame(peer: Peer) -> None:
    depth_for_new_image(peer)
    sent = {peer.publish_set(number) for number in frames(10, next(numbers), 0.2)}
    topics = [f"/{output}" for output in OUTPUTS]

    def made(topic: str) -> set[int]:
        return set(peer.stamps(topic)) & sent

    # A machine that is busy may skip images, but never one output of an image.
    assert wait_until(lambda: made(DEPTH) and all(made(topic) == made(DEPTH) for topic in topics))
    assert len(made(DEPTH)) >= 3
    for topic in topics:
        assert {message.header.frame_id for message in peer.heard[topic]} == {CAMERA_FRAME}


def test_depth_is_metres_along_z_and_the_cloud_fits_it(peer: Peer) -> None:
    depth = depth_of(depth_for_new_image(peer))
    assert peer.waits_for("/depth/points", 1) and peer.waits_for("/depth/camera_info", 1)
    assert np.nanmedian(depth) == pytest.approx(WALL_M, rel=0.01)
    info, cloud = peer.heard["/depth/camera_info"][0], peer.heard["/depth/points"][0]
    assert (info.width, info.height) == (CAMERA.width, CAMERA.height)
    assert np.allclose(np.array(info.k).reshape(3, 3), CAMERA.K)
    assert (cloud.height, cloud.width, cloud.is_dense) == (CAMERA.height, CAMERA.width, False)
    xyz = np.frombuffer(cloud.data, np.float32).reshape(CAMERA.height, CAMERA.width, 4)[..., :3]
    z, (rows, cols) = xyz[..., 2], np.indices(depth.shape)
    known = np.isfinite(z)
    assert known.mean() > 0.5
    assert np.allclose(xyz[..., 0][known], ((cols - info.k[2]) / info.k[0] * z)[known], atol=1e-4)
    assert np.allclose(xyz[..., 1][known], ((rows - info.k[5]) / info.k[4] * z)[known], atol=1e-4)


def test_consumers_that_want_exact_times_find_them(peer: Peer) -> None:
    sets: list[tuple[Image, CameraInfo, PointCloud2]] = []
    topics = ((Image, DEPTH), (CameraInfo, "/depth/camera_info"), (PointCloud2, "/depth/points"))
    filters = [message_filters.Subscriber(peer.node, kind, topic) for kind, topic in topics]
    exact = message_filters.TimeSynchronizer(filters, 10)
    exact.registerCallback(lambda *messages: sets.append(messages))
    for number in frames(100, next(numbers), 0.1):
        peer.publish_set(number)
        if len(sets) >= 3:
            break
    assert len(sets) >= 3
    assert all(len({stamp_of(message) for message in each}) == 1 for each in sets)


def test_settings_change_while_it_runs(peer: Peer) -> None:
    depth_for_new_image(peer)
    assert peer.set_parameter("output.encoding", "16UC1").successful
    assert peer.set_parameter("cloud.max_depth_m", WALL_M - 1.0).successful
    for number in frames(60, next(numbers), 0.1):
        peer.publish_set(number)
        if peer.heard[DEPTH] and peer.heard[DEPTH][-1].encoding == "16UC1":
            break
    depth = peer.heard[DEPTH][-1]
    assert depth.encoding == "16UC1"
    assert abs(int(np.median(np.frombuffer(depth.data, np.uint16))) - 1000 * WALL_M) < 50
    assert wait_until(lambda: np.isnan(np.frombuffer(peer.heard["/depth/points"][-1].data, np.float32)).any())
    assert peer.set_parameter("output.encoding", "32FC1").successful
    assert peer.set_parameter("cloud.max_depth_m", 100.0).successful


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sync.tolerance_s", 0.1, "deactivate"),
        ("cloud.edge_ratio", -1.0, "range"),
        ("output.encoding", "8UC1", "16UC1"),
        ("cloud.max_depth_m", 0.1, "cloud.min_depth_m"),
        ("node.points_topics", ["other"], "read-only"),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_reason(peer: Peer, name: str, value: object, said: str) -> None:
    result = peer.set_parameter(name, value)
    assert not result.successful
    assert said in result.reason


def test_a_bad_model_is_refused_and_the_old_one_goes_on(peer: Peer, tmp_path: Path) -> None:
    assert peer.set_parameter("engine.model", str(tmp_path / "nowhere")).successful
    assert peer.set_parameter("engine.name", "onnx").successful
    answer = peer.trigger("reload_model")
    assert not answer.success
    assert "nowhere" in answer.message and "classical stays" in answer.message
    assert depth_for_new_image(peer)
    assert peer.set_parameter("engine.name", "classical").successful
    assert peer.trigger("reload_model").success


def test_a_snapshot_holds_inputs_and_outputs(peer: Peer) -> None:
    from mf_ros.bags.reader import open_recording

    depth_for_new_image(peer)
    answer = peer.trigger("snapshot")
    assert answer.success, answer.message
    with open_recording(Path(answer.message)) as bag:
        topics = {topic.name for topic in bag.topics}
        assert {"/image", "/camera_info", "/points", "/tf_static", *(f"/{output}" for output in OUTPUTS)} <= topics
        images = {stamp_of(message.decode()): message.log_ns for message in bag.messages(["/image"])}
        depths = {stamp_of(message.decode()): message.log_ns for message in bag.messages([DEPTH])}
    (stamp,) = depths
    assert images[stamp] < depths[stamp] < images[stamp] + 10 * 10**9, "logged when they came, depth after its image"


def test_diagnostics_tell_rates_latency_engine_and_calibration(peer: Peer) -> None:
    for number in frames(40, next(numbers), 0.1):
        peer.publish_set(number)
        if peer.diagnostic("depth", "latency received_to_published p95 ms"):
            break
    assert float(peer.diagnostic("depth", "latency received_to_published p95 ms")) > 0
    assert int(peer.diagnostic("depth", "images with depth")) > 0
    assert wait_until(lambda: float(peer.diagnostic("inputs", "/image age s") or 99) < 60)
    assert peer.diagnostic("engine", "method")
    assert float(peer.diagnostic("engine", "memory of the process MB")) > 10
    assert "residual" in {each.key for each in peer.status["calibration"].values}


def test_a_node_that_is_deactivated_is_silent_until_it_is_activated(peer: Peer) -> None:
    depth_for_new_image(peer)
    assert peer.change_state("deactivate") and peer.state() == "inactive"
    time.sleep(0.3)
    peer.heard[DEPTH].clear()
    for number in frames(5, next(numbers), 0.1):
        peer.publish_set(number)
    assert not peer.heard[DEPTH]
    assert peer.set_parameter("sync.tolerance_s", 0.05).successful, "inactive nodes take every setting"
    assert peer.change_state("activate") and peer.state() == "active"
    assert depth_for_new_image(peer)


def test_cleanup_and_configure_bring_it_back(peer: Peer) -> None:
    assert peer.change_state("deactivate") and peer.change_state("cleanup")
    assert peer.state() == "unconfigured"
    assert wait_until(lambda: peer.node.count_publishers(DEPTH) == 0)
    assert peer.change_state("configure") and peer.change_state("activate")
    assert depth_for_new_image(peer)


def test_the_log_holds_no_traceback(node: NodeProcess) -> None:
    assert "Traceback" not in node.log
