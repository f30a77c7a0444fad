"""Dense depth to coloured point clouds: packing, range, confidence and edge filters, voxel thinning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple, cast

import cv2
import numpy as np

from mf_ros.core import compiled
from mf_ros.core.config import CloudConfig
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray
from mf_ros.errors import ConfigError

if TYPE_CHECKING:
    from mf_ros.core.camera import CameraModel

POINT_STEP = 16
"""Bytes of one packed point: x, y, z and rgb, each four bytes."""

_COLOUR_BITS = np.uint32(0x00FFFFFF)
_NEIGHBOURS = np.ones((3, 3), np.uint8)
_SMALLEST = float(np.finfo(np.float32).tiny)
_NO_COLOUR = np.uint32(0)


def pack_cloud(
    depth: FloatArray,
    image: ByteArray,
    camera: CameraModel,
    config: CloudConfig,
    confidence: Optional[FloatArray] = None,
    out: Optional[FloatArray] = None,
) -> FloatArray:
    """Pack dense depth and its image as x, y, z, rgb.

    Args:
        depth: (H, W) float32 metres along the optical Z axis; not finite where there is none.
        image: (H, W, 3) uint8 RGB.
        camera: model of that image; its cached rays are multiplied by the depth.
        config: range, confidence and edge filters; what they leave out becomes NaN.
        confidence: (H, W) float32 in [0, 1], or None when the confidence filter is not wanted.
        out: (H, W, 4) float32 C-contiguous array to fill, reused from frame to frame; made when None.

    Returns:
        (H, W, 4) float32, ``out`` when that is given: x, y, z in metres (optical frame, NaN where there is no point)
        and rgb, whose 32 bits are 0x00RRGGBB as PCL's ``rgb`` field has them. C-contiguous, so its bytes are a
        PointCloud2's data with ``point_step`` 16 and offsets 0, 4, 8, 12 (little endian, as all machines that ROS 2
        supports).

    Raises:
        ValueError: sizes of depth, image, camera, confidence or ``out`` do not agree.
    """
    height, width = depth.shape
    if image.shape != (height, width, 3) or (camera.height, camera.width) != (height, width):
        raise ValueError(
            f"Depth is {width}x{height}, the image is of shape {image.shape} and the camera is "
            f"{camera.width}x{camera.height}: all three must be of one size."
        )
    if out is None:
        out = np.empty((height, width, 4), np.float32)
    elif out.shape != (height, width, 4) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"The output buffer must be a C-contiguous float32 array of shape {(height, width, 4)}.")
    given = (depth, image, camera.ray_planes(), config, confidence, out)
    kernels = compiled.kernels("cloud")
    if kernels is None or not kernels.pack(*given):
        pack_by_numpy(*given)
    return out


def pack_by_numpy(
    depth: FloatArray,
    image: ByteArray,
    rays: FloatArray,
    config: CloudConfig,
    confidence: Optional[FloatArray],
    out: FloatArray,
) -> None:
    """Fill ``out`` as ``pack_cloud`` says, with the camera's ``ray_planes``; compiled kernels are held to it."""
    kept = np.where(valid_mask(depth, config, confidence), depth, np.float32(np.nan))
    colour = cv2.cvtColor(image, cv2.COLOR_RGB2BGRA).view(np.uint32)[..., 0]
    # Alpha is cleared: with it set, the four bytes read as a float can be NaN, and filters on NaN would drop the point.
    colour = (colour & _COLOUR_BITS).view(np.float32)
    # Contiguous planes, interleaved at the end: writing every fourth float, NumPy would take half as long again.
    cv2.merge([*(rays * kept), colour], dst=out)


def range_limits(config: CloudConfig) -> Tuple[float, float]:
    """The nearest and the farthest depth that is kept, metres; both are finite."""
    return max(config.min_depth_m, 0.0), min(config.max_depth_m, float(np.finfo(np.float32).max))


def valid_mask(depth: FloatArray, config: CloudConfig, confidence: Optional[FloatArray] = None) -> BoolArray:
    """(H, W) bool: pixels that the range, confidence and edge filters keep.

    Raises:
        ValueError: confidence is not of the depth's size.
    """
    # NaN lies within no limits.
    keep: BoolArray = cv2.inRange(depth, *range_limits(config)) > 0
    if confidence is not None and config.min_confidence > 0.0:
        if confidence.shape != depth.shape:
            raise ValueError(f"Confidence is of shape {confidence.shape}, depth of {depth.shape}.")
        keep &= confidence >= np.float32(config.min_confidence)
    if config.edge_ratio > 0.0:
        keep &= ~edge_mask(depth, config.edge_ratio)
    return keep


def edge_mask(depth: FloatArray, ratio: float) -> BoolArray:
    """Pixels at a depth edge: one of the eight neighbours is nearer or farther by more than ``ratio`` of the depth.

    Both sides of the edge are marked, because interpolated depth smears over both. A pixel is compared with its
    neighbours and not the neighbours among each other, so ground seen at a grazing angle stays. Neighbours without
    depth (NaN or -Inf) mark nothing; +Inf (beyond range, REP 117) is farther than anything.

    Args:
        depth: (H, W) float32 metres.
        ratio: part of the depth, above 0.

    Returns:
        (H, W) bool; False where depth is not finite.
    """
    above, below = depth, depth
    known = cv2.inRange(depth, _SMALLEST, np.inf) > 0
    if not known.all():
        # Morphology on NaN is undefined in OpenCV: a missing pixel must lose against both the maximum and the minimum.
        above, below = np.where(known, depth, np.float32(0)), np.where(known, depth, np.float32(np.inf))
    edge = cv2.dilate(above, _NEIGHBOURS) > depth * np.float32(1.0 + ratio)
    edge |= cv2.erode(below, _NEIGHBOURS) < depth * np.float32(1.0 - ratio)
    edge &= np.isfinite(depth)
    return cast(BoolArray, edge)


def unpack_rgb(packed: FloatArray) -> ByteArray:
    """(..., 3) uint8 RGB of a packed cloud of shape (..., 4)."""
    bits = np.ascontiguousarray(packed).view(np.uint32)[..., 3]
    return np.stack([(bits >> np.uint32(shift)).astype(np.uint8) for shift in (16, 8, 0)], axis=-1)


def pack_points(points: FloatArray, colours: Optional[ByteArray] = None) -> FloatArray:
    """Unorganized points (N, 3) float32 metres and colours (N, 3) uint8 RGB (black when None) as (N, 4) packed."""
    packed = np.empty((len(points), 4), np.float32)
    packed[:, :3] = points
    bits = packed.view(np.uint32)[:, 3]
    if colours is None:
        bits[:] = _NO_COLOUR
    else:
        red, green, blue = (colours[:, channel].astype(np.uint32) for channel in range(3))
        bits[:] = red << np.uint32(16) | green << np.uint32(8) | blue
    return packed


def voxel_filter(points: FloatArray, colours: ByteArray, voxel_m: float) -> Tuple[FloatArray, ByteArray]:
    """Replace the points of each cubic voxel by their mean position and mean colour.

    Args:
        points: (N, 3) float32 metres; points that are not finite are dropped.
        colours: (N, 3) uint8 RGB.
        voxel_m: edge of a voxel, metres, above 0.

    Returns:
        (M, 3) float32 points and (M, 3) uint8 colours, one per occupied voxel.

    Raises:
        ConfigError: the voxel is not above 0, or so small that the cloud has too many voxels to number.
    """
    if not voxel_m > 0.0:
        raise ConfigError(f"cloud.voxel_m is {voxel_m}: thinning needs an edge above 0 m.")
    finite = np.isfinite(points).all(axis=1)
    points, colours = points[finite], colours[finite]
    if len(points) == 0:
        return points.astype(np.float32), colours
    low = points.min(axis=0).astype(np.float64)
    cells = np.floor((points - low) / voxel_m)
    x_cells, y_cells, z_cells = (int(count) + 1 for count in cells.max(axis=0))
    if x_cells * y_cells * z_cells >= 2**62:
        raise ConfigError(
            f"cloud.voxel_m is {voxel_m} m, too small for a cloud of {x_cells}x{y_cells}x{z_cells} voxels: enlarge it "
            "or lower cloud.max_depth_m."
        )
    grid = cells.astype(np.int64)
    keys = (grid[:, 0] * y_cells + grid[:, 1]) * z_cells + grid[:, 2]
    _, cell, count = np.unique(keys, return_inverse=True, return_counts=True)
    cell = cell.reshape(-1)

    def mean(values: AnyArray) -> AnyArray:
        means: AnyArray = np.bincount(cell, weights=values, minlength=len(count)) / count
        return means

    centres = np.stack([mean(points[:, axis]) for axis in range(3)], axis=1).astype(np.float32)
    tints = np.stack([mean(colours[:, channel]) for channel in range(3)], axis=1)
    return centres, np.rint(tints).astype(np.uint8)


def thin_cloud(packed: FloatArray, voxel_m: float) -> FloatArray:
    """A packed cloud (..., 4) thinned to one point per voxel, as an unorganized packed cloud (M, 4) without NaN."""
    flat = packed.reshape(-1, 4)
    return pack_points(*voxel_filter(flat[:, :3], unpack_rgb(flat), voxel_m))
