"""The options of every subcommand that reads a bag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Optional, Tuple

import tyro

from mf_ros.cli.options import Options
from mf_ros.core.config import Config
from mf_ros.core.settings import load_config

Topic = Annotated[Optional[str], tyro.conf.arg(metavar="TOPIC")]
Topics = Annotated[tyro.conf.UseAppendAction[Tuple[str, ...]], tyro.conf.arg(metavar="TOPIC")]
File = Annotated[Optional[Path], tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Optional[Path], tyro.conf.arg(metavar="FOLDER")]
Word = Annotated[Optional[str], tyro.conf.arg(metavar="NAME")]
Seconds = Annotated[Optional[float], tyro.conf.arg(metavar="SECONDS")]
Bags = Annotated[tyro.conf.Positional[Tuple[str, ...]], tyro.conf.arg(metavar="BAG [BAG ...]")]


@dataclass(kw_only=True)
class BagOptions(Options):
    """Which bag, which topics in it, and the settings."""

    bag: Bags = ()
    """ROS 1 .bag, rosbag2 folder, .mcap or .db3; several are read as one."""
    image_topic: Topic = None
    """Camera image; guessed when there is one camera."""
    camera_info_topic: Topic = None
    """Its calibration; by default the one beside the image."""
    points_topic: Topics = ()
    """LiDAR points; give it once per LiDAR; guessed when there is one."""
    config: File = None
    """YAML file of settings, plain or as a ROS parameter file."""
    ros_distro: Word = None
    """Whose message definitions to use when the bag carries none, for example humble."""

    def settings(self) -> Config:
        """The settings of the named file, or the defaults.

        Raises:
            ConfigError: the file cannot be read, or holds something wrong.
        """
        return load_config(self.config) if self.config is not None else Config()
