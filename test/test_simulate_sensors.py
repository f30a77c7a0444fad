"""Bodies, LiDARs, lenses and times of day that a simulated fleet is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from simulated_drives import SMALL, depth_errors, still, tree_of, world_of

from mf_ros.bags import open_recording
from mf_ros.cli.main import main
from mf_ros.core.deskew import deskew
from mf_ros.core.messages import camera_from_info, decode_cloud, decode_depth_image, decode_image, transform_of
from mf_ros.errors import ConfigError
from mf_ros.simulate import simulate
from mf_ros.simulate.atmosphere import DAY, DUSK, lit_scene
from mf_ros.simulate.camera import Camera
from mf_ros.simulate.geometry import Ground, box
from mf_ros.simulate.lidar import RosetteLidar, RosetteModel
from mf_ros.simulate.lighting import Lighting
from mf_ros.simulate.rig import ODOM, OPTICAL, Rig, default_camera
from mf_ros.simulate.robots import T_CAMERA_OPTICAL, robot_named
from mf_ros.simulate.scene import Material
from mf_ros.simulate.trajectory import Trajectory, transform
from mf_ros.simulate.worlds import make_scene

FLEET = {**SMALL, "points": 600, "lidar": "livox", "light": "dusk", "distortion_model": "equidistant"}


# Solid-state LiDAR ----------------------------------------------------------------------------------------------------


def test_the_rosette_fills_a_round_field_of_view_and_does_not_repeat():
    lidar = RosetteLidar(world_of(Ground()), RosetteModel(fov_deg=70.0), 10.0)
    sweeps = [lidar.rosette(start + np.arange(2000) / 20_000) for start in (0.0, 0.1)]
    angle, around = np.hypot(*sweeps[0].T), np.arctan2(*sweeps[0].T)
    assert np.rad2deg(angle.max()) == pytest.approx(35.0, abs=0.1)
    rim = np.histogram(around[angle > np.deg2rad(25)], bins=24, range=(-np.pi, np.pi))[0]
    assert (rim > 0).all()
    apart = np.linalg.norm(sweeps[1][:, None] - sweeps[0][None], axis=2).min(axis=1)
    # The petals of the second sweep lie between those of the first, which are about 9 degrees apart at the rim.
    assert np.percentile(np.rad2deg(apart), 90) > 0.5


def test_a_still_solid_state_lidar_measures_a_wall_with_the_stated_noise_and_without_rings():
    wall = world_of(box((10.5, 0, 0), (1, 40, 40)))
    lidar = RosetteLidar(wall, RosetteModel(points=2000, noise_m=0.015), 10.0)
    returns = lidar.sweep(still(np.eye(4)), 0.0, np.random.default_rng(0))
    error = np.linalg.norm(returns.points, axis=1) * (1 - 10.0 / returns.points[:, 0])
    # 15 mm and a thousandth of 10 to 12 m.
    assert 0.022 < np.std(error) < 0.03
    assert returns.ring is None and len(returns.points) > 1500
    assert (np.diff(returns.time_s) > 0).all() and 0.09 < returns.time_s.max() < 0.1


def test_the_tilted_lidar_of_a_low_robot_agrees_with_the_true_depth_of_its_fisheye():
    rig = Rig(
        make_scene("street", 3, 20.0),
        default_camera(320, 200, "equidistant", None, 120.0),
        RosetteModel(points=6000),
        Trajectory(speed=6.0),
        robot=robot_named("rover").tilted(8.0),
        light="dusk",
        rate_hz=5.0,
    )
    points = deskew(rig.sweep(2), rig.image_stamp(2), tree_of(rig), ODOM, OPTICAL)
    # 15 mm and a thousandth of the range of noise, half a pixel of slope; pixels are 0.4 degrees wide.
    assert np.median(depth_errors(rig, points, rig.depth(2))) < 0.06


# Bodies ---------------------------------------------------------------------------------------------------------------


def test_a_tilt_pitches_the_lidar_down_on_its_mount():
    level, tilted = robot_named("mast"), robot_named("mast").tilted(20.0)
    assert np.array_equal(tilted.T_base_lidar[:3, 3], level.T_base_lidar[:3, 3])
    forward = tilted.T_base_lidar[:3, 0] @ level.T_base_lidar[:3, :3]
    np.testing.assert_allclose(forward, [np.cos(np.deg2rad(20)), 0, -np.sin(np.deg2rad(20))], atol=1e-12)


def test_the_robots_see_from_different_heights_and_through_different_lenses():
    robots = [robot_named(name) for name in ("rover", "shuttle", "mast")]
    camera = [robot.T_base_camera[2, 3] for robot in robots]
    lidar = [robot.T_base_lidar[2, 3] for robot in robots]
    assert camera[0] < 0.7 < 1.2 < camera[1] < 1.7 < 2.5 < camera[2]
    assert all(below < above for below, above in zip(camera, lidar, strict=True))
    assert [robot.hfov_deg for robot in robots] == [100.0, 80.0, 70.0]


@pytest.mark.parametrize("wrong", [{"robot": "boat"}, {"light": "night"}, {"lidar": "sonar"}, {"tilt_deg": 120.0}])
def test_an_unknown_sensor_body_or_light_is_refused_before_a_file_is_made(tmp_path: Path, wrong: dict[str, object]):
    path = tmp_path / "sim.mcap"
    with pytest.raises(ConfigError):
        simulate(path, **wrong)  # type: ignore[arg-type]
    assert not path.exists()


# Lenses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hfov_deg", [60.0, 120.0, 170.0])
def test_a_fisheye_sees_true_depth_up_to_its_rim_and_nothing_beyond(hfov_deg: float):
    camera = default_camera(160, 106, "equidistant", None, hfov_deg)
    walls = [box((8.0, 0, 20), (2, 60, 40)), box((0, 8.0, 20), (60, 2, 40)), box((0, -8.0, 20), (60, 2, 40))]
    scene = world_of(Ground(), *walls)
    pose = transform(0.5, 0.2, 1.5, 0.02, 0.05, -0.03) @ T_CAMERA_OPTICAL
    image, depth = Camera(scene, camera, Lighting(scene)).render(pose, np.random.default_rng(0))
    v, u = np.mgrid[:106, :160]
    seen = np.isfinite(depth)
    assert np.array_equal(seen, np.isfinite(camera.rays()).all(axis=2))
    assert seen.all() == (hfov_deg < 160)
    # Black there but for the sensor's noise.
    assert image[~seen].mean() < 10 < image[seen].mean() if hfov_deg > 160 else image.mean() > 10
    points = camera.unproject(np.stack([u[seen], v[seen]], axis=1).astype(float), depth[seen].astype(float))
    world = points @ pose[:3, :3].T + pose[:3, 3]
    # Walls stand 7 m ahead and to both sides: every surface is the ground or one of them.
    off = np.minimum(np.abs(world[:, 2]), np.abs(np.maximum(world[:, 0], np.abs(world[:, 1])) - 7.0))
    # float32 rays near the rim of 170 degrees are ten times as long as their depth.
    assert np.percentile(off, 99) < 5e-3


def test_a_picture_without_sky_and_one_of_nothing_else_can_be_taken():
    camera = default_camera(64, 48, "plumb_bob")
    scene = world_of(Ground())
    eye = Camera(scene, camera, Lighting(scene))
    down, up = (transform(0, 0, 2.0, pitch=pitch) @ T_CAMERA_OPTICAL for pitch in (1.5, -1.5))
    assert np.isfinite(eye.render(down, np.random.default_rng(0))[1]).all()
    assert np.isposinf(eye.render(up, np.random.default_rng(0))[1]).all()


# Light ----------------------------------------------------------------------------------------------------------------


def test_dusk_is_darker_and_noisier_than_day_and_as_far_away():
    world, camera = make_scene("street", 6, 10.0), default_camera(160, 90, "plumb_bob")
    pose = transform(2.0, 0.0, 1.4) @ T_CAMERA_OPTICAL
    mean, noise, depths = {}, {}, {}
    for name in ("day", "dusk"):
        scene, light = lit_scene(world, name)  # type: ignore[arg-type]
        eye = Camera(scene, camera, Lighting(scene, 0.2, light))
        images = [eye.render(pose, np.random.default_rng(seed)) for seed in (0, 1)]
        depths[name] = images[0][1]
        mean[name] = images[0][0][45:].mean()
        noise[name] = np.std(images[0][0].astype(float) - images[1][0])
    # Below the horizon, where no lamp and no sky outshines the rest.
    assert mean["dusk"] < 0.7 * mean["day"]
    assert noise["dusk"] > 3 * noise["day"]
    assert np.array_equal(depths["day"], depths["dusk"])


def test_the_sky_at_dusk_glows_where_the_sun_goes_down_and_is_blue_above():
    scene, light = lit_scene(make_scene("street", 5, 10.0), "dusk")
    west = np.array([*scene.sun[:2] / np.linalg.norm(scene.sun[:2]), 0.05])
    directions = np.array([west, [-west[0], -west[1], 0.05], [0, 0, 1]], np.float32)
    low, away, above = Lighting(scene, 0.2, light).sky(directions)
    assert low[0] > 2 * low[2] and above[2] > above[0]
    assert low.sum() > 2 * away.sum()
    assert scene.sun[2] < 0.2 and scene.haze_m <= 150


def test_windows_and_lamps_shine_at_dusk_only():
    def brightest(light_name: str) -> float:
        scene, light = lit_scene(make_scene("street", 5, 10.0), light_name)  # type: ignore[arg-type]
        under, aside = [[x, y, 0.0] for x, y in ((lamp_at[0], lamp_at[1]), (lamp_at[0], lamp_at[1] + 8.0))]
        up = np.broadcast_to(np.float32([0, 0, 1]), (2, 3))
        lighting = Lighting(scene, 0.2, light)
        lit = lighting.light(np.array([under, aside], np.float32), up, np.zeros(2, np.float32), lamp_at[0])[0]
        return float(lit[0].sum() / lit[1].sum())

    street = make_scene("street", 5, 10.0)
    lamp_at = next(s.center for s, m in zip(street.solids, street.material, strict=True) if m == Material.LAMP)
    assert DAY.lamps == 0 and DUSK.lamps > 0
    assert brightest("dusk") > 1.5 > brightest("day")


# Streets and bags -----------------------------------------------------------------------------------------------------


def test_another_seed_is_another_street_and_a_long_drive_has_scenery_to_its_end():
    first, other = (make_scene("street", seed, 120.0) for seed in (101, 102))
    assert len(first.solids) != len(other.solids)
    for scene in (first, other):
        x = np.array([solid.center[0] for solid in scene.solids])
        per_stretch = np.histogram(x, bins=np.arange(-20.0, 200.0, 20.0))[0]
        # 120 m of drive and what is seen from its end.
        assert per_stretch.min() > 60


@pytest.fixture(scope="module")
def dusky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "rover.mcap"
    simulate(path, seed=4, seconds=0.6, rate_hz=5.0, robot="rover", tilt_deg=5.0, compressed=True, **FLEET)  # type: ignore[arg-type]
    return path


def test_the_bag_of_a_solid_state_lidar_has_the_fields_of_its_driver_and_no_scan_lines(dusky: Path):
    with open_recording(dusky) as recording:
        clouds = [message.decode() for message in recording.messages(["/points"])]
        images = [decode_image(m.decode()) for m in recording.messages(["/camera/image_raw/compressed"])]
        depths = [decode_depth_image(m.decode()) for m in recording.messages(["/camera/depth/ground_truth"])]
    assert [field.name for field in clouds[0].fields] == ["x", "y", "z", "intensity", "tag", "line", "timestamp"]
    assert [field.datatype for field in clouds[0].fields] == [7, 7, 7, 7, 2, 2, 8]
    assert len(clouds) == len(images) == len(depths) == 3
    for cloud in clouds:
        sweep = decode_cloud(cloud)
        assert sweep.ring is None and sweep.time_s is not None and sweep.intensity is not None
        # The sweep takes the whole fifth of a second; float64 holds absolute nanoseconds to 256 of them.
        assert 0 <= sweep.time_s.min() < 0.02 and 0.18 < sweep.time_s.max() < 0.2
    assert not np.array_equal(decode_cloud(clouds[0]).points[:50], decode_cloud(clouds[1]).points[:50])


def test_the_same_fleet_gives_the_same_bytes(dusky: Path, tmp_path: Path):
    again = tmp_path / "again" / "rover.mcap"
    simulate(again, seed=4, seconds=0.6, rate_hz=5.0, robot="rover", tilt_deg=5.0, compressed=True, **FLEET)  # type: ignore[arg-type]
    assert again.read_bytes() == dusky.read_bytes()


def test_the_command_passes_body_lidar_tilt_light_and_lens_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mast.mcap"
    sensors = ["--robot", "mast", "--lidar", "livox", "--points", "500", "--tilt", "12", "--light", "dusk"]
    lens = ["--distortion-model", "equidistant", "--hfov-deg", "150", "--width", "160", "--height", "90"]
    assert main(["simulate", "--out", str(path), "--seconds", "0.1", *sensors, *lens, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 1
    with open_recording(path) as recording:
        mounts = next(iter(recording.messages(["/tf_static"]))).decode().transforms
        info = next(iter(recording.messages(["/camera/camera_info"]))).decode()
        (cloud,) = [message.decode() for message in recording.messages(["/points"])]
    lidar = next(transform_of(mount).T_parent_child for mount in mounts if mount.child_frame_id == "lidar_link")
    np.testing.assert_allclose(lidar, robot_named("mast").tilted(12.0).T_base_lidar, atol=1e-9)
    assert camera_from_info(info, (160, 90)).K[0, 0] == pytest.approx(80 / np.deg2rad(75))
    assert 250 < cloud.width <= 500
