"""Loading weights into the FLUX.2 network: whole or in shards, and everything that is said before memory is taken."""

from __future__ import annotations

import json
import logging
import math
import struct
from pathlib import Path
from typing import Any, Dict

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

import flux2_toys as toys  # noqa: E402

import mf_ros.model.flux2.loading as loading  # noqa: E402
from mf_ros.errors import ModelError  # noqa: E402
from mf_ros.model.flux2 import Flux2Config, Flux2Network, load_flux2, memory  # noqa: E402
from mf_ros.model.flux2.memory import free_memory  # noqa: E402

TINY = toys.tiny_config()
GIB = 2**30


def tensors(variant: str = "v2", dtype: Any = torch.float32) -> Dict[str, torch.Tensor]:
    """Random weights under their official names."""
    state = toys.random_network(variant).state_dict()
    return {f"dit.{name}": each.to(dtype).contiguous() for name, each in state.items()}


def folder(path: Path, state: Dict[str, torch.Tensor], metadata: Any = None, **config: Any) -> Path:
    """A folder as it is downloaded, with ``config.json`` where something is to be in it."""
    path.mkdir(exist_ok=True)
    safetensors_torch.save_file(state, path / "model.safetensors", metadata=metadata)
    if config:
        (path / "config.json").write_text(json.dumps(config))
    return path


def sharded(path: Path, state: Dict[str, torch.Tensor]) -> Path:
    path.mkdir()
    names = sorted(state)
    placed = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(placed.values()):
        safetensors_torch.save_file({name: state[name] for name in names if placed[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return path


def refused(path: Path, words: str, **options: Any) -> str:
    options = {"config": TINY, "dtype": torch.float32, **options}
    with pytest.raises(ModelError, match=words) as caught:
        load_flux2(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_loaded_weights_compute_what_was_saved(tmp_path: Path, variant: str, shards: bool) -> None:
    path = (sharded if shards else folder)(tmp_path / "weights", tensors(variant))
    net, original = load_flux2(path, torch.float32, config=toys.tiny_config(variant)), toys.random_network(variant)
    given = toys.inputs(original)
    for one, other in zip(net(**given), original(**given), strict=True):
        assert torch.equal(one, other)
    assert not net.training and not any(each.requires_grad for each in net.parameters())


def test_the_file_itself_and_names_without_the_prefix_are_read_too(tmp_path: Path) -> None:
    path = folder(tmp_path / "w", toys.random_network().state_dict())
    net = load_flux2(path / "model.safetensors", torch.float32, config=TINY)
    assert torch.equal(net.img_in.weight, toys.random_network().img_in.weight)


def test_a_bfloat16_body_gets_a_depth_head_in_float32(tmp_path: Path) -> None:
    net = load_flux2(folder(tmp_path / "w", tensors(dtype=torch.bfloat16)), config=TINY)
    kinds = {name: each.dtype for name, each in net.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {
        "depth_final_layer.linear.weight",
        "depth_final_layer.adaLN_modulation.1.weight",
    }
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}


def test_a_network_does_not_change_when_its_file_does(tmp_path: Path) -> None:
    path = folder(tmp_path / "w", tensors())
    net = load_flux2(path, torch.float32, config=TINY)
    with (path / "model.safetensors").open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    for name, each in toys.random_network().state_dict().items():
        assert torch.equal(net.state_dict()[name], each)


def test_missing_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    state = tensors()
    state["dit.guidance_in.in_layer.weight"] = state.pop("dit.img_in.weight")
    refused(folder(tmp_path / "w", state), r"missing: img_in\.weight; not known: guidance_in\.in_layer\.weight")


def test_names_from_a_stranger_stay_on_one_line(tmp_path: Path) -> None:
    state = {**tensors(), "a\n\x1b[31mb": torch.zeros(1), "c" * 100_000: torch.zeros(1)}
    assert refused(folder(tmp_path / "w", state), "not known").isprintable()


def test_the_other_variant_is_recognised(tmp_path: Path) -> None:
    path = folder(tmp_path / "w", tensors("v1"))
    refused(path, r"not those of variant v2: missing: .* like those of variant v1 \(flux_rgbd_9b_v1\)")
    refused(folder(path, tensors("v2")), "not known: cross_alpha_depth, ", config=toys.tiny_config("v1"))


def test_another_shape_or_dtype_is_named(tmp_path: Path) -> None:
    refused(folder(tmp_path / "w", {**tensors(), "dit.img_in.weight": torch.zeros(64, 13)}), r"has shape \(64, 13\)")
    state = {**tensors(), "dit.img_in.weight": torch.zeros(64, 12, dtype=torch.float64)}
    refused(folder(tmp_path / "w", state), "dit.img_in.weight has dtype F64, but BF16, F16, F32 are read")


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    refused(folder(tmp_path / "w", {**tensors(), "img_in.weight": torch.zeros(64, 12)}), "hold the tensor .* twice")


def test_half_precision_without_range_is_refused(tmp_path: Path) -> None:
    refused(folder(tmp_path / "w", tensors()), "float16 overflows", dtype=torch.float16)


def test_a_variant_that_is_not_known_or_not_named_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "w", tensors(), variant="flux_rgbd_9b_v7")
    refused(path, "config.json describes another network: There is no variant 'flux_rgbd_9b_v7'", config=None)
    (path / "config.json").write_text('{"variant": 3}')
    refused(path, "'variant' is 3, a name is needed")
    (path / "config.json").unlink()
    refused(path, "config.json is missing or names no variant", config=None)


def test_a_wanted_variant_that_the_folder_contradicts_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "w", tensors(), variant="flux_rgbd_9b_v1", license="apache-2.0")
    refused(path, "says flux_rgbd_9b_v1, but a network of variant v2 is wanted")


@pytest.mark.parametrize("text", ["{", "[]", '{"variant": "\ud800"}', "[" * 100_000])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path / "w", tensors())
    (path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(path, "config.json")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    refused(tmp_path, "holds neither model.safetensors nor model.safetensors.index.json")
    refused(tmp_path / "nowhere", "There are no weights at")
    (tmp_path / "model.pt").write_bytes(b"\x80\x04")
    refused(tmp_path / "model.pt", "not a .safetensors file: other formats can run code")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "w", tensors())
    file = path / "model.safetensors"
    whole = file.read_bytes()
    for size in (0, 7, 8, 1000, len(whole) - 1):
        file.write_bytes(whole[:size])
        refused(path, "cut short")


@pytest.mark.parametrize(("length", "words"), [(2**63, "header of"), (17 * 2**20, "header of"), (100, "damaged")])
def test_a_header_with_a_false_length_is_refused(tmp_path: Path, length: int, words: str) -> None:
    path = folder(tmp_path / "w", tensors())
    with (path / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(20 * 2**20)
    refused(path, words)


def test_shards_stay_in_their_folder_and_must_be_there(tmp_path: Path) -> None:
    path = sharded(tmp_path / "w", tensors())
    index = path / "model.safetensors.index.json"
    for name in ("../model.safetensors", "/etc/passwd", "model.pt", 7):
        index.write_text(json.dumps({"weight_map": {"img_in.weight": name}}))
        refused(path, "a .safetensors file in its own folder is needed")
    index.write_text(json.dumps({"weight_map": {"img_in.weight": "model-3.safetensors"}}))
    refused(path, "names model-3.safetensors, which is not beside it")
    index.write_text("{}")
    refused(path, "has no 'weight_map'")


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ({"config": {"license": "cc-by-nc-4.0"}}, "cc-by-nc-4.0"),
        (
            {"config": {"license": "other", "license_name": "flux-non-commercial-license"}},
            "flux-non-commercial-license",
        ),
        ({"metadata": {"license": "CC BY-NC 4.0"}}, "CC BY-NC 4.0"),
        ({"config": {"license": "mit"}, "metadata": {"license_name": "apple-amlr", "license": "other"}}, "apple-amlr"),
        ({"card": "---\ntags: [depth]\nlicense: cc-by-nc-4.0\n---\n# Card\n"}, "cc-by-nc-4.0"),
        ({"config": {"variant": "flux_rgbd_9b_v2"}}, r"CC BY-NC 4.0 \(https://creativecommons.org"),
    ],
)
def test_a_licence_against_commercial_use_must_be_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: Dict[str, Any], named: str
) -> None:
    path = folder(tmp_path / "w", tensors(), where.get("metadata"), **where.get("config", {}))
    (path / "README.md").write_text(where.get("card", "no front matter\nlicense: cc-by-nc-4.0\n"))
    message = refused(path, f"is {named}.*: non-commercial use only")
    assert "engine.accept_noncommercial: true" in message and "--accept-noncommercial" in message
    with caplog.at_level(logging.WARNING):
        load_flux2(path, torch.float32, config=TINY, accept_noncommercial=True)
    assert "non-commercial use only" in caplog.text


@pytest.mark.parametrize(
    "config", [{"license": "apache-2.0", "variant": "flux_rgbd_9b_v2"}, {"author": "N. C. Nobody"}]
)
def test_other_licences_need_no_acceptance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: Dict[str, Any]
) -> None:
    load_flux2(folder(tmp_path / "w", tensors(), **config), torch.float32, config=TINY)
    assert caplog.text == ""


def official_file(path: Path, size: float = 1.0) -> Path:
    """The released weights as far as their header goes; the tensors are a hole in the file that takes no room."""
    with torch.device("meta"):
        state = Flux2Network(Flux2Config.from_variant("flux_rgbd_9b_v2")).state_dict()
    header, end = {}, 0
    for name, each in state.items():
        begin, end = end, end + 2 * math.prod(each.shape)
        header[f"dit.{name}"] = {"dtype": "BF16", "shape": list(each.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.mkdir()
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(int(8 + len(text) + size * end))
    (path / "config.json").write_text(json.dumps({"variant": "flux_rgbd_9b_v2"}))
    return path


def test_the_full_size_is_refused_where_memory_is_short_before_any_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = official_file(tmp_path / "w")
    monkeypatch.setattr(memory, "free_memory", lambda device: 8 * GIB)
    monkeypatch.setattr(loading, "read_tensors", lambda *_: pytest.fail("nothing may be read"))
    message = refused(path, "GiB on cpu", config=None, dtype=torch.bfloat16, accept_noncommercial=True)
    # 12 billion times two bytes, and one tensor beside them.
    assert "needs 22.7 GiB on cpu, where 8.0 GiB are free" in message


def test_a_full_size_file_cut_short_is_refused_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "read_tensors", lambda *_: pytest.fail("nothing may be read"))
    refused(official_file(tmp_path / "w", size=0.5), "cut short", config=None, accept_noncommercial=True)


def test_where_free_memory_is_not_known_loading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    assert load_flux2(folder(tmp_path / "w", tensors()), torch.float32, config=TINY)


def test_free_memory_is_less_than_the_machine_has() -> None:
    import os

    free = free_memory(torch.device("cpu"))
    assert free is not None and 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_memory(torch.device("meta")) is None


def test_the_container_limits_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mf_ros.model.flux2.memory._CGROUP", tmp_path)
    for name, text in {
        "memory.max": "1000000\n",
        "memory.current": "900000\n",
        "memory.stat": "anon 5\nactive_file 200\ninactive_file 300\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert free_memory(torch.device("cpu")) == 100500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > 100500


@pytest.mark.parametrize(("device", "words"), [("toaster", "no device 'toaster'"), ("cuda:99", "sees no GPU cuda:99")])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str, words: str) -> None:
    refused(tmp_path, words, device=device)
