"""Leases: capacity reserved, moved, renewed, released and settled."""

from __future__ import annotations

import contextlib
import math
import weakref
from typing import TYPE_CHECKING

from solver.errors import SpecError, StoreDownError, Violation, missing_value
from solver.load.checks import (
    amount_problems,
    money_problems,
    name_problems,
    positive_problems,
    whole_problems,
)
from solver.load.control.retry_after import SPREAD_OUT
from solver.load.lease import ONE_SLOT, Ask, Demand, Lease, LeaseState, QueuePlace, ReleaseOutcome
from solver.load.refusal import Refusal
from solver.load.store.base import nano_usd
from solver.load.tracking.async_work import AsyncWork, awaited
from solver.load.tracking.model_stops import ModelStops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from solver.load.store.base import StoreRow


_HOLD_WEIGHT = 0.1
"""Weight of the newest lease in the moving average of how long leases ran."""

_ROW_AGE_S = 1.0
"""Seconds for which a refusal does not ask a remote store for the state of a model again."""

_UNKNOWN = ReleaseOutcome.UNKNOWN  # looked up once: every release asks for it


class Leases(AsyncWork, ModelStops):
    """The leases that a tracker grants."""

    def try_acquire(
        self,
        model: str,
        demand: Demand | None = None,
        ttl_s: float = 30.0,
        *,
        queue: bool = False,
        fill_to: float = 1.0,
        priority: float = 1.0,
        tenant: str | None = None,
    ) -> Lease | Refusal:
        """Reserve capacity, or say why not.

        Parameters
        ----------
        model : str
            Whose capacity.
        demand : Demand, optional
            Default: one slot, one request.
        ttl_s : float
            Seconds until the lease expires unless renewed, > 0.
        queue : bool
            Take a queue place when every slot is taken; the lease becomes running by itself.
        fill_to : float
            Share of the slots that may be taken once this is granted, in (0, 1]: below 1, the rest is kept
            for requests that may fill more. Checked in the same atomic step.
        priority : float
            In the queue, higher runs first among those of the same tenant; waiting adds to it.
        tenant : str, optional
            On whose account: in the queue, tenants share fairly, see
            :class:`~solver.QueueRules`.

        Returns
        -------
        Lease or Refusal
            A refusal is falsy and carries a typed reason.

        Raises
        ------
        SpecError
            If the model is unknown or ``ttl_s`` is not a positive number.
        """
        if type(ttl_s) is not float or not 0.0 < ttl_s < math.inf:
            _check_ttl(ttl_s)
        if fill_to != 1.0:
            _check_fill_to(fill_to)
        if priority != 1.0 or tenant is not None:
            _check_place(priority, tenant)
        ask = Ask(model, demand or ONE_SLOT, ttl_s, queue, self._new_id(), fill_to, priority, tenant)
        if self._learned.capacities and (refusal := self._learned.refusal(model, ask.demand)) is not None:
            return self._lease(ask, refusal)
        return self._lease(ask, self._store.acquire(ask))

    def acquire(
        self,
        model: str,
        demand: Demand | None = None,
        ttl_s: float = 30.0,
        *,
        queue: bool = False,
        fill_to: float = 1.0,
        priority: float = 1.0,
        tenant: str | None = None,
    ) -> Lease | None:
        """Reserve capacity, or return None when it does not fit. See :meth:`try_acquire`."""
        answer = self.try_acquire(
            model, demand, ttl_s, queue=queue, fill_to=fill_to, priority=priority, tenant=tenant
        )
        return None if isinstance(answer, Refusal) else answer

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool = False) -> list[Lease | Refusal]:
        """Reserve for a whole plan in one atomic step.

        Parameters
        ----------
        asks : sequence of Ask
            Each is granted whole or not at all, in order. Ids are chosen where they are empty.
        whole_plan : bool
            Grant all of them or none.

        Raises
        ------
        SpecError
            If a model is unknown or a time to live is not positive; nothing is taken then.
        """
        for ask in asks:
            _check_ttl(ask.ttl_s)
            _check_fill_to(ask.fill_to)
            _check_place(ask.priority, ask.tenant)
        named = [ask if ask.lease_id else ask._replace(lease_id=self._new_id()) for ask in asks]
        answers = self._store.acquire_many(named, whole_plan=whole_plan)
        return [self._lease(ask, answer) for ask, answer in zip(named, answers, strict=True)]

    def move(self, lease: Lease, model: str, *, queue: bool = False) -> Lease | Refusal:
        """Swap a live lease for one of the same demand on another model, in one atomic step.

        Whoever holds the lease need not do anything: the same object now stands for the new model.

        Returns
        -------
        Lease or Refusal
            The lease, now on the other model; or why it stays as it is. A lease that was gone already is
            returned unchanged.
        """
        with self._move_lock:
            former_id = lease.lease_id
            ask = Ask(
                model=model,
                demand=lease.demand,
                ttl_s=lease.ttl_s,
                queue=queue,
                lease_id=self._new_id(),
                priority=lease.priority,
                tenant=lease.tenant,
            )
            answer = self._store.move(lease.lease_id, ask)
            if isinstance(answer, Refusal):
                return answer
            if answer is not LeaseState.GONE:
                lease.lease_id, lease.model, lease.granted = ask.lease_id, model, answer
                if lease.kept:
                    self._store.keep(ask.lease_id, ask.ttl_s, _alive(lease))
                if self._learned.capacities:
                    self._learned.moved(lease, former_id)
        if self._draining:
            self._look_at_drains()
        return lease

    def keep(self, lease: Lease) -> LeaseState:
        """Renew a lease by itself for as long as its object is held. See :meth:`Lease.keep_alive`."""
        with self._move_lock:
            state = self._store.keep(lease.lease_id, lease.ttl_s, _alive(lease))
            lease.kept = state is not LeaseState.GONE
        return state

    def end_leases(self, model: str) -> int:
        """End every lease of a model, for example when its server has died with all that ran on it.

        Returns
        -------
        int
            Leases that were live. Whoever still holds one finds it GONE, and its release settles what was
            really used.
        """
        ended = self._store.end_leases(model)
        if self._draining:
            self._look_at_drains()
        return ended

    def on_promotion(self, listener: Callable[[str], object]) -> None:
        """Call ``listener`` with the id of every lease that leaves the queue and runs, from any thread."""
        self._store.listen(listener)

    def renew(self, lease: Lease | str, *, ttl_s: float | None = None) -> LeaseState:
        """Let a lease live longer; GONE when it was too late.

        Parameters
        ----------
        lease : Lease or str
            The lease or its id.
        ttl_s : float, optional
            Seconds from now; default: as granted, or as renewed last. Needed with a bare id.
        """
        if ttl_s is None:
            if isinstance(lease, str):
                raise SpecError(missing_value("ttl_s", "required with the id of a lease, but missing"))
            ttl_s = lease.ttl_s
        _check_ttl(ttl_s)
        lease_id = _id_of(lease)
        state = self._store.renew(lease_id, ttl_s)
        if isinstance(lease, Lease):
            with self._move_lock:  # as in release; a move has to grant what was renewed
                if state is LeaseState.GONE and lease.lease_id != lease_id:
                    state = self._store.renew(lease.lease_id, ttl_s)
                if state is not LeaseState.GONE:
                    lease.ttl_s = ttl_s
        return state

    def release(
        self,
        lease: Lease | str,
        *,
        tokens: int | None = None,
        cost_usd: float | None = None,
        output_tokens: int | None = None,
    ) -> ReleaseOutcome:
        """End a lease and settle what it really used. Idempotent: the second call finds UNKNOWN."""
        used = spent = None
        if tokens is not None or cost_usd is not None:
            problems = [] if tokens is None else whole_problems("tokens", tokens)
            problems += [] if cost_usd is None else money_problems("cost_usd", cost_usd)
            if problems:
                raise SpecError(*problems)
            used = None if tokens is None else int(tokens)
            spent = None if cost_usd is None else nano_usd(cost_usd)
        lease_id = lease if isinstance(lease, str) else lease.lease_id
        if used is None and isinstance(lease, Lease) and lease.demand.guessed_tokens:
            used = lease.demand.tokens - lease.demand.guessed_tokens
            if lease.model not in self._forgotten:
                self._lengths.unsettled(lease.model)
        outcome = self._store.release(lease_id, tokens=used, cost_nano_usd=spent)
        if isinstance(lease, Lease) and lease._since_s is not None:  # noqa: SLF001 # as above
            self._note_hold(lease)
        if self._draining:
            self._look_at_drains()
        output = 0 if tokens is output_tokens is None else _output_of(lease, tokens, output_tokens)
        if output > 0 and isinstance(lease, Lease) and lease.model not in self._forgotten:
            self._lengths.observe(lease.model, lease.demand.task_type, output)
        if self._learned.capacities:
            self._learned.ended(lease_id, output)
        if outcome is _UNKNOWN and isinstance(lease, Lease):
            with self._move_lock:  # it may be on its way to another model, under another id
                if lease.lease_id != lease_id:
                    outcome = self._store.release(lease.lease_id, tokens=used, cost_nano_usd=spent)
        return outcome

    def lease_state(self, lease: Lease | str) -> LeaseState:
        """Return whether a lease runs, waits, or is gone now."""
        lease_id = _id_of(lease)
        state = self._store.lease_state(lease_id)
        if state is LeaseState.GONE and isinstance(lease, Lease):
            with self._move_lock:  # as in release
                if lease.lease_id != lease_id:
                    state = self._store.lease_state(lease.lease_id)
        return state

    def place_of(self, lease: Lease) -> QueuePlace | None:
        """Return where in the queue a lease waits, None when it does not; see :meth:`Lease.place`."""
        before = self._store.slots_before(lease.model, lease.lease_id)
        if before is None:
            return None
        row = self._store.row(lease.model)
        hold_s, room = row.hold_s, row.limits.max_concurrent
        if hold_s is None and lease.model in self._latency_ms:
            hold_s = self._latency_ms[lease.model] / 1e3
        hold_s = self._hold_s.get(lease.model) if hold_s is None else hold_s
        known = hold_s is not None and room > 0
        return QueuePlace(
            position=before[0] + 1,
            expected_start_s=(before[1] + lease.demand.slots) / room * hold_s
            if known and hold_s is not None
            else None,
        )

    try_acquire_async = awaited(try_acquire)
    acquire_async = awaited(acquire)
    renew_async = awaited(renew)
    release_async = awaited(release)

    def _lease(self, ask: Ask, answer: LeaseState | Refusal) -> Lease | Refusal:
        if isinstance(answer, Refusal):
            with self._lock:
                self._refusals[answer.model, answer.reason.value] += 1
            if self._learned.capacities:
                self._learned.refused(answer)
            if answer.reason not in SPREAD_OUT:
                return answer
            return self._line.placed(answer, ask.demand, *self._pace_of(answer), self._clock.now())
        lease = Lease(self, ask.lease_id, ask.model, ask.demand, ask.ttl_s, answer)
        if ask.queue:
            lease.priority, lease.tenant = ask.priority, ask.tenant
        if self._learned.capacities:
            self._learned.granted(lease)
        if self._store.remote and answer is LeaseState.RUNNING:
            lease._since_s = self._clock.now()  # noqa: SLF001 # a lease is its tracker's own record
        return lease

    def _pace_of(self, refusal: Refusal) -> tuple[StoreRow | None, float | None]:
        """Return what is known of the model, or the pool, that refused, and how long the model's requests take."""
        model, pool = refusal.model, refusal.pool
        row = self._row_lately(model, None)
        if row is not None and row.limits.full_slots is not None:
            self._upstream.adopt(model)
        duration_s = self._hold_s.get(model) if row is None or row.hold_s is None else row.hold_s
        if model in self._latency_ms:
            duration_s = self._latency_ms[model] / 1e3
        return row if pool is None else self._row_lately(model, pool), duration_s

    def _note_hold(self, lease: Lease) -> None:
        """Note for how long a lease ran: a remote store does not."""
        since_s, lease._since_s = lease._since_s, None  # noqa: SLF001 # a lease is its tracker's own record
        if since_s is None or lease.model in self._forgotten:
            return
        hold_s = self._clock.now() - since_s
        mean = self._hold_s.get(lease.model, hold_s)
        self._hold_s[lease.model] = mean + _HOLD_WEIGHT * (hold_s - mean)

    def _row_lately(self, model: str, pool: str | None) -> StoreRow | None:
        """Return the state of a model, or of a pool that it draws on; of a remote store, as of a second ago."""
        now = self._clock.now()
        asked_s, row = self._rows.get((model, pool), (-math.inf, None))
        if now < asked_s + _ROW_AGE_S and self._store.remote:
            return row
        with contextlib.suppress(SpecError, StoreDownError):
            row = self._store.row(model) if pool is None else self._store.pool_row(pool)
        if self._store.remote:
            self._rows[model, pool] = (now, row)
        return row

    def first_token(self, lease: Lease) -> None:
        """Note the first token of an answer; see :meth:`Lease.first_token`."""
        self._learned.first_token(lease)


def _check_ttl(ttl_s: float) -> None:
    if problems := positive_problems("ttl_s", ttl_s):
        raise SpecError(*problems)


def _check_fill_to(fill_to: float) -> None:
    if not 0.0 < fill_to <= 1.0:
        raise SpecError(Violation("fill_to", "expected in (0, 1]", fill_to))


def _check_place(priority: float, tenant: str | None) -> None:
    if type(priority) is float and 0.0 <= priority < math.inf and tenant is None:
        return  # the usual case, without a list
    problems = [] if tenant is None else name_problems("tenant", tenant)
    if problems := problems + amount_problems("priority", priority):
        raise SpecError(*problems)


def _alive(lease: Lease) -> Callable[[], bool]:
    """Return a function that says whether the lease object is still referenced, without referencing it itself."""
    reference = weakref.ref(lease)
    return lambda: reference() is not None


def _output_of(lease: Lease | str, tokens: int | None, output_tokens: int | None) -> int:
    """Return the tokens of an answer, 0 where they cannot be known."""
    if output_tokens is not None:
        return int(output_tokens)
    if tokens is None or isinstance(lease, str) or lease.demand.input_tokens is None:
        return 0
    return max(0, int(tokens) - lease.demand.input_tokens)


def _id_of(lease: Lease | str) -> str:
    return lease if isinstance(lease, str) else lease.lease_id
