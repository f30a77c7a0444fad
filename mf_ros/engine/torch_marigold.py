"""Marigold (Ke et al., CVPR 2024, arXiv 2312.02145): depth by an image diffusion model, up to scale and shift."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from mf_ros.core.config import EngineConfig, OutputKind
from mf_ros.core.documents import bounded_text
from mf_ros.core.types import ByteArray, FloatArray
from mf_ros.engine.monocular import MonocularEngine
from mf_ros.engine.published import published_model
from mf_ros.engine.torch_device import torch_device
from mf_ros.engine.torch_published import PublishedModel, check_complete, loading, parameter_count
from mf_ros.errors import ModelError, require_package
from mf_ros.model.flux2.memory import check_memory

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
_HALF = "fp16"
_NETWORKS = ("unet", "vae", "text_encoder")
_KINDS: Dict[str, OutputKind] = {"depth": "depth", "disparity": "disparity"}
_RESOLUTION = 768
_STEPS = 4
_SEED = 0


def marigold_engine(config: EngineConfig) -> MonocularEngine:
    """The engine that the settings describe.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, its licence was not accepted, or memory is short.
    """
    return MonocularEngine(marigold_model(config), local_correction=config.local_correction)


def marigold_model(config: EngineConfig) -> PublishedModel:
    """A pipeline of Marigold for depth: only safetensors are read, and no code that comes with it is run.

    Args:
        config: model, steps, device, threads.

    Raises:
        MissingDependencyError: a package that the model needs is not installed.
        ModelError: the model is not there or cannot be loaded, its licence was not accepted, or memory is short.
    """
    diffusers, transformers = (require_package(name, extra=EXTRA) for name in ("diffusers", "transformers"))
    where = torch_device(config)
    if where.dtype == torch.bfloat16:
        # Depth comes out between 0 and 1, where bfloat16 tells near surfaces apart by centimetres only.
        where = where._replace(dtype=torch.float16)
    half = where.dtype == torch.float16
    published = published_model(config, (_INDEX,), _weights(half), extra=EXTRA)
    folder = published.folder
    document = _checked_index(folder / _INDEX)
    with loading(folder, (diffusers, transformers), EXTRA):
        parts = [_Part.of(folder / name, name, half, (diffusers, transformers)) for name in _NETWORKS]
        needed = sum(part.parameters for part in parts) * where.dtype.itemsize
        # What torch brings to a GPU is read into the memory of the machine first.
        for device in {where.device, torch.device("cpu")}:
            check_memory(f"The model {folder}", needed, device)
        networks = {part.folder.name: part.loaded(where.dtype) for part in parts}
        pipeline = diffusers.MarigoldDepthPipeline.from_pretrained(folder, local_files_only=True, **networks)
        pipeline.set_progress_bar_config(disable=True)
        pipeline = where.bring(pipeline)
    steps = config.steps or document.get("default_denoising_steps") or _STEPS
    run = MarigoldPipeline(pipeline, steps, document.get("default_processing_resolution") or _RESOLUTION)
    library = f"diffusers {diffusers.__version__}"
    return PublishedModel(published, _kind(config, document), where, library, run, {"steps": str(steps)})


class MarigoldPipeline:
    """Marigold's pipeline; every image starts from the same noise.

    Args:
        pipeline: of diffusers.
        steps: of denoising.
        resolution: longer side of the image that it works on, pixels.
    """

    def __init__(self, pipeline: Any, steps: int, resolution: int) -> None:
        self._pipeline = pipeline
        self._steps = steps
        self._resolution = resolution

    def __call__(self, image: ByteArray) -> FloatArray:
        """Depth from 0 to 1, (H, W) float32, for an image (H, W, 3) uint8 RGB."""
        made = self._pipeline(
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None],
            num_inference_steps=self._steps,
            processing_resolution=self._resolution,
            # On the CPU, so that every device draws the same noise.
            generator=torch.Generator().manual_seed(_SEED),
        )
        return np.asarray(made.prediction, np.float32).reshape(image.shape[:2])


@dataclass(frozen=True)
class _Part:
    """One network of the pipeline; loaded by itself, because the pipeline does not say what weights were missing.

    Attributes:
        folder: its files.
        kind: its class.
        variant: which of its weights are read.
        parameters: how many it has.
    """

    folder: Path
    kind: Any
    variant: Optional[str]
    parameters: int

    @classmethod
    def of(cls, folder: Path, name: str, half: bool, libraries: Sequence[ModuleType]) -> _Part:
        """Looks at its files; in half precision where that is wanted, or there is no other."""
        library, kind_name = _PARTS[name]
        kind = getattr({each.__name__: each for each in libraries}[library], kind_name)
        stored = list(folder.glob("*.safetensors"))
        halves = [path for path in stored if f".{_HALF}" in path.name]
        variant = _HALF if halves and (half or len(halves) == len(stored)) else None
        weights = halves if variant else [path for path in stored if path not in halves]

        def described() -> torch.nn.Module:
            if library == "diffusers":
                made: torch.nn.Module = kind.from_config(kind.load_config(folder, local_files_only=True))
            else:
                made = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
            return made

        return cls(folder, kind, variant, parameter_count(folder, weights, described))

    def loaded(self, dtype: torch.dtype) -> Any:
        """With its weights, on the CPU.

        Raises:
            ModelError: they leave part of it unfilled.
        """
        options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        network, info = self.kind.from_pretrained(self.folder, variant=self.variant, torch_dtype=dtype, **options)
        check_complete(self.folder, info)
        return network


def _weights(half: bool) -> List[Tuple[str, ...]]:
    """Which files of weights to take, the best first; models are published in both precisions, or in one."""
    full, halves, others = (
        tuple(f"{part}/{name}.safetensors" for part in _NETWORKS) for name in ("*model", f"*.{_HALF}", "*")
    )
    return [halves, full, others] if half else [full, others]


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


def _kind(config: EngineConfig, document: Dict[str, Any]) -> OutputKind:
    if config.output != "auto":
        return config.output
    return _KINDS.get(str(document.get("prediction_type")), "depth")
