"""Stops with owners: who closes a model, who reopens it, and what waits meanwhile."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import pytest

from solver.errors import SpecError
from solver.load.control.capacity import CapacityManager
from solver.load.control.scaling_rules import ScalingAction, ScalingRule
from solver.load.lease import Ask, Lease, LeaseState, Refusal, RefusalReason
from solver.load.stops import StopOwner
from solver.load.store.base import Limits
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity

if TYPE_CHECKING:
    from solver.clock import ManualClock
    from solver.load.store.base import Store

REJECT = ScalingAction.REJECT_NEW


@pytest.fixture
def tracker(store: Store, clock: ManualClock) -> LoadTracker:
    tracker = LoadTracker(store=store, clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=10, max_queue=5))
    return tracker


def is_open(tracker: LoadTracker) -> bool:
    answer = tracker.try_acquire("a")
    if isinstance(answer, Lease):
        answer.release()
    return isinstance(answer, Lease)


def test_a_model_is_open_when_no_stop_stands(tracker: LoadTracker) -> None:
    tracker.stop("a", reason="maintenance")
    tracker.stop("a", StopOwner.RULE, name="busy")
    tracker.stop("a", "breaker")
    owners = [stop.owner for stop in tracker.stops("a")]
    assert owners == [StopOwner.OPERATOR, StopOwner.RULE, StopOwner.BREAKER]
    assert tracker.resume("a", "breaker") == 1
    assert tracker.resume("a", StopOwner.RULE, name="another") == 0
    assert tracker.resume("a", StopOwner.RULE) == 1
    assert not is_open(tracker)
    tracker.set_accepting("a", True)
    assert is_open(tracker)


def test_a_refusal_says_who_why_and_until_when(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.stop("a", "cooldown", reason="status 429", for_s=30)
    clock.advance(10)
    refusal = tracker.try_acquire("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.NOT_ACCEPTING
    assert refusal.retry_after_s == pytest.approx(20)
    [stop] = refusal.stops
    assert (stop.owner, stop.reason) == (StopOwner.COOLDOWN, "status 429")
    assert stop.until_s - stop.since_s == pytest.approx(30)
    assert tracker.snapshot().stops == {"a": (stop,)}
    tracker.stop("a", "operator")
    again = tracker.try_acquire("a")
    assert isinstance(again, Refusal)
    assert again.retry_after_s is None  # nobody knows


def test_a_stop_ends_by_itself_and_the_longest_deadline_wins(
    tracker: LoadTracker, clock: ManualClock
) -> None:
    tracker.stop("a", "cooldown", for_s=30)
    tracker.stop("a", "cooldown", for_s=5, extend=True)
    assert tracker.store.next_event_s() == pytest.approx(clock.now() + 30)
    clock.advance(29)
    assert not is_open(tracker)
    clock.advance(1)
    assert is_open(tracker)
    assert tracker.snapshot().stops == {}
    tracker.stop("a", "cooldown", for_s=30)
    tracker.stop("a", "cooldown", for_s=5)  # replaced
    clock.advance(5)
    assert is_open(tracker)


@pytest.mark.parametrize(
    ("owner", "runs"), [("operator", True), ("drain", True), ("cooldown", False), ("breaker", False)]
)
def test_what_waits_goes_on_unless_the_model_could_not_serve_it(
    tracker: LoadTracker, owner: str, runs: bool
) -> None:
    first = [tracker.acquire("a") for _ in range(10)]
    waiting = tracker.acquire("a", queue=True)
    assert waiting is not None
    tracker.stop("a", owner)
    assert first[0] is not None
    first[0].release()
    assert waiting.state() is (LeaseState.RUNNING if runs else LeaseState.QUEUED)
    tracker.resume("a", owner)
    assert waiting.state() is LeaseState.RUNNING


def test_new_limits_do_not_reopen(tracker: LoadTracker) -> None:
    tracker.set_accepting("a", False)
    tracker.set_capacity("a", Capacity(max_concurrent=20))
    assert not is_open(tracker)


def test_bad_stops_are_refused(tracker: LoadTracker) -> None:
    with pytest.raises(SpecError, match="owner: expected one of operator, rule"):
        tracker.stop("a", "somebody")
    with pytest.raises(SpecError, match="for_s: expected a finite number > 0, got 0"):
        tracker.stop("a", for_s=0)
    with pytest.raises(SpecError, match="reason: expected text, got 5"):
        tracker.stop("a", reason=5)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(SpecError, match="capacity is set, got 'nobody'"):
        tracker.stop("nobody")


# -- rules


def rule(threshold: float, clear: float | None = None) -> ScalingRule:
    return ScalingRule(
        threshold_utilization=threshold, threshold_duration_ms=0, action=REJECT, clear_utilization=clear
    )


def test_a_rule_that_ends_leaves_what_an_operator_closed(tracker: LoadTracker, clock: ManualClock) -> None:
    manager = CapacityManager([rule(0.9)], clock=clock)
    tracker.update_load("a", 10)
    manager.enforce(tracker)
    tracker.set_accepting("a", False)
    tracker.update_load("a", -10)
    clock.advance(1)
    assert [event.active for event in manager.enforce(tracker)] == [False]
    assert [stop.owner for stop in tracker.stops("a")] == [StopOwner.OPERATOR]


def test_of_two_rules_the_last_to_end_reopens(tracker: LoadTracker, clock: ManualClock) -> None:
    manager = CapacityManager([rule(0.8, 0.5), rule(1.0, 0.95)], clock=clock)
    tracker.update_load("a", 10)
    manager.enforce(tracker)
    tracker.update_load("a", -1)
    clock.advance(1)
    manager.enforce(tracker)
    assert len(tracker.stops("a")) == 1
    tracker.update_load("a", -8)
    clock.advance(1)
    manager.enforce(tracker)
    assert is_open(tracker)


def test_a_check_in_between_does_not_hide_the_end(tracker: LoadTracker, clock: ManualClock) -> None:
    manager = CapacityManager([rule(0.9)], clock=clock)
    tracker.update_load("a", 10)
    manager.enforce(tracker)
    tracker.update_load("a", -10)
    assert manager.check_capacity("a", tracker.current_load("a")) is None
    clock.advance(1)
    manager.enforce(tracker)
    assert is_open(tracker)


def test_a_new_manager_reopens_what_its_predecessor_closed(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.update_load("a", 10)
    CapacityManager([rule(0.9)], clock=clock).enforce(tracker)
    successor = CapacityManager([rule(0.9)], clock=clock)
    successor.enforce(tracker)
    assert not is_open(tracker)  # it is still too busy
    tracker.update_load("a", -10)
    clock.advance(1)
    successor.enforce(tracker)
    assert is_open(tracker)


def test_a_raising_sink_stops_neither_rules_nor_others(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.set_capacity("b", Capacity(max_concurrent=1))
    for model, active in (("a", 10), ("b", 1)):
        tracker.update_load(model, active)

    def sink(event: object) -> None:
        raise RuntimeError("the pager is broken")

    events = CapacityManager([rule(0.9)], clock=clock, sink=sink).enforce(tracker)
    assert [event.model for event in events] == ["a", "b"]


# -- ceilings, reported load, promotions, forgetting


def test_a_request_fills_its_share_and_no_more(store: Store) -> None:
    store.configure("a", Limits(max_concurrent=5, max_queue=5))
    asks = [Ask(model="a", lease_id=f"low{k}", fill_to=0.5) for k in range(3)]
    answers = [store.acquire(ask) for ask in asks]
    assert answers[:2] == [LeaseState.RUNNING] * 2  # half of five, rounded down
    assert isinstance(answers[2], Refusal)
    assert store.acquire(Ask(model="a", lease_id="low-waits", fill_to=0.5, queue=True)) is LeaseState.QUEUED
    high = [store.acquire(Ask(model="a", lease_id=f"high{k}")) for k in range(4)]
    assert high[:3] == [LeaseState.RUNNING] * 3  # past the waiting one, which could not use these slots
    assert isinstance(high[3], Refusal)
    for lease_id in ("high0", "high1", "high2"):
        store.release(lease_id, tokens=None, cost_nano_usd=None)
    assert store.lease_state("low-waits") is LeaseState.QUEUED
    store.release("low0", tokens=None, cost_nano_usd=None)
    assert store.lease_state("low-waits") is LeaseState.RUNNING


def test_reported_load_is_forgotten_when_its_monitor_dies(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.observe_load("a", active_requests=10)
    assert not is_open(tracker)
    tracker.update_load("a", 1)
    clock.advance(60)
    assert tracker.snapshot().active.tolist() == [1]  # what was added by hand stays
    tracker.observe_load("a", active_requests=4, ttl_s=math.inf)
    clock.advance(119)
    assert tracker.snapshot().active.tolist() == [4]


def test_promotions_are_reported(tracker: LoadTracker, clock: ManualClock) -> None:
    heard: list[str] = []
    told = threading.Event()

    def listener(lease_id: str) -> None:
        heard.append(lease_id)
        told.set()

    tracker.on_promotion(lambda _: 1 / 0)  # one that raises does not keep the others from hearing
    tracker.on_promotion(listener)
    running = [tracker.acquire("a", ttl_s=20) for _ in range(10)]
    waiting = tracker.acquire("a", ttl_s=100, queue=True)
    assert waiting is not None
    assert running[0] is not None
    if tracker.store.remote:
        tracker.store._promotions.subscribed.wait(5)  # type: ignore[attr-defined]  # of the Redis store
    running[0].release()
    assert told.wait(5)
    assert heard == [waiting.lease_id]


def test_a_forgotten_model_takes_everything_with_it(tracker: LoadTracker, clock: ManualClock) -> None:
    for k in range(5):
        tracker.set_capacity(f"pod-{k}", Capacity(max_concurrent=1), requests_per_minute=3)
    leases = [tracker.acquire(f"pod-{k}", ttl_s=50) for k in range(5)]
    tracker.forget("pod-1")
    tracker.forget("pod-1")
    assert tracker.snapshot().models == ("a", "pod-0", "pod-2", "pod-3", "pod-4")
    assert tracker.snapshot().active.tolist() == [0, 1, 1, 1, 1]
    assert tracker.store.view().meter_used[0].tolist() == [0, 1, 1, 1, 1]
    for lease in leases:
        assert lease is not None
        lease.release()  # harmless
    with pytest.raises(SpecError, match="'pod-1'"):
        tracker.acquire("pod-1")
    clock.advance(100)
    assert tracker.snapshot().active.tolist() == [0] * 5
    tracker.set_capacity("pod-1", Capacity(max_concurrent=1))
    assert tracker.acquire("pod-1") is not None


def test_every_lease_of_a_dead_server_ends_at_once(tracker: LoadTracker) -> None:
    leases = [tracker.acquire("a", ttl_s=100) for _ in range(10)] + [tracker.acquire("a", queue=True)]
    tracker.update_load("a", 1)
    assert tracker.end_leases("a") == 11
    assert tracker.snapshot().active.tolist() == [1]
    for lease in leases:
        assert lease is not None
        lease.release()
    assert tracker.snapshot().active.tolist() == [1]
