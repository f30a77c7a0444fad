"""The folder a network is kept in: weights, graph, how input is prepared, and a result to test against.

``mf-ros export`` writes it; what prepares the input is saved with the weights, so that training and robot cannot drift
apart. Nothing in it is executed: weights are safetensors or an ONNX graph, the rest is JSON and plain arrays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import reprlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Dict, Mapping, Optional, Tuple, Type, TypeVar

import numpy as np

from mf_ros.core.archives import UNREADABLE
from mf_ros.core.documents import bounded_text
from mf_ros.core.pixels import IMAGE_OFFSET, IMAGE_SCALE
from mf_ros.core.types import AnyArray
from mf_ros.errors import ModelError

FORMAT = 1
CONFIG, WEIGHTS, GRAPH, REFERENCE, CARD = (
    "config.json",
    "model.safetensors",
    "model.onnx",
    "reference.npz",
    "README.md",
)
PLAIN = "model_plain.onnx"
"""The graph in operators of ONNX alone, for TensorRT and other runtimes; not every model has it."""
GRAPHS = {"float32": GRAPH, "float16": "model_float16.onnx", "int8": "model_int8.onnx"}
"""The graph by the precision it computes in; of them every model has float32."""
SHIPPED = Path(__file__).resolve().parents[1] / "weights"
"""Where the networks that come with the package lie."""
REFERENCE_SIZE = (64, 96)
"""Largest height and width of the stored self-test."""

_LARGEST_CONFIG = 1_000_000
_LARGEST_NETWORK = 64 * 2**30
_LARGEST_REFERENCE = 4_000_000
_LARGEST_OFFSET = 5.0
_NORMALISATIONS = ("log_over_median",)

Part = TypeVar("Part", "Processing", "Calibration")


@dataclass(frozen=True)
class Processing:
    """How the input is prepared; the same in training and at run time.

    Attributes:
        max_pixels: larger images are completed on a coarser grid.
        multiple: height and width are filled up to a multiple of this many pixels.
        image_scale, image_offset: the network sees ``value / image_scale - image_offset`` of uint8 RGB.
        level_shift: moves the levels of several steps towards noise, as they were in training.
        recession: how far depth may recede beyond the prior, in log depth; 0 sets no limit.
        negligible: corrections of the prior below this, in log depth, fade out.
        depth: how depth is normalised; ``log_over_median`` is ``core.conditioning``.
    """

    max_pixels: int = 700_000
    multiple: int = 16
    image_scale: float = IMAGE_SCALE
    image_offset: float = IMAGE_OFFSET
    level_shift: float = 1.1
    recession: float = 0.1
    negligible: float = 0.005
    depth: str = "log_over_median"


@dataclass(frozen=True)
class Calibration:
    """Corrections measured after training.

    Attributes:
        log_scale_offset: added to the predicted log b, so that its intervals hold what they promise.
        coarse_log_scale_offset: added as well on a grid whose cells are larger than a pixel; 0 makes no difference
            between grids.
    """

    log_scale_offset: float = 0.0
    coarse_log_scale_offset: float = 0.0

    def offset(self, cell: int) -> float:
        """What to add to log b on a grid whose cells have sides of so many pixels."""
        return self.log_scale_offset + (self.coarse_log_scale_offset if cell > 1 else 0.0)


@dataclass(frozen=True)
class Bundle:
    """A network's folder, its description read and checked.

    Attributes:
        folder: where it lies.
        name: the folder's name, for tables.
        model: sizes of the network, as ``mf_ros.model.ModelConfig`` takes them.
        processing: how input is prepared.
        calibration: corrections of the output.
        licence: SPDX identifier of the weights' licence.
    """

    folder: Path
    name: str
    model: Mapping[str, Any]
    processing: Processing
    calibration: Calibration
    licence: str

    def file(self, name: str) -> Path:
        """One of the network's files.

        Raises:
            ModelError: it is missing or too large to be what its name says.
        """
        path = self.folder / name
        if not path.is_file():
            raise ModelError(f"The model {self.folder} has no {name}: run mf-ros export again, or name another model.")
        largest = _LARGEST_REFERENCE if name == REFERENCE else _LARGEST_NETWORK
        if path.stat().st_size > largest:
            raise ModelError(f"{path} has {path.stat().st_size} bytes: more than {largest} cannot be right.")
        return path


def load_bundle(model: str) -> Bundle:
    """Read the description of a network.

    Args:
        model: name of a shipped network, or the path of a folder.

    Raises:
        ModelError: there is none, or its description is damaged or of a format this version does not know.
    """
    folder = _folder(model)
    path = folder / CONFIG
    try:
        document = json.loads(bounded_text(path, _LARGEST_CONFIG, "description of a model", ModelError))
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}; is {folder} a folder of mf-ros export?") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: it is damaged; run mf-ros export again.") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise ModelError(f"{path} states no format: it was not written by mf-ros export.")
    if document["format"] != FORMAT:
        raise ModelError(
            f"{path} has format {reprlib.repr(document['format'])}, this version of mf_ros knows {FORMAT}: "
            "update mf_ros, or export the model again."
        )
    model_sizes = document.get("model")
    if not isinstance(model_sizes, dict):
        raise ModelError(f"{path} has no group 'model': it is damaged; run mf-ros export again.")
    processing, calibration = _part(Processing, document, path), _part(Calibration, document, path)
    _check(processing, calibration, path)
    licence = str(document.get("licence", "unknown"))
    return Bundle(folder, folder.name, model_sizes, processing, calibration, licence)


def load_reference(path: Path) -> Dict[str, AnyArray]:
    """The arrays of a self-test: image (H, W, 3) uint8 RGB, sparse, depth (H, W) metres, log_scale (H, W).

    Raises:
        ModelError: the file is damaged, or holds other arrays or larger ones.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive, name) for name in ("image", "sparse", "depth", "log_scale")}
    except UNREADABLE as error:
        raise ModelError(f"The self-test {path} is damaged ({error}): run mf-ros export again.") from error
    shape = arrays["sparse"].shape
    kinds = {"image": ((*shape, 3), np.uint8), **dict.fromkeys(("sparse", "depth", "log_scale"), (shape, np.float32))}
    if len(shape) != 2 or any(
        arrays[name].shape != want or arrays[name].dtype != kind for name, (want, kind) in kinds.items()
    ):
        raise ModelError(f"The self-test {path} holds arrays that do not fit each other: run mf-ros export again.")
    return arrays


def shipped_folder(model: str) -> Optional[Path]:
    """The folder of a network that comes with the package, None when there is none of that name."""
    folder = SHIPPED / model
    return folder if model == Path(model).name and (folder / CONFIG).is_file() else None


def shipped_names() -> str:
    """The networks that come with the package, for messages."""
    return ", ".join(sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))) or "none"


def _folder(model: str) -> Path:
    # A name that is too long is an OSError, the home of an unknown user a RuntimeError.
    with contextlib.suppress(OSError, RuntimeError):
        shipped = shipped_folder(model)
        if shipped is not None:
            return shipped
        folder = Path(model).expanduser()
        if folder.is_dir():
            return folder.resolve()
    raise ModelError(
        f"engine.model is '{model}': there is no such folder, and the networks in this installation are "
        f"{shipped_names()}; name a folder that mf-ros export wrote."
    )


def _part(kind: Type[Part], document: Mapping[str, Any], path: Path) -> Part:
    """One group of the description; a name unknown here would mean that input must be prepared otherwise."""
    group = document.get(kind.__name__.lower(), {})
    known = {item.name: item.default for item in dataclasses.fields(kind)}
    if not isinstance(group, dict):
        raise ModelError(f"{path}: '{kind.__name__.lower()}' is no group of names and values.")
    for name, value in group.items():
        where = f"{path}: {kind.__name__.lower()}.{name}"
        if name not in known:
            raise ModelError(f"{where} is not known to this version of mf_ros: update it, or export the model again.")
        number = isinstance(known[name], float) and type(value) in (int, float) and abs(value) < math.inf
        if not number and type(value) is not type(known[name]):
            raise ModelError(f"{where} is {reprlib.repr(value)}: {type(known[name]).__name__} is needed.")
    return kind(**group)


def _check(processing: Processing, calibration: Calibration, path: Path) -> None:
    for name, offset in dataclasses.asdict(calibration).items():
        if not abs(offset) <= _LARGEST_OFFSET:
            raise ModelError(
                f"{path}: calibration.{name} is {reprlib.repr(offset)}: allowed is -{_LARGEST_OFFSET:g} to "
                f"{_LARGEST_OFFSET:g}."
            )
    limits: Dict[str, Tuple[float, float]] = {
        "max_pixels": (4096, 100_000_000),
        "multiple": (1, 1024),
        "image_scale": (1e-3, 1e3),
        "image_offset": (-1e3, 1e3),
        "level_shift": (-10, 10),
        "recession": (0, 10),
        "negligible": (0, 1),
    }
    for name, (low, high) in limits.items():
        value = getattr(processing, name)
        if not low <= value <= high:
            raise ModelError(f"{path}: processing.{name} is {reprlib.repr(value)}: allowed is {low:g} to {high:g}.")
    if processing.depth not in _NORMALISATIONS:
        raise ModelError(
            f"{path}: processing.depth is '{processing.depth}', this version of mf_ros knows "
            f"{', '.join(_NORMALISATIONS)}: update it, or export the model again."
        )


def _array(archive: zipfile.ZipFile, name: str) -> AnyArray:
    """An array of an .npz whose size is checked before memory is taken for it."""
    with archive.open(f"{name}.npy") as file:
        shape, order, kind = _header(file)
        if len(shape) not in (2, 3) or any(
            not 0 < side <= most for side, most in zip(shape, (*REFERENCE_SIZE, 3), strict=False)
        ):
            raise ValueError(f"{name} has the shape {shape}")
        if kind not in (np.dtype(np.uint8), np.dtype(np.float32)) or order:
            raise ValueError(f"{name} has the type {kind}")
        data = file.read(math.prod(shape) * kind.itemsize)
        return np.frombuffer(data, kind).reshape(shape)


def _header(file: Any) -> Tuple[Tuple[int, ...], bool, np.dtype[Any]]:
    binary: BinaryIO = file
    version = np.lib.format.read_magic(binary)
    if version != (1, 0):
        raise ValueError(f"arrays of version {version}")
    shape, order, kind = np.lib.format.read_array_header_1_0(binary)
    return shape, order, kind
