"""Earlier frames help where they are right, and are forgotten where they are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from temporal_scene import BOXES, CAMERA, FRAME_NS, OTHER_BOXES, error, estimates, flicker, pose_at, shot

from mf_ros.core.camera import make_camera
from mf_ros.core.conditioning import condition
from mf_ros.core.config import TemporalConfig
from mf_ros.core.temporal import CarriedReturns, PresentView, at_own_level, remembered, supported, surviving
from mf_ros.core.types import CameraFrame
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.temporal import TemporalReuse, camera_pose
from mf_ros.errors import MessageError

ON = TemporalConfig(enabled=True)


@pytest.fixture(scope="module")
def drive():
    return [shot(number) for number in range(14)]


@pytest.fixture(scope="module")
def alone(drive):
    return estimates(drive, None)


def same(one, other) -> bool:
    return np.array_equal(one.depth, other.depth) and np.array_equal(one.confidence, other.confidence)


def test_on_a_moving_camera_reuse_lowers_error_and_flicker(drive, alone):
    made = estimates(drive, TemporalReuse(ON))
    errors = [np.mean([error(e, s) for e, s in zip(each, drive, strict=True)][4:]) for each in (alone, made)]
    assert errors[1] < 0.95 * errors[0]
    assert flicker(made[4:], drive[4:]) < 0.8 * flicker(alone[4:], drive[4:])


def test_each_half_of_it_helps_on_its_own(drive, alone):
    returns_only = estimates(drive, TemporalReuse(replace(ON, smoothing=0.0)))
    depth_only = estimates(drive, TemporalReuse(replace(ON, max_age_s=0.0)))
    assert np.mean([error(e, s) for e, s in zip(returns_only, drive, strict=True)]) < np.mean(
        [error(e, s) for e, s in zip(alone, drive, strict=True)]
    )
    assert flicker(depth_only, drive) < 0.95 * flicker(alone, drive)


def test_the_same_frames_give_the_same_depth(drive):
    first, second = (estimates(drive[:4], TemporalReuse(ON)) for _ in range(2))
    assert all(same(one, other) for one, other in zip(first, second, strict=True))


def test_switched_off_nothing_is_reused(drive, alone):
    made = estimates(drive[:3], TemporalReuse(TemporalConfig()))
    assert all(same(one, other) for one, other in zip(made, alone, strict=False))


def test_without_a_pose_nothing_is_reused(drive, alone):
    made = estimates(drive[:4], TemporalReuse(ON), [None] * 4)
    assert all(same(one, other) for one, other in zip(made, alone, strict=False))


def test_one_image_without_a_pose_does_without_memory_and_does_not_end_it(drive, alone):
    poses = [each.pose for each in drive[:4]]
    poses[2] = None
    made = estimates(drive[:4], TemporalReuse(ON), poses)
    assert same(made[2], alone[2]) and not same(made[3], alone[3])


def gap(each):
    return replace(each, frame=replace(each.frame, stamp_ns=each.frame.stamp_ns + 6 * FRAME_NS))


def back(each):
    return replace(each, frame=replace(each.frame, stamp_ns=1_000_000_000))


def elsewhere(each):
    pose = each.pose.copy()
    pose[:3, 3] += 20.0
    return replace(each, pose=pose)


def turned(each):
    return replace(each, pose=np.diag([-1.0, 1.0, -1.0, 1.0]))


def other_camera(each):
    camera = make_camera(320, 192, [224.0, 0, 159.5, 0, 224.0, 95.5, 0, 0, 1], [], "plumb_bob")
    return replace(each, frame=replace(each.frame, camera=camera))


@pytest.mark.parametrize("jump", [gap, back, elsewhere, turned, other_camera])
def test_after_a_jump_depth_is_bit_for_bit_what_it_is_without_memory(drive, alone, jump):
    reuse = TemporalReuse(ON)
    estimates(drive[:4], reuse)
    (made,) = estimates([jump(drive[4])], reuse)
    assert same(made, alone[4])


def test_reset_forgets(drive, alone):
    reuse = TemporalReuse(ON)
    estimates(drive[:4], reuse)
    reuse.reset()
    assert same(estimates(drive[4:5], reuse)[0], alone[4])


def test_a_cut_to_another_scene_that_nothing_announces_leaves_nothing_behind(drive):
    after = [shot(number, OTHER_BOXES, seed=3, back_m=12.0) for number in range(4, 8)]
    reuse = TemporalReuse(ON)
    estimates(drive[:4], reuse)
    made = estimates(after, reuse)
    assert same(made[0], estimates(after[:1], None)[0])
    assert all(same(one, other) for one, other in zip(made, estimates(after, TemporalReuse(ON)), strict=True))


def with_passing_box(number):
    return (*BOXES[:1], ((-1.5 + 0.35 * number, 0.6, 6.0), (1.2, 1.8, 0.8)), *BOXES[2:])


def left_behind(number, each):
    """Pixels where the passing box was in the last three frames and is no more."""
    return np.any([shot(number, with_passing_box(number - age)).truth < 0.8 * each.truth for age in (1, 2, 3)], axis=0)


@pytest.mark.parametrize("speed", [1, 2])
def test_returns_of_a_thing_that_has_left_are_forgotten(speed):
    for number in range(3, 9):
        old, new = (shot(n, with_passing_box(speed * n)) for n in (number - 1, number))
        survivors = carried_to(new, old)
        nearer = survivors.returns.points[:, 2] / new.truth.reshape(-1)[survivors.pixel] < 0.9
        assert len(survivors.pixel) > 200 and nearer.mean() < 0.01


def test_a_thing_that_moves_leaves_no_ghost():
    shots = [shot(number, with_passing_box(number)) for number in range(10)]
    made, plain = estimates(shots, TemporalReuse(ON)), estimates(shots, None)
    left = [left_behind(number, each) for number, each in enumerate(shots)]
    # Without memory a seventh of it or more is too near already, where the box's edges run between the lines.
    ghosts = [
        np.mean([np.mean((e.depth / s.truth)[where] < 0.7) for e, s, where in zip(some, shots, left, strict=True)][3:])
        for some in (made, plain)
    ]
    assert ghosts[0] <= ghosts[1] + 0.03


@pytest.mark.parametrize("step", ["stands still", "drifts", "turns too far"])
def test_odometry_that_is_a_little_wrong_does_no_harm(drive, alone, step):
    poses = []
    for number, each in enumerate(drive):
        pose = each.pose.copy()
        if step == "stands still":
            pose = pose_at(0)
        elif step == "drifts":
            pose[2, 3] *= 1.1
        else:
            angle = np.radians(0.1 * number)
            turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
            pose[:3, :3] = turn
        poses.append(pose)
    made = estimates(drive, TemporalReuse(ON), poses)
    errors = [np.mean([error(e, s) for e, s in zip(each, drive, strict=True)]) for each in (alone, made)]
    # Odometry that stands still while the robot drives is as wrong as it can be without a jump.
    assert errors[1] <= (1.07 if step == "stands still" else 1.02) * errors[0]


def test_a_camera_that_stands_still_sees_no_worse_and_steadier():
    still = [shot(0) for _ in range(6)]
    still = [
        replace(each, frame=replace(each.frame, stamp_ns=each.frame.stamp_ns + k * FRAME_NS))
        for k, each in enumerate(still)
    ]
    rng = np.random.default_rng(0)
    noisy = [
        replace(e, sparse=replace(e.sparse, depth=e.sparse.depth * rng.normal(1, 0.01, e.truth.shape).astype("f4")))
        for e in still
    ]
    made, plain = estimates(noisy, TemporalReuse(ON)), estimates(noisy, None)
    assert error(made[-1], noisy[-1]) <= 1.01 * error(plain[-1], noisy[-1])
    assert flicker(made[2:], noisy[2:]) < 0.8 * flicker(plain[2:], noisy[2:])


def test_an_engine_that_fails_leaves_no_half_made_memory(drive, alone):
    class Fails(ClassicalEngine):
        def estimate(self, image, sparse, camera):
            raise MessageError("no")

    reuse = TemporalReuse(ON)
    estimates(drive[:3], reuse)
    with pytest.raises(MessageError):
        reuse.estimate(Fails(), drive[3].frame, drive[3].sparse, drive[3].pose)
    assert same(estimates(drive[4:5], reuse)[0], alone[4])


def carried_to(second, first, max_age_s=2.0, elapsed_s=0.1):
    view = PresentView.of(first.frame.image, first.sparse.depth)
    nothing = surviving(CarriedReturns.none(), view, CAMERA, max_age_s)
    kept = remembered(nothing, view, first.sparse.depth, CAMERA)
    moved = kept.moved(np.linalg.inv(second.pose) @ first.pose, elapsed_s)
    return surviving(moved, PresentView.of(second.frame.image, second.sparse.depth), CAMERA, max_age_s)


def test_carried_returns_lie_on_the_true_surfaces(drive):
    survivors = carried_to(drive[3], drive[0])
    assert len(survivors.pixel) > 100
    wrong = np.abs(np.log(survivors.returns.points[:, 2] / drive[3].truth.reshape(-1)[survivors.pixel]))
    # Two thirds of the pixels at 15 m are 0.2 m of road deep, and a few returns lie on edges.
    assert np.median(wrong) < 0.01 and np.percentile(wrong, 95) < 0.1


def test_carried_returns_enter_at_a_level_that_grows_with_their_age(drive):
    young, old = (
        supported(drive[3].sparse, carried_to(drive[3], drive[0], elapsed_s=elapsed_s)) for elapsed_s in (0.1, 1.5)
    )
    assert young.level is not None and old.level is not None
    own = drive[3].sparse.depth > 0
    assert np.all(young.level[own] == 0) and np.array_equal(young.depth[own], drive[3].sparse.depth[own])
    assert np.all(young.level[young.depth == 0] == 1)
    added = (young.depth > 0) & ~own
    assert added.any() and np.all((young.level[added] > 0) & (young.level[added] < old.level[added]))
    assert young.count == np.count_nonzero(young.depth)


def test_returns_beyond_the_age_limit_are_forgotten(drive):
    assert len(carried_to(drive[3], drive[0], elapsed_s=2.5).pixel) == 0


def test_a_network_is_told_the_level_and_the_value_that_goes_with_it(drive):
    sparse = supported(drive[3].sparse, carried_to(drive[3], drive[0]))
    plain = condition(sparse.depth)
    made = at_own_level(plain, sparse.level)
    assert np.array_equal(made.level, sparse.level)
    np.testing.assert_allclose(made.depth, plain.depth * (1 - sparse.level), atol=1e-6)
    assert at_own_level(plain, None) is plain


def test_on_a_coarser_grid_a_cell_has_the_level_of_the_return_it_shows(drive):
    sparse = supported(drive[3].sparse, carried_to(drive[3], drive[0]))
    plain = condition(sparse.depth, step=2)
    made = at_own_level(plain, sparse.level)
    for row, col in np.argwhere(plain.level == 0):
        block = np.s_[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
        depth = np.where(sparse.depth[block] > 0, sparse.depth[block], np.inf)
        assert made.level[row, col] == sparse.level[block].reshape(-1)[depth.argmin()]


def test_filling_up_stops_before_returns_get_so_dense_that_they_cost_more(drive):
    survivors = carried_to(drive[3], drive[0])
    thin = replace(drive[3].sparse, depth=np.zeros_like(drive[3].sparse.depth), count=0)
    assert supported(thin, survivors).count <= drive[3].truth.size / 36


def test_an_unknown_fixed_frame_is_no_pose(drive):
    from mf_ros.core.transforms import TransformTree

    assert camera_pose(TransformTree(), CameraFrame(drive[0].frame.image, CAMERA, 0, "camera"), "odom") is None
