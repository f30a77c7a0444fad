"""Nearest-stamp matching in the situations that bags and robots bring; stamps in milliseconds for reading."""

from __future__ import annotations

from typing import Iterable, List, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mf_ros.core.config import SyncConfig
from mf_ros.core.matching import Match, StampMatcher
from mf_ros.errors import ConfigError

MS = 1_000_000
CAMERA = "camera"
# (time of arrival ms, stream: "camera" or the LiDAR's index, stamp ms)
Event = Tuple[float, object, float]


def feed(matcher: StampMatcher, events: Iterable[Event], *, flush: bool = True) -> List[Match]:
    """Give the messages in the order of their arrival and collect what comes out."""
    matches: List[Match] = []
    for _, stream, stamp in sorted(events, key=lambda event: event[0]):
        if stream == CAMERA:
            matcher.add_image(round(stamp * MS), stamp)
        else:
            matcher.add_sweep(stream, round(stamp * MS), stamp)
        matches += matcher.pop()
    return matches + (matcher.pop(flush=True) if flush else [])


def camera(count: int, period: float = 1000 / 30, start: float = 0.0, late: float = 0.0) -> List[Event]:
    return [(start + i * period + late, CAMERA, start + i * period) for i in range(count)]


def lidar(count: int, *, sensor: int = 0, period: float = 100.0, start: float = 0.0, late: float = 0.0) -> List[Event]:
    return [(start + i * period + late, sensor, start + i * period) for i in range(count)]


def nearest_distance(stamp: float, sweeps: Iterable[float]) -> float:
    return min(abs(stamp - sweep) for sweep in sweeps)


def assert_nearest(matches: List[Match], events: List[Event]) -> None:
    sweeps = [stamp for _, stream, stamp in events if stream == 0]
    for match in matches:
        assert abs(match.image - match.sweeps[0]) == pytest.approx(nearest_distance(match.image, sweeps), abs=1e-6)


def test_every_image_gets_the_nearest_sweep() -> None:
    events = camera(60) + lidar(21)
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    matches = feed(matcher, events)
    assert len(matches) == 60
    assert matcher.counters == {}
    assert_nearest(matches, events)
    assert [match.stamp_ns for match in matches] == sorted(match.stamp_ns for match in matches)


def test_dt_is_the_sweep_minus_the_image() -> None:
    matcher: StampMatcher = StampMatcher(2, SyncConfig())
    (match,) = feed(matcher, [(0, 0, 990.0), (1, 1, 1030.0), (2, CAMERA, 1000.0)])
    assert match.dts_ns == (-10 * MS, 30 * MS)
    assert match.dt_ns == 30 * MS


def test_a_lidar_105_ms_late_loses_no_image() -> None:
    events = camera(60) + lidar(21, late=105.0)
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    matches = feed(matcher, events)
    assert len(matches) == 60
    assert matcher.counters == {}
    assert_nearest(matches, events)


def test_a_late_camera_loses_no_image() -> None:
    events = camera(60, late=500.0) + lidar(21)
    matches = feed(StampMatcher(1, SyncConfig()), events)
    assert len(matches) == 60
    assert_nearest(matches, events)


def test_a_slow_camera_pairs_every_image() -> None:
    events = camera(10, period=1000.0, start=13.0) + lidar(95)
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    matches = feed(matcher, events)
    assert [match.sweeps[0] for match in matches] == [1000.0 * i for i in range(10)]
    assert matcher.counters == {}


def test_an_image_is_decided_as_soon_as_no_later_sweep_can_be_nearer() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    matcher.add_image(100 * MS, "image")
    matcher.add_sweep(0, 80 * MS, "before")
    assert matcher.pop() == []
    matcher.add_sweep(0, 130 * MS, "after")
    (match,) = matcher.pop()
    assert match.sweeps == ("before",)


def test_a_known_rate_spares_the_wait_for_a_sweep_that_must_be_farther() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    feed(matcher, lidar(10))
    matcher.add_image(905 * MS, "just after a sweep")
    assert [match.sweeps for match in matcher.pop()] == [(900.0,)]
    matcher.add_image(940 * MS, "the next sweep may be as near")
    assert matcher.pop() == []


def test_a_lidar_that_stops_is_left_out_after_the_longest_wait() -> None:
    config = SyncConfig(max_wait_s=0.2)
    events = camera(60) + lidar(21) + lidar(5, sensor=1, start=3.0)
    matcher: StampMatcher = StampMatcher(2, config)
    matches = feed(matcher, events)
    assert len(matches) == 60
    assert matcher.counters == {}
    assert all(match.sweeps[0] is not None for match in matches)
    # The second LiDAR's last stamp is 403 ms; the tolerance is 60 ms.
    assert all((match.sweeps[1] is not None) == (match.image <= 463.0) for match in matches)


def test_the_wait_is_measured_in_stamps() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig(max_wait_s=0.2))
    matcher.add_sweep(0, 90 * MS, "sweep")
    matcher.add_image(100 * MS, "image")
    matcher.add_image(299 * MS, "later")
    assert matcher.pop() == []
    matcher.add_image(300 * MS, "latest")
    assert [match.image for match in matcher.pop()] == ["image"]


def test_without_any_lidar_images_are_dropped_as_no_lidar() -> None:
    matcher: StampMatcher = StampMatcher(2, SyncConfig())
    assert feed(matcher, camera(60)) == []
    assert matcher.counters == {"no_lidar": 60}
    assert matcher.nearest_miss_ns is None


def test_clocks_that_never_overlap_drop_all_and_tell_how_far_they_are() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    a_year = 365 * 86_400_000.0
    events = camera(60) + [(arrival, stream, stamp + a_year) for arrival, stream, stamp in lidar(20)]
    assert feed(matcher, events) == []
    assert matcher.counters == {"no_lidar": 60}
    assert matcher.nearest_miss_ns == pytest.approx(a_year * MS, rel=1e-6)


def test_a_lidar_behind_all_images_tells_how_far_too() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    a_year = 365 * 86_400_000.0
    events = camera(60) + [(arrival, stream, stamp - a_year) for arrival, stream, stamp in lidar(20)]
    assert feed(matcher, events) == []
    assert matcher.nearest_miss_ns == pytest.approx(a_year * MS, rel=1e-6)


def test_zero_lidars_match_at_once() -> None:
    matcher: StampMatcher = StampMatcher(0, SyncConfig())
    matcher.add_image(5 * MS, "image")
    assert [(match.image, match.sweeps, match.dt_ns) for match in matcher.pop()] == [("image", (), 0)]


def test_sweeps_farther_than_the_tolerance_are_not_used() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig(tolerance_s=0.02))
    matches = feed(matcher, [(0, 0, 100.0), (1, CAMERA, 120.0), (2, CAMERA, 121.0), (3, 0, 200.0)])
    assert [match.image for match in matches] == [120.0]
    assert matcher.counters == {"no_lidar": 1}
    assert matcher.nearest_miss_ns == 21 * MS


def test_each_lidar_has_its_own_offset() -> None:
    config = SyncConfig(lidar_offset_s=(0.05, -1.0), tolerance_s=0.01)
    matcher: StampMatcher = StampMatcher(2, config)
    (match,) = feed(matcher, [(0, 0, 1950.0), (1, 1, 3004.0), (2, CAMERA, 2000.0)])
    assert match.sweeps == (1950.0, 3004.0)
    assert match.dts_ns == (0, 4 * MS)


def test_sweeps_out_of_order_are_found() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    events = [(0, CAMERA, 100.0), (1, 0, 0.0), (2, 0, 200.0), (3, 0, 101.0), (4, CAMERA, 133.0), (5, CAMERA, 400.0)]
    matches = feed(matcher, events, flush=False)
    assert [(match.image, match.sweeps[0]) for match in matches] == [(100.0, 101.0), (133.0, 101.0)]


def test_images_out_of_order_come_out_in_order() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    events = [(0, CAMERA, 66.0), (1, CAMERA, 33.0), (2, CAMERA, 100.0), (3, 0, 60.0), (4, 0, 160.0)]
    assert [match.image for match in feed(matcher, events)] == [33.0, 66.0, 100.0]


def test_the_earlier_of_two_equally_near_sweeps_is_taken() -> None:
    matches = feed(StampMatcher(1, SyncConfig()), [(0, 0, 50.0), (1, 0, 150.0), (2, CAMERA, 100.0)])
    assert [match.sweeps for match in matches] == [(50.0,)]


def test_of_sweeps_with_equal_stamps_the_one_received_last_is_taken() -> None:
    for stamp in (990, 1000, 1010):
        matcher: StampMatcher = StampMatcher(1, SyncConfig())
        matcher.add_sweep(0, stamp * MS, "first")
        matcher.add_sweep(0, stamp * MS, "second")
        matcher.add_image(1000 * MS, "image")
        assert [match.sweeps for match in matcher.pop(flush=True)] == [("second",)]


@pytest.mark.parametrize("late", [0.0, 105.0, 2500.0])
@pytest.mark.parametrize("first", [CAMERA, 0])
def test_a_looped_bag_goes_on_matching(late: float, first: object) -> None:
    length = 5000.0
    once = camera(150, late=late if first == 0 else 0.0) + lidar(50, late=late if first == CAMERA else 0.0)
    events = [(arrival + turn * length, stream, stamp) for turn in range(4) for arrival, stream, stamp in once]
    matcher: StampMatcher = StampMatcher(1, SyncConfig(queue_size=200, max_wait_s=3.0))
    matches = feed(matcher, events)
    assert matcher.epoch == 3
    for match in matches:
        assert abs(match.dt_ns) <= 51 * MS
    lost = sum(n for reason, n in matcher.counters.items() if not reason.startswith("sweep_"))
    assert len(matches) + lost == 600
    # What comes later than the first message of the new turn is of the old one.
    assert lost <= 3 * (late / 1000 * 30 + 2)
    assert sorted({match.epoch for match in matches}) == [0, 1, 2, 3]
    if late == 0.0:
        # The last image of a turn is 67 ms after the last sweep, which is beyond the tolerance.
        assert lost == 4


def test_a_jump_is_reported_once_when_two_streams_have_gone_back_to_the_same_time() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    assert not matcher.add_image(100_000 * MS, "old")
    assert not matcher.add_sweep(0, 100_000 * MS, "old")
    assert not matcher.add_image(0, "new")
    assert not matcher.add_sweep(0, 100_100 * MS, "in flight")
    assert matcher.add_sweep(0, 10 * MS, "new")
    assert not matcher.add_sweep(0, 110 * MS, "newer")
    matches = matcher.pop()
    assert [(match.image, match.sweeps, match.epoch) for match in matches] == [
        ("old", ("old",), 0),
        ("new", ("new",), 1),
    ]
    assert matcher.counters == {"sweep_time_jump": 2}


def test_what_is_still_in_flight_after_a_jump_is_counted_and_disturbs_nothing() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    for stamp in (99_900, 100_000):
        matcher.add_sweep(0, stamp * MS, stamp)
    matcher.add_image(99_900 * MS, "old")
    matcher.add_image(0, "a")
    assert matcher.add_image(33 * MS, "b")
    for stamp in (100_100, 100_200, 30):
        assert not matcher.add_sweep(0, stamp * MS, stamp)
    assert [(match.image, match.sweeps) for match in matcher.pop(flush=True)] == [
        ("old", (99_900,)),
        ("a", (30,)),
        ("b", (30,)),
    ]
    assert matcher.counters == {"sweep_time_jump": 4}


def test_only_the_clock_that_was_set_back_begins_anew() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    events = camera(30, start=3_600_000.0) + lidar(20)
    feed(matcher, [(arrival - 3_600_000.0 * (stream == CAMERA), stream, stamp) for arrival, stream, stamp in events])
    for stamp in (1950, 1983):
        assert not matcher.add_image(stamp * MS, stamp)
    assert not matcher.add_sweep(0, 2000 * MS, "sweep")
    assert [match.image for match in matcher.pop(flush=True)] == [1950, 1983]
    assert matcher.epoch == 0


@pytest.mark.parametrize("off", [-5000.0, 5000.0, 3_600_000.0])
@pytest.mark.parametrize(("stream", "reason"), [(CAMERA, "bad_stamp"), (0, "sweep_bad_stamp")])
def test_one_stamp_far_off_costs_only_its_own_message(stream: object, reason: str, off: float) -> None:
    # The LiDAR is twice as fast as the camera, so that each image keeps a sweep near enough.
    good = camera(60, period=100.0) + lidar(120, period=50.0)
    wrong = [(3000.0, stream, 3000.0 + off) if event[:2] == (3000.0, stream) else event for event in good]
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    matches = feed(matcher, wrong)
    assert len(matches) == (59 if stream == CAMERA else 60)
    assert matcher.counters == {reason: 1}
    assert matcher.epoch == 0


def test_the_clock_of_one_of_two_lidars_set_back_costs_a_moment_and_not_the_rest() -> None:
    start = 1_000_000.0
    events = camera(300, start=start) + lidar(100, start=start) + lidar(40, sensor=1, start=start)
    rebooted = [(arrival + start + 4000.0, sensor, stamp) for arrival, sensor, stamp in lidar(60, sensor=1)]
    matcher: StampMatcher = StampMatcher(2, SyncConfig(max_wait_s=0.2))
    matches = feed(matcher, events + rebooted)
    # The other sensors are believed after 1 s and max_wait_s.
    assert 300 - len(matches) <= 1.4 * 30
    assert all(match.sweeps[0] is not None for match in matches)


def test_a_pause_costs_no_image() -> None:
    events = camera(30) + lidar(10) + camera(30, start=60_000.0) + lidar(10, start=60_000.0)
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    # The last image of each half is 67 ms after the last sweep, which is beyond the tolerance.
    assert len(feed(matcher, events)) == 58
    assert matcher.counters == {"no_lidar": 2}


def test_an_image_after_a_long_time_does_not_wait_for_the_next_while_the_lidar_goes_on() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    feed(matcher, [(0, CAMERA, 0.0), *lidar(300)])
    matcher.add_image(29_905 * MS, "rare")
    assert [match.image for match in matcher.pop()] == ["rare"]


def test_a_stamp_a_little_back_is_no_jump() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig())
    matcher.add_image(2000 * MS, "b")
    assert not matcher.add_image(1000 * MS, "a")
    assert matcher.counters == {}


def test_queues_are_bounded_and_what_they_lose_is_counted() -> None:
    matcher: StampMatcher = StampMatcher(1, SyncConfig(queue_size=5, max_wait_s=100.0))
    for index in range(12):
        matcher.add_image(index * MS, index)
    for index in range(9):
        matcher.add_sweep(0, index * MS, index)
    assert matcher.pending() == 5
    assert matcher.counters == {"queue_full": 7, "sweep_queue_full": 4}


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 values for 2 LiDARs"):
        StampMatcher(2, SyncConfig(lidar_offset_s=(0.1,)))
    with pytest.raises(ConfigError, match="queue_size"):
        StampMatcher(1, SyncConfig(queue_size=0))


events_strategy = st.lists(
    st.tuples(
        st.sampled_from([CAMERA, 0, 1]),
        st.integers(0, 3000) | st.integers(100_000, 103_000),
        st.sampled_from(["pop", "keep"]),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(events=events_strategy, queue_size=st.integers(1, 10))
def test_every_image_is_matched_counted_or_pending_whatever_arrives(events: list, queue_size: int) -> None:
    def run() -> Tuple[list, dict]:
        matcher: StampMatcher = StampMatcher(2, SyncConfig(queue_size=queue_size))
        matches: List[Match] = []
        images = 0
        for stream, stamp, action in events:
            if stream == CAMERA:
                images += 1
                matcher.add_image(stamp * MS, stamp)
            else:
                matcher.add_sweep(stream, stamp * MS, stamp)
            if action == "pop":
                matches += matcher.pop()
            dropped = sum(n for reason, n in matcher.counters.items() if not reason.startswith("sweep_"))
            assert images == len(matches) + dropped + matcher.pending()
        matches += matcher.pop(flush=True)
        assert matcher.pending() == 0
        for match in matches:
            assert any(sweep is not None for sweep in match.sweeps)
            assert all(dt is None or abs(dt) <= 60 * MS for dt in match.dts_ns)
        return matches, matcher.counters

    assert run() == run()
