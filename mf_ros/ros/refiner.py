"""Depth of some images made once more by a slower, better engine, in a thread of its own beside the node's worker."""

from __future__ import annotations

import gc
import logging
import threading
import time
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from mf_ros.core.config import Config, EngineConfig
from mf_ros.engine import reasons
from mf_ros.engine.frame import DepthResult, checked_estimate
from mf_ros.engine.outputs import CONFIDENCE, DEPTH, OUTPUTS, POINTS, ResultMessages
from mf_ros.engine.protocol import DepthEngine, forget_frames, without_memory
from mf_ros.engine.reasons import DropError
from mf_ros.engine.stats import RECENT, Latency, ReasonCounter
from mf_ros.errors import ConfigError, MfRosError
from mf_ros.ros.types import message_builder
from mf_ros.ros.worker import Worker

REFINED: Dict[str, str] = {
    DEPTH: "depth/refined/image",
    CONFIDENCE: "depth/refined/confidence",
    POINTS: "depth/refined/points",
}
"""Topic of each kind of output that is refined, relative to the camera's name."""
FAULT = "fault"
"""A defect of mf_ros cost a refined image."""

_log = logging.getLogger(__name__)
_LONGEST_STOP_S = 2.0


class RefinedCamera(Protocol):
    """One camera of the node, as the refiner knows it.

    Attributes:
        prefix: first part of its topics.
        refined: where it offers its results; None while nothing is refined.
    """

    prefix: str
    refined: Optional[RefinedStream]

    def advertise(self, topic: str, msgtype: str) -> Any:
        """A publisher on a topic below the camera's name."""
        ...

    def retract(self, publisher: Any) -> None:
        """Take a publisher away."""
        ...


def refining(config: EngineConfig) -> EngineConfig:
    """Settings of the engine that ``engine.refine`` names; of the others only what concerns it.

    Raises:
        ConfigError: none is named, or it needs a model and none is named.
    """
    name, model = config.refine, config.refine_model
    if name == "":
        raise ConfigError("engine.refine names no engine.")
    if model == "auto":
        if name != "flux":
            raise ConfigError(
                f"engine.refine_model names no model: the engine {name} needs the folder of a published model, or its "
                "id on the Hugging Face Hub."
            )
        model = EngineConfig().model
    return EngineConfig(
        name=name,
        model=model,
        steps=config.refine_steps,
        threads=config.threads,
        device=config.device,
        cache_dir=config.cache_dir,
        output=config.output,
        local_correction=config.local_correction,
        accept_noncommercial=config.accept_noncommercial,
    )


class RefinedStream:
    """The newest result of one camera, which waits to be refined, and what became of those before.

    Args:
        camera: publishes.
        config: settings.

    Attributes:
        offered, done: results that came, and those that were refined and published.
        dropped: why the others were not.
        latency: of those that were.
        wake: called when there is something to do.
    """

    def __init__(self, camera: RefinedCamera, config: Config) -> None:
        self.offered = self.done = 0
        self.dropped, self.latency = ReasonCounter(), Latency(RECENT)
        self.prefix = camera.prefix
        self.wake: Callable[[], None] = lambda: None
        self._camera = camera
        self._publishers = {each: camera.advertise(topic, OUTPUTS[each]) for each, topic in REFINED.items()}
        self._messages = ResultMessages(message_builder(), config)
        self._engine: Optional[DepthEngine] = None
        self._waiting: Optional[Tuple[DepthResult, int]] = None
        self._epoch = 0
        self._due = 0.0
        # Held for moments only, because the node's own worker waits for it.
        self._lock = threading.Lock()
        # Held while messages are made and published.
        self._publishing = threading.Lock()

    def configure(self, config: Config) -> None:
        """Use other settings from the next image on."""
        self._messages.config = config

    def use_engine(self, engine: Optional[DepthEngine]) -> None:
        """Refine with another engine from the next image on; None refines nothing."""
        with self._lock:
            self._engine, self._waiting = engine, None

    @property
    def wanted(self) -> bool:
        """Whether there is an engine, and somebody subscribes to what it makes."""
        return self._engine is not None and bool(self._heard())

    def offer(self, result: DepthResult, epoch: int) -> None:
        """Put a result where the refiner finds it, in the place of the one before.

        Args:
            result: of the node's own engine; nothing in it is changed.
            epoch: counts jumps of time.
        """
        with self._lock:
            replaced, self._waiting = self._waiting, (result, epoch)
            self.offered += 1
        self.wake()
        if replaced is not None:
            self.dropped.add(reasons.STALE, "A newer image came before the engine was done with the last one.")

    def work(self) -> bool:
        """Refine the result that waits, unless it is too soon; returns whether there was one."""
        engine, now = self._engine, time.monotonic()
        if engine is None or now < self._due:
            return False
        with self._lock:
            taken, self._waiting = self._waiting, None
        if taken is None:
            return False
        rate_hz = self._messages.config.engine.refine_rate_hz
        self._due = now + (1.0 / rate_hz if rate_hz > 0 else 0.0)
        try:
            self._refine(engine, *taken)
        except DropError as drop:
            self._drop(drop.reason, str(drop))
        except Exception as error:
            # One image that nobody foresaw must not end the others.
            self._drop(FAULT, _problem(error))
        return True

    def close(self) -> None:
        """Publish nothing any more, and take the topics away."""
        self.use_engine(None)
        with self._publishing, self._lock:
            publishers, self._publishers = self._publishers, {}
        for publisher in publishers.values():
            self._camera.retract(publisher)

    def _heard(self) -> List[str]:
        with self._lock:
            return [each for each, publisher in self._publishers.items() if publisher.get_subscription_count() > 0]

    def _refine(self, engine: DepthEngine, result: DepthResult, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch = epoch
            forget_frames(engine)
        frame, begun_ns = result.frame, time.monotonic_ns()
        try:
            estimate = engine.estimate(frame.image, result.sparse, frame.camera)
        except MfRosError as error:
            raise DropError(reasons.ENGINE_FAILED, str(error)) from error
        estimated_ns = time.monotonic_ns()
        min_confidence = self._messages.config.output.min_confidence
        refined = replace(result, estimate=checked_estimate(estimate, frame.image.shape[:2], min_confidence))
        with self._publishing:
            try:
                for output in self._heard():
                    _, message = self._messages.make(output, refined)
                    self._publishers[output].publish(message)
            except MfRosError as error:
                raise DropError(reasons.NOT_PUBLISHED, str(error)) from error
            if not self._publishers:
                return
        self.done += 1
        received_ns = result.source.received_ns
        self.latency.add(
            {
                "received_to_published": (time.monotonic_ns() - received_ns) / 1e6,
                "waited": (begun_ns - received_ns) / 1e6,
                "estimate": (estimated_ns - begun_ns) / 1e6,
            }
        )

    def _drop(self, reason: str, text: str) -> None:
        # Each reason is told once; the counters have the rest.
        if reason not in self.dropped.counts:
            _log.warning("%sdepth of an image is not refined, %s: %s", self.prefix, reason, text)
        self.dropped.add(reason, text)


_Streams = List[Tuple[RefinedCamera, RefinedStream]]


class Refiner:
    """Loads the engine that refines, and runs it on the newest results of all cameras in turn.

    Nobody waits for it but itself: it is loaded in its own thread, and a result that it does not come to is let go.

    Args:
        make: makes an engine of settings.

    Attributes:
        problem: why nothing is refined though it should be; empty otherwise.
    """

    def __init__(self, make: Callable[[EngineConfig], DepthEngine]) -> None:
        self.problem = ""
        self._make = make
        self._streams: _Streams = []
        self._worker: Optional[Worker] = None
        # One whose last image was not done when it was stopped.
        self._ending: Optional[Worker] = None
        self._engine: Optional[DepthEngine] = None
        self._used: Optional[EngineConfig] = None
        self._wanted: Optional[EngineConfig] = None
        self._lock = threading.Lock()

    @property
    def engine(self) -> Optional[DepthEngine]:
        """What refines, once it is loaded."""
        return self._engine

    @property
    def running(self) -> bool:
        """Whether it is asked to refine."""
        return self._worker is not None

    @property
    def streams(self) -> List[RefinedStream]:
        """One for each camera while it is running."""
        return [stream for _, stream in self._streams]

    def use(self, config: Config, cameras: Sequence[RefinedCamera]) -> None:
        """Refine as the settings say from now on: begin, load another engine, or end.

        Args:
            config: settings.
            cameras: of the node.
        """
        if not config.engine.refine:
            self.stop()
            return
        try:
            wanted = refining(config.engine)
        except ConfigError as error:
            self.stop()
            self._fail(error)
            return
        with self._lock:
            if self._engine is None or wanted != self._used:
                self._wanted = wanted
        if self._worker is None:
            self._streams = [(camera, RefinedStream(camera, config)) for camera in cameras]
            self._worker = Worker([stream.work for stream in self.streams], self._load, self._fail)
            for camera, stream in self._streams:
                camera.refined, stream.wake = stream, self._worker.wake
            self._worker.start()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Use other settings of depth images and clouds from the next image on."""
        for stream in self.streams:
            stream.configure(config)

    def stop(self) -> bool:
        """Refine no more and let go of the engine; returns whether its last image was done in time.

        An image that is not done is left to end by itself; nothing of it is published.
        """
        worker, self._worker = self._worker, None
        for camera, stream in self._streams:
            camera.refined = None
            stream.close()
        with self._lock:
            self._streams = []
            self._engine = self._used = self._wanted = None
            self.problem = ""
        ended = worker is None or worker.stop(_LONGEST_STOP_S)
        if worker is not None and not ended:
            self._ending = worker
        return ended

    def _load(self) -> None:
        """Called by the worker between two images."""
        if self._ending is not None and not self._ending.stop(0.0):
            return
        self._ending = None
        with self._lock:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                return
            streams, self._engine = self._streams, None
        for _, stream in streams:
            stream.use_engine(None)
        gc.collect()
        try:
            engine = self._make(wanted)
        except Exception as error:
            self._fail(error, streams)
            return
        with self._lock:
            if self._streams is not streams:
                return  # it was stopped meanwhile
            self.problem, self._engine, self._used = "", engine, wanted
        for _, stream in streams:
            stream.use_engine(without_memory(engine))
        _log.info("Depth is refined by %s.", engine.name)

    def _fail(self, error: Exception, streams: Optional[_Streams] = None) -> None:
        """Say why nothing is refined, unless what it would have been for was stopped meanwhile."""
        with self._lock:
            if streams is not None and self._streams is not streams:
                return
            self.problem = _problem(error)
        _log.error("Depth is not refined: %s", self.problem)


def _problem(error: Exception) -> str:
    """What to say of an error: its own sentence, or that nobody foresaw it."""
    if isinstance(error, MfRosError):
        return str(error)
    return f"a fault of mf_ros ({type(error).__name__}: {error}); please report it."
