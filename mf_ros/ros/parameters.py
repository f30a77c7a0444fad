"""Every setting as a ROS 2 parameter, with description and range, checked before it is applied."""

from __future__ import annotations

import typing
from difflib import get_close_matches
from typing import Any, Dict, Iterable, List, Tuple

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    ParameterType,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from mf_ros.core.config import Config
from mf_ros.core.settings import Setting, config_from_mapping, settings
from mf_ros.errors import ConfigError

_OTHERS = ("qos_overrides.", "diagnostic_updater.", "use_sim_time", "start_type_description_service")
READ_ONLY = ("node.",)
AT_RELOAD = ("engine.",)
WHILE_INACTIVE = ("sync.", "output.scale", "output.rectify")

_TYPES: Dict[Any, Parameter.Type] = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    Tuple[float, ...]: Parameter.Type.DOUBLE_ARRAY,
    Tuple[str, ...]: Parameter.Type.STRING_ARRAY,
}


def declare_parameters(node: Node) -> None:
    """Declare every setting under its dotted name.

    Raises:
        rclpy.exceptions.ParameterException: a value given at the start has another type or is out of range.
    """
    for setting in settings().values():
        kind = _TYPES[_plain_kind(setting)]
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        # An empty list has no type, so such a parameter is declared by its type alone and stays unset.
        node.declare_parameter(setting.key, kind if default == [] else default, _descriptor(setting, kind.value))


def unknown_parameters(node: Node) -> List[str]:
    """One sentence for each parameter given at the start that the node does not have, as after a slip of the pen.

    ROS passes over such parameters in silence. Its Python library tells what was given only in a private attribute, so
    where that is missing nothing is found.
    """
    given = getattr(node, "_parameter_overrides", {})
    return [
        f"The parameter '{name}' is not one of this node's: {', '.join(get_close_matches(name, settings())) or 'none'} "
        "is similar; see docs/node.md."
        for name in given
        if not node.has_parameter(name) and not name.startswith(_OTHERS)
    ]


def read_config(node: Node, changed: Iterable[Parameter] = ()) -> Config:
    """The settings that the node's parameters make.

    Args:
        node: whose parameters are declared.
        changed: parameters that stand for those of the node.

    Raises:
        ConfigError: they do not make sense.
    """
    values = {key: node.get_parameter_or(key).value for key in settings()}
    values.update({each.name: each.value for each in changed if each.name in values})
    given = {key: list(value) if _is_list(value) else value for key, value in values.items() if value is not None}
    config = config_from_mapping(given)
    names = config.node.camera_names
    if len(set(names)) != len(names) or not config.node.points_topics:
        raise ConfigError("node.camera_names must differ, and node.points_topics name at least one topic.")
    return config


def check_change(node: Node, changed: List[Parameter], active: bool) -> SetParametersResult:
    """Whether parameters may be set as asked for; what may not change now is refused with what to do instead."""
    ours = [each for each in changed if each.name in settings()]
    if not ours:
        return SetParametersResult(successful=True)
    for each in ours:
        if active and each.name.startswith(WHILE_INACTIVE):
            return SetParametersResult(
                successful=False,
                reason=f"{each.name} cannot change while the node is active: "
                "ros2 lifecycle set NODE deactivate, set it, and activate again.",
            )
    try:
        read_config(node, ours)
    except ConfigError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _plain_kind(setting: Setting) -> Any:
    if setting.choices:
        return str
    if typing.get_origin(setting.kind) is tuple:
        return Tuple[typing.get_args(setting.kind)[0], ...]
    return setting.kind


def _descriptor(setting: Setting, kind: int) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=setting.key,
        type=kind,
        description=setting.description,
        additional_constraints=f"Allowed: {setting.allowed()}.",
        read_only=setting.key.startswith(READ_ONLY),
        # A whole number without a point is a number too; the settings check types themselves.
        dynamic_typing=kind == ParameterType.PARAMETER_DOUBLE,
    )
    if setting.minimum is None or setting.maximum is None:
        return descriptor
    if kind == ParameterType.PARAMETER_DOUBLE:
        limits = FloatingPointRange(from_value=float(setting.minimum), to_value=float(setting.maximum), step=0.0)
        descriptor.floating_point_range = [limits]
    elif kind == ParameterType.PARAMETER_INTEGER:
        whole = IntegerRange(from_value=int(setting.minimum), to_value=int(setting.maximum), step=1)
        descriptor.integer_range = [whole]
    return descriptor


def _is_list(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__len__")
