"""Package definition; it imports nothing of the package, because colcon runs it to discover the package."""

from pathlib import Path

from setuptools import find_packages, setup

CV = ["opencv-python-headless>=4.5"]
BAGS = ["rosbags>=0.11.1", "mcap>=1.2", "jinja2>=3.0"]
EVAL = ["scipy>=1.8"]
TORCH = ["torch>=2.4", "safetensors>=0.4"]
ONNX = ["onnxruntime>=1.17"]
# torch 2.9 brought Muon.
TRAIN = [
    *CV,
    *BAGS,
    *ONNX,
    "torch>=2.9",
    "safetensors>=0.4",
    "accelerate>=1.0",
    "tensorboard>=2.10",
    "onnx>=1.16",
    "onnxscript>=0.2",
]
MONOCULAR = [*TORCH, "transformers>=5.0", "pillow"]
# 0.37 brought the autoencoder of FLUX.2.
DIFFUSION = [*MONOCULAR, "diffusers>=0.37"]
FLEET = [*CV, *BAGS, "pyarrow>=15", "pylance>=0.20", "ImageHash>=4.3"]


def files(folder, pattern):
    """Paths for data_files, which must be relative to this file's folder."""
    return sorted(path.as_posix() for path in Path(folder).glob(pattern))


setup(
    name="mf_ros",
    version="0.1.0",
    description="Dense metric depth and point clouds from a camera and a sparse LiDAR, live on robots and from bags",
    long_description="See README.md.",
    license="Apache-2.0",
    maintainer="mf_ros maintainers",
    maintainer_email="mf-ros@users.noreply.github.com",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["mf_ros", "mf_ros.*"]),
        "mf_training",
        *(f"mf_training.{name}" for name in find_packages("training")),
    ],
    package_dir={"mf_training": "training"},
    package_data={"mf_ros": ["py.typed", "bags/templates/*.html", "dataset/*/templates/*.html", "weights/*/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/mf_ros"]),
        ("share/mf_ros", ["package.xml"]),
        ("share/mf_ros/launch", files("launch", "*.launch.py")),
        ("share/mf_ros/config", files("config", "*.yaml") + files("config", "*.xml")),
        ("share/mf_ros/config/rviz", files("config/rviz", "*.rviz")),
        ("share/mf_ros/config/foxglove", files("config/foxglove", "*.json")),
        ("share/mf_ros/config/models", files("config/models", "*.yaml")),
        ("share/mf_ros/config/training", files("config/training", "*.yaml")),
        # Where `ros2 run` and launch files look. As a file and not as an entry point, pip installs it there too.
        ("lib/mf_ros", ["scripts/depth_node"]),
    ],
    install_requires=["numpy>=1.21", "pyyaml>=5.4", "tyro>=0.9", "rich>=12"],
    extras_require={
        "cv": CV,
        "bags": BAGS,
        "eval": EVAL,
        "offline": CV + BAGS + EVAL + ONNX,
        "onnx": ONNX,
        "onnx-gpu": ["onnxruntime-gpu>=1.17"],
        "torch": TORCH,
        "train": TRAIN,
        "fleet": FLEET,
        "ray": [*FLEET, "ray>=2.9"],
        "lora": ["peft>=0.11"],
        "speed": ["numba>=0.60"],
        "monocular": MONOCULAR,
        "diffusion": DIFFUSION,
        "flux": DIFFUSION,
        "viz": ["rerun-sdk>=0.18", "open3d>=0.17"],
        "remote": ["universal-pathlib>=0.2"],
        "dev": ["pytest>=7", "hypothesis>=6", "ruff>=0.6", "mypy>=1.10", "pytransform3d>=3.5", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["mf-ros = mf_ros.cli.main:main"]},
    zip_safe=False,
)
