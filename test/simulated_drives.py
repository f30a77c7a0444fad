"""Small worlds, robots and comparisons that the tests of the simulator share."""

from __future__ import annotations

import numpy as np

from mf_ros.core.transforms import TransformTree
from mf_ros.simulate.geometry import Solid
from mf_ros.simulate.rig import START_NS, Rig
from mf_ros.simulate.scene import Layout, Material, Scene, SceneBuilder

SMALL = {"width": 160, "height": 90, "rings": 8, "columns": 120}


def world_of(*solids: Solid) -> Scene:
    builder = SceneBuilder(np.random.default_rng(0))
    for solid in solids:
        builder.add(solid, Material.STONE, (0.4, 0.4, 0.4))
    return builder.build(Layout("yard", 0.0, 6.0, ()), np.array([0.3, 0.4, 0.9]), 500.0, 0)


def tree_of(rig: Rig, seconds: float = 2.0) -> TransformTree:
    tree = TransformTree()
    for mount in rig.mounts():
        tree.add(mount, static=True)
    for tick in range(-10, int(seconds * 50)):
        tree.add(rig.base_pose(START_NS + tick * 20_000_000), static=False)
    return tree


def still(pose: np.ndarray):
    return lambda t: np.broadcast_to(pose, (len(t), 4, 4))


def depth_errors(rig: Rig, points: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Differences of projected returns and true depth, of the returns that the camera sees, metres."""
    uv = rig.camera.project(points)
    inside = np.isfinite(uv).all(axis=1)
    uv, z = uv[inside], points[inside, 2]
    # Where depth jumps, half a pixel decides between two surfaces: compare where neighbours agree within 3%.
    u, v = np.rint(uv).astype(int).T
    held = (u >= 1) & (v >= 1) & (u < rig.camera.width - 1) & (v < rig.camera.height - 1)
    u, v, z = u[held], v[held], z[held]
    around = np.stack([depth[v + dv, u + du] for dv in (-1, 0, 1) for du in (-1, 0, 1)])
    with np.errstate(invalid="ignore"):
        smooth = np.isfinite(around).all(axis=0) & (around.max(axis=0) < 1.03 * around.min(axis=0) + 0.1)
    truth = depth[v, u]
    visible = smooth & (z < 1.15 * truth)
    assert visible.sum() > 300
    return np.abs(z - truth)[visible]
