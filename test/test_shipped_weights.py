"""What the project promises of the networks that it ships: on simulated scenes, and on real frames where they are."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytest.importorskip("onnxruntime")

from mf_ros.core.camera import CameraModel, make_camera
from mf_ros.core.config import EngineConfig, ProjectionConfig
from mf_ros.core.projection import ProjectedReturns, project_points, to_sparse_depth
from mf_ros.core.types import ByteArray, CameraPoints, FloatArray, SparseDepth
from mf_ros.engine import make_engine
from mf_ros.engine.bundle import CARD, CONFIG, GRAPH, REFERENCE, SHIPPED, WEIGHTS, load_bundle
from mf_ros.engine.classical import ClassicalEngine
from mf_ros.engine.network import NetworkEngine
from mf_ros.evaluation.frames import EvaluationFrame, find_frames, load_frame
from mf_ros.evaluation.run import Record, evaluate
from mf_ros.model.config import ModelConfig
from mf_training.scenes import Scene, make_scene
from mf_training.settings import read_preset

NAMES = ("nano", "small")
LINES = (32, 8)
SIZE = (192, 320)
HELD_OUT_SEED = 1_000_000_000
FRAMES_PER_SOURCE = 2

# No file is larger than repositories and mirrors take without asking, and what everybody installs is small.
LARGEST_FILE, LARGEST_FOLDER = 16_000_000, {"nano": 16_000_000, "small": 32_000_000}
TFLOP = {"nano": "2335 TFLOP", "small": "3295 TFLOP"}


def engine(model: str, library: str = "onnx") -> NetworkEngine:
    made = make_engine(EngineConfig(name=library, model=model, threads=1, device="cpu"))
    assert isinstance(made, NetworkEngine)
    return made


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each of the networks that come with the package."""
    return str(request.param)


@pytest.fixture(scope="module")
def network(name: str) -> NetworkEngine:
    return engine(name)


@pytest.fixture(autouse=True)
def forget(network: NetworkEngine) -> None:
    network.reset()


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of seeds that training holds out."""
    return [make_scene(HELD_OUT_SEED + number, SIZE, scans=1) for number in range(6)]


def picture(scene: Scene) -> ByteArray:
    return np.ascontiguousarray(scene.image.transpose(1, 2, 0))


def camera_of(scene: Scene) -> CameraModel:
    return make_camera(SIZE[1], SIZE[0], scene.K.astype(np.float64), [], "plumb_bob")


def returns_of(scene: Scene) -> ProjectedReturns:
    """The returns of a scene's sweep that its camera can see."""
    xyz = scene.scans[0].points
    found = project_points(CameraPoints(xyz, None, np.zeros(len(xyz), np.uint8)), camera_of(scene), ProjectionConfig())
    return found.select(found.visible)


def log_error(depth: FloatArray, scene: Scene) -> float:
    """Mean error of log depth, which far pixels do not dominate."""
    known = np.isfinite(scene.depth) & (scene.depth > 0)
    return float(np.abs(np.log(depth[known] / scene.depth[known])).mean())


def test_these_networks_are_all_that_come_with_the_package() -> None:
    assert sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) == sorted(NAMES)


def test_every_file_of_the_network_is_there_and_small_enough_for_a_package(name: str) -> None:
    sizes = {path.name: path.stat().st_size for path in (SHIPPED / name).iterdir()}
    assert set(sizes) == {CONFIG, WEIGHTS, GRAPH, REFERENCE, CARD}
    assert max(sizes.values()) <= LARGEST_FILE and sum(sizes.values()) <= LARGEST_FOLDER[name], sizes


def test_the_network_has_the_sizes_of_its_preset(name: str) -> None:
    assert ModelConfig.from_mapping(load_bundle(name).model) == ModelConfig.from_mapping(read_preset("models", name))


def test_the_model_card_says_what_the_network_was_trained_on_and_how_good_it_is(name: str) -> None:
    card = (SHIPPED / name / CARD).read_text(encoding="utf-8")
    steps = json.loads((SHIPPED / name / CONFIG).read_text(encoding="utf-8"))["training"]["steps"]
    assert f"batch=8 steps={steps} " in card
    for told in ("2400 procedural scenes", "no recorded data", TFLOP[name], "| kitti_object (8) |", "Apache-2.0"):
        assert told in card, told


def test_an_image_alone_gives_depth_that_says_it_has_no_metric_scale(
    network: NetworkEngine, scenes: list[Scene]
) -> None:
    nothing = SparseDepth(np.zeros(SIZE, np.float32), 0)
    for scene in scenes[:2]:
        estimate = network.estimate(picture(scene), nothing, camera_of(scene))
        assert not estimate.metric
        assert np.isfinite(estimate.depth).all() and (estimate.depth > 0).all()


def test_few_returns_give_depth_that_is_better_the_more_there_are(network: NetworkEngine, scenes: list[Scene]) -> None:
    errors = defaultdict(list)
    for scene in scenes:
        seen, camera = returns_of(scene), camera_of(scene)
        # Two draws of each scene, since a single return says little about how good single returns are.
        for draw in range(2):
            order = np.random.default_rng(draw).permutation(len(seen))
            for count in (1, 5, 20):
                network.reset()
                sparse = to_sparse_depth(seen.select(order[:count]), camera)
                estimate = network.estimate(picture(scene), sparse, camera)
                assert np.isfinite(estimate.depth).all() and estimate.metric
                errors[count].append(log_error(estimate.depth, scene))
    one, five, twenty = (float(np.mean(errors[count])) for count in (1, 5, 20))
    assert one > five > twenty, f"mean errors of log depth with 1, 5, 20 returns: {one:.3f} {five:.3f} {twenty:.3f}"


def test_a_plane_is_as_smooth_between_the_returns_as_at_them(network: NetworkEngine) -> None:
    """Depth that follows the noise of each return prints the scan lines; depth that ignores them departs in between."""
    rows, cols = np.indices(SIZE)
    # 10 m far at the top, 7.2 m at the bottom: a slant whose ripple in the prior is small beside 2 cm of noise.
    truth = (1.0 / (0.1 + 0.0002 * rows)).astype(np.float32)
    rng = np.random.default_rng(0)
    texture = rng.integers(60, 200, (SIZE[0] // 8, SIZE[1] // 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    shown = (rows % 8 == 4) & (cols % 2 == 0)
    noisy = truth + rng.normal(0, 0.02, SIZE).astype(np.float32)
    sparse = SparseDepth(np.where(shown, noisy, np.float32(0)), int(shown.sum()))
    camera = make_camera(SIZE[1], SIZE[0], [250.0, 0, 159.5, 0, 250.0, 95.5, 0, 0, 1], [], "plumb_bob")
    error = np.abs(network.estimate(texture, sparse, camera).depth / truth - 1)
    inside = np.s_[16:-16, 16:-16]
    at, between = error[inside][shown[inside]].mean(), error[inside][(rows % 8 == 0)[inside]].mean()
    # Both are less than half of the noise, and a quarter more or less of that is 0.2 mm in a metre.
    assert 0.75 < at / between < 1.25, f"relative residual at returns {at:.5f}, between them {between:.5f}"


def test_onnx_and_torch_agree_within_a_thousandth(name: str, network: NetworkEngine, scenes: list[Scene]) -> None:
    scene = scenes[0]
    inputs = picture(scene), to_sparse_depth(returns_of(scene), camera_of(scene)), camera_of(scene)
    one, other = network.estimate(*inputs), engine(name, "torch").estimate(*inputs)
    assert np.abs(one.depth / other.depth - 1).max() < 1e-3
    assert one.log_scale is not None and other.log_scale is not None
    assert np.abs(one.log_scale - other.log_scale).max() < 1e-2


@pytest.fixture(scope="module")
def frames(real_frames: Path) -> list[EvaluationFrame]:
    """The first frames of each source."""
    kept = defaultdict(list)
    for place in find_frames(real_frames):
        source = place.folder if place.stem is not None else place.folder.parent
        if len(kept[source]) < FRAMES_PER_SOURCE:
            kept[source].append(load_frame(place))
    return [frame for each in kept.values() for frame in each]


@pytest.fixture(scope="module")
def records(frames: list[EvaluationFrame], network: NetworkEngine) -> list[Record]:
    found = evaluate(frames, LINES, network, baselines=())
    return [record for record in found if record.truth == "visible" and record.metric]


def mae(records: list[Record]) -> dict[tuple[str, str], float]:
    return {(record.source, record.input): record.mae for record in records if record.truth == "visible"}


@pytest.mark.real
def test_a_tenth_of_wrong_returns_costs_less_than_a_sixth(
    frames: list[EvaluationFrame], network: NetworkEngine
) -> None:
    first_of_lidars = {frame.source: frame for frame in reversed(frames) if frame.points is not None}
    errors = mae(evaluate(first_of_lidars.values(), (16,), network, baselines=(), outliers=0.1))
    clean, wrong = (np.mean([errors[source, shown] for source in first_of_lidars]) for shown in ("16", "16, 10% wrong"))
    assert wrong < 7 / 6 * clean, f"MAE {clean:.3f} m, with a tenth of the returns wrong {wrong:.3f} m"


@pytest.mark.real
def test_dropping_the_least_confident_pixels_lowers_the_error_step_by_step(records: list[Record]) -> None:
    stated = [(record, record.uncertainty) for record in records if record.uncertainty is not None]
    relative = np.mean([(record.absrel, *doubt.relative) for record, doubt in stated], axis=0)
    metres = np.mean([(record.mae, *doubt.left) for record, doubt in stated], axis=0)
    assert (np.diff(relative) < 0).all(), f"relative error after dropping 0, 10, 20, 40%: {relative}"
    # Confidence is about relative errors: what it drops last lies farther away than the rest.
    assert (metres[1:] < 0.9 * metres[0]).all(), f"MAE after dropping 0, 10, 20, 40%: {metres}"


@pytest.mark.real
def test_no_source_is_more_than_3_percent_worse_than_with_the_classical_engine(
    frames: list[EvaluationFrame], records: list[Record]
) -> None:
    classical = mae(evaluate(frames, LINES, ClassicalEngine(), baselines=()))
    errors = mae(records)
    ratios = {}
    for source in {source for source, _ in classical}:
        own = [key for key in classical if key[0] == source]
        ratios[source] = sum(errors[key] for key in own) / sum(classical[key] for key in own)
    assert max(ratios.values()) <= 1.03, f"MAE relative to the classical engine: {ratios}"


@pytest.mark.real
def test_a_larger_network_has_a_lower_error_than_the_next_smaller_one(
    name: str, frames: list[EvaluationFrame], records: list[Record]
) -> None:
    if name == NAMES[0]:
        pytest.skip("there is no smaller one")
    smaller = NAMES[NAMES.index(name) - 1]
    others = [record for record in evaluate(frames, LINES, engine(smaller), baselines=()) if record.metric]
    ours, theirs = (np.mean(list(mae(found).values())) for found in (records, others))
    assert ours < theirs, f"MAE of {name} {ours:.3f} m, of {smaller} {theirs:.3f} m"
