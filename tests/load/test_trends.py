from __future__ import annotations

import sys

import numpy as np
import pytest

from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.observe.trends import WINDOWS_S, Trends
from solver.load.request_outcome import Outcome
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity


def test_percentiles_are_within_one_percent_of_the_exact_ones() -> None:
    clock = ManualClock()
    trends = Trends(clock=clock)
    rng = np.random.default_rng(2)
    latencies = rng.lognormal(6, 1, 5000)
    for latency in latencies:
        clock.advance(0.01)
        trends.observe(Outcome(model="a", latency_ms=float(latency), success=bool(latency < 2000)))
    summary = trends.latency("a", window_s=300.0)
    assert summary.requests == 5000
    assert summary.mean_ms == pytest.approx(latencies.mean())
    assert summary.success_rate == pytest.approx((latencies < 2000).mean())
    for mine, share in ((summary.p50_ms, 50), (summary.p95_ms, 95), (summary.p99_ms, 99)):
        exact = np.percentile(latencies, share, method="lower")
        assert mine == pytest.approx(exact, rel=0.0101)


def test_a_window_forgets() -> None:
    clock = ManualClock()
    trends = Trends(clock=clock)
    trends.observe(Outcome(model="a", latency_ms=1000.0))
    clock.advance(70)
    trends.observe(Outcome(model="a", latency_ms=10.0))
    assert trends.latency("a", window_s=60.0).requests == 1
    assert trends.latency("a", window_s=300.0).requests == 2
    clock.advance(600)
    assert trends.latency("a", window_s=300.0).p50_ms is None
    assert trends.latency("a", window_s=3600.0).requests == 2
    assert trends.latency("nobody").requests == 0


def test_memory_does_not_grow_with_traffic_or_time() -> None:
    clock = ManualClock()
    trends = Trends(clock=clock)
    for _ in range(3000):
        clock.advance(7)
        trends.observe(Outcome(model="a", latency_ms=5.0))
    assert all(len(ring) <= 12 for ring in trends._latency["a"])


def test_utilization_is_weighted_with_time() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    trends = Trends(clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=10))
    trends.sample(tracker.snapshot())
    clock.advance(15)  # idle
    tracker.update_load("a", 10)
    trends.sample(tracker.snapshot())
    clock.advance(5)  # full
    trends.sample(tracker.snapshot())
    summary = trends.utilization("a")
    assert summary.covered_s == pytest.approx(20)
    assert summary.mean == pytest.approx(0.25)
    assert summary.highest == 1.0


def test_utilization_of_models_that_come_later_and_of_unknown_ones() -> None:
    clock = ManualClock()
    tracker = LoadTracker(clock=clock)
    trends = Trends(clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=1))
    trends.sample(tracker.snapshot())
    clock.advance(10)
    tracker.set_capacity("b", Capacity(max_concurrent=2))
    tracker.update_load("b", 1)
    trends.sample(tracker.snapshot())
    assert trends.utilization("b").mean is None
    clock.advance(10)
    trends.sample(tracker.snapshot())
    assert trends.utilization("a").covered_s == pytest.approx(20)
    assert trends.utilization("b").covered_s == pytest.approx(10)
    assert trends.utilization("b").mean == pytest.approx(0.5)
    assert trends.utilization("nobody").mean is None


@pytest.mark.parametrize("window_s", WINDOWS_S)
def test_a_long_gap_between_samples_fills_no_more_than_the_window(window_s: float) -> None:
    clock = ManualClock(5.0)
    tracker = LoadTracker(clock=clock)
    trends = Trends(clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=1))
    trends.sample(tracker.snapshot())
    clock.advance(1e6)
    trends.sample(tracker.snapshot())
    assert 0 < trends.utilization("a", window_s=window_s).covered_s <= window_s


def test_windows_are_the_known_ones() -> None:
    with pytest.raises(SpecError, match="window_s: expected one of 60, 300, 3600, got 10"):
        Trends().latency("a", window_s=10)


def test_a_clock_that_steps_back_takes_nothing_off_the_windows() -> None:
    clock = ManualClock(1000.0)
    tracker, trends = LoadTracker(clock=clock), Trends(clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=2))
    tracker.update_load("a", 1)
    for second in (1000.0, 1005.0, 1002.0, 1006.0):
        clock.seconds = second
        trends.sample(tracker.snapshot())
    summary = trends.utilization("a")
    assert summary.covered_s == pytest.approx(6.0)
    assert summary.mean == pytest.approx(0.5)


def test_a_latency_as_large_as_a_float_can_be_has_percentiles() -> None:
    trends = Trends(clock=ManualClock())
    trends.observe(Outcome(model="m", latency_ms=sys.float_info.max))
    assert trends.latency("m").p99_ms == sys.float_info.max
