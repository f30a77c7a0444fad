"""The network from pixels to pixels: images and depth maps instead of tokens, as ``mf_ros.model.protocol`` says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mf_ros.model.flux2.depth import contracted, patched, unpatched
from mf_ros.model.flux2.network import Flux2Network
from mf_ros.model.flux2.partial import log_of
from mf_ros.model.flux2.sampler import Flux2Known, Guidance, sample_flux2
from mf_ros.model.flux2.vae import ImageCodec
from mf_ros.model.sampler import Known


class Flux2Sample(NamedTuple):
    """What was sampled.

    Attributes:
        depth: (B, 1, H, W) log of depth over the scale of what is known, by which the map's mean is about 1.
        image: (B, 3, H, W) in [-1, 1], given or sampled.
    """

    depth: Tensor
    image: Tensor


class Flux2Sampler:
    """Samples what is not known of images and depth maps of any multiple of the token's size.

    The scale of known depth is an estimate of the mean of the whole map, such as depth from the image alone gives. The
    released network was trained on 512 x 512.

    Args:
        net: the network.
        codec: from images to its image tokens and back; the decoder is needed where images are sampled.
        empty: (1, T, text_channels) the empty prompt, which stands for ``Known.text`` where there is none.
        guidance: how far an image follows its prompt; 1 is no guidance, and the network's authors use 4.
    """

    def __init__(self, net: Flux2Network, codec: ImageCodec, empty: Tensor, guidance: float = 1.0) -> None:
        self._net = net
        self._codec = codec
        self._empty = empty
        self._guidance = guidance

    @torch.inference_mode()
    def __call__(self, known: Known, steps: int, generator: torch.Generator) -> Flux2Sample:
        """Sample in ``steps`` steps; with ``sample_depth`` False depth that is not known is taken from the prior.

        Raises:
            ValueError: height or width is no multiple of the token's size, or there is no step.
        """
        patch = self._net.config.patch
        count, _, height, width = known.depth.shape
        if height % patch or width % patch:
            raise ValueError(f"{height} x {width} pixels: multiples of {patch} are needed.")
        device = self._empty.device
        grid = (height // patch, width // patch)
        text = (self._empty if known.text is None else known.text.to(device)).expand(count, -1, -1)
        image = None if known.image is None else self._codec.encode(known.image.to(device))
        given = Flux2Known(text, grid, image)
        level = known.level.to(device)
        depth = known.depth.to(device)
        if not known.sample_depth:
            depth, level = torch.where(level < 1, depth, known.prior.to(device)), torch.zeros_like(level)
        if bool((level < 1).any()):
            tokens = patched(contracted(depth.float().exp()), patch)
            given = Flux2Known(text, grid, image, tokens, patched(level.float(), patch))
        guidance = Guidance(self._empty, self._guidance) if image is None and self._guidance != 1 else None
        out = sample_flux2(self._net, given, steps, generator, guidance)
        made = known.image if known.image is not None else self._codec.decode(out.image, grid)
        return Flux2Sample(unpatched(log_of(out.depth), grid), made)
