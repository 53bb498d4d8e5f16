"""A live lease of one process's store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from solver.load.lease import LeaseState
from solver.load.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from solver.load.lease import Ask
    from solver.load.store.meters import Charge, Meters
    from solver.load.store.pools import Pool


class HeldLease:
    """A live lease."""

    __slots__ = (
        "alive",
        "charged",
        "expires_s",
        "fill_to",
        "lease_id",
        "model",
        "passed",
        "pool_charged",
        "pools",
        "priority",
        "running",
        "since_s",
        "slots",
        "tenant",
        "ttl_s",
        "turn",
        "work",
    )

    def __init__(
        self, ask: Ask, model: int, now_s: float, running: bool, pools: tuple[Pool, ...] = ()
    ) -> None:
        demand = ask.demand
        self.lease_id = ask.lease_id
        self.model = model
        self.slots = demand.slots
        self.expires_s = now_s + ask.ttl_s
        self.running = running
        self.since_s = now_s
        """When it began to run, or to wait."""
        self.fill_to = ask.fill_to
        self.priority = ask.priority
        self.tenant = ask.tenant
        self.work = demand.tokens if demand.tokens > demand.slots else demand.slots
        """What its tenant is charged with in the queue: tokens, at least one for each slot."""
        self.passed = 0
        """Slots that passed it while it waited."""
        self.turn = (0.0, 0)
        self.charged: list[Charge] = []
        self.alive: Callable[[], bool] | None = None
        """With a holder that keeps it: whether that is still there when the time to live is over."""
        self.ttl_s = 0.0
        self.pools = pools
        """That it draws on, as they were at the grant."""
        self.pool_charged: list[tuple[Pool, list[Charge]]] = []

    @property
    def state(self) -> LeaseState:
        """Running, or queued."""
        return LeaseState.RUNNING if self.running else LeaseState.QUEUED

    def fits_pools(self) -> bool:
        """Return whether the pools have room for its slots."""
        return all(pool.active + self.slots <= pool.limits.max_concurrent for pool in self.pools)

    def count_in_pools(self, sign: int) -> None:
        """Add its slots to what is taken of its pools, or take them out again with a ``sign`` of -1."""
        for pool in self.pools:
            pool.active += sign * self.slots


def refund(held: HeldLease, meters: Meters, now_s: float) -> None:
    """Take all that a lease was charged with back, as if it had never been granted."""
    meters.refund(held.model, held.charged)
    for pool, charges in held.pool_charged:
        pool.refund(charges, now_s)


def take_back(held: HeldLease, now_s: float) -> Callable[[], None]:
    """Take a lease out of its pools, for another that takes its place; return what puts it back at once.

    A lease that waits keeps its place, and waits for the same pools.
    """
    pools, charged = held.pools, held.pool_charged
    refunded = [(pool, pool.refund(charges, now_s)) for pool, charges in charged]
    held.pool_charged = []
    if held.running:
        held.count_in_pools(-1)
        held.pools = ()

    def restore() -> None:
        held.pools, held.pool_charged = pools, charged
        if held.running:
            held.count_in_pools(1)
        for pool, charges in refunded:
            pool.put_back(charges)

    return restore


def charge_pools(held: HeldLease, ask: Ask, now_s: float) -> Refusal | None:
    """Charge every pool of a lease with all that it limits, or none of them and say why not."""
    for pool in held.pools:
        charged = pool.charge(ask.demand, now_s)
        if isinstance(charged, Refusal):
            for before, charges in held.pool_charged:
                before.refund(charges, now_s)
            held.pool_charged = []
            return replace(charged, model=ask.model, pool=pool.name)
        if charged:
            held.pool_charged.append((pool, charged))
    return None
