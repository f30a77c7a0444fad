"""Released weights into the network: everything that can be wrong is said before anything of size is allocated."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Tuple, Union

import torch
from torch import Tensor

from mf_ros.errors import ConfigError, ModelError, require_package
from mf_ros.licences import licence_warning
from mf_ros.model.flux2.config import OFFICIAL_VARIANTS, Flux2Config
from mf_ros.model.flux2.files import CONFIG, Checkpoint, StoredTensor, open_checkpoint, shown
from mf_ros.model.flux2.memory import check_memory
from mf_ros.model.flux2.network import Flux2Network

_log = logging.getLogger(__name__)

_STORED = {"BF16": 2, "F16": 2, "F32": 4}
_BODY = (torch.bfloat16, torch.float32)
# Rounding to bfloat16 would show in the depth it puts out.
_FLOAT32_PARTS = ("depth_final_layer.",)
_NAMED_AT_MOST = 3


def load_flux2(
    path: Union[str, Path],
    dtype: torch.dtype = torch.bfloat16,
    device: Union[str, torch.device] = "cpu",
    *,
    config: Optional[Flux2Config] = None,
    accept_noncommercial: bool = False,
    quiet: bool = False,
) -> Flux2Network:
    """The network with its weights, ready for inference.

    Args:
        path: a folder with ``config.json`` and ``model.safetensors`` (or its shards with
            ``model.safetensors.index.json``), or the file of weights in it.
        dtype: of the body, torch.bfloat16 or torch.float32; ``depth_final_layer`` is float32 always.
        device: where to.
        config: sizes, for weights that ``config.json`` does not name a released variant for.
        accept_noncommercial: needed for weights whose licence forbids commercial use, as the official one does.
        quiet: leave telling of that licence to the caller.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: a file is missing, damaged or cut short; it is another variant's; tensors are missing or not known
            or have another shape or dtype; the licence was not accepted; the device cannot be used, or has too little
            memory.
    """
    where = _device(device)
    if dtype not in _BODY:
        raise ModelError(f"The network cannot run in {dtype}: use torch.bfloat16 or torch.float32 (float16 overflows).")
    checkpoint = open_checkpoint(Path(path))
    sizes = _config(checkpoint, config)
    # Built without memory: the tensors of the files take the place of these.
    with torch.device("meta"):
        network = Flux2Network(sizes)
    wanted = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    _check_names(checkpoint, wanted, sizes)
    check_tensors(checkpoint.tensors, wanted)
    told = None
    if checkpoint.licence is not None:
        told = licence_warning(str(checkpoint.path), checkpoint.licence, accepted=accept_noncommercial)
    kinds = {name: torch.float32 if name.startswith(_FLOAT32_PARTS) else dtype for name in wanted}
    _check_memory(checkpoint, kinds, where)
    if told is not None and not quiet:
        _log.warning("%s", told)
    network.load_state_dict(read_tensors(checkpoint.tensors, kinds, where), assign=True)
    return network.requires_grad_(False).eval()


def _device(device: Union[str, torch.device]) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"There is no device {str(device)!r}: use cpu or cuda.") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"torch sees no GPU {where}: check the driver with mf-ros doctor, or load to the cpu.")
    return where


def _config(checkpoint: Checkpoint, config: Optional[Flux2Config]) -> Flux2Config:
    """The sizes given, or those of the variant that the files name."""
    beside = checkpoint.path.parent / CONFIG
    if checkpoint.variant is None:
        if config is None:
            raise ModelError(f"{beside} is missing or names no variant: put the official one beside the weights.")
        return config
    try:
        named = Flux2Config.from_variant(checkpoint.variant)
    except ConfigError as error:
        if config is not None:
            return config
        raise ModelError(f"{beside} describes another network: {error}") from error
    if config is not None and config.variant != named.variant:
        raise ModelError(f"{beside} says {checkpoint.variant}, but a network of variant {config.variant} is wanted.")
    return config or named


def _check_names(checkpoint: Checkpoint, wanted: Iterable[str], config: Flux2Config) -> None:
    missing = sorted(set(wanted) - set(checkpoint.tensors))
    unknown = sorted(set(checkpoint.tensors) - set(wanted))
    if not missing and not unknown:
        return
    parts = [f"{what}: {_listed(names)}" for what, names in (("missing", missing), ("not known", unknown)) if names]
    problem = "; ".join(parts)
    if all(
        name.startswith(("time_in_depth_to_img.", "time_in_rgb_to_depth.", "cross_alpha_"))
        for name in [*missing, *unknown]
    ):
        other = {"v1": "v2", "v2": "v1"}[config.variant]
        names = [name for name, variant in OFFICIAL_VARIANTS.items() if variant == other]
        problem += f"; they look like those of variant {other} ({names[0]})"
    raise ModelError(f"The tensors of {checkpoint.path} are not those of variant {config.variant}: {problem}.")


def _listed(names: List[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(map(shown, names[:_NAMED_AT_MOST])) + more


def check_tensors(tensors: Mapping[str, StoredTensor], wanted: Mapping[str, Tuple[int, ...]]) -> None:
    """See that stored tensors have the wanted shapes, and values of a kind that is read.

    Raises:
        ModelError: one has not.
    """
    for name, shape in wanted.items():
        stored = tensors[name]
        if stored.shape != shape:
            raise ModelError(f"{stored.file}: {stored.name} has shape {stored.shape}, but the network needs {shape}.")
        if stored.dtype not in _STORED:
            raise ModelError(
                f"{stored.file}: {stored.name} has dtype {stored.dtype}, but {', '.join(_STORED)} are read."
            )


def _check_memory(checkpoint: Checkpoint, kinds: Mapping[str, torch.dtype], device: torch.device) -> None:
    stored = checkpoint.tensors
    # Beside the network one tensor as it is stored.
    needed = sum(math.prod(stored[name].shape) * kind.itemsize for name, kind in kinds.items())
    needed += max(math.prod(each.shape) * _STORED[each.dtype] for each in stored.values())
    check_memory(f"The network {checkpoint.path}", needed, device)


def read_tensors(
    tensors: Mapping[str, StoredTensor], kinds: Mapping[str, torch.dtype], device: torch.device
) -> Dict[str, Tensor]:
    """Copies of stored tensors.

    Args:
        tensors: by the names they are wanted under.
        kinds: their dtypes, by the same names.
        device: where to.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: a file cannot be read, or the device has no room.
    """
    safetensors = require_package("safetensors", extra="torch")
    by_file: Dict[Path, List[Tuple[str, StoredTensor]]] = {}
    for name, stored in tensors.items():
        by_file.setdefault(stored.file, []).append((name, stored))
    state: Dict[str, Tensor] = {}
    for file, entries in by_file.items():
        try:
            with safetensors.safe_open(str(file), framework="pt") as opened:
                for name, stored in entries:
                    # A copy: nothing the network computes with may change when the file does.
                    state[name] = opened.get_tensor(stored.name).to(device).to(kinds[name], copy=device.type == "cpu")
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(f"The weights {file} cannot be read ({shown(error)}): download them again.") from error
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"torch cannot bring the weights to {device} ({reason}): free memory there.") from error
    return state
