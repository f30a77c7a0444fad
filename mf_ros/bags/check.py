"""``check``: what is in a recording, what fits, what is wrong, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

import cv2
import numpy as np

from mf_ros.bags.check_time import Series, check_clocks, check_series, summary
from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.overlay import draw_returns
from mf_ros.bags.reader import RecordedMessage, Recording, TopicInfo
from mf_ros.bags.topics import CAMERA_INFO_TYPE, TF_TYPES, choose_camera_info, choose_image, choose_points
from mf_ros.core import messages
from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config, LidarConfig
from mf_ros.core.deskew import to_camera
from mf_ros.core.projection import project_points
from mf_ros.core.transforms import TransformTree
from mf_ros.core.types import ByteArray, CameraFrame, LidarSweep
from mf_ros.errors import BagError, CalibrationError, MessageError, TopicError, TransformError
from mf_ros.findings import Finding, Severity, has_errors, worst_first

_SAMPLES = 8
_FEW_IN_IMAGE = 200

T = TypeVar("T")
Report = Callable[[float], None]


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found.

    Attributes:
        name: the recording.
        duration_s: time between its first and last message, seconds.
        topics: everything in it.
        roles: topic name to what it is used as: "image", "camera_info", "points", "tf".
        times: topic name to its rate, jitter and delay in words.
        findings: worst first.
        pictures: the files written, LiDAR projected on images.
    """

    name: str
    duration_s: float
    topics: Tuple[TopicInfo, ...]
    roles: Dict[str, str]
    times: Dict[str, str]
    findings: Tuple[Finding, ...]
    pictures: Tuple[Path, ...]

    @property
    def has_errors(self) -> bool:
        """Whether something stops the recording from being used."""
        return has_errors(self.findings)


@dataclass
class _Samples:
    """What is kept of the recording while it streams by; its size does not grow with the recording's."""

    images: List[Tuple[Any, int]] = field(default_factory=list)
    infos: List[Any] = field(default_factory=list)
    sweeps: Dict[str, List[LidarSweep]] = field(default_factory=dict)
    # Topic to the log times and errors of messages that cannot be used.
    bad: Dict[str, Dict[int, str]] = field(default_factory=dict)
    # The last message of each LiDAR, because it may be nearer to the next image than the one that follows.
    latest: Dict[str, Tuple[int, Any]] = field(default_factory=dict)
    # For each sampled image the nearest sweep of each LiDAR so far.
    nearest: List[Dict[str, LidarSweep]] = field(default_factory=list)


def check(
    recording: Recording,
    *,
    image: Optional[str] = None,
    camera_info: Optional[str] = None,
    points: Sequence[str] = (),
    config: Optional[Config] = None,
    out: Optional[Path] = None,
    progress: Optional[Report] = None,
) -> CheckReport:
    """Read a recording once and judge whether dense depth can be made from it.

    Args:
        recording: the open recording.
        image, camera_info, points: topics; guessed when left out, and a guess that fails is a finding.
        config: tolerances of pairing and limits of the LiDAR.
        out: folder for pictures of the LiDAR projected on the image; None draws none.
        progress: told the part read, in [0, 1].

    Raises:
        BagError: the pictures cannot be written.
    """
    if out is not None:
        make_output_folder(out)
    return _Check(recording, config or Config()).run(image, camera_info, points, out, progress)


class _Check:
    """One run over one recording."""

    def __init__(self, recording: Recording, config: Config) -> None:
        self._recording = recording
        self._config = config
        self._findings: List[Finding] = []
        self._tree = TransformTree()
        self._series: Dict[str, Series] = {}
        self._samples = _Samples()

    def run(
        self,
        image: Optional[str],
        camera_info: Optional[str],
        points: Sequence[str],
        out: Optional[Path],
        progress: Optional[Report],
    ) -> CheckReport:
        recording = self._recording
        chosen = self._choose(lambda: choose_image(recording, image).name)
        infos = [topic for topic in recording.topics if topic.msgtype == CAMERA_INFO_TYPE and topic.count]
        info = None
        # Which of several belongs to the camera can only be told when the camera is known.
        if chosen or camera_info or len(infos) < 2:
            info = self._choose(lambda: choose_camera_info(recording, chosen or "the image", camera_info))
        lidars = self._choose(lambda: choose_points(recording, points)) or ()
        tf = [topic.name for topic in recording.topics if topic.msgtype in TF_TYPES and topic.count]
        roles = dict.fromkeys(tf, "tf")
        roles.update(dict.fromkeys(lidars, "points"))
        roles.update({name: role for name, role in ((chosen, "image"), (info, "camera_info")) if name})
        self._series = {name: Series(name) for name, role in roles.items() if role != "tf"}
        self._read(roles, progress)
        if not tf:
            advice = "Record /tf_static, or publish the pose of each sensor with static_transform_publisher."
            self._add(
                "error", f"{recording.name} has no transforms: the LiDAR's place at the camera is unknown.", advice
            )
        for series in self._series.values():
            self._findings += check_series(series)
        if chosen:
            self._findings += check_clocks(
                self._series[chosen], [self._series[name] for name in lidars], self._config.sync
            )
        offsets = len(self._config.sync.lidar_offset_s)
        if offsets and lidars and offsets != len(lidars):
            text = f"sync.lidar_offset_s has {offsets} values for {len(lidars)} LiDARs."
            self._add("error", text, "Give one offset per point topic, or none.")
        for name in lidars:
            self._check_points(name)
        camera = self._check_camera(chosen, info)
        pictures = self._check_projection(camera, lidars, out) if chosen and tf else []
        for topic, errors in self._samples.bad.items():
            self._check_bad(topic, list(errors.values()))
        if recording.damage:
            advice = "What can be read is used; `mf-ros replay` or `ros2 bag convert` writes an intact copy."
            self._add("error", recording.damage, advice)
        return CheckReport(
            recording.name,
            recording.duration_s,
            tuple(recording.topics),
            roles,
            {name: summary(series) for name, series in self._series.items() if len(series)},
            tuple(worst_first(dict.fromkeys(self._findings))),
            tuple(pictures),
        )

    def _add(self, severity: Severity, text: str, advice: str) -> None:
        self._findings.append(Finding(severity, text, advice))

    def _choose(self, choice: Callable[[], T]) -> Optional[T]:
        try:
            return choice()
        except TopicError as error:
            advice = (
                "Name topics with --image-topic, --camera-info-topic and --points-topic, or record what is missing."
            )
            self._add("error", str(error), advice)
            return None

    def _read(self, roles: Dict[str, str], progress: Optional[Report]) -> None:
        start, length = self._recording.start_ns, max(self._recording.end_ns - self._recording.start_ns, 1)
        due = iter([start + length * (2 * k + 1) // (2 * _SAMPLES) for k in range(_SAMPLES)])
        next_image = next(due)
        for message in self._recording.messages(roles) if roles else ():
            if progress is not None:
                progress((message.log_ns - start) / length)
            try:
                decoded = message.decode()
                role = roles[message.topic]
                if role == "tf":
                    self._take_transforms(message, decoded)
                    continue
                stamp = messages.stamp_ns(decoded.header)
                self._series[message.topic].add(stamp, message.log_ns)
                if role == "camera_info":
                    self._take_info(decoded)
                elif role == "points":
                    self._take_sweep(message.topic, decoded, stamp, message.log_ns, length)
                elif message.log_ns >= next_image or not self._samples.images:
                    self._take_image(decoded, stamp)
                    next_image = next(due, 2**63)
                    while next_image <= message.log_ns:
                        next_image = next(due, 2**63)
            except (MessageError, TransformError) as error:
                self._bad(message.topic, message.log_ns, error)

    def _bad(self, topic: str, log_ns: int, error: Exception) -> None:
        self._samples.bad.setdefault(topic, {})[log_ns] = str(error)

    def _take_transforms(self, message: RecordedMessage, decoded: Any) -> None:
        for transform in messages.transforms_of(decoded):
            self._tree.add(transform, static=message.topic.endswith("static"))

    def _take_info(self, decoded: Any) -> None:
        known = self._samples.infos
        if not known or (len(known) < 2 and _intrinsics(decoded) != _intrinsics(known[0])):
            known.append(decoded)

    def _take_image(self, decoded: Any, stamp: int) -> None:
        self._samples.images.append((decoded, stamp))
        nearest: Dict[str, LidarSweep] = {}
        for topic, (log_ns, latest) in self._samples.latest.items():
            try:
                nearest[topic] = self._sweep(latest)
            except MessageError as error:
                self._bad(topic, log_ns, error)
        self._samples.nearest.append(nearest)

    def _sweep(self, decoded: Any) -> LidarSweep:
        return messages.decode_cloud(decoded, time_unit=self._config.lidar.time_unit)

    def _take_sweep(self, topic: str, decoded: Any, stamp: int, log_ns: int, length: int) -> None:
        """Decode a sweep only where it may be the nearest of a sampled image, or serves to judge the fields."""
        self._samples.latest[topic] = (log_ns, decoded)
        taken = self._samples.sweeps.setdefault(topic, [])
        wanted = [
            index
            for index, (_, at) in enumerate(self._samples.images)
            if topic not in self._samples.nearest[index]
            or abs(stamp - at) < abs(self._samples.nearest[index][topic].stamp_ns - at)
        ]
        due = len(taken) < _SAMPLES and log_ns >= self._recording.start_ns + length * len(taken) // _SAMPLES
        if not wanted and not due:
            return
        sweep = self._sweep(decoded)
        if due:
            taken.append(sweep)
        for index in wanted:
            self._samples.nearest[index][topic] = sweep

    def _check_points(self, topic: str) -> None:
        sweeps = self._samples.sweeps.get(topic, [])
        if not sweeps:
            return
        empty = sum(len(sweep) == 0 for sweep in sweeps)
        if empty:
            advice = "Check the sensor's range and angle settings, and that it sees something at all."
            text = f"{topic}: {empty} of {len(sweeps)} sampled sweeps hold no valid point (all NaN, infinite or zero)."
            self._add("error" if empty == len(sweeps) else "warning", text, advice)
        filled = [sweep for sweep in sweeps if len(sweep)]
        if not filled:
            return
        if filled[0].ring is None:
            advice = "Use a driver or point type with a ring field to measure accuracy on held-out rings."
            self._add("note", f"{topic}: the points have no ring, so accuracy is measured on random points.", advice)
        if filled[0].time_s is None:
            advice = "Use a driver or point type with a time field if the robot moves fast."
            self._add("note", f"{topic}: the points have no time, so the robot's motion is not compensated.", advice)
            return
        spans = [float(np.ptp(sweep.time_s)) for sweep in filled if sweep.time_s is not None]
        rate = self._series[topic].rate_hz
        if rate > 0 and float(np.median(spans)) > 1.5 / rate:
            text = (
                f"{topic}: the points of a sweep span {np.median(spans) * 1e3:.0f} ms, more than the "
                f"{1e3 / rate:.0f} ms between sweeps."
            )
            self._add("warning", text, "The unit of the time field is guessed wrongly? Set lidar.time_unit.")

    def _check_camera(self, topic: Optional[str], info: Optional[str]) -> Optional[CameraModel]:
        """The camera of the sampled images, or None when there is none that works."""
        images, infos = self._samples.images, self._samples.infos
        size: Optional[Tuple[int, int]] = None
        for decoded, stamp in images:
            try:
                pixels = messages.decode_image(decoded)
            except MessageError as error:
                self._bad(str(topic), stamp, error)
                continue
            size = (pixels.shape[1], pixels.shape[0])
            break
        if not infos:
            return None
        if len(infos) > 1:
            advice = "Zoom and focus have to stay fixed; record a bag per setting if they do not."
            self._add("warning", f"{info}: the intrinsics change during the recording.", advice)
        try:
            camera = messages.camera_from_info(infos[0], size, rectified=_is_rectified(topic))
        except (CalibrationError, MessageError) as error:
            advice = "Depth needs intrinsics that fit the image; camera_calibration makes them if there never were any."
            self._add("error", f"{info}: {error}", advice)
            return None
        frame = messages.frame_id_of(images[0][0].header) if images else ""
        if images and frame != self._info_frame():
            advice = f"Have the driver use one optical frame for both; '{frame or self._info_frame()}' is used here."
            self._add("warning", f"{info} is in frame '{self._info_frame()}', {topic} in '{frame}'.", advice)
        return camera

    def _check_projection(
        self, camera: Optional[CameraModel], lidars: Sequence[str], out: Optional[Path]
    ) -> List[Path]:
        """Project the sweeps nearest to the sampled images; a picture for each when a folder is given."""
        pictures: List[Path] = []
        counts: List[int] = []
        for number, (decoded, stamp) in enumerate(self._samples.images):
            nearest = self._samples.nearest[number]
            # Sweeps without a point are a finding of their own, and say nothing about the transform.
            sweeps = [sweep for name in lidars if (sweep := nearest.get(name)) is not None and len(sweep)]
            frame_id = messages.frame_id_of(decoded.header) or self._info_frame()
            missing = list(self._untransformed(frame_id, sweeps))
            if camera is None or missing or not sweeps:
                continue
            try:
                pixels = messages.decode_image(decoded)
                points, _ = to_camera(sweeps, CameraFrame(pixels, camera, stamp, frame_id), self._tree, _STILL)
            except (MessageError, TransformError):
                continue
            if pixels.shape[:2] != (camera.height, camera.width):
                continue
            returns = project_points(points, camera, self._config.projection)
            counts.append(len(returns))
            if out is not None:
                pictures.append(_write_picture(out / f"lidar_on_image_{number}.png", draw_returns(pixels, returns)))
        if counts and float(np.median(counts)) < _FEW_IN_IMAGE:
            text = f"Only {int(np.median(counts))} LiDAR points fall into an image (median over {len(counts)} images)."
            advice = (
                "Check the transform between LiDAR and camera, and that the image's frame_id is the optical frame "
                "(x right, y down, z forward; REP 103)."
            )
            self._add("error" if max(counts) == 0 else "warning", text, advice)
        return pictures

    def _info_frame(self) -> str:
        infos = self._samples.infos
        return messages.frame_id_of(infos[0].header) if infos else ""

    def _untransformed(self, camera_frame: str, sweeps: Sequence[LidarSweep]) -> Iterator[str]:
        """Frames of LiDARs whose place at the camera is unknown; each is a finding."""
        for sweep in sweeps:
            try:
                self._tree.lookup_latest(camera_frame, sweep.frame_id)
            except TransformError as error:
                advice = f"Record the transform from '{sweep.frame_id}' to '{camera_frame}' on /tf_static."
                self._add("error", str(error), advice)
                yield sweep.frame_id

    def _check_bad(self, topic: str, errors: Sequence[str]) -> None:
        good = len(self._series.get(topic, ()))
        severity: Severity = "warning" if good > len(errors) else "error"
        text = f"{topic}: of the messages looked into, {len(errors)} cannot be used; the first: {errors[0]}"
        self._add(
            severity, text, "replay counts and skips them; if there are many, look at the driver or the recorder."
        )


_STILL = LidarConfig(deskew=False)


def _is_rectified(topic: Optional[str]) -> bool:
    """Whether the image topic is one of those that image_proc names, for which P holds and D does not."""
    return "rect" in re.split(r"[/_\-]+", (topic or "").lower())


def _intrinsics(info: Any) -> Tuple[float, ...]:
    K = getattr(info, "k", None)
    return tuple(float(value) for value in (info.K if K is None else K))


def _write_picture(path: Path, image: ByteArray) -> Path:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        if done:
            path.write_bytes(data.tobytes())
    except OSError as error:
        raise BagError(f"{path} cannot be written: {error.strerror}.") from error
    return path
