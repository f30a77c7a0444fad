"""Depth models that the library transformers loads: Depth Anything, Depth Pro, ZoeDepth, DPT, GLPN and others."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, Sequence, Tuple

import cv2
import numpy as np
import torch

from mf_ros.core.config import EngineConfig, OutputKind
from mf_ros.core.types import ByteArray, FloatArray
from mf_ros.engine.backend import failure_text
from mf_ros.engine.monocular import MonocularEngine
from mf_ros.engine.published import published_model
from mf_ros.engine.torch_device import TorchDevice, torch_device
from mf_ros.errors import MfRosError, MissingDependencyError, ModelError, require_package

EXTRA = "monocular"

_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"
# What models put out, by the type in their description.
_KINDS: Dict[str, OutputKind] = {
    "depth_pro": "metric",
    "zoedepth": "metric",
    "tipsv2_dpt": "metric",
    "glpn": "depth",
    "dpt": "disparity",
}
_KIND_OF_TYPE: Dict[str, OutputKind] = {"relative": "disparity", "metric": "metric"}
_SHOWN_KEYS = 3


def transformers_engine(config: EngineConfig) -> MonocularEngine:
    """The engine that the settings describe.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, or its licence was not accepted.
    """
    return MonocularEngine(TransformersModel(config), local_correction=config.local_correction)


class TransformersModel:
    """A depth model of transformers with the processing of images that belongs to it.

    Only safetensors are read, and no code that comes with a model is run.

    Args:
        config: model, what it puts out, device, threads.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, or its licence was not accepted.
    """

    def __init__(self, config: EngineConfig) -> None:
        transformers = require_package("transformers", extra=EXTRA)
        self._published = published_model(config, (_CONFIG, _PROCESSOR, "*.safetensors"), extra=EXTRA)
        self._where = torch_device(config)
        folder = self._published.folder
        local = {"local_files_only": True, "trust_remote_code": False}
        with loading(folder, (transformers,), EXTRA):
            description = transformers.AutoConfig.from_pretrained(folder, **local)
            self._kind = output_kind(config, description, self._published.name)
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, **local)
            if description.model_type == "zoedepth":
                # What transformers does with its output needs it, and says so with a NameError.
                importlib.import_module("torchvision")
            _check_size(folder, transformers.AutoModelForDepthEstimation, description)
            network, info = transformers.AutoModelForDepthEstimation.from_pretrained(
                folder, config=description, use_safetensors=True, output_loading_info=True, **local
            )
            check_complete(folder, info)
            self._network = self._where.bring(network.float().eval().requires_grad_(False))
        self._library = f"transformers {transformers.__version__}"

    @property
    def name(self) -> str:
        return self._published.name

    @property
    def kind(self) -> OutputKind:
        return self._kind

    def predict(self, image: ByteArray) -> FloatArray:
        """The network's output, (H, W) float32 of the image's size, for an image (H, W, 3) uint8 RGB.

        Raises:
            ModelError: torch failed, for example for lack of memory, or the image cannot be brought to the right size.
        """
        shape = (image.shape[0], image.shape[1])
        try:
            inputs = self._processor(images=self._even(image), input_data_format="channels_last", return_tensors="pt")
            with torch.inference_mode(), self._where.autocast():
                outputs = self._network(pixel_values=inputs["pixel_values"].to(self._where.device))
            return self._of_size(outputs, shape)
        except Exception as error:  # the library's errors have no common base but this
            raise failed(self.name, self._where, image, error) from error

    def describe(self) -> Dict[str, str]:
        """Weights, licence, library, device, precision, what is put out."""
        where = self._where.describe()
        return {
            "weights": str(self._published.folder),
            "licence": self._published.licence,
            **where,
            "library": f"{self._library}, {where['library']}",
            "output": self._kind,
        }

    def _even(self, image: ByteArray) -> ByteArray:
        """The image in a size that needs no padding, which the library would not take away from the output again."""
        divisor = getattr(self._processor, "size_divisor", None)
        if not divisor or not getattr(self._processor, "do_pad", False) or getattr(self._processor, "do_resize", False):
            return image
        height, width = (max(round(side / divisor), 1) * divisor for side in image.shape[:2])
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

    def _of_size(self, outputs: Any, shape: Tuple[int, int]) -> FloatArray:
        for name in ("predicted_depth", "field_of_view"):
            if outputs.get(name) is not None:
                outputs[name] = outputs[name].float()
        post = getattr(self._processor, "post_process_depth_estimation", None)
        if post is None:
            depth = outputs.predicted_depth.reshape(1, 1, *outputs.predicted_depth.shape[-2:])
            depth = torch.nn.functional.interpolate(depth, shape, mode="bilinear", align_corners=False)
        else:
            sizes = {"target_sizes": [shape]}
            if "source_sizes" in inspect.signature(post).parameters:
                sizes["source_sizes"] = [shape]
            depth = post(outputs, **sizes)[0]["predicted_depth"]
        return np.asarray(depth.cpu().numpy(), np.float32).reshape(shape)


def output_kind(config: EngineConfig, description: Any, name: str) -> OutputKind:
    """What a model puts out: as ``engine.output`` says, else as its description does.

    Args:
        config: the settings.
        description: transformers' configuration of the model.
        name: of the model, for messages.

    Raises:
        ModelError: nothing says it.
    """
    if config.output != "auto":
        return config.output
    model_type = description.model_type
    kind = _KINDS.get(model_type)
    if model_type == "depth_anything":
        kind = _KIND_OF_TYPE.get(description.depth_estimation_type)
    elif model_type == "depth_pro" and not description.use_fov_model:
        kind = "depth"
    elif model_type == "dpt" and _backbone(description).startswith("dinov2"):
        # DINOv2's heads were trained on depth of KITTI and NYU, not on MiDaS's disparity.
        kind = "depth"
    if kind is None:
        raise ModelError(
            f"What the model {name} (of type {model_type}) puts out is not known: set engine.output to depth, "
            "disparity, log_depth or metric."
        )
    return kind


def _backbone(description: Any) -> str:
    return str(getattr(getattr(description, "backbone_config", None), "model_type", ""))


def _check_size(folder: Path, auto: Any, description: Any) -> None:
    """See that a network is no larger than its weights can fill, before memory is taken for it."""
    with torch.device("meta"):
        parameters = sum(each.numel() for each in auto.from_config(description).parameters())
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if parameters > stored:
        raise ModelError(
            f"{folder / _CONFIG} describes a network of {parameters} parameters, but its weights have {stored} bytes: "
            "they are incomplete, or of another model."
        )


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
            f"The weights in {folder} do not fit its {_CONFIG}: {', '.join(wrong[:_SHOWN_KEYS])}{more} are missing or "
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
                f"{folder} ({text}): run pip install torchvision, from the index that torch came from."
            ) from error
        if isinstance(error, ImportError):
            raise MissingDependencyError(
                f"{name} needs another Python package for the model {folder} ({text}): run pip install "
                f"'mf_ros[{extra}]'."
            ) from error
        if "trust_remote_code" in str(error):
            text = "it needs Python code that comes with it, which is never run"
        raise ModelError(
            f"{name} cannot load the model {folder} ({text}): download it again, or name another one."
        ) from error
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.utils.logging.set_verbosity(level)


def failed(model: str, where: TorchDevice, image: ByteArray, error: Exception) -> ModelError:
    """What to raise when a model fails at an image."""
    return ModelError(
        f"The model {model} failed on {where.device} for an image of {image.shape[1]} x {image.shape[0]}: "
        f"{failure_text(error)}"
    )
