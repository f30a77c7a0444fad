"""``check``: what is in a recording, what fits, what is wrong, and what to do about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from mf_ros.bags.check_samples import Bad, Samples
from mf_ros.bags.check_time import check_clocks, check_series, summary
from mf_ros.bags.folder import make_output_folder
from mf_ros.bags.overlay import draw_returns
from mf_ros.bags.reader import Recording
from mf_ros.core import messages
from mf_ros.core.camera import CameraModel
from mf_ros.core.config import Config
from mf_ros.core.deskew import to_camera
from mf_ros.core.pictures import write_png
from mf_ros.core.projection import project_points
from mf_ros.core.topics import (
    CAMERA_INFO_TYPE,
    TF_TYPES,
    TopicInfo,
    choose_camera_info,
    choose_image,
    choose_points,
    is_rectified,
)
from mf_ros.core.types import CameraFrame, LidarSweep
from mf_ros.errors import BagError, CalibrationError, MessageError, TopicError, TransformError
from mf_ros.findings import Finding, Severity, has_errors, worst_first

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
        # Filled when the topics are chosen.
        self._samples = Samples(recording, {}, (), config)

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
        self._samples = Samples(recording, roles, lidars, self._config)
        self._samples.read(progress)
        times = self._samples.series
        if not tf:
            advice = "Record /tf_static, or publish the pose of each sensor with static_transform_publisher."
            self._add(
                "error", f"{recording.name} has no transforms: the LiDAR's place at the camera is unknown.", advice
            )
        for series in times.values():
            self._findings += check_series(series)
        if chosen:
            self._findings += check_clocks(times[chosen], [times[name] for name in lidars], self._config.sync)
        offsets = len(self._config.sync.lidar_offset_s)
        if offsets and lidars and offsets != len(lidars):
            text = f"sync.lidar_offset_s has {offsets} values for {len(lidars)} LiDARs."
            self._add("error", text, "Give one offset per point topic, or none.")
        for name in (chosen, info, *lidars):
            if name:
                self._check_present(name)
        for name in lidars:
            self._check_points(name)
        camera = self._check_camera(chosen, info)
        pictures = self._check_projection(camera, lidars, out) if chosen and tf else []
        for topic, bad in self._samples.bad.items():
            self._check_bad(topic, roles[topic], bad)
        if recording.damage:
            advice = "What can be read is used; `mf-ros replay` or `ros2 bag convert` writes an intact copy."
            self._add("error", recording.damage, advice)
        return CheckReport(
            recording.name,
            recording.duration_s,
            tuple(recording.topics),
            roles,
            {name: summary(series) for name, series in times.items() if len(series)},
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

    def _check_present(self, topic: str) -> None:
        """A finding when the part that was read holds no message of a topic."""
        if len(self._samples.series[topic]) or topic in self._samples.bad:
            return
        text = f"{topic}: none of its messages lies in this part of {self._recording.name}."
        self._add("error", text, "Choose another part with --start and --duration, or another topic.")

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
            advice = (
                "For a LiDAR that spins, use a driver or point type with a ring field to measure accuracy on held-out "
                "rings; one without scan lines, such as a Livox, is used as it is."
            )
            self._add("note", f"{topic}: the points have no ring, so accuracy is measured on random points.", advice)
        if filled[0].time_s is None:
            advice = "Use a driver or point type with a time field if the robot moves fast."
            self._add("note", f"{topic}: the points have no time, so the robot's motion is not compensated.", advice)
            return
        spans = [float(np.ptp(sweep.time_s)) for sweep in filled if sweep.time_s is not None]
        rate = self._samples.series[topic].rate_hz
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
        for each in images:
            try:
                pixels = messages.decode_image(each.message)
            except MessageError as error:
                self._samples.note_bad(str(topic), each.stamp_ns, error)
                continue
            size = (pixels.shape[1], pixels.shape[0])
            break
        if not infos:
            return None
        if len(infos) > 1:
            advice = "Zoom and focus have to stay fixed; record a bag per setting if they do not."
            self._add("warning", f"{info}: the intrinsics change during the recording.", advice)
        try:
            camera = messages.camera_from_info(infos[0], size, rectified=is_rectified(topic or ""))
        except (CalibrationError, MessageError) as error:
            advice = "Depth needs intrinsics that fit the image; camera_calibration makes them if there never were any."
            self._add("error", f"{info}: {error}", advice)
            return None
        frame = messages.frame_id_of(images[0].message.header) if images else ""
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
        still = dataclasses.replace(self._config.lidar, deskew=False)
        for number, each in enumerate(self._samples.images):
            # Sweeps without a point are a finding of their own, and say nothing about the transform.
            sweeps = [sweep for name in lidars if (sweep := each.nearest.get(name)) is not None and len(sweep)]
            frame_id = messages.frame_id_of(each.message.header) or self._info_frame()
            missing = list(self._untransformed(frame_id, sweeps))
            if camera is None or missing or not sweeps:
                continue
            try:
                pixels = messages.decode_image(each.message)
                frame = CameraFrame(pixels, camera, each.stamp_ns, frame_id)
                points, _ = to_camera(sweeps, frame, self._samples.tree, still)
            except (MessageError, TransformError):
                continue
            if pixels.shape[:2] != (camera.height, camera.width):
                continue
            returns = project_points(points, camera, self._config.projection)
            counts.append(len(returns))
            if out is not None:
                pictures.append(out / f"lidar_on_image_{number}.png")
                write_png(pictures[-1], draw_returns(pixels, returns), BagError)
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
                self._samples.tree.lookup_latest(camera_frame, sweep.frame_id)
            except TransformError as error:
                advice = f"Record the transform from '{sweep.frame_id}' to '{camera_frame}' on /tf_static."
                self._add("error", str(error), advice)
                yield sweep.frame_id

    def _check_bad(self, topic: str, role: str, bad: Bad) -> None:
        severity: Severity
        if role == "tf":
            # Which transforms are missing then is a finding of its own.
            severity, what = "warning" if self._samples.good_transforms else "error", "transforms"
        else:
            good = len(self._samples.series[topic])
            severity, what = "warning" if good > bad.count else "error", "messages looked into"
        text = f"{topic}: of the {what}, {bad.count} cannot be used; the first: {bad.first}"
        self._add(
            severity, text, "replay counts and skips them; if there are many, look at the driver or the recorder."
        )
