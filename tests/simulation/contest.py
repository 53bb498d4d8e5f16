"""After the faults: two tenants that both wait all the time, on slots that come free one by one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from solver.load.lease import Ask, LeaseState
from solver.load.store.queue_rules import QueueRules

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

WEIGHTS = {"u1": 2.0, "u2": 1.0}
EACH = 8  # requests of each tenant


def contest(store: Any, scenario: Scenario, model: str) -> list[str]:
    """Return what was wrong: a slot left empty while somebody waits, or more service than a tenant's share.

    Parameters
    ----------
    store : Store
        Without live leases; a model and its pools lose their limits on usage.
    scenario : Scenario
        The limits of the schedule.
    model : str
        On which model.
    """
    chain = scenario.chain(model)
    for pool in [name for name in scenario.pools if name in chain]:
        store.configure_pool(pool, replace(scenario.pools[pool], further=()))
    limits = scenario.models[model]
    room = min([limits.max_concurrent, *(scenario.pools[pool].max_concurrent for pool in chain)])
    store.configure(
        model, replace(limits, requests=None, further=(), max_queue=60, rules=QueueRules(weights=WEIGHTS))
    )
    ids = (f"contest-{k}" for k in itertools.count())

    def ask(tenant: str | None) -> tuple[str, Any]:
        lease_id = next(ids)
        return lease_id, store.acquire(
            Ask(model=model, lease_id=lease_id, ttl_s=15.0, queue=True, tenant=tenant)
        )

    running = [
        lease_id for lease_id, state in (ask(None) for _ in range(room)) if state is LeaseState.RUNNING
    ]
    if len(running) < room:
        return [f"contest: {len(running)} run on {room} slots"]
    tenants = {}
    for tenant in list(WEIGHTS) * EACH:
        lease_id, state = ask(tenant)
        if state is not LeaseState.QUEUED:
            return [f"contest: {state} instead of a queue place"]
        tenants[lease_id] = tenant
    served, waiting = dict.fromkeys(WEIGHTS, 0), list(tenants)
    bound = 2.0 * room / sum(WEIGHTS.values()) + sum(1.0 / weight for weight in WEIGHTS.values())
    while waiting:
        store.release(running.pop(0), tokens=None, cost_nano_usd=None)
        still = set(store.queued_leases(model))
        started = [lease_id for lease_id in waiting if lease_id not in still]
        if len(started) != 1 or store.lease_state(started[0]) is not LeaseState.RUNNING:
            return [f"contest: {len(started)} start when one slot comes free, {len(waiting)} wait"]
        waiting.remove(started[0])
        running += started
        served[tenants[started[0]]] += 1
        apart = abs(served["u1"] / WEIGHTS["u1"] - served["u2"] / WEIGHTS["u2"])
        if apart > bound and {tenants[lease_id] for lease_id in waiting} == WEIGHTS.keys():
            return [f"contest: service over weight is {apart:g} apart, more than {bound:g}: {served}"]
    for lease_id in running:
        store.release(lease_id, tokens=None, cost_nano_usd=None)
    return []
