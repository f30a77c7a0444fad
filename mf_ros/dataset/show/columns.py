"""The small columns of a data set as arrays, so that a million rows are counted without an object for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from mf_ros.core.types import AnyArray, BoolArray, DoubleArray
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import DatasetError
from mf_ros.dataset.schema import SCHEMA
from mf_ros.errors import require_package

pa = require_package("pyarrow", extra="fleet")
pc = require_package("pyarrow.compute", extra="fleet")

LongArray = NDArray[np.int64]

_TEXTS = ("bag_id", "robot_id", "site", "day", "split", "extractor_version")
_OF_CAMERA = ("width", "height", "distortion_model", "camera_frame", "K")


@dataclass(frozen=True, eq=False)
class Labels:
    """One text a row, each kept once.

    Attributes:
        codes: (N,) int64, places in ``names``.
        names: the texts, each once.
    """

    codes: LongArray
    names: Tuple[str, ...]

    def select(self, keep: AnyArray) -> Labels:
        """Those of the rows picked by a mask or by an index array."""
        return Labels(self.codes[keep], self.names)


@dataclass(frozen=True, eq=False)
class Sweeps:
    """All sweeps of all rows, one after the other.

    Attributes:
        row: (S,) int64, the row that each belongs to.
        frame: of each LiDAR; "" where the row has no sweep of it.
        offset_s: (S,) float64 stamp of the sweep minus that of the image, seconds; NaN where it is not known.
        count: (S,) int64 points.
        has_time, has_ring, has_intensity: (S,) bool.
    """

    row: LongArray
    frame: Labels
    offset_s: DoubleArray
    count: LongArray
    has_time: BoolArray
    has_ring: BoolArray
    has_intensity: BoolArray


@dataclass(frozen=True, eq=False)
class Columns:
    """What is counted of N rows.

    Attributes:
        place: (N,) int64, in the table.
        bag, robot, site, day, split, version: texts.
        stamp_ns: (N,) int64 of the image.
        position: (N, 3) float64 of the camera in the fixed frame, metres; NaN where the pose is not known.
        width, height: (N,) int64 pixels.
        model, camera_frame: texts.
        fx: (N,) float64 focal length, pixels; NaN where K is damaged.
        sweeps: of all rows.
        repeated: how many rows have a ``sample_id`` that another row has as well.
    """

    place: LongArray
    bag: Labels
    robot: Labels
    site: Labels
    day: Labels
    split: Labels
    version: Labels
    stamp_ns: LongArray
    position: DoubleArray
    width: LongArray
    height: LongArray
    model: Labels
    camera_frame: Labels
    fx: DoubleArray
    sweeps: Sweeps
    repeated: int

    def __len__(self) -> int:
        return len(self.place)

    def in_split(self, name: str) -> Columns:
        """The rows of one split."""
        code = self.split.names.index(name) if name in self.split.names else -1
        keep = np.flatnonzero(self.split.codes == code)
        at = np.full(len(self), -1, np.int64)
        at[keep] = np.arange(len(keep))
        sweeps, kept = self.sweeps, np.flatnonzero(at[self.sweeps.row] >= 0)
        own = {name: value for name, value in vars(self).items() if name not in ("sweeps", "repeated")}
        left = replace(sweeps, **_picked({**vars(sweeps), "row": at[sweeps.row]}, kept))
        return replace(self, **_picked(own, keep), sweeps=left)


def _picked(arrays: Mapping[str, Any], keep: AnyArray) -> Dict[str, Any]:
    return {name: each.select(keep) if isinstance(each, Labels) else each[keep] for name, each in arrays.items()}


def read_columns(dataset: Dataset) -> Columns:
    """What is counted of all rows; images, points and transforms stay on the disk.

    Raises:
        DatasetError: a column is damaged.
    """
    try:
        # In parts, so that Arrow's copy of one is gone before the next is read.
        texts = {name: _labels(column) for name, column in _read(dataset, _TEXTS).items()}
        times = _read(dataset, ("sample_id", "stamp_ns"))
        repeated = len(dataset) - pc.count_distinct(times["sample_id"], mode="all").as_py()
        stamps = _whole(times.pop("stamp_ns"), np.int64)
        cameras = _read(dataset, _OF_CAMERA)
        position = _elements(_read(dataset, ("T_world_cam",))["T_world_cam"], 16, (3, 7, 11))
        return Columns(
            place=np.arange(len(dataset), dtype=np.int64),
            bag=texts["bag_id"],
            robot=texts["robot_id"],
            site=texts["site"],
            day=texts["day"],
            split=texts["split"],
            version=texts["extractor_version"],
            stamp_ns=stamps,
            position=position,
            width=_whole(cameras["width"], np.int64),
            height=_whole(cameras["height"], np.int64),
            model=_labels(cameras["distortion_model"]),
            camera_frame=_labels(cameras["camera_frame"]),
            fx=_elements(cameras["K"], 9, (0,))[:, 0],
            sweeps=_sweeps(_read(dataset, ("lidars",))["lidars"]),
            repeated=int(repeated),
        )
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise DatasetError(f"{dataset.path} is damaged: {(str(error).splitlines() or [''])[0][:300]}") from error


def _read(dataset: Dataset, names: Sequence[str]) -> Dict[str, Any]:
    table = dataset.columns(names)
    return {name: table.column(name).cast(SCHEMA.field(name).type) for name in names}


def _labels(column: Any) -> Labels:
    encoded = pc.fill_null(column, "").dictionary_encode().unify_dictionaries()
    codes = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    names = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    return Labels(_joined(codes, np.int64), tuple(names))


def _whole(column: Any, dtype: Any) -> Any:
    filled = pc.fill_null(column, False if dtype is np.bool_ else 0)
    return _joined([chunk.to_numpy(zero_copy_only=False) for chunk in filled.chunks], dtype)


def _elements(column: Any, length: int, places: Tuple[int, ...]) -> DoubleArray:
    """(N, P) some numbers of each list; NaN where there is no list of that length, or one of them is not finite."""
    parts = [np.zeros((0, len(places)))]
    for chunk in column.chunks:
        lengths = chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        starts = np.cumsum(lengths) - lengths
        part = np.full((len(chunk), len(places)), np.nan)
        good = lengths == length
        part[good] = values[starts[good][:, None] + np.array(places)]
        part[~np.isfinite(part).all(axis=1)] = np.nan
        parts.append(part)
    return np.concatenate(parts)


def _sweeps(column: Any) -> Sweeps:
    rows: List[AnyArray] = []
    offset: List[AnyArray] = []
    parts: Dict[str, List[Any]] = {name: [] for name in ("frame_id", "count", "has_time", "has_ring", "has_intensity")}
    first = 0
    for chunk in column.chunks:
        rows.append(first + pc.list_parent_indices(chunk).to_numpy(zero_copy_only=False))
        first += len(chunk)
        # Not flat.field(name), which forgets where the whole entry is null.
        flat = chunk.flatten()
        for name, found in parts.items():
            found.append(pc.struct_field(flat, name))
        dt_ns = pc.struct_field(flat, "dt_cam_lidar_ns")
        offset.append(pc.cast(dt_ns, pa.float64(), safe=False).to_numpy(zero_copy_only=False) * 1e-9)
    types = {field.name: field.type for field in SCHEMA.field("lidars").type.value_type}
    chunked = {name: pa.chunked_array(found, type=types[name]) for name, found in parts.items()}
    return Sweeps(
        _joined(rows, np.int64),
        _labels(chunked["frame_id"]),
        _joined(offset, np.float64),
        _whole(chunked["count"], np.int64),
        *(_whole(chunked[name], np.bool_) for name in ("has_time", "has_ring", "has_intensity")),
    )


def _joined(parts: Sequence[AnyArray], dtype: Any) -> Any:
    return np.concatenate([np.zeros(0, dtype), *(part.astype(dtype) for part in parts)])
