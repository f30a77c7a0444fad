"""A trained FLUX.2 network as a sampler for contact sheets: depth of any scale, known where a LiDAR measured it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mf_ros.engine.torch_flux_parts import sizes_in
from mf_ros.errors import ModelError
from mf_ros.model.flux2 import load_flux2
from mf_ros.model.flux2.files import read_description
from mf_ros.model.flux2.pixels import Flux2Sample, Flux2Sampler
from mf_ros.model.flux2.text import empty_prompt
from mf_ros.model.flux2.vae import DECODER, ENCODER, load_autoencoder
from mf_ros.model.sampler import Known
from mf_training.flux.objective import fitted


class FluxPictures:
    """Brings known depth into the network's unit, as the engine does, and what it makes back again.

    Args:
        sampler: whose unit is the mean of the map.
    """

    def __init__(self, sampler: Flux2Sampler) -> None:
        self._sampler = sampler

    def __call__(self, known: Known, steps: int, generator: torch.Generator) -> Flux2Sample:
        """Sample; a map that is given whole has its own mean, and returns are fitted to depth made without them."""
        given = known.level < 1
        if not bool(given.any()):
            return self._sampler(known, steps, generator)
        if known.sample_depth:
            unknown = {"depth": torch.zeros_like(known.depth), "level": torch.ones_like(known.level)}
            nothing = dataclasses.replace(known, **unknown)
            alone = self._sampler(nothing, steps, torch.Generator().manual_seed(generator.initial_seed()))
            unit = fitted(alone.depth, known.depth, given, few=True)
        else:
            total = (known.depth.exp() * given).sum((1, 2, 3), keepdim=True)
            unit = (total / given.sum((1, 2, 3), keepdim=True)).log()
        made = self._sampler(dataclasses.replace(known, depth=known.depth - unit), steps, generator)
        return Flux2Sample(made.depth + unit, made.image)


def flux_pictures(folder: Path, *, accept_noncommercial: bool = False) -> FluxPictures:
    """The network in a folder, on the CPU, with both halves of its autoencoder.

    Raises:
        MissingDependencyError: a package is not installed.
        ModelError: files are missing or of another network, or the licence was not accepted.
    """
    sizes = sizes_in(read_description(folder), folder)
    if not (folder / DECODER).is_file():
        raise ModelError(f"{folder} has no {DECODER}, with which images are drawn: download it there.")
    codec = load_autoencoder(folder, parts=(ENCODER, DECODER))
    net = load_flux2(folder, config=sizes, accept_noncommercial=accept_noncommercial)
    return FluxPictures(Flux2Sampler(net, codec, empty_prompt(folder, sizes.text_channels)))
