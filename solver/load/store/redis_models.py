"""Models and pools of a shared store: their limits, work from outside, stops, and what is read of them."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from solver.errors import SpecError, Violation
from solver.load.stops import Stop, StopOwner, checked_stop
from solver.load.store.pools import check_circle, in_use
from solver.load.store.redis_codec import newer_limits, parts_of_view, read_row, read_stops, read_view
from solver.load.store.redis_operations import RedisOperations
from solver.load.store.replica_memory import share_of

if TYPE_CHECKING:
    from solver.load.store.base import Limits, StoreRow, StoreView
    from solver.load.store.memory import MemoryStore


class RedisModels(RedisOperations):
    """Operations on models and pools; see :class:`~solver.load.store.base.Store`."""

    _models: tuple[str, ...]

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model; kept and sent later when the server does not answer."""
        with self._link.lock:
            self._check_pools(limits)
            self._memory.limits[model] = limits
            self._memory.unsent_limits[("m", model)] = None
        self._run(
            lambda: self._send_limits("m", model),
            lambda local: local.configure(model, share_of(limits, self._replicas)),
        )

    def adopt_limits(self, model: str, limits: Limits) -> None:
        """Record limits that another replica has set, to restore them on a server that has lost them."""
        with self._link.lock:
            if model in self._memory.limits and ("m", model) not in self._memory.unsent_limits:
                self._memory.limits[model] = limits

    def exchange(self, topic: str, text: str, ttl_s: float) -> dict[str, tuple[str, float]]:
        """Publish a text under a topic; return every replica's, with its age; nothing in an outage."""
        if self._interrupted:
            return {}

        def remotely() -> dict[str, tuple[str, float]]:
            reply = self._link.call("exchange", topic, text, repr(float(ttl_s)))
            return {
                name: (text, float(age))
                for name, age, text in zip(reply[1::3], reply[2::3], reply[3::3], strict=True)
            }

        return self._run(remotely, lambda _: {}, dict)

    def configure_pool(self, pool: str, limits: Limits) -> None:
        """Set the limits of a pool; kept and sent later when the server does not answer."""
        with self._link.lock:
            self._check_pools(limits)
            check_circle(pool, limits, self._memory.pools)
            self._memory.pools[pool] = limits
            self._memory.unsent_limits[("p", pool)] = None
        self._run(
            lambda: self._send_limits("p", pool),
            lambda local: local.configure_pool(pool, share_of(limits, self._replicas)),
        )

    def _check_pools(self, limits: Limits) -> None:
        """Raise SpecError for a pool that was not set here: this replica must be able to restore it."""
        for name in limits.pools:
            if name not in self._memory.pools:
                raise SpecError(
                    Violation("pools", "expected pools that were set before, in this process", name)
                )

    def forget_pool(self, pool: str) -> None:
        """Remove a pool that nothing draws on; sent later when the server does not answer."""

        def remotely() -> None:
            users = self._link.call("forget_pool", pool)[1]
            if users:
                raise in_use(pool, users)

        def locally(local: MemoryStore) -> None:
            local.forget_pool(pool)
            self._memory.unsent.append(("forget_pool", pool))

        self._run(remotely, locally)
        self._memory.forget_pool(pool)

    def pool_row(self, pool: str) -> StoreRow:
        """Return the state of a pool."""
        return self._run(
            lambda: read_row(self._link.call("pool", pool)[1]), lambda local: local.pool_row(pool)
        )

    def limits(self, model: str) -> Limits:
        """Return the limits of a model; when the server does not answer, those set here, not this replica's share."""

        def locally(local: MemoryStore) -> Limits:
            share = local.limits(model)
            return self._memory.limits.get(model, share)

        return self._run(lambda: read_row(self._link.call("row", model)[1]).limits, locally)

    def end_leases(self, model: str) -> int:
        """End every lease of a model, of every replica; sent later when the server does not answer."""
        operation = ("end_leases", model, secrets.token_hex(8))

        def remotely() -> int:
            return int(self._link.call(*operation)[1])

        def locally(local: MemoryStore) -> int:
            self._memory.unsent.append(operation)
            return local.end_leases(model)

        ended = self._run(remotely, locally)
        self._memory.end_leases(model)
        return ended

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its limits from nothing again; sent later during an outage."""
        self._reset("reset_usage", model)

    def reset_pool(self, pool: str) -> None:
        """Do :meth:`reset_usage` for a pool."""
        self._reset("reset_pool", pool)

    def _reset(self, operation: str, name: str) -> None:
        message = (operation, name, secrets.token_hex(8))

        def locally(local: MemoryStore) -> None:
            getattr(local, operation)(name)
            self._memory.unsent.append(message)

        self._run(lambda: self._send(*message), locally)

    def forget(self, model: str) -> None:
        """Remove a model with its leases, usage and stops; sent later when the server does not answer."""

        def locally(local: MemoryStore) -> None:
            self._memory.unsent.append(("forget", model))
            local.forget(model)

        self._run(lambda: self._link.call("forget", model), locally)
        self._memory.forget(model)

    # -- work from outside, and stops

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside, with a floor at zero; counted once, whatever is repeated."""
        if self._interrupted:  # as in release
            self._late.append(lambda: self.adjust(model, active=active, queue=queue))
            return
        operation = ("adjust", model, active, queue, secrets.token_hex(8))

        def locally(local: MemoryStore) -> None:
            local.adjust(model, active=active, queue=queue)
            self._memory.unsent.append(operation)

        self._run(lambda: self._send(*operation), locally)

    def observe(
        self, model: str, *, active: int, queue: int, ttl_s: float | None = None, age_s: float = 0.0
    ) -> None:
        """Set totals measured from outside; what exceeds the leases of that time counts as work from outside."""
        ttl = "" if ttl_s is None else repr(float(ttl_s))
        operation = ("observe", model, active, queue, ttl, repr(float(age_s)), secrets.token_hex(8))

        def locally(local: MemoryStore) -> None:
            local.observe(model, active=active, queue=queue, ttl_s=ttl_s, age_s=age_s)
            self._memory.unsent.append(operation)

        self._run(lambda: self._send(*operation), locally)

    def stop(
        self,
        model: str,
        owner: StopOwner | str,
        *,
        name: str = "",
        reason: str = "",
        for_s: float | None = None,
        extend: bool = False,
    ) -> Stop:
        """Keep new work away from a model; sent later when the server does not answer."""
        key = checked_stop(owner, name, reason, for_s)
        seconds = "" if for_s is None else repr(float(for_s))
        operation = ("stop", model, key.owner.value, name, reason, seconds, int(extend))

        def remotely() -> Stop:
            [stop] = read_stops([self._link.call(*operation)[1]])
            self._memory.note_stop(model, stop)
            return stop

        def locally(local: MemoryStore) -> Stop:
            self._memory.unsent.append(operation)
            return local.stop(model, owner, name=name, reason=reason, for_s=for_s, extend=extend)

        return self._run(remotely, locally)

    def resume(self, model: str, owner: StopOwner | str, *, name: str | None = None) -> int:
        """Lift the stops of one owner; sent later when the server does not answer."""
        key = checked_stop(owner, name or "", "", None)
        operation = ("resume", model, key.owner.value, name or "", int(name is None), secrets.token_hex(8))

        def remotely() -> int:
            lifted = self._link.call(*operation)[1]
            self._memory.note_lifted(model, lifted, self._link.server_now_s)
            return len(lifted)

        def locally(local: MemoryStore) -> int:
            self._memory.unsent.append(operation)
            return local.resume(model, owner, name=name)

        return self._run(remotely, locally)

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's unnamed stop."""
        if accepting:
            self.resume(model, StopOwner.OPERATOR, name="")
        else:
            self.stop(model, StopOwner.OPERATOR)

    # -- reading

    def row(self, model: str) -> StoreRow:
        """Return the state of one model; this replica's own part of it when the server does not answer."""

        def locally(local: MemoryStore) -> StoreRow:
            row = local.row(model)
            return replace(row, accepting=row.accepting and self._share_open())

        def remotely() -> StoreRow:
            _, text, free = self._link.call("row", model)
            return replace(read_row(text), pool_free=int(free) if free else None)

        return self._run(remotely, locally)

    def view(self) -> StoreView:
        """Return the state of every model; this replica's own part of it when the server does not answer."""

        def remotely() -> StoreView:
            parts = parts_of_view(self._link.call("models"))
            view = read_view(parts)
            if view.models == self._models:  # the same object again: what is derived from it stays valid
                view = view._replace(models=self._models)
            self._models = view.models
            with self._link.lock:
                self._memory.note_limits(newer_limits(parts, self._memory.set_at))
                self._memory.note_view(view.stops, frozenset(view.models), view.version)
            return view

        def locally(local: MemoryStore) -> StoreView:
            view = local.view()
            return view._replace(
                version=self._memory.version + view.version, accepting=view.accepting & self._share_open()
            )

        return self._run(remotely, locally)

    def next_event_s(self) -> float:
        """Return the store's time at which a lease, a stop or reported load ends next."""
        return self._run(
            lambda: min((float(text) for text in self._link.call("next_event") if text), default=math.inf),
            lambda local: local.next_event_s(),
        )
