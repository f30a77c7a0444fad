"""A trained FLUX.2 network as a folder that the engine ``flux`` loads: official names, merged adapters, one licence.

Tensors are read, merged and written one after the other, so that a network of 12 billion weights never lies in memory
as a whole.
"""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from mf_ros.core.settings import plain_values
from mf_ros.engine.bundle import CARD, CONFIG
from mf_ros.errors import ModelError
from mf_ros.licences import is_non_commercial
from mf_ros.model.flux2 import Flux2Config, Flux2Network
from mf_ros.model.flux2.files import INDEX, WEIGHTS
from mf_ros.model.flux2.loading import read_tensors
from mf_ros.model.flux2.text import FILE as PROMPT
from mf_ros.model.flux2.text import empty_prompt, keep_prompt
from mf_ros.model.flux2.vae import DECODER, ENCODER, WHOLE, stored_part
from mf_training.card import metrics_lines, origin_of, training_lines
from mf_training.checkpoints import ADAPTER, Checkpoint, CheckpointError, Weights
from mf_training.config import TrainConfig
from mf_training.export import LICENCE, Exported, training_of, whole_folder
from mf_training.flux.weights import PREFIX, flux_weights, parts_folder
from mf_training.lora import LoraConfig, base_weights
from mf_training.recipe import without_kind
from mf_training.settings import train_config_from_mapping

SHARD_BYTES = 5_000_000_000
"""Weights of more are written as several files and an index, as released ones are."""

_FLOAT32 = "depth_final_layer."
_PARTS = (ENCODER, DECODER)
_KINDS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_WEIGHT_FILE = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TERMS = ", with `engine.accept_noncommercial: true`"
_KNOWN = (CONFIG, CARD, INDEX, PROMPT, *_PARTS)


def export_flux(
    checkpoint: Checkpoint,
    out: Path,
    *,
    base: str = "",
    licence: str = LICENCE,
    metrics: Optional[Mapping[str, Any]] = None,
) -> Exported:
    """Write the averaged weights of a checkpoint as the engine ``flux`` loads them.

    Args:
        checkpoint: of a run.
        out: the folder; an earlier export in it is replaced.
        base: where the weights lie that training started from, if no longer where the run found them.
        licence: of the weights; those that were trained from others stay under the licence of these.
        metrics: results for the model card, as tables: title to rows, each of column to value.

    Raises:
        CheckpointError: base and checkpoint do not fit each other or the network.
        ModelError: the licence is another one than that of the base, weights are not finite, or ``out`` holds
            something else than an exported network.
    """
    config = train_config_from_mapping(checkpoint.state["config"])
    assert isinstance(config.model, dict)
    sizes = Flux2Config.from_mapping(plain_values(without_kind(config.model)))
    stated = licence_of_run(checkpoint.state, licence)
    init = base or (checkpoint.state.get("base") or {}).get("init") or config.init
    parts = parts_folder(TrainConfig(model={}, flux=config.flux, init=init))
    tensors = merged_tensors(checkpoint, sizes, config.lora, base)
    out = out.resolve()
    _check_replaceable(out)
    with whole_folder(out) as part:
        _write_weights(tensors, part)
        for file in _PARTS:
            _write_codec(parts, file, part)
        keep_prompt(empty_prompt(parts, sizes.text_channels), part / PROMPT)
        training = {**training_of(checkpoint.state), **origin_of(checkpoint.state)}
        description = {
            "flux2": plain_values(vars(sizes)),
            "resolution": max(config.data.shapes[0]),
            "license": stated,
            "base": training.get("parent"),
            "training": training,
        }
        (part / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        card = _card(out.name, tensors.parameters, stated, training, metrics or {})
        (part / CARD).write_text(card, encoding="utf-8")
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return Exported(out, tensors.parameters, None, files)


def licence_of_run(state: Mapping[str, Any], wanted: str) -> str:
    """The licence of what a run trained.

    Raises:
        ModelError: another one is wanted than that of the weights it started from.
    """
    parent = (state.get("sources") or {}).get("parent") or {}
    found = parent.get("licence")
    if not isinstance(found, str) or not found:
        return wanted
    if wanted not in (LICENCE, found):
        raise ModelError(
            f"The network was trained from {parent.get('name', 'weights')} under the licence {found}, which stays that "
            f"of what comes of it: leave --licence {wanted} out."
        )
    return found


class MergedTensors(Weights):
    """The tensors of the network, each with its adapters taken in when it is asked for, float32.

    Args:
        base: of all of the network's.
        trained: what replaces them: whole tensors, and factors of adapters.
        sizes: of the network.
        scale: of the product of the factors.
        source: for messages.

    Raises:
        CheckpointError: they do not fit the network.
    """

    def __init__(
        self, base: Weights, trained: Mapping[str, Tensor], sizes: Flux2Config, scale: float, source: str
    ) -> None:
        with torch.device("meta"):
            state = Flux2Network(sizes).state_dict()
        self.shapes: Dict[str, Tuple[int, ...]] = {name: tuple(each.shape) for name, each in state.items()}
        self._base, self._trained, self._scale, self._source = base, trained, scale, source
        layers = {name.split(ADAPTER)[0] for name in trained if ADAPTER in name}
        wrong = sorted(set(self.shapes) ^ set(base))
        wrong += sorted({name for name in trained if ADAPTER not in name} - set(self.shapes))
        wrong += sorted({f"{layer}.weight" for layer in layers} - set(self.shapes))
        if wrong:
            raise CheckpointError(f"{source} does not hold the weights of this network: {wrong[0]} does not fit.")

    @property
    def parameters(self) -> int:
        """How many weights there are."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def __getitem__(self, name: str) -> Tensor:
        value = (self._trained if name in self._trained else self._base)[name].float()
        first, second = (
            self._trained.get(f"{name.removesuffix('.weight')}{ADAPTER}{half}.default.weight") for half in "AB"
        )
        if value.shape == self.shapes[name] and first is not None and second is not None:
            value = value + self._scale * (second.float() @ first.float())
        if value.shape != self.shapes[name] or not bool(value.isfinite().all()):
            raise CheckpointError(f"{self._source}: {name} has another shape than the network, or is not finite.")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def merged_tensors(checkpoint: Checkpoint, sizes: Flux2Config, lora: LoraConfig, base: str = "") -> MergedTensors:
    """The averaged weights of a checkpoint, its adapters merged into the weights they belong to.

    Raises:
        CheckpointError: the base is gone or no longer the same, or does not fit.
    """
    trained = checkpoint.tensors("ema")
    if "base" not in checkpoint.state:
        return MergedTensors(trained, {}, sizes, 0.0, str(checkpoint.path))
    stored = functools.partial(flux_weights, sizes=sizes)
    found = base_weights(checkpoint.state["base"], base, checkpoint.path, stored=stored)
    return MergedTensors(found, trained, sizes, (lora.alpha or lora.rank) / max(lora.rank, 1), str(checkpoint.path))


def _write_weights(tensors: MergedTensors, folder: Path) -> None:
    """Official names and dtypes; several files with an index where one would be large."""
    kinds = {name: torch.float32 if name.startswith(_FLOAT32) else torch.bfloat16 for name in tensors}
    groups: List[List[str]] = [[]]
    size = 0
    for name, kind in kinds.items():
        bytes_of = math.prod(tensors.shapes[name]) * kind.itemsize
        if groups[-1] and size + bytes_of > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += bytes_of
    count = len(groups)
    files = [WEIGHTS] if count == 1 else [f"model-{k + 1:05d}-of-{count:05d}.safetensors" for k in range(count)]
    for file, names in zip(files, groups, strict=True):
        save_file({PREFIX + name: tensors[name].to(kinds[name]).contiguous() for name in names}, folder / file)
    if count > 1:
        placed = {PREFIX + name: file for file, names in zip(files, groups, strict=True) for name in names}
        (folder / INDEX).write_text(json.dumps({"weight_map": placed}, indent=1) + "\n", encoding="utf-8")


def _write_codec(parts: Path, file: str, folder: Path) -> None:
    """A copy of one half of the autoencoder, taken out of diffusers' file of both where that is what there is."""
    if (parts / file).is_file():
        shutil.copyfile(parts / file, folder / file)
    elif (parts / WHOLE).is_file():
        stored = stored_part(parts, file)
        kinds = {name: _KINDS[each.dtype] for name, each in stored.items() if each.dtype in _KINDS}
        tensors = read_tensors({name: stored[name] for name in kinds}, kinds, torch.device("cpu"))
        save_file(tensors, folder / file)
    elif file == ENCODER:
        raise ModelError(f"{parts} holds no autoencoder any more: name the folder of the base with --base.")


def _check_replaceable(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    foreign = [
        name for name in names if name not in _KNOWN and not re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)
    ]
    if not names or foreign or CONFIG not in names:
        raise ModelError(f"{out} holds something else than a network of this kind: name a new folder.")


def _card(name: str, parameters: int, licence: str, training: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    terms = _TERMS if is_non_commercial(licence) else ""
    lines = [
        "---",
        f"license: {json.dumps(licence)}",
        "---",
        f"# {name}",
        "",
        "Depth of an image with the returns of a LiDAR: Modality Forcing (arXiv 2606.13676) on FLUX.2, post-trained.",
        "",
        f"- {parameters / 1e9:.3g} thousand million parameters, bfloat16; licence {licence}",
        "- input: RGB image, sparse depth on its grid; output: depth in metres by a fit to the returns",
        f"- loaded by `engine.name: flux` with `engine.model: FOLDER` of mf_ros{terms}",
        *training_lines(training),
        *metrics_lines(metrics),
    ]
    return "\n".join(lines) + "\n"
