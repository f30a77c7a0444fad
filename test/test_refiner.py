"""What makes depth of some images once more, with engines that take their time or fail; without ROS."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any, Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rosbags")

from wall_scene import BUILD, CAMERA, CAMERA_FRAME, MedianEngine, stamp

import mf_ros.ros.refiner as module
from mf_ros.core.config import Config, EngineConfig, OutputConfig
from mf_ros.core.types import CameraFrame, CameraPoints, DepthEstimate, SparseDepth
from mf_ros.engine.frame import DepthResult
from mf_ros.engine.inputs import StoredImage
from mf_ros.errors import ConfigError, ModelError
from mf_ros.ros.refiner import REFINED, RefinedStream, Refiner, refining

FLUX = Config(engine=EngineConfig(name="classical", refine="flux"))
DEPTH = "depth/refined/image"


def until(done: Callable[[], Any], timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(done())


class Topic:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.heard, self.gone, self.messages = True, False, []

    def get_subscription_count(self) -> int:
        return int(self.heard)

    def publish(self, message: Any) -> None:
        assert not self.gone, "published on a topic that was taken away"
        self.messages.append(message)


class Camera:
    """A camera of the node."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.refined: RefinedStream | None = None
        self.topics: dict[str, Topic] = {}

    def advertise(self, topic: str, msgtype: str) -> Topic:
        self.topics[topic] = Topic()
        return self.topics[topic]

    def retract(self, publisher: Topic) -> None:
        publisher.gone = True

    def offer(self, number: int, epoch: int = 0) -> None:
        assert self.refined is not None
        self.refined.offer(result(number), epoch)

    @property
    def stamps(self) -> list[int]:
        return [each.header.stamp.sec * 10**9 + each.header.stamp.nanosec for each in self.topics[DEPTH].messages]


def result(number: int) -> DepthResult:
    """Depth of 5 m, of an image with that number."""
    shape = (CAMERA.height, CAMERA.width)
    depth = np.full(shape, 5, np.float32)
    frame = CameraFrame(np.zeros((*shape, 3), np.uint8), CAMERA, stamp(number), CAMERA_FRAME)
    points = CameraPoints(np.zeros((1, 3), np.float32), None, np.zeros(1, np.uint8))
    estimate = DepthEstimate(depth, np.ones(shape, np.float32), True, "classical")
    source = StoredImage(None, stamp(number), CAMERA_FRAME, time.monotonic_ns(), number)
    return DepthResult(frame, points, SparseDepth(depth, depth.size), estimate, {}, (0,), source)


class SlowEngine(MedianEngine):
    """Goes on only when it is let; remembers jumps of time."""

    def __init__(self) -> None:
        super().__init__(name="slow")
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.resets = 0

    def estimate(self, *args: Any) -> DepthEstimate:
        self.begun.release()
        assert self.go.acquire(timeout=5.0)
        return super().estimate(*args)

    def reset(self) -> None:
        self.resets += 1

    def fresh(self) -> SlowEngine:
        return self


class Broken:
    """Lacks what an engine does."""

    name = "broken"


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    monkeypatch.setattr(module, "message_builder", lambda: BUILD)
    monkeypatch.setattr(module, "_LONGEST_STOP_S", 0.2)
    return Camera()


@pytest.fixture
def started(camera: Camera) -> Iterator[Callable[..., Refiner]]:
    """Starts refiners, and stops them in the end."""
    made: list[Refiner] = []

    def start(make: Any, config: Config = FLUX, *cameras: Camera) -> Refiner:
        made.append(Refiner(make if callable(make) else lambda wanted: make))
        made[-1].use(config, cameras or [camera])
        assert until(lambda: made[-1].engine is not None or made[-1].problem)
        return made[-1]

    yield start
    for refiner in made:
        refiner.stop()


def test_what_is_refined_has_the_stamp_and_frame_of_its_image(camera: Camera, started: Callable[..., Refiner]) -> None:
    started(MedianEngine())
    camera.offer(3)
    assert until(lambda: all(topic.messages for topic in camera.topics.values()))
    assert set(camera.topics) == set(REFINED.values())
    for topic in camera.topics.values():
        (message,) = topic.messages
        assert (message.header.stamp.sec * 10**9 + message.header.stamp.nanosec) == stamp(3)
        assert message.header.frame_id == CAMERA_FRAME
    depth = camera.topics[DEPTH].messages[0]
    assert (np.frombuffer(depth.data.tobytes(), np.float32) == 5).all()
    assert camera.refined is not None and camera.refined.done == 1
    assert camera.refined.latency.percentile("estimate", 50) >= 0


def test_offering_never_waits_and_the_newest_result_is_taken(camera: Camera, started: Callable[..., Refiner]) -> None:
    engine = SlowEngine()
    started(engine)
    camera.offer(0)
    assert engine.begun.acquire(timeout=5.0)
    begin = time.monotonic()
    for number in range(1, 100):
        camera.offer(number)
    assert time.monotonic() - begin < 0.5
    engine.go.release(2)
    assert until(lambda: len(camera.stamps) == 2)
    assert camera.stamps == [stamp(0), stamp(99)]
    assert camera.refined is not None
    assert camera.refined.dropped.counts == {"stale": 98}
    assert (camera.refined.offered, camera.refined.done) == (100, 2)


def test_the_rate_is_limited(camera: Camera, started: Callable[..., Refiner]) -> None:
    started(MedianEngine(), replace(FLUX, engine=replace(FLUX.engine, refine_rate_hz=4.0)))
    end = time.monotonic() + 0.9
    number = 0
    while time.monotonic() < end:
        camera.offer(number := number + 1)
        time.sleep(0.01)
    # At 0, 0.25, 0.5 and 0.75 s; a busy machine may be late, but none comes early.
    assert 2 <= len(camera.stamps) <= 4


def test_nothing_is_wanted_before_the_engine_is_loaded_or_while_nobody_listens(camera: Camera) -> None:
    loading = threading.Event()

    def make(config: EngineConfig) -> MedianEngine:
        assert loading.wait(5.0)
        return MedianEngine()

    refiner = Refiner(make)
    refiner.use(FLUX, [camera])
    refined = camera.refined
    assert refined is not None and not refined.wanted
    loading.set()
    assert until(lambda: refined.wanted)
    for topic in camera.topics.values():
        topic.heard = False
    assert not refined.wanted
    camera.topics["depth/refined/points"].heard = True
    assert refined.wanted
    camera.offer(1)
    assert until(lambda: camera.topics["depth/refined/points"].messages)
    assert camera.topics[DEPTH].messages == []
    assert refiner.stop()


def test_an_engine_that_cannot_be_loaded_is_said_once(
    camera: Camera, started: Callable[..., Refiner], caplog: pytest.LogCaptureFixture
) -> None:
    def make(config: EngineConfig) -> MedianEngine:
        raise ModelError("The model is not there.")

    refiner = started(make)
    time.sleep(0.3)
    assert [each.getMessage() for each in caplog.records] == ["Depth is not refined: The model is not there."]
    assert refiner.problem == "The model is not there."
    assert camera.refined is not None and not camera.refined.wanted


def test_a_defect_in_loading_is_said_too(started: Callable[..., Refiner]) -> None:
    def make(config: EngineConfig) -> MedianEngine:
        raise ZeroDivisionError("division by zero")

    assert "fault of mf_ros (ZeroDivisionError: division by zero)" in started(make).problem


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (MedianEngine(failing=True), "engine_failed"),
        (MedianEngine(metric=False), "not_metric"),
        (MedianEngine(cut=1), "engine_failed"),
        (Broken(), "fault"),
    ],
)
def test_an_image_that_fails_is_counted_and_said_once(
    engine: Any, reason: str, camera: Camera, started: Callable[..., Refiner], caplog: pytest.LogCaptureFixture
) -> None:
    started(engine)
    assert camera.refined is not None
    for number in range(3):
        camera.offer(number)
        assert until(lambda count=number + 1: camera.refined.dropped.counts.get(reason) == count)
    said = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(said) == 1 and f"is not refined, {reason}: " in said[0]
    assert camera.topics[DEPTH].messages == []


def test_a_stopped_refiner_publishes_nothing_of_the_image_that_it_was_at(
    camera: Camera, started: Callable[..., Refiner]
) -> None:
    engine = SlowEngine()
    refiner = started(engine)
    camera.offer(0)
    assert engine.begun.acquire(timeout=5.0)
    begin = time.monotonic()
    assert not refiner.stop() and time.monotonic() - begin < 2.0
    assert camera.refined is None and all(topic.gone for topic in camera.topics.values())
    assert refiner.engine is None
    engine.go.release()
    time.sleep(0.1)
    assert camera.topics[DEPTH].messages == []


@pytest.mark.parametrize("error", [ModelError("no such model"), ValueError("a defect")])
def test_an_engine_that_cannot_be_loaded_is_no_problem_once_it_is_not_wanted_any_more(
    camera: Camera, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    loading, go, failed = threading.Event(), threading.Event(), threading.Event()

    def make(config: EngineConfig) -> MedianEngine:
        loading.set()
        assert go.wait(5.0)
        failed.set()
        raise error

    refiner = Refiner(make)
    refiner.use(FLUX, [camera])
    assert loading.wait(5.0)
    assert not refiner.stop()
    go.set()
    assert failed.wait(5.0)
    time.sleep(0.1)
    assert refiner.problem == "" and not caplog.records


def test_one_engine_is_gone_before_another_is_loaded(camera: Camera, started: Callable[..., Refiner]) -> None:
    """Two would not fit into the memory of a GPU."""
    engine, made = SlowEngine(), []

    def make(config: EngineConfig) -> Any:
        made.append(config.model)
        return engine if len(made) == 1 else MedianEngine()

    refiner = started(make)
    camera.offer(0)
    assert engine.begun.acquire(timeout=5.0)
    assert not refiner.stop()
    refiner.use(FLUX, [camera])
    time.sleep(0.3)
    assert len(made) == 1 and refiner.engine is None
    engine.go.release()
    assert until(lambda: refiner.engine is not None)
    camera.offer(1)
    assert until(lambda: camera.stamps == [stamp(1)])


def test_a_reload_brings_another_engine_and_only_where_its_settings_changed(
    camera: Camera, started: Callable[..., Refiner]
) -> None:
    made: list[str] = []

    def make(config: EngineConfig) -> MedianEngine:
        made.append(config.model)
        return MedianEngine(name=config.model)

    refiner = started(make)
    refiner.use(replace(FLUX, engine=replace(FLUX.engine, name="onnx", refine_rate_hz=1.0, steps=3)), [camera])
    time.sleep(0.3)
    assert made == ["nano"], "what does not concern it does not load it again"
    other = replace(FLUX.engine, refine="transformers", refine_model="acme/depth")
    refiner.use(replace(FLUX, engine=other), [camera])
    assert until(lambda: refiner.engine is not None and refiner.engine.name == "acme/depth")
    refiner.use(Config(), [camera])
    assert not refiner.running and camera.refined is None
    refiner.use(FLUX, [camera])
    assert until(lambda: refiner.engine is not None) and made == ["nano", "acme/depth", "nano"]


def test_a_jump_of_time_is_told_to_the_engine(camera: Camera, started: Callable[..., Refiner]) -> None:
    engine = SlowEngine()
    engine.go.release(9)
    started(engine)
    for number, epoch in enumerate((0, 0, 1, 1)):
        camera.offer(number, epoch)
        assert until(lambda count=number + 1: len(camera.stamps) == count)
    assert engine.resets == 1


def test_settings_of_the_output_hold_for_what_is_refined(camera: Camera, started: Callable[..., Refiner]) -> None:
    refiner = started(MedianEngine())
    refiner.configure(replace(FLUX, output=OutputConfig(encoding="16UC1")))
    camera.offer(0)
    assert until(lambda: camera.topics[DEPTH].messages)
    assert camera.topics[DEPTH].messages[0].encoding == "16UC1"


def test_cameras_take_turns(camera: Camera, started: Callable[..., Refiner]) -> None:
    engine, rear = SlowEngine(), Camera("rear/")
    started(engine, FLUX, camera, rear)
    for number in range(2):
        camera.offer(number)
        rear.offer(number)
        engine.go.release(2)
        assert until(lambda count=number + 1: len(camera.stamps) == len(rear.stamps) == count)


def test_the_refining_engine_has_settings_of_its_own() -> None:
    settings = EngineConfig(
        name="onnx", model="/data/own", steps=2, precision="int8", threads=3, device="cuda", accept_noncommercial=True
    )
    found = refining(replace(settings, refine="flux", refine_steps=8))
    assert (found.name, found.model, found.steps, found.precision) == ("flux", "nano", 8, "auto")
    assert (found.threads, found.device, found.accept_noncommercial) == (3, "cuda", True)
    assert refining(replace(settings, refine="marigold", refine_model="acme/marigold")).model == "acme/marigold"


def test_a_model_that_must_be_named_is_asked_for(camera: Camera) -> None:
    with pytest.raises(ConfigError, match=r"engine\.refine_model names no model: the engine marigold needs the folder"):
        refining(EngineConfig(refine="marigold"))
    refiner = Refiner(lambda config: MedianEngine())
    refiner.use(Config(engine=EngineConfig(refine="marigold")), [camera])
    assert "engine.refine_model names no model" in refiner.problem and not refiner.running
