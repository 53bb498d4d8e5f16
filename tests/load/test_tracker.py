from __future__ import annotations

import asyncio
import inspect
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from solver.errors import SpecError
from solver.load.lease import Ask, Demand, Lease, LeaseState, Refusal, RefusalReason, ReleaseOutcome
from solver.load.store.memory import MemoryStore
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.clock import ManualClock
    from solver.load.request_outcome import Outcome
    from solver.load.store.base import Store


@pytest.fixture
def tracker(store: Store, clock: ManualClock) -> LoadTracker:
    return LoadTracker(store=store, clock=clock)


def small(slots: int = 2, queue: int = 0, target: float = 1.0) -> Capacity:
    return Capacity(max_concurrent=slots, max_queue=queue, target_utilization=target)


# -- the definitions


def test_overloaded_means_more_than_the_limit_and_full_means_no_room_for_one_more(
    tracker: LoadTracker,
) -> None:
    tracker.set_capacity("gpt-4o", Capacity(max_concurrent=10, max_queue=5, target_utilization=0.8))
    tracker.update_load("gpt-4o", 9)
    assert not tracker.is_full("gpt-4o")
    tracker.update_load("gpt-4o", +1)
    assert tracker.is_full("gpt-4o")
    assert not tracker.is_overloaded("gpt-4o")
    tracker.update_load("gpt-4o", +1)
    assert tracker.is_overloaded("gpt-4o")


def test_a_queue_beyond_its_limit_is_overload_too(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(10, queue=5))
    tracker.update_load("a", 0, 5)
    assert not tracker.is_overloaded("a")
    tracker.update_load("a", 0, 1)
    assert tracker.is_overloaded("a")


def test_over_target_is_strictly_above(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(10, target=0.8))
    tracker.update_load("a", 8)
    assert not tracker.is_over_target("a")
    tracker.update_load("a", 1)
    assert tracker.is_over_target("a")


def test_full_for_the_queue_is_full_slots_and_full_queue(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1, queue=1))
    tracker.acquire("a")
    assert tracker.is_full("a")
    assert not tracker.is_full("a", queue=True)
    tracker.acquire("a", queue=True)
    assert tracker.is_full("a", queue=True)


def test_a_model_that_accepts_nothing_is_full(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small())
    tracker.set_accepting("a", False)
    assert tracker.is_full("a")


def test_current_load(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.set_capacity("a", small(4, queue=3))
    tracker.acquire("a")
    tracker.update_load("a", 1, 2)
    load = tracker.current_load("a")
    assert load is not None
    assert (load.active_requests, load.queue_depth, load.utilization) == (2, 2, 0.5)
    assert load.avg_latency_ms is None
    assert load.last_updated == clock.now()


def test_load_is_unknown_for_unknown_models_and_after_sixty_seconds(
    tracker: LoadTracker, clock: ManualClock
) -> None:
    assert tracker.current_load("nobody") is None
    tracker.set_capacity("a", small())
    clock.advance(60)
    assert tracker.current_load("a") is not None
    clock.advance(0.001)
    assert tracker.current_load("a") is None
    tracker.record("a", latency_ms=5.0)
    assert tracker.current_load("a") is not None


def test_a_drained_model_counts_as_fully_used(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(0))
    load = tracker.current_load("a")
    assert load is not None
    assert load.utilization == 1.0
    assert tracker.is_full("a")
    assert not tracker.is_overloaded("a")
    assert tracker.snapshot().utilization.tolist() == [1.0]


def test_latency_is_a_moving_mean(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small())
    tracker.record("a", latency_ms=100.0)
    tracker.record("a", latency_ms=200.0)
    tracker.record("a", latency_ms=1.0, success=False)  # a model that fails at once is not a fast one
    load = tracker.current_load("a")
    assert load is not None
    assert load.avg_latency_ms == pytest.approx(120.0)


def test_listeners_hear_every_outcome(tracker: LoadTracker) -> None:
    heard: list[Outcome] = []
    tracker.listen(heard.append)
    outcome = tracker.record("a", latency_ms=1.0, output_tokens=3, task_type="coding")
    assert heard == [outcome]


# -- leases through the tracker


def test_acquire_gives_a_lease_or_none_and_try_acquire_says_why(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1))
    lease = tracker.acquire("a", ttl_s=30)
    assert isinstance(lease, Lease)
    assert tracker.acquire("a") is None
    refusal = tracker.try_acquire("a")
    assert isinstance(refusal, Refusal)
    assert not refusal
    assert refusal.reason is RefusalReason.CONCURRENCY
    assert tracker.refusals() == {("a", "concurrency"): 2}
    assert lease.renew() is LeaseState.RUNNING
    assert lease.release() is ReleaseOutcome.RELEASED
    assert lease.release() is ReleaseOutcome.UNKNOWN
    assert lease.state() is LeaseState.GONE


def test_a_lease_remembers_what_it_took(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(5), tokens_per_minute=100, budget_usd=1.0)
    lease = tracker.acquire("a", Demand(slots=3, tokens=80, cost_usd=0.5))
    assert lease is not None
    assert tracker.snapshot().free_slots.tolist() == [2]
    assert tracker.snapshot().free_meters[1:, 0].tolist() == pytest.approx([20, 0.5])
    lease.release(tokens=10, cost_usd=0.2)
    assert tracker.snapshot().free_slots.tolist() == [5]
    assert tracker.snapshot().free_meters[1:, 0].tolist() == pytest.approx([90, 0.8])


def test_a_context_manager_releases_even_on_errors(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1))
    lease = tracker.acquire("a")
    assert lease is not None
    with pytest.raises(ZeroDivisionError), lease:
        _ = 1 / 0
    assert not tracker.is_full("a")


def test_acquire_many_through_the_tracker(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1))
    first, second = tracker.acquire_many([Ask(model="a"), Ask(model="a")])
    assert isinstance(first, Lease)
    assert isinstance(second, Refusal)
    assert tracker.acquire_many([]) == []


def test_a_moved_lease_stands_for_the_new_model(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1, queue=1))
    tracker.set_capacity("b", small(1))
    first = tracker.acquire("a")
    waiting = tracker.acquire("a", queue=True)
    assert waiting is not None
    assert waiting.granted is LeaseState.QUEUED
    assert tracker.move(waiting, "b") is waiting
    assert (waiting.model, waiting.state()) == ("b", LeaseState.RUNNING)
    refusal = tracker.move(waiting, "a")
    assert isinstance(refusal, Refusal)
    assert waiting.model == "b"
    assert waiting.release() is ReleaseOutcome.RELEASED
    assert tracker.snapshot().active.tolist() == [1, 0]
    assert tracker.move(waiting, "b") is waiting  # gone already: nothing happens
    assert tracker.snapshot().active.tolist() == [1, 0]
    assert first is not None


def test_release_and_renew_by_id(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1))
    lease = tracker.acquire("a")
    assert lease is not None
    assert tracker.renew(lease.lease_id, ttl_s=5) is LeaseState.RUNNING
    with pytest.raises(SpecError, match="ttl_s: required"):
        tracker.renew(lease.lease_id)
    assert tracker.release(lease.lease_id) is ReleaseOutcome.RELEASED
    assert tracker.release("nobody") is ReleaseOutcome.UNKNOWN


# -- bad input


@pytest.mark.parametrize("ttl_s", [0, -1, math.nan, math.inf, True, "30"])
def test_a_time_to_live_is_a_positive_number(tracker: LoadTracker, ttl_s: Any) -> None:
    tracker.set_capacity("a", small())
    with pytest.raises(SpecError, match="ttl_s: expected a finite number > 0"):
        tracker.acquire("a", ttl_s=ttl_s)
    with pytest.raises(SpecError, match="ttl_s"):
        tracker.acquire_many([Ask(model="a", ttl_s=ttl_s)])


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"tokens_per_minute": 1.5}, "tokens_per_minute"),
        ({"budget_usd": math.nan}, "budget_usd"),
        ({"budget_usd": -0.1}, "budget_usd"),
        ({"budget_usd": 1.0, "budget_period_s": 0}, "budget_period_s"),
    ],
)
def test_limits_are_checked(tracker: LoadTracker, limits: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=f"{path}: expected"):
        tracker.set_capacity("a", small(), **limits)


@pytest.mark.parametrize(
    ("demand", "path"),
    [
        ({"slots": 0}, "demand.slots"),
        ({"slots": True}, "demand.slots"),
        ({"tokens": -5}, "demand.tokens"),
        ({"requests": 1.5}, "demand.requests"),
        ({"cost_usd": math.inf}, "demand.cost_usd"),
        ({"cost_usd": math.nan}, "demand.cost_usd"),
    ],
)
def test_demands_are_checked(demand: dict[str, Any], path: str) -> None:
    with pytest.raises(SpecError, match=f"{path}: expected"):
        Demand(**demand)


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    assert Demand(slots=np.int64(2), tokens=np.int32(5)).slots == 2  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("latency_ms", [math.nan, math.inf, -1.0])
def test_a_latency_that_is_no_number_is_refused_and_not_learned(
    tracker: LoadTracker, latency_ms: float
) -> None:
    tracker.set_capacity("a", small())
    with pytest.raises(SpecError, match="latency_ms: expected a finite number >= 0"):
        tracker.record("a", latency_ms=latency_ms)
    load = tracker.current_load("a")
    assert load is not None
    assert load.avg_latency_ms is None


def test_other_bad_values_name_their_path(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small())
    with pytest.raises(SpecError, match=r"max_concurrent: expected >= 0, got -1"):
        Capacity(max_concurrent=-1)
    with pytest.raises(SpecError, match="target_utilization: expected > 0"):
        Capacity(max_concurrent=1, target_utilization=0)
    with pytest.raises(SpecError, match="model: expected one whose capacity is set, got 'nobody'"):
        tracker.acquire("nobody")
    with pytest.raises(SpecError, match="model: expected text"):
        tracker.set_capacity("", small())
    with pytest.raises(SpecError, match="delta_active: expected a whole number"):
        tracker.update_load("a", 0.5)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(SpecError, match="active_requests: expected a whole number >= 0"):
        tracker.observe_load("a", active_requests=-1)
    with pytest.raises(SpecError, match="tokens: expected"):
        tracker.release("x", tokens=-1)
    with pytest.raises(SpecError, match="stale_after_s"):
        LoadTracker(stale_after_s=0)


# -- snapshots


def test_a_snapshot_holds_arrays_for_the_engines(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(4, queue=2, target=0.5), requests_per_minute=10, budget_usd=1.0)
    tracker.set_capacity("b", small(2))
    tracker.set_capacity("c", small(3))
    tracker.set_accepting("c", False)
    tracker.acquire("a", Demand(cost_usd=0.25))
    snapshot = tracker.snapshot()
    assert snapshot.models == ("a", "b", "c")
    assert snapshot.utilization.tolist() == [0.25, 0.0, 0.0]
    assert snapshot.free_slots.tolist() == [3, 2, 0]
    assert snapshot.free_queue.tolist() == [2, 0, 0]
    assert snapshot.target.tolist() == [0.5, 1.0, 1.0]
    assert snapshot.free_meters[0].tolist() == [9, math.inf, math.inf]
    assert snapshot.free_meters[2].tolist() == [0.75, math.inf, math.inf]
    assert snapshot.room(Demand()).tolist() == [3, 2, 0]
    assert snapshot.room(Demand(cost_usd=0.3)).tolist() == [2, 2, 0]
    assert snapshot.room(Demand(slots=2), queue=True).tolist() == [3, 1, 0]
    tracker.acquire("a")
    assert snapshot.active.tolist() == [1, 0, 0]
    assert tracker.snapshot().version > snapshot.version


def test_targets_follow_new_capacities(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1, target=0.5))
    assert tracker.snapshot().target.tolist() == [0.5]
    tracker.set_capacity("a", small(1, target=0.75))
    assert tracker.snapshot().target.tolist() == [0.75]


# -- asyncio


def test_a_thousand_cancelled_calls_leak_nothing_after_their_time_to_live(
    tracker: LoadTracker, clock: ManualClock
) -> None:
    tracker.set_capacity("a", small(1000))

    async def client(started: asyncio.Event) -> None:
        lease = await tracker.acquire_async("a", ttl_s=10)
        assert lease is not None
        started.set()
        await asyncio.Event().wait()  # the answer never comes, and nothing releases the lease

    async def main() -> None:
        tasks, events = [], []
        for _ in range(1000):
            events.append(asyncio.Event())
            tasks.append(asyncio.create_task(client(events[-1])))
        for event in events:
            await event.wait()
        assert tracker.snapshot().active.tolist() == [1000]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    clock.advance(10)
    assert tracker.snapshot().active.tolist() == [0]


def test_a_thousand_calls_cancelled_in_their_context_leak_nothing_at_all(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1000))

    async def client() -> None:
        lease = await tracker.acquire_async("a")
        assert lease is not None
        async with lease:
            await asyncio.Event().wait()

    async def main() -> None:
        tasks = [asyncio.create_task(client()) for _ in range(1000)]
        while tracker.snapshot().active.sum() < 1000:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert tracker.snapshot().active.tolist() == [0]


def test_cancelling_while_the_store_answers_gives_the_grant_back() -> None:
    """A remote store's answer that nobody awaits any more is released."""
    answering, may_answer = threading.Event(), threading.Event()

    class SlowStore(MemoryStore):
        remote = True

        def acquire(self, ask: Ask) -> LeaseState | Refusal:
            answering.set()
            assert may_answer.wait(10)
            return super().acquire(ask)

    tracker = LoadTracker(store=SlowStore())
    tracker.set_capacity("a", small(1))

    async def main() -> None:
        task = asyncio.create_task(tracker.acquire_async("a"))
        await asyncio.to_thread(answering.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_answer.set()
        while tracker.store.view().version < 3:  # configured, granted, released
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert tracker.snapshot().active.tolist() == [0]


def test_the_async_calls_work_on_every_store(tracker: LoadTracker) -> None:
    tracker.set_capacity("a", small(1))

    async def main() -> None:
        lease = await tracker.acquire_async("a")
        assert lease is not None
        assert await tracker.acquire_async("a") is None
        assert await tracker.renew_async(lease, ttl_s=5) is LeaseState.RUNNING
        assert await tracker.release_async(lease) is ReleaseOutcome.RELEASED

    asyncio.run(main())
    assert not tracker.is_full("a")


# -- numbers at the edge


@pytest.mark.parametrize(
    "call",
    [
        lambda tracker: LoadTracker(stale_after_s=math.nan),
        lambda tracker: tracker.acquire("a", ttl_s=10**400),
        lambda tracker: tracker.acquire("a", Demand(tokens=2**70)),
        lambda tracker: tracker.acquire("a", Demand(cost_usd=1e12)),
        lambda tracker: tracker.set_capacity("b", Capacity(max_concurrent=1), tokens_per_minute=2**70),
        lambda tracker: tracker.set_capacity("b", Capacity(max_concurrent=1), budget_usd=1e300),
        lambda tracker: tracker.update_load("a", 2**63),
        lambda tracker: tracker.update_load("a", -(2**63)),
        lambda tracker: tracker.observe_load("a", active_requests=2**64),
        lambda tracker: tracker.record("a", latency_ms=10**400),
        lambda tracker: tracker.record("a", latency_ms=None),
        lambda tracker: tracker.record("", latency_ms=1.0),
        lambda tracker: tracker.release("nobody", tokens=1.5),
        lambda tracker: tracker.release("nobody", cost_usd=1e12),
    ],
    ids=[
        "stale",
        "ttl",
        "tokens",
        "cost",
        "rate",
        "budget",
        "more_load",
        "less_load",
        "observed",
        "latency",
        "no_latency",
        "no_name",
        "used_tokens",
        "used_cost",
    ],
)
def test_numbers_nobody_can_count_with_are_refused_and_change_nothing(
    tracker: LoadTracker, call: Callable[[LoadTracker], object]
) -> None:
    tracker.set_capacity("a", small())
    with pytest.raises(SpecError, match="expected") as caught:
        call(tracker)
    assert len(str(caught.value)) < 300
    assert tracker.snapshot().models == ("a",)
    assert tracker.snapshot().active.tolist() == [0]


def test_the_longest_time_to_live_does_not_break_expiry(clock: ManualClock) -> None:
    tracker = LoadTracker(clock=clock)
    tracker.set_capacity("a", small())
    forever = tracker.acquire("a", ttl_s=1e308)
    assert forever is not None
    assert tracker.acquire("a", ttl_s=1) is not None
    clock.advance(2)
    assert tracker.snapshot().active.tolist() == [1]
    assert forever.release() is ReleaseOutcome.RELEASED


def test_demands_of_numpy_numbers_travel_as_plain_ones() -> None:
    demand = Demand(slots=np.int64(2), tokens=np.int32(7), cost_usd=np.float32(0.5))  # type: ignore[arg-type]
    assert [type(value) for value in (demand.slots, demand.tokens, demand.cost_usd)] == [int, int, float]


def test_a_renewal_lasts_through_a_move(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.set_capacity("a", small())
    tracker.set_capacity("other", small())
    lease = tracker.acquire("a", ttl_s=5)
    assert lease is not None
    lease.renew(ttl_s=100)
    assert lease.ttl_s == 100
    tracker.move(lease, "other")
    clock.advance(50)
    assert lease.state() is LeaseState.RUNNING


class _MovedMeanwhile(MemoryStore):
    """A store in which another thread moves a lease just before the first look at it."""

    before_next: Callable[[], object] | None = None

    def _first(self) -> None:
        call, self.before_next = self.before_next, None
        if call is not None:
            call()

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        self._first()
        return super().renew(lease_id, ttl_s)

    def lease_state(self, lease_id: str) -> LeaseState:
        self._first()
        return super().lease_state(lease_id)


@pytest.mark.parametrize("look", [Lease.renew, Lease.state])
def test_a_lease_is_found_although_it_moves_at_that_moment(
    clock: ManualClock, look: Callable[[Lease], LeaseState]
) -> None:
    store = _MovedMeanwhile(clock=clock)
    tracker = LoadTracker(store, clock)
    tracker.set_capacity("a", Capacity(max_concurrent=1))
    tracker.set_capacity("b", Capacity(max_concurrent=1))
    lease = tracker.acquire("a")
    assert lease is not None
    store.before_next = lambda: tracker.move(lease, "b")
    assert look(lease) is LeaseState.RUNNING
    assert lease.model == "b"


@pytest.mark.parametrize("name", ["try_acquire", "acquire", "renew", "release"])
def test_awaited_operations_take_what_the_others_take(name: str) -> None:
    awaited = getattr(LoadTracker, f"{name}_async")
    assert inspect.iscoroutinefunction(awaited)
    assert inspect.signature(awaited) == inspect.signature(getattr(LoadTracker, name))


def test_lengths_of_answers_are_learned_from_awaited_releases_too() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("m", Capacity(max_concurrent=1))

    async def serve() -> None:
        for _ in range(30):
            lease = await tracker.acquire_async("m", Demand(tokens=500, guessed_tokens=400, input_tokens=100))
            assert lease is not None
            assert await tracker.release_async(lease, output_tokens=77) is ReleaseOutcome.RELEASED

    asyncio.run(serve())
    reserve = tracker.output_reserve("m")
    assert reserve is not None
    assert 77 <= reserve < 2 * 77


class Slow(MemoryStore):
    """A store that counts as remote, and whose acquisitions take as long as the test wants."""

    remote = True

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        granted = super().acquire(ask)
        self.asked.set()
        self.go.wait(10)
        return granted


@pytest.mark.parametrize("ends", ["cancelled", "closed"])
def test_a_loop_that_ends_while_the_store_answers_loses_no_lease(ends: str) -> None:
    store = Slow()
    tracker = LoadTracker(store)
    tracker.set_capacity("a", small(1))
    loop = asyncio.new_event_loop()
    task = loop.create_task(tracker.acquire_async("a", ttl_s=1e6))
    while not store.asked.is_set():
        loop.run_until_complete(asyncio.sleep(0.001))
    assert store.row("a").active == 1
    if ends == "cancelled":
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    else:
        coroutine = task.get_coro()
        assert coroutine is not None
        coroutine.close()
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what is tested
    loop.close()
    released = threading.Event()
    tracker.drain("a", on_drained=lambda _: released.set())
    store.go.set()
    assert released.wait(10)
    assert store.row("a").active == 0


def test_a_finalizer_may_stop_a_model_inside_another_operation() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("a", small(4))
    store = tracker.store
    assert isinstance(store, MemoryStore)
    with store._lock:  # as if the collector had interrupted an operation
        tracker.record("a", latency_ms=1.0, status=429, retry_after_s=9.0)
        for _ in range(5):
            tracker.record("a", latency_ms=1.0, success=False)
        store.adjust("gone", active=1, queue=0)
        assert store.row("a").limits.max_concurrent == 4
    assert {stop.owner.value for stop in tracker.stops("a")} == {"cooldown", "breaker"}
    assert store.row("a").limits.max_concurrent == 1
    with store._lock:  # as above
        tracker.resume("a", "cooldown")
    assert {stop.owner.value for stop in tracker.stops("a")} == {"breaker"}


def test_a_coroutine_that_outlives_its_loop_still_gives_back() -> None:
    store = Slow()
    store.go.set()
    tracker = LoadTracker(store)
    tracker.set_capacity("a", small(1))

    loop = asyncio.new_event_loop()
    inside = loop.create_future()

    async def client() -> None:
        lease = await tracker.acquire_async("a", ttl_s=1e6)
        assert lease is not None
        async with lease:
            inside.set_result(None)
            await asyncio.Event().wait()

    task = loop.create_task(client())
    loop.run_until_complete(inside)
    loop.close()
    coroutine = task.get_coro()
    assert coroutine is not None
    coroutine.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what is tested
    assert store.row("a").active == 0
