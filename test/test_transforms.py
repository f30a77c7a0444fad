"""The transform tree: static once, dynamic interpolated, never extrapolated, never identity for what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core.rigid import invert, make_transform, quaternion_of
from mf_ros.core.transforms import StampedTransform, TransformTree
from mf_ros.errors import MessageError, TransformError

pt = pytest.importorskip("pytransform3d.transformations")
pr = pytest.importorskip("pytransform3d.rotations")
managers = pytest.importorskip("pytransform3d.transform_manager")

SECOND = 1_000_000_000
EYE = np.eye(4)


def random_pose(rng: np.random.Generator) -> np.ndarray:
    return make_transform(rng.normal(size=3) * 5, rng.normal(size=4))


def stamped(parent: str, child: str, T: np.ndarray = EYE, stamp_ns: int = 0) -> StampedTransform:
    return StampedTransform(parent, child, stamp_ns, T)


def moving_along_x(*stamps_s: float) -> TransformTree:
    """A tree whose base is at x = t metres in odom, known at the given seconds."""
    tree = TransformTree()
    for t in stamps_s:
        tree.add(stamped("odom", "base", make_transform((t, 0, 0), (0, 0, 0, 1)), round(t * SECOND)), static=False)
    return tree


def test_static_chain_agrees_with_pytransform3d_in_every_direction() -> None:
    rng = np.random.default_rng(1)
    edges = [("base", "mast"), ("mast", "camera"), ("base", "lidar"), ("lidar", "lidar_optical")]
    tree, oracle = TransformTree(), managers.TransformManager()
    for parent, child in edges:
        T = random_pose(rng)
        tree.add(stamped(parent, child, T), static=True)
        oracle.add_transform(child, parent, T)
    for target in tree.frames():
        for source in tree.frames():
            np.testing.assert_allclose(
                tree.lookup(target, source, 123), oracle.get_transform(source, target), atol=1e-12
            )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), part=st.floats(0.0, 1.0))
def test_rotation_interpolates_on_the_shorter_arc_and_translation_linearly(seed: int, part: float) -> None:
    rng = np.random.default_rng(seed)
    start, end, T_base_lidar = random_pose(rng), random_pose(rng), random_pose(rng)
    tree = TransformTree()
    # Stamps since 1970, as on a robot: the interpolation must not lose them in float64.
    t0 = 1_700_000_000 * SECOND
    stamp = t0 + round(part * 50_000_000)
    tree.add(stamped("odom", "base", start, t0), static=False)
    tree.add(stamped("odom", "base", end, t0 + 50_000_000), static=False)
    tree.add(stamped("base", "lidar", T_base_lidar), static=True)
    exact = (stamp - t0) / 50_000_000
    q = pr.quaternion_slerp(
        pr.quaternion_from_matrix(start[:3, :3]), pr.quaternion_from_matrix(end[:3, :3]), exact, shortest_path=True
    )
    p = start[:3, 3] + exact * (end[:3, 3] - start[:3, 3])
    expected = pt.transform_from(pr.matrix_from_quaternion(q), p) @ T_base_lidar
    np.testing.assert_allclose(tree.lookup("odom", "lidar", stamp), expected, atol=1e-9)


def test_a_trajectory_of_rotations_agrees_with_pytransform3d_temporal_manager() -> None:
    rng = np.random.default_rng(2)
    times = np.arange(0, 20) * 0.1
    # pytransform3d interpolates on a screw, tf2 linearly: the two are the same only while the translation is zero.
    quaternions = [make_transform((0, 0, 0), rng.normal(size=4)) for _ in times]
    pqs = np.array([pt.pq_from_transform(T) for T in quaternions])
    oracle = managers.TemporalTransformManager()
    oracle.add_transform("base", "odom", managers.NumpyTimeseriesTransform(times, pqs))
    tree = TransformTree()
    for t, T in zip(times, quaternions, strict=True):
        tree.add(stamped("odom", "base", T, round(t * SECOND)), static=False)
    wanted = rng.uniform(0, 1.9, 200).round(9)
    expected = oracle.get_transform_at_time("base", "odom", wanted)
    found = tree.lookup_many("odom", "base", np.rint(wanted * SECOND).astype(np.int64))
    # The oracle does not take the shorter arc by itself, so only steps of less than half a turn are compared.
    before = np.floor(wanted / 0.1 + 1e-9).astype(int)
    short = np.einsum("ni,ni->n", pqs[before, 3:], pqs[before + 1, 3:]) > 0
    assert short.sum() > 50
    np.testing.assert_allclose(found[short], expected[short], atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_quaternion_and_inverse_give_the_matrix_back(seed: int) -> None:
    T = random_pose(np.random.default_rng(seed))
    np.testing.assert_allclose(make_transform(T[:3, 3], quaternion_of(T)), T, atol=1e-12)
    np.testing.assert_allclose(invert(T) @ T, EYE, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_keep_their_quaternion(axis: int) -> None:
    q = [0.0, 0.0, 0.0, 0.0]
    q[axis] = 1.0
    assert np.abs(quaternion_of(make_transform((0, 0, 0), q))) == pytest.approx(np.abs(q))


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(8)))
def test_the_order_of_arrival_does_not_matter(order: list) -> None:
    tree = TransformTree()
    for t in order:
        tree.add(stamped("odom", "base", make_transform((t, 0, 0), (0, 0, 0, 1)), t * SECOND), static=False)
    assert tree.lookup("odom", "base", round(3.25 * SECOND))[0, 3] == pytest.approx(3.25)


def test_nothing_is_extrapolated_and_the_message_says_by_how_much() -> None:
    tree = moving_along_x(10.0, 10.5)
    with pytest.raises(TransformError, match=r"0\.100 s after the newest one known \(10\.000 s to 10\.500 s\)"):
        tree.lookup("odom", "base", round(10.6 * SECOND))
    with pytest.raises(TransformError, match=r"1\.000 s before the oldest"):
        tree.lookup("odom", "base", 9 * SECOND)
    assert tree.can_lookup("odom", "base", 10 * SECOND)
    assert not tree.can_lookup("odom", "base", round(10.6 * SECOND))


def test_one_stamp_outside_spoils_the_whole_batch() -> None:
    tree = moving_along_x(10.0, 10.5)
    with pytest.raises(TransformError):
        tree.lookup_many("odom", "base", np.array([10 * SECOND, 11 * SECOND]))
    assert tree.lookup_many("odom", "base", np.zeros(0, np.int64)).shape == (0, 4, 4)


def test_missing_links_name_the_frames_of_each_side() -> None:
    tree = TransformTree()
    tree.add(stamped("base", "lidar"), static=True)
    tree.add(stamped("mast", "camera"), static=True)
    with pytest.raises(TransformError, match=r"'lidar' is connected with base, lidar, 'camera' with camera, mast"):
        tree.lookup("camera", "lidar", 0)
    with pytest.raises(TransformError, match=r"'radar' is in no transform received so far \(known: base, camera"):
        tree.lookup("camera", "radar", 0)
    with pytest.raises(TransformError, match="'radar'"):
        tree.lookup("radar", "radar", 0)
    assert not tree.can_lookup("camera", "lidar", 0)


def test_many_frames_do_not_flood_the_message() -> None:
    tree = TransformTree()
    for index in range(500):
        tree.add(stamped("base", f"frame_{index}"), static=True)
    with pytest.raises(TransformError, match="and 493 more") as caught:
        tree.lookup("base", "nowhere", 0)
    assert len(str(caught.value)) < 400


def test_latest_stamp_is_the_newest_time_at_which_everything_is_known() -> None:
    tree = moving_along_x(1.0, 2.0, 3.0)
    tree.add(stamped("base", "camera"), static=True)
    tree.add(stamped("base", "arm", EYE, SECOND), static=False)
    tree.add(stamped("base", "arm", EYE, 2 * SECOND), static=False)
    assert tree.latest_stamp("base", "camera") is None
    assert tree.latest_stamp("odom", "camera") == 3 * SECOND
    assert tree.latest_stamp("odom", "arm") == 2 * SECOND
    assert tree.lookup_latest("odom", "arm")[0, 3] == pytest.approx(2.0)
    assert tree.lookup_latest("base", "camera") == pytest.approx(EYE)


def test_transforms_whose_times_never_overlap_are_an_error() -> None:
    tree = moving_along_x(100.0, 101.0)
    tree.add(stamped("base", "arm", EYE, SECOND), static=False)
    with pytest.raises(TransformError, match="before the oldest"):
        tree.latest_stamp("odom", "arm")


def test_old_poses_are_forgotten_so_that_memory_stays_flat() -> None:
    tree = TransformTree(history_s=1.0)
    for index in range(2000):
        tree.add(stamped("odom", "base", EYE, index * SECOND // 100), static=False)
    assert tree.can_lookup("odom", "base", 19 * SECOND)
    assert not tree.can_lookup("odom", "base", 18 * SECOND)
    edge = tree._edges["base"]
    assert len(edge._stamps) <= 512  # 101 poses are alive


def test_a_late_pose_is_ignored_but_a_clock_set_back_is_followed() -> None:
    tree = TransformTree(history_s=1.0)
    tree.add(stamped("odom", "base", EYE, 100 * SECOND), static=False)
    tree.add(stamped("odom", "base", EYE, SECOND), static=False)
    assert tree.latest_stamp("odom", "base") == 100 * SECOND
    for index in range(20):
        tree.add(stamped("odom", "base", EYE, SECOND + index * SECOND // 10), static=False)
    assert tree.latest_stamp("odom", "base") == SECOND + 19 * SECOND // 10
    assert tree.can_lookup("odom", "base", 2 * SECOND)


def test_a_clock_that_stands_still_far_back_is_followed_in_bounded_memory() -> None:
    tree = TransformTree()
    tree.add(stamped("odom", "base", EYE, 100 * SECOND), static=False)
    for _ in range(2500):
        tree.add(stamped("odom", "base", EYE, SECOND), static=False)
    assert tree.latest_stamp("odom", "base") == SECOND


@pytest.mark.parametrize("back_s", [5, 90])
def test_after_a_jump_the_static_transforms_stay_and_so_does_what_came_since(back_s: int) -> None:
    tree = TransformTree()
    for t in range(90, 101):
        tree.add(stamped("odom", "base", make_transform((t, 0, 0), (0, 0, 0, 1)), t * SECOND), static=False)
    tree.add(stamped("base", "arm", EYE, 100 * SECOND), static=False)
    tree.add(stamped("base", "camera"), static=True)
    start = 100 - back_s
    for step in range(5):
        T = make_transform((-step, 0, 0), (0, 0, 0, 1))
        tree.add(stamped("odom", "base", T, start * SECOND + step * SECOND // 100), static=False)
    after = tree.after_jump()
    assert after.frames() == ("base", "camera", "odom")
    assert after.can_lookup("base", "camera", 0)
    assert after.lookup("odom", "base", start * SECOND + SECOND // 50)[0, 3] == pytest.approx(-2.0)
    assert not after.can_lookup("odom", "base", 99 * SECOND)
    # What is left to do of the time before still finds its transforms.
    assert tree.lookup("odom", "base", 99 * SECOND)[0, 3] == pytest.approx(99.0)


def test_the_newest_message_decides_the_parent() -> None:
    tree = TransformTree()
    tree.add(stamped("base", "camera", make_transform((1, 0, 0), (0, 0, 0, 1))), static=True)
    assert tree.lookup("base", "camera", 0)[0, 3] == 1.0
    tree.add(stamped("base", "camera", make_transform((2, 0, 0), (0, 0, 0, 1))), static=True)
    assert tree.lookup("base", "camera", 0)[0, 3] == 2.0
    tree.add(stamped("mast", "camera"), static=True)
    assert tree.can_lookup("mast", "camera", 0)
    assert not tree.can_lookup("base", "camera", 0)


def test_ros1_names_with_a_leading_slash_are_the_same_frames() -> None:
    tree = TransformTree()
    tree.add(stamped("/base", "/camera"), static=True)
    assert tree.frames() == ("base", "camera")
    assert tree.can_lookup("/camera", "base", 0)


def test_loops_are_refused() -> None:
    tree = TransformTree()
    tree.add(stamped("a", "b"), static=True)
    tree.add(stamped("b", "c"), static=True)
    with pytest.raises(TransformError, match="loop"):
        tree.add(stamped("c", "a"), static=False)
    with pytest.raises(TransformError, match="its own parent"):
        tree.add(stamped("a", "a"), static=True)
    assert tree.can_lookup("a", "c", 0)


@pytest.mark.parametrize(
    "T",
    [
        np.full((4, 4), np.nan),
        np.eye(3),
        np.zeros((4, 4)),
        np.diag([1.0, 1.0, -1.0, 1.0]),
        np.diag([2.0, 2, 2, 1]),
        np.eye(4) + 1e300 * np.eye(4, k=3),
    ],
    ids=["nan", "3x3", "zeros", "mirror", "scaled", "out of this world"],
)
def test_what_is_no_rigid_transform_is_refused(T: np.ndarray) -> None:
    tree = TransformTree()
    with pytest.raises(TransformError, match="'camera' in 'base'"):
        tree.add(stamped("base", "camera", T), static=True)
    assert tree.frames() == ()


def test_empty_names_and_impossible_stamps_are_refused() -> None:
    tree = TransformTree()
    with pytest.raises(TransformError, match="empty frame name"):
        tree.add(stamped("", "camera"), static=True)
    with pytest.raises(TransformError, match="impossible stamp"):
        tree.add(stamped("base", "camera", EYE, 2**63), static=False)


@pytest.mark.parametrize("q", [(0, 0, 0, 0), (np.nan, 0, 0, 1), (1e-200, 0, 0, 0), (np.inf, 0, 0, 0)])
def test_quaternions_without_direction_are_bad_messages(q: tuple) -> None:
    with pytest.raises(MessageError):
        make_transform((0, 0, 0), q)


def test_returned_matrices_can_be_changed_without_harm() -> None:
    tree = TransformTree()
    tree.add(stamped("base", "camera"), static=True)
    tree.lookup("base", "camera", 0)[0, 3] = 99.0
    assert tree.lookup("base", "camera", 0)[0, 3] == 0.0
