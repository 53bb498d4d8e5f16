"""Feedback from a model's own server: pauses, the circuit breaker, and the last resort."""

from __future__ import annotations

import heapq
import threading
from typing import TYPE_CHECKING, Any

import pytest

import solver
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.control.circuit_breaker import BreakerParameters
from solver.load.refusal import Refusal, RefusalReason
from solver.load.stops import StopOwner
from solver.load.store.memory import MemoryStore
from solver.load.store.redis import RedisStore
from tests.redis_server import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from solver.load.store.base import Store


def model(name: str, slots: int = 10, strength: float = 0.8) -> solver.Model:
    return solver.Model(
        id=name, capacity=solver.Capacity(max_concurrent=slots), capabilities={"coding": strength}
    )


def agent(name: str = "a") -> solver.Agent:
    return solver.Agent(id=name, task_type="coding")


def tracker_of(*names: str, slots: int = 10) -> tuple[solver.LoadTracker, ManualClock]:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    for name in names:
        tracker.set_capacity(name, solver.Capacity(max_concurrent=slots))
    return tracker, clock


@pytest.mark.parametrize("strategy", ["least_loaded", "weighted", "predictive"])
def test_a_model_that_fails_at_once_gets_little_traffic(strategy: str) -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    balancer = solver.LoadBalancer(tracker, strategy=strategy, routing="greedy", seed=1)
    models = tuple(model(name) for name in "ABC")
    ends: list[tuple[float, int, Any, str]] = []
    wasted = 0
    for i in range(400):
        now = i * 0.05
        while ends and ends[0][0] <= now:
            at_s, _, lease, name = heapq.heappop(ends)
            clock.seconds = max(clock.seconds, at_s)
            lease.release()
            tracker.record(name, latency_ms=10.0 if name == "A" else 1000.0, success=name != "A")
        clock.seconds = max(clock.seconds, now)
        [reservation] = balancer.assign_and_reserve([agent(str(i))], models)
        if reservation.lease is not None:
            wasted += reservation.model_id == "A"
            lasts_s = 0.01 if reservation.model_id == "A" else 1.0
            heapq.heappush(ends, (now + lasts_s, i, reservation.lease, str(reservation.model_id)))
    assert 1 <= wasted <= 20  # at most 5 %, and it is still probed


def test_a_pause_is_kept_and_the_longest_deadline_wins() -> None:
    tracker, clock = tracker_of("m")
    tracker.record("m", latency_ms=5.0, status=429, retry_after_s=7.0)
    tracker.record("m", latency_ms=5.0, status=429, retry_after_s=2.0)
    answer = tracker.try_acquire("m")
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.NOT_ACCEPTING
    assert answer.retry_after_s == pytest.approx(7.0)
    [stop] = tracker.stops("m")
    assert (stop.owner, stop.reason) == (StopOwner.COOLDOWN, "status 429")
    clock.advance(7.1)
    assert tracker.acquire("m")


def test_a_pause_of_thirty_thousand_years_is_over_after_a_day() -> None:
    tracker, clock = tracker_of("m")
    tracker.record("m", latency_ms=5.0, status=429, retry_after_s=1e12)
    assert not tracker.try_acquire("m")
    clock.advance(86401.0)
    assert tracker.try_acquire("m")


def test_a_pause_without_a_length_doubles() -> None:
    tracker, clock = tracker_of("m")
    lengths = []
    for _ in range(7):
        tracker.record("m", latency_ms=5.0, status=503)
        lengths.append(round(tracker.stops("m")[0].until_s - clock.now(), 3))
        clock.advance(60.0)
    assert lengths == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_breaker_opens_probes_and_starts_slowly() -> None:
    tracker, clock = tracker_of("m", slots=8)
    for _ in range(5):
        assert tracker.acquire("m")
        tracker.record("m", latency_ms=5.0, status=500)
    [stop] = tracker.stops("m")
    assert (stop.owner, stop.reason) == (StopOwner.BREAKER, "5 failures in a row")
    assert tracker.acquire("m") is None
    tracker.end_leases("m")
    clock.advance(1.01)
    probe = tracker.acquire("m")
    assert probe is not None
    assert tracker.acquire("m") is None  # half open: one probe at a time
    probe.release()
    tracker.record("m", latency_ms=5.0, status=500)
    assert tracker.stops("m")[0].until_s == pytest.approx(clock.now() + 2.0)  # twice as long
    clock.advance(2.01)
    open_slots = []
    for _ in range(4):
        tracker.record("m", latency_ms=5.0)
        open_slots.append(int(tracker.snapshot().max_concurrent[0]))
    assert open_slots == [2, 4, 8, 8]


def test_errors_of_the_request_open_nothing() -> None:
    tracker, _ = tracker_of("m")
    for _ in range(50):
        tracker.record("m", latency_ms=5.0, status=400)
    assert not tracker.stops("m")


def test_failures_between_successes_open_the_breaker_too() -> None:
    tracker, _ = tracker_of("m")
    for k in range(12):
        tracker.record("m", latency_ms=5.0, success=k % 2 == 0)
    assert [stop.owner for stop in tracker.stops("m")] == [StopOwner.BREAKER]


def test_nobody_reopens_what_an_operator_closed() -> None:
    tracker, clock = tracker_of("m")
    tracker.stop("m", reason="maintenance")
    for _ in range(5):
        tracker.record("m", latency_ms=5.0, success=False)
    clock.advance(5.0)
    tracker.record("m", latency_ms=5.0)
    assert [stop.owner for stop in tracker.stops("m")] == [StopOwner.OPERATOR]
    assert tracker.last_resort(("m",)) is None


def test_last_resort_when_every_breaker_is_open() -> None:
    clock = ManualClock()
    tracker = solver.LoadTracker(clock=clock)
    balancer = solver.LoadBalancer(tracker)
    models = (model("A", 2), model("B", 2))
    balancer.select([agent()], models)
    for name in "AB":
        for _ in range(5):
            tracker.record(name, latency_ms=5.0, success=False)
    assert set(tracker.snapshot().view.stops) == {"A", "B"}
    [reservation] = balancer.assign_and_reserve([agent()], models)
    assert reservation.lease is not None
    assert len(tracker.snapshot().view.stops) == 1
    tracker.record("A", latency_ms=5.0, status=429, retry_after_s=30.0)
    tracker.record("B", latency_ms=5.0, status=429, retry_after_s=30.0)
    reservation.lease.release()
    [refused] = balancer.assign_and_reserve([agent()], models)
    assert refused.lease is None  # a pause that was asked for is respected


@pytest.mark.parametrize(
    ("figures", "path"),
    [({"status": "429"}, "status"), ({"status": 7}, "status"), ({"retry_after_s": -1.0}, "retry_after_s")],
)
def test_bad_feedback(figures: dict[str, Any], path: str) -> None:
    tracker, _ = tracker_of("m")
    with pytest.raises(SpecError, match=path):
        tracker.record("m", latency_ms=1.0, **figures)
    assert not tracker.stops("m")


def test_bad_parameters() -> None:
    with pytest.raises(SpecError, match="failures"):
        BreakerParameters(failures=0)


def test_reading_a_configuration_again_ends_no_probing() -> None:
    tracker, clock = tracker_of("m")
    for _ in range(5):
        tracker.record("m", latency_ms=5.0, success=False)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=20))
    clock.advance(2.0)
    probe = tracker.acquire("m")
    assert probe is not None
    assert tracker.acquire("m") is None
    slots = []
    for _ in range(6):
        tracker.record("m", latency_ms=5.0)
        slots.append(int(tracker.snapshot().max_concurrent[0]))
    assert slots == [2, 4, 8, 16, 20, 20]


def test_a_model_without_slots_is_no_reason_against_the_last_resort() -> None:
    tracker, _ = tracker_of("A", "B")
    tracker.set_capacity("B", solver.Capacity(max_concurrent=0))
    for _ in range(5):
        tracker.record("A", latency_ms=5.0, success=False)
    balancer = solver.LoadBalancer(tracker)
    [served] = balancer.assign_and_reserve([agent()], (model("A"), model("B")))
    assert served.model_id == "A"


def test_a_router_of_a_shared_store_has_a_last_resort_too(store: Store, clock: ManualClock) -> None:
    tracker = solver.LoadTracker(store, clock)
    models = (model("A"), model("B"))
    router = solver.OptimalRouter(tracker, models, background=False)
    for name in "AB":
        for _ in range(5):
            tracker.record(name, latency_ms=5.0, success=False)
    first, second = router.route(agent()), router.route(agent())
    assert first.lease is not None
    assert second.refusal is not None
    assert second.refusal.cause is not None
    assert {stop.owner for stop in second.refusal.cause.stops} <= {StopOwner.BREAKER}


def test_feedback_counts_at_a_tracker_that_set_no_capacity(store: Store, clock: ManualClock) -> None:
    solver.LoadTracker(store, clock).set_capacity("m", solver.Capacity(max_concurrent=4))
    other = solver.LoadTracker(store, clock)  # a worker that starts later, or was restarted
    other.record("m", latency_ms=5.0, status=429, retry_after_s=7.0)
    for _ in range(5):
        other.record("m", latency_ms=5.0, success=False)
        other.record("of no store", latency_ms=5.0, success=False)
    assert {stop.owner.value for stop in other.stops("m")} == {"cooldown", "breaker"}


def test_two_breakers_of_one_model_come_back_to_all_its_slots(store: Store, clock: ManualClock) -> None:
    trackers = [solver.LoadTracker(store, clock) for _ in range(2)]
    for tracker in trackers:
        tracker.set_capacity("m", solver.Capacity(max_concurrent=10))
    for tracker in trackers:
        for _ in range(5):
            tracker.record("m", latency_ms=5.0, success=False)
    assert store.limits("m").max_concurrent == 1
    clock.advance(3.0)
    for tracker in trackers:
        for _ in range(5):
            tracker.record("m", latency_ms=5.0)
    assert (store.limits("m").max_concurrent, store.limits("m").full_slots) == (10, None)


def test_another_tracker_goes_on_with_a_slow_start(store: Store, clock: ManualClock) -> None:
    first, second = (solver.LoadTracker(store, clock) for _ in range(2))
    first.set_capacity("m", solver.Capacity(max_concurrent=8))
    for _ in range(5):
        first.record("m", latency_ms=5.0, success=False)
    clock.advance(3.0)  # and the first one ends here
    slots = []
    for _ in range(5):
        lease = second.acquire("m", ttl_s=60.0)
        while second.acquire("m", ttl_s=60.0) is not None:
            pass
        assert lease is not None
        second.record("m", latency_ms=5.0)
        slots.append(store.limits("m").max_concurrent)
        second.end_leases("m")
        clock.advance(1.0)
    assert slots == [2, 4, 8, 8, 8]


def test_a_breaker_that_opens_in_an_outage_comes_back_to_all_slots(
    tmp_path: Path, clock: ManualClock
) -> None:
    with running(tmp_path) as server:
        store = RedisStore(server.url, replicas=4, namespace="outage", clock=clock, timeout_s=1.0)
        tracker = solver.LoadTracker(store, clock)
        tracker.set_capacity("m", solver.Capacity(max_concurrent=8), tokens_per_minute=1000)
        before = store.limits("m")
        server.stop()
        for _ in range(5):
            tracker.record("m", latency_ms=5.0, success=False)
        server.start()
        for _ in range(8):
            clock.advance(30.0)
            tracker.record("m", latency_ms=5.0)
            tracker.snapshot()
        assert store.limits("m") == before
        store.close()


def test_a_success_from_before_does_not_lift_the_breaker_of_another_tracker(
    store: Store, clock: ManualClock
) -> None:
    first, second = (solver.LoadTracker(store, clock) for _ in range(2))
    first.set_capacity("m", solver.Capacity(max_concurrent=8))
    for _ in range(5):
        first.record("m", latency_ms=5.0, success=False)
    assert second.acquire("m") is None
    second.record("m", latency_ms=5000.0)
    assert [stop.owner for stop in second.stops("m")] == [StopOwner.BREAKER]
    first.forget("m")
    second.record("m", latency_ms=5.0)
    second.record("m", latency_ms=5.0, success=False)


def test_a_finalizer_that_records_waits_for_no_other_thread() -> None:
    tracker, _ = tracker_of("m")
    store = tracker.store
    assert isinstance(store, MemoryStore)
    held, go = threading.Event(), threading.Event()

    class Waits:
        """A list of models during whose reading another thread holds the store, as one that is interrupted does."""

        def __iter__(self) -> Iterator[str]:
            held.set()
            go.wait(10)
            return iter(("m",))

    tracker.record("m", latency_ms=5.0, success=False)
    asking = threading.Thread(target=lambda: tracker.last_resort(Waits()))  # type: ignore[arg-type]
    asking.start()
    held.wait(10)
    with store._lock:
        for _ in range(5):
            tracker.record(
                "m", latency_ms=5.0, success=False
            )  # in a finalizer: it must not wait for the other
    go.set()
    asking.join(10)
    assert not asking.is_alive()
    assert [stop.owner for stop in tracker.stops("m")] == [StopOwner.BREAKER]
