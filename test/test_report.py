"""The report of a replay: what a reader finds in it, and that nothing in it reaches out of the file."""

from __future__ import annotations

import base64
import dataclasses
import signal
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pytest
from replayed import record, run
from wall_scene import MedianEngine

from mf_ros.bags import report_pictures as pictures
from mf_ros.bags.report import MAX_BYTES, REPORT_NAME, render_report, write_report
from mf_ros.bags.report_texts import ADVICE, STAGES
from mf_ros.bags.samples import ReplayReport, Sample
from mf_ros.core import matching
from mf_ros.core.camera import make_camera
from mf_ros.core.config import CloudConfig, Config, SyncConfig
from mf_ros.core.types import DepthEstimate
from mf_ros.engine import reasons
from mf_ros.errors import BagError

WIDTH, HEIGHT = 96, 48
CAMERA = make_camera(WIDTH, HEIGHT, [80.0, 0, 47.5, 0, 80.0, 23.5, 0, 0, 1], [], "plumb_bob")
VOID = {"meta", "img", "br", "link", "rect", "hr", "input"}


def sample(number: int = 0, **changes: Any) -> Sample:
    """A wall at 10 m behind a post at 4 m, returns on every fourth row, errors of +0.1 m but one of -3 m."""
    depth = np.full((HEIGHT, WIDTH), 10.0, np.float32)
    depth[:, 40:50] = 4.0
    sparse = np.zeros_like(depth)
    sparse[::4, ::2] = depth[::4, ::2]
    error = np.full(50, 0.1, np.float32)
    error[7] = -3.0
    values = {
        "number": number,
        "stamp_ns": 10**18 + number * 10**8,
        "image": np.full((HEIGHT, WIDTH, 3), 128, np.uint8),
        "sparse": sparse,
        "depth": depth,
        "confidence": np.ones_like(depth),
        "error_uv": np.stack([np.arange(50), np.full(50, 20)], axis=1).astype(np.float32),
        "error_m": error,
        "truth_m": np.full(50, 10.0, np.float32),
        "metrics": {"mae": 0.158, "rmse": 0.44, "median": 0.1},
        "timings_ms": {"total": 12.0},
        "camera_size": (WIDTH, HEIGHT),
        "camera": CAMERA,
        "returns": int((sparse > 0).sum()),
        "hidden": 3,
    }
    return Sample(**{**values, **changes})


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> ReplayReport:
    folder = tmp_path_factory.mktemp("replayed")
    return run(record(folder / "in.mcap"), folder / "out", accuracy_every=1)


def with_summary(report: ReplayReport, **changes: Any) -> ReplayReport:
    return dataclasses.replace(report, summary={**report.summary, **changes})


class Page(HTMLParser):
    """Text, tags with attributes, and whether every tag is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def images(self) -> list[np.ndarray]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                data = base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,"), validate=True)
                found.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        return found


def test_the_report_of_a_real_run_says_how_it_went(replayed):
    page = Page(render_report(replayed))
    assert page.open == []
    assert "6 of 6 images became depth (engine median); on even rings held out, 6 frames scored: MAE" in page.text
    assert "real-time factor" in page.text
    assert "/camera/image_raw (Image rgb8)" in page.text
    assert "64 x 48 px, frame camera_optical" in page.text and "none (pinhole)" in page.text
    assert "960 points in the first sweep, 16 rings, without times per point, frame lidar_0" in page.text
    assert "not possible: the points have no times" in page.text
    assert "fixed frame camera_optical" in page.text
    assert "All settings are at their defaults." in page.text
    # Six pictures for each of the five frames that are shown.
    assert len(page.images()) == 30


def test_nothing_is_loaded_and_nothing_runs(replayed):
    html = render_report(replayed)
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert "http://" not in html and "https://" not in html and "url(" not in html and "@import" not in html


def test_names_from_a_recording_are_text_and_never_markup(replayed):
    evil = '"><script>alert(1)</script>{{ 7 * 7 }}'
    topics = {**replayed.summary["topics"], "image": evil, "points": [evil]}
    changed = with_summary(
        replayed,
        recording=evil,
        topics=topics,
        damage=evil,
        dropped={evil: 1},
        dropped_messages={evil: evil},
        warnings={"not_copied": 2},
        warning_messages={"not_copied": evil},
        engine_details={evil: evil},
        messages_written={evil: 1},
    )
    page = Page(render_report(changed))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert(1)</script>{{ 7 * 7 }}") >= 8


def test_drops_and_warnings_come_with_their_number_and_what_to_do(replayed):
    changed = with_summary(
        replayed,
        frames_in=10,
        dropped={"no_lidar": 4},
        dropped_messages={"no_lidar": "No sweep within reach."},
        warnings={"not_deskewed": 2},
        warning_messages={"not_deskewed": "The motion is not known."},
    )
    text = Page(render_report(changed)).text
    assert "no_lidar 4 (40%) No sweep within reach. Compare the clocks" in text
    assert "not_deskewed 2 The motion is not known. Record /tf" in text


def test_every_reason_and_every_stage_is_explained(replayed):
    for module in (reasons, matching):
        names = {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
        assert names and names <= set(ADVICE)
    assert set(replayed.summary["latency_ms"]["stages"]) <= set(STAGES)


def test_it_says_that_held_out_rings_are_interpolation_and_how_many_frames_were_scored(replayed):
    text = Page(render_report(replayed)).text
    assert "Scored: 6 frames, on even rings" in text
    assert "interpolation over one missing ring" in text


def test_random_points_are_called_easier_than_rings(tmp_path):
    report = run(record(tmp_path / "in.mcap", frames=1, rings=False), tmp_path / "out", accuracy_every=1)
    text = Page(render_report(report)).text
    assert "Scored: 1 frame, on a random half of the returns" in text
    assert "easier than over missing rings" in text


def test_without_scores_it_claims_no_accuracy(tmp_path):
    report = run(record(tmp_path / "in.mcap", frames=2), tmp_path / "out", accuracy_every=0)
    page = Page(render_report(report))
    assert "accuracy was not measured" in page.text and "MAE" not in page.text
    assert "Error on held-out returns" not in page.text


def test_a_run_without_a_single_frame_says_why(tmp_path):
    config = Config(sync=SyncConfig(lidar_offset_s=(5.0,)))
    report = run(record(tmp_path / "in.mcap", frames=2), tmp_path / "out", config=config)
    page = Page(render_report(report))
    assert "No depth: 0 of 2 images became depth (engine median), most were dropped for no_lidar." in page.text
    assert "sync.lidar_offset_s (5.0,)" in page.text or "sync.lidar_offset_s [5.0]" in page.text
    assert page.images() == []


class Interrupting(MedianEngine):
    def estimate(self, *args: Any) -> Any:
        if self.calls == 3:
            signal.raise_signal(signal.SIGINT)
        return super().estimate(*args)


def test_an_interrupted_run_has_a_report_that_says_so(tmp_path):
    bag = record(tmp_path / "in.mcap", frames=20)
    report = run(bag, tmp_path / "out", Interrupting(), accuracy_every=0)
    path = write_report(report, tmp_path / "out")
    assert path == tmp_path / "out" / REPORT_NAME
    text = Page(path.read_text(encoding="utf-8")).text
    assert "The run was interrupted" in text and "4 of" in text
    assert sorted(each.name for each in path.parent.iterdir()) == ["out.mcap", "report.html", "summary.json"]


def test_a_new_run_does_not_keep_the_report_of_the_last(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / REPORT_NAME).write_text("of the last run")
    run(record(tmp_path / "in.mcap", frames=1), tmp_path / "out")
    assert not (tmp_path / "out" / REPORT_NAME).exists()


def test_a_folder_that_is_gone_is_one_clear_error(replayed, tmp_path):
    with pytest.raises(BagError, match=r"report\.html cannot be written: No such file"):
        write_report(replayed, tmp_path / "gone")


def test_the_file_stays_small_whatever_the_pictures_hold(replayed):
    noise = np.random.default_rng(0)
    height, width = 720, 960
    camera = CAMERA.resized(width, height)

    def noisy(number: int) -> Sample:
        depth = noise.uniform(1, 80, (height, width)).astype(np.float32)
        colours = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        confidence = noise.random((height, width), dtype=np.float32)
        return sample(number, image=colours, sparse=depth, depth=depth, confidence=confidence, camera=camera)

    html = render_report(dataclasses.replace(replayed, samples=(noisy(0), noisy(1), noisy(2))))
    assert len(html.encode()) < MAX_BYTES + 100_000  # the rest of the page
    assert len(Page(html).images()) >= 6


def test_settings_that_were_changed_stand_out(tmp_path):
    config = Config(cloud=CloudConfig(voxel_m=0.25))
    text = Page(render_report(run(record(tmp_path / "in.mcap", frames=1), tmp_path / "out", config=config))).text
    assert "cloud.voxel_m 0.25 0.0" in text


def test_errors_by_distance_count_missing_estimates_in_full(replayed):
    error = np.array([0.5, -0.5, np.nan, 1.0], np.float32)
    truth = np.array([6.0, 6.0, 8.0, 30.0], np.float32)
    scored = sample(error_uv=np.zeros((4, 2), np.float32), error_m=error, truth_m=truth)
    page = Page(render_report(dataclasses.replace(replayed, samples=(scored,))))
    # 5 to 10 m: errors 0.5, 0.5 and the full 8 m; the bias is over estimates only.
    assert "5 to 10 m 3 0.500 3.000 +0.000" in page.text
    assert "20 to 40 m 1 1.000 1.000 +1.000" in page.text
    assert "no estimate" in page.text


def test_depth_colours_are_equal_for_equal_depth_in_all_pictures():
    scene = sample()
    scales = pictures.scales_of([scene])
    dense = pictures.depth_picture(scene.depth, scales)
    dots = pictures.lidar_picture(scene, scales)
    np.testing.assert_array_equal(dots[4, 44], dense[4, 44])
    np.testing.assert_array_equal(dots[4, 10], dense[4, 10])
    assert (dense[0, 0] != dense[0, 45]).any()


def test_the_legend_spans_the_returns_and_ignores_what_was_extrapolated():
    sky = sample()
    sky.depth[:10] = 5000.0
    scales = pictures.scales_of([sky])
    assert (scales.near_m, scales.far_m) == (2.0, 10.0)
    legend = pictures.depth_legend(scales, [sky.depth])
    assert [tick.label for tick in legend.ticks] == ["2", "5", "10+"]
    assert legend.ticks[0].percent == pytest.approx(0) and legend.ticks[-1].percent == pytest.approx(100)


def test_unknown_depth_and_depth_beyond_range_have_their_own_colours():
    scene = sample()
    scene.depth[0, 0], scene.depth[0, 1] = np.nan, np.inf
    scales = pictures.scales_of([scene])
    picture = pictures.depth_picture(scene.depth, scales)
    assert len({tuple(picture[0, column]) for column in (0, 1, 2)}) == 3
    assert [meaning for _, meaning in pictures.depth_legend(scales, [scene.depth]).extra] == ["none", "beyond range"]


@dataclass
class DoubtingEngine(MedianEngine):
    """The median, said to be right within a Laplace scale of 20%, or of 1% in the upper half."""

    def estimate(self, *args: Any) -> DepthEstimate:
        made = super().estimate(*args)
        log_scale = np.full_like(made.depth, np.log(0.2))
        log_scale[: len(log_scale) // 2] = np.log(0.01)
        return dataclasses.replace(made, log_scale=log_scale)


def test_an_engine_that_states_its_uncertainty_has_a_picture_of_it_instead_of_its_confidence(tmp_path):
    report = run(record(tmp_path / "in.mcap"), tmp_path / "out", DoubtingEngine(), accuracy_every=1)
    page = Page(render_report(report))
    # The wall is flat and its median is right, so even the narrow interval holds it.
    assert "Uncertainty b, over the pixels with depth: mean 10.5%, median 10.5%." in page.text
    assert "Of the held-out returns 100% lie within its 50% interval and 100% within its 90% interval." in page.text
    assert "in 50% 100.0 %" in page.text
    assert report.summary["accuracy"]["coverage50"] == 1.0
    assert len(page.images()) == 30 and "Confidence" not in page.text
    legends = [figure["alt"] for tag, figure in page.tags if tag == "img"]
    assert sum(text.startswith("Uncertainty, Frame") for text in legends) == 5


def test_without_scores_it_states_uncertainty_and_claims_no_coverage(tmp_path):
    report = run(record(tmp_path / "in.mcap", frames=2), tmp_path / "out", DoubtingEngine(), accuracy_every=0)
    text = Page(render_report(report)).text
    assert "Uncertainty b, over the pixels with depth: mean 10.5%" in text and "interval" not in text


def test_uncertain_pixels_are_brighter_and_pixels_without_depth_are_grey():
    doubt = np.full((HEIGHT, WIDTH), 0.01, np.float32)
    doubt[:, 48:] = 0.3
    scene = sample(uncertainty=doubt)
    scene.depth[0] = np.nan
    picture = pictures.uncertainty_picture(scene).astype(int)
    assert picture[5, 90].sum() > picture[5, 10].sum() + 100
    assert (picture[0] == picture[0, 0]).all() and len(set(picture[0, 0] // 10)) == 1
    legend = pictures.uncertainty_legend([scene])
    assert [tick.label for tick in legend.ticks] == ["0.5", "1", "2", "5", "10", "20", "50+"]
    assert legend.unit == "%" and [meaning for _, meaning in legend.extra] == ["no depth"]


def test_the_worst_error_is_not_hidden_by_its_neighbours():
    scene = sample()
    picture = pictures.error_picture(scene, pictures.scales_of([scene])).astype(int)
    too_near, too_far = picture[20, 7], picture[20, 30]  # by 3 m and by 0.1 m
    assert too_near[2] > too_near[0] + 100
    assert too_far[0] > too_far[2]


def test_points_of_the_cloud_lie_where_the_grid_of_the_top_view_says():
    scene = sample(sparse=np.zeros((HEIGHT, WIDTH), np.float32))
    scales = pictures.Scales(near_m=1, far_m=20, error_m=1, view_m=20)
    views = pictures.cloud_views(scene, scales, CloudConfig(edge_ratio=0.0))
    assert views is not None and views.left_out == 0
    columns = np.flatnonzero((views.top == 128).all(axis=2).any(axis=0))
    # The post at 4 m and the wall at 10 m, drawn as dots of three pixels; 95 pixels are 20 m.
    assert {round(4 / 20 * 95), round(10 / 20 * 95)} <= set(columns)
    assert all(min(abs(column - 19), abs(column - 47.5)) <= 2 for column in columns)


def test_what_the_views_of_the_cloud_leave_out_is_counted(replayed):
    scene = sample()
    scene.confidence[: HEIGHT // 4] = 0.01
    views = pictures.cloud_views(scene, pictures.scales_of([scene]), CloudConfig(edge_ratio=0.0))
    assert views is not None and views.left_out == pytest.approx(0.25)
    config = {"cloud": {"edge_ratio": 0.0}}
    text = Page(render_report(ReplayReport({**replayed.summary, "config": config}, (scene,)))).text
    assert "cloud.* leaves out 25% of the pixels with depth." in text


def test_portrait_images_stand_three_in_a_row(replayed):
    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.swapaxes(array, 0, 1))

    scene = sample()
    arrays = {name: turned(getattr(scene, name)) for name in ("image", "sparse", "depth", "confidence")}
    tall = sample(**arrays, camera=None)
    html = render_report(dataclasses.replace(replayed, samples=(tall,)))
    assert "--columns: 3" in html
    assert [picture.shape[:2] for picture in Page(html).images()] == [(WIDTH, HEIGHT)] * 4  # no views without a camera
