"""Rows of a data set as scenes: brought together by the robot's own code, and known only where its LiDAR measured."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np

from mf_ros.core.config import Config
from mf_ros.core.rigid import invert
from mf_ros.core.settings import load_config
from mf_ros.core.types import DoubleArray, FloatArray
from mf_ros.dataset.calibration import load_calibration
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import DatasetError
from mf_ros.engine.assemble import AssembledFrame, DecodedFrame, FrameAssembler
from mf_ros.engine.reasons import DropError
from mf_ros.errors import TransformError
from mf_training.config import DatasetSourceConfig
from mf_training.scenes.types import LidarScan, Scene

_MOTION_NS = 40_000_000


class RecordedSource:
    """Rows of a data set, read and brought together when they are wanted.

    Args:
        dataset: where they are.
        rows: their places in it.
        settings: of the robot; ``lidar`` and ``output`` decide.
        corrections: child frame to the (4, 4) T_parent_child that replaces the recorded one.
    """

    def __init__(
        self, dataset: Dataset, rows: Sequence[int], settings: Config, corrections: Dict[str, DoubleArray]
    ) -> None:
        self._dataset, self._rows = dataset, tuple(rows)
        self._settings, self._corrections = settings, corrections
        self._assembler = FrameAssembler(settings)

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, index: int) -> Scene:
        """Row ``index`` of the chosen ones as the robot would see it, image and returns in the published geometry.

        Raises:
            DatasetError: the row is damaged, or its sweeps cannot be brought into the camera's frame.
        """
        row = self._dataset.row(self._rows[index])
        decoded = row.decoded(self._corrections)
        try:
            assembled = self._assembler.assemble(decoded)
        except DropError as error:
            raise DatasetError(f"Sample {row.sample_id} cannot be used: {error}") from error
        return scene_of(assembled, twist_of(decoded, self._settings.lidar.fixed_frame), index)


def open_split(config: DatasetSourceConfig, split: str, most: Optional[int] = None) -> RecordedSource:
    """The rows of one split of a data set.

    Args:
        config: which data set, and what replaces its settings and calibration.
        split: train, val or test.
        most: take no more rows than this, evenly spread.

    Raises:
        DatasetError: the data set cannot be used, or the split is empty.
        ConfigError: the file of settings or of the calibration cannot be used.
    """
    dataset = Dataset(config.path)
    rows = dataset.indices(split)
    if not rows:
        raise DatasetError(
            f"{config.path} has no rows of the split {split}: extract more bags, or with --split time, so that every "
            "bag gives some; data.dataset.heldout=0 trains without judging while it trains."
        )
    if most is not None and len(rows) > most:
        rows = tuple(rows[place] for place in np.linspace(0, len(rows) - 1, most).astype(int))
    settings = load_config(config.settings) if config.settings else dataset.description.settings
    corrections = load_calibration(Path(config.calibration)) if config.calibration else {}
    return RecordedSource(dataset, rows, settings, corrections)


def scene_of(assembled: AssembledFrame, twist: FloatArray, seed: int) -> Scene:
    """A frame as a scene without dense truth.

    Args:
        assembled: image and returns.
        twist: (6,) velocity of the camera in its own frame, m/s and rad/s.
        seed: its number.
    """
    frame, points = assembled.frame, assembled.points
    ring = np.full(len(points), -1) if points.ring is None else points.ring
    lines = 0 if points.ring is None or not len(points) else int(points.ring.max()) + 1
    return Scene(
        image=np.ascontiguousarray(frame.image.transpose(2, 0, 1)),
        depth=np.zeros(frame.image.shape[:2], np.float32),
        K=frame.camera.K.astype(np.float32),
        scans=(LidarScan(points.points, ring.astype(np.int16), "real", lines),),
        kind="real",
        seed=seed,
        lens=frame.camera,
        twist=twist,
    )


def twist_of(decoded: DecodedFrame, fixed_frame: str) -> FloatArray:
    """(6,) velocity of the camera in its own frame at the image's stamp, m/s and rad/s; zeros where it is not known."""
    # Backwards, because a robot's transforms need not reach beyond the image.
    stamps = decoded.stamp_ns + np.array([-_MOTION_NS, 0])
    try:
        before, after = decoded.tree.lookup_many(fixed_frame, decoded.frame_id, stamps)
    except TransformError:
        return np.zeros(6, np.float32)
    moved, seconds = invert(before) @ after, 1e-9 * _MOTION_NS
    turned = moved[:3, :3] - moved[:3, :3].T
    spin = np.array([turned[2, 1], turned[0, 2], turned[1, 0]]) / 2
    return np.concatenate([moved[:3, 3], spin]).astype(np.float32) / np.float32(seconds)
