"""What the engines of published monocular models share: loading them safely, and how they are run and described."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, Sequence

import torch

from mf_ros.core.config import OutputKind
from mf_ros.core.types import ByteArray, FloatArray
from mf_ros.engine.backend import failure_text
from mf_ros.engine.published import Published
from mf_ros.engine.torch_device import TorchDevice
from mf_ros.errors import MfRosError, MissingDependencyError, ModelError
from mf_ros.packages import install_command, pip_install

CONFIG = "config.json"
_SHOWN_KEYS = 3


@dataclass(frozen=True)
class PublishedModel:
    """A loaded model, as ``MonocularEngine`` takes it.

    Attributes:
        published: its files and licence.
        kind: what it puts out.
        where: device and precision.
        library: that runs it, with version.
        run: its output, (H, W) float32, for an image (H, W, 3) uint8 RGB; may raise anything.
        details: what else ``describe`` says.
    """

    published: Published
    kind: OutputKind
    where: TorchDevice
    library: str
    run: Callable[[ByteArray], FloatArray]
    details: Dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.published.name

    def predict(self, image: ByteArray) -> FloatArray:
        """The model's output, (H, W) float32 of the image's size, for an image (H, W, 3) uint8 RGB.

        Raises:
            ModelError: torch failed, for example for lack of memory, or the image cannot be brought to the right size.
        """
        try:
            return self.run(image)
        except Exception as error:  # the library's errors have no common base but this
            raise ModelError(
                f"The model {self.name} failed on {self.where.device} for an image of {image.shape[1]} x "
                f"{image.shape[0]}: {failure_text(error)}"
            ) from error

    def describe(self) -> Dict[str, str]:
        """Weights, licence, library, device, precision, what is put out."""
        where = self.where.describe()
        return {
            "weights": str(self.published.folder),
            "licence": self.published.licence,
            **where,
            "library": f"{self.library}, {where['library']}",
            "output": self.kind,
            **self.details,
        }


def parameter_count(folder: Path, weights: Sequence[Path], make: Callable[[], torch.nn.Module]) -> int:
    """How many parameters a network has; nothing is read or allocated for them.

    Args:
        folder: of its description, for messages.
        weights: the files that are to fill it.
        make: builds it as it is described.

    Raises:
        ModelError: it is larger than its weights can fill.
    """
    with torch.device("meta"):
        parameters = sum(each.numel() for each in make().parameters())
    stored = sum(path.stat().st_size for path in weights)
    if parameters > stored:
        raise ModelError(
            f"{folder / CONFIG} describes a network of {parameters} parameters, but its weights have {stored} bytes: "
            "they are incomplete, or of another model."
        )
    return parameters


def check_complete(folder: Path, info: Any) -> None:
    """See that weights filled the whole network; what they leave would be random.

    Args:
        folder: of the network.
        info: what the library says of loading it.

    Raises:
        ModelError: weights are missing, or of another shape.
    """
    wrong = sorted(str(key) for name in ("missing_keys", "mismatched_keys") for key in info.get(name) or ())
    if wrong:
        more = f" and {len(wrong) - _SHOWN_KEYS} more" if len(wrong) > _SHOWN_KEYS else ""
        raise ModelError(
            f"The weights in {folder} do not fit its {CONFIG}: {', '.join(wrong[:_SHOWN_KEYS])}{more} are missing or "
            "of another shape: they are incomplete, or of another model."
        )


@contextlib.contextmanager
def loading(folder: Path, libraries: Sequence[ModuleType], extra: str) -> Iterator[None]:
    """Keeps libraries quiet while they load a model, and turns what they raise into one sentence.

    Args:
        folder: of the model.
        libraries: the one that loads, and others that it uses; with a logging of their own, as transformers has.
        extra: the pip extra of mf_ros that installs them.

    Raises:
        MissingDependencyError: the library asks for a package that is not installed.
        ModelError: the model cannot be loaded.
    """
    before = [library.utils.logging.get_verbosity() for library in libraries]
    for library in libraries:
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    name = libraries[0].__name__
    try:
        yield
    except MfRosError:
        raise
    except Exception as error:  # the library's errors have no common base but this
        text = failure_text(error)
        if "torchvision" in str(error):
            # In no extra: the one from the usual index cannot be loaded beside a torch from another.
            raise MissingDependencyError(
                f"{name} needs the Python package 'torchvision', built for the torch that is installed, for the model "
                f"{folder} ({text}): run {pip_install('torchvision')}, from the index that torch came from."
            ) from error
        if isinstance(error, ImportError):
            raise MissingDependencyError(
                f"{name} needs another Python package for the model {folder} ({text}): run {install_command(extra)}."
            ) from error
        if "trust_remote_code" in str(error):
            text = "it needs Python code that comes with it, which is never run"
        raise ModelError(
            f"{name} cannot load the model {folder} ({text}): download it again, or name another one."
        ) from error
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.utils.logging.set_verbosity(level)
