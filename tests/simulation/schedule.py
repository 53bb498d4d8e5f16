"""One schedule: clients at work on a store under faults, judged by a count that the store knows nothing of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from solver.load.lease import Ask, LeaseState
from solver.load.refusal import Refusal, RefusalReason
from solver.load.store.memory import MemoryStore
from solver.load.store.redis_server import script, script_hash
from tests.simulation.client import Client
from tests.simulation.contest import contest
from tests.simulation.judge import CLOCKS_DIFFER, Judge, Verdict, day_of
from tests.simulation.scenario import MODELS, Scenario, plain, rich
from tests.simulation.wire import Wire
from tests.simulation.witness import Witness
from tests.simulation.world import (
    Coroutine,
    Faults,
    FaultyClient,
    FaultyMemoryStore,
    Network,
    SkewedClock,
    World,
)

if TYPE_CHECKING:
    from solver.load.store.redis import RedisStore

WORK_S = 90.0  # of each schedule
TROUBLES = ("down", "down", "down", "script", "fail_over", "fail_over", "step", "step", "memory", "key")
CONTEST_EACH = 4  # schedules over Redis, of which one ends in a contest: it takes as long as all the rest
FAIL_OVER_EACH = 3  # schedules over Redis, of which one has fail-overs that lose the last writes
METERED = (RefusalReason.REQUESTS, RefusalReason.TOKENS, RefusalReason.BUDGET)


@dataclass(frozen=True)
class Weather:
    """How often things go wrong over Redis."""

    levels: tuple[float, ...]
    """Shares of messages that are lost, late or doubled, at most."""
    between_s: tuple[float, float]
    """Shortest and longest time between two troubles of the server."""
    between_fail_overs_s: tuple[float, float]
    steps_s: tuple[float, ...]
    """Steps of the server's clock."""


USUAL = Weather((0.0, 0.02, 0.1), (5.0, 40.0), (10.0, 40.0), (-3600.0, -5.0, 5.0, 3600.0))
DENSE = Weather(
    (0.0, 0.05, 0.25), (2.0, 16.0), (5.0, 20.0), (-3600.0, -30.0, -5.0, -1.5, 1.5, 5.0, 30.0, 3600.0)
)


def _random_faults(world: World, late_by_s: float, levels: tuple[float, ...] = USUAL.levels) -> Faults:
    rng = world.rng
    level = rng.choice(levels)
    return Faults(
        request_lost=rng.random() * level,
        reply_lost=rng.random() * level,
        late=rng.random() * level,
        doubled=rng.random() * level,
        late_by_s=late_by_s,
    )


def _configure(store: Any, scenario: Scenario) -> None:
    for pool, limits in scenario.pools.items():
        store.configure_pool(pool, limits)
    for model, limits in scenario.models.items():
        store.configure(model, limits)


def _caps(world: World) -> dict[str, int]:
    return {model: world.rng.randrange(1, 5) for model in MODELS}


def run_memory(seed: int, *, simple: bool = False) -> Verdict:
    """Run one schedule over the store of one process; a ``simple`` one has neither pools nor limits on usage."""
    world = World(seed)
    scenario = plain(_caps(world)) if simple else rich(seed, shared=False)
    store = MemoryStore(clock=SkewedClock(world, offset_s=0.0 if simple else scenario.starts_s))
    _configure(store, scenario)
    witness = Witness(store, world, scenario)
    network = Network(
        world, _random_faults(world, 0.0)
    )  # within a process nothing comes after what follows it
    judge = Judge(world, scenario, lambda: day_of(scenario.starts_s + world.now_s))
    served: Any = store if simple else witness
    clients = [
        Client(world, judge, f"c{k}", lambda _name, _clock: FaultyMemoryStore(served, network))
        for k in range(world.rng.randrange(2, 5))
    ]
    for client in clients:
        world.start(client.live(WORK_S))
    if not simple:
        world.start(_operator(world, witness))
    world.run(WORK_S + 40.0)
    network.mend()
    if not simple:
        witness.check_usage()
        judge.wrong += witness.wrong  # what follows goes past it
    _check_end(world, judge, store, clients, lossless=True)
    if not simple:
        judge.wrong += contest(store, scenario, "b")
    return Verdict(seed, "memory", tuple(judge.wrong), judge.grants, False)


def _operator(world: World, witness: Witness) -> Coroutine:
    """Change slots of models and pools for a while, and compare usage."""
    rng = world.rng
    while world.now_s < WORK_S - 20.0:
        yield rng.uniform(2.0, 20.0)
        witness.check_usage()
        subject = rng.choice(sorted(witness.slots))
        before = witness.slots[subject]
        witness.set_slots(subject, rng.randrange(0, before + 1))  # never more than the judge counts with
        yield rng.uniform(0.0, 5.0)
        witness.set_slots(subject, before)


class RedisSchedules:
    """Runs schedules over a real Redis server, each from an empty database.

    Parameters
    ----------
    port : int
        Of a server on this machine that nobody else uses.
    """

    def __init__(self, port: int) -> None:
        self._real = Wire(port)

    def close(self) -> None:
        """Close the connection."""
        self._real.close()

    def run(self, seed: int, *, simple: bool = False, weather: Weather = USUAL) -> Verdict:
        """Run one schedule; a ``simple`` one has neither pools nor limits on usage."""
        self._real.send("FLUSHDB")
        if self._real.send("SCRIPT", "EXISTS", script_hash()) != [1]:  # each begins alike
            self._real.script_load(script())
        return _SharedSchedule(self._real, seed, simple=simple, weather=weather).run()


class _SharedSchedule:
    """One schedule over Redis."""

    def __init__(self, real: Any, seed: int, *, simple: bool, weather: Weather) -> None:
        self.real, self.seed, self.weather = real, seed, weather
        self.world = world = World(seed)
        rng = world.rng
        self.network = Network(world, _random_faults(world, 8.0, weather.levels))
        self.scenario = Scenario({}, {}) if simple else rich(seed, shared=True)
        self.server_clock = SkewedClock(world, offset_s=self.scenario.starts_s)
        self.latest_wall_s = -1.0
        self.life = 0
        self.lost_memory = self.lost_key = False
        number = rng.randrange(2, 4)
        self.local_share = rng.random() < 0.2 if simple else self.scenario.settle_s is not None
        if simple:
            self.scenario = plain(_caps(world))
        self.number = number
        self.judge = Judge(world, self.scenario, self._day, window_part=CLOCKS_DIFFER)
        self.clients = [Client(world, self.judge, f"c{k}", self._connect) for k in range(number)]

    def _day(self) -> int:
        """Return the latest day that the server's clock has been in."""
        self.latest_wall_s = max(self.latest_wall_s, self.server_clock.now())
        return day_of(self.latest_wall_s)

    def _connect(self, name: str, clock: SkewedClock) -> RedisStore:
        from solver.load.store.redis import RedisStore

        client = FaultyClient(self.real, self.network, self.server_clock, lambda: f"run{self.life}", name)
        store = RedisStore(
            client,
            replicas=self.number,
            name=name,
            max_ttl_s=self.scenario.max_ttl_s,
            settle_s=self.scenario.settle_s,
            retry_s=0.2,
            on_outage="local_share" if self.local_share else "refuse",
        )
        for part in (store._link, store._memory, store._heartbeat):
            for attribute in ("clock", "_clock", "_wall"):
                if hasattr(part, attribute):
                    setattr(part, attribute, clock)
        store._memory._wall_s = lambda: self.scenario.starts_s + self.world.now_s
        store._link.last_answer_s = clock.now()
        _configure(store, self.scenario)
        return store

    def _trouble(self) -> Coroutine:
        world, rng = self.world, self.world.rng
        while world.now_s < WORK_S:
            yield rng.uniform(*self.weather.between_s)
            kind = rng.choice(TROUBLES)
            if kind == "down":
                self.network.server_up = False
                yield rng.uniform(0.1, 20.0)
                self.network.server_up = True
            elif kind == "memory":
                self.lost_memory = True
                self.judge.memory_lost()
                self.network.server_up = False
                self.real.send("FLUSHDB")
                self.life += 1
                yield rng.uniform(0.0, 3.0)
                self.network.server_up = True
            elif kind == "script":
                self.real.send("SCRIPT", "FLUSH")
            elif kind == "fail_over":
                self.real.send("SCRIPT", "FLUSH")
                self.life += 1
            elif kind == "key":
                self._lose_key()
            else:
                self.server_clock.offset_s += rng.choice(self.weather.steps_s)
                self.judge.time_leaps()

    def _lose_key(self) -> None:
        keys = sorted(
            key for key in self.real.send("KEYS", "*") if not self.scenario.is_plain or b":w:" not in key
        )
        if keys:
            self.lost_memory = self.lost_key = True  # what was charged may be lost with it
            self.judge.memory_lost()
            self.real.send("DEL", self.world.rng.choice(keys))

    def _fail_overs(self) -> Coroutine:
        """Let the server come back with what it held some seconds before: a replica of it that was behind."""
        rng = random.Random(f"fail-overs of {self.seed}")  # noqa: S311 # reproducible on purpose
        while self.world.now_s < WORK_S:
            yield rng.uniform(*self.weather.between_fail_overs_s)
            kept = {key: self.real.send("DUMP", key) for key in self.real.send("KEYS", "*")}
            yield rng.uniform(0.1, 12.0)
            if self.world.now_s > WORK_S:
                return  # leases live up to their time to live from then on
            self.lost_memory = self.lost_key = True
            self.judge.memory_lost()
            self.real.send("FLUSHDB")
            for key, value in kept.items():
                self.real.send("RESTORE", key, 0, value)
            self.life += 1

    def _partitions(self) -> Coroutine:
        """Cut single replicas off, long enough for their local share."""
        world, rng = self.world, self.world.rng
        while world.now_s < WORK_S:
            yield rng.uniform(5.0, 30.0)
            name = f"c{rng.randrange(self.number)}"
            self.network.cut_off.add(name)
            yield rng.uniform(1.0, 70.0)
            self.network.cut_off.discard(name)

    def run(self) -> Verdict:
        """Run it, and judge."""
        world, judge, clients = self.world, self.judge, self.clients
        for client in clients:
            world.start(client.live(WORK_S))
        world.start(self._trouble())
        if not self.scenario.is_plain and self.seed % FAIL_OVER_EACH == 1:
            world.start(self._fail_overs())
        if not self.scenario.is_plain and self.local_share:
            world.start(self._partitions())
        world.run(WORK_S + 45.0)
        self.network.mend()
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
            lossless=not self.lost_memory,
            outside_known=not (crashed or self.lost_key),
        )
        if not (self.scenario.is_plain or crashed or self.lost_key or self.seed % CONTEST_EACH):
            judge.wrong += contest(clients[0].store, self.scenario, "a")
        for client in clients:
            client.store.close()
        if (
            self.lost_memory
        ):  # a lease that had ended may be settled no longer; one that lost its key is unknown
            judge.wrong = [line for line in judge.wrong if "found unknown" not in line]
        return Verdict(self.seed, "redis", tuple(judge.wrong), judge.grants, self.lost_memory)


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
    world.run(world.now_s + judge.scenario.max_ttl_s)
    for client in clients:
        client.store.lease_state("nobody") if not isinstance(client.store, FaultyMemoryStore) else None
    world.run(world.now_s + 1.0)
    view = store.view()
    taken = dict(zip(view.models, (view.active + view.queued).tolist(), strict=True))
    if taken["a"] or (taken["b"] and outside_known):
        judge.wrong.append(f"leaked: {taken}")
    for pool in judge.scenario.pools:
        row = store.pool_row(pool)
        if row.active or row.queued:
            judge.wrong.append(f"leaked: {row.active} and {row.queued} in pool {pool}")
    for client in clients:
        for ask in client.mine.values():  # never released: the estimate stays charged
            cost = round(ask.demand.cost_usd * 1e9)
            judge.spent(cost, cost)
    charged = sum(
        round(meter.used * 1e9)
        for model in MODELS
        for meter in store.row(model).meters
        if meter.resource == "cost_usd" and meter.period is None
    )
    if lossless and not judge.least_spent <= charged <= judge.most_spent:
        judge.wrong.append(f"charged {charged}, really {judge.least_spent} to {judge.most_spent}")
    answer = store.acquire(Ask(model="a", lease_id="last", ttl_s=5.0))
    if isinstance(answer, Refusal) and answer.reason in METERED:  # until it is reset
        store.reset_usage("a")
        for pool in judge.scenario.pools:
            store.reset_pool(pool)
        answer = store.acquire(Ask(model="a", lease_id="last", ttl_s=5.0))
    if answer is not LeaseState.RUNNING:
        judge.wrong.append(f"stuck: {answer}")
    store.release("last", tokens=None, cost_nano_usd=None)
