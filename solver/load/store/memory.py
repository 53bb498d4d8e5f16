"""The store of one process: leases under one lock, over the flat arrays of a model table."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import ForkedStoreError
from solver.load.lease import Ask, LeaseState, ReleaseOutcome
from solver.load.listeners import notify
from solver.load.stops import Stop, StopOwner, checked_stop
from solver.load.store.lease_table import LeaseTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from solver.load.refusal import Refusal
    from solver.load.store.base import Limits, StoreRow, StoreView
    from solver.load.store.model_table import ModelTable


class MemoryStore:
    """Counts and leases of every model in this process.

    Acquire, release and renew are O(log leases); a view is a copy of flat arrays. Every operation holds
    one lock for a few microseconds and never blocks on anything else, so it may be called from an event
    loop. A release from a finalizer that interrupts another operation of the same thread is kept and
    carried out by the next operation.

    Leases whose time is over are ended by the operations that follow, at most 2048 by each, so that a
    million of them cost no caller more than a few milliseconds; until then they still count as taken.

    Parameters
    ----------
    clock : Clock, optional
        Defaults to the machine's monotonic clock. A reading below an earlier one counts as the earlier one.
    per_process : bool
        What happens in a child process made by a fork. False: every operation there raises
        ``solver.errors.ForkedStoreError``, since parent and child would each grant the whole
        capacity. True: that is what is wanted; the child starts with the same limits and nothing taken.
    """

    remote = False

    def __init__(self, *, clock: Clock | None = None, per_process: bool = False) -> None:
        self._clock = clock or MonotonicClock()
        self._per_process = per_process
        self._listeners: tuple[Callable[[str], object], ...] = ()
        self._start_empty()
        _STORES.add(self)

    def _start_empty(self) -> None:
        self._lock: Any = threading.RLock()
        self._leases = LeaseTable(self._clock)
        self._leases.has_listeners = bool(self._listeners)

    def _after_fork(self) -> None:
        """In the child process: refuse, or begin with the same limits and nothing taken."""
        if not self._per_process:
            self._lock = _NoLockAfterFork()
            return
        before = self._leases
        self._start_empty()
        for pool, limits in before.pools.limits().items():
            self.configure_pool(pool, limits)
        table = before.models
        for model, limits in zip(table.models, table.limits, strict=True):
            self.configure(model, limits)
            for stop in table.stops(table.index[model]):
                new = self._leases.models
                new.stop(new.index[model], stop, extend=False)

    @contextmanager
    def _operation(self) -> Iterator[float]:
        """Hold the lock over the present state, at the time that is yielded; report afterwards who left a queue."""
        now = self._interrupted_s()
        with self._lock:
            yield self._leases.advance() if now is None else now
        self._report()

    def _interrupted_s(self) -> float | None:
        """Return the time of the operation inside which a finalizer has interrupted this very thread, if one has."""
        return self._leases.now_s if self._lock._is_owned() else None  # noqa: SLF001 # no public name

    def _deferred(self, model: str, operation: Callable[[float], object]) -> bool:
        """Keep an operation for later, inside an interrupted one; return whether it was."""
        if self._interrupted_s() is None:
            return False
        self._leases.late.append(lambda now: operation(now) if model in self._models.index else None)
        return True

    # -- limits

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model, new or known. See :class:`~solver.load.store.base.Store`."""
        if self._deferred(model, lambda _: self._leases.configure(model, limits)):
            return
        with self._operation():
            self._leases.configure(model, limits)

    def limits(self, model: str) -> Limits:
        """Return the limits of a model."""
        with self._lock:
            return self._models.limits[self._models.at(model)]

    def adopt_limits(self, model: str, limits: Limits) -> None:
        """Do nothing: no other process sets limits of this store."""

    def exchange(self, topic: str, text: str, ttl_s: float) -> dict[str, tuple[str, float]]:
        """Return nothing: no other process shares this store."""
        return {}

    @property
    def replica(self) -> str:
        """Name of this process among those that share the store: it has none."""
        return ""

    def configure_pool(self, pool: str, limits: Limits) -> None:
        """Set the limits of a pool, new or known."""
        with self._operation():
            self._leases.configure_pool(pool, limits)

    def forget_pool(self, pool: str) -> None:
        """Remove a pool that nothing draws on."""
        with self._lock:
            self._leases.forget_pool(pool)

    def pool_row(self, pool: str) -> StoreRow:
        """Return the state of a pool."""
        with self._operation() as now:
            return self._leases.pools[pool].row(now)

    def end_leases(self, model: str) -> int:
        """End every lease of a model and return how many there were."""
        with self._operation():
            return self._leases.end_all(model)

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its limits from nothing again; leases in flight are not refunded."""
        with self._lock:
            self._leases.reset_usage(model)

    def reset_pool(self, pool: str) -> None:
        """Do :meth:`reset_usage` for a pool."""
        with self._lock:
            self._leases.reset_pool(pool)

    def forget(self, model: str) -> None:
        """Remove a model with its leases, usage and stops. O(models + leases)."""
        with self._operation():
            self._leases.forget(model)

    # -- leases

    @property
    def _models(self) -> ModelTable:
        return self._leases.models

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        with self._lock:
            leases = self._leases
            answer = leases.acquire(ask, leases.advance())
        if leases.promoted:
            self._report()
        return answer

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none."""
        with self._operation() as now:
            for ask in asks:
                self._models.at(ask.model)
            return self._leases.acquire_all(asks, now, whole_plan=whole_plan)

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now."""
        return self._extend(lease_id, ttl_s, None)

    def keep(self, lease_id: str, ttl_s: float, alive: Callable[[], bool]) -> LeaseState:
        """Let a live lease live on for as long as its holder is ``alive``; asked each ``ttl_s``."""
        return self._extend(lease_id, ttl_s, alive)

    def _extend(self, lease_id: str, ttl_s: float, alive: Callable[[], bool] | None) -> LeaseState:
        with self._operation() as now:
            return self._leases.extend(lease_id, ttl_s, alive, now)

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates."""
        if self._lock._is_owned():  # noqa: SLF001 # a finalizer has interrupted this very thread
            self._leases.late.append(lambda now: self._leases.release(lease_id, tokens, cost_nano_usd, now))
            return ReleaseOutcome.DEFERRED
        with self._lock:
            leases = self._leases
            outcome = leases.release(lease_id, tokens, cost_nano_usd, leases.advance())
        if leases.promoted:
            self._report()
        return outcome

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model: both steps, or neither."""
        with self._operation() as now:
            return self._leases.move(lease_id, ask, now)

    def lease_state(self, lease_id: str) -> LeaseState:
        """Return whether a lease runs, waits, or is gone."""
        with self._operation() as now:
            held = self._leases.live(lease_id, now)
            return LeaseState.GONE if held is None else held.state

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, in the order in which they start."""
        with self._operation():
            return [held.lease_id for held in self._models.waiting[self._models.at(model)].in_order()]

    def slots_before(self, model: str, lease_id: str) -> tuple[int, int] | None:
        """Return how many leases, and slots, start before a waiting one; None when it does not wait."""
        with self._operation():
            leases = slots = 0
            for held in self._models.waiting[self._models.at(model)].in_order():
                if held.lease_id == lease_id:
                    return leases, slots
                leases, slots = leases + 1, slots + held.slots
            return None

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside, with a floor at zero."""
        if self._deferred(model, lambda now: self._adjust(model, active, queue, now)):
            return
        with self._operation() as now:
            self._adjust(model, active, queue, now)

    def _adjust(self, model: str, active: int, queue: int, now: float) -> None:
        i = self._models.at(model)
        self._models.adjust(i, active, queue, now)
        self._leases.promote(i)

    def observe(
        self, model: str, *, active: int, queue: int, ttl_s: float | None = None, age_s: float = 0.0
    ) -> None:
        """Set totals measured from outside; what exceeds the leases of that time counts as work from outside."""
        with self._operation() as now:
            i = self._models.at(model)
            self._models.observe(i, active, queue, ttl_s, age_s, now)
            self._leases.promote(i)

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
        """Keep new work away from a model, and return the stop that stands now."""
        key = checked_stop(owner, name, reason, for_s)

        def stop_from(now: float) -> Stop:
            until_s = np.inf if for_s is None else now + for_s
            return Stop(owner=key.owner, name=name, reason=reason, since_s=now, until_s=until_s)

        def set_stop(now: float) -> Stop:
            return self._models.stop(self._models.at(model), stop_from(now), extend=extend)

        if self._deferred(model, set_stop):
            return stop_from(self._leases.now_s)
        with self._lock:
            return set_stop(self._leases.advance())

    def resume(self, model: str, owner: StopOwner | str, *, name: str | None = None) -> int:
        """Lift the stops of one owner (with ``name``, that one) and return how many stood."""
        key = checked_stop(owner, name or "", "", None)

        def lift(_: float) -> int:
            i = self._models.at(model)
            lifted = self._models.resume(i, key, every_name=name is None)
            self._leases.promote(i)
            return lifted

        if self._deferred(model, lift):
            return 0  # how many stand is known once it is done
        with self._operation() as now:
            return lift(now)

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's unnamed stop."""
        if accepting:
            self.resume(model, StopOwner.OPERATOR, name="")
        else:
            self.stop(model, StopOwner.OPERATOR)

    # -- reading

    def row(self, model: str) -> StoreRow:
        """Return the state of one model."""
        with self._operation() as now:
            return self._models.row(self._models.at(model), now)

    def counts(self, *, queued: bool) -> tuple[object, NDArray[np.int64]]:
        """Return settings, and the slots taken, with the queue places where asked: (m,), what every request changes.

        The settings are another object once limits, stops or the set of models have changed; :meth:`view` says
        to what.
        """
        leases = self._leases
        with self._lock:
            leases.advance()
            models = leases.models
            settings, taken = models.settings(), np.frombuffer(models.active.tobytes(), np.int64)
            if queued:
                taken = taken + np.frombuffer(models.queued, np.int64)
        if leases.promoted:
            self._report()
        return settings, taken

    def view(self) -> StoreView:
        """Return the state of every model at one instant. O(m) copies, no loop."""
        now = self._interrupted_s()
        with self._lock:
            view = self._models.view(self._leases.advance() if now is None else now)
        if self._leases.promoted:
            self._report()
        return view

    def listen(self, promoted: Callable[[str], object]) -> None:
        """Call ``promoted`` with the id of every lease that leaves the queue and runs."""
        with self._lock:
            self._listeners = (*self._listeners, promoted)
            self._leases.has_listeners = True

    def next_event_s(self) -> float:
        """Return the reading of the clock at which a lease, a stop or reported load ends next."""
        with self._lock:
            return self._leases.next_event_s()

    def _report(self) -> None:
        """Pass the leases that have left the queue to the listeners; called without the lock."""
        while self._leases.promoted:
            try:
                lease_id = self._leases.promoted.popleft()
            except IndexError:  # another thread calls the listeners
                return
            notify(self._listeners, lease_id)


class _NoLockAfterFork:
    """Stands for the lock in a child process that must not use the store."""

    def __enter__(self) -> None:
        raise ForkedStoreError(
            "this store was made before the process forked: parent and child would each grant the whole "
            "capacity. Make the tracker after the fork, share a RedisStore, or pass "
            "MemoryStore(per_process=True) when each process has a capacity of its own"
        )

    def __exit__(self, *error: object) -> None: ...

    def _is_owned(self) -> bool:
        return False


_STORES: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _notify_stores_of_fork() -> None:
    for store in list(_STORES):
        store._after_fork()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notify_stores_of_fork)
