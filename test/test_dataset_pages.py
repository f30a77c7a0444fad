"""The pages of a data set and of its samples: what they show, and that nothing in them runs or reaches out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("lance")

from dataset_rows import some_rows
from simulated_rows import simulated_rows
from test_dataset import write_lance, write_parquet
from test_report import Page

from mf_ros.cli.main import main
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.show import page
from mf_ros.dataset.show.measure import project_row
from mf_ros.dataset.show.overview import look_into
from mf_ros.dataset.show.pictures import figures_of, level_axes, thumbnail
from mf_ros.engine.assemble import FrameAssembler

HOSTILE = "<script>alert(1)</script>\x1b[31m{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lance(tmp_path_factory.mktemp("fleet") / "fleet", simulated_rows())


def self_contained(page: Page) -> bool:
    """Whether nothing in it runs or reaches out of the file."""
    kinds = {tag for tag, _ in page.tags}
    links = [attrs.get("href", "#") for _, attrs in page.tags]
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    inside = all(link.startswith("#") for link in links) and all(each.startswith("data:image/") for each in sources)
    return inside and not kinds & {"script", "link", "iframe", "object"}


def test_the_page_shows_every_measured_row_and_reaches_nowhere(fleet: Path, tmp_path: Path) -> None:
    assert main(["dataset", "show", str(fleet), "--out", str(tmp_path / "out")]) == 0
    page = Page((tmp_path / "out" / "dataset.html").read_text())
    assert page.open == [] and self_contained(page)
    assert len(page.images()) == 6
    for row in (Dataset(fleet).row(place) for place in range(6)):
        assert row.sample_id in page.text
    assert sum(tag == "figure" and attrs.get("class") == "histogram" for tag, attrs in page.tags) == 4
    assert "Time of day" in page.text and "Returns per 1000 pixels" in page.text


def test_the_page_of_a_sample_has_its_pictures(fleet: Path, tmp_path: Path) -> None:
    assert main(["dataset", "show", str(fleet), "--sample", "1", "--out", str(tmp_path / "one.html")]) == 0
    page = Page((tmp_path / "one.html").read_text())
    assert page.open == [] and self_contained(page)
    pictures = page.images()
    assert len(pictures) == 6 and all(picture.shape == (60, 96, 3) for picture in pictures)
    for title in ("Visible returns", "What became of the returns", "Sparse depth", "from above", "from the side"):
        assert title in page.text


def test_texts_of_strangers_are_escaped_on_pages_and_printable_in_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = dict.fromkeys(("robot_id", "site", "day", "bag_id", "phash", "extractor_version"), HOSTILE)
    rows = [dataclasses.replace(row, sample_id=f"{HOSTILE}/{k}", **names) for k, row in enumerate(some_rows())]
    path = write_parquet(tmp_path / "set.parquet", rows)
    for extra in ([], ["--sample", "0"]):
        assert main(["dataset", "show", str(path), "--out", str(tmp_path / "page.html"), *extra]) == 0
        assert "\x1b" not in capsys.readouterr().out
        html = (tmp_path / "page.html").read_text()
        assert self_contained(Page(html))
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "{{ 7 * 7 }}" in html


def test_pictures_get_coarser_before_the_page_gets_too_large(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overview = look_into(Dataset(fleet), thumbnail)
    sharp = len(page.render_overview(overview))
    monkeypatch.setattr(page, "MAX_BYTES", 1)
    coarse = page.render_overview(overview)
    assert len(coarse) < sharp and len(Page(coarse).images()) == 6


@pytest.mark.parametrize("pitch_deg", [0.0, 25.0, 90.0])
def test_views_are_level_however_the_camera_is_tilted(pitch_deg: float) -> None:
    # The columns are the optical axes right, down and forward in a world with z up.
    pitch = math.radians(pitch_deg)
    forward = np.array([math.cos(pitch), 0.0, -math.sin(pitch)])
    T = np.eye(4)
    T[:3, :3] = np.stack([[0.0, -1.0, 0.0], np.cross(forward, [0.0, -1.0, 0.0]), forward], axis=1)
    level = level_axes(T)
    assert np.allclose(level @ level.T, np.eye(3)) and np.linalg.det(level) == pytest.approx(1.0)
    assert np.allclose(level @ T[:3, :3].T @ [0.0, 0.0, 1.0], [0.0, 0.0, 1.0])
    assert np.allclose(level @ T[:3, :3].T @ [1.0, 0.0, 0.0], [1.0, 0.0, 0.0])


def test_visible_hidden_and_lonely_returns_have_colours_of_their_own(fleet: Path) -> None:
    dataset = Dataset(fleet)
    config = dataset.description.settings
    projected = project_row(dataset, 0, FrameAssembler(config), config)
    none = np.zeros(len(projected.returns), np.bool_)
    marks = {"visible": (~none, none), "hidden": (none, none), "lonely": (none, ~none)}
    for kind, (visible, lonely) in marks.items():
        view = dataclasses.replace(projected, returns=projected.returns.marked(visible, lonely))
        figure = next(each for each in figures_of(view) if each.title == "What became of the returns")
        assert figure.legend is not None
        for css, name in figure.legend.extra:
            colour = [int(css[at : at + 2], 16) for at in (1, 3, 5)]
            assert (figure.picture == colour).all(axis=-1).any() == (name == kind)
