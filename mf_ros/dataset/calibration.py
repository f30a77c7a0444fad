"""A corrected calibration for rows that were recorded with another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping

from mf_ros.core.rigid import make_transform
from mf_ros.core.settings import read_yaml
from mf_ros.core.types import DoubleArray
from mf_ros.errors import ConfigError, MessageError

_MOST_FRAMES = 1000


def load_calibration(path: Path) -> Dict[str, DoubleArray]:
    """Child frame to (4, 4) T_parent_child, metres, from a YAML file.

    The file has a line for each transform to replace; the parent stays the one that was recorded:
    ``lidar_link: {xyz: [0.1, 0, 1.9], quaternion: [0, 0, 0, 1]}``.

    Raises:
        ConfigError: the file cannot be read, or an entry is no rigid transform.
    """
    document = read_yaml(path)
    if not isinstance(document, Mapping) or not document or len(document) > _MOST_FRAMES:
        raise ConfigError(f"{path} holds no transforms: one line for each, CHILD: {{xyz: [...], quaternion: [...]}}.")
    return {str(child): _transform(path, str(child), entry) for child, entry in document.items()}


def _transform(path: Path, child: str, entry: Any) -> DoubleArray:
    where = f"{path}: {child}"
    if not isinstance(entry, Mapping) or set(entry) != {"xyz", "quaternion"}:
        raise ConfigError(f"{where} needs xyz in metres and quaternion in the order x, y, z, w.")
    numbers = {name: entry[name] for name in ("xyz", "quaternion")}
    for name, count in (("xyz", 3), ("quaternion", 4)):
        values = numbers[name]
        if not isinstance(values, list) or len(values) != count or not all(isinstance(v, (int, float)) for v in values):
            raise ConfigError(f"{where}: {name} is {values!r}, but {count} numbers are needed.")
    try:
        return make_transform(numbers["xyz"], numbers["quaternion"])
    except MessageError as error:
        raise ConfigError(f"{where}: {error}") from error
