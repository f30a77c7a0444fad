"""Rows as Arrow tables: the same columns in Lance and in Parquet.

Arrays are flat lists: ``points`` x, y, z of all sweeps one after the other, metres; ``K``, ``R`` and poses row by row.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from mf_ros.core.camera import make_camera
from mf_ros.core.pointcloud import MAX_RING
from mf_ros.core.transform_edges import EdgeSamples
from mf_ros.core.types import AnyArray, DoubleArray, LidarSweep
from mf_ros.dataset.row import NO_SPLIT, SPLITS, DatasetError, Row
from mf_ros.errors import MfRosError, require_package

pa = require_package("pyarrow", extra="fleet")

FORMAT = 1
"""Of the columns; a reader refuses any other."""

_DOUBLES = pa.list_(pa.float64())
_FLOATS = pa.list_(pa.float32())

SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("bag_id", pa.string()),
        ("robot_id", pa.string()),
        ("site", pa.string()),
        ("day", pa.string()),
        ("split", pa.string()),
        ("keyframe", pa.bool_()),
        ("stamp_ns", pa.int64()),
        ("log_ns", pa.int64()),
        ("jpg", pa.binary()),
        ("image_format", pa.string()),
        ("phash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("K", _DOUBLES),
        ("D", _DOUBLES),
        ("R", _DOUBLES),
        ("distortion_model", pa.string()),
        ("camera_frame", pa.string()),
        (
            "lidars",
            pa.list_(
                pa.struct(
                    [
                        ("frame_id", pa.string()),
                        ("stamp_ns", pa.int64()),
                        ("dt_cam_lidar_ns", pa.int64()),
                        ("count", pa.int32()),
                        ("has_time", pa.bool_()),
                        ("has_ring", pa.bool_()),
                        ("has_intensity", pa.bool_()),
                        ("T_cam_lidar", _DOUBLES),
                    ]
                )
            ),
        ),
        ("points", _FLOATS),
        ("time_s", _FLOATS),
        ("ring", pa.list_(pa.int16())),
        ("intensity", _FLOATS),
        (
            "transforms",
            pa.list_(
                pa.struct(
                    [
                        ("parent", pa.string()),
                        ("child", pa.string()),
                        ("stamps_ns", pa.list_(pa.int64())),
                        ("poses", _DOUBLES),
                    ]
                )
            ),
        ),
        ("T_world_cam", _DOUBLES),
        ("extractor_version", pa.string()),
    ]
)
"""Columns of a data set. ``time_s``, ``ring`` and ``intensity`` hold the values of the sweeps that have them, in order;
``T_cam_lidar`` is the pose at the image's stamp, for people and for statistics, null where it is not known; a LiDAR
without a sweep has a null ``frame_id``."""


def to_table(rows: Sequence[Row]) -> Any:
    """Rows as an Arrow table of ``SCHEMA``."""
    columns: Dict[str, List[Any]] = {name: [] for name in SCHEMA.names}
    for row in rows:
        for name, value in _values(row).items():
            columns[name].append(value)
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _values(row: Row) -> Dict[str, Any]:
    camera, sweeps = row.camera, row.sweeps
    plain = ("sample_id", "bag_id", "robot_id", "site", "day", "split", "keyframe", "stamp_ns", "log_ns")
    values = {name: getattr(row, name) for name in (*plain, "image_format", "phash", "extractor_version")}
    tree = row.tree() if any(sweep is not None for sweep in sweeps) else None
    lidars: List[Dict[str, Any]] = []
    for sweep, dt_ns in zip(sweeps, row.dt_ns, strict=True):
        if sweep is None or tree is None:
            lidars.append({"frame_id": None})
            continue
        known = tree.can_lookup(row.camera_frame, sweep.frame_id, row.stamp_ns)
        T = tree.lookup(row.camera_frame, sweep.frame_id, row.stamp_ns).reshape(-1) if known else None
        lidars.append(
            {
                "frame_id": sweep.frame_id,
                "stamp_ns": sweep.stamp_ns,
                "dt_cam_lidar_ns": dt_ns,
                "count": len(sweep),
                "has_time": sweep.time_s is not None,
                "has_ring": sweep.ring is not None,
                "has_intensity": sweep.intensity is not None,
                "T_cam_lidar": T,
            }
        )
    values.update(
        jpg=row.image,
        width=camera.width,
        height=camera.height,
        K=camera.K.reshape(-1),
        D=camera.D,
        R=camera.R.reshape(-1),
        distortion_model=camera.distortion_model,
        camera_frame=row.camera_frame,
        lidars=lidars,
        points=_joined([sweep.points.reshape(-1) for sweep in sweeps if sweep is not None], np.float32),
        transforms=[
            {"parent": e.parent, "child": e.child, "stamps_ns": e.stamps_ns, "poses": e.poses.reshape(-1)}
            for e in row.edges
        ],
        T_world_cam=None if row.T_world_cam is None else row.T_world_cam.reshape(-1),
    )
    for name, dtype in (("time_s", np.float32), ("ring", np.int16), ("intensity", np.float32)):
        given = [getattr(sweep, name) for sweep in sweeps if sweep is not None]
        values[name] = _joined([each for each in given if each is not None], dtype)
    return values


def _joined(parts: Sequence[AnyArray], dtype: Any) -> AnyArray:
    return np.concatenate([np.zeros(0, dtype), *(part.astype(dtype) for part in parts)])


def row_of(table: Any, index: int) -> Row:
    """One row of an Arrow table of ``SCHEMA``.

    Raises:
        DatasetError: what it holds does not fit together.
    """
    cells = {name: table.column(name)[index] for name in SCHEMA.names}
    name = str(cells["sample_id"].as_py())[:200]
    try:
        return _row(cells)
    except (MfRosError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise DatasetError(f"Sample {name} is damaged: {error}") from error


def _row(cells: Dict[str, Any]) -> Row:
    plain = {
        name: cells[name].as_py()
        for name in ("sample_id", "bag_id", "robot_id", "site", "day", "split", "keyframe", "stamp_ns", "log_ns")
    }
    texts = {name: cells[name].as_py() for name in ("image_format", "phash", "extractor_version", "camera_frame")}
    if plain["split"] not in (*SPLITS, NO_SPLIT):
        raise DatasetError(f"its split is {plain['split']!r}")
    K, R = (_numbers(cells[name], np.float64).reshape(3, 3) for name in ("K", "R"))
    width, height = (int(cells[name].as_py()) for name in ("width", "height"))
    camera = make_camera(
        width, height, K, _numbers(cells["D"], np.float64), str(cells["distortion_model"].as_py()), R=R
    )
    lidars = cells["lidars"].as_py()
    world = cells["T_world_cam"]
    return Row(
        **plain,
        **texts,
        image=cells["jpg"].as_py(),
        camera=camera,
        sweeps=tuple(_sweeps(lidars, cells)),
        dt_ns=tuple(each["dt_cam_lidar_ns"] for each in lidars),
        edges=tuple(map(_edge, cells["transforms"].as_py())),
        T_world_cam=_numbers(world, np.float64).reshape(4, 4) if world.is_valid else None,
    )


def _sweeps(lidars: Sequence[Dict[str, Any]], cells: Dict[str, Any]) -> List[Optional[LidarSweep]]:
    left = {name: _numbers(cells[name], dtype) for name, dtype in _OF_POINTS.items()}
    sweeps: List[Optional[LidarSweep]] = []
    for each in lidars:
        if each["frame_id"] is None:
            sweeps.append(None)
            continue
        count = int(each["count"])
        taken: Dict[str, Optional[AnyArray]] = {}
        wanted = {"points": True, "time_s": each["has_time"], "ring": each["has_ring"]}
        for name, has in {**wanted, "intensity": each["has_intensity"]}.items():
            size = count * (3 if name == "points" else 1)
            if has and not 0 <= size <= len(left[name]):
                raise DatasetError(f"its {name} are {len(left[name])} numbers, fewer than its sweeps have")
            taken[name] = left[name][:size] if has else None
            left[name] = left[name][size:] if has else left[name]
        sweeps.append(_sweep(each, taken))
    return sweeps


_OF_POINTS = {"points": np.float32, "time_s": np.float32, "ring": np.int16, "intensity": np.float32}


def _sweep(lidar: Dict[str, Any], taken: Dict[str, Optional[AnyArray]]) -> LidarSweep:
    points, ring = taken["points"], taken["ring"]
    assert points is not None
    for values in (points, taken["time_s"]):
        if values is not None and not np.isfinite(values).all():
            raise DatasetError("its points or their times are not finite")
    if ring is not None and len(ring) and not (ring.min() >= 0 and ring.max() <= MAX_RING):
        raise DatasetError(f"its scan lines are not within 0 to {MAX_RING}")
    return LidarSweep(
        points.reshape(-1, 3),
        int(lidar["stamp_ns"]),
        str(lidar["frame_id"]),
        taken["time_s"],
        None if ring is None else ring.astype(np.int32),
        taken["intensity"],
    )


def _edge(item: Dict[str, Any]) -> EdgeSamples:
    stamps = np.asarray(item["stamps_ns"], np.int64)
    poses: DoubleArray = np.asarray(item["poses"], np.float64)
    shape: Tuple[int, int] = (len(stamps), 7) if len(stamps) else (1, 16)
    return EdgeSamples(str(item["parent"]), str(item["child"]), stamps, poses.reshape(shape))


def _numbers(cell: Any, dtype: Any) -> AnyArray:
    """The list in a cell as an array of its own."""
    if not cell.is_valid:
        return np.zeros(0, dtype)
    return np.array(cell.values.to_numpy(zero_copy_only=False), dtype)
