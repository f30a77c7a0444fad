"""Pictures of rendered scenes in colours and light that say nothing about depth.

Rendered pictures tie looks to depth in ways that real ones do not, and a network leans on them. What ties them in both
are edges and perspective; these survive here, and the rest is drawn at random. The idea is that of domain randomisation
(Tobin et al., 2017, arXiv 1703.06907).
"""

from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np

from mf_ros.core.types import ByteArray, FloatArray

_GREY = 0.5


def restyled(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """The picture with other colours, other light, shadows and stains, and parts of it missing.

    Args:
        image: (3, H, W) uint8 RGB.
        rng: of everything that is drawn.

    Returns:
        (3, H, W) uint8.
    """
    values: FloatArray = image.astype(np.float32) / np.float32(255.0)
    size = values.shape[1:]
    values = _recoloured(values, rng)
    if rng.random() < 0.4:
        values = values * np.exp(_soft_field(size, rng) * np.float32(rng.uniform(0.1, 0.5)))
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.5 else 0):
        values = values * _shadow(size, rng)
    if rng.random() < 0.25:
        values = values + np.float32(rng.uniform(0.03, 0.15)) * _soft_field(size, rng, finest=int(rng.integers(8, 48)))
    if rng.random() < 0.15:
        values = _partly_missing(values, rng)
    if rng.random() < 0.05:
        values = np.full_like(values, _GREY)
    return np.asarray(np.clip(values * 255.0 + 0.5, 0, 255).astype(np.uint8))


def _recoloured(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    if rng.random() < 0.3:
        values = values[rng.permutation(3)]
    if rng.random() < 0.15:
        values = 1 - values
    if rng.random() < 0.5:
        mixing = (np.eye(3) + rng.normal(0, 0.15, (3, 3))).astype(np.float32)
        values = np.clip(np.tensordot(mixing, values, 1), 0, None)
    if rng.random() < 0.2:
        values = np.repeat(values.mean(0, keepdims=True), 3, 0)
    values = np.clip(values, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.45)))
    contrast, level = np.float32(np.exp(rng.normal(0, 0.3))), np.float32(_GREY + rng.normal(0, 0.1))
    return np.asarray((values - _GREY) * contrast + level, np.float32)


def _soft_field(size: Tuple[int, ...], rng: np.random.Generator, finest: int = 5) -> FloatArray:
    """(1, H, W) smooth noise of unit variance, with up to ``finest`` bumps along a side."""
    shape = rng.integers(2, finest + 1, 2)
    coarse = rng.standard_normal((int(shape[0]), int(shape[1])), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC), np.float32)[None]


def _shadow(size: Tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """(1, H, W) factor of a polygon that is darker, or brighter, than the rest, with a hard or a soft edge."""
    height, width = size
    corners = rng.uniform((-0.2, -0.2), (1.2, 1.2), (int(rng.integers(3, 6)), 2)) * (width, height)
    inside = np.zeros((height, width), np.float32)
    cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], 1.0)
    if rng.random() < 0.5:
        inside = np.asarray(cv2.GaussianBlur(inside, (0, 0), rng.uniform(0.7, 4.0)), np.float32)
    factor = np.float32(rng.uniform(0.25, 0.8) if rng.random() < 0.75 else rng.uniform(1.2, 1.8))
    return np.asarray(1 + inside * (factor - 1), np.float32)[None]


def _partly_missing(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The picture with up to four rectangles in one colour each, as dirt on a lens or a burnt-out part."""
    _, height, width = values.shape
    values = values.copy()
    for _ in range(int(rng.integers(1, 5))):
        tall, wide = (rng.uniform(0.1, 0.5, 2) * (height, width)).astype(int)
        top, left = int(rng.integers(0, height - tall)), int(rng.integers(0, width - wide))
        values[:, top : top + tall, left : left + wide] = rng.random((3, 1, 1), dtype=np.float32)
    return values
