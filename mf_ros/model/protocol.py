"""What the samplers of all networks have in common: depth from an image, an image from depth, both, LiDAR or not."""

from __future__ import annotations

from typing import Optional, Protocol

import torch
from torch import Tensor

from mf_ros.model.sampler import Known


class Sampled(Protocol):
    """What a sampler puts out.

    Attributes:
        depth: (B, 1, H, W) log of depth over the scale.
        image: (B, 3, H, W) in [-1, 1], given or sampled.
    """

    @property
    def depth(self) -> Tensor: ...

    @property
    def image(self) -> Optional[Tensor]: ...


class Sampler(Protocol):
    """Samples what is not known; ``functools.partial(mf_ros.model.sampler.sample, net)`` is one.

    What is known decides what is made: of an image its depth, of depth an image, of neither both, and returns of a
    LiDAR are depth that is known at some pixels. The scale, what depth counts as 1, is the caller's choice: the median
    of the returns for the networks of ``mf_ros.model.network``, the mean of the depth map for those of
    ``mf_ros.model.flux2``.
    """

    def __call__(self, known: Known, steps: int, generator: torch.Generator) -> Sampled:
        """Sample in ``steps`` steps.

        Args:
            known: what is given.
            steps: forward passes of the network.
            generator: of the noise; on the CPU, so that every device draws the same.
        """
        ...
