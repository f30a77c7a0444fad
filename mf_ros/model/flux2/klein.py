"""FLUX.2 [klein] 4B, a text-to-image network under Apache-2.0, as the start of a network with depth.

Text and image streams are taken as they are, under the names of diffusers or of Black Forest Labs. The depth stream is
fresh, and begins as what the network knows of images:

- attention, MLP and modulation of depth tokens are copies of those of image tokens, and the embedding of the depth's
  noise level is that of the image's;
- the first layer is random, from a fixed seed, as a patch of depth has other channels than an image token;
- the decoder's blocks are copies of the last single blocks whose output is zero, so that each hands on what it gets;
- the last layer and the gates of one modality's noise level to the other are zero.

Without depth tokens it computes what it was taken from. Source of the names: the reference implementation of FLUX.2,
and ``Flux2Transformer2DModel`` of diffusers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

from mf_ros.errors import ModelError, require_package
from mf_ros.licences import UNKNOWN, licence_of, licence_that_counts
from mf_ros.model.flux2.config import Flux2Config
from mf_ros.model.flux2.files import Checkpoint, open_checkpoint, shown
from mf_ros.model.flux2.loading import check_tensors
from mf_ros.model.flux2.network import Flux2Network

HUB_ID = "black-forest-labs/FLUX.2-klein-base-4B"
"""The base on the Hub, not distilled to a few steps, which is what trains well."""

_FOLDER = "transformer"
_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
_NAMED_AT_MOST = 3
_SEED = 0

_BLOCK = r"(\d+)\."
# Ours to those of diffusers; of several, the parts lie below each other.
_OF_DIFFUSERS: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    (r"img_in\.", (r"x_embedder.",)),
    (r"txt_in\.", (r"context_embedder.",)),
    (r"time_in\.in_layer\.", (r"time_guidance_embed.timestep_embedder.linear_1.",)),
    (r"time_in\.out_layer\.", (r"time_guidance_embed.timestep_embedder.linear_2.",)),
    (r"((?:double|single)_stream_modulation(?:_img|_txt)?)\.lin\.", (r"\1.linear.",)),
    (r"final_layer\.linear\.", (r"proj_out.",)),
    (r"final_layer\.adaLN_modulation\.1\.", (r"norm_out.linear.",)),
    (
        rf"double_blocks\.{_BLOCK}img_attn\.qkv\.",
        tuple(rf"transformer_blocks.\1.attn.to_{part}." for part in "qkv"),
    ),
    (
        rf"double_blocks\.{_BLOCK}txt_attn\.qkv\.",
        tuple(rf"transformer_blocks.\1.attn.add_{part}_proj." for part in "qkv"),
    ),
    (rf"double_blocks\.{_BLOCK}img_attn\.proj\.", (r"transformer_blocks.\1.attn.to_out.0.",)),
    (rf"double_blocks\.{_BLOCK}txt_attn\.proj\.", (r"transformer_blocks.\1.attn.to_add_out.",)),
    (rf"double_blocks\.{_BLOCK}img_attn\.norm\.query_norm\.", (r"transformer_blocks.\1.attn.norm_q.",)),
    (rf"double_blocks\.{_BLOCK}img_attn\.norm\.key_norm\.", (r"transformer_blocks.\1.attn.norm_k.",)),
    (rf"double_blocks\.{_BLOCK}txt_attn\.norm\.query_norm\.", (r"transformer_blocks.\1.attn.norm_added_q.",)),
    (rf"double_blocks\.{_BLOCK}txt_attn\.norm\.key_norm\.", (r"transformer_blocks.\1.attn.norm_added_k.",)),
    (rf"double_blocks\.{_BLOCK}img_mlp\.0\.", (r"transformer_blocks.\1.ff.linear_in.",)),
    (rf"double_blocks\.{_BLOCK}img_mlp\.2\.", (r"transformer_blocks.\1.ff.linear_out.",)),
    (rf"double_blocks\.{_BLOCK}txt_mlp\.0\.", (r"transformer_blocks.\1.ff_context.linear_in.",)),
    (rf"double_blocks\.{_BLOCK}txt_mlp\.2\.", (r"transformer_blocks.\1.ff_context.linear_out.",)),
    (rf"single_blocks\.{_BLOCK}linear1\.", (r"single_transformer_blocks.\1.attn.to_qkv_mlp_proj.",)),
    (rf"single_blocks\.{_BLOCK}linear2\.", (r"single_transformer_blocks.\1.attn.to_out.",)),
    (rf"single_blocks\.{_BLOCK}norm\.query_norm\.", (r"single_transformer_blocks.\1.attn.norm_q.",)),
    (rf"single_blocks\.{_BLOCK}norm\.key_norm\.", (r"single_transformer_blocks.\1.attn.norm_k.",)),
)
# What of the depth is a copy of what else.
_COPIED: Tuple[Tuple[str, str], ...] = (
    (r"time_in_(?:depth|depth_to_img|rgb_to_depth)\.", r"time_in."),
    (rf"double_blocks\.{_BLOCK}depth_", r"double_blocks.\1.img_"),
    (r"double_stream_modulation_depth\.", r"double_stream_modulation_img."),
    (r"single_stream_modulation_depth\.|depth_decoder_modulation\.", r"single_stream_modulation."),
    (r"depth_final_layer\.adaLN", r"final_layer.adaLN"),
)
_ZERO = re.compile(r"cross_alpha_\w+|depth_final_layer\.linear\.weight|depth_decoder_blocks\.\d+\.linear2\.weight")
_RANDOM = "depth_in.weight"
_DECODER = re.compile(r"depth_decoder_blocks\.(\d+)\.(.+)")
_SHIFT_AND_SCALE = "final_layer.adaLN_modulation.1.weight"


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the network comes from.

    Attributes:
        names: of the stored tensors that lie below each other in it; none for one that is made.
        swapped: its halves lie the other way round there.
        random: made from a fixed seed, with this deviation; 0 is zeros.
    """

    names: Tuple[str, ...] = ()
    swapped: bool = False
    random: float = 0.0


class KleinTensors(Mapping[str, Tensor]):
    """The tensors of a network with depth, each read or made, in the dtype it is stored in, when it is asked for.

    Args:
        stored: what lies on disk.
        config: sizes.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: tensors are missing or not known, or have another shape or dtype; asking for one raises it too.
    """

    def __init__(self, stored: Checkpoint, config: Flux2Config) -> None:
        with torch.device("meta"):
            shapes = {name: tuple(each.shape) for name, each in Flux2Network(config).state_dict().items()}
        self._stored, self._shapes = stored, shapes
        self._origins = origins(shapes, config, of_diffusers="x_embedder.weight" in stored.tensors)
        self._opened: Dict[Path, Any] = {}
        wanted = {name: shape for name, shape in shapes.items() if self._origins[name].names}
        _check_names(stored, [name for each in wanted for name in self._origins[each].names])
        for name, shape in wanted.items():
            names = self._origins[name].names
            check_tensors(stored.tensors, {each: (shape[0] // len(names), *shape[1:]) for each in names})

    @property
    def shapes(self) -> Mapping[str, Tuple[int, ...]]:
        """Shape of each tensor."""
        return self._shapes

    def __getitem__(self, name: str) -> Tensor:
        origin, shape = self._origins[name], self._shapes[name]
        if not origin.names:
            made = torch.zeros(shape)
            if origin.random:
                made.normal_(std=origin.random, generator=torch.Generator().manual_seed(_SEED))
            return made
        parts = [self._read(each) for each in origin.names]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        return torch.cat(found.chunk(2)[::-1]) if origin.swapped else found

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _read(self, name: str) -> Tensor:
        safetensors = require_package("safetensors", extra="torch")
        stored = self._stored.tensors[name]
        try:
            if stored.file not in self._opened:
                self._opened[stored.file] = safetensors.safe_open(str(stored.file), framework="pt")
            found: Tensor = self._opened[stored.file].get_tensor(stored.name)
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(
                f"The weights {stored.file} cannot be read ({shown(error)}): download them again."
            ) from error
        return found


def is_klein(path: Path) -> bool:
    """Whether a folder is one of diffusers of a FLUX.2 network, or a file holds one without depth."""
    if path.is_dir():
        return _in_folder(path) is not None
    if not path.is_file() or not path.name.endswith((".safetensors", ".index.json")):
        return False
    names = open_checkpoint(path).tensors
    return "depth_in.weight" not in names and ("img_in.weight" in names or "x_embedder.weight" in names)


def open_klein(path: Path) -> Checkpoint:
    """Find the weights of a text-to-image network and read what their headers say.

    Args:
        path: a folder of diffusers, with ``transformer`` or that folder itself, or a file of weights, under the names
            of diffusers or of Black Forest Labs. The model card is looked for there and one folder up.

    Raises:
        MissingDependencyError: safetensors is not installed.
        ModelError: there are no such files, or they are damaged or cut short.
    """
    found = _in_folder(path) if path.is_dir() else path
    if found is None:
        raise ModelError(f"{path} holds no {_FOLDER}/{_FILES[0]}: download {HUB_ID} there.")
    opened = open_checkpoint(found)
    stated = [*map(licence_of, (found.parent, found.parent.parent)), opened.licence or UNKNOWN]
    return replace(opened, licence=licence_that_counts(stated))


def origins(shapes: Mapping[str, Tuple[int, ...]], config: Flux2Config, *, of_diffusers: bool) -> Dict[str, Origin]:
    """Where each tensor of a network with depth comes from.

    Args:
        shapes: of its tensors.
        config: sizes.
        of_diffusers: the stored tensors have the names of diffusers rather than those of Black Forest Labs.
    """
    return {name: _origin(name, shape, config, of_diffusers) for name, shape in shapes.items()}


def _origin(name: str, shape: Tuple[int, ...], config: Flux2Config, of_diffusers: bool) -> Origin:
    if _ZERO.fullmatch(name):
        return Origin()
    if name == _RANDOM:
        return Origin(random=1 / math.sqrt(shape[1]))
    name = _copied(name, config)
    if not of_diffusers:
        return Origin((name,))
    return Origin(_names_in_diffusers(name), swapped=name == _SHIFT_AND_SCALE)


def _copied(name: str, config: Flux2Config) -> str:
    """The tensor of text or image that one of the depth is a copy of; of another it is the tensor itself."""
    found = _DECODER.fullmatch(name)
    if found is not None:
        block = max(config.single_blocks - config.depth_blocks + int(found.group(1)), 0)
        return f"single_blocks.{block}.{found.group(2)}"
    for pattern, other in _COPIED:
        name, count = re.subn(f"^(?:{pattern})", other, name)
        if count:
            break
    return name


def _names_in_diffusers(name: str) -> Tuple[str, ...]:
    for pattern, theirs in _OF_DIFFUSERS:
        found = re.match(pattern, name)
        if found is not None:
            end = "weight" if name.endswith(".scale") else name[found.end() :]
            return tuple(found.expand(each) + end for each in theirs)
    raise ModelError(f"{name} has no place in a network of diffusers.")


def _in_folder(folder: Path) -> Optional[Path]:
    places = (folder / _FOLDER / file for file in _FILES)
    here = (folder / file for file in _FILES)
    return next((each for each in (*places, *here) if each.is_file()), None)


def _check_names(stored: Checkpoint, wanted: Iterable[str]) -> None:
    missing, unknown = sorted(set(wanted) - set(stored.tensors)), sorted(set(stored.tensors) - set(wanted))
    parts = [f"{what}: {_listed(names)}" for what, names in (("missing", missing), ("not known", unknown)) if names]
    if parts:
        raise ModelError(
            f"The tensors of {stored.path} are not those of a FLUX.2 [klein] of these sizes: {'; '.join(parts)}."
        )


def _listed(names: List[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(map(shown, names[:_NAMED_AT_MOST])) + more
