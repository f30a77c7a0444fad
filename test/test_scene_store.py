"""The store of procedural scenes, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mf_ros.cli.main import main  # noqa: E402
from mf_ros.errors import ConfigError  # noqa: E402
from mf_training.scenes import Scene, SceneConfig, SceneStore, make_scene  # noqa: E402

SIZE = (64, 96)
PERFECT = SceneConfig(noise=0.0)


def same(a: Scene, b: Scene) -> bool:
    arrays = [(a.image, b.image), (a.depth, b.depth), (a.K, b.K)]
    arrays += [pair for s, t in zip(a.scans, b.scans, strict=True) for pair in ((s.points, t.points), (s.ring, t.ring))]
    return (a.kind, a.seed, len(a.scans)) == (b.kind, b.seed, len(b.scans)) and all(
        np.array_equal(x, y) for x, y in arrays
    )


def test_the_store_keeps_scenes_within_its_stated_errors(tmp_path: Path) -> None:
    store = SceneStore(tmp_path, SIZE, scans=2)
    first, second, fresh = store.get(6), store.get(6), make_scene(6, SIZE, scans=2)
    assert same(first, second), "made now or read back: the same"
    np.testing.assert_array_equal(first.image, fresh.image)
    np.testing.assert_array_equal(np.isinf(first.depth), np.isinf(fresh.depth))
    known = np.isfinite(fresh.depth)
    np.testing.assert_allclose(first.depth[known], fresh.depth[known], rtol=1.1e-3)
    for kept, made in zip(first.scans, fresh.scans, strict=True):
        np.testing.assert_array_equal(kept.ring, made.ring)
        z = made.points[:, 2]
        assert (np.abs(kept.points - made.points).max(1) < 2e-4 * np.maximum(z, 1.0)).all(), "2 mm at 10 m"
        assert (kept.kind, kept.lines) == (made.kind, made.lines)
    assert [p.suffix for p in tmp_path.rglob("*") if p.is_file()] == [".npz"], "no parts are left behind"


def test_unknown_depth_and_sky_survive_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_scene(6, SIZE, scans=1)
    made.depth[:2, :2], made.depth[2:4, :2] = 0.0, np.inf
    monkeypatch.setattr("mf_training.scenes.store.make_scene", lambda *_, **__: made)
    kept = SceneStore(tmp_path, SIZE, scans=1).get(6).depth
    assert (kept[:2, :2] == 0).all() and np.isinf(kept[2:4, :2]).all()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "of other shapes", "other scene"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = SceneStore(tmp_path, SIZE, scans=1)
    good, file = store.get(2), store.file(2)
    whole = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "foreign":
        np.savez(file, weights=np.zeros(3))
    elif damage == "of other shapes":
        np.savez(file, format=np.zeros(3))
    else:
        store.get(3)
        file.write_bytes(store.file(3).read_bytes())
    assert same(store.get(2), good)
    assert "made again" in caplog.text and str(file) in caplog.text
    assert same(SceneStore(tmp_path, SIZE, scans=1).get(2), good)


def test_stores_of_other_settings_do_not_share_files(tmp_path: Path) -> None:
    files = {
        SceneStore(tmp_path, SIZE).file(1),
        SceneStore(tmp_path, (96, 96)).file(1),
        SceneStore(tmp_path, SIZE, scans=1).file(1),
    }
    assert len(files | {SceneStore(tmp_path, SIZE, config=PERFECT).file(1)}) == 4
    assert SceneStore(None, SIZE).file(1) is None


def test_a_store_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        SceneStore(tmp_path / "file")


def test_the_command_writes_a_picture_and_says_how_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    size = ["--height", "64", "--width", "96"]
    assert main(["scenes", "--out", str(out), "--count", "2", "--scans", "1", *size]) == 0
    assert "scenes/s" in capsys.readouterr().out
    picture = cv2.imread(str(out))
    assert picture.shape[0] > 2 * 64 and picture.shape[1] > 3 * 96 and picture.std() > 10
    assert main(["scenes", "--out", str(out), "--count", "1", "--kind", "room", "--json", *size]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kinds"] == ["room"] and printed["scenes_per_second"] > 0


def test_the_command_refuses_what_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scenes", "--out", str(tmp_path / "sheet.gif")]) == 2
    assert ".png" in capsys.readouterr().err
