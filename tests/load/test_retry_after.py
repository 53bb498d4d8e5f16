"""Refusals say when to ask again, each its own time."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import solver
from solver.clock import ManualClock
from solver.load.control.retry_after import RetryLine
from solver.load.lease import Demand, Lease
from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.usage_limits import UsageLimit

if TYPE_CHECKING:
    from solver.load.store.base import Store

DAILY = UsageLimit(resource="requests", amount=20, period=86400)
WEEKLY = UsageLimit(resource="requests", amount=100_000, period=7 * 86400)


@pytest.mark.parametrize(
    ("limit", "demand"),
    [
        ({"requests_per_minute": 20}, Demand()),
        ({"tokens_per_minute": 1000}, Demand(tokens=50)),
        ({"budget_usd": 2.0, "budget_period_s": 300.0}, Demand(cost_usd=0.1)),
        ({"limits": [DAILY, WEEKLY]}, Demand()),
    ],
)
def test_those_refused_together_do_not_return_together(limit: dict[str, Any], demand: Demand) -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=1000), **limit)
    for _ in range(20):
        tracker.acquire("m", demand)
    clock.advance(10.0)
    told = []
    for _ in range(100):
        answer = tracker.try_acquire("m", demand)
        assert isinstance(answer, Refusal)
        assert answer.retry_after_s is not None
        told.append(answer.retry_after_s)
    assert len({round(wait, 3) for wait in told}) == 100
    begin, refused = clock.now(), 0
    for wait in told:
        clock.seconds = begin + wait
        refused += not isinstance(tracker.try_acquire("m", demand), Lease)
    assert refused <= 20


def test_full_slots_are_told_by_latency_and_a_line_ends() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=4))
    tracker.record("m", latency_ms=2000.0)
    for _ in range(4):
        tracker.acquire("m", ttl_s=600.0)
    told = [getattr(tracker.try_acquire("m"), "retry_after_s", None) for _ in range(3)]
    assert told == pytest.approx([0.65, 1.3, 1.95])  # 2 s over 4 slots, and what ends spread by
    for _ in range(5000):
        tracker.try_acquire("m")
    last = getattr(tracker.try_acquire("m"), "retry_after_s", None)
    assert last is not None
    assert 0.0 < last <= 601.0


def test_the_balancer_passes_the_reason_on() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=9), requests_per_minute=2)
    balancer = solver.LoadBalancer(tracker)
    models = (solver.Model(id="m", capacity=solver.Capacity(max_concurrent=9)),)
    agent = solver.Agent(id="a")
    for _ in range(2):
        [served] = balancer.assign_and_reserve([agent], models)
        assert served.lease is not None
        served.lease.release()
    [refused] = balancer.assign_and_reserve([agent], models)
    assert refused.refusal is not None
    assert refused.refusal.reason is RefusalReason.REQUESTS
    assert refused.refusal.retry_after_s == pytest.approx(61.0, abs=1.5)
    tracker.stop("m", reason="maintenance", for_s=5.0)
    [stopped] = balancer.assign_and_reserve([agent], models)
    assert stopped.refusal is not None
    assert stopped.refusal.stops[0].reason == "maintenance"


def test_whoever_has_no_line_before_them_gets_the_time_of_the_store() -> None:
    refusal = Refusal(model="m", reason=RefusalReason.REQUESTS, retry_after_s=86400.0)
    for now_s in (0.1, 1_234.567, 65_908.3):  # readings of a clock, to which 86,400 cannot be added exactly
        placed = RetryLine().placed(refusal, Demand(), None, None, now_s)
        assert placed.retry_after_s == 86400.0


DAY = UsageLimit(resource="requests", amount=5, period="day")
SECOND = UsageLimit(resource="requests", amount=5, period=1.0)


def refused_again(tracker: solver.LoadTracker, clock: ManualClock, *, demand: Demand, hold_s: float) -> int:
    """Fill a model, refuse a hundred at once, and count who is refused again at the time that was told."""
    rng = np.random.default_rng(1)
    events: list[tuple[float, int, Lease | None]] = []

    def ask() -> Refusal | None:
        answer = tracker.try_acquire("m", demand, ttl_s=100.0)
        if isinstance(answer, Refusal):
            return answer
        heapq.heappush(events, (clock.now() + hold_s * rng.uniform(0.5, 1.5), len(events), answer))
        return None

    while ask() is None:
        pass
    for number in range(100):
        refusal = ask()
        assert refusal is not None
        assert refusal.retry_after_s is not None
        heapq.heappush(events, (clock.now() + refusal.retry_after_s, 1000 + number, None))
    refused = 0
    while events:
        clock.seconds, _, lease = heapq.heappop(events)
        if lease is None:
            refused += ask() is not None
        else:
            lease.release()
    return refused


@pytest.mark.parametrize(
    ("slots", "limits", "demand", "hold_s"),
    [
        (10, {}, Demand(), 1.0),
        (3, {}, Demand(), 4.0),
        (16, {}, Demand(slots=3), 2.0),
        (1000, {"tokens_per_minute": 1000}, Demand(tokens=300), 1.0),
        (1000, {"requests_per_minute": 50, "limits": [SECOND]}, Demand(), 1.0),
        (1000, {"tokens_per_minute": 5000, "requests_per_minute": 30}, Demand(tokens=400), 1.0),
        (1000, {"limits": [DAY]}, Demand(), 1.0),
    ],
)
def test_few_are_refused_a_second_time(
    store: Store, clock: ManualClock, slots: int, limits: dict[str, Any], demand: Demand, hold_s: float
) -> None:
    tracker = solver.LoadTracker(store, clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=slots), **limits)
    if not limits:  # how long requests take is learned from leases
        for _ in range(3):
            lease = tracker.acquire("m", ttl_s=60.0)
            assert lease is not None
            clock.advance(hold_s)
            lease.release()
    assert refused_again(tracker, clock, demand=demand, hold_s=hold_s) <= 20


@pytest.mark.parametrize("slots", [1, 10])
def test_those_who_wait_for_a_stop_to_end_are_spread_over_the_slots(slots: int) -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=slots))
    tracker.record("m", latency_ms=1000.0)
    tracker.record("m", latency_ms=5.0, status=429, retry_after_s=7.0)
    assert refused_again(tracker, clock, demand=Demand(), hold_s=1.0) <= 20
