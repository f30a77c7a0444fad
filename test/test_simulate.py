"""The simulator against geometry that is known by other means, and its recordings against the reader."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_drives import SMALL, depth_errors, still, tree_of, world_of

from mf_ros.bags import open_recording
from mf_ros.core.deskew import deskew
from mf_ros.core.messages import camera_from_info, decode_cloud, decode_depth_image, decode_image, transform_of
from mf_ros.core.transforms import TransformTree
from mf_ros.errors import ConfigError
from mf_ros.simulate import simulate
from mf_ros.simulate.camera import Camera
from mf_ros.simulate.geometry import Cone, Ellipsoid, Ground, Panel, Solid, box, frustum
from mf_ros.simulate.lidar import LidarModel, SpinningLidar
from mf_ros.simulate.lighting import Lighting
from mf_ros.simulate.raycast import cast_rays, surface_normals
from mf_ros.simulate.rig import LIDAR, ODOM, OPTICAL, START_NS, Rig, default_camera
from mf_ros.simulate.robots import T_CAMERA_OPTICAL, robot_named
from mf_ros.simulate.scene import Layout, Material, SceneBuilder
from mf_ros.simulate.trajectory import Trajectory, transform
from mf_ros.simulate.worlds import make_scene


def distance(solid: Solid, origin: tuple[float, float, float], towards: tuple[float, float, float]) -> float:
    direction = np.asarray([towards], np.float32)
    direction /= np.linalg.norm(direction)
    return float(cast_rays([solid], np.asarray(origin, np.float32), direction).t[0])


# Geometry -------------------------------------------------------------------------------------------------------------


def test_a_ray_meets_the_ground_where_its_slope_says():
    assert distance(Ground(), (0, 0, 2), (3, 0, -1)) == pytest.approx(2 * np.sqrt(10), abs=1e-4)
    assert distance(Ground(), (0, 0, 2), (1, 0, 0.1)) == np.inf


def test_a_turned_box_is_met_at_its_turned_face():
    # A cube of edge 2 turned by 45 degrees shows an edge of its own at sqrt(2) from its centre.
    assert distance(box((10, 0, 0), (2, 2, 2), np.pi / 4), (0, 0, 0), (1, 0, 0)) == pytest.approx(
        10 - np.sqrt(2), abs=1e-4
    )


def test_a_pole_is_met_at_its_mantle_and_missed_beside_it():
    pole = Cone((20, 0, 0), (20, 0, 5), 0.05)
    assert distance(pole, (0, 0, 1), (1, 0, 0)) == pytest.approx(19.95, abs=1e-4)
    off_axis = 0.03  # met at 20 - sqrt(r^2 - off_axis^2)
    assert distance(pole, (0, off_axis, 1), (1, 0, 0)) == pytest.approx(19.96, abs=1e-4)
    assert distance(pole, (0, 0.06, 1), (1, 0, 0)) == np.inf
    assert distance(pole, (20, 0, 9), (0, 0, -1)) == pytest.approx(4.0, abs=1e-4)  # on its cap


def test_a_cone_tapers():
    cone = Cone((10, 0, 0), (10, 0, 4), 2.0, 0.0)
    assert distance(cone, (0, 0, 2), (1, 0, 0)) == pytest.approx(9.0, abs=1e-4)


def test_an_ellipsoid_is_met_at_its_nearer_side():
    assert distance(Ellipsoid((8, 0, 1), (2, 1, 0.5)), (0, 0, 1), (1, 0, 0)) == pytest.approx(6.0, abs=1e-4)


def test_a_thin_wire_is_still_met_at_eighty_metres():
    # Within half a radius of the axis: float32 must not lose a wire of 13 mm at this distance.
    wire = Cone((80, -3, 6), (80, 3, 6), 0.013)
    assert distance(wire, (0, 0, 6), (1, 0, 0)) == pytest.approx(79.987, abs=1e-3)


def test_a_fence_stops_rays_at_its_bars_and_lets_the_others_through():
    fence = Panel((5, 0, 0), (5, 1.3, 0), 2.0, pitch=0.13, bar=0.022)
    assert distance(fence, (0, 0.13 * 3 + 0.01, 1), (1, 0, 0)) == pytest.approx(5.0, abs=1e-4)
    assert distance(fence, (0, 0.13 * 3 + 0.07, 1), (1, 0, 0)) == np.inf


def test_foliage_lets_some_rays_through():
    y = np.linspace(-0.9, 0.9, 400, dtype=np.float32)
    origins = np.stack([np.zeros_like(y), y, np.zeros_like(y)], axis=1)
    hits = cast_rays(
        [Ellipsoid((5, 0, 0), (1, 1, 1), 0.4)], origins, np.broadcast_to(np.float32([1, 0, 0]), origins.shape)
    )
    assert 0.3 < np.isfinite(hits.t).mean() < 0.95


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_bounding_tests_never_lose_a_surface(seed: int, one_origin: bool):
    rng = np.random.default_rng(seed)
    at = [tuple(float(c) for c in p) for p in rng.uniform(-9, 9, (6, 3))]
    solids: list[Solid] = [
        box(at[0], (1, 2, 0.5), 0.7, 0.2),
        frustum(at[1], (3, 2, 1), 1.1, 0.5, 0.2, 0.1),
        Cone(at[2], at[3], 0.3, 0.1),
        Ellipsoid(at[4], (0.5, 1, 2)),
        Panel(at[5], (at[5][0] + 2, at[5][1] + 1, at[5][2]), 1.5),
        Cone(at[0], at[4], 0.8, 0.2, density=0.6),
        Ellipsoid(at[2], (1.5, 1, 0.7), density=0.5),
        Ellipsoid(at[3], (0.2, 0.2, 3)),
        Ground(),
    ]
    directions = rng.standard_normal((90, 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    origins = rng.uniform(-3, 3, (1, 3) if one_origin else (90, 3)).astype(np.float32)
    got = cast_rays(solids, origins[0] if one_origin else origins, directions, group=16).t
    o = np.ascontiguousarray(np.broadcast_to(origins, directions.shape).T)
    d = np.ascontiguousarray(directions.T)
    every = np.min([s.intersect((o[0], o[1], o[2]), (d[0], d[1], d[2])) for s in solids], axis=0)
    every[every > 600] = np.inf
    np.testing.assert_allclose(got, every, rtol=1e-5, atol=1e-4)


def test_normals_point_out_of_the_solid():
    solids = [box((5, 0, 0), (2, 2, 2)), Cone((0, 5, -1), (0, 5, 1), 0.5), Ellipsoid((-5, 0, 0), (1, 2, 3))]
    directions = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0]], np.float32)
    hits = cast_rays(solids, np.zeros(3, np.float32), directions)
    normals = surface_normals(solids, hits, hits.t[:, None] * directions)
    np.testing.assert_allclose(normals, -directions, atol=1e-5)


# Camera ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", "plumb_bob", "rational_polynomial", "equidistant"])
def test_true_depth_unprojects_onto_the_surfaces_through_the_real_lens(model: str):
    camera = default_camera(160, 90, model)
    wall = box((12.0, 0.0, 5.0), (1.0, 60.0, 10.0))
    pole = Cone((6.0, 1.0, 0.0), (6.0, 1.0, 8.0), 0.4)
    scene = world_of(Ground(), wall, pole)
    pose = transform(0.2, 0.1, 1.5, 0.02, 0.05, -0.03) @ T_CAMERA_OPTICAL
    depth = Camera(scene, camera, Lighting(scene)).depth(pose)
    v, u = np.mgrid[:90, :160]
    met = np.isfinite(depth)
    points = camera.unproject(np.stack([u[met], v[met]], axis=1).astype(float), depth[met].astype(float))
    world = points @ pose[:3, :3].T + pose[:3, 3]
    off_ground = np.abs(world[:, 2])
    off_wall = np.abs(world[:, 0] - 11.5)
    off_pole = np.abs(np.hypot(world[:, 0] - 6, world[:, 1] - 1) - 0.4)
    nearest = np.minimum(np.minimum(off_ground, off_wall), off_pole)
    # float32 rays at 12 m leave a tenth of a millimetre; undistortion is iterated to about 1e-6 rad.
    assert nearest.max() < 2e-3
    assert all((off < 2e-3).sum() > 200 for off in (off_ground, off_wall, off_pole))


def test_the_sky_is_infinitely_far():
    camera = default_camera(64, 36, "plumb_bob")
    scene = world_of(Ground())
    depth = Camera(scene, camera, Lighting(scene)).depth(transform(0, 0, 1.5) @ T_CAMERA_OPTICAL)
    assert np.isposinf(depth[0]).all()
    assert np.isfinite(depth[-1]).all()


def test_sun_and_shadow_differ():
    # The sun stands steeply over a slab that floats above the ground: the ground below it is dark, beside it bright.
    scene = world_of(Ground(), box((6.0, 0.0, 3.0), (3.0, 3.0, 0.1)))
    lighting = Lighting(scene, 0.1)
    shift = scene.sun * (3.0 / scene.sun[2])
    points = np.array([[6 - shift[0], -shift[1], 0], [6 - shift[0], 8, 0]], np.float32)
    up = np.broadcast_to(np.float32([0, 0, 1]), points.shape)
    light, seen = lighting.light(points, up, np.zeros(2, np.float32), 0.0)
    np.testing.assert_allclose(seen, [0, 1], atol=1e-6)
    assert light[0].sum() < 0.5 * light[1].sum()


# LiDAR ----------------------------------------------------------------------------------------------------------------


def test_a_still_lidar_measures_the_ground_with_the_stated_noise():
    model = LidarModel(rings=16, columns=400, noise_m=0.012)
    lidar = SpinningLidar(world_of(Ground()), model, 10.0)
    returns = lidar.sweep(still(transform(0, 0, 2.0)), 0.0, np.random.default_rng(0))
    reach = np.linalg.norm(returns.points, axis=1)
    truth = -2.0 * reach / returns.points[:, 2]
    near = truth < 20
    # 12 mm and a thousandth of the range: 12 to 32 mm below 20 m.
    assert 0.012 < np.std((reach - truth)[near]) < 0.032
    assert returns.ring.max() < 16 and returns.points[returns.ring == 0][:, 2].max() < -1.5
    assert returns.time_s.min() >= 0 and returns.time_s.max() < 0.1
    assert (np.diff(returns.time_s) >= 0).all()


def test_dark_and_far_surfaces_return_less():
    def returned(distance_m: float, material: Material) -> int:
        builder = SceneBuilder(np.random.default_rng(0))
        builder.add(box((distance_m + 0.5, 0, 0), (1, 30, 30)), material, (0.4, 0.4, 0.4))
        scene = builder.build(Layout("yard", 0.0, 6.0, ()), np.array([0, 0.1, 1.0]), 500.0, 0)
        lidar = SpinningLidar(scene, LidarModel(elevation_deg=(-3, 3)), 10.0)
        found = lidar.sweep(still(np.eye(4)), 0.0, np.random.default_rng(1)).points
        front = np.abs(np.arctan2(found[:, 1], found[:, 0])) < 0.1
        return int(front.sum())

    assert returned(110, Material.RUBBER) < 0.5 * returned(110, Material.PLASTER)
    assert returned(110, Material.RUBBER) < 0.5 * returned(20, Material.RUBBER)
    assert returned(10, Material.GLASS) < 0.4 * returned(10, Material.PLASTER)


def test_beams_on_an_edge_return_mixed_ranges():
    near, far = box((5, 0, 0), (0.2, 1.0, 20)), box((6.3, 0, 0), (0.2, 40, 20))
    lidar = SpinningLidar(world_of(near, far), LidarModel(rings=64, columns=2400, elevation_deg=(-10, 10)), 10.0)
    found = lidar.sweep(still(np.eye(4)), 0.0, np.random.default_rng(2)).points
    between = (found[:, 0] > 5.1) & (found[:, 0] < 6.0) & (np.abs(found[:, 1]) < 0.7)
    # Two edges and 64 lines: some of the beams that an edge cuts, none of the others.
    assert 12 < between.sum() < 256


@pytest.fixture(scope="module")
def fast_rig() -> Rig:
    """A robot at 12 m/s on a curve: 40 cm of motion between a sweep's middle and its image."""
    scene = make_scene("street", 3, 20.0)
    camera = default_camera(320, 180, "plumb_bob")
    trajectory = Trajectory(speed=12.0, weave_m=0.5, weave_period_m=30.0)
    return Rig(scene, camera, LidarModel(rings=16, columns=800), trajectory, image_delay_s=0.02)


def test_deskewed_returns_agree_with_the_true_depth_and_skewed_ones_do_not(fast_rig: Rig):
    tree = tree_of(fast_rig)
    for index in (1, 4):
        depth, sweep, stamp = fast_rig.depth(index), fast_rig.sweep(index), fast_rig.image_stamp(index)
        straight = depth_errors(fast_rig, deskew(sweep, stamp, tree, ODOM, OPTICAL), depth)
        T = tree.lookup(OPTICAL, LIDAR, stamp)
        moved = sweep.points @ T[:3, :3].T.astype(np.float32) + T[:3, 3].astype(np.float32)
        skewed = depth_errors(fast_rig, moved, depth)
        # 12 mm and a thousandth of the range of noise, half a pixel of slope.
        assert np.median(straight) < 0.05
        # A flat road looks the same from 40 cm farther on, so the skew shows on everything else: in the tail.
        assert np.percentile(skewed, 90) > 2 * np.percentile(straight, 90)


def test_lidar_and_camera_see_from_different_places(fast_rig: Rig):
    tree = tree_of(fast_rig)
    depth, sweep, stamp = fast_rig.depth(1), fast_rig.sweep(1), fast_rig.image_stamp(1)
    points = deskew(sweep, stamp, tree, ODOM, OPTICAL)
    uv = fast_rig.camera.project(points)
    inside = np.isfinite(uv).all(axis=1) & (uv >= 0).all(axis=1) & (uv[:, 0] < 319) & (uv[:, 1] < 179)
    u, v = np.rint(uv[inside]).astype(int).T
    hidden = points[inside, 2] > 1.2 * depth[v, u]
    assert hidden.mean() > 0.01  # returns that a nearer surface hides from the camera


# Trajectory -----------------------------------------------------------------------------------------------------------


def test_the_twist_moves_the_pose():
    drive = Trajectory()
    before, after = drive.poses(np.array([1.3, 1.301]))
    twist = drive.twist(1.3005)
    # In a millisecond the body turns by a quarter of a milliradian, which 4 m/s sees as under 1 mm/s.
    moved = (np.linalg.inv(before) @ after) / 0.001
    np.testing.assert_allclose(twist[:3], moved[:3, 3], atol=2e-3)
    np.testing.assert_allclose(twist[3:], [moved[2, 1], moved[0, 2], moved[1, 0]], atol=2e-3)


# Recordings -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "sim.mcap"
    simulate(path, seed=7, seconds=0.3, **SMALL)
    return path


def test_the_same_seed_gives_the_same_bytes(recorded: Path, tmp_path: Path):
    again = tmp_path / "again" / "sim.mcap"
    simulate(again, seed=7, seconds=0.3, **SMALL)
    assert again.read_bytes() == recorded.read_bytes()


def test_another_seed_gives_another_world():
    first, again, other = (make_scene("yard", seed, 5.0) for seed in (1, 1, 2))
    assert len(first.solids) == len(again.solids) and np.array_equal(first.colour, again.colour)
    assert len(first.solids) != len(other.solids) or not np.array_equal(first.colour, other.colour)


def test_the_recording_holds_what_a_robot_would_record(recorded: Path):
    with open_recording(recorded) as recording:
        counts = {topic.name: topic.count for topic in recording.topics}
        messages = [(m.topic, m.log_ns, m.decode()) for m in recording.messages()]
    assert counts["/camera/image_raw"] == counts["/camera/camera_info"] == counts["/points"] == 3
    assert counts["/camera/depth/ground_truth"] == 3 and counts["/tf_static"] == 1
    assert counts["/tf"] == counts["/odom"] >= 0.5 * 50
    assert all(a[1] <= b[1] for a, b in pairwise(messages))
    by_topic = {topic: message for topic, _, message in messages}
    image = decode_image(by_topic["/camera/image_raw"])
    camera = camera_from_info(by_topic["/camera/camera_info"], (160, 90))
    depth = decode_depth_image(by_topic["/camera/depth/ground_truth"])
    assert image.shape == (90, 160, 3) and image.std() > 20
    assert depth.shape == (90, 160) and np.isposinf(depth).any() and np.isfinite(depth).mean() > 0.5
    assert camera.distortion_model == "plumb_bob" and camera.has_distortion
    sweep = decode_cloud(by_topic["/points"])
    assert sweep.ring is not None and sweep.time_s is not None and sweep.intensity is not None
    assert len(np.unique(sweep.ring)) == 8 and 0.05 < sweep.time_s.max() < 0.1
    assert by_topic["/odom"].twist.twist.linear.x == pytest.approx(4.0, abs=0.3)


def test_recorded_transforms_cover_every_point_and_give_the_camera_pose(recorded: Path):
    tree, sweeps, stamps = TransformTree(), [], []
    with open_recording(recorded) as recording:
        for message in recording.messages():
            if message.topic in ("/tf", "/tf_static"):
                for pose in message.decode().transforms:
                    tree.add(transform_of(pose), static=message.topic == "/tf_static")
            elif message.topic == "/points":
                sweeps.append(decode_cloud(message.decode()))
            elif message.topic == "/camera/image_raw":
                header = message.decode().header
                stamps.append(header.stamp.sec * 10**9 + header.stamp.nanosec)
    for sweep, stamp in zip(sweeps, stamps, strict=True):
        assert np.isfinite(deskew(sweep, stamp, tree, ODOM, OPTICAL)).all()
    base = Trajectory().poses(np.array([(stamps[0] - START_NS) * 1e-9]))[0]
    expected = base @ robot_named("shuttle").T_base_camera @ T_CAMERA_OPTICAL
    np.testing.assert_allclose(tree.lookup(ODOM, OPTICAL, stamps[0]), expected, atol=1e-3)


def test_compressed_images_and_no_truth_on_request(tmp_path: Path):
    path = tmp_path / "sim.mcap"
    summary = simulate(path, seconds=0.1, compressed=True, ground_truth=False, scene="yard", **SMALL)
    assert summary.frames == 1 and summary.size_bytes == path.stat().st_size
    assert "/camera/depth/ground_truth" not in summary.messages and "/camera/image_raw" not in summary.messages
    with open_recording(path) as recording:
        (message,) = list(recording.messages(["/camera/image_raw/compressed"]))
        assert decode_image(message.decode()).shape == (90, 160, 3)


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0.0}, {"seconds": float("nan")}, {"rings": 1}, {"width": 4}, {"scene": "moon"}]
)
def test_an_argument_that_cannot_work_is_refused_before_a_file_is_made(tmp_path: Path, wrong: dict[str, object]):
    path = tmp_path / "sim.mcap"
    with pytest.raises(ConfigError):
        simulate(path, **wrong)  # type: ignore[arg-type]
    assert not path.exists()
