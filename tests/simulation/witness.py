"""Hears every answer of a store of one process, and keeps books of its own: slots, pools, windows and who waits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from solver.load.lease import Ask, LeaseState, ReleaseOutcome, slots_up_to
from solver.load.store.base import nano_usd
from solver.load.store.queue_rules import QueueRules
from solver.load.store.usage_limits import RESOURCES, Calendar
from tests.simulation.judge import day_of, usage_limits

if TYPE_CHECKING:
    from solver.load.store.memory import MemoryStore
    from tests.simulation.scenario import Scenario
    from tests.simulation.world import World

PLACES_FOR_EACH_FREE = 4
WINDOW_PARTS = 60


@dataclass
class Entry:
    """One lease as the answers say."""

    ask: Ask
    since_s: float
    until_s: float
    running: bool
    charges: list[Charge] = field(default_factory=list)


@dataclass
class Charge:
    """An amount of one resource, counted at some time."""

    kind: int
    amount: int
    at_s: float


class Witness:
    """Stands before a store, and notes what was wrong with its answers.

    Everything is counted anew from all leases after each operation, as plainly as can be.

    Parameters
    ----------
    store : MemoryStore
        On the world's clock, begun at ``scenario.starts_s``.
    scenario : Scenario
        The limits; slots may be changed through :meth:`set_slots`.
    """

    def __init__(self, store: MemoryStore, world: World, scenario: Scenario) -> None:
        self.store, self.world, self.scenario = store, world, scenario
        self.slots = {f"m:{model}": each.max_concurrent for model, each in scenario.models.items()}
        self.slots |= {f"p:{pool}": each.max_concurrent for pool, each in scenario.pools.items()}
        self._subjects = {
            model: (f"m:{model}", *(f"p:{pool}" for pool in scenario.chain(model)))
            for model in scenario.models
        }
        self._meters = {f"m:{model}": usage_limits(each) for model, each in scenario.models.items()}
        self._meters |= {f"p:{pool}": usage_limits(each) for pool, each in scenario.pools.items()}
        self.live: dict[str, Entry] = {}
        self._ended: dict[str, Entry] = {}
        self._charges: dict[str, list[Charge]] = {subject: [] for subject in self.slots}
        self._outside = dict.fromkeys(scenario.models, 0)
        self.wrong: list[str] = []
        store.listen(self._promoted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)  # what changes nothing

    # -- operations

    def acquire(self, ask: Ask) -> Any:
        """Pass on, and note what was granted."""
        self._expire()
        before = {ask.lease_id} & self.live.keys()
        waiting = self._waiting(ask.model)
        answer = self.store.acquire(ask)
        if not before and isinstance(answer, LeaseState):
            self._grant(ask, answer, waiting)
        self._audit()
        return answer

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Pass on, and note what was used."""
        self._expire()
        entry = self.live.pop(lease_id, None)
        settled = entry or self._ended.pop(lease_id, None)
        outcome = self.store.release(lease_id, tokens=tokens, cost_nano_usd=cost_nano_usd)
        if (outcome is ReleaseOutcome.UNKNOWN) != (settled is None):
            self.wrong.append(f"release of {lease_id} found {outcome.value}")
        if settled is not None:
            for charge in settled.charges:
                actual = (None, tokens, cost_nano_usd)[charge.kind]
                if actual is not None:
                    self._settle(settled, charge, actual)
        self._audit()
        return outcome

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Pass on, and note until when it lives."""
        self._expire()
        state = self.store.renew(lease_id, ttl_s)
        if (state is LeaseState.GONE) != (lease_id not in self.live):
            self.wrong.append(f"renewal of {lease_id} found {state.value}")
        elif state is not LeaseState.GONE:
            self.live[lease_id].until_s = self.world.now_s + ttl_s
        self._audit()
        return state

    def move(self, lease_id: str, ask: Ask) -> Any:
        """Pass on; what moved takes its charges along."""
        self._expire()
        old = self.live.pop(lease_id, None)
        waiting = self._waiting(ask.model)
        charges = [] if old is None else [(each, each.amount) for each in old.charges]
        for each, _ in charges:
            each.amount = 0
        answer = self.store.move(lease_id, ask)
        if isinstance(answer, LeaseState) and answer is not LeaseState.GONE:
            self._grant(ask, answer, waiting)
        elif old is not None:
            self.live[lease_id] = old
            for each, amount in charges:
                each.amount = amount
        self._audit()
        return answer

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Pass on, and note work from outside."""
        self._expire()
        self._outside[model] = max(0, self._outside[model] + active)
        self.store.adjust(model, active=active, queue=queue)
        self._audit()

    def lease_state(self, lease_id: str) -> LeaseState:
        """Pass on, and compare."""
        self._expire()
        state = self.store.lease_state(lease_id)
        entry = self.live.get(lease_id)
        known = (
            LeaseState.GONE if entry is None else LeaseState.RUNNING if entry.running else LeaseState.QUEUED
        )
        if state is not known:
            self.wrong.append(f"{lease_id} is {state.value}, not {known.value}")
        return state

    def set_slots(self, subject: str, slots: int) -> None:
        """Change the slots of a model or pool; what runs keeps running."""
        self._expire()
        kind, _, name = subject.partition(":")
        self.slots[subject] = slots
        if kind == "p":
            self.store.configure_pool(name, replace(self.scenario.pools[name], max_concurrent=slots))
        else:
            self.store.configure(name, replace(self.scenario.models[name], max_concurrent=slots))
        self._audit()

    # -- books

    def _expire(self) -> None:
        now = self.world.now_s
        for lease_id in [key for key, entry in self.live.items() if entry.until_s <= now]:
            self._ended[lease_id] = self.live.pop(lease_id)
        self.store.lease_state("nobody")  # has the store end the same, and tell who starts
        self._audit()

    def _waiting(self, model: str) -> list[Entry]:
        return [each for each in self.live.values() if each.ask.model == model and not each.running]

    def _promoted(self, lease_id: str) -> None:
        entry = self.live.get(lease_id)
        if entry is None:  # the first of several that end at one moment lets the next one start
            if lease_id not in self._ended:
                self.wrong.append(f"{lease_id} started after its end")
            return
        entry.running = True
        self._began(entry, [each for each in self._waiting(entry.ask.model) if each is not entry])

    def _grant(self, ask: Ask, state: LeaseState, waiting: list[Entry]) -> None:
        now = self.world.now_s
        entry = Entry(ask, now, now + ask.ttl_s, state is LeaseState.RUNNING)
        self.live[ask.lease_id] = entry
        demand = ask.demand
        amounts = (demand.requests, demand.tokens, nano_usd(demand.cost_usd))
        for subject in self._subjects[ask.model]:
            for kind in {kind for kind, _, _ in self._meters[subject]}:
                charge = Charge(kind, amounts[kind], now)
                entry.charges.append(charge)
                self._charges[subject].append(charge)
            for kind, window, most in self._meters[subject]:
                used = sum(each.amount for each in self._charges[subject] if self._counts(each, kind, window))
                if used > most:
                    self.wrong.append(f"{used} of {most} {RESOURCES[kind]} used of {subject} in {window}")
        if entry.running:
            self._began(entry, waiting)
        else:
            self._check_place(ask, waiting)

    def _settle(self, entry: Entry, charge: Charge, actual: int) -> None:
        if actual <= charge.amount:
            charge.amount = actual
            return
        subject = next(
            name for name, charges in self._charges.items() if any(each is charge for each in charges)
        )
        self._charges[subject].append(Charge(charge.kind, actual - charge.amount, self.world.now_s))

    def _counts(self, charge: Charge, kind: int, window: float | Calendar, *, longer: float = 0.0) -> bool:
        if charge.kind != kind:
            return False
        now, start = self.world.now_s, self.scenario.starts_s
        if isinstance(window, Calendar):
            return day_of(start + charge.at_s) == day_of(start + now)
        return charge.at_s > now - window * (1.0 + longer)

    # -- what must hold

    def _check_place(self, ask: Ask, waiting: list[Entry]) -> None:
        """A queue place was free, and the tenant had not taken too many."""
        free = self.scenario.models[ask.model].max_queue - len(waiting)
        own = sum(each.ask.tenant == ask.tenant for each in waiting)
        if free <= 0 or (ask.tenant is not None and own >= PLACES_FOR_EACH_FREE * free):
            self.wrong.append(f"{ask.lease_id} waits on {free} free places, beside {own} of its tenant")

    def _began(self, entry: Entry, waiting: list[Entry]) -> None:
        """Whoever begins does not pass an earlier one of its tenant that asks for no more."""
        rules = self.scenario.models[entry.ask.model].rules or QueueRules()

        def turn(each: Entry) -> float:
            return each.since_s - rules.aging_s * each.ask.priority

        for other in waiting:
            if (
                other.ask.tenant == entry.ask.tenant
                and other.ask.demand.slots <= entry.ask.demand.slots
                and other.ask.fill_to >= entry.ask.fill_to
                and turn(other) < turn(entry)
            ):
                self.wrong.append(f"{entry.ask.lease_id} passed {other.ask.lease_id}")
        self._must_fit(entry)

    def _taken(self, subject: str) -> int:
        kind, _, name = subject.partition(":")
        running = sum(
            each.ask.demand.slots
            for each in self.live.values()
            if each.running and subject in self._subjects[each.ask.model]
        )
        return running + (self._outside[name] if kind == "m" else 0)

    def _must_fit(self, entry: Entry) -> None:
        for subject in self._subjects[entry.ask.model]:
            taken, slots = self._taken(subject), self.slots[subject]
            if subject[0] == "m":
                slots = slots_up_to(entry.ask.fill_to, slots)
            if taken > slots:
                self.wrong.append(f"{taken} of {slots} slots of {subject} taken with {entry.ask.lease_id}")

    def _audit(self) -> None:
        """Nobody who waits alone on a model would fit."""
        for model, subjects in self._subjects.items():
            waiting = self._waiting(model)
            if len(waiting) != 1:
                continue
            ask = waiting[0].ask
            fits = all(
                self._taken(subject) + ask.demand.slots
                <= (
                    slots_up_to(ask.fill_to, self.slots[subject])
                    if subject[0] == "m"
                    else self.slots[subject]
                )
                for subject in subjects
            )
            if fits:
                self.wrong.append(f"at {self.world.now_s:.3f} s {ask.lease_id} waits alone, though it fits")

    def check_usage(self) -> None:
        """The store shows what was used in each window, and at most one step of the window more."""
        self._expire()
        for subject, meters in self._meters.items():
            kind, _, name = subject.partition(":")
            row = self.store.row(name) if kind == "m" else self.store.pool_row(name)
            shown = {(each.resource, each.period): each.used for each in row.meters}
            for resource, window, _ in meters:
                period = window.period if isinstance(window, Calendar) else window
                used = shown[RESOURCES[resource], period] * (1e9 if resource == 2 else 1.0)
                charges = self._charges[subject]
                least = sum(each.amount for each in charges if self._counts(each, resource, window))
                most = sum(
                    each.amount
                    for each in charges
                    if self._counts(each, resource, window, longer=1.0 / WINDOW_PARTS + 1e-9)
                )
                if not least - 0.5 <= used <= most + 0.5:
                    self.wrong.append(
                        f"{used:g} {RESOURCES[resource]} shown of {subject} in {period}, really {least} to {most}"
                    )
