"""One schedule: clients at work on a store under faults, judged by a count that the store knows nothing of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis

from solver.load.lease import Ask, Demand, LeaseState, ReleaseOutcome
from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.base import Limits
from solver.load.store.memory import MemoryStore
from tests.simulation.world import (
    Coroutine,
    Faults,
    FaultyClient,
    FaultyMemoryStore,
    Lost,
    Network,
    SkewedClock,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = ("a", "b")
MAX_TTL_S = 40.0
WORK_S = 90.0  # of each schedule
MARGIN = 0.95  # of its time to live that a holder works: clocks differ by up to a hundredth
UNLIMITED_NANO_USD = 10**15
TROUBLES = ("down", "down", "down", "script", "fail_over", "fail_over", "step", "step", "memory", "key")


@dataclass
class Work:
    """What one client believes to hold: it works on it until then, in true time."""

    model: str
    slots: int
    until_s: float


@dataclass(frozen=True)
class Verdict:
    """What the independent count has found wrong; empty when nothing."""

    seed: int
    store: str
    wrong: tuple[str, ...]
    grants: int
    lost_memory: bool


class Judge:
    """Counts what really runs, and what was really spent."""

    def __init__(self, world: World, caps: dict[str, int]) -> None:
        self.world = world
        self.caps = caps
        self.working: dict[str, Work] = {}
        self.grants = 0
        self.wrong: list[str] = []
        self.least_spent = 0
        self.most_spent = 0

    def begins(self, lease_id: str, work: Work) -> None:
        self.grants += 1
        self.working[lease_id] = work
        running = sum(
            each.slots
            for each in self.working.values()
            if each.model == work.model and each.until_s > self.world.now_s
        )
        if running > self.caps[work.model]:
            self.wrong.append(
                f"at {self.world.now_s:.3f} s {running} run on {self.caps[work.model]} slots of {work.model}"
            )

    def ends(self, lease_id: str) -> None:
        self.working.pop(lease_id, None)

    def spent(self, least: int, most: int) -> None:
        self.least_spent += least
        self.most_spent += most


class Client:
    """One process: takes, renews, moves and gives back leases; pauses, crashes and comes back."""

    def __init__(
        self, world: World, judge: Judge, name: str, connect: Callable[[str, SkewedClock], Any]
    ) -> None:
        self.world, self.judge, self.name, self._connect = world, judge, name, connect
        self.clock = SkewedClock(world, world.rng.uniform(0.99, 1.01), world.rng.uniform(-1e4, 1e4))
        self.store = connect(name, self.clock)
        self.ids = itertools.count()
        self.mine: dict[str, Ask] = {}
        self.outside = 0
        self.crashed = False

    def live(self, until_s: float) -> Coroutine:
        steps = (
            self.take,
            self.take,
            self.take,
            self.give_back,
            self.renew,
            self.look,
            self.move,
            self.outsiders,
        )
        rng = self.world.rng
        while self.world.now_s < until_s:
            if rng.random() < 0.03:
                yield rng.uniform(1.0, 30.0)  # the process is paused, and its work with it
            elif rng.random() < 0.02:
                self.crash()
                yield rng.uniform(0.0, 5.0)
            else:
                rng.choice(steps)()
                yield rng.expovariate(0.7)
        self.outside_ends()

    def _pick(self) -> str | None:
        return self.world.rng.choice(sorted(self.mine)) if self.mine else None

    def _works(self, lease_id: str, sent_s: float) -> None:
        ask = self.mine[lease_id]
        until_s = sent_s + ask.ttl_s * MARGIN
        self.judge.begins(lease_id, Work(ask.model, ask.demand.slots, until_s))

    def take(self) -> None:
        rng, lease_id = self.world.rng, f"{self.name}-{next(self.ids)}"
        ask = Ask(
            model=rng.choice(MODELS),
            demand=Demand(slots=rng.choice((1, 1, 2)), cost_usd=rng.randrange(1, 100) / 1e9),
            ttl_s=rng.uniform(2.0, MAX_TTL_S),
            queue=rng.random() < 0.3,
            lease_id=lease_id,
            fill_to=rng.choice((1.0, 1.0, 0.5)),
        )
        cost, sent_s = round(ask.demand.cost_usd * 1e9), self.world.now_s
        try:
            answer = self.store.acquire(ask)
        except Lost:
            self.judge.spent(0, cost)
            return
        if isinstance(answer, Refusal):
            if answer.reason is RefusalReason.STORE_UNAVAILABLE:
                self.judge.spent(0, cost)  # it may have been granted, and taken back later
            return
        self.mine[lease_id] = ask
        if answer is LeaseState.RUNNING:
            self._works(lease_id, sent_s)

    def give_back(self) -> None:
        lease_id = self._pick()
        if lease_id is None:
            return
        ask, actual = self.mine.pop(lease_id), self.world.rng.randrange(0, 200)
        estimate = round(ask.demand.cost_usd * 1e9)
        self.judge.ends(lease_id)
        for _ in range(2):  # a second release changes nothing
            try:
                outcome = self.store.release(lease_id, tokens=None, cost_nano_usd=actual)
            except Lost:
                self.judge.spent(min(estimate, actual), max(estimate, actual))
                return
            if outcome in (ReleaseOutcome.RELEASED, ReleaseOutcome.EXPIRED):
                self.judge.spent(actual, actual)
            elif outcome is ReleaseOutcome.DEFERRED:  # a crash may lose it
                self.judge.spent(min(estimate, actual), max(estimate, actual))
            else:
                self.judge.wrong.append(f"release of {lease_id} found {outcome.value}")
            if not self.world.chance(0.2):
                return
            try:
                again = self.store.release(lease_id, tokens=None, cost_nano_usd=actual)
            except Lost:
                return
            if again not in (ReleaseOutcome.UNKNOWN, ReleaseOutcome.DEFERRED):
                self.judge.wrong.append(f"second release of {lease_id} found {again.value}")
            return

    def renew(self) -> None:
        lease_id = self._pick()
        if lease_id is None:
            return
        sent_s, ttl_s = self.world.now_s, self.world.rng.uniform(2.0, MAX_TTL_S)
        try:
            state = self.store.renew(lease_id, ttl_s)
        except Lost:
            self._doubt(lease_id, sent_s, ttl_s)
            return
        ask = self.mine[lease_id]
        if state is LeaseState.GONE:
            self._forgo(lease_id)
        elif lease_id in self.judge.working:
            self._doubt(lease_id, sent_s, ttl_s)  # during an outage it lives no longer than it did
        elif state is LeaseState.RUNNING:
            self.judge.begins(lease_id, Work(ask.model, ask.demand.slots, sent_s + ttl_s * MARGIN))

    def _doubt(self, lease_id: str, sent_s: float, ttl_s: float) -> None:
        """Count on the shorter of two times to live where the answer leaves both possible."""
        work = self.judge.working.get(lease_id)
        if work is not None:
            work.until_s = min(work.until_s, sent_s + ttl_s * MARGIN)

    def _forgo(self, lease_id: str) -> None:
        """The store has ended it: no more work on it, and the estimate stays charged."""
        ask = self.mine.pop(lease_id)
        self.judge.ends(lease_id)
        cost = round(ask.demand.cost_usd * 1e9)
        self.judge.spent(cost, cost)

    def look(self) -> None:
        lease_id = self._pick()
        if lease_id is None:
            return
        sent_s = self.world.now_s
        try:
            state = self.store.lease_state(lease_id)
        except Lost:
            return
        if state is LeaseState.GONE:
            self._forgo(lease_id)
        elif state is LeaseState.RUNNING and lease_id not in self.judge.working:
            # It was promoted: nobody knows how long ago it was renewed, so work begins with a renewal.
            ask = self.mine[lease_id]
            try:
                renewed = self.store.renew(lease_id, ask.ttl_s)
            except Lost:
                return
            if renewed is LeaseState.RUNNING and self._answers():
                self._works(lease_id, sent_s)

    def _answers(self) -> bool:
        """Whether the last renewal was one of the server's: without it, a lease keeps the time it has."""
        link = getattr(self.store, "_link", None)
        return link is None or link.up

    def move(self) -> None:
        lease_id = self._pick()
        if lease_id is None:
            return
        old, new_id, sent_s = self.mine[lease_id], f"{self.name}-{next(self.ids)}", self.world.now_s
        ask = Ask(
            model=self.world.rng.choice(MODELS),
            demand=old.demand,
            ttl_s=old.ttl_s,
            lease_id=new_id,
            queue=False,
        )
        cost = round(ask.demand.cost_usd * 1e9)
        answer = self.store.move(lease_id, ask)
        if isinstance(answer, Refusal):
            if answer.reason is RefusalReason.STORE_UNAVAILABLE:
                self.judge.spent(0, cost)
            return
        if answer is LeaseState.GONE:
            self._forgo(lease_id)
            return
        del self.mine[lease_id]
        self.mine[new_id] = ask
        self.judge.ends(lease_id)
        self.judge.spent(0, cost)  # the old estimate is taken back, unless that comes after its end
        self._works(new_id, sent_s)

    def outsiders(self) -> None:
        change = 1 if self.outside == 0 else -1
        self.store.adjust("b", active=change, queue=0)
        self.outside += change

    def outside_ends(self) -> None:
        if self.outside:
            self.store.adjust("b", active=-self.outside, queue=0)
            self.outside = 0

    def crash(self) -> None:
        """Lose everything but the name; the work dies with the process, its leases wait for their end."""
        self.outside_ends()  # what would report it survives the process: it is somebody else
        for lease_id, ask in self.mine.items():
            self.judge.ends(lease_id)
            cost = round(ask.demand.cost_usd * 1e9)
            self.judge.spent(cost, cost)
        self.mine.clear()
        if isinstance(self.store, FaultyMemoryStore):
            return
        self.crashed = self.crashed or bool(self.store._memory.unsent)
        self.store.close()
        self.name = self.name.split("/")[0] + f"/{next(self.ids)}"
        self.store = self._connect(self.name.split("/")[0], self.clock)


def _random_faults(world: World, late_by_s: float) -> Faults:
    rng = world.rng
    level = rng.choice((0.0, 0.02, 0.1))
    return Faults(
        request_lost=rng.random() * level,
        reply_lost=rng.random() * level,
        late=rng.random() * level,
        doubled=rng.random() * level,
        late_by_s=late_by_s,
    )


def run_memory(seed: int) -> Verdict:
    """Run one schedule over the store of one process."""
    world = World(seed)
    clock = SkewedClock(world)
    store = MemoryStore(clock=clock)
    caps = _configure(store, world)
    network = Network(
        world, _random_faults(world, 0.0)
    )  # within a process nothing comes after what follows it
    judge = Judge(world, caps)
    clients = [
        Client(world, judge, f"c{k}", lambda _name, _clock: FaultyMemoryStore(store, network))
        for k in range(world.rng.randrange(2, 5))
    ]
    for client in clients:
        world.start(client.live(WORK_S))
    world.run(WORK_S + 40.0)
    network.mend()
    _check_end(world, judge, store, clients, lossless=True)
    return Verdict(seed, "memory", tuple(judge.wrong), judge.grants, False)


class RedisSchedules:
    """Runs schedules over a real Redis server, each from an empty database.

    Parameters
    ----------
    port : int
        Of a server on this machine that nobody else uses.
    """

    def __init__(self, port: int) -> None:
        self._real = redis.Redis(port=port, socket_timeout=10.0)

    def run(self, seed: int) -> Verdict:
        """Run one schedule."""
        from solver.load.store.redis import RedisStore

        self._real.flushdb()
        world = World(seed)
        rng = world.rng
        network = Network(world, _random_faults(world, 8.0))
        server_clock = SkewedClock(world, offset_s=1e9)
        lives = itertools.count()
        life = [next(lives)]
        lost_memory, lost_key = [False], [False]
        number = rng.randrange(2, 4)
        local_share = rng.random() < 0.2

        def connect(name: str, clock: SkewedClock) -> RedisStore:
            client = FaultyClient(self._real, network, server_clock, lambda: f"run-{life[0]}")
            store = RedisStore(
                client,
                replicas=number,
                name=name,
                max_ttl_s=MAX_TTL_S,
                retry_s=0.2,
                on_outage="local_share" if local_share else "refuse",
            )
            for part in (store._link, store._memory, store._heartbeat):
                for attribute in ("clock", "_clock", "_wall"):
                    if hasattr(part, attribute):
                        setattr(part, attribute, clock)
            store._link.last_answer_s = clock.now()
            for model, limits in wanted.items():
                store.configure(model, limits)
            return store

        caps = {model: rng.randrange(1, 5) for model in MODELS}
        wanted = {model: _limits(cap) for model, cap in caps.items()}
        judge = Judge(world, caps)
        clients = [Client(world, judge, f"c{k}", connect) for k in range(number)]

        def trouble() -> Coroutine:
            while world.now_s < WORK_S:
                yield rng.uniform(5.0, 40.0)
                kind = rng.choice(TROUBLES)
                if kind == "down":
                    network.server_up = False
                    yield rng.uniform(0.1, 20.0)
                    network.server_up = True
                elif kind == "memory":
                    lost_memory[0] = True
                    network.server_up = False
                    self._real.flushdb()
                    life[0] = next(lives)
                    yield rng.uniform(0.0, 3.0)
                    network.server_up = True
                elif kind == "script":
                    self._real.script_flush()
                elif kind == "fail_over":
                    self._real.script_flush()
                    life[0] = next(lives)
                elif kind == "key":
                    keys = sorted(key for key in self._real.keys("*") if b":w:" not in key)
                    if keys:
                        lost_memory[0] = lost_key[0] = True  # what was charged may be lost with it
                        self._real.delete(rng.choice(keys))
                else:
                    server_clock.offset_s += rng.choice((-3600.0, -5.0, 5.0, 3600.0))

        for client in clients:
            world.start(client.live(WORK_S))
        world.start(trouble())
        world.run(WORK_S + 45.0)
        network.mend()
        for _ in range(2):  # whoever is still down joins again
            world.run(world.now_s + 1.0)
            for client in clients:
                client.store.view()
        crashed = any(client.crashed for client in clients)
        _check_end(
            world,
            judge,
            clients[0].store,
            clients,
            lossless=not lost_memory[0],
            outside_known=not (crashed or lost_key[0]),
        )
        for client in clients:
            client.store.close()
        if lost_memory[
            0
        ]:  # a lease that had ended may be settled no longer; one that lost its key is unknown
            judge.wrong = [line for line in judge.wrong if "found unknown" not in line]
        return Verdict(seed, "redis", tuple(judge.wrong), judge.grants, lost_memory[0])


def _limits(cap: int) -> Limits:
    return Limits(max_concurrent=cap, max_queue=2, budget_nano_usd=UNLIMITED_NANO_USD)


def _configure(store: MemoryStore, world: World) -> dict[str, int]:
    caps = {model: world.rng.randrange(1, 5) for model in MODELS}
    for model, cap in caps.items():
        store.configure(model, _limits(cap))
    return caps


def _check_end(
    world: World,
    judge: Judge,
    store: Any,
    clients: list[Client],
    *,
    lossless: bool,
    outside_known: bool = True,
) -> None:
    """After every time to live is over, nothing is taken, everything is charged, and work goes on."""
    world.run(world.now_s + MAX_TTL_S)
    for client in clients:
        client.store.lease_state("nobody") if not isinstance(client.store, FaultyMemoryStore) else None
    world.run(world.now_s + 1.0)
    view = store.view()
    taken = dict(zip(view.models, (view.active + view.queued).tolist(), strict=True))
    if taken["a"] or (taken["b"] and outside_known):
        judge.wrong.append(f"leaked: {taken}")
    for client in clients:
        for ask in client.mine.values():  # never released: the estimate stays charged
            cost = round(ask.demand.cost_usd * 1e9)
            judge.spent(cost, cost)
    charged = int(view.meter_used[2].sum())
    if lossless and not judge.least_spent <= charged <= judge.most_spent:
        judge.wrong.append(f"charged {charged}, really {judge.least_spent} to {judge.most_spent}")
    answer = store.acquire(Ask(model="a", lease_id="last", ttl_s=5.0))
    if answer is not LeaseState.RUNNING:
        judge.wrong.append(f"stuck: {answer}")
