"""Depth models that the library transformers loads: Depth Anything, Depth Pro, ZoeDepth, DPT, GLPN and others."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Dict, Tuple

import cv2
import numpy as np
import torch

from mf_ros.core.config import EngineConfig, OutputKind
from mf_ros.core.types import ByteArray, FloatArray
from mf_ros.engine.monocular import MonocularEngine
from mf_ros.engine.published import MODEL_WEIGHTS, published_model
from mf_ros.engine.torch_device import TorchDevice, torch_device
from mf_ros.engine.torch_published import CONFIG, PublishedModel, check_complete, loading, parameter_count
from mf_ros.errors import ModelError, require_package
from mf_ros.model.flux2.memory import check_memory

EXTRA = "monocular"

_PROCESSOR = "preprocessor_config.json"
# What models put out, by the type in their description.
_KINDS: Dict[str, OutputKind] = {
    "depth_pro": "metric",
    "zoedepth": "metric",
    "tipsv2_dpt": "metric",
    "glpn": "depth",
    "dpt": "disparity",
}
_KIND_OF_TYPE: Dict[str, OutputKind] = {"relative": "disparity", "metric": "metric"}


def transformers_engine(config: EngineConfig) -> MonocularEngine:
    """The engine that the settings describe.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, its licence was not accepted, or memory is short.
    """
    return MonocularEngine(transformers_model(config), local_correction=config.local_correction)


def transformers_model(config: EngineConfig) -> PublishedModel:
    """A depth model of transformers: only safetensors are read, and no code that comes with it is run.

    Args:
        config: model, what it puts out, device, threads.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, its licence was not accepted, or memory is short.
    """
    transformers = require_package("transformers", extra=EXTRA)
    published = published_model(config, (CONFIG, _PROCESSOR), [(MODEL_WEIGHTS,)], extra=EXTRA)
    where, folder = torch_device(config), published.folder
    local = {"local_files_only": True, "trust_remote_code": False}
    with loading(folder, (transformers,), EXTRA):
        description = transformers.AutoConfig.from_pretrained(folder, **local)
        kind = output_kind(config, description, published.name)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **local)
        if description.model_type == "zoedepth":
            # What transformers does with its output needs it, and says so with a NameError.
            importlib.import_module("torchvision")
        auto, weights = transformers.AutoModelForDepthEstimation, list(folder.glob("*.safetensors"))
        parameters = parameter_count(folder, weights, lambda: auto.from_config(description))
        check_memory(f"The model {folder}", parameters * torch.float32.itemsize, where.device)
        network, info = auto.from_pretrained(
            folder, config=description, use_safetensors=True, output_loading_info=True, **local
        )
        check_complete(folder, info)
        network = where.bring(network.float().eval().requires_grad_(False))
    run = TransformersNetwork(network, processor, where)
    return PublishedModel(published, kind, where, f"transformers {transformers.__version__}", run)


class TransformersNetwork:
    """A network with the processing of images that belongs to it.

    Args:
        network: of ``AutoModelForDepthEstimation``.
        processor: of ``AutoImageProcessor``.
        where: it was brought there.
    """

    def __init__(self, network: Any, processor: Any, where: TorchDevice) -> None:
        self._network = network
        self._processor = processor
        self._where = where

    def __call__(self, image: ByteArray) -> FloatArray:
        """Its output, (H, W) float32, for an image (H, W, 3) uint8 RGB."""
        inputs = self._processor(images=self._even(image), input_data_format="channels_last", return_tensors="pt")
        with torch.inference_mode(), self._where.autocast():
            outputs = self._network(pixel_values=inputs["pixel_values"].to(self._where.device))
        return self._of_size(outputs, (image.shape[0], image.shape[1]))

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
