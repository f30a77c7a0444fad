"""The empty prompt as the network was trained with it: three hidden states of Qwen3, computed once and kept in a file.

Image to depth uses no other prompt, so the text encoder, nearly as large as the network itself, is needed once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Mapping, Union

import torch
from torch import Tensor

from mf_ros.errors import ModelError, require_package
from mf_ros.hub import missing_files, snapshot
from mf_ros.model.flux2.files import open_tensors, shown
from mf_ros.model.flux2.loading import check_tensors, read_tensors
from mf_ros.model.flux2.memory import check_memory

_log = logging.getLogger(__name__)

FILE = "empty_prompt.safetensors"
"""Name of the file, beside the weights or in the user's cache."""
ENCODER = "Qwen/Qwen3-8B"
"""The text encoder that FLUX.2 [klein] 9B was trained with."""
ENCODER_4B = "Qwen/Qwen3-4B"
"""That of FLUX.2 [klein] 4B, whose text tokens have 7680 channels."""
LENGTH = 512
"""Tokens of a prompt; what it does not fill is padding, which the network was trained to see."""

_FOLDER, _TOKENIZER = "text_encoder", "tokenizer"
_CHANNELS_4B = 7680
_NAME = "empty_prompt"
_LAYERS = (9, 18, 27)
# Of the last layer the library puts out the normed state, so one more than the last that is wanted is kept.
_KEPT_LAYERS = _LAYERS[-1] + 1
_OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_OF_MODEL = "model*.safetensors*"
_SPARE = 1.2


def empty_prompt(
    folder: Path, channels: int, device: Union[str, torch.device] = "cpu", *, download: bool = False
) -> Tensor:
    """(1, 512, channels) bfloat16: what the text encoder makes of the empty prompt.

    Read from ``empty_prompt.safetensors`` in the folder of the weights, else in the user's cache, else computed with
    Qwen3 in the folder ``text_encoder`` beside the weights or in the cache of the Hub, and kept in the user's cache
    (that of the 4B network as ``empty_prompt_4b.safetensors``).

    Args:
        folder: of the weights.
        channels: of a text token of the network.
        device: where the result goes, and where the text encoder runs if it must.
        download: whether the text encoder, 16 or 8 GB, may be downloaded.

    Raises:
        MissingDependencyError: safetensors is not installed, or transformers where it is needed.
        ModelError: there is neither the file nor the text encoder, or they do not fit the network or the memory.
    """
    where = torch.device(device)
    small = channels == _CHANNELS_4B
    kept = cache_folder() / (FILE.replace(".", "_4b.", 1) if small else FILE)
    for path in (folder / FILE, kept):
        if path.is_file():
            return _read(path, channels, where)
    name = ENCODER_4B if small else ENCODER
    made = encoded_prompt(_encoder(folder, name, kept, download), where)
    if made.shape[2] != channels:
        raise ModelError(
            f"The text encoder gives {made.shape[2]} channels, the network takes {channels}: it needs {name}."
        )
    keep_prompt(made, kept)
    return made


def keep_prompt(made: Tensor, path: Path) -> None:
    """Write the file of a prompt, whole or not at all; one that cannot be written costs time, and is warned of."""
    torch_files = require_package("safetensors.torch", extra="flux")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            torch_files.save_file({_NAME: made.cpu().contiguous()}, str(Path(beside) / FILE))
            (Path(beside) / FILE).replace(path)
    except OSError as error:
        _log.warning("The empty prompt cannot be kept in %s (%s): it will be computed again.", path, shown(error))


def cache_folder() -> Path:
    """Where what is computed once is kept: ``mf_ros`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "mf_ros"


def encoded_prompt(encoder: Path, device: torch.device, prompt: str = "") -> Tensor:
    """(1, 512, 3 * width) bfloat16 of a prompt: hidden states 9, 18 and 27 side by side.

    The chat template has thinking switched off; padding stands on the right and is kept.

    Args:
        encoder: folder of a Qwen3 with its tokenizer.
        device: where to run it.
        prompt: the text.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelError: it cannot be loaded, or has no room.
    """
    transformers = require_package("transformers", extra="flux")
    _check_memory(encoder, device)
    # No code that comes with a model is run, and nothing is fetched.
    safely: Dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(str(encoder), **safely)
        _check_layers(encoder, config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(_tokenizer_of(encoder)), **safely)
        config.num_hidden_layers = _KEPT_LAYERS
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:_KEPT_LAYERS]
        kind: Dict[str, Any] = {"config": config, "dtype": torch.bfloat16, "use_safetensors": True}
        with _quiet(transformers):
            model, found = transformers.AutoModel.from_pretrained(
                str(encoder), output_loading_info=True, **kind, **safely
            )
        _check_complete(encoder, found)
        states = _states(model.to(device).eval(), _tokens(tokenizer, prompt), device)
    except ModelError:
        raise
    except Exception as error:  # errors of the libraries have no common base but this
        raise ModelError(f"The text encoder in {encoder} cannot be used: {shown(error)}.") from error
    made = torch.cat([states[layer] for layer in _LAYERS], 2).to(torch.bfloat16)
    # Its memory is needed for the network.
    del model, states
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return made


@contextlib.contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without the library's list of weights that are left out on purpose."""
    logs = transformers.utils.logging
    before = logs.get_verbosity()
    logs.set_verbosity_error()
    try:
        yield
    finally:
        logs.set_verbosity(before)


def _tokens(tokenizer: Any, prompt: str) -> Dict[str, Tensor]:
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    tokenizer.padding_side = "right"
    made = tokenizer(text, return_tensors="pt", padding="max_length", truncation=True, max_length=LENGTH)
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def _states(model: Any, tokens: Dict[str, Tensor], device: torch.device) -> List[Tensor]:
    with torch.inference_mode():
        out = model(
            **{name: each.to(device) for name, each in tokens.items()}, output_hidden_states=True, use_cache=False
        )
    return list(out.hidden_states)


def _check_layers(encoder: Path, config: Any) -> None:
    kind, layers = getattr(config, "model_type", None), getattr(config, "num_hidden_layers", 0)
    if kind != "qwen3" or layers < _KEPT_LAYERS:
        raise ModelError(
            f"The text encoder in {encoder} is {shown(kind)} with {layers} layers: {ENCODER} is needed (or -4B, for a "
            f"network of 7680 text channels), or the file {FILE} that was made with it."
        )


def _check_complete(encoder: Path, found: Mapping[str, Any]) -> None:
    """The library fills tensors that are missing with random numbers."""
    missing = sorted({str(name) for name in found.get("missing_keys", ())})
    if missing:
        raise ModelError(
            f"The weights in {encoder} lack {shown(missing[0])}: download {ENCODER} (Qwen3-4B for a 4B "
            "network) there again."
        )


def _check_memory(encoder: Path, device: torch.device) -> None:
    needed = int(_SPARE * sum(path.stat().st_size for path in encoder.glob("model*.safetensors")))
    advice = f"it runs once, so make {FILE} on a larger machine and copy it beside the weights"
    check_memory(f"The text encoder {encoder}", needed, device, advice)


def _encoder(folder: Path, name: str, kept: Path, download: bool) -> Path:
    """Where Qwen3 is.

    Args:
        folder: of the weights.
        name: on the Hub.
        kept: the file that would spare it.
        download: whether it may be downloaded.
    """
    beside = folder / _FOLDER
    if beside.is_dir():
        missing = [
            *missing_files(beside, ["config.json"]),
            *missing_files(_tokenizer_of(beside), _OF_TOKENIZER),
            *missing_files(beside, [_OF_MODEL]),
        ]
        if missing:
            raise ModelError(f"The text encoder {beside} lacks {', '.join(missing)}: download {name} there again.")
        return beside
    try:
        if download:
            size = "8" if name == ENCODER_4B else "16"
            _log.warning("The empty prompt is encoded once with %s, %s GB, which is downloaded first.", name, size)
        return snapshot(name, ("config.json", *_OF_TOKENIZER, _OF_MODEL), extra="flux", download=download)
    except ModelError as error:
        raise ModelError(
            f"There is neither {FILE} in {folder} nor {kept}, nor the text encoder to make it with: run hf download "
            f"{name}, or copy the file from a machine that has it. ({error})"
        ) from error


def _tokenizer_of(encoder: Path) -> Path:
    """Folder of the tokenizer: folders of diffusers have it beside the text encoder."""
    beside = encoder.parent / _TOKENIZER
    return beside if encoder.name == _FOLDER and beside.is_dir() and missing_files(encoder, _OF_TOKENIZER) else encoder


def _read(path: Path, channels: int, device: torch.device) -> Tensor:
    tensors = {each.name: each for each in open_tensors(path)}
    if _NAME not in tensors:
        raise ModelError(f"{path} holds no tensor '{_NAME}': delete it, and it is made again.")
    check_tensors(tensors, {_NAME: (1, LENGTH, channels)})
    return read_tensors({_NAME: tensors[_NAME]}, {_NAME: torch.bfloat16}, device)[_NAME]
