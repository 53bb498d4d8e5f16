"""A server without its memory learns from the replicas what was used: all of it, once, and nothing that is over."""

from __future__ import annotations

import itertools
import math
import multiprocessing
from typing import TYPE_CHECKING, Any

import pytest
import redis

from solver.clock import ManualClock
from solver.load.lease import Ask, Demand, LeaseState
from solver.load.refusal import RefusalReason
from solver.load.stops import StopOwner
from solver.load.store.base import Limits
from solver.load.store.redis import RedisStore
from solver.load.store.redis_server import ServerIdentity
from solver.load.store.usage_limits import UsageLimit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.redis_server import RedisServer

NAMES = itertools.count()
START_S = 1_777_247_970.0  # half a minute before a midnight
MAX_TTL_S = 40.0
DAY = UsageLimit(resource="cost_usd", amount=1.0, period="day")


class Site:
    """A server of this test's and replicas that share a model with a limit on requests, a budget and a day's budget."""

    def __init__(self, server: RedisServer) -> None:
        self.server, self.clock, self.namespace = server, ManualClock(START_S), f"usage-{next(NAMES)}"
        self.real = redis.Redis.from_url(server.url)
        self.stores: list[RedisStore] = []

    def join(self, *names: str) -> list[RedisStore]:
        """Return replicas, which await each other after a loss of memory."""
        self.stores = [
            RedisStore(
                self.server.url,
                replicas=len(names),
                namespace=self.namespace,
                name=name,
                clock=self.clock,
                max_ttl_s=MAX_TTL_S,
                timeout_s=5.0,
            )
            for name in names
        ]
        for store in self.stores:
            store.configure("m", Limits(max_concurrent=9, requests=10, budget_nano_usd=10**9, further=(DAY,)))
        return self.stores

    def keys(self) -> dict[bytes, bytes]:
        """Return the server's memory."""
        return {key: self.real.dump(key) for key in self.real.keys(f"*{self.namespace}*")}

    def lose_memory(self, kept: dict[bytes, bytes] | None = None) -> None:
        """Start the server anew, or another one with what this one held at some time before."""
        self.server.flush()
        for key, value in (kept or {}).items():
            self.real.restore(key, 0, value)
            if key.endswith(b":meta"):
                self.real.hset(key, "run_id", "before")
        for store in self.stores:
            store._link._server = ServerIdentity("before")
            store._link._client.connection_pool.disconnect()

    def used(self, store: RedisStore) -> dict[tuple[str, float | str | None], float]:
        return {(meter.resource, meter.period): round(meter.used, 9) for meter in store.row("m").meters}


def ask(lease_id: str, cost_usd: float = 0.1) -> Ask:
    return Ask(model="m", demand=Demand(cost_usd=cost_usd), ttl_s=30.0, lease_id=lease_id)


def work(store: RedisStore, lease_id: str) -> None:
    """Use one request and a tenth of a dollar."""
    assert store.acquire(ask(lease_id)) is LeaseState.RUNNING
    store.release(lease_id, tokens=None, cost_nano_usd=None)


@pytest.fixture
def site(redis_server: RedisServer) -> Iterator[Site]:
    site = Site(redis_server)
    yield site
    for store in site.stores:
        store.close()
    site.real.close()


def test_what_is_settled_meanwhile_does_not_hide_what_others_remember(site: Site) -> None:
    """Settlements changed the figures as often as the other's last request had, which then counted as known."""
    first, second = site.join("A", "B")
    for lease_id in ("a", "b"):
        first.acquire(ask(lease_id))
    work(second, "c")
    site.lose_memory()
    first.release("a", tokens=None, cost_nano_usd=4 * 10**7)
    first.release("b", tokens=None, cost_nano_usd=2 * 10**8)
    second.view()
    assert site.used(first) == {
        ("requests", 60.0): 3,
        ("cost_usd", None): 0.04 + 0.2 + 0.1,
        ("cost_usd", "day"): 0.04 + 0.2 + 0.1,
    }


def test_two_losses_one_after_the_other(site: Site) -> None:
    """The second finds figures of before the first, and others that were changed between the two."""
    first, second, third = site.join("A", "B", "C")
    work(first, "a")
    kept = site.keys()
    for lease_id in ("b", "c"):
        first.acquire(ask(lease_id))
    work(second, "d")
    site.lose_memory()
    first.release("b", tokens=None, cost_nano_usd=5 * 10**7)
    site.lose_memory(kept)
    third.view()
    first.release("c", tokens=None, cost_nano_usd=5 * 10**7)
    second.view()
    used = site.used(first)
    assert used["requests", 60.0] == 4
    assert used["cost_usd", None] >= 0.3  # what was given back between the two may be lost


def test_histories_that_have_parted_are_not_compared_by_their_changes(site: Site) -> None:
    """A server comes back with what was used before a loss, and as many changes as there were after it."""
    first, _ = site.join("A", "B")
    work(first, "a")
    kept = site.keys()
    for store in site.stores:
        store.close()
    site.lose_memory()
    _, second = site.join("A", "B")
    second.acquire(ask("b", cost_usd=0.3))
    site.lose_memory(kept)
    for store in site.stores:
        store.view()
    assert site.used(second)["cost_usd", None] == site.used(second)["cost_usd", "day"] == 0.3


@pytest.mark.parametrize("others", [1, 7])
def test_what_a_late_replica_alone_knows_counts(site: Site, others: int) -> None:
    """Nobody waits longer for a replica than leases live."""
    first, second = site.join("A", "B")
    work(second, "a")
    for lease_id in ("b", "c", "d"):
        work(first, lease_id)
    site.lose_memory()
    assert getattr(second.acquire(ask("e")), "reason", None) is RefusalReason.RECOVERING
    site.clock.advance(MAX_TTL_S + 1.0)  # the first has nothing to do meanwhile
    for k in range(others):
        work(second, f"f{k}")
    used = [site.used(store)["cost_usd", None] for store in (second, first, second)]
    assert used == [pytest.approx(each) for each in (0.1 + 0.1 * others, *2 * [max(0.4, 0.1 + 0.1 * others)])]
    work(second, "g")
    site.lose_memory()
    first.view()
    second.view()
    assert site.used(first)["cost_usd", None] == pytest.approx(used[1] + 0.1)


@pytest.mark.parametrize("wait_s", [0.0, MAX_TTL_S + 1.0])
def test_what_was_settled_is_not_taken_back_where_nothing_was_lost(site: Site, wait_s: float) -> None:
    """The second has heard of the estimate, and joins before or after the wait for it is over."""
    first, second = site.join("A", "B")
    first.acquire(ask("a"))
    work(second, "b")
    first.release("a", tokens=None, cost_nano_usd=0)
    site.lose_memory(site.keys())
    first.view()
    site.clock.advance(wait_s)
    second.view()
    site.lose_memory(site.keys())
    for store in (second, first):
        store.view()
    assert site.used(first)["cost_usd", None] == 0.1


def test_a_report_whose_reply_was_lost_is_not_taken_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have reported, the wait is over, and work goes on; then one reports once more, knowing less."""
    first, second = site.join("A", "B")
    for lease_id in ("a", "ended", "released"):
        second.acquire(ask(lease_id))
    second.stop("m", StopOwner.OPERATOR, reason="maintenance")
    first.view()
    first.release("a", tokens=None, cost_nano_usd=0)
    site.lose_memory(site.keys())
    first.view()
    run, lost = second._link._run, list[str]()

    def losing(operation: str, *arguments: Any) -> Any:
        reply = run(operation, *arguments)
        if operation == "join" and not lost:
            lost.append(reply[0])
            raise redis.exceptions.ConnectionError("the reply was lost")
        return reply

    monkeypatch.setattr(second._link, "_run", losing)
    second.view()
    first.release("released", tokens=None, cost_nano_usd=0)
    first.end_leases("m")
    first.resume("m", StopOwner.OPERATOR)
    second._link._next_attempt_s = -math.inf
    second.view()
    assert lost == ["joined"]
    assert second._link.up
    assert site.used(first)["cost_usd", None] == 0.1
    row = second.row("m")
    assert (row.active, row.accepting) == (0, True)


def test_a_lease_that_is_over_for_its_holder_does_not_come_back(site: Site) -> None:
    """A server whose clock lags has lost its end: others may have run in its place."""
    first, second = site.join("A", "B")
    for store in (first, second):
        store.configure("m", Limits(max_concurrent=1))
    assert first.acquire(ask("over")._replace(ttl_s=5.0)) is LeaseState.RUNNING
    kept = site.keys()
    site.clock.advance(6.0)
    assert second.acquire(ask("next")) is LeaseState.RUNNING
    site.lose_memory(kept)
    [expiry] = [key for key in kept if key.endswith(b":expiry")]
    site.real.zincrby(expiry, 30.0, "over")
    second.view()
    assert first.renew("over", 30.0) is LeaseState.GONE
    assert [second.lease_state("next"), first.row("m").active] == [LeaseState.RUNNING, 1]


def test_a_day_that_is_over_does_not_come_back(site: Site) -> None:
    (store,) = site.join("A")
    work(store, "a")
    assert site.used(store)["cost_usd", "day"] == 0.1
    site.clock.advance(40.0)  # past midnight
    site.lose_memory()
    assert site.used(store) == {("requests", 60.0): 1, ("cost_usd", None): 0.1, ("cost_usd", "day"): 0.0}
    site.clock.advance(70.0)
    site.lose_memory()
    assert site.used(store)["requests", 60.0] == 0


def test_a_child_of_a_fork_does_not_repeat_what_its_parent_has_heard(site: Site) -> None:
    (store,) = site.join("A")
    work(store, "a")
    site.clock.advance(50.0)
    work(store, "b")
    site.clock.advance(15.0)
    child = multiprocessing.get_context("fork").Process(target=store.view)
    child.start()
    child.join(30.0)
    assert child.exitcode == 0
    assert site.used(store)["requests", 60.0] == 1


@pytest.mark.parametrize("recent", [0, 1])
def test_what_has_left_its_window_is_not_given_back(site: Site, recent: int) -> None:
    """A lease is older than a window and than the day: what others have used since is not given back with it."""
    (store,) = site.join("A")
    window = UsageLimit(resource="requests", amount=10, period=12.0)
    store.configure("m", Limits(max_concurrent=9, budget_nano_usd=10**9, further=(DAY, window)))
    store.configure("n", Limits(max_concurrent=9))
    store.acquire(ask("old")._replace(ttl_s=MAX_TTL_S))
    site.clock.advance(35.0)  # past midnight
    for k in range(recent):
        work(store, f"recent {k}")
    site.lose_memory()
    store.renew("old", MAX_TTL_S)
    work(store, "new")
    store.move("old", ask("moved", cost_usd=0.2)._replace(model="n"))
    used = site.used(store)
    assert (used["requests", 12.0], used["cost_usd", "day"]) == (1 + recent, 0.1 + 0.1 * recent)


@pytest.mark.parametrize("first_to_join", [0, 1])
def test_what_was_reset_by_hand_does_not_come_back(site: Site, first_to_join: int) -> None:
    """Not even what running leases were charged with before."""
    stores = site.join("A", "B")
    work(stores[0], "a")
    stores[0].acquire(ask("held"))
    stores[1].acquire(ask("held too"))
    stores[1].reset_usage("m")
    site.lose_memory()
    stores[first_to_join].view()
    stores[1 - first_to_join].view()
    assert set(site.used(stores[0]).values()) == {0.0}
    stores[0].release("held", tokens=None, cost_nano_usd=0)
    stores[1].release("held too", tokens=None, cost_nano_usd=9 * 10**8)
    work(stores[0], "b")
    assert site.used(stores[0])["cost_usd", None] == 0.1
