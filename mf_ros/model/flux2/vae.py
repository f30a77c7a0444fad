"""Images to the network's image tokens and back: FLUX.2's autoencoder in diffusers, with the weights' own names.

The released files name their tensors as the code of Black Forest Labs does; ``diffusers_name`` says what diffusers
calls them.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Protocol, Tuple, Union

import torch
from torch import Tensor
from torch.nn import functional as F

from mf_ros.errors import MissingDependencyError, ModelError, require_package
from mf_ros.model.flux2.files import StoredTensor, open_tensors, shown
from mf_ros.model.flux2.loading import check_tensors, read_tensors
from mf_ros.packages import install_command

ENCODER, DECODER = "ae_encoder.safetensors", "ae_decoder.safetensors"
WHOLE = "vae/diffusion_pytorch_model.safetensors"
"""Both parts in one file, as folders of diffusers have it."""

_CELLS = 2
_EPS = 1e-4
_NORM_GROUPS = 32
_DEEPEST, _MOST_LAYERS, _WIDEST = 8, 8, 4096
_UNUSED = "bn.num_batches_tracked"


class ImageCodec(Protocol):
    """What turns images into tokens and back."""

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, rows * cols, channels)."""
        ...

    def decode(self, tokens: Tensor, grid: Tuple[int, int]) -> Tensor:
        """Inverse of ``encode`` for a grid of (rows, cols) tokens."""
        ...


class Autoencoder:
    """FLUX.2's autoencoder: 16 x 16 pixels make a token.

    The latent's mean at 1/8 is packed 2 x 2 and normed with the running statistics of its batch norm.

    Args:
        vae: diffusers' ``AutoencoderKLFlux2``.
        parts: which of encoder and decoder have weights.
    """

    def __init__(self, vae: Any, parts: Tuple[str, ...]) -> None:
        self._vae = vae
        self._parts = parts
        self._mean = vae.bn.running_mean.view(1, -1, 1, 1)
        self._deviation = (vae.bn.running_var.view(1, -1, 1, 1) + _EPS).sqrt()

    @property
    def channels(self) -> int:
        """Channels of a token."""
        return int(self._mean.shape[1])

    @property
    def pixels(self) -> int:
        """Pixels per side of a token."""
        return _CELLS * 2 ** (len(self._vae.config.block_out_channels) - 1)  # type: ignore[no-any-return]

    def to(self, device: Union[str, torch.device]) -> Autoencoder:
        """A copy on another device; on the meta device it has shapes alone."""
        return Autoencoder(copy.deepcopy(self._vae).to(device), self._parts)

    def encode(self, image: Tensor) -> Tensor:
        """Tokens (B, H / 16 * W / 16, channels) of images (B, 3, H, W) in [-1, 1].

        Raises:
            ModelError: the encoder was not loaded.
        """
        self._require(ENCODER)
        mean: Tensor = self._vae.encode(image.to(self._mean)).latent_dist.mean
        packed: Tensor = (F.pixel_unshuffle(mean, _CELLS) - self._mean) / self._deviation
        return packed.flatten(2).transpose(1, 2)

    def decode(self, tokens: Tensor, grid: Tuple[int, int]) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of tokens.

        Raises:
            ModelError: the decoder was not loaded.
        """
        self._require(DECODER)
        normed = tokens.to(self._mean).transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid)
        packed = normed * self._deviation + self._mean
        image: Tensor = self._vae.decode(F.pixel_shuffle(packed, _CELLS)).sample
        return image.clamp(-1, 1)

    def _require(self, file: str) -> None:
        if file not in self._parts:
            raise ModelError(f"The autoencoder was loaded without {file}, which this needs.")


def load_autoencoder(
    folder: Path, device: Union[str, torch.device] = "cpu", parts: Tuple[str, ...] = (ENCODER,)
) -> Autoencoder:
    """The autoencoder whose weights lie in a folder, in float32.

    Args:
        folder: with ``ae_encoder.safetensors`` and ``ae_decoder.safetensors``, or with ``vae`` as diffusers writes it.
        device: where to.
        parts: which of the two; image to depth needs the encoder alone.

    Raises:
        MissingDependencyError: diffusers or safetensors is not installed.
        ModelError: a file is missing or damaged, or is not of FLUX.2's autoencoder.
    """
    stored: Dict[str, StoredTensor] = {}
    for file in parts:
        stored.update(stored_part(folder, file))
    sizes = _sizes(stored, folder / parts[0])
    # Asked for late: what is wrong with the files is said on machines without it, too.
    diffusers = require_package("diffusers", extra="flux")
    try:
        kind = diffusers.AutoencoderKLFlux2
    except (AttributeError, ImportError, RuntimeError) as error:
        raise MissingDependencyError(
            f"diffusers {diffusers.__version__} has no AutoencoderKLFlux2: run {install_command('flux')}."
        ) from error
    with torch.device("meta"):
        vae = kind(**sizes)
    wanted = {
        name: tuple(each.shape)
        for name, each in vae.state_dict().items()
        if name.startswith(tuple(_prefixes(parts))) and name != _UNUSED
    }
    lacking = sorted(set(wanted) - set(stored))
    if lacking:
        raise ModelError(f"{folder / parts[0]}: the tensor that diffusers calls {lacking[0]} is missing.")
    # Their attention has 1 x 1 convolutions, that of diffusers has matrices.
    as_stored = {
        name: (*shape, 1, 1) if (len(shape), len(stored[name].shape)) == (2, 4) else shape
        for name, shape in wanted.items()
    }
    tensors = {name: stored[name] for name in wanted}
    check_tensors(tensors, as_stored)
    state = read_tensors(tensors, dict.fromkeys(wanted, torch.float32), torch.device(device))
    state = {name: each.reshape(wanted[name]) for name, each in state.items()}
    vae.load_state_dict(state, strict=False, assign=True)
    return Autoencoder(vae.requires_grad_(False).eval(), parts)


def stored_part(folder: Path, file: str) -> Dict[str, StoredTensor]:
    """The tensors of encoder or decoder by the names of diffusers, from their own file or from that of both.

    Raises:
        ModelError: there is neither, or one is damaged or of another model.
    """
    whole = folder / WHOLE
    if (folder / file).is_file() or not whole.is_file():
        return _named(folder / file)
    own = tuple(_prefixes((file,)))
    return {each.name: each for each in open_tensors(whole) if each.name.startswith(own)}


def diffusers_name(name: str, part: str, ups: int) -> Optional[str]:
    """What diffusers calls a tensor of the released files; None for one it does not know.

    Args:
        name: for example ``down.0.block.1.conv1.weight``; names that are those of diffusers already stay.
        part: ``encoder`` or ``decoder``.
        ups: number of resolutions of the decoder, which diffusers counts from the other end.
    """
    if name.startswith(("quant_conv.", "post_quant_conv.", "bn.")):
        return name
    if name.startswith(_OF_DIFFUSERS):
        return f"{part}.{name}"
    for pattern, made in _RENAMED:
        found = re.fullmatch(pattern, name)
        if found is None:
            continue
        renamed = found.expand(made).replace("nin_shortcut", "conv_shortcut")
        if renamed.startswith("up_blocks."):
            _, level, rest = renamed.split(".", 2)
            renamed = f"up_blocks.{ups - 1 - int(level)}.{rest}"
        return f"{part}.{renamed}"
    return None


_OF_DIFFUSERS = ("down_blocks.", "up_blocks.", "mid_block.", "conv_norm_out.")
_LAYER = r"(norm1|norm2|conv1|conv2|nin_shortcut)\.(weight|bias)"
_RENAMED = (
    (r"(conv_in|conv_out)\.(weight|bias)", r"\1.\2"),
    (r"norm_out\.(weight|bias)", r"conv_norm_out.\1"),
    (r"(down|up)\.(\d)\.block\.(\d)\." + _LAYER, r"\1_blocks.\2.resnets.\3.\4.\5"),
    (r"(down|up)\.(\d)\.(downsample|upsample)\.conv\.(weight|bias)", r"\1_blocks.\2.\3rs.0.conv.\4"),
    (r"mid\.block_1\." + _LAYER, r"mid_block.resnets.0.\1.\2"),
    (r"mid\.block_2\." + _LAYER, r"mid_block.resnets.1.\1.\2"),
    (r"mid\.attn_1\.norm\.(weight|bias)", r"mid_block.attentions.0.group_norm.\1"),
    (r"mid\.attn_1\.(q|k|v)\.(weight|bias)", r"mid_block.attentions.0.to_\1.\2"),
    (r"mid\.attn_1\.proj_out\.(weight|bias)", r"mid_block.attentions.0.to_out.0.\1"),
)


def _prefixes(parts: Tuple[str, ...]) -> List[str]:
    named = {ENCODER: ("encoder.", "quant_conv."), DECODER: ("decoder.", "post_quant_conv.")}
    return ["bn.", *(prefix for part in parts for prefix in named[part])]


def _named(path: Path) -> Dict[str, StoredTensor]:
    """The tensors of one file by the names of diffusers."""
    if not path.is_file():
        raise ModelError(f"{path} is missing: FLUX.2's autoencoder is part of the released files, download it there.")
    part = "decoder" if path.name == DECODER else "encoder"
    # The one file of both that Black Forest Labs publish says which part a tensor is of.
    stored = {each.name.removeprefix(f"{part}."): each for each in open_tensors(path)}
    ups = 1 + max((int(found.group(1)) for found in map(re.compile(r"up\.(\d)\.").match, stored) if found), default=0)
    named = {}
    for name, each in stored.items():
        renamed = diffusers_name(name, part, ups)
        if renamed is None:
            raise ModelError(f"{path} is not of FLUX.2's autoencoder: it has a tensor {shown(each.name)}.")
        named[renamed] = each
    return named


def _sizes(stored: Mapping[str, StoredTensor], path: Path) -> Dict[str, Any]:
    """Arguments of diffusers' class, from the shapes of the tensors."""
    norm = stored.get("bn.running_mean")
    encoder = _widths(stored, "encoder.down_blocks.{}.resnets.0.conv1.weight")
    decoder = _widths(stored, "decoder.up_blocks.{}.resnets.0.conv1.weight")[::-1]
    widths = encoder or decoder
    if norm is None or len(norm.shape) != 1 or norm.shape[0] % _CELLS**2 or not widths:
        raise ModelError(f"{path} is not of FLUX.2's autoencoder: its batch norm or its blocks are missing.")
    if any(width % _NORM_GROUPS or not 0 < width <= _WIDEST for width in widths):
        raise ModelError(f"{path} is not of FLUX.2's autoencoder: it has blocks of {widths} channels.")
    layers = 1 + max(
        [int(name.split(".")[4]) for name in stored if name.startswith("encoder.down_blocks.0.resnets.")]
        or [int(name.split(".")[4]) - 1 for name in stored if name.startswith("decoder.up_blocks.0.resnets.")]
    )
    # Not every version of the library knows decoders of other widths.
    other = {"decoder_block_out_channels": decoder} if decoder and decoder != widths else {}
    return {
        **other,
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": min(layers, _MOST_LAYERS),
        "latent_channels": norm.shape[0] // _CELLS**2,
        "norm_num_groups": _NORM_GROUPS,
        "batch_norm_eps": _EPS,
        "patch_size": (_CELLS, _CELLS),
    }


def _widths(stored: Mapping[str, StoredTensor], pattern: str) -> Tuple[int, ...]:
    shapes = [stored[name].shape for name in map(pattern.format, range(_DEEPEST)) if name in stored]
    return tuple(shape[0] for shape in shapes if shape)
