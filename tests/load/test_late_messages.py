"""Copies of messages that come after others, and steps of a server's clock, one at a time and on purpose."""

from __future__ import annotations

import itertools
import random
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import redis

from solver.load.lease import Ask, Demand, LeaseState
from solver.load.refusal import RefusalReason
from solver.load.store.base import Limits
from solver.load.store.redis import RedisStore
from tests.simulation.world import Faults, FaultyClient, Network, SkewedClock, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.redis_server import RedisServer

NUMBERS = itertools.count()
MAX_TTL_S = 40.0


@dataclass
class Recorder(FaultyClient):
    """Remembers what was sent, so that a copy of it can be sent later."""

    sent: list[tuple[Any, ...]] = field(default_factory=list)

    def evalsha(self, *message: Any) -> Any:
        self.sent.append(message)
        return super().evalsha(*message)


@dataclass
class Site:
    """A Redis server on a clock of the test's, and the processes that share it."""

    real: redis.Redis
    namespace: str
    world: World = field(default_factory=lambda: World(1))
    stores: list[RedisStore] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server_clock = SkewedClock(self.world, offset_s=1e9)
        self.network = Network(self.world, Faults())

    def join(self, name: str, **options: Any) -> tuple[RedisStore, Recorder]:
        client = Recorder(self.real, self.network, self.server_clock, lambda: "run1")
        store = RedisStore(
            client,
            **{"replicas": 1, "max_ttl_s": MAX_TTL_S, "namespace": self.namespace, **options},
            name=name,
        )
        clock = SkewedClock(self.world)
        for part in (store._link, store._memory, store._heartbeat):
            for attribute in ("clock", "_clock", "_wall"):
                if hasattr(part, attribute):
                    setattr(part, attribute, clock)
        store._link.last_answer_s = clock.now()
        store.configure("m", Limits(max_concurrent=1, tokens=1000, budget_nano_usd=10**12))
        self.stores.append(store)
        return store, client


@pytest.fixture
def site(redis_server: RedisServer) -> Iterator[Site]:
    with redis.Redis(port=redis_server.port) as real:
        site = Site(real, f"late-{next(NUMBERS)}")
        yield site
        for store in site.stores:
            store.close()


def ask(lease_id: str, ttl_s: float = 30.0) -> Ask:
    return Ask(model="m", lease_id=lease_id, ttl_s=ttl_s, demand=Demand(tokens=100, cost_usd=1e-9))


def test_a_copy_of_an_acquisition_after_its_release_takes_nothing(site: Site) -> None:
    store, client = site.join("a")
    assert store.acquire(ask("x")) is LeaseState.RUNNING
    copy = client.sent[-1]
    store.release("x", tokens=None, cost_nano_usd=None)
    before = store.view()
    for _ in range(2):
        client.evalsha(*copy)
    after = store.view()
    assert after.active.tolist() == [0]
    assert after.meter_used.tolist() == before.meter_used.tolist()
    assert store.acquire(ask("x")) is LeaseState.RUNNING  # by its holder, on purpose


def test_a_copy_of_a_refused_acquisition_takes_nothing(site: Site) -> None:
    store, client = site.join("a")
    store.acquire(ask("x"))
    refused = store.acquire(ask("y"))
    copy = client.sent[-1]
    assert getattr(refused, "reason", None) is RefusalReason.CONCURRENCY
    store.release("x", tokens=None, cost_nano_usd=None)
    client.evalsha(*copy)
    assert store.view().active.tolist() == [0]


def test_a_first_attempt_that_comes_after_the_second_takes_nothing(site: Site) -> None:
    store, _ = site.join("a")
    store.row("m")
    site.network.faults = Faults(request_lost=1.0)  # the first attempt waits in a cable
    failed = []
    send = site.network.send

    def once(work: Any, failure: Any, sender: str) -> Any:
        failed.append(work)
        site.network.send = send  # type: ignore[method-assign]
        site.network.faults = Faults()
        raise failure(f"{sender}: late")

    site.network.send = once  # type: ignore[method-assign, assignment]
    assert store.acquire(ask("x")) is LeaseState.RUNNING
    store.release("x", tokens=None, cost_nano_usd=None)
    failed[0]()
    assert store.view().active.tolist() == [0]


def test_a_copy_of_a_stop_does_not_stop_again_what_was_resumed(site: Site) -> None:
    store, client = site.join("a")
    store.stop("m", "operator")
    copy = client.sent[-1]
    store.resume("m", "operator")
    client.evalsha(*copy)
    assert store.row("m").accepting


@pytest.mark.parametrize("step_s", [5.0, 20.0, 39.0, 3600.0])
def test_a_fresh_process_does_not_take_a_step_of_the_clock_for_time(site: Site, step_s: float) -> None:
    old, _ = site.join("a", replicas=2)
    fresh, _ = site.join("b", replicas=2)
    assert old.acquire(ask("x", ttl_s=4.0)) is LeaseState.RUNNING
    site.world.now_s += 1.0
    site.server_clock.offset_s += step_s
    fresh.close()
    again, _ = site.join("b", replicas=2)  # started anew: it has never heard what time it was
    answer = again.acquire(ask("y"))
    assert getattr(answer, "reason", None) is RefusalReason.CONCURRENCY
    assert old.lease_state("x") is LeaseState.RUNNING
    site.world.now_s += 10.0
    assert old.lease_state("x") is LeaseState.GONE


def test_a_late_message_does_not_take_a_second_step_of_the_clock_for_time(site: Site) -> None:
    """It said what time it was after the first step, and comes after the second."""
    holder, _ = site.join("a", replicas=2)
    other, client = site.join("b", replicas=2)
    assert holder.acquire(ask("x", ttl_s=30.0)) is LeaseState.RUNNING
    other.view()
    site.server_clock.offset_s += 5.0
    other.view()
    late = client.sent[-1]
    assert late[10].startswith("set")
    site.world.now_s += 3.0
    site.server_clock.offset_s += 3600.0
    assert client.evalsha(*late)[1][0] == b"late"
    assert holder.lease_state("x") is LeaseState.RUNNING
    assert getattr(other.acquire(ask("y")), "reason", None) is RefusalReason.CONCURRENCY


STEPS_S = pytest.mark.parametrize("step_s", [-30.0, 5.0, 3600.0])


@STEPS_S
def test_time_that_one_did_not_know_of_ends_no_lease_early(site: Site, step_s: float) -> None:
    """One was behind when a lease began; the clock is set once more before another, who knows better, tells."""
    ahead, _ = site.join("a", replicas=2)
    site.world.now_s = 3.0
    site.server_clock.offset_s -= 5.0
    behind, _ = site.join("b", replicas=2)  # it learns that it is 0 s
    site.world.now_s = 3.2
    assert behind.acquire(ask("x", ttl_s=7.0)) is LeaseState.RUNNING
    _set_clock_and_check(site, step_s, ahead, behind, until_s=10.2)


@STEPS_S
def test_time_that_one_had_to_be_told_ends_no_lease_early(site: Site, step_s: float) -> None:
    ahead, _ = site.join("a", replicas=2)
    site.world.now_s = 3.0
    site.server_clock.offset_s -= 5.0
    behind, _ = site.join("b", replicas=2)
    site.world.now_s = 4.0
    ahead.view()
    site.world.now_s = 4.8
    assert behind.acquire(ask("x", ttl_s=7.0)) is LeaseState.RUNNING
    _set_clock_and_check(site, step_s, ahead, behind, until_s=11.8)


@STEPS_S
def test_time_that_nobody_knew_of_when_the_clock_was_set_back_ends_no_lease_early(
    site: Site, step_s: float
) -> None:
    ahead, _ = site.join("a", replicas=2)
    site.world.now_s = 2.2
    ahead.view()
    site.server_clock.offset_s -= 5.0
    site.world.now_s = 3.0
    behind, client = site.join("b", replicas=2)  # it learns that it is 2.2 s
    site.world.now_s = 3.2
    ahead.view()
    site.server_clock.offset_s -= 5.0
    site.world.now_s = 3.9
    assert behind.acquire(ask("x", ttl_s=7.0)) is LeaseState.RUNNING  # at 3.2 s, by the server
    assert not client.sent[-1][10].startswith("set")
    _set_clock_and_check(site, step_s, ahead, behind, until_s=10.9)


def _set_clock_and_check(
    site: Site, step_s: float, ahead: RedisStore, behind: RedisStore, until_s: float
) -> None:
    """The clock is set once more, and one that knows the time comes next; the lease runs as long as it may."""
    site.world.now_s = 6.0
    site.server_clock.offset_s += step_s
    site.world.now_s = 9.0
    ahead.view()
    site.world.now_s = until_s - 0.2
    assert getattr(ahead.acquire(ask("y")), "reason", None) is RefusalReason.CONCURRENCY
    assert behind.lease_state("x") is LeaseState.RUNNING
    site.world.now_s = until_s + 9.0
    assert ahead.lease_state("x") is LeaseState.GONE


@pytest.mark.parametrize("between_s", [2.0, 5.0, 12.0])
def test_two_that_speak_in_turn_agree_on_the_time_after_a_step(site: Site, between_s: float) -> None:
    """A process that starts after the step takes it for time; another, which does not, is told once, not each time."""
    holder, one = site.join("a", replicas=2)
    old, _ = site.join("b", replicas=2)
    assert holder.acquire(ask("x", ttl_s=10.0)) is LeaseState.RUNNING
    old.close()
    site.world.now_s = 3.0
    site.server_clock.offset_s += 3600.0
    fresh, other = site.join("b", replicas=2)
    for client in (one, other):
        client.sent.clear()
    for _ in range(10):
        for store in (holder, fresh):
            site.world.now_s += between_s
            store.view()
    assert [message[10][:3] for message in one.sent].count("set") == 1
    assert len(one.sent) == 11
    assert len(other.sent) == 10
    assert holder.lease_state("x") is LeaseState.GONE


def test_a_copy_takes_nothing_after_time_was_made_up_for(site: Site) -> None:
    """Attempts are remembered by the time in which they can be late: its sender may lack what others tell."""
    old, _ = site.join("a", replicas=2)
    ahead, _ = site.join("b", replicas=2)
    site.server_clock.offset_s -= 100.0
    old.close()
    site.world.now_s = 20.0
    store, client = site.join("a", replicas=2)  # it learns that it is 0 s
    site.server_clock.offset_s += 3600.0
    site.world.now_s = 40.0
    store.view()
    assert store.acquire(ask("x")) is LeaseState.RUNNING
    copy = client.sent[-1]
    assert not copy[10].startswith("set")
    store.release("x", tokens=None, cost_nano_usd=None)
    for _ in range(2):
        site.world.now_s += 0.1
        ahead.view()
    assert client.evalsha(*copy)[1][0] == b"copy"
    assert ahead.view().active.tolist() == [0]


def test_a_copy_from_before_the_clock_was_set_back_is_late(site: Site) -> None:
    store, client = site.join("a")
    site.server_clock.offset_s += 3600.0
    assert store.acquire(ask("x")) is LeaseState.RUNNING
    copy = client.sent[-1]
    assert copy[10].startswith("set")
    store.release("x", tokens=None, cost_nano_usd=None)
    site.server_clock.offset_s -= 3600.0
    for _ in range(30):
        site.world.now_s += 1.0
        store.view()
    assert client.evalsha(*copy)[1][0] == b"late"
    assert store.view().active.tolist() == [0]


def test_leases_end_although_every_process_is_new(site: Site) -> None:
    """The gaps between short processes may be steps of the clock, yet they do not freeze leases for ever."""
    store, _ = site.join("p0")
    assert store.acquire(ask("x", ttl_s=30.0)) is LeaseState.RUNNING
    store.close()
    for k in range(1, 60):
        site.world.now_s += 10.0
        store, _ = site.join(f"p{k}")
        answer = store.acquire(ask(f"y{k}"))
        if answer is LeaseState.RUNNING:
            break
        store.close()
    assert 30.0 <= site.world.now_s <= 30.0 + MAX_TTL_S + 20.0


def lease_time_s(site: Site) -> float:
    """The time that has passed for leases, by the server."""
    state = site.real.hget(f"solver:{{{site.namespace}}}:meta", "state")
    _, now_s, uncounted_s = struct.unpack_from("<3d", state)
    return float(now_s - uncounted_s)


@pytest.mark.parametrize("seed", range(100))
def test_no_steps_of_the_clock_make_time_pass_faster_for_leases(site: Site, seed: int) -> None:
    """Whoever speaks when; and once the clock keeps still, no time is lost, and no message sent twice."""
    rng = random.Random(seed)  # noqa: S311 # reproducible on purpose
    number = rng.randrange(2, 5)
    joined = [site.join(f"r{k}", replicas=number) for k in range(number)]
    weights = [0.02 + rng.random() ** 2 for _ in joined]
    rate, steps = rng.choice((0.1, 0.5, 3.0)), rng.choice((0.02, 0.05, 0.1))
    most_ahead_s, least_ahead_s = 0.0, float("inf")
    for _ in range(60):
        site.world.now_s += rng.expovariate(rate)
        if rng.random() < steps:
            site.server_clock.offset_s += rng.choice((-3600.0, -30.0, -5.0, 5.0, 30.0, 3600.0))
            site.world.now_s += rng.expovariate(rate)
        rng.choices(joined, weights)[0][0].lease_state("nobody")
        ahead_s = lease_time_s(site) - site.world.now_s
        least_ahead_s = min(least_ahead_s, ahead_s)
        most_ahead_s = max(most_ahead_s, ahead_s - least_ahead_s)
    assert most_ahead_s < 0.01
    for between_s in (1.0, 1.0, 1.0, 6.0, 6.0, 6.0):
        sent, before_s = sum(len(client.sent) for _, client in joined), lease_time_s(site)
        for store, _ in joined:
            site.world.now_s += between_s
            store.lease_state("nobody")
    assert sum(len(client.sent) for _, client in joined) == sent + number
    assert lease_time_s(site) - before_s == pytest.approx(6.0 * number, abs=0.01)
