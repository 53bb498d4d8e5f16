"""Several limits at once, the calendar's budgets, a reset by hand, and a budget that is raised."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import redis

import solver
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.lease import Demand, Lease, Refusal, RefusalReason
from solver.load.store.calendar_window import CalendarWindow
from solver.load.store.redis import RedisStore
from solver.load.store.usage_limits import Calendar, UsageLimit

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

WIDE = solver.Capacity(max_concurrent=10_000)


def at(*moment: int, zone: str = "UTC") -> ManualClock:
    return ManualClock(datetime(*moment, tzinfo=ZoneInfo(zone)).timestamp())  # type: ignore[misc,arg-type]


def spend(tracker: solver.LoadTracker, usd: float) -> Lease | Refusal:
    return tracker.try_acquire("m", Demand(cost_usd=usd))


def test_a_budget_of_the_month_comes_back_on_the_first() -> None:
    clock = at(2026, 1, 31, 12)
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", WIDE, limits=[UsageLimit(resource="cost_usd", amount=10, period="month")])
    assert isinstance(spend(tracker, 10.0), Lease)
    refused = spend(tracker, 1.0)
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.BUDGET
    assert refused.retry_after_s == pytest.approx(12 * 3600)
    clock.seconds = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    assert isinstance(spend(tracker, 10.0), Lease)
    assert not spend(tracker, 0.01)


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("day", (2026, 3, 29), (2026, 3, 30)),  # 23 hours: summer time begins
        ("week", (2026, 3, 23), (2026, 3, 30)),
        ("month", (2026, 12, 1), (2027, 1, 1)),
    ],
)
def test_periods_follow_the_time_zone(period: str, begin: tuple[int, ...], end: tuple[int, ...]) -> None:
    clock = at(*begin, zone="Europe/Berlin")
    tracker = solver.LoadTracker(clock=clock)
    limit = UsageLimit(
        resource="requests",
        amount=1,
        period=period,  # type: ignore[arg-type]
        time_zone="Europe/Berlin",
    )
    tracker.set_capacity("m", WIDE, limits=[limit])
    assert tracker.try_acquire("m")
    last = at(*end, zone="Europe/Berlin").seconds
    for seconds in np.linspace(clock.seconds, last - 0.001, 50).tolist():
        clock.seconds = seconds
        assert not tracker.try_acquire("m")
    clock.seconds = last
    assert tracker.try_acquire("m")


def test_a_second_a_minute_and_a_day_hold_at_once() -> None:
    clock = at(2026, 5, 4)
    tracker = solver.LoadTracker(clock=clock)
    limits = [
        UsageLimit(resource="requests", amount=2, period=1),
        UsageLimit(resource="requests", amount=9, period=86400),
    ]
    tracker.set_capacity("m", WIDE, requests_per_minute=5, limits=limits)
    times: list[float] = []
    for _ in range(2000):
        clock.advance(0.1)
        room = int(tracker.snapshot().room(Demand())[0])
        granted = isinstance(tracker.try_acquire("m"), Lease)
        assert granted == (room > 0)
        times += [clock.now()] * granted
    assert len(times) == 9
    for window, most in ((1.0, 2), (60.0, 5)):
        assert max(sum(t <= u < t + window - 1e-9 for u in times) for t in times) == most
    refused = tracker.try_acquire("m")
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s is not None
    assert refused.retry_after_s > 80_000


def test_a_raised_limit_keeps_what_was_spent_and_a_reset_does_not() -> None:
    tracker = solver.LoadTracker(clock=at(2026, 5, 4))
    tracker.set_capacity("m", WIDE, limits=[UsageLimit(resource="cost_usd", amount=10, period="month")])
    running = spend(tracker, 10.0)
    assert isinstance(running, Lease)
    tracker.set_capacity("m", WIDE)
    tracker.set_capacity("m", WIDE, limits=[UsageLimit(resource="cost_usd", amount=15, period="month")])
    assert spend(tracker, 5.0)
    assert not spend(tracker, 1.0)
    tracker.reset_usage("m")
    assert spend(tracker, 15.0)
    running.release(cost_usd=1.0)  # what it spends less belongs to the time before
    assert not spend(tracker, 1.0)


def test_a_plain_budget_is_reset_and_raised() -> None:
    tracker = solver.LoadTracker()
    tracker.set_capacity("m", WIDE, budget_usd=10.0)
    assert spend(tracker, 10.0)
    tracker.set_capacity("m", WIDE, budget_usd=12.0)
    assert spend(tracker, 2.0)
    assert not spend(tracker, 1.0)
    tracker.reset_usage("m")
    assert spend(tracker, 12.0)


def test_the_same_window_twice_is_charged_once() -> None:
    tracker = solver.LoadTracker(clock=at(2026, 5, 4))
    limits = [UsageLimit(resource="requests", amount=4, period=60)]
    tracker.set_capacity("m", WIDE, requests_per_minute=6, limits=limits)
    assert sum(bool(tracker.try_acquire("m")) for _ in range(10)) == 4


def test_bad_limits_are_named() -> None:
    with pytest.raises(SpecError, match=r"limit\.time_zone: expected a name in the IANA database"):
        UsageLimit(resource="tokens", amount=1, period="day", time_zone="Mars/Base")
    with pytest.raises(SpecError, match=r"limit\.period: expected seconds, or day, week or month"):
        UsageLimit(resource="tokens", amount=1, period="year")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"limit\.amount"):
        UsageLimit(resource="requests", amount=0.5, period=1)
    with pytest.raises(SpecError, match=r"limit\.resource"):
        UsageLimit(resource="cats", amount=1, period=1)  # type: ignore[arg-type]


def test_a_shared_store_holds_to_them_too(redis_server: RedisServer) -> None:
    from solver.load.store.redis import RedisStore

    clock = at(2026, 3, 31, 23)
    store = RedisStore(redis_server.url, replicas=1, namespace="usage-limits", clock=clock)
    tracker = solver.LoadTracker(store, clock=clock)
    month = UsageLimit(resource="cost_usd", amount=10, period="month", time_zone="UTC")
    second = UsageLimit(resource="requests", amount=2, period=1.0)
    tracker.set_capacity("m", WIDE, limits=[month, second])
    assert spend(tracker, 9.0)
    refused = spend(tracker, 2.0)
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.BUDGET
    assert refused.retry_after_s == pytest.approx(3600.0)
    assert spend(tracker, 0.0)
    assert not spend(tracker, 0.0)  # a third one in the same second
    tracker.set_capacity("m", WIDE, limits=[replace(month, amount=12), second])
    clock.advance(2.0)
    assert spend(tracker, 2.0)  # what was spent is kept, the budget is larger
    clock.advance(3600.0)
    assert spend(tracker, 12.0)  # the first of April
    tracker.reset_usage("m")
    assert spend(tracker, 12.0)
    store.close()


def test_what_was_used_of_a_day_outlives_the_servers_memory(redis_server: RedisServer) -> None:
    from solver.load.store.redis import RedisStore

    clock = at(2026, 3, 31)
    store = RedisStore(redis_server.url, replicas=1, namespace="usage-told", clock=clock, retry_s=1e-6)
    tracker = solver.LoadTracker(store, clock=clock)
    tracker.set_capacity("m", WIDE, limits=[UsageLimit(resource="requests", amount=3, period="day")])
    leases = [tracker.acquire("m") for _ in range(2)]
    assert None not in leases
    with redis.Redis(port=redis_server.port) as client:
        for key in client.keys("solver:{usage-told}:*"):
            client.delete(key)
    assert tracker.acquire("m")
    assert not tracker.acquire("m")
    store.close()


def test_a_clock_that_was_a_year_ahead_does_not_keep_a_budget_for_a_year() -> None:
    wall = at(2026, 5, 4, 12)
    window = CalendarWindow(Calendar(period="day", time_zone="UTC"), wall.now)
    window.grow()
    window.advance(0.0)
    wall.seconds += 365 * 86400.0
    window.advance(100.0)
    window.charge(0, 7, 100.0)
    wall.seconds -= 365 * 86400.0
    window.advance(200.0)
    assert window.used[0] == 7
    assert window.wait_s(0, 1, 7, 200.0) == 12 * 3600.0
    wall.seconds += 12 * 3600.0
    window.advance(300.0)
    assert window.used[0] == 0
    wall.seconds -= 1.0  # a small step back into the day before changes nothing
    window.charge(0, 5, 300.0)
    window.advance(400.0)
    wall.seconds += 1.0
    window.advance(500.0)
    assert window.used[0] == 5


@pytest.mark.parametrize("ahead", ["server", "client"])
def test_a_shared_budget_is_not_kept_for_a_year_either(redis_server: RedisServer, ahead: str) -> None:
    right, wrong = at(2026, 5, 4, 12), at(2027, 5, 4, 12)
    server_clock, limit = at(2026, 5, 4, 12), UsageLimit(resource="requests", amount=1, period="day")
    store = RedisStore(
        redis_server.url, replicas=1, namespace=f"ahead {ahead}", clock=server_clock, timeout_s=5.0
    )
    tracker = solver.LoadTracker(store=store)
    if ahead == "client":
        store._memory._wall_s = wrong.now
    else:
        server_clock.seconds = wrong.now()
    tracker.set_capacity("m", WIDE, limits=[limit])
    assert isinstance(tracker.try_acquire("m"), Lease)
    server_clock.seconds = right.now()
    refused = tracker.try_acquire("m")
    assert isinstance(refused, Refusal)
    assert refused.retry_after_s is not None
    assert refused.retry_after_s <= 86400.0
    server_clock.seconds += 86401.0
    assert isinstance(tracker.try_acquire("m"), Lease)
    store.close()
