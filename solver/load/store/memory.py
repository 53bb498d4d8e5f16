"""The store of one process: leases under one lock, over the flat arrays of a model table."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import weakref
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import numpy as np

from solver.clock import Clock, MonotonicClock
from solver.errors import ForkedStoreError
from solver.load.lease import Ask, LeaseState, ReleaseOutcome, slots_up_to
from solver.load.listeners import tell
from solver.load.refusal import Refusal, RefusalReason
from solver.load.stops import Stop, StopOwner, checked_stop, reopens_in_s
from solver.load.store.model_table import HeldLease, ModelTable
from solver.load.store.usage_limits import wall_time

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from solver.load.store.base import Limits, StoreRow, StoreView

__all__ = ["MemoryStore"]

_REMEMBERED_EXPIRED = 10_000
"""Expired leases remembered, so that a late release can still settle what was really used."""

_SPARE_DEADLINES = 1024
"""Outdated entries of the expiry heap that are tolerated before it is rebuilt."""

_EXPIRED_AT_ONCE = 2048
"""Leases that one operation ends at most, which takes a few milliseconds."""


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
    orders_queue = True

    def __init__(self, *, clock: Clock | None = None, per_process: bool = False) -> None:
        self._clock = clock or MonotonicClock()
        self._per_process = per_process
        self._listeners: tuple[Callable[[str], object], ...] = ()
        self._start_empty()
        _STORES.add(self)

    def _start_empty(self) -> None:
        self._lock: Any = threading.RLock()
        self._now_s = -np.inf
        self._table = ModelTable(wall_time(self._clock))
        self._held: dict[str, HeldLease] = {}
        self._deadlines: list[tuple[float, str]] = []  # ids alone: what has ended is freed at once
        self._expired: OrderedDict[str, HeldLease] = OrderedDict()
        self._promoted: deque[str] = deque()
        self._late: deque[Callable[[float], object]] = deque()
        """Operations that came while their own thread was inside another one, from a finalizer."""

    def _after_fork(self) -> None:
        """In the child process: refuse, or begin with the same limits and nothing taken."""
        if not self._per_process:
            self._lock = _NoLockAfterFork()
            return
        before = self._table
        self._start_empty()
        for model, limits in zip(before.models, before.limits, strict=True):
            self.configure(model, limits)
            for stop in before.stops(before.index[model]):
                self._table.stop(self._table.index[model], stop, extend=False)

    # -- limits

    def configure(self, model: str, limits: Limits) -> None:
        """Set the limits of a model, new or known. See :class:`~solver.load.store.base.Store`."""
        with self._lock:
            self._promote(self._table.configure(model, limits, self._advance()))
        self._report()

    def limits(self, model: str) -> Limits:
        """Return the limits of a model."""
        with self._lock:
            return self._table.limits[self._table.at(model)]

    def end_leases(self, model: str) -> int:
        """End every lease of a model and return how many there were."""
        with self._lock:
            now = self._advance()
            i = self._table.at(model)
            ended = [held for held in self._held.values() if held.model == i]
            self._table.waiting[i].clear()
            for held in ended:
                del self._held[held.lease_id]
                self._remember(held)
                if held.running:
                    self._table.active[i] -= held.slots
                else:
                    self._table.queued[i] -= 1
            self._table.touch(i, now)
            return len(ended)

    def reset_usage(self, model: str) -> None:
        """Count what a model has used of its limits from nothing again; leases in flight are not refunded."""
        with self._lock:
            now, i = self._advance(), self._table.at(model)
            self._table.meters.reset(i)
            for held in itertools.chain(self._held.values(), self._expired.values()):
                if held.model == i:
                    held.charged = []  # otherwise it would settle with what others use from now on
            self._table.touch(i, now)

    def forget(self, model: str) -> None:
        """Remove a model with its leases, usage and stops. O(models + leases)."""
        with self._lock:
            i = self._table.index.get(model)
            if i is None:
                return
            self._advance()
            for leases in (self._held, self._expired):
                for lease_id in [key for key, held in leases.items() if held.model == i]:
                    del leases[lease_id]
                for held in leases.values():
                    held.model -= held.model > i
            self._table.remove(i)

    # -- leases

    def acquire(self, ask: Ask) -> LeaseState | Refusal:
        """Take everything the ask names, or nothing."""
        with self._lock:
            answer = self._acquire(ask, self._advance())
        if self._promoted:
            self._report()
        return answer

    def acquire_many(self, asks: Sequence[Ask], *, whole_plan: bool) -> list[LeaseState | Refusal]:
        """Take each ask whole or not at all; with ``whole_plan`` all of them or none."""
        with self._lock:
            now = self._advance()
            for ask in asks:
                self._table.at(ask.model)
            new = {ask.lease_id for ask in asks if ask.lease_id not in self._held}  # an id may repeat
            answers = [self._acquire(ask, now) for ask in asks]
            if whole_plan and any(isinstance(answer, Refusal) for answer in answers):
                for lease_id in new & self._held.keys():
                    held = self._held.pop(lease_id)
                    self._table.meters.refund(held.model, held.charged)
                    self._give_back(held)
                answers = [
                    answer
                    if isinstance(answer, Refusal)
                    else Refusal(model=ask.model, reason=RefusalReason.PLAN)
                    for ask, answer in zip(asks, answers, strict=True)
                ]
        self._report()
        return answers

    def _acquire(self, ask: Ask, now: float) -> LeaseState | Refusal:
        table = self._table
        i = table.index.get(ask.model)
        if i is None:
            i = table.at(ask.model)
        known = self._held.get(ask.lease_id)
        if known is not None:
            if self._live(ask.lease_id, now) is not None:
                return LeaseState.RUNNING if known.running else LeaseState.QUEUED
            self._end(known, now)  # the same id, used again before its lease was ended
        if not table.accepting[i]:
            stops = table.stops(i)
            return Refusal(
                model=ask.model,
                reason=RefusalReason.NOT_ACCEPTING,
                retry_after_s=reopens_in_s(stops, now),
                stops=stops,
            )
        slots = ask.demand.slots
        room = table.max_concurrent[i]
        most = room if ask.fill_to >= 1.0 else slots_up_to(ask.fill_to, room)
        line = table.waiting[i]
        passed: list[HeldLease] = []
        running = table.active[i] + slots <= most
        if running and line:
            held = HeldLease(ask, i, now, False)
            line.add(held)
            first = line.next(table.active[i], room)
            line.remove(held)
            running = first is not None and first[0] is held
            passed = first[1] if first is not None else []
        if not running:
            if slots > most and room > 0:
                return Refusal(model=ask.model, reason=RefusalReason.TOO_LARGE)
            if not ask.queue:
                return Refusal(model=ask.model, reason=RefusalReason.CONCURRENCY)
            if not line.has_place(ask.tenant, table.queued[i], table.max_queue[i]):
                return Refusal(model=ask.model, reason=RefusalReason.QUEUE)
        held = HeldLease(ask, i, now, running)
        if table.meters.limited[i]:
            charged = table.meters.charge(i, ask.model, ask.demand, now)
            if isinstance(charged, Refusal):
                return charged
            held.charged = charged
        self._held[ask.lease_id] = held
        self._expect(held)
        if running:
            table.active[i] += slots
            if line:
                line.add(held)
                line.start(held, passed)
            elif held.tenant is not None:
                line.start_at_once(held)
        else:
            table.queued[i] += 1
            line.add(held)
        table.heard_s[i] = now
        table.version += 1
        return LeaseState.RUNNING if running else LeaseState.QUEUED

    def renew(self, lease_id: str, ttl_s: float) -> LeaseState:
        """Let a live lease expire ``ttl_s`` from now."""
        return self._extend(lease_id, ttl_s, None)

    def keep(self, lease_id: str, ttl_s: float, alive: Callable[[], bool]) -> LeaseState:
        """Let a live lease live on for as long as its holder is ``alive``; asked each ``ttl_s``."""
        return self._extend(lease_id, ttl_s, alive)

    def _extend(self, lease_id: str, ttl_s: float, alive: Callable[[], bool] | None) -> LeaseState:
        with self._lock:
            now = self._advance()
            held = self._live(lease_id, now)
            state = _state(held)
            if held is not None:
                held.expires_s, held.ttl_s = now + ttl_s, ttl_s
                held.alive = alive or held.alive
                self._expect(held)
                self._table.touch(held.model, now)
        self._report()
        return state

    def release(self, lease_id: str, *, tokens: int | None, cost_nano_usd: int | None) -> ReleaseOutcome:
        """Give everything back once, and settle the estimates."""
        if self._lock._is_owned():  # noqa: SLF001 # a finalizer has interrupted this very thread
            self._late.append(lambda now: self._release(lease_id, tokens, cost_nano_usd, now))
            return ReleaseOutcome.DEFERRED
        with self._lock:
            outcome = self._release(lease_id, tokens, cost_nano_usd, self._advance())
        if self._promoted:
            self._report()
        return outcome

    def _release(
        self, lease_id: str, tokens: int | None, cost_nano_usd: int | None, now: float
    ) -> ReleaseOutcome:
        held = self._held.pop(lease_id, None)
        outcome = ReleaseOutcome.RELEASED
        if held is None:
            held = self._expired.pop(lease_id, None)
            if held is None:
                return ReleaseOutcome.UNKNOWN
            outcome = ReleaseOutcome.EXPIRED
        else:
            if held.expires_s <= now and held.alive is None:  # due, and not ended yet
                outcome = ReleaseOutcome.EXPIRED
            elif held.running:
                self._table.note_hold(held.model, now - held.since_s)
            self._give_back(held)
        if held.charged and (tokens is not None or cost_nano_usd is not None):
            self._table.meters.settle(held.model, held.charged, tokens, cost_nano_usd, now)
        self._table.touch(held.model, now)
        return outcome

    def move(self, lease_id: str, ask: Ask) -> LeaseState | Refusal:
        """Swap a live lease for one on another model: both steps, or neither."""
        with self._lock:
            now = self._advance()
            self._table.at(ask.model)
            old = self._live(lease_id, now)
            if old is None:
                return LeaseState.GONE
            answer = self._acquire(ask, now)
            if not isinstance(answer, Refusal):
                del self._held[lease_id]
                self._table.meters.refund(old.model, old.charged)
                self._give_back(old)
        self._report()
        return answer

    def lease_state(self, lease_id: str) -> LeaseState:
        """Tell where a lease stands."""
        with self._lock:
            state = _state(self._live(lease_id, self._advance()))
        self._report()
        return state

    def queued_leases(self, model: str) -> list[str]:
        """Return the ids of the waiting leases of a model, in the order in which they start."""
        with self._lock:
            self._advance()
            waiting = [held.lease_id for held in self._table.waiting[self._table.at(model)].in_order()]
        self._report()
        return waiting

    def slots_before(self, model: str, lease_id: str) -> tuple[int, int] | None:
        """Return how many leases, and slots, start before a waiting one; None when it does not wait."""
        with self._lock:
            self._advance()
            leases = slots = 0
            answer = None
            for held in self._table.waiting[self._table.at(model)].in_order():
                if held.lease_id == lease_id:
                    answer = leases, slots
                    break
                leases, slots = leases + 1, slots + held.slots
        self._report()
        return answer

    def adjust(self, model: str, *, active: int, queue: int) -> None:
        """Add to the work reported from outside, with a floor at zero."""
        if self._lock._is_owned():  # noqa: SLF001 # as in release
            self._late.append(lambda now: self._adjust(model, active, queue, now))
            return
        with self._lock:
            self._adjust(model, active, queue, self._advance())
        self._report()

    def _adjust(self, model: str, active: int, queue: int, now: float) -> None:
        i = self._table.at(model)
        self._table.adjust(i, active, queue, now)
        self._promote(i)

    def observe(self, model: str, *, active: int, queue: int, ttl_s: float | None = None) -> None:
        """Set totals measured from outside; what exceeds the leases counts as work from outside."""
        with self._lock:
            now, i = self._advance(), self._table.at(model)
            self._table.observe(i, active, queue, ttl_s, now)
            self._promote(i)
        self._report()

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
        with self._lock:
            now, i = self._advance(), self._table.at(model)
            until_s = np.inf if for_s is None else now + for_s
            stop = Stop(owner=key.owner, name=name, reason=reason, since_s=now, until_s=until_s)
            return self._table.stop(i, stop, extend=extend)

    def resume(self, model: str, owner: StopOwner | str, *, name: str | None = None) -> int:
        """Lift the stops of one owner (with ``name``, that one) and return how many stood."""
        key = checked_stop(owner, name or "", "", None)
        with self._lock:
            self._advance()
            i = self._table.at(model)
            lifted = self._table.resume(i, key, every_name=name is None)
            self._promote(i)
        self._report()
        return lifted

    def set_accepting(self, model: str, accepting: bool) -> None:
        """Set or lift the operator's unnamed stop."""
        if accepting:
            self.resume(model, StopOwner.OPERATOR, name="")
        else:
            self.stop(model, StopOwner.OPERATOR)

    # -- reading

    def row(self, model: str) -> StoreRow:
        """Return the state of one model."""
        with self._lock:
            row = self._table.row(self._table.at(model), self._advance())
        self._report()
        return row

    def view(self) -> StoreView:
        """Return the state of every model at one instant. O(m) copies, no loop."""
        with self._lock:
            view = self._table.view(self._advance())
        if self._promoted:
            self._report()
        return view

    def counts(self) -> tuple[object, NDArray[np.int64], NDArray[np.int64]]:
        """Return settings, and the slots and queue places taken, (m,) each: what changes with every request.

        The settings are another object once limits, stops or the set of models have changed; :meth:`view` says
        to what.
        """
        with self._lock:
            self._advance()
            table = self._table
            counts = table.settings(), *table.counts()
        if self._promoted:
            self._report()
        return counts

    def listen(self, promoted: Callable[[str], object]) -> None:
        """Call ``promoted`` with the id of every lease that leaves the queue and runs."""
        with self._lock:
            self._listeners = (*self._listeners, promoted)

    def next_event_s(self) -> float:
        """Return the reading of the clock at which a lease, a stop or reported load ends next."""
        with self._lock:
            self._advance()
            if self._late:
                return self._now_s
            deadlines = self._deadlines
            while deadlines and not self._is_current(*deadlines[0]):
                heapq.heappop(deadlines)
            ends = [entries[0][0] for entries in (deadlines, self._table.timers) if entries]
            return min(ends, default=float(np.inf))

    def _report(self) -> None:
        """Tell whoever listens which leases have left the queue; called without the lock."""
        while self._promoted:
            try:
                lease_id = self._promoted.popleft()
            except IndexError:  # another thread tells
                return
            tell(self._listeners, lease_id)

    # -- time; every method below expects the lock to be held

    def _advance(self) -> float:
        """Read the clock, never backwards; end what is due, in portions. Amortised O(1)."""
        now = self._clock.now()
        if now > self._now_s:
            self._now_s = now
            self._table.meters.advance(now)
        else:
            now = self._now_s
        if self._deadlines and self._deadlines[0][0] <= now:
            self._expire(now)
        if self._table.timers and self._table.timers[0][0] <= now:
            for i in self._table.run_timers(now):
                self._promote(i)
        while self._late:
            self._late.popleft()(now)
        return now

    def _expire(self, now: float) -> None:
        """End leases that are due, a bounded number of them."""
        deadlines = self._deadlines
        for _ in range(_EXPIRED_AT_ONCE):
            if not deadlines or deadlines[0][0] > now:
                return
            expires_s, lease_id = heapq.heappop(deadlines)
            if not self._is_current(expires_s, lease_id):
                continue
            held = self._held[lease_id]
            if held.alive is not None and held.alive():
                held.expires_s = now + held.ttl_s
                heapq.heappush(deadlines, (held.expires_s, lease_id))
                continue
            self._end(held, now)

    def _end(self, held: HeldLease, now: float) -> None:
        """End a lease whose time is over."""
        del self._held[held.lease_id]
        self._remember(held)
        self._give_back(held)
        self._table.touch(held.model, now)

    def _is_current(self, expires_s: float, lease_id: str) -> bool:
        """Return whether an entry of the expiry heap still stands for a lease."""
        held = self._held.get(lease_id)
        return held is not None and held.expires_s == expires_s

    def _live(self, lease_id: str, now: float) -> HeldLease | None:
        """Return a lease unless its time is over, ended already or not."""
        held = self._held.get(lease_id)
        if held is not None and held.expires_s <= now and (held.alive is None or not held.alive()):
            return None
        return held

    def _expect(self, held: HeldLease) -> None:
        """Note when a lease expires; drop outdated notes once they outweigh the live ones."""
        heapq.heappush(self._deadlines, (held.expires_s, held.lease_id))
        if len(self._deadlines) > 2 * len(self._held) + _SPARE_DEADLINES:
            self._deadlines = [(held.expires_s, lease_id) for lease_id, held in self._held.items()]
            heapq.heapify(self._deadlines)

    def _give_back(self, held: HeldLease) -> None:
        """Free the slots or the queue place of a lease that has left ``_held``."""
        table, i = self._table, held.model
        if held.running:
            table.active[i] -= held.slots
        else:
            table.queued[i] -= 1
            table.waiting[i].remove(held)
        if table.waiting[i]:
            self._promote(i)

    def _promote(self, i: int) -> None:
        """Turn waiting leases into running ones while they fit, in the order of the line."""
        table = self._table
        line, room = table.waiting[i], table.max_concurrent[i]
        if not line or table.held_back[i]:
            return
        while (first := line.next(table.active[i], room)) is not None:
            held, passed = first
            line.start(held, passed)
            held.running, held.since_s = True, self._now_s
            table.active[i] += held.slots
            table.queued[i] -= 1
            if self._listeners:
                self._promoted.append(held.lease_id)

    def _remember(self, held: HeldLease) -> None:
        self._expired[held.lease_id] = held
        if len(self._expired) > _REMEMBERED_EXPIRED:
            self._expired.popitem(last=False)


def _state(held: HeldLease | None) -> LeaseState:
    if held is None:
        return LeaseState.GONE
    return LeaseState.RUNNING if held.running else LeaseState.QUEUED


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


def _tell_stores_of_fork() -> None:
    for store in list(_STORES):
        store._after_fork()  # noqa: SLF001 # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_stores_of_fork)


if TYPE_CHECKING:
    from solver.load.store.base import Store

    _conforms: type[Store] = MemoryStore
