"""Limits that several models share: one lease, nested, in either store, through the balancer as well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import solver
from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.lease import Ask, Demand, Lease, LeaseState, Refusal, RefusalReason
from solver.load.store.base import Limits
from solver.load.store.memory import MemoryStore
from solver.load.store.usage_limits import UsageLimit

if TYPE_CHECKING:
    from solver.load.store.base import Store

WIDE = solver.Capacity(max_concurrent=100, max_queue=10)
TENTH = Demand(tokens=100)


@pytest.fixture
def tracker(store: Store, clock: ManualClock) -> solver.LoadTracker:
    return solver.LoadTracker(store=store, clock=clock)


def test_two_deployments_draw_on_one_quota(tracker: solver.LoadTracker, clock: ManualClock) -> None:
    tracker.set_pool("provider", tokens_per_minute=1000)
    for model in ("chat", "batch"):
        tracker.set_capacity(model, WIDE, pools=["provider"])
    leases = [tracker.try_acquire(model, TENTH) for model in ("chat", "batch") for _ in range(30)]
    granted = [lease for lease in leases if isinstance(lease, Lease)]
    assert len(granted) == 10
    refused = leases[-1]
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.pool) == (RefusalReason.TOKENS, "provider")
    assert refused.retry_after_s is not None
    granted[0].release(tokens=0)  # settled in the pool as well
    assert tracker.acquire("batch", TENTH)
    assert [round(meter.used) for meter in tracker.pool("provider").meters] == [1000]
    clock.advance(62.0)
    assert tracker.acquire("chat", Demand(tokens=1000))


def test_pools_are_nested(tracker: solver.LoadTracker) -> None:
    tracker.set_pool("account", max_concurrent=3)
    tracker.set_pool("region", max_concurrent=2, within=["account"])
    tracker.set_capacity("a", WIDE, pools=["region"])
    tracker.set_capacity("b", WIDE, pools=["account"])
    held = [tracker.acquire("a") for _ in range(3)]
    assert [lease is not None for lease in held] == [True, True, False]
    assert tracker.acquire("b")
    refused = tracker.try_acquire("b")
    assert isinstance(refused, Refusal)
    assert (refused.reason, refused.pool) == (RefusalReason.CONCURRENCY, "account")
    assert held[0] is not None
    held[0].release()
    assert (tracker.pool("region").active, tracker.pool("account").active) == (1, 2)
    assert tracker.snapshot().free_slots.tolist() == [1, 1]
    assert not tracker.is_full("a")


def test_who_waits_for_a_pool_runs_when_another_model_gives_it_back(tracker: solver.LoadTracker) -> None:
    tracker.set_pool("gpu", max_concurrent=1)
    for model in ("a", "b", "c"):
        tracker.set_capacity(model, WIDE, pools=["gpu"])
    running = tracker.acquire("a")
    second = tracker.acquire("b", queue=True)
    third = tracker.acquire("c", queue=True)
    assert running is not None
    assert second is not None
    assert third is not None
    running.release()
    assert (second.state(), third.state()) == (LeaseState.RUNNING, LeaseState.QUEUED)
    tracker.set_pool("gpu", max_concurrent=2)
    assert third.state() is LeaseState.RUNNING


def test_a_move_within_a_full_pool_takes_its_own_place(tracker: solver.LoadTracker) -> None:
    tracker.set_pool("gpu", max_concurrent=1, tokens_per_minute=100)
    for model in ("a", "b"):
        tracker.set_capacity(model, WIDE, pools=["gpu"])
    lease = tracker.acquire("a", TENTH)
    assert lease is not None
    assert tracker.move(lease, "b") is lease
    assert (lease.model, lease.state()) == ("b", LeaseState.RUNNING)
    assert tracker.pool("gpu").active == 1
    assert not tracker.try_acquire("a", Demand(tokens=1))
    lease.release(tokens=0)
    assert tracker.acquire("a", TENTH)


def test_what_expires_comes_back_to_the_pool(tracker: solver.LoadTracker, clock: ManualClock) -> None:
    tracker.set_pool("gpu", max_concurrent=2)
    tracker.set_capacity("a", WIDE, pools=["gpu"])
    assert tracker.acquire("a", ttl_s=5)
    assert tracker.acquire("a", ttl_s=50)
    clock.advance(6.0)
    assert tracker.acquire("a")
    assert tracker.end_leases("a") == 2
    assert tracker.pool("gpu").active == 0


def test_a_whole_plan_over_one_pool_or_nothing(tracker: solver.LoadTracker) -> None:
    tracker.set_pool("gpu", max_concurrent=3, requests_per_minute=3)
    for model in ("a", "b"):
        tracker.set_capacity(model, WIDE, pools=["gpu"])
    asks = [Ask(model=model, demand=Demand(slots=2)) for model in ("a", "b")]
    answers = tracker.acquire_many(asks, whole_plan=True)
    assert [getattr(answer, "reason", None) for answer in answers] == [
        RefusalReason.PLAN,
        RefusalReason.CONCURRENCY,
    ]
    assert tracker.pool("gpu").active == 0
    assert all(tracker.acquire("a") for _ in range(3))


def test_the_balancer_sees_an_exhausted_pool(tracker: solver.LoadTracker) -> None:
    tracker.set_pool("provider", tokens_per_minute=300)
    models = tuple(
        solver.Model(id=name, capacity=WIDE, capabilities={"coding": score})
        for name, score in (("a", 0.9), ("b", 0.8), ("own", 0.1))
    )
    for model in models:
        tracker.set_capacity(model.id, WIDE, pools=[] if model.id == "own" else ["provider"])
    balancer = solver.LoadBalancer(tracker)
    agents = [
        solver.Agent(id=str(k), task_type="coding", input_tokens=90, output_tokens=10) for k in range(6)
    ]
    served = [balancer.assign_and_reserve([agent], models)[0].model_id for agent in agents]
    assert served[3:] == ["own"] * 3
    assert "own" not in served[:3]
    together = balancer.assign_and_reserve(agents, models)
    assert {reservation.model_id for reservation in together} == {"own"}


def test_bad_pools_are_named(tracker: solver.LoadTracker) -> None:
    with pytest.raises(SpecError, match="pools: expected pools that were set before"):
        tracker.set_capacity("a", WIDE, pools=["nowhere"])
    tracker.set_pool("inner")
    tracker.set_pool("outer", within=["inner"])
    with pytest.raises(SpecError, match="within: expected pools that do not draw on 'inner' themselves"):
        tracker.set_pool("inner", within=["outer"])
    with pytest.raises(SpecError, match="tokens_per_minute: expected a whole number"):
        tracker.set_pool("p", tokens_per_minute=-1)
    with pytest.raises(SpecError, match="pool: expected one that was set before"):
        tracker.pool("nowhere")
    tracker.set_capacity("a", WIDE, pools=["outer"])
    for pool in ("outer", "inner"):
        with pytest.raises(SpecError, match="expected one that nothing draws on"):
            tracker.forget_pool(pool)
    tracker.set_capacity("a", WIDE)
    tracker.forget_pool("outer")
    tracker.forget_pool("inner")
    tracker.forget_pool("inner")
    assert tracker.acquire("a")


def test_threads_never_take_more_than_the_pool_has() -> None:
    tracker = solver.LoadTracker()
    tracker.set_pool("gpu", max_concurrent=3)
    models = ("a", "b", "c", "d")
    for model in models:
        tracker.set_capacity(model, solver.Capacity(max_concurrent=2), pools=["gpu"])
    highest = []

    def work(seed: int) -> None:
        for turn in range(300):
            lease = tracker.acquire(models[(seed + turn) % 4])
            if lease is not None:
                highest.append(tracker.pool("gpu").active)
                lease.release()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert max(highest) <= 3
    assert tracker.pool("gpu").active == 0


def test_an_old_measurement_is_compared_with_the_leases_of_its_time(
    tracker: solver.LoadTracker, clock: ManualClock
) -> None:
    tracker.set_capacity("m", solver.Capacity(max_concurrent=10))
    leases = [tracker.acquire("m", ttl_s=100) for _ in range(6)]
    tracker.observe_load("m", active_requests=6, age_s=0.5)
    clock.advance(2.0)
    for lease in leases[:3]:
        assert lease is not None
        lease.release()
    clock.advance(1.0)
    tracker.observe_load("m", active_requests=6, age_s=2.0)  # seen before the three ended
    assert tracker.snapshot().active.tolist() == [3]
    tracker.observe_load("m", active_requests=8, age_s=2.0)  # two of somebody else's
    assert tracker.snapshot().active.tolist() == [5]
    tracker.observe_load("m", active_requests=6, ttl_s=5.0, age_s=10.0)  # too old to count
    assert tracker.snapshot().active.tolist() == [5]
    with pytest.raises(SpecError, match="age_s: expected a finite number >= 0"):
        tracker.observe_load("m", active_requests=1, age_s=-1.0)


def test_a_refused_move_leaves_no_usage_in_a_window_that_has_passed() -> None:
    """What the lease was charged had left the pool's window, was taken back all the same, and put back for ever."""
    clock = ManualClock(0.0)
    store = MemoryStore(clock=clock)
    further = (UsageLimit(resource="tokens", amount=100, period=5.0),)
    store.configure_pool("p", Limits(max_concurrent=2, further=further))
    store.configure("m", Limits(max_concurrent=2, pools=("p",)))
    store.acquire(Ask(model="m", demand=Demand(tokens=60), lease_id="a"))
    clock.advance(6.0)
    answer = store.move("a", Ask(model="m", demand=Demand(slots=2), lease_id="b"))
    assert isinstance(answer, Refusal)
    assert store.pool_row("p").meters[0].used == 0
    assert store.acquire(Ask(model="m", demand=Demand(tokens=60), lease_id="c")) is LeaseState.RUNNING
