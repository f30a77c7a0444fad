"""Image bytes as the numbers that networks of this project take."""

from __future__ import annotations

from typing import Any, TypeVar

Values = TypeVar("Values")

IMAGE_SCALE, IMAGE_OFFSET = 127.5, 1.0
"""A network sees ``value / IMAGE_SCALE - IMAGE_OFFSET`` of an 8 bit value."""


def network_image(image: Values) -> Values:
    """Values from 0 to 255, a floating array or tensor of any shape, as -1 to 1."""
    values: Any = image
    scaled: Values = values / IMAGE_SCALE - IMAGE_OFFSET
    return scaled


def displayed_image(image: Values) -> Values:
    """The inverse of ``network_image``: 0 to 255, neither rounded nor limited."""
    values: Any = image
    shown: Values = (values + IMAGE_OFFSET) * IMAGE_SCALE
    return shown
