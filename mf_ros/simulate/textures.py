"""Patterns on surfaces, each filtered by the size of a pixel's footprint, so that they fade instead of flickering."""

from __future__ import annotations

import cv2
import numpy as np

from mf_ros.core.types import AnyArray, FloatArray

_LATTICE = 64
_CELL = 8
_SIZE = _LATTICE * _CELL
_WIDTH = 1024


class NoiseTile:
    """A periodic tile of smooth noise with zero mean, about -1 to 1, that can be looked up at any scale."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 23])
        lattice = rng.uniform(-1, 1, (_LATTICE, _LATTICE)).astype(np.float32)
        wide = np.pad(lattice, 4, mode="wrap")
        smooth = cv2.resize(wide, None, fx=_CELL, fy=_CELL, interpolation=cv2.INTER_CUBIC)
        edge = 4 * _CELL
        self._tile: FloatArray = smooth[edge : edge + _SIZE + 1, edge : edge + _SIZE + 1].copy()
        self._tile *= np.float32(0.55 / self._tile.std())

    def __call__(self, u: AnyArray, v: AnyArray, feature_m: float, footprint: AnyArray) -> FloatArray:
        """(N,) noise at positions u, v (N,) in metres, with blobs of ``feature_m``, faded where a pixel covers them."""
        scale = np.float32(_CELL / feature_m)
        value = sample(self._tile, np.mod(u * scale, _SIZE), np.mod(v * scale, _SIZE))
        value *= np.clip(1.6 - 1.2 * footprint / np.float32(feature_m), 0, 1)
        return np.asarray(value)

    def fractal(self, u: AnyArray, v: AnyArray, feature_m: float, footprint: AnyArray, octaves: int) -> FloatArray:
        """(N,) sum of ``octaves`` layers, each a third of the size and 0.6 of the strength of the one before."""
        total = np.zeros(len(u), np.float32)
        strength = 1.0
        for k in range(octaves):
            size = feature_m / 3.1**k
            total += np.float32(strength) * self(u + np.float32(17.3 * k), v - np.float32(7.9 * k), size, footprint)
            strength *= 0.6
        return total


def sample(table: FloatArray, x: AnyArray, y: AnyArray) -> FloatArray:
    """(N,) or (N, C) bilinear values of a (H, W) or (H, W, C) table at columns x and rows y, clamped at its border."""
    count = len(x)
    rows = max(1, -(-count // _WIDTH))
    grid = np.zeros((2, rows * _WIDTH), np.float32)
    grid[0, :count], grid[1, :count] = x, y
    maps = grid.reshape(2, rows, _WIDTH)
    out = cv2.remap(table, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.float32).reshape(rows * _WIDTH, *table.shape[2:])[:count]


def pulse(
    x: AnyArray, period: AnyArray | float, low: AnyArray | float, high: AnyArray | float, footprint: AnyArray
) -> FloatArray:
    """(N,) part of a pixel's footprint around x that lies in the stripes [low, high] of every period, exactly."""
    half = footprint * np.float32(0.5)

    def filled(at: AnyArray) -> FloatArray:
        whole = np.floor(at / period)
        return np.asarray(whole * (high - low) + np.clip(at - whole * period - low, 0, high - low))

    return np.asarray((filled(x + half) - filled(x - half)) / footprint)


def stripe(x: AnyArray, low: float, high: float, footprint: AnyArray) -> FloatArray:
    """(N,) part of a pixel's footprint around x that lies in the single interval [low, high]."""
    half = footprint * np.float32(0.5)
    covered = np.minimum(x + half, np.float32(high)) - np.maximum(x - half, np.float32(low))
    return np.asarray(np.clip(covered / footprint, 0, 1))


def cell_noise(i: AnyArray, j: AnyArray, salt: AnyArray | int = 0) -> FloatArray:
    """(N,) random numbers in [0, 1) that belong to whole-numbered cells."""
    with np.errstate(over="ignore"):
        h = np.asarray(np.floor(i)).astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
        h ^= np.asarray(np.floor(j)).astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77)
        h ^= np.asarray(salt).astype(np.uint32) * np.uint32(0xC2B2AE3D)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x2C1B3C6D)
        h ^= h >> np.uint32(12)
        h *= np.uint32(0x297A2D39)
        h ^= h >> np.uint32(15)
    return np.asarray((h >> np.uint32(8)).astype(np.float32) * np.float32(1 / (1 << 24)))
