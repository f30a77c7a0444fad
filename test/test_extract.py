"""Extraction: what a row holds, which images become rows, and which bags are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")
pytest.importorskip("imagehash")

from fleet_bags import CAMERA, START_NS, T_BASE_CAMERA, base_pose, drive, extracted, turned

from mf_ros.bags.feed import feed, patient
from mf_ros.bags.reader import open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.config import Config, LidarConfig
from mf_ros.core.topics import choose_topics
from mf_ros.dataset.bag_job import Reading
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import Row
from mf_ros.engine.assemble import AssembledFrame, DecodedFrame, FrameAssembler
from mf_ros.engine.pipeline import DepthPipeline
from mf_ros.simulate.recording import simulate


def rows_of(path: Path) -> list[Row]:
    dataset = Dataset(path)
    return sorted((dataset.row(place) for place in range(len(dataset))), key=lambda row: row.stamp_ns)


def live(bag: Path) -> dict[int, tuple[DecodedFrame, AssembledFrame]]:
    """Every image of a bag as the robot's pipeline decodes and assembles it, by stamp."""
    found = {}
    with open_recording(bag) as recording:
        topics = choose_topics(recording)
        pipeline = DepthPipeline(patient(Config(), recording, topics), None, len(topics.points))
        for ready in feed(pipeline, recording, topics):
            decoded, assembled = pipeline.decode(ready), pipeline.assemble(ready)
            assert decoded is not None and assembled is not None
            found[ready.image.stamp_ns] = decoded, assembled
    return found


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive in which the edges of image and LiDAR can be compared."""
    path = tmp_path_factory.mktemp("simulated") / "rover" / "drive.mcap"
    simulate(path, seconds=5, rate_hz=2, rings=16, columns=400, width=192, height=108, seed=1, ground_truth=False)
    return path


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_row_gives_training_bit_for_bit_what_the_robot_had(jpeg: bool, tmp_path: Path) -> None:
    bag = drive(tmp_path / "a.mcap", jpeg=jpeg)
    assert extracted([bag], tmp_path / "set").records[0].status == "done"
    truth, rows = live(bag), rows_of(tmp_path / "set")
    assert len(rows) >= 8
    for row in rows:
        decoded, assembled = truth[row.stamp_ns]
        again = row.decoded()
        assert np.array_equal(again.image, decoded.image)
        assert again.camera == decoded.camera and again.frame_id == decoded.frame_id
        made = FrameAssembler(Config()).assemble(again)
        assert made.compensated == assembled.compensated == (True,)
        assert np.array_equal(made.points.points, assembled.points.points)
        assert np.array_equal(made.points.ring, assembled.points.ring)


def test_rows_say_where_and_when_they_were_recorded(tmp_path: Path) -> None:
    bag = drive(tmp_path / "rover-7" / "a.mcap", speed=4.0)
    record = extracted([bag], tmp_path / "set").records[0]
    rows = rows_of(tmp_path / "set")
    for row in rows:
        assert row.sample_id == f"{record.bag_id}/{row.stamp_ns}"
        assert (row.robot_id, row.site, row.day) == ("rover-7", "", "2023-11-14")
        expected = base_pose((row.stamp_ns - START_NS) / 1e9, 4.0) @ T_BASE_CAMERA
        assert np.allclose(row.T_world_cam, expected, atol=1e-9)
        assert row.camera == CAMERA and row.camera_frame == "camera"
        assert row.log_ns == row.stamp_ns + 5_000_000 and row.dt_ns == (0,)
    # 0.4 m from image to image, so every second one is 0.5 m away from the row before.
    assert [row.stamp_ns - START_NS for row in rows] == [n * 200_000_000 for n in range(10)]
    assert record.rows == 10 and record.images == 20 and record.dropped == {"not_moved": 10}


def test_recorded_jpeg_files_stay_as_they_are_and_raw_images_lose_nothing(tmp_path: Path) -> None:
    extracted([drive(tmp_path / "a.mcap", jpeg=True)], tmp_path / "files")
    assert all(row.image.startswith(b"\xff\xd8\xff") for row in rows_of(tmp_path / "files"))
    bag = drive(tmp_path / "b.mcap")
    extracted([bag], tmp_path / "raw")
    assert all(row.image.startswith(b"\x89PNG") for row in rows_of(tmp_path / "raw"))
    extracted([bag], tmp_path / "smaller", jpeg=60)
    for row, lossless in zip(rows_of(tmp_path / "smaller"), rows_of(tmp_path / "raw"), strict=True):
        assert row.image_format == "jpeg" and len(row.image) < len(lossless.image)
        assert np.abs(row.decoded().image.astype(int) - lossless.decoded().image).mean() < 20


def test_the_pieces_of_a_bag_split_by_time_are_a_gap_apart(tmp_path: Path) -> None:
    report = extracted([drive(tmp_path / "a.mcap", frames=60)], tmp_path / "set", split="time")
    rows = Dataset(tmp_path / "set").columns(["split", "log_ns"]).to_pylist()
    times = {name: [row["log_ns"] / 1e9 for row in rows if row["split"] == name] for name in ("train", "val", "test")}
    gap = report.records[0].gap_s
    assert 0.6 <= gap <= 0.7, "a tenth of the six seconds and the margins"
    assert min(times["val"]) - max(times["train"]) >= gap and min(times["test"]) - max(times["val"]) >= gap
    assert len(times["train"]) > len(times["test"]) > len(times["val"]) > 0
    assert report.rows[""] == sum(row["split"] == "" for row in rows) > 0


def test_a_robot_that_stands_gives_a_row_only_when_the_picture_changes(tmp_path: Path) -> None:
    still = extracted([drive(tmp_path / "a.mcap", frames=240, speed=0.0, changing=False)], tmp_path / "still")
    assert still.records[0].rows == 1
    assert still.records[0].dropped == {"not_moved": 237, "same_picture": 2}, "looked at every ten seconds"
    extracted([drive(tmp_path / "b.mcap", frames=240, speed=0.0)], tmp_path / "changed")
    rows = rows_of(tmp_path / "changed")
    assert [row.keyframe for row in rows] == [True, False]
    assert rows[1].stamp_ns - rows[0].stamp_ns == 20 * 10**9


def test_without_odometry_pictures_decide(tmp_path: Path) -> None:
    report = extracted([drive(tmp_path / "a.mcap", odometry=False)], tmp_path / "set")
    rows = rows_of(tmp_path / "set")
    assert all(row.T_world_cam is None and not row.keyframe for row in rows)
    apart = np.diff([row.stamp_ns for row in rows])
    assert len(rows) == 4 and (apart >= 500_000_000).all()
    assert "no pose in the fixed frame" in report.records[0].notes[0]
    same = extracted([drive(tmp_path / "b.mcap", odometry=False, speed=0.0, changing=False)], tmp_path / "same")
    assert same.records[0].rows == 1


def test_rows_of_a_limited_bag_are_spread_over_it(tmp_path: Path) -> None:
    report = extracted([drive(tmp_path / "a.mcap", frames=60)], tmp_path / "set", max_rows=6)
    stamps = [(row.stamp_ns - START_NS) / 1e9 for row in rows_of(tmp_path / "set")]
    assert len(stamps) == 6 and report.records[0].dropped["max_rows"] > 0
    assert np.allclose(np.diff(stamps), 1.0, atol=0.31)


def test_a_bag_of_a_whole_simulated_drive_is_taken(simulated: Path, tmp_path: Path) -> None:
    report = extracted([simulated], tmp_path / "set")
    assert [(record.status, record.rows) for record in report.records] == [("done", 10)]


def test_a_bag_whose_lidar_sits_elsewhere_than_it_says_is_rejected(simulated: Path, tmp_path: Path) -> None:
    bag = turned(simulated, tmp_path / "wrong.mcap", 3.0, "lidar_link")
    out = tmp_path / "set"
    record = extracted([bag], out).records[0]
    assert record.status == "rejected" and "moved 6 px right (3.0 degrees)" in record.reason
    assert len(Dataset(out)) == 0 and not list((out / "samples.lance").rglob("data/*.lance"))
    again = extracted([bag], out).records[0]
    assert again.status == "skipped" and "3.0 degrees" in again.reason
    kept = extracted([bag], out, retry=True, reading=Reading(keep_miscalibrated=True)).records[0]
    assert kept.status == "done" and kept.rows == 10 and "3.0 degrees" in kept.notes[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transforms": False}, "has no transforms"),
        ({"lidar_late_s": 30.0}, "Only 0% of the images fit together with the LiDAR, mostly because of no_lidar"),
    ],
)
def test_a_bag_that_does_not_fit_together_is_rejected(changes: dict[str, object], reason: str, tmp_path: Path) -> None:
    bag = drive(tmp_path / "a.mcap", **changes)  # type: ignore[arg-type]
    record = extracted([bag], tmp_path / "set").records[0]
    assert record.status == "rejected" and reason in record.reason and record.rows == 0


def test_a_bag_whose_lidar_is_in_no_transform_is_rejected(tmp_path: Path) -> None:
    from broken_bags import record as recorded
    from wall_scene import extrinsics, tf

    bag = recorded(tmp_path / "a.mcap", frames=6, tf=lambda message, number: tf(extrinsics("other_lidar")))
    record = extracted([bag], tmp_path / "set").records[0]
    assert record.status == "rejected" and "no_transform" in record.reason and "'lidar'" in record.reason


def test_a_bag_without_a_camera_is_rejected_with_the_options_that_name_topics(tmp_path: Path) -> None:
    from broken_bags import record as recorded

    record = extracted([recorded(tmp_path / "a.mcap", image=None)], tmp_path / "set").records[0]
    assert record.status == "rejected" and "no camera image" in record.reason and "--image-topic" in record.reason


def test_a_bag_that_is_cut_off_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    bag = drive(tmp_path / "a.mcap", frames=150)
    content = bag.read_bytes()
    bag.write_bytes(content[: int(len(content) * 0.7)])
    record = extracted([bag], tmp_path / "set").records[0]
    assert record.status == "done" and 40 <= record.rows < 75
    assert record.notes[0].startswith("Damaged, and used as far as it can be read")


def test_a_faster_camera_than_lidar_is_no_fault(tmp_path: Path) -> None:
    tight = Config(sync=dataclasses.replace(Config().sync, tolerance_s=0.01))
    with open_recording(drive(tmp_path / "a.mcap")) as recording, McapWriter(tmp_path / "b.mcap") as writer:
        for number, message in enumerate(recording.messages()):
            if message.topic != "/points" or number % 3:
                writer.write_raw(message.topic, message.decode(), message.log_ns, msgtype=message.msgtype)
    record = extracted([tmp_path / "b.mcap"], tmp_path / "set", config=tight).records[0]
    assert record.status == "done" and record.dropped["no_lidar"] > 0


def test_points_of_another_fixed_frame_are_not_compensated_and_that_is_noted(tmp_path: Path) -> None:
    config = Config(lidar=LidarConfig(fixed_frame="map"))
    record = extracted([drive(tmp_path / "a.mcap")], tmp_path / "set", config=config).records[0]
    assert any("The motion during the sweep is not known" in note for note in record.notes)


def test_grey_images_take_one_channel(tmp_path: Path) -> None:
    from broken_bags import record as recorded

    extracted([recorded(tmp_path / "a.mcap")], tmp_path / "set")
    row = rows_of(tmp_path / "set")[0]
    stored = cv2.imdecode(np.frombuffer(row.image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored.ndim == 2 and np.array_equal(row.decoded().image, np.repeat(stored[..., None], 3, axis=2))


def test_what_is_too_large_for_a_row_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mf_ros.dataset.recording_rows._MAX_ROW_BYTES", 5_000)
    record = extracted([drive(tmp_path / "a.mcap")], tmp_path / "set").records[0]
    assert record.status == "rejected" and record.rows == 0 and record.dropped == {"too_large": 20}


def test_a_recording_that_was_played_twice_gives_each_row_once(tmp_path: Path) -> None:
    with open_recording(drive(tmp_path / "a.mcap")) as recording, McapWriter(tmp_path / "b.mcap") as writer:
        for again_ns in (0, 10 * 10**9):
            for message in recording.messages():
                log_ns = message.log_ns + again_ns
                writer.write_raw(message.topic, message.decode(), log_ns, msgtype=message.msgtype)
    record = extracted([tmp_path / "b.mcap"], tmp_path / "set").records[0]
    stamps = [row.stamp_ns for row in rows_of(tmp_path / "set")]
    assert len(set(stamps)) == len(stamps) == record.rows >= 10 and record.dropped["repeated"] > 0
