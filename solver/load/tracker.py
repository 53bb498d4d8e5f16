"""LoadTracker: who is busy, and one atomic way to reserve capacity."""

from __future__ import annotations

import itertools
import math
import os
import secrets
import threading
import weakref
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError, Violation, ViolationKind
from solver.load.async_tracker import AsyncTracker
from solver.load.checks import (
    LARGEST,
    amount_problems,
    money_problems,
    name_problems,
    names_problems,
    positive_problems,
    whole_problems,
)
from solver.load.control.retry_line import RetryLine
from solver.load.control.upstream import BUSY_STATUSES, BreakerParameters, UpstreamHealth
from solver.load.learning import LearnedFleet
from solver.load.lease import ONE_SLOT, Ask, Demand, Lease, LeaseState, QueuePlace, ReleaseOutcome
from solver.load.listeners import tell
from solver.load.observe.output_lengths import LengthParameters, OutputLengths
from solver.load.outcome import Outcome
from solver.load.refusal import Refusal
from solver.load.snapshot import LoadSnapshot, ModelLoad, utilization_of
from solver.load.stops import Stop, StopOwner
from solver.load.store.base import Limits, nano_usd
from solver.load.store.memory import MemoryStore
from solver.load.store.usage_limits import usage_limits, usage_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from solver.load.control.learned.learner import LearnedState
    from solver.load.store.base import Store, StoreRow
    from solver.load.store.usage_limits import UsageLimit
    from solver.load.store.waiting_line import QueueRules
    from solver.problem.spec import Capacity

__all__ = ["LoadTracker"]

_LATENCY_WEIGHT = 0.2
"""Weight of the newest sample in the moving average of latencies."""


class LoadTracker(AsyncTracker):
    """The live load of every model, and leases on its capacity.

    Thread-safe. With the default store every operation takes microseconds and may be called from an event
    loop; with a remote store use the ``_async`` methods there.

    Parameters
    ----------
    store : Store, optional
        Where counts and leases live; default: this process
        (:class:`~solver.MemoryStore`). Several processes share a
        :class:`~solver.RedisStore`.
    clock : Clock, optional
        Time of the default store and of recorded outcomes; default: the machine's monotonic clock.
    stale_after_s : float
        Seconds after which load that nobody has updated counts as unknown.
    lease_ids : callable, optional
        Returns a new unique id at each call; default: a random prefix and a count.
    breaker : BreakerParameters, optional
        When work is kept away from models whose requests fail, see :meth:`record`.
    lengths : LengthParameters, optional
        How much is reserved for answers whose length is unknown, see :meth:`demand_for`.

    Examples
    --------
    >>> from solver.load.tracker import LoadTracker
    >>> from solver.problem.spec import Capacity
    >>> tracker = LoadTracker()
    >>> tracker.set_capacity("small", Capacity(max_concurrent=1))
    >>> lease = tracker.acquire("small", ttl_s=30)
    >>> tracker.acquire("small") is None
    True
    >>> lease.release()
    <ReleaseOutcome.RELEASED: 'released'>
    """

    def __init__(
        self,
        store: Store | None = None,
        clock: Clock | None = None,
        stale_after_s: float = 60.0,
        *,
        lease_ids: Callable[[], str] | None = None,
        breaker: BreakerParameters | None = None,
        lengths: LengthParameters | None = None,
    ) -> None:
        if stale_after_s != math.inf and (problems := positive_problems("stale_after_s", stale_after_s)):
            raise SpecError(*problems)
        self._clock = clock or MonotonicClock()
        self._store = MemoryStore(clock=self._clock) if store is None else store
        self._stale_after_s = stale_after_s
        self._lease_ids = lease_ids
        self._learned = LearnedFleet(self._store, self._clock)
        self._upstream = UpstreamHealth(self._store, self._clock, breaker)
        self._lengths = OutputLengths(lengths)
        self._line = RetryLine()
        self._limits: dict[str, Limits] = {}
        self._pool_limits: dict[str, Limits] = {}
        self._draining: dict[str, Callable[[str], object]] = {}
        self._begin_process()
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._capacities: dict[str, Capacity] = {}
        self._latency_ms: dict[str, float] = {}
        self._heard_s: dict[str, float] = {}
        self._listeners: tuple[Callable[[Outcome], object], ...] = ()
        self._targets: tuple[tuple[str, ...], NDArray[np.float64]] = ((), np.empty(0))
        nothing = np.empty(0, np.int64)
        self._open: tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]
        self._open = (nothing.astype(np.bool_), nothing, nothing)
        _TRACKERS.add(self)

    def _begin_process(self) -> None:
        """Set what no two processes may share, also in the child of a fork."""
        super()._begin_process()
        prefix, count = secrets.token_hex(8), itertools.count()
        self._new_id = self._lease_ids or (lambda: f"{prefix}-{next(count)}")
        self._lock = threading.RLock()  # a finalizer may record while its own thread does
        self._move_lock = threading.RLock()

    @property
    def store(self) -> Store:
        """Where counts and leases live."""
        return self._store

    @property
    def clock(self) -> Clock:
        """Where time comes from."""
        return self._clock

    # -- capacity

    def set_capacity(
        self,
        model: str,
        capacity: Capacity,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        budget_usd: float | None = None,
        budget_period_s: float | None = None,
        rules: QueueRules | None = None,
        limits: Sequence[UsageLimit] = (),
        pools: Sequence[str] = (),
    ) -> None:
        """Set what a model can take, now or again. What is running keeps running.

        Parameters
        ----------
        model : str
            Its id.
        capacity : Capacity
            Slots, queue places and target; zero slots mean drained: nothing new is let in.
        requests_per_minute, tokens_per_minute : int, optional
            Most in any 60 seconds.
        budget_usd : float, optional
            Most US dollars in any ``budget_period_s``.
        budget_period_s : float, optional
            Seconds; None: the budget is spent once.
        rules : QueueRules, optional
            In which order waiting requests start.
        limits : sequence of UsageLimit, optional
            Further limits, of a second, a day, or the calendar's day, week or month; all hold at once. Set
            again with another amount, a limit keeps what was used of it.
        pools : sequence of str
            Pools of :meth:`set_pool` that every lease on it draws on, too.

        Raises
        ------
        SpecError
            One line per limit that is out of range.
        """
        problems = name_problems("model", model)
        usage = usage_problems(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s)
        if problems := problems + usage + names_problems("pools", pools):
            raise SpecError(*problems)
        enforced = replace(
            usage_limits(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s, limits),
            max_concurrent=self._learned.configure(model, capacity),
            max_queue=capacity.max_queue,
            rules=rules,
            pools=tuple(pools),
        )
        self._store.configure(model, enforced)
        self._upstream.forget(model)
        with self._lock:
            self._capacities[model] = capacity
            self._limits[model] = enforced
            self._targets = ((), np.empty(0))

    def capacity(self, model: str) -> Capacity | None:
        """Return the capacity set here, None for a model this tracker was not told about."""
        return self._capacities.get(model)

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its rates and budgets from nothing again, whatever the period.

        What requests in flight were charged with before is not taken back when they end.
        """
        self._store.reset_usage(model)

    # -- pools

    def set_pool(
        self,
        pool: str,
        *,
        max_concurrent: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        budget_usd: float | None = None,
        budget_period_s: float | None = None,
        limits: Sequence[UsageLimit] = (),
        within: Sequence[str] = (),
    ) -> None:
        """Set limits that several models share, such as one provider's quota behind many deployments.

        A lease on a model whose ``pools`` name this one draws on the model and on the pool in one atomic
        step, or on neither; it is renewed, moved, settled and released as one. A refusal names the pool.

        Parameters
        ----------
        pool : str
            Its name.
        max_concurrent : int, optional
            Most slots of all its models together.
        requests_per_minute, tokens_per_minute, budget_usd, budget_period_s, limits
            As in :meth:`set_capacity`, for all its models together.
        within : sequence of str
            Pools that this one draws on in turn, set before.

        Raises
        ------
        SpecError
            If a value is out of range, a pool is unknown, or one would draw on itself.
        """
        problems = name_problems("pool", pool)
        if max_concurrent is not None:
            problems += whole_problems("max_concurrent", max_concurrent)
        problems += usage_problems(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s)
        if problems := problems + names_problems("within", within):
            raise SpecError(*problems)
        enforced = replace(
            usage_limits(requests_per_minute, tokens_per_minute, budget_usd, budget_period_s, limits),
            max_concurrent=LARGEST if max_concurrent is None else int(max_concurrent),
            pools=tuple(within),
        )
        self._store.configure_pool(pool, enforced)
        with self._lock:
            self._pool_limits[pool] = enforced

    def pool(self, pool: str) -> StoreRow:
        """Return what a pool limits, what is taken of it, and how many wait on its models."""
        return self._store.pool_row(pool)

    def reset_pool(self, pool: str) -> None:
        """Do :meth:`reset_usage` for a pool."""
        self._store.reset_pool(pool)

    def forget_pool(self, pool: str) -> None:
        """Remove a pool; nothing happens when it is unknown. SpecError while models or pools draw on it."""
        self._store.forget_pool(pool)

    def forget(self, model: str) -> None:
        """Remove a model: its capacity, leases, usage, stops and latencies; releasing its leases is harmless.

        For fleets whose models come and go under new names. Nothing happens when it is unknown.
        """
        self._store.forget(model)
        self._learned.forget(model)
        self._upstream.forget(model)
        self._lengths.forget(model)
        self._line.forget(model)
        with self._lock:
            self._limits.pop(model, None)
            self._draining.pop(model, None)
            for known in (self._capacities, self._latency_ms, self._heard_s):
                known.pop(model, None)
            self._refusals = Counter({key: n for key, n in self._refusals.items() if key[0] != model})
            self._targets = ((), np.empty(0))

    # -- stops

    def stop(
        self,
        model: str,
        owner: StopOwner | str = StopOwner.OPERATOR,
        *,
        name: str = "",
        reason: str = "",
        for_s: float | None = None,
        extend: bool = False,
    ) -> Stop:
        """Keep new work away from a model; it is open again when no stop stands. Balancers see it at once.

        Parameters
        ----------
        model : str
            Its id.
        owner : StopOwner or str
            Who stops it. What already waits in its queue goes on to run, unless the owner is ``cooldown`` or
            ``breaker``: then it waits until the stop has ended.
        name : str
            Tells several stops of one owner apart. Setting the same one again replaces it.
        reason : str
            Why, for whoever looks at the snapshot.
        for_s : float, optional
            Seconds until it ends by itself; default: when :meth:`resume` lifts it.
        extend : bool
            An earlier setting of this stop that lasts longer stays: the longest deadline wins.

        Returns
        -------
        Stop
            The one that stands now, with its end.

        Raises
        ------
        SpecError
            If the model is unknown or a value is out of range.
        """
        return self._store.stop(model, owner, name=name, reason=reason, for_s=for_s, extend=extend)

    def resume(
        self, model: str, owner: StopOwner | str = StopOwner.OPERATOR, *, name: str | None = None
    ) -> int:
        """Lift the stops of one owner (with ``name``, that one); return how many stood.

        Stops of other owners stay: a rule that ends never reopens what an operator has closed.
        """
        return self._store.resume(model, owner, name=name)

    def drain(
        self, model: str, *, reason: str = "", on_drained: Callable[[str], object] | None = None
    ) -> Stop:
        """Let nothing new in, and let what runs and waits go on to its end.

        Keep its slots as they are meanwhile, so that those who wait can run;
        :meth:`~solver.LoadBalancer.redistribute` moves them elsewhere. ``resume(model, "drain")`` ends it.

        Parameters
        ----------
        model : str
            Its id.
        reason : str
            Why, for whoever looks at the snapshot.
        on_drained : callable, optional
            Called once with the model when nothing runs or waits there any more, from the thread whose
            release, here, was the last one; or from :meth:`is_drained`, which also notices leases that
            expire and those of other processes.
        """
        stop = self._store.stop(model, StopOwner.DRAIN, reason=reason)
        if on_drained is not None:
            with self._lock:
                self._draining[model] = on_drained
            self.is_drained(model)
        return stop

    def is_drained(self, model: str) -> bool:
        """Return whether a model is stopped, and nothing runs or waits there: it can be forgotten."""
        row = self._store.row(model)
        drained = not (row.accepting or row.active or row.queued)
        listener = None
        with self._lock:
            if drained or all(stop.owner is not StopOwner.DRAIN for stop in row.stops):
                listener = self._draining.pop(model, None)
        if drained and listener is not None:
            tell((listener,), model)
        return drained

    def stops(self, model: str) -> tuple[Stop, ...]:
        """Return every stop that stands for a model, in the order in which they were set."""
        return self._store.row(model).stops

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's stop without a name. See :meth:`stop` for owner, reason and duration."""
        self._store.set_accepting(model, accepting)

    # -- leases

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
        _check_ttl(ttl_s)
        _check_fill_to(fill_to)
        _check_place(priority, tenant)
        ask = Ask(
            model=model,
            demand=demand or ONE_SLOT,
            ttl_s=ttl_s,
            queue=queue,
            lease_id=self._new_id(),
            fill_to=fill_to,
            priority=priority,
            tenant=tenant,
        )
        if self._learned and (refusal := self._learned.refusal(model, ask.demand)) is not None:
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
        named = [ask if ask.lease_id else replace(ask, lease_id=self._new_id()) for ask in asks]
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
        return self._store.end_leases(model)

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
                raise SpecError(
                    Violation(
                        "ttl_s", "required with the id of a lease, but missing", kind=ViolationKind.MISSING
                    )
                )
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
        lease_id = _id_of(lease)
        if used is None and isinstance(lease, Lease) and lease.demand.guessed_tokens:
            used = lease.demand.tokens - lease.demand.guessed_tokens
            self._lengths.unsettled(lease.model)
        outcome = self._store.release(lease_id, tokens=used, cost_nano_usd=spent)
        if self._draining:
            for model in tuple(self._draining):
                self.is_drained(model)
        output = _output_of(lease, tokens, output_tokens)
        if output > 0 and isinstance(lease, Lease):
            self._lengths.observe(lease.model, lease.demand.task_type, output)
        if self._learned:
            self._learned.ended(lease_id, output)
        if outcome is ReleaseOutcome.UNKNOWN and isinstance(lease, Lease):
            with self._move_lock:  # it may be on its way to another model, under another id
                if lease.lease_id != lease_id:
                    outcome = self._store.release(lease.lease_id, tokens=used, cost_nano_usd=spent)
        return outcome

    def lease_state(self, lease: Lease | str) -> LeaseState:
        """Tell where a lease stands now."""
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
        known = hold_s is not None and room > 0
        return QueuePlace(
            position=before[0] + 1,
            expected_start_s=(before[1] + lease.demand.slots) / room * hold_s
            if known and hold_s is not None
            else None,
        )

    def _lease(self, ask: Ask, answer: LeaseState | Refusal) -> Lease | Refusal:
        if isinstance(answer, Refusal):
            with self._lock:
                self._refusals[answer.model, answer.reason.value] += 1
            if self._learned:
                self._learned.refused(answer)
            latency_ms = self._latency_ms.get(answer.model)
            return self._line.placed(
                answer,
                ask.demand,
                self._pool_limits.get(answer.pool) if answer.pool else self._limits.get(answer.model),
                None if latency_ms is None else latency_ms / 1e3,
                self._clock.now(),
            )
        lease = Lease(self, ask.lease_id, ask.model, ask.demand, ask.ttl_s, answer)
        if ask.queue:
            lease.priority, lease.tenant = ask.priority, ask.tenant
        if self._learned:
            self._learned.granted(lease)
        return lease

    # -- answers of unknown length

    def output_reserve(self, model: str | None, task_type: str | None = None) -> int | None:
        """Return the output tokens to reserve, as learned from settled leases; None while nothing is known.

        Without a model: what to expect of any.
        """
        return self._lengths.reserve(model, task_type)

    def demand_for(
        self,
        model: str,
        *,
        input_tokens: int = 0,
        max_tokens: int | None = None,
        task_type: str | None = None,
        usd_per_output_token: float = 0.0,
        usd_per_input_token: float = 0.0,
    ) -> Demand:
        """Return what to reserve for a request whose answer nobody can measure beforehand.

        Of the output tokens, a quantile of the latest answers to such tasks is reserved, at most ``max_tokens``,
        and settled by ``release(tokens=…)`` at the end. While nothing is known, one request reserves all
        that is left of the model's limits, or its ``max_tokens``: no more than one can be spent too much.

        Parameters
        ----------
        model : str
            Its id.
        input_tokens : int
            Of the prompt.
        max_tokens : int, optional
            Most the answer may have.
        task_type : str, optional
            What the work is; lengths are learned for each kind.
        usd_per_output_token, usd_per_input_token : float
            Prices, for limits on money.

        Raises
        ------
        SpecError
            If a value is out of range, or the model is unknown.
        """
        problems = [] if max_tokens is None else whole_problems("max_tokens", max_tokens, low=1)
        if problems := problems + whole_problems("input_tokens", input_tokens):
            raise SpecError(*problems)
        output = self.output_reserve(model, task_type)
        guessed = 0
        if output is None:
            row = self._store.row(model)
            left = [meter.limit - meter.used for meter in row.meters if meter.resource == "tokens"]
            guessed = output = max(1, int(min(left)) - input_tokens) if left else 0
        if max_tokens is not None:
            output = min(output, max_tokens)
        return Demand(
            tokens=input_tokens + output,
            input_tokens=input_tokens,
            cost_usd=input_tokens * usd_per_input_token + output * usd_per_output_token,
            task_type=task_type,
            guessed_tokens=min(guessed, output),
        )

    # -- learned capacity

    def first_token(self, lease: Lease) -> None:
        """Note the first token of an answer; see :meth:`Lease.first_token`."""
        self._learned.first_token(lease)

    def learned(self, model: str) -> LearnedState | None:
        """Return what is learned about a model and why its limit is what it is; None: nothing is learned."""
        return self._learned.state(model)

    def export_learned(self) -> dict[str, Any]:
        """Return all that has been learned, as plain numbers to be kept over restarts."""
        return self._learned.export()

    def restore_learned(self, states: dict[str, Any]) -> None:
        """Begin from what :meth:`export_learned` returned before a restart, after the capacities are set."""
        self._learned.restore(states)

    # -- load

    def refusals(self) -> dict[tuple[str, str], int]:
        """Return how often this tracker was refused, by (model, reason)."""
        with self._lock:
            return dict(self._refusals)

    def update_load(self, model: str, delta_active: int = 0, delta_queue: int = 0) -> None:
        """Add to the work that runs or waits without a lease; the sum never falls below zero.

        Nothing bounds or expires such work: prefer leases wherever a request can die unseen.
        """
        problems = whole_problems("delta_active", delta_active, low=None)
        problems += whole_problems("delta_queue", delta_queue, low=None)
        if problems:
            raise SpecError(*problems)
        self._store.adjust(model, active=int(delta_active), queue=int(delta_queue))

    def observe_load(
        self,
        model: str,
        *,
        active_requests: int,
        queue_depth: int = 0,
        ttl_s: float | None = None,
        age_s: float = 0.0,
    ) -> None:
        """Set what was measured at the model itself; what exceeds the leases counts as work from outside.

        Parameters
        ----------
        model : str
            Its id.
        active_requests, queue_depth : int
            What runs and what waits there.
        ttl_s : float, optional
            Seconds after which the excess is forgotten, so that a monitor that dies leaves no phantom load
            behind; ``inf`` for never. Default: the tracker's ``stale_after_s``.
        age_s : float
            How old the measurement is, seconds: it is compared with the leases of that time, so that requests
            that have ended since do not count as work from outside. Leases are remembered from the first
            measurement with an age on, for as long as they go on to come.
        """
        ttl_s = self._stale_after_s if ttl_s is None else ttl_s
        problems = whole_problems("active_requests", active_requests)
        problems += whole_problems("queue_depth", queue_depth)
        problems += [] if ttl_s == math.inf else positive_problems("ttl_s", ttl_s)
        problems += amount_problems("age_s", age_s)
        if problems:
            raise SpecError(*problems)
        if age_s >= ttl_s:
            return  # it would be forgotten at once
        self._store.observe(
            model,
            active=int(active_requests),
            queue=int(queue_depth),
            ttl_s=None if ttl_s == math.inf else float(ttl_s - age_s),
            age_s=float(age_s),
        )

    def current_load(self, model: str) -> ModelLoad | None:
        """Return the load of a model, None when it is unknown or nobody has updated it for too long."""
        try:
            row = self._store.row(model)
        except SpecError:
            return None
        now = self._clock.now()
        heard = max(now - row.age_s, self._heard_s.get(model, -math.inf))
        if now - heard > self._stale_after_s:
            return None
        return ModelLoad(
            active_requests=row.active,
            queue_depth=row.queued,
            avg_latency_ms=self._latency_ms.get(model),
            utilization=utilization_of(row.active, row.limits.max_concurrent),
            last_updated=heard,
        )

    def is_overloaded(self, model: str) -> bool:
        """Return whether more runs than there are slots, or more waits than there are queue places."""
        row = self._store.row(model)
        return row.active > row.limits.max_concurrent or row.queued > row.limits.max_queue

    def is_full(self, model: str, *, queue: bool = False) -> bool:
        """Return whether there is no room for one more; with ``queue``, not even to wait."""
        row = self._store.row(model)
        if not row.accepting:
            return True
        if row.pool_free == 0 and not (queue and row.queued < row.limits.max_queue):
            return True
        return row.active >= row.limits.max_concurrent and not (queue and row.queued < row.limits.max_queue)

    def is_over_target(self, model: str) -> bool:
        """Return whether utilization is above the target."""
        row = self._store.row(model)
        return utilization_of(row.active, row.limits.max_concurrent) > self.target_of(model)

    def target_of(self, model: str) -> float:
        """Return the target utilization of a model, 1 for one this tracker was not told about."""
        capacity = self._capacities.get(model)
        return 1.0 if capacity is None else capacity.target_utilization

    def snapshot(self) -> LoadSnapshot:
        """Return the load of every model at one instant, as arrays."""
        view = self._store.view()
        models, target = self._targets
        if models is not view.models:
            with self._lock:
                known = self._capacities
                target = np.array(
                    [known[name].target_utilization if name in known else 1.0 for name in view.models]
                )
                self._targets = (view.models, target)
        accepting, slots, open_slots = self._open
        if accepting is not view.accepting or slots is not view.max_concurrent:
            open_slots = view.max_concurrent * view.accepting
            self._open = (view.accepting, view.max_concurrent, open_slots)
        return LoadSnapshot(view, target, open_slots)

    # -- outcomes

    def record(
        self,
        model: str,
        *,
        latency_ms: float,
        success: bool = True,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_usd: float | None = None,
        task_type: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        lease: Lease | None = None,
    ) -> Outcome:
        """Note how a request went, and pass it on to whoever listens.

        Status 429, 503 and 529 pause the model: for ``retry_after_s`` where the server named it (the longest
        deadline wins), else for a second, doubling while it repeats. Failures in a row open a circuit
        breaker: one probe at a time until one succeeds, then a slow start. Errors that are the request's own
        fault, such as 400, do neither. Who is stopped, why and until when is in ``snapshot().stops``.

        Parameters
        ----------
        model : str
            Who served it.
        latency_ms : float
            From sending to the end of the answer, milliseconds.
        success : bool
            Whether the answer was usable; a status of 400 or more says no.
        input_tokens, output_tokens, cost_usd, task_type
            As in ``Outcome``.
        status : int, optional
            HTTP status of the answer.
        retry_after_s : float, optional
            Seconds the server asked to wait, as in the header ``Retry-After``.
        lease : Lease, optional
            The request's lease: a capacity that is learned learns from the refusal.

        Raises
        ------
        SpecError
            If a figure is NaN, infinite or negative; nothing is noted then.
        """
        problems = [] if status is None else whole_problems("status", status, low=100)
        if retry_after_s is not None:
            problems += amount_problems("retry_after_s", retry_after_s)
        if problems:
            raise SpecError(*problems)
        if status is not None and status >= 400:
            success = False
        outcome = Outcome(
            model=model,
            latency_ms=latency_ms,
            success=success,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=cost_usd,
            task_type=task_type,
            at_s=self._clock.now(),
        )
        with self._lock:
            if success:  # a model that fails at once is not a fast one
                mean = self._latency_ms.get(model, latency_ms)
                self._latency_ms[model] = mean + _LATENCY_WEIGHT * (latency_ms - mean)
            self._heard_s[model] = outcome.at_s
        if model in self._capacities:
            self._upstream.observe(outcome, status, retry_after_s)
        if lease is not None and status in BUSY_STATUSES:
            self._learned.turned_away(lease.lease_id, retry_after_s or 0.0, None)
        tell(self._listeners, outcome)
        return outcome

    def last_resort(self, models: tuple[str, ...]) -> str | None:
        """Open one of the models that only their breakers keep away, for one probe; None: there is none.

        For callers that find every model stopped: trying beats refusing. Balancers do so by themselves.
        """
        return self._upstream.last_resort(models)

    def listen(self, listener: Callable[[Outcome], object]) -> None:
        """Call ``listener`` with every outcome from now on, in the recording thread."""
        with self._lock:
            self._listeners = (*self._listeners, listener)


def _check_ttl(ttl_s: float) -> None:
    if type(ttl_s) is float and 0.0 < ttl_s < math.inf:
        return  # the usual case, without a list
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
    """Return a function that says whether somebody still holds the lease object, without holding it itself."""
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


_TRACKERS: weakref.WeakSet[LoadTracker] = weakref.WeakSet()


def _tell_trackers_of_fork() -> None:
    for tracker in list(_TRACKERS):
        tracker._begin_process()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_trackers_of_fork)
