"""What several replicas do when their Redis server is away, restarted or of another version."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import redis

from solver.clock import ManualClock
from solver.errors import SpecError
from solver.load.lease import Ask, Demand, LeaseState, Refusal, RefusalReason, ReleaseOutcome
from solver.load.store.base import Limits, nano_usd
from solver.load.store.redis import LinkState, RedisStore
from solver.load.tracker import LoadTracker
from solver.online.refusal import RouteRefusalReason
from solver.online.router import OptimalRouter
from solver.problem.spec import Capacity, Model
from tests.redis_server import RedisServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Make = "Callable[..., RedisStore]"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(5000.0)


@pytest.fixture
def make(clock: ManualClock) -> Iterator[Callable[..., RedisStore]]:
    """Return a function that makes replicas on the test's clock, all closed at the end."""
    with contextlib.ExitStack() as stack:

        def build(server: RedisServer, **options: Any) -> RedisStore:
            store = RedisStore(
                server.url, **{"replicas": 1, "clock": clock, "timeout_s": 5.0, "retry_s": 1e-6, **options}
            )
            stack.callback(store.close)
            return store

        yield build


def take(
    store: RedisStore, *names: str, model: str = "a", ttl_s: float = 60.0, **demand: Any
) -> Counter[str]:
    """Acquire once for each name; return how often each answer came."""
    answers = (
        store.acquire(Ask(model=model, lease_id=name, ttl_s=ttl_s, demand=Demand(**demand))) for name in names
    )
    return Counter(a.reason.value if isinstance(a, Refusal) else a.value for a in answers)


def drop(store: RedisStore, name: str) -> ReleaseOutcome:
    return store.release(name, tokens=None, cost_nano_usd=None)


def test_unreachable_at_start_is_a_state_not_a_crash(tmp_path: Any, make: Callable[..., RedisStore]) -> None:
    nobody = RedisServer(tmp_path, port=free_port())
    store = make(nobody, timeout_s=0.2)
    tracker = LoadTracker(store=store)
    tracker.set_capacity("a", Capacity(max_concurrent=3))
    refusal = tracker.try_acquire("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.STORE_UNAVAILABLE
    assert tracker.is_full("a")  # nothing is let in
    assert tracker.snapshot().accepting.tolist() == [False]
    assert store.state() is LinkState.UNAVAILABLE
    assert "Connection" in store.detail
    nobody.start()
    try:
        assert tracker.acquire("a") is not None  # what was set meanwhile has been sent
        assert store.state() is LinkState.CONNECTED
        assert store.detail == ""
    finally:
        nobody.stop()


def test_an_outage_refuses_and_ends_without_a_person(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    store = make(own_server)
    store.configure("a", Limits(max_concurrent=3))
    assert take(store, "x", "y") == {"running": 2}
    own_server.stop()
    assert take(store, "z") == {"store_unavailable": 1}
    assert store.renew("x", 60) is LeaseState.RUNNING  # it lives to its end, but no longer
    assert store.lease_state("x") is LeaseState.RUNNING
    assert drop(store, "y") is ReleaseOutcome.DEFERRED
    assert drop(store, "y") is ReleaseOutcome.UNKNOWN
    assert store.row("a").active == 1
    own_server.start()  # empty: it has forgotten everything
    assert store.row("a").active == 1
    assert take(store, "1", "2", "3") == {"running": 2, "concurrency": 1}
    assert drop(store, "x") is ReleaseOutcome.RELEASED


def test_a_server_that_hangs_leaves_the_threads_of_others_alone() -> None:
    """The event loop's default executor answers at once while every thread of the tracker waits."""

    async def run() -> tuple[int, list[Any]]:
        loop = asyncio.get_running_loop()
        hung = [asyncio.create_task(tracker.try_acquire_async("a")) for _ in range(40)]
        await asyncio.sleep(0)
        for _ in range(20):
            await loop.run_in_executor(None, int)
        return sum(task.done() for task in hung), await asyncio.gather(*hung)

    with socket.create_server(
        ("127.0.0.1", 0), backlog=64
    ) as silent:  # it takes connections, and never answers
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", replicas=1, timeout_s=2.0)
        with contextlib.closing(store):
            tracker = LoadTracker(store=store)
            done, answers = asyncio.run(run())
    assert done == 0
    assert {answer.reason for answer in answers} == {RefusalReason.STORE_UNAVAILABLE}


def test_a_lease_cannot_be_extended_during_an_outage(
    own_server: RedisServer, make: Callable[..., RedisStore], clock: ManualClock
) -> None:
    store = make(own_server)
    store.configure("a", Limits(max_concurrent=1))
    take(store, "x", ttl_s=10)
    own_server.stop()
    clock.advance(9)
    assert store.renew("x", 60) is LeaseState.RUNNING
    clock.advance(1)
    assert store.renew("x", 60) is LeaseState.GONE


def test_a_restarted_server_grants_nothing_before_every_replica_has_told(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    first, second = make(own_server, replicas=2), make(own_server, replicas=2)
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=5))
    assert take(first, "f1", "f2", "f3") == {"running": 3}
    assert take(second, "s1") == {"running": 1}
    own_server.stop()
    own_server.start()
    assert take(second, "s2", "s3") == {"recovering": 2}
    assert second.view().accepting.tolist() == [False]
    assert first.row("a").active == 4  # the last replica has told; all four leases are known again
    assert take(second, "s4", "s5") == {"running": 1, "concurrency": 1}


def test_recovery_waits_no_longer_than_the_longest_lease(
    own_server: RedisServer, make: Callable[..., RedisStore], clock: ManualClock
) -> None:
    store = make(own_server, replicas=3, max_ttl_s=60.0)  # the other two never come
    store.configure("a", Limits(max_concurrent=5))
    refusal = store.acquire(Ask(model="a", lease_id="x"))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.RECOVERING
    assert refusal.retry_after_s == 60.0
    clock.advance(60)
    assert take(store, "x") == {"running": 1}


def test_nobody_leaves_the_queue_before_every_replica_has_told(
    own_server: RedisServer, make: Callable[..., RedisStore], clock: ManualClock
) -> None:
    first, second = (make(own_server, replicas=2, max_ttl_s=60.0) for _ in range(2))
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=1, max_queue=1))
    take(first, "f")
    assert second.acquire(Ask(model="a", lease_id="s", queue=True, ttl_s=60)) is LeaseState.QUEUED
    own_server.stop()
    own_server.start()
    assert second.renew("s", 60.0) is LeaseState.QUEUED
    assert drop(first, "f") is ReleaseOutcome.RELEASED
    assert second.lease_state("s") is LeaseState.RUNNING
    assert take(first, "f", ttl_s=10.0) == {"concurrency": 1}
    drop(second, "s")
    take(first, "f", ttl_s=10.0)
    assert second.acquire(Ask(model="a", lease_id="t", queue=True, ttl_s=60)) is LeaseState.QUEUED
    own_server.stop()
    own_server.start()
    clock.advance(10.0)
    assert second.renew("t", 60.0) is LeaseState.QUEUED
    clock.advance(59.0)
    assert second.renew("t", 60.0) is LeaseState.QUEUED
    clock.advance(1.0)  # no lease that was forgotten can still run, though the first replica never came
    assert second.lease_state("t") is LeaseState.RUNNING


def test_work_from_outside_that_a_measurement_contains_is_not_told_again(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    first, second = (make(own_server, replicas=2) for _ in range(2))
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=9))
    first.adjust("a", active=2, queue=0)
    second.observe("a", active=3, queue=0)
    with contextlib.closing(redis.Redis(port=own_server.port)) as client:
        client.hset("solver:{default}:meta", "run_id", "another")  # a fail-over: the memory is kept
        client.script_flush()
    assert first.row("a").active == 3
    assert second.row("a").active == 3


def test_a_worker_started_anew_tells_what_it_added_before(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    before = make(own_server, name="worker")
    before.configure("a", Limits(max_concurrent=9))
    before.adjust("a", active=2, queue=0)
    before.close()
    after = make(own_server, name="worker")
    after.configure("a", Limits(max_concurrent=9))
    own_server.stop()
    own_server.start()
    assert after.row("a").active == 2


def test_spent_money_is_remembered_across_a_restart(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    first, second = make(own_server, replicas=2), make(own_server, replicas=2)
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=50, budget_nano_usd=nano_usd(1.0), tokens=1000))
    take(first, "f", cost_usd=0.5, tokens=300)
    take(second, "s", cost_usd=0.4, tokens=300)
    first.release("f", tokens=None, cost_nano_usd=nano_usd(0.55))
    own_server.stop()
    own_server.start()
    second.row("a")
    first.row("a")
    assert first.view().meter_used[1:, 0].tolist() == [600, nano_usd(0.95)]
    assert take(first, "more", cost_usd=0.06) == {"budget": 1}
    assert take(first, "less", cost_usd=0.05) == {"running": 1}


def test_a_lost_answer_does_not_leak_a_lease(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    """The server grants, the answer is lost, the client reports a refusal: the grant is taken back."""
    store = make(own_server)
    store.configure("a", Limits(max_concurrent=1))
    run = store._link._run
    lost: list[Any] = []

    def lossy(operation: str, name: str, attempt: int, *arguments: Any) -> list[Any]:
        reply = run(operation, name, attempt, *arguments)
        if operation == "acquire" and len(lost) < 3:
            lost.append(reply)
            raise redis.ConnectionError("the answer was lost")
        return reply

    store._link._run = lossy  # type: ignore[method-assign]  # the fault is injected here
    assert take(store, "x") == {"store_unavailable": 1}
    assert [reply[0] for reply in lost] == ["running"] * 3
    assert take(store, "y") == {"running": 1}


def test_an_acquisition_that_is_repeated_after_a_lost_answer_counts_once(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    store = make(own_server)
    store.configure("a", Limits(max_concurrent=2))
    run = store._link._run
    lost: list[Any] = []

    def lossy(operation: str, name: str, attempt: int, *arguments: Any) -> list[Any]:
        reply = run(operation, name, attempt, *arguments)
        if operation == "acquire" and not lost:
            lost.append(reply)
            raise redis.TimeoutError("the answer was lost")
        return reply

    store._link._run = lossy  # type: ignore[method-assign]  # the fault is injected here
    assert take(store, "x") == {"running": 1}
    assert store.row("a").active == 1


def test_a_replica_that_comes_after_the_recovery_still_tells_what_it_holds(
    own_server: RedisServer, make: Callable[..., RedisStore]
) -> None:
    """More replicas than were declared."""
    first, second = make(own_server, replicas=1), make(own_server, replicas=1)
    first.configure("a", Limits(max_concurrent=3))
    take(second, "x", "y")
    own_server.stop()
    own_server.start()
    assert take(first, "z") == {"running": 1}  # it cannot know of the other two yet
    assert second.row("a").active == 3
    assert take(first, "w") == {"concurrency": 1}


def test_a_hiccup_does_not_bring_ended_leases_back(
    shared_server: RedisServer, make: Callable[..., RedisStore], namespace: str
) -> None:
    first, second = (make(shared_server, namespace=namespace, replicas=2) for _ in range(2))
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=2))
    take(first, "x", "y")
    assert drop(second, "x") is ReleaseOutcome.RELEASED  # the first replica does not hear of it
    first._link.up = False  # its connection breaks, the server keeps its memory
    assert first.row("a").active == 1


# -- local shares


def test_local_shares_never_exceed_the_capacity_together(
    own_server: RedisServer, make: Callable[..., RedisStore], clock: ManualClock
) -> None:
    options = {"replicas": 2, "on_outage": "local_share", "max_ttl_s": 60.0, "settle_s": 120.0}
    first, second = make(own_server, **options), make(own_server, **options)
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=11, requests=100))
    first.row("a")
    assert take(first, *(f"f{k}" for k in range(9)), ttl_s=60) == {"running": 9}
    own_server.stop()
    assert take(second, "s0") == {"store_unavailable": 1}
    assert second.state() is LinkState.UNAVAILABLE
    clock.advance(119)
    assert take(second, "s1") == {"store_unavailable": 1}
    clock.advance(1)
    assert second.state() is LinkState.LOCAL_SHARE
    granted_second = take(second, *(f"s{k}" for k in range(2, 12)))
    granted_first = take(first, *(f"g{k}" for k in range(10)))
    assert granted_second["running"] == granted_first["running"] == 5
    own_server.start()
    second.row("a")
    assert first.row("a").active == 10  # both have told what they granted
    assert take(first, "one", "more") == {"running": 1, "concurrency": 1}


def test_shares_of_silent_replicas_are_left_to_them(
    own_server: RedisServer, make: Callable[..., RedisStore], clock: ManualClock
) -> None:
    options = {"replicas": 2, "on_outage": "local_share", "max_ttl_s": 60.0, "settle_s": 120.0}
    first, second = make(own_server, **options), make(own_server, **options)
    for store in (first, second):
        store.configure("a", Limits(max_concurrent=10))
    clock.advance(61)  # the second says nothing for more than half of the settling time
    assert take(first, *(f"f{k}" for k in range(10)))["running"] == 5
    second.row("a")  # it is there again
    assert take(first, *(f"g{k}" for k in range(10)))["running"] == 5


def test_money_is_not_spent_without_the_server(
    own_server: RedisServer, make: Callable[..., RedisStore], clock: ManualClock
) -> None:
    store = make(own_server, on_outage="local_share", settle_s=0.0)
    store.configure("a", Limits(max_concurrent=10, budget_nano_usd=nano_usd(1.0)))
    store.row("a")
    own_server.stop()
    assert take(store, "x", cost_usd=0.01) == {"too_large": 1}
    assert take(store, "y") == {"running": 1}  # what costs nothing may run


# -- refusing to guess


def test_a_store_of_another_version_is_refused(
    shared_server: RedisServer, make: Callable[..., RedisStore], namespace: str
) -> None:
    with contextlib.closing(redis.Redis(port=shared_server.port)) as client:
        client.hset(f"solver:{{{namespace}}}:meta", "schema", "99")
    store = make(shared_server, namespace=namespace)
    with pytest.raises(SpecError, match=r"store\.schema: expected version 2, got '99'"):
        store.configure("a", Limits(max_concurrent=1))


def test_namespaces_are_apart(
    shared_server: RedisServer, make: Callable[..., RedisStore], namespace: str
) -> None:
    first = make(shared_server, namespace=f"{namespace}-1")
    second = make(shared_server, namespace=f"{namespace}-2")
    first.configure("a", Limits(max_concurrent=1))
    second.configure("a", Limits(max_concurrent=1))
    assert take(first, "x") == take(second, "x") == {"running": 1}


def test_replicas_share_limits_and_counts(
    shared_server: RedisServer, make: Callable[..., RedisStore], namespace: str
) -> None:
    first, second = (make(shared_server, namespace=namespace, replicas=2) for _ in range(2))
    first.configure("a", Limits(max_concurrent=3))
    assert second.limits("a") == Limits(max_concurrent=3)
    assert take(first, "x", "y") == {"running": 2}
    assert take(second, "z", "w") == {"running": 1, "concurrency": 1}
    assert drop(second, "x") is ReleaseOutcome.RELEASED  # a lease may be released by any replica
    assert first.view().active.tolist() == [2]


def test_a_flush_by_hand_is_a_restart(own_server: RedisServer, make: Callable[..., RedisStore]) -> None:
    store = make(own_server)
    store.configure("a", Limits(max_concurrent=2))
    take(store, "x")
    own_server.flush()
    assert take(store, "y", "z") == {"running": 1, "concurrency": 1}


def test_the_server_keeps_time_when_nobody_gives_another(shared_server: RedisServer, namespace: str) -> None:
    store = RedisStore(shared_server.url, replicas=1, namespace=namespace, timeout_s=5.0)
    with contextlib.closing(redis.Redis(port=shared_server.port)) as client, contextlib.closing(store):
        seconds, micros = client.time()
        store.configure("a", Limits(max_concurrent=1))
        assert 0 <= store.view().now_s - (seconds + micros / 1e6) < 5


def test_a_router_over_a_store_that_recovers_says_so_and_goes_on_when_it_has(
    shared_server: RedisServer, namespace: str
) -> None:
    def store() -> RedisStore:
        return RedisStore(shared_server.url, replicas=2, namespace=namespace, timeout_s=5.0)

    with contextlib.closing(store()) as first, contextlib.closing(store()) as second:
        models = [Model(id="a", capacity=Capacity(max_concurrent=1))]
        router = OptimalRouter(LoadTracker(first), models, background=False)
        refusal = router.route(scores=[1.0]).refusal
        assert refusal is not None
        assert refusal.reason is RouteRefusalReason.STORE_UNAVAILABLE
        assert refusal.cause is not None
        assert refusal.cause.reason is RefusalReason.RECOVERING
        LoadTracker(second).snapshot()  # the other replica has told what it holds
        assert router.route(scores=[1.0]).model == "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 0}, "replicas: expected"),
        ({"namespace": ""}, "namespace: expected"),
        ({"on_outage": "panic"}, "on_outage: expected"),
        ({"max_ttl_s": 0}, "max_ttl_s: expected"),
        ({"settle_s": -1}, "settle_s: expected"),
        ({"timeout_s": float("nan")}, "timeout_s: expected"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        RedisStore("redis://127.0.0.1:1/0", **{"replicas": 1, **options})


def test_a_time_to_live_beyond_the_longest_is_refused(
    shared_server: RedisServer, make: Callable[..., RedisStore], namespace: str
) -> None:
    store = make(shared_server, namespace=namespace, max_ttl_s=60.0)
    store.configure("a", Limits(max_concurrent=1))
    with pytest.raises(SpecError, match=r"ttl_s: expected <= 60 \(max_ttl_s\), got 61"):
        take(store, "x", ttl_s=61)
    with pytest.raises(SpecError, match="ttl_s: expected <= 60"):
        store.renew("x", 61)
