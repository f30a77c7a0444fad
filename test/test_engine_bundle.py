"""A model folder that is damaged, foreign or too new gives one clear error and no depth."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from model_folders import copied_model, edit_config, tiny_model

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.engine.bundle import CONFIG, GRAPH, REFERENCE, WEIGHTS, Processing, load_bundle, load_reference
from mf_ros.errors import MfRosError, ModelError


def write_config(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)


def rewrite_reference(folder: Path, **changes: np.ndarray) -> None:
    arrays = load_reference(folder / REFERENCE)
    np.savez_compressed(folder / REFERENCE, **{**arrays, **changes})


def rewrite_header(folder: Path, change: Callable[[dict], None]) -> None:
    """Change what a safetensors file declares, leaving its data as they are."""
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_data(path: Path) -> None:
    """The first array's compressed data begin with a block of a kind that does not exist."""
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", data[26:30])
    data[30 + name + extra] = 0xFF
    path.write_bytes(data)


def encrypt(path: Path) -> None:
    """Every entry claims to be encrypted."""
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.find(signature)
        while start >= 0:
            data[start + flags] |= 1
            start = data.find(signature, start + 4)
    path.write_bytes(data)


def declare_huge(header: dict) -> None:
    header["levels.image_gate"]["shape"] = [1 << 60]


def rename_a_weight(header: dict) -> None:
    header["another"] = header.pop("levels.image_gate")


def test_a_folder_that_was_exported_is_read() -> None:
    bundle = load_bundle(str(tiny_model()))
    assert bundle.name == "tiny" and bundle.licence == "Apache-2.0"
    assert bundle.processing == Processing() and bundle.model["width"] == 16


def test_a_description_without_a_coarse_offset_takes_the_one_it_has(tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    write_config(folder, json.dumps({**json.loads((folder / CONFIG).read_text()), "calibration": {}}))
    edit_config(folder, calibration={"log_scale_offset": -0.5})
    older = load_bundle(str(folder)).calibration
    assert [older.offset(cell) for cell in (1, 2, 3)] == [-0.5, -0.5, -0.5]
    edit_config(folder, calibration={"log_scale_offset": -0.5, "coarse_log_scale_offset": 0.2})
    assert [load_bundle(str(folder)).calibration.offset(cell) for cell in (1, 2)] == pytest.approx([-0.5, -0.3])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / CONFIG).unlink(), r"config\.json: No such file.*mf-ros export"),
        (lambda f: write_config(f, "{"), "not JSON"),
        (lambda f: write_config(f, "[" * 100_000), "not JSON"),
        (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe{}"), "not JSON"),
        (lambda f: write_config(f, " " * 1_000_001), "no description"),
        (lambda f: write_config(f, "[]"), "states no format"),
        (lambda f: edit_config(f, format=2), "format 2, this version of mf_ros knows 1"),
        (lambda f: edit_config(f, format="1"), "states no format"),
        (lambda f: edit_config(f, model=None), "no group 'model'"),
        (lambda f: edit_config(f, processing={"max_pixels": 10**12}), r"processing\.max_pixels is 10{12}: allowed"),
        (lambda f: edit_config(f, processing={"multiple": 0}), r"processing\.multiple is 0: allowed"),
        (lambda f: edit_config(f, processing={"multiple": "16"}), r"processing\.multiple is '16': int is needed"),
        (lambda f: edit_config(f, processing={"image_scale": float("nan")}), r"image_scale is nan"),
        (lambda f: edit_config(f, processing={"depth": "inverse"}), "'inverse', this version of mf_ros knows"),
        (lambda f: edit_config(f, processing={"crop": 3}), r"processing\.crop is not known"),
        (
            lambda f: edit_config(f, processing={"max_pixels": 10**400}),
            r"processing\.max_pixels is 10+\.\.\.0+: allowed",
        ),
        (
            lambda f: edit_config(f, processing={"image_scale": 10**400}),
            r"processing\.image_scale is 10+\.\.\.0+: allowed",
        ),
        (lambda f: edit_config(f, calibration=7), "'calibration' is no group"),
        (lambda f: edit_config(f, calibration={"log_scale_offset": -5.5}), r"log_scale_offset is -5\.5: allowed is -5"),
        (lambda f: edit_config(f, calibration={"log_scale_offset": 10**400}), r"log_scale_offset is 10+.*: allowed"),
        (
            lambda f: edit_config(f, calibration={"coarse_log_scale_offset": 5.5}),
            r"coarse_log_scale_offset is 5\.5: allowed is -5",
        ),
        (lambda f: edit_config(f, calibration={"coarse_log_scale_offset": None}), "is None: float is needed"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    folder = copied_model(tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=sentence):
        load_bundle(str(folder))


DAMAGE = {
    "no graph": ("onnx", lambda f: (f / GRAPH).unlink(), r"no model\.onnx: run mf-ros export"),
    "graph cut off": ("onnx", lambda f: truncate(f / GRAPH), "onnxruntime cannot load"),
    "graph is text": ("onnx", lambda f: (f / GRAPH).write_text("hello"), "onnxruntime cannot load"),
    "no weights": ("torch", lambda f: (f / WEIGHTS).unlink(), r"no model\.safetensors: run mf-ros export"),
    "weights cut off": ("torch", lambda f: truncate(f / WEIGHTS), "weights .* are damaged"),
    "weights of a huge declared size": ("torch", lambda f: rewrite_header(f, declare_huge), "are damaged"),
    "weights of another name": ("torch", lambda f: rewrite_header(f, rename_a_weight), "do not fit .* another is"),
    "weights of another width": ("torch", lambda f: edit_config(f, model={"width": 32}), "do not fit"),
    "a huge declared network": ("torch", lambda f: edit_config(f, model={"width": 16384}), "do not fit"),
    "a network beyond all sizes": ("torch", lambda f: edit_config(f, model={"width": 10**9}), "cannot be built"),
    "an MLP of endless width": (
        "torch",
        lambda f: edit_config(f, model={"mlp_ratio": 10**400}),
        "built.*mlp_ratio is 1",
    ),
    "an unknown part of the network": ("torch", lambda f: edit_config(f, model={"wings": 2}), "cannot be built.*wings"),
    "no self-test": ("onnx", lambda f: (f / REFERENCE).unlink(), r"no reference\.npz"),
    "self-test cut off": ("onnx", lambda f: truncate(f / REFERENCE), "self-test .* is damaged"),
    "self-test with damaged data": ("onnx", lambda f: spoil_data(f / REFERENCE), "self-test .* is damaged"),
    "self-test that is encrypted": ("onnx", lambda f: encrypt(f / REFERENCE), "self-test .* is damaged .*password"),
    "self-test too large": (
        "onnx",
        lambda f: rewrite_reference(f, sparse=np.zeros((2000, 2000), np.float32)),
        r"is damaged .*\(2000, 2000\)",
    ),
    "self-test of pickled objects": (
        "onnx",
        lambda f: rewrite_reference(f, sparse=np.array([[{}]], dtype=object)),
        "is damaged .*object",
    ),
    "self-test that does not fit": (
        "onnx",
        lambda f: rewrite_reference(f, depth=np.ones((8, 8), np.float32)),
        "do not fit each other",
    ),
    "another result": (
        "onnx",
        lambda f: rewrite_reference(f, depth=1.02 * load_reference(f / REFERENCE)["depth"]),
        r"self-test of the model .* failed on onnxruntime .*CPUExecutionProvider.*differs .* by up to 0\.02",
    ),
    "another preparation": ("torch", lambda f: edit_config(f, processing={"image_scale": 255.0}), "self-test.*failed"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_clear_error(name: str, tmp_path: Path) -> None:
    library, damage, sentence = DAMAGE[name]
    folder = copied_model(tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=sentence) as caught:
        make_engine(EngineConfig(name=library, model=str(folder), device="cpu"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_graph_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    import onnx

    folder = copied_model(tmp_path)
    kind = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "other",
        [onnx.helper.make_tensor_value_info("x", kind, [1])],
        [onnx.helper.make_tensor_value_info("y", kind, [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, folder / GRAPH)
    with pytest.raises(ModelError, match=r"has the inputs x where float32 image, .* are needed"):
        make_engine(EngineConfig(name="onnx", model=str(folder), device="cpu"))


def test_without_self_test_another_result_goes_unseen(tmp_path: Path) -> None:
    folder = copied_model(tmp_path)
    (folder / REFERENCE).unlink()
    made = make_engine(EngineConfig(name="onnx", model=str(folder), device="cpu", self_test=False))
    assert made.name == "mf-tiny"


@pytest.mark.parametrize("model", ["no/such", "~nosuchuser/x", "n" * 300])
def test_a_model_that_does_not_exist_names_those_that_do(model: str) -> None:
    with pytest.raises(ModelError, match=rf"engine\.model is '{model}': there is no such folder.*installation are"):
        load_bundle(model)


def test_weights_are_stored_in_half_precision() -> None:
    from safetensors import safe_open

    with safe_open(str(tiny_model() / WEIGHTS), framework="np") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {np.dtype(np.float16)}  # noqa: SIM118


def test_errors_of_models_belong_to_the_family() -> None:
    assert issubclass(ModelError, MfRosError)
