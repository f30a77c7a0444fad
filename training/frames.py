"""Real frames as scenes whose depth nobody knows: the returns that are not shown are the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mf_ros.core.camera import rectify_image
from mf_ros.evaluation.frames import load_frames
from mf_training.data import DataError
from mf_training.scenes.types import LidarScan, Scene


class FrameSource:
    """The frames with LiDAR below a folder, read when they are wanted.

    Args:
        folder: ``SOURCE/FRAME/{image.png, calib.json, points.npz}``.

    Raises:
        DataError: there is none.
    """

    def __init__(self, folder: str) -> None:
        self._places = sorted(
            path.parent
            for path in Path(folder).rglob("calib.json")
            if (path.parent / "image.png").exists() and (path.parent / "points.npz").exists()
        )
        if not self._places:
            raise DataError(
                f"{folder} holds no frames: expected is SOURCE/FRAME/ with image.png, calib.json and points.npz."
            )

    def __len__(self) -> int:
        return len(self._places)

    def get(self, index: int) -> Scene:
        """Frame ``index`` in sorted order, its image free of distortion.

        Raises:
            BagError: its files cannot be read.
            DataError: it has no returns.
        """
        frame = next(load_frames(self._places[index]))
        if frame.points is None or len(frame.points) == 0:
            raise DataError(f"{self._places[index]}: the frame has no LiDAR returns.")
        camera = frame.camera.rectified() if frame.camera.has_distortion else frame.camera
        image = rectify_image(frame.image, frame.camera) if frame.camera.has_distortion else frame.image
        count = len(frame.points)
        ring = np.full(count, -1) if frame.points.ring is None else frame.points.ring
        scan = LidarScan(frame.points.points, ring.astype(np.int16), "real", frame.n_rings)
        return Scene(
            image=np.ascontiguousarray(image.transpose(2, 0, 1)),
            depth=np.zeros(image.shape[:2], np.float32),
            K=camera.K.astype(np.float32),
            scans=(scan,),
            kind="real",
            seed=index,
        )
