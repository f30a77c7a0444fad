"""Procedural scenes: rays against closed forms, LiDARs that behave like LiDARs, the store, the command."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mf_ros.errors import ConfigError  # noqa: E402
from mf_training.scenes import KINDS, Scene, SceneConfig, make_scene, make_scenes  # noqa: E402
from mf_training.scenes import scene as scene_module  # noqa: E402
from mf_training.scenes.appearance import Light  # noqa: E402
from mf_training.scenes.camera import Camera  # noqa: E402
from mf_training.scenes.caster import cast_all, cast_few, cast_tiles, make_batch  # noqa: E402
from mf_training.scenes.patterns import SPINNING, Beams, draw_beams, elevations  # noqa: E402
from mf_training.scenes.returns import Echoes, draw_faults, measured  # noqa: E402
from mf_training.scenes.shapes import SOLID, Builder, Cut, Ground, Material  # noqa: E402
from mf_training.scenes.sheet import behind, contact_sheet  # noqa: E402
from mf_training.scenes.world import World, no_ground  # noqa: E402

SIZE = (64, 96)
PERFECT = SceneConfig(noise=0.0)
GREY = Material()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cast(builder: Builder, origins, directions, ground: Ground | None = None) -> np.ndarray:
    """Distances along rays, found by all ways of casting, which must agree."""
    o = np.atleast_2d(np.asarray(origins, np.float32))
    d = np.atleast_2d(np.asarray(directions, np.float32))
    d = d / np.linalg.norm(d, axis=1, keepdims=True)
    o = np.broadcast_to(o, d.shape).copy()
    table, ground = builder.table(), ground or no_ground()
    rays = [torch.from_numpy(np.ascontiguousarray(v.T)).view(3, 1, -1) for v in (o, d)]
    everything = np.ones((len(table), 1), bool), np.zeros((len(table), 1))
    tiled = cast_tiles(table, ground, *rays, everything).t[0].numpy()
    batched = cast_all(make_batch([table], [ground], "cpu"), *rays).t[0].numpy()
    np.testing.assert_allclose(tiled, batched, rtol=1e-5, atol=1e-5)
    if len(table):
        few = cast_few(table, ground, o[0], rays[1][:, 0]).t.numpy()
        np.testing.assert_allclose(tiled, few, rtol=1e-5, atol=1e-5)
    return tiled


def one(shape: str, half, taper=(0.0, 0.0), centre=(5.0, 0.0, 0.0), rotation=0.0, cut=SOLID) -> Builder:
    b = Builder()
    b.add(shape, centre, half, GREY, rotation, taper, cut)
    return b


# Rays


@pytest.mark.parametrize(
    ("builder", "direction", "distance"),
    [
        (one("box", (1, 2, 3)), (1, 0, 0), 4.0),
        (one("box", (1, 1, 1), rotation=np.pi / 4), (1, 0, 0), 5 - np.sqrt(2)),
        (one("box", (1, 2, 3)), (0, 1, 0), np.inf),
        (one("ellipsoid", (2, 1, 1)), (1, 0, 0), 3.0),
        (one("ellipsoid", (1, 1, 1), centre=(5, 0.6, 0)), (1, 0, 0), 5 - 0.8),
        (one("cylinder", (0.5, 0.5, 4)), (1, 0, 0), 4.5),
        (one("cylinder", (0.5, 0.5, 4), centre=(5, 0, 5)), (1, 0, 0), np.inf),
        (one("cone", (1, 1, 1), taper=(1.0, 0)), (1, 0, 0), 4.5),
        (one("cone", (1, 1, 1), taper=(0.5, 0)), (1, 0, 0), 4.25),
        (one("wedge", (1, 1, 1), taper=(1.0, 0.0)), (1, 0, 0), 4.5),
        (one("torus", (1, 1, 1), taper=(0.25, 0)), (1, 0, 0), 3.75),
        (
            one("torus", (1, 1, 1), taper=(0.25, 0), rotation=np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]])),
            (1, 0, 0),
            np.inf,
        ),
    ],
)
def test_rays_meet_shapes_at_the_distance_of_the_closed_form(builder: Builder, direction, distance) -> None:
    assert cast(builder, (0, 0, 0), direction)[0] == pytest.approx(distance, abs=2e-3)


def test_a_ray_from_inside_meets_the_far_wall() -> None:
    assert cast(one("box", (3, 3, 3), centre=(0, 0, 0)), (1, 0, 0), (1, 0, 0))[0] == pytest.approx(2.0, abs=1e-5)


def test_the_nearest_of_several_primitives_is_met() -> None:
    b = one("box", (1, 1, 1))
    b.add("ellipsoid", (3, 0, 0), (0.5, 0.5, 0.5), GREY)
    b.rod((2, -1, 0), (2, 1, 0), 0.01, GREY)
    assert cast(b, (0, 0, 0), (1, 0, 0))[0] == pytest.approx(1.99, abs=1e-4)


def test_tilted_ground_is_a_plane_and_waves_are_met_at_their_height() -> None:
    flat = Ground(True, (0.1, 0.0), np.zeros((1, 4), np.float32), GREY, GREY)
    # z = 0.1 x, from 2 m above the origin, looking 45 degrees down: 2 - s = 0.1 s
    assert cast(Builder(), (0, 0, 2), (1, 0, -1), flat)[0] == pytest.approx(2 / 1.1 * np.sqrt(2), rel=1e-3)
    waves = Ground(True, (0.0, 0.0), np.array([[1.3, 0.4, 0.2, 0.15]], np.float32), GREY, GREY)
    directions = np.stack([np.ones(50), np.linspace(-0.5, 0.5, 50), np.full(50, -0.4)], 1)
    t = cast(Builder(), (0, 0, 1.5), directions, waves)
    hit = np.array([0, 0, 1.5]) + t[:, None] * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(hit[:, 2], [waves.height(x, y) for x, y in hit[:, :2]], atol=0.01)


def test_rays_pass_between_bars_and_meet_them() -> None:
    fence = one("box", (0.02, 3, 1), rotation=0.0)
    bars = one("box", (3, 0.02, 1), rotation=np.pi / 2, cut=Cut("bars", 0.5, 0.2, 4.0))
    sideways = np.stack([np.full(400, 5.0), np.linspace(-2, 2, 400), np.zeros(400)], 1)
    assert np.isfinite(cast(fence, (0, 0, 0), sideways)).all()
    met = np.isfinite(cast(bars, (0, 0, 0), sideways)).mean()
    assert 0.1 < met < 0.35, "a fifth of each period is solid"


def test_crowns_let_some_rays_through_and_are_ragged_at_the_rim() -> None:
    crown = one("ellipsoid", (2, 2, 2), cut=Cut("foliage", 0.3, 0.6, 0.4, 0.05))
    solid = one("ellipsoid", (2, 2, 2))
    angle = np.linspace(-0.42, 0.42, 120)
    y, z = (v.reshape(-1) for v in np.meshgrid(np.tan(angle), np.tan(angle)))
    directions = np.stack([np.ones_like(y), y, z], 1)
    outline, leaves = np.isfinite(cast(solid, (0, 0, 0), directions)), np.isfinite(cast(crown, (0, 0, 0), directions))
    radius = np.hypot(y, z) / np.tan(np.arcsin(2 / 5))
    assert not (leaves & ~outline).any()
    inner, rim = leaves[radius < 0.5].mean(), leaves[(radius > 0.9) & (radius < 1)].mean()
    assert 0.6 < inner < 1.0 and rim < inner - 0.1


# A scene with a pole before a wall


def pole_world() -> World:
    b = Builder()
    b.add("box", (10.5, 0, 0), (0.5, 30, 30), GREY)
    b.add("cylinder", (4, 0, 0), (0.1, 0.1, 5), GREY)
    light = Light((0, 0, 1), (1, 1, 1), (0.5,) * 3, (0.3,) * 3, 0.0, (0.5,) * 3, (0.5,) * 3, (0.5,) * 3, 0.0)
    return World(b.table(), no_ground(), light, np.zeros(3), np.zeros(3), False)


def camera() -> Camera:
    K = np.array([[100.0, 0, 47.5], [0, 100.0, 31.5], [0, 0, 1]])
    return Camera(K, SIZE, np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.zeros(3))


def beams(origin) -> Beams:
    azimuth = np.radians(np.arange(-20, 20, 0.2))
    directions = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros_like(azimuth)], 1)
    return Beams(
        np.asarray(origin, float), directions, directions, np.zeros(len(azimuth), np.int16), azimuth, "vlp16", 1
    )


def render(monkeypatch: pytest.MonkeyPatch, origin) -> Scene:
    monkeypatch.setattr(scene_module, "_draw", lambda *_: ("street", pole_world(), camera()))
    monkeypatch.setattr(scene_module, "draw_beams", lambda *_: (beams(origin),))
    return make_scene(0, SIZE, scans=1, config=PERFECT)


def test_depth_is_z_along_the_optical_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = render(monkeypatch, (0, 0, 0))
    assert scene.depth[5, 3] == pytest.approx(10.0, rel=1e-5), "a wall across the view has one depth"
    assert scene.depth[31, 47] == pytest.approx(3.9, abs=2e-3)


def test_a_lidar_at_the_camera_sees_what_the_camera_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = render(monkeypatch, (0, 0, 0))
    returns, hidden = behind(scene.scans[0], scene)
    assert len(returns) > 100
    assert hidden.sum() <= 2, "but for the pixels that the edges of the pole share"


def test_a_lidar_beside_the_camera_sees_past_the_pole(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = render(monkeypatch, (0, 0.6, 0))
    returns, hidden = behind(scene.scans[0], scene)
    assert hidden.sum() >= 3
    np.testing.assert_allclose(returns.z[hidden], 10.0, atol=1e-3)
    # The pole covers 100 * 0.1 / 4 pixels to either side of the middle.
    assert (np.abs(returns.uv[hidden, 0] - 47.5) < 4).all()


# Sensors


@pytest.mark.parametrize("name", sorted({name for names in SPINNING.values() for name in names}))
def test_rings_go_from_top_to_bottom(name: str) -> None:
    angles = elevations(name)
    assert (np.diff(angles) < 0).all()
    assert len(angles) in SPINNING and name in SPINNING[len(angles)]


def test_rings_of_a_sweep_lie_from_top_to_bottom() -> None:
    checked = 0
    for seed in range(40):
        for head in draw_beams(camera(), False, np.random.default_rng(seed)):
            if head.lines == 0 or head.kind == "raster":
                continue
            # In one column, since the sensor may be tilted.
            column = np.abs(head.azimuth) < np.radians(0.5)
            rings = np.unique(head.ring[column])
            height = [head.nominal[column & (head.ring == ring), 2].mean() for ring in rings]
            assert (np.diff(height) < 0).all() and rings.max() < head.lines
            checked += 1
    assert checked > 20


def flat_echoes(count: int, **changes) -> Echoes:
    values = {"range": 10.0, "incidence": 0.9, "reflectivity": 0.5, "glass": False} | changes
    return Echoes(**{name: np.full(count, value) for name, value in values.items()})


def report(echoes: Echoes, second: Echoes | None = None, **changes) -> np.ndarray:
    count, rng = len(echoes.range), np.random.default_rng(1)
    faults = dataclasses.replace(
        draw_faults("hdl64", rng, 1.0), sigma=0.02, relative=0.0, drop=1.0, ghosts=0.0, mixed=1.0, bias=0.0
    )
    faults = dataclasses.replace(faults, **changes)
    head = dataclasses.replace(beams((0, 0, 0)), kind="hdl64", ring=np.zeros(count, np.int16))
    of = np.arange(count) if second is not None else np.zeros(0, np.int64)
    return measured(echoes, second if second is not None else flat_echoes(0), of, head, faults, rng)


def test_noise_has_the_deviation_asked_for() -> None:
    r = report(flat_echoes(20000))
    r = r[np.isfinite(r)]
    assert r.mean() == pytest.approx(10.0, abs=0.002)
    assert r.std() == pytest.approx(0.02, rel=0.05)


def test_dark_far_grazing_surfaces_and_glass_are_lost_more_often() -> None:
    def lost(**changes) -> float:
        return float(np.isinf(report(flat_echoes(4000, **changes), far=100.0)).mean())

    plain = lost()
    assert plain < 0.05
    assert lost(reflectivity=0.03, range=60.0) > plain + 0.2
    assert lost(incidence=0.03, range=60.0) > plain + 0.2
    assert lost(glass=True) > 0.5


def test_beams_at_an_edge_report_ranges_between_the_surfaces() -> None:
    r = report(flat_echoes(4000, range=10.0), flat_echoes(4000, range=11.5))
    between = (r > 10.2) & (r < 11.3)
    assert 0.2 < between.mean() < 0.7
    assert not ((r < 9.8) | ((r > 11.7) & np.isfinite(r))).any()
    far_apart = report(flat_echoes(4000, range=10.0), flat_echoes(4000, range=30.0))
    assert not ((far_apart > 10.2) & (far_apart < 29.8)).any(), "pulses far apart are not mixed"


def test_ghosts_are_as_rare_as_asked_for() -> None:
    r = report(flat_echoes(20000), ghosts=0.01, drop=0.0)
    assert np.mean(np.abs(r - 10) > 0.2) == pytest.approx(0.01, rel=0.25)


def test_a_perfect_sensor_agrees_with_the_depth_where_it_is_not_hidden() -> None:
    scene = make_scene(3, SIZE, scans=3, config=PERFECT)
    for scan in scene.scans:
        returns, _ = behind(scan, scene)
        depth = scene.depth[returns.pixels()]
        assert np.median(np.abs(depth / returns.z - 1)[np.isfinite(depth)]) < 0.03


# Scenes


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_a_picture_depth_and_sweeps(kind: str) -> None:
    scene = make_scene(5, SIZE, scans=2, config=SceneConfig(kinds={kind: 1.0}))
    assert scene.kind == kind and scene.image.shape == (3, *SIZE) and scene.image.dtype == np.uint8
    assert scene.image.std() > 5, "not a blank picture"
    known = np.isfinite(scene.depth)
    assert scene.depth.dtype == np.float32 and known.mean() > 0.25
    assert scene.depth[known].min() > 0 and scene.depth[known].max() <= 120
    assert len(scene.scans) == 2
    for scan in scene.scans:
        assert scan.points.shape == (len(scan.ring), 3) and np.isfinite(scan.points).all()
        assert (scan.points[:, 2] > 0).all() and scan.ring.max(initial=-1) < max(scan.lines, 1)


def same(a: Scene, b: Scene) -> bool:
    arrays = [(a.image, b.image), (a.depth, b.depth), (a.K, b.K)]
    arrays += [pair for s, t in zip(a.scans, b.scans, strict=True) for pair in ((s.points, t.points), (s.ring, t.ring))]
    return (a.kind, a.seed, len(a.scans)) == (b.kind, b.seed, len(b.scans)) and all(
        np.array_equal(x, y) for x, y in arrays
    )


def test_a_seed_gives_the_same_scene_again_and_another_seed_another() -> None:
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = make_scene(7, SIZE)
    assert (np.random.get_state()[1] == state).all(), "the global generator is left alone"
    assert same(first, make_scene(7, SIZE))
    assert not np.array_equal(first.image, make_scene(8, SIZE).image)


def test_a_seed_gives_the_same_scene_in_another_process() -> None:
    code = (
        "import torch, zlib; torch.set_num_threads(1)\n"
        "from mf_training.scenes import make_scene\n"
        f"s = make_scene(11, {SIZE}, scans=1)\n"
        "print(zlib.crc32(s.image.tobytes()), zlib.crc32(s.depth.tobytes()), zlib.crc32(s.scans[0].points.tobytes()))"
    )
    printed = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    ]
    assert printed[0] == printed[1] and len(printed[0].split()) == 3


def test_the_first_sweeps_do_not_depend_on_their_number() -> None:
    few, many = make_scene(4, SIZE, scans=1), make_scene(4, SIZE, scans=3)
    np.testing.assert_array_equal(few.scans[0].points, many.scans[0].points)


def test_a_batch_gives_the_scenes_of_the_single_call() -> None:
    config = SceneConfig(complexity=(0.1, 0.2))
    for single, batched in zip(
        [make_scene(s, SIZE, config=config) for s in (1, 2)], make_scenes([1, 2], SIZE, config=config), strict=True
    ):
        known = np.isfinite(single.depth) & np.isfinite(batched.depth)
        agree = np.isclose(single.depth, batched.depth, rtol=1e-3)[known].mean()
        assert known.mean() > 0.2 and agree > 0.995, "but for rounding at edges"
        assert np.abs(single.image.astype(int) - batched.image).mean() < 2
        for a, b in zip(single.scans, batched.scans, strict=True):
            assert len(a.points) == pytest.approx(len(b.points), rel=0.02, abs=5)


def test_wrong_requests_are_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        make_scene(0, (100, 128))
    with pytest.raises(ConfigError, match="seed"):
        make_scene(-1, SIZE)
    with pytest.raises(ConfigError, match="weights"):
        make_scene(0, SIZE, config=SceneConfig(kinds={"moon": 1.0}))


def test_scenes_and_their_sheet_need_no_package_for_bags() -> None:
    code = "import sys; sys.modules.update(rosbags=None, mcap=None); import mf_training.cli.scenes"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_sheet_rings_hidden_returns_in_red(monkeypatch: pytest.MonkeyPatch) -> None:
    sheet = contact_sheet([render(monkeypatch, (0, 0.6, 0))])
    clean = contact_sheet([render(monkeypatch, (0, 0, 0))])
    red = [((s[..., 0] == 230) & (s[..., 1] == 20)).sum() for s in (sheet, clean)]
    assert red[0] > 20 > red[1]


def test_the_sheet_shows_sweeps_in_the_colours_of_the_depth_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = render(monkeypatch, (0, 0, 0))
    rows, cols = behind(scene.scans[0], scene)[0].pixels()
    # Below a line of text; cells are 96 wide and 4 apart.
    depth, sweep = (contact_sheet([scene])[18 + rows, left + cols].astype(int) for left in (100, 200))
    assert len(np.unique(depth, axis=0)) >= 2, "the pole is nearer than the wall"
    assert np.abs(depth - sweep).max(1).mean() < 10
