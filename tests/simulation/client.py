"""One process of a schedule: it takes, renews, moves and gives back leases, and crashes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from solver.load.lease import Ask, Demand, LeaseState, ReleaseOutcome
from solver.load.refusal import Refusal, RefusalReason
from tests.simulation.judge import Judge, Work
from tests.simulation.scenario import MODELS
from tests.simulation.world import Coroutine, FaultyMemoryStore, Lost, SkewedClock, World

if TYPE_CHECKING:
    from collections.abc import Callable

MARGIN = 0.95  # of its time to live that a holder works: clocks differ by up to a hundredth


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
        self.scenario = judge.scenario
        self.max_ttl_s = self.scenario.max_ttl_s

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
            ttl_s=rng.uniform(2.0, self.max_ttl_s),
            queue=rng.random() < 0.3,
            lease_id=lease_id,
            fill_to=rng.choice((1.0, 1.0, 0.5)),
        )
        if not self.scenario.is_plain:
            ask = self._richer(ask)
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
        self.judge.granted(ask, self.name)
        if answer is LeaseState.RUNNING:
            self._works(lease_id, sent_s)

    def _richer(self, ask: Ask) -> Ask:
        """Return an ask with tokens, on somebody's account, of some priority."""
        rng = self.world.rng
        demand = Demand(slots=ask.demand.slots, tokens=rng.randrange(0, 60), cost_usd=ask.demand.cost_usd)
        return ask._replace(
            demand=demand,
            queue=rng.random() < 0.6,
            tenant=rng.choice(self.scenario.tenants),
            priority=rng.choice((0.0, 1.0, 1.0, 3.0)),
        )

    def give_back(self) -> None:
        lease_id = self._pick()
        if lease_id is None:
            return
        ask, actual = self.mine.pop(lease_id), self.world.rng.randrange(0, 200)
        estimate = round(ask.demand.cost_usd * 1e9)
        tokens = None if self.scenario.is_plain else self.world.rng.randrange(0, 80)
        self.judge.ends(lease_id)
        self.judge.settled(lease_id, ask.demand.tokens if tokens is None else tokens, actual)
        for _ in range(2):  # a second release changes nothing
            try:
                outcome = self.store.release(lease_id, tokens=tokens, cost_nano_usd=actual)
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
                again = self.store.release(lease_id, tokens=tokens, cost_nano_usd=actual)
            except Lost:
                return
            if again not in (ReleaseOutcome.UNKNOWN, ReleaseOutcome.DEFERRED):
                self.judge.wrong.append(f"second release of {lease_id} found {again.value}")
            return

    def renew(self) -> None:
        lease_id = self._pick()
        if lease_id is None:
            return
        sent_s, ttl_s = self.world.now_s, self.world.rng.uniform(2.0, self.max_ttl_s)
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
            tenant=old.tenant,
            priority=old.priority,
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
        self.judge.moved(lease_id)
        self.judge.granted(ask, self.name)
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
        self.judge.crashed(self.name)
        self.name = self.name.split("/")[0] + f"/{next(self.ids)}"
        self.store = self._connect(self.name.split("/")[0], self.clock)
