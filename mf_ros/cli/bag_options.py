"""The options of every subcommand that reads a bag."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Iterator, Mapping, Optional, Sequence, Tuple, cast

import tyro

from mf_ros.bags.reader import Recording, open_recording
from mf_ros.bags.window import RecordingWindow
from mf_ros.cli.options import Options
from mf_ros.core.config import Config, EngineName, QualityName
from mf_ros.core.settings import load_config, validate
from mf_ros.core.topics import TopicChoice, choose_topics
from mf_ros.errors import TopicError

Topic = Annotated[Optional[str], tyro.conf.arg(metavar="TOPIC")]
Topics = Annotated[tyro.conf.UseAppendAction[Tuple[str, ...]], tyro.conf.arg(metavar="TOPIC")]
File = Annotated[Optional[Path], tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Optional[Path], tyro.conf.arg(metavar="FOLDER")]
Word = Annotated[Optional[str], tyro.conf.arg(metavar="NAME")]
Seconds = Annotated[float, tyro.conf.arg(metavar="SECONDS")]
MaybeSeconds = Annotated[Optional[float], tyro.conf.arg(metavar="SECONDS")]
Bags = Annotated[tyro.conf.Positional[Tuple[str, ...]], tyro.conf.arg(metavar="BAG [BAG ...]")]
Settings = Annotated[Config, tyro.conf.arg(name="")]


@dataclass(kw_only=True)
class SettingsOptions(Options):
    """The settings, from a file and from the command line; the command line wins."""

    config: File = None
    """YAML file of settings, plain or as a ROS parameter file; the options below override it."""
    settings: Settings = field(default_factory=Config)
    """Settings; the same names work in YAML files and as ROS parameters."""

    @classmethod
    def defaults_from(cls, args: Sequence[str]) -> Any:
        """An instance whose settings are those of the file that ``args`` name; the parser starts from it.

        Raises:
            ConfigError: the file cannot be read, or holds something wrong.
        """
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config", nargs="?")
        named = finder.parse_known_args(list(args))[0].config
        return cls() if named is None else cls(settings=load_config(named))

    def checked_settings(self) -> Config:
        """The settings.

        Raises:
            ConfigError: a value given on the command line cannot be used.
        """
        validate(self.settings)
        return self.settings


@dataclass(kw_only=True)
class TopicOptions(SettingsOptions):
    """Which topics of a bag."""

    image_topic: Topic = None
    """Camera image; guessed when there is one camera."""
    camera_info_topic: Topic = None
    """Its calibration; by default the one beside the image."""
    points_topic: Topics = ()
    """LiDAR points; give it once per LiDAR; guessed when there is one."""
    ros_distro: Word = None
    """Whose message definitions to use when the bag carries none, for example humble."""


@dataclass(kw_only=True)
class BagOptions(TopicOptions):
    """Which bag, which part of it, and which topics in it."""

    bag: Bags = ()
    """ROS 1 .bag, rosbag2 folder, .mcap or .db3; several are read as one."""
    start: Seconds = 0.0
    """Where to begin, seconds after the bag's beginning."""
    duration: MaybeSeconds = None
    """How much to read, seconds; by default all."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Recording]:
        """The named part of the named bag, open for reading.

        Raises:
            BagError: there is no such bag or part.
        """
        with open_recording(self.bag, ros_distro=self.ros_distro) as recording:
            if self.start == 0.0 and self.duration is None:
                yield recording
            else:
                yield RecordingWindow(recording, self.start, self.duration)

    def choose(self, recording: Recording) -> TopicChoice:
        """The named topics, and guesses for the others.

        Raises:
            TopicError: nothing fits, or several do; the message lists the candidates and names the options.
        """
        try:
            return choose_topics(recording, self.image_topic, self.camera_info_topic, self.points_topic)
        except TopicError as error:
            options = "--image-topic, --camera-info-topic and --points-topic"
            raise TopicError(f"{error} (Topics are named with {options}.)") from error


@dataclass(kw_only=True)
class EngineOptions(BagOptions):
    """Which engine makes depth of a bag."""

    engine: Word = None
    """Engine to use instead of the one in the settings, for example classical."""
    model: Word = None
    """Its network: a shipped one's name, a folder that mf-ros export wrote, or a published model's hub id or folder."""
    quality: Optional[QualityName] = None
    """Speed against accuracy: fast, balanced or best; by default as in the settings."""
    accept_noncommercial: bool = False
    """Run published weights whose licence forbids commercial use, which is then up to you to keep."""

    def engine_settings(self) -> Config:
        """The settings with the engine that is named.

        Raises:
            ConfigError: a value given on the command line cannot be used.
        """
        config = with_engine(self.checked_settings(), self.engine, self.model, self.quality)
        if self.accept_noncommercial:
            config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, accept_noncommercial=True))
        return config


def engine_text(name: str, details: Mapping[str, str]) -> str:
    """An engine's name and, where a network runs, on what."""
    shown = [details[key] for key in ("library", "device", "precision") if "library" in details]
    return f"{name} on {', '.join(shown)}" if shown else name


def with_engine(
    config: Config, name: Optional[str], model: Optional[str] = None, quality: Optional[QualityName] = None
) -> Config:
    """The settings with another engine, network or quality, where one is named."""
    engine = config.engine
    if name is not None:
        # make_engine refuses a name that does not exist.
        engine = dataclasses.replace(engine, name=cast(EngineName, name))
    if model is not None:
        engine = dataclasses.replace(engine, model=model)
    if quality is not None:
        engine = dataclasses.replace(engine, quality=quality)
    return dataclasses.replace(config, engine=engine)
