"""Samples depend on the seed and their number alone, whoever prepares them; bad data is named."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

import cv2
import torch
from training_toys import Planes, collate, make_sample, open_planes, settings

from mf_ros.errors import ConfigError
from mf_training.data import DataError, Part, TrainingSamples, heldout_batches, open_parts, shape_of, training_batches
from mf_training.frames import FrameSource


def batches(config: Any, first: int = 0, rank: int = 0, world: int = 1) -> Iterator[Any]:
    samples = TrainingSamples(open_planes(config.data), config, make_sample)
    return training_batches(samples, collate, config, first=first, rank=rank, world=world, pin=False)


def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path: Path) -> None:
    config = settings(tmp_path)
    fourth = list(itertools.islice(batches(config), 4))[3]
    resumed = next(batches(config, first=3))
    assert all(torch.equal(fourth[key], resumed[key]) for key in fourth)


def test_processes_beside_this_one_prepare_the_same_batches(tmp_path: Path) -> None:
    here = next(batches(settings(tmp_path)))
    elsewhere = batches(settings(tmp_path, data__workers=1))
    there = next(elsewhere)
    elsewhere.close()  # type: ignore[attr-defined]
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_batches_draw_their_crop_shapes_and_all_processes_the_same(tmp_path: Path) -> None:
    config = settings(tmp_path)
    shapes = [tuple(batch["image"].shape[2:]) for batch in itertools.islice(batches(config, rank=1, world=2), 12)]
    assert set(shapes) == {(16, 32), (32, 32)}
    assert shapes == [shape_of(config, number) for number in range(12)]


def test_two_processes_share_what_one_would_see(tmp_path: Path) -> None:
    config = settings(tmp_path)
    one = next(batches(settings(tmp_path, batch=4)))
    two = [next(batches(config, rank=rank, world=2)) for rank in (0, 1)]
    assert torch.equal(one["image"], torch.cat([batch["image"] for batch in two]))


def test_an_epoch_shows_every_scene_once_and_the_next_in_another_order(tmp_path: Path) -> None:
    config = settings(tmp_path)
    samples = TrainingSamples(open_planes(config.data), config, make_sample)
    epochs = [[samples.where(40 * epoch + i)[1] for i in range(40)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0] != epochs[1]


def test_without_a_number_of_scenes_none_comes_twice(tmp_path: Path) -> None:
    config = settings(tmp_path, data__scenes__number=0, data__scenes__first_seed=7)
    samples = TrainingSamples(open_planes(config.data), config, make_sample)
    assert [samples.where(i)[1] for i in (0, 1, 500)] == [7, 8, 507]


def test_sources_are_mixed_by_their_weights(tmp_path: Path) -> None:
    parts = [Part("many", Planes(), 0, 50, 3.0), Part("few", Planes(), 0, 5, 1.0)]
    samples = TrainingSamples(parts, settings(tmp_path), make_sample)
    drawn = [samples.where(i) for i in range(2000)]
    share = sum(part.name == "few" for part, _ in drawn) / len(drawn)
    assert share == pytest.approx(0.25, abs=0.04), "four standard deviations of 2000 draws"
    assert {number for part, number in drawn if part.name == "few"} == set(range(5))


def test_held_out_samples_are_the_same_in_every_run_and_shared_by_processes(tmp_path: Path) -> None:
    def held(seed: int, rank: int = 0, world: int = 1, **changes: float) -> torch.Tensor:
        config = settings(tmp_path, seed=seed, **changes)
        found = heldout_batches(open_planes(config.data), make_sample, collate, config, rank=rank, world=world)
        return torch.cat([batch["image"] for batch in found["planes"]])

    assert torch.equal(held(seed=0), held(seed=1))
    assert torch.equal(held(seed=0), held(seed=0, samples__restyled=1.0)), "pictures as they are"
    assert torch.equal(held(0)[1::2], held(0, rank=1, world=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_scene_that_cannot_be_read_is_named(tmp_path: Path, workers: int) -> None:
    config = settings(tmp_path, data__workers=workers)
    parts = [Part("planes", Planes(fails=True), 13, 1, 1.0)]
    samples = TrainingSamples(parts, config, make_sample)
    with pytest.raises(DataError, match="number 13 of planes: disk on fire"):
        next(training_batches(samples, collate, config, first=0, rank=0, world=1, pin=False))


def test_a_scene_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="32 x 48, smaller than the crop of 64 x 64"):
        next(batches(settings(tmp_path, data__shapes=[[64, 64]])))


@pytest.mark.parametrize("device", ["abacus", "cuda:77"])
def test_a_device_for_scenes_that_is_not_there_is_named(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"data.scenes.device is '{device}'"):
        open_parts(settings(tmp_path, data__scenes__device=device).data)


def test_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        TrainingSamples([], settings(tmp_path), make_sample)


def write_frame(place: Path, points: np.ndarray, distortion: str = "[]") -> None:
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "image.png"), np.full((32, 48, 3), 90, np.uint8))
    np.savez(place / "points.npz", points=points, ring=np.arange(len(points)) % 4)
    write_calibration(place, distortion)


def write_calibration(place: Path, distortion: str = "[]") -> None:
    (place / "calib.json").write_text(
        f'{{"K": [[30, 0, 23.5], [0, 30, 15.5], [0, 0, 1]], "dist": {distortion}, "width": 48, "height": 32,'
        ' "n_rings": 4, "T_cam_lidar": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}'
    )


def test_real_frames_become_scenes_without_truth(tmp_path: Path) -> None:
    points = np.array([[0.0, 0.0, 5.0, 1.0], [1.0, 0.0, 5.0, 1.0]], np.float32)
    write_frame(tmp_path / "drive" / "0001", points)
    write_frame(tmp_path / "drive" / "0002", points, distortion="[-0.1, 0.01, 0, 0]")
    source = FrameSource(str(tmp_path))
    assert len(source) == 2
    for index in range(2):
        scene = source.get(index)
        assert scene.image.shape == (3, 32, 48) and scene.image.dtype == np.uint8
        assert not scene.depth.any()
        assert np.allclose(scene.scans[0].points, points[:, :3])
        assert scene.scans[0].ring.tolist() == [0, 1]


def write_drive(place: Path, count: int) -> None:
    """A numbered sequence: frame k sees one return, k + 5 metres ahead."""
    place.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(place / f"{number:04d}.jpg"), np.full((32, 48, 3), 90, np.uint8))
        xyz = np.array([[0, 0, 1000 * (number + 5)]], np.int32)
        np.savez(place / f"{number:04d}.npz", xyz_mm=xyz, ring=np.zeros(1, np.uint8))
    write_calibration(place)


def ahead(source: FrameSource) -> list[float]:
    return [float(source.get(index).scans[0].points[0, 2]) for index in range(len(source))]


def test_every_frame_of_a_drive_counts_and_parts_split_each_drive_in_time(tmp_path: Path) -> None:
    write_drive(tmp_path / "monday", 5)
    write_drive(tmp_path / "tuesday", 2)
    assert ahead(FrameSource(str(tmp_path))) == [5, 6, 7, 8, 9, 5, 6]
    assert ahead(FrameSource(str(tmp_path), (0.0, 0.5))) == [5, 6, 5]
    assert ahead(FrameSource(str(tmp_path), (0.5, 1.0))) == [7, 8, 9, 6]


def test_frames_of_a_drive_go_by_their_numbers_even_with_other_drives_between(tmp_path: Path) -> None:
    for name in ("1", "2", "10"):
        points = np.array([[0.0, 0.0, float(name), 1.0]], np.float32)
        write_frame(tmp_path / "drive" / name, points)
    write_drive(tmp_path / "drive" / "3", 1)
    assert ahead(FrameSource(str(tmp_path))) == [1, 2, 10, 5]
    assert ahead(FrameSource(str(tmp_path), (0.6, 1.0))) == [2, 10, 5]


def test_a_part_without_frames_is_refused(tmp_path: Path) -> None:
    write_drive(tmp_path / "monday", 1)
    with pytest.raises(DataError, match=r"in the part 0 to 0\.5"):
        FrameSource(str(tmp_path), (0.0, 0.5))


@pytest.mark.parametrize(("distortion", "rows", "knows"), [("[]", 32, True), ("[]", 16, False), ("[-0.1]", 32, False)])
def test_depth_images_are_sweeps_and_the_truth_too_where_they_fit_the_image(
    tmp_path: Path, distortion: str, rows: int, knows: bool
) -> None:
    place = tmp_path / "room" / "0001"
    place.mkdir(parents=True)
    cv2.imwrite(str(place / "image.png"), np.full((32, 48, 3), 90, np.uint8))
    depth = np.full((rows, rows * 3 // 2), 2.0, np.float32)
    depth[:, : rows // 2] = 0
    np.savez(place / "depth.npz", depth=depth)
    write_calibration(place, distortion.replace("]", ", 0, 0, 0]") if "." in distortion else distortion)
    scene = FrameSource(str(tmp_path)).get(0)
    (scan,) = scene.scans
    assert scene.depth.shape == (32, 48) and bool(scene.depth.any()) == knows
    assert np.allclose(scan.points[:, 2], 2.0) and set(scan.ring.tolist()) == set(range(rows // 4))
    # Nothing is measured in the left third, which ends 7.5 pixels left of the optical axis at a focal length of 30.
    assert scan.points[:, 0].min() == pytest.approx(2.0 * -7.5 / 30, abs=0.06)


def test_a_folder_without_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no frames"):
        FrameSource(str(tmp_path))
