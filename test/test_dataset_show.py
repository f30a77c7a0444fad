"""Looking into a data set: what is counted, what is measured, and how the command tells it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyarrow")
pytest.importorskip("lance")

from dataset_rows import SECOND, some_rows
from simulated_rows import simulated_rows
from test_cli import run_without
from test_dataset import write_lance, write_parquet
from test_report import Page

from mf_ros.cli.main import main
from mf_ros.core.projection import ProjectedReturns
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import NO_SPLIT, DatasetError, Row
from mf_ros.dataset.show.columns import read_columns
from mf_ros.dataset.show.measure import (
    chosen_rows,
    counts_by_distance,
    covered,
    shared_out,
)
from mf_ros.dataset.show.overview import Overview, look_into, place_of
from mf_ros.dataset.show.text import overview_lines, percent, size
from mf_ros.packages import install_command
from mf_ros.simulate.rig import LIDAR


def looked(tmp_path: Path, rows: list[Row], **options: Any) -> Overview:
    return look_into(Dataset(write_parquet(tmp_path / "set.parquet", rows)), **options)


def changed(rows: list[Row], **values: Any) -> list[Row]:
    return [dataclasses.replace(row, **values) for row in rows]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lance(tmp_path_factory.mktemp("fleet") / "fleet", simulated_rows())


def test_rows_recordings_minutes_and_metres_are_counted_for_each_split(tmp_path: Path) -> None:
    rows = some_rows(8)
    splits = looked(tmp_path, rows).tables.splits
    train = [row for row in rows if row.split == "train"]
    assert (splits["train"].rows, splits["train"].recordings) == (len(train), 2)
    # Rows of a recording are 2 s apart; the one of val interrupts bag0, whose rows 0, 2, 4, 6 leave two steps of four.
    assert splits["train"].minutes * 60 == pytest.approx(2 * 1 + 2 * 3)
    # The last row, in bag1, has no pose.
    steps = [(rows[4], rows[6]), (rows[1], rows[3]), (rows[3], rows[5])]
    way = sum(np.linalg.norm(b.T_world_cam[:3, 3] - a.T_world_cam[:3, 3]) for a, b in steps)
    assert splits["train"].metres == pytest.approx(way)
    assert splits["train"].odometry == pytest.approx((len(train) - 1) / len(train))
    assert (splits["val"].rows, splits["test"].rows, splits[NO_SPLIT].rows) == (1, 0, 0)


def test_rows_in_gaps_are_told_apart(tmp_path: Path) -> None:
    rows = some_rows()
    rows[1] = dataclasses.replace(rows[1], split=NO_SPLIT)
    overview = looked(tmp_path, rows)
    assert overview.tables.splits[NO_SPLIT].rows == 1
    assert overview.tables.robots[0].splits == {"train": 3, "val": 1, "test": 0, NO_SPLIT: 1}
    assert any(line.split()[:3] == ["none", "(gaps)", "1"] for line in overview_lines(overview))


def test_odometry_that_begins_anew_is_no_way_driven(tmp_path: Path) -> None:
    rows = some_rows(4)[:3]
    far = np.array(rows[2].T_world_cam)
    far[:3, 3] += 1e6
    rows[2] = dataclasses.replace(rows[2], T_world_cam=far, bag_id=rows[1].bag_id)
    assert looked(tmp_path, rows).tables.total.metres == 0.0


def test_each_lidar_of_each_robot_is_described(tmp_path: Path) -> None:
    rows = some_rows()
    named = [
        dataclasses.replace(
            row,
            robot_id="a" if number < 3 else "b",
            sweeps=(
                row.sweeps[0],
                None if row.sweeps[1] is None else dataclasses.replace(row.sweeps[1], frame_id="rear"),
            ),
        )
        for number, row in enumerate(rows)
    ]
    overview = looked(tmp_path, named)
    found = {(lidar.robot, lidar.frame): lidar for lidar in overview.tables.lidars}
    assert set(found) == {("a", "lidar"), ("a", "rear"), ("b", "lidar"), ("b", "rear")}
    first, rear = found["a", "lidar"], found["b", "rear"]
    assert (first.rows, first.share, first.points, first.has_time) == (3, 1.0, (40, 40.0, 40), 1.0)
    assert first.offset_ms == pytest.approx((1.0, 1.0))
    # The last row has no second sweep.
    assert (rear.rows, rear.share, rear.has_time, rear.has_ring) == (1, 0.5, 0.0, 0.0)
    assert rear.offset_ms == pytest.approx((2.0, 2.0))


def test_cameras_come_with_their_field_of_view(tmp_path: Path) -> None:
    rows = changed(some_rows(), camera=some_rows()[0].camera.rectified())
    (camera,) = looked(tmp_path, rows).tables.cameras
    assert (camera.width, camera.height, camera.rows, camera.focal_px) == (32, 24, 5, (30.0, 30.0, 30.0))
    wanted = [2 * math.degrees(math.atan(side / 2 / 30)) for side in (32, 24)]
    assert camera.fov_deg == pytest.approx(wanted)


def test_hours_are_those_of_the_stamps_in_utc(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, stamp_ns=(1000 * 24 + 7) * 3600 * SECOND + k) for k, row in enumerate(some_rows())]
    assert looked(tmp_path, rows).tables.hours[7] == 5


def test_one_split_can_be_looked_at_alone(tmp_path: Path) -> None:
    overview = looked(tmp_path, some_rows(), split="val")
    assert overview.tables.total.rows == 1 and overview.tables.splits["train"].rows == 4
    assert [row.split for row in overview.measurement.rows] == ["val"]
    assert sum(lidar.rows for lidar in overview.tables.lidars) == 1
    with pytest.raises(DatasetError, match="train, val, test"):
        looked(tmp_path, some_rows(), split="none")


def test_images_points_and_transforms_are_read_of_few_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [dataclasses.replace(row, stamp_ns=k * SECOND) for k, row in enumerate(some_rows(5) * 30)]
    dataset = Dataset(write_lance(tmp_path / "set", rows))
    asked: set[str] = set()
    taken: list[int] = []
    table = type(dataset._table)
    columns, take = table.columns, table.take
    monkeypatch.setattr(table, "columns", lambda self, names: asked.update(names) or columns(self, names))
    monkeypatch.setattr(table, "take", lambda self, index: taken.append(index) or take(self, index))
    overview = look_into(dataset)
    assert overview.tables.total.rows == 150
    assert not asked & {"jpg", "points", "time_s", "ring", "intensity", "transforms"}
    # One more for the camera's field of view.
    assert len(taken) == 40 + 1


@given(st.integers(0, 60), st.lists(st.integers(0, 20), max_size=12))
def test_things_are_shared_out_as_equally_as_there_is_room(number: int, sizes: list[int]) -> None:
    given_out = shared_out(number, sizes)
    assert sum(given_out) == min(number, sum(sizes))
    assert all(0 <= got <= room for got, room in zip(given_out, sizes, strict=True))
    not_full = [got for got, room in zip(given_out, sizes, strict=True) if got < room]
    if not_full:
        assert max(given_out) <= min(not_full) + 1


def test_measured_rows_are_spread_over_splits_recordings_and_time(tmp_path: Path) -> None:
    rows = []
    for number, row in enumerate(some_rows(10) * 30):
        bag, split = ("long", "train") if number < 290 else ("short", "train") if number < 295 else ("other", "test")
        rows.append(dataclasses.replace(row, bag_id=bag, split=split, stamp_ns=number * SECOND))
    columns = read_columns(Dataset(write_parquet(tmp_path / "set.parquet", rows)))
    places = chosen_rows(columns, 20)
    assert len(set(places)) == 20
    bags = [rows[place].bag_id for place in places]
    assert (bags.count("long"), bags.count("short"), bags.count("other")) == (10, 5, 5)
    assert np.ptp([place for place in places if place < 290]) > 200


def returns_at(rows: Any, cols: Any) -> ProjectedReturns:
    uv = np.stack(np.broadcast_arrays(np.asarray(cols, np.float32), np.asarray(rows, np.float32)), axis=-1)
    uv = uv.reshape(-1, 2)
    return ProjectedReturns.unmarked(uv, np.full(len(uv), 5, np.float32))


def test_cover_closes_the_gaps_between_scan_lines_and_not_the_rest() -> None:
    shape = (240, 320)
    lines = np.arange(0, 240, 20)[:, None]
    assert covered(returns_at(lines, np.arange(320)), shape) > 0.95
    assert covered(returns_at(lines[lines < 120][:, None], np.arange(320)), shape) == pytest.approx(0.45, abs=0.06)
    assert covered(returns_at(120, np.arange(320)), shape) < 0.02
    assert covered(returns_at([], []), shape) == 0.0


def test_depths_are_counted_by_range() -> None:
    assert counts_by_distance(np.array([1.0, 4.9, 5.0, 30.0, 200.0], np.float32)) == [2, 1, 0, 1, 0, 1]


def test_a_simulated_fleet_is_measured_by_the_robots_own_code(fleet: Path) -> None:
    overview = look_into(Dataset(fleet))
    rows = overview.measurement.rows
    assert len(rows) == 6 and not overview.measurement.problems
    for row in rows:
        assert row.compensated and row.lines[LIDAR] in (15, 16)
        assert row.visible > 100 and 0.2 < row.covered <= 1.0
        assert row.per_1000_px == pytest.approx(1e3 * row.visible / (64 * 64 if row.robot_id == "mast" else 96 * 60))
        assert len(row.depth_m) == row.visible and row.depth_m.min() > 0.05
    speeds = {robot.name: robot.extent.speed_m_s for robot in overview.tables.robots}
    # The robots weave, so that the way between rows is a little shorter than the road.
    assert speeds["rover"] == pytest.approx(2.0, rel=0.15)


def test_rows_that_cannot_be_used_are_told_with_their_reason(tmp_path: Path) -> None:
    rows = some_rows()
    rows[1] = dataclasses.replace(rows[1], image=b"no image")
    rows[2] = dataclasses.replace(rows[2], edges=())
    overview = looked(tmp_path, rows)
    reasons = dict(overview.measurement.problems)
    assert set(reasons) == {1, 2}
    assert "neither JPEG nor PNG" in reasons[1] and "no_transform" in reasons[2]
    assert any("2 of the 5 rows looked into cannot be used" in each.text for each in overview.findings)


def test_failed_and_rejected_recordings_are_told_with_their_reasons(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [
        {"bag": "/day1/a.mcap", "bag_id": "a", "status": "done", "rows": 6, "dropped": {"no_lidar": 3}},
        {"bag": "/day1/b.mcap", "bag_id": "b", "status": "failed", "reason": "The disk was full."},
        {"bag": "/day2/c.mcap", "bag_id": "c", "status": "rejected", "reason": "There is no camera_info."},
    ]
    path = fleet / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    try:
        assert main(["dataset", "show", str(fleet)]) == 0
    finally:
        path.unlink()
    text = capsys.readouterr().out
    assert "3 recordings: 1 done, 1 failed, 1 rejected" in text
    assert "/day1/b.mcap: The disk was full." in text and "/day2/c.mcap: There is no camera_info." in text
    assert "Images that became no row: 3 no_lidar" in text
    assert "warning: Failed: 1 of 3 recordings." in text


def test_the_command_prints_tables_and_findings(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "show", str(fleet)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("fleet: 6 rows, 2 recordings, 2 robots, 1 site, 1 day\n")
    for words in ("Splits", "Robots", "LiDARs", "Cameras", "Measured on 6 rows", "Returns by depth", "only 6 rows"):
        assert words in text


def test_json_holds_what_is_counted_and_measured(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "show", str(fleet), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["splits"]["train"]["rows"] == 2 and told["total"]["rows"] == 6
    assert {lidar["robot"]: lidar["lines"] for lidar in told["lidars"]} == {"rover": 16, "mast": 16}
    assert told["measured"]["rows"] == 6 and sum(told["measured"]["by_distance"]) > 600
    assert len(told["fingerprint"]) == 64 and told["manifest"] is None and told["page"] is None
    assert any("only 6 rows" in finding["text"] for finding in told["findings"])


def test_a_data_set_without_rows_to_learn_from_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_parquet(tmp_path / "set.parquet", changed(some_rows(), split="val"))
    assert main(["dataset", "show", str(path)]) == 1
    assert "error: The split 'train' is empty. There is nothing to learn from." in capsys.readouterr().out


@pytest.mark.parametrize("write", [write_lance, write_parquet])
def test_an_empty_data_set_is_told_and_drawn(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / ("set.parquet" if write is write_parquet else "set"), [])
    assert main(["dataset", "show", str(path), "--out", str(tmp_path / "page.html")]) == 1
    assert "error: There is no row." in capsys.readouterr().out
    assert "There is no row to show." in Page((tmp_path / "page.html").read_text()).text
    with pytest.raises(DatasetError, match="the data set is empty"):
        place_of(Dataset(path), "0")


def test_a_sample_is_named_by_its_id_or_by_its_place(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    name = Dataset(fleet).row(4).sample_id
    for sample in ("4", name):
        assert main(["dataset", "show", str(fleet), "--sample", sample, "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert told[0]["sample_id"] == name and told[0]["place"] == 4
    assert told[0]["measured"]["visible"] > 100 and np.shape(told[0]["lidars"][0]["T_cam_lidar"]) == (4, 4)
    for sample in ("6", "99999999999999999999", "rover/1"):
        assert main(["dataset", "show", str(fleet), "--sample", sample]) == 2
        assert "name a place from 0 to 5, or an id like rover/" in capsys.readouterr().err


def test_a_sample_is_told_with_all_its_fields(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = Dataset(fleet).row(0)
    assert main(["dataset", "show", str(fleet), "--sample", "0"]) == 0
    text = capsys.readouterr().out
    for words in (row.sample_id, "train", "2023-11-14 22:13:20 UTC", "plumb_bob: -0.28", "96 x 60 pixels", "-35.0 ms"):
        assert words in text
    for words in (
        "Motion compensated",
        "T_cam_lidar",
        "T_world_cam",
        "base_link in odom",
        "17 poses",
        "Hidden by nearer",
    ):
        assert words in text


def test_a_sample_that_gives_no_depth_is_told_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_parquet(tmp_path / "set.parquet", changed(some_rows(), image=b"no image"))
    assert main(["dataset", "show", str(path), "--sample", "1", "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "plumb_bob" in text and "neither JPEG nor PNG" in text
    page = Page((tmp_path / "sample.html").read_text())
    assert page.images() == [] and "neither JPEG nor PNG" in page.text


def test_sample_and_split_exclude_each_other(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "show", str(fleet), "--sample", "0", "--split", "val"]) == 2
    assert "only one of them" in capsys.readouterr().err


def test_the_help_needs_no_packages_and_the_command_names_the_missing_ones() -> None:
    assert run_without(["pyarrow", "lance", "jinja2", "cv2"], "dataset", "--help").returncode == 0
    done = run_without(["pyarrow"], "dataset", "show", "x")
    assert done.returncode == 3 and install_command("fleet") in done.stderr


def test_small_and_nearly_whole_parts_are_not_rounded_away() -> None:
    assert [percent(part) for part in (0.0, 0.001, 0.5, 0.999, 1.0, math.nan)] == [
        "0%",
        "<1%",
        "50%",
        ">99%",
        "100%",
        "–",
    ]
    assert [size(count) for count in (12, 34_567, 2_000_000_000)] == ["12 bytes", "34.6 kB", "2.0 GB"]
