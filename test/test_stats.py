"""Counters and latency percentiles in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mf_ros.core.config import EngineConfig
from mf_ros.engine import make_engine
from mf_ros.engine.stats import Latency, ReasonCounter
from mf_ros.errors import ConfigError


def test_percentiles_are_within_a_percent_of_the_exact_ones():
    values = np.random.default_rng(1).lognormal(3, 1, 5000)
    latency = Latency()
    for value in values:
        latency.add({"estimate": float(value)})
    for percent in (5, 50, 95, 99):
        assert latency.percentile("estimate", percent) == pytest.approx(np.percentile(values, percent), rel=0.01)


def test_stages_are_summarised_each_on_its_own():
    latency = Latency()
    for value in (10.0, 10.0, 10.0, 100.0):
        latency.add({"decode": value, "total": 2 * value})
    summary = latency.summary()
    assert list(summary) == ["decode", "total"]
    assert summary["decode"]["p50"] == pytest.approx(10, rel=0.01)
    assert summary["total"]["p95"] == pytest.approx(200, rel=0.01)


def test_memory_does_not_grow_with_the_length_of_the_run():
    latency = Latency()
    for value in np.random.default_rng(2).uniform(0, 1e5, 20000):
        latency.add({"total": float(value)})
    # From 1 us to 100 s there are 1852 bins of 1%.
    assert len(latency._bins["total"]) <= 1853


def test_recent_durations_show_what_changed_after_hours():
    now = [0.0]
    recent, ever = Latency(1000, clock=lambda: now[0]), Latency()
    for second in range(4 * 3600):
        now[0] = float(second)
        for latency in (recent, ever):
            latency.add({"estimate": 200.0 if second >= 4 * 3600 - 60 else 50.0})
    assert ever.percentile("estimate", 95) == pytest.approx(50, rel=0.01)
    assert recent.percentile("estimate", 5) == pytest.approx(200, rel=0.01)
    assert len(recent._order["estimate"]) <= 61


def test_recent_durations_are_bounded_in_number_and_the_newest_stays():
    now = [0.0]
    latency = Latency(3, clock=lambda: now[0])
    for value in (1.0, 1.0, 10.0, 20.0, 30.0):
        latency.add({"estimate": value})
    assert latency.percentile("estimate", 1) == pytest.approx(10, rel=0.01)
    now[0] = 600.0
    assert latency.percentile("estimate", 1) == pytest.approx(30, rel=0.01), "of an engine that takes minutes"
    assert sum(latency._bins["estimate"].values()) == 1


def test_nothing_measured_gives_nan_and_no_duration_breaks_it():
    latency = Latency()
    assert math.isnan(latency.percentile("total", 50))
    latency.add({"total": 0.0})
    assert latency.percentile("total", 50) == 0.0


def test_reasons_are_counted_with_the_last_text():
    reasons = ReasonCounter()
    reasons.add("stale", "first")
    reasons.add("no_lidar", "none", 3)
    reasons.add("stale", "second")
    assert reasons.counts == {"no_lidar": 3, "stale": 2}
    assert reasons.texts["stale"] == "second"
    assert reasons.total == 5


def test_a_huge_text_is_cut():
    reasons = ReasonCounter()
    reasons.add("bad_image", "x" * 10_000)
    assert len(reasons.texts["bad_image"]) == 500


def test_an_engine_that_does_not_exist_is_refused_with_the_names_of_those_that_do():
    with pytest.raises(ConfigError, match="'classical'"):
        make_engine(EngineConfig(name="psychic"))
