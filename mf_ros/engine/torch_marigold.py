"""Marigold (Ke et al., CVPR 2024, arXiv 2312.02145): depth by an image diffusion model, up to scale and shift."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from types import ModuleType
from typing import Any, Dict

import numpy as np
import torch

from mf_ros.core.config import EngineConfig, OutputKind
from mf_ros.core.documents import bounded_text
from mf_ros.core.types import ByteArray, FloatArray
from mf_ros.engine.monocular import MonocularEngine
from mf_ros.engine.published import published_model
from mf_ros.engine.torch_device import torch_device
from mf_ros.engine.torch_transformers import check_complete, failed, loading
from mf_ros.errors import ModelError, require_package

EXTRA = "diffusion"

_INDEX = "model_index.json"
# The second is what the first releases call it, of which those for surface normals have a setting of their own.
_PIPELINES = ("MarigoldDepthPipeline", "MarigoldPipeline")
_NORMALS = "use_full_z_range"
_LARGEST_INDEX = 1_000_000
# The parts of the pipeline; what else a description names is not loaded.
_PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "scheduler": ("diffusers", ""),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
}
_NETWORKS = ("unet", "vae", "text_encoder")
_KINDS: Dict[str, OutputKind] = {"depth": "depth", "disparity": "disparity"}
_RESOLUTION = 768
_STEPS = 4
_SEED = 0


def marigold_engine(config: EngineConfig) -> MonocularEngine:
    """The engine that the settings describe.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, or its licence was not accepted.
    """
    return MonocularEngine(MarigoldModel(config), local_correction=config.local_correction)


class MarigoldModel:
    """A pipeline of Marigold for depth; every image starts from the same noise.

    Only safetensors are read, and no code that comes with a model is run.

    Args:
        config: model, steps, device, threads.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, or its licence was not accepted.
    """

    def __init__(self, config: EngineConfig) -> None:
        diffusers, transformers = (require_package(name, extra=EXTRA) for name in ("diffusers", "transformers"))
        needed = (_INDEX, "unet/*.safetensors", "vae/*.safetensors", "text_encoder/*.safetensors")
        self._published = published_model(config, needed, extra=EXTRA)
        folder = self._published.folder
        document = _checked_index(folder / _INDEX)
        self._where = torch_device(config)
        if self._where.dtype == torch.bfloat16:
            # Depth comes out between 0 and 1, where bfloat16 tells near surfaces apart by centimetres only.
            self._where = self._where._replace(dtype=torch.float16)
        with loading(folder, (diffusers, transformers), EXTRA):
            networks = {part: _network(part, folder, diffusers, transformers) for part in _NETWORKS}
            pipeline = diffusers.MarigoldDepthPipeline.from_pretrained(folder, local_files_only=True, **networks)
            pipeline.set_progress_bar_config(disable=True)
            self._pipeline = self._where.bring(pipeline.to(self._where.dtype))
        self._kind = _kind(config, document)
        self._steps = config.steps or document.get("default_denoising_steps") or _STEPS
        self._resolution = document.get("default_processing_resolution") or _RESOLUTION
        self._library = f"diffusers {diffusers.__version__}"

    @property
    def name(self) -> str:
        return self._published.name

    @property
    def kind(self) -> OutputKind:
        return self._kind

    def predict(self, image: ByteArray) -> FloatArray:
        """Depth from 0 to 1, (H, W) float32, for an image (H, W, 3) uint8 RGB.

        Raises:
            ModelError: torch failed, for example for lack of memory.
        """
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
        try:
            made = self._pipeline(
                pixels,
                num_inference_steps=self._steps,
                processing_resolution=self._resolution,
                # On the CPU, so that every device draws the same noise.
                generator=torch.Generator().manual_seed(_SEED),
            )
        except Exception as error:  # the library's errors have no common base but this
            raise failed(self.name, self._where, image, error) from error
        return np.asarray(made.prediction, np.float32).reshape(image.shape[:2])

    def describe(self) -> Dict[str, str]:
        """Weights, licence, library, device, precision, what is put out, steps."""
        where = self._where.describe()
        return {
            "weights": str(self._published.folder),
            "licence": self._published.licence,
            **where,
            "library": f"{self._library}, {where['library']}",
            "output": self._kind,
            "steps": str(self._steps),
        }


def _checked_index(path: Path) -> Dict[str, Any]:
    """The description of the pipeline, which names the classes that the library would load.

    Raises:
        ModelError: it is damaged, or names others than those of the pipeline.
    """
    try:
        document = json.loads(bounded_text(path, _LARGEST_INDEX, "description of a pipeline", ModelError))
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: it is damaged; download the model again.") from error
    found = document.get("_class_name") if isinstance(document, dict) else None
    if found not in _PIPELINES or _NORMALS in document:
        raise ModelError(
            f"{path} describes a pipeline {reprlib.repr(found)} that is none for depth: the engine marigold runs "
            f"{_PIPELINES[0]}."
        )
    for part, value in document.items():
        if not isinstance(value, list):
            continue
        library, kind = _PARTS.get(part, ("", ""))
        if not value or value[0] != library or (kind and value[1:] != [kind]):
            raise ModelError(f"{path} names {reprlib.repr(value)} as its {part}, which no Marigold has.")
    for setting in ("default_denoising_steps", "default_processing_resolution"):
        value = document.get(setting)
        if value is not None and not (type(value) is int and 0 < value <= 4096):
            raise ModelError(f"{path}: {setting} is {reprlib.repr(value)}: a whole number from 1 to 4096 is needed.")
    checked: Dict[str, Any] = document
    return checked


def _network(part: str, folder: Path, diffusers: ModuleType, transformers: ModuleType) -> Any:
    """One network of the pipeline; loaded by itself, because the pipeline does not say what weights were missing."""
    library, kind = _PARTS[part]
    stored = list((folder / part).glob("*.safetensors"))
    # Half precision where the folder holds no other.
    variant = "fp16" if stored and all(".fp16." in path.name for path in stored) else None
    network, info = getattr({"diffusers": diffusers, "transformers": transformers}[library], kind).from_pretrained(
        folder, subfolder=part, use_safetensors=True, local_files_only=True, variant=variant, output_loading_info=True
    )
    check_complete(folder / part, info)
    return network


def _kind(config: EngineConfig, document: Dict[str, Any]) -> OutputKind:
    if config.output != "auto":
        return config.output
    return _KINDS.get(str(document.get("prediction_type")), "depth")
