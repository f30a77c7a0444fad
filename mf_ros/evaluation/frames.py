"""Evaluation frames from a folder: ``SOURCE/FRAME/{image.png, calib.json, points.npz | depth.npz}``, or a sequence.

Forms read (all lengths in metres):

- ``calib.json``: ``K`` 3x3, ``dist`` (OpenCV order, [] = none), ``width``, ``height``, ``T_cam_lidar``, ``n_rings``.
- ``points.npz``: ``points`` (N, 4) xyz + intensity, optional ``ring`` (N,).
- ``depth.npz``: ``depth`` (H, W), 0 = none; ``sparse.npz`` likewise, the source's own sparse input.
- a sequence folder: ``NNNN.jpg`` with ``NNNN.npz`` (``xyz_mm`` int32, ``ring``) and one ``calib.json``.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import cv2
import numpy as np

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.types import AnyArray, ByteArray, CameraPoints, FloatArray
from mf_ros.errors import BagError

MAX_WIDTH = 1300
_SEQUENCE_FRAMES = 4
_MAX_UNPACKED_BYTES = 1 << 29


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


def load_frames(folder: Path) -> Iterator[EvaluationFrame]:
    """Yield every frame below a folder, in sorted order, images wider than 1300 px at half size.

    Raises:
        BagError: the folder holds no frame, or a frame's files do not fit together.
    """
    calibrations = sorted(folder.rglob("calib.json"))
    if not calibrations:
        raise BagError(
            f"{folder}: no calib.json below; SOURCE/FRAME/ with calib.json, image.png and points.npz or depth.npz."
        )
    for path in calibrations:
        calibration = _read_calibration(path)
        place = path.parent
        if (place / "image.png").exists():
            yield _load_frame(place, calibration)
        else:
            yield from _load_sequence(place, calibration)


def _read_calibration(path: Path) -> Dict[str, Any]:
    try:
        calibration: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        calibration["K"] = np.asarray(calibration["K"], np.float64).reshape(3, 3)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BagError(f"{path}: not a usable calibration ({error}); it needs K, width and height.") from error
    return calibration


def _load_frame(place: Path, calibration: Dict[str, Any]) -> EvaluationFrame:
    image = _read_image(place / "image.png")
    points = None
    if (place / "points.npz").exists():
        arrays = _read_arrays(place / "points.npz")
        points = _camera_points(arrays["points"][:, :3], arrays.get("ring"), calibration, place)
    depth = _read_depth(place / "depth.npz")
    sparse = _read_depth(place / "sparse.npz")
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


def _load_sequence(place: Path, calibration: Dict[str, Any]) -> Iterator[EvaluationFrame]:
    stems = sorted(path.stem for path in place.glob("*.npz"))
    if not stems:
        raise BagError(f"{place}: calib.json without image.png or numbered frames beside it.")
    for position in np.unique(np.linspace(0, len(stems) - 1, _SEQUENCE_FRAMES).astype(int)):
        image = _read_image(place / f"{stems[position]}.jpg")
        arrays = _read_arrays(place / f"{stems[position]}.npz")
        points = _camera_points(arrays["xyz_mm"] / 1000.0, arrays.get("ring"), calibration, place)
        yield _half_size_if_wide(
            EvaluationFrame(
                source=place.name,
                name=stems[position],
                image=image,
                camera=_camera(calibration, image, place),
                points=points,
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
    D = np.asarray(calibration.get("dist") or [], np.float64)
    if len(D) == 4:
        D = np.append(D, 0.0)
    return make_camera(width, height, calibration["K"], D, "plumb_bob")


def _camera_points(xyz: AnyArray, ring: Optional[AnyArray], calibration: Dict[str, Any], place: Path) -> CameraPoints:
    if "T_cam_lidar" not in calibration:
        raise BagError(f"{place}: points.npz needs T_cam_lidar in calib.json.")
    T = np.asarray(calibration["T_cam_lidar"], np.float64).reshape(4, 4)
    xyz = xyz[np.isfinite(xyz).all(axis=1)] if ring is None else xyz
    moved = (xyz @ T[:3, :3].T + T[:3, 3]).astype(np.float32)
    rings = None if ring is None else ring.astype(np.int32)
    return CameraPoints(moved, rings, np.zeros(len(moved), np.uint8))


def _half_size_if_wide(frame: EvaluationFrame) -> EvaluationFrame:
    if frame.camera.width <= MAX_WIDTH:
        return frame
    camera = frame.camera.resized(frame.camera.width // 2, frame.camera.height // 2)
    image = cv2.resize(frame.image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return EvaluationFrame(
        frame.source, frame.name, image.astype(np.uint8), camera, frame.points, frame.n_rings, frame.depth, frame.sparse
    )


def _read_image(path: Path) -> ByteArray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise BagError(f"{path}: not a readable image.")
    return np.ascontiguousarray(image[:, :, ::-1])


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
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise BagError(f"{path}: not a readable .npz file ({error}).") from error


def _read_depth(path: Path) -> Optional[FloatArray]:
    if not path.exists():
        return None
    arrays: List[AnyArray] = list(_read_arrays(path).values())
    return np.nan_to_num(np.asarray(arrays[0], np.float32), nan=0.0, posinf=0.0, neginf=0.0)
