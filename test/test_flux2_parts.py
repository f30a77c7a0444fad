"""Autoencoder and text encoder of the released FLUX.2 network: tensors by their published names, a prompt kept once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Dict

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

import flux_toys as toys  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import mf_ros.model.flux2.memory as memory  # noqa: E402
import mf_ros.model.flux2.text as text_module  # noqa: E402
from mf_ros.errors import ModelError  # noqa: E402
from mf_ros.hub import is_hub_id, missing_files, snapshot  # noqa: E402
from mf_ros.model.flux2.text import FILE, cache_folder, empty_prompt, encoded_prompt  # noqa: E402
from mf_ros.model.flux2.vae import DECODER, ENCODER, diffusers_name, load_autoencoder  # noqa: E402

CPU = torch.device("cpu")
Tensors = Dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def vae_folder(path: Path, tensors: Any = None, parts: tuple[str, ...] = ("encoder", "decoder")) -> Path:
    path.mkdir(exist_ok=True)
    for part in parts:
        own = toys.part_of(toys.vae_tensors() if tensors is None else tensors, part)
        safetensors_torch.save_file(
            {name: each.contiguous() for name, each in own.items()}, path / f"ae_{part}.safetensors"
        )
    return path


class ByHand:
    """The autoencoder as it is published, from tensors under its own names."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def conv(self, name: str, x: torch.Tensor, **options: int) -> torch.Tensor:
        return F.conv2d(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], **options)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, 32, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], eps=1e-6)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        h = x
        for number in (1, 2):
            h = self.conv(f"{name}.conv{number}", F.silu(self.norm(f"{name}.norm{number}", h)), padding=1)
        skip = self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.tensors else x
        return skip + h

    def middle(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.block(f"{name}.mid.block_1", x)
        normed = self.norm(f"{name}.mid.attn_1.norm", x)
        query, key, value = (self.conv(f"{name}.mid.attn_1.{part}", normed).flatten(2) for part in "qkv")
        weight = torch.softmax(query.transpose(1, 2) @ key / query.shape[1] ** 0.5, -1)
        seen = (value @ weight.transpose(1, 2)).reshape(x.shape)
        return self.block(f"{name}.mid.block_2", x + self.conv(f"{name}.mid.attn_1.proj_out", seen))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv("encoder.conv_in", x, padding=1)
        for level in range(4):
            x = self.block(f"encoder.down.{level}.block.0", x)
            if level < 3:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = F.silu(self.norm("encoder.norm_out", self.middle("encoder", x)))
        x = self.conv("encoder.quant_conv", self.conv("encoder.conv_out", x, padding=1))
        mean = x[:, : x.shape[1] // 2]
        count, channels, height, width = mean.shape
        # Channel, row and column in the cell are the channels of a token.
        cells = mean.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        tokens = cells.reshape(count, height * width // 4, channels * 4)
        return (tokens - self.tensors["bn.running_mean"]) / (self.tensors["bn.running_var"] + 1e-4).sqrt()

    def decode(self, tokens: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
        tokens = tokens * (self.tensors["bn.running_var"] + 1e-4).sqrt() + self.tensors["bn.running_mean"]
        count, _, channels = tokens.shape
        cells = tokens.reshape(count, rows, cols, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        x = self.conv("decoder.post_quant_conv", cells.reshape(count, channels // 4, rows * 2, cols * 2))
        x = self.middle("decoder", self.conv("decoder.conv_in", x, padding=1))
        for level in (3, 2, 1, 0):
            for number in (0, 1):
                x = self.block(f"decoder.up.{level}.block.{number}", x)
            if level:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = self.conv(f"decoder.up.{level}.upsample.conv", x, padding=1)
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.norm_out", x)), padding=1)


def test_the_autoencoder_computes_what_its_published_structure_says(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    codec = load_autoencoder(vae_folder(tmp_path), parts=(ENCODER, DECODER))
    by_hand = ByHand(toys.vae_tensors())
    image = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tokens = codec.encode(image)
    assert tokens.shape == (2, 12, 8) and (codec.channels, codec.pixels) == (8, 16)
    expected = by_hand.encode(image)
    assert expected.std() > 0.01
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-4)
    decoded = by_hand.decode(tokens, 3, 4)
    assert decoded.shape == image.shape and decoded.std() > 0.01 and (decoded.abs() < 1).float().mean() > 0.1
    torch.testing.assert_close(codec.decode(tokens, (3, 4)), decoded.clamp(-1, 1), rtol=1e-3, atol=1e-3)


def test_the_encoder_alone_is_enough_for_depth(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    codec = load_autoencoder(vae_folder(tmp_path, parts=("encoder",)))
    assert codec.encode(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 8)
    with pytest.raises(ModelError, match=r"without ae_decoder\.safetensors"):
        codec.decode(torch.zeros(1, 1, 8), (1, 1))


def test_names_of_the_released_files_are_those_of_diffusers_in_another_order() -> None:
    for name, part, expected in (
        ("down.2.block.1.nin_shortcut.bias", "encoder", "encoder.down_blocks.2.resnets.1.conv_shortcut.bias"),
        ("down.0.downsample.conv.weight", "encoder", "encoder.down_blocks.0.downsamplers.0.conv.weight"),
        ("up.3.block.2.norm2.weight", "decoder", "decoder.up_blocks.0.resnets.2.norm2.weight"),
        ("up.1.upsample.conv.bias", "decoder", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
        ("mid.attn_1.proj_out.weight", "encoder", "encoder.mid_block.attentions.0.to_out.0.weight"),
        ("mid.attn_1.q.bias", "decoder", "decoder.mid_block.attentions.0.to_q.bias"),
        ("mid.block_2.conv1.weight", "decoder", "decoder.mid_block.resnets.1.conv1.weight"),
        ("norm_out.weight", "encoder", "encoder.conv_norm_out.weight"),
        ("quant_conv.weight", "encoder", "quant_conv.weight"),
        ("bn.running_var", "encoder", "bn.running_var"),
        ("down.0.attn.0.q.weight", "encoder", None),
        ("lpips.lin.weight", "encoder", None),
    ):
        assert diffusers_name(name, part, 4) == expected


def test_a_missing_autoencoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ae_encoder\.safetensors is missing: FLUX\.2's autoencoder is part"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.lpips": torch.zeros(1)}, "not of FLUX.2's autoencoder: it has a tensor lpips"),
        ({"bn.running_mean": torch.zeros(7)}, "its batch norm or its blocks are missing"),
        ({"encoder.down.0.block.0.conv1.weight": torch.zeros(33, 32, 3, 3)}, "blocks of (33, "),
    ],
)
def test_a_file_of_another_autoencoder_is_refused(tmp_path: Path, change: Tensors, words: str) -> None:
    folder = vae_folder(tmp_path, {**toys.vae_tensors(), **change})
    with pytest.raises(ModelError) as caught:
        load_autoencoder(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_autoencoder_with_tensors_missing_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    tensors = toys.vae_tensors()
    without = {name: each for name, each in tensors.items() if name != "encoder.mid.attn_1.k.bias"}
    with pytest.raises(ModelError, match=r"attentions\.0\.to_k\.bias is missing"):
        load_autoencoder(vae_folder(tmp_path, without))
    for changed, words in ((torch.zeros(64, 32, 1, 1), "has shape"), (torch.zeros(64).double(), "has dtype F64")):
        name = "encoder.mid.attn_1.k.weight" if changed.dim() == 4 else "encoder.mid.attn_1.k.bias"
        with pytest.raises(ModelError, match=words):
            load_autoencoder(vae_folder(tmp_path, {**tensors, name: changed}))


def prompt_file(path: Path, shape: tuple[int, ...] = (1, 512, 20), name: str = "empty_prompt") -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors_torch.save_file({name: made}, path)
    return made


def no_encoder(*_: object) -> None:
    pytest.fail("the text encoder is not needed")


def test_the_prompt_is_read_from_beside_the_weights_or_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "encoded_prompt", no_encoder)
    cached = prompt_file(cache_folder() / FILE)
    assert torch.equal(empty_prompt(tmp_path, 20), cached)
    beside = prompt_file(tmp_path / "w" / FILE)
    assert torch.equal(empty_prompt(tmp_path / "w", 20), beside)
    assert cache_folder() == tmp_path / "cache" / "mf_ros"


def test_a_prompt_of_another_network_is_refused(tmp_path: Path) -> None:
    prompt_file(tmp_path / FILE, (1, 77, 20))
    with pytest.raises(ModelError, match=r"empty_prompt has shape \(1, 77, 20\), but the network needs \(1, 512, 20\)"):
        empty_prompt(tmp_path, 20)
    prompt_file(tmp_path / FILE, name="other")
    with pytest.raises(ModelError, match="holds no tensor 'empty_prompt'"):
        empty_prompt(tmp_path, 20)


def test_without_the_file_and_the_text_encoder_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "snapshot", lambda *_, **__: (_ for _ in ()).throw(ModelError("Nothing.")))
    with pytest.raises(
        ModelError, match=r"neither empty_prompt\.safetensors in .* nor the text encoder .*Qwen/Qwen3-8B"
    ):
        empty_prompt(tmp_path, 20)
    (tmp_path / "text_encoder").mkdir()
    with pytest.raises(ModelError, match=r"text_encoder lacks config\.json, tokenizer\.json"):
        empty_prompt(tmp_path, 20)


def qwen_folder(path: Path, **changes: Any) -> Path:
    """A tiny Qwen3 with random weights and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<|im_start|>", "<|im_end|>", "user", "assistant", "<think>", "</think>", "tree", "[UNK]"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="[UNK]")
    fast.chat_template = (
        "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}<|im_start|> assistant"
        "{% if enable_thinking is false %} <think> </think>{% endif %}"
    )
    fast.save_pretrained(path)
    # The folder holds the template in the file of the tokenizer, as that of Qwen3 does.
    extra = path / "chat_template.jinja"
    if extra.is_file():
        settings = json.loads((path / "tokenizer_config.json").read_text())
        settings["chat_template"] = extra.read_text()
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        extra.unlink()
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"head_dim": 4, "num_hidden_layers": 30, "vocab_size": len(words), **changes}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    model.to(torch.bfloat16).save_pretrained(path)
    return path


def test_the_prompt_is_three_hidden_states_of_the_text_encoder_with_padding(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = encoded_prompt(qwen_folder(tmp_path / "qwen"), CPU)
    assert made.shape == (1, 512, 24) and made.dtype == torch.bfloat16
    # <|im_start|> user <|im_end|> <|im_start|> assistant <think> </think>, and padding on the right.
    tokens = torch.tensor([[1, 3, 2, 1, 4, 5, 6] + [0] * 505])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "qwen", dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        states = model(tokens, attention_mask=(torch.arange(512) < 7)[None].long(), output_hidden_states=True)
    expected = torch.cat([states.hidden_states[layer] for layer in (9, 18, 27)], 2)
    torch.testing.assert_close(made, expected)
    assert made[0, 6].std() > 0.01 and made[0, 100].std() > 0.01, "padding is kept"


def test_the_prompt_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qwen_folder(tmp_path / "text_encoder")
    first = empty_prompt(tmp_path, 24)
    monkeypatch.setattr(text_module, "encoded_prompt", no_encoder)
    assert torch.equal(empty_prompt(tmp_path, 24), first)
    assert [path.name for path in cache_folder().iterdir()] == [FILE]


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(text_module, "_encoder", lambda *_: tmp_path)
    monkeypatch.setattr(text_module, "encoded_prompt", lambda *_: torch.zeros(1, 512, 20))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert empty_prompt(tmp_path, 20).shape == (1, 512, 20)
    assert "it will be computed again" in caplog.text


def test_a_text_encoder_of_another_size_or_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qwen_folder(tmp_path / "text_encoder", num_hidden_layers=12)
    with pytest.raises(ModelError, match="is qwen3 with 12 layers: Qwen/Qwen3-8B is needed"):
        empty_prompt(tmp_path, 24)
    monkeypatch.setattr(text_module, "encoded_prompt", lambda *_: torch.zeros(1, 512, 24))
    with pytest.raises(ModelError, match="gives 24 channels, the network takes 12288"):
        empty_prompt(tmp_path, 12288)
    assert not cache_folder().exists()


def test_a_text_encoder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    folder = qwen_folder(tmp_path / "qwen")
    state = safetensors_torch.load_file(folder / "model.safetensors")
    without = {name: each for name, each in state.items() if "layers.3.mlp.up_proj" not in name}
    assert len(without) == len(state) - 1
    safetensors_torch.save_file(without, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack .*layers\.3\.mlp\.up_proj\.weight: download Qwen/Qwen3-8B"):
        encoded_prompt(folder, CPU)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"The text encoder in .* cannot be used") as caught:
        encoded_prompt(folder, CPU)
    assert "\n" not in str(caught.value)


def test_a_text_encoder_that_memory_has_no_room_for_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "model.safetensors").write_bytes(bytes(2000))
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match=r"needs 0\.0 GiB on cpu, where .* it runs once, so make"):
        encoded_prompt(tmp_path, CPU)


def hub_cache(root: Path, repository: str, files: Dict[str, str]) -> Path:
    """A model of some files as the Hub's library keeps it after a download."""
    made = root / "made"
    made.mkdir(parents=True)
    for name, text in files.items():
        (made / name).write_text(text)
    return toys.into_hub_cache(root, repository, made)


@pytest.fixture()
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_model_that_was_downloaded_is_found_off_line(hub: Path) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    files = {"config.json": "{}", "model.safetensors.index.json": index, "model-1.safetensors": ""}
    folder = hub_cache(hub, "someone/model", {**files, "model-2.safetensors": ""})
    assert snapshot("someone/model", ("config.json", "model*"), extra="flux") == folder
    (folder / "model-2.safetensors").unlink()
    assert missing_files(folder, ("config.json", "model*", "ae*")) == ["model-2.safetensors", "ae*"]
    with pytest.raises(ModelError, match=r"not in the cache of the Hub: model-2\.safetensors"):
        snapshot("someone/model", ("config.json", "model*"), extra="flux", download=False)


def test_a_model_that_cannot_be_had_is_said_in_one_sentence(hub: Path) -> None:
    with pytest.raises(ModelError, match=r"someone/model cannot be downloaded .*connect to it once") as caught:
        snapshot("someone/model", ("config.json",), extra="flux")
    assert "\n" not in str(caught.value)


def test_names_of_the_hub_have_an_owner() -> None:
    good, bad = ("bartduis/modality_forcing", "Qwen/Qwen3-8B"), ("nano", "a/b/c", "../x", "/x/y", "a/", "a b/c", "-a/b")
    assert all(map(is_hub_id, good)) and not any(map(is_hub_id, bad))
