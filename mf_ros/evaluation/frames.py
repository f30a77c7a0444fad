"""Evaluation frames from a folder: ``SOURCE/FRAME/{image.png, calib.json, points.npz | depth.npz}``, or a sequence.

Forms read (all lengths in metres):

- ``calib.json``: ``K`` 3x3, ``dist`` (OpenCV order, [] = none), ``width``, ``height``, ``T_cam_lidar``, ``n_rings``.
- ``points.npz``: ``points`` (N, 4) xyz + intensity, optional ``ring`` (N,).
- ``depth.npz``: ``depth`` (H, W) of the image's size, 0 = none, or of the image's shape in another resolution (which
  is read but not scored); ``sparse.npz`` likewise, the source's own sparse input.
- a sequence folder: ``NNNN.jpg`` with ``NNNN.npz`` (``xyz_mm`` int32, ``ring``) and one ``calib.json``.
"""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import cv2
import numpy as np

from mf_ros.core.archives import UNREADABLE
from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.documents import bounded_text
from mf_ros.core.messages import decode_compressed
from mf_ros.core.pointcloud import MAX_RING
from mf_ros.core.types import AnyArray, ByteArray, CameraPoints, DoubleArray, FloatArray, IntArray
from mf_ros.errors import BagError, CalibrationError, MessageError

MAX_WIDTH = 1300
_SEQUENCE_FRAMES = 4
_MAX_UNPACKED_BYTES = 1 << 29
_LARGEST_CALIBRATION = 1_000_000
_LARGEST_IMAGE = 1 << 28


@dataclass(frozen=True)
class EvaluationFrame:
    """One real or simulated frame with whatever truth it has.

    Attributes:
        source: name of the data set the frame belongs to.
        name: the frame's own name.
        image: (H, W, 3) uint8 RGB.
        camera: model of ``image``.
        points: LiDAR returns in the optical frame, or None for RGB-D.
        n_rings: scan lines of the LiDAR; 0 when unknown.
        depth: (H, W) float32 metres, 0 = none: dense or accumulated truth; None when only points exist.
        sparse: (H, W) float32 metres, 0 = none: the source's own sparse input.
    """

    source: str
    name: str
    image: ByteArray
    camera: CameraModel
    points: Optional[CameraPoints] = None
    n_rings: int = 0
    depth: Optional[FloatArray] = None
    sparse: Optional[FloatArray] = None


@dataclass(frozen=True)
class FramePlace:
    """Where one frame lies: a folder of its own, or one of a sequence's numbered files (``stem``)."""

    folder: Path
    stem: Optional[str] = None


def find_frames(folder: Path, per_sequence: Optional[int] = _SEQUENCE_FRAMES) -> List[FramePlace]:
    """Every frame below a folder, frame 10 after frame 9; of a sequence this many, evenly spread, or all (None).

    Raises:
        BagError: the folder holds no frame.
    """
    calibrations = sorted(folder.rglob("calib.json"), key=_natural)
    if not calibrations:
        raise BagError(
            f"{folder}: no calib.json below; SOURCE/FRAME/ with calib.json, image.png and points.npz or depth.npz."
        )
    places: List[FramePlace] = []
    for path in calibrations:
        place = path.parent
        if (place / "image.png").exists():
            places.append(FramePlace(place))
            continue
        stems = [found.stem for found in sorted(place.glob("*.npz"), key=_natural)]
        if not stems:
            raise BagError(f"{place}: calib.json without image.png or numbered frames beside it.")
        count = len(stems) if per_sequence is None else per_sequence
        positions = np.unique(np.linspace(0, len(stems) - 1, count).astype(int))
        places.extend(FramePlace(place, stems[position]) for position in positions)
    return places


def _natural(path: Path) -> Tuple[Any, ...]:
    """Sorts numbers in names by their value; texts and numbers take turns, so that like meets like."""
    parts = [
        [int(text) if place % 2 else text for place, text in enumerate(re.split(r"(\d+)", part))] for part in path.parts
    ]
    return (parts, path.parts)


def load_frame(place: FramePlace) -> EvaluationFrame:
    """One frame, at half size when wider than 1300 px.

    Raises:
        BagError: the frame's files are missing, damaged or do not fit together.
    """
    calibration = _read_calibration(place.folder / "calib.json")
    if place.stem is None:
        return _load_single(place.folder, calibration)
    return _load_of_sequence(place.folder, place.stem, calibration)


def load_frames(folder: Path) -> Iterator[EvaluationFrame]:
    """Yield every frame below a folder, as ``find_frames`` and ``load_frame`` find and read them."""
    for place in find_frames(folder):
        yield load_frame(place)


def _read_calibration(path: Path) -> Dict[str, Any]:
    try:
        calibration: Dict[str, Any] = json.loads(
            bounded_text(path, _LARGEST_CALIBRATION, "calibration of a frame", BagError)
        )
        calibration["K"] = np.asarray(calibration["K"], np.float64).reshape(3, 3)
        calibration["dist"] = np.asarray(calibration.get("dist") or [], np.float64).reshape(-1)
        calibration["n_rings"] = int(calibration.get("n_rings") or 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BagError(
            f"{path}: not a usable calibration ({error}); it needs K, width and height as numbers."
        ) from error
    return calibration


def _load_single(place: Path, calibration: Dict[str, Any]) -> EvaluationFrame:
    image = _read_image(place / "image.png")
    points = None
    if (place / "points.npz").exists():
        points = _read_points(place / "points.npz", "points", 1.0, calibration)
    depth = _read_depth(place / "depth.npz", image)
    sparse = _read_depth(place / "sparse.npz", image)
    return _half_size_if_wide(
        EvaluationFrame(
            source=place.parent.name,
            name=place.name,
            image=image,
            camera=_camera(calibration, image, place),
            points=points,
            n_rings=int(calibration.get("n_rings") or 0),
            depth=depth,
            sparse=sparse,
        )
    )


def _load_of_sequence(place: Path, stem: str, calibration: Dict[str, Any]) -> EvaluationFrame:
    image = _read_image(place / f"{stem}.jpg")
    return _half_size_if_wide(
        EvaluationFrame(
            source=place.name,
            name=stem,
            image=image,
            camera=_camera(calibration, image, place),
            points=_read_points(place / f"{stem}.npz", "xyz_mm", 1000.0, calibration),
            n_rings=int(calibration.get("n_rings") or 0),
        )
    )


def _camera(calibration: Dict[str, Any], image: ByteArray, place: Path) -> CameraModel:
    height, width = image.shape[:2]
    if (calibration.get("width"), calibration.get("height")) != (width, height):
        raise BagError(
            f"{place}: the image is {width}x{height} but calib.json says "
            f"{calibration.get('width')}x{calibration.get('height')}."
        )
    try:
        return make_camera(width, height, calibration["K"], calibration["dist"], "plumb_bob")
    except CalibrationError as error:
        raise BagError(f"{place / 'calib.json'}: {error}") from error


def _read_points(path: Path, name: str, per_metre: float, calibration: Dict[str, Any]) -> CameraPoints:
    """Finite returns of an array of a file, moved into the optical frame."""
    arrays = _read_arrays(path)
    listed = arrays.get(name)
    if listed is None or listed.ndim != 2 or listed.shape[1] < 3 or listed.dtype.kind not in "fiu":
        raise BagError(f"{path}: expected are numbers '{name}' (N, 3 or more); it holds {_contents(arrays)}.")
    rings = _ring_of(arrays, len(listed), path)
    T = _extrinsics(calibration, path)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = ((listed[:, :3] / per_metre) @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    finite = np.isfinite(moved).all(axis=1)
    moved = moved[finite]
    return CameraPoints(moved, None if rings is None else rings[finite], np.zeros(len(moved), np.uint8))


def _ring_of(arrays: Dict[str, AnyArray], count: int, path: Path) -> Optional[IntArray]:
    ring = arrays.get("ring")
    if ring is None:
        return None
    if ring.shape != (count,) or ring.dtype.kind not in "fiu" or not ((ring >= 0) & (ring <= MAX_RING)).all():
        raise BagError(
            f"{path}: expected is 'ring' ({count},), one scan line of 0 to {MAX_RING} per point; "
            f"it holds {_contents(arrays)}."
        )
    return ring.astype(np.int32)


def _extrinsics(calibration: Dict[str, Any], path: Path) -> DoubleArray:
    place = path.parent / "calib.json"
    try:
        T: DoubleArray = np.asarray(calibration["T_cam_lidar"], np.float64)
    except KeyError as error:
        raise BagError(f"{place}: {path.name} needs T_cam_lidar, the 4x4 transform from LiDAR to camera.") from error
    except (ValueError, TypeError) as error:
        raise BagError(f"{place}: T_cam_lidar is no 4x4 matrix of numbers ({error}).") from error
    if T.shape != (4, 4) or not np.isfinite(T).all() or T[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
        raise BagError(
            f"{place}: T_cam_lidar, of shape {T.shape}, must be a 4x4 matrix of finite numbers, its last row 0 0 0 1."
        )
    return T


def _contents(arrays: Dict[str, AnyArray]) -> str:
    """What a file holds, for error messages."""
    names = [f"'{name}' {array.dtype} {array.shape}" for name, array in list(arrays.items())[:8]]
    return ", ".join(names) or "nothing"


def _half_size_if_wide(frame: EvaluationFrame) -> EvaluationFrame:
    if frame.camera.width <= MAX_WIDTH:
        return frame
    camera = frame.camera.resized(frame.camera.width // 2, frame.camera.height // 2)
    image = cv2.resize(frame.image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return replace(frame, image=image.astype(np.uint8), camera=camera)


def _read_image(path: Path) -> ByteArray:
    """The picture as it is decoded in messages: EXIF does not turn it, for calibrations are of what the sensor saw."""
    try:
        if path.stat().st_size > _LARGEST_IMAGE:
            raise BagError(f"{path} has more than {_LARGEST_IMAGE} bytes: that is no image of a frame.")
        return decode_compressed(path.read_bytes(), path.suffix)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {error.strerror or error}.") from error
    except MessageError as error:
        raise BagError(f"{path}: {error}") from error


def _read_arrays(path: Path) -> Dict[str, AnyArray]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _MAX_UNPACKED_BYTES:
            raise BagError(
                f"{path}: unpacks to {unpacked / 2**20:.0f} MiB; at most {_MAX_UNPACKED_BYTES >> 20} are read."
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except UNREADABLE as error:
        raise BagError(f"{path}: not a readable .npz file ({error}).") from error


def _read_depth(path: Path, image: ByteArray) -> Optional[FloatArray]:
    if not path.exists():
        return None
    arrays = _read_arrays(path)
    depth = arrays.get("depth", next(iter(arrays.values()), None))
    height, width = image.shape[:2]
    if depth is None or depth.dtype.kind not in "fiu" or not _same_aspect(depth.shape, (height, width)):
        raise BagError(
            f"{path}: expected is 'depth' ({height}, {width}) metres, of the image's size or at least of its "
            f"proportions; it holds {_contents(arrays)}."
        )
    with np.errstate(over="ignore"):
        return np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _same_aspect(shape: Tuple[int, ...], image_shape: Tuple[int, int]) -> bool:
    """Whether an array covers the image pixel by pixel or in another resolution, to a pixel of rounding."""
    if len(shape) != 2 or 0 in shape:
        return False
    return abs(shape[0] * image_shape[1] - shape[1] * image_shape[0]) <= max(image_shape)
