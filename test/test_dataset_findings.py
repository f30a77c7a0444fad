"""What in a data set would hurt a training, and what its manifest tells."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")

from dataset_rows import some_rows
from test_dataset import write_parquet

from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import NO_SPLIT
from mf_ros.dataset.show import manifest as manifest_reading
from mf_ros.dataset.show.findings import findings_of
from mf_ros.dataset.show.manifest import Manifest, read_manifest
from mf_ros.dataset.show.measure import Measured, Measurement
from mf_ros.dataset.show.overview import look_into
from mf_ros.dataset.show.tables import Extent, Robot, Tables


def measured(**values: Any) -> Measured:
    numbers = {
        "visible": 5000,
        "hidden": 10,
        "lonely": 0,
        "per_1000_px": 15.0,
        "covered": 0.6,
        "dark": 0.0,
        "bright": 0.0,
    }
    named = {"place": 0, "sample_id": "a/1", "bag_id": "a", "robot_id": "one", "split": "train"}
    rest = {"depth_m": np.ones(3, np.float32), "lines": {}, "compensated": True}
    return Measured(**{**numbers, **named, **rest, **values})


def good(tmp_path: Path) -> Tables:
    """Nothing is wrong with these: two robots with as many rows, three splits, odometry, times."""
    tables = look_into(Dataset(write_parquet(tmp_path / "set.parquet", some_rows()))).tables
    extent = Extent(500, 5, 10.0, 1000.0, 1.0, 1.5)
    robots = tuple(Robot(name, extent, {"train": 400, "val": 50, "test": 50, NO_SPLIT: 0}) for name in ("one", "two"))
    splits = {name: dataclasses.replace(extent, rows=300) for name in ("train", "val", "test", NO_SPLIT)}
    lidars = tuple(
        dataclasses.replace(tables.lidars[0], robot=name, has_time=1.0, share=1.0) for name in ("one", "two")
    )
    return dataclasses.replace(
        tables,
        total=dataclasses.replace(extent, rows=1000),
        splits=splits,
        robots=robots,
        lidars=lidars,
        counts={**tables.counts, "robots": 2},
        apart_s=60.0,
        repeated=0,
    )


def texts(tables: Tables, rows: list[Measured], manifest: Manifest | None = None) -> list[str]:
    return [f"{each.severity}: {each.text}" for each in findings_of(tables, Measurement(tuple(rows), (), ()), manifest)]


def with_robot(tables: Tables, **values: Any) -> Tables:
    first = tables.robots[0]
    robot = dataclasses.replace(first, extent=dataclasses.replace(first.extent, **values))
    return dataclasses.replace(tables, robots=(robot, *tables.robots[1:]))


def with_split(tables: Tables, name: str, rows: int) -> Tables:
    extent = dataclasses.replace(tables.splits[name], rows=rows)
    return dataclasses.replace(tables, splits={**tables.splits, name: extent})


def with_lidar(tables: Tables, **values: Any) -> Tables:
    return dataclasses.replace(tables, lidars=(dataclasses.replace(tables.lidars[0], **values), *tables.lidars[1:]))


def few_rows(tables: Tables) -> Tables:
    for name in ("train", "val", "test"):
        tables = with_split(tables, name, 60)
    return tables


FAULTS = {
    "error: The split 'train' is empty": lambda tables: with_split(tables, "train", 0),
    "warning: The split 'val' is empty": lambda tables: with_split(tables, "val", 0),
    "warning: The split 'test' is empty": lambda tables: with_split(tables, "test", 0),
    "only 180 rows in the splits": few_rows,
    "only 0.5 s apart": lambda tables: dataclasses.replace(tables, apart_s=0.5),
    "3 rows have the sample_id of another": lambda tables: dataclasses.replace(tables, repeated=3),
    "Robot 'one' holds 95% of the rows": lambda tables: with_robot(tables, rows=950),
    "no odometry on robot 'one' (10% have it)": lambda tables: with_robot(tables, odometry=0.1),
    "no times of their own although the robot drives: 'lidar' on robot 'one' (1.5 m/s)": lambda tables: with_lidar(
        tables, has_time=0.0
    ),
    "'lidar' on robot 'one' (40%)": lambda tables: with_lidar(tables, share=0.4),
}
FAULTY_PICTURES = {
    "Hardly any LiDAR returns fall into the image": {"visible": 20},
    "covers only a small part of the image": {"covered": 0.05},
    "too dark": {"dark": 0.9},
    "too bright": {"bright": 0.8},
    "not compensated in 4 of 8 rows": {"compensated": False},
}


def test_a_good_data_set_has_no_findings(tmp_path: Path) -> None:
    assert texts(good(tmp_path), [measured(), measured(robot_id="two")]) == []


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_of_what_is_counted_is_told_in_plain_words(text: str, tmp_path: Path) -> None:
    (found,) = texts(FAULTS[text](good(tmp_path)), [measured()])
    assert text in found


@pytest.mark.parametrize("text", FAULTY_PICTURES)
def test_a_fault_of_what_is_measured_is_told_of_the_robot_that_has_it(text: str, tmp_path: Path) -> None:
    rows = [measured(**FAULTY_PICTURES[text])] * 4 + [measured(robot_id="two")] * 4
    (found,) = texts(good(tmp_path), rows)
    assert text in found
    assert "'two'" not in found


def test_sweeps_without_times_are_no_fault_of_a_robot_that_stands(tmp_path: Path) -> None:
    assert texts(with_robot(with_lidar(good(tmp_path), has_time=0.0), speed_m_s=0.0), [measured()]) == []


def test_a_fleet_of_faulty_robots_is_one_finding(tmp_path: Path) -> None:
    rows = [measured(robot_id=f"robot{k}", visible=20) for k in range(30)]
    (found,) = texts(good(tmp_path), rows)
    assert "and 25 more" in found


def test_the_last_line_of_each_recording_counts_and_odd_lines_are_bounded(tmp_path: Path) -> None:
    lines = [
        {"bag": "/a.mcap", "bag_id": "a", "status": "failed", "reason": "no space"},
        {"bag": "/a.mcap", "bag_id": "a", "status": "done", "rows": 7, "dropped": {"no_lidar": 2, "odd": "x"}},
        {"bag": "/a.mcap", "bag_id": "a", "status": "skipped", "rows": 0},
        {"bag": "/b.mcap", "bag_id": "", "status": "failed", "reason": "x" * 10_000},
        {
            "bag": "/c.mcap",
            "bag_id": "c",
            "status": "rejected",
            "reason": 5,
            "rows": -3,
            "seconds": "long",
            "dropped": 4,
        },
        ["no", "entry"],
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n{broken\n" + "[" * 100_000 + "\n"
    (tmp_path / "manifest.jsonl").write_text(text)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert [(each.bag, each.status, each.rows) for each in manifest.recordings] == [
        ("/a.mcap", "done", 7),
        ("/b.mcap", "failed", 0),
        ("/c.mcap", "rejected", 0),
    ]
    assert len(manifest.with_status("failed")[0].reason) == 500
    assert manifest.dropped() == {"": 4, "no_lidar": 2}
    assert (manifest.unreadable, manifest.cut) == (3, False)


def test_the_manifest_of_a_parquet_file_lies_beside_it(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "set.parquet", some_rows())
    assert read_manifest(path) is None
    (tmp_path / "set.parquet.manifest.jsonl").write_text('{"bag": "/a.mcap", "bag_id": "a", "status": "done"}\n')
    manifest = look_into(Dataset(path)).manifest
    assert manifest is not None and [each.status for each in manifest.recordings] == ["done"]


def test_a_manifest_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_reading, "_LARGEST", 1000)
    lines = [json.dumps({"bag": f"/{k}", "status": "done"}) for k in range(1000)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    manifest = read_manifest(tmp_path)
    assert manifest is not None and manifest.cut and len(manifest.recordings) < 50
