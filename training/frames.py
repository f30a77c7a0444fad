"""Real frames as scenes: what a LiDAR was not shown is the truth, or what a depth camera saw."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from mf_ros.core.camera import CameraModel, rectify_image
from mf_ros.core.types import FloatArray
from mf_ros.errors import BagError
from mf_ros.evaluation.frames import FramePlace, find_frames, load_frame
from mf_training.data import DataError
from mf_training.scenes.types import LidarScan, Scene

WHOLE = (0.0, 1.0)
_DENSE_STRIDE = 4


class FrameSource:
    """The frames with depth of any kind below a folder, read when they are wanted.

    Args:
        folder: as ``mf_ros.evaluation.frames`` describes; every frame of a numbered sequence counts.
        part: from where to where of each drive, a sequence or a folder of frames, in order: (0, 0.5) is its first half.

    Raises:
        DataError: there is no frame.
    """

    def __init__(self, folder: str, part: Tuple[float, float] = WHOLE) -> None:
        try:
            found = find_frames(Path(folder), per_sequence=None)
        except BagError as error:
            raise DataError(f"{folder} holds no frames to train on: {error}") from error
        self._places: List[FramePlace] = []
        drives: Dict[Path, List[FramePlace]] = {}
        for place in filter(_has_depth, found):
            drives.setdefault(_drive(place), []).append(place)
        for frames in drives.values():
            first, last = (int(len(frames) * bound) for bound in part)
            self._places += frames[first:last]
        if not self._places:
            raise DataError(
                f"{folder} holds no frames with points.npz or depth.npz in the part {part[0]:g} to {part[1]:g}."
            )

    def __len__(self) -> int:
        return len(self._places)

    def get(self, index: int) -> Scene:
        """Frame ``index`` in sorted order, its image free of distortion.

        Depth of a depth camera becomes a sweep with a scan line every fourth row; where it lies on the image's own
        grid it is the truth as well. Otherwise nobody knows the depth (zeros).

        Raises:
            BagError: its files cannot be read.
            DataError: it has no returns.
        """
        frame = load_frame(self._places[index])
        shape = frame.image.shape[:2]
        truth = np.zeros(shape, np.float32)
        if frame.points is not None and len(frame.points):
            ring = np.full(len(frame.points), -1) if frame.points.ring is None else frame.points.ring
            scan = LidarScan(frame.points.points, ring.astype(np.int16), "real", frame.n_rings)
        elif frame.depth is not None and frame.depth.any():
            scan = _sweep_of(frame.depth, frame.camera)
            if frame.depth.shape == shape and not frame.camera.has_distortion:
                truth = frame.depth
        else:
            raise DataError(f"{self._places[index].folder}: the frame has no LiDAR returns and no depth.")
        image = rectify_image(frame.image, frame.camera)
        return Scene(
            image=np.ascontiguousarray(image.transpose(2, 0, 1)),
            depth=truth,
            K=frame.camera.K.astype(np.float32),
            scans=(scan,),
            kind="real",
            seed=index,
        )


def _has_depth(place: FramePlace) -> bool:
    return place.stem is not None or any((place.folder / name).exists() for name in ("points.npz", "depth.npz"))


def _drive(place: FramePlace) -> Path:
    return place.folder if place.stem is not None else place.folder.parent


def _sweep_of(depth: FloatArray, camera: CameraModel) -> LidarScan:
    """Every fourth row and column of a depth image, in whatever resolution, as returns in the optical frame."""
    rows, cols = (each * _DENSE_STRIDE for each in np.nonzero(depth[::_DENSE_STRIDE, ::_DENSE_STRIDE]))
    own = camera.resized(depth.shape[1], depth.shape[0])
    points = own.unproject(np.stack([cols, rows], 1), depth[rows, cols]).astype(np.float32)
    seen = np.isfinite(points).all(axis=1)
    ring = (rows // _DENSE_STRIDE).astype(np.int16)
    return LidarScan(points[seen], ring[seen], "real", -(-depth.shape[0] // _DENSE_STRIDE))
