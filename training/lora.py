"""Adapters (LoRA, arXiv 2106.09685) through peft: small factors are trained beside weights that stay as they are.

Checkpoints of such a run hold what is trained and say of what: the base is loaded from where it came from, and refused
when it is no longer the same.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mf_ros.engine.bundle import shipped_folder
from mf_ros.errors import ConfigError, ModelError, require_package
from mf_training.checkpoints import (
    ADAPTER,
    Checkpoint,
    CheckpointError,
    Weights,
    load_into,
    stored_weights,
)
from mf_training.sharding import fill

_NAME = "default"
_INNER = ".base_layer"
_LARGEST_RANK = 1024
_EXAMPLES = 4
_REMEDY = "put the old ones back, or name where they lie now: init= in mf-ros train, --base in mf-ros export"


@dataclass(frozen=True)
class LoraConfig:
    """Training small factors beside frozen weights, for networks too large to be trained whole."""

    rank: int = 0
    """Width of the factors; 0 trains all weights and ignores the rest of this group. Needs ``init``."""
    alpha: float = 0.0
    """The product of the factors is scaled by alpha / rank; 0 stands for the rank, that is for 1."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is left out in training."""
    targets: Tuple[str, ...] = (r"blocks\.\d+\.(qkv|attention_proj)",)
    """Linear layers that get factors: regular expressions that match a whole name, as in ``blocks.0.qkv``."""
    also_train: Tuple[str, ...] = ("depth_in", "depth_decoder")
    """Layers, or single weights, that are trained whole: regular expressions too, which match a layer's whole name."""
    half: bool = False
    """Keep the frozen weights in bfloat16, at half the memory; needs ``precision: bf16``."""


def validate_lora(config: LoraConfig, init: str) -> None:
    """Check ranges and relations.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    if not 0 <= config.rank <= _LARGEST_RANK:
        raise ConfigError(f"lora.rank is {config.rank}: allowed is 0 to {_LARGEST_RANK}.")
    if config.alpha < 0:
        raise ConfigError(f"lora.alpha is {config.alpha}: it must be at least 0.")
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"lora.dropout is {config.dropout}: it must be at least 0 and below 1.")
    for name in ("targets", "also_train"):
        for pattern in getattr(config, name):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"lora.{name} has {pattern!r}, which is no regular expression: {error}.") from error
    if config.rank and not config.targets:
        raise ConfigError("lora.targets is empty: name the layers that get factors, or set lora.rank=0.")
    if config.rank and not init:
        raise ConfigError("lora.rank is above 0: name the weights that the adapters belong to: init=nano.")


def targets_of(net: nn.Module, config: LoraConfig) -> List[str]:
    """Names of the linear layers that get factors.

    Raises:
        ConfigError: a pattern matches none.
    """
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    found = set()
    for pattern in config.targets:
        matched = [name for name in layers if re.fullmatch(pattern, name)]
        if not matched:
            examples = ", ".join(layers[:: max(len(layers) // _EXAMPLES, 1)][:_EXAMPLES])
            raise ConfigError(
                f"lora.targets has {pattern!r}, which is the name of no linear layer: they are called {examples} ..."
            )
        found.update(matched)
    return [name for name in layers if name in found]


def trained_whole(net: nn.Module, config: LoraConfig) -> List[str]:
    """Names of the weights that ``also_train`` means.

    Raises:
        ConfigError: one of its entries means none.
    """
    names = [name for name, _ in net.named_parameters()]
    found = set()
    for wanted in config.also_train:
        matched = [name for name in names if re.fullmatch(rf"(?:{wanted})(?:\..*)?", name)]
        if not matched:
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in sorted(names)))
            raise ConfigError(f"lora.also_train has {wanted!r}, which is no layer: the network consists of {parts}.")
        found.update(matched)
    return [name for name in names if name in found]


def adapt(net: nn.Module, config: LoraConfig, targets: Sequence[str], whole: Optional[Sequence[str]] = None) -> Any:
    """Put factors beside layers, in place, and freeze everything else but what is trained whole.

    Args:
        net: the network.
        config: rank and scale of the factors.
        targets: names of layers.
        whole: names of the weights that are trained whole; those of ``also_train`` when not given.

    Returns:
        peft's model around the network, whose ``merge_and_unload`` takes the factors into the weights.

    Raises:
        ConfigError: ``also_train`` names nothing.
        MissingDependencyError: peft is not installed.
    """
    peft = require_package("peft", extra="lora")
    kept = set(trained_whole(net, config) if whole is None else whole)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,
        lora_dropout=config.dropout,
        # Exact names as one expression: a list would be matched by how names end.
        target_modules="|".join(re.escape(name) for name in targets),
    )
    tuner = peft.LoraModel(net, settings, _NAME)
    for name, weight in net.named_parameters():
        plain = name.replace(_INNER, "")
        weight.requires_grad_(ADAPTER in name or plain in kept)
    return tuner


def halve_frozen(net: nn.Module) -> None:
    """Keep what is not trained in bfloat16, in place; autocast computes in it in any case."""
    for weight in net.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(torch.bfloat16)


def base_tensors(net: nn.Module) -> Dict[str, Tensor]:
    """The weights of an adapted network without its factors, by the names they had before."""
    return {name.replace(_INNER, ""): value for name, value in net.state_dict().items() if ADAPTER not in name}


def trained_tensors(net: nn.Module) -> Dict[str, Tensor]:
    """What is trained of an adapted network, by name."""
    return {name: weight.detach() for name, weight in net.named_parameters() if weight.requires_grad}


def start_factors(net: nn.Module, seed: int) -> None:
    """The first values of all factors, so that their products are zero.

    They depend on the seed and their names only, so that a divided network starts as a whole one does.
    """
    for name, factor in net.named_parameters():
        if ADAPTER not in name:
            continue
        start = torch.zeros(factor.shape)
        if f"{ADAPTER}A." in name:
            number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "little")
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=torch.Generator().manual_seed(number))
        fill(factor, start)


def place_of(init: str) -> str:
    """Where weights to start from lie, as it is written into checkpoints: a shipped network's name, or a full path."""
    return init if shipped_folder(init) else str(Path(init).resolve())


def base_weights(
    saved: Any, init: str, checkpoint: Path, *, check: bool = True, stored: Callable[[Path], Weights] = stored_weights
) -> Weights:
    """The weights that a checkpoint's adapters belong to.

    Args:
        saved: what the checkpoint's state says of them.
        init: where they lie; empty looks where they lay.
        checkpoint: for messages.
        check: compare them with those that the adapters were trained on, for which all of them are read.
        stored: what reads weights.

    Raises:
        CheckpointError: they are gone, or no longer the same.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(saved.get(name), str) for name in ("init", "sha256")):
        raise CheckpointError(f"{checkpoint / 'state.json'} does not say which weights its adapters belong to.")
    source = init or saved["init"]
    try:
        weights = stored(Path(source))
    except (CheckpointError, ModelError) as error:
        raise CheckpointError(
            f"{checkpoint} holds adapters of the weights {source}, which cannot be loaded; {_REMEDY} ({error})"
        ) from error
    found = weights.fingerprint() if check else saved["sha256"]
    if found != saved["sha256"]:
        raise CheckpointError(
            f"{source} does not hold the weights that the adapters of {checkpoint} belong to (SHA-256 {found[:12]}..., "
            f"not {saved['sha256'][:12]}...); {_REMEDY}."
        )
    return weights


def load_merged(checkpoint: Checkpoint, config: LoraConfig, into: nn.Module, init: str = "") -> None:
    """Fill a network with a base and the averaged adapters of a checkpoint, merged into plain weights.

    Args:
        checkpoint: of a run with adapters.
        config: of that run.
        into: the network.
        init: where the base lies, if no longer where it lay.

    Raises:
        CheckpointError: base and adapters do not fit each other or the network.
    """
    load_into(into, base_weights(checkpoint.state.get("base"), init, checkpoint.path), init or "the base")
    trained = checkpoint.tensors("ema")
    # Not by the patterns: a checkpoint may come from a stranger, and matching can be made to take for ever.
    targets = {name.split(f"{ADAPTER}A.")[0] for name in trained if f"{ADAPTER}A." in name}
    linear = {name for name, module in into.named_modules() if isinstance(module, nn.Linear)}
    if not targets or not targets <= linear:
        raise CheckpointError(f"{checkpoint.path} holds no adapters of this network's layers.")
    tuner = adapt(into, config, sorted(targets), [name for name in trained if ADAPTER not in name])
    load_into(trained_tensors(into), trained, str(checkpoint.path))
    tuner.merge_and_unload()
    into.requires_grad_(True)
