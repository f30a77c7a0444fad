"""Rows of a data set: what goes in comes out, in Lance and in Parquet, and damage is told in one sentence."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pytest.importorskip("lance")

import lance  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from dataset_rows import some_rows  # noqa: E402

from mf_ros.core.config import Config  # noqa: E402
from mf_ros.core.settings import config_to_mapping  # noqa: E402
from mf_ros.dataset.dataset import META_KEY, Dataset, is_dataset  # noqa: E402
from mf_ros.dataset.row import DatasetError, Row  # noqa: E402
from mf_ros.dataset.schema import SCHEMA, row_of, to_table  # noqa: E402

DESCRIPTION = {"format": 1, "settings": config_to_mapping(Config()), "split": {"by": "time"}, "extractor_version": "1"}


def write_lance(folder: Path, rows: list[Row]) -> Path:
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION))
    lance.write_dataset(to_table(rows), str(folder / "samples.lance"))
    return folder


def write_parquet(path: Path, rows: list[Row]) -> Path:
    table = to_table(rows).replace_schema_metadata({META_KEY: json.dumps(DESCRIPTION)})
    pq.write_table(table, path, row_group_size=2)
    return path


WRITERS = {"lance": lambda folder, rows: write_lance(folder / "set", rows)}
WRITERS["parquet"] = lambda folder, rows: write_parquet(folder / "set.parquet", rows)


def assert_same(one: Row, other: Row) -> None:
    for field in dataclasses.fields(Row):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "edges":
            for x, y in zip(a, b, strict=True):
                assert (x.parent, x.child) == (y.parent, y.child)
                assert np.array_equal(x.stamps_ns, y.stamps_ns) and np.array_equal(x.poses, y.poses)
        elif field.name == "sweeps":
            for x, y in zip(a, b, strict=True):
                assert (x is None) == (y is None)
                for part in dataclasses.fields(x) if x is not None else ():
                    assert np.array_equal(getattr(x, part.name), getattr(y, part.name)), part.name
        elif field.name == "T_world_cam":
            assert (a is None and b is None) or np.array_equal(a, b)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_come_back_as_they_were_written(kind: str, tmp_path: Path) -> None:
    rows = some_rows()
    dataset = Dataset(WRITERS[kind](tmp_path, rows))
    assert len(dataset) == len(rows)
    for place, row in enumerate(rows):
        assert_same(row, dataset.row(place))


@pytest.mark.parametrize("kind", WRITERS)
def test_splits_are_sorted_by_recording_and_time_whatever_the_order_of_writing(kind: str, tmp_path: Path) -> None:
    rows = some_rows()
    dataset = Dataset(WRITERS[kind](tmp_path, rows[::-1]))
    found = [dataset.row(place).sample_id for place in dataset.indices("train")]
    assert found == [
        row.sample_id for row in sorted(rows, key=lambda r: (r.bag_id, r.stamp_ns)) if row.split == "train"
    ]
    with pytest.raises(DatasetError, match="train, val, test"):
        dataset.indices("validation")


def test_the_fingerprint_tells_which_rows_there_are_and_not_their_order(tmp_path: Path) -> None:
    rows = some_rows()
    one = Dataset(write_parquet(tmp_path / "one.parquet", rows)).fingerprint
    assert one == Dataset(write_lance(tmp_path / "two", rows[::-1])).fingerprint
    assert one != Dataset(write_parquet(tmp_path / "three.parquet", rows[1:])).fingerprint
    moved = [dataclasses.replace(rows[0], split="test"), *rows[1:]]
    assert one != Dataset(write_parquet(tmp_path / "four.parquet", moved)).fingerprint


def test_a_dataset_goes_to_other_processes(tmp_path: Path) -> None:
    dataset = Dataset(write_lance(tmp_path / "set", some_rows()))
    assert_same(pickle.loads(pickle.dumps(dataset)).row(1), dataset.row(1))


def test_columns_are_read_without_the_others(tmp_path: Path) -> None:
    rows = some_rows()
    dataset = Dataset(write_lance(tmp_path / "set", rows))
    assert dataset.columns(["sample_id", "split"]).column_names == ["sample_id", "split"]
    found = dataset.columns(["sample_id", "split"]).to_pylist()
    assert found == [{"sample_id": row.sample_id, "split": row.split} for row in rows]


def test_a_row_decodes_to_the_image_and_transforms_it_was_made_of() -> None:
    row = some_rows()[0]
    decoded = row.decoded()
    assert decoded.image.shape == (row.camera.height, row.camera.width, 3)
    sweep = decoded.sweeps[0]
    assert sweep is not None and sweep.frame_id == "lidar"
    assert decoded.tree.can_lookup("camera", "lidar", row.stamp_ns)


def test_a_corrected_calibration_replaces_the_recorded_one() -> None:
    row = some_rows()[0]
    moved = np.eye(4)
    moved[2, 3] = 7.0
    at = row.decoded({"lidar": moved}).tree.lookup("base", "lidar", row.stamp_ns)
    assert np.array_equal(at, moved)


def test_rows_whose_lengths_do_not_fit_are_refused() -> None:
    table = to_table(some_rows())
    short = pa.array([[0.0, 1.0, 2.0]] * len(table), SCHEMA.field("points").type)
    damaged = table.set_column(SCHEMA.get_field_index("points"), "points", short)
    with pytest.raises(DatasetError, match="points are 3 numbers, fewer than its sweeps have"):
        row_of(damaged, 0)


def test_rows_with_points_that_are_not_finite_are_refused() -> None:
    table = to_table(some_rows())
    values = [[float("nan")] * len(cell) for cell in table.column("points").to_pylist()]
    damaged = table.set_column(
        SCHEMA.get_field_index("points"), "points", pa.array(values, SCHEMA.field("points").type)
    )
    with pytest.raises(DatasetError, match="not finite"):
        row_of(damaged, 0)


def test_an_image_of_another_size_than_its_camera_is_refused() -> None:
    row = some_rows()[0]
    with pytest.raises(DatasetError, match="pixels, but a camera of"):
        dataclasses.replace(row, camera=row.camera.resized(20, 10)).decoded()


def test_what_is_no_dataset_is_said_so(tmp_path: Path) -> None:
    assert not is_dataset(tmp_path)
    with pytest.raises(DatasetError, match="is no data set"):
        Dataset(tmp_path)
    (tmp_path / "set.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DatasetError, match="cannot be read as a Parquet file"):
        Dataset(tmp_path / "set.parquet")
    folder = write_lance(tmp_path / "set", some_rows())
    (folder / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(DatasetError, match="not of a data set of this version"):
        Dataset(folder)
