"""Checkpoints as folders ``step_N`` of safetensors and JSON, never half there; weights to start from.

A checkpoint holds ``model``, ``ema`` and ``optimiser`` as safetensors (split where larger than 15 MB) and
``state.json``, which also lists the files and their sizes. It is written under another name and renamed when complete.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mf_ros.core.documents import bounded_text
from mf_ros.engine.bundle import shipped_folder, shipped_names
from mf_ros.errors import MfRosError

_log = logging.getLogger(__name__)

SHARD_BYTES = 15_000_000
_FORMAT = 1
_MAX_JSON_BYTES = 10_000_000
_MAX_WEIGHT_BYTES = 1 << 36
_NAME = re.compile(r"step_(\d+)")
_BEST = re.compile(r"best_(\d+)")


class CheckpointError(MfRosError):
    """A checkpoint or weights cannot be used."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its folder.
        step: steps of the optimiser that were done.
        state: what ``state.json`` holds.
    """

    path: Path
    step: int
    state: Mapping[str, Any]

    def tensors(self, name: str) -> Dict[str, Tensor]:
        """The tensors saved under ``model``, ``ema`` or ``optimiser``, on the CPU."""
        return _read_tensors(
            [self.path / file for file in self.state["files"] if file.split(".")[0].split("-")[0] == name]
        )


def save_checkpoint(
    out: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint; it appears under its name only when it is complete.

    Args:
        out: the run's folder.
        step: steps done.
        tensors: name (``model``, ``ema``, ``optimiser``) to tensors.
        state: the rest, as plain values.

    Raises:
        CheckpointError: it cannot be written.
    """
    return _save(out, f"step_{step:08d}", tensors, {**state, "step": step})


def save_best(out: Path, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the averaged weights of the best evaluation as ``best_N`` and remove the one before.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = _save(out, f"best_{step:08d}", {"ema": weights}, {**state, "step": step})
    for other in _folders(out, _BEST):
        if other[1] != path:
            shutil.rmtree(other[1], ignore_errors=True)
    return path


def prune(out: Path, keep: int, written: int) -> None:
    """Remove all but the last ``keep`` complete checkpoints, and what interrupted writes left behind.

    Damaged ones neither count nor go: they may be all that is left of a run.

    Args:
        out: the run's folder.
        keep: how many stay.
        written: step of the checkpoint just written, which stays in any case.
    """
    for checkpoint in list(_complete(out, _NAME))[keep:]:
        if checkpoint.step != written:
            shutil.rmtree(checkpoint.path, ignore_errors=True)
    for path in out.glob(".*.part"):
        shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(out: Path) -> Optional[Checkpoint]:
    """The complete checkpoint of the highest number in a run's folder; incomplete ones are passed over."""
    return next(_complete(out, _NAME), None)


def best_checkpoint(out: Path) -> Optional[Checkpoint]:
    """The complete ``best_N`` of the highest number in a run's folder, which holds averaged weights alone."""
    return next(_complete(out, _BEST), None)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, whatever its name.

    Raises:
        CheckpointError: it is damaged or not complete.
    """
    state = _read_state(path)
    step = state.get("step")
    if not isinstance(step, int):
        raise CheckpointError(f"{path / 'state.json'} does not say how far the run was.")
    return Checkpoint(path, step, state)


def read_json(path: Path) -> Dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        CheckpointError: it cannot be read, is too large, or holds something else.
    """
    try:
        document = json.loads(bounded_text(path, _MAX_JSON_BYTES, "state and no table of results", CheckpointError))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds no names with values.")
    return document


def load_weights(source: Path, into: nn.Module) -> None:
    """Fill a network with weights: averaged ones where there are any.

    Args:
        source: a .safetensors file, a model folder, a checkpoint, or a run's folder (its last checkpoint); ``nano``
            and the like are the networks that come with the package.
        into: the network; its parameters keep their type.

    Raises:
        CheckpointError: there are no weights, or they belong to another network.
    """
    load_into(into, _read_tensors(_weight_files(source)), str(source))


def load_into(net: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a network that must have the same names and shapes.

    Raises:
        CheckpointError: names the first tensors that differ.
    """
    wanted = net.state_dict()
    wrong = [f"{key} is missing" for key in wanted if key not in weights]
    wrong += [f"{key} is unknown" for key in weights if key not in wanted]
    wrong += [
        f"{key} is {tuple(weights[key].shape)} there and {tuple(value.shape)} here"
        for key, value in wanted.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{source} holds the weights of another model: {'; '.join(wrong[:3])}{more}. Choose the model they are of."
        )
    net.load_state_dict(weights)


def optimiser_tensors(
    optimisers: Mapping[str, torch.optim.Optimizer], names: Mapping[Tensor, str]
) -> Dict[str, Tensor]:
    """Every tensor of the optimisers' states as ``OPTIMISER:PARAMETER:ENTRY``.

    Args:
        optimisers: by name.
        names: of the parameters.
    """
    found: Dict[str, Tensor] = {}
    for kind, optimiser in optimisers.items():
        for parameter, entries in optimiser.state.items():
            for entry, value in entries.items():
                found[f"{kind}:{names[parameter]}:{entry}"] = torch.as_tensor(value)
    return found


def halved(tensors: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """The same with all but single numbers in bfloat16."""
    return {key: value.to(torch.bfloat16) if value.numel() > 1 else value for key, value in tensors.items()}


def load_optimisers(
    optimisers: Mapping[str, torch.optim.Optimizer], names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put saved states back; learning rates and the like stay as they are.

    Raises:
        CheckpointError: the states are those of other optimisers.
    """
    states: Dict[str, Dict[str, Dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        kind, name, entry = key.split(":")
        states.setdefault(kind, {}).setdefault(name, {})[entry] = value
    for kind, optimiser in optimisers.items():
        saved = states.pop(kind, {})
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        unknown = set(saved) - {names[parameter] for parameter in parameters}
        if unknown:
            raise CheckpointError(
                f"The checkpoint's {kind} state is of other parameters ({min(unknown)}): "
                "set the optimiser as it was, or start from the weights alone with init= and another out=."
            )
        state = {place: saved[names[p]] for place, p in enumerate(parameters) if names[p] in saved}
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    if states:
        raise CheckpointError(
            f"The checkpoint has a state of the optimiser {min(states)}, which this run does not use: "
            "set optimiser.name as it was, or start from the weights alone with init= and another out=."
        )


def _save(out: Path, name: str, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    part, final = out / f".{name}.part", out / name
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        files: Dict[str, int] = {}
        for kind, entries in tensors.items():
            for file, shard in _shards(kind, entries):
                save_file(shard, part / file)
                # safetensors writes files for their owner only; these are meant to be shared.
                (part / file).chmod(0o644)
                files[file] = (part / file).stat().st_size
        text = json.dumps({"format": _FORMAT, **state, "files": files}, indent=1)
        (part / "state.json").write_text(text, encoding="utf-8")
        for path in part.iterdir():
            _to_disk(path)
        # Only a repeated save of one step finds its name taken; what it replaces is the same.
        shutil.rmtree(final, ignore_errors=True)
        part.replace(final)
        _to_disk(out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"{final} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    return final


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _shards(kind: str, tensors: Mapping[str, Tensor]) -> Iterator[Tuple[str, Dict[str, Tensor]]]:
    """File names and their tensors, none above the limit unless one tensor is."""
    groups: List[Dict[str, Tensor]] = [{}]
    size = 0
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        if groups[-1] and size + value.nbytes > SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][key] = value
        size += value.nbytes
    for number, group in enumerate(groups, 1):
        yield (f"{kind}.safetensors" if len(groups) == 1 else f"{kind}-{number:03d}.safetensors"), group


def _folders(out: Path, pattern: re.Pattern[str]) -> List[Tuple[int, Path]]:
    if not out.is_dir():
        return []
    matches = [(pattern.fullmatch(path.name), path) for path in out.iterdir() if path.is_dir()]
    return sorted((int(match.group(1)), path) for match, path in matches if match)


def _complete(out: Path, pattern: re.Pattern[str]) -> Iterator[Checkpoint]:
    """The complete checkpoints of a run's folder, the last one first."""
    for step, path in reversed(_folders(out, pattern)):
        try:
            yield Checkpoint(path, step, _read_state(path))
        except CheckpointError as error:
            _log.warning("passing over a checkpoint: %s", error)


def _read_state(path: Path) -> Mapping[str, Any]:
    file = path / "state.json"
    state = read_json(file)
    if state.get("format") != _FORMAT or not isinstance(state.get("files"), dict):
        raise CheckpointError(f"{file} is not the state of a run, or of another version of this program.")
    try:
        for name, size in state["files"].items():
            if Path(name).name != name or (path / name).stat().st_size != size:
                raise CheckpointError(f"{path / name} is not complete.")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a complete checkpoint: {error}") from error
    return state


def _weight_files(source: Path) -> List[Path]:
    source = shipped_folder(str(source)) or source
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise CheckpointError(
            f"{source}: there is no such file or folder of weights; the networks in this installation are "
            f"{shipped_names()}."
        )
    last = latest_checkpoint(source)
    folder = source if last is None else last.path
    for kind in ("ema", "model"):
        files = sorted([*folder.glob(f"{kind}.safetensors"), *folder.glob(f"{kind}-*.safetensors")])
        if files:
            return files
    raise CheckpointError(f"{source} holds no weights: expected is model.safetensors, a checkpoint or a run's folder.")


def _read_tensors(files: List[Path]) -> Dict[str, Tensor]:
    found: Dict[str, Tensor] = {}
    for file in files:
        try:
            if file.stat().st_size > _MAX_WEIGHT_BYTES:
                raise CheckpointError(f"{file} has more than {_MAX_WEIGHT_BYTES >> 30} GiB.")
            found.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} is not a readable safetensors file: {error}.") from error
    return found
