"""The queue: priorities with age, tenants with shares, small before big, places and draining."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import solver
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.lease import Demand, Lease, LeaseState, Refusal, RefusalReason
from solver.load.store.queue_rules import QueueRules

if TYPE_CHECKING:
    from tests.redis_server import RedisServer


def tracker_of(
    slots: int, places: int, rules: QueueRules | None = None
) -> tuple[solver.LoadTracker, ManualClock]:
    clock = ManualClock(0.0)
    tracker = solver.LoadTracker(clock=clock)
    tracker.set_capacity("m", solver.Capacity(max_concurrent=slots, max_queue=places), rules=rules)
    return tracker, clock


def waiting(
    tracker: solver.LoadTracker,
    *,
    slots: int = 1,
    tokens: int = 0,
    priority: float = 1.0,
    tenant: str | None = None,
) -> Lease:
    lease = tracker.try_acquire(
        "m", Demand(slots=slots, tokens=tokens), 1e6, queue=True, priority=priority, tenant=tenant
    )
    assert isinstance(lease, Lease)
    return lease


def test_an_urgent_request_passes_a_batch_and_age_catches_up() -> None:
    tracker, clock = tracker_of(1, 10, QueueRules(aging_s=10.0))
    running, batch = waiting(tracker), waiting(tracker)
    clock.advance(5.0)
    urgent = waiting(tracker, priority=2.0)
    running.release()
    assert (urgent.state(), batch.state()) == (LeaseState.RUNNING, LeaseState.QUEUED)
    clock.advance(6.0)
    late = waiting(tracker, priority=2.0)  # 11 s younger: its priority is worth 10
    urgent.release()
    assert (batch.state(), late.state()) == (LeaseState.RUNNING, LeaseState.QUEUED)


def test_small_ones_pass_a_big_one_for_a_while() -> None:
    tracker, _ = tracker_of(4, 10)
    rest = waiting(tracker, slots=3)
    big = waiting(tracker, slots=4)
    passed = 0
    while isinstance(small := tracker.try_acquire("m"), Lease):
        passed += 1
        small.release()
    assert passed == 16  # four slots for each of its own
    assert small.reason is RefusalReason.CONCURRENCY
    rest.release()
    assert big.state() is LeaseState.RUNNING


def test_a_big_one_starts_under_endless_small_ones() -> None:
    tracker, _ = tracker_of(4, 50)
    small = [waiting(tracker) for _ in range(4)]
    big = waiting(tracker, slots=4)
    for _ in range(40):
        small.append(waiting(tracker))
        next(lease for lease in small if lease.state() is LeaseState.RUNNING).release()
        if big.state() is LeaseState.RUNNING:
            return
    pytest.fail("the big request never started")


@pytest.mark.parametrize("seed", range(5))
def test_two_tenants_that_both_wait_are_served_by_weight_within_the_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = {"a": 1.0, "b": float(rng.integers(1, 6))}
    tracker, _ = tracker_of(3, 1000, QueueRules(weights=weight))
    largest = 100
    queued = [
        waiting(tracker, tokens=int(rng.integers(1, largest + 1)), tenant=tenant)
        for tenant in rng.permutation(["a", "b"] * 300).tolist()
    ]
    served = dict.fromkeys(weight, 0.0)
    running = [lease for lease in queued if lease.state() is LeaseState.RUNNING]
    started = set(map(id, running))
    bound = largest / weight["a"] + largest / weight["b"]
    bound += (
        2 * 3 * largest / sum(weight.values())
    )  # two requests for each slot of the share of who came second
    for _ in range(200):
        running.pop(int(rng.integers(len(running)))).release()
        for lease in queued:
            if id(lease) not in started and lease.state() is LeaseState.RUNNING:
                started.add(id(lease))
                running.append(lease)
                assert lease.tenant is not None
                served[lease.tenant] += lease.demand.tokens
        assert abs(served["a"] / weight["a"] - served["b"] / weight["b"]) <= bound


def test_newcomers_do_not_pass_their_lead_on_to_those_after_them() -> None:
    """Twenty tenants that came once left the one after them a lead over one that waits all the time."""
    tracker, _ = tracker_of(4, 400)
    steady = [waiting(tracker, tenant="steady") for _ in range(200)]
    for lease in steady[:150]:
        lease.release()
    newcomers = [waiting(tracker, tenant=f"new{k}") for k in range(20)]
    late = [waiting(tracker, tenant="late") for _ in range(60)]
    running = [lease for lease in steady[150:] if lease.state() is LeaseState.RUNNING]
    waits = [lease for lease in (*steady[150:], *newcomers, *late) if lease.state() is LeaseState.QUEUED]
    served = {"steady": 0, "late": 0}
    for _ in range(50):
        running.pop(0).release()
        for lease in [lease for lease in waits if lease.state() is LeaseState.RUNNING]:
            waits.remove(lease)
            running.append(lease)
            if lease.tenant in served:
                served[lease.tenant] += 1
    lead = 2 * 4 / 2  # two requests for each slot of its share
    assert served["late"] - served["steady"] <= lead + 2


def test_a_noisy_tenant_leaves_places_and_the_next_turn_to_others() -> None:
    tracker = solver.LoadTracker()
    balancer = solver.LoadBalancer(tracker, queue=True)
    capacity = solver.Capacity(max_concurrent=10, max_queue=50)
    models = (solver.Model(id="m", capacity=capacity, capabilities={"coding": 0.8}),)
    noisy = [
        balancer.assign_and_reserve([solver.Agent(id=f"A{i}", task_type="coding", tenant="A")], models)[0]
        for i in range(100)
    ]
    assert sum(each.lease is not None for each in noisy) == 50  # 10 run, 40 of 50 places
    [quiet] = balancer.assign_and_reserve([solver.Agent(id="B0", task_type="coding", tenant="B")], models)
    assert quiet.lease is not None
    place = quiet.lease.place()
    assert place is not None
    assert place.position == 1
    assert noisy[0].lease is not None
    noisy[0].lease.release()
    assert quiet.lease.state() is LeaseState.RUNNING


def test_nothing_is_saved_up_while_away() -> None:
    tracker, _ = tracker_of(1, 100)
    running = waiting(tracker)
    queued = [waiting(tracker, tenant="a") for _ in range(10)]
    for lease in queued[:5]:
        running.release()
        running = lease
        assert lease.state() is LeaseState.RUNNING
    late = {waiting(tracker, tenant="b").lease_id for _ in range(5)}
    names = tracker.store.queued_leases("m")
    assert [name in late for name in names[:4]] == [True, False, True, False]


def test_position_and_expected_start() -> None:
    tracker, clock = tracker_of(2, 10)
    running = [waiting(tracker) for _ in range(2)]
    first, second = waiting(tracker), waiting(tracker, slots=2)
    place = second.place()
    assert place is not None
    assert (place.position, place.expected_start_s) == (2, None)
    assert running[0].place() is None
    clock.advance(8.0)
    running[0].release()
    assert first.state() is LeaseState.RUNNING
    place = second.place()
    assert place is not None
    assert (place.position, place.expected_start_s) == (1, 8.0)
    second.release()  # leaves the queue
    assert tracker.store.queued_leases("m") == []


def test_draining_lets_what_waits_run_and_tells() -> None:
    tracker, _ = tracker_of(1, 5)
    running, queued = waiting(tracker), waiting(tracker)
    told: list[str] = []
    tracker.drain("m", reason="upgrade", on_drained=told.append)
    assert isinstance(tracker.try_acquire("m"), Refusal)
    running.release()
    assert queued.state() is LeaseState.RUNNING
    assert (told, tracker.is_drained("m")) == ([], False)
    queued.release()
    assert (told, tracker.is_drained("m")) == (["m"], True)
    tracker.resume("m", "drain")
    assert not tracker.is_drained("m")


@pytest.mark.parametrize("seed", range(20))
def test_counts_hold_over_random_histories(seed: int) -> None:
    rng = np.random.default_rng(seed)
    room, places = int(rng.integers(1, 6)), int(rng.integers(0, 12))
    tracker, clock = tracker_of(room, places, QueueRules(passes=float(rng.integers(0, 3))))
    live: list[Lease] = []
    for _ in range(300):
        if rng.random() < 0.55:
            answer = tracker.try_acquire(
                "m",
                Demand(slots=int(rng.integers(1, room + 1))),
                float(rng.integers(1, 30)),
                queue=bool(rng.random() < 0.8),
                fill_to=float(rng.choice([0.5, 1.0])),
                priority=float(rng.integers(1, 4)),
                tenant=[None, "a", "b"][int(rng.integers(3))],
            )
            live += [answer] if isinstance(answer, Lease) else []
        elif live and rng.random() < 0.7:
            live.pop(int(rng.integers(len(live)))).release()
        else:
            clock.advance(float(rng.integers(0, 5)))
        states = [lease.state() for lease in live]
        slots = sum(
            each.demand.slots for each, state in zip(live, states, strict=True) if state is LeaseState.RUNNING
        )
        row = tracker.store.row("m")
        assert row.active == slots <= room
        assert row.queued == states.count(LeaseState.QUEUED) <= places
        assert len(tracker.store.queued_leases("m")) == row.queued
    clock.advance(100.0)
    assert (tracker.store.row("m").active, tracker.store.row("m").queued) == (0, 0)


def test_a_shared_store_orders_its_queue_alike(redis_server: RedisServer) -> None:
    from solver.load.store.redis import RedisStore

    store = RedisStore(redis_server.url, replicas=1, namespace="queue-rules")
    tracker = solver.LoadTracker(store)
    one = solver.Capacity(max_concurrent=1, max_queue=6)
    tracker.set_capacity("m", one, rules=QueueRules(weights={"b": 2.0}))
    running = tracker.acquire("m", tenant="a")
    batch = [tracker.acquire("m", queue=True, tenant="a") for _ in range(2)]
    urgent = tracker.acquire("m", queue=True, tenant="a", priority=5.0)
    other = tracker.acquire("m", queue=True, tenant="b")
    assert None not in (running, *batch, urgent, other)
    places = {lease: lease.place() for lease in (*batch, urgent, other) if lease is not None}
    assert [places[lease].position for lease in (other, urgent, *batch)] == [1, 2, 3, 4]  # type: ignore[union-attr,index]
    running.release()  # type: ignore[union-attr]
    assert other.state() is LeaseState.RUNNING  # type: ignore[union-attr]
    store.close()


def test_bad_values_are_named() -> None:
    tracker, _ = tracker_of(1, 1)
    with pytest.raises(SpecError, match="priority: expected a finite number"):
        tracker.try_acquire("m", priority=float("nan"))
    with pytest.raises(SpecError, match="tenant: expected text"):
        tracker.try_acquire("m", tenant="")
    with pytest.raises(SpecError, match=r"rules\.weights\['a'\]: expected a finite number > 0"):
        QueueRules(weights={"a": 0.0})
    with pytest.raises(SpecError, match=r"rules\.aging_s"):
        QueueRules(aging_s=0.0)


def test_what_is_drained_is_told_whatever_ended_it_and_only_once() -> None:
    tracker = solver.LoadTracker(clock=ManualClock())
    told: list[str] = []

    def busy() -> Lease:
        for name in ("m", "n"):
            tracker.set_capacity(name, solver.Capacity(max_concurrent=1))
            tracker.resume(name, "drain")
        lease = tracker.try_acquire("m")
        assert isinstance(lease, Lease)
        tracker.drain("m", on_drained=told.append)
        tracker.drain("m", on_drained=told.append)  # two scripts wait for it
        assert told == []
        return lease

    moved = busy()
    tracker.move(moved, "n")
    assert told == ["m", "m"]
    moved.release()
    told.clear()
    busy()
    tracker.end_leases("m")
    assert told == ["m", "m"]
    told.clear()
    lease = busy()
    tracker.forget("m")
    assert told == ["m", "m"]
    lease.release()
    told.clear()
    other = tracker.try_acquire("n")
    assert isinstance(other, Lease)
    busy()
    tracker.store.forget("m")  # by another process
    other.release()
    assert told == ["m", "m"]


def test_a_drain_that_was_lifted_is_not_told() -> None:
    tracker, _ = tracker_of(1, 5)
    running = waiting(tracker)
    told: list[str] = []
    tracker.drain("m", on_drained=told.append)
    tracker.resume("m", "drain")
    tracker.stop("m", reason="by hand")
    running.release()
    assert (told, tracker.is_drained("m")) == ([], True)
