"""Pictures of a report: LiDAR on the image, depth, confidence, errors and views of the cloud, with their legends."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.bags.samples import Sample
from mf_ros.core.cloud import pack_cloud, unpack_rgb
from mf_ros.core.colours import colour_error, mapped
from mf_ros.core.config import CloudConfig
from mf_ros.core.pictures import NO_ESTIMATE, draw_dots, draw_errors
from mf_ros.core.types import AnyArray, ByteArray, FloatArray

_NO_DEPTH = (110, 110, 116)
_BEYOND = (24, 24, 30)
_BACKGROUND = (22, 24, 30)
_GRID = (58, 62, 72)
_TEXT = (170, 176, 188)
_RETURNS = (0, 220, 255)
_STOPS = 16
_UNCERTAINTY = (0.005, 0.5)
_ROUND = (1.0, 2.0, 5.0)
_MAX_PIXELS = 450_000
_CROWDED = 0.1
_CLOUD_ASPECT = 2.0


@dataclass(frozen=True)
class Tick:
    """A mark of a legend: where, in percent from its left end, and what is written there."""

    percent: float
    label: str


@dataclass(frozen=True)
class Legend:
    """A colour bar.

    Attributes:
        gradient: colours from left to right as CSS.
        ticks: its marks, left to right.
        unit: what the numbers count.
        extra: colours that are not on the bar, as (CSS colour, meaning).
    """

    gradient: str
    ticks: Tuple[Tick, ...]
    unit: str
    extra: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Scales:
    """Ranges that all pictures of one report share, so that one colour means one value.

    Attributes:
        near_m, far_m: depths at the ends of the depth colours, metres.
        error_m: error at the ends of the error colours, metres.
        view_m: how far the views of the cloud reach, metres.
    """

    near_m: float
    far_m: float
    error_m: float
    view_m: float


def scales_of(samples: Sequence[Sample]) -> Scales:
    """Ranges that fit most of the samples' returns and errors."""
    # The returns decide, because a method may extrapolate far beyond what was measured.
    depths = _joined([each.sparse[each.sparse > 0] for each in samples])
    errors = np.abs(_joined([each.error_m[np.isfinite(each.error_m)] for each in samples]))
    near, far, reach = np.percentile(depths, (1, 99, 92)) if len(depths) else (1.0, 100.0, 50.0)
    near = _rounded(float(near), up=False)
    far = max(_rounded(float(far), up=True), 2.0 * near)
    error = _rounded(float(np.percentile(errors, 90)), up=True) if len(errors) else 1.0
    return Scales(near, far, max(error, 0.01), max(float(reach), 2.0 * near))


def depth_picture(depth: FloatArray, scales: Scales) -> ByteArray:
    """(H, W, 3) uint8 RGB of (H, W) depth: red near to blue far, equal steps for equal ratios."""
    known = np.isfinite(depth) & (depth > 0)
    picture = _turbo(np.where(known, depth, np.float32(scales.far_m)), scales)
    picture[~known] = _NO_DEPTH
    picture[np.isposinf(depth)] = _BEYOND
    return picture


def lidar_picture(sample: Sample, scales: Scales) -> ByteArray:
    """The darkened image with its returns as dots in the colours of ``depth_picture``."""
    picture: ByteArray = (sample.image * np.float32(0.55)).astype(np.uint8)
    rows, cols = np.nonzero(sample.sparse)
    z = sample.sparse[rows, cols]
    order = np.argsort(-z, kind="stable")
    small = len(z) > _CROWDED * sample.sparse.size
    draw_dots(picture, rows[order], cols[order], _turbo(z[order], scales), 0 if small else 1)
    return picture


def confidence_picture(confidence: FloatArray) -> ByteArray:
    """(H, W, 3) uint8 RGB of (H, W) confidence in [0, 1]: dark low to yellow high."""
    return _mapped(confidence, cv2.COLORMAP_VIRIDIS)


def uncertainty_picture(sample: Sample) -> ByteArray:
    """(H, W, 3) uint8 RGB of relative uncertainty where there is depth: dark certain to bright uncertain, log steps."""
    assert sample.uncertainty is not None
    picture = _uncertainty_colours(sample.uncertainty)
    picture[~np.isfinite(sample.depth)] = _NO_DEPTH
    return picture


def error_picture(sample: Sample, scales: Scales) -> ByteArray:
    """The darkened grey image with every held-out return as a dot: blue too near, pale right, red too far."""
    cols, rows = np.rint(sample.error_uv).astype(np.intp).T
    small = len(rows) > _CROWDED * sample.sparse.size
    return draw_errors(sample.image, rows, cols, sample.error_m / np.float32(scales.error_m), 0 if small else 1)


@dataclass(frozen=True)
class CloudViews:
    """Pictures of the coloured cloud.

    Attributes:
        oblique: (H, W, 3) uint8 RGB, from behind and above the camera.
        top: (H, W, 3) uint8 RGB, from the top, with the LiDAR returns on it.
        left_out: part of the pixels with depth, in [0, 1], that the cloud's filters leave out.
    """

    oblique: ByteArray
    top: ByteArray
    left_out: float


def cloud_views(sample: Sample, scales: Scales, config: CloudConfig) -> Optional[CloudViews]:
    """Views of the cloud that the filters of ``config`` keep; None without a camera."""
    if sample.camera is None:
        return None
    packed = pack_cloud(sample.depth, sample.image, sample.camera, config, sample.confidence)
    kept = np.isfinite(packed[..., 2])
    left_out = 1.0 - float(kept.sum()) / max(float(np.isfinite(sample.depth).sum()), 1.0)
    points, colours = packed[kept][:, :3], unpack_rgb(packed)[kept]
    rays = sample.camera.rays()
    # A lens model may leave pixels without a ray.
    seen = (sample.sparse > 0) & np.isfinite(rays[..., 0])
    returns = rays[seen] * sample.sparse[seen][:, None]
    height, width = sample.depth.shape
    shape = (max(height, round(width / _CLOUD_ASPECT)), width)
    oblique = _oblique(points, colours, scales.view_m, shape)
    return CloudViews(oblique, _top_down(points, colours, returns, scales.view_m, shape), left_out)


def depth_legend(scales: Scales, depths: Sequence[FloatArray]) -> Legend:
    """Legend of ``depth_picture``, naming the special values that occur in ``depths``."""
    extra: List[Tuple[str, str]] = []
    if any(bool(np.isnan(depth).any()) for depth in depths):
        extra.append((_css(_NO_DEPTH), "none"))
    if any(bool(np.isposinf(depth).any()) for depth in depths):
        extra.append((_css(_BEYOND), "beyond range"))
    values = np.geomspace(scales.near_m, scales.far_m, _STOPS).astype(np.float32)
    span = np.log(scales.far_m / scales.near_m)
    inside = _round_numbers(scales.near_m, scales.far_m)
    ticks = [Tick(100.0 * float(np.log(value / scales.near_m) / span), f"{value:g}") for value in inside]
    ticks = [Tick(each.percent, each.label + "+") if each.percent > 99.9 else each for each in ticks]
    return Legend(_gradient(_turbo(values, scales)), _spaced(ticks), "m", tuple(extra))


def confidence_legend() -> Legend:
    """Legend of ``confidence_picture``."""
    values = np.linspace(0, 1, _STOPS, dtype=np.float32)
    ticks = tuple(Tick(100.0 * value, f"{value:g}") for value in (0.0, 0.5, 1.0))
    return Legend(_gradient(confidence_picture(values[None])[0]), ticks, "")


def uncertainty_legend(samples: Sequence[Sample]) -> Legend:
    """Legend of ``uncertainty_picture``, naming pixels without depth when ``samples`` hold any."""
    low, high = _UNCERTAINTY
    values = np.geomspace(low, high, _STOPS).astype(np.float32)
    span = np.log(high / low)
    ticks = [Tick(100.0 * float(np.log(each / low) / span), f"{100 * each:g}") for each in _round_numbers(low, high)]
    ticks[-1] = Tick(100.0, ticks[-1].label + "+")
    missing = any(bool((~np.isfinite(each.depth)).any()) for each in samples)
    extra = ((_css(_NO_DEPTH), "no depth"),) if missing else ()
    return Legend(_gradient(_uncertainty_colours(values)), _spaced(ticks), "%", extra)


def error_legend(scales: Scales, errors: Sequence[FloatArray]) -> Legend:
    """Legend of ``error_picture``, naming missing estimates when ``errors`` hold any."""
    limit = scales.error_m
    even = np.linspace(-1, 1, _STOPS + 1, dtype=np.float32)
    missing = any(bool((~np.isfinite(error)).any()) for error in errors)
    ticks = tuple(
        Tick(50.0 + 50.0 * side * part**0.5, f"{side * part * limit:+g}" if side else "0")
        for side, part in ((-1, 1.0), (-1, 0.2), (0, 0.0), (1, 0.2), (1, 1.0))
    )
    extra = ((_css(NO_ESTIMATE), "no estimate"),) if missing else ()
    return Legend(_gradient(colour_error(np.sign(even) * even**2)), ticks, "m", extra)


def data_uri(picture: ByteArray, quality: int) -> str:
    """An (H, W, 3) uint8 RGB picture as a JPEG data URI; larger ones than a page shows are shrunk."""
    height, width = picture.shape[:2]
    factor = (_MAX_PIXELS / (height * width)) ** 0.5
    if factor < 1.0:
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def grid_step(view_m: float) -> float:
    """Distance of the lines on the view from the top, metres: a round number with at most about eight of them."""
    return _rounded(view_m / 8.0, up=True)


def _oblique(points: FloatArray, colours: ByteArray, view_m: float, shape: Tuple[int, int]) -> ByteArray:
    """Seen from behind and above the camera, looking down a little along its axis."""
    height, width = shape
    back, up, target = 0.15 * view_m, 0.22 * view_m, 0.6 * view_m
    pitch = np.arctan2(up, target + back)
    eye = np.array([0.0, -up, -back], np.float32)
    x, y, z = (points - eye).T
    y, z = y * np.cos(pitch) - z * np.sin(pitch), y * np.sin(pitch) + z * np.cos(pitch)
    front = z > 0.02 * view_m
    x, y, z, colours = x[front], y[front], z[front], colours[front]
    focal = 0.8 * max(width, height)
    order = np.argsort(-z, kind="stable")
    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    cols = np.rint(width / 2 + focal * x / z).astype(np.intp)[order]
    rows = np.rint(height / 2 + focal * y / z).astype(np.intp)[order]
    draw_dots(picture, rows, cols, colours[order], 1)
    return picture


def _top_down(
    points: FloatArray, colours: ByteArray, returns: FloatArray, view_m: float, shape: Tuple[int, int]
) -> ByteArray:
    """Forward to the right, left upward, the camera at the middle of the left edge; a grid in metres."""
    height, width = shape
    metre = (width - 1) / view_m

    def place(xyz: FloatArray) -> Tuple[AnyArray, AnyArray]:
        """Rows and columns."""
        return np.rint(height / 2 + xyz[:, 0] * metre).astype(np.intp), np.rint(xyz[:, 2] * metre).astype(np.intp)

    picture = np.full((height, width, 3), _BACKGROUND, np.uint8)
    step = grid_step(view_m)
    for number in range(1, int(view_m / step) + 1):
        picture[:, min(round(number * step * metre), width - 1)] = _GRID
    for number in range(-int(height / 2 / (step * metre)), int(height / 2 / (step * metre)) + 1):
        picture[min(max(round(height / 2 + number * step * metre), 0), height - 1)] = _GRID
    # The highest is seen from above; y points down.
    order = np.argsort(-points[:, 1], kind="stable")
    draw_dots(picture, *place(points[order]), colours[order], 1)
    draw_dots(picture, *place(returns), np.broadcast_to(np.array(_RETURNS, np.uint8), (len(returns), 3)), 0)
    for number in range(1, int(view_m / step) + 1):
        text, at = f"{number * step:g} m", (round(number * step * metre) + 3, height - 6)
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 4, cv2.LINE_AA)
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.55, _TEXT, 1, cv2.LINE_AA)
    return picture


def _turbo(depth: FloatArray, scales: Scales) -> ByteArray:
    part = np.log(np.clip(depth, scales.near_m, scales.far_m) / scales.near_m) / np.log(scales.far_m / scales.near_m)
    return _mapped(1.0 - part, cv2.COLORMAP_TURBO)


def _mapped(part: FloatArray, colour_map: int) -> ByteArray:
    """Colours (..., 3) of values in [0, 1]; what is not finite counts as 0."""
    level = np.rint(255 * np.clip(np.nan_to_num(part, nan=0.0), 0, 1)).astype(np.uint8)
    return mapped(level, colour_map)


def _uncertainty_colours(uncertainty: FloatArray) -> ByteArray:
    low, high = _UNCERTAINTY
    part = np.log(np.clip(uncertainty, low, high) / low) / np.float32(np.log(high / low))
    return _mapped(part.astype(np.float32), cv2.COLORMAP_INFERNO)


def _joined(parts: Sequence[AnyArray]) -> AnyArray:
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _rounded(value: float, *, up: bool) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if not value > 0:
        return 0.01
    ten = float(10.0 ** np.floor(np.log10(value)))
    choices: List[float] = [factor * ten for factor in (*_ROUND, 10.0)]
    # A hair of slack keeps 0.5 at 0.5 whatever the logarithm rounds to.
    if up:
        return next((each for each in choices if each >= value * (1 - 1e-9)), choices[-1])
    return next((each for each in reversed(choices) if each <= value * (1 + 1e-9)), choices[0])


def _round_numbers(low: float, high: float) -> List[float]:
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    numbers = [factor * 10.0**decade for decade in decades for factor in _ROUND]
    return [each for each in numbers if low * (1 - 1e-9) <= each <= high * (1 + 1e-9)]


def _spaced(ticks: Sequence[Tick], least: float = 9.0) -> Tuple[Tick, ...]:
    """Ticks far enough apart to be read."""
    kept: List[Tick] = []
    for tick in ticks:
        if not kept or tick.percent - kept[-1].percent >= least:
            kept.append(tick)
    return tuple(kept)


def _gradient(colours: ByteArray) -> str:
    return ", ".join(_css(colour) for colour in colours)


def _css(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*(int(channel) for channel in colour))
