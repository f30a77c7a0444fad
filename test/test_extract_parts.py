"""The parts of the extraction: splits, keyframes, and which bags a path, pattern, list or URL names."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")
imagehash = pytest.importorskip("imagehash")

from broken_bags import Run  # noqa: E402
from fleet_bags import drive, extracted  # noqa: E402

from mf_ros.dataset.dataset import Dataset  # noqa: E402
from mf_ros.dataset.keyframes import KeyframeOptions, Keyframes, View, perceptual_hash  # noqa: E402
from mf_ros.dataset.row import DatasetError  # noqa: E402
from mf_ros.dataset.sources import find_bags, identify  # noqa: E402
from mf_ros.dataset.splits import TimeBlocks, choose_split, described_split, split_of_group  # noqa: E402
from mf_ros.errors import BagError, ConfigError  # noqa: E402

SECOND = 10**9
GROUPS = [(f"robot-{n}", f"2026-01-{1 + n % 28:02d}", "yard") for n in range(2000)]


def test_the_split_of_a_group_never_changes() -> None:
    expected = ["test", "train", "train", "train", "train", "train", "test", "val"]
    assert [split_of_group(group) for group in GROUPS[:8]] == expected
    shares = {name: np.mean([split_of_group(group) == name for group in GROUPS]) for name in ("train", "val", "test")}
    assert np.allclose(list(shares.values()), [0.8, 0.1, 0.1], atol=0.02)


def test_groups_are_used_when_there_are_enough_for_all_three_splits() -> None:
    assert choose_split(GROUPS[:9]) == "time"
    assert choose_split(GROUPS[:100]) == "group"
    learning_only = [group for group in GROUPS if split_of_group(group) == "train"]
    assert choose_split(learning_only) == "time", "nothing would be left to judge by"
    endless = itertools.chain(GROUPS[:100], iter(lambda: pytest.fail("read further than needed"), None))
    assert choose_split(endless) == "group"


def test_bags_of_one_robot_place_and_day_go_the_same_way(tmp_path: Path) -> None:
    places = [(robot, part) for robot in range(3) for part in range(2)]
    bags = [drive(tmp_path / f"rover-{n}" / f"{part}.mcap", seed=10 * n + part, frames=3) for n, part in places]
    extracted(bags, tmp_path / "set", split="group")
    rows = Dataset(tmp_path / "set").columns(["robot_id", "day", "site", "split"]).to_pylist()
    assert len(rows) == 12
    assert all(row["split"] == split_of_group((row["robot_id"], row["day"], row["site"])) for row in rows)
    more = extracted([drive(tmp_path / "rover-9" / "1.mcap", seed=99, frames=3)], tmp_path / "set")
    assert more.split == "group", "as it was decided when the data set was made"


@pytest.mark.parametrize(("minutes", "gap_s"), [(60, 60.0), (10, 60.0), (5, 30.0), (0.1, 0.6)])
def test_a_long_recording_has_gaps_of_a_minute_and_a_short_one_of_a_tenth(minutes: float, gap_s: float) -> None:
    length = minutes * 60
    blocks = TimeBlocks(0, round(length * SECOND))
    assert blocks.gap_s == pytest.approx(gap_s)
    names = [blocks.split_at(round(at * length * SECOND)) for at in np.linspace(0, 1, 10_001)]
    order = [name for name, _ in itertools.groupby(names)]
    assert order == ["train", "", "val", "", "test"]
    used = 1 - 2 * gap_s / length
    for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert names.count(name) / 10_001 == pytest.approx(share * used, abs=2e-3)
    assert names.count("") / 10_001 == pytest.approx(2 * gap_s / length, abs=2e-3)


def test_a_recording_of_one_moment_is_all_train() -> None:
    assert TimeBlocks(5, 5).split_at(5) in ("train", "test")


def test_a_data_set_that_does_not_say_how_it_is_split_is_refused() -> None:
    with pytest.raises(DatasetError, match="does not say how"):
        described_split({}, "auto")


def view(number: int, x: float, yaw_deg: float = 0.0) -> View:
    """A tenth of a second after the one before."""
    angle, T = np.deg2rad(yaw_deg), np.eye(4)
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    T[0, 3] = x
    return View(number * SECOND // 10, T, 0.5)


def kept(views: list[View], hashes: list[int], **options: float) -> list[int]:
    """Numbers of the views that become rows."""
    chosen = Keyframes(KeyframeOptions(**options))  # type: ignore[arg-type]
    found = []
    for number, (each, bits) in enumerate(zip(views, hashes, strict=True)):
        phash = f"{bits:016x}"
        if not chosen.skip(each) and not chosen.refuse(each, phash):
            chosen.keep(each, phash)
            found.append(number)
    return found


def different(count: int) -> list[int]:
    """Hashes that share about half of their bits."""
    return [int(bits) for bits in np.random.default_rng(0).integers(0, 2**63, count)]


def test_half_a_metre_or_ten_degrees_make_a_keyframe() -> None:
    driving = [view(n, 0.2 * n) for n in range(10)]
    assert kept(driving, different(10)) == [0, 3, 6, 9]
    turning = [view(n, 0.0, 4.0 * n) for n in range(10)]
    assert kept(turning, different(10)) == [0, 3, 6, 9]
    assert kept(driving, different(10), every_m=0.9) == [0, 5]


def test_the_way_back_past_the_same_pictures_gives_no_rows() -> None:
    there, hashes = [view(n, 1.0 * n) for n in range(5)], different(5)
    back = [view(5 + n, 1.0 * (3 - n)) for n in range(4)]
    assert kept(there + back, hashes + hashes[3::-1]) == [0, 1, 2, 3, 4]
    other_light = [~bits & (2**64 - 1) for bits in hashes]
    assert kept(there + back, hashes + other_light[3::-1]) == list(range(9))


def test_creeping_is_motion_though_every_look_in_between_sees_the_same() -> None:
    creeping = [View(n * 11 * SECOND, view(0, 0.2 * n).T_world_cam, 0.5) for n in range(7)]
    hashes = different(3)
    assert kept(creeping, [hashes[0]] * 3 + [hashes[1]] * 3 + [hashes[2]]) == [0, 3, 6]


def test_small_changes_of_the_hash_are_the_same_picture() -> None:
    unlocated = [View(n * SECOND, None, 0.5) for n in range(4)]
    assert kept(unlocated, [0, 0b111111, 0b1111111, 2**64 - 1]) == [0, 2, 3]


def test_no_distance_makes_a_row_of_every_image_however_alike() -> None:
    standing = [view(n, 0.0) for n in range(4)]
    unlocated = [View(n * SECOND // 10, None, 0.5) for n in range(4)]
    for views in (standing, unlocated):
        assert kept(views, [0] * 4, every_m=0.0) == [0, 1, 2, 3]


def test_the_hash_survives_noise_and_tells_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (9, 16, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    noisy = np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
    one, near, far = (imagehash.hex_to_hash(perceptual_hash(each)) for each in (picture, noisy, picture[:, ::-1]))
    assert one - near <= 4 and one - far > 12


@pytest.mark.parametrize("wrong", [{"every_m": -0.1}, {"every_deg": float("nan")}, {"max_rows": 0}])
def test_impossible_distances_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="--" + next(iter(wrong)).replace("_", "-")):
        KeyframeOptions(**wrong).checked()  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that only look like bags, since nobody opens them."""
    root = tmp_path / "bags"
    for name in ("a_10.mcap", "a_9.mcap", "notes.txt", "old/b.bag", "split/metadata.yaml", "split/split_0.mcap"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_a_folder_gives_every_bag_in_it_and_a_rosbag2_folder_is_one(tree: Path) -> None:
    found = [Path(bag.path).relative_to(tree) for bag in find_bags([str(tree)])]
    assert list(map(str, found)) == ["a_9.mcap", "a_10.mcap", "old/b.bag", "split"]
    assert [bag.path for bag in find_bags([str(tree / "split" / "metadata.yaml")])] == [str(tree / "split")]
    (tree / "empty").mkdir()
    empty = find_bags([str(tree / "empty")])
    with pytest.raises(BagError, match="is not a bag"):
        identify(empty[0].path)


def test_patterns_and_paths_name_each_bag_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    found = find_bags(["*.mcap", "./a_9.mcap", "**/*.bag", "nothing*"])
    assert [Path(bag.path).name for bag in found] == ["a_9.mcap", "a_10.mcap", "b.bag", "nothing*"]
    assert {bag.path for bag in found} == {os.path.abspath(bag.path) for bag in found}  # noqa: PTH100
    with pytest.raises(BagError, match=r"nothing\* does not exist"):
        identify(found[-1].path)


def test_a_list_names_robots_and_sites(tree: Path) -> None:
    listed = tree / "list.tsv"
    listed.write_text(f"# the fleet\n{tree}/a_9.mcap\trover-1\tyard\n\n{tree}/a_10.mcap\n{tree}/old\t\tpier\n")
    found = [(Path(bag.path).name, bag.robot_id, bag.site) for bag in find_bags([], listed, "", "field")]
    assert found == [("a_9.mcap", "rover-1", "yard"), ("a_10.mcap", "bags", "field"), ("b.bag", "old", "pier")]
    assert {bag.robot_id for bag in find_bags([], listed, "rover-9")} == {"rover-1", "rover-9"}
    with pytest.raises(DatasetError, match="cannot be read"):
        find_bags([], tree / "missing.tsv")
    with pytest.raises(DatasetError, match="No recording was named"):
        find_bags([])


def test_what_tells_bags_apart_is_what_is_in_them_and_not_their_names(tree: Path) -> None:
    same = tree / "copy.mcap"
    same.write_bytes((tree / "a_9.mcap").read_bytes())
    assert identify(str(same)) == identify(str(tree / "a_9.mcap"))
    assert identify(str(tree / "a_10.mcap"))[0] != identify(str(same))[0]
    assert identify(str(tree / "split"))[1] == len("split/split_0.mcap")


def test_remote_bags_are_found_and_read(tmp_path: Path) -> None:
    upath = pytest.importorskip("upath")
    local = drive(tmp_path / "a.mcap", frames=4)
    for name in ("rover-3/a.mcap", "rover-4/b.mcap"):
        remote = upath.UPath(f"memory:///fleet/{name}")
        remote.parent.mkdir(parents=True, exist_ok=True)
        remote.write_bytes(local.read_bytes())
    found = find_bags(["memory:///fleet/rover-*/*.mcap", "memory:///fleet", local.as_uri()])
    assert [bag.robot_id for bag in found[:2]] == ["rover-3", "rover-4"] and len(found) == 3
    report = extracted([bag.path for bag in found], tmp_path / "set")
    assert [record.status for record in report.records] == ["done", "skipped", "skipped"]
    assert "same recording as memory:" in report.records[1].reason and report.records[0].rows == 2


def test_nothing_to_read_is_one_sentence_and_makes_no_data_set(tmp_path: Path, run: Run) -> None:
    done = run("extract", tmp_path / "missing.mcap", "--out", tmp_path / "set", "--workers", "0")
    assert done.code == 2 and "missing.mcap does not exist: check the path." in done.error
    assert not (tmp_path / "set").exists()


def test_only_unfit_bags_end_with_2_and_say_why(tmp_path: Path, run: Run) -> None:
    bag = drive(tmp_path / "a.mcap", frames=4, transforms=False)
    done = run("extract", bag, "--out", tmp_path / "set", "--workers", "0")
    assert done.code == 2 and "The data set has no rows" in done.error and "has no transforms" in done.error


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path, run: Run) -> None:
    bag = drive(tmp_path / "a.mcap", frames=4)
    done = run("extract", bag, "--out", tmp_path, "--workers", "0")
    assert done.code == 2 and "is a folder of something else" in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]


def test_the_report_is_also_given_for_machines(tmp_path: Path, run: Run) -> None:
    import json

    bag = drive(tmp_path / "rover" / "a.mcap")
    options = ("--workers", "0", "--json", "--robot-id", "r2", "--site", "dock", "--lidar.min-range-m", "0.5")
    done = run("extract", bag, "--out", tmp_path / "set", *options)
    told = json.loads(done.out)
    assert done.code == 0 and told["new_rows"] == sum(told["rows"].values()) == 10 and told["split"] == "time"
    record = told["bags"][0]
    assert (record["robot_id"], record["site"], record["status"]) == ("r2", "dock", "done")
    assert record["bytes"] == told["bytes"] > 0 and record["read_bytes"] == bag.stat().st_size
    assert Dataset(tmp_path / "set").description.settings.lidar.min_range_m == 0.5
