"""Both stores answer one history alike: limits of all kinds, pools, tenants, priorities and moves."""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis

from solver.clock import ManualClock
from solver.load.lease import Ask, Demand, ReleaseOutcome
from solver.load.refusal import Refusal
from solver.load.store.base import Limits
from solver.load.store.memory import MemoryStore
from solver.load.store.queue_rules import QueueRules
from solver.load.store.redis import RedisStore
from solver.load.store.usage_limits import UsageLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.store.base import Store
    from tests.redis_server import RedisServer

COUNT = int(os.environ.get("SOLVER_AGREEMENTS", "12"))
FIRST = int(os.environ.get("SOLVER_AGREEMENTS_SEED", "0"))
TELLING = (196, 389, 1420, 100244, 100379, 200384, 201130, 203831, 8000669)
"""Histories in which leases change at the very moment that a measurement is of; in which a lease that moves leaves
room in a pool for which another model's lease waits; in which all leases of a measured model are ended at once; in
which the rules of a queue change; in which a refused plan has let its own leases start and pay; in which a waiting
lease moves within its model; in which two models' leases wait for a pool since the same
moment; in which a lease is settled while a limit of the month is not set; and in which a waiting lease that moves is
refused tokens of a pool that it is charged for itself."""

NAMESPACES = itertools.count()
MODELS = ("a", "b", "c")
START_S = 1_777_000_000.0  # a day in April


def random_limits(rng: random.Random, pools: tuple[str, ...], *, pool: bool = False) -> Limits:
    if not pool and rng.random() < 0.3:  # what the script answers in few steps
        return Limits(
            max_concurrent=rng.randrange(1, 6),
            max_queue=rng.choice((0, 0, 3)),
            requests=rng.choice((None, 3, 20)),
            tokens=rng.choice((None, 50, 400)),
            budget_nano_usd=rng.choice((None, 5 * 10**9, 40 * 10**9)),
            budget_period_s=rng.choice((None, 100.0)),
        )

    def some(*values: Any) -> Any:
        return rng.choice((None, None, *values))

    further = tuple(
        UsageLimit(resource="requests", amount=rng.randrange(1, 12), period=rng.choice((1, 7.5, 90.0, 86400)))
        for _ in range(rng.choice((0, 0, 1, 2)))
    )
    if rng.random() < 0.3:
        period: Any = rng.choice(("day", "week", "month"))
        further += (
            UsageLimit(
                resource=rng.choice(("tokens", "cost_usd")),
                amount=rng.choice((30, 200)),
                period=period,
                time_zone="Europe/Berlin",
            ),
        )
    return Limits(
        max_concurrent=rng.randrange(1, 6),
        max_queue=0 if pool else rng.randrange(0, 5),
        requests=some(3, 20),
        tokens=some(50, 400),
        budget_nano_usd=some(5 * 10**9, 40 * 10**9),
        budget_period_s=some(100.0, 1000.0),
        rules=None
        if pool or rng.random() < 0.5
        else QueueRules(
            aging_s=rng.choice((5.0, 30.0)), passes=rng.choice((0.0, 1.0, 4.0)), weights={"t1": 2.0}
        ),
        further=further,
        pools=tuple(rng.sample(pools, rng.randrange(len(pools) + 1))),
    )


class History:
    """One random history; every step is carried out on each store, and the answers are compared."""

    def __init__(self, seed: int, stores: list[Store], clock: ManualClock) -> None:
        self.rng, self.stores, self.clock = random.Random(seed), stores, clock  # noqa: S311 # replays
        self.ids = itertools.count()
        self.held: list[str] = []
        self.log: list[str] = []
        self.rare = random.Random(f"rare {seed}")  # noqa: S311 # replays
        self.forgets = 0.0 if seed in TELLING else 0.02  # those would no longer be what they are kept for

    def both(self, what: str, step: Callable[[Store], Any]) -> Any:
        answers = []
        for store in self.stores:
            try:
                answers.append(plain(step(store)))
            except Exception as error:  # noqa: BLE001 # errors have to agree, too
                answers.append(f"{type(error).__name__}: {error}")
        self.log.append(f"{self.clock.now() - START_S:.3f} {what} -> {answers[0]}")
        assert answers[0] == answers[1], "\n".join(
            [self.log[0], *self.log[-40:], f"first: {answers[0]}", f"second: {answers[1]}"]
        )
        return answers[0]

    def configure(self, model: str, limits: Limits) -> None:
        self.both(f"configure {model} {limits}", lambda store: store.configure(model, limits))

    def set_pool(self, pool: str, limits: Limits) -> None:
        self.both(f"pool {pool} {limits}", lambda store: store.configure_pool(pool, limits))

    def forget(self) -> None:
        """Forget a model, or a pool where nothing draws on it, and set it up anew: at once, or never."""
        model, pool = self.rare.choice(MODELS), self.rare.choice(("p", "q"))
        again = random_limits(self.rare, ("p", "q"))
        if self.rare.random() < 0.5:
            self.both(f"forget {model}", lambda store: store.forget(model))
        elif self.both(f"forget pool {pool}", lambda store: store.forget_pool(pool)) is None:
            self.set_pool(pool, random_limits(self.rare, (), pool=True))
            return
        self.configure(model, again)

    def ask(self) -> Ask:
        rng = self.rng
        return Ask(
            model=rng.choice(MODELS),
            demand=Demand(
                slots=rng.choice((1, 1, 2, 3)),
                tokens=rng.randrange(0, 60),
                cost_usd=rng.randrange(0, 3000) / 1e3,
            ),
            ttl_s=rng.uniform(5.0, 100.0),
            queue=rng.random() < 0.6,
            lease_id=f"l{next(self.ids)}",
            fill_to=rng.choice((1.0, 1.0, 0.5)),
            priority=rng.choice((1.0, 1.0, 0.0, 3.0)),
            tenant=rng.choice((None, "t1", "t2", "t3")),
        )

    def step(self) -> None:
        if self.rare.random() < self.forgets:
            self.forget()
        rng = self.rng
        kind = rng.choices(range(10), weights=(30, 8, 20, 6, 6, 4, 2, 2, 2, 12))[0]
        lease = rng.choice(self.held[-12:]) if self.held else "none"
        if kind == 0:
            ask = self.ask()
            self.both(f"acquire {ask}", lambda store: store.acquire(ask))
            self.held.append(ask.lease_id)
        elif kind == 1:
            asks, whole = [self.ask() for _ in range(3)], rng.random() < 0.5
            self.both(f"many {asks}", lambda store: store.acquire_many(asks, whole_plan=whole))
            self.held += [ask.lease_id for ask in asks]
        elif kind == 2:
            used = (rng.choice((None, rng.randrange(80))), rng.choice((None, rng.randrange(4 * 10**9))))
            self.both(
                f"release {lease} {used}",
                lambda store: store.release(lease, tokens=used[0], cost_nano_usd=used[1]),
            )
        elif kind == 3:
            ttl = rng.uniform(1.0, 100.0)
            self.both(f"renew {lease}", lambda store: store.renew(lease, ttl))
        elif kind == 4:
            ask = self.ask()
            self.both(f"move {lease} {ask}", lambda store: store.move(lease, ask))
            self.held.append(ask.lease_id)
        elif kind == 5:
            model, active, age = rng.choice(MODELS), rng.randrange(5), rng.choice((0.0, 0.0, 3.0, 20.0))
            self.both(
                f"observe {model} {active} {age}",
                lambda store: store.observe(model, active=active, queue=0, ttl_s=30.0, age_s=age),
            )
        elif kind == 6:
            model, limits = rng.choice(MODELS), random_limits(rng, ("p", "q"))
            self.configure(model, limits)
        elif kind == 7:
            pool = rng.choice(("p", "q"))
            limits = random_limits(rng, ("q",) if pool == "p" else (), pool=True)
            self.set_pool(pool, limits)
        elif kind == 8:
            what = rng.choice(("reset_usage", "end_leases"))
            model = rng.choice(MODELS)
            self.both(f"{what} {model}", lambda store: getattr(store, what)(model))
        else:
            seconds = rng.choice((0.1, 1.0, 10.0, 61.0, 2900.0)) * rng.random()
            self.clock.advance(seconds)
            if seconds > 100.0:  # a server settles what has ended for ten minutes, a process the last 10,000
                self.held.clear()
        model = rng.choice(MODELS)
        self.both(f"queued {model}", lambda store: store.queued_leases(model))
        self.both(f"before {lease}", lambda store: store.slots_before(model, lease))
        self.both(f"row {model}", lambda store: store.row(model))
        self.both("view", lambda store: store.view())
        self.both("pool", lambda store: store.pool_row("q"))


def plain(answer: Any) -> Any:
    """Return an answer as something that compares, times rounded."""
    if isinstance(answer, list):
        return [plain(each) for each in answer]
    if isinstance(answer, Refusal):
        wait = answer.retry_after_s
        return (answer.model, answer.reason, None if wait is None else round(wait, 5), answer.pool)
    if hasattr(answer, "meter_used"):
        left = answer.meter_limit - answer.meter_used
        free = None if answer.pool_free is None else answer.pool_free.tolist()
        return (
            answer.models,
            answer.active.tolist(),
            answer.queued.tolist(),
            np.round(left, 3).tolist(),
            free,
        )
    if hasattr(answer, "limits"):
        meters = sorted(str(each) for each in answer.meters)
        return (answer.active, answer.queued, str(answer.limits), answer.pool_free, meters)
    return answer


class Lossy(redis.Redis):  # type: ignore[misc]  # redis has no types here
    """Loses one reply in three, of each command at most one."""

    rng: random.Random
    lost = 0
    may_lose = False

    def evalsha(self, *message: Any) -> Any:
        reply = super().evalsha(*message)
        if self.may_lose and message[3] not in ("join", "configure") and self.rng.random() < 1 / 3:
            self.may_lose = False
            self.lost += 1
            raise redis.exceptions.ConnectionError("the reply was lost")
        return reply


class LossyHistory(History):
    """A history with lost replies. The second attempt finds part of a batch granted, and a release done."""

    client: Lossy

    def both(self, what: str, step: Callable[[Store], Any]) -> Any:
        self.client.may_lose = True

        def loosely(store: Store) -> Any:
            answer = step(store)
            if what.startswith("many"):
                return [isinstance(each, Refusal) for each in answer]
            over = (ReleaseOutcome.EXPIRED, ReleaseOutcome.UNKNOWN)
            return "over" if what.startswith("release") and answer in over else answer

        return super().both(what, loosely)


@pytest.fixture
def agree(redis_server: RedisServer) -> Callable[..., int]:
    def run(seed: int, *, lossy: bool = False) -> int:
        clock = ManualClock(START_S)
        client = Lossy(port=redis_server.port, socket_timeout=5.0)
        client.rng = random.Random(seed)  # noqa: S311 # replays
        shared = RedisStore(
            client, replicas=1, namespace=f"agree-{next(NAMESPACES)}", clock=clock, retry_s=1e-6
        )
        kind = LossyHistory if lossy else History
        history = kind(seed, [MemoryStore(clock=clock), shared], clock)
        history.log.append(f"history {seed}")
        if isinstance(history, LossyHistory):
            history.client = client
        rng = random.Random(-seed)  # noqa: S311 # as above
        for pool in ("q", "p"):
            limits = random_limits(rng, ("q",) if pool == "p" else (), pool=True)
            history.set_pool(pool, limits)
        for model in MODELS:
            limits = random_limits(rng, ("p", "q"))
            history.configure(model, limits)
        for _ in range(60):
            history.step()
        shared.close()
        return client.lost

    return run


def test_any_history_has_one_answer(agree: Callable[..., int]) -> None:
    for seed in (*range(FIRST, FIRST + COUNT), *TELLING):
        agree(seed)


def test_a_lost_reply_changes_no_answer(agree: Callable[..., int]) -> None:
    assert sum(agree(seed, lossy=True) for seed in range(FIRST, FIRST + COUNT)) > 20 * COUNT
