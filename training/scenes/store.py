"""Scenes kept in a folder, so that each is rendered once.

One ``.npz`` file for a scene, without pickle:
- ``image`` (3, H, W) uint8; ``K``; ``seed``; ``kind``;
- ``depth`` (H, W) float16: log(z / 6 m), so that errors stay below 0.1%; inf = sky, NaN = unknown (0 m);
- for each sweep ``points_i`` (N, 3) uint16: x / z and y / z in 65535 steps over [-4, 4], log(z) in 65535 steps over
  [log 0.1, log 300]: errors below 1 mm at 10 m; ``ring_i`` int16, ``kind_i``, ``lines_i``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from mf_ros.core.archives import UNREADABLE
from mf_ros.core.types import FloatArray
from mf_ros.errors import ConfigError
from mf_training.scenes.scene import make_scene
from mf_training.scenes.types import DEFAULT_CONFIG, LidarScan, Scene, SceneConfig

FORMAT = 1
# Raised whenever a seed gives another scene than before, so that old files are not taken for new ones.
GENERATOR = 6
_DEPTH_UNIT_M = 6.0
_SLOPE = 4.0
_NEAREST, _FARTHEST = float(np.log(0.1)), float(np.log(300.0))
_STEPS = 65535

_log = logging.getLogger(__name__)


def pack(scene: Scene) -> Dict[str, npt.NDArray[Any]]:
    """The arrays that a file holds."""
    with np.errstate(divide="ignore"):
        coded = np.where(scene.depth > 0, np.log(scene.depth / _DEPTH_UNIT_M), np.nan).astype(np.float16)
    arrays: Dict[str, npt.NDArray[Any]] = {
        "format": np.array(FORMAT),
        "image": scene.image,
        "depth": coded,
        "K": scene.K,
        "kind": np.array(scene.kind),
        "seed": np.array(scene.seed),
        "scans": np.array(len(scene.scans)),
    }
    for i, scan in enumerate(scene.scans):
        arrays[f"points_{i}"], arrays[f"ring_{i}"] = _pack_points(scan.points), scan.ring
        arrays[f"kind_{i}"], arrays[f"lines_{i}"] = np.array(scan.kind), np.array(scan.lines)
    return arrays


def _pack_points(points: FloatArray) -> npt.NDArray[np.uint16]:
    p = points.astype(np.float64)
    z = p[:, 2]
    parts = np.stack(
        [
            (p[:, 0] / z + _SLOPE) / (2 * _SLOPE),
            (p[:, 1] / z + _SLOPE) / (2 * _SLOPE),
            (np.log(z) - _NEAREST) / (_FARTHEST - _NEAREST),
        ],
        1,
    )
    return np.rint(np.clip(parts, 0, 1) * _STEPS).astype(np.uint16)


def _unpack_points(coded: npt.NDArray[np.uint16]) -> FloatArray:
    parts = coded.astype(np.float64) / _STEPS
    z = np.exp(parts[:, 2] * (_FARTHEST - _NEAREST) + _NEAREST)
    slopes = parts[:, :2] * (2 * _SLOPE) - _SLOPE
    return np.concatenate([slopes * z[:, None], z[:, None]], 1).astype(np.float32)


def unpack(arrays: Any) -> Scene:
    """The scene of ``pack``'s arrays.

    Raises:
        KeyError, TypeError, ValueError: they are not those of a scene.
    """
    if int(arrays["format"]) != FORMAT:
        raise ValueError(f"format {int(arrays['format'])}")
    coded = arrays["depth"].astype(np.float32)
    depth = np.where(np.isnan(coded), np.float32(0), np.exp(coded) * np.float32(_DEPTH_UNIT_M)).astype(np.float32)
    image = arrays["image"]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape != (3, *depth.shape):
        raise ValueError(f"image {image.dtype} {image.shape} with depth {depth.shape}")
    scans = []
    for i in range(int(arrays["scans"])):
        points, ring = _unpack_points(arrays[f"points_{i}"]), arrays[f"ring_{i}"]
        if len(points) != len(ring):
            raise ValueError(f"{len(points)} points with {len(ring)} rings")
        scans.append(LidarScan(points, ring, str(arrays[f"kind_{i}"]), int(arrays[f"lines_{i}"])))
    return Scene(image, depth, arrays["K"], tuple(scans), str(arrays["kind"]), int(arrays["seed"]))


class SceneStore:
    """Scenes by seed, rendered on first use and then read from a folder; without a folder always rendered.

    Files of another size, number of sweeps or configuration have other names, so stores may share a folder. A damaged
    file is replaced, with a warning.

    Raises:
        ConfigError: the path is not a folder and cannot become one.
    """

    def __init__(
        self,
        path: Union[str, Path, None] = None,
        size: Tuple[int, int] = (320, 512),
        scans: int = 3,
        config: SceneConfig = DEFAULT_CONFIG,
        device: Any = "cpu",
    ) -> None:
        self.path: Optional[Path] = None if path is None else Path(path)
        self._arguments = {"size": size, "device": device, "scans": scans, "config": config}
        recipe = json.dumps([FORMAT, GENERATOR, *size, scans, dataclasses.asdict(config)], sort_keys=True)
        self._tag = hashlib.sha256(recipe.encode()).hexdigest()[:8]
        if self.path is not None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"The folder for scenes {self.path} cannot be made ({error.strerror}): name another."
                ) from error

    def file(self, seed: int) -> Optional[Path]:
        """Where a scene is kept; a thousand files to a folder."""
        return None if self.path is None else self.path / f"{seed // 1000:05d}" / f"{seed:09d}_{self._tag}.npz"

    def get(self, seed: int) -> Scene:
        """The scene of a seed, exactly as it comes out of the file also when it is rendered now."""
        file = self.file(seed)
        if file is not None and file.is_file():
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    scene = unpack(arrays)
                if scene.seed == seed:
                    return scene
                _log.warning("%s holds scene %d instead of %d: made again", file, scene.seed, seed)
            except UNREADABLE as error:
                _log.warning("%s is damaged (%s): made again", file, error)
        arrays = pack(make_scene(seed, **self._arguments))  # type: ignore[arg-type]
        if file is not None:
            _write(file, arrays)
        return unpack(arrays)


def _write(file: Path, arrays: Dict[str, npt.NDArray[Any]]) -> None:
    """Whole or not at all: other processes may read, or write the same, at any time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            np.savez(out, **arrays)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
