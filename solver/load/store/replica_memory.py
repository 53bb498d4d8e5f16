"""One replica's record of a shared store, from which a server that lost its data is restored."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from solver.load.lease import Ask, LeaseState
from solver.load.store.base import Limits, nano_usd
from solver.load.store.memory import MemoryStore
from solver.load.store.redis_codec import Usage, calendar_ends, limit_fields, read_usage, sliding_windows
from solver.load.store.usage_limits import wall_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from solver.clock import Clock
    from solver.load.stops import Stop

METER_WINDOW_S = 60.0
_CLOCKS_DIFFER = 1.1
"""How much slower than this process's clock the server's may be."""
_REMEMBERED_RESUMES = 1000
"""Stops that were lifted and are remembered, so that no other replica brings them back."""


@dataclass(slots=True)
class KnownLease:
    """A lease this replica was granted, to be reported again to a server that has forgotten it."""

    ask: Ask
    state: LeaseState
    until_s: float
    here: bool
    """Granted or extended without the server: it cannot know."""
    since_s: float
    charged: dict[str, tuple[int, dict[str, float]]]
    """By model and pool: how often usage was reset before, and when each calendar's period ends, Unix seconds."""

    def fields(self, now_s: float) -> dict[str, Any]:
        """Return the lease as the script reads it."""
        demand = self.ask.demand
        return {
            "id": self.ask.lease_id,
            "model": self.ask.model,
            "state": self.state.value,
            "slots": demand.slots,
            "ttl_s": self.until_s - now_s,
            "here": self.here,
            "age_s": now_s - self.since_s,
            "charged": self.charged,
            "amounts": [demand.requests, demand.tokens, nano_usd(demand.cost_usd)],
            "fill": repr(float(self.ask.fill_to)),
            "priority": self.ask.priority,
            "tenant": self.ask.tenant or "",
            "work": max(demand.tokens, demand.slots),
        }


class ReplicaMemory:
    """Limits, leases, usage, stops and work from outside, as far as this replica has to do with them.

    Parameters
    ----------
    clock : Clock
        Of the replica.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall_s = wall_time(clock)
        self.limits: dict[str, Limits] = {}
        self.pools: dict[str, Limits] = {}
        self.set_at: dict[str, float] = {}
        """The server's time at which limits were set, by ``m:`` or ``p:`` and the name."""
        self.unsent_limits: dict[tuple[str, str], None] = {}
        """(``m`` or ``p``, name) whose limits have not been sent to the server."""
        self.stops: dict[str, tuple[Stop, ...]] = {}
        self.outside: dict[str, tuple[int, int, int]] = {}
        """Per model, what this replica has added to active and queued work, and how often that has changed."""
        self.observed: dict[str, tuple[int, int, float]] = {}
        """Per model, what this replica measured last beyond the leases, and until when that counts."""
        self._lifted: dict[tuple[str, str], float] = {}
        self._used: dict[str, tuple[Usage, float, str]] = {}
        """Per model or pool, what was used of each meter, and when and in which epoch that was heard."""
        self.version = 0
        self.begin_process()

    def begin_process(self) -> None:
        """Leave leases and unsent work to the process that they belong to, in the child of a fork."""
        self.held: dict[str, KnownLease] = {}
        self.unsent_releases: dict[str, tuple[str, str]] = {}
        self.unsent_drops: dict[str, None] = {}
        """Leases that the server may have granted, in answers that were lost."""
        self.unsent: list[tuple[str | int | float, ...]] = []
        """Operations to be sent after an outage, with their operation ids."""
        self.outside.clear()
        self.observed.clear()
        self._prune_at = 1024

    def hold(self, ask: Ask, state: LeaseState, *, here: bool = False, charged: Iterable[Usage] = ()) -> None:
        """Remember a lease and where it was charged; now and then forget those that were never released."""
        now = self._clock.now()
        where = {usage.subject: (usage.resets, usage.ends) for usage in charged}
        self.held[ask.lease_id] = KnownLease(ask, state, now + ask.ttl_s, here, now, where)
        if len(self.held) > self._prune_at:
            for lease_id in [key for key, held in list(self.held.items()) if held.until_s <= now]:
                self.held.pop(lease_id, None)
            self._prune_at = max(1024, 2 * len(self.held))

    def drop_later(self, lease_id: str) -> None:
        """Have a lease that the server may have granted taken back when it answers again."""
        self.unsent_drops[lease_id] = None

    def note_usage(self, fields: list[str], epoch: str) -> list[Usage]:
        """Remember, and return, what the end of a reply says was used."""
        now, usages = self._clock.now(), read_usage(fields)
        for usage in usages:
            self._used[usage.subject] = usage, now, epoch
        return usages

    def limits_of(self, kind: str, name: str) -> list[str]:
        """Return the limits of a model (``m``) or pool (``p``) as arguments of the script."""
        limits = self.limits[name] if kind == "m" else self.pools[name]
        return [*limit_fields(kind, name, limits), calendar_ends([limits], self._wall_s())]

    def note_outside(self, model: str, active: int, queued: int, changes: int) -> None:
        """Remember what this replica has added to the work from outside, all in all, unless newer is known."""
        if changes > self.outside.get(model, (0, 0, 0))[2]:
            self.outside[model] = (active, queued, changes)

    def note_lifted(self, model: str, keys: list[str], at_s: float) -> None:
        """Remember that stops, named ``owner:name``, were lifted at the server's time."""
        for key in keys:
            self._lifted[model, key] = at_s
        kept = [stop for stop in self.stops.get(model, ()) if f"{stop.owner}:{stop.name}" not in keys]
        self.stops[model] = tuple(kept)
        while len(self._lifted) > _REMEMBERED_RESUMES:
            self._lifted.pop(next(iter(self._lifted)))

    def note_stop(self, model: str, stop: Stop) -> None:
        """Remember a stop as it stands."""
        others = [each for each in self.stops.get(model, ()) if each.key != stop.key]
        self.stops[model] = (*others, stop)
        self._lifted.pop((model, f"{stop.owner}:{stop.name}"), None)

    def note_limits(self, newer: Mapping[str, tuple[float, Limits]]) -> None:
        """Remember limits that another replica has set later, of what was set here, too."""
        for subject, (at_s, limits) in newer.items():
            kind, name = subject[0], subject[2:]
            if (kind, name) not in self.unsent_limits:
                (self.limits if kind == "m" else self.pools)[name] = limits
                self.set_at[subject] = at_s

    def note_view(self, models: Mapping[str, tuple[Stop, ...]], known: frozenset[str], version: int) -> None:
        """Remember every active stop; forget models that another replica has removed."""
        self.stops = dict(models)
        self.version = version
        for model in self.limits.keys() - known - {name for kind, name in self.unsent_limits if kind == "m"}:
            self.forget(model)

    def forget(self, model: str) -> None:
        """Forget a model and all that concerns it."""
        for known in (self.limits, self.stops, self.outside, self.observed):
            known.pop(model, None)
        self._used.pop(f"m:{model}", None)
        self.set_at.pop(f"m:{model}", None)
        self.unsent_limits.pop(("m", model), None)
        self.end_leases(model)

    def forget_pool(self, pool: str) -> None:
        """Forget a pool."""
        self.pools.pop(pool, None)
        self._used.pop(f"p:{pool}", None)
        self.set_at.pop(f"p:{pool}", None)
        self.unsent_limits.pop(("p", pool), None)

    def end_leases(self, model: str) -> None:
        """Forget the leases of a model."""
        for lease_id in [key for key, held in list(self.held.items()) if held.ask.model == model]:
            self.held.pop(lease_id, None)

    # -- reporting

    def order(self) -> dict[str, Any]:
        """Return what the server must know of this replica when it joins."""
        now = self._clock.now()
        return {
            "limits": [
                *(limit_fields("p", name, self.pools[name]) for name in _parents_first(self.pools)),
                *(limit_fields("m", name, limits) for name, limits in list(self.limits.items())),
            ],
            "calendars": calendar_ends([*self.pools.values(), *self.limits.values()], self._wall_s()),
            "used": [
                self._remembered(usage, now - at_s, epoch) for usage, at_s, epoch in list(self._used.values())
            ],
            "leases": [
                held.fields(now)
                for held in list(self.held.values())  # also those that are over by this clock
                if held.state is not LeaseState.GONE
            ],
            "stops": [
                [
                    model,
                    stop.owner.value,
                    stop.name,
                    stop.reason,
                    repr(stop.since_s),
                    "-1" if math.isinf(stop.until_s) else repr(stop.until_s),
                ]
                for model, stops in list(self.stops.items())
                for stop in stops
            ],
            "lifted": [[model, key, repr(at_s)] for (model, key), at_s in list(self._lifted.items())],
            "outside": self._outside(now),
            "version": self.version,
            "set_at": {subject: repr(at_s) for subject, at_s in list(self.set_at.items())},
        }

    def _remembered(self, usage: Usage, age_s: float, epoch: str) -> list[Any]:
        """Return [subject, changes, resets, amounts, ends of calendars' periods, epoch] of what was heard then."""
        kind, name = usage.subject.split(":", 1)
        limits = (self.limits if kind == "m" else self.pools).get(name)
        windows = {} if limits is None else sliding_windows(limits)
        amounts = {
            meter: amount
            for meter, amount in usage.used.items()
            if age_s <= _CLOCKS_DIFFER * windows.get(meter, math.inf) + 1.0
        }  # the others have left their windows
        return [usage.subject, usage.changes, usage.resets, amounts, usage.ends, epoch]

    def _outside(self, now: float) -> list[list[Any]]:
        """Return [model, added active, queued, changes, measured active, queued, seconds or -1] of each."""
        rows = []
        for model in self.outside.keys() | self.observed.keys():
            added = self.outside.get(model, (0, 0, 0))
            active, queued, until_s = self.observed.get(model, (0, 0, math.inf))
            if until_s <= now:
                active, queued, until_s = 0, 0, math.inf
            rows.append([model, *added, active, queued, -1 if math.isinf(until_s) else until_s - now])
        return rows

    # -- outages

    def waits(self, lease_id: str) -> bool:
        """Return whether a lease waits on the server, as far as this replica knows."""
        held = self.held.get(lease_id)
        return (
            held is not None
            and held.state is LeaseState.QUEUED
            and not held.here
            and held.until_s > self._clock.now()
        )

    def open_local(self, replicas: int) -> MemoryStore:
        """Return a store of this process that holds what runs here, under this replica's share of the limits.

        What waits on the server goes on waiting: only the server knows when its turn has come.
        """
        local = MemoryStore(clock=self._clock, per_process=True)
        now = self._clock.now()
        for pool in _parents_first(self.pools):
            local.configure_pool(pool, Limits(max_concurrent=2**53, pools=self.pools[pool].pools))
        for model, limits in self.limits.items():
            local.configure(model, Limits(max_concurrent=2**53, max_queue=2**53, pools=limits.pools))
        for lease_id, held in self.held.items():
            if held.until_s > now and held.ask.model in self.limits and held.state is LeaseState.RUNNING:
                local.acquire(
                    Ask(
                        model=held.ask.model,
                        demand=held.ask.demand,
                        ttl_s=held.until_s - now,
                        lease_id=lease_id,
                    )
                )
        for pool in _parents_first(self.pools):
            local.configure_pool(pool, share_of(self.pools[pool], replicas))
        for model, limits in self.limits.items():
            local.configure(model, share_of(limits, replicas))
            active, queued, _ = self.outside.get(model, (0, 0, 0))
            local.adjust(model, active=active, queue=queued)
            for stop in self.stops.get(model, ()):
                for_s = None if math.isinf(stop.until_s) else max(1e-9, stop.until_s - stop.since_s)
                local.stop(model, stop.owner, name=stop.name, reason=stop.reason, for_s=for_s)
        return local


def share_of(limits: Limits, replicas: int) -> Limits:
    """Return one replica's share of the limits.

    Of money, and of what may be used in more than a minute, there is none: what others have used is unknown.
    """
    return Limits(
        max_concurrent=limits.max_concurrent // replicas,
        max_queue=limits.max_queue // replicas,
        requests=None if limits.requests is None else limits.requests // replicas,
        tokens=None if limits.tokens is None else limits.tokens // replicas,
        budget_nano_usd=None if limits.budget_nano_usd is None else 0,
        budget_period_s=limits.budget_period_s,
        rules=limits.rules,
        further=tuple(
            replace(
                limit,
                amount=limit.amount // replicas
                if limit.resource != "cost_usd"
                and not isinstance(limit.period, str)
                and limit.period <= METER_WINDOW_S
                else 0,
            )
            for limit in limits.further
        ),
        pools=limits.pools,
    )


def _parents_first(pools: Mapping[str, Limits]) -> list[str]:
    """Return the names of pools so that each comes after those that it draws on."""
    order: dict[str, None] = {}

    def add(name: str) -> None:
        if name in pools and name not in order:
            for parent in pools[name].pools:
                add(parent)
            order[name] = None

    for name in pools:
        add(name)
    return list(order)
