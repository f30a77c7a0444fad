"""One tree of settings; YAML files, ROS parameters and the command line are views of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Tuple

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
EngineName = Literal["auto", "onnx", "torch", "classical", "transformers", "marigold", "flux"]
QualityName = Literal["fast", "balanced", "best"]
OutputKind = Literal["depth", "disparity", "log_depth", "metric"]


@dataclass(frozen=True)
class SyncConfig:
    """How LiDAR sweeps are paired with images."""

    tolerance_s: float = 0.06
    """Largest distance in time between an image and the sweep it is paired with, seconds."""
    lidar_offset_s: Tuple[float, ...] = ()
    """Added to each LiDAR's stamps, for pairing and motion compensation, seconds, by point topic; empty means zero."""
    max_wait_s: float = 0.2
    """How long an image waits for its sweep and transforms before it is processed or dropped, seconds."""
    queue_size: int = 30
    """How many images and sweeps per sensor are kept while waiting."""


@dataclass(frozen=True)
class LidarConfig:
    """How LiDAR returns are read and brought to the image's time.

    Where camera and LiDAR move against each other (a mast), their pose on /tf may be up to 0.1 s older than the image,
    which is warned of; when it is older, the image is dropped.
    """

    min_range_m: float = 0.3
    """Returns nearer to the LiDAR than this are dropped (the robot's own body), metres."""
    max_range_m: float = 250.0
    """Returns farther from the LiDAR than this are dropped, metres."""
    time_unit: TimeUnit = "auto"
    """Unit of the per-point time field; auto infers it from its type and magnitude."""
    deskew: bool = True
    """Compensate the robot's motion between sweep and image, and during the sweep where its points have times."""
    fixed_frame: str = "odom"
    """World-fixed frame of /tf that motion compensation uses."""


@dataclass(frozen=True)
class ProjectionConfig:
    """How LiDAR returns become sparse depth on the image."""

    reject_lonely: bool = True
    """Remove returns that hardly any around them agrees with (rain, dust, reflections), where there are many such."""
    cull_hidden: bool = True
    """Remove returns that a nearer surface hides from the camera."""
    cull_margin: float = 0.08
    """A return is hidden when the surface in front of it is nearer by more than this part of its depth."""


@dataclass(frozen=True)
class CloudConfig:
    """How dense depth becomes a point cloud."""

    min_depth_m: float = 0.3
    """Points nearer than this are left out, metres."""
    max_depth_m: float = 100.0
    """Points farther than this are left out, metres."""
    min_confidence: float = 0.15
    """Points below this confidence are left out."""
    edge_ratio: float = 0.08
    """Points where neighbouring pixels differ by more than this part of the depth are left out; 0 keeps all."""
    voxel_m: float = 0.0
    """Edge of the voxels to thin the cloud to, metres; 0 keeps the organized cloud."""


@dataclass(frozen=True)
class OutputConfig:
    """What the published depth looks like."""

    min_confidence: float = 0.05
    """Pixels below this confidence are published as NaN: too far from any return to be more than a guess."""
    encoding: Literal["32FC1", "16UC1"] = "32FC1"
    """32FC1 metres, or 16UC1 millimetres."""
    scale: float = 1.0
    """Size of the processed and published image relative to the input image."""
    rectify: bool = False
    """Undistort the image first and publish depth for the rectified image."""


@dataclass(frozen=True)
class EngineConfig:
    """What turns sparse depth into dense depth: a network, or the method that needs no weights."""

    name: EngineName = "auto"
    """auto runs the network with onnxruntime, else with torch, else, with a warning, classical, which needs no weights;
    onnx and torch run the network or say why they cannot; transformers, marigold and flux run models that others
    published."""
    model: str = "nano"
    """The network: nano or small, which are shipped, or a folder of mf-ros export; a published model's hub id or
    folder."""
    quality: QualityName = "balanced"
    """Speed against accuracy: best works on a grid of at most 700,000 cells (every pixel of a smaller image), balanced
    of 160,000, fast of 70,000 and, where name is auto, without the network."""
    steps: int = 0
    """Denoising steps per image; 0 takes the model's own number, which is 1, without randomness, for those shipped."""
    threads: int = 0
    """CPU threads of the network; 0 lets the library choose."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes an NVIDIA GPU when the library can use it."""
    precision: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    """Numbers that the network computes with; auto takes float32 on a CPU and half precision on a GPU where the model
    has it; int8 is for CPUs, with models of mf-ros export --int8."""
    compile: bool = False
    """Prepare the network for each image size at its first image: torch.compile with torch, CUDA graphs on a GPU."""
    tensorrt: bool = False
    """Run the network with TensorRT, when onnxruntime has it; the first image of each size takes minutes, once."""
    cache_dir: str = "~/.cache/mf_ros"
    """Folder of what is built for this machine and kept, such as TensorRT's engines; ~ is the home folder."""
    self_test: bool = True
    """Compare the network at start-up with a stored result, so that a wrong one never makes depth."""
    output: Literal["auto", OutputKind] = "auto"
    """What a published model puts out: depth, disparity, log_depth or metric; auto goes by the model's description."""
    local_correction: bool = True
    """Correct a published model's depth smoothly toward the returns, beyond one scale and shift for the image."""
    accept_noncommercial: bool = False
    """Run published weights whose licence forbids commercial use, which is then up to you to keep."""
    refine: Literal["", "transformers", "marigold", "flux"] = ""
    """Engine that makes depth of some images of the live node once more, beside the first; empty for none."""
    refine_model: str = "auto"
    """The published model of that engine, its hub id or folder; auto takes the released one of flux."""
    refine_steps: int = 0
    """Denoising steps per image of that engine; 0 takes its model's own number."""
    refine_rate_hz: float = 0.0
    """How many images of each camera that engine takes per second at most; 0 takes as many as it can."""


@dataclass(frozen=True)
class TemporalConfig:
    """What is kept of earlier frames; needs lidar.fixed_frame on /tf at the images' times."""

    enabled: bool = False
    """Reuse returns and depth of earlier frames where odometry tells how the camera moved."""
    max_age_s: float = 2.0
    """How long returns of earlier frames are carried along, seconds; 0 carries none."""
    smoothing: float = 0.7
    """Part of the difference to the previous depth that is taken over where both agree; 0 takes nothing."""


@dataclass(frozen=True)
class NodeConfig:
    """How the live node is connected; recordings do without it."""

    camera_names: Tuple[str, ...] = ()
    """Names of several cameras, the first part of their topics' names; empty for one camera without such a part."""
    points_topics: Tuple[str, ...] = ("points",)
    """Topics of the LiDARs, one for each."""
    image_transport: Literal["raw", "compressed"] = "raw"
    """raw subscribes to image, compressed (JPEG or PNG) to image/compressed."""
    rectified_input: bool = False
    """The images are rectified already (image_rect), so that camera_info's P holds and its D does not."""
    autostart: bool = True
    """Configure and activate at the start; false leaves that to a lifecycle manager."""
    report_period_s: float = 5.0
    """How often missing input is looked for and said, seconds."""
    snapshot_dir: str = "~/.ros/mf_ros"
    """Folder that the service snapshot writes its bags into; ~ is the home folder."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what comes out for a given input."""

    sync: SyncConfig = field(default_factory=SyncConfig)
    lidar: LidarConfig = field(default_factory=LidarConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    cloud: CloudConfig = field(default_factory=CloudConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
