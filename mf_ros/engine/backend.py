"""What the network engine asks of a library that runs networks."""

from __future__ import annotations

from typing import Dict, NamedTuple, Protocol

from mf_ros.core.types import FloatArray

_LONGEST_TEXT = 300


class StepInput(NamedTuple):
    """Input of one denoising step, by the names that the exported graph uses; float32, batch B.

    Attributes:
        image: (B, 3, H, W) normalised RGB.
        image_level: (B,) noise level of the image, 0 = clean.
        depth: (B, 1, H, W) log ratios, each pixel noised to its own level.
        level: (B, 1, H, W) noise level of each depth pixel, 0 = trusted, 1 = unknown.
        depth_level: (B,) the sampler's level.
        prior: (B, 1, H, W) log ratio of the prior.
    """

    image: FloatArray
    image_level: FloatArray
    depth: FloatArray
    level: FloatArray
    depth_level: FloatArray
    prior: FloatArray


class StepOutput(NamedTuple):
    """What one step says the clean depth is.

    Attributes:
        depth: (B, 1, H, W) float32 log ratio.
        log_scale: (B, 1, H, W) float32 log of the Laplace scale of its error.
    """

    depth: FloatArray
    log_scale: FloatArray


class Backend(Protocol):
    """A network that is loaded and ready."""

    @property
    def tolerance(self) -> float:
        """Largest relative error of depth that the arithmetic in use explains."""
        ...

    def step(self, inputs: StepInput) -> StepOutput:
        """One denoising step.

        Raises:
            ModelError: the library failed, for example for lack of memory.
        """
        ...

    def describe(self) -> Dict[str, str]:
        """Library, device and precision."""
        ...


def failure_text(error: BaseException) -> str:
    """What a library says of its failure, on one line of at most 300 characters; else the name of the error."""
    return " ".join(str(error).split())[:_LONGEST_TEXT] or type(error).__name__
