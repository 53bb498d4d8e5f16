"""A shared store through clients and users of every kind, and on servers that change their role."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.sentinel

from solver.errors import SpecError
from solver.load.lease import LeaseState, Refusal, RefusalReason
from solver.load.store.redis import OutageCause, RedisStore
from solver.load.store.redis_server import address_of, script
from solver.load.tracker import LoadTracker
from solver.problem.spec import Capacity
from tests.redis_server import RedisServer, running
from tests.service.recovery import still_holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WITHIN_S = 20.0


@pytest.fixture
def track(namespace: str) -> Iterator[Callable[..., LoadTracker]]:
    """Return a function that makes trackers over Redis; their connections are closed at the end."""
    with contextlib.ExitStack() as stack:

        def build(server: Any, **options: Any) -> LoadTracker:
            defaults = {"replicas": 1, "namespace": namespace, "timeout_s": 5.0, "retry_s": 1e-6}
            store = RedisStore(server, **{**defaults, **options})
            stack.callback(store.close)
            return LoadTracker(store=store)

        yield build


def store_of(tracker: LoadTracker) -> RedisStore:
    assert isinstance(tracker.store, RedisStore)
    return tracker.store


def until(done: Callable[[], Any]) -> None:
    end = time.monotonic() + WITHIN_S
    while not done():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)  # a real server's work is what no clock can turn


@pytest.mark.parametrize(
    "options",
    [
        {"decode_responses": True},
        {"decode_responses": True, "protocol": 3},
        {"protocol": 2},
        {"single_connection_client": True},
        {"db": 5},
        {"encoding": "latin-1"},
    ],
    ids=str,
)
def test_every_kind_of_client_works(
    shared_server: RedisServer, track: Callable[..., LoadTracker], options: dict[str, Any]
) -> None:
    client = redis.Redis(port=shared_server.port, socket_timeout=5, **options)
    tracker = track(client)
    tracker.set_capacity("m", Capacity(max_concurrent=1, max_queue=1))
    heard: list[str] = []
    store_of(tracker).listen(heard.append)
    assert store_of(tracker)._promotions.subscribed.wait(WITHIN_S)
    first, waits = tracker.acquire("m"), tracker.acquire("m", queue=True)
    assert first is not None
    assert waits is not None
    first.release()
    until(lambda: heard)
    assert (heard, waits.state()) == ([waits.lease_id], LeaseState.RUNNING)
    tracker.stop("m", reason="größer")
    assert [stop.reason for stop in tracker.snapshot().stops["m"]] == ["größer"]


@pytest.mark.parametrize("taken", ["-publish", "resetchannels", "-hincrby", "-zrevrangebyscore"])
def test_a_user_who_may_not_run_all_of_the_script_runs_none_of_it(
    own_server: RedisServer, track: Callable[..., LoadTracker], taken: str
) -> None:
    """An error in the midst of an operation would leave it done by half."""
    with contextlib.closing(redis.Redis(port=own_server.port)) as admin:
        admin.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~solver:*", "&*", "+@all", taken)
        tracker = track(own_server.url.replace("//", "//u:pw@"))
        tracker.set_capacity("m", Capacity(max_concurrent=1, max_queue=1), requests_per_minute=9)
        refused = tracker.try_acquire("m", queue=True)
        assert isinstance(refused, Refusal)
        assert refused.reason is RefusalReason.STORE_UNAVAILABLE
        store = store_of(tracker)
        assert store.cause is OutageCause.NOT_ALLOWED
        assert (
            f"may not run {'PUBLISH' if taken == 'resetchannels' else taken[1:].upper()} in" in store.detail
        )
        admin.execute_command("ACL", "SETUSER", "u", "&*", "+@all")
        first, waits = tracker.acquire("m"), tracker.acquire("m", queue=True)
        assert first is not None
        assert waits is not None
        admin.execute_command("ACL", "SETUSER", "u", taken)  # while it works
        first.release()
        tracker.try_acquire("m")
        admin.execute_command("ACL", "SETUSER", "u", "&*", "+@all")
        tracker.snapshot()
        assert waits.state() is LeaseState.RUNNING
        assert tracker.snapshot().active.tolist() == [1]
        waits.release()
        assert tracker.acquire("m")


def test_after_it_was_closed_a_store_joins_anew(
    shared_server: RedisServer, track: Callable[..., LoadTracker]
) -> None:
    tracker = track(shared_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=1))
    assert tracker.acquire("m")
    store_of(tracker).close()
    assert not tracker.acquire("m")
    assert store_of(tracker).replica


def test_what_is_no_primary_is_refused_with_the_reason(
    own_server: RedisServer, tmp_path: Path, track: Callable[..., LoadTracker]
) -> None:
    with contextlib.closing(redis.Redis(port=own_server.port)) as admin:
        admin.config_set("replica-read-only", "no")
        admin.replicaof("127.0.0.1", 1)
    tracker = track(own_server.url)
    tracker.set_capacity("m", Capacity(max_concurrent=1))
    assert not tracker.try_acquire("m")
    assert store_of(tracker).cause is OutageCause.READ_ONLY
    settings = tmp_path / "sentinel.conf"
    settings.touch()
    sentinel = RedisServer(tmp_path, options=("--sentinel",), settings=settings)
    sentinel.start()
    try:
        with pytest.raises(SpecError, match=r"got a Sentinel: give a client of its master_for\(\)"):
            track(sentinel.url).set_capacity("m", Capacity(max_concurrent=1))
    finally:
        sentinel.stop()


def test_replicas_behind_different_sentinels_count_their_names_apart() -> None:
    def scope(port: int, service: str) -> str:
        return address_of(redis.sentinel.Sentinel([("127.0.0.1", port)]).master_for(service))

    assert len({scope(1, "a"), scope(1, "b"), scope(2, "a")}) == 3
    assert scope(1, "a") == scope(1, "a")


# -- servers that have lost their last writes, and answer as if nothing had happened


def test_a_client_that_was_used_before_notices_another_server_too(
    own_server: RedisServer, track: Callable[..., LoadTracker]
) -> None:
    def used() -> redis.Redis:
        client = redis.Redis(port=own_server.port, socket_timeout=5)
        client.ping()
        return client

    first, second = (track(used(), replicas=2, name=name) for name in "ab")
    for tracker in (first, second):
        tracker.set_capacity("m", Capacity(max_concurrent=1))
    admin = redis.Redis(port=own_server.port)
    kept = {key: admin.dump(key) for key in admin.keys("*")}
    held = first.acquire("m", ttl_s=60.0)
    assert held is not None
    admin.close()
    own_server.stop()
    own_server.start()
    with contextlib.closing(redis.Redis(port=own_server.port)) as admin:
        for key, value in kept.items():
            admin.restore(key, 0, value)
        admin.script_load(script())
    still_holds(first, second, held)


def test_a_primary_that_was_a_replica_meanwhile_has_lost_its_last_writes(
    own_server: RedisServer, tmp_path: Path, track: Callable[..., LoadTracker]
) -> None:
    """Its process goes on all the time, and nobody has used the other one."""
    first, second = (track(own_server.url, replicas=2, name=name) for name in "ab")
    for tracker in (first, second):
        tracker.set_capacity("m", Capacity(max_concurrent=1))
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(running(tmp_path))
        here, there = (
            stack.enter_context(contextlib.closing(redis.Redis(port=server.port)))
            for server in (own_server, other)
        )
        for each in (here, there):
            each.config_set("repl-diskless-sync-delay", 0)
        there.replicaof("127.0.0.1", own_server.port)
        until(lambda: there.info("replication")["master_link_status"] == "up")
        there.replicaof("NO", "ONE")
        held = first.acquire("m", ttl_s=60.0)
        assert held is not None
        here.replicaof("127.0.0.1", other.port)
        until(lambda: here.info("replication").get("master_link_status") == "up")
        here.replicaof("NO", "ONE")
        here.client_kill_filter(_type="normal", skipme=True)  # as Sentinel does
        still_holds(first, second, held)
