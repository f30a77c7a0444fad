"""The pipeline when time jumps: looped recordings and stamps far off."""

from __future__ import annotations

import dataclasses

import pytest
from pipeline_runs import make_pipeline, odometry, run, started
from wall_scene import (
    CAMERA_FRAME,
    camera_info,
    cloud,
    extrinsics,
    image,
    stamp,
)

from mf_ros.core.config import Config, SyncConfig


def test_a_looped_recording_goes_on_from_its_start():
    pipeline = started()
    for number in (50, 51, 0, 1):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    stamps = [result.frame.stamp_ns for result in run(pipeline)]
    assert stamps[-2:] == [stamp(0), stamp(1)]
    assert pipeline.frames_in == pipeline.frames_out + pipeline.dropped.total


@pytest.mark.parametrize("sweep_first", [True, False])
def test_four_turns_of_a_recording_lose_no_image_and_wait_for_transforms_in_each(sweep_first: bool):
    pipeline = started()
    results = []
    for turn in range(4):
        for number in range(40):
            pipeline.on_transforms([odometry(number - 0.5)], static=False)
            callbacks = [
                lambda number=number: pipeline.on_sweep(0, cloud(number, timed=True)),
                lambda number=number: pipeline.on_image(image(number)),
            ]
            for callback in callbacks if sweep_first else reversed(callbacks):
                callback()
            results += run(pipeline, flush=False)
        # The end of the sweep of image 37 is known, that of 38 is not: without waiting, 39 would be out.
        assert len(results) == 40 * turn + 38
    results += run(pipeline)
    assert [result.frame.stamp_ns for result in results] == [stamp(number) for number in range(40)] * 4
    assert pipeline.dropped.counts == {}
    # Only the last sweep of each turn, and the first image before its /tf, have motion that nobody can know.
    assert pipeline.warnings.counts["not_deskewed"] <= 4 * 3


@pytest.mark.parametrize("first", ["image", "sweep"])
def test_a_jump_is_seen_in_every_turn_whichever_stream_shows_it(first: str):
    pipeline = started(Config(sync=SyncConfig(max_wait_s=1.0)))
    streams = [lambda number: pipeline.on_image(image(number)), lambda number: pipeline.on_sweep(0, cloud(number))]
    if first == "sweep":
        streams.reverse()
    for turn in range(4):
        for number in (50, 51, 52):
            pipeline.on_transforms([odometry(number)], static=False)
            for give in streams:
                give(number)
        assert len(run(pipeline)) == 3
        for give in streams:
            for number in (0, 1, 2):
                give(number)
            assert not pipeline.transforms.can_lookup("odom", CAMERA_FRAME, stamp(51)), f"turn {turn}"
        assert [result.frame.stamp_ns for result in run(pipeline)] == [stamp(number) for number in (0, 1, 2)]
        streams.reverse()
    assert pipeline.dropped.counts == {}


def test_images_that_wait_when_time_jumps_back_are_processed_with_the_transforms_of_their_time():
    pipeline = make_pipeline(Config(sync=SyncConfig(max_wait_s=10.0)))
    pipeline.on_camera_info(camera_info())
    old = dataclasses.replace(extrinsics(), stamp_ns=stamp(49))
    pipeline.on_transforms([old, dataclasses.replace(old, stamp_ns=stamp(49.9))], static=False)
    for number in (49, 50, 0):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    pipeline.on_transforms([dataclasses.replace(old, stamp_ns=stamp(0))], static=False)
    assert [result.frame.stamp_ns for result in run(pipeline, flush=False)] == [stamp(49), stamp(50), stamp(0)]
    assert pipeline.dropped.counts == {}
    # The last pose before the jump is 10 ms older than image 50.
    assert pipeline.warnings.counts["old_pose"] == 1
    assert "0.010 s older" in pipeline.warnings.texts["old_pose"]


def test_live_what_waited_when_time_jumped_back_is_let_go():
    pipeline = started()
    for number in (50, 0):
        pipeline.on_sweep(0, cloud(number))
        pipeline.on_image(image(number))
    (newest,) = pipeline.ready(flush=True, latest=True)
    assert newest.image.stamp_ns == stamp(0)
    assert pipeline.dropped.counts == {"time_jump": 1}


@pytest.mark.parametrize("off", [-50, 36000])
@pytest.mark.parametrize("glitched", ["image", "sweep"])
def test_one_stamp_far_off_costs_one_image_at_most_and_no_transform(glitched: str, off: int):
    pipeline = started()
    for number in range(100, 120):
        wrong = number == 110
        pipeline.on_transforms([odometry(number)], static=False)
        pipeline.on_sweep(0, cloud(number + off * (wrong and glitched == "sweep")))
        pipeline.on_image(image(number + off * (wrong and glitched == "image")))
    assert len(run(pipeline)) == 19
    # Without its sweep, the image has none near enough.
    assert pipeline.dropped.counts == ({"bad_stamp": 1} if glitched == "image" else {"no_lidar": 1})
    assert pipeline.warnings.counts.get("sweep_bad_stamp", 0) == (glitched == "sweep")
    assert pipeline.transforms.can_lookup("odom", CAMERA_FRAME, stamp(101))
