"""How long a lease lives: holders that work on, that vanish, that are collected, that fork."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import threading
import time
import weakref
from itertools import count
from typing import TYPE_CHECKING

import pytest

from solver.clock import ManualClock
from solver.errors import ForkedStoreError
from solver.load.balance.balancer import LoadBalancer
from solver.load.lease import Ask, LeaseState, ReleaseOutcome
from solver.load.observe.trends import Trends
from solver.load.store.base import Limits
from solver.load.store.memory import MemoryStore
from solver.load.store.redis import RedisStore
from solver.load.tracker import LoadTracker
from solver.problem.spec import Agent, Capacity, Model

if TYPE_CHECKING:
    from solver.load.store.base import Store
    from tests.redis_server import RedisServer

NAMES = count()


@pytest.fixture
def tracker(store: Store, clock: ManualClock) -> LoadTracker:
    tracker = LoadTracker(store=store, clock=clock)
    tracker.set_capacity("a", Capacity(max_concurrent=1, max_queue=1))
    return tracker


def test_a_long_call_keeps_its_slot_while_it_is_in_its_block(
    tracker: LoadTracker, clock: ManualClock
) -> None:
    lease = tracker.acquire("a", ttl_s=30)
    assert lease is not None
    with lease:
        for _ in range(30):
            clock.advance(5)
            assert not tracker.try_acquire("a")
    assert tracker.acquire("a") is not None


def test_a_kept_lease_ends_with_its_holder(tracker: LoadTracker, clock: ManualClock) -> None:
    lease = tracker.acquire("a", ttl_s=30)
    assert lease is not None
    lease.keep_alive()
    for _ in range(12):
        clock.advance(5)
        assert not tracker.try_acquire("a")
    del lease
    gc.collect()
    for _ in range(12):
        clock.advance(5)
        tracker.snapshot()
    assert tracker.acquire("a") is not None


def test_a_moved_lease_is_kept_where_it_went(tracker: LoadTracker, clock: ManualClock) -> None:
    tracker.set_capacity("b", Capacity(max_concurrent=1))
    lease = tracker.acquire("a", ttl_s=30)
    assert lease is not None
    with lease:
        tracker.move(lease, "b")
        for _ in range(30):
            clock.advance(5)
            tracker.snapshot()
        assert lease.state() is LeaseState.RUNNING
        assert tracker.snapshot().active.tolist() == [0, 1]


def test_a_released_lease_is_not_kept(tracker: LoadTracker, clock: ManualClock) -> None:
    lease = tracker.acquire("a", ttl_s=30)
    assert lease is not None
    assert lease.keep_alive().release() is ReleaseOutcome.RELEASED
    clock.advance(11)
    assert tracker.acquire("a") is not None
    assert lease.keep_alive().state() is LeaseState.GONE


def test_a_heartbeat_renews_on_a_server_without_any_call(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, replicas=1, namespace=f"beat-{next(NAMES)}", timeout_s=5.0)
    tracker = LoadTracker(store=store)
    tracker.set_capacity("a", Capacity(max_concurrent=1))
    lease = tracker.acquire("a", ttl_s=0.6)
    assert lease is not None
    lease.keep_alive()
    other = RedisStore(redis_server.url, replicas=1, namespace=store._link.prefix[8:-2], timeout_s=5.0)
    started = time.perf_counter()
    while time.perf_counter() - started < 1.5:
        assert isinstance(other.acquire(Ask(model="a", lease_id="x")), LeaseState) is False
        time.sleep(0.05)  # the heartbeat's thread is what is tested
    store.close()
    other.close()


# -- finalizers


class CollectingClock(ManualClock):
    """Runs the garbage collector while the store reads the time under its lock."""

    collects = False

    def now(self) -> float:
        if self.collects:
            self.collects = False
            gc.collect()
        return super().now()


class Stream:
    """Something in a circle that the collector has to break."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_a_finalizer_may_release_inside_another_operation(kind: str, redis_server: RedisServer) -> None:
    clock = CollectingClock(100.0)
    store: Store = MemoryStore(clock=clock)
    if kind == "redis":
        store = RedisStore(
            redis_server.url, replicas=1, namespace=f"final-{next(NAMES)}", clock=clock, timeout_s=5.0
        )
    tracker = LoadTracker(store=store, clock=clock)
    tracker.set_capacity("m", Capacity(max_concurrent=5))
    lease = tracker.acquire("m")
    assert lease is not None
    tracker.update_load("m", 1)
    stream = Stream()
    weakref.finalize(stream, lease.release)
    weakref.finalize(stream, tracker.update_load, "m", -1)

    def work() -> None:
        clock.collects = True
        tracker.acquire("m")

    gc.disable()
    try:
        del stream
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        gc.enable()
    assert tracker.snapshot().active.tolist() == [1]
    assert lease.state() is LeaseState.GONE


# -- forks


def in_child(work: object) -> str:
    """Run something in a forked child; return what it says, or the name of its error."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                said = str(work())  # type: ignore[operator]  # any callable
            except Exception as error:  # noqa: BLE001 # it is told to the parent
                said = type(error).__name__
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    return said


def test_a_store_of_one_process_is_not_used_by_two() -> None:
    tracker = LoadTracker()
    tracker.set_capacity("m", Capacity(max_concurrent=1))
    assert in_child(lambda: tracker.acquire("m")) == ForkedStoreError.__name__
    assert tracker.acquire("m") is not None


def test_a_child_may_have_a_capacity_of_its_own() -> None:
    tracker = LoadTracker(MemoryStore(per_process=True))
    tracker.set_capacity("m", Capacity(max_concurrent=1))
    tracker.set_capacity("closed", Capacity(max_concurrent=1))
    tracker.stop("closed")
    mine = tracker.acquire("m")
    assert mine is not None
    said = in_child(lambda: (tracker.acquire("m") is not None, tracker.acquire("closed")))
    assert said == "(True, None)"
    assert in_child(lambda: mine.lease_id in tracker.acquire("m").lease_id) == "False"  # type: ignore[union-attr]
    assert tracker.snapshot().active.tolist() == [1, 0]


def test_a_fork_in_the_middle_of_an_operation_leaves_no_lock_behind() -> None:
    tracker = LoadTracker(MemoryStore(per_process=True))
    tracker.set_capacity("m", Capacity(max_concurrent=99))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            lease = tracker.acquire("m")
            if lease is not None:
                lease.release()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert {in_child(lambda: tracker.acquire("m") is not None) for _ in range(40)} == {"True"}
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_sending_a_tracker_to_a_spawned_process_says_what_to_do_instead() -> None:
    store = RedisStore("redis://127.0.0.1:1/0", replicas=1)
    for each in (LoadTracker(), store):
        with pytest.raises(TypeError, match="make one there"):
            pickle.dumps(each)
    store.close()


def test_a_child_does_not_wait_for_locks_that_other_threads_held_at_the_fork() -> None:
    of_others = gc.get_objects()  # of tests before, whose threads may hold their locks or be gone
    known = {id(each) for each in of_others}
    tracker = LoadTracker(store=MemoryStore(per_process=True))
    model = Model(
        id="m",
        capacity=Capacity(max_concurrent="learn", low=1, high=9),
        capabilities={"coding": 0.5},
    )
    tracker.set_capacity("m", model.capacity)
    trends = Trends()
    tracker.listen(trends.observe)
    balancer = LoadBalancer(tracker, strategy="predictive")
    taken, forked = threading.Event(), threading.Event()

    def hold_locks() -> None:
        with contextlib.ExitStack() as stack:
            for each in gc.get_objects():
                is_new = id(each) not in known and str(type(each).__module__).startswith("solver.load.")
                if is_new and hasattr(each, "_lock"):
                    stack.enter_context(each._lock)
            taken.set()
            forked.wait()

    def work() -> str:
        signal.alarm(20)
        [decision] = balancer.assign_and_reserve([Agent(id="a", task_type="coding")], (model,))
        assert decision.lease is not None
        decision.lease.release(output_tokens=9)
        tracker.record("m", latency_ms=9.0, success=True)
        trends.sample(tracker.snapshot())
        return "done"

    thread = threading.Thread(target=hold_locks)
    thread.start()
    try:
        assert taken.wait(20.0)
        assert in_child(work) == "done"
    finally:
        forked.set()
        thread.join()


# -- expiry


def test_no_caller_pays_for_a_million_leases_that_end() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    store.configure("m", Limits(max_concurrent=10**9))
    for k in range(20_000):
        store.acquire(Ask(model="m", lease_id=str(k), ttl_s=30.0))
    clock.advance(31)
    store.acquire(Ask(model="m", lease_id="new", ttl_s=30.0))
    left = store.row("m").active
    assert 10_000 < left < 20_000  # a bounded number of them in one call
    assert store.lease_state("19999") is LeaseState.GONE  # due, although it was not ended yet
    assert store.renew("19998", 30.0) is LeaseState.GONE
    assert store.release("19997", tokens=None, cost_nano_usd=None) is ReleaseOutcome.EXPIRED
    assert store.acquire(Ask(model="m", lease_id="19996", ttl_s=30.0)) is LeaseState.RUNNING  # used again
    for _ in range(12):
        store.row("m")
    assert store.row("m").active == 2
