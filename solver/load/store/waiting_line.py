"""The queue of one model: fair between tenants, by priority and age within each."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, NamedTuple

from solver.load.lease import slots_up_to
from solver.load.store.queue_rules import QueueRules

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from solver.load.store.held_lease import HeldLease

_PART_OF_FREE_PLACES = 4
"""A tenant may hold as many places as this times those that are free: alone 4 of 5, and never all."""

_CREDIT = 2
"""Head start of a tenant that comes back, in requests for each slot of its share: one for the slots that it would find
free if they were its own, one for the time until another tenant's request ends."""

_REMEMBERED_TENANTS = 1024
"""Tenants whose share of service is remembered while none of their requests waits."""


class _Mark(NamedTuple):
    """Accounts of the tenants of a line, and how often each lease was passed, at some moment."""

    served: dict[str | None, tuple[float, int]]
    highest_counter: float
    turns: int
    passed: list[tuple[HeldLease, int]]


class WaitingLine:
    """The waiting leases of one model. Not thread-safe: its store's lock guards it.

    Tenants take turns by virtual token counters (Sheng et al., "Fairness in serving large language models",
    OSDI 2024): each counts the work it was served over its weight, and the least served is next. A tenant
    that comes back begins below the count of the least served of those that wait, or below the highest
    count at which a tenant began where that is more, by two requests for each slot of its share: it finds
    them taken by others, where on slots of its own it would begin. More is not saved up, and the lead of one
    that has just come is not passed on to those after it. Between two tenants that both wait all the time,
    work over weight differs by no more than that and the largest request of each. Requests without a tenant
    are those of one more tenant.

    Within a tenant, those of the highest priority come first, and waiting adds to it at the same rate for
    all, so that the order of two requests never changes: it is that of arrival less ``aging_s`` times
    priority.

    Parameters
    ----------
    arrivals : iterator of int
        Numbers of arrivals, shared by the lines of all models.
    """

    def __init__(self, arrivals: Iterator[int]) -> None:
        self.rules = QueueRules()
        self.room = 0
        """Slots of the model."""
        self._held: dict[str, HeldLease] = {}
        self._of: dict[str | None, list[tuple[float, int, HeldLease]]] = {}
        self._served: dict[str | None, tuple[float, int]] = {}
        """Virtual counter of each tenant, work over weight so far, and the number of its latest turn."""
        self._highest_counter = 0.0  # count at which tenants were served: a virtual time, it never falls
        self._arrivals = arrivals
        self._turns = 0

    def __len__(self) -> int:
        return len(self._held)

    def set_rules(self, rules: QueueRules) -> None:
        """Set the rules; those who wait are put in line anew."""
        if rules == self.rules:
            return
        self.rules = rules
        for mine in self._of.values():
            for _, arrival, held in mine:
                held.turn = (self._key(held), arrival)
            mine[:] = sorted((*held.turn, held) for _, _, held in mine)

    def has_place(self, tenant: str | None, queued: int, places: int) -> bool:
        """Return whether a queue place is free, and the tenant has not taken too many of them.

        The bound moves with what is free (Choudhury and Hahne, "Dynamic queue length thresholds", 1998): one
        tenant alone may use most of the queue, and whoever comes next still finds places.
        """
        free = places - queued
        if free <= 0:
            return False
        return tenant is None or len(self._of.get(tenant, ())) < _PART_OF_FREE_PLACES * free

    def add(self, held: HeldLease) -> None:
        """Put a lease in line."""
        held.turn = (self._key(held), next(self._arrivals))
        mine = self._of.get(held.tenant)
        if mine is None:
            self._join(held)
            mine = self._of[held.tenant] = []
        insort(mine, (*held.turn, held))
        self._held[held.lease_id] = held

    def _key(self, held: HeldLease) -> float:
        return held.since_s - self.rules.aging_s * held.priority

    def _join(self, held: HeldLease) -> None:
        """Let a tenant that does not wait begin its share of the slots before the least served of the others."""
        self._forget_idle()
        tenant = held.tenant
        least = min((self._account(other)[0] for other in self._of), default=self._highest_counter)
        count, latest = self._account(tenant)
        weights = sum(map(self._weight, self._of), self._weight(tenant))
        credit = _CREDIT * self.room * held.work / weights
        self._served[tenant] = max(count, max(least, self._highest_counter) - credit), latest

    def remove(self, held: HeldLease) -> None:
        """Take a lease out of the line."""
        del self._held[held.lease_id]
        mine = self._of[held.tenant]
        del mine[bisect_left(mine, held.turn, key=_turn_of)]
        if not mine:
            del self._of[held.tenant]

    def _standing(self, tenant: str | None) -> tuple[tuple[float, int], tuple[float, int]]:
        """Return by what tenants are ordered: account, then whose first request came first."""
        return self._account(tenant), self._of[tenant][0][:2]

    def _account(self, tenant: str | None) -> tuple[float, int]:
        return self._served.get(tenant, (0.0, 0))

    def next(
        self, active: int, room: int, started: Collection[HeldLease] = ()
    ) -> tuple[HeldLease, list[HeldLease]] | None:
        """Return the lease that runs next with ``active`` of ``room`` slots taken, and those it passes; None: no lease.

        A lease that does not fit lets others pass as far as the rules say, then it holds back those behind it
        that may fill no more than it may. Those of ``started`` count as if they ran already. O(1) where the
        first one fits, else O(waiting).
        """
        if active >= room:
            return None
        passed: list[HeldLease] = []
        for tenant in sorted(self._of, key=self._standing):
            for _, _, held in self._of[tenant]:
                if held in started:
                    continue
                if active + held.slots > slots_up_to(held.fill_to, room) or not held.fits_pools():
                    passed.append(held)
                elif all(self._may_pass(held, before) for before in passed):
                    return held, passed
        return None

    def next_with(self, held: HeldLease, active: int, room: int) -> list[HeldLease] | None:
        """Return the waiting leases that a new lease would overtake if it ran now; None: it would wait.

        Waiting leases may fit only because another lease gives way to this one in their pools: they run first, and
        this one runs if it fits beside them. O(waiting) for each of them.
        """
        self.add(held)
        started: list[HeldLease] = []
        first = self.next(active, room)
        while first is not None and first[0] is not held:
            started.append(first[0])
            first[0].count_in_pools(1)
            active += first[0].slots
            first = self.next(active, room, started)
        for other in started:
            other.count_in_pools(-1)
        self.remove(held)
        return None if first is None else first[1]

    def head(self) -> tuple[float, int]:
        """Return the place of the lease that came first, by arrival less what priorities are worth."""
        return min(waiting[0][:2] for waiting in self._of.values())

    def _may_pass(self, held: HeldLease, before: HeldLease) -> bool:
        if held.fill_to > before.fill_to:
            return True
        return before.passed + held.slots <= self.rules.passes * before.slots

    def start(self, held: HeldLease, passed: list[HeldLease]) -> None:
        """Take the lease that runs next out of the line, and charge its tenant."""
        self.remove(held)
        for before in passed:
            before.passed += held.slots
        self._charge(held)

    def start_at_once(self, held: HeldLease) -> None:
        """Charge the tenant of a lease that starts without having waited, while no lease waits."""
        self._join(held)
        self._charge(held)

    def _charge(self, held: HeldLease) -> None:
        self._turns += 1
        count = self._account(held.tenant)[0]
        self._highest_counter = max(self._highest_counter, count)
        self._served[held.tenant] = count + held.work / self._weight(held.tenant), self._turns

    def mark(self) -> _Mark:
        """Return the accounts as they are, and how often each waiting lease was passed. O(tenants + waiting)."""
        passed = [(held, held.passed) for held in self._held.values()]
        return _Mark(dict(self._served), self._highest_counter, self._turns, passed)

    def restore(self, mark: _Mark) -> None:
        """Undo what was charged since a mark."""
        self._served, self._highest_counter, self._turns, passed = mark
        for held, before in passed:
            held.passed = before

    def _forget_idle(self) -> None:
        """Drop the accounts of tenants that do not wait, once there are too many of them."""
        if len(self._served) > _REMEMBERED_TENANTS + len(self._of):
            self._served = {tenant: self._served[tenant] for tenant in self._of}

    def _weight(self, tenant: str | None) -> float:
        return self.rules.weights.get(tenant, 1.0) if tenant is not None else 1.0

    def in_order(self) -> Iterator[HeldLease]:
        """Yield who waits in the order in which they start if each fits. O(tenants) each."""
        at = dict.fromkeys(self._of, 0)
        account = {tenant: self._account(tenant) for tenant in self._of}
        turns = self._turns

        def standing(tenant: str | None) -> tuple[tuple[float, int], tuple[float, int]]:
            return account[tenant], self._of[tenant][at[tenant]][:2]

        while at:
            tenant = min(at, key=standing)
            held = self._of[tenant][at[tenant]][2]
            yield held
            turns += 1
            account[tenant] = account[tenant][0] + held.work / self._weight(tenant), turns
            at[tenant] += 1
            if at[tenant] == len(self._of[tenant]):
                del at[tenant]


def _turn_of(entry: tuple[float, int, HeldLease]) -> tuple[float, int]:
    return entry[:2]
