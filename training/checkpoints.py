"""Checkpoints as folders ``step_N`` of safetensors and JSON, never half there; weights to start from.

A checkpoint holds ``model``, ``ema`` and ``optimiser`` as safetensors (split where larger than 2 GB) and
``state.json``, which also lists the files and their sizes. It is written under another name and renamed when complete.
Tensors are written and read one by one, so that a network divided over several processes never lies in one memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mf_ros.core.documents import bounded_text
from mf_ros.engine.bundle import shipped_folder, shipped_names
from mf_ros.errors import MfRosError
from mf_training.sharding import fill, whole

_log = logging.getLogger(__name__)

SHARD_BYTES = 2_000_000_000
"""Size from which on tensors go into another file; the largest that one process gathers at a time."""
SMALL_SHARD_BYTES = 15_000_000
"""The same where a run's state is to be small, to be kept where large files are not taken."""
_FORMAT = 1
_MAX_JSON_BYTES = 10_000_000
_MAX_WEIGHT_BYTES = 1 << 36
ADAPTER = ".lora_"
"""In the name of every tensor of an adapter."""
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

    def tensors(self, name: str) -> StoredTensors:
        """The tensors saved under ``model``, ``ema`` or ``optimiser``."""
        return StoredTensors(
            [self.path / file for file in self.state["files"] if file.split(".")[0].split("-")[0] == name]
        )


class Weights(Mapping[str, Tensor]):
    """Tensors by name, each read onto the CPU when it is asked for."""

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all names, types, shapes and values; how they lie in files does not matter."""
        found = hashlib.sha256()
        for name in sorted(self):
            value = self[name].contiguous()
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


class StoredTensors(Weights):
    """Tensors by name in safetensors files.

    Args:
        files: where they lie; of a name in two files, the later one counts.
        prefix: of names in the files, left out here.

    Raises:
        CheckpointError: a file cannot be read; asking for a tensor raises it too.
    """

    def __init__(self, files: Sequence[Path], prefix: str = "") -> None:
        self._places: Dict[str, Any] = {}
        for file in files:
            try:
                if file.stat().st_size > _MAX_WEIGHT_BYTES:
                    raise CheckpointError(f"{file} has more than {_MAX_WEIGHT_BYTES >> 30} GiB.")
                opened = safe_open(file, framework="pt")
                names = opened.keys()
                self._places.update({name.removeprefix(prefix): (file, opened, name) for name in names})
            except (OSError, SafetensorError) as error:
                raise _unreadable(file, error) from error

    def __getitem__(self, name: str) -> Tensor:
        file, opened, stored = self._places[name]
        try:
            value: Tensor = opened.get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise _unreadable(file, error) from error
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is not a readable safetensors file: {error}.")


def save_checkpoint(
    out: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    writes: bool = True,
    small: bool = False,
) -> Path:
    """Write a checkpoint; it appears under its name only when it is complete.

    Where tensors are divided over processes, all of them call this, and one writes.

    Args:
        out: the run's folder.
        step: steps done.
        tensors: name (``model``, ``ema``, ``optimiser``) to tensors.
        state: the rest, as plain values.
        writes: this process writes; the others only hand over their parts of each tensor.
        small: in files of ``SMALL_SHARD_BYTES``.

    Raises:
        CheckpointError: it cannot be written.
    """
    return _save(out, f"step_{step:08d}", tensors, {**state, "step": step}, writes, small)


def save_best(
    out: Path,
    step: int,
    weights: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    writes: bool = True,
    small: bool = False,
) -> Path:
    """Write the averaged weights of the best evaluation as ``best_N`` and remove the one before.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = _save(out, f"best_{step:08d}", {"ema": weights}, {**state, "step": step}, writes, small)
    for other in _folders(out, _BEST) if writes else ():
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
    load_into(into, stored_weights(source), str(source))


def stored_weights(source: Path, prefix: str = "") -> StoredTensors:
    """The weights that ``load_weights`` takes, without a prefix of their names.

    Raises:
        CheckpointError: there are none, or only those of adapters.
    """
    weights = StoredTensors(weight_files(source), prefix)
    if any(ADAPTER in name for name in weights):
        raise CheckpointError(
            f"{source} holds adapters (lora.rank), which are no network by themselves: write the network with "
            f"mf-ros export {source} --out MODEL, and start from MODEL."
        )
    return weights


def load_into(net: Union[nn.Module, Mapping[str, Tensor]], weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a network, or into tensors by name, that must have the same names and shapes.

    Raises:
        CheckpointError: names the first tensors that differ.
    """
    wanted = net.state_dict() if isinstance(net, nn.Module) else net
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
    for key, value in wanted.items():
        fill(value, weights[key])


def _save(
    out: Path,
    name: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    writes: bool,
    small: bool,
) -> Path:
    part, final = out / f".{name}.part", out / name
    if not writes:
        for entries in tensors.values():
            for _ in _gathered(entries):
                pass
        return final
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        files: Dict[str, int] = {}
        for kind, entries in tensors.items():
            for file, shard in _shards(kind, entries, SMALL_SHARD_BYTES if small else SHARD_BYTES):
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


def _gathered(tensors: Mapping[str, Tensor]) -> Iterator[Tuple[str, Tensor]]:
    """Whole tensors in one order for all processes, who must take part in each."""
    for key in sorted(tensors):
        yield key, whole(tensors[key].detach())


def _shards(kind: str, tensors: Mapping[str, Tensor], limit: int) -> Iterator[Tuple[str, Dict[str, Tensor]]]:
    """File names and their tensors, none above the limit unless one tensor is."""
    group: Dict[str, Tensor] = {}
    size, number = 0, 1
    for key, value in _gathered(tensors):
        value = value.cpu().contiguous()
        if group and size + value.nbytes > limit:
            yield f"{kind}-{number:03d}.safetensors", group
            group, size, number = {}, 0, number + 1
        group[key] = value
        size += value.nbytes
    yield (f"{kind}.safetensors" if number == 1 else f"{kind}-{number:03d}.safetensors"), group


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


def weight_files(source: Path) -> List[Path]:
    """The files of weights that ``load_weights`` takes.

    Raises:
        CheckpointError: there are none.
    """
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
