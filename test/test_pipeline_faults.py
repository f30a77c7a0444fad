"""The pipeline: what cannot become depth is dropped under its reason, and the rest goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pipeline_runs import make_pipeline, only_drop, run, started
from wall_scene import (
    CAMERA,
    CAMERA_FRAME,
    camera_info,
    cloud,
    extrinsics,
    image,
    stamp,
    tf,
    wall,
)

from mf_ros.core.camera import make_camera
from mf_ros.core.types import LidarSweep
from mf_ros.errors import MessageError

BIG = make_camera(128, 96, CAMERA.K, [], "plumb_bob")


def nothing_but_zeros() -> Any:
    return dataclasses.replace(camera_info(), k=np.zeros(9))


def unknown_lens() -> Any:
    return dataclasses.replace(camera_info(), distortion_model="fish_bowl")


def cut_image() -> Any:
    return dataclasses.replace(image(), data=np.zeros(10, np.uint8))


def strange_image() -> Any:
    return dataclasses.replace(image(), encoding="smell8")


def cloud_without_z() -> Any:
    whole = cloud()
    return dataclasses.replace(whole, fields=[field for field in whole.fields if field.name != "z"])


def cut_cloud() -> Any:
    return dataclasses.replace(cloud(), data=np.zeros(10, np.uint8))


def nan_cloud() -> Any:
    whole = cloud()
    return dataclasses.replace(whole, data=np.full(len(whole.data) // 4, np.nan, np.float32).view(np.uint8))


def behind() -> LidarSweep:
    sweep = wall()
    return dataclasses.replace(sweep, points=-sweep.points)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("no_camera_info", {"info": None}),
        ("uncalibrated", {"info": nothing_but_zeros()}),
        ("uncalibrated", {"info": unknown_lens()}),
        ("size_mismatch", {"info": camera_info(camera=BIG)}),
        ("no_lidar", {"sweep": None}),
        ("no_lidar", {"sweep": cloud(-5)}),
        ("no_transform", {"transform": None}),
        ("bad_image", {"image": cut_image()}),
        ("bad_image", {"image": strange_image()}),
        ("bad_image", {"image": object()}),
        ("bad_points", {"sweep": cloud_without_z()}),
        ("bad_points", {"sweep": cut_cloud()}),
        ("no_returns", {"sweep": nan_cloud()}),
        ("no_returns", {"sweep": behind()}),
        ("engine_failed", {"engine": {"failing": True}}),
        ("engine_failed", {"engine": {"cut": 3}}),
        ("not_metric", {"engine": {"metric": False}}),
    ],
)
def test_what_cannot_become_depth_is_dropped_under_its_reason(reason, changes):
    given = {"info": camera_info(), "transform": tf(extrinsics()), "sweep": cloud(), "image": image(), "engine": {}}
    given.update(changes)
    pipeline = make_pipeline(**given["engine"])
    if given["info"] is not None:
        pipeline.on_camera_info(given["info"])
    if given["transform"] is not None:
        pipeline.on_transforms(given["transform"], static=True)
    if given["sweep"] is not None:
        pipeline.on_sweep(0, given["sweep"])
    pipeline.on_image(given["image"])
    assert run(pipeline) == []
    assert only_drop(pipeline) == reason
    assert len(pipeline.dropped.texts[reason]) > 20


def test_messages_without_a_stamp_are_counted_as_bad_when_they_come():
    def unstamped(message: Any) -> Any:
        message.header.stamp.sec = message.header.stamp.nanosec = 0
        return message

    pipeline = started()
    pipeline.on_camera_info(unstamped(camera_info()))
    pipeline.on_sweep(0, unstamped(cloud()))
    pipeline.on_image(unstamped(image()))
    assert pipeline.waiting == 0
    assert pipeline.warnings.counts == {"bad_points": 1}
    assert only_drop(pipeline) == "bad_image"


def test_a_bad_message_does_not_spoil_the_next():
    pipeline = started()
    pipeline.on_sweep(0, cut_cloud())
    pipeline.on_image(image(0))
    pipeline.on_sweep(0, cloud(1))
    pipeline.on_image(image(1))
    (result,) = run(pipeline)
    assert result.frame.stamp_ns == stamp(1)
    assert pipeline.dropped.counts == {"bad_points": 1}


def test_messages_that_could_not_be_read_are_counted_by_their_role():
    pipeline = started()
    for role in ("image", "camera_info", "points", "tf"):
        pipeline.on_bad_message(role, MessageError("torn"))
    assert (pipeline.frames_in, pipeline.dropped.counts) == (1, {"bad_image": 1})
    assert pipeline.warnings.counts == {"bad_camera_info": 1, "bad_points": 1, "bad_transform": 1}


def test_a_bad_transform_does_not_cost_the_others_of_its_message():
    pipeline = make_pipeline()
    message = tf(extrinsics("other"), extrinsics())
    zero = dataclasses.replace(message.transforms[0].transform.rotation, x=0.0, y=0.0, z=0.0, w=0.0)
    message.transforms[0].transform.rotation = zero
    pipeline.on_transforms(message, static=True)
    assert pipeline.warnings.counts == {"bad_transform": 1}
    assert pipeline.transforms.can_lookup(CAMERA_FRAME, "lidar", 0)


def test_an_old_pose_on_a_mast_drops_the_image_and_says_how_old_it_is():
    pipeline = make_pipeline()
    pipeline.on_camera_info(camera_info())
    pipeline.on_transforms([dataclasses.replace(extrinsics(), stamp_ns=stamp(-36000))], static=False)
    pipeline.on_sweep(0, cloud(0))
    pipeline.on_image(image(0))
    assert run(pipeline) == []
    assert only_drop(pipeline) == "no_transform"
    assert "3600.000 s older" in pipeline.dropped.texts["no_transform"]


def test_clocks_that_never_meet_are_named():
    pipeline = started()
    pipeline.on_sweep(0, dataclasses.replace(wall(), stamp_ns=1_000_000_000))
    pipeline.on_image(image(0))
    assert run(pipeline) == []
    assert only_drop(pipeline) == "no_lidar"
    assert "1699999999.123 s behind the camera's. Synchronise" in pipeline.dropped.texts["no_lidar"]


def test_a_small_difference_of_clocks_names_the_offset_that_mends_it():
    pipeline = started()
    for number in range(40):
        pipeline.on_image(image(number))
        pipeline.on_sweep(0, cloud(number - 23))
    assert run(pipeline) == []
    assert "Set sync.lidar_offset_s to about [2.300]" in pipeline.dropped.texts["no_lidar"]


def test_a_lidar_that_falls_silent_is_not_blamed_for_its_clock():
    pipeline = started()
    for number in range(60):
        pipeline.on_image(image(number))
        if number < 10:
            pipeline.on_sweep(0, cloud(number))
    assert len(run(pipeline)) == 10
    text = pipeline.dropped.texts["no_lidar"]
    assert "has sent nothing for 5.0 s" in text and "lidar_offset_s" not in text


def test_a_sweep_without_a_valid_point_blames_the_sensor_not_the_transform():
    pipeline = started()
    pipeline.on_sweep(0, dataclasses.replace(wall(), points=np.zeros((960, 3), np.float32)))
    pipeline.on_image(image(0))
    assert run(pipeline) == []
    assert only_drop(pipeline) == "no_returns"
    assert "lidar.min_range_m = 0.3 to lidar.max_range_m = 250" in pipeline.dropped.texts["no_returns"]
