"""Frames in folders: what is read of them, and what is refused with its name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluated_wall import write_frame

from mf_ros.cli.main import main
from mf_ros.core.camera import CameraModel
from mf_ros.core.types import AnyArray, ByteArray, DepthEstimate, SparseDepth
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.errors import BagError
from mf_ros.evaluation.frames import load_frames
from mf_ros.evaluation.protocol import cases


def test_a_folder_of_frames_is_scored_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_frame(tmp_path / "yard" / "000")
    assert main(["evaluate", str(tmp_path), "--lines", "8", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    keys = ["source", "input", "engine", "truth", "mae", "rmse", "imae", "irmse", "absrel", "delta1", "median"]
    keys += [
        "ms",
        "frames",
        "metric",
        "coverage50",
        "coverage90",
        "mae90",
        "mae80",
        "mae60",
        "absrel90",
        "absrel80",
        "absrel60",
    ]
    assert all(list(record) == keys for record in records)
    assert {record["source"] for record in records} == {"yard"}


def test_the_image_can_be_kept_from_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frame(tmp_path / "yard" / "000")
    seen: list[ByteArray] = []
    estimate = ClassicalEngine.estimate

    def watched(engine: ClassicalEngine, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        seen.append(image)
        return estimate(engine, image, sparse, camera)

    monkeypatch.setattr(ClassicalEngine, "estimate", watched)
    command = ["evaluate", str(tmp_path), "--lines", "8", "--engine", "classical", "--json"]
    assert main(command) == main([*command, "--grey-image"]) == 0
    shown, kept = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(shown) == len(kept) > 0 and {each.shape for each in seen} == {(96, 160, 3)}
    assert (np.stack(shown) == 90).all() and (np.stack(kept) == 128).all()


def test_an_image_that_is_not_the_calibrated_size_is_refused(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000", width=320)
    with pytest.raises(BagError, match=r"image is 160x96 but calib.json says 320x96"):
        list(load_frames(tmp_path))


def test_an_image_is_not_turned_by_what_its_exif_says(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    shaded = np.repeat(np.linspace(0, 250, 160).astype(np.uint8)[None, :, None], 96, 0).repeat(3, 2)
    jpeg = cv2.imencode(".jpg", shaded)[1].tobytes()
    turned_right = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    marker = b"\xff\xe1" + (len(turned_right) + 2).to_bytes(2, "big") + turned_right
    (tmp_path / "yard" / "000" / "image.png").write_bytes(jpeg[:2] + marker + jpeg[2:])
    (frame,) = load_frames(tmp_path)
    assert frame.image.shape == (96, 160, 3)
    np.testing.assert_allclose(frame.image, shaded, atol=4)


def png_of_size(width: int, height: int) -> bytes:
    """A small file whose header claims a size."""
    content = bytearray(cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes())
    content[16:24] = struct.pack(">II", width, height)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (png_of_size(100_000, 100_000), "claims 100000 x 100000 pixels"),
        (b"BM" + bytes(100), "neither JPEG nor PNG"),
        (b"", "neither JPEG nor PNG"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    (tmp_path / "yard" / "000" / "image.png").write_bytes(content)
    with pytest.raises(BagError, match=rf"image\.png: .*{says}"):
        list(load_frames(tmp_path))


def test_an_image_file_that_is_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mf_ros.evaluation.frames._LARGEST_IMAGE", 50)
    write_frame(tmp_path / "yard" / "000")
    with pytest.raises(BagError, match=r"image\.png has more than 50 bytes"):
        list(load_frames(tmp_path))


def test_a_calibration_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    with (tmp_path / "yard" / "000" / "calib.json").open("a") as file:
        file.write(" " * 1_000_000)
    with pytest.raises(BagError, match=r"calib\.json has more than 1000000 bytes: that is no calibration"):
        list(load_frames(tmp_path))


XYZ = np.ones((5, 4), np.float32)


@pytest.mark.parametrize(
    ("file", "arrays", "says"),
    [
        (
            "points.npz",
            {"xyz": XYZ},
            r"expected are numbers 'points' \(N, 3 or more\); it holds 'xyz' float32",
        ),
        ("points.npz", {}, r"'points' \(N, 3 or more\); it holds nothing"),
        ("points.npz", {"points": XYZ[:, :2]}, r"'points' \(N, 3 or more\)"),
        ("points.npz", {"points": np.full((5, 3), "far")}, r"expected are numbers"),
        ("points.npz", {"points": XYZ, "ring": np.zeros(4, np.uint8)}, r"'ring' \(5,\).*'ring' uint8 \(4,\)"),
        ("points.npz", {"points": XYZ, "ring": np.full(5, -1)}, r"scan line of 0 to 1023"),
        ("points.npz", {"points": XYZ, "ring": np.full(5, 2**29)}, r"scan line of 0 to 1023"),
        ("depth.npz", {}, r"expected is 'depth' \(96, 160\) metres.*it holds nothing"),
        ("depth.npz", {"depth": np.ones((96, 100), np.float32)}, r"'depth' \(96, 160\).*'depth' float32 \(96, 100\)"),
        ("depth.npz", {"depth": np.ones((0, 0), np.float32)}, r"'depth' \(96, 160\)"),
        ("sparse.npz", {"depth": np.ones(7, np.float32)}, r"'depth' \(96, 160\)"),
    ],
)
def test_arrays_of_another_form_are_named_with_what_is_expected(
    file: str, arrays: dict[str, AnyArray], says: str, tmp_path: Path
) -> None:
    place = tmp_path / "yard" / "000"
    write_frame(place)
    np.savez(place / file, **arrays)
    with pytest.raises(BagError, match=rf"000/{file}: .*{says}"):
        list(load_frames(tmp_path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"T_cam_lidar": np.eye(3).tolist()}, r"T_cam_lidar, of shape \(3, 3\), must be a 4x4 matrix"),
        ({"T_cam_lidar": np.eye(4).reshape(-1).tolist()}, r"of shape \(16,\), must be a 4x4"),
        ({"T_cam_lidar": [[1, 0], [0]]}, r"no 4x4 matrix of numbers"),
        ({"T_cam_lidar": "unknown"}, r"no 4x4 matrix of numbers"),
        ({"T_cam_lidar": (np.nan * np.eye(4)).tolist()}, r"finite numbers"),
        ({"T_cam_lidar": None}, r"T_cam_lidar"),
        ({"dist": [0.1, 0.2]}, r"plumb_bob takes 4 or 5"),
        ({"dist": [-1e9, 0, 0, 0, 0]}, r"very centre"),
        ({"dist": "none"}, r"not a usable calibration"),
        ({"n_rings": [64]}, r"not a usable calibration"),
    ],
)
def test_a_calibration_of_another_form_is_named_with_what_is_expected(
    changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    place = tmp_path / "yard" / "000"
    write_frame(place)
    calibration = json.loads((place / "calib.json").read_text())
    (place / "calib.json").write_text(json.dumps({**calibration, **changes}))
    with pytest.raises(BagError, match=rf"calib\.json: .*{says}"):
        list(load_frames(tmp_path))


def test_points_that_are_not_finite_are_dropped_with_their_rings(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    points = np.array([[0, 0, 5, 1], [np.nan, 0, 5, 1], [0, 1, 6, 1]], np.float32)
    np.savez(tmp_path / "yard" / "000" / "points.npz", points=points, ring=np.array([3, 4, 5]))
    (frame,) = load_frames(tmp_path)
    assert frame.points is not None and frame.points.ring is not None
    assert frame.points.points[:, 2].tolist() == [5, 6] and frame.points.ring.tolist() == [3, 5]


def test_depth_in_another_resolution_is_kept_and_gives_no_case(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    (tmp_path / "yard" / "000" / "points.npz").unlink()
    np.savez(tmp_path / "yard" / "000" / "depth.npz", depth=np.full((48, 80), 3.0, np.float32))
    (frame,) = load_frames(tmp_path)
    assert frame.depth is not None and frame.depth.shape == (48, 80)
    assert not list(cases(frame, (8,)))


def test_a_damaged_point_file_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path / "yard" / "000")
    (tmp_path / "yard" / "000" / "points.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(BagError, match=r"points\.npz: not a readable"):
        list(load_frames(tmp_path))
