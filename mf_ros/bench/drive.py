"""Messages of a drive in memory: of a simulated one or of a recording, to be fed to pipelines again and again."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple

from mf_ros.core.config import Config
from mf_ros.core.topics import TopicChoice, choose_topics
from mf_ros.engine.inputs import StoredSweep
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import BagError, MessageError

SIMULATED = (1242, 375, 64, 1875)
"""Width and height of the simulated image, rings and columns of the sweep, as a large car's sensors have them."""
_RATE_HZ = 10.0

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Heard:
    """One message.

    Attributes:
        role: image, camera_info, points, tf or tf_static.
        sensor: index of the LiDAR.
        content: the message.
        log_ns: when it was received, ns.
    """

    role: str
    sensor: int
    content: Any
    log_ns: int


@dataclass(frozen=True)
class Drive:
    """Messages in the order in which they were received; what holds all the time comes first.

    Attributes:
        name: what it is, in words.
        heard: the messages.
        config: settings with which nothing is dropped for lack of patience.
        lidars: how many.
        rectified: whether the images are rectified already.
        frames: images in it.
    """

    name: str
    heard: Tuple[Heard, ...]
    config: Config
    lidars: int
    rectified: bool
    frames: int

    def pipeline(self, engine: DepthEngine) -> DepthPipeline:
        """A new pipeline for these messages."""
        return DepthPipeline(self.config, engine, self.lidars, rectified_input=self.rectified)


def give(pipeline: DepthPipeline, message: Heard, sweep: Optional[StoredSweep] = None) -> None:
    """Call the pipeline's callback for a message; ``sweep`` stands in for one whose decoding is shared."""
    if message.role == "image":
        pipeline.on_image(message.content, message.log_ns)
    elif message.role == "camera_info":
        pipeline.on_camera_info(message.content)
    elif message.role == "points":
        pipeline.on_sweep(message.sensor, message.content if sweep is None else sweep)
    else:
        pipeline.on_transforms(message.content, static=message.role == "tf_static")


def simulated_drive(
    config: Config,
    *,
    frames: int = 6,
    compressed: bool = False,
    size: Tuple[int, int, int, int] = SIMULATED,
    progress: Progress = lambda part: None,
) -> Drive:
    """A drive through a simulated street: a moving robot, rolling sweeps with point times, transforms at 50 Hz.

    Args:
        config: settings.
        frames: images.
        compressed: JPEG images instead of raw ones.
        size: width and height of the image, rings and columns of the sweep.
        progress: told the part done, in [0, 1].

    Raises:
        MissingDependencyError: the packages that bags need are not installed.
    """
    from mf_ros.simulate.recording import simulate

    width, height, rings, columns = size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "street.mcap"
        simulate(
            path,
            seconds=frames / _RATE_HZ,
            rate_hz=_RATE_HZ,
            width=width,
            height=height,
            rings=rings,
            columns=columns,
            compressed=compressed,
            ground_truth=False,
            progress=lambda done, number: progress(done / number),
        )
        kind = "JPEG" if compressed else "raw"
        name = f"simulated street, {width}x{height} {kind} images, {rings} rings of {columns}"
        return dataclasses.replace(recorded_drive([str(path)], config, frames=frames), name=name)


def recorded_drive(bags: Sequence[str], config: Config, *, frames: int) -> Drive:
    """The beginning of a recording.

    Args:
        bags: paths, read as one recording.
        config: settings.
        frames: images to read at most.

    Raises:
        BagError: it cannot be read, or holds no image that can be decoded.
        TopicError: the topics to use are not clear.
    """
    from mf_ros.bags.feed import patient
    from mf_ros.bags.reader import open_recording

    with open_recording(bags) as recording:
        topics = choose_topics(recording)
        held = [
            Heard("tf_static", 0, message.decode(), message.log_ns) for message in recording.latched(topics.tf_static)
        ]
        heard = held + _beginning(recording, topics, frames, patient(config, recording, topics))
        images = sum(message.role == "image" for message in heard)
        if images == 0:
            raise BagError(f"{recording.name} holds no image on {topics.image} that can be decoded.")
        return Drive(
            f"{recording.name}, {images} images",
            tuple(heard),
            patient(config, recording, topics),
            len(topics.points),
            topics.rectified,
            images,
        )


def _beginning(recording: Any, topics: TopicChoice, frames: int, config: Config) -> List[Heard]:
    """The first messages, until so many images and, after them, what they may wait for."""
    roles = {topics.image: "image", topics.camera_info: "camera_info", **dict.fromkeys(topics.tf, "tf")}
    names = dict.fromkeys((*roles, *topics.points))
    heard: List[Heard] = []
    until_ns = 2**63
    images = 0
    for message in recording.messages(names):
        if message.log_ns > until_ns:
            break
        role = roles.get(message.topic, "points")
        if role == "image" and images == frames:
            continue
        try:
            content = message.decode()
        except MessageError:
            continue
        sensor = topics.points.index(message.topic) if role == "points" else 0
        heard.append(Heard(role, sensor, content, message.log_ns))
        images += role == "image"
        if role == "image" and images == frames:
            until_ns = message.log_ns + round(config.sync.max_wait_s * 1e9)
    # A calibration that was logged after the first image holds for it too.
    first = next((each for each in heard if each.role == "camera_info"), None)
    return heard if first is None else [first, *heard]
