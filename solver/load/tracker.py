"""LoadTracker: who is busy, and one atomic way to reserve capacity."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import SpecError
from solver.load.checks import money_problems, name_problems, positive_problems, whole_problems
from solver.load.lease import (
    ONE_SLOT,
    Ask,
    Demand,
    Lease,
    LeaseState,
    Refusal,
    ReleaseOutcome,
)
from solver.load.outcome import Outcome
from solver.load.snapshot import LoadSnapshot, ModelLoad, utilization_of
from solver.load.store.base import Limits, nano_usd
from solver.load.store.memory import MemoryStore

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from solver.load.store.base import Store
    from solver.problem.spec import Capacity

__all__ = ["LoadTracker"]

_T = TypeVar("_T")
_LATENCY_WEIGHT = 0.2  # of the newest sample in the running mean


class LoadTracker:
    """The live load of every model, and leases on its capacity.

    Thread-safe. With the default store every operation takes microseconds and may be called from an event
    loop; with a remote store use the ``_async`` methods there.

    Parameters
    ----------
    store : Store, optional
        Where counts and leases live; default: this process
        (:class:`~solver.load.store.memory.MemoryStore`). Several processes share a
        :class:`~solver.load.store.redis.RedisStore`.
    clock : Clock, optional
        Time of the default store and of recorded outcomes; default: the machine's monotonic clock.
    stale_after_s : float
        Seconds after which load that nobody has updated counts as unknown.
    lease_ids : callable, optional
        Returns a new unique id at each call; default: a random prefix and a count.

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
    ) -> None:
        if stale_after_s != math.inf and (problems := positive_problems("stale_after_s", stale_after_s)):
            raise SpecError(*problems)
        self._clock = clock or MonotonicClock()
        self._store = MemoryStore(clock=self._clock) if store is None else store
        self._stale_after_s = stale_after_s
        prefix, count = secrets.token_hex(8), itertools.count()
        self._new_id = lease_ids or (lambda: f"{prefix}-{next(count)}")
        self._lock = threading.Lock()
        self._move_lock = threading.Lock()
        self._refusals: Counter[tuple[str, str]] = Counter()
        self._capacities: dict[str, Capacity] = {}
        self._latency_ms: dict[str, float] = {}
        self._heard_s: dict[str, float] = {}
        self._listeners: tuple[Callable[[Outcome], object], ...] = ()
        self._targets: tuple[tuple[str, ...], NDArray[np.float64]] = ((), np.empty(0))
        nothing = np.empty(0, np.int64)
        self._open: tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]
        self._open = (nothing.astype(np.bool_), nothing, nothing)

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

        Raises
        ------
        SpecError
            One line per limit that is out of range.
        """
        problems = name_problems("model", model)
        if requests_per_minute is not None:
            problems += whole_problems("requests_per_minute", requests_per_minute)
        if tokens_per_minute is not None:
            problems += whole_problems("tokens_per_minute", tokens_per_minute)
        if budget_usd is not None:
            problems += money_problems("budget_usd", budget_usd)
        if budget_period_s is not None:
            problems += positive_problems("budget_period_s", budget_period_s)
        if problems:
            raise SpecError(*problems)
        self._store.configure(
            model,
            Limits(
                max_concurrent=capacity.max_concurrent,
                max_queue=capacity.max_queue,
                requests=None if requests_per_minute is None else int(requests_per_minute),
                tokens=None if tokens_per_minute is None else int(tokens_per_minute),
                budget_nano_usd=None if budget_usd is None else nano_usd(budget_usd),
                budget_period_s=budget_period_s if budget_usd is not None else None,
            ),
        )
        with self._lock:
            self._capacities[model] = capacity
            self._targets = ((), np.empty(0))

    def capacity(self, model: str) -> Capacity | None:
        """Return the capacity set here, None for a model this tracker was not told about."""
        return self._capacities.get(model)

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Start or stop rejecting new work for a model; balancers see it at once."""
        self._store.set_accepting(model, accepting)

    # -- leases

    def try_acquire(
        self, model: str, demand: Demand | None = None, ttl_s: float = 30.0, *, queue: bool = False
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
        ask = Ask(model=model, demand=demand or ONE_SLOT, ttl_s=ttl_s, queue=queue, lease_id=self._new_id())
        return self._lease(ask, self._store.acquire(ask))

    def acquire(
        self, model: str, demand: Demand | None = None, ttl_s: float = 30.0, *, queue: bool = False
    ) -> Lease | None:
        """Reserve capacity, or return None when it does not fit. See :meth:`try_acquire`."""
        answer = self.try_acquire(model, demand, ttl_s, queue=queue)
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
                model=model, demand=lease.demand, ttl_s=lease.ttl_s, queue=queue, lease_id=self._new_id()
            )
            answer = self._store.move(lease.lease_id, ask)
            if isinstance(answer, Refusal):
                return answer
            if answer is not LeaseState.GONE:
                lease.lease_id, lease.model, lease.granted = ask.lease_id, model, answer
            return lease

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
                raise SpecError("ttl_s: required with the id of a lease, but missing")
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
        self, lease: Lease | str, *, tokens: int | None = None, cost_usd: float | None = None
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
        outcome = self._store.release(lease_id, tokens=used, cost_nano_usd=spent)
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

    def _lease(self, ask: Ask, answer: LeaseState | Refusal) -> Lease | Refusal:
        if isinstance(answer, Refusal):
            with self._lock:
                self._refusals[answer.model, answer.reason.value] += 1
            return answer
        return Lease(self, ask.lease_id, ask.model, ask.demand, ask.ttl_s, answer)

    # -- the same without blocking an event loop

    async def try_acquire_async(
        self, model: str, demand: Demand | None = None, ttl_s: float = 30.0, *, queue: bool = False
    ) -> Lease | Refusal:
        """Do :meth:`try_acquire` without blocking the event loop.

        When the awaiting task is cancelled while a remote store is still answering, whatever it grants is
        released again.
        """
        if not self._store.remote:
            return self.try_acquire(model, demand, ttl_s, queue=queue)
        import asyncio  # most processes that import this package never need it

        work = asyncio.get_running_loop().run_in_executor(
            None, lambda: self.try_acquire(model, demand, ttl_s, queue=queue)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_release_result)
            raise

    async def acquire_async(
        self, model: str, demand: Demand | None = None, ttl_s: float = 30.0, *, queue: bool = False
    ) -> Lease | None:
        """Do :meth:`acquire` without blocking the event loop."""
        answer = await self.try_acquire_async(model, demand, ttl_s, queue=queue)
        return None if isinstance(answer, Refusal) else answer

    async def renew_async(self, lease: Lease | str, *, ttl_s: float | None = None) -> LeaseState:
        """Do :meth:`renew` without blocking the event loop."""
        return await self._off_loop(lambda: self.renew(lease, ttl_s=ttl_s))

    async def release_async(
        self, lease: Lease | str, *, tokens: int | None = None, cost_usd: float | None = None
    ) -> ReleaseOutcome:
        """Do :meth:`release` without blocking the event loop; it is carried out even if cancelled."""
        return await self._off_loop(lambda: self.release(lease, tokens=tokens, cost_usd=cost_usd))

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        if not self._store.remote:
            return work()
        import asyncio  # as above

        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, work))

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

    def observe_load(self, model: str, *, active_requests: int, queue_depth: int = 0) -> None:
        """Set what was measured at the model itself; what exceeds the leases counts as work from outside."""
        problems = whole_problems("active_requests", active_requests)
        problems += whole_problems("queue_depth", queue_depth)
        if problems:
            raise SpecError(*problems)
        self._store.observe(model, active=int(active_requests), queue=int(queue_depth))

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
        return row.active >= row.limits.max_concurrent and not (queue and row.queued < row.limits.max_queue)

    def is_over_target(self, model: str) -> bool:
        """Return whether utilization is above the target."""
        row = self._store.row(model)
        capacity = self._capacities.get(model)
        target = 1.0 if capacity is None else capacity.target_utilization
        return utilization_of(row.active, row.limits.max_concurrent) > target

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
    ) -> Outcome:
        """Note how a request went, and pass it on to whoever listens.

        Raises
        ------
        SpecError
            If a figure is NaN, infinite or negative; nothing is noted then.
        """
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
            mean = self._latency_ms.get(model, latency_ms)
            self._latency_ms[model] = mean + _LATENCY_WEIGHT * (latency_ms - mean)
            self._heard_s[model] = outcome.at_s
        for listener in self._listeners:
            listener(outcome)
        return outcome

    def listen(self, listener: Callable[[Outcome], object]) -> None:
        """Call ``listener`` with every outcome from now on, in the recording thread."""
        with self._lock:
            self._listeners = (*self._listeners, listener)


def _check_ttl(ttl_s: float) -> None:
    if type(ttl_s) is float and 0.0 < ttl_s < math.inf:
        return  # the usual case, without a list
    if problems := positive_problems("ttl_s", ttl_s):
        raise SpecError(*problems)


def _id_of(lease: Lease | str) -> str:
    return lease if isinstance(lease, str) else lease.lease_id


def _release_result(work: asyncio.Future[Lease | Refusal]) -> None:
    """Give back, off the event loop, what a cancelled caller was granted."""
    if not work.cancelled() and work.exception() is None:
        answer = work.result()
        if isinstance(answer, Lease):
            work.get_loop().run_in_executor(None, answer.release)
