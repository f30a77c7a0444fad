"""One sample in detail: every field of its row, and what its returns do on its image."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from mf_ros.core.types import AnyArray, DoubleArray, LidarSweep
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import DatasetError, Row
from mf_ros.dataset.show.measure import Projected, counts_by_distance, measured, project_row
from mf_ros.dataset.show.overview import spread
from mf_ros.dataset.show.sensors import field_of_view
from mf_ros.dataset.show.text import NOTHING, distances, number, percent, shown, size, spread_text
from mf_ros.engine.assemble import FrameAssembler
from mf_ros.errors import MfRosError

_MOST_EDGES = 50


@dataclass(frozen=True, eq=False)
class SampleView:
    """One sample.

    Attributes:
        place: in the table.
        row: what was measured.
        projected: as the robot sees it; None where it makes nothing of it.
        problem: why not; "" where it does.
    """

    place: int
    row: Row
    projected: Optional[Projected]
    problem: str


@dataclass(frozen=True)
class Section:
    """A part of what is told of a sample: names with values, and a matrix with its name or none."""

    title: str
    pairs: Tuple[Tuple[str, str], ...]
    matrices: Tuple[Tuple[str, Tuple[str, ...]], ...] = ()


def view_sample(dataset: Dataset, place: int) -> SampleView:
    """The sample at a place in the table.

    Raises:
        DatasetError: its row is damaged.
    """
    row = dataset.row(place)
    config = dataset.description.settings
    try:
        return SampleView(place, row, project_row(dataset, place, FrameAssembler(config), config), "")
    except DatasetError as error:
        return SampleView(place, row, None, str(error))


def sections(view: SampleView) -> List[Section]:
    """Everything there is to say of a sample."""
    found = [_identity(view), _image(view), _camera(view.row)]
    found += [_lidar(view, index) for index in range(len(view.row.sweeps))]
    if view.projected is not None:
        found.append(_returns(view.projected))
    return [*found, _transforms(view.row)]


def sample_lines(view: SampleView) -> List[str]:
    """A sample as lines for a terminal."""
    lines = [f"Sample {view.row.sample_id}"]
    for section in sections(view):
        lines += ["", section.title, *(f"  {name:<24}  {value}" for name, value in section.pairs)]
        for name, rows in section.matrices:
            lines += [f"  {name}", *(f"      {row}" for row in rows)]
    return [*lines, *(["", f"error: {view.problem}"] if view.problem else [])]


def _identity(view: SampleView) -> Section:
    row = view.row
    texts = [("Id", row.sample_id), ("Place in the table", str(view.place)), ("Recording", row.bag_id)]
    texts += [("Robot", shown(row.robot_id)), ("Site", shown(row.site)), ("Day", shown(row.day))]
    texts += [
        ("Split", row.split or "none: it lies in the gap between two"),
        ("Keyframe", "yes" if row.keyframe else "no: it is kept for another reason"),
        ("Stamp", f"{row.stamp_ns} ns, {_utc(row.stamp_ns)}"),
        ("Recorded after", f"{(row.log_ns - row.stamp_ns) / 1e6:.1f} ms"),
        ("Perceptual hash", row.phash or NOTHING),
        ("Extracted by", row.extractor_version or NOTHING),
    ]
    return Section("Sample", tuple(texts))


def _utc(stamp_ns: int) -> str:
    try:
        time = datetime.datetime.fromtimestamp(stamp_ns // 10**9, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return "no time of any calendar"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def _image(view: SampleView) -> Section:
    row = view.row
    pairs = [("Stored as", f"{row.image_format[:80]}, {size(len(row.image))}")]
    pairs.append(("Size", f"{row.camera.width} x {row.camera.height} pixels"))
    if view.projected is not None:
        height, width = view.projected.image.shape[:2]
        if (width, height) != (row.camera.width, row.camera.height):
            pairs.append(("Used as", f"{width} x {height} pixels"))
        numbers = measured(view.projected)
        pairs.append(("Mean brightness", f"{view.projected.image.mean():.0f} of 255"))
        pairs.append(("Nearly black / white", f"{percent(numbers.dark)} / {percent(numbers.bright)} of the pixels"))
    return Section("Image", tuple(pairs))


def _camera(row: Row) -> Section:
    camera = row.camera
    horizontal, vertical = field_of_view(camera)
    K = camera.K
    pairs = [
        ("Frame", row.camera_frame),
        ("Field of view", f"{horizontal:.1f} x {vertical:.1f} degrees, through the middle"),
        ("Intrinsics", f"fx {K[0, 0]:.2f}, fy {K[1, 1]:.2f}, cx {K[0, 2]:.2f}, cy {K[1, 2]:.2f} pixels"),
        ("Lens", f"{camera.distortion_model}: {', '.join(f'{each:.5g}' for each in camera.D)}"),
    ]
    if not np.array_equal(camera.R, np.eye(3)):
        return Section("Camera", tuple(pairs), (("Stereo rectification R", _matrix(camera.R)),))
    return Section("Camera", tuple(pairs))


def _lidar(view: SampleView, index: int) -> Section:
    sweep, row = view.row.sweeps[index], view.row
    if sweep is None:
        return Section(f"LiDAR {index}", (("Sweep", "none near enough in time"),))
    offset_ns = row.dt_ns[index]
    distance = spread(np.linalg.norm(sweep.points, axis=1))
    pairs = [
        ("Points", str(len(sweep))),
        ("Scan lines", str(len(np.unique(sweep.ring))) if sweep.ring is not None else "not told"),
        ("Times of its points", _times(sweep)),
        ("Intensity", _range(sweep.intensity)),
        ("Distance", f"{spread_text(distance, 1)} m"),
        ("Stamp minus the image's", NOTHING if offset_ns is None else f"{offset_ns / 1e6:.1f} ms"),
    ]
    if view.projected is not None:
        pairs.append(("Motion compensated", "yes" if view.projected.assembled.compensated[index] else "no"))
        pairs.append(("In the image", _in_image(view.projected, index)))
    T = _pose(row, sweep.frame_id)
    matrices = ((f"T_cam_lidar at the image's stamp ({_placed(T)})", _matrix(T[:3])),) if T is not None else ()
    return Section(f"LiDAR {index}: {sweep.frame_id}", tuple(pairs), matrices)


def _times(sweep: LidarSweep) -> str:
    if sweep.time_s is None or not len(sweep):
        return "none; all count as measured at its stamp"
    return f"{1e3 * sweep.time_s.min():+.1f} to {1e3 * sweep.time_s.max():+.1f} ms from its stamp"


def _range(values: Optional[AnyArray]) -> str:
    return "none" if values is None or not len(values) else f"{values.min():.4g} to {values.max():.4g}"


def _in_image(projected: Projected, index: int) -> str:
    returns = projected.returns
    own = projected.assembled.points.sensor[returns.index] == index
    visible, lonely = int(returns.visible[own].sum()), int(returns.lonely[own].sum())
    return f"{int(own.sum())}: {visible} visible, {int(own.sum()) - visible - lonely} hidden, {lonely} lonely"


def _pose(row: Row, frame: str) -> Optional[DoubleArray]:
    try:
        return row.tree().lookup(row.camera_frame, frame, row.stamp_ns)
    except MfRosError:
        return None


def _placed(T: DoubleArray) -> str:
    x, y, z = T[:3, 3]
    sides = [(x, "right", "left"), (y, "below", "above"), (z, "in front of", "behind")]
    return (
        ", ".join(f"{abs(value):.2f} m {more if value >= 0 else less}" for value, more, less in sides) + " the camera"
    )


def _matrix(values: DoubleArray) -> Tuple[str, ...]:
    return tuple(" ".join(f"{value:8.4f}" for value in row) for row in values)


def _returns(projected: Projected) -> Section:
    numbers = measured(projected)
    by_distance = distances(counts_by_distance(numbers.depth_m))
    pairs = [
        ("Visible", str(numbers.visible)),
        ("Hidden by nearer ones", str(numbers.hidden)),
        ("Lonely", str(numbers.lonely)),
        ("Visible per 1000 pixels", number(numbers.per_1000_px, 2)),
        ("Image that is covered", percent(numbers.covered)),
        ("Depth", f"{spread_text(spread(numbers.depth_m), 1)} m"),
        ("Visible by depth", ", ".join(f"{name} {count}" for name, count, _ in by_distance)),
    ]
    return Section("Returns in the image", tuple(pairs))


def _transforms(row: Row) -> Section:
    pairs = []
    for edge in row.edges[:_MOST_EDGES]:
        held = "at any time"
        if len(edge.stamps_ns):
            first, last = ((int(stamp) - row.stamp_ns) / 1e6 for stamp in edge.stamps_ns[[0, -1]])
            held = f"{len(edge.stamps_ns)} poses, {first:+.1f} to {last:+.1f} ms from the image"
        pairs.append((f"{shown(edge.child)} in {shown(edge.parent)}", held))
    if len(row.edges) > _MOST_EDGES:
        pairs.append(("Others", str(len(row.edges) - _MOST_EDGES)))
    if row.T_world_cam is None:
        return Section("Transforms", (*pairs, ("Pose in the fixed frame", "not known at the image's stamp")))
    return Section(
        "Transforms", tuple(pairs), (("T_world_cam, of the camera in the fixed frame", _matrix(row.T_world_cam[:3])),)
    )


def sample_json(view: SampleView) -> Dict[str, Any]:
    """A sample as plain values; images and points are told in numbers."""
    row, camera, projected = view.row, view.row.camera, view.projected
    plain = ("sample_id", "bag_id", "robot_id", "site", "day", "split", "keyframe", "stamp_ns", "log_ns")
    found: Dict[str, Any] = {"place": view.place}
    found.update({name: getattr(row, name) for name in (*plain, "phash", "extractor_version", "camera_frame")})
    found.update(image_format=row.image_format, image_bytes=len(row.image), width=camera.width, height=camera.height)
    found.update(K=camera.K, D=camera.D, R=camera.R, distortion_model=camera.distortion_model)
    found["lidars"] = [_lidar_json(view, index) for index in range(len(row.sweeps))]
    found["transforms"] = [
        {"parent": edge.parent, "child": edge.child, "stamps_ns": edge.stamps_ns, "poses": edge.poses}
        for edge in row.edges
    ]
    found["T_world_cam"] = row.T_world_cam
    found["problem"] = view.problem or None
    if projected is not None:
        numbers = dataclasses.asdict(measured(projected))
        numbers.pop("depth_m")
        depths = measured(projected).depth_m
        found["measured"] = {
            **numbers,
            "depth_m": dataclasses.asdict(spread(depths)),
            "by_distance": counts_by_distance(depths),
        }
    return found


def _lidar_json(view: SampleView, index: int) -> Optional[Dict[str, Any]]:
    sweep = view.row.sweeps[index]
    if sweep is None:
        return None
    return {
        "frame_id": sweep.frame_id,
        "stamp_ns": sweep.stamp_ns,
        "dt_cam_lidar_ns": view.row.dt_ns[index],
        "count": len(sweep),
        "lines": None if sweep.ring is None else len(np.unique(sweep.ring)),
        "has_time": sweep.time_s is not None,
        "has_intensity": sweep.intensity is not None,
        "T_cam_lidar": _pose(view.row, sweep.frame_id),
        "compensated": None if view.projected is None else view.projected.assembled.compensated[index],
    }
