"""Which files make up a recording, and what kind each of them is."""

from __future__ import annotations

import logging
import os
import re
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, List, Optional, Sequence, Tuple, Union

import yaml

from mf_ros.bags.definitions import distro_names
from mf_ros.bags.mcap_source import MCAP_MAGIC, McapSource
from mf_ros.bags.rosbags_source import RosbagsSource
from mf_ros.bags.source import BagPath, PathArgument, Source
from mf_ros.core.documents import values_of_yaml
from mf_ros.errors import BagError, require_package

zstandard = require_package("zstandard", extra="bags")

_log = logging.getLogger(__name__)

METADATA_NAME = "metadata.yaml"
BAG_SUFFIXES = (".mcap", ".db3", ".bag", ".mcap.zstd", ".db3.zstd")
"""How the names of storage files end."""

_ROS1_MAGIC, _SQLITE_MAGIC, _ZSTD_MAGIC = b"#ROSBAG V", b"SQLite format 3\0", b"\x28\xb5\x2f\xfd"
_MAX_METADATA_BYTES = 2**20
_COPY_BYTES = 2**20
_ZSTD_HEADER_BYTES = 18
# A few bytes can unpack to any number; half of the disk is left to others.
_PART_OF_FREE_SPACE = 0.5


@dataclass
class BagFiles:
    """The files of one recording.

    Attributes:
        name: what the user asked for.
        paths: the storage files, in recording order.
        expected_messages: how many messages the metadata promises; 0 when there is none.
        ros_distro: distribution that the metadata names, or None.
        damage: one clause per defect.
    """

    name: str
    paths: List[BagPath] = field(default_factory=list)
    expected_messages: int = 0
    ros_distro: Optional[str] = None
    damage: List[str] = field(default_factory=list)


def find_files(paths: Union[PathArgument, Sequence[PathArgument]]) -> BagFiles:
    """The storage files behind one path or several.

    Raises:
        BagError: a path does not exist, or a directory holds no bag.
    """
    given = [as_path(path) for path in (paths if isinstance(paths, (list, tuple)) else [paths])]
    if not given:
        raise BagError("No recording was named.")
    files = BagFiles(name=", ".join(str(path) for path in given))
    for path in given:
        if _exists(path, path.is_dir):
            _add_directory(files, path)
        elif not _exists(path, path.exists):
            raise BagError(f"{path} does not exist: check the path.")
        elif path.name == METADATA_NAME:
            _add_directory(files, path.parent)
        else:
            files.paths.append(path)
    return files


def _exists(path: BagPath, question: Any) -> bool:
    try:
        return bool(question())
    except OSError as error:
        raise BagError(f"{path} cannot be looked at: {error.strerror or error}.") from error


def as_path(path: PathArgument) -> BagPath:
    """A path with pathlib's methods, local or, for ``scheme://``, remote."""
    if isinstance(path, str) and re.match(r"[a-z][a-z0-9+.-]+://", path):
        return require_package("upath", extra="remote").UPath(path)
    if isinstance(path, str):
        return Path(path).expanduser()
    if hasattr(path, "open") and hasattr(path, "is_dir"):
        return path
    return Path(os.fspath(path))


def _add_directory(files: BagFiles, directory: BagPath) -> None:
    """Add a rosbag2 directory, with or without metadata, or a directory of ROS 1 bags."""
    try:
        entries = {str(path.name): path for path in directory.iterdir()}
    except OSError as error:
        raise BagError(f"{directory} cannot be looked into: {error.strerror or error}.") from error
    names, missing = _listed(files, directory, entries)
    if missing:
        files.damage.append(f"{directory.name} lacks {', '.join(missing)}, which its {METADATA_NAME} lists")
    if not names:
        names = sorted((name for name in entries if name.endswith(BAG_SUFFIXES)), key=natural_order)
        if len({name.rpartition(".bag")[1] for name in names}) > 1:
            raise BagError(f"{directory} holds both ROS 1 and ROS 2 bags: name the file to read.")
    if not names:
        held = f"no file that its {METADATA_NAME} lists" if METADATA_NAME in entries else f"no {METADATA_NAME}"
        raise BagError(f"{directory} is not a bag: it holds {held} and no .mcap, .db3 or .bag file. Check the path.")
    files.paths.extend(entries[name] for name in names)


def _listed(files: BagFiles, directory: BagPath, entries: Any) -> Tuple[List[str], List[str]]:
    """Files that the metadata lists: those that are there, and those that are not."""
    if METADATA_NAME not in entries:
        return [], []
    try:
        with entries[METADATA_NAME].open("rb") as stream:
            text = stream.read(_MAX_METADATA_BYTES + 1)
        if len(text) > _MAX_METADATA_BYTES:
            raise ValueError(f"it has more than {_MAX_METADATA_BYTES} bytes")
        information = values_of_yaml(text.decode("utf-8"))["rosbag2_bagfile_information"]
        paths = information["relative_file_paths"]
        if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise ValueError("its relative_file_paths are no list of names")
        # Only the names count: bags get moved, and a name must not lead out of the directory.
        listed = [PurePosixPath(path).name for path in paths]
        files.expected_messages += int(information.get("message_count") or 0)
        files.ros_distro = files.ros_distro or _known_distro(information.get("ros_distro"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        files.damage.append(f"{directory.name}/{METADATA_NAME} cannot be used ({_first_line(error)})")
        return [], []
    return [name for name in listed if name in entries], [name for name in listed if name not in entries]


def _known_distro(name: Any) -> Optional[str]:
    # "rosbags" and the like are named there too; they are no reason to refuse the bag.
    return name if isinstance(name, str) and name in distro_names() else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def natural_order(name: str) -> List[Union[int, str]]:
    """Sort key under which ``bag_10`` follows ``bag_9``."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def open_source(path: BagPath, resources: ExitStack) -> Source:
    """Open one storage file by its content.

    Args:
        path: the file.
        resources: keeps the unpacked copy of a file that rosbag2 compressed as a whole.

    Raises:
        BagError: not a bag, or not readable.
    """
    try:
        magic = _magic(path)
        if magic.startswith(_ZSTD_MAGIC):
            path = _unpack(path, resources)
            magic = _magic(path)
        if magic.startswith(MCAP_MAGIC):
            return McapSource(path)
        if magic.startswith(_ROS1_MAGIC):
            return RosbagsSource(path, ros1=True)
        if magic.startswith(_SQLITE_MAGIC):
            return RosbagsSource(path, ros1=False)
    except OSError as error:
        raise BagError(f"{path} cannot be opened: {error.strerror or error}.") from error
    if not magic:
        raise BagError(f"{path} is empty (0 bytes): recording stopped before anything was written. Record again.")
    raise BagError(
        f"{path} is not a bag: it is neither MCAP, nor a rosbag2 sqlite3 file, nor a ROS 1 bag. Check the path."
    )


def _magic(path: BagPath) -> bytes:
    with path.open("rb") as stream:
        return bytes(stream.read(16))


def _unpack(path: BagPath, resources: ExitStack) -> Path:
    directory = resources.enter_context(TemporaryDirectory(prefix="mf_ros_bag_"))
    target = Path(directory) / str(path.name).removesuffix(".zstd")
    room = int(shutil.disk_usage(directory).free * _PART_OF_FREE_SPACE)
    try:
        with path.open("rb") as packed, target.open("wb") as unpacked:
            if _declared_size(packed.read(_ZSTD_HEADER_BYTES)) > room:
                raise BagError(_too_large(path, Path(directory).parent))
            packed.seek(0)
            reader = zstandard.ZstdDecompressor().stream_reader(packed)
            while part := reader.read(_COPY_BYTES):
                room -= len(part)
                if room < 0:
                    raise BagError(_too_large(path, Path(directory).parent))
                unpacked.write(part)
    except zstandard.ZstdError as error:
        raise BagError(f"{path} cannot be unpacked ({error}): it is damaged or cut off; copy it again.") from error
    return target


def _declared_size(head: bytes) -> int:
    """Bytes that a zstd frame says it unpacks to; 0 when it does not say."""
    return max(int(zstandard.frame_content_size(head)), 0)


def _too_large(path: BagPath, folder: Path) -> str:
    return (
        f"{path} unpacks to more than half of the free space in {folder}: unpack it yourself where there is room "
        "(zstd -d) and name the result, or set TMPDIR to a folder on a larger disk."
    )
