"""What the ``flux`` engine is made of: the network, the autoencoder and the empty prompt, found, checked and loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict

import torch

from mf_ros.core.config import EngineConfig
from mf_ros.engine.published import MODEL_WEIGHTS, published_model
from mf_ros.engine.torch_device import TorchDevice, torch_device
from mf_ros.errors import ConfigError, ModelError
from mf_ros.hub import is_hub_id
from mf_ros.licences import is_non_commercial, licence_warning
from mf_ros.model.flux2.config import Flux2Config
from mf_ros.model.flux2.files import CONFIG, Description, read_description
from mf_ros.model.flux2.loading import load_flux2
from mf_ros.model.flux2.pixels import Flux2Sampler
from mf_ros.model.flux2.text import empty_prompt
from mf_ros.model.flux2.vae import ENCODER, Autoencoder, load_autoencoder
from mf_ros.model.protocol import Sampler

OFFICIAL = "bartduis/modality_forcing"
"""The released weights on the Hub: CC BY-NC 4.0."""

_SIZES, _SIDE = "flux2", "resolution"
_OFFICIAL_SIDE = 512
_SIDES = (64, 2048)


@dataclass(frozen=True)
class Parts:
    """A network ready to run.

    Attributes:
        sampler: from pixels to pixels.
        side: height and width of the images that it was trained on.
        details: weights, licence, library, device, precision.
    """

    sampler: Sampler
    side: int
    details: Dict[str, str]


def load_parts(config: EngineConfig) -> Parts:
    """Everything loaded, the small things first, so that what is missing is said before anything large is read.

    Raises:
        MissingDependencyError: a package is not installed.
        ModelError: files are missing or of another network, the licence was not accepted, or memory is short.
    """
    # In float16 the network overflows, and it was trained with noise levels rounded to bfloat16.
    where = TorchDevice(torch_device(config).device, torch.bfloat16)
    if config.model == EngineConfig().model:
        config = replace(config, model=OFFICIAL)
    published = published_model(config, (CONFIG,), [(MODEL_WEIGHTS, ENCODER)], extra="flux")
    folder, description = published.folder, read_description(published.folder)
    accepted, licence = config.accept_noncommercial, description.licence or published.licence
    # Before anything is read; where the card names no licence, that of the released network counts.
    licence_warning(config.model, licence, accepted=accepted)
    sizes, side = sizes_in(description, folder), _side(description, folder)
    codec = load_autoencoder(folder, where.device)
    _check_fit(codec, sizes, side, folder)
    on_hub = is_hub_id(config.model) and not Path(config.model).is_dir()
    prompt = empty_prompt(folder, sizes.text_channels, where.device, download=on_hub)
    told = is_non_commercial(published.licence)
    net = load_flux2(folder, where.dtype, where.device, config=sizes, accept_noncommercial=accepted, quiet=told)
    details = {"weights": str(folder), "licence": licence, **where.describe()}
    return Parts(Flux2Sampler(net, codec, prompt), side, {**details, "canvas": f"{side} x {side} pixels"})


def sizes_in(description: Description, folder: Path) -> Flux2Config:
    """Sizes of the network in a folder: those of the released variant, or those that a network of one's own states.

    Raises:
        ModelError: its description names neither, or sizes that cannot be.
    """
    stated: Any = description.document.get(_SIZES)
    try:
        if stated is None and description.variant is not None:
            return Flux2Config.from_variant(description.variant)
        if isinstance(stated, dict):
            return Flux2Config.from_mapping(stated)
    except ConfigError as error:
        raise ModelError(f"{folder / CONFIG} describes another network: {error}") from error
    raise ModelError(f"{folder / CONFIG} names no variant and no sizes: put the official one beside the weights.")


def _side(description: Description, folder: Path) -> int:
    side = description.document.get(_SIDE, _OFFICIAL_SIDE)
    least, most = _SIDES
    if type(side) is not int or not least <= side <= most:
        raise ModelError(f"{folder / CONFIG}: '{_SIDE}' must be a whole number from {least} to {most}.")
    return side


def _check_fit(codec: Autoencoder, sizes: Flux2Config, side: int, folder: Path) -> None:
    if side % sizes.patch:
        raise ModelError(f"{folder / CONFIG}: '{_SIDE}' is {side}, it must be a multiple of {sizes.patch}.")
    if (codec.channels, codec.pixels) != (sizes.image_channels, sizes.patch):
        raise ModelError(
            f"The autoencoder in {folder} makes tokens of {codec.channels} channels from {codec.pixels} pixels a side, "
            f"but the network takes {sizes.image_channels} and {sizes.patch}: they are not of one model."
        )
