"""A text-to-image network of FLUX.2 as the start of one with depth: its own image, and a depth stream that begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

import flux2_toys as toys  # noqa: E402
from test_flux2_parts import qwen_folder  # noqa: E402

import mf_ros.model.flux2.text as text_module  # noqa: E402
from mf_ros.errors import ModelError  # noqa: E402
from mf_ros.model.flux2 import Flux2Config, Flux2Network  # noqa: E402
from mf_ros.model.flux2.klein import KleinTensors, is_klein, open_klein  # noqa: E402
from mf_ros.model.flux2.text import cache_folder, empty_prompt, encoded_prompt, keep_prompt  # noqa: E402

CONFIG = toys.tiny_config()
CARD = "---\nlicense: apache-2.0\n---\nA base.\n"


def of_text_and_image(net: Flux2Network) -> Dict[str, torch.Tensor]:
    """The tensors that a network without depth has, under the names of Black Forest Labs."""
    return {
        name: each.contiguous()
        for name, each in net.state_dict().items()
        if "depth" not in name and not name.startswith(("cross_alpha", "time_in_rgb"))
    }


def diffusers_folder(path: Path, config: Flux2Config = CONFIG) -> Any:
    """A folder as it is downloaded, of a tiny network with random weights; returns diffusers' network."""
    torch.manual_seed(1)
    net = toys.diffusers_network(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=parameter.shape[-1] ** -0.5)
    net.save_pretrained(path / "transformer")
    (path / "README.md").write_text(CARD)
    return net


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A file under the names of Black Forest Labs, of the toys' random network."""
    path = tmp_path / "flux-2-klein-base-4b.safetensors"
    safetensors_torch.save_file(of_text_and_image(toys.random_network()), path)
    return path


def start(path: Path) -> Flux2Network:
    """The network that a training begins with."""
    with torch.device("meta"):
        net = Flux2Network(CONFIG)
    net.load_state_dict(dict(KleinTensors(open_klein(path), CONFIG)), assign=True)
    return net.eval()


def without_depth(net: Flux2Network, given: Dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        nothing = torch.zeros(2, 0, net.config.depth_channels)
        made: torch.Tensor = net(**{**given, "depth": nothing}).image
    return made


def test_without_depth_the_image_is_that_of_diffusers(tmp_path: Path) -> None:
    other = diffusers_folder(tmp_path)
    assert is_klein(tmp_path) and is_klein(tmp_path / "transformer")
    net = start(tmp_path)
    given = toys.inputs(net)
    with torch.inference_mode():
        expected = other(
            hidden_states=given["image"],
            encoder_hidden_states=given["text"],
            timestep=given["image_level"],
            img_ids=torch.tensor(toys.positions(0, toys.GRID)[: given["image"].shape[1]], dtype=torch.float32),
            txt_ids=torch.tensor(toys.positions(given["text"].shape[1], (0, 0)), dtype=torch.float32),
            return_dict=False,
        )[0]
    assert 0.1 < expected.abs().mean() < 10
    assert (without_depth(net, given) - expected).abs().max() < 1e-5


def test_names_of_black_forest_labs_are_taken_as_they_are(base: Path) -> None:
    assert is_klein(base)
    net, origin = start(base), toys.random_network()
    state = net.state_dict()
    assert all(torch.equal(state[name], each) for name, each in of_text_and_image(origin).items())


def test_the_depth_stream_begins_as_a_copy_of_the_image_stream_that_puts_out_nothing(base: Path) -> None:
    state = start(base).state_dict()
    assert torch.equal(state["double_blocks.1.depth_attn.qkv.weight"], state["double_blocks.1.img_attn.qkv.weight"])
    assert torch.equal(state["double_blocks.0.depth_mlp.2.weight"], state["double_blocks.0.img_mlp.2.weight"])
    assert torch.equal(
        state["double_stream_modulation_depth.lin.weight"], state["double_stream_modulation_img.lin.weight"]
    )
    assert torch.equal(state["single_stream_modulation_depth.lin.weight"], state["single_stream_modulation.lin.weight"])
    assert torch.equal(state["time_in_depth.in_layer.weight"], state["time_in.in_layer.weight"])
    # The one decoder block follows the last single block.
    assert torch.equal(state["depth_decoder_blocks.0.linear1.weight"], state["single_blocks.1.linear1.weight"])
    for name in ("depth_final_layer.linear.weight", "depth_decoder_blocks.0.linear2.weight", "cross_alpha_depth"):
        assert not state[name].any(), name
    assert state["depth_in.weight"].std() == pytest.approx(16**-0.5, rel=0.1)


def test_the_same_base_gives_the_same_start(base: Path) -> None:
    tensors = KleinTensors(open_klein(base), CONFIG)
    assert torch.equal(tensors["depth_in.weight"], KleinTensors(open_klein(base), CONFIG)["depth_in.weight"])
    assert set(tensors) == set(toys.random_network().state_dict()) and len(tensors) == len(list(tensors))


def test_a_fresh_depth_stream_makes_no_depth_yet(base: Path) -> None:
    net = start(base)
    assert not net(**toys.inputs(net)).depth.any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("img_in.weight"), "missing: img_in.weight"),
        (lambda state: state.update({"guidance_in.weight": torch.zeros(1)}), "not known: guidance_in.weight"),
        (lambda state: state.update({"txt_in.weight": torch.zeros(3, 3)}), r"txt_in.weight has shape \(3, 3\)"),
        (
            lambda state: state.update({"txt_in.weight": state["txt_in.weight"].to(torch.float64)}),
            "txt_in.weight has dtype F64",
        ),
    ],
)
def test_tensors_of_another_network_are_named(base: Path, change: Any, words: str) -> None:
    state = safetensors_torch.load_file(base)
    change(state)
    safetensors_torch.save_file(state, base)
    with pytest.raises(ModelError, match=words):
        start(base)


def test_a_folder_without_weights_says_what_to_download(tmp_path: Path) -> None:
    assert not is_klein(tmp_path)
    with pytest.raises(ModelError, match=r"download black-forest-labs/FLUX\.2-klein-base-4B there"):
        start(tmp_path)


def test_the_licence_of_the_card_above_counts(tmp_path: Path) -> None:
    diffusers_folder(tmp_path)
    assert open_klein(tmp_path).licence == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: flux-non-commercial-license\n---\n")
    assert open_klein(tmp_path).licence == "flux-non-commercial-license"


def test_the_sizes_are_those_of_four_thousand_million_weights() -> None:
    pytest.importorskip("accelerate")
    from mf_training.recipe import kind_of
    from mf_training.settings import read_preset

    sizes = read_preset("models", "klein_4b")
    with torch.device("meta"):
        net = kind_of(sizes).build(sizes)
    of_depth = sum(each.numel() for name, each in net.named_parameters() if "depth" in name or "rgb" in name)
    whole = sum(each.numel() for each in net.parameters())
    assert 3.8e9 < whole - of_depth < 4.0e9, "the base has 3.88 thousand million"
    assert whole == pytest.approx(5.14e9, rel=0.01)


def test_the_empty_prompt_is_made_with_the_tokenizer_beside_the_text_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = qwen_folder(tmp_path / "klein" / "text_encoder")
    expected = encoded_prompt(encoder, torch.device("cpu"))
    (tmp_path / "klein" / "tokenizer").mkdir()
    for file in encoder.glob("tokenizer*"):
        file.rename(tmp_path / "klein" / "tokenizer" / file.name)
    assert torch.equal(empty_prompt(tmp_path / "klein", 24), expected)


def test_the_smaller_network_has_a_prompt_and_a_text_encoder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = cache_folder() / "empty_prompt_4b.safetensors"
    asked: List[str] = []

    def refuse(name: str, *_: Any, **__: Any) -> Path:
        asked.append(name)
        raise ModelError("No network.")

    monkeypatch.setattr(text_module, "snapshot", refuse)
    with pytest.raises(ModelError, match=r"nor .*empty_prompt_4b\.safetensors, .* hf download Qwen/Qwen3-4B"):
        empty_prompt(tmp_path, 7680)
    assert asked == ["Qwen/Qwen3-4B"]
    keep_prompt(torch.ones(1, 512, 7680, dtype=torch.bfloat16), kept)
    assert empty_prompt(tmp_path, 7680).shape == (1, 512, 7680)
