"""Two networks compared: what is held out, what the numbers are, how sure they are, and when the gate opens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.config import ProjectionConfig
from mf_ros.core.types import ByteArray, CameraPoints, DepthEstimate, SparseDepth
from mf_ros.evaluation.bootstrap import Estimate, Groups, Resampling, groups_of, interval_text
from mf_ros.evaluation.compare import COLUMNS, ComparedFrame, InputResult, Results, Scorer
from mf_ros.evaluation.frames import EvaluationFrame
from mf_ros.evaluation.gate import judge
from mf_ros.evaluation.protocol import robot_cases

CAMERA = make_camera(160, 96, [120.0, 0, 79.5, 0, 120.0, 47.5, 0, 0, 1], [], "plumb_bob")


def wall_frame(
    stamp: int = 0, recording: str = "drive", wall_m: float = 8.0, rings: int = 32, with_rings: bool = True
) -> EvaluationFrame:
    """A wall that fills the image, scanned by ``rings`` lines, ring 0 on top."""
    y, x = np.meshgrid(np.linspace(-0.35, 0.35, rings), np.linspace(-0.6, 0.6, 150), indexing="ij")
    xyz = (np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) * wall_m).astype(np.float32)
    ring = np.repeat(np.arange(rings, dtype=np.int32), 150) if with_rings else None
    points = CameraPoints(xyz, ring, np.zeros(len(xyz), np.uint8))
    image = np.zeros((96, 160, 3), np.uint8)
    return EvaluationFrame(recording, str(stamp), image, CAMERA, points, rings if with_rings else 0)


class Says:
    """An engine that answers one depth everywhere, or that of its input's returns times a factor."""

    def __init__(self, depth_m: float = 0.0, factor: float = 0.0) -> None:
        self._depth_m, self._factor = depth_m, factor
        self.name = f"says-{depth_m:g}-{factor:g}"
        self.given: list[int] = []

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        self.given.append(sparse.count)
        returns = sparse.depth[sparse.depth > 0]
        value = self._depth_m or self._factor * (float(np.median(returns)) if len(returns) else 1.0)
        depth = np.full(sparse.depth.shape, value, np.float32)
        return DepthEstimate(depth, np.ones_like(depth), True, self.name)

    def describe(self) -> dict[str, str]:
        return {"method": "constant"}


def scored(tuned: Says, base: Says, frames: list[EvaluationFrame], **more: object) -> Results:
    scorer = Scorer({"tuned": tuned, "base": base}, ProjectionConfig(), **more)  # type: ignore[arg-type]
    for frame in frames:
        assert scorer.add(frame, robot_cases(frame))
    return scorer.results()


def test_as_deployed_every_fourth_scan_line_is_held_out_and_the_rest_shown() -> None:
    frame = wall_frame()
    assert frame.points is not None and frame.points.ring is not None
    cases = {case.input: case for case in robot_cases(frame)}
    assert list(cases) == ["deployed", "half", "quarter", "none"]
    deployed = cases["deployed"]
    assert set(frame.points.ring[deployed.shown.index] % 4) == {0, 1, 3}
    assert len(deployed.truth) == len(frame.points) // 4
    assert len(deployed.shown) + len(deployed.truth) == len(frame.points)


def test_thinned_inputs_show_half_and_a_quarter_of_the_lines_and_share_their_truth() -> None:
    frame = wall_frame()
    assert frame.points is not None and frame.points.ring is not None
    cases = {case.input: case for case in robot_cases(frame)}
    assert len(cases["half"].shown) == len(frame.points) // 2
    assert len(cases["quarter"].shown) == len(frame.points) // 4
    assert np.array_equal(cases["half"].rows, cases["quarter"].rows)


def test_the_image_alone_shows_nothing_and_is_judged_on_every_return() -> None:
    frame = wall_frame()
    assert frame.points is not None
    alone = robot_cases(frame)[-1]
    assert len(alone.shown) == 0 and len(alone.truth) == len(frame.points)


def test_without_scan_lines_whole_cells_of_directions_are_held_out() -> None:
    frame = wall_frame(rings=64, with_rings=False)
    assert frame.points is not None
    deployed = robot_cases(frame)[0]
    shown = np.zeros(len(frame.points), np.bool_)
    shown[deployed.shown.index] = True
    x, y, z = frame.points.points.T.astype(np.float64)
    elevation = np.degrees(np.arctan2(-y, np.hypot(x, z)))
    cells = np.stack([np.floor(np.degrees(np.arctan2(x, z)) / 1.5), np.floor(elevation / 1.5)])
    names, cell = np.unique(cells, axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    part_shown = np.bincount(cell, shown) / np.bincount(cell)
    assert set(part_shown) == {0.0, 1.0}, "no cell is shown in part"
    assert names.shape[1] > 500 and 0.2 < (part_shown == 0).mean() < 0.3
    assert len(deployed.truth) == int((~shown).sum())


def test_for_a_thinner_sensor_fewer_lines_are_shown_and_every_even_one_is_held_out() -> None:
    frame = wall_frame()
    assert frame.points is not None and frame.points.ring is not None
    deployed = robot_cases(frame, 8)[0]
    assert deployed.input == "deployed"
    assert set(frame.points.ring[deployed.shown.index] % 8) == {1}
    assert len(deployed.truth) == len(frame.points) // 2


def test_for_a_shorter_exposure_the_beginning_of_the_sweep_is_shown_and_its_second_half_held_out() -> None:
    frame = wall_frame(with_rings=False)
    assert frame.points is not None
    count = len(frame.points)
    cases = {case.input: case for case in robot_cases(frame, 8)}
    for name, stride in (("deployed", 8), ("half", 2), ("quarter", 4)):
        assert cases[name].shown.index.max() < count / stride <= cases[name].shown.index.max() + 1
        assert len(cases[name].truth) == count - count // 2


def test_a_frame_without_returns_has_no_case() -> None:
    behind = wall_frame(wall_m=-8.0)
    assert robot_cases(behind) == []


def test_errors_changes_and_ranges_by_hand() -> None:
    """A wall at 8 m: one network says 10 m, the tuned one 9 m; another wall at 16 m, 20 m and 18 m."""
    near = scored(Says(9.0), Says(10.0), [wall_frame()]).input("deployed")
    assert near is not None
    tuned, base = near.methods["tuned"], near.methods["base"]
    assert tuned["mae"].value == pytest.approx(1.0) and base["mae"].value == pytest.approx(2.0)
    assert tuned["rmse"].value == pytest.approx(1.0) and base["absrel"].value == pytest.approx(0.25)
    assert near.change["mae"].value == pytest.approx(-0.5)
    assert tuned["mae_5_10"].value == pytest.approx(1.0) and near.frames_by_column["mae_5_10"] == 1
    assert math.isnan(tuned["mae_10_20"].value) and near.frames_by_column["mae_10_20"] == 0
    frames = [wall_frame(0, wall_m=8.0), wall_frame(1, wall_m=16.0)]
    both = scored(Says(factor=1.125), Says(factor=1.25), frames).input("half")
    assert both is not None and both.frames == 2
    assert both.methods["tuned"]["mae"].value == pytest.approx((1.0 + 2.0) / 2)
    assert both.methods["tuned"]["mae_10_20"].value == pytest.approx(2.0)
    assert both.change["mae_5_10"].value == pytest.approx(-0.5)


def test_depth_without_returns_is_scaled_before_it_is_judged() -> None:
    alone = scored(Says(3.0), Says(100.0), [wall_frame()]).input("none")
    assert alone is not None and set(alone.methods) == {"tuned", "base"}
    assert alone.methods["tuned"]["absrel"].value == pytest.approx(0.0, abs=1e-6)
    assert "mae" not in alone.change, "depth without scale has no error in metres"


def test_simple_methods_and_other_engines_stand_beside_the_networks() -> None:
    found = scored(Says(9.0), Says(10.0), [wall_frame()], beside=[Says(8.0)], baselines=["nearest"]).input("deployed")
    assert found is not None and list(found.methods) == ["tuned", "base", "says-8-0", "nearest+cull"]
    assert found.methods["nearest+cull"]["mae"].value == pytest.approx(0.0, abs=1e-4)


def test_each_input_shows_fewer_returns_than_the_one_before() -> None:
    tuned = Says(9.0)
    scored(tuned, Says(10.0), [wall_frame()])
    deployed, half, quarter, none = tuned.given
    assert deployed > half > quarter > none == 0


def test_the_hook_is_told_what_both_networks_made_of_the_deployed_input() -> None:
    seen: list[ComparedFrame] = []
    scored(Says(9.0), Says(10.0), [wall_frame(7)], hook=seen.append)
    assert len(seen) == 1 and seen[0].case.input == "deployed"
    assert seen[0].mae == pytest.approx({"tuned": 1.0, "base": 2.0}) and seen[0].change_m == pytest.approx(-1.0)


def frames_of(recordings: int, each: int) -> list[tuple[str, int]]:
    return [(f"drive{number}", stamp) for number in range(recordings) for stamp in range(each)]


def test_five_recordings_are_drawn_whole_and_fewer_in_blocks_of_time() -> None:
    whole = groups_of(frames_of(5, 3))
    assert (whole.kind, whole.count) == ("recordings", 5)
    assert len({whole.of["drive0", stamp] for stamp in range(3)}) == 1
    blocks = groups_of(frames_of(2, 10))
    assert (blocks.kind, blocks.count) == ("blocks of time", 10)
    assert [blocks.of["drive1", stamp] for stamp in range(10)] == [5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    assert "fewer than 5 recordings" in interval_text(blocks)
    assert groups_of(frames_of(1, 3)).count == 3
    assert interval_text(groups_of(frames_of(1, 3))) == "no intervals: 3 blocks of time are too few"


def test_means_are_those_of_the_frames_and_intervals_hold_them() -> None:
    frames = frames_of(6, 4)
    values = np.random.default_rng(0).uniform(1, 2, (24, 1)) + np.repeat(np.arange(6.0), 4)[:, None]
    (found,) = Resampling(groups_of(frames)).mean(frames, values)
    assert found.value == pytest.approx(values.mean())
    # Recordings differ by 1.7 (standard deviation of 0 to 5): the mean of six is known to about 2 * 1.7 / sqrt(6).
    assert found.low < found.value < found.high and 1.8 < found.high - found.low < 3.2
    again = Resampling(groups_of(frames)).mean(frames, values)
    assert again == [found], "the same draws every time"


def test_frames_that_are_alike_within_a_recording_make_wide_intervals() -> None:
    frames = frames_of(6, 20)
    values = np.repeat(np.arange(6.0), 20)[:, None]
    (clustered,) = Resampling(groups_of(frames)).mean(frames, values)
    single = Groups("frames", len(frames), {frame: place for place, frame in enumerate(frames)})
    (naive,) = Resampling(single).mean(frames, values)
    assert clustered.high - clustered.low > 3 * (naive.high - naive.low)


def test_differences_are_paired_so_that_hard_recordings_cancel() -> None:
    frames = frames_of(6, 4)
    base = np.random.default_rng(1).uniform(0.1, 10, (24, 1))
    (change,) = Resampling(groups_of(frames)).change(frames, 0.9 * base, base)
    assert (change.value, change.low, change.high) == pytest.approx((-0.1, -0.1, -0.1))


def test_what_is_known_of_too_few_groups_has_no_interval() -> None:
    frames = frames_of(6, 2)
    values = np.ones((12, 2))
    values[:8, 1] = np.nan
    full, part = Resampling(groups_of(frames)).mean(frames, values)
    assert full.low == 1.0 and part.value == 1.0 and math.isnan(part.low)
    (empty,) = Resampling(groups_of(frames)).mean(frames, np.full((12, 1), np.nan))
    assert math.isnan(empty.value)


def test_nothing_has_not_changed() -> None:
    frames = frames_of(6, 1)
    (change,) = Resampling(groups_of(frames)).change(frames, np.zeros((6, 1)), np.zeros((6, 1)))
    assert change.value == 0.0


def results_of(mae: Estimate, free: float) -> Results:
    """Results whose changes are these; the values behind them are of no account."""
    one = {column: Estimate(1.0) for column in COLUMNS}
    methods = {"tuned": one, "base": one}
    deployed = InputResult("deployed", 9, {}, methods, {"mae": mae, "absrel": Estimate(free)})
    alone = InputResult("none", 9, {}, methods, {"absrel": Estimate(free)})
    return Results((deployed, alone), "", 9, 1)


@pytest.mark.parametrize(
    ("mae", "free", "canary", "failed"),
    [
        (-0.05, -0.01, 0.0, []),
        (-0.05, 0.019, 0.019, []),
        (-0.05, 0.021, 0.0, ["image alone"]),
        (-0.05, 0.0, 0.021, ["procedural scenes"]),
        (0.0, 0.0, 0.0, ["held-out returns"]),
        (0.01, 0.5, 0.5, ["held-out returns", "image alone", "procedural scenes"]),
        (math.nan, math.nan, math.inf, ["held-out returns", "image alone", "procedural scenes"]),
    ],
)
def test_the_gate_wants_better_depth_and_nothing_forgotten(
    mae: float, free: float, canary: float, failed: list[str]
) -> None:
    verdict = judge(results_of(Estimate(mae), free), results_of(Estimate(canary), 0.0))
    assert [check.name for check in verdict.checks if check.passed is False] == failed
    assert verdict.passed == (not failed)


def test_on_procedural_scenes_absrel_is_said_beside_the_error_that_decides() -> None:
    check = judge(results_of(Estimate(-0.05), 0.0), results_of(Estimate(0.01), 0.3)).checks[2]
    assert check.passed
    assert check.text.startswith("The MAE on the procedural scenes rises by 1.0%")
    assert "AbsRel rises by 30.0%" in check.text


def test_the_gate_says_when_a_gain_may_be_chance_but_lets_it_pass() -> None:
    verdict = judge(results_of(Estimate(-0.01, -0.03, 0.01), 0.0), None)
    assert verdict.passed
    assert "falls by 1.0% (-3.0% to +1.0%)" in verdict.checks[0].text
    assert "the interval includes 0" in verdict.checks[0].text
    sure = judge(results_of(Estimate(-0.02, -0.03, -0.01), 0.0), None)
    assert "chance" not in sure.checks[0].text


def test_what_was_left_out_is_said_and_fails_nothing() -> None:
    check = judge(results_of(Estimate(-0.01), 0.0), None).checks[2]
    assert check.passed is None and "was not measured" in check.text


def test_another_tolerance_moves_the_limit() -> None:
    results = results_of(Estimate(-0.1), 0.03)
    assert not judge(results, None).passed and judge(results, None, tolerance=0.05).passed


def test_an_engine_that_gives_no_depth_is_charged_for_it() -> None:
    class Silent(Says):
        def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
            made = super().estimate(image, sparse, camera)
            return dataclasses.replace(made, depth=np.full_like(made.depth, np.nan))

    found = scored(Silent(1.0), Says(9.0), [wall_frame()]).input("deployed")
    assert found is not None and found.methods["tuned"]["mae"].value == pytest.approx(8.0)
