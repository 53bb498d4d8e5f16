"""Somebody deletes one key of the shared store, of each kind: nothing is granted twice, and nothing stops for good."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import redis

from solver.clock import ManualClock
from solver.load.lease import Ask, Demand, LeaseState, ReleaseOutcome
from solver.load.refusal import RefusalReason
from solver.load.store.base import Limits
from solver.load.store.redis import RedisStore
from solver.load.store.usage_limits import UsageLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.redis_server import RedisServer

NAMES = itertools.count()
START_S = 1_777_247_970.0  # half a minute before a midnight
FIXED = (
    *(
        "meta",
        "expiry",
        "models",
        "pools",
        "timers",
        "deletions",
        "recent",
        "joined",
        "processes",
        "c:day/UTC",
    ),
    *("m:m", "m:n", "p:p", "q:m", "v:m", "s:n", "o:n", "h:n", "x:topic"),
    *("w:m:m:0", "w:m:m:1", "w:m:m:0@5.0", "w:p:p:1@10.0", "l:a", "l:d"),
)
SLOTS = 3


class Fleet:
    """Two replicas, a pool, and a model with every kind of limit, on a server of this test's."""

    def __init__(self, server: RedisServer) -> None:
        self.clock = ManualClock(START_S)
        self.prefix = f"lost-{next(NAMES)}"
        self.real = redis.Redis.from_url(server.url, decode_responses=True)
        self.first, self.second = (self.replica(server, name) for name in ("A", "B"))

    def replica(self, server: RedisServer, name: str) -> RedisStore:
        store = RedisStore(
            server.url, replicas=2, namespace=self.prefix, name=name, clock=self.clock, timeout_s=5.0
        )
        store.configure_pool(
            "p",
            Limits(
                max_concurrent=SLOTS,
                further=(
                    UsageLimit(resource="requests", amount=50, period="day"),
                    UsageLimit(resource="tokens", amount=100, period=10.0),
                ),
            ),
        )
        further = (UsageLimit(resource="requests", amount=6, period=5.0),)
        store.configure(
            "m",
            Limits(
                max_concurrent=SLOTS,
                max_queue=6,
                requests=50,
                tokens=500,
                budget_nano_usd=10**12,
                pools=("p",),
                further=further,
            ),
        )
        store.configure("n", Limits(max_concurrent=2))
        return store

    def ask(self, store: RedisStore, lease_id: str, tenant: str | None = None) -> object:
        demand = Demand(tokens=10, cost_usd=5e-9)
        return store.acquire(
            Ask(model="m", demand=demand, ttl_s=60.0, queue=True, lease_id=lease_id, tenant=tenant)
        )

    def fill(self) -> None:
        """Three run, two wait, one has ended; another model is stopped twice and has work from outside."""
        for k, lease_id in enumerate("abcde"):
            self.ask((self.first, self.second)[k % 2], lease_id, ("t", "u")[k % 2])
            self.clock.advance(0.3)
        self.first.stop("n", "cooldown", name="c", reason="429", for_s=20.0)
        self.second.stop("n", "operator", name="o", reason="maintenance")
        self.first.adjust("n", active=1, queue=0)
        self.first.observe("n", active=1, queue=0, ttl_s=15.0, age_s=0.5)
        self.first.acquire(Ask(model="m", ttl_s=0.1, queue=True, lease_id="short"))
        self.clock.advance(1.0)
        self.first.exchange("topic", "told", 60.0)

    def delete(self, key: str) -> int:
        deleted: int = self.real.delete(f"solver:{{{self.prefix}}}:{key}")
        return deleted

    def kinds(self) -> set[str]:
        """Return the kinds of keys that there are."""
        start = len(f"solver:{{{self.prefix}}}:")
        return {key[start:].split(":")[0] for key in self.real.keys(f"solver:{{{self.prefix}}}:*")}

    def running(self) -> int:
        states = [
            (self.first, self.second)[k % 2].lease_state(lease_id) for k, lease_id in enumerate("abcde")
        ]
        return states.count(LeaseState.RUNNING)


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    fleet = Fleet(redis_server)
    fleet.fill()
    yield fleet
    fleet.first.close()
    fleet.second.close()


def test_every_kind_of_key_is_tried(fleet: Fleet) -> None:
    assert fleet.kinds() - {"op"} == {key.split(":")[0] for key in FIXED}


@pytest.mark.parametrize("key", FIXED)
def test_one_lost_key(fleet: Fleet, key: str) -> None:
    assert fleet.delete(key) == 1
    _check_counts(fleet)


@pytest.mark.parametrize("key", FIXED[1:])
def test_two_lost_keys(redis_server: RedisServer, key: str) -> None:
    for other in FIXED[: FIXED.index(key)]:
        fleet = Fleet(redis_server)
        fleet.fill()
        assert fleet.delete(key) + fleet.delete(other) == 2
        _check_counts(fleet)
        fleet.first.close()
        fleet.second.close()


def _check_counts(fleet: Fleet) -> None:
    """Nobody runs beside too many, now or later; leases settle, stops stand as long as they should."""
    for k in range(4):
        fleet.ask((fleet.first, fleet.second)[k % 2], f"more-{k}")
    assert fleet.running() <= SLOTS
    fleet.clock.advance(2.0)
    for k, lease_id in enumerate("abcde"):
        store = (fleet.first, fleet.second)[k % 2]
        assert store.release(lease_id, tokens=5, cost_nano_usd=3) is ReleaseOutcome.RELEASED
    fleet.clock.advance(25.0)
    for store in (fleet.first, fleet.second, fleet.first):  # whoever has to tell does
        store.lease_state("nobody")
        store.row("n")
    row = fleet.first.row("n")
    assert not row.accepting
    assert [(stop.owner.value, stop.name) for stop in row.stops] == [("operator", "o")]
    fleet.second.resume("n", "operator", name="o")
    assert fleet.second.row("n").accepting
    fleet.clock.advance(125.0)
    for store in (fleet.first, fleet.second, fleet.first):
        store.view()
    pool, view = fleet.first.pool_row("p"), fleet.first.view()
    assert (pool.active, pool.queued) == (0, 0)
    assert (view.active[0], view.queued[0]) == (0, 0)
    fleet.clock.advance(61.0)
    fleet.second.view()
    assert [fleet.ask(fleet.first, f"last-{k}") for k in range(SLOTS)] == [LeaseState.RUNNING] * SLOTS


def test_a_window_that_lost_its_steps_still_holds_what_they_held(fleet: Fleet) -> None:
    """After its key is deleted under load a window has steps again, though not all: none may be forgotten."""
    fleet.clock.advance(20.0)
    for lease_id in "abcde":
        fleet.first.release(lease_id, tokens=10, cost_nano_usd=None)
    fleet.clock.advance(60.0)
    one = Ask(model="m", demand=Demand(tokens=10), lease_id="one", ttl_s=60.0)
    assert fleet.first.acquire(one._replace(demand=Demand(tokens=80))) is LeaseState.RUNNING
    fleet.clock.advance(6.0)
    assert fleet.delete("w:p:p:1@10.0") == 1
    assert fleet.first.acquire(one._replace(lease_id="two")) is LeaseState.RUNNING
    fleet.clock.advance(4.5)  # what the first was charged would leave now, if it were known
    used = {meter.period: meter.used for meter in fleet.first.pool_row("p").meters}
    assert used[10.0] == 90.0


def test_a_lease_that_lost_its_key_is_settled(fleet: Fleet) -> None:
    before = next(each.used for each in fleet.first.row("m").meters if each.period is None)
    assert fleet.delete("l:a") == 1
    assert fleet.first.release("a", tokens=5, cost_nano_usd=3) is ReleaseOutcome.RELEASED
    after = next(each.used for each in fleet.first.row("m").meters if each.period is None)
    assert round((before - after) * 1e9) == 2


def test_a_lease_that_lost_its_key_moves(fleet: Fleet) -> None:
    assert fleet.delete("l:a") == 1
    refused = fleet.first.move("a", Ask(model="n", lease_id="moved", ttl_s=60.0))
    assert getattr(refused, "reason", None) is RefusalReason.NOT_ACCEPTING
    fleet.second.resume("n", "operator", name="o")
    fleet.first.resume("n", "cooldown", name="c")
    assert fleet.delete("l:a") == 1
    assert fleet.first.move("a", Ask(model="n", lease_id="moved", ttl_s=60.0)) is LeaseState.RUNNING
    assert fleet.first.lease_state("a") is LeaseState.GONE
    assert fleet.running() == SLOTS  # one that waited has taken its place


def test_a_pool_whose_key_was_deleted_is_read_and_reset(fleet: Fleet) -> None:
    assert fleet.delete("p:p") == 1
    fleet.first.reset_pool("p")
    assert fleet.delete("p:p") == 1
    fleet.first.pool_row("p")
    fleet.second.view()
    assert fleet.first.pool_row("p").active == SLOTS


@pytest.mark.parametrize("key", ["p:p", "m:m"])
def test_what_is_set_again_with_its_list_lost_still_has_its_leases(fleet: Fleet, key: str) -> None:
    assert fleet.delete(key) + fleet.delete({"p": "pools", "m": "models"}[key[0]]) == 2
    fleet.second.configure_pool("p", fleet.second._memory.pools["p"])
    fleet.second.configure("m", fleet.second._memory.limits["m"])
    for k in range(4):
        fleet.ask((fleet.first, fleet.second)[k % 2], f"more-{k}")
    assert fleet.running() == SLOTS
    fleet.first.view()
    assert (fleet.second.row("m").active, fleet.second.pool_row("p").active) == (SLOTS, SLOTS)


@pytest.mark.parametrize("name", ["c", None])
@pytest.mark.parametrize("keys", [("s:n",), ("timers", "models"), ("timers", "l:a"), ("meta",)])
def test_a_stop_that_is_lifted_stays_so_after_a_loss(
    fleet: Fleet, keys: tuple[str, ...], name: str | None
) -> None:
    fleet.second.view()  # both know both stops
    fleet.first.view()
    assert sum(map(fleet.delete, keys)) == len(keys)
    fleet.first.resume("n", "cooldown", name=name)
    for store in (fleet.second, fleet.first):
        store.view()
    assert [stop.name for stop in fleet.second.row("n").stops] == ["o"]


@pytest.mark.parametrize("keys", [(), ("l:a",), ("expiry", "l:c"), ("meta",)])
def test_leases_that_were_ended_stay_so_after_a_loss(fleet: Fleet, keys: tuple[str, ...]) -> None:
    assert sum(map(fleet.delete, keys)) == len(keys)
    fleet.first.end_leases("m")
    for store in (fleet.second, fleet.first, fleet.second):
        store.view()
    assert fleet.running() == 0
    assert (fleet.first.row("m").active, fleet.first.pool_row("p").active) == (0, 0)


@pytest.mark.parametrize("key", ["p:p", "m:m"])
def test_usage_of_what_was_deleted_is_told_by_those_who_know_it(fleet: Fleet, key: str) -> None:
    """The one who joins again, or sets limits, makes it anew; what the others have used of it must not be lost."""
    for lease_id in "abcde":
        fleet.first.release(lease_id, tokens=10, cost_nano_usd=None)
    assert fleet.delete(key) == 1
    fleet.second.configure("n", Limits(max_concurrent=2))
    fleet.second.configure_pool("p", fleet.second._memory.pools["p"])
    fleet.second.configure("m", fleet.second._memory.limits["m"])
    for store in (fleet.first, fleet.second):
        store.view()
    name = key.partition(":")[2]
    row = fleet.first.row(name) if key[0] == "m" else fleet.first.pool_row(name)
    used = {(meter.resource, meter.period): meter.used for meter in row.meters}
    assert used["tokens", 60.0 if key[0] == "m" else 10.0] == 50


def test_nobody_starts_in_a_pool_whose_key_was_deleted(redis_server: RedisServer) -> None:
    """Another operation than one on the pool finds it missing first: what comes free must not let anyone start."""
    clock, namespace = ManualClock(START_S), f"pool {next(NAMES)}"
    store = RedisStore(redis_server.url, replicas=1, namespace=namespace, clock=clock, timeout_s=5.0)
    store.configure_pool("p", Limits(max_concurrent=2))
    store.configure("m", Limits(max_concurrent=4, max_queue=4, pools=("p",)))
    for lease_id in "ab":
        assert store.acquire(Ask(model="m", lease_id=lease_id, ttl_s=60.0)) is LeaseState.RUNNING
    waits = Ask(model="m", demand=Demand(slots=2), lease_id="c", ttl_s=60.0, queue=True)
    assert store.acquire(waits) is LeaseState.QUEUED
    real = redis.Redis(port=redis_server.port)
    assert real.delete(f"solver:{{{namespace}}}:p:p") == 1
    real.close()
    store.release("a", tokens=None, cost_nano_usd=None)
    assert [store.lease_state(lease_id) for lease_id in "bc"] == [LeaseState.RUNNING, LeaseState.QUEUED]
    store.release("b", tokens=None, cost_nano_usd=None)
    assert store.lease_state("c") is LeaseState.RUNNING
    store.close()


def test_keys_listed_for_deletion_under_the_earlier_name_are_deleted(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    prefix = f"solver:{{{fleet.prefix}}}:"
    fleet.real.set(f"{prefix}op:old", "[]")
    fleet.real.zadd(f"{prefix}trash", {"op:old": START_S - 60.0})
    fleet.second.close()
    fleet.second = fleet.replica(redis_server, "B")
    fleet.second.view()
    assert not fleet.real.exists(f"{prefix}trash", f"{prefix}op:old")


def test_limits_set_last_outlive_the_loss_of_memory_whoever_joins_first(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    def limits(store: RedisStore) -> tuple[int, int]:
        return store.row("n").limits.max_concurrent, store.pool_row("p").limits.max_concurrent

    fleet.second.configure("n", Limits(max_concurrent=1))
    fleet.second.configure_pool("p", Limits(max_concurrent=1))
    redis_server.flush()
    fleet.first.view()
    assert limits(fleet.first) == (2, SLOTS)  # by then it alone has told, and nothing is granted
    fleet.second.view()
    assert limits(fleet.first) == (1, 1)
    fleet.first.view()
    fleet.second.close()
    redis_server.flush()
    assert limits(fleet.first) == (1, 1)  # it has seen what the other one had set
    fleet.first.configure("n", Limits(max_concurrent=4))
    fleet.second = fleet.replica(redis_server, "B")
    assert fleet.second.row("n").limits.max_concurrent == 2  # set with its start: last of all


def test_leases_of_several_replicas_are_counted_once_after_the_memory_was_lost(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    def used() -> list[float]:
        rows = (fleet.first.row("m"), fleet.first.pool_row("p"))
        return [meter.used for row in rows for meter in row.meters]

    fleet.first.release("a", tokens=25, cost_nano_usd=7)
    before = used()
    redis_server.flush()
    for store in (fleet.second, fleet.first) * 2:
        store.view()
    assert used() == before
    assert fleet.second.release("b", tokens=0, cost_nano_usd=0) is ReleaseOutcome.RELEASED
    assert sum(before) - sum(used()) == pytest.approx(20.0 + 5e-9)
