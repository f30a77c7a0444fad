"""Everything that decides a training run: one tree of dataclasses; YAML files and ``key=value`` are views of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Literal, Mapping, Optional, Tuple, Union

from mf_ros.core.settings import value_of
from mf_ros.errors import ConfigError
from mf_training.lora import LoraConfig, validate_lora
from mf_training.losses import REGIMES, LossConfig
from mf_training.samples import SampleConfig


@dataclass(frozen=True)
class SceneSourceConfig:
    """Procedural scenes, one per seed."""

    cache: str = ""
    """Folder that keeps the scenes made; empty makes each anew when it is wanted."""
    size: Tuple[int, int] = (320, 512)
    """Height and width of a scene's image, pixels, multiples of 32."""
    scans: int = 3
    """LiDAR sweeps of each scene."""
    device: str = "cpu"
    """Where scenes are rendered, as torch names it: cpu, cuda, cuda:1."""
    first_seed: int = 0
    """Seed of the first scene trained on."""
    number: int = 0
    """Scenes trained on, again and again in a new order; 0 shows a new scene every time."""
    heldout_first_seed: int = 1_000_000_000
    """Seed of the first scene that is only ever evaluated."""
    heldout: int = 64
    """How many of those there are."""


@dataclass(frozen=True)
class FrameSourceConfig:
    """Real frames: ``SOURCE/FRAME/{image.png, calib.json, points.npz}``, as ``mf-ros evaluate`` reads them."""

    folder: str = ""
    """Frames trained on."""
    part: Tuple[float, float] = (0.0, 1.0)
    """From where to where of each drive, in order: [0, 0.5] trains on the first half of its frames."""
    heldout_folder: str = ""
    """Frames that are only ever evaluated: other drives, or another part of the same. Empty evaluates none."""
    heldout_part: Tuple[float, float] = (0.0, 1.0)
    """From where to where of each of those drives; a gap to ``part`` keeps out frames that look the same."""


@dataclass(frozen=True)
class DatasetSourceConfig:
    """Samples that ``mf-ros extract`` made of bags; ``data=PATH`` is short for ``data.dataset.path=PATH``."""

    path: str = ""
    """Folder or .parquet file of the data set; its rows of the split train are trained on."""
    heldout: int = 64
    """Rows of the split val that are evaluated while training, evenly spread; 0 evaluates none."""
    settings: str = ""
    """YAML file of the robot's settings, when its lidar, projection or output settings are no longer those with which
    the bags were extracted; empty takes those of the data set."""
    calibration: str = ""
    """YAML file of transforms that replace recorded ones: ``CHILD_FRAME: {xyz: [...], quaternion: [x, y, z, w]}``."""


@dataclass(frozen=True)
class MixConfig:
    """Share of each source among the samples; only proportions count."""

    scenes: float = 1.0
    frames: float = 0.0
    dataset: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    scenes: SceneSourceConfig = field(default_factory=SceneSourceConfig)
    frames: FrameSourceConfig = field(default_factory=FrameSourceConfig)
    dataset: DatasetSourceConfig = field(default_factory=DatasetSourceConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    shapes: Tuple[Tuple[int, int], ...] = ((256, 384),)
    """Heights and widths of the crops, multiples of 16; each batch draws one, evaluation uses the first."""
    workers: int = 2
    """Processes that prepare samples; 0 prepares them in the training process."""


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights follow gradients."""

    name: Literal["muon", "adamw"] = "muon"
    """``muon``: Muon for the matrices of the hidden layers and AdamW for the rest; ``adamw``: AdamW for all."""
    lr: float = 1e-3
    """Highest learning rate."""
    muon_lr: Optional[float] = None
    """Highest learning rate of Muon's matrices; none is the same, as updates are scaled to AdamW's size."""
    weight_decay: float = 0.05
    """Decoupled decay of matrices and kernels; biases and norms have none."""
    betas: Tuple[float, float] = (0.9, 0.99)
    """AdamW's averaging of the gradient and of its square."""
    momentum: float = 0.95
    """Muon's."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 clips nothing."""
    adamw_names: Tuple[str, ...] = ("embed", "levels", "modulation", "table", "text_in", "head")
    """Matrices whose name contains one of these stay with AdamW: they are inputs, outputs or tables."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves over the steps of the whole run."""

    name: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """``cosine``: linear warm-up, then a half cosine; ``one_cycle``: a half cosine up and one down."""
    warmup: int = 500
    """Steps until the highest rate is reached."""
    final: float = 0.02
    """Rate at the last step, relative to the highest."""


@dataclass(frozen=True)
class FluxConfig:
    """What only networks of the kind flux2 ask for."""

    parts: str = ""
    """Folder of the autoencoder and of the empty prompt; empty looks in that of ``init``."""
    accept_noncommercial: bool = False
    """Train weights whose licence forbids commercial use; what comes of it stays under that licence."""
    one_step: float = 0.5
    """Share of the samples of the regimes image and lidar whose depth is noise alone, as in the first step; of the
    others it is at a drawn level."""
    fill: Literal["completed", "noise"] = "completed"
    """What stands where there is no truth in depth that is half denoised: depth completed from all returns, as while
    sampling, or noise as in Modality Forcing (arXiv 2606.13676)."""
    error: Literal["squared", "absolute"] = "squared"
    """Of the depth's velocity; ``absolute`` learns the median, whose edges are sharper after one step."""
    unit_jitter: float = 0.05
    """Deviation of the logarithm of a factor on the unit that returns are shown in, which a fit finds in use."""
    heldout_steps: int = 1
    """Denoising steps of each of the two runs of an evaluation."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: Union[str, Mapping[str, Any]] = "nano"
    """Preset of config/models, path of such a file, or the settings themselves."""
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    flux: FluxConfig = field(default_factory=FluxConfig)
    seed: int = 0
    """Of the first weights, of the choice of samples and of all noise."""
    steps: int = 20_000
    """Steps of the optimiser in the whole run."""
    batch: int = 8
    """Samples of one process and one backward pass."""
    accumulate: int = 1
    """Backward passes per step."""
    ema: float = 0.999
    """Decay of the averaged weights, which are evaluated and exported; it grows to this from 0.1."""
    precision: Literal["no", "bf16"] = "no"
    """``bf16`` computes in half precision where that is safe; weights stay in full."""
    device: Literal["auto", "cpu"] = "auto"
    """``auto`` takes the GPU when there is one."""
    sharding: Literal["none", "fsdp2"] = "none"
    """``fsdp2`` divides weights, gradients and the optimiser's state over the processes that torchrun started, for
    networks too large for one GPU; all processes then draw the same regime of ``losses`` in each pass."""
    compile: bool = False
    """Compile the network; worth its minutes on a GPU."""
    recompute: bool = False
    """Keep the inputs of blocks alone and compute their insides again in the backward pass (gradient checkpointing):
    a fraction of the memory for a third more time."""
    init: str = ""
    """Weights to start from: a shipped network such as nano, a model folder, a checkpoint or a run's folder. Empty
    starts from random ones; ``?`` in a preset says that they must be named."""
    grow: bool = False
    """The weights to start from may be of a model with fewer blocks (``layers``, ``blocks``) and the same widths: added
    ones start as nothing."""
    out: str = "out/train"
    """Folder of checkpoints and logs."""
    resume: Optional[bool] = None
    """true: go on from the last checkpoint, with these settings; false: refuse to; none: when the settings fit."""
    minutes: float = 0.0
    """Save and stop after this long, so that runs can be chained; 0 does not stop."""
    eval_every: int = 500
    """Steps between evaluations on held-out data."""
    patience: int = 0
    """Evaluations without a better held-out error after which training stops; 0 never stops it."""
    min_gain: float = 0.001
    """By how much an error must be lower to be better, relative to the last one that was."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints kept, not counting the best."""
    log_every: int = 20
    """Steps between lines of the log."""
    tracker: Literal["tensorboard", "none"] = "tensorboard"
    """Where curves go; tensorboard's lie in the run's folder, in logs."""
    state_small: bool = False
    """Save the optimiser's state in half precision, and all in files of 15 MB, to be kept where none may be large; a
    resumed run is then not the same bit for bit."""


# What may change between two runs of one training without making it another training.
FREE_TO_CHANGE = (
    "minutes",
    "eval_every",
    "patience",
    "min_gain",
    "save_every",
    "keep",
    "log_every",
    "tracker",
    "state_small",
    "resume",
    "out",
    "init",
    "grow",
    "device",
    "sharding",
    "recompute",
    "flux.parts",
    "flux.accept_noncommercial",
    "data.workers",
    "data.scenes.cache",
    "data.scenes.device",
)

_AT_LEAST: Dict[str, float] = {
    "data.scenes.first_seed": 0,
    "data.scenes.scans": 1,
    "data.scenes.number": 0,
    "data.scenes.heldout_first_seed": 0,
    "data.scenes.heldout": 0,
    "data.mix.scenes": 0,
    "data.mix.frames": 0,
    "data.mix.dataset": 0,
    "data.dataset.heldout": 0,
    "data.workers": 0,
    "optimiser.weight_decay": 0,
    "optimiser.clip": 0,
    "schedule.warmup": 0,
    "schedule.final": 0,
    "flux.one_step": 0,
    "flux.unit_jitter": 0,
    "flux.heldout_steps": 1,
    "seed": 0,
    "steps": 1,
    "batch": 1,
    "accumulate": 1,
    "minutes": 0,
    "patience": 0,
    "eval_every": 1,
    "save_every": 1,
    "keep": 1,
    "log_every": 1,
}


def validate(config: TrainConfig) -> None:
    """Check ranges and relations of all settings.

    Raises:
        ConfigError: names the setting, its value and what is allowed.
    """
    for key, least in _AT_LEAST.items():
        if value_of(config, key) < least:
            raise ConfigError(f"{key} is {value_of(config, key)}: it must be at least {least:g}.")
    if config.init == "?":
        raise ConfigError("This training goes on from a network: name the weights to start from: init=nano.")
    if config.grow and (not config.init or config.lora.rank):
        raise ConfigError("grow=true adds blocks to trained weights: name those with init=, and set lora.rank=0.")
    for group in ("samples", "losses"):
        for name, value in vars(getattr(config, group)).items():
            if isinstance(value, (int, float)) and value < 0:
                raise ConfigError(f"{group}.{name} is {value}: it must be at least 0.")
    if config.optimiser.lr <= 0:
        raise ConfigError(f"optimiser.lr is {config.optimiser.lr}: it must be above 0.")
    averages = {
        "ema": (config.ema,),
        "optimiser.momentum": (config.optimiser.momentum,),
        "min_gain": (config.min_gain,),
    }
    for name, values in {**averages, "optimiser.betas": config.optimiser.betas}.items():
        for value in values:
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 0 and below 1.")
    validate_lora(config.lora, config.init)
    if config.lora.half and config.precision != "bf16":
        raise ConfigError(f"lora.half keeps frozen weights in bfloat16, but precision is {config.precision}: set bf16.")
    if config.flux.one_step > 1:
        raise ConfigError(f"flux.one_step is {config.flux.one_step}: it is a share, so at most 1.")
    _validate_shares(config)
    _validate_data(config)


def _validate_shares(config: TrainConfig) -> None:
    if sum(getattr(config.losses, name) for name in REGIMES) <= 0:
        raise ConfigError(f"losses.{', losses.'.join(REGIMES)} are all 0: no regime is left to train.")
    shown = ("lines", "points", "block", "nearly")
    total = sum(getattr(config.samples, name) for name in shown)
    if total > 1 + 1e-9:
        raise ConfigError(f"samples.{', samples.'.join(shown)} are shares of all samples: {total:g} is more than 1.")
    for name in ("outliers", "ghosts", "miscalibrated", "faded", "coarse", "restyled"):
        if getattr(config.samples, name) > 1:
            raise ConfigError(f"samples.{name} is {getattr(config.samples, name)}: it is a share, so at most 1.")
    if not config.samples.strides or min(config.samples.strides) < 1:
        raise ConfigError(f"samples.strides is {list(config.samples.strides)}: whole numbers from 1 on, at least one.")
    low, high = config.samples.zoom
    if not 0.1 <= low <= high <= 10:
        raise ConfigError(f"samples.zoom is [{low:g}, {high:g}]: two factors from 0.1 to 10, the smaller one first.")


def _validate_data(config: TrainConfig) -> None:
    data, scenes = config.data, config.data.scenes
    if data.mix.scenes + data.mix.frames + data.mix.dataset <= 0:
        raise ConfigError("data.mix.scenes, data.mix.frames and data.mix.dataset are 0: nothing is left to train on.")
    if data.mix.frames > 0 and not data.frames.folder:
        raise ConfigError(f"data.mix.frames is {data.mix.frames}: data.frames.folder must name the folder of frames.")
    if data.mix.dataset > 0 and not data.dataset.path:
        raise ConfigError(
            f"data.mix.dataset is {data.mix.dataset}: name the data set that mf-ros extract wrote: data=DATASET; "
            "for a folder of frames set data.frames.folder, data.mix.frames=0.5 and data.mix.dataset=0."
        )
    _validate_parts(data.frames)
    if not data.shapes:
        raise ConfigError("data.shapes is empty: name at least one crop, such as [[256, 384]].")
    sizes = [("data.shapes", shape, 16) for shape in data.shapes] + [("data.scenes.size", scenes.size, 32)]
    for name, (height, width), multiple in sizes:
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise ConfigError(f"{height} x {width} in {name}: height and width must be multiples of {multiple}.")
    drawn = scenes.number or config.steps * config.batch * config.accumulate
    first, last = scenes.first_seed, scenes.first_seed + drawn
    if scenes.heldout and first < scenes.heldout_first_seed + scenes.heldout and scenes.heldout_first_seed < last:
        raise ConfigError(
            f"data.scenes trains on the seeds {first} to {last - 1} and holds out "
            f"{scenes.heldout_first_seed} to {scenes.heldout_first_seed + scenes.heldout - 1}: they must not overlap."
        )


def _validate_parts(frames: FrameSourceConfig) -> None:
    for name in ("part", "heldout_part"):
        first, last = getattr(frames, name)
        if not 0 <= first < last <= 1:
            raise ConfigError(f"data.frames.{name} is [{first}, {last}]: two numbers from 0 to 1, the first smaller.")
    same = bool(frames.heldout_folder) and Path(frames.folder).resolve() == Path(frames.heldout_folder).resolve()
    if same and max(frames.part[0], frames.heldout_part[0]) < min(frames.part[1], frames.heldout_part[1]):
        raise ConfigError(
            f"data.frames trains on and holds out the same frames of {frames.folder}: name another heldout_folder, or "
            "parts that do not overlap, such as part [0, 0.5] and heldout_part [0.6, 1]."
        )
