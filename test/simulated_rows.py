"""Rows of a small simulated fleet."""

from __future__ import annotations

import cv2
from dataset_rows import SECOND

from mf_ros.core.transforms import TransformTree
from mf_ros.dataset.row import Row
from mf_ros.simulate.lidar import LidarModel
from mf_ros.simulate.rig import LIDAR, ODOM, OPTICAL, Rig, default_camera
from mf_ros.simulate.robots import robot_named
from mf_ros.simulate.trajectory import Trajectory
from mf_ros.simulate.worlds import make_scene


def simulated_rows() -> list[Row]:
    """Two robots that drive at 2 m/s through a yard, a row of each for each split, 5 s apart."""
    rows = []
    scene = make_scene("yard", 0, 30.0)
    for name, size_px in (("rover", (96, 60)), ("mast", (64, 64))):
        robot = robot_named(name)
        camera = default_camera(*size_px, "plumb_bob", hfov_deg=robot.hfov_deg)
        rig = Rig(scene, camera, LidarModel(rings=16, columns=240), Trajectory(speed=2.0), robot=robot)
        rows += [_row(rig, 50 * k + 2, name, split) for k, split in enumerate(("train", "val", "test"))]
    return rows


def _row(rig: Rig, index: int, robot: str, split: str) -> Row:
    stamp = rig.image_stamp(index)
    tree = TransformTree()
    for mount in rig.mounts():
        tree.add(mount, static=True)
    for tick in range(-8, 9):
        tree.add(rig.base_pose(stamp + tick * SECOND // 50), static=False)
    sweep = rig.sweep(index)
    image = rig.image(index)[0]
    return Row(
        sample_id=f"{robot}/{stamp}",
        bag_id=robot,
        robot_id=robot,
        site="yard",
        day="2023-11-14",
        stamp_ns=stamp,
        log_ns=stamp + 12_000_000,
        image=cv2.imencode(".jpg", image[..., ::-1])[1].tobytes(),
        image_format="jpeg",
        camera=rig.camera,
        camera_frame=OPTICAL,
        sweeps=(sweep,),
        dt_ns=(sweep.stamp_ns - stamp,),
        edges=tuple(tree.edges_above([OPTICAL, LIDAR, ODOM], stamp - SECOND // 6, stamp + SECOND // 6)),
        T_world_cam=tree.lookup(ODOM, OPTICAL, stamp),
        split=split,
        keyframe=True,
        phash="0" * 16,
        extractor_version="1",
    )
